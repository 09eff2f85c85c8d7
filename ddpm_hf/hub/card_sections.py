"""The sections of a model card, each from files in the pipeline folder; "" without such files."""

import json
import shlex

import yaml

from ddpm_hf.environment import describe_environment
from ddpm_hf.files import read_mapping
from ddpm_hf.hub.public_names import on_the_hub, public_name, public_report
from ddpm_hf.installation import INSTALL, WHERE
from ddpm_hf.models.class_names import class_names_of
from ddpm_hf.pipelines.loading import STABLE_DIFFUSION
from ddpm_hf.pipelines.portable_pipeline import CODE_FILE
from ddpm_hf.portable.pipeline_file import PIPELINES
from ddpm_hf.recipes import own_steps, usual_sampler
from ddpm_hf.reports.report_files import (
    CALIBRATION,
    CAPTIONS,
    COMPARED_SAMPLES,
    CONVERSION,
    SOLVERS,
    TRAINING_OPTIONS,
    calibration_of,
)
from ddpm_hf.samples.condition_images import both_sides, condition_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.samples.kind import trained_shapes

EMBEDDED_DATA = "Fashion-MNIST"
# Options that name output places and do not describe the model.
OF_THE_RUN = ("output_dir", "push_to_hub", "hub_model_id", "hub_private", "hub_license")
# Entries of a run's environment that are not versions.
OF_THE_DATA = ("num_processes", "num_images", "data_fingerprint", "local", "updates_per_minute")

TRAINING_SECTION = """## Training

On {data}. The same training, with all of its options in [{file}]({file}):

```sh
{install}  # {where}
accelerate launch --num_processes {num_processes} -m ddpm_hf.training.train --config {file} \\
    --output_dir outputs/again --push_to_hub false
```

<details><summary>Options</summary>

```yaml
{options}```

</details>"""

CALIBRATION_SECTION = """## Calibration

The weights of {base} are unchanged. The scheduler carries the mean square error of the predicted noise{frequencies},
which determines the optimal variances, measured on {num_images} images of {data}
([{file}]({file}) has the standard errors){plans}.

```sh
{command}
```
{picture}"""

SOLVER_SECTION = """## Few steps

The weights of {base} are unchanged. The scheduler carries solvers fitted to this network for {counts} network calls
(`num_inference_steps`){guidance}. From noise that they were not fitted to, their distances to the network's fine paths
are below (root mean square over the values of a sample, averaged over samples), beside those of diffusers' solvers.

{table}

```sh
{command}
```
{picture}"""

CONVERSION_SECTION = """## Where it comes from

Converted by ddpm_hf from `{checkpoint}` (SHA-256 `{sha256}`), a checkpoint of {family}: {which} weights, which a
`{network}` of {parameters} parameters holds exactly. {check}{notes}"""

WEIGHTS_TAKEN = {"ema": "its averaged", "raw": "its raw", "only": "its only"}

LIMITS = """## Limits and biases

*To fill in by who shares the model:*

- What it is for, and what it should not be used for.
- What its images lack or get wrong, and how that was seen.
- Whom and what the data show too much, too little or not at all: the images will do the same.
- Whether images of the data can come out nearly as they were, and whether people can be recognised in them."""

STOCK = """With diffusers alone, as the stock `{name}`:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{repository}")
image = pipeline({prompt}).images[0]
```"""

CODE = """With diffusers alone and the code of this repository, all samplers included:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(
    "{repository}", custom_pipeline="{repository}", trust_remote_code=True
)
image = pipeline({image}num_inference_steps={steps}{label}).images[0]
```
{warning}
A private repository, or one without a network, is downloaded first: give the folder of
`huggingface_hub.snapshot_download("{repository}")` in place of both ids."""

WITHOUT_CUSTOM_PIPELINE = """
(`trust_remote_code=True` without `custom_pipeline` gives the stock pipeline, and does not say so.)
"""

PACKAGE = """With ddpm_hf (`{install}`; {where}), which trusts no code of the repository:

```python
from ddpm_hf import {pipeline}

pipeline = {pipeline}.from_pretrained("{repository}")
image = pipeline({image}num_inference_steps={steps}{label}).images[0]
```

Any other sampler is a recipe (`ddpm-hf {verb} --recipe {recipe}`)."""

# What is told of a picture where the model is given one.
GIVEN = 'PIL.Image.open("photo.png"), '
GIVEN_BY_NAME = 'condition_image=PIL.Image.open("photo.png"), '

PACKAGE_OF_LATENTS = """With ddpm_hf (`{install}`; {where}), sampled as it was calibrated:

```python
from ddpm_hf import GaussianDiffusionScheduler

pipeline.scheduler = GaussianDiffusionScheduler.from_config(pipeline.scheduler.config)
image = pipeline(num_inference_steps=25).images[0]
```"""


def data_name(dataset):
    """The usual name of a data set; for a local folder its last part."""
    return EMBEDDED_DATA if dataset is None else public_name(dataset).split("/")[-1]


def introduction(folder, index):
    options, report = TRAINING_OPTIONS.read(folder), calibration_of(folder)
    if report:
        data = data_name(report["options"]["dataset"])
        return f"A denoising diffusion model, calibrated with ddpm_hf on {data} for sampling in few steps."
    if options:
        return f"A denoising diffusion model of {data_name(options['dataset'])}, trained with ddpm_hf."
    if _class_name(index) == "GaussianDiffusionCascadePipeline":
        return f"A cascade of denoising diffusion models: {_stages(folder, index)}."
    if CONVERSION.read(folder):
        return f"A diffusion model of another code, as a `{_class_name(index)}`."
    return f"A diffusion model, as a `{_class_name(index)}`."


def picture(folder):
    grids = sorted((folder / "samples").glob("*.png"))
    return f"![samples](samples/{grids[-1].name})" if grids else ""


def compared_samples(folder):
    """The picture of a comparison in the folder."""
    return f"![samples of each sampler]({COMPARED_SAMPLES})" if (folder / COMPARED_SAMPLES).is_file() else ""


def loading(folder, index, repository):
    """The code that loads the model, for each way that works with this folder."""
    has_code, is_stock = (folder / CODE_FILE).is_file(), isinstance(index["_class_name"], str)
    names = _class_names(folder)
    first = repr(names[min(names)]) if names else 0
    limits = value_limits_of(_network_config(folder))
    label = f", class_labels={first}" if _has_classes(folder) else ""
    if limits is not None:
        label = f", class_labels={sum(limits) / 2:g}"
    ways, (steps, recipe) = [], _sampler(folder)
    if is_stock:
        prompt = _prompt(folder).removeprefix("prompt=").removesuffix(", ")
        ways.append(STOCK.format(name=index["_class_name"], repository=repository, prompt=prompt))
    given = _prompt(folder) or _given_image(folder)
    if has_code:
        warning = WITHOUT_CUSTOM_PIPELINE if is_stock else ""
        ways.append(CODE.format(repository=repository, label=label, warning=warning, image=given, steps=steps))
    if _class_name(index) in ("DDPMPipeline", "DDIMPipeline", STABLE_DIFFUSION, *PIPELINES):
        ours = _class_name(index) if _class_name(index) in PIPELINES else PIPELINES[0]
        upscales = ours == "GaussianDiffusionUpscalePipeline"
        verb = f"upscale {repository} photo.png" if upscales else f"sample {repository}"
        verb += f" --prompt {shlex.quote(CAPTIONS.read(folder)['examples'][0])}" if given.startswith("prompt") else ""
        told = {"label": label, "image": given, "verb": verb, "steps": steps, "recipe": recipe}
        ways.append(PACKAGE.format(install=INSTALL, where=WHERE, repository=repository, pipeline=ours, **told))
    elif calibration_of(folder):
        ways.append(PACKAGE_OF_LATENTS.format(install=INSTALL, where=WHERE))
    return "\n\n".join(["## How to load it", *ways])


def classes(folder):
    """The names of the classes, which the pipeline accepts as labels."""
    names, limits = _class_names(folder), value_limits_of(_network_config(folder))
    if limits is not None:
        return f"## Numbers\n\n`class_labels` takes a number for each sample, from {limits[0]:.4g} to {limits[1]:.4g}."
    if not names:
        return ""
    listed = ", ".join(f"{label} {name}" for label, name in sorted(names.items()))
    return f"## Classes\n\n`class_labels` takes the number or the name of a class: {listed}."


def shapes(folder):
    """The shapes that the pipeline draws beside the network's own."""
    trained = trained_shapes(_network_config(folder))
    if not trained:
        return ""
    listed, (height, width) = ", ".join("{}x{}".format(*shape) for shape in trained), trained[-1]
    return (
        f"## Shapes\n\nTrained on images of {listed} (height x width), each in the nearest shape. "
        f"`pipeline(height={height}, width={width})` draws the last; without these two it draws the first."
    )


def training(folder):
    options = public_report(TRAINING_OPTIONS.read(folder))
    if not options:
        return ""
    environment = options.pop("environment")
    return TRAINING_SECTION.format(
        install=INSTALL,
        where=WHERE.replace("`", ""),
        data=data_name(options["dataset"]),
        file=TRAINING_OPTIONS.name,
        num_processes=environment["num_processes"],
        options=yaml.safe_dump({k: v for k, v in options.items() if k not in OF_THE_RUN}, sort_keys=False),
    )


def conversion(folder):
    """What a converted checkpoint was."""
    report = CONVERSION.read(folder)
    return conversion_text(report) if report else ""


def conversion_text(report):
    """The section of a card from the values of `conversion.json`."""
    return CONVERSION_SECTION.format(
        checkpoint=report["checkpoint"],
        sha256=report["sha256"],
        family=report["family"],
        which=WEIGHTS_TAKEN[report["weights"]],
        network=report["network"],
        parameters=f"{report['parameters'] / 1e6:.1f}M",
        check=report.get("check", {}).get("text", "Its reading was not checked on images."),
        notes="".join(f"\n\n{note}" for note in report.get("notes", ())),
    )


def calibration(folder):
    report = CALIBRATION.read(folder)
    if not report:
        return ""
    options, plans = report["options"], ", ".join(report.get("plans", {}))
    measured = report["mean_square_epsilon"]
    return CALIBRATION_SECTION.format(
        base=_link(options["model"]),
        frequencies=" and its share of each spatial frequency" if measured.get("covariance_spectrum") else "",
        num_images=measured["num_images"],
        data=data_name(options["dataset"]),
        file=CALIBRATION.name,
        plans=f", and planned timesteps for {plans} steps" if plans else "",
        command=_command(options),
        picture=_picture_of(folder, CALIBRATION, "Gamma"),
    )


def few_steps(folder):
    report = SOLVERS.read(folder)
    if not report:
        return ""
    options, counts = report["options"], [*report["solvers"]]
    scale = options["guidance_scale"]
    rows = [["sampler", *counts], ["---"] * (1 + len(counts))]
    for name, distances in report["distances"].items():
        cells = (distances.get(count) for count in counts)
        rows.append([name, *("" if cell is None else f"{cell:.3g}" for cell in cells)])
    return SOLVER_SECTION.format(
        base=_link(options["model"]),
        counts=", ".join(counts),
        guidance="" if scale == 1 else f", at `guidance_scale={scale:g}`",
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        command=_command(options),
        picture=_picture_of(folder, SOLVERS, "distances"),
    )


def _picture_of(folder, report, title):
    return f"\n![{title}]({report.picture})" if (folder / report.picture).is_file() else ""


def versions(folder):
    """The library versions of the run, if the folder records them, else the installed versions."""
    environment = TRAINING_OPTIONS.read(folder).get("environment") or describe_environment()
    listed = [
        f"{name} {value}" for name, value in environment.items() if value is not None and name not in OF_THE_DATA
    ]
    return f"## Versions\n\n{', '.join(listed)}"


def licence(name):
    if name is None:
        return "## Licence\n\n*Not stated yet. Without a licence, others may view the model, but not use it.*"
    return f"## Licence\n\n{name}"


def limits():
    return LIMITS


def _class_name(index):
    name = index["_class_name"]
    return name if isinstance(name, str) else name[-1]


def _has_classes(folder):
    return _network_config(folder).get("num_class_embeds") is not None


def _stages(folder, index):
    """The sizes of the stages of a cascade and the folders of their networks."""
    networks = sorted(name for name in index if name.split("_")[0] == "unet")
    sizes = (both_sides(read_mapping(folder / name / "config.json")["sample_size"]) for name in networks)
    named = [f"{height}x{width} (`{name}`)" for name, (height, width) in zip(networks, sizes, strict=True)]
    return ", enlarged to ".join(named)


def _given_image(folder):
    """The argument of the call that is the condition image; "" for a network without one."""
    condition = condition_of(_network_config(folder))
    if condition is None:
        return ""
    return GIVEN_BY_NAME if condition.low_resolution is None else GIVEN


def _prompt(folder):
    """The argument of the call that is a prompt, one of the captions of the training; "" for a model without."""
    captions = CAPTIONS.read(folder)
    return f"prompt={json.dumps(captions['examples'][0], ensure_ascii=False)}, " if captions else ""


def _sampler(folder):
    """The steps of the model's own sampler that are few and good, and a recipe with its steps."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_mapping(file) if file.is_file() else {}
    recipe, few = usual_sampler(config)
    return own_steps(config), f"{recipe} --steps {few}" if recipe else "predictor-corrector --steps 500"


def _class_names(folder):
    return class_names_of(_network_config(folder))


def _network_config(folder):
    config = folder / "unet" / "config.json"
    return read_mapping(config) if config.is_file() else {}


def _link(model):
    return public_name(model) if on_the_hub(model) is None else f"[{model}](https://huggingface.co/{model})"


def _command(options):
    """The `ddpm-hf calibrate` command with its given options."""
    given = {name: value for name, value in public_report(options).items() if value is not None}
    flags = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if name != "model"]
    return " ".join(["ddpm-hf calibrate", given["model"], *flags, "--output_dir outputs/again"])
