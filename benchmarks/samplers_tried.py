"""Samplers of the literature that are not built in, beside those that they would change.

python benchmarks/samplers_tried.py MODEL --features FOLDER --dataset D [--steps 5 10 25] [--samples 500]
    [--spacings trailing logsnr] [--seed 1] [--images 512]

A DDPM of images. x0_hat is clamped to [-1, 1] at every step, and eps_hat follows from it. With a, sigma at t and a',
sigma' at the next timestep s, lam = log(a / sigma), Gamma = E|eps_hat|^2 / d, and V = E|x0 - x0_hat|^2 / d, both
measured with images of the training split:

- DDIM, and with c > 0 aDDIM (Heek et al. 2024): x_s = a' x0_hat + sqrt(sigma'^2 + c (a' - a sigma'/sigma)^2 V d /
  |eps_hat|^2) eps_hat, which gives back the variance that the mean lacks, without noise.
- The exponential integrator of dx/dlam = (sigma^2 - l) x + N, N = l a x0_hat - (1 - l) sigma eps_hat, of second order
  (as Zheng et al. 2023, DPM-Solver-v3). With l = 1 it is DPM-Solver++ 2M, with l = 0 that of eps_hat; with Gamma and
  with 1 - Gamma it changes from one to the other on the way.

Each has the Frechet distance in the features to half of the test split, from one draw of the noise.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from fitted_solvers import FIT_IMAGES
from image_distance import BATCH, ImageDistance, split_of
from side_by_side import RESULTS, machine, told_options
from tqdm.auto import tqdm

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.schedulers.timestep_spacings import spaced_timesteps

MEASURED_TIMESTEPS = 40
# Points of the numerical integrals over a step.
INTEGRATION_POINTS = 201


class Network:
    """x0_hat, clamped, and the eps_hat that follows from it, of a DDPM's network."""

    def __init__(self, unet, scheduler):
        self.unet = unet.eval()
        self.chain = GaussianDiffusionScheduler.from_config(scheduler.config)
        self.alphas_bar = self.chain.alpha_bar(range(len(self.chain))).numpy()

    def level(self, t):
        """(a, sigma) at a timestep; None is clean data."""
        return (1.0, 0.0) if t is None else (self.alphas_bar[t] ** 0.5, (1 - self.alphas_bar[t]) ** 0.5)

    def log_snr(self, t):
        signal, sigma = self.level(t)
        return np.log(signal / sigma)

    @torch.inference_mode()
    def predict(self, x, t):
        outputs = torch.cat([self.unet(part, t).sample for part in x.split(BATCH)])
        x0 = self.chain.p_mean_variance(outputs, t, x).pred_original_sample
        signal, sigma = self.level(t)
        return x0, (x - signal * x0) / sigma


class Measured:
    """Gamma and V over log(a / sigma), from noised images (N, C, H, W) in [-1, 1]."""

    def __init__(self, network, images):
        timesteps = spaced_timesteps("logsnr", MEASURED_TIMESTEPS, network.alphas_bar)
        generator, rows = torch.Generator().manual_seed(0), []
        for t in tqdm(timesteps, desc="measuring"):
            signal, sigma = network.level(t)
            x0, epsilon = network.predict(
                signal * images + sigma * torch.randn(images.shape, generator=generator), int(t)
            )
            error = (images - x0).square().mean().item()
            rows.append((network.log_snr(t), epsilon.square().mean().item(), error))
        self.log_snrs, self.gammas, self.errors = np.array(rows).T

    def gamma(self, log_snr):
        return np.interp(log_snr, self.log_snrs, self.gammas)

    def error(self, log_snr):
        """V of the nearest level."""
        return self.errors[np.abs(self.log_snrs - log_snr).argmin()]


def addim(network, measured, x, timesteps, share):
    for t, s in steps_of(timesteps):
        x0, epsilon = network.predict(x, t)
        (a, sigma), (a_s, sigma_s) = network.level(t), network.level(s)
        missing = measured.error(network.log_snr(t)) * epsilon[0].numel()
        norm = epsilon.square().sum((1, 2, 3), keepdim=True)
        lacking = share * (a_s - a * sigma_s / sigma) ** 2 * missing / norm if s is not None else 0.0
        x = a_s * x0 + (sigma_s**2 + lacking) ** 0.5 * epsilon
    return x


def exponential_integrator(network, x, timesteps, weight_of):
    """Second order in g, where N / a = exp(-int (1 - l)) g; the last step is x0_hat."""
    last = None
    for t, s in steps_of(timesteps):
        x0, epsilon = network.predict(x, t)
        if s is None:
            return x0
        (a, sigma), here, there = network.level(t), network.log_snr(t), network.log_snr(s)
        weight = float(weight_of(here))
        g = weight * x0 - (1 - weight) * (sigma / a) * epsilon
        slope = 0.0
        if last is not None:
            change = np.exp(-integral(lambda at: 1 - weight_of(at), last[0], here))
            slope = (g - last[1] * change) / (here - last[0])
        linear, constant, first_order = coefficients(weight_of, here, there)
        x = network.level(s)[0] * (linear * x / a + constant * g + first_order * slope)
        last = here, g
    return x


def coefficients(weight_of, here, there):
    """Of x / a, of g and of its slope in the exact solution of d(x / a)/dlam = -l x / a + N / a over a step."""
    grid = np.linspace(here, there, INTEGRATION_POINTS)
    weights = weight_of(grid)
    decay = -cumulative(weights, grid)
    kernel = np.exp(decay[-1] - decay) * np.exp(-cumulative(1 - weights, grid))
    return np.exp(decay[-1]), np.trapezoid(kernel, grid), np.trapezoid(kernel * (grid - here), grid)


def integral(function, first, last):
    grid = np.linspace(first, last, INTEGRATION_POINTS)
    return np.trapezoid(function(grid), grid)


def cumulative(values, grid):
    return np.append(0.0, np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(grid)))


def steps_of(timesteps):
    return zip(timesteps, [*timesteps[1:], None], strict=True)


def samplers(network, measured):
    """{name: a function of the noise and the timesteps}."""
    weights = {
        "l = 1 (2M)": np.ones_like,
        "l = 0": np.zeros_like,
        "l = Gamma": measured.gamma,
        "l = 1 - Gamma": lambda at: 1 - measured.gamma(at),
    }
    return {
        ("DDIM" if share == 0 else f"aDDIM, c = {share}"): lambda x, timesteps, share=share: addim(
            network, measured, x, timesteps, share
        )
        for share in (0, 0.25, 0.75)
    } | {
        name: lambda x, timesteps, weight=weight: exponential_integrator(network, x, timesteps, weight)
        for name, weight in weights.items()
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--features", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--spacings", nargs="+", default=["trailing", "logsnr"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=512)
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    network = Network(pipeline.unet, pipeline.scheduler)
    train, test = (split_of(options.dataset, split, pipeline.unet.config)[0] for split in ("train", "test"))
    measured = Measured(network, to_model_range(train[: options.images]))
    distance = ImageDistance(load_features(options.features), test[1::2][:FIT_IMAGES])
    shape = (options.samples, *pipeline.samples.shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
    found = {}
    for name, draw in tqdm(samplers(network, measured).items(), desc="samplers"):
        for spacing in options.spacings:
            for count in options.steps:
                timesteps = spaced_timesteps(spacing, count, network.alphas_bar).tolist()
                samples = draw(noise, timesteps).clamp(-1, 1).float()
                found[f"{name}, {spacing}, {count} calls"] = distance(samples)
        result = {"machine": machine(), "options": told_options(options), "measured": found}
        file = RESULTS / f"samplers_tried_{Path(options.model).name}.json"
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
