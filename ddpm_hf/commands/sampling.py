"""The verbs that draw images: `sample`, `interpolate`, `edit`."""

import math
from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.commands.options import (
    LARGEST_SEED,
    BatchSize,
    ClassLabel,
    Device,
    Eta,
    GuidanceScale,
    Model,
    PngOutput,
    Recipe,
    Seed,
    Steps,
    check_batch,
    fractions,
    open_pipeline,
    say_duration,
)
from ddpm_hf.errors import InputError
from ddpm_hf.results import check_free_file

app = typer.Typer()

# Images of one strip, which are one batch.
MOST_IN_A_ROW = 1000


@app.command()
def sample(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(help="PNG: a grid of images, or points as a scatter; CSV or NPY: points, with a scatter beside."),
    ] = Path("samples.png"),
    num_images: Annotated[int, typer.Option("--num_images", min=1)] = 16,
    steps: Steps = None,
    recipe: Recipe = None,
    eta: Eta = None,
    class_label: ClassLabel = None,
    guidance_scale: GuidanceScale = 1.0,
    guidance_interval: Annotated[
        str | None,
        typer.Option("--guidance_interval", help="LOW,HIGH: noise levels that are guided, as 0.3,3; all by default."),
    ] = None,
    guidance_rescale: Annotated[
        float, typer.Option("--guidance_rescale", help="0 (off) to 1: less saturation; 0.7 is usual.")
    ] = 0.0,
    classifier: Annotated[
        Path | None, typer.Option(help="Folder of a classifier (`train_classifier`); the model's own by default.")
    ] = None,
    classifier_guidance_scale: Annotated[
        float, typer.Option("--classifier_guidance_scale", help="Steer to --class by the classifier; 0 is off.")
    ] = 0.0,
    classifier_guidance_form: Annotated[
        str, typer.Option("--classifier_guidance_form", help="score (any eta), or mean (eta > 0).")
    ] = "score",
    trajectory: Annotated[
        Path | None, typer.Option(help="A GIF, or a PNG strip, of the first batch on its way from the noise.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Image i is that of seed + i, whatever the batch size.")
    ] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Draw images from a model and write them as one PNG grid, or points as numbers and a scatter.

    Runs on all processes of `accelerate launch -m ddpm_hf.cli`.
    """
    from ddpm_hf.distributed import gather_parts, join_processes, own_part, together
    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import check_fits_memory, fitting_into_memory
    from ddpm_hf.pipelines.image_grids import sample_images
    from ddpm_hf.pipelines.sample_files import files_of
    from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder

    interval = None if guidance_interval is None else tuple(fractions("guidance_interval", guidance_interval))
    if trajectory is not None and num_images > batch_size:
        raise InputError(
            f"--trajectory needs all images in one batch: lower --num_images, or --batch_size {num_images}."
        )
    accelerator = join_processes(device)

    def check_outputs():
        check_free_file(output, (".png", ".csv", ".npy"))
        if trajectory is not None:
            check_free_file(trajectory, (".gif", ".png"))

    together(accelerator, check_outputs, main_process_only=True)
    pipeline = open_pipeline(model, device or accelerator.device, classifier, recipe)
    samples = files_of(pipeline.unet.config)
    files = together(accelerator, lambda: samples.free_files(output), main_process_only=True)
    recorder = None if trajectory is None else samples.recorder(num_frames=12)
    needed = samples.picture_bytes(num_images)
    check_fits_memory("the samples and their picture take", needed, f"lower --num_images, which is {num_images}")
    advice = f"lower --batch_size, which is {batch_size}, or --num_images"
    check_batch(pipeline, min(batch_size, num_images), advice)
    # A trajectory shows all images, so each process draws all then.
    places = own_part(num_images, accelerator) if recorder is None else range(num_images)
    if accelerator.is_main_process:
        calls = math.ceil(len(places) / batch_size) * _steps_of(pipeline, steps)
        say_duration(pipeline, min(batch_size, len(places)), calls, "lower --num_images, --steps or --batch_size")
    with fitting_into_memory(advice):
        images = sample_images(
            pipeline,
            len(places),
            seed=seed + places.start,
            batch_size=batch_size,
            num_inference_steps=steps,
            eta=eta,
            class_labels=class_label,
            guidance_scale=guidance_scale,
            guidance_interval=interval,
            guidance_rescale=guidance_rescale,
            classifier_guidance_scale=classifier_guidance_scale,
            classifier_guidance_form=classifier_guidance_form,
            callback_on_step_end=recorder,
            callback_on_step_end_tensor_inputs=TrajectoryRecorder.tensor_inputs,
        )
    images = gather_parts(images, accelerator) if recorder is None else images
    if accelerator.is_main_process:
        if recorder is not None:
            with written_whole(trajectory) as aside:
                recorder.save(aside)
        samples.save(images, files)
        typer.echo(f"{num_images} {samples.samples.name} in {' and '.join(map(str, files))}")


@app.command()
def interpolate(
    model: Model,
    image_a: Annotated[Path, typer.Argument(help="A picture file.")],
    image_b: Annotated[Path, typer.Argument(help="A picture file.")],
    output: PngOutput = Path("interpolation.png"),
    depth: Annotated[int, typer.Option(help="The timestep, below T, at which the two are mixed.")] = 500,
    num: Annotated[int, typer.Option(min=2, max=MOST_IN_A_ROW, help="Images on the way, both ends included.")] = 9,
    weights: Annotated[
        str | None, typer.Option(help="Those of the second image, with commas between, instead of --num even ones.")
    ] = None,
    mode: Annotated[str, typer.Option(help="linear or spherical.")] = "linear",
    steps: Steps = None,
    eta: Eta = None,
    class_label: ClassLabel = None,
    guidance_scale: GuidanceScale = 1.0,
    seed: Seed = 0,
    device: Device = None,
):
    """Draw the images between two images and write them as a strip."""
    import torch

    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.interpolation import interpolate

    check_free_file(output, (".png",))
    weights = torch.linspace(0, 1, num) if weights is None else fractions("weights", weights)
    pipeline = open_pipeline(model, device)
    channels = pipeline.unet.config.in_channels
    advice = f"ask for fewer images than {len(weights)}"
    check_batch(pipeline, len(weights), advice)
    with fitting_into_memory(advice):
        images = interpolate(
            pipeline,
            read_image(image_a, channels),
            read_image(image_b, channels),
            weights,
            depth,
            mode,
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=steps,
            eta=eta,
            class_labels=class_label,
            guidance_scale=guidance_scale,
        ).images
    with written_whole(output) as aside:
        image_rows([images]).save(aside)
    typer.echo(f"{len(images)} images in {output}")


@app.command()
def edit(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    output: PngOutput = Path("edited.png"),
    strength: Annotated[
        float | None, typer.Option(help="Paint all of it anew (SDEdit): in (0, 1], little to everything.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Paint anew what is white in this black and white picture (RePaint).")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Find its noise (DDIM inversion) and what comes back from that.")
    ] = False,
    num_images: Annotated[int, typer.Option("--num_images", min=1, max=MOST_IN_A_ROW, help="Different ones.")] = 1,
    jump_length: Annotated[int, typer.Option("--jump_length", min=1, help="With --mask: steps of a jump.")] = 10,
    jump_n_sample: Annotated[
        int,
        typer.Option(
            "--jump_n_sample", min=1, max=10_000, help="With --mask: how often a stretch is walked; 1 is fastest."
        ),
    ] = 10,
    steps: Steps = None,
    eta: Eta = None,
    class_label: ClassLabel = None,
    guidance_scale: GuidanceScale = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Image i is that of seed + i.")] = 0,
    device: Device = None,
):
    """Edit an image without training: paint it anew in part or as a whole, or find the noise that it comes from."""
    import torch

    from ddpm_hf.files import written_whole
    from ddpm_hf.limits import fitting_into_memory
    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
    from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline, resampled
    from ddpm_hf.pipelines.pipeline_inversion import ROUNDS, GaussianDiffusionInversionPipeline

    if [strength is not None, mask is not None, invert].count(True) != 1:
        raise InputError("Give one of --strength, --mask and --invert.")
    check_free_file(output, (".png",))
    pipeline = open_pipeline(model, device)
    given = read_image(image, pipeline.unet.config.in_channels)

    def count_calls(steps):
        if invert:
            return steps * (1 + ROUNDS)
        return steps if mask is None else len(resampled(list(range(steps)), jump_length, jump_n_sample))

    known = None if mask is None else read_image(mask, 1)
    advice = f"lower --num_images, which is {num_images}, --steps, or --jump_n_sample, which is {jump_n_sample}"
    check_batch(pipeline, num_images, advice)
    say_duration(pipeline, num_images, count_calls(_steps_of(pipeline, steps)), advice)
    options = {"num_inference_steps": steps, "class_labels": class_label, "guidance_scale": guidance_scale}
    if not invert:
        options |= {"eta": eta, "generator": [torch.Generator().manual_seed(seed + i) for i in range(num_images)]}
    with fitting_into_memory(advice):
        if invert:
            latents = GaussianDiffusionInversionPipeline.from_pipe(pipeline)(given, **options).latents
            row = pipeline.image_processor.postprocess(latents / 3)
            row += pipeline(latents=latents, eta=0.0, **options).images
        elif strength is not None:
            row = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)(given, strength, **options).images
        else:
            jumps = {"jump_length": jump_length, "jump_n_sample": jump_n_sample}
            row = GaussianDiffusionInpaintPipeline.from_pipe(pipeline)(given, known, **jumps, **options).images
    with written_whole(output) as aside:
        image_rows([row]).save(aside)
    typer.echo(f"{output}: {'x_T and the image from it' if invert else f'{num_images} images'}")


def _steps_of(pipeline, steps):
    """The network calls of a trajectory; more steps than there are in training are refused where they are set."""
    most = pipeline.scheduler.config.num_train_timesteps
    return min(steps or most, most)
