"""The options of a training run, as dataclasses; the conflicts between them are in `argument_conflicts`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ddpm_hf.data.arguments import DataArguments, option
from ddpm_hf.errors import InputError
from ddpm_hf.models.presets import MLP_PRESETS, TEXT_PRESETS, UNET_PRESETS, check_network_name
from ddpm_hf.schedulers.choices import VARIANCE_HEADS
from ddpm_hf.sizes import parsed_size, parsed_sizes
from ddpm_hf.training.argument_checks import check_each, read_stds
from ddpm_hf.training.argument_conflicts import (
    RUN_CONFLICTS,
    TRAINING_CONFLICTS,
    refuse_conflicts,
)
from ddpm_hf.training.choices import OBJECTIVES, PROCESSES, TIMESTEP_SAMPLINGS

PRESETS = Path(__file__).parent / "presets"
CALLS_PER_SAMPLE = 50

# The values of options that were left out, where the network is named; else they are chosen with the network.
WITH_NAMED_NETWORK = {
    "batch_size": 64,
    "learning_rate": 2e-4,
    "lr_warmup_steps": 0,
    "adam_beta2": 0.999,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "num_samples": 64,
}
# The values of options that were left out, where the length is given; else they follow from the time.
WITH_GIVEN_LENGTH = {"sample_every": 1000, "checkpoint_every": 1000}

# Options that may change when a run is continued, because they do not affect the learned weights.
MAY_CHANGE = {
    *("output_dir", "log_every", "sample_every", "num_samples", "sample_steps", "checkpoint_every"),
    *("checkpoints_limit", "report_to", "dataloader_workers", "push_to_hub", "hub_model_id", "hub_private"),
    *("hub_license", "eval_split", "num_eval_images", "eval_every", "eval_steps"),
    # These choose where the images are kept; a checkpoint records how many can be read.
    *("in_memory_limit_gb", "on_disk_limit_gb"),
    *("max_nonfinite_steps", "ema_snapshot_every", "gradient_checkpointing", "dry_run", "find_batch_size"),
    *("save_images_epochs", "logging_dir", "cache_dir", "minutes"),
}


@dataclass
class RunArguments(DataArguments):
    """The options of every kind of training; each kind has its own `output_dir` and `timestep_sampling`.

    All counts are in optimizer updates, whatever the number of processes and of accumulation steps.
    """

    presets: ClassVar[dict[str, Path]] = {}

    # What training does with the data
    random_flip: bool = option(
        False, "Mirror half of the images; right for photographs, wrong for letters and digits."
    )
    random_crop: bool = option(
        False,
        "Crop the square at a random place of the longer side, a new one each time; images are then decoded each time.",
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
    adam_beta2: float = option(0.999, "Decay of the mean of the squared gradient; 0.99 for short runs.")
    adam_weight_decay: float = option(0.0, "Decoupled weight decay; DDPM has none.")
    adam_epsilon: float = option(1e-8, "Term in the denominator of Adam.")
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.")
    ema: Literal["exponential", "power"] = option(
        "exponential",
        "How the weights are averaged; with power, averages of other lengths can be made afterwards (`ddpm-hf ema`).",
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
    mixed_precision: Literal["auto", "no", "fp32", "bf16", "fp16"] | None = option(
        None,
        "auto measures whether bf16 trains this network faster here than no, which is fp32. By default that of the "
        "configuration of `accelerate launch`, and auto without one.",
    )
    channels_last: Literal["auto", "yes", "no"] = option(
        "auto", "Order weights and images in memory by channel last; auto where it was measured to be faster."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network by torch.compile; auto where it was measured to be faster."
    )
    seed: int = option(0, "Seed for weights, data order, noise and samples.")

    # Run folder and logs
    log_every: int = option(50, "Updates between lines of loss.csv.")
    checkpoint_every: int = option(1000, "Updates between checkpoints; 0 for one at the end only.")
    checkpoints_limit: int = option(2, "Checkpoints to keep.")
    max_nonfinite_steps: int = option(
        20,
        "Stop after so many updates in a row whose loss or gradient is not finite; each is skipped. fp16 skips some at "
        "first.",
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "all"] = option("none", "Tracker of the curves.")
    logging_dir: str = option(
        "logs", "Folder of the tracker's files, within output_dir unless it begins with a slash."
    )
    cache_dir: str | None = option(
        None, "Folder for data of the Hub and for decoded images; by default that of datasets (HF_DATASETS_CACHE)."
    )

    def __post_init__(self):
        super().__post_init__()
        given = self.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "auto")
        self.mixed_precision = "no" if given == "fp32" else given  # its name in accelerate
        check_each(self)
        refuse_conflicts(self, RUN_CONFLICTS)
        if self.ema == "power":
            read_stds(self.ema_stds)


@dataclass
class TrainingArguments(RunArguments):
    """The training of a diffusion model."""

    presets: ClassVar[dict[str, Path]] = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}

    # What training does with the data
    aspect_buckets: str | None = option(
        None,
        "Train each picture in the nearest of several shapes, instead of cropping all to one: HEIGHTxWIDTH with commas between, "
        "as 24x40,32,40x24; or one number, as 32, for shapes from 2:1 to 1:2 of about 32*32 pixels. The model draws all of them.",
    )
    label_dropout: float = option(
        0.1, "Share of labels replaced by the null label; classifier-free guidance needs some, 0.1 to 0.2 serve well."
    )

    value_dropout: float = option(
        0.0,
        "Share of the numbers of value_column that are dropped, for guidance by them in sampling; 0.1 serves well.",
    )

    # How long, and how fast
    batch_size: int | None = option(
        None, "Images per process and accumulation step; by default 64, or chosen with the network."
    )
    max_train_steps: int | None = option(None, "Updates to train for.")
    num_epochs: float | None = option(None, "Passes over the data to train for, instead of max_train_steps.")
    minutes: float | None = option(
        None,
        "Time to train for, instead of max_train_steps: the speed is measured when the run begins, and the number of "
        "updates that follows from it stays; by default 30, for points without a network named 2.",
    )
    learning_rate: float | None = option(
        None, "Peak learning rate; by default 2e-4, or chosen with the network. Small networks take 1e-3."
    )
    lr_warmup_steps: int | None = option(
        None,
        "Updates over which the learning rate rises from zero; by default none, or with a chosen network 100 or a tenth of all, whichever is less.",
    )
    adam_beta2: float | None = option(
        None,
        "Decay of the mean of the squared gradient; by default 0.999, or chosen with the network; 0.99 for short runs.",
    )
    checkpoint_every: int | None = option(
        None,
        "Updates between checkpoints; 0 for one at the end only. By default 1000, or a tenth of a run whose length is a "
        "time.",
    )

    # Data that is read as it comes
    streaming: bool = option(
        False,
        "Read the data while training, from the Hub, or from a folder of parquet or tar (WebDataset) shards, and keep none of "
        "it; takes no num_epochs, for a stream does not say how many images it has.",
    )
    shuffle_buffer: int = option(
        4096, "With streaming: images that each process shuffles among; it keeps twice as many, undecoded, in memory."
    )

    # Captions
    text_encoder: str | None = option(
        None,
        "Folder or Hub id of a text encoder with its tokenizer, of CLIP or T5, which stays as it is; by default a small one "
        "is trained along, with a tokenizer learned from the captions.",
    )

    # Network
    unet: str | None = option(
        None,
        f"Network, one of {', '.join(UNET_PRESETS)} for images, {', '.join(TEXT_PRESETS)} with captions, "
        f"{', '.join(MLP_PRESETS)} for points, or a config.json as "
        "diffusers writes it; channels and classes follow the data. By default chosen by the size, channels and number of "
        "the images, with settings that suit it.",
    )
    init_from: str | None = option(
        None,
        "Pipeline folder or Hub id whose network and weights are the start, instead of `unet`; one without classes gets "
        "them with class_conditional.",
    )
    vae: str | None = option(
        None,
        "Folder or Hub id of an autoencoder (`train_autoencoder`, or any AutoencoderKL), in whose latents the model is trained; the "
        "images are encoded once, and kept in the cache of datasets.",
    )
    variance_head: Literal[VARIANCE_HEADS] | None = option(
        None,
        "Predict the variance of each pixel too: learned_range, taught by the bound; npr, sn, ocm: the covariance of x0, "
        "for sampling in few steps at any eta; these need a trained network, and npr is the one to begin with.",
    )
    train_head_only: bool = option(
        False, "Teach the variance head of `init_from`, new or not, and leave all else of that network as it is."
    )

    # Condition images
    low_resolution: str | None = option(
        None,
        "Side, or HEIGHTxWIDTH, of the images in low resolution, from which the model learns to make those of `resolution`: it upscales. They "
        "are made from the data while training.",
    )
    max_augmentation_level: float | None = option(
        None,
        "Largest standard deviation of the noise on condition images, in (0, 1]: it is drawn at random for each image, and "
        "told to the network (Ho et al. 2021). For the upscalers of a cascade; 0.5 serves well.",
    )
    condition_dropout: float = option(
        0.0, "Share of condition images that are dropped, for guidance by them in sampling; 0.1 serves well."
    )

    # Diffusion process: the options of the scheduler
    process: Literal[PROCESSES] = option(
        "ddpm",
        "ddpm: a chain of steps; or continuous time: vp, sub_vp, ve (Song et al. 2021), edm (Karras et al. 2022), which have "
        "no betas.",
    )
    likelihood_weighting: bool = option(
        False, "Of vp, sub_vp and ve: weight by g^2, for the likelihood, instead of sigma^2, for samples."
    )
    discrete_levels: bool = option(
        False, "Of vp, sub_vp and ve: train at num_train_timesteps noise levels alone, as NCSN and DDPM are."
    )
    sigma_max: float | None = option(
        None,
        "Of ve and edm: the largest noise; by default 50 and 80. Of ve, the largest distance of two images serves well.",
    )
    sigma_data: float | None = option(
        None, "Of edm: the standard deviation of the data; by default 0.5 for images, and 1 for points."
    )
    num_train_timesteps: int = option(1000, "Steps from data to noise.")
    beta_schedule: Literal["linear", "scaled_linear", "quadratic", "squaredcos_cap_v2", "sigmoid"] | None = option(
        None,
        "How the noise grows; squaredcos_cap_v2 (cosine) keeps more of small images than linear. By default linear, or "
        "squaredcos_cap_v2 with a chosen network.",
    )
    beta_start: float = option(1e-4, "First beta of the schedules that have one.")
    beta_end: float = option(0.02, "Last beta of the schedules that have one.")
    prediction_type: Literal["epsilon", "sample", "v_prediction"] | None = option(
        None, "What the network predicts; by default epsilon, or v_prediction with a chosen network."
    )
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
        False, "Recompute activations when they are needed, instead of keeping them: less memory, more time."
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
        "--split train[:95%] --eval_split train[95%:].",
    )
    num_eval_images: int = option(
        256, "Images of it, drawn at random (with --streaming the first ones); fewer where it has fewer."
    )
    eval_steps: int | None = option(
        None,
        f"Network calls per image, by default {CALLS_PER_SAMPLE}, or num_train_timesteps if that is less; fewer than training's "
        "steps give a looser bound.",
    )

    eval_features: str | None = option(
        None,
        "Network in which as many samples are compared with the held-out images, by their Frechet distance: inception, "
        "dinov2, clip, or a folder of a classifier; it is tried before the training begins.",
    )

    # Run folder, logs and samples
    output_dir: str | None = option(
        None,
        "Pipeline folder to write; the same command again resumes the run in it. By default outputs/ddpm, or "
        "outputs/NAME with the name of the data where the network is chosen.",
    )
    sample_every: int | None = option(
        None,
        "Updates between grids of samples; 0 for one at the end only. By default 1000, or a fifth of a run whose length "
        "is a time.",
    )
    save_images_epochs: float | None = option(None, "Passes over the data between grids, instead of sample_every.")
    sample_neighbours: bool = option(
        False,
        "With each grid, draw neighbours/step-N.png too: the samples that are nearest to training images, in pixels, "
        "beside them.",
    )
    num_samples: int | None = option(None, "Images in a grid; by default 64, or chosen with the network.")
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
        self.low_resolution = parsed_size("low_resolution", self.low_resolution)
        self.aspect_buckets = parsed_sizes("aspect_buckets", self.aspect_buckets)
        is_named = self.unet is not None or self.init_from is not None
        self._fill(WITH_NAMED_NETWORK if is_named else {})
        self._fill({} if self.has_no_length or self.minutes is not None else self.intervals_to_fill())
        super().__post_init__()
        if self.unet is not None:
            check_network_name(self.unet)
        self._follow(is_named)
        refuse_conflicts(self, TRAINING_CONFLICTS)
        # Importing this takes seconds, in which no mistake above should have to wait.
        from ddpm_hf.data.for_network import data_for, data_of
        from ddpm_hf.models.named_networks import is_told_a_text, network_config

        if self.unet is not None and not self.has_captions and is_told_a_text(self.unet):
            raise InputError(
                f"unet={self.unet!r} is told a text: give --caption_column or --caption_template, or another network."
            )
        if self.init_from is None:
            (data_of(self) if self.unet is None else data_for(network_config(self.unet))).check_training(self)

    @property
    def has_no_length(self):
        """Whether nothing says how long to train."""
        return self.max_train_steps is None and self.num_epochs is None and self.minutes is None

    def intervals_to_fill(self):
        """The defaults of the intervals; those of samples may be given in passes over the data."""
        left_out = {} if self.save_images_epochs is None else {"sample_every"}
        return {name: value for name, value in WITH_GIVEN_LENGTH.items() if name not in left_out}

    def _fill(self, values):
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _follow(self, is_named):
        """Gives the options that were left out what follows from the others."""
        if self.output_dir is None:
            of_data = self.dataset is not None and not is_named
            self.output_dir = f"outputs/{Path(self.dataset).absolute().name if of_data else 'ddpm'}"
        head, calls = self.variance_head, min(CALLS_PER_SAMPLE, self.num_train_timesteps)
        self.sample_steps = calls if self.sample_steps is None else self.sample_steps
        self.eval_steps = calls if self.eval_steps is None else self.eval_steps
        self.objective = self.objective or {None: "simple", "learned_range": "hybrid"}.get(head, head)
        self.variance_type = self.variance_type or head or "fixed_small"
        self.timestep_sampling = self.timestep_sampling or ("importance" if self.objective == "vlb" else "uniform")
        if self.eval_split is None and self.dataset is None:
            self.eval_split = "test"
