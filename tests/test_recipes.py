import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.recipes import RECIPES, check_head, with_recipe
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, knots
from ddpm_hf.schedulers.sampler_table import SDE_RECIPES

SPECTRUM = CovarianceSpectrum((1, 4, 4), knots(1000), torch.ones(len(knots(1000)), 1, 4, 4)).to_config()
MEASURED = {"mean_square_epsilon": [0.5] * 1000, "covariance_spectrum": SPECTRUM}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_scheduler_that_steps(name):
    scheduler = with_recipe(GaussianDiffusionScheduler(**MEASURED), name)
    assert {key: scheduler.config[key] for key in RECIPES[name]} == RECIPES[name]
    scheduler.set_timesteps(3)
    x_t = torch.randn(2, 1, 4, 4)
    for t in scheduler.timesteps:
        x_t = scheduler.step(torch.rand(2, 2, 4, 4), t, x_t).prev_sample
    assert x_t.isfinite().all()


def test_the_process_stays_and_the_scheduler_is_left_alone():
    options = {"beta_schedule": "sigmoid", "prediction_type": "v_prediction", "clip_sample": False}
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=500, eta=0.3, **options)
    scheduler.set_timesteps(7)
    before, timesteps = dict(scheduler.config), scheduler.timesteps.clone()
    other = with_recipe(scheduler, "ddim")
    assert dict(scheduler.config) == before and torch.equal(scheduler.timesteps, timesteps)
    assert_close(other.alphas_cumprod, scheduler.alphas_cumprod)
    assert (other.config.prediction_type, other.config.clip_sample, other.config.eta) == ("v_prediction", False, 0)


@pytest.mark.parametrize("first", RECIPES)
def test_a_recipe_after_another_is_itself(first):
    model = GaussianDiffusionScheduler(**MEASURED)
    for name in ("ddpm", "analytic-ddim", "ddim-2m"):
        twice, once = with_recipe(with_recipe(model, first), name), with_recipe(model, name)
        assert dict(twice.config) == dict(once.config)


@pytest.mark.parametrize("stock, name", [(DDPMScheduler, "ddpm"), (DDIMScheduler, "ddim")])
def test_the_recipes_of_stock_samplers_do_what_these_do(stock, name):
    """On `leading`, where the constant stride of DDIMScheduler is right (diffusers#12633), and with nothing clipped."""
    model = DDPMScheduler(clip_sample=False)
    ends = []
    for scheduler in (with_recipe(model, name, timestep_spacing="leading"), stock.from_config(model.config)):
        generator = torch.Generator().manual_seed(0)
        x_t = torch.randn(2, 1, 4, 4, generator=generator)
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps:
            x_t = scheduler.step(0.9 * x_t, t, x_t, generator=generator).prev_sample
        ends.append(x_t)
    assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_the_last_noise_is_clipped_to_one_pixel_on_cosine_schedules():
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    pixels = {name: with_recipe(cosine, name).config.clip_variance_pixels for name in ("ddpm", "sn-ddpm", "sn-ddim")}
    assert pixels == {"ddpm": None, "sn-ddpm": 1, "sn-ddim": 1}
    assert with_recipe(DDPMScheduler(), "sn-ddpm").config.clip_variance_pixels == 2
    assert with_recipe(cosine, "sn-ddpm", clip_variance_pixels=3).config.clip_variance_pixels == 3


def test_plans_are_of_one_kernel_and_come_back_on_request():
    plans = {"3": [999, 400, 20]}
    model = GaussianDiffusionScheduler(timestep_plans=plans)
    assert with_recipe(model, "ddim").config.timestep_plans is None
    planned = with_recipe(model, "ddim", timestep_plans=plans)
    planned.set_timesteps(3)
    assert planned.timesteps.tolist() == plans["3"]


def test_a_recipe_with_a_spacing():
    plans = {"3": [999, 400, 20]}
    model = GaussianDiffusionScheduler(timestep_plans=plans)
    plain, spaced = (with_recipe(model, name).config for name in ("ddim-2m", "ddim-2m@logsnr"))
    assert {key for key in plain if plain[key] != spaced.get(key)} <= {"timestep_spacing", "_ddpm_hf"}
    assert (plain.timestep_spacing, spaced.timestep_spacing) == ("karras", "logsnr")
    assert with_recipe(model, "ddim@planned").config.timestep_plans == plans
    with pytest.raises(InputError, match="The model has no timestep_plans"):
        with_recipe(GaussianDiffusionScheduler(), "ddim@planned")
    with pytest.raises(InputError, match="spacing of the recipe 'ddim@logsrn' is not one of .*did you mean 'logsnr'"):
        with_recipe(model, "ddim@logsrn")
    with pytest.raises(InputError, match="spacing of the recipe 'ddim@' is not one of 'leading'"):
        with_recipe(model, "ddim@")


def test_what_a_recipe_lacks_is_named():
    with pytest.raises(InputError, match="recipe 'best' is not known; there are ddpm, ddpm-large"):
        with_recipe(DDPMScheduler(), "best")
    with pytest.raises(InputError, match="'analytic-ddim': .*ddpm-hf calibrate"):
        with_recipe(DDPMScheduler(), "analytic-ddim")
    with pytest.raises(InputError, match="'ddim': .*timestep_spacing='optimal' needs .*ddpm-hf calibrate"):
        with_recipe(DDPMScheduler(), "ddim", timestep_spacing="optimal")


@pytest.mark.parametrize("name", ["npr-ddpm", "sn-ddim", "ocm-ddpm", "iddpm"])
def test_a_recipe_that_reads_a_head_needs_a_network_with_it(tiny_unet, stock_unet, name):
    scheduler = with_recipe(DDPMScheduler(), name)
    kind = scheduler.config.variance_type
    with pytest.raises(InputError, match=f"{kind!r} needs a network with that head; this one has no variance head"):
        check_head(stock_unet, scheduler)
    check_head(UNet2DModel.from_config(stock_unet.config, out_channels=2), scheduler)  # does not say what its head is
    other = "learned_range" if kind != "learned_range" else "npr"
    with pytest.raises(InputError, match=f"this one has the head {other!r}.*--variance_head {kind}"):
        check_head(tiny_unet(variance_head=other), scheduler)
    check_head(tiny_unet(variance_head=kind), scheduler)


def test_a_head_is_known_from_what_a_stock_class_loads(tmp_path, tiny_unet):
    tiny_unet(variance_head="learned_range").save_pretrained(tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path)
    check_head(unet, with_recipe(DDPMScheduler(), "iddpm"))
    with pytest.raises(InputError, match="this one has the head 'learned_range'"):
        check_head(unet, with_recipe(DDPMScheduler(), "npr-ddpm"))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ddim-2m"])
def test_recipes_without_a_head_take_any_network(tiny_unet, stock_unet, name):
    for unet in (stock_unet, tiny_unet(variance_head="learned_range")):
        check_head(unet, with_recipe(DDPMScheduler(), name))


@pytest.mark.parametrize("name", SDE_RECIPES)
def test_recipes_of_continuous_time_read_a_stock_scheduler(name):
    scheduler = with_recipe(DDPMScheduler(200, beta_end=0.1), name)
    assert isinstance(scheduler, ScoreSDEScheduler)
    assert SDE_RECIPES[name].items() <= dict(scheduler.config).items()
    assert scheduler.config.beta_end == 0.1
    with pytest.raises(InputError, match="takes no spacing"):
        with_recipe(DDPMScheduler(), f"{name}@trailing")
