"""Trains a denoising diffusion model on any `datasets` data set.

    accelerate launch training/train.py --preset fashion_mnist
    accelerate launch -m ddpm_hf.training.train --dataset my_images --unet images_64 --num_epochs 100

The result is a pipeline folder with the averaged weights. The same command again continues an interrupted run.
"""

import logging
import math
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, set_seed

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.training import sharing
from ddpm_hf.training.arguments import parse_arguments
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.data import ImagesOnDemand, decoding_workers, load_images, open_images
from ddpm_hf.training.errors import InputError
from ddpm_hf.training.loss_curve import draw_loss_curve
from ddpm_hf.training.run_folder import check_run_folder, write_arguments
from ddpm_hf.training.trainer import Trainer

logger = logging.getLogger(__name__)

# The options of the scheduler that say what the network is trained for.
PROCESS = (
    *("num_train_timesteps", "beta_schedule", "beta_start", "beta_end"),
    *("prediction_type", "rescale_betas_zero_snr"),
)


def main(argv=None):
    args = parse_arguments(argv)
    try:
        train(args)
    except InputError as error:
        sys.exit(f"train: error: {error}")


def train(args):
    """Trains, or continues, the run that `args` (`TrainingArguments`) describes.

    Returns:
        `Path`: the output folder, which `DiffusionPipeline.from_pretrained` loads.

    Raises:
        InputError: if the run cannot be made as described; before anything is written or takes long.
    """
    folder = Path(args.output_dir)
    accelerator = make_accelerator(args)
    check_run_folder(args, accelerator.num_processes)
    with accelerator.main_process_first():  # one process downloads
        source = open_images(args, default_resolution(args))
    if args.batch_size > len(source):
        raise InputError(f"batch_size={args.batch_size} is larger than the data set, which has {len(source)} images.")
    repository = sharing.prepare_repository(args) if args.push_to_hub and accelerator.is_main_process else None
    total_steps = args.max_train_steps or count_steps(args, len(source), accelerator.num_processes)
    done = max(list_checkpoints(folder), default=0)
    if done > total_steps:
        raise InputError(f"output_dir={args.output_dir!r} is at step {done}, past the {total_steps} asked for.")
    if done == total_steps:  # the last checkpoint is written after all else
        accelerator.print(f"The run in {folder} is finished at step {done}; give more steps to continue it.")
    else:
        run(args, accelerator, source, total_steps)
    if repository is not None:
        accelerator.print(f"Uploaded to {sharing.upload(folder, repository)}")
    return folder


def make_accelerator(args):
    if args.mixed_precision == "bf16" and _computes_bf16_in_software():
        logger.warning(
            "This CPU has no bf16 instructions: mixed_precision='bf16' will be many times slower than 'no'."
        )
    return Accelerator(
        mixed_precision=args.mixed_precision,
        # The walk through the data has no ends at which an accumulation would have to be cut short.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir) / "logs")),
    )


def _computes_bf16_in_software():
    return not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"


def default_resolution(args):
    return UNET_PRESETS[args.unet]["sample_size"]


def count_steps(args, num_images, num_processes):
    """Updates in `num_epochs` passes over the data."""
    images_per_update = args.batch_size * args.gradient_accumulation_steps * num_processes
    return math.ceil(args.num_epochs * num_images / images_per_update)


def run(args, accelerator, source, total_steps):
    set_seed(args.seed)  # the same weights in every process
    unet, scheduler = make_unet(args, source), make_scheduler(args)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_arguments(args, accelerator.num_processes)
    images = load_images(source, args.in_memory_limit_gb, args.dataloader_workers)
    workers = decoding_workers(args.dataloader_workers, source.pixels) if isinstance(images, ImagesOnDemand) else 0
    if args.report_to != "none":
        accelerator.init_trackers("ddpm_hf", config={k: str(v) for k, v in vars(args).items()})
    trainer = Trainer(args, accelerator, unet, scheduler, images, total_steps, source.num_classes, workers)
    accelerator.print(
        f"{unet.num_parameters() / 1e6:.1f}M parameters, {len(images)} images of {source.channels}x"
        f"{source.resolution}x{source.resolution}, {total_steps} updates on {accelerator.device}"
    )
    set_seed(args.seed, device_specific=True)  # other noise in each process
    trainer.resume()
    trainer.fit()
    finish(trainer)
    accelerator.end_training()


def finish(trainer):
    """Samples, curve, pipeline and card, and last the checkpoint that says that the run is finished."""
    trainer.sample()
    if trainer.accelerator.is_main_process:
        log = trainer.folder / "loss.csv"
        if log.exists():
            draw_loss_curve(log, trainer.folder / "loss.png")
        with trainer.averaged_unet() as unet:
            GaussianDiffusionPipeline(unet=unet, scheduler=trainer.scheduler).save_pretrained(trainer.folder)
        sharing.write_model_card(trainer.folder, repository=trainer.folder.name)
    trainer.accelerator.wait_for_everyone()
    trainer.checkpoint()


def make_unet(args, source):
    """The network of a preset, or of `init_from`, for the channels, size and classes of the data."""
    if args.init_from is not None:
        return _load_unet(args, source)
    size = {"sample_size": source.resolution, "in_channels": source.channels}
    try:
        return DDPMUNet2DModel(
            num_classes=source.num_classes, variance_head=args.variance_head, **UNET_PRESETS[args.unet] | size
        )
    except ValueError as error:
        raise InputError(f"unet={args.unet!r} does not suit the data: {error}") from error


def _load_unet(args, source):
    try:
        unet = DDPMUNet2DModel.from_pretrained(args.init_from, subfolder="unet")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot load a network from init_from={args.init_from!r}: {error}") from error
    if args.variance_head is not None and unet.config.variance_head is None:
        unet = DDPMUNet2DModel.from_unet(unet, variance_head=args.variance_head)
    wanted = {
        "in_channels": source.channels,
        "num_classes": source.num_classes,
        "variance_head": args.variance_head,
    }
    for name, value in wanted.items():
        if unet.config[name] != value:
            raise InputError(
                f"The network of init_from={args.init_from!r} has {name}={unet.config[name]}, but the data and options "
                f"ask for {value}."
            )
    return unet


def make_scheduler(args):
    scheduler = GaussianDiffusionScheduler(**{name: getattr(args, name) for name in (*PROCESS, "variance_type")})
    return _scheduler_of_prediction(scheduler, args) if args.train_head_only else scheduler


def _scheduler_of_prediction(scheduler, args):
    """That of `init_from`: a head learns the errors of a prediction, in the process that it was trained for.

    What else is known of the model stays too: how to clip, statistics of its noise, plans.
    """
    try:
        trained = GaussianDiffusionScheduler.from_pretrained(args.init_from, subfolder="scheduler")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot load the scheduler of init_from={args.init_from!r}: {error}") from error
    differences = [
        f"{n}={trained.config[n]} instead of {scheduler.config[n]}"
        for n in PROCESS
        if trained.config[n] != scheduler.config[n]
    ]
    if differences:
        raise InputError(
            f"train_head_only keeps the prediction of init_from={args.init_from!r}, which was trained with "
            f"{'; '.join(differences)}: give the options of its training."
        )
    return trained.from_config(trained.config, variance_type=args.variance_type)


if __name__ == "__main__":
    main()
