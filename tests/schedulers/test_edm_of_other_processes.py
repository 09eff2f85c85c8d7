"""VP, VE and Improved DDPM as EDM writes them (Karras et al. 2022, table 1; tests/reference/edm.npz) are processes of ours.

EDM has x0 + sigma n where a process has x_t = a_t x0 + sigma_t n: sigma is sigma_t / a_t, and s is a_t.
"""

import pytest
import torch
from torch.testing import assert_close
from toy_densities import toy_score

from ddpm_hf import GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.schedulers.gaussian_kernel import prediction_weights

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
STEPS = (5, 10, 18, 40)


def noise_to_signal(scheduler, t):
    signal, sigma = scheduler.process.levels(t)
    return sigma / signal


@pytest.fixture
def vp(reference):
    arrays = reference("edm")
    assert arrays["precond/vp/beta_min"] + arrays["precond/vp/beta_d"] == 20
    steps = int(arrays["precond/vp/M"])
    return ScoreSDEScheduler(sde="vp", num_train_timesteps=steps, predictor="euler_maruyama")


def test_a_vp_network_predicts_the_noise_of_x0_plus_sigma_n(reference, vp):
    """c_noise is the timestep at which sigma is reached, c_in is a_t, and D is x_t / a_t - sigma eps."""
    arrays, sigma = reference("edm"), reference("edm")["precond/sigma"]
    t = arrays["precond/vp/c_noise"] / 999
    assert_close(noise_to_signal(vp, t), sigma, rtol=1e-7, atol=0)
    signal, sigma_t = vp.process.levels(t)
    assert_close(signal, arrays["precond/vp/c_in"], **CLOSE)
    of_sample, of_output, *_ = prediction_weights("epsilon", signal, sigma_t)
    assert_close(of_sample * signal, arrays["precond/vp/c_skip"], **CLOSE)
    assert_close(of_output, arrays["precond/vp/c_out"], rtol=1e-7, atol=0)


def test_times_of_training_and_of_sampling_have_the_noise_of_the_paper(reference, vp):
    arrays = reference("edm")
    first = arrays["precond/vp/epsilon_t"]
    t = first + arrays["precond/vp/training/u"] * (1 - first)
    assert_close(noise_to_signal(vp, t), arrays["precond/vp/training/sigma"], **CLOSE)
    ve = ScoreSDEScheduler(sde="ve", sigma_min=0.02, sigma_max=100.0)
    assert_close(ve.process.levels(arrays["precond/ve/training/u"])[1], arrays["precond/ve/training/sigma"], **CLOSE)
    for steps in STEPS:
        vp.set_timesteps(steps)
        assert_close(vp.timesteps, arrays[f"grid/vp/N{steps}/t"], **CLOSE)
        assert_close(noise_to_signal(vp, vp.timesteps), arrays[f"grid/vp/N{steps}/sigma"], **CLOSE)
        assert_close(vp.process.levels(vp.timesteps)[0], arrays[f"grid/vp/N{steps}/s"], **CLOSE)
        even = torch.linspace(1, 0, steps, dtype=torch.float64)
        assert_close(ve.process.levels(even)[1], arrays[f"grid/ve/N{steps}/sigma"], **CLOSE)


def test_the_cosine_chain_of_improved_ddpm_has_the_noise_of_the_paper(reference):
    """The paper counts j from the largest noise, u_j is that of timestep M - 1 - j, and c_noise is the timestep."""
    arrays = reference("edm")
    alpha_bar = GaussianDiffusionScheduler(beta_schedule="squaredcos_cap_v2").alpha_bar(torch.arange(1000)).double()
    levels = ((1 - alpha_bar) / alpha_bar).sqrt().flip(0)
    for steps in STEPS:
        assert_close(
            levels[arrays[f"grid/iddpm/N{steps}/j"]], arrays[f"grid/iddpm/N{steps}/sigma"][:-1], rtol=1e-7, atol=0
        )
    nearest = (levels[:, None] - arrays["precond/sigma"]).abs().argmin(0)
    known = arrays["precond/iddpm/nearest_j"] < 1000  # u_1000 = 0 is clean data, which no timestep has
    assert_close(999 - nearest[known], arrays["precond/iddpm/c_noise"][known].long(), rtol=0, atol=0)


@pytest.mark.parametrize("order", [1, 2])
def test_steps_along_the_flow_of_vp(reference, vp, order):
    """Euler's and Heun's steps in the paper's times, whose slope is our drift of the probability flow."""
    arrays, key = reference("edm"), "sample_general/vp"
    score, x, times = toy_score(arrays, "gmm"), arrays[f"{key}/x_init"], arrays[f"{key}/t"]
    expected = arrays[f"{key}/gmm/order{order}/x"]

    def slope(x, t):
        return vp.probability_flow_drift(x, t, score(x, *vp.process.levels(t)))

    assert_close(x, expected[0], **CLOSE)
    for t, later, after in zip(times, times[1:], expected[1:], strict=False):
        first = slope(x, t)
        moved = x + (later - t) * first
        x = moved if order == 1 else x + (later - t) * (first + slope(moved, later)) / 2
        assert_close(x, after, rtol=0, atol=1e-9 * expected.abs().max().item())
