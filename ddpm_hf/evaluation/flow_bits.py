"""The likelihood of data in bits per dimension by the probability flow of any model, stock or ours."""

import math
from dataclasses import asdict, dataclass

import torch

from ddpm_hf.evaluation.flow_likelihood import flow_likelihood
from ddpm_hf.evaluation.image_labels import check_labels
from ddpm_hf.evaluation.noised_batches import Measuring, noised_batches, numbered
from ddpm_hf.evaluation.seeded_noise import image_generators
from ddpm_hf.evaluation.variational_bound import discretized_gaussian_log_likelihood
from ddpm_hf.number_checks import check_count
from ddpm_hf.ode_solver import OdeOptions
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.probability_flow import Score, in_continuous_time
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.config_checks import check_choice

DEQUANTIZATIONS = ("uniform", "gaussian")


@dataclass(frozen=True)
class FlowOptions:
    """How likelihoods are measured by the flow.

    Args:
        num_probes (`int`): random probes of the divergence and noises for each image; each costs a run of the flow.
        rtol, atol (`float`): tolerances of the solver for each image.
        dequantization (`str`): `uniform` or `gaussian`; points need none.
    """

    num_probes: int = 1
    rtol: float = 1e-5
    atol: float = 1e-5
    dequantization: str = "uniform"

    def __post_init__(self):
        check_choice("dequantization", self.dequantization, DEQUANTIZATIONS)
        check_count("num_probes", self.num_probes)
        self.of_solver()

    def of_solver(self, on_call=None):
        """The [`OdeOptions`] with these tolerances."""
        return OdeOptions(self.rtol, self.atol, on_call)


@dataclass(frozen=True)
class FlowBitsPerDim:
    """-log2 of the likelihood per dimension (pixel and channel), a mean over images; lower is better.

    standard_error: standard error of `total` over images, probes and noise; None for one image. probe_standard_error:
    the part of it that comes from probes and dequantisation, None for one probe. per_image: the mean over probes of each
    image. calls: calls of the network for a batch and probe, a mean. dequantization, levels, num_probes, rtol, atol,
    seed: what they were measured with; levels is None for points, whose bits are of a density in the network's units.
    """

    total: float
    standard_error: float | None
    probe_standard_error: float | None
    per_image: list[float]
    calls: float
    dequantization: str | None
    levels: int | None
    num_probes: int
    rtol: float
    atol: float
    seed: int

    def to_dict(self):
        return {"unit": "bits per dimension", "num_images": len(self.per_image), **asdict(self)}


def flow_bits_per_dim(unet, scheduler, images, options=FlowOptions(), levels=None, **measuring):
    """Bits per dimension of `images` under the probability flow of a model (Song et al. 2021, section 4.3).

    Images have levels, and the flow a density. `uniform` adds noise that spreads each level over its own cell, the cell
    of the bound's decoder: x = 2 (k + u - 1/2) / (levels - 1) - 1 with u uniform in [0, 1], for data in [-1, 1], so
    bits = -log2 p(x) / d + log2((levels - 1) / 2). The published code has (k + u) / levels instead, which is 0.006 bits
    less and half a level away from the values that networks are trained on. `gaussian` adds the process's own noise of
    the time where the flow begins, and takes a decoder from there to the levels,

        -log p(x0) <= E[-log p(x_eps) - log p(x0 | x_eps) + log q(x_eps | x0)],

    the variational bound with the flow in place of all of its steps but the last. It does not suffer from a density that
    is smooth over many levels, as a DDPM's is at its first timestep.

    Args:
        unet, scheduler, images, levels, measuring: as in `bits_per_dim`; the scheduler may be in continuous time, and
            that of a DDPM is read as a VP process.
        options ([`FlowOptions`]): the probes, the tolerances and the dequantisation.

    Returns:
        [`FlowBitsPerDim`]

    Raises:
        ValueError: for data off the grid, another process, and where the solver does not converge.
    """
    measuring = Measuring(images, **measuring)
    pipeline = in_continuous_time(GaussianDiffusionPipeline(measuring.unwrapped(unet), scheduler))
    samples = kind_of(pipeline.unet.config, levels)
    _check_before_the_work(measuring, samples)
    rows, calls = [], 0
    with noised_batches(pipeline, measuring, options.num_probes, "flow", unit="solution") as batches:
        for batch in batches:
            flow = _Flow(pipeline, batch, options)
            rows.append((batch.first, flow.bits(samples)))
            calls += flow.calls
    bits = _gathered(rows, batches.num_images, options.num_probes, measuring)
    solutions = math.ceil(batches.num_images / measuring.batch_size) * options.num_probes
    calls = measuring.total(torch.tensor([calls], dtype=torch.float64)).item()
    measured_with = asdict(options) | {"levels": samples.levels, "seed": measuring.seed}
    if samples.levels is None:
        measured_with["dequantization"] = None
    return FlowBitsPerDim(**_statistics(bits), calls=calls / solutions, **measured_with)


def _check_before_the_work(measuring, samples):
    """Raises ValueError for data off the grid and for another number of labels, where all data are there."""
    if isinstance(measuring.data, torch.Tensor):
        for first, batch in numbered(measuring.batches):
            samples.check_data(batch, first)
        check_labels(measuring.class_labels, len(measuring.data))


def _statistics(bits):
    """The mean of the bits (N, probes) over both, with its errors."""
    means, (number, num_probes) = bits.mean(1), bits.shape
    return {
        "total": means.mean().item(),
        "standard_error": (means.std() / math.sqrt(number)).item() if number > 1 else None,
        "probe_standard_error": (bits.var(1).sum() / num_probes).sqrt().item() / number if num_probes > 1 else None,
        "per_image": means.tolist(),
    }


class _Flow:
    """The probability flow of a model over one batch; `calls` counts the calls of the network."""

    def __init__(self, pipeline, batch, options):
        self.pipeline, self.scheduler, self.batch, self.options = pipeline, pipeline.scheduler, batch, options
        self.score = Score(pipeline, batch.labels, batch_size=len(batch.data))
        self.calls = 0
        # The process may be one of data in [0, 1].
        self.scale = 1.0 if self.scheduler.config.centered else 0.5

    def bits(self, samples):
        """-log2 of the likelihood per dimension for each image and probe, (B, probes)."""
        samples.check_data(self.batch.data, self.batch.first)
        x0 = samples.from_data(self.batch.data).to(self.pipeline.unet.device)
        generators = image_generators(self.batch.seed, self.batch.first, x0)
        nats = [self._nats(x0, samples.levels, generators).cpu() for _ in range(self.options.num_probes)]
        return torch.stack(nats, dim=1) / (x0[0].numel() * math.log(2))

    def _nats(self, x0, levels, generators):
        if levels is None:
            return -self.log_prob(x0.double(), generators)
        return NATS[self.options.dequantization](self, x0, levels, generators)

    def log_prob(self, x, generators):
        """log p(x) in nats at the time where likelihoods begin, (B,), with a probe of signs from the generators."""
        signs = [torch.randint(2, x.shape[1:], generator=g, device=x.device) for g in generators]
        probe, solving = torch.stack(signs).double() * 2 - 1, self._solving()
        found = flow_likelihood(self.score, self.scheduler, x, probe, solving)
        self.calls += found.calls
        return found.log_prob

    def _solving(self):
        """The options of the solver, which moves the bar by one on its way."""
        bar, begun, eps = self.batch.bar, self.batch.bar.n, self.scheduler.likelihood_eps

        def on_call(t):
            bar.update(max(0.0, begun + (t - eps) / (1 - eps) - bar.n))

        return self.options.of_solver(on_call)


def uniform_nats(flow, x0, levels, generators):
    """-log p(level) = -log p(x) - log(width of a cell), in nats, (B,), with x uniform in the cell of x0."""
    width = 2 * flow.scale / (levels - 1)
    offsets = [torch.rand(x0.shape[1:], generator=g, device=x0.device, dtype=torch.float64) - 0.5 for g in generators]
    data = x0.double() if flow.scale == 1 else (x0.double() + 1) / 2
    return -flow.log_prob(data + width * torch.stack(offsets), generators) - x0[0].numel() * math.log(width)


def gaussian_nats(flow, x0, levels, generators):
    """-log p(x_eps) - log p(x0 | x_eps) + log q(x_eps | x0), in nats, (B,).

    The decoder is N(x0_hat(x_eps), sigma^2 / a^2) over the cells of the levels.
    """
    times = torch.full((len(x0),), flow.scheduler.likelihood_eps, dtype=torch.float64, device=x0.device)
    signal, sigma = (level[0].item() for level in flow.scheduler.process.levels(times))
    noise = [torch.randn(x0.shape[1:], generator=g, device=x0.device, dtype=torch.float64) for g in generators]
    noise = torch.stack(noise)
    data = x0.double() if flow.scale == 1 else (x0.double() + 1) / 2
    x = signal * data + sigma * noise
    with torch.no_grad():
        x0_hat = (x + sigma**2 * flow.score(x, times)) / signal
    flow.calls += 1
    x0_hat = x0_hat if flow.scale == 1 else 2 * x0_hat - 1
    log_std = torch.tensor(math.log(sigma / (signal * flow.scale)), dtype=torch.float64, device=x0.device)
    decoder = discretized_gaussian_log_likelihood(x0.double(), x0_hat, log_std, levels).flatten(1).sum(1)
    log_q = -noise.square().flatten(1).sum(1) / 2 - x0[0].numel() * math.log(sigma * math.sqrt(2 * math.pi))
    return -flow.log_prob(x, generators) - decoder + log_q


NATS = {"uniform": uniform_nats, "gaussian": gaussian_nats}


def _gathered(rows, num_images, num_probes, measuring):
    """The bits of all images and probes, (N, probes), from rows (first image, (B, probes)) of all processes."""
    bits = torch.zeros(num_images, num_probes, dtype=torch.float64)
    for first, values in rows:
        bits[first : first + len(values)] = values
    return measuring.total(bits.flatten()).reshape(num_images, num_probes)
