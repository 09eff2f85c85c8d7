"""Names of models and data that are paths, before anything is looked up on the Hub."""

import pytest

from ddpm_hf.data.arguments import check_data_name
from ddpm_hf.errors import InputError
from ddpm_hf.places import check_data_place, check_local_place, check_model_place


@pytest.fixture(autouse=True)
def neighbours(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "my_checkpoint").mkdir(parents=True)
    (tmp_path / "photographs").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["outputs/my_checkpoint", "outputs", "./outputs", "..", "someone/model", "google/ddpm-cat-256"]
)
def test_folders_and_names_on_the_hub_pass(name):
    check_model_place(name)
    check_data_place(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("output", "There is no folder output; did you mean 'outputs'? A model on the Hub is OWNER/NAME."),
        ("outputs/my_chekpoint", "did you mean 'outputs/my_checkpoint'?"),
        ("./outputs/my_chekpoint", "There is no folder ./outputs/my_chekpoint; did you mean 'outputs/my_checkpoint'?"),
        ("/nowhere/at/all", "There is no folder /nowhere/at/all. A model"),
        ("a/b/c", "There is no folder a/b/c."),
        ("outptus/", "There is no folder outptus/; did you mean 'outputs'?"),
        ("~/model", "There is no folder ~/model."),
        ("gpt2", "There is no folder gpt2."),
        ("x" * 300, "There is no folder xxx"),
    ],
)
def test_paths_that_lead_nowhere(name, sentence):
    with pytest.raises(InputError) as refused:
        check_model_place(name)
    assert sentence in str(refused.value)


def test_data_of_the_hub_may_have_no_owner():
    check_data_place("cifar10")
    with pytest.raises(InputError, match="There is no folder or file photograph; did you mean 'photographs'"):
        check_data_place("photograph")
    for name in ("photos/", "points.csv", "data/points.parquet"):
        with pytest.raises(InputError, match=f"There is no folder or file {name}"):
            check_data_place(name)
    with pytest.raises(InputError, match=r"There is no folder or file outputs/data\. Data on the Hub are OWNER/NAME"):
        check_data_place("outputs/data")


def test_the_distributions_of_points_are_data():
    check_data_name("two_moons")
    with pytest.raises(InputError, match="did you mean 'two_moons'"):
        check_data_name("two_mons")


def test_a_file_of_this_machine():
    check_local_place("photographs")
    with pytest.raises(InputError, match="There is no folder or file photo.png"):
        check_local_place("photo.png")
