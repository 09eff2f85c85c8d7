"""Files of other codes: which weights are taken, and what is refused without a trace."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.converters.checkpoint_files import read_checkpoint
from ddpm_hf.errors import InputError

WEIGHTS = {"a.weight": torch.tensor([1.0, 2.0]), "b.weight": torch.tensor([3.0])}
AVERAGED = {name: 10 * weight for name, weight in WEIGHTS.items()}


def behind_a_wrapper(weights):
    return {f"module.{name}": weight for name, weight in weights.items()}


@pytest.fixture
def saved(tmp_path):
    def save(content, name="checkpoint.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


LAYOUTS = {
    "weights": (WEIGHTS, None),
    "ddim": ([behind_a_wrapper(WEIGHTS), {"state": {}}, 3, 5000, AVERAGED], AVERAGED),
    "ddim without averages": ([behind_a_wrapper(WEIGHTS), {"state": {}}, 3, 5000], None),
    "score_sde": (
        {
            "model": behind_a_wrapper(WEIGHTS),
            "ema": {"decay": 0.9, "shadow_params": list(AVERAGED.values())},
            "step": 1,
        },
        AVERAGED,
    ),
    "named parts": ({"model": WEIGHTS, "ema": AVERAGED, "epoch": 1}, AVERAGED),
    "lucidrains": (
        {
            "model": {f"model.{name}": weight for name, weight in WEIGHTS.items()},
            "ema": {"step": torch.tensor(1)}
            | {f"ema_model.model.{name}": weight for name, weight in AVERAGED.items()},
        },
        {f"model.{name}": weight for name, weight in AVERAGED.items()},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_averaged_weights_are_taken_where_there_are_some(saved, layout):
    content, averaged = LAYOUTS[layout]
    read = read_checkpoint(saved(content))
    expected = WEIGHTS if averaged is None else averaged
    assert read.kind == ("ema" if averaged is not None else "only" if layout == "weights" else "raw")
    assert read.weights.keys() == expected.keys()
    assert all(torch.equal(read.weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", [name for name, (_, averaged) in LAYOUTS.items() if averaged is not None])
def test_raw_weights_for_the_asking(saved, layout):
    read = read_checkpoint(saved(LAYOUTS[layout][0]), "raw")
    assert read.kind == "raw"
    assert [value.tolist() for value in read.weights.values()] == [value.tolist() for value in WEIGHTS.values()]


def test_the_averages_of_score_sde_leave_out_what_is_not_trained(saved):
    model = {
        "module.sigmas": torch.ones(3),
        "module.all_modules.0.W": torch.ones(2),
        "module.all_modules.1.weight": torch.ones(1),
    }
    content = {"model": model, "ema": {"shadow_params": [torch.tensor([7.0])]}}
    weights = read_checkpoint(saved(content)).weights
    assert weights["all_modules.1.weight"].item() == 7 and weights["all_modules.0.W"].tolist() == [1, 1]


def test_averages_that_are_not_of_these_weights_are_refused(saved):
    content = {"model": WEIGHTS, "ema": {"shadow_params": [torch.ones(1)] * 5}}
    with pytest.raises(InputError, match=r"5 averaged weights for 2 trained ones.*--weights raw"):
        read_checkpoint(saved(content))


def test_half_precision_becomes_single(saved):
    read = read_checkpoint(saved({"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(2, dtype=torch.bfloat16)}))
    assert {weight.dtype for weight in read.weights.values()} == {torch.float32}


def test_safetensors_are_read_too(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path / "model.safetensors").weights.keys() == WEIGHTS.keys()


# What cannot be read -------------------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran",)


def text_file(path, model):
    path.write_text("no checkpoint", encoding="utf-8")


def truncated(path, model):
    content = model.checkpoint.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path, model):
    path.write_bytes(b"")


def with_code(path, model):
    torch.save({"model": WEIGHTS, "extra": Malicious()}, path)


def bare_pickle_with_code(path, model):
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))


def pickle_of_another_protocol(path, model):
    path.write_bytes(pickle.dumps(Malicious(), protocol=4))


def numbers(path, model):
    torch.save([1, 2, 3], path)


def no_weights(path, model):
    torch.save({"optimizer": {"state": {}}, "ema": {"decay": 0.9, "shadow_params": []}}, path)


def another_family(path, model):
    torch.save(
        {"conv1.weight": torch.ones(1), "fc.weight": torch.ones(1), "fc.bias": torch.ones(1), "x": torch.ones(1)}, path
    )


def not_finite(path, model):
    weights = torch.load(model.checkpoint, weights_only=True)
    weights["ema"] = {
        name: value * torch.nan if value.is_floating_point() else value for name, value in weights["ema"].items()
    }
    torch.save(weights, path)


def nothing(path, model):
    pass


BAD = {
    text_file: "is no checkpoint, or is damaged or cut off",
    truncated: "is no checkpoint, or is damaged or cut off",
    empty: "is no checkpoint, or is damaged or cut off",
    with_code: r"holds (posix|nt)\.system besides weights.*could run code",
    bare_pickle_with_code: r"holds (posix|nt)\.system besides weights.*could run code",
    pickle_of_another_protocol: "is no checkpoint, or is damaged or cut off",
    numbers: "holds no weights, neither averaged nor raw",
    no_weights: "holds no weights, neither averaged nor raw",
    another_family: r"of no code known here \(its first weights are conv1.weight, fc.weight, fc.bias\)",
    not_finite: "not finite",
    nothing: "There is no folder or file",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_files_are_one_sentence_and_leave_nothing(make, foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "model.pt", foreign("lucidrains"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=BAD[make]) as caught:
        convert_checkpoint(tmp_path / "model.pt", {"image_size": 8}, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before  # the code did not run either


def test_a_damaged_safetensors_file(foreign, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(foreign("ddpmpp").checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged or cut off"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_weights_that_are_not_there(saved):
    path = saved([behind_a_wrapper(WEIGHTS), {}, 3, 5000])
    with pytest.raises(InputError, match="has no ema weights: take --weights raw"):
        read_checkpoint(path, "ema")
    with pytest.raises(InputError, match="weights='average' is not one of 'ema', 'raw'"):
        read_checkpoint(path, "average")


def test_a_full_folder_stays_as_it_is(foreign, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    model = foreign("ddim_train")
    with pytest.raises(InputError, match="is not empty"):
        convert_checkpoint(model.checkpoint, model.options, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# EMA against raw weights, in the outputs -----------------------------------------------------------------------------


def test_the_output_is_that_of_the_averaged_weights(foreign):
    model = foreign("lucidrains")
    for kind, own, other in (("ema", "output", "output_raw_weights"), ("raw", "output_raw_weights", "output")):
        network = convert_checkpoint(model.checkpoint, model.options, weights=kind).unet
        assert model.error_of(network, own) < 2e-5 and model.error_of(network, other) > 0.1


@pytest.mark.parametrize("name", ["ddim_train", "ddpmpp", "ncsnpp_residual"])
def test_averages_by_the_layouts_of_their_codes_reach_the_network(foreign, saved, name):
    """The weights of the files here are the averaged ones; the raw ones are made to differ."""
    model = foreign(name)
    averaged = load_file(model.checkpoint)
    raw = behind_a_wrapper({key: value + 1 for key, value in averaged.items()})
    trained = [value for key, value in averaged.items() if key not in ("sigmas", "all_modules.0.W")]
    contents = {"ddim_train": [raw, {}, 3, 5000, averaged]}
    if "all_modules.0.W" in averaged:
        raw["module.all_modules.0.W"] = averaged["all_modules.0.W"]
    content = contents.get(name, {"model": raw, "ema": {"shadow_params": trained}, "optimizer": {}, "step": 1})
    assert model.error_of(convert_checkpoint(saved(content), model.options).unet) < 2e-5
