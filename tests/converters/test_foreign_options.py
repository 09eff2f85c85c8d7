"""The options of foreign models: how they are given, what is asked for, and what contradicts the weights."""

import json

import pytest
import torch
import yaml

from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.converters.options import read_options
from ddpm_hf.errors import InputError

FLAGS = "--image_size 8 --num_heads 2 --use_new_attention_order False --noise_schedule linear --diffusion_steps 1000"


def output_of(pipeline):
    with torch.no_grad():
        return pipeline.unet(torch.ones(1, 1, 8, 8), 500).sample


@pytest.mark.parametrize("form", ["dictionary", "json", "yaml", "flags", "list", "flags within a file"])
def test_options_in_every_form(improved, tmp_path, form):
    path, options = improved(num_heads=2)
    (tmp_path / "options.json").write_text(json.dumps(options), encoding="utf-8")
    (tmp_path / "options.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    (tmp_path / "flags.json").write_text(json.dumps({"flags": options}), encoding="utf-8")
    forms = {
        "dictionary": options,
        "json": tmp_path / "options.json",
        "yaml": str(tmp_path / "options.yml"),
        "flags": FLAGS,
        "list": [tmp_path / "options.json", "--num_heads=4", "--num_heads 2"],
        "flags within a file": tmp_path / "flags.json",
    }
    assert torch.equal(output_of(convert_checkpoint(path, forms[form])), output_of(convert_checkpoint(path, options)))


def test_flags_are_read_as_the_scripts_read_them():
    said = "--attention_resolutions 16,8 --class_cond True --dropout 0.1 --use_fp16 --learn_sigma=true"
    assert read_options(said) == {
        "attention_resolutions": "16,8",
        "class_cond": True,
        "dropout": 0.1,
        "use_fp16": True,
        "learn_sigma": True,
    }


def test_the_constructor_goes_before_the_flags(foreign):
    """The flags of the file name 1000 classes and its own widths, and the constructor what was built."""
    model = foreign("guided_sr")
    options = json.loads(model.options.read_text(encoding="utf-8"))
    options["flags"] |= {"num_channels": 999, "class_cond": False}
    assert model.error_of(convert_checkpoint(model.checkpoint, options).unet) < 2e-5


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("image_size", "the height and width of the images"),
        ("num_heads", r"the number of heads of each attention \(the code's own default is 4\)"),
        ("use_new_attention_order", "the order of the rows of its attention"),
        ("noise_schedule", "the noise schedule, linear or cosine"),
        ("diffusion_steps", "the number of timesteps of the training"),
    ],
)
def test_what_is_missing_is_asked_for_by_name(improved, missing, said):
    path, options = improved(num_heads=2)
    del options[missing]
    with pytest.raises(InputError, match=f"do not tell {missing}, {said}.*--{missing} VALUE"):
        convert_checkpoint(path, options)


def test_rescaled_timesteps_matter_where_there_are_not_1000(improved):
    path, options = improved()
    del options["rescale_timesteps"]
    convert_checkpoint(path, options)
    with pytest.raises(InputError, match="do not tell rescale_timesteps, whether the network is given 1000 t / T"):
        convert_checkpoint(path, options | {"diffusion_steps": 4000})


def test_rescaled_timesteps_reach_the_network(improved):
    path, options = improved()
    plain = convert_checkpoint(path, options)
    rescaled = convert_checkpoint(path, options | {"diffusion_steps": 4000})
    assert rescaled.scheduler.config.num_train_timesteps == 4000
    x = torch.ones(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(rescaled.unet(x, 2000).sample, plain.unet(x, 500).sample)


CONTRADICTIONS = [
    ({"num_channels": 64}, "num_channels is 64 in the options and 32 in the weights"),
    ({"num_res_blocks": 3}, "num_res_blocks is 3 in the options and 1 in the weights"),
    ({"learn_sigma": True}, "learn_sigma is True in the options and False in the weights"),
    ({"class_cond": True}, "class_cond is True in the options and False in the weights"),
    ({"use_scale_shift_norm": True}, "use_scale_shift_norm is True in the options and False in the weights"),
    ({"resblock_updown": True}, "resblock_updown is True in the options and False in the weights"),
    ({"channel_mult": "1,1"}, r"channel_mult \(widths of the levels\) is \(32, 32\) .* \(32, 64\) in the weights"),
    ({"attention_resolutions": "4"}, r"levels with attention\) is \(False, True\) in .* \(True, True\) in"),
    ({"num_channels": 64, "class_cond": True}, "num_channels is 64 .*; class_cond is True"),
]


@pytest.mark.parametrize(("changes", "said"), CONTRADICTIONS)
def test_what_contradicts_the_weights_is_refused(improved, tmp_path, changes, said):
    path, options = improved(num_heads=2)
    with pytest.raises(InputError, match=f"those of another model than this checkpoint of .*{said}"):
        convert_checkpoint(path, options | changes, tmp_path / "new")
    assert not (tmp_path / "new").exists()


NOT_HELD = [
    ({"num_heads": 3}, "num_heads=3 does not divide the 32 channels"),
    ({"num_head_channels": 48}, "num_head_channels=48 does not divide the 32 channels"),
    ({"num_heads_upsample": 4}, "num_heads_upsample=4 beside num_heads=2 is not held by any class here"),
    ({"noise_schedule": "sqrt"}, "noise_schedule='sqrt' .* is not held by any class here; linear, cosine is"),
    ({"data_range": "0,1"}, r"data_range=0,1 is not held by the pipelines here, whose images are in \[-1, 1\]"),
    ({"codebase": "improved-diffusion", "use_new_attention_order": True}, "contradicts a model of improved-diffusion"),
]


@pytest.mark.parametrize(("changes", "said"), NOT_HELD)
def test_what_no_class_holds_is_refused_by_name(improved, changes, said):
    path, options = improved(num_heads=2)
    with pytest.raises(InputError, match=said):
        convert_checkpoint(path, options | changes)


SCORE_SDE = [
    ({"model.resblock_type": "ddpm"}, "model.resblock_type='ddpm' of score_sde is not held"),
    ({"model.progressive": "residual"}, "model.progressive='residual' of score_sde is not held"),
    ({"model.progressive_combine": "cat"}, "model.progressive_combine='cat' of score_sde is not held"),
    ({"model.name": "ncsnv2"}, "model.name='ncsnv2' of score_sde is not held"),
    ({"model.fir_kernel": [1, 2, 1]}, r"model.fir_kernel=\[1, 2, 1\] is not held"),
    ({"model.conditional": False}, "model.conditional=False of score_sde is not held"),
    ({"model.embedding_type": "fourier"}, "is 'fourier' is True in the options and False in the weights"),
    ({"model.nf": 32}, "model.nf is 32 in the options and 16 in the weights"),
    ({"model.fir": None}, "do not tell model.fir"),
    ({"model.num_res_blocks": 2}, "has no all_modules|does not hold"),
    ({"training.sde": "other"}, "training.sde='other'"),
]


@pytest.mark.parametrize(("changes", "said"), SCORE_SDE)
def test_networks_of_score_sde_that_no_class_holds(foreign, changes, said):
    model = foreign("ddpmpp")
    with pytest.raises(InputError, match=said):
        convert_checkpoint(model.checkpoint, read_options(model.options) | changes)


LUCIDRAINS = [
    ({"auto_normalize": False}, "auto_normalize=False .* is not held"),
    ({"self_condition": True}, "self_condition=True .* is not held"),
    ({"timesteps": 1000}, "timesteps is 1000 in the options and 100 in the weights"),
    ({"objective": "pred_noise"}, "objective is pred_noise in the options and pred_v in the weights"),
    ({"dim": 64}, "dim is 64 in the options and 8 in the weights"),
    ({"image_size": None}, "do not tell image_size"),
]


@pytest.mark.parametrize(("changes", "said"), LUCIDRAINS)
def test_options_of_lucidrains_that_do_not_fit(foreign, changes, said):
    with pytest.raises(InputError, match=said):
        convert_checkpoint(foreign("lucidrains").checkpoint, {"image_size": 8} | changes)


DDIM = [
    ({"model.ch_mult": [1, 2]}, "widths of the levels"),
    ({"model.var_type": "learned"}, "model.var_type='learned'"),
    ({"data.rescaled": False}, "data.rescaled=False, images in .0, 1., is not held"),
    ({"diffusion.num_diffusion_timesteps": None}, "do not tell diffusion.num_diffusion_timesteps"),
]


@pytest.mark.parametrize(("changes", "said"), DDIM)
def test_options_of_ddim_that_do_not_fit(foreign, changes, said):
    model = foreign("ddim_train")
    with pytest.raises(InputError, match=said):
        convert_checkpoint(model.checkpoint, read_options(model.options) | changes)


@pytest.mark.parametrize("name", ["guided_sr", "guided_classifier", "ddim_train", "ddpmpp", "lucidrains"])
def test_options_of_another_code_are_refused(foreign, name):
    other = foreign("ddim_train" if name != "ddim_train" else "guided_sr").options
    with pytest.raises(InputError, match="those of another model than this one of .*, which has no option"):
        convert_checkpoint(foreign(name).checkpoint, other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("guided_imagenet65", "not the name of a published checkpoint; did you mean 'guided_imagenet64'"),
        ("no/such/file.json", "is no JSON or YAML file that is there"),
        ("8 --image_size", "is no JSON or YAML file"),
        ("--image_size 8 9 --num_heads 2", "has the value '9' without a flag before it"),
    ],
)
def test_texts_that_are_no_options(options, said):
    with pytest.raises(InputError, match=said):
        read_options(options)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "options.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"options.json cannot be read"):
        read_options(tmp_path / "options.json")
