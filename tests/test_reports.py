"""The files that tell how a model was made and what was measured of it."""

import ast
from pathlib import Path

import pytest

from ddpm_hf.errors import InputError
from ddpm_hf.reports import loss_curve
from ddpm_hf.reports.report_files import REPORTS
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_folder import check_run_folder

ROOT = Path(__file__).parent.parent
VALUES = {"rate": 1e-4, "names": ["a", "b"], "none": None}


def values_of(report, without=None):
    """Values that the report may have, without one of the entries that it needs."""
    values = dict(VALUES)
    for entry in report.needed:
        if entry != without:
            first, _, second = entry.partition(".")
            values[first] = values.get(first, {}) | {second: 0} if second else 0
    return values


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_what_is_written_is_read(tmp_path, report):
    assert report.read(tmp_path) == {}
    report.write(tmp_path, values_of(report))
    assert report.read(tmp_path) == values_of(report) and [path.name for path in tmp_path.iterdir()] == [report.name]
    (tmp_path / report.name).write_text("{")
    with pytest.raises(InputError, match=f"{report.name} cannot be read .*: restore it, or write it again"):
        report.read(tmp_path)


@pytest.mark.parametrize(("report", "entry"), [(report, entry) for report in REPORTS for entry in report.needed])
def test_an_entry_that_is_missing_is_named(tmp_path, report, entry):
    """A card was made from what is left, or stopped with the traceback of a KeyError."""
    report.write(tmp_path, values_of(report, without=entry))
    with pytest.raises(InputError, match=rf"{report.name} has no entry '{entry}'.*: restore it"):
        report.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "- a", ""])
def test_a_run_whose_options_are_damaged_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "training_args.yaml").write_text(text)
    with pytest.raises(InputError, match=r"training_args.yaml .*: restore it, or write it again"):
        check_run_folder(TrainingArguments(output_dir=str(tmp_path), max_train_steps=5))


def test_the_name_of_each_file_stands_in_one_place():
    names = {report.name for report in REPORTS} | {report.picture for report in REPORTS}
    names |= {loss_curve.LOSS_FILE, loss_curve.LOSS_PICTURE, loss_curve.BITS_PER_DIM_FILE}
    names |= {loss_curve.CHANNELS_FILE, loss_curve.DISTANCE_FILE}
    found = {}
    for folder in ("ddpm_hf", "pipelines", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in names:
                    found.setdefault(path.relative_to(ROOT).parent.as_posix(), set()).add(node.value)
    # A figure of `ddpm-hf show` is called as its verb.
    assert found.pop("ddpm_hf/commands") == {"loss.png"}
    assert found.keys() == {"ddpm_hf/reports"}
