"""Every number of `ScoreSDEScheduler` against the published implementation's (tests/reference), in float64."""

import pytest
import torch
from torch.testing import assert_close
from toy_densities import toy_score

from ddpm_hf import ScoreSDEScheduler
from ddpm_hf.schedulers.langevin import annealed_langevin

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
# 1 - exp(-B) at t = 1e-5 loses digits in the code of the arrays.
CLOSE_AT_THE_DATA = {"rtol": 1e-7, "atol": 1e-10}
SDES = {"vp": "vp", "vp_short": "vp", "subvp": "sub_vp", "ve": "ve"}
SDES |= {"vp_other": "vp", "subvp_other": "sub_vp", "ve_other": "ve"}
PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "none": "none",
}
CORRECTORS = {"langevin": "langevin", "ald": "annealed_langevin", "none": "none"}


def scheduler_of(name, arrays=None, **options):
    """The scheduler of the arrays' process; those of pc.npz have the default ranges of the SDEs."""
    for key in ("beta_min", "beta_max", "sigma_min", "sigma_max"):
        if arrays is not None and f"{name}/{key}" in arrays.keys:
            options[key] = arrays[f"{name}/{key}"].item()
    if arrays is not None:
        options["num_train_timesteps"] = arrays[f"{name}/N"].item()
    return ScoreSDEScheduler(sde=SDES[name], prediction_type="score", **options)


@pytest.mark.parametrize("name", SDES)
def test_the_process_has_the_published_marginals_drift_and_discrete_form(reference, name):
    arrays = reference("score_sde")
    scheduler = scheduler_of(name, arrays)
    t, x0, noise, x = (arrays[f"{name}/{key}"] for key in ("t", "x0", "noise", "x"))

    mean, std = scheduler.marginal(x0, t)
    assert_close(mean, arrays[f"{name}/mean"], **CLOSE)
    assert_close(std, arrays[f"{name}/std"], **CLOSE_AT_THE_DATA)
    assert_close(scheduler.add_noise(x0, noise, t), x, **CLOSE_AT_THE_DATA)
    drift, diffusion = scheduler.sde(x, t)
    assert_close(drift, arrays[f"{name}/drift"], **CLOSE)
    assert_close(diffusion, arrays[f"{name}/diffusion"], **CLOSE_AT_THE_DATA)
    f, gain = scheduler.discretize(x, t)
    assert_close(f, arrays[f"{name}/discretize/f"], **CLOSE)
    assert_close(gain, arrays[f"{name}/discretize/G"], **CLOSE_AT_THE_DATA)
    assert_close(scheduler.prior_log_prob(arrays[f"{name}/prior/z"]), arrays[f"{name}/prior/logp"], **CLOSE)
    for row in range(len(t)):  # one time for all, as a number
        assert_close(scheduler.marginal(x0[row : row + 1], t[row].item())[0], mean[row : row + 1], **CLOSE)


@pytest.mark.parametrize("toy", ["gauss", "gmm"])
@pytest.mark.parametrize("name", SDES)
def test_the_flow_has_the_published_drift(reference, name, toy):
    arrays = reference("score_sde")
    scheduler = scheduler_of(name, arrays)
    score = arrays[f"{name}/{toy}/score"]
    drift = scheduler.probability_flow_drift(arrays[f"{name}/x"], arrays[f"{name}/t"], score)
    assert_close(drift, arrays[f"{name}/{toy}/reverse/flow1/drift"], **CLOSE_AT_THE_DATA)


@pytest.mark.parametrize(
    ("name", "predictor", "flow"),
    [
        *[(name, "euler_maruyama", 0) for name in ("vp", "subvp", "ve")],
        *[(name, "reverse_diffusion", flow) for name in ("vp", "subvp", "ve") for flow in (0, 1)],
        *[(name, "ancestral_sampling", 0) for name in ("vp", "ve")],
    ],
)
@pytest.mark.parametrize("steps", [25, 1000])
def test_a_step_of_a_predictor(reference, name, steps, predictor, flow):
    arrays, key = reference("predictor_corrector"), f"step/{name}/N{steps}"
    expected = f"{key}/{predictor}/flow{flow}/x"
    scheduler = scheduler_of(
        name, num_train_timesteps=steps, predictor=PREDICTORS[predictor], probability_flow=bool(flow)
    )
    t, x, noise, score = (arrays[f"{key}/{part}"] for part in ("t", "x", "noise", "score"))
    step = scheduler.step(score, t, x, noise=noise[0])
    assert_close(step.prev_sample, arrays[expected], **CLOSE)
    assert_close(step.prev_sample_mean, arrays[expected + "_mean"], **CLOSE)


@pytest.mark.parametrize("snr", ["0.16", "0.075"])
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
@pytest.mark.parametrize("steps", [25, 1000])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_a_step_of_a_corrector(reference, name, steps, corrector, snr):
    arrays, key = reference("predictor_corrector"), f"step/{name}/N{steps}"
    scheduler = scheduler_of(name, num_train_timesteps=steps, corrector=CORRECTORS[corrector], snr=float(snr))
    t, x, noise, score = (arrays[f"{key}/{part}"] for part in ("t", "x", "noise", "score"))
    step = scheduler.correct(score, t, x, noise=noise[0])
    assert_close(step.prev_sample, arrays[f"{key}/{corrector}/snr{snr}/n1/x"], **CLOSE)
    assert_close(step.prev_sample_mean, arrays[f"{key}/{corrector}/snr{snr}/n1/x_mean"], **CLOSE)


def test_every_published_chain(reference):
    arrays = reference("predictor_corrector")
    chains = [key.removesuffix("/options") for key in arrays.keys if key.endswith("/options")]
    assert len(chains) > 50
    for chain in chains:
        compare_chain(arrays, chain)


def compare_chain(arrays, chain):
    """Runs a chain of the arrays with the exact score and the stored noise; compares its states and its end."""
    _, steps, name, toy, samplers, *kind = chain.split("/")
    predictor, corrector = samplers.split("+")
    snr, correct_steps, eps, *_ = np_strings(arrays, f"{chain}/options")
    steps = int(steps[1:])
    scheduler = scheduler_of(
        name,
        num_train_timesteps=steps,
        predictor=PREDICTORS[predictor],
        corrector=CORRECTORS[corrector],
        snr=float(snr),
        correct_steps=int(correct_steps),
        sampling_eps=float(eps),
        probability_flow="flow" in kind,
    )
    score = toy_score(arrays, toy)
    x = arrays[f"chain/N{steps}/x_T_standard"] * scheduler.init_noise_sigma
    noise, states = iter(arrays[f"chain/N{steps}/noise"]), []

    def score_at(x, t):
        return score(x, *levels_given(scheduler, t, "discrete" in kind))

    for t in scheduler.timesteps:
        for _ in range(scheduler.config.correct_steps if corrector != "none" else 0):
            x = scheduler.correct(score_at(x, t), t, x, noise=next(noise)).prev_sample
        step = scheduler.step(score_at(x, t), t, x, noise=None if predictor == "none" else next(noise))
        x = step.prev_sample
        states.append(x)
    expected = arrays[f"{chain}/x"] if f"{chain}/x" in arrays.keys else None
    if expected is not None:
        rows = range(steps) if len(expected) == steps else [0, 1, 2, steps - 3, steps - 2, steps - 1]
        assert_close(torch.stack([states[row] for row in rows]), expected, **chain_tolerance(expected), msg=chain)
    final = arrays[f"{chain}/final_denoised"]
    assert_close(step.prev_sample_mean, final, **chain_tolerance(final), msg=chain)


@pytest.mark.parametrize(
    ("chain", "time_input"),
    [
        ("vp/gmm/ancestral_sampling+none", "timestep"),
        ("ve/gmm/ancestral_sampling+none", "reversed_timestep"),
        ("ve/gmm/reverse_diffusion+langevin", "reversed_timestep"),
    ],
)
def test_discrete_networks_are_given_the_published_timesteps(reference, chain, time_input):
    arrays, eps = reference("predictor_corrector"), {"vp": 1e-3, "ve": 1e-5}[chain[:2]]
    labels = arrays[f"chain/N50/{chain}/discrete/labels"]
    scheduler = scheduler_of(chain[:2], num_train_timesteps=50, sampling_eps=eps, time_input=time_input)
    given = scheduler.network_time(scheduler.timesteps).repeat_interleave(len(labels) // 50)
    assert_close(given.double(), labels.double(), rtol=1e-6, atol=0)


def chain_tolerance(expected):
    return {"rtol": 0, "atol": 1e-9 * max(1, expected.abs().max().item())}


def np_strings(arrays, key):
    return arrays.arrays[key].tolist()


def levels_given(scheduler, t, discrete):
    """(a, sigma) of the score that a chain was made with: that of t, or of the discrete level at or below it."""
    if not discrete:
        return scheduler.process.levels(t)
    form = scheduler._discrete_form()
    if scheduler.config.sde == "ve":
        return torch.ones_like(t), form.table("variances", t).sqrt()
    alpha_bar = (1 - form.betas).cumprod(0)[form.level(t)]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def test_annealed_langevin_dynamics_of_ncsn(reference):
    arrays = reference("predictor_corrector")
    sigmas, score = arrays["ncsn/sigmas"], toy_score(arrays, "gmm")
    steps_each, step_size = arrays["ncsn/steps_each"].item(), arrays["ncsn/step_size"].item()
    noises = iter(arrays["ncsn/noise"])
    x = annealed_langevin(
        lambda x, sigma: score(x, torch.ones_like(sigma), sigma),
        sigmas,
        arrays["ncsn/x_init"],
        step_size,
        steps_each,
        noise_like=lambda x: next(noises),
    )
    assert_close(x, arrays["ncsn/final"], **chain_tolerance(arrays["ncsn/final"]))
