"""The command `ddpm-hf`: each verb is a thin layer on a function of the package."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train, sample and share denoising diffusion models.", no_args_is_help=True, add_completion=False
)


def main():
    try:
        app()
    except (ValueError, OSError) as error:  # the user's to mend, and the message says how
        sys.exit(f"ddpm-hf: error: {error}")


# What several verbs take.
Dataset = Annotated[str | None, typer.Option(help="As in training; the embedded Fashion-MNIST if not given.")]
DatasetConfig = Annotated[str | None, typer.Option("--dataset_config", help="As in training.")]
ImageColumn = Annotated[str | None, typer.Option("--image_column", help="As in training.")]
LabelColumn = Annotated[str | None, typer.Option("--label_column", help="As in training.")]
PointColumns = Annotated[str | None, typer.Option("--point_columns", help="As in training.")]
Model = Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the fastest there is by default.")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Images at a time.")]

PngOutput = Annotated[Path, typer.Option(help="The PNG file to write.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Timesteps of the whole way; all of training's by default.")]
Recipe = Annotated[
    str | None, typer.Option(help="A sampler by name, as ddim-2m or analytic-ddpm; the model's own by default.")
]
Eta = Annotated[float | None, typer.Option(help="0 is DDIM, 1 is DDPM; the model's own by default.")]
ClassLabel = Annotated[int | None, typer.Option("--class", help="A label of a class-conditional model.")]
GuidanceScale = Annotated[float, typer.Option("--guidance_scale", help="1 is no guidance.")]
Seed = Annotated[int, typer.Option(help="Of all the noise.")]


# The options of training are a dataclass, and its parser knows them: everything after `train` goes there.
@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train a model on images; `ddpm-hf train --help` lists the options.",
)
def train(context: typer.Context):
    from ddpm_hf.training.train import main as train_main

    train_main(context.args)


# As with `train`, its own parser knows the options.
@app.command(
    "train_classifier",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train a classifier that steers a model to classes; `ddpm-hf train_classifier --help` lists the options.",
)
def train_classifier(context: typer.Context):
    from ddpm_hf.training.train_classifier import main as train_classifier_main

    train_classifier_main(context.args)


@app.command()
def ema(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run that was trained with --ema power.")],
    std: Annotated[float, typer.Option(help="Relative standard deviation of the average: 0.05 is short, 0.15 long.")],
    output: Annotated[Path, typer.Option(help="The new pipeline folder.")],
    step: Annotated[
        int | None, typer.Option(help="The average as it was after this update; the last one by default.")
    ] = None,
):
    """Make a model of a run with another length of the average of its weights, from the snapshots of the training."""
    from ddpm_hf.training.power_ema import save_reconstructed

    share_left = save_reconstructed(run, std, output, step)
    typer.echo(
        f"{output} has the average of std {std:g}; the snapshots make it up but for {share_left:.2%} of its profile."
    )


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
    seed: Annotated[int, typer.Option(help="Image i is that of seed + i, whatever the batch size.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Draw images from a model and write them as one PNG grid, or points as numbers and a scatter.

    Runs on all processes of `accelerate launch -m ddpm_hf.cli`.
    """
    from ddpm_hf.models.network_config import is_of_points
    from ddpm_hf.pipelines.image_grids import sample_images
    from ddpm_hf.pipelines.sample_files import sample_files, save_samples
    from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder
    from ddpm_hf.processes import gather_parts, join_processes, own_part

    _check_new(output, ".png", ".csv", ".npy")
    interval = None if guidance_interval is None else tuple(_fractions("guidance_interval", guidance_interval))
    recorder = None
    if trajectory is not None:
        _check_new(trajectory, ".gif", ".png")
        if num_images > batch_size:
            raise ValueError(
                f"--trajectory needs all images in one batch: lower --num_images, or --batch_size {num_images}."
            )
        recorder = TrajectoryRecorder(num_frames=12)
    accelerator = join_processes(device)
    pipeline = _pipeline(model, device or accelerator.device, classifier, recipe)
    files = sample_files(output, pipeline.unet.config)
    kind = "points" if is_of_points(pipeline.unet.config) else "images"
    if kind == "points" and recorder is not None:
        raise ValueError("--trajectory is of images; `ddpm-hf show path` draws the way of points.")
    # A trajectory shows all images, so each process draws all then.
    places = own_part(num_images, accelerator) if recorder is None else range(num_images)
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
        save_samples(images, files)
        if recorder is not None:
            recorder.save(trajectory)
        typer.echo(f"{num_images} {kind} in {' and '.join(map(str, files))}")


@app.command()
def interpolate(
    model: Model,
    image_a: Annotated[Path, typer.Argument(help="A picture file.")],
    image_b: Annotated[Path, typer.Argument(help="A picture file.")],
    output: PngOutput = Path("interpolation.png"),
    depth: Annotated[int, typer.Option(help="The timestep, below T, at which the two are mixed.")] = 500,
    num: Annotated[int, typer.Option(min=2, help="Images on the way, both ends included.")] = 9,
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

    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.interpolation import interpolate

    _check_new(output, ".png")
    pipeline = _pipeline(model, device)
    channels = pipeline.unet.config.in_channels
    images = interpolate(
        pipeline,
        read_image(image_a, channels),
        read_image(image_b, channels),
        torch.linspace(0, 1, num) if weights is None else _fractions("weights", weights),
        depth,
        mode,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        eta=eta,
        class_labels=class_label,
        guidance_scale=guidance_scale,
    ).images
    output.parent.mkdir(parents=True, exist_ok=True)
    image_rows([images]).save(output)
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
    num_images: Annotated[int, typer.Option("--num_images", min=1, help="Different ones.")] = 1,
    jump_length: Annotated[int, typer.Option("--jump_length", min=1, help="With --mask: steps of a jump.")] = 10,
    jump_n_sample: Annotated[
        int, typer.Option("--jump_n_sample", min=1, help="With --mask: how often a stretch is walked; 1 is fastest.")
    ] = 10,
    steps: Steps = None,
    eta: Eta = None,
    class_label: ClassLabel = None,
    guidance_scale: GuidanceScale = 1.0,
    seed: Annotated[int, typer.Option(help="Image i is that of seed + i.")] = 0,
    device: Device = None,
):
    """Edit an image without training: paint it anew in part or as a whole, or find the noise that it comes from."""
    import torch

    from ddpm_hf.pipelines.image_grids import image_rows
    from ddpm_hf.pipelines.image_inputs import read_image
    from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
    from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
    from ddpm_hf.pipelines.pipeline_inversion import GaussianDiffusionInversionPipeline

    if [strength is not None, mask is not None, invert].count(True) != 1:
        raise ValueError("Give one of --strength, --mask and --invert.")
    _check_new(output, ".png")
    pipeline = _pipeline(model, device)
    given = read_image(image, pipeline.unet.config.in_channels)
    options = {"num_inference_steps": steps, "class_labels": class_label, "guidance_scale": guidance_scale}
    if invert:
        latents = GaussianDiffusionInversionPipeline.from_pipe(pipeline)(given, **options).latents
        rows = [
            pipeline.image_processor.postprocess(latents / 3),
            pipeline(latents=latents, eta=0.0, **options).images,
        ]
        row = [one for images in rows for one in images]
    else:
        options |= {"eta": eta, "generator": [torch.Generator().manual_seed(seed + i) for i in range(num_images)]}
        if strength is not None:
            row = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)(given, strength, **options).images
        else:
            options |= {"jump_length": jump_length, "jump_n_sample": jump_n_sample}
            known = read_image(mask, 1)
            row = GaussianDiffusionInpaintPipeline.from_pipe(pipeline)(given, known, **options).images
    output.parent.mkdir(parents=True, exist_ok=True)
    image_rows([row]).save(output)
    typer.echo(f"{output}: {'x_T and the image from it' if invert else f'{num_images} images'}")


@app.command()
def evaluate(
    model: Model,
    output: Annotated[Path, typer.Option(help="The folder for figures and numbers.")],
    metrics: Annotated[str, typer.Option(help="What to measure: bpd, bits per dimension (lower is better).")] = "bpd",
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="One that the model has not been trained on.")] = "test",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_images: Annotated[
        int | None, typer.Option("--num_images", min=1, help="As many, drawn at random; all by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    variance_type: Annotated[
        str | None, typer.Option("--variance_type", help="fixed_small, fixed_large, ..; the model's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of images.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure how good a model is on images that it has not seen; on all processes of `accelerate launch -m ddpm_hf.cli`."""
    from ddpm_hf.evaluation.run import evaluate_bits_per_dim

    if metrics != "bpd":
        raise ValueError(f"metrics={metrics!r} is not known; there is 'bpd'.")
    data = _data(dataset, dataset_config, split, image_column, label_column, point_columns)
    evaluate_bits_per_dim(model, output, data, num_images, steps, variance_type, batch_size, seed, device)


@app.command()
def calibrate(
    model: Model,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="The new pipeline folder.")] = None,
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="That of the training.")] = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_images: Annotated[int, typer.Option("--num_images", min=1, help="More make it exacter.")] = 1000,
    plan: Annotated[str | None, typer.Option(help="Numbers of steps to plan timesteps for, as 10,25,50.")] = None,
    plan_cost: Annotated[
        str,
        typer.Option(
            "--plan_cost",
            help="What a plan keeps low: bound (likelihood), local_error (samples in few steps), global_error (in more).",
        ),
    ] = "bound",
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", help="A repository that gets the new folder too.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of images.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure a model's noise prediction and write a copy that samples better in few steps, its weights untouched."""
    from ddpm_hf.calibration.run import calibrate

    data = _data(dataset, dataset_config, split, image_column, label_column, point_columns)
    plans = None if plan is None else _numbers("plan", plan)
    calibrate(model, output_dir, data, num_images, plans, plan_cost, batch_size, seed, device, push_to_hub)


@app.command()
def compare(
    model: Model,
    output: Annotated[Path, typer.Option(help="The folder for tables and pictures.")],
    features: Annotated[
        str,
        typer.Option(
            help="Where images are compared: a folder of an image classifier, or 'inception'. `python -m "
            "ddpm_hf.evaluation.feature_network FOLDER` trains a small one."
        ),
    ],
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="One that the model has not been trained on.")] = "test",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    samplers: Annotated[
        str | None, typer.Option(help="Names with commas between: recipes of ours, samplers of diffusers.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Numbers of network calls, with commas between.")] = "5,10,25,50",
    num_images: Annotated[int, typer.Option("--num_images", min=2, help="Samples for each distance.")] = 1000,
    seeds: Annotated[str, typer.Option(help="Of the noise; a distance for each.")] = "0,1,2",
    bound_images: Annotated[
        int | None, typer.Option("--bound_images", help="For bits/dim; as many as samples by default, 0 for none.")
    ] = None,
    batch_size: BatchSize = 100,
    device: Device = None,
):
    """Sample a model by many samplers and set their quality beside steps and seconds: a table and pictures."""
    from ddpm_hf.evaluation.compare import DEFAULT_SAMPLERS, compare

    data = _data(dataset, dataset_config, split, image_column, label_column)
    names = DEFAULT_SAMPLERS if samplers is None else samplers.split(",")
    counts, seeds = _numbers("steps", steps), _numbers("seeds", seeds)
    compare(model, output, features, data, names, counts, num_images, seeds, batch_size, device, bound_images)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A pipeline folder.")],
    repository: Annotated[str, typer.Argument(help="NAME or OWNER/NAME on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it as a private one.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made from main if it is not there; main by default.")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create_pr", help="Offer the commit as a pull request.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Say which files would change, with their sizes, and change nothing.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="For the model card, as the Hub spells it: apache-2.0.")] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="A folder of `compare` or `evaluate` for the card; may be repeated.")
    ] = None,
):
    """Upload a pipeline folder with a model card, in one commit; the same command again goes on where it stopped."""
    from ddpm_hf.hub.push import push_folder

    pushed = push_folder(folder, repository, private or None, revision, create_pr, dry_run, license, evaluation or ())
    typer.echo(str(pushed))
    typer.echo("Nothing was changed (--dry_run)." if dry_run else f"Uploaded: {pushed.url}")


@app.command()
def export(
    model: Model,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="A folder that is not there yet.")],
    stock: Annotated[bool, typer.Option("--stock", help="Stock classes of diffusers alone, without code.")] = False,
):
    """Write a model as a repository: with the code that runs it, or of stock classes alone."""
    from ddpm_hf.hub.export import export_self_contained, export_stock

    if not stock:
        export_self_contained(model, output_dir)
    else:
        for loss in export_stock(model, output_dir):
            typer.echo(f"not held by stock classes: {loss}")
    typer.echo(f"The repository is in {output_dir}")


show = typer.Typer(help="Draw what a model, a run or a data set is like, as a PNG or SVG file.", no_args_is_help=True)
app.add_typer(show, name="show")

Figure = Annotated[Path, typer.Option("--output", help="The PNG or SVG file to write.")]
NumPoints = Annotated[int, typer.Option("--num_samples", min=4, help="Data, and samples, as many.")]


@show.command("schedules")
def show_schedules(
    model: Annotated[
        str | None, typer.Argument(help="A pipeline folder or Hub id; all schedules if not given.")
    ] = None,
    output: Figure = Path("schedules.png"),
):
    """The betas, the shares of signal and noise, and log-SNR, by timestep."""
    from ddpm_hf.visualization.scheduler_figures import schedules

    _save_new_figure(lambda: schedules(model), output)


@show.command("forward")
def show_forward(
    model: Model,
    output: Figure = Path("forward.png"),
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="As in training.")] = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="0-based, ascending, with commas between.")] = None,
    seed: Seed = 0,
):
    """Data on their way to noise, step by step above and by the closed form below, with p of the test that they agree."""
    from ddpm_hf.visualization.model_figures import forward

    data = _data(dataset, dataset_config, split, image_column, label_column, point_columns)
    timesteps = None if timesteps is None else _numbers("timesteps", timesteps)
    _save_new_figure(lambda: forward(_pipeline(model, "cpu"), data, num_samples, timesteps, seed=seed), output)


@show.command("loss")
def show_loss(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, with its loss.csv.")],
    output: Figure = Path("loss.png"),
):
    """The training loss, by optimizer update."""
    from ddpm_hf.training.loss_curve import draw_loss_curve

    _check_new(output, ".png", ".svg")
    draw_loss_curve(folder / "loss.csv", output)
    typer.echo(str(output))


@show.command("samples")
def show_samples(
    model: Model,
    dataset: Annotated[str, typer.Option(help="Points, as in training.")],
    output: Figure = Path("samples.png"),
    dataset_config: DatasetConfig = None,
    point_columns: PointColumns = None,
    split: Annotated[str, typer.Option(help="As in training.")] = "train",
    num_samples: NumPoints = 2000,
    steps: Steps = None,
    recipe: Recipe = None,
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = None,
):
    """Samples of a model of points over its data."""
    from ddpm_hf.visualization.model_figures import samples

    data = _data(dataset, dataset_config, split, None, None, point_columns)

    def draw():
        return samples(
            _pipeline(model, device, recipe=recipe), data, num_samples, seed, num_inference_steps=steps, eta=eta
        )

    _save_new_figure(draw, output)


@show.command("path")
def show_path(
    model: Model,
    output: Annotated[Path, typer.Option(help="A strip (PNG or SVG), or an animation (GIF).")] = Path("path.png"),
    num_samples: NumPoints = 2000,
    frames: Annotated[int, typer.Option(min=2, help="Noise and samples included.")] = 12,
    steps: Steps = None,
    recipe: Recipe = None,
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = None,
):
    """Points on their way from noise; of images, `ddpm-hf sample --trajectory` writes it."""
    from ddpm_hf.pipelines.trajectory_pictures import save_animation
    from ddpm_hf.visualization.model_figures import path
    from ddpm_hf.visualization.points import draw_path, path_images
    from ddpm_hf.visualization.style import save_figure

    _check_new(output, ".png", ".svg", ".gif")
    pipeline = _pipeline(model, device, recipe=recipe)
    states = path(pipeline, num_samples, frames, seed, num_inference_steps=steps, eta=eta)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".gif":
        save_animation(path_images(states), output)
    else:
        save_figure(draw_path(states), output)
    typer.echo(str(output))


@show.command("score")
def show_score(
    model: Model,
    dataset: Annotated[str, typer.Option(help="Points, as in training.")],
    output: Figure = Path("score.png"),
    dataset_config: DatasetConfig = None,
    point_columns: PointColumns = None,
    split: Annotated[str, typer.Option(help="As in training.")] = "train",
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="0-based, with commas between: a panel for each.")] = None,
    seed: Seed = 0,
    device: Device = None,
):
    """The score of a model of points as arrows over its noisy data."""
    from ddpm_hf.visualization.model_figures import score_field

    data = _data(dataset, dataset_config, split, None, None, point_columns)
    timesteps = None if timesteps is None else _numbers("timesteps", timesteps)
    _save_new_figure(lambda: score_field(_pipeline(model, device), data, num_samples, timesteps, seed), output)


@show.command("gamma")
def show_gamma(model: Model, output: Figure = Path("gamma.png")):
    """What a calibrated scheduler holds: 1 - the mean square error of the predicted noise, and the std of x0 that follows."""
    from ddpm_hf.visualization.scheduler_figures import gamma

    _save_new_figure(lambda: gamma(model), output)


@show.command("variances")
def show_variances(
    model: Model,
    output: Figure = Path("variances.png"),
    steps: Annotated[int, typer.Option(min=2, help="Of the trajectory.")] = 25,
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="As in training.")] = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_samples: Annotated[int, typer.Option("--num_samples", min=1, help="Data for the variances of a head.")] = 64,
    seed: Seed = 0,
    device: Device = None,
):
    """How much noise each recipe's steps add, by timestep; those of a head are a mean, and a band from 10 to 90 %."""
    from ddpm_hf.visualization.model_figures import variances

    data = _data(dataset, dataset_config, split, image_column, label_column, point_columns)
    _save_new_figure(lambda: variances(_pipeline(model, device), steps, data, num_samples, seed), output)


@show.command("timesteps")
def show_timesteps(
    model: Model,
    output: Figure = Path("timesteps.png"),
    steps: Annotated[int, typer.Option(min=1, help="Of a trajectory.")] = 25,
):
    """Which timesteps each spacing visits, and the plan of the model where it has one for so many steps."""
    from ddpm_hf.visualization.scheduler_figures import timesteps

    _save_new_figure(lambda: timesteps(model, steps), output)


def _save_new_figure(draw, output):
    """What `draw` returns, as a file that is not there yet."""
    from ddpm_hf.visualization.style import save_figure

    _check_new(output, ".png", ".svg")
    figure = draw()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, output)
    typer.echo(str(output))


@app.command()
def demo(
    model: Model,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on by default.")
    ] = None,
    device: Device = None,
    space: Annotated[
        Path | None, typer.Option(help="Write a folder for a Space of the Hub instead; it must not be there yet.")
    ] = None,
):
    """Serve a page on this machine that draws images, as they form, by any sampler that the model can run."""
    if space is None:
        from ddpm_hf.hub.demo import serve

        return serve(model, port, device or _fastest_device())
    from ddpm_hf.hub.space import write_space

    if port is not None:
        raise ValueError("--port is of a page on this machine; leave it out with --space.")
    write_space(model, space)
    typer.echo(f"The Space is in {space}; `hf upload OWNER/NAME {space} . --type space` shares it.")


def _data(dataset, dataset_config, split, image_column, label_column, point_columns=None):
    from ddpm_hf.training.arguments import DataArguments

    return DataArguments(
        dataset=dataset,
        dataset_config=dataset_config,
        split=split,
        image_column=image_column,
        label_column=label_column,
        point_columns=point_columns,
    )


def _numbers(name, text):
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ValueError(f"--{name} {text} must be whole numbers with commas between, as 10,25,50.")
    return [int(part) for part in text.split(",")]


def _pipeline(model, device, classifier=None, recipe=None):
    from ddpm_hf.hub.model_folder import load_pipeline
    from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
    from ddpm_hf.recipes import changes_for, check_head, with_recipe

    parts = {} if classifier is None else {"classifier": NoisyImageClassifier.from_pretrained(classifier)}
    pipeline = load_pipeline(model, **parts).to(device or _fastest_device())
    if recipe is not None:
        config = pipeline.unet.config
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, recipe, **changes_for(config)))
        check_head(pipeline.unet, pipeline.scheduler)
    return pipeline


def _check_new(path, *suffixes):
    if path.exists():
        raise ValueError(f"{path} is already there; choose another name, or move it away.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}.")


def _fractions(name, text):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} {text} must be numbers with commas between, as 0,0.5,1.") from None


def _fastest_device():
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


if __name__ == "__main__":
    main()
