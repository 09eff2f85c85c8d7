"""The network of a pipeline in the precision and layout in which this machine calls it fastest."""

import torch
from accelerate.utils import broadcast_object_list

from ddpm_hf.errors import InputError
from ddpm_hf.execution import (
    Execution,
    can_change,
    can_compile,
    check_precision,
    compiled_if_faster,
    fastest_execution,
)
from ddpm_hf.execution_cache import remembered
from ddpm_hf.limits import seconds_of
from ddpm_hf.models.level_embedding import telling_levels
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.samples.condition_values import value_limits_of

# The fastest way is looked for where the work takes longer than looking for it.
CALLS_WORTH_MEASURING, SECONDS_WORTH_MEASURING = 20, 20
# So few inputs tell how long the work takes, in a small part of a call.
PROBED_BATCH = 8
# Compiling takes about a minute.
SECONDS_WORTH_COMPILING = 900


def set_up_network(stage, options, batch_size, calls, accelerator=None):
    """Puts the network of a pipeline into the [`Execution`] of `choose_execution`, whose arguments it has."""
    choose_execution(stage, options, batch_size, calls, accelerator).apply(stage.unet)


def choose_execution(stage, options, batch_size, calls, accelerator=None, begun=None):
    """The [`Execution`] of the options for the network of a pipeline; prints what `auto` chose.

    Every process must call this; the main process measures.

    Args:
        options: has `precision`, `channels_last` and `compile`, as [`ExecutionChoice`].
        calls (`int`): of the network, with `batch_size` inputs; 0 for results that must be exact, for which `auto` is
            float32.
        begun ([`Execution`], *optional*): of work that goes on, whose part is taken for what is open.

    Raises:
        InputError: for a precision in which the device cannot compute, or the network loses what makes it exact.
    """
    if not can_change(stage.unet):
        if options.precision not in ("auto", "fp32"):
            raise InputError(
                f"--precision {options.precision} is for networks of convolutions in float32, which gain from it, and "
                f"this one is a {type(stage.unet).__name__} in {stage.unet.dtype}: leave it out."
            )
        return Execution(precision=None)
    if begun is not None:
        options = begun.for_what_is_open_in(options)
    if options.precision != "auto":
        check_precision(options.precision, stage.unet.device)
    is_main = accelerator is None or accelerator.is_main_process
    chosen = [_execution(stage, options, batch_size, calls) if is_main else None]
    if accelerator is not None:
        broadcast_object_list(chosen)
    return chosen[0]


def _execution(stage, options, batch_size, calls):
    """The [`Execution`] of the options, what is open in them measured where the work is worth it."""
    precision = "fp32" if options.precision == "auto" else options.precision
    is_compiled = options.compile == "yes" and can_compile(stage.unet.device)
    plain = Execution(precision, options.channels_last == "yes", is_compiled)
    is_open = "auto" in (options.precision, options.channels_last, options.compile)
    if not is_open or calls < CALLS_WORTH_MEASURING or None in stage.samples.shape:
        return plain
    try:
        chosen = _measured(stage, options, batch_size, calls, plain)
    except RuntimeError as error:  # such as too little memory for two copies
        reason = " ".join(str(error).split())[:200]
        print(f"The fastest precision could not be measured ({reason}): {plain.text} it is.")
        return plain
    if chosen != plain:
        print(f"Faster here, and chosen: {chosen.text} (--precision fp32 keeps float32).")
    return chosen


def _measured(stage, options, batch_size, calls, plain):
    """The fastest [`Execution`] for so many calls; `plain` for little work."""
    unet, probed = stage.unet, min(batch_size, PROBED_BATCH)
    probe = one_call(stage, probed)
    seconds = calls * batch_size / probed * seconds_of(lambda: probe(unet))
    if seconds < SECONDS_WORTH_MEASURING:
        return plain

    call = one_call(stage, batch_size)

    def measure():
        return fastest_execution(unet, call, unet.device, options.precision, options.channels_last)[0]

    chosen = remembered(unet, [batch_size, options.precision, options.channels_last], unet.device, measure)
    if options.compile == "auto" and seconds > SECONDS_WORTH_COMPILING:
        return compiled_if_faster(chosen, unet, call)
    return chosen._replace(compiled=plain.compiled)


def one_call(pipeline, batch_size):
    """A function that calls a network, the pipeline's or a copy of it, with a batch, and waits for the result.

    The network is told the first class, the least number or the empty text, and a condition image if it knows one, in
    the channels after those of x_t.
    """
    config, device = pipeline.unet.config, pipeline.unet.device
    limits = value_limits_of(config)
    label = limits and limits[0] if classes_of(config)[0] is None else 0
    labels = pipeline.encode_labels(label, batch_size=batch_size, device=device)
    x = torch.zeros(batch_size, config.in_channels, *pipeline.samples.sides, device=device)
    t = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def call(network):
        told = labels.to(network.dtype) if is_told_text(config) else labels
        with telling_levels(network):
            return network(x.to(network.dtype), t, told, return_dict=False)[0].sum().item()

    return call
