import numpy as np
from diffusers import DDPMScheduler
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.pipelines.image_grids import image_grid, sample_images


def test_images_do_not_depend_on_the_batches(stock_unet):
    pipeline = GaussianDiffusionPipeline(stock_unet, DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    runs = [sample_images(pipeline, 5, seed=3, batch_size=size, num_inference_steps=3) for size in (1, 2, 5)]
    for images in runs[1:]:
        assert len(images) == 5
        for image, expected in zip(images, runs[0], strict=True):
            difference = np.array(image, dtype=int) - np.array(expected, dtype=int)
            assert np.abs(difference).max() <= 1  # rounding of the network in batches of other sizes
    later = sample_images(pipeline, 1, seed=7, num_inference_steps=3)[0]
    assert np.abs(np.array(later, dtype=int) - np.array(runs[0][4], dtype=int)).max() <= 1


def test_grids_are_near_square_and_enlarged_without_blur():
    images = [Image.new("L", (28, 28), 10 * i) for i in range(5)]
    grid = image_grid(images)
    assert grid.mode == "L" and grid.size == (3 * 56, 2 * 56)
    assert [grid.getpixel((56 * (i % 3) + 5, 56 * (i // 3) + 5)) for i in range(6)] == [0, 10, 20, 30, 40, 0]
    assert image_grid([Image.new("RGB", (100, 80))]).size == (100, 80)
