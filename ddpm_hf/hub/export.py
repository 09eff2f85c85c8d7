"""Export of a model as a repository: with the code that runs it, or in stock classes alone."""

import inspect
from pathlib import Path

from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.cards import save_card
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.reading import INDEX_FILE
from ddpm_hf.pipelines.portable_pipeline import is_stock
from ddpm_hf.results import alone_in_free_folder, check_apart
from ddpm_hf.samples.kind import channels_of
from ddpm_hf.schedulers.choices import COVARIANCE_TYPES, OWN_SPACINGS
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

# The step counts in the card of a model without plans and with a spacing that stock schedulers lack.
COUNTS = (10, 25, 50, 100)

CARD = """
# {name}

A denoising diffusion model as stock classes of diffusers alone: `DDPMPipeline`, `UNet2DModel` and `DDPMScheduler`.

```python
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("{name}")  # the id of this repository, or its folder
image = pipeline(num_inference_steps={count}).images[0]
```
{timesteps}{losses}"""

TIMESTEPS = """
## In few steps

The model has timesteps for each of these numbers of steps{planned}. `DDPMPipeline` has no argument for them; its
scheduler takes them like this:

```python
from diffusers import DDPMScheduler

TIMESTEPS = {{
{table}}}


def set_timesteps(count, device=None):
    DDPMScheduler.set_timesteps(pipeline.scheduler, timesteps=TIMESTEPS[count], device=device)


pipeline.scheduler.set_timesteps = set_timesteps
image = pipeline(num_inference_steps={best}).images[0]
```
"""

LOSSES = """
## What the stock classes do not hold

The model that this was made of has more:

{losses}
"""


def export_self_contained(model, output_dir):
    """Writes any model, with its code, in the form of [`GaussianDiffusionPipeline.save_pretrained`].

    Args:
        model (`str`): a pipeline folder, or the id of a repository, with a `UNet2DModel` of images, stock or ours.
        output_dir (`str` or `Path`): a new or empty folder.

    Raises:
        InputError: for another kind of model, and for an `output_dir` that is not empty, in the model or unwritable.
    """
    check_apart(output_dir, model)
    with alone_in_free_folder(output_dir):
        pipeline = load_pipeline(model)
        with moved_in_whole(output_dir, last=INDEX_FILE) as aside:
            pipeline.save_pretrained(aside)


def export_stock(model, output_dir):
    """Writes the model as a [`DDPMPipeline`] with a [`DDPMScheduler`], without code, and with a README.md.

    The weights of the network stay, except for a head that stock classes cannot read, which is dropped. The card lists
    the timesteps of the model's plans, the code that uses them, and what was lost.

    Args:
        model (`str`): a pipeline folder, or the id of a repository, with a `UNet2DModel` and without class labels.
        output_dir (`str` or `Path`): a new or empty folder.

    Returns:
        `list[str]`: one line for each property that stock classes cannot hold.

    Raises:
        InputError: for a model that stock classes cannot sample, and for an `output_dir` as above.
    """
    output_dir = Path(output_dir)
    check_apart(output_dir, model)
    with alone_in_free_folder(output_dir):
        return _export_stock(model, output_dir)


def _export_stock(model, output_dir):
    pipeline = load_pipeline(model, latents=False)
    _check(model, pipeline)
    scheduler = _stock_scheduler(pipeline.scheduler)
    unet = _stock_network(pipeline.unet, with_head=scheduler.config.variance_type == "learned_range")
    losses = _losses(pipeline, unet, scheduler)
    with moved_in_whole(output_dir, last=INDEX_FILE) as aside:
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(aside)
        save_card(aside, _card(output_dir.name, pipeline.scheduler, losses), base_model=model)
    return losses


def _check(model, pipeline):
    if not is_stock(pipeline.unet):
        raise InputError(
            f"{model} has a {type(pipeline.unet).__name__}, which no stock pipeline samples. Share it as "
            "`ddpm-hf push` does, with the code that can."
        )
    if pipeline.samples.condition is not None:
        raise InputError(
            f"{model} is told a condition image, which DDPMPipeline cannot pass to the network: no stock pipeline "
            "would sample it. Share it as `ddpm-hf push` does, with the code that can."
        )
    labels = pipeline.unet.config.get("num_class_embeds")
    if labels is not None:
        raise InputError(
            f"{model} has class labels ({labels} of them, that for no class included), which DDPMPipeline cannot pass "
            "to the network: no stock pipeline would sample it. Share it as `ddpm-hf push` does, with the code that "
            "can."
        )
    if not isinstance(pipeline.scheduler, GaussianDiffusionScheduler):
        raise InputError(
            f"{model} has a {type(pipeline.scheduler).__name__}, whose steps a DDPMScheduler does not take: give the "
            "model with the scheduler that it was trained with."
        )
    if pipeline.unet.config.sample_size is None:
        raise InputError(
            f"{model} has no sample_size, without which DDPMPipeline does not sample; set it in its config."
        )


# The stock classes ---------------------------------------------------------------------------------------------------


def _stock_scheduler(scheduler):
    stock_types = {"learned": "fixed_small", "fixed_large_log": "fixed_large"}  # both give NaN in diffusers
    kind = scheduler.config.variance_type
    kind = "fixed_small" if kind in COVARIANCE_TYPES else stock_types.get(kind, kind)
    return DDPMScheduler(**_arguments_of(DDPMScheduler, scheduler.config) | {"variance_type": kind})


def _stock_network(unet, with_head):
    """The network as a stock class, with or without the channels of its variance head."""
    channels = unet.config.out_channels if with_head else channels_of(unet.config)
    stock = UNet2DModel(**_arguments_of(UNet2DModel, unet.config) | {"out_channels": channels})
    weights = unet.state_dict()
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = weights[name][:channels].clone()
    stock.load_state_dict(weights, assign=True)  # whatever their precision
    return stock


def _arguments_of(stock_class, config):
    """The constructor arguments in a config as stock classes read it, without our own keys."""
    portable = dict(config.items())
    return {name: portable[name] for name in inspect.signature(stock_class).parameters if name in portable}


# The card ------------------------------------------------------------------------------------------------------------


def _losses(pipeline, unet, stock_scheduler):
    config, stock_type = pipeline.scheduler.config, stock_scheduler.config.variance_type
    losses = []
    if config.variance_type != stock_type:
        losses.append(f"the variance `{config.variance_type}`; here it is `{stock_type}`")
    if unet.config.out_channels != pipeline.unet.config.out_channels:
        losses.append("the head of the network that told the variance; its prediction of the noise is the same")
    if config.eta != 1:
        losses.append(f"eta {config.eta:g}; `DDPMScheduler` samples at eta 1")
    if config.solver_order != 1:
        losses.append("the mean of second order; `DDPMScheduler` has the first")
    if config.fitted_solvers is not None:
        counts = ", ".join(config.fitted_solvers["solvers"])
        losses.append(f"the solvers fitted to the network for {counts} steps; `DDPMScheduler` has no history")
    if config.clip_variance_pixels is not None:
        losses.append(f"the clip of the last noise to {config.clip_variance_pixels:g} pixels")
    if not config.use_clipped_model_output:
        losses.append(
            "the noise prediction as it is after clipping x0; `DDPMScheduler` derives it from the clipped x0"
        )
    if pipeline.classifier is not None:
        losses.append("its classifier of noisy images, and the guidance by it")
    return losses


def _card(name, scheduler, losses):
    timesteps = _timesteps(scheduler)
    text = ""
    if timesteps:
        plans = scheduler.config.timestep_plans
        text = TIMESTEPS.format(
            planned=", planned for the sampler that it was calibrated for" if plans else "",
            table="".join(f"    {count}: {steps},\n" for count, steps in timesteps.items()),
            best=max(timesteps),
        )
    return CARD.format(
        name=name,
        count=len(scheduler),
        timesteps=text,
        losses=LOSSES.format(losses="\n".join(f"- {loss}" for loss in losses)) if losses else "",
    )


def _timesteps(scheduler):
    """{number of steps: timesteps}, for timesteps that no stock spacing gives."""
    counts = {int(count) for count in scheduler.config.timestep_plans or {}}
    if not counts and scheduler.config.timestep_spacing in OWN_SPACINGS:
        counts = {count for count in COUNTS if count <= len(scheduler)}
    timesteps, scheduler = {}, type(scheduler).from_config(scheduler.config, fitted_solvers=None)
    for count in sorted(counts):
        scheduler.set_timesteps(count)
        timesteps[count] = scheduler.timesteps.tolist()
    return timesteps
