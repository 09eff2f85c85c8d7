"""Training with captions, from images with texts to a stock Stable Diffusion pipeline."""

import json
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image as PILImage
from test_latent_training import tiny_vae
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.data import open_images
from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.push import push_folder
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.probability_flow import sample_by_flow
from ddpm_hf.pipelines.prompts import tokens_of
from ddpm_hf.pipelines.stable_diffusion import without_shift
from ddpm_hf.reports.report_files import CAPTIONS
from ddpm_hf.samples.latent_units import decode_latents
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.text_encoders import new_text_encoder, new_tokenizer, open_text_parts
from ddpm_hf.training.train import train

TEMPLATE = "a {tone} picture of a {label}"
NETWORK = {
    **{"_class_name": "UNet2DConditionModel", "sample_size": 4, "block_out_channels": [8, 8], "layers_per_block": 1},
    **{"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "norm_num_groups": 4, "attention_head_dim": 2},
    **{"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn"},
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def pictures(count):
    """Grey images of 8x8, dark or bright, of two classes, with texts."""
    pixels = [np.full((8, 8), 200 * (i % 2) + i, dtype=np.uint8) for i in range(count)]
    tones = ["bright" if i % 2 else "dark" for i in range(count)]
    columns = {"image": Image(), "label": ClassLabel(names=["shirt", "shoe"]), "tone": Value("string")}
    rows = {"image": pixels, "label": [i // 2 % 2 for i in range(count)], "tone": tones}
    return Dataset.from_dict(rows, features=Features(columns))


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    DatasetDict(train=pictures(24)).save_to_disk(tmp_path / "data")
    tiny_vae().save_pretrained(tmp_path / "vae")
    (tmp_path / "network.json").write_text(json.dumps(NETWORK), encoding="utf-8")
    return {
        **{"dataset": str(tmp_path / "data"), "vae": str(tmp_path / "vae"), "output_dir": str(tmp_path / "run")},
        **{"unet": str(tmp_path / "network.json"), "max_train_steps": 4, "batch_size": 4, "checkpoint_every": 2},
        **{"sample_every": 0, "num_samples": 4, "sample_steps": 2, "log_every": 2, "seed": 3, "ema_power": 0.5},
        **{"caption_template": TEMPLATE, "learning_rate": 1e-2},
    }


def frozen_encoder(folder, captions, **changes):
    """A folder with a tiny CLIP text encoder and its tokenizer."""
    tokenizer = new_tokenizer(captions)
    config = new_text_encoder(tokenizer).config.to_dict()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(5)
    CLIPTextModel(CLIPTextConfig(**config | sizes | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# Captions ------------------------------------------------------------------------------------------------------------


def captions_of(options, **changes):
    args = TrainingArguments(**options | {"caption_template": None} | changes)
    return open_images(args, None)


def test_a_template_makes_one_caption_of_each_combination(options):
    source = captions_of(options, caption_template=TEMPLATE)
    expected = [f"a {tone} picture of a {name}" for tone in ("bright", "dark") for name in ("shirt", "shoe")]
    assert source.captions == tuple(expected)
    made = [source.captions[number] for number in source.labels[:4]]
    assert made == [expected[i] for i in (2, 0, 3, 1)]
    assert source.num_classes is None and len(source.labels) == 24


def test_a_column_has_the_captions(options):
    source = captions_of(options, caption_column="tone")
    assert source.captions == ("bright", "dark") and source.labels[:2].tolist() == [1, 0]
    other = captions_of(options, caption_template="{tone}!")
    assert source.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_column": "text"}, "caption_column='text' is no column of the data: they have image, label, tone"),
        ({"caption_column": "label"}, "caption_column='label' holds ints such as '0', and captions are texts"),
        ({"caption_template": "a photo"}, "has no field in braces, such as {label}, so that all images would have"),
        ({"caption_template": "a {shade} photo"}, r"has the field {shade}, which is no column of the data"),
        ({"caption_template": "a {label photo"}, "caption_template='a {label photo' cannot be read"),
        ({"caption_column": "tone", "caption_template": "{label}"}, "give one of them"),
    ],
)
def test_captions_that_are_not_there_are_refused(options, changes, message):
    with pytest.raises(InputError, match=message):
        captions_of(options, **changes)


def test_missing_captions_are_counted(options, tmp_path):
    rows = pictures(24).map(lambda row, i: row | {"tone": None if i in (3, 5) else row["tone"]}, with_indices=True)
    DatasetDict(train=rows).save_to_disk(tmp_path / "gaps")
    with pytest.raises(InputError, match=r"no caption in 2 of 24 rows \(3, 5, counted from 0\): complete them"):
        captions_of(options, dataset=str(tmp_path / "gaps"), caption_column="tone")


# Text encoders -------------------------------------------------------------------------------------------------------


def test_a_new_tokenizer_knows_captions_and_every_letter(tmp_path):
    captions = ["a photo of a red shirt", "a photo of an ankle boot", "a photo of a red boot"]
    tokenizer = new_tokenizer(captions)
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == tokenizer.model_max_length == 8
    tokens = tokens_of(loaded, [*captions, "", "Quiz 7!"])
    assert tokens.shape == (5, 8) and torch.equal(tokens, tokens_of(tokenizer, [*captions, "", "Quiz 7!"]))
    beginning, end = loaded.bos_token_id, loaded.eos_token_id
    assert tokens[:, 0].tolist() == [beginning] * 5 and tokens[3].tolist() == [beginning, *[end] * 7]
    words = loaded.tokenize("a photo of a red shirt")
    assert words == ["a</w>", "photo</w>", "of</w>", "a</w>", "red</w>", "shirt</w>"]
    assert end not in loaded("zxq 9? é", add_special_tokens=False).input_ids
    assert new_tokenizer(captions).get_vocab() == tokenizer.get_vocab()


def test_texts_that_are_cut_are_counted(caplog):
    tokenizer = new_tokenizer(["a red shirt"])
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        tokens_of(tokenizer, ["red " * 20, "red", "a " * 9])
    assert "2 of 3 texts are cut to 8 tokens; the longest has 22." in caplog.text


def test_encoders_of_clip_and_t5_stay_as_they_are(tmp_path):
    captions = ["a red shirt", "a blue shoe"]
    parts = open_text_parts(frozen_encoder(tmp_path / "clip", captions), captions)
    assert type(parts.text_encoder) is CLIPTextModel and parts.width == 8 and not parts.is_trained
    assert not any(weight.requires_grad for weight in parts.text_encoder.parameters())
    config = T5Config(vocab_size=100, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    parts.tokenizer.save_pretrained(tmp_path / "t5")
    assert open_text_parts(str(tmp_path / "t5"), captions).width == 8
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(InputError, match="is a bert, and the text encoders of CLIP and T5 are taken"):
        open_text_parts(str(tmp_path / "other"), captions)


# Training ------------------------------------------------------------------------------------------------------------


def test_the_result_is_a_stock_pipeline_and_draws_what_ours_draws(options, caplog):
    folder = train(TrainingArguments(**options))
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline" and not (folder / "pipeline.py").exists()
    assert index["safety_checker"] == [None, None] and index["requires_safety_checker"] is False
    with caplog.at_level(logging.WARNING):
        stock = DiffusionPipeline.from_pretrained(folder)
    assert type(stock) is StableDiffusionPipeline and type(stock.unet) is UNet2DConditionModel
    assert "deprecat" not in caplog.text and "not expected" not in caplog.text
    ours = load_pipeline(folder, texts=True)

    def drawn(pipeline):
        told = {"prompt": "a dark picture of a shoe", "num_inference_steps": 3, "guidance_scale": 2.0}
        return pipeline(**told, generator=torch.Generator().manual_seed(7), output_type="np").images

    with_own_scheduler = drawn(ours)
    assert with_own_scheduler.shape == (1, 8, 8, 1)
    ours.register_modules(scheduler=stock.scheduler)
    np.testing.assert_allclose(drawn(ours), drawn(stock), atol=1e-5)
    np.testing.assert_allclose(with_own_scheduler, drawn(stock), atol=2e-3)  # that of diffusers rounds to float32
    stock.scheduler = GaussianDiffusionScheduler.from_config(stock.scheduler.config, eta=0.0)
    np.testing.assert_allclose(with_own_scheduler, drawn(stock), atol=1e-5)


def test_it_loads_where_the_package_is_not(options, hide_package):
    folder = train(TrainingArguments(**options))
    hide_package()
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is StableDiffusionPipeline
    assert {type(part).__module__.split(".")[0] for part in pipeline.components.values()} <= {
        *("diffusers", "transformers", "builtins")
    }
    assert pipeline("a shoe", num_inference_steps=2).images[0].size == (8, 8)


def test_the_encoder_learns_along_and_captions_are_told(options, tmp_path):
    options |= {"max_train_steps": 30, "batch_size": 12, "caption_column": "tone", "caption_template": None}
    folder = train(TrainingArguments(**options))
    pipeline = load_pipeline(folder, texts=True)
    first = new_text_encoder(pipeline.tokenizer)
    assert pipeline.text_encoder.config.vocab_size == first.config.vocab_size
    states = [pipeline.text_encoder(tokens_of(pipeline.tokenizer, [text]))[0].detach() for text in ("dark", "bright")]
    assert not torch.allclose(*states)
    report = CAPTIONS.read(folder)
    assert report["number"] == 2 and set(report["examples"]) == {"bright", "dark"}
    generator = [torch.Generator().manual_seed(0)] * 2
    x_0 = pipeline(prompt=["dark", "bright"], generator=generator, num_inference_steps=4, output_type="latent").images
    assert not torch.allclose(x_0[0], x_0[1])


@pytest.mark.parametrize("is_frozen", [False, True])
def test_resumed_is_uninterrupted(options, tmp_path, is_frozen):
    if is_frozen:
        captions = [f"a {tone} picture of a {name}" for tone in ("bright", "dark") for name in ("shirt", "shoe")]
        options["text_encoder"] = frozen_encoder(tmp_path / "clip", captions)
    whole = train(TrainingArguments(**options | {"output_dir": str(tmp_path / "whole")}))
    train(TrainingArguments(**options | {"max_train_steps": 2}))
    resumed = train(TrainingArguments(**options))
    for name in (WEIGHTS, "text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    if is_frozen:
        given, kept = (CLIPTextModel.from_pretrained(path) for path in (tmp_path / "clip", whole / "text_encoder"))
        assert all(torch.equal(a, b) for a, b in zip(given.parameters(), kept.parameters(), strict=True))
        assert not any("text" in path.name for path in (whole / "checkpoints" / "step-000004").iterdir())


def test_pixels_and_captions_are_our_pipeline(options, tmp_path):
    network = NETWORK | {"sample_size": 8, "in_channels": 1}
    (tmp_path / "pixels.json").write_text(json.dumps(network), encoding="utf-8")
    folder = train(TrainingArguments(**options | {"vae": None, "unet": str(tmp_path / "pixels.json")}))
    drawn = {"prompt": "a dark picture", "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
    generator = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    ours = load_pipeline(folder, texts=True)
    images = ours(**drawn, generator=generator()).images
    assert images.shape == (1, 8, 8, 1)
    portable = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    np.testing.assert_array_equal(portable(**drawn, generator=generator()).images, images)


def test_a_plan_and_a_beginning_say_what_will_be(options, tmp_path, capsys):
    train(TrainingArguments(**options | {"dry_run": True}))
    assert "GFLOPs per image" in capsys.readouterr().out and not (tmp_path / "run").exists()
    train(TrainingArguments(**options | {"max_train_steps": 1}))
    told = "captions 4 different ones, 8 tokens, a small encoder, trained along; the result is a stock StableDiffusion"
    printed = capsys.readouterr().out
    assert told in printed and "--prompt 'a bright picture of a shirt'" in printed


def test_other_sides_than_multiples_of_eight_are_our_pipeline(options, capsys):
    folder = train(TrainingArguments(**options | {"resolution": 12, "max_train_steps": 1}))
    said = "a pipeline of ours, because its images are of 12x12, whose sides are no multiples of 8"
    assert said in capsys.readouterr().out
    assert load_pipeline(folder, texts=True)(prompt="a shoe", num_inference_steps=1).images[0].size == (12, 12)


def test_the_command_draws_a_prompt(options, tmp_path, capsys):
    folder = str(train(TrainingArguments(**options)))
    command = ["sample", folder, "--prompt", "a dark shoe", "--guidance_scale", "2", "--steps", "2"]
    cli.app([*command, "--num_images", "4", "--output", str(tmp_path / "shoe.png")], standalone_mode=False)
    assert PILImage.open(tmp_path / "shoe.png").size == (128, 128)
    assert "4 images in" in capsys.readouterr().out
    with pytest.raises(InputError, match="it is told a text, which this does not give it. `ddpm-hf sample --prompt`"):
        load_pipeline(folder)


def test_it_is_shared_as_text_to_image(options, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = train(TrainingArguments(**options))
    names = set(push_folder(folder, "someone/text", dry_run=True).sizes)
    wanted = {"vae/config.json", WEIGHTS, "text_encoder/model.safetensors", "tokenizer/tokenizer.json"}
    assert wanted <= names and "captions.json" in names
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-to-image" in card and 'image = pipeline("a bright picture of a shirt")' in card


def test_a_shift_goes_into_the_weights():
    vae, x_0 = tiny_vae(), torch.randn(2, 2, 4, 4)
    vae.register_to_config(shift_factor=0.5)
    moved = without_shift(vae)
    assert not moved.config.shift_factor and vae.config.shift_factor == 0.5
    torch.testing.assert_close(moved.decode(x_0 / 2.0).sample, decode_latents(vae, x_0))
    assert without_shift(moved) is moved


def test_images_are_edited_with_prompts(options, tmp_path, capsys):
    folder = str(train(TrainingArguments(**options)))
    PILImage.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:, 4:] = 255
    PILImage.fromarray(mask).save(tmp_path / "mask.png")
    command = ["edit", folder, str(tmp_path / "grey.png"), "--steps", "3", "--prompt", "a dark shoe"]
    for name, how in {
        "a": ["--strength", "0.5", "--guidance_scale", "2"],
        "b": ["--mask", str(tmp_path / "mask.png"), "--jump_n_sample", "1"],
        "c": ["--invert"],
    }.items():
        cli.app([*command, *how, "--output", str(tmp_path / f"{name}.png")], standalone_mode=False)
        assert (tmp_path / f"{name}.png").is_file()
    pipeline = load_pipeline(folder, texts=True)
    inpaint = GaussianDiffusionInpaintPipeline.from_pipe(pipeline)
    drawn = {"image": torch.full((1, 1, 8, 8), 0.5), "mask_image": torch.ones(1, 1, 8, 8), "output_type": "latent"}
    drawn |= {"num_inference_steps": 3, "jump_n_sample": 1, "eta": 0.0}
    x_0 = [
        inpaint(**drawn, prompt=prompt, generator=torch.Generator().manual_seed(0)).images
        for prompt in ("a dark shoe", "a bright shirt", "a dark shoe")
    ]
    assert torch.equal(x_0[0], x_0[2]) and not torch.allclose(x_0[0], x_0[1])
    with pytest.raises(ValueError, match="The probability flow is of models without a text"):
        sample_by_flow(pipeline, 1)


def test_prompts_are_for_models_of_captions(options):
    pipeline = load_pipeline(train(TrainingArguments(**options)), texts=True)
    with pytest.raises(ValueError, match="told a text and no class: give prompt in the place of class_labels"):
        pipeline(class_labels=1)
    with pytest.raises(ValueError, match="must agree on one whole number of images"):
        pipeline(batch_size=3, prompt=["a", "b"])
    without = GaussianDiffusionPipeline(pipeline.unet, pipeline.scheduler, vae=pipeline.vae)
    with pytest.raises(ValueError, match="prompt and negative_prompt are for models that were trained with captions"):
        without(prompt="a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_conditional": True}, "they stand in the place of classes, leave out --class_conditional"),
        ({"unet": "latents_small"}, "unet='latents_small' is told none, and one of text_small"),
        ({"caption_template": None, "unet": "text_small"}, "unet='text_small' is told a text: give --caption_column"),
        ({"caption_template": None, "text_encoder": "x"}, "text_encoder='x' has no effect without captions"),
        ({"process": "edm"}, "leave out --process edm"),
        ({"ema": "power"}, "leave out --ema power"),
        ({"resolution": 6}, "halves its input to 1/2, and the samples are of 3x3"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options | changes))
    assert not (tmp_path / "run" / "training_args.yaml").exists()


def test_an_encoder_of_another_width_is_refused(options, tmp_path):
    (tmp_path / "network.json").write_text(json.dumps(NETWORK | {"cross_attention_dim": 16}), encoding="utf-8")
    with pytest.raises(
        InputError, match="attends to hidden states of 16 numbers, and the text encoder makes 128: set"
    ):
        train(TrainingArguments(**options))


def test_stock_pipelines_edit_with_our_scheduler(options, tmp_path):
    tiny_vae(latent_channels=4).save_pretrained(tmp_path / "vae")  # the stock inpainting takes no other number
    folder, image = train(TrainingArguments(**options)), PILImage.new("L", (8, 8), 128)
    given = {"prompt": "a dark shoe", "image": image, "num_inference_steps": 4, "output_type": "np"}
    repainted = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    painted = StableDiffusionInpaintPipeline.from_pretrained(folder)
    for pipeline, more in (
        (repainted, {"strength": 0.5}),
        (painted, {"mask_image": PILImage.new("L", (8, 8), 255), "height": 8, "width": 8}),
    ):
        pipeline.scheduler = GaussianDiffusionScheduler.from_config(pipeline.scheduler.config, eta=0.0)
        images = pipeline(**given, **more, generator=torch.Generator().manual_seed(0)).images
        assert images.shape == (1, 8, 8, 1) and np.isfinite(images).all()
