"""The sampler and the steps of `sample` where none are named, and what is said of them."""

import subprocess
import sys
from typing import get_args, get_type_hints

import pytest
from diffusers import UNet2DModel
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler, cli
from ddpm_hf.commands.default_sampler import ALL, choose_steps, steps_from
from ddpm_hf.errors import InputError
from ddpm_hf.schedulers.sampler_table import USUAL_SAMPLERS, usual_options
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.training.arguments import TrainingArguments

PLAN = {"timestep_plans": {"4": [999, 700, 250, 20], "3": [999, 400, 20]}}


def pipeline_of(unet, **scheduler):
    return GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(**scheduler))


@pytest.mark.parametrize(
    "scheduler, steps, keeps_sampler, chosen, sampler, said",
    [
        ({}, None, False, 50, (0.0, 2), "given: 50 of ddim-2m; --steps all takes the 1000 of training."),
        ({}, None, True, 50, (1.0, 1), "50 of its sampler; --steps all takes the 1000"),
        ({"eta": 0.0}, None, False, 50, (0.0, 1), "50 of its sampler"),
        ({"num_train_timesteps": 12}, None, False, 12, (0.0, 2), "12 of ddim-2m"),
        (PLAN, None, False, 4, (1.0, 1), "4, the most that the model has a solver or a plan for"),
        ({}, ALL, False, 1000, (1.0, 1), ""),
        (PLAN, ALL, False, 1000, (1.0, 1), ""),
        ({}, 7, False, 7, (1.0, 1), ""),
    ],
)
def test_what_is_chosen_is_fast_and_said(tiny_unet, scheduler, steps, keeps_sampler, chosen, sampler, said):
    pipeline = pipeline_of(tiny_unet(), **scheduler)
    count, sentence = choose_steps(pipeline, steps, keeps_sampler)
    config = pipeline.scheduler.config
    assert (count, (config.eta, config.solver_order)) == (chosen, sampler)
    assert said in sentence and bool(said) == bool(sentence)


@pytest.mark.parametrize(
    "scheduler, chosen, sampler",
    [
        (ScoreSDEScheduler(sde="vp"), 50, "GaussianDiffusionScheduler"),
        (ScoreSDEScheduler(sde="vp", corrector="langevin"), 200, "ScoreSDEScheduler"),
        (ScoreSDEScheduler(sde="vp", prediction_type="score"), 200, "ScoreSDEScheduler"),
        (ScoreSDEScheduler(sde="sub_vp"), 200, "ScoreSDEScheduler"),
        (EDMScheduler(), 18, "EDMScheduler"),
    ],
)
def test_a_process_in_continuous_time_gets_the_steps_that_it_needs(tiny_unet, scheduler, chosen, sampler):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), scheduler)
    assert choose_steps(pipeline, None, False)[0] == chosen
    assert type(pipeline.scheduler).__name__ == sampler


@pytest.mark.parametrize("variance_type", ["learned_range", "npr"])
def test_a_learned_variance_is_a_sampler(tiny_unet, variance_type):
    pipeline = pipeline_of(tiny_unet(variance_head=variance_type), variance_type=variance_type)
    assert choose_steps(pipeline, None, False)[0] == 50
    assert pipeline.scheduler.config.variance_type == variance_type and pipeline.scheduler.config.eta == 1


def test_every_process_of_training_has_options_for_a_first_picture():
    assert {*USUAL_SAMPLERS} == {*get_args(get_type_hints(TrainingArguments)["process"])}
    assert (
        usual_options("vp", 10) == "--recipe ddim-2m --steps 10"
        and usual_options("ve", 1000) == "--recipe ancestral --steps 100"
    )


def test_a_ve_process_is_sampled_by_its_ancestral_step():
    """Its reverse diffusion and its flow need hundreds of steps before the noise has gone."""
    config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "time_embedding_type": "fourier"}
    blocks = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(**config, **blocks, norm_num_groups=4, layers_per_block=1, add_attention=False)
    pipeline = GaussianDiffusionPipeline(unet, ScoreSDEScheduler(sde="ve"))
    assert choose_steps(pipeline, None, False)[0] == 100
    assert pipeline.scheduler.config.predictor == "ancestral"
    assert choose_steps(pipeline, None, True)[0] == 200


def test_steps_are_numbers_or_all():
    assert (steps_from(None), steps_from("all"), steps_from("25")) == (None, ALL, 25)
    for wrong in ("0", "-3", "many", "2.5", ""):
        with pytest.raises(InputError, match=f"steps='{wrong}' must be a whole number from 1 on, or 'all'"):
            steps_from(wrong)


def test_the_command_draws_by_the_default_and_by_all(tiny_unet, tmp_path):
    pipeline_of(tiny_unet(), num_train_timesteps=60).save_pretrained(tmp_path / "model")
    for steps, said in (((), "50 of ddim-2m"), (("--steps", "all"), None)):
        file = tmp_path / f"{len(steps)}.png"
        arguments = ["sample", tmp_path / "model", "--num_images", 1, "--output", file, "--device", "cpu", *steps]
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        assert result.exit_code == 0 and file.is_file(), result.output
        assert (said in result.output) if said else "No --steps" not in result.output


def test_a_mistyped_class_is_answered_before_torch_is_imported(tiny_unet, tmp_path):
    unet = tiny_unet(num_classes=2, id2label={"0": "cats", "1": "dogs"})
    pipeline_of(unet).save_pretrained(tmp_path / "model")
    code = (
        "import sys; from ddpm_hf import cli\n"
        f"sys.argv = ['ddpm-hf', 'sample', {str(tmp_path / 'model')!r}, '--class', 'dogz']\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
    assert "class_labels='dogz' is not the name of a class: did you mean 'dogs'?" in done.stdout
    assert not list(tmp_path.glob("*.png"))
