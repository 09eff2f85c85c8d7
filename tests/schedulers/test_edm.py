"""EDM's preconditioning, noise levels and sampler against the paper's formulas (tests/reference/edm.npz)."""

import pytest
import torch
from torch.testing import assert_close
from toy_densities import toy_score

from ddpm_hf.schedulers.edm import karras_sigmas, preconditioning
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.mark.parametrize("sigma_data", ["0.5", "1.0"])
def test_preconditioning_and_loss(reference, sigma_data):
    arrays, key = reference("edm"), f"precond/edm/sigma_data{sigma_data}"
    sigma = arrays["precond/sigma"]
    c = preconditioning(sigma, float(sigma_data))
    for name in c._fields:
        assert_close(getattr(c, name), arrays[f"{key}/{name}"], **CLOSE)
    scheduler = EDMScheduler(sigma_data=float(sigma_data))
    x0, noise, output = (arrays[f"{key}/loss/{name}"] for name in ("x0", "noise", "F"))
    x = scheduler.add_noise(x0, noise, sigma)
    assert_close(scheduler.network_input(x, sigma)[0], arrays[f"{key}/loss/network_input"], **CLOSE)
    denoised = scheduler.denoised(output, x, sigma)
    assert_close(denoised, arrays[f"{key}/loss/D"], **CLOSE)
    weight = scheduler.loss_weight(sigma)[:, None, None, None]
    assert_close(weight * (denoised - x0) ** 2, arrays[f"{key}/loss/elementwise"], **CLOSE)


def test_training_noise(reference):
    arrays = reference("edm")
    normal = arrays["precond/edm/training/normal"]
    sigmas = EDMScheduler().training_sigmas(torch.special.ndtr(normal))
    assert_close(sigmas, arrays["precond/edm/training/sigma"], rtol=1e-7, atol=0)


def test_noise_levels(reference):
    arrays = reference("edm")
    for steps in (5, 10, 18, 40):
        assert_close(karras_sigmas(steps), arrays[f"grid/edm/N{steps}/min0.002_max80.0_rho7.0"], **CLOSE)
        levels = karras_sigmas(steps, 0.02, 50.0, 3.0)
        assert_close(levels, arrays[f"grid/edm/N{steps}/min0.02_max50.0_rho3.0"], **CLOSE)


@pytest.mark.parametrize("churn", ["deterministic", "churn", "churn_all"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("toy", ["gauss", "gmm"])
@pytest.mark.parametrize("steps", [10, 18])
def test_the_chains_of_algorithm_2(reference, steps, toy, order, churn):
    arrays, key = reference("edm"), f"sample/N{steps}/{toy}/order{order}/{churn}"
    s_churn, s_tmin, s_tmax, s_noise = arrays[f"{key}/options"].tolist()
    scheduler = EDMScheduler(
        solver={1: "euler", 2: "heun"}[order], s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise
    )
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == (steps if order == 1 else 2 * steps - 1)
    score, noise, states = toy_score(arrays, toy), arrays[f"sample/N{steps}/noise"], arrays[f"{key}/x"]

    def network(x, sigma):
        """F for which D is the exact denoiser."""
        c = preconditioning(sigma, 0.5)
        denoised = x + sigma**2 * score(x, torch.ones_like(sigma), sigma)
        return (denoised - c.c_skip * x) / c.c_out

    added = (scheduler.begun[0] ** 2 - scheduler.sigmas[0] ** 2).sqrt() * s_noise
    x = arrays[f"sample/N{steps}/x_init"] + added * noise[0]
    reached = 0
    for call, t in enumerate(scheduler.timesteps):
        step_index = call if order == 1 else call // 2
        begins_next = order == 1 or call % 2 == 1
        given = noise[step_index + 1] if begins_next and step_index + 1 < steps else None
        x = scheduler.step(network(x, scheduler.call_sigmas[call]), t, x, noise=given).prev_sample
        if begins_next and step_index + 1 < steps:
            # The state of the arrays is before its churn.
            added = (scheduler.begun[step_index + 1] ** 2 - scheduler.sigmas[step_index + 1] ** 2).clamp(min=0).sqrt()
            expected = states[step_index + 1] + added * s_noise * given
            assert_close(x, expected, rtol=0, atol=1e-9 * states.abs().max().item())
            reached += 1
    assert reached == steps - 1
    assert_close(x, states[-1], rtol=0, atol=1e-9 * states.abs().max().item())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "rk4"}, "solver='rk4' is not one of"),
        ({"sigma_min": 100.0}, "sigma_min=100.0 and sigma_max=80.0"),
        ({"sigma_data": 0.0}, "sigma_data=0.0 must be"),
        ({"s_churn": -1.0}, "s_churn=-1.0 must be"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        EDMScheduler(**options)
