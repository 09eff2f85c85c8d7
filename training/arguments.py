"""The options of a training run: what they mean, what is allowed, and where their values come from.

Flags win over `--config FILE.yaml`, which wins over `--preset NAME`; what none of them gives has the default below.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re
import types
import typing
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import yaml
from transformers import HfArgumentParser

from ddpm_hf.data.arguments import DataArguments, option
from ddpm_hf.data.for_network import data_for
from ddpm_hf.data.limits import check_workers
from ddpm_hf.errors import InputError, refuse_empty
from ddpm_hf.models.presets import MLP_PRESETS, NETWORK_PRESETS, UNET_PRESETS
from ddpm_hf.models.unet_2d import VARIANCE_HEADS
from ddpm_hf.schedulers.variances import COVARIANCE_HEADS
from ddpm_hf.training.objectives import OBJECTIVES
from ddpm_hf.training.timestep_samplers import TIMESTEP_SAMPLINGS

PRESETS = Path(__file__).parent / "presets"
CALLS_PER_SAMPLE = 50

# What a run may change when it is continued: none of these touches what is learned.
MAY_CHANGE = {
    *("output_dir", "log_every", "sample_every", "num_samples", "sample_steps", "checkpoint_every"),
    *("checkpoints_limit", "report_to", "dataloader_workers", "push_to_hub", "hub_model_id", "hub_private"),
    *("hub_license", "eval_split", "num_eval_images", "eval_every", "eval_steps"),
    # Where the images are; a checkpoint knows how many of them can be read.
    *("in_memory_limit_gb", "on_disk_limit_gb"),
    *("max_nonfinite_steps", "ema_snapshot_every", "gradient_checkpointing", "dry_run", "find_batch_size"),
}


@dataclass
class RunArguments(DataArguments):
    """What every kind of training has; each adds options, and its own defaults of `output_dir` and `timestep_sampling`.

    All counts are in optimizer updates, whatever the number of processes and of accumulation steps.
    """

    presets: ClassVar[dict[str, Path]] = {}

    # What training does with the data
    random_flip: bool = option(
        False, "Mirror half of the images; right for photographs, wrong for letters and digits."
    )
    random_crop: bool = option(
        False,
        "Cut the square out of the longer side at a random place, another each time; images are then decoded each time too.",
    )
    in_memory_limit_gb: float = option(
        8.0, "Keep the decoded data in memory, in each process, if it needs no more than this."
    )
    on_disk_limit_gb: float | None = option(
        None,
        "Decode the data once to the disk (the cache of datasets), if it needs no more than this; by default what is free; 0 "
        "decodes what memory does not hold each time.",
    )
    dataloader_workers: int | None = option(
        None, "Processes that decode images; by default one for each core where it pays, else none."
    )

    # Optimization
    optimizer: Literal["adamw", "adamw8bit"] = option(
        "adamw", "adamw8bit keeps its state in a quarter of the memory; it needs the extra [8bit]."
    )
    batch_size: int = option(64, "Images per process and accumulation step.")
    gradient_accumulation_steps: int = option(
        1, "Batches per update; doubles the batch where memory does not allow it."
    )
    max_train_steps: int | None = option(None, "Updates to train for.")
    num_epochs: float | None = option(None, "Passes over the data to train for, instead of max_train_steps.")
    learning_rate: float = option(2e-4, "Peak learning rate; small networks take 1e-3.")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = option(
        "constant_with_warmup", "The constant ones can be continued with more steps; the others end at zero."
    )
    lr_warmup_steps: int = option(0, "Updates over which the learning rate rises from zero.")
    adam_beta1: float = option(0.9, "Decay of the mean of the gradient.")
    adam_beta2: float = option(0.999, "Decay of its square; 0.99 for short runs.")
    adam_weight_decay: float = option(0.0, "Decoupled weight decay; DDPM has none.")
    adam_epsilon: float = option(1e-8, "Term in the denominator of Adam.")
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.")
    ema: Literal["exponential", "power"] = option(
        "exponential",
        "How the weights are averaged; of power, other lengths can be made after the training (`ddpm-hf ema`).",
    )
    ema_stds: str = option(
        "0.05,0.10",
        "With ema power: relative standard deviations of the averages to keep; the first is saved and sampled.",
    )
    ema_snapshot_every: int = option(
        1000, "With ema power: updates between snapshots of the averages, each as large as the network, for each std."
    )
    ema_decay: float = option(0.9999, "Largest decay of the averaged weights, which are what is saved and sampled.")
    ema_power: float = option(0.75, "The decay rises as 1 - (1 + step / ema_inv_gamma) ** -ema_power.")
    ema_inv_gamma: float = option(1.0, "See ema_power.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = option(
        None,
        "bf16 wherever the hardware computes in it; on a CPU without such instructions it is far slower than no. By default "
        "that of the configuration of `accelerate launch`, and no without one.",
    )
    channels_last: Literal["auto", "yes", "no"] = option(
        "auto", "Order weights and images in memory by channel last; auto where it was measured to be faster."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network by torch.compile; auto where it was measured to be faster."
    )
    seed: int = option(0, "Of the weights, the order of the data, the noise and the samples.")

    # Run folder and logs
    log_every: int = option(50, "Updates between lines of loss.csv.")
    checkpoint_every: int = option(1000, "Updates between checkpoints; 0 for one at the end only.")
    checkpoints_limit: int = option(2, "Checkpoints to keep.")
    max_nonfinite_steps: int = option(
        20,
        "Stop after so many updates in a row whose loss or gradient is not finite; each is skipped. fp16 has some when it "
        "begins.",
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "all"] = option("none", "Tracker of the curves.")

    def __post_init__(self):
        super().__post_init__()
        self.mixed_precision = self.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        hints = typing.get_type_hints(type(self))
        for name in option_names(type(self)):
            _check_type(name, getattr(self, name), hints[name])
        for allowed, holds, names in _RANGES:
            for name in names.split():
                value = getattr(self, name, None)  # not every kind of training has every option
                if value is not None and not holds(value):
                    raise InputError(f"{name}={value} is not allowed: it must be {allowed}.")
        check_workers(self.dataloader_workers)
        for name, limit in _LIMITS.items():
            value = getattr(self, name, None)
            if value is not None and value > limit:
                raise InputError(f"{name}={value} is not allowed: it must be at most {limit}.")
        self._check_schedule_and_tracker()
        if self.random_crop and not self.center_crop:
            raise InputError(
                "random_crop=True cuts the square out, and center_crop=False squeezes the whole image into it: choose one."
            )

    def _check_schedule_and_tracker(self):
        if (self.max_train_steps is None) == (self.num_epochs is None):
            given = "neither" if self.num_epochs is None else "both"
            preset = f", or a --preset, one of {', '.join(self.presets)}" if self.presets else ""
            raise InputError(
                f"How long should it train? Give --max_train_steps or --num_epochs ({given} was given){preset}."
            )
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise InputError(
                f"lr_warmup_steps={self.lr_warmup_steps} has no effect with lr_scheduler='constant': choose "
                "'constant_with_warmup', or 0 steps."
            )
        if self.learning_rate * self.adam_weight_decay > 1:
            raise InputError(
                f"adam_weight_decay={self.adam_weight_decay:g} is not allowed with learning_rate={self.learning_rate:g}: an update "
                "takes the share learning_rate * adam_weight_decay from each weight, which must be at most 1."
            )
        for tracker in {self.report_to} - {"none", "all"}:
            if importlib.util.find_spec(tracker) is None:
                raise InputError(f"report_to={tracker!r} needs the package: pip install {tracker}")
        if self.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise InputError("optimizer='adamw8bit' needs bitsandbytes: pip install 'ddpm_hf[8bit]'.")
        if self.ema == "power":
            read_stds(self.ema_stds)


@dataclass
class TrainingArguments(RunArguments):
    """The training of a diffusion model."""

    presets: ClassVar[dict[str, Path]] = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}

    # What training does with the data
    label_dropout: float = option(
        0.1, "Share of labels replaced by the null label; classifier-free guidance needs some, 0.1 to 0.2 serve well."
    )

    # Data that is read as it comes
    streaming: bool = option(
        False,
        "Read the data while training, from the Hub, or from a folder of parquet or tar (WebDataset) shards, and keep none of "
        "it; needs max_train_steps, for a stream does not tell how many images it has.",
    )
    shuffle_buffer: int = option(
        4096, "With streaming: images that each process shuffles among; it keeps twice as many, undecoded, in memory."
    )

    # Network
    unet: str = option(
        "fashion_mnist",
        f"Network, one of {', '.join(UNET_PRESETS)} for images, {', '.join(MLP_PRESETS)} for points; channels follow the "
        "data.",
    )
    init_from: str | None = option(
        None,
        "Pipeline folder or Hub id whose network and weights are the start, instead of `unet`; one without classes gets "
        "them with class_conditional.",
    )
    variance_head: Literal[VARIANCE_HEADS] | None = option(
        None,
        "Predict the variance of each pixel too: learned_range, taught by the bound; npr, sn, ocm: the covariance of x0, "
        "for sampling in few steps at any eta; these need a trained network, and npr is the one to begin with.",
    )
    train_head_only: bool = option(
        False, "Teach the variance head of `init_from`, new or not, and leave all else of that network as it is."
    )

    # Diffusion process: the options of the scheduler
    num_train_timesteps: int = option(1000, "Steps from data to noise.")
    beta_schedule: Literal["linear", "scaled_linear", "quadratic", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "How the noise grows; squaredcos_cap_v2 (cosine) keeps more of small images than linear."
    )
    beta_start: float = option(1e-4, "First beta of the schedules that have one.")
    beta_end: float = option(0.02, "Last beta of the schedules that have one.")
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = option("epsilon", "What the network predicts.")
    variance_type: Literal[("fixed_small", "fixed_large", *VARIANCE_HEADS)] | None = option(
        None, "Variance when sampling; by default fixed_small, or that of the head."
    )
    rescale_betas_zero_snr: bool = option(False, "End in pure noise; use with v_prediction.")

    # Optimization
    objective: Literal[OBJECTIVES] | None = option(
        None,
        "simple: mean square error, for the best images; hybrid: the same, and the variance head learns from the "
        "variational bound; vlb: the bound itself, in bits per dimension, for the best likelihood; npr, sn, ocm: those "
        "heads alone. By default that of the head: simple without one, hybrid for learned_range.",
    )
    vlb_weight: float = option(
        0.001, "Weight of the bound (bits per dimension) in objective hybrid; the paper's value."
    )
    min_snr_gamma: float | None = option(
        None, "Weight the mean square error by Min-SNR-gamma, which converges faster; 5 serves well."
    )
    timestep_sampling: Literal[TIMESTEP_SAMPLINGS] | None = option(
        None,
        "uniform; low_discrepancy, evenly spread over each batch, for a less noisy loss; importance, in proportion to "
        "the size of the loss. By default importance for objective vlb, else uniform.",
    )

    # Memory and plans
    gradient_checkpointing: bool = option(
        False, "Compute activations anew when they are needed, instead of keeping them: less memory, more time."
    )
    find_batch_size: bool = option(
        False,
        "Halve batch_size until a step fits into memory, and accumulate so many more that an update stays the same.",
    )
    dry_run: bool = option(
        False, "Say what the run would take, train a few steps to know its speed, and write nothing."
    )

    # Likelihood of images that are not trained on
    eval_every: int = option(0, "Updates between measurements of bits per dimension on held-out images; 0 for none.")
    eval_split: str | None = option(
        None,
        "Split that holds them; by default test of the embedded Fashion-MNIST. A part of one works too: "
        "--split train[:95%%] --eval_split train[95%%:].",
    )
    num_eval_images: int = option(
        256, "Images of it, drawn at random (with --streaming the first ones); fewer where it has fewer."
    )
    eval_steps: int | None = option(
        None,
        f"Network calls per image, by default {CALLS_PER_SAMPLE}, or num_train_timesteps if that is less; fewer than training's "
        "steps give a looser bound.",
    )

    # Run folder, logs and samples
    output_dir: str = option("outputs/ddpm", "Pipeline folder to write; the same command again resumes the run in it.")
    sample_every: int = option(1000, "Updates between grids of samples; 0 for one at the end only.")
    num_samples: int = option(64, "Images in a grid.")
    sample_steps: int | None = option(
        None, f"Network calls per grid; by default {CALLS_PER_SAMPLE}, or num_train_timesteps if that is less."
    )

    # Sharing
    push_to_hub: bool = option(
        False, "Upload the model with its card, at every save in the background, and the result when done."
    )
    hub_model_id: str | None = option(None, "Repository to upload to; by default named as the output folder.")
    hub_private: bool = option(False, "Create that repository as private.")
    hub_license: str | None = option(None, "Licence of the model for its card, as the Hub spells it: apache-2.0.")

    def __post_init__(self):
        super().__post_init__()
        _check_choice("unet", self.unet, NETWORK_PRESETS)
        self.objective = self.objective or _objective_of_head(self.variance_head)
        self._check_steps()
        self._check_combinations()
        self.variance_type = self.variance_type or self.variance_head or "fixed_small"
        self.timestep_sampling = self.timestep_sampling or ("importance" if self.objective == "vlb" else "uniform")

    def _check_steps(self):
        for name in ("sample_steps", "eval_steps"):
            if getattr(self, name) is None:
                setattr(self, name, min(CALLS_PER_SAMPLE, self.num_train_timesteps))
            if getattr(self, name) > self.num_train_timesteps:
                raise InputError(
                    f"{name}={getattr(self, name)} must be at most num_train_timesteps={self.num_train_timesteps}."
                )

    def _check_combinations(self):
        if self.beta_start >= self.beta_end:
            raise InputError(f"beta_start={self.beta_start} must be smaller than beta_end={self.beta_end}.")
        if self.variance_type not in (None, self.variance_head) and (
            self.variance_head is not None or self.variance_type in VARIANCE_HEADS
        ):
            raise InputError(
                f"variance_type={self.variance_type!r} does not go with variance_head={self.variance_head!r}: what a "
                "head predicts is used as what it is; leave variance_type out and it follows the head."
            )
        self._check_objective()
        if self.train_head_only:
            self._check_head_only()
        self._check_evaluation()
        data_for(NETWORK_PRESETS[self.unet]).check_training(self)
        self._check_streaming()
        if self.hub_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", self.hub_license):
            raise InputError(
                f"hub_license={self.hub_license!r} is not as the Hub spells a licence, in small letters, digits, '-' and '.': "
                "apache-2.0, mit, cc-by-4.0."
            )
        if self.dataset is None and (self.resolution or 0) > 32:
            raise InputError(
                f"resolution={self.resolution} would blow up the embedded Fashion-MNIST, which has 28x28 pixels: name "
                "your data with --dataset."
            )

    def _check_streaming(self):
        if not self.streaming:
            if self.shuffle_buffer != TrainingArguments.shuffle_buffer:
                raise InputError(
                    f"shuffle_buffer={self.shuffle_buffer} has no effect without streaming: all of the data is shuffled."
                )
            return
        if self.num_epochs is not None:
            raise InputError(
                f"num_epochs={self.num_epochs:g} cannot be counted with streaming, which does not know how many images there "
                "are: give --max_train_steps."
            )
        for name in ("in_memory_limit_gb", "on_disk_limit_gb"):
            if getattr(self, name) != getattr(TrainingArguments, name):
                raise InputError(
                    f"{name}={getattr(self, name):g} has no effect with streaming, which keeps no images."
                )

    def _check_evaluation(self):
        if self.eval_split is None and self.dataset is None:
            self.eval_split = "test"
        if self.eval_every and self.eval_split is None:
            raise InputError(
                f"eval_every={self.eval_every} needs images that are not trained on: name their split with --eval_split, or "
                "keep some back with --split 'train[:95%]' --eval_split 'train[95%:]'."
            )
        if self.eval_every and self.eval_split == self.split:
            raise InputError(
                f"eval_split={self.eval_split!r} is trained on, so it tells nothing of other images: give another, or keep "
                "some back with --split 'train[:95%]' --eval_split 'train[95%:]'."
            )

    def _check_objective(self):
        if self.objective == "hybrid" and self.variance_head is None:
            raise InputError(
                "objective='hybrid' is for a variance head, which alone learns from its bound: add --variance_head "
                "learned_range, or choose 'simple' or 'vlb'."
            )
        if self.objective in COVARIANCE_HEADS and self.objective != self.variance_head:
            raise InputError(
                f"objective={self.objective!r} teaches the head of that name, not variance_head="
                f"{self.variance_head!r}: give --variance_head {self.objective}."
            )
        taught = ("hybrid", "vlb") if self.variance_head == "learned_range" else (self.variance_head,)
        if self.variance_head is not None and self.objective not in taught:
            raise InputError(
                f"objective={self.objective!r} would leave variance_head={self.variance_head!r} untrained: choose "
                f"--objective {taught[0]}, or leave it out."
            )
        if self.objective in COVARIANCE_HEADS and not self.train_head_only:
            raise InputError(
                f"variance_head={self.variance_head!r} learns the errors of a prediction that stays as it is: add "
                "--train_head_only and --init_from MODEL, or train a network without a head first."
            )
        if self.objective == "ocm" and self.compile == "yes":
            raise InputError(
                "compile='yes' does not go with objective='ocm', whose gradient is taken through the network twice: leave it "
                "out."
            )
        if self.objective != "hybrid" and self.vlb_weight != TrainingArguments.vlb_weight:
            raise InputError(f"vlb_weight={self.vlb_weight} has no effect with objective={self.objective!r}.")
        if self.objective not in ("simple", "hybrid") and self.min_snr_gamma is not None:
            raise InputError(
                f"min_snr_gamma={self.min_snr_gamma} weights the mean square error of the prediction, which objective="
                f"{self.objective!r} does not have: leave it out."
            )
        if self.objective in ("hybrid", "vlb") and self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise InputError(
                f"objective={self.objective!r} needs x0, which does not follow from epsilon where "
                "rescale_betas_zero_snr leaves no signal: choose --prediction_type v_prediction."
            )

    def _check_head_only(self):
        if self.init_from is None or self.variance_head is None:
            raise InputError(
                "train_head_only needs a trained network and a head for it: give --init_from MODEL and --variance_head, "
                f"one of {', '.join(VARIANCE_HEADS)}."
            )
        if self.adam_weight_decay:
            raise InputError(
                f"adam_weight_decay={self.adam_weight_decay} would also shrink the trained weights beside the head, which "
                "train_head_only is to leave alone: leave it at 0."
            )


def read_stds(text):
    """`ema_stds` as numbers."""
    try:
        stds = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"ema_stds={text!r} must be numbers with commas between, as 0.05,0.10.") from None
    for std in stds:
        if not 0.001 <= std <= 0.28:
            raise InputError(
                f"ema_stds={text!r} has {std:g}: each must be from 0.001 to 0.28 (0.289 is the mean over all of the training)."
            )
    if len({f"{std:.3f}" for std in stds}) < len(stds):
        raise InputError(f"ema_stds={text!r} has two that agree to 0.001: give different ones.")
    return stds


def _objective_of_head(variance_head):
    return {None: "simple", "learned_range": "hybrid"}.get(variance_head, variance_head)


_RANGES = (
    (
        "at least 1",
        lambda value: value >= 1,
        "resolution num_points shuffle_buffer num_train_timesteps batch_size gradient_accumulation_steps max_train_steps "
        "log_every num_samples sample_steps checkpoints_limit num_eval_images eval_steps max_nonfinite_steps "
        "ema_snapshot_every width layers_per_block",
    ),
    (
        "at least 0",
        lambda value: value >= 0,
        "in_memory_limit_gb on_disk_limit_gb dataloader_workers lr_warmup_steps adam_weight_decay seed sample_every "
        "checkpoint_every eval_every",
    ),
    (
        "greater than 0",
        lambda value: value > 0,
        "num_epochs max_grad_norm ema_power ema_inv_gamma vlb_weight min_snr_gamma",
    ),
    # Adam moves each weight by about so much in an update.
    ("greater than 0 and at most 1", lambda value: 0 < value <= 1, "learning_rate"),
    # What float32 takes for 0 divides by it.
    ("from 1e-37 to 1", lambda value: 1e-37 <= value <= 1, "adam_epsilon"),
    ("in [0, 1]", lambda value: 0 <= value <= 1, "label_dropout"),
    ("in [0, 1)", lambda value: 0 <= value < 1, "adam_beta1 adam_beta2 ema_decay dropout"),
    ("between 0 and 1", lambda value: 0 < value < 1, "beta_start beta_end"),
)

# What is larger fills memory or time before it trains anything, and is a slip of the keyboard.
_LIMITS = {
    "seed": 2**32 - 1,  # what numpy takes
    "num_train_timesteps": 100_000,
    "num_samples": 10_000,
    "max_train_steps": 10**9,
    "num_epochs": 10**6,
}


def _check_type(name, value, hint):
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_optional(hint) else (hint,)
    if value is None and type(None) in members:
        return
    hint = members[0]
    if typing.get_origin(hint) is Literal:
        _check_choice(name, value, typing.get_args(hint))
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name}={value!r} must be a number.")
        if not _is_finite(value):
            raise InputError(f"{name}={value!r} is not allowed: it must be finite.")
    elif type(value) is not hint:
        raise InputError(f"{name}={value!r} must be of type {hint.__name__}.")


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_optional(hint):
    return typing.get_origin(hint) is typing.Union


def _check_choice(name, value, choices):
    if value not in choices:
        raise InputError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}.")


def preset_names():
    return list(TrainingArguments.presets)


def option_names(kind):
    """The options of a kind of training; what has no choice there is a field, but no option."""
    return [f.name for f in dataclasses.fields(kind) if f.init]


def parse_arguments(argv=None, kind=TrainingArguments, prog="train"):
    """Options from flags, `--config` and `--preset`; a mistake ends the program with one line that names it."""
    preset_usage = "[--preset NAME] " if kind.presets else ""
    usage = f"{prog} {preset_usage}[--config FILE.yaml] [--OPTION VALUE ...]"
    parser = HfArgumentParser(kind, prog=prog, usage=usage, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of options.")
    if kind.presets:
        parser.add_argument("--preset", help=f"Options of a known run, one of {', '.join(kind.presets)}.")
    try:
        flags = _given(parser, kind, argv)
        layers = [flags]
        if (config := flags.pop("config", None)) is not None:
            refuse_empty("config", config)
            layers.insert(0, _given(parser, kind, _flags_of(_read_yaml(Path(config)), kind, config)))
        if (preset := flags.pop("preset", None)) is not None:
            _check_choice("preset", preset, kind.presets)
            path = kind.presets[preset]
            layers.insert(0, _given(parser, kind, _flags_of(_read_yaml(path), kind, path)))
        return kind(**_merge(layers))
    except InputError as error:
        parser.error(str(error))


def _given(parser, kind, argv):
    """The options that `argv` gives, without those that have their defaults."""
    absent = object()
    names = [*option_names(kind), "config", "preset"]
    parsed = parser.parse_args(argv, Namespace(**dict.fromkeys(names, absent)))
    return {name: value for name, value in vars(parsed).items() if value is not absent}


def _merge(layers):
    """Later layers win; the length of the run is one choice with two spellings."""
    options = {}
    for layer in layers:
        if layer.keys() & {"max_train_steps", "num_epochs"}:
            options.pop("max_train_steps", None)
            options.pop("num_epochs", None)
        options |= layer
    return options


class _AsWritten(yaml.BaseLoader):
    """Leaves every value as it is written (`2e-4`, `no`), so that it means what it means as a flag; what is null is None."""


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|)$"), ["~", "n", ""])
_AsWritten.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def _read_yaml(path):
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_AsWritten)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Cannot read the options in {path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold lines `option: value`.")
    return values


def _flags_of(values, kind, path):
    """YAML options as the flags they stand for. `environment` is what a run adds to its own `training_args.yaml`."""
    values = {name: value for name, value in values.items() if name != "environment"}
    for name, value in values.items():
        if name not in option_names(kind):
            nearest = difflib.get_close_matches(str(name), option_names(kind), n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help for the options."
            raise InputError(f"Unknown option {name!r} in {path}: {hint}")
        if not isinstance(value, str | None):
            raise InputError(f"Option {name!r} in {path} must have a single value, not {value}.")
    return [f"--{name}={value}" for name, value in values.items() if value is not None]
