"""`ddpm-hf evaluate --metrics nll` measures the likelihood of data by the probability flow of a model."""

from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in, together
from ddpm_hf.evaluation.flow_bits import FlowOptions, flow_bits_per_dim
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.pipelines.probability_flow import Score, in_continuous_time
from ddpm_hf.reports.report_files import FLOW_BITS
from ddpm_hf.results import alone_in_free_folder

# Calls for a batch at rtol 1e-5, for the estimate of the duration; a network's flow took 100 to 200.
TYPICAL_CALLS = 150


class FlowRequest(NamedTuple):
    """The arguments of `evaluate_flow`, with their defaults."""

    model: str
    output: Path
    data: DataArguments
    num_images: int | None = None
    probes: int = 1
    rtol: float = 1e-5
    dequantization: str = "uniform"
    batch_size: int = 64
    seed: int = 0
    device: str | None = None


def evaluate_flow(model, output, data=None, **options):
    """Writes `nll.json`, bits per dimension by the probability flow, into a folder.

    It runs on one process, or on all that `accelerate launch` starts. A class-conditional model gets the labels of the
    data. `flow_bits_per_dim` has the conventions.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub, stock or ours, in discrete or continuous time.
        output: the folder, which is made if it does not exist.
        data (`DataArguments`): the samples; by default the test split of the embedded Fashion-MNIST.
        num_images (`int`, *optional*): number of samples, drawn at random by `seed`; by default all.
        probes, rtol, dequantization: `num_probes`, `rtol` and `atol`, and `dequantization` of [`FlowOptions`].
        batch_size, seed, device: as in `evaluate_bits_per_dim`.

    Returns:
        [`FlowBitsPerDim`]

    Raises:
        InputError: before the work, for a file that exists already or cannot be written, data that do not fit, another
            process, and without torchdiffeq.
    """
    request = FlowRequest(model, Path(output), data or DataArguments(split="test"), **options)
    accelerator = join_processes(request.device)
    with main_process_in(alone_in_free_folder(request.output, (FLOW_BITS.name,)), accelerator):
        return _evaluate_with(request, accelerator)


def _evaluate_with(request, accelerator):
    how = FlowOptions(request.probes, request.rtol, request.rtol, request.dequantization)
    pipeline = in_continuous_time(load_pipeline(request.model).to(request.device or accelerator.device))
    wanted = request.data, pipeline.unet.config, request.num_images, request.seed
    samples, labels = main_process_first(accelerator, lambda: load_data(*wanted))
    batches = ceil(len(samples) / (request.batch_size * accelerator.num_processes))
    first = min(request.batch_size, len(samples))
    duration = _duration(pipeline, first, labels, batches * request.probes * TYPICAL_CALLS)
    accelerator.print(f"{len(samples)} {pipeline.samples.name}: about {duration} (h:mm:ss), more at a smaller --rtol")
    measuring = {"class_labels": labels, "batch_size": request.batch_size, "seed": request.seed}
    result = flow_bits_per_dim(pipeline.unet, pipeline.scheduler, samples, how, **measuring, accelerator=accelerator)
    together(accelerator, lambda: FLOW_BITS.write(request.output, result.to_dict()), main_process_only=True)
    accelerator.print(_summary(result, pipeline.samples, request.output / FLOW_BITS.name))
    return result


def _duration(pipeline, batch_size, labels, calls):
    """The expected duration of `calls` calls on a batch with their gradients, from one that is timed."""
    x = torch.zeros(batch_size, *pipeline.samples.shape, device=pipeline.unet.device, requires_grad=True)
    score = Score(pipeline, labels_of(labels, 0, batch_size), batch_size=batch_size)
    half = torch.full((batch_size,), 0.5, device=x.device, dtype=torch.float64)
    with fitting_into_memory(f"lower --batch_size, which is {batch_size}"):
        seconds = seconds_of(partial(_call, score, x, half))
    return expected_duration(calls * seconds, "give fewer --num_images or --probes")


def _call(score, x, times):
    torch.autograd.grad(score(x, times).sum(), x)[0].sum().item()


def _summary(result, samples, file):
    error = "" if result.standard_error is None else f" +- {result.standard_error:.4f}"
    how = samples.bound_note(result.total) if result.levels is None else f" ({result.dequantization} dequantisation)"
    return f"{result.total:.4f}{error} bits/dim{how} by the flow, {result.calls:.0f} calls a batch; {file}"
