"""A finished run as a repository on the Hub: checked before the training, uploaded in one commit after it."""

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


def prepare_repository(args):
    """Creates the repository, or finds it, so that a missing token shows before the training and not after it."""
    try:
        repository = HfApi().create_repo(
            args.hub_model_id or Path(args.output_dir).resolve().name, private=args.hub_private, exist_ok=True
        )
    # Whatever the client raises (no token, no network, no permission), to the user it is one thing.
    except Exception as error:
        raise InputError(
            f"push_to_hub is on, but the Hub does not take the model ({_first_line(error)}). Log in with `hf auth login`, "
            "check hub_model_id and the network, or leave out --push_to_hub."
        ) from error
    return repository.repo_id


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def write_model_card(folder, repository):
    """README.md: what the model is, how it was trained, how to load it."""
    options = (folder / ARGUMENTS_FILE).read_text(encoding="utf-8")
    dataset = yaml.safe_load(options)["dataset"]
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["ddpm", "ddpm_hf", "diffusion"],
        # A folder of this machine is no data set of the Hub.
        datasets=None if dataset is None or Path(dataset).exists() else dataset,
    )
    grids = sorted((folder / "samples").glob("*.png"))
    text = TEXT.format(
        name=repository.split("/")[-1],
        what="Fashion-MNIST" if dataset is None else Path(dataset).name,
        picture=f"![samples](samples/{grids[-1].name})\n" if grids else "",
        repository=repository,
        options=options,
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")


def upload(folder, repository):
    """One commit with the pipeline, its card, samples and curve; the address of the repository."""
    write_model_card(folder, repository)
    try:
        commit = HfApi().upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=list(LEFT_OUT),
            commit_message="Add the trained model",
        )
    except Exception as error:
        raise InputError(
            f"The model is in {folder}, but could not be uploaded to {repository} ({_first_line(error)}). The same command "
            "again tries only that."
        ) from error
    return commit.repo_url
