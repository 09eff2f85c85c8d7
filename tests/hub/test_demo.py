"""The demo: images during sampling, the samplers of a model, the page, and the folder of a Space."""

import ast
import importlib.metadata
import re
import time

import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image
from text_models import TEXTS, save_of_pixels, save_stock

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, NoisyImageClassifier
from ddpm_hf.calibration import fit_solver
from ddpm_hf.errors import InputError
from ddpm_hf.hub.demo import OWN, first_choice, load_for_demo, prompts_of, samplers_of, serve
from ddpm_hf.hub.drawing import MOST_VIEWS, draw, shown_by
from ddpm_hf.hub.space import write_space
from ddpm_hf.installation import install_extra
from ddpm_hf.pipelines.image_grids import image_grid, sample_images
from ddpm_hf.recipes import with_recipe
from ddpm_hf.schedulers.sampler_lines import SAMPLER_LINES
from ddpm_hf.schedulers.sampler_table import RECIPES

WITHOUT_ANYTHING = ["ddpm", "ddpm-large", "ddim", "ddim-2m", "ddpm-2m", "ddim-2m-pc"]
CALIBRATED = {"mean_square_epsilon": [0.99] * 1000, "timestep_plans": {"4": [999, 700, 250, 20], "3": [999, 400, 20]}}


def pipeline_of(unet, classifier=None, **scheduler):
    pipeline = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(**scheduler), classifier)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def classifier():
    levels = {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    return NoisyImageClassifier(8, 1, 3, attention_head_dim=8, norm_num_groups=4, **levels).eval()


# The images as they form ---------------------------------------------------------------------------------------------


def test_the_last_view_is_what_the_pipeline_gives(tiny_unet):
    pipeline = pipeline_of(tiny_unet(num_classes=3))
    options = {"num_inference_steps": 5, "class_labels": 2, "guidance_scale": 2.0}
    views = list(draw(pipeline, 3, seed=7, **options))
    assert [view.step for view in views] == [1, 2, 3, 4, 5] and {view.num_steps for view in views} == {5}
    images = sample_images(pipeline, 3, seed=7, **options)
    assert views[-1].image == image_grid(images)
    first = images[0].resize((64, 64), Image.Resampling.NEAREST)
    assert views[-1].strip.crop((4 * 64, 0, 5 * 64, 64)) == first and views[-1].strip.size == (5 * 64, 2 * 64)
    assert views[0].image != views[-1].image and views[0].strip.size == (64, 2 * 64)
    seconds = [view.seconds for view in views]
    assert seconds[0] > 0 and seconds == sorted(seconds)
    assert list(draw(pipeline, 3, seed=8, **options))[-1].image != views[-1].image


def test_a_long_run_shows_some_of_its_steps_and_the_last(tiny_unet):
    views = list(draw(pipeline_of(tiny_unet()), num_inference_steps=MOST_VIEWS * 2 - 1))
    assert len(views) == MOST_VIEWS and views[0].step == 1 and views[-1].step == MOST_VIEWS * 2 - 1
    strips = [view.strip for view in views]
    assert len({id(strip) for strip in strips}) == len({strip.tobytes() for strip in strips}) == 12


def test_a_reader_who_leaves_ends_the_run(tiny_unet):
    done = []

    def count(show):
        for i in range(10**6):
            done.append(i)
            show(i)
            time.sleep(1e-3)

    reader = shown_by(count)
    assert next(reader) == 0
    reader.close()
    ended = len(done)
    time.sleep(0.02)
    assert len(done) == ended < 1000
    views = draw(pipeline_of(tiny_unet()), num_inference_steps=1000)
    next(views)
    views.close()
    assert len(list(draw(pipeline_of(tiny_unet()), num_inference_steps=2))) == 2  # the next one is not kept waiting


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, r"seed=-1 must be a whole number in 0 .. 4294967295"),
        ({"seed": None}, "seed=None must be a whole number"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"class_labels": 7}, "class_labels=7 must be whole numbers in 0 .. 2"),
        ({"num_inference_steps": 5000}, "num_inference_steps=5000 must be in 1 .. 1000"),
        ({"classifier_guidance_scale": 2.0}, "needs a pipeline with a classifier"),
    ],
)
def test_mistakes_reach_the_reader(tiny_unet, options, message):
    with pytest.raises(ValueError, match=message):
        list(draw(pipeline_of(tiny_unet(num_classes=3)), **{"num_inference_steps": 2} | options))


# Samplers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head, scheduler, more",
    [
        (None, {}, []),
        (None, CALIBRATED, ["analytic-ddpm", "analytic-ddim"]),
        ("npr", {"variance_type": "npr"}, ["npr-ddpm", "npr-ddim"]),
        ("learned_range", {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"}, ["iddpm"]),
    ],
)
def test_samplers_are_the_recipes_that_the_model_can_run(tiny_unet, head, scheduler, more):
    from ddpm_hf.hub.demo_page import with_samplers

    pipeline = pipeline_of(tiny_unet(variance_head=head), **scheduler)
    samplers = samplers_of(pipeline)
    assert set(samplers) == {OWN, *WITHOUT_ANYTHING, *more}
    pipelines = with_samplers(pipeline, samplers)
    own = pipelines.pop(OWN)
    assert own.scheduler.config == pipeline.scheduler.config and own.unet is pipeline.unet
    for name, other in pipelines.items():
        assert other.scheduler.config == with_recipe(pipeline.scheduler, name).config and other.unet is pipeline.unet


def test_a_page_opens_with_the_model_s_plan(tiny_unet):
    assert first_choice(pipeline_of(tiny_unet(), **CALIBRATED)) == (OWN, 4)
    short = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    fitted = fit_solver(tiny_unet(), short, [2], num_paths=16, progress_bar=False)
    assert first_choice(GaussianDiffusionPipeline(tiny_unet(), fitted)) == (OWN, 2)
    assert first_choice(pipeline_of(tiny_unet())) == ("ddim-2m", 25)
    assert first_choice(pipeline_of(tiny_unet(), num_train_timesteps=12)) == ("ddim-2m", 12)


# The page ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def page_of():
    from ddpm_hf.hub.demo_page import demo_page, with_samplers

    def make(pipeline, **more):
        return demo_page(with_samplers(pipeline, samplers_of(pipeline)), "a model", *first_choice(pipeline), **more)

    return make


def test_a_page_has_what_the_model_has(page_of, tiny_unet):
    def shown(pipeline):
        parts = {part.elem_id: part for part in page_of(pipeline).blocks.values() if hasattr(part, "elem_id")}
        choices = {name: parts[name].value for name in ("class", "guidance", "classifier_guidance")}
        return {name: value for name, value in choices.items() if parts[name].visible}, parts["class"].choices

    labels = [("0", 0), ("1", 1), ("2", 2)]
    assert shown(pipeline_of(tiny_unet())) == ({}, [])
    assert shown(pipeline_of(tiny_unet(num_classes=3))) == ({"class": -1, "guidance": 1}, [("any", -1), *labels])
    named = tiny_unet(num_classes=3, id2label={"0": "a", "1": "b", "2": "c"})
    assert shown(pipeline_of(named))[1] == [("any", -1), ("a", 0), ("b", 1), ("c", 2)]
    # A stock network has a label for each of `num_class_embeds`, and none for no class.
    assert shown(pipeline_of(tiny_unet(num_class_embeds=3))) == ({"class": 0}, labels)
    steered = {"class": 0, "classifier_guidance": 1}
    assert shown(pipeline_of(tiny_unet(), classifier())) == (steered, labels)


def test_steps_are_the_usual_numbers_and_all(tiny_unet):
    from ddpm_hf.hub.demo_page import step_choices

    usual = [("5", 5), ("10", 10), ("25", 25), ("50", 50), ("100", 100)]
    assert step_choices(pipeline_of(tiny_unet()), 25) == [*usual, ("all 1000", 1000)]
    planned = step_choices(pipeline_of(tiny_unet(), **CALIBRATED), 4)
    assert planned == [("4", 4), *usual, ("all 1000", 1000)]
    short = pipeline_of(tiny_unet(), num_train_timesteps=12)
    assert step_choices(short, 12) == [("5", 5), ("10", 10), ("all 12", 12)]


def test_every_sampler_is_explained_in_a_line():
    assert set(SAMPLER_LINES) == {OWN, *RECIPES}


@pytest.mark.parametrize(
    "network, scheduler, texts",
    [
        ({}, {}, ["ddim-2m in 5 steps", "ddim in 10 steps", "ddpm in 100 steps"]),
        ({}, {"num_train_timesteps": 4}, ["seed 1"]),
        (
            {"num_classes": 2, "id2label": {"0": "cats", "1": "dogs"}},
            {"num_train_timesteps": 60},
            ["ddim-2m in 5 steps", "ddim in 10 steps", "cats, guided", "dogs, guided"],
        ),
        ({"num_class_embeds": 3}, {"num_train_timesteps": 12}, ["ddim-2m in 5 steps", "ddim in 10 steps"]),
    ],
)
def test_examples_are_of_what_the_model_has(page_of, tiny_unet, network, scheduler, texts):
    page = page_of(pipeline_of(tiny_unet(**network), **scheduler))
    (examples,) = [part for part in page.blocks.values() if getattr(part, "elem_id", None) == "examples"]
    assert examples.sample_labels == texts
    labels = [row[2] for row, text in zip(examples.samples, texts, strict=True) if "guided" in text]
    assert labels == [*range(len(labels))]


def test_the_page_served_gives_the_pictures_of_the_pipeline(page_of, tiny_unet):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    pipeline = pipeline_of(tiny_unet(num_classes=3))
    page = page_of(pipeline)
    _, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    try:
        client = Client(address, verbose=False)
        drawing = client.submit("ddim", 5, 1, 2.0, 0, 2, 3, api_name="/draw")
        image, strip, status = drawing.result()
        seen = [said for *_, said in drawing.outputs()]
        assert seen[:4] == [f"step {i} of 5" for i in (1, 2, 3, 4)] and status == seen[-1]
        assert " s** per image, in 5 steps" in status
        pipeline.scheduler = with_recipe(pipeline.scheduler, "ddim")
        images = sample_images(pipeline, 2, 3, num_inference_steps=5, class_labels=1, guidance_scale=2.0)
        assert np.array_equal(Image.open(image).convert("L"), image_grid(images))
        assert Image.open(strip).size == (5 * 64, 2 * 64)
        for wrong, message in (
            (("best", 5, 1, 2.0, 0, 2, 3), "best"),
            (("ddim", 5000, 1, 2.0, 0, 2, 3), "5000"),
            (("ddim", 5, 1, 2.0, 0, 2, None), "seed=None must be"),
            (("ddim", 5, 1, 2.0, 4.0, 2, 3), "needs a pipeline with a classifier"),
        ):
            with pytest.raises(AppError, match=message):
                client.predict(*wrong, api_name="/draw")
    finally:
        page.close()


@pytest.mark.parametrize(
    "network, beside",
    [
        ({"in_channels": 2, "condition_channels": 1, "low_resolution": 4, "max_augmentation_level": 0.5}, (0.25,)),
        ({"in_channels": 4, "condition_channels": 3}, ()),
    ],
)
def test_a_page_takes_the_picture_that_a_model_is_told(page_of, tiny_unet, tmp_path, network, beside):
    """Cropped to the middle and resized; the page asks for it before it draws."""
    from gradio_client import Client, handle_file

    pipeline = pipeline_of(tiny_unet(**network))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page = page_of(pipeline)
    _, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    try:
        client = Client(address, verbose=False)
        inputs = ("ddim", 5, None, 1.0, 0, 2, 3)
        assert client.predict(*inputs, None, *beside, api_name="/draw")[2] == "Give a picture, and draw."
        photo = handle_file(str(tmp_path / "photo.png"))
        drawn, _, status = client.predict(*inputs, photo, *beside, api_name="/draw")
        assert "in 5 steps" in status
        side, mode = (4, "L") if beside else (8, "RGB")
        middle = (4, 0, 20, 16)
        told = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS, middle).convert(mode)
        pipeline.scheduler = with_recipe(pipeline.scheduler, "ddim")
        levels = {"augmentation_level": beside[0]} if beside else {}
        images = sample_images(pipeline, 2, 3, num_inference_steps=5, condition_image=told, **levels)
        assert np.array_equal(Image.open(drawn).convert("L"), image_grid(images))
    finally:
        page.close()


def test_a_page_of_a_model_of_numbers_has_a_slider(page_of, tiny_unet):
    page = page_of(pipeline_of(tiny_unet(condition_value_range=(-1, 5))))
    (number,) = [part for part in page.blocks.values() if getattr(part, "elem_id", None) == "class"]
    assert (number.minimum, number.maximum, number.value, number.label) == (-1, 5, 2, "Number")


@pytest.mark.parametrize("save", [save_stock, save_of_pixels])
def test_a_page_takes_a_prompt(page_of, tmp_path, save):
    """Its examples are captions of the training; the page opens with one of them, guided."""
    from gradio_client import Client

    model = save(tmp_path / "model")
    pipeline = load_for_demo(model)
    pipeline.set_progress_bar_config(disable=True)
    page = page_of(pipeline, prompts=prompts_of(model, pipeline))
    parts = {part.elem_id: part for part in page.blocks.values() if getattr(part, "elem_id", None)}
    assert parts["prompt"].value == TEXTS[0] and parts["guidance"].value == 3.0 and parts["guidance"].visible
    assert parts["examples"].sample_labels[-2:] == [*TEXTS] and not parts["class"].visible
    assert [row[-2:] for row in parts["examples"].samples[-2:]] == [[text, ""] for text in TEXTS]
    _, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    try:
        client = Client(address, verbose=False)
        drawn, _, status = client.predict("ddim", 5, None, 2.0, 0, 2, 3, TEXTS[1], "dark", api_name="/draw")
        assert "in 5 steps" in status
        pipeline.scheduler = with_recipe(pipeline.scheduler, "ddim")
        told = {"prompt": TEXTS[1], "negative_prompt": "dark", "guidance_scale": 2.0}
        images = sample_images(pipeline, 2, 3, num_inference_steps=5, **told)
        assert np.array_equal(Image.open(drawn).convert("L"), image_grid(images))
    finally:
        page.close()


def test_a_page_opens_with_the_guidance_of_the_fitted_solvers(page_of, tiny_unet):
    unet = tiny_unet(num_classes=3)
    short = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    solver = fit_solver(unet, short, [2], num_paths=16, guidance_scale=2.5, progress_bar=False)
    page = page_of(GaussianDiffusionPipeline(unet, solver))
    (guidance,) = [part for part in page.blocks.values() if getattr(part, "elem_id", None) == "guidance"]
    assert guidance.value == 2.5


def test_what_a_page_cannot_be_told(tiny_unet, tmp_path):
    pipeline_of(tiny_unet(in_channels=6, condition_channels=5)).save_pretrained(tmp_path / "five")
    with pytest.raises(InputError, match="is told images of 5 channels, and a page takes pictures of 1, 3, 4"):
        load_for_demo(str(tmp_path / "five"))


# Spaces --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(hub, tiny_unet, tmp_path):
    """someone/model of a Hub on loopback."""
    pipeline_of(tiny_unet(num_classes=3), **CALIBRATED).save_pretrained(tmp_path / "model")
    hub.add("someone/model", tmp_path / "model")
    return "someone/model"


def test_a_port_that_is_taken(shared, hub, tmp_path):
    with pytest.raises(
        InputError, match=f"Cannot serve on port {hub.server_port} of 127.0.0.1: choose another --port"
    ):
        serve(str(tmp_path / "model"), hub.server_port)


def test_a_space_has_all_that_it_runs(shared, tmp_path):
    folder = tmp_path / "new" / "space"
    write_space(shared, folder)
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(files) == {"README.md", "app.py", "page.py", "pipeline.py", "requirements.txt"}
    data = SpaceCard.load(folder / "README.md").data
    assert (data.sdk, data.app_file, data.models) == ("gradio", "app.py", [shared])
    assert data.sdk_version == importlib.metadata.version("gradio")
    pinned = dict(line.split("==") for line in files["requirements.txt"].split())
    assert pinned["diffusers"] == importlib.metadata.version("diffusers") and "+" not in pinned["torch"]
    assert not any("ddpm_hf" in name for name in pinned)
    for name in ("app.py", "page.py", "pipeline.py"):
        for node in ast.walk(ast.parse(files[name])):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "ddpm_hf" not in ast.unparse(node), name
    assigned = [node for node in ast.parse(files["app.py"]).body if isinstance(node, ast.Assign)]
    names = {ast.unparse(node.targets[0]): node.value for node in assigned}
    assert ast.literal_eval(names["MODEL"]) == shared
    assert ast.literal_eval(names["SAMPLERS"]) == samplers_of(load_for_demo(shared))
    assert str(tmp_path) not in "".join(files.values())


def test_what_no_space_is_made_of(shared, tmp_path):
    with pytest.raises(InputError, match="share it with `ddpm-hf push`"):
        write_space(str(tmp_path / "model"), tmp_path / "space")
    with pytest.raises(InputError, match="is not empty .*: choose another folder"):
        write_space(shared, tmp_path)
    with pytest.raises(InputError, match="someone/none"):
        write_space("someone/none", tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_without_gradio_there_is_no_demo(shared, tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("ddpm_hf.hub.demo.version", missing)
    for make in (serve, lambda model: write_space(model, tmp_path / "space")):
        with pytest.raises(InputError, match=re.escape(install_extra("demo"))):
            make(shared)
