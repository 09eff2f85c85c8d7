"""The verbs that draw images: `sample`, `upscale`, `interpolate`, `edit`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.default_sampler import ALL, USUAL_STEPS, choose_steps, steps_from
from ddpm_hf.commands.options import (
    NUMBERED,
    SPEED,
    DrawingExecutionOptions,
    Model,
    ModelOrEmbedded,
    ModelVerb,
    SamplingOptions,
    fractions,
)
from ddpm_hf.commands.preparation import check_batch, open_for_editing, open_pipeline, say_duration
from ddpm_hf.data.arguments import option
from ddpm_hf.errors import InputError
from ddpm_hf.places import EMBEDDED_MODEL
from ddpm_hf.results import check_free_file, free_output
from ddpm_hf.schedulers.sampler_table import USUAL_RECIPE
from ddpm_hf.sizes import parsed_size, sides_of_size

app = Verbs(ModelVerb)

# Images of one strip, which are one batch.
MOST_IN_A_ROW = 1000
# The sampling options of the verbs that begin with images.
EDITING = ("steps", "eta", "class_label", "value", "guidance_scale", "prompt", "negative_prompt")

# The execution of verbs whose results have seeds of their own.
OfSeededImages = offered(
    DrawingExecutionOptions, "seed", "device", *SPEED, seed={"help": "Image i is that of seed + i."}
)


@dataclass
class GuidedSamplingOptions(SamplingOptions):
    """The options of `sample`, with every kind of guidance."""

    steps: str | None = option(
        None,
        f"Number of timesteps to sample in, or {ALL} of training; by default the largest that the model has a plan or "
        f"a fitted solver for, and without any {USUAL_STEPS} of {USUAL_RECIPE}.",
        metavar=f"<int|{ALL}>",
    )
    guidance_interval: str | None = option(
        None, "LOW,HIGH: noise levels at which guidance applies, such as 0.3,3; by default all."
    )
    guidance_rescale: float = option(0.0, "0 (off) to 1: less saturation; 0.7 is usual.")
    classifier: Path | None = option(None, "Folder of a classifier (`train_classifier`); by default the model's own.")
    classifier_guidance_scale: float = option(0.0, "Steer to --class by the classifier; 0 is off.")
    classifier_guidance_form: Literal["score", "mean"] = option("score", "score (any eta), or mean (eta > 0).")
    resolution: str | None = option(
        None,
        "Side, or HEIGHTxWIDTH, of the images; by default the model's own. A model of --aspect_buckets draws any of its "
        "shapes.",
    )
    condition_image: Path | None = option(
        None, "A picture file that the model is told, for models of pairs; it is resized to the size of the samples."
    )
    augmentation_level: str | None = option(
        None, "For a cascade, noise on what its upscalers are told: one for all, or LEVEL,LEVEL, one for each."
    )
    ode: bool = option(
        False,
        "Follow the probability flow by an adaptive solver instead of steps, deterministically, in as many calls as it takes.",
    )
    rtol: float | None = option(None, "With --ode: relative and absolute tolerance of the solver; 1e-5 by default.")

    # What steps alone have.
    of_steps: ClassVar[tuple] = (
        *("steps", "recipe", "eta"),
        *("guidance_interval", "guidance_rescale", "classifier_guidance_scale"),
    )

    def __post_init__(self):
        super().__post_init__()
        self.steps = steps_from(self.steps)
        self.resolution = parsed_size("resolution", self.resolution)
        if not self.ode and self.rtol is not None:
            raise InputError(f"--rtol {self.rtol} is of the probability flow: give --ode too.")
        given = [f"--{name}" for name in self.of_steps if getattr(self, name) != getattr(type(self), name)]
        if self.ode and self.prompt is not None:
            raise InputError("--ode is of models without a text: leave out --prompt, or --ode.")
        if self.ode and given:
            raise InputError(f"--ode follows the probability flow without steps: leave out {' and '.join(given)}.")

    def tolerances(self):
        """The tolerances of the solver."""
        rtol = 1e-5 if self.rtol is None else self.rtol
        return {"rtol": rtol, "atol": rtol}

    @property
    def chooses_sampler(self):
        """Whether the options name a sampler, or need one with noise."""
        needs_noise = self.classifier_guidance_scale != 0 and self.classifier_guidance_form == "mean"
        return self.recipe is not None or self.eta is not None or needs_noise

    def keywords(self):
        interval = self.guidance_interval
        return super().keywords() | {
            "guidance_interval": None if interval is None else tuple(fractions("guidance_interval", interval)),
            "guidance_rescale": self.guidance_rescale,
            "classifier_guidance_scale": self.classifier_guidance_scale,
            "classifier_guidance_form": self.classifier_guidance_form,
            **({} if self.augmentation_level is None else {"augmentation_level": self._levels()}),
        }

    def _levels(self):
        levels = fractions("augmentation_level", self.augmentation_level)
        return levels[0] if len(levels) == 1 else levels


SampleFile = Annotated[
    Path | None,
    typer.Option(
        help="PNG: a grid of images, or points as a scatter; NPY: the values of images or points; CSV: points, "
        f"with a scatter beside; {NUMBERED.format('samples.png')}."
    ),
]


@app.command()
@with_options
def sample(
    model: ModelOrEmbedded = EMBEDDED_MODEL,
    output: SampleFile = None,
    num_images: Annotated[int, typer.Option("--num_images", min=1, help="Number of images, or of points.")] = 16,
    *,
    sampling: GuidedSamplingOptions,
    trajectory: Annotated[
        Path | None, typer.Option(help="A GIF, or a PNG strip, of the first batch on its way from the noise.")
    ] = None,
    execution: offered(
        DrawingExecutionOptions, seed={"help": "Image i is that of seed + i, whatever the batch size."}
    ),
):
    """Draw images from a model and write them as one PNG grid, or points as numbers and a scatter.

    Runs on all processes of `accelerate launch -m ddpm_hf.cli`.
    """
    keywords = sampling.keywords()
    _check_trajectory(trajectory, num_images, sampling, execution)
    from ddpm_hf.distributed import gather_parts, join_processes, own_part, together
    from ddpm_hf.pipelines.sample_files import files_of

    accelerator = join_processes(execution.device)
    output = together(accelerator, lambda: _free_outputs(output, trajectory), main_process_only=True)
    pipeline = _open(model, execution.device or accelerator.device, sampling)
    steps, said = (None, "") if sampling.ode else steps_of_stages(pipeline, sampling)
    keywords = _for_pipeline(pipeline, keywords | {"num_inference_steps": steps}, sampling)
    samples = files_of(pipeline.samples.config)
    files = together(accelerator, lambda: samples.free_files(output), main_process_only=True)
    recorder = None if trajectory is None else samples.recorder(num_frames=12)
    advice = _check_memory(pipeline, samples, num_images, execution.batch_size)
    # A trajectory shows all images, so each process draws all then.
    places = own_part(num_images, accelerator) if recorder is None else range(num_images)
    _set_up(pipeline, execution, steps, len(places), accelerator, is_exact=sampling.ode)
    if sampling.ode:
        images = _draw_by_flow(pipeline, places, execution, advice, sampling)
    else:
        if accelerator.is_main_process:
            _say_steps(pipeline, steps, said, len(places), execution.batch_size)
        images = _draw(pipeline, places, execution, advice, callback_on_step_end=recorder, **keywords)
    images = gather_parts(images, accelerator) if recorder is None else images
    if accelerator.is_main_process:
        _save_trajectory(recorder, trajectory)
        samples.save(images, files)
        typer.echo(f"{num_images} {samples.samples.output_name} in {' and '.join(map(str, files))}")


def _check_trajectory(trajectory, num_images, sampling, execution):
    if trajectory is not None and sampling.ode:
        raise InputError("--trajectory shows the steps of sampling, and --ode has none: leave one of them out.")
    if trajectory is not None and num_images > execution.batch_size:
        raise InputError(
            f"--trajectory needs all images in one batch: lower --num_images, or --batch_size {num_images}."
        )


def _open(model, device, sampling):
    """The pipeline of a model or of a cascade, with the sampler that the options name."""
    named = None if sampling.steps == ALL else sampling.steps
    pipeline = open_pipeline(model, device, sampling.classifier, sampling.recipe, named, ("cascades", "texts"))
    if sampling.resolution is not None:
        _set_resolution(pipeline, sampling.resolution)
    return pipeline


def _set_resolution(pipeline, resolution):
    """Makes the resolution the network's own, in this process."""
    from ddpm_hf.pipelines.sample_sizes import sides_to_draw

    condition = pipeline.samples.condition
    if len(pipeline.stages) > 1 or (condition is not None and condition.low_resolution is not None):
        raise InputError(
            f"--resolution {resolution} does not go with a model that enlarges images, whose sizes follow from these: "
            "leave it out."
        )
    sides = sides_to_draw(pipeline, *sides_of_size(resolution))
    pipeline.unet.register_to_config(sample_size=list(sides))


def _for_pipeline(pipeline, keywords, sampling):
    """The arguments of the pipeline's call: those that a cascade takes, and a condition image as a picture."""
    if len(pipeline.stages) > 1:
        keywords = for_cascade(keywords, sampling)
    if sampling.condition_image is None:
        return keywords
    return keywords | {"condition_image": _condition_image(sampling.condition_image, pipeline)}


def _set_up(pipeline, execution, steps, num_images, accelerator, is_exact):
    """Puts the network of each stage into the precision and layout of the options."""
    from ddpm_hf.pipelines.network_speed import set_up_network

    for stage, calls in _calls_of_stages(pipeline, steps, num_images, execution.batch_size):
        set_up_network(stage, execution, min(execution.batch_size, num_images), 0 if is_exact else calls, accelerator)


def _say_steps(pipeline, steps, said, num_images, batch_size):
    """Says how the steps were chosen, and how long those of each stage take."""
    if said:
        typer.echo(said)
    for stage, calls in _calls_of_stages(pipeline, steps, num_images, batch_size):
        say_duration(stage, min(batch_size, num_images), calls, "lower --num_images, --steps or --batch_size")


def _calls_of_stages(pipeline, steps, num_images, batch_size):
    """Each stage of a pipeline, and the number of calls of its network."""
    batches = math.ceil(num_images / batch_size)
    counts = steps if isinstance(steps, list) else [steps]
    return [(stage, batches * _steps_of(stage, each)) for stage, each in zip(pipeline.stages, counts, strict=True)]


def _condition_image(path, pipeline):
    """The picture in the channels and the size of the network's condition image."""
    from ddpm_hf.pipelines.image_inputs import read_image, resized_picture
    from ddpm_hf.samples.value_range import SIXTEEN_BITS

    condition = pipeline.samples.condition
    if condition is None or condition.low_resolution is not None:
        raise InputError(
            "--condition_image is for models of pairs (--condition_column), and this one is of another kind."
        )
    return resized_picture(read_image(path, condition.condition_channels, SIXTEEN_BITS), pipeline.samples.sides)


def steps_of_stages(pipeline, sampling):
    """The number of steps, or for a cascade a list of one for each stage, and what is said of the choice."""
    chosen = [choose_steps(stage, sampling.steps, sampling.chooses_sampler) for stage in pipeline.stages]
    if len(chosen) == 1:
        return chosen[0]
    return [steps for steps, _ in chosen], "\n".join(said for _, said in chosen if said)


def for_cascade(keywords, sampling):
    """The arguments that all stages of a cascade take; InputError for those that are for one model."""
    if sampling.ode:
        raise InputError("--ode is for one model, and this is a cascade: leave it out.")
    if sampling.prompt is not None or sampling.negative_prompt is not None:
        raise InputError(
            "--prompt is for a model that was trained with captions, and this is a cascade: leave it out."
        )
    if keywords["classifier_guidance_scale"] != 0:
        raise InputError("classifier_guidance_scale is for one model, and this is a cascade: leave it out.")
    return {name: value for name, value in keywords.items() if not name.startswith("classifier")}


def _free_outputs(output, trajectory):
    if trajectory is not None:
        check_free_file(trajectory, (".gif", ".png"))
    return free_output(output, "samples.png", (".png", ".csv", ".npy"))


def _check_memory(pipeline, samples, num_images, batch_size):
    """Advice on the option to lower if memory does not suffice."""
    from ddpm_hf.limits import check_fits_memory

    needed = samples.picture_bytes(num_images)
    check_fits_memory("the samples and their picture take", needed, f"lower --num_images, which is {num_images}")
    advice = f"lower --batch_size, which is {batch_size}, or --num_images"
    check_batch(pipeline, min(batch_size, num_images), advice)
    return advice


def _draw(pipeline, places, execution, advice, **keywords):
    """The images of these places, each drawn from the seed of its place."""
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import sample_images
    from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder

    with fitting_into_memory(advice):
        return sample_images(
            pipeline,
            len(places),
            seed=execution.seed + places.start,
            batch_size=execution.batch_size,
            callback_on_step_end_tensor_inputs=TrajectoryRecorder.tensor_inputs,
            **keywords,
        )


def _draw_by_flow(pipeline, places, execution, advice, sampling):
    """The images of these places by the probability flow; says in how many calls of the network."""
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.ode_solver import time_bar
    from ddpm_hf.pipelines.probability_flow import sample_by_flow

    tolerances = sampling.tolerances()
    options = {"class_labels": sampling.told_label, "guidance_scale": sampling.guidance_scale}
    with fitting_into_memory(advice), time_bar("flow", 1.0, 0.0) as on_call:
        images, calls = sample_by_flow(
            pipeline,
            len(places),
            execution.seed + places.start,
            execution.batch_size,
            **options,
            **tolerances,
            on_call=on_call,
        )
    typer.echo(f"{calls} network calls at rtol {tolerances['rtol']:g}")
    return images


def _save_trajectory(recorder, trajectory):
    from ddpm_hf.files import written_whole

    if recorder is not None:
        with written_whole(trajectory) as aside:
            recorder.save(aside)


@dataclass
class InterpolationOptions:
    """The options of `interpolate`: the timestep and the weights of the mixtures, and the file."""

    title: ClassVar[str] = "Interpolation"

    output: Path | None = option(None, f"The PNG file to write; {NUMBERED.format('interpolation.png')}.")
    depth: int = option(500, "The timestep, below T, at which the two are mixed.")
    num: int = option(9, "Number of images, both ends included.", min=2, max=MOST_IN_A_ROW)
    weights: str | None = option(None, "Comma-separated weights of the second image, instead of --num even ones.")
    mode: Literal["linear", "spherical"] = option("linear", "How the two are mixed.")
    ode: bool = option(
        False, "Mix what the probability flow makes of both, on the great circle between them; both come back exactly."
    )


@app.command()
@with_options
def interpolate(
    model: Model,
    image_a: Annotated[Path, typer.Argument(help="A picture file.")],
    image_b: Annotated[Path, typer.Argument(help="A picture file.")],
    mixing: InterpolationOptions,
    sampling: offered(SamplingOptions, *EDITING),
    execution: offered(DrawingExecutionOptions, "seed", "device", *SPEED),
):
    """Draw the images between two images and write them as a strip."""
    output = free_output(mixing.output, "interpolation.png", (".png",))
    given = None if mixing.weights is None else fractions("weights", mixing.weights)
    import torch

    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.interpolation import interpolate
    from ddpm_hf.pipelines.network_speed import set_up_network
    from ddpm_hf.pipelines.probability_flow import interpolate_encodings

    weights = torch.linspace(0, 1, mixing.num) if given is None else given
    if mixing.ode:
        pipeline = open_pipeline(model, execution.device, takes=("texts",))
    else:
        pipeline = open_for_editing(model, execution.device, sampling.steps)
    samples, files = pipeline.samples, row_files(pipeline)
    pair = [read_image(image, samples.output_shape[0], samples.depth) for image in (image_a, image_b)]
    advice = f"ask for fewer images than {len(weights)}"
    check_batch(pipeline, len(weights), advice)
    set_up_network(pipeline, execution, len(weights), 0 if mixing.ode else _steps_of(pipeline, sampling.steps))
    with fitting_into_memory(advice):
        if mixing.ode:
            images, calls = interpolate_encodings(pipeline, *pair, weights, class_labels=sampling.told_label)
            typer.echo(f"{calls} network calls")
        else:
            images = interpolate(
                pipeline,
                *pair,
                weights,
                mixing.depth,
                mixing.mode,
                generator=torch.Generator().manual_seed(execution.seed),
                **sampling.keywords(),
            ).images
    with written_whole(output) as aside:
        files.write_row(images, aside) if files.is_deep else image_rows([images]).save(aside)
    typer.echo(f"{len(images)} images in {output}")


@dataclass
class EditingOptions:
    """The options of `edit`: one of `strength`, `mask` and `invert`, and its settings."""

    title: ClassVar[str] = "Editing"

    strength: float | None = option(None, "Repaint the whole image (SDEdit), in (0, 1]: from little to everything.")
    mask: Path | None = option(None, "Black and white picture, whose white part is repainted (RePaint).")
    invert: bool = option(False, "Find the noise of the image (DDIM inversion), and draw the image from it again.")
    num_images: int = option(1, "Number of results, each from its own noise.", min=1, max=MOST_IN_A_ROW)
    jump_length: int = option(10, "With --mask: steps of a jump.", min=1)
    jump_n_sample: int = option(
        10, "With --mask: how often each stretch is denoised; 1 is fastest.", min=1, max=10_000
    )

    def __post_init__(self):
        if [self.strength is not None, self.mask is not None, self.invert].count(True) != 1:
            raise InputError("Give one of --strength, --mask and --invert.")

    def calls(self, steps):
        """The number of network calls of an edit in `steps` steps."""
        from ddpm_hf.pipelines.pipeline_inpaint import resampled
        from ddpm_hf.pipelines.pipeline_inversion import ROUNDS

        if self.invert:
            return steps * (1 + ROUNDS)
        return steps if self.mask is None else len(resampled(list(range(steps)), self.jump_length, self.jump_n_sample))


@app.command()
@with_options
def edit(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    output: Annotated[
        Path | None, typer.Option(help=f"The PNG file to write; {NUMBERED.format('edited.png')}.")
    ] = None,
    *,
    editing: EditingOptions,
    sampling: offered(SamplingOptions, *EDITING),
    execution: OfSeededImages,
):
    """Edit an image without training: repaint a part or the whole of it, or find the noise that it comes from."""
    output = free_output(output, "edited.png", (".png",))
    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.network_speed import set_up_network

    pipeline = open_for_editing(model, execution.device, sampling.steps)
    samples, files = pipeline.samples, row_files(pipeline)
    if editing.invert and files.is_deep:
        raise InputError(
            "--invert shows noise in 8 bits, and this model makes other images: take --strength or --mask."
        )
    given = read_image(image, samples.output_shape[0], samples.depth)
    known = None if editing.mask is None else read_image(editing.mask, 1)
    number = editing.num_images
    advice = f"lower --num_images, which is {number}, --steps, or --jump_n_sample, which is {editing.jump_n_sample}"
    check_batch(pipeline, number, advice)
    calls = editing.calls(_steps_of(pipeline, sampling.steps))
    set_up_network(pipeline, execution, number, 0 if editing.invert else calls)
    say_duration(pipeline, number, calls, advice)
    with fitting_into_memory(advice):
        if editing.invert:
            row = _inverted(pipeline, given, sampling)
        else:
            row = _painted(pipeline, given, known, editing, seed=execution.seed, **sampling.keywords())
    with written_whole(output) as aside:
        files.write_row(row, aside) if files.is_deep else image_rows([row]).save(aside)
    typer.echo(f"{output}: {'x_T and the image from it' if editing.invert else f'{number} images'}")


@dataclass
class UpscalingOptions:
    """The options of `upscale`: the noise on the image, and the tiles."""

    title: ClassVar[str] = "Upscaling"

    augmentation_level: float = option(
        0.0, "Noise to add to the image, up to the largest of the training; it hides faults of the image."
    )
    tile_overlap: float = option(
        0.25, "The share of a tile that overlaps the next one, for images larger than a tile."
    )
    num_images: int = option(1, "Number of results, each from its own noise.", min=1, max=MOST_IN_A_ROW)


@app.command()
@with_options
def upscale(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture file, as large as the model's low resolution or larger.")],
    output: Annotated[
        Path | None, typer.Option(help=f"The PNG file to write; {NUMBERED.format('upscaled.png')}.")
    ] = None,
    *,
    upscaling: UpscalingOptions,
    sampling: SamplingOptions,
    execution: OfSeededImages,
):
    """Enlarge a picture by a model that was trained with --low_resolution, in tiles if it is large."""
    output = free_output(output, "upscaled.png", (".png",))
    import numpy as np

    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import sample_images, side_by_side
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.network_speed import set_up_network
    from ddpm_hf.pipelines.pipeline_upscale import GaussianDiffusionUpscalePipeline

    pipeline = open_pipeline(model, execution.device, recipe=sampling.recipe, steps=sampling.steps)
    pipeline = GaussianDiffusionUpscalePipeline.from_pipe(pipeline)
    samples, files = pipeline.samples, row_files(pipeline)
    given = read_image(image, samples.channels, samples.depth)
    advice = "give a smaller picture"
    set_up_network(pipeline, execution, 1, _steps_of(pipeline, sampling.steps))
    with fitting_into_memory(advice):
        images = sample_images(
            pipeline,
            upscaling.num_images,
            execution.seed,
            batch_size=1,
            image=given,
            augmentation_level=upscaling.augmentation_level,
            tile_overlap=upscaling.tile_overlap,
            **sampling.keywords(),
        )
    with written_whole(output) as aside:
        files.write_row(images, aside) if files.is_deep else side_by_side(images).save(aside)
    before, after = (np.asarray(one).shape for one in (given, images[0]))
    typer.echo(f"{output}: {before[1]}x{before[0]} enlarged to {after[1]}x{after[0]}")


def row_files(pipeline):
    """The [`SampleFiles`] of a pipeline that writes a row of images; InputError if no PNG holds its images."""
    from ddpm_hf.pipelines.sample_files import files_of

    files = files_of(pipeline.samples.config)
    if files.is_deep and not files.fits_png:
        raise InputError(
            f"The model makes images of {pipeline.samples.channels} channel(s) with values in "
            f"{pipeline.samples.value_range}, which no PNG holds: call the pipeline in Python with output_type='np'."
        )
    return files


def _inverted(pipeline, image, sampling):
    """x_T of the image as a picture, and the image that is drawn from it."""
    from ddpm_hf.pipelines.pipeline_inversion import GaussianDiffusionInversionPipeline

    keywords = sampling.keywords()
    del keywords["eta"]  # the inversion is that of eta = 0
    latents = GaussianDiffusionInversionPipeline.from_pipe(pipeline)(image, **keywords).latents
    pictures = pipeline.samples.to_output(latents / 3, "pil")
    return pictures + pipeline(latents=latents, eta=0.0, **keywords).images


def _painted(pipeline, image, mask, editing, seed, **keywords):
    """Repainted images, image i from the noise of seed + i: inside the mask, or everywhere."""
    import torch

    from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
    from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline

    keywords["generator"] = [torch.Generator().manual_seed(seed + i) for i in range(editing.num_images)]
    if mask is None:
        return GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)(image, editing.strength, **keywords).images
    jumps = {"jump_length": editing.jump_length, "jump_n_sample": editing.jump_n_sample}
    return GaussianDiffusionInpaintPipeline.from_pipe(pipeline)(image, mask, **jumps, **keywords).images


def _steps_of(pipeline, steps):
    """The number of network calls of a trajectory; `set_timesteps` refuses more steps than training has."""
    from ddpm_hf.pipelines.schedulers import updates

    most = pipeline.scheduler.config.num_train_timesteps
    return min(steps or most, most) * len(updates(pipeline.scheduler, 1))
