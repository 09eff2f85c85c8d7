"""The options of training an autoencoder: those of every training, and a few of its own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from ddpm_hf.data.arguments import POINT_CLOUD_NAMES, option
from ddpm_hf.data.file_kinds import is_of_arrays
from ddpm_hf.training.argument_conflicts import refuse_conflicts
from ddpm_hf.training.arguments import RunArguments

PRESETS = Path(__file__).parent / "autoencoder_presets"

CONFLICTS = (
    (
        lambda a: a.max_train_steps is None and a.num_epochs is None,
        "How long should it train? Give --max_train_steps or --num_epochs (neither was given).",
    ),
    (
        lambda a: (
            a.dataset in POINT_CLOUD_NAMES
            or a.point_columns is not None
            or (a.dataset or "").endswith(".csv")
            or is_of_arrays(a.dataset)
        ),
        "dataset={a.dataset!r} has points or arrays, and an autoencoder is for images of 8 bits: give a folder of "
        "images, or a data set with a column of them.",
    ),
    (
        lambda a: a.ema == "power",
        "ema='power' keeps averages of other lengths for diffusion models: leave it out for an autoencoder.",
    ),
    (
        lambda a: a.perceptual_network is None and a.perceptual_weight != AutoencoderArguments.perceptual_weight,
        "perceptual_weight={a.perceptual_weight} has no effect without --perceptual_network.",
    ),
    (
        lambda a: a.discriminator_weight and a.discriminator_start is None,
        "discriminator_weight={a.discriminator_weight} needs --discriminator_start, the updates of the warm-up: half of all "
        "serves well.",
    ),
    (
        lambda a: a.discriminator_start is not None and not a.discriminator_weight,
        "discriminator_start={a.discriminator_start} has no effect without --discriminator_weight; the paper has 0.5.",
    ),
)


@dataclass
class AutoencoderArguments(RunArguments):
    """The training of an autoencoder, in whose latents a diffusion model can then be trained (`train --vae`)."""

    presets: ClassVar[dict[str, Path]] = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}

    # It learns images alone, at no noise level.
    class_conditional: bool = field(default=False, init=False)
    label_column: str | None = field(default=None, init=False)
    condition_column: str | None = field(default=None, init=False)
    value_column: str | None = field(default=None, init=False)
    value_range: str | None = field(default=None, init=False)
    caption_column: str | None = field(default=None, init=False)
    caption_template: str | None = field(default=None, init=False)
    timestep_sampling: str = field(default="uniform", init=False)

    # Network
    autoencoder: str | None = option(
        None,
        "Network: small_f2, small_f4, medium_f2, medium_f4 or large_f8, whose latents have sides 2, 4 or 8 times smaller, or a "
        "config.json of an AutoencoderKL; by default chosen by the size of the images.",
    )
    latent_channels: int | None = option(None, "Channels of the latents; by default those of the network's config.")

    # Loss
    reconstruction: Literal["l1", "mse"] = option(
        "l1", "Error of the reconstruction: l1, as in the paper, or mse, for the best PSNR."
    )
    kl_weight: float = option(
        1e-4, "Weight of the KL divergence of the latents to a standard normal; the paper has 1e-6."
    )
    perceptual_network: str | None = option(
        None,
        "Folder or Hub id of a backbone of transformers (ResNet, ConvNeXt, DINOv2, ..), in whose features images and "
        "reconstructions are compared too; `python -m ddpm_hf.evaluation.feature_network` trains one on your images.",
    )
    perceptual_weight: float = option(1.0, "Weight of that perceptual distance; the paper has 1.")
    discriminator_weight: float = option(
        0.0,
        "Weight of a patch discriminator, against which the autoencoder is trained: 0 for none; the paper has 0.5, and adapts it to the other losses.",
    )
    discriminator_start: int | None = option(None, "Updates before the discriminator begins; half of all serves well.")

    # Optimization
    learning_rate: float = option(1e-3, "Peak learning rate; large networks take 1e-4.")
    ema_decay: float = option(0.999, "Largest decay of the averaged weights, which are what is saved.")

    # Result
    output_dir: str = option(
        "outputs/autoencoder", "Folder for the autoencoder; the same command again resumes the run in it."
    )
    sample_every: int = option(1000, "Updates between grids of reconstructions; 0 for one at the end only.")
    num_samples: int = option(16, "Images in a grid, each with its reconstruction.")
    eval_split: str | None = option(
        None,
        "Split of the images that are reconstructed and measured, not seen in training; by default test of the "
        "embedded Fashion-MNIST, else that of the training.",
    )
    num_eval_images: int = option(1000, "Images of it, drawn at random; fewer where it has fewer.")
    eval_features: str | None = option(
        None,
        "Network in which the reconstructions are compared with their images, by the Frechet distance: inception, dinov2, "
        "clip, or a folder of a classifier; it is tried before the training begins.",
    )

    def __post_init__(self):
        super().__post_init__()
        refuse_conflicts(self, CONFLICTS)
        if self.eval_split is None:
            self.eval_split = "test" if self.dataset is None else self.split
