"""Pictures of images in README and docs; `figures.py` lists their models."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image
from torch.nn.functional import interpolate

from ddpm_hf import (
    ExactDenoiser,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
)
from ddpm_hf.calibration.improve import ImproveOptions, improve
from ddpm_hf.data import decode_all, draw_images, open_images, to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.forward_process import forward_marginals
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.models.low_rank_mixture import fit_low_rank_mixture
from ddpm_hf.pipelines.image_grids import image_rows, sample_images
from ddpm_hf.places import EMBEDDED_MODEL
from ddpm_hf.recipes import with_recipe
from ddpm_hf.reports.report_files import COMPARED_SAMPLES
from ddpm_hf.samples.images import IMAGE_PROCESSOR
from ddpm_hf.samples.latent_units import decode_latents
from ddpm_hf.training.neighbour_sheets import TrainingNeighbours
from ddpm_hf.visualization import draw_forward_process, draw_image_rows, save_figure
from ddpm_hf.visualization.style import new_figure

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
# The tables of few calls, by what stands above them; fits that stand beside the first are left out.
FEW_CALLS = {
    "exact model of images": "fitted_solvers_exact_images",
    "stock Fashion-MNIST network": "fitted_solvers_fashion_mnist_stock",
}
OTHER_FITS = {"half the paths", "another seed"}
CLASSES = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"


def noise_to_images(file, labels=(0, 1, 8, 9), columns=11, steps=100, seed=1):
    """A strip for each class: x_t on the way from noise (left) to the image (right), more of it near the end."""
    pipeline, rows = load_pipeline(EMBEDDED_MODEL), len(labels)
    pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, "ddpm"))
    states, keep = _states_kept(columns, steps, exponent=0.4)
    start = torch.randn(
        rows, pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    drawn = {"latents": start, "class_labels": list(labels), "num_inference_steps": steps}
    pipeline(**drawn, generator=generator, callback_on_step_end=keep)
    strips = [pipeline.image_processor.postprocess(state, "pil") for state in (start, *states)]
    _tiled(strips).convert("L").save(file)


def words_to_images(file, folder, columns=11, steps=50, scale=3.0, seed=1):
    """As `noise_to_images`, a strip for each caption that the training of a text-to-image model left out."""
    pipeline, captions = DiffusionPipeline.from_pretrained(folder), _captions_left_out()
    pipeline.set_progress_bar_config(disable=True)
    states, keep = _states_kept(columns, steps, exponent=0.8)
    config = pipeline.unet.config
    start = torch.randn(
        len(captions), config.in_channels, *[config.sample_size] * 2, generator=torch.Generator().manual_seed(seed)
    )
    told = {"num_inference_steps": steps, "guidance_scale": scale, "callback_on_step_end": keep}
    pipeline(captions, latents=start, output_type="latent", **told)
    decoded = [decode_latents(pipeline.vae, state) for state in (start, *states)]
    _tiled([pipeline.image_processor.postprocess(images, "pil") for images in decoded]).save(file)


def _states_kept(columns, steps, exponent):
    """A list, and a callback of a pipeline that puts x_t after so many of the steps in it, more of them near the end.

    The list has one state less than there are columns, for the first is where sampling begins.
    """
    states, kept = [], {round((steps - 1) * (i / (columns - 1)) ** exponent) for i in range(1, columns)}

    def keep(pipeline, step, timestep, tensors):
        if step in kept:
            states.append(tensors["latents"])
        return tensors

    return states, keep


def _tiled(strips):
    """One picture of strips, each a column of images, enlarged."""
    tiles = [image.resize((84, 84), Image.Resampling.NEAREST) for row in zip(*strips, strict=True) for image in row]
    return make_image_grid(tiles, len(strips[0]), len(strips))


def _captions_left_out():
    measured = json.loads((RESULTS / "unseen_captions.json").read_text(encoding="utf-8"))["measured"]
    return measured["left out"]


def improved(file, stock):
    """The picture that `ddpm-hf improve` ends with: samples before and after."""
    with tempfile.TemporaryDirectory() as folder:
        improve(ImproveOptions(str(stock)), Path(folder, "improved"))
        shutil.copy(Path(folder, "improved", COMPARED_SAMPLES), file)


def memorised(file, overfitted, number=200, steps=25):
    """Samples of a model that was trained on 200 images for too long, beside the nearest of these in pixels."""
    pipeline = GaussianDiffusionPipeline.from_pretrained(overfitted)
    pipeline.scheduler = with_recipe(pipeline.scheduler, "ddim-2m")
    images = open_images(DataArguments(split="train[:200]"), None).load(1.0)
    samples = draw_levels(pipeline, [*range(number)], 0, num_inference_steps=steps)
    save_figure(TrainingNeighbours(images, pipeline.samples.channels).sheet(samples), file)


def latents_and_pixels(file, latents, pixels, shown=12, steps=25):
    """Rows: test images, their reconstructions, samples of a model of latents, and samples of one of pixels."""
    pipelines = [load_pipeline(folder) for folder in (latents, pixels)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, "ddim-2m"))
    kind = pipelines[0].samples
    test = DataArguments(split="test", resolution=kind.output_shape[-1])
    images = to_model_range(draw_images(open_images(test, None), shown, seed=0).decode()["images"])
    with torch.no_grad():
        again = kind.decoded(kind.encoded(images))
    labels = [label % len(CLASSES) for label in range(shown)]
    given = {"class_labels": labels, "num_inference_steps": steps}
    rows = [IMAGE_PROCESSOR.postprocess(tensor, output_type="pil") for tensor in (images, again)]
    image_rows(rows + [sample_images(pipeline, shown, **given) for pipeline in pipelines]).save(file)


def upscaled(file, upscaler, shown=12, steps=25):
    """Rows: told images of low resolution, their bicubic interpolations, samples of a model that is told them, and the
    test images."""
    pipeline = GaussianDiffusionUpscalePipeline.from_pretrained(upscaler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, "ddim-2m"))
    test = DataArguments(split="test", class_conditional=True, resolution=pipeline.samples.sides[0])
    drawn = draw_images(open_images(test, None), shown, seed=0).decode()
    images = to_model_range(drawn["images"])
    small = pipeline.samples.condition.of_image(images)
    told = {"class_labels": drawn["labels"], "num_inference_steps": steps, "output_type": "pt"}
    samples = pipeline(small / 2 + 0.5, generator=torch.Generator().manual_seed(0), **told).images * 2 - 1
    sides = images.shape[2:]
    rows = (interpolate(small, sides), interpolate(small, sides, mode="bicubic").clamp(-1, 1), samples, images)
    image_rows([IMAGE_PROCESSOR.postprocess(row, output_type="pil") for row in rows]).save(file)


def unseen_captions(file, folder, shown=10, steps=25, scale=3.0):
    """A row of samples for each caption that the training of a text-to-image model left out."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for caption in _captions_left_out():
        generators = [torch.Generator().manual_seed(number) for number in range(shown)]
        told = {"num_inference_steps": steps, "guidance_scale": scale, "generator": generators}
        rows.append(pipeline([caption] * shown, **told).images)
    image_rows(rows).save(file)


def forward(file, num_images=300):
    """Images of the embedded Fashion-MNIST on their way to noise, in both ways, with the test."""
    source = draw_images(open_images(DataArguments(), 28), num_images, seed=2)
    x_0 = to_model_range(decode_all(source, 0)["images"])
    generator = torch.Generator().manual_seed(0)
    marginals = forward_marginals(GaussianDiffusionScheduler(), x_0, [0, 29, 59, 99, 299, 999], generator)
    save_figure(draw_forward_process(marginals), file)


def exact_model(file, shown=12, steps=50):
    """Images of the embedded Fashion-MNIST, draws of the mixture fitted to them, and samples by its exact denoiser."""
    images = open_images(DataArguments(), None).decode()["images"]
    mixture = fit_low_rank_mixture(images)
    scheduler = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=2)
    denoiser = ExactDenoiser.from_low_rank_mixture(*mixture[:4], scheduler, mixture.weights)
    pipeline = GaussianDiffusionPipeline(denoiser, scheduler)
    drawn = denoiser.sample(shown, torch.Generator().manual_seed(0))
    rows = [pipeline.samples.to_output(x_0, "pil") for x_0 in (to_model_range(images[:shown]), drawn)]
    rows.append(sample_images(pipeline, shown, num_inference_steps=steps))
    titles = ["data", "draws of\nthe mixture", f"samples\nin {steps} steps"]
    save_figure(draw_image_rows(rows, row_titles=titles, tile=56), file)


def few_calls(file):
    """Distance to the data by network calls, from the tables of benchmarks/fitted_solvers.py."""
    figure, (panels,) = new_figure(11, 4, 1, len(FEW_CALLS))
    for axes, (title, name) in zip(panels, FEW_CALLS.items(), strict=True):
        measured = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["measured"]
        curves = {}
        for key, results in measured.items():
            sampler, calls = key.removesuffix(" calls").rsplit(", ", 1)
            curves.setdefault(sampler, {})[int(calls)] = np.mean([distance for _, distance in results])
        for value in curves.pop("flow", {}).values():
            axes.axhline(value, color="grey", linestyle=":", label="converged flow")
        for sampler, of_calls in curves.items():
            if sampler in OTHER_FITS:
                continue
            style = {"color": "black", "linewidth": 2} if sampler == "fitted" else {"linewidth": 1}
            axes.plot([*of_calls], [*of_calls.values()], "o-", markersize=3, label=sampler, **style)
        shown = sorted(curves["fitted"])
        axes.set(xscale="log", yscale="log", title=title, xlabel="network calls", ylabel="distance to the data")
        axes.set_xticks(shown, [str(calls) for calls in shown])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    save_figure(figure, file)


def guidance(file, with_classes, steered, shown=4):
    """Four samples of each class: with classes and no guidance, guided by them, and guided by a classifier."""
    rows = [[] for _ in CLASSES]
    for folder, options in (
        (with_classes, {"guidance_scale": 1.0}),
        (with_classes, {"guidance_scale": 3.0}),
        (steered, {"classifier_guidance_scale": 10.0}),
    ):
        pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
        # The seeds of benchmarks/class_recognition.py, which draws 20 of each class.
        for label, row in enumerate(rows):
            row += sample_images(
                pipeline, shown, seed=20 * label, class_labels=label, num_inference_steps=50, eta=0.0, **options
            )
    titles = ["with classes, no guidance", "guidance_scale 3", "classifier guidance 10"]
    save_figure(draw_image_rows(rows, titles, CLASSES), file)


def copies(file, num_images=300, shown=10, steps=100):
    """Samples of the exact denoiser of some images, and below each the nearest of these images, which it copies."""
    images = to_model_range(draw_images(open_images(DataArguments(), None), num_images, seed=2).decode()["images"])
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    pipeline = GaussianDiffusionPipeline(ExactDenoiser.from_points(images, scheduler), scheduler)
    generator = torch.Generator().manual_seed(0)
    samples = pipeline(shown, num_inference_steps=steps, generator=generator, output_type="latent").images
    nearest = images[torch.cdist(samples.flatten(1), images.flatten(1)).argmin(1)]
    rows = [pipeline.samples.to_output(each, "pil") for each in (samples, nearest)]
    save_figure(draw_image_rows(rows, row_titles=["samples", "nearest\ntraining image"], tile=56), file)
