"""Preparation of the verbs that draw: the network in the precision and layout in which this machine calls it fastest."""

import typer

from ddpm_hf.commands.preparation import one_call
from ddpm_hf.errors import InputError

# The fastest way is looked for where the work takes longer than looking for it.
CALLS_WORTH_MEASURING, SECONDS_WORTH_MEASURING = 20, 20
# So few inputs tell how long the work takes, in a small part of a call.
PROBED_BATCH = 8
# Compiling takes about a minute.
SECONDS_WORTH_COMPILING = 900


def set_up_network(stage, options, batch_size, calls, accelerator=None):
    """Puts the network of a pipeline into the precision and layout of the options, and says what `auto` chose.

    Every process must call this; the main process measures.

    Args:
        options ([`DrawingExecutionOptions`]): what is chosen, and what is open.
        calls (`int`): of the network, with `batch_size` inputs; 0 for results that must be exact, for which `auto` is
            float32.

    Raises:
        InputError: for a precision in which the device cannot compute, or the network loses what makes it exact.
    """
    from accelerate.utils import broadcast_object_list

    from ddpm_hf.execution import can_change, check_compiler, check_precision

    if not can_change(stage.unet):
        if options.precision not in ("auto", "fp32"):
            raise InputError(
                f"--precision {options.precision} is for networks of convolutions in float32, which gain from it, and "
                f"this one is a {type(stage.unet).__name__} in {stage.unet.dtype}: leave it out."
            )
        return
    if options.precision != "auto":
        check_precision(options.precision, stage.unet.device)
    if options.compile == "yes":
        check_compiler(stage.unet.device)
    is_main = accelerator is None or accelerator.is_main_process
    chosen = [_execution(stage, options, batch_size, calls) if is_main else None]
    if accelerator is not None:
        broadcast_object_list(chosen)
    chosen[0].apply(stage.unet)


def _execution(stage, options, batch_size, calls):
    """The [`Execution`] of the options, what is open in them measured where the work is worth it."""
    from ddpm_hf.execution import Execution

    precision = "fp32" if options.precision == "auto" else options.precision
    plain = Execution(precision, options.channels_last == "yes", options.compile == "yes")
    is_open = "auto" in (options.precision, options.channels_last, options.compile)
    if not is_open or not _can_be_tried(stage):
        return plain
    if calls < CALLS_WORTH_MEASURING:
        return plain
    try:
        chosen = _measured(stage, options, batch_size, calls, plain)
    except RuntimeError as error:  # such as too little memory for two copies
        reason = " ".join(str(error).split())[:200]
        typer.echo(f"The fastest precision could not be measured ({reason}): {plain.text} it is.")
        return plain
    if chosen != plain:
        typer.echo(f"Faster here, and chosen: {chosen.text} (--precision fp32 keeps float32).")
    return chosen


def _measured(stage, options, batch_size, calls, plain):
    """The fastest [`Execution`] for so many calls; `plain` for little work."""
    from ddpm_hf.execution import compiled_if_faster, fastest_execution
    from ddpm_hf.execution_cache import remembered
    from ddpm_hf.limits import seconds_of

    unet, probed = stage.unet, min(batch_size, PROBED_BATCH)
    probe = one_call(stage, probed)
    seconds = calls * batch_size / probed * seconds_of(lambda: probe(unet))
    if seconds < SECONDS_WORTH_MEASURING:
        return plain

    call = one_call(stage, batch_size)

    def measure():
        return fastest_execution(unet, call, unet.device, options.precision, options.channels_last)[0]

    chosen = remembered(unet, [batch_size, options.precision, options.channels_last], unet.device, measure)
    if options.compile == "yes":
        return chosen._replace(compiled=True)
    if options.compile == "auto" and seconds > SECONDS_WORTH_COMPILING:
        return compiled_if_faster(chosen, unet, call)
    return chosen


def _can_be_tried(stage):
    """Whether `one_call` knows all that the network is told: labels, but no image, no number, and one size."""
    from ddpm_hf.samples.condition_values import value_limits_of

    samples = stage.samples
    return samples.condition is None and value_limits_of(stage.unet.config) is None and None not in samples.shape
