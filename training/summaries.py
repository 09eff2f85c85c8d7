"""What a training says when it begins and when it ends."""

import shlex
from datetime import datetime, timedelta

from ddpm_hf.data import count_images, describe_data
from ddpm_hf.models.class_names import class_names_of
from ddpm_hf.pipelines.stable_diffusion import why_not_stable_diffusion
from ddpm_hf.reports.loss_curve import LOSS_FILE, LOSS_PICTURE, read_rows
from ddpm_hf.reports.report_files import CAPTIONS, TRAINING_OPTIONS
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.samples.kind import trained_shapes
from ddpm_hf.schedulers.sampler_table import usual_options
from ddpm_hf.sizes import written_sides

MOST_NAMES = 10


def describe_choice(args, reason):
    """A line about a network that was chosen, and about the process that comes with it."""
    return (
        f"No --unet was given: {args.unet} is chosen {reason}, with --batch_size {args.batch_size}, --learning_rate "
        f"{args.learning_rate:g}, --prediction_type {args.prediction_type} and --beta_schedule {args.beta_schedule}."
    )


def describe_length(args, minutes, updates_per_minute):
    """A line about a length that was measured."""
    return (
        f"No number of updates was given: {minutes:g} minutes are {args.max_train_steps} updates, at "
        f"{updates_per_minute:g} a minute as measured now; --minutes, --max_train_steps or --num_epochs change it."
    )


def opening(trainer, model, source, updates_per_minute=None):
    """The data, the network, the length and the folder of a run that begins or goes on.

    Args:
        trainer ([`Trainer`]): what is to be trained, and how far it is.
        model: the network before it was prepared for the devices.
        source (`DataSource`): where the images come from.
    """
    args, total = trainer.args, trainer.total_steps
    per_update = args.batch_size * args.gradient_accumulation_steps * trainer.accelerator.num_processes
    number, resizing = count_images(trainer.images), f"; {source.resizing}" if source.resizing is not None else ""
    passes = "" if number is None else f", {per_update * total / number:.3g} passes over the data"
    lines = {
        "data": f"{describe_data(trainer.images, source.kind)}{resizing}",
        "classes": describe_names(model.config),
        "captions": "" if source.captions is None else describe_captions(trainer, model),
        "network": f"{args.init_from or args.unet}, {model.num_parameters() / 1e6:.1f}M parameters",
        "length": f"{total} updates of {per_update} {source.samples.output_name}{passes}, "
        f"on {trainer.accelerator.device}"
        f"{describe_end((total - trainer.progress.step) / updates_per_minute) if updates_per_minute else ''}",
        "folder": args.output_dir,
    }
    return "\n".join(f"  {name:<9}{text}" for name, text in lines.items() if text)


def describe_captions(trainer, network):
    """How many captions there are, what encodes them, and what the result will be."""
    encoder = trainer.args.text_encoder or "a small encoder, trained along"
    why_not = why_not_stable_diffusion(trainer.kind, network.text_encoder, trainer.scheduler)
    result = "a stock StableDiffusionPipeline" if why_not is None else f"a pipeline of ours, because {why_not}"
    return (
        f"{len(network.captions)} different ones, {network.tokenizer.model_max_length} tokens, {encoder}; the result "
        f"is {result}"
    )


def describe_names(config):
    """The classes of a network by number and name; "" without names."""
    named = [f"{label} {name}" for label, name in class_names_of(config).items()]
    more = f" and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
    return ", ".join(named[:MOST_NAMES]) + more


def describe_end(minutes):
    """When a work of so many minutes ends that begins now."""
    end = datetime.now() + timedelta(minutes=minutes)
    day = "" if end.date() == datetime.now().date() else f" on {end:%Y-%m-%d}"
    return f", until about {end:%H:%M}{day}"


def closing(args, folder, total_steps, seconds, config):
    """Where the result is, its loss and its time, and the commands that come next.

    Args:
        seconds (`float`): what this part of the run took.
        config: the config of the network.
    """
    table = folder / LOSS_FILE
    rows = read_rows(table) if table.exists() else []
    loss = f", with a loss of {rows[-1]['loss']:.4f}" if rows else ""
    where = shlex.quote(str(folder))
    few = usual_options(args.process, args.num_train_timesteps)
    names, draws = class_names_of(config), f"sample {where}"
    what = "draws a grid of samples in few steps; --steps all takes every timestep"
    condition, limits, captions = condition_of(config), value_limits_of(config), CAPTIONS.read(folder)
    if condition is not None and condition.low_resolution is None:
        draws, what = f"sample {where} --condition_image IMAGE", "draws samples for an image in few steps"
    elif captions:
        draws += f" --prompt {shlex.quote(captions['examples'][0])}"
    elif condition is not None:
        draws, what = f"upscale {where} IMAGE", "enlarges an image in few steps; without options, in all"
    if limits is not None:
        draws += f" --value {sum(limits) / 2:g}"
    others = [written_sides(shape) for shape in trained_shapes(config)[1:]]
    is_tracked = args.report_to in ("tensorboard", "all")
    next_steps = {
        f"ddpm-hf {draws} {few}": what,
        f"ddpm-hf {draws} {few} --class {shlex.quote(next(iter(names.values())))}" if names else "": "of a class",
        f"ddpm-hf {draws} {few} --resolution {others[0]}"
        if others
        else "": f"in another of its {len(others) + 1} shapes",
        f"tensorboard --logdir {shlex.quote(str(folder / args.logging_dir))}"
        if is_tracked
        else "": "shows the curves",
        f"ddpm-hf push {where} {shlex.quote(folder.resolve().name)}": "shares it on the Hub",
        _longer(where, total_steps) if args.lr_scheduler.startswith("constant") else "": "trains it further",
    }
    commands = {command: what for command, what in next_steps.items() if command}
    width = max(map(len, commands))
    return "\n".join(
        [
            f"The model is in {folder} after {total_steps} updates{loss}; this took "
            f"{timedelta(seconds=round(seconds))}. Its curve is {LOSS_PICTURE}. Next:",
            *(f"  {command:<{width}}  # {what}" for command, what in commands.items()),
        ]
    )


def _longer(where, total_steps):
    return f"ddpm-hf train --config {where}/{TRAINING_OPTIONS.name} --max_train_steps {2 * total_steps}"
