import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.samplers import (
    calls_of_a_step,
    check_sampler,
    default_samplers,
    make_sampler,
    pipeline_with,
)
from ddpm_hf.schedulers.sampler_table import SAMPLERS

MODEL = GaussianDiffusionScheduler(mean_square_epsilon=[0.5] * 1000, timestep_plans={"4": [999, 500, 200, 10]})


class OnePoint(ExactDenoiser):
    """The exact noise for data that are always (0.3, -0.2), and a head without meaning."""

    scale = 1.0

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        (noise,) = super().forward(self.scale * sample, timestep, return_dict=False)
        return (torch.cat([noise, torch.zeros_like(noise)], dim=1),)


ONE_POINT = OnePoint.from_points(torch.tensor([[0.3, -0.2]], dtype=torch.float64), MODEL)
HALF = OnePoint.from_points(torch.tensor([[0.3, -0.2]], dtype=torch.float64), MODEL)
HALF.scale = 0.5
# Points have no spatial frequencies.
OF_POINTS = [name for name in SAMPLERS if not name.startswith("dct")]


def draw(sampler, network, x_T, steps, generator):
    pipeline = pipeline_with(sampler, network)
    return pipeline(latents=x_T, num_inference_steps=steps, generator=generator, output_type="latent").images


@pytest.mark.parametrize("steps", [4, 7, 30])
@pytest.mark.parametrize("name", [*OF_POINTS, "analytic-ddpm@optimal", "ddim@karras", "unipc@trailing"])
def test_every_sampler_finds_the_only_point_in_just_as_many_calls(name, steps):
    """Every one of them is exact where x0_hat is always the same, but for the noise that a variance leaves at the end."""
    check_sampler(name, MODEL, steps)
    calls = []
    hook = ONE_POINT.register_forward_pre_hook(lambda network, inputs: calls.append(int(inputs[1])))
    sampler = make_sampler(name, MODEL)
    x_T = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    ends = draw(sampler, ONE_POINT, x_T, steps, torch.Generator().manual_seed(1))
    hook.remove()
    assert calls == sampler.timesteps.tolist() and len(calls) == steps
    assert_close(ends.float(), torch.tensor([0.3, -0.2]).expand(50, 2), rtol=0, atol=2e-3)


def test_a_beginning_that_diffusers_repeats_is_refused():
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    check_sampler("dpmpp-2m-karras", cosine, 3)
    with pytest.raises(InputError, match="begins twice at timestep 998 in 5 steps of this noise schedule"):
        check_sampler("dpmpp-2m-karras", cosine, 5)


def test_the_same_noise_gives_the_same_samples():
    x_T = torch.randn(5, 2)
    for name in OF_POINTS:
        twice = [draw(make_sampler(name, MODEL), HALF, x_T, 4, torch.Generator().manual_seed(0)) for _ in range(2)]
        assert torch.equal(*twice)


def test_stock_samplers_are_what_from_config_makes_of_the_models():
    sampler = make_sampler("dpmpp-2m-karras", DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    assert isinstance(sampler, DPMSolverMultistepScheduler) and sampler.config.use_karras_sigmas
    assert sampler.config.beta_schedule == "squaredcos_cap_v2" and not sampler.config.thresholding
    assert sampler.config.timestep_spacing == "leading"  # inherited: its own default is linspace
    assert make_sampler("dpmpp-2m@linspace", DDPMScheduler()).config.timestep_spacing == "linspace"


def test_it_is_the_loop_of_the_stock_pipeline(stock_unet):
    images = DDPMPipeline(stock_unet, DDPMScheduler())(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=6, output_type="np"
    ).images
    generator = torch.Generator().manual_seed(3)
    x_T = torch.randn(2, 1, 8, 8, generator=generator)
    ends = draw(make_sampler("diffusers-ddpm", MODEL), stock_unet, x_T, 6, generator)
    assert_close((ends / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["diffusers-ddpm", "diffusers-ddim", "ddim", "unipc"])
def test_a_variance_head_goes_to_those_who_read_it(name):
    """DDIMScheduler keeps `learned_range` in its config, and fails on two times the channels."""
    model = DDPMScheduler(variance_type="learned_range")
    ends = draw(make_sampler(name, model), ONE_POINT, torch.randn(3, 2), 5, torch.Generator().manual_seed(0))
    assert ends.shape == (3, 2) and ends.isfinite().all()


def test_plans():
    sampler = make_sampler("ddim-2m@planned", MODEL)
    sampler.set_timesteps(4)
    assert sampler.timesteps.tolist() == MODEL.config.timestep_plans["4"]
    make_sampler("ddim-2m", MODEL)
    with pytest.raises(InputError, match="'ddim@planned' has plans for 4 steps and none for 5"):
        check_sampler("ddim@planned", MODEL, 5)
    with pytest.raises(InputError, match="no timestep_plans: `ddpm-hf calibrate MODEL .* --plan"):
        make_sampler("ddim@planned", DDIMScheduler())


@pytest.mark.parametrize(
    "name, steps, message",
    [
        ("best", 5, "sampler 'best' is not known; there are ddpm, .*unipc"),
        ("best@karras", 5, "'best@karras' is not known"),
        ("ddim@often", 5, "spacing of the sampler 'ddim@often' is not one of .*'logsnr'"),
        ("unipc@often", 5, "spacing of the sampler 'unipc@often' is not one of 'leading', 'linspace', 'trailing'"),
        ("ddim", 1001, "'ddim' cannot take 1001 steps: .* must be in 1 .. 1000"),
        ("ddim", 0, "'ddim' cannot take 0 steps"),
        ("diffusers-ddpm", 1001, "'diffusers-ddpm' cannot take 1001 steps"),
        ("diffusers-ddim", 0, "'diffusers-ddim' cannot take 0 steps"),
    ],
)
def test_what_no_sampler_does(name, steps, message):
    with pytest.raises(InputError, match=message):
        check_sampler(name, MODEL, steps)


def test_the_model_s_fitted_solvers_are_a_sampler_too():
    fitted = fit_solver(ONE_POINT, MODEL, [3], num_paths=16, progress_bar=False)
    check_sampler("fitted", fitted, 3)
    ends = draw(make_sampler("fitted", fitted), ONE_POINT, torch.randn(50, 2), 3, None)
    assert_close(ends.float(), torch.tensor([0.3, -0.2]).expand(50, 2), rtol=0, atol=2e-3)
    with pytest.raises(InputError, match="solvers fitted for 3 steps and none for 4"):
        check_sampler("fitted", fitted, 4)
    with pytest.raises(InputError, match="has no fitted_solvers: `ddpm-hf calibrate MODEL"):
        make_sampler("fitted", MODEL)


@pytest.mark.parametrize("name", ["ancestral", "predictor-corrector", "langevin"])
def test_samplers_of_continuous_time_make_as_many_calls(name):
    calls, sampler = [], make_sampler(name, MODEL)
    hook = ONE_POINT.register_forward_pre_hook(lambda network, inputs: calls.append(inputs[1]))
    x_T = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    steps = 300 // calls_of_a_step(sampler)
    check_sampler(name, MODEL, 300)
    draw(sampler, ONE_POINT, x_T, steps, torch.Generator().manual_seed(1))
    hook.remove()
    assert len(calls) == 300
    with pytest.raises(InputError, match="'predictor-corrector' makes 2 network calls in each step: .* and not 25"):
        check_sampler("predictor-corrector", MODEL, 25)


def test_a_model_in_continuous_time_has_samplers_of_its_own():
    variance_exploding = ScoreSDEScheduler(sde="ve")
    for name in default_samplers(variance_exploding):
        check_sampler(name, variance_exploding, 100)
    assert "ancestral" not in default_samplers(ScoreSDEScheduler(sde="sub_vp"))
    with pytest.raises(InputError, match="'unipc' is for a chain of betas, .* take some of euler-maruyama"):
        make_sampler("unipc", variance_exploding)
    with pytest.raises(InputError, match="Recipe 'ddim': .* is not of a DDPM but in continuous time"):
        make_sampler("ddim", variance_exploding)


@pytest.mark.parametrize("name", ["ddim-2m", "unipc"])
def test_a_vp_process_has_the_samplers_of_its_chain_too(name):
    process = ScoreSDEScheduler(sde="vp", num_train_timesteps=100)
    sampler = make_sampler(name, process)
    exact = ExactDenoiser.from_points(
        torch.tensor([[0.3, -0.2]]), GaussianDiffusionScheduler.from_config(process.config)
    )
    ends = draw(sampler, exact, torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), 8, None)
    assert_close(ends.float(), torch.tensor([0.3, -0.2]).expand(50, 2), rtol=0, atol=2e-3)
