"""Export to stock classes: the samples, the card, and the properties that are lost."""

import json
import re

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
)
from huggingface_hub import ModelCard
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser
from ddpm_hf.calibration import fit_solver
from ddpm_hf.errors import InputError
from ddpm_hf.hub.export import export_self_contained, export_stock

ROUNDING = {"rtol": 0, "atol": 1e-4}  # the same weights elsewhere in memory may round otherwise
PLANS = {"3": [999, 500, 20], "5": [999, 800, 500, 250, 0]}


def sample(pipeline, steps):
    pipeline.set_progress_bar_config(disable=True)
    return torch.from_numpy(
        pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="np").images
    )


def sample_ours(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipeline(2, generator=generator, output_type="np", **options).images)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def exported(tmp_path, unet, scheduler):
    GaussianDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    losses = export_stock(str(tmp_path / "model"), tmp_path / "stock")
    return DiffusionPipeline.from_pretrained(tmp_path / "stock"), losses


def test_a_model_of_stock_classes_loses_nothing(tmp_path, stock_unet):
    scheduler = GaussianDiffusionScheduler(
        variance_type="fixed_large", timestep_spacing="trailing", clip_sample_range=2.0
    )
    pipeline, losses = exported(tmp_path, stock_unet, scheduler)
    assert losses == [] and type(pipeline) is DDPMPipeline and type(pipeline.scheduler) is DDPMScheduler
    assert pipeline.scheduler.config.clip_sample_range == 2.0
    stock = DDPMPipeline(stock_unet, DDPMScheduler.from_config(scheduler.config))
    assert_close(sample(pipeline, 6), sample(stock, 6), **ROUNDING)
    assert files(tmp_path / "stock") == [
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    for file in files(tmp_path / "stock")[:-1]:
        assert "_ddpm_hf" not in (tmp_path / "stock" / file).read_text(encoding="utf-8") and str(tmp_path) not in file
    card = (tmp_path / "stock" / "README.md").read_text(encoding="utf-8")
    assert "do not hold" not in card and "few steps" not in card


@pytest.mark.parametrize("head, kind", [(None, "analytic"), ("npr", "npr"), ("learned_range", "learned")])
def test_without_what_only_ours_can_read_it_samples_as_fixed_small(tmp_path, tiny_unet, head, kind):
    gamma = [0.99] * 1000 if kind == "analytic" else None
    scheduler = GaussianDiffusionScheduler(variance_type=kind, mean_square_epsilon=gamma, clip_variance_pixels=2.0)
    unet = tiny_unet(variance_head=head)
    pipeline, losses = exported(tmp_path, unet, scheduler)
    assert f"the variance `{kind}`; here it is `fixed_small`" in losses
    assert any("head" in loss for loss in losses) == (head is not None) and any("2 pixels" in loss for loss in losses)
    ours = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())
    assert_close(sample(pipeline, 6), sample_ours(ours, num_inference_steps=6), **ROUNDING)
    assert pipeline.unet.config.out_channels == 1
    card = (tmp_path / "stock" / "README.md").read_text(encoding="utf-8")
    assert all(f"- {loss}\n" in card for loss in losses)


def test_a_learned_range_stays(tmp_path, tiny_unet):
    unet = tiny_unet(variance_head="learned_range")
    pipeline, losses = exported(tmp_path, unet, GaussianDiffusionScheduler(variance_type="learned_range"))
    assert losses == [] and pipeline.scheduler.config.variance_type == "learned_range"
    ours = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(variance_type="learned_range"))
    assert_close(sample(pipeline, 6), sample_ours(ours, num_inference_steps=6), **ROUNDING)


def test_the_lines_of_the_card_sample_at_the_planned_timesteps(tmp_path, stock_unet):
    scheduler = GaussianDiffusionScheduler(timestep_plans=PLANS, eta=0.0, solver_order=2)
    _, losses = exported(tmp_path, stock_unet, scheduler)
    assert len(losses) == 2 and losses[0].startswith("eta 0")
    card = ModelCard.load(tmp_path / "stock" / "README.md")
    assert card.data.library_name == "diffusers"
    blocks = re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)
    names = {}
    # Not the whole chain of the first lines: it is long.
    exec(
        blocks[0]
        .replace('"stock"', f'"{tmp_path / "stock"}"')
        .replace("num_inference_steps=1000", "num_inference_steps=2"),
        names,
    )
    exec(blocks[1], names)
    assert names["image"].size == (8, 8) and names["TIMESTEPS"] == {int(k): v for k, v in PLANS.items()}
    ours = GaussianDiffusionPipeline(stock_unet, GaussianDiffusionScheduler())
    for count, timesteps in PLANS.items():
        assert_close(sample(names["pipeline"], int(count)), sample_ours(ours, timesteps=timesteps), **ROUNDING)


def test_fitted_solvers_are_said_to_be_lost(tmp_path, stock_unet):
    short = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    scheduler = fit_solver(stock_unet, short, [2, 3], num_paths=16, progress_bar=False)
    _, losses = exported(tmp_path, stock_unet, scheduler)
    assert "the solvers fitted to the network for 2, 3 steps; `DDPMScheduler` has no history" in losses


def test_spacings_that_are_only_ours_are_in_the_card(tmp_path, stock_unet):
    scheduler = GaussianDiffusionScheduler(timestep_spacing="logsnr")
    exported(tmp_path, stock_unet, scheduler)
    card = (tmp_path / "stock" / "README.md").read_text(encoding="utf-8")
    scheduler.set_timesteps(25)
    assert f"    25: {scheduler.timesteps.tolist()},\n" in card and "planned" not in card


def test_stock_pipelines_come_in(tmp_path, stock_unet):
    DDIMPipeline(stock_unet, DDIMScheduler()).save_pretrained(tmp_path / "model")
    assert export_stock(str(tmp_path / "model"), tmp_path / "stock") == ["eta 0; `DDPMScheduler` samples at eta 1"]
    export_self_contained(str(tmp_path / "model"), tmp_path / "ours")
    assert "pipeline.py" in files(tmp_path / "ours")
    assert GaussianDiffusionPipeline.from_pretrained(tmp_path / "ours").scheduler.config.eta == 0
    with pytest.raises(InputError, match="is not empty"):
        export_self_contained(str(tmp_path / "model"), tmp_path / "ours")


# Bad input ------------------------------------------------------------------------------------------------------------


def test_models_that_stock_classes_cannot_sample(tmp_path, tiny_unet):
    cases = [
        (tiny_unet(num_classes=3), DDPMScheduler(), "has class labels .4 of them"),
        (tiny_unet(), EulerDiscreteScheduler(), "has a EulerDiscreteScheduler"),
        (tiny_unet(sample_size=None), DDPMScheduler(), "has no sample_size"),
        (MLPDenoiser(in_channels=2, width=8), GaussianDiffusionScheduler(), "has a MLPDenoiser, which no stock"),
    ]
    for i, (network, scheduler, message) in enumerate(cases):
        GaussianDiffusionPipeline(network, scheduler).save_pretrained(tmp_path / str(i))
        with pytest.raises(InputError, match=message):
            export_stock(str(tmp_path / str(i)), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_what_is_no_such_model_and_where_there_is_something(tmp_path, stock_unet):
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(InputError, match="is not a pipeline folder, for it has no model_index.json"):
        export_stock(str(model), tmp_path / "stock")
    (model / "model_index.json").write_text(
        json.dumps({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="vqvae"):
        export_stock(str(model), tmp_path / "stock")
    with pytest.raises(InputError, match=r"is not empty \(model\): choose another folder"):
        export_stock(str(model), tmp_path)
