"""Bits per dimension on held-out images, measured during training."""

from ddpm_hf.data import decode_first, draw_images, open_images, open_stream
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import main_process_first
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.sizes import size_of


def load_held_out(args, source, accelerator):
    """Images of `eval_split` in the form of the training images: `{"images": (N, C, H, W), uint8}`, and "labels".

    They are drawn at random; with `streaming` they are the first images. All processes get the same.

    Args:
        args (`TrainingArguments`): options with `eval_every` above 0.
        source: the training data.
        accelerator (`accelerate.Accelerator`): the accelerator of the run.

    Raises:
        InputError: if the split does not exist or has other images or classes, or if the training data are points.
    """
    _, height, width = source.samples.image_shape(
        otherwise=InputError(
            f"eval_every={args.eval_every} measures bits per dimension, which points do not have: leave it out."
        )
    )
    resolution = size_of(height, width)
    data = DataArguments.among(args, split=args.eval_split, resolution=resolution)
    open_data = open_stream if args.streaming else open_images
    held_out = main_process_first(accelerator, lambda: open_data(data, resolution, source.network_options))
    if held_out.channels != source.channels or (held_out.num_classes or 0) > (source.num_classes or 0):
        raise InputError(
            f"Split eval_split={args.eval_split!r} has {held_out.channels} channel(s) and {held_out.num_classes} "
            f"classes, and what is trained on {source.channels} and {source.num_classes}: give another --eval_split."
        )
    if args.streaming:
        return decode_first(held_out, args.num_eval_images, args.seed)
    return draw_images(held_out, args.num_eval_images, args.seed).decode(args.dataloader_workers)


def measure_held_out(unet, scheduler, held_out, args, accelerator):
    """A row of the log; the processes share the images, and every process must call this."""
    measured = bits_per_dim(
        unet,
        scheduler,
        held_out["images"],
        num_inference_steps=args.eval_steps,
        class_labels=held_out.get("labels"),
        batch_size=args.batch_size,
        seed=args.seed,
        accelerator=accelerator,
        progress_bar=False,
    )
    return {"bits_per_dim": measured.total, "bits_per_dim_standard_error": measured.standard_error}
