"""The network and the settings of a training whose network was not named, chosen from the data and the device."""

from dataclasses import replace
from typing import NamedTuple

from ddpm_hf.data import count_images
from ddpm_hf.sizes import sides_of_size, sizes_of, written_sides

# Larger images are reduced to this side, so that a CPU too sees enough of them.
LARGEST_SIDE = 64
# With fewer images, or on a CPU, a larger network would not pay.
MANY_IMAGES = 10_000


class Choice(NamedTuple):
    """Options of a training, and the reasons for them as text."""

    options: dict
    reason: str


def with_chosen_network(args, source, device):
    """The options with those that were left out, the data in the chosen size, and the reasons, None without a choice.

    Args:
        args (`TrainingArguments`): the options.
        source (`DataSource`): the opened data.
        device (`torch.device`): where the training runs.
    """
    if args.unet is not None or args.init_from is not None:
        return args, source, None
    choice = CHOICES[source.samples.name](args, source, device)
    left_out = {name: value for name, value in choice.options.items() if getattr(args, name) is None}
    args = replace(args, **left_out)
    return args, source if args.resolution is None else source.resized(args.resolution), choice.reason


def choose_for_images(args, source, device):
    """The [`Choice`] for images, by their size, channels and number, and the device."""
    resolution = args.resolution or fitting_resolution(source)
    if args.aspect_buckets is not None:
        resolution = max(sizes_of(args.aspect_buckets), key=lambda size: max(sides_of_size(size)))
    number, is_cpu = count_images(source), device.type == "cpu"
    is_large = not is_cpu and (number is None or number >= MANY_IMAGES)
    sides = sides_of_size(resolution)
    side = 32 if max(sides) <= 40 else 64 if max(sides) <= 96 else 128
    unet = f"medium_{side}" if is_large and side < 128 else f"small_{side}"
    if side == 32 and source.channels == 1 and not is_large:
        unet = "fashion_mnist"
    if source.captions is not None:
        unet = "text_medium" if is_large else "text_small_32"
    settings = {
        "unet": unet,
        "resolution": resolution if args.aspect_buckets is None else None,
        "batch_size": min(32 if is_cpu else 64, number or MANY_IMAGES),
        "learning_rate": 3e-4 if is_large else 1e-3,
        "adam_beta2": 0.99,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "num_samples": 16,
    }
    how_many = "images of a stream" if number is None else f"{number} images"
    colours = "grey" if source.channels == 1 else "in colour"
    where = "a CPU" if is_cpu else f"a device of the kind {device.type}"
    return Choice(settings, f"for {how_many} of {written_sides(sides)}, {colours}, on {where}")


def choose_for_points(args, source, device):
    """The [`Choice`] for points, which one network fits."""
    settings = {
        "unet": "mlp",
        "batch_size": min(256, len(source)),
        "learning_rate": 1e-3,
        "minutes": POINT_MINUTES if args.has_no_length else None,
        "num_samples": 2000,
    }
    return Choice(settings, f"for {len(source)} points")


def choose_for_latents(args, source, device):
    """The [`Choice`] for latents, by their size and the device."""
    number, is_cpu = count_images(source), device.type == "cpu"
    is_large = not is_cpu and number >= MANY_IMAGES and all(side % 4 == 0 for side in source.sides)
    kind = "latents" if source.captions is None else "text"
    settings = {
        "unet": f"{kind}_medium" if is_large else f"{kind}_small",
        "batch_size": min(64, number),
        "learning_rate": 3e-4 if is_large else 1e-3,
        "adam_beta2": 0.99,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "num_samples": 16,
    }
    where = "a CPU" if is_cpu else f"a device of the kind {device.type}"
    return Choice(settings, f"for {number} {source.kind}, on {where}")


# Points take so little that a minute or two teach them.
POINT_MINUTES = 2.0
CHOICES = {"images": choose_for_images, "latents": choose_for_latents, "points": choose_for_points}


def fitting_resolution(source):
    """The side for images of which no size was asked: their own where all agree, the median of the shorter sides else.

    It is at most `LARGEST_SIDE`, and a multiple of what the levels of the networks halve, 4 or 8.
    """
    width, height = source.size or (None, None)
    side = min(width if width is not None and width == height else source.median_side, LARGEST_SIDE)
    multiple = 4 if side <= 40 else 8
    return max(multiple * round(side / multiple), multiple)
