"""Published names: Hub ids and web addresses stay, and local paths lose their folders."""

import pytest

from ddpm_hf.hub.public_names import public_name, public_report


@pytest.mark.parametrize(
    "name, public",
    [
        *[
            (name, name)
            for name in ("someone/cats", "mnist", "train[:95%]", "https://a.org/b/c.tar", "hf://datasets/a/b")
        ],
        *[("/home/jane/cats", "cats"), ("/home/jane/cats/", "cats"), ("~/cats", "cats"), ("../jane/cats", "cats")],
        *[("runs/jane/cats", "cats"), ("C:\\Users\\jane\\cats", "cats"), ("file:///home/jane/cats.csv", "cats.csv")],
        *[("/home/Jane Doe/my cats", "my cats"), ("/", "/"), ("./cats", "cats")],
    ],
)
def test_a_path_becomes_its_last_name(name, public):
    assert public_name(name) == public


def test_a_name_that_is_a_folder_here_is_not_taken_for_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_name("someone/cats") == "someone/cats"
    (tmp_path / "someone" / "cats").mkdir(parents=True)
    assert public_name("someone/cats") == "cats"


def test_all_values_of_a_report_have_their_public_report():
    report = {"a": {"model": "/home/jane/base", "data": "/home/jane/cats, test, 9 images"}, "b": [1, None, "/x/y"]}
    assert public_report(report) == {"a": {"model": "base", "data": "cats, test, 9 images"}, "b": [1, None, "y"]}
