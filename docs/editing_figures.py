"""Pictures of docs/editing.md, made by the code that they show; `figures.py` lists the model that each needs."""

import datasets
import numpy as np
import torch

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.data import FASHION_MNIST
from ddpm_hf.pipelines.interpolation import interpolate
from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.pipeline_inversion import GaussianDiffusionInversionPipeline
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder, save_animation
from ddpm_hf.visualization import draw_image_rows, save_figure
from ddpm_hf.visualization.style import to_image


def interpolation(file, stock):
    """Rows: depths 100, 250 and 500, linearly; the images themselves at both ends."""
    pipeline, (first, _, second) = load(stock), first_test_images(3)
    depths, weights, rows = (100, 250, 500), torch.linspace(0, 1, 9), []
    for depth in depths:
        path = interpolate(pipeline, first, second, weights, depth, generator=seeded(0), num_inference_steps=50).images
        rows.append([first, *path, second])
    columns = ["image a", *(f"{weight:g}" for weight in weights.tolist()), "image b"]
    save_figure(draw_image_rows(rows, columns, [f"depth {depth}" for depth in depths]), file)


def image_to_image(file, stock):
    """Rows: images; columns: the image given, then strengths 0.2, 0.4, .. 1."""
    edit, images = GaussianDiffusionImg2ImgPipeline.from_pipe(load(stock)), first_test_images(4)
    columns = {"image": images}
    for strength in (0.2, 0.4, 0.6, 0.8, 1.0):
        generators = [seeded(i) for i in range(len(images))]
        columns[f"strength\n{strength:g}"] = edit(
            images, strength, generator=generators, num_inference_steps=50
        ).images
    save_columns(columns, file)


def inpainting(file, stock):
    """Rows: images; columns: the image given, what is known of it (the rest grey), three ways to complete it."""
    edit, images = GaussianDiffusionInpaintPipeline.from_pipe(load(stock)), first_test_images(4)
    mask = np.zeros((28, 28))
    mask[:, 14:] = 1
    known = [np.where(mask == 1, 0.5, np.array(image) / 255) for image in images]
    columns = {"image": images, "known": edit.image_processor.numpy_to_pil(np.stack(known)[..., None])}
    for seed in range(3):
        generators = [seeded(10 * seed + i) for i in range(len(images))]
        columns[f"seed {seed}"] = edit(
            images, mask, jump_length=5, jump_n_sample=5, generator=generators, num_inference_steps=50
        ).images
    save_columns(columns, file)


def inversion(file, stock):
    """Rows: images given, x_T, and what DDIM makes of it; one round and five for each step; prints the errors."""
    pipeline, images = load(stock), first_test_images(8)
    invert = GaussianDiffusionInversionPipeline.from_pipe(pipeline)
    rows = {"image": images}
    for rounds in (1, 5):
        latents = invert(images, num_inference_steps=100, num_fixed_point_iterations=rounds).latents
        again = pipeline(latents=latents, num_inference_steps=100, eta=0.0).images
        says = f"{rounds} round{'s' * (rounds > 1)}"
        rows |= {
            f"latents\n{says}": pipeline.image_processor.postprocess(latents / 3),
            f"rebuilt\n{says}": again,
        }
        levels = [np.stack([np.array(image, dtype=float) for image in some]) for some in (images, again)]
        errors = np.abs(levels[1] - levels[0]).mean(axis=(1, 2))
        print(f"{rounds} rounds: mean absolute error {errors.mean():.3f} of 255, worst image {errors.max():.3f}")
    save_figure(draw_image_rows(list(rows.values()), row_titles=list(rows)), file)


def trajectory(file, stock):
    """Three samples: x_s after steps from t, and the x0_hat of each step; one column or frame per t."""
    recorder = TrajectoryRecorder(num_frames=11)
    load(stock)(
        generator=[seeded(i) for i in range(1, 4)],
        num_inference_steps=100,
        callback_on_step_end=recorder,
        callback_on_step_end_tensor_inputs=recorder.tensor_inputs,
    )
    rows = ("$x_s$", r"$\hat x_0$")
    if file.suffix == ".gif":
        figures = [draw_image_rows(frame, [f"t = {t}"], rows) for t, frame in recorder.frames.items()]
        save_animation([to_image(figure) for figure in figures], file)
        return
    of_samples = zip(*(zip(*frame, strict=True) for frame in recorder.frames.values()), strict=True)
    strip = [row for sample in of_samples for row in zip(*sample, strict=True)]
    save_figure(draw_image_rows(strip, [f"t = {t}" for t in recorder.frames], 3 * rows), file)


def save_columns(columns, file):
    """Columns of images by their titles."""
    save_figure(draw_image_rows(list(zip(*columns.values(), strict=True)), list(columns), tile=112), file)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def load(folder):
    return GaussianDiffusionPipeline.from_pretrained(folder)


def first_test_images(count):
    rows = datasets.load_dataset(str(FASHION_MNIST), split="test")
    return [rows[i]["image"].convert("L") for i in range(count)]
