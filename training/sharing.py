"""A finished model as a repository on the Hub: checked before the work, uploaded in one commit after it."""

from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData

from ddpm_hf.training.errors import InputError
from ddpm_hf.training.run_folder import ARGUMENTS_FILE

# What only the run itself needs.
LEFT_OUT = ("checkpoints/**", "logs/**", "*.tmp")

TEXT = """
# {name}

A denoising diffusion model of {what}, trained with ddpm_hf.

{picture}
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{repository}")
image = pipeline().images[0]
```

## Training

```yaml
{options}```
"""


def prepare_repository(repository, private=False):
    """Creates the repository, or finds it, so that a missing token shows before the work and not after it; its full id."""
    try:
        return HfApi().create_repo(repository, private=private, exist_ok=True).repo_id
    # Whatever the client raises (no token, no network, no permission), to the user it is one thing.
    except Exception as error:
        raise InputError(
            f"push_to_hub is on, but the Hub does not take the model ({_first_line(error)}). Log in with `hf auth login`, "
            f"check the name of the repository ({repository}) and the network, or leave out --push_to_hub."
        ) from error


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def write_model_card(folder, repository):
    """README.md of a run: what the model is, how it was trained, how to load it."""
    options = (folder / ARGUMENTS_FILE).read_text(encoding="utf-8")
    dataset = yaml.safe_load(options)["dataset"]
    grids = sorted((folder / "samples").glob("*.png"))
    text = TEXT.format(
        name=repository.split("/")[-1],
        what="Fashion-MNIST" if dataset is None else Path(dataset).name,
        picture=f"![samples](samples/{grids[-1].name})\n" if grids else "",
        repository=repository,
        options=options,
    )
    save_card(folder, text, dataset)


def save_card(folder, text, dataset=None, base_model=None):
    """README.md: the text under the metadata that the Hub reads; folders of this machine are nothing of the Hub's."""
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["ddpm", "ddpm_hf", "diffusion"],
        datasets=_on_the_hub(dataset),
        base_model=_on_the_hub(base_model),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")


def _on_the_hub(name):
    return None if name is None or Path(name).exists() else str(name)


def upload(folder, repository, message="Add the trained model"):
    """One commit with the pipeline, its card and pictures; the address of the repository."""
    try:
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=list(LEFT_OUT), commit_message=message
        )
    except Exception as error:
        raise InputError(
            f"The model is in {folder}, but could not be uploaded to {repository} ({_first_line(error)}). "
            f"`hf upload {repository} {folder}` tries again."
        ) from error
    return commit.repo_url
