"""The start of every training: the accelerator, the length of the run, the images, the checkpoint."""

import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import torch
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration

from ddpm_hf.data import (
    ImageStream,
    StreamSource,
    count_images,
    describe_data,
)
from ddpm_hf.data.limits import check_batch_size
from ddpm_hf.distributed import together
from ddpm_hf.errors import InputError
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.engines import join_training
from ddpm_hf.training.model_setup import check_set_up
from ddpm_hf.training.resuming import check_data_unchanged
from ddpm_hf.training.run_folder import (
    check_folder_is_shared,
    check_room,
    check_run_folder,
    is_finished,
    write_arguments,
)

logger = logging.getLogger(__name__)


def make_accelerator(args):
    if args.cache_dir is not None:
        datasets.config.HF_DATASETS_CACHE = Path(args.cache_dir)
    if args.mixed_precision == "bf16" and _computes_bf16_in_software():
        logger.warning(
            "This CPU has no bf16 instructions: mixed_precision='bf16' will be many times slower than 'no'."
        )
    return join_training(
        # What is measured begins in float32.
        replace(args, mixed_precision="no") if args.mixed_precision == "auto" else args,
        # The sequence of the data has no end at which an accumulation would be cut short.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(
            args.output_dir, logging_dir=str(Path(args.output_dir) / args.logging_dir)
        ),
    )


def _computes_bf16_in_software():
    return not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def steps_to_do(args, accelerator, num_images):
    """The number of updates of the whole run; None, with a note, if all are done.

    Raises:
        InputError: if there are fewer images than in a batch, or more updates done than requested.
    """
    if num_images is not None:
        check_batch_size(args.batch_size, num_images)
    total = args.max_train_steps or updates_for_epochs(args.num_epochs, args, num_images, accelerator.num_processes)
    done = max(list_checkpoints(args.output_dir), default=0)
    if done > total:
        raise InputError(f"output_dir={args.output_dir!r} is at step {done}, past the {total} asked for.")
    if not (done == total and is_finished(args.output_dir, total)):
        return total
    accelerator.print(
        f"The run in {args.output_dir} is finished at step {done}; give more steps to continue it, for example "
        f"--max_train_steps {2 * done}."
    )
    return None


def updates_for_epochs(epochs, args, num_images, num_processes):
    """The number of updates in so many passes over the data."""
    images_per_update = args.batch_size * args.gradient_accumulation_steps * num_processes
    return math.ceil(epochs * num_images / images_per_update)


def in_updates(args, num_images, num_processes):
    """The options with `sample_every` in the place of `save_images_epochs`."""
    if args.save_images_epochs is None:
        return args
    every = updates_for_epochs(args.save_images_epochs, args, num_images, num_processes)
    return replace(args, sample_every=every, save_images_epochs=None)


def begin_run(args, accelerator, source, model, measured=None):
    """Claims the output folder of a new run, and decodes the images that fit into memory or onto the disk.

    Args:
        model: the network to train, whose checkpoints must fit on the disk.
        measured (`dict`, *optional*): what was measured of the run, to be written beside its options.

    Returns:
        The images, as a data set.
    """

    def check():
        check_run_folder(args, accelerator.num_processes)  # another run may have claimed it since the first check
        check_set_up(args, model)
        check_data_unchanged(args, source)
        check_room(args, model)

    def claim():
        if not list_checkpoints(args.output_dir):
            write_arguments(args, accelerator.num_processes, count_images(source), source.fingerprint, measured)

    together(accelerator, check)
    together(accelerator, claim, main_process_only=True)
    together(accelerator, lambda: check_folder_is_shared(args))
    return load_data(args, accelerator, source)


def resume_run(args, accelerator, source, loop, measured=None):
    """Continues from the newest checkpoint, if there is one, and starts the trackers.

    The options are written after they are known to fit the checkpoint, so that a refused run changes nothing.
    `measured` is as in `begin_run`.
    """
    loop.resume()
    step = loop.progress.step
    if step:
        about = accelerator.num_processes, count_images(source), source.fingerprint, measured
        together(accelerator, partial(write_arguments, args, *about), main_process_only=True)
        accelerator.print(f"Goes on from update {step} of {loop.total_steps}.")
    if args.report_to != "none":
        # Trackers are shown everything after the checkpoint again.
        purged = {"tensorboard": {"purge_step": step + 1}}
        accelerator.init_trackers("ddpm_hf", config={k: str(v) for k, v in vars(args).items()}, init_kwargs=purged)


def note_resizing(accelerator, source):
    """Prints a note if the data of a run are resized for its network."""
    if source.resizing is not None:
        accelerator.print(f"The {source.resizing}, the size of the model's.")


def load_data(args, accelerator, source):
    """The images, as a data set."""
    crop_seed = args.seed if args.random_crop else None
    if isinstance(source, StreamSource):
        place = accelerator.process_index, accelerator.num_processes
        return ImageStream(source, args.shuffle_buffer, args.seed, crop_seed, *place)
    return source.load(args.in_memory_limit_gb, args.dataloader_workers, args.on_disk_limit_gb, crop_seed)


def describe_run(model, source, images, total_steps, device):
    data = describe_data(images, source.kind)
    return f"{model.num_parameters() / 1e6:.1f}M parameters, {data}, {total_steps} updates on {device}"
