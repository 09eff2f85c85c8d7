"""The verbs that measure a model: `evaluate`, `calibrate`, `improve`, `compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.options import (
    CAPTIONS,
    IMAGES,
    SAMPLES,
    SPEED,
    DrawingExecutionOptions,
    ExactExecutionOptions,
    Model,
    ModelVerb,
    numbers,
)
from ddpm_hf.data.arguments import DataArguments, option
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.metric_names import parse_metrics
from ddpm_hf.schedulers.choices import VARIANCE_TYPES
from ddpm_hf.schedulers.sampler_table import check_recipe, check_sampler_name

app = Verbs(ModelVerb)

# As in `calibration.model_plans`, which waits for torch.
PLAN_COSTS = ("bound", "local_error", "global_error")
# The help of the field speaks of points too.
OF_THE_TRAINING = {
    "caption_column": {
        "help": "For a model that is told a text: the column of texts; by default that of the training."
    },
    "caption_template": {
        "help": "For such a model: captions made from columns, as 'a photo of a {label}'; by default as in the training."
    },
}
AS_IN_TRAINING = {"help": "As in training; the embedded Fashion-MNIST if not given."}
UNSEEN = {"default": "test", "help": "One that the model has not been trained on."}
SEED_OF_CHOICE = {"help": "Seed of the noise, and of the choice of images."}


@dataclass
class EvaluationOptions:
    """What `evaluate` measures, and on how much."""

    title: ClassVar[str] = "Evaluation"

    metrics: str = option(
        "bpd",
        "With commas between: bpd (bits per dimension, a bound), nll (the same by the probability flow), fid, kid, prdc (precision, recall, density, coverage), is, fd, "
        "memorisation, channels; with a network behind it, as kid_dinov2 or fd_clip.",
    )
    num_images: int | None = option(
        None, "Samples to draw, 10,000 by default; for bpd, images of the data, all by default.", min=1
    )
    steps: int | None = option(None, "Timesteps to visit; all of training's, or the prepared ones, by default.", min=1)
    variance_type: Literal[VARIANCE_TYPES] | None = option(None, "The model's own by default.")

    probes: int = option(1, "Of nll: random probes and noises for each image; more reduce the standard error.", min=1)
    rtol: float = option(1e-5, "Of nll: relative and absolute tolerance of the solver.")
    dequantization: Literal["uniform", "gaussian"] = option(
        "uniform",
        "Of nll: uniform, noise within each level, as in the papers; or gaussian, the noise of the flow's start and a decoder, "
        "which is comparable with the bound.",
    )

    def __post_init__(self):
        parse_metrics(self.metrics)  # before torch is imported, which takes seconds


@dataclass
class SampleMeasureOptions:
    """What `evaluate` measures samples against, and in which features."""

    title: ClassVar[str] = "Measures of samples"

    reference: str | None = option(
        None, "Another data set, or an .npz of images or statistics, in place of --dataset."
    )
    features: str = option(
        "inception",
        "Network of metrics that name none: inception, dinov2, clip, or a folder of a classifier, a DINOv2 or a CLIP.",
    )
    train_split: str = option("train", "Split of the training images, for memorisation.")
    recipe: str | None = option(None, "Name of a sampler, as in `ddpm-hf sample`; by default the model's own.")
    guidance_scale: float = option(1.0, "1 is no guidance.")
    keep_samples: bool = option(False, "Write the samples as samples.npz.")
    save_reference: bool = option(False, "Write the statistics of the reference as reference_NETWORK.npz.")
    extrapolate: bool = option(False, "Add the limit of a Frechet distance for infinitely many samples.")

    def __post_init__(self):
        if self.recipe is not None:
            check_recipe(self.recipe)


@app.command()
@with_options
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A pipeline folder, a repository on the Hub, or images: a folder, or an .npz file."),
    ],
    output: Annotated[Path, typer.Option(help="The folder for figures and numbers.")],
    *,
    data: offered(DataArguments, *SAMPLES, *CAPTIONS, split=UNSEEN, **OF_THE_TRAINING),
    evaluation: EvaluationOptions,
    measures: SampleMeasureOptions,
    execution: offered(DrawingExecutionOptions, seed=SEED_OF_CHOICE),
):
    """Measure how good a model is, by images it has not seen and by its samples; on all processes of `accelerate launch -m ddpm_hf.cli`."""
    from ddpm_hf.evaluation.evaluate import evaluate

    evaluate(model, output, data=data, **vars(evaluation), **vars(measures), **vars(execution))


@dataclass
class CalibrationOptions:
    """What `calibrate` measures, plans and shares."""

    title: ClassVar[str] = "Calibration"

    num_images: int = option(1000, "More images reduce the standard error.", min=1)
    plan: str | None = option(None, "Numbers of steps to plan timesteps for, as 10,25,50.")
    plan_cost: Literal[PLAN_COSTS] = option(
        "bound",
        "What a plan keeps low: bound (likelihood), local_error (samples), global_error (samples; slower, better).",
    )
    solver: str | None = option(
        None, "Numbers of network calls, as 3,5,7,10,15,25, to fit a deterministic solver to the model for, instead."
    )
    guidance_scale: float = option(1.0, "With --solver: the guidance that the solvers are for.")
    prompts: str | None = option(
        None,
        "With --solver, for a model that is told a text: a file with a text on each line, instead of the captions of the "
        "data.",
    )
    features: str | None = option(
        None,
        "With --solver: a folder of an image classifier, or inception, to compare samples with images in; by default the "
        "network's own.",
    )
    push_to_hub: str | None = option(None, "A repository that gets the new folder too.")

    def solver_keywords(self):
        """What `SolverOptions` are made of."""
        if self.plan is not None:
            raise InputError("Give --plan or --solver: a fitted solver has timesteps of its own.")
        return {
            "steps": numbers("solver", self.solver),
            "num_images": self.num_images,
            "guidance_scale": self.guidance_scale,
            "features": self.features,
            "prompts": self.prompts,
        }

    def keywords(self):
        """What `calibration.calibrate` is given."""
        if self.guidance_scale != 1.0 or self.features is not None or self.prompts is not None:
            raise InputError(
                "--guidance_scale, --features and --prompts are of fitted solvers: give --solver 3,5,10 too."
            )
        return {
            "num_images": self.num_images,
            "plans": None if self.plan is None else numbers("plan", self.plan),
            "plan_cost": self.plan_cost,
            "push_to_hub": self.push_to_hub,
        }


@app.command()
@with_options
def calibrate(
    model: Model,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="The new pipeline folder.")] = None,
    *,
    data: offered(
        DataArguments,
        *SAMPLES,
        *CAPTIONS,
        split={"help": "The split that the model was trained on."},
        **OF_THE_TRAINING,
    ),
    calibration: CalibrationOptions,
    execution: offered(ExactExecutionOptions, seed=SEED_OF_CHOICE),
):
    """Measure a model, or fit solvers to it, and write a copy that samples better in few steps, its weights untouched."""
    if calibration.solver is None:
        keywords = calibration.keywords() | vars(execution)
        from ddpm_hf.calibration.run import calibrate

        calibrate(model, output_dir, data, **keywords)
    else:
        keywords = calibration.solver_keywords() | vars(execution)
        from ddpm_hf.calibration.solver_run import SolverOptions, calibrate_solvers

        calibrate_solvers(SolverOptions(model, data=data, **keywords), output_dir, calibration.push_to_hub)


@dataclass
class ImprovementOptions:
    """What `improve` aims at, and how long it may take."""

    title: ClassVar[str] = "Improvement"

    minutes: float = option(10, "How long it may take; more minutes fit more numbers of steps.")
    features: str | None = option(
        None,
        "Where images are compared: a folder of an image classifier, or inception; by default the network's own middle "
        "block.",
    )
    guidance_scale: float = option(1.0, "The guidance that the solvers are for; 1 is none.")


@app.command()
@with_options
def improve(
    model: Model,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir", help="The new pipeline folder; by default outputs/ and the model's name, _improved."
        ),
    ] = None,
    *,
    data: offered(
        DataArguments,
        *IMAGES,
        *CAPTIONS,
        dataset=AS_IN_TRAINING,
        split={"help": "The split of the training."},
        **OF_THE_TRAINING,
    ),
    improvement: ImprovementOptions,
    execution: offered(ExactExecutionOptions, seed=SEED_OF_CHOICE),
):
    """Make a model sample better in few steps, in some minutes, and show samples before and after."""
    from ddpm_hf.calibration.improve import ImproveOptions, improve

    improve(ImproveOptions(model, data, **vars(improvement), **vars(execution)), output_dir)


@dataclass
class ComparisonOptions:
    """What `compare` compares, and on how much."""

    title: ClassVar[str] = "Comparison"

    samplers: str | None = option(None, "Names with commas between: recipes of ours, samplers of diffusers.")
    quick: bool = option(
        False, "Less than a tenth of the work: 500 samples, steps 5,10,25, seed 0, no bits/dim, unless given."
    )
    steps: str | None = option(None, "Numbers of network calls, with commas between; 5,10,25,50 by default.")
    num_images: int | None = option(None, "Samples for each distance; 1000 by default.", min=2)
    seeds: str | None = option(
        None, "Seeds of the noise, with commas between; each gives a distance; 0,1,2 by default."
    )
    bound_images: int | None = option(None, "For bits/dim; as many as samples by default, 0 for none.")
    guidance_scale: float = option(1.0, "1 is no guidance.")

    def keywords(self):
        """What `evaluation.compare` is given."""
        samplers = self.samplers and self.samplers.split(",")
        for name in samplers or ():
            check_sampler_name(name)
        given = {
            "samplers": samplers,
            "steps": self.steps and numbers("steps", self.steps),
            "num_images": self.num_images,
            "seeds": self.seeds and numbers("seeds", self.seeds),
            "bound_images": self.bound_images,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return {"quick": self.quick, "guidance_scale": self.guidance_scale} | given


@app.command()
@with_options
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
    data: offered(DataArguments, *IMAGES, *CAPTIONS, dataset=AS_IN_TRAINING, split=UNSEEN, **OF_THE_TRAINING),
    comparison: ComparisonOptions,
    execution: offered(DrawingExecutionOptions, "batch_size", "device", *SPEED, batch_size={"default": 100}),
):
    """Sample a model by many samplers and set their quality beside steps and seconds: a table and pictures."""
    keywords = comparison.keywords() | {name: getattr(execution, name) for name in ("batch_size", "device", *SPEED)}
    from ddpm_hf.evaluation.compare import compare

    compare(model, output, features, data, **keywords)
