"""Writes a folder for a Space on the Hub: the demo page of a model that is a repository there."""

import platform
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from ddpm_hf import __version__
from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.demo import first_choice, gradio_version, load_for_demo, prompts_of, samplers_of
from ddpm_hf.hub.public_names import on_the_hub
from ddpm_hf.pipelines.portable_pipeline import CODE_FILE
from ddpm_hf.portable.pipeline_file import LIBRARIES, assemble, pipeline_bytes
from ddpm_hf.results import alone_in_free_folder

REQUIREMENTS = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
PAGE_MODULE = "ddpm_hf.hub.demo_page"

APP = '''"""A page that draws images from {model}. What it shows is chosen here; the page itself is in page.py."""

import torch
from page import LOOK, demo_page, with_samplers
from pipeline import GaussianDiffusionPipeline

MODEL = "{model}"
# What each sampler changes of the scheduler's config.
SAMPLERS = {{
{samplers}}}
SAMPLER, STEPS = {sampler!r}, {steps}  # when the page opens
PROMPTS = {prompts!r}  # examples, for a model that is told a text

device = "cuda" if torch.cuda.is_available() else "cpu"
model = GaussianDiffusionPipeline.from_pretrained(MODEL).to(device)
demo = demo_page(with_samplers(model, SAMPLERS), MODEL, SAMPLER, STEPS, f"https://huggingface.co/{{MODEL}}", PROMPTS)

if __name__ == "__main__":
    demo.launch(**LOOK)
'''

README = """
# {name}

Draws images from [{model}](https://huggingface.co/{model}), a denoising diffusion model: choose a sampler and the
number of steps, and watch the images form. It needs only the packages in requirements.txt: `pipeline.py` samples the
model, `page.py` is the page, and `app.py` chooses what it shows. A private model takes its token from the Space's
secret `HF_TOKEN`.
"""


def write_space(model, folder):
    """Writes the folder of a Space with all its code; the weights are read from the model's repository.

    Args:
        model (`str`): the id of a repository on the Hub, stock or ours.
        folder (`str` or `Path`): a new or empty folder.

    Raises:
        InputError: without gradio, for a model that is no repository or cannot be shown, and for a full `folder`.
    """
    folder, sdk_version = Path(folder), gradio_version()
    with alone_in_free_folder(folder):
        _write_space(model, folder, sdk_version)


def _write_space(model, folder, sdk_version):
    if on_the_hub(model) is None:
        raise InputError(
            f"A Space reads its model from the Hub, and {model} is not a repository there: share it with `ddpm-hf "
            "push`, and give the id that it has on the Hub."
        )
    pipeline = load_for_demo(model)
    sampler, steps = first_choice(pipeline)
    samplers = "".join(f"    {name!r}: {changes},\n" for name, changes in samplers_of(pipeline).items())
    files = {
        "app.py": APP.format(
            model=model, samplers=samplers, sampler=sampler, steps=steps, prompts=prompts_of(model, pipeline)
        ),
        "page.py": _page_source(),
        CODE_FILE: pipeline_bytes().decode(),
        "requirements.txt": "".join(f"{name}=={_version(name)}\n" for name in REQUIREMENTS),
        "README.md": _readme(model, sdk_version),
    }
    with moved_in_whole(folder, last="README.md") as aside:
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8")


def _page_source():
    title = f'"""The page of app.py; put together from the source files of ddpm_hf {__version__}."""\n\n'
    return title + assemble(PAGE_MODULE, libraries=LIBRARIES | {"gradio", "PIL"})


def _version(name):
    """The version of a package without the build tag of this machine's accelerator."""
    return version(name).split("+")[0]


def _readme(model, sdk_version):
    name = model.split("/")[-1]
    data = SpaceCardData(
        title=name,
        emoji="🌫️",
        colorFrom="indigo",
        colorTo="gray",
        sdk="gradio",
        sdk_version=sdk_version,
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file="app.py",
        models=[model],
    )
    return str(SpaceCard(f"---\n{data.to_yaml()}\n---\n{README.format(name=name, model=model)}"))
