r"""Averages of the weights whose length can be chosen after training (Karras et al. 2024, section 3.1 and appendix C).

The power-function average of the weights theta after t updates is

    (gamma + 1) / t^(gamma + 1) * integral over tau from 0 to t of tau^gamma * theta(tau),

a mean over a fixed share of the training that forgets the initial weights. Its length is given by the relative
standard deviation of tau / t: sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)). For theta piecewise
constant between updates, averaging with decay (1 - 1/t)^(gamma + 1) computes the integral exactly.

Training keeps two or more such averages and saves snapshots of them. An average of any other length is approximated by
a linear combination of the snapshots, with the weights that bring the combined profile nearest to the desired one.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole, written_whole
from ddpm_hf.results import alone_in_free_folder, check_apart
from ddpm_hf.training.argument_checks import read_stds
from ddpm_hf.training.sharding import whole

FOLDER = "ema_snapshots"
NAME = re.compile(r"step-(\d+)_std-\d+\.\d+\.safetensors")
# The value at gamma = 0, the plain mean of all weights, which is the longest average.
LONGEST_STD = 1 / math.sqrt(12)


def gamma_of_std(std):
    """gamma > 0 of the profile tau^gamma whose relative standard deviation is `std`, from 0 to 1/sqrt(12).

    It is the largest real root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / std^2.
    """
    inverse = 1 / std**2
    return np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max().item()


# While training ------------------------------------------------------------------------------------------------------


def make_ema(parameters, args):
    """The kind of weight average that `args.ema` names."""
    if args.ema == "power":
        return PowerEMA(parameters, read_stds(args.ema_stds))
    return EMAModel(
        parameters,
        decay=args.ema_decay,
        use_ema_warmup=True,
        inv_gamma=args.ema_inv_gamma,
        power=args.ema_power,
        foreach=True,
    )


class PowerEMA(EMAModel):
    """Power-function averages of `parameters`; the average with the first of `stds` is saved and sampled.

    Args:
        parameters: the network's parameters.
        stds (`Sequence[float]`): relative standard deviations of the averages.
    """

    def __init__(self, parameters, stds):
        parameters = list(parameters)
        super().__init__(parameters, foreach=True)
        self.std = stds[0]
        self.gamma = gamma_of_std(self.std)
        self.others = [PowerEMA(parameters, [std]) for std in stds[1:]]

    def get_decay(self, optimization_step):
        return (1 - 1 / optimization_step) ** (self.gamma + 1)

    def step(self, parameters):
        parameters = list(parameters)
        super().step(parameters)
        for other in self.others:
            other.step(parameters)

    def to(self, device=None, dtype=None, non_blocking=False):
        super().to(device, dtype, non_blocking)
        for other in self.others:
            other.to(device, dtype, non_blocking)

    def state_dict(self):
        return super().state_dict() | {"others": [other.state_dict() for other in self.others]}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for other, state in zip(self.others, state_dict["others"], strict=True):
            other.load_state_dict(state)


def save_snapshots(ema, names, run_folder, is_main_process=True):
    """Writes one file per average of `ema`, with weights called `names`; every process must call this."""
    for average in (ema, *ema.others):
        weights = [whole(weight) for weight in average.shadow_params]
        if is_main_process:
            file = f"step-{average.optimization_step:06d}_std-{average.std:.3f}.safetensors"
            tensors = {name: weight.cpu().contiguous() for name, weight in zip(names, weights, strict=True)}
            # The file name has three digits of it. It is the only entry, as safetensors orders several at random.
            about = {"std": repr(average.std)}
            with written_whole(Path(run_folder) / FOLDER / file) as path:
                save_file(tensors, path, about)


# Afterwards ----------------------------------------------------------------------------------------------------------


def profile_products(steps_a, gammas_a, steps_b, gammas_b):
    r"""Inner products of the profiles of two lists of averages, float64, (A, B).

    A profile is p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) up to its step t, then 0. The integral of the product
    of two is (gamma_a + 1)(gamma_b + 1) / (gamma_a + gamma_b + 1) * (t_0 / t_1)^(gamma of the later) / t_1, where t_0
    and t_1 are the earlier and the later of t_a and t_b.
    """
    t_a, gamma_a = (np.asarray(values, np.float64)[:, None] for values in (steps_a, gammas_a))
    t_b, gamma_b = (np.asarray(values, np.float64)[None, :] for values in (steps_b, gammas_b))
    earlier, later = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    gamma_of_later = np.where(t_a > t_b, gamma_a, gamma_b)
    factor = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return factor * (earlier / later) ** gamma_of_later / later


def reconstruction_weights(steps, stds, step, std):
    """The weights x of snapshots for which sum_i x_i p_i is nearest, in mean square, to the profile of (step, std).

    They add up to 1, so that constant weights are reproduced. (The paper leaves the sum free; with few snapshots it
    misses 1 by up to some percent.)

    Args:
        steps, stds: steps and relative standard deviations of the snapshots, (N,).
        step (`int`), std (`float`): step and relative standard deviation of the desired average.

    Returns:
        x, float64, (N,), and the residual of the profile relative to its norm. By Cauchy-Schwarz, the error of the
        average is at most this residual, times the norms of the profile and of theta minus any constant.
    """
    gammas, gamma = [gamma_of_std(s) for s in stds], gamma_of_std(std)
    products = profile_products(steps, gammas, steps, gammas)
    with_target = profile_products(steps, gammas, [step], [gamma])[:, 0]
    square_of_target = profile_products([step], [gamma], [step], [gamma])[0, 0]
    # Profiles are normalized, so that early snapshots, which are short and high, do not count more than others.
    norms = np.sqrt(np.diag(products))
    scaled = products / np.outer(norms, norms)
    free, ones = np.linalg.lstsq(
        scaled, np.stack([with_target, np.ones_like(norms)], 1) / norms[:, None], rcond=1e-14
    )[0].T
    weights = free / norms + (1 - (free / norms).sum()) / (ones / norms).sum() * ones / norms
    square_left = square_of_target - 2 * weights @ with_target + weights @ products @ weights
    return weights, math.sqrt(max(square_left, 0) / square_of_target)


def list_snapshots(run_folder):
    """(step, std, path) of each snapshot, sorted by step and std."""
    found = [(NAME.fullmatch(path.name), path) for path in (Path(run_folder) / FOLDER).glob("step-*")]
    return sorted((int(match[1]), _std_of(path), path) for match, path in found if match)


def _std_of(path):
    with safe_open(path, "pt") as file:
        return float(file.metadata()["std"])


def reconstruct_average(run_folder, std, step=None):
    """The average of relative standard deviation `std` after `step` updates, from the snapshots of a run.

    Args:
        std (`float`): above 0 and below 1/sqrt(12) = 0.289; most accurate near the kept values.
        step (`int`, *optional*): by default the step of the last snapshot.

    Returns:
        The weights by name, float32, and the relative residual of `reconstruction_weights`.

    Raises:
        InputError: if there are no snapshots up to `step`, or `std` is out of range.
    """
    if not 0 < std < LONGEST_STD:
        raise InputError(
            f"std={std} is not allowed: it must be between 0 and {LONGEST_STD:.3f}, the mean over the whole training; "
            "0.05 to 0.15 are usual."
        )
    snapshots = list_snapshots(run_folder)
    if not snapshots:
        raise InputError(
            f"{run_folder} has no snapshots of averages in {FOLDER}: they are made by training with --ema power."
        )
    step = snapshots[-1][0] if step is None else step
    # Later snapshots contain weights from after the step of the average.
    snapshots = [snapshot for snapshot in snapshots if snapshot[0] <= step]
    if not snapshots or snapshots[-1][0] != step:
        steps = ", ".join(map(str, sorted({s for s, _, _ in list_snapshots(run_folder)})))
        raise InputError(f"step={step} is not one of the steps of the snapshots in {run_folder}: {steps}.")
    weights, share_left = reconstruction_weights([s for s, _, _ in snapshots], [s for _, s, _ in snapshots], step, std)
    total = {}
    for weight, (_, _, path) in zip(weights.tolist(), tqdm(snapshots, desc="snapshots", unit="file"), strict=True):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name).double() * weight
                total[name] = total[name].add_(tensor) if name in total else tensor
    return {name: tensor.float() for name, tensor in total.items()}, share_left


def save_reconstructed(run_folder, std, output_dir, step=None):
    """Writes the pipeline of a finished run with another average of its weights; returns the relative residual.

    Raises:
        InputError: as in `reconstruct_average`; if the run has no pipeline yet, or `output_dir` has files.
    """
    output_dir = Path(output_dir)
    with alone_in_free_folder(output_dir):
        if not (Path(run_folder) / "model_index.json").is_file():
            raise InputError(f"{run_folder} holds no pipeline: a run writes it at its end, so finish that first.")
        check_apart(output_dir, run_folder)
        return _save_reconstructed(run_folder, std, output_dir, step)


def _save_reconstructed(run_folder, std, output_dir, step):
    from ddpm_hf.hub.model_folder import load_pipeline

    weights, share_left = reconstruct_average(run_folder, std, step)
    pipeline = load_pipeline(str(run_folder))
    trained = (part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
    network = next(part for part in trained if dict(part.named_parameters()).keys() == weights.keys())
    network.load_state_dict(weights, strict=False)  # averages have no buffers
    with moved_in_whole(output_dir, last="model_index.json") as folder:
        pipeline.save_pretrained(folder)
    return share_left
