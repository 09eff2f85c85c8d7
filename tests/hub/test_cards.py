"""Model cards are complete and valid for the Hub, and never overwrite edited cards."""

import json
import shutil

import pytest
from hub_server import metadata_errors
from huggingface_hub import ModelCard

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.comparison_report import Measurement, write_report
from ddpm_hf.hub.cards import card_of, is_generated, save_card, write_card
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_folder import write_arguments

BOUND = {"total": 3.5, "standard_error": 0.05, "num_images": 300, "timesteps": [999, 500, 0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_unet):
    """A folder as a finished run leaves it, with a comparison in it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = TrainingArguments(
        output_dir=str(folder), max_train_steps=5, dataset="someone/cats", init_from="a/base"
    )
    write_arguments(arguments, num_processes=2)
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(folder)
    (folder / "samples").mkdir()
    for step in (1, 5):
        (folder / "samples" / f"step-{step:06d}.png").write_bytes(b"")
    settings = {
        "model": "/home/me/run",
        "data": "someone/cats, test, 1000 images",
        "samples": "300 for each of the seeds 0, 1",
    }
    rows = [
        Measurement("ddim", 10, [4.0, 6.0], [900, 0], seconds=0.25),
        Measurement("ddpm", 10, [9.0, 9.0], [900, 0], seconds=0.25, bits_per_dim=5.5),
    ]
    write_report(folder, "compare", "Samplers of one model", "Frechet distance", settings, rows)
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """The same, for a test to change."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_card_says_all_that_the_folder_tells(trained, tmp_path):
    (tmp_path / "bpd.json").write_text(json.dumps(BOUND), encoding="utf-8")
    text = card_of(trained, "someone/cats-ddpm", "apache-2.0", [tmp_path])
    data = ModelCard(text).data
    assert (data.license, data.datasets, data.base_model) == ("apache-2.0", ["someone/cats"], "a/base")
    assert data.library_name == "diffusers" and data.pipeline_tag == "unconditional-image-generation"
    assert "| ddim | 10 | 0.25 |  | **5 ± 1.4** |" in text and "| ddpm | 10 | 0.25 | 5.500 | 9 ± 0 |" in text
    assert "**3.500 ± 0.050 bits/dim**" in text and "over 300 images, 3 steps" in text
    assert "![samples](samples/step-000005.png)" in text
    assert "accelerate launch --num_processes 2 -m ddpm_hf.training.train --config training_args.yaml" in text
    assert "batch_size: 64" in text and "torch 2" in text and "Limits and biases" in text
    assert str(tmp_path) not in text and "/home/me" not in text


def test_its_scores_are_a_model_index_that_the_hub_takes(trained, hub):
    card = ModelCard(card_of(trained, "someone/cats-ddpm"))
    card.validate()  # asks the Hub
    assert metadata_errors(str(card)) == []
    scores = {(r.metric_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert scores["frechet-distance", "Frechet distance (ddim, 10 steps)"] == 5.0
    assert scores["bits-per-dim", "Bits per dimension (ddpm, 10 steps)"] == 5.5
    assert {(r.dataset_type, r.dataset_split) for r in card.data.eval_results} == {("someone/cats", "test")}
    assert card.data.model_name == "cats-ddpm"


MEASURES = {
    "samples": {"of": "/home/me/run", "count": 10000, "num_inference_steps": 25, "seed": 0},
    "reference": {"name": "someone/cats, test", "count": 1000},
    "figures": [
        {
            **{"name": "fid", "title": "Frechet distance", "value": 12.3456, "standard_error": 0.21, "bias": 0.5},
            "floor": {"value": 3.21, "num_samples": 500, "num_reference": 500},
            "features": {"network": "inception", "library": "torch-fidelity 0.4.0", "preprocessing": "enlarged"},
            "warnings": [],
        }
    ],
}


def test_measures_of_samples_stand_with_their_conditions(trained, tmp_path, hub):
    (tmp_path / "measures.json").write_text(json.dumps(MEASURES), encoding="utf-8")
    card = ModelCard(card_of(trained, "someone/cats-ddpm", evaluations=[tmp_path]))
    card.validate()
    assert metadata_errors(str(card)) == []
    assert "| fid: Frechet distance | 12.35 ± 0.21 | 3.21 (500/500) | inception, enlarged |" in card.text
    assert "samples: count 10000, num_inference_steps 25" in card.text and "/home/me" not in str(card)
    (score,) = (each for each in card.data.eval_results if each.metric_type == "fid")
    assert score.metric_name == "Frechet distance (10000 samples, 25 steps, inception)"
    assert (score.metric_value, score.dataset_split) == (12.3456, "test")
    assert score.metric_args["floor"]["value"] == 3.21 and score.metric_args["samples"]["count"] == 10000


def test_the_lines_that_load_it_are_those_that_work_for_the_folder(trained, tiny_unet, tmp_path):
    text = card_of(trained, "someone/model")
    assert 'DiffusionPipeline.from_pretrained("someone/model")' in text
    assert 'custom_pipeline="someone/model", trust_remote_code=True' in text
    assert 'GaussianDiffusionPipeline.from_pretrained("someone/model")' in text
    with_classes = tmp_path / "with_classes"
    GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler()).save_pretrained(with_classes)
    text = card_of(with_classes, "someone/model")
    assert "stock" not in text and "class_labels=0" in text
    named = tiny_unet(num_classes=2, id2label={"0": "cats", "1": "dogs"})
    GaussianDiffusionPipeline(named, GaussianDiffusionScheduler()).save_pretrained(with_classes)
    text = card_of(with_classes, "someone/model")
    assert "class_labels='cats'" in text and "number or the name of a class: 0 cats, 1 dogs." in text


@pytest.mark.parametrize(
    "scheduler, steps, recipe",
    [
        (ScoreSDEScheduler(sde="vp"), 200, "ddim-2m --steps 25"),
        (ScoreSDEScheduler(sde="sub_vp"), 200, "predictor-corrector --steps 500"),
        (EDMScheduler(), 18, "predictor-corrector --steps 500"),
    ],
)
def test_a_process_in_continuous_time_is_sampled_in_steps_that_suit_it(tmp_path, tiny_unet, scheduler, steps, recipe):
    GaussianDiffusionPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path)
    card = card_of(tmp_path, "someone/model")
    assert f"pipeline(num_inference_steps={steps})" in card and f"--recipe {recipe}`" in card


def test_the_command_of_the_card_gives_the_same_options(trained, monkeypatch):
    from ddpm_hf.training.argument_parsing import parse_arguments

    monkeypatch.chdir(trained)
    text = card_of(trained, "someone/model")
    command = text.split("-m ddpm_hf.training.train ")[1].split("```")[0].replace("\\\n", " ").split()
    again = parse_arguments(command)
    assert (again.dataset, again.max_train_steps, again.push_to_hub) == ("someone/cats", 5, False)


def test_a_card_of_a_person_is_left_alone(trained):
    write_card(trained, "run", license="mit")
    assert is_generated((trained / "README.md").read_text(encoding="utf-8"))
    write_card(trained, "someone/model")  # nobody has edited it: it becomes that of the repository, with its licence
    present = (trained / "README.md").read_text(encoding="utf-8")
    assert "someone/model" in present and ModelCard(present).data.license == "mit"
    edited = present.replace("*To fill in by who shares the model:*", "None that I know.")
    (trained / "README.md").write_text(edited, encoding="utf-8")
    write_card(trained, "someone/other")
    assert (trained / "README.md").read_text(encoding="utf-8") == edited and not is_generated(edited)


@pytest.mark.parametrize("base_model, named", [("a/base", "a/base"), ("{folder}", None), ("no/such/model", None)])
def test_the_base_model_is_one_of_the_hub(tmp_path, base_model, named):
    save_card(tmp_path, "# A model", base_model=base_model.format(folder=tmp_path))
    assert ModelCard.load(tmp_path / "README.md").data.base_model == named


@pytest.mark.parametrize("content", ['{"measurements": []}', '{"total": 3.2}', "{}"])
def test_results_that_lack_an_entry_are_named(trained, tmp_path, content):
    (tmp_path / "scores.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"scores.json has no entry .*: restore it"):
        card_of(trained, "someone/model", evaluations=[tmp_path / "scores.json"])


def card_of_training(folder, tiny_unet, **options):
    write_arguments(TrainingArguments(output_dir=str(folder), max_train_steps=5, **options))
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(folder)
    return card_of(folder, "someone/model")


def test_folders_of_this_machine_are_no_data_sets_of_the_hub(tmp_path, tiny_unet, monkeypatch):
    """Not even when the card is made in another working folder, where "data/cats" is not there."""
    (tmp_path / "here" / "data" / "cats").mkdir(parents=True)
    (tmp_path / "here" / "start").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    card_of_training(tmp_path / "run", tiny_unet, dataset="data/cats", init_from="start")
    monkeypatch.chdir(tmp_path)
    text = card_of(tmp_path / "run", "someone/model")
    data = ModelCard(text).data
    assert data.datasets is None and data.base_model is None
    assert "of cats, trained" in text and "dataset: cats\n" in text


def test_points_that_are_computed_are_no_data_set_of_the_hub(tmp_path, tiny_unet):
    text = card_of_training(tmp_path / "run", tiny_unet, dataset="swiss_roll", unet="mlp")
    assert ModelCard(text).data.datasets is None and "of swiss_roll, trained" in text


def test_a_card_names_no_folders(tmp_path, tiny_unet, trained):
    private = str(tmp_path / "jane.doe")
    text = card_of_training(tmp_path / "run", tiny_unet, dataset=f"{private}/cats", init_from=f"{private}/start/")
    assert "dataset: cats\n" in text and "init_from: start\n" in text and "jane" not in text
    report = {
        "options": {
            "model": f"{private}/base",
            "dataset": f"{private}/my cats",
            "num_images": 9,
            "label_column": None,
        },
        "mean_square_epsilon": {"num_images": 9},
    }
    (trained / "calibration.json").write_text(json.dumps(report), encoding="utf-8")
    comparison = json.loads((trained / "compare.json").read_text(encoding="utf-8"))
    comparison["settings"] |= {"features": f"{private}/features", "data": f"{private}/my cats, test, 1000 images"}
    (trained / "compare.json").write_text(json.dumps(comparison), encoding="utf-8")
    text = card_of(trained, "someone/model")
    assert "ddpm-hf calibrate base --dataset 'my cats'" in text and "- features: features\n" in text
    assert "jane" not in text and ModelCard(text).data.eval_results[0].dataset_name == "my cats"
