import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.pipelines.image_grids import image_rows
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler


@pytest.fixture
def pipeline(stock_unet):
    pipeline = GaussianDiffusionPipeline(stock_unet, GaussianDiffusionScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def walk(pipeline, recorder, *args, **kwargs):
    kwargs = {"num_inference_steps": 10, "generator": torch.Generator().manual_seed(0)} | kwargs
    tensors = {"callback_on_step_end_tensor_inputs": recorder.tensor_inputs}
    return pipeline(*args, callback_on_step_end=recorder, **tensors, **kwargs).images


@pytest.mark.parametrize(
    "frames, timesteps",
    [(1, [0]), (2, [900, 0]), (4, [900, 600, 300, 0]), (50, list(range(900, -1, -100)))],
)
def test_steps_are_chosen_evenly_and_the_last_is_one(pipeline, frames, timesteps):
    recorder = TrajectoryRecorder(frames)
    images = walk(pipeline, recorder, 2)
    assert list(recorder.frames) == timesteps
    for image, x_s, x0 in zip(images, *recorder.frames[0], strict=True):
        assert np.array_equal(np.array(image), np.array(x_s)) and np.array_equal(np.array(image), np.array(x0))


def test_what_is_kept(pipeline):
    seen, recorder = {}, TrajectoryRecorder(3)

    def callback(pipe, step, t, tensors):
        seen[int(t)] = [pipe.image_processor.postprocess(tensors[name]) for name in recorder.tensor_inputs]
        return recorder(pipe, step, t, tensors)

    pipeline(
        2, num_inference_steps=5, callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=recorder.tensor_inputs,
    )  # fmt: skip
    assert list(recorder.frames) == [800, 400, 0]
    for t, frame in recorder.frames.items():
        assert [[np.array(x).tolist() for x in kind] for kind in frame] == [
            [np.array(x).tolist() for x in kind] for kind in seen[t]
        ]


def test_images_are_the_same_as_without(pipeline):
    plain = pipeline(num_inference_steps=10, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.array_equal(np.array(walk(pipeline, TrajectoryRecorder())[0]), np.array(plain))


def test_strip_and_animation(pipeline, tmp_path):
    recorder = TrajectoryRecorder(5)
    walk(pipeline, recorder, 2)
    strip = recorder.strip()
    assert strip.mode == "L" and strip.size == (5 * 64, 4 * 64)
    tile = np.array(strip)[3 * 64 : 4 * 64 : 8, 2 * 64 : 3 * 64 : 8]  # x0_hat of the second sample at the third frame
    assert np.array_equal(tile, np.array(list(recorder.frames.values())[2][1][1]))
    recorder.save(tmp_path / "way.gif")
    with Image.open(tmp_path / "way.gif") as animation:
        assert animation.n_frames == 5 and animation.size == (2 * 64, 2 * 64) and animation.info["loop"] == 0
        last = list(recorder.frames.values())[-1]
        animation.seek(4)
        assert np.array_equal(np.array(animation.convert("L")), np.array(image_rows(last)))


def test_colours(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(in_channels=3), GaussianDiffusionScheduler())
    pipeline.set_progress_bar_config(disable=True)
    recorder = TrajectoryRecorder(2)
    walk(pipeline, recorder)
    assert recorder.strip().mode == "RGB"


def test_of_a_stretch_walked_again_the_last_walk_stays(pipeline, picture):
    inpaint, recorder = GaussianDiffusionInpaintPipeline.from_pipe(pipeline), TrajectoryRecorder(20)
    inpaint.set_progress_bar_config(disable=True)
    mask = np.ones((8, 8))
    walk(inpaint, recorder, picture(), mask, jump_length=3, jump_n_sample=2, num_inference_steps=7)
    assert list(recorder.frames) == inpaint.scheduler.timesteps.tolist()


def test_bad_input(pipeline):
    with pytest.raises(ValueError, match="num_frames=0 must be a whole number of at least 1"):
        TrajectoryRecorder(0)
    pipeline.scheduler = UniPCMultistepScheduler()
    with pytest.raises(ValueError, match="A UniPCMultistepScheduler does not tell the x0 it predicts"):
        walk(pipeline, TrajectoryRecorder())


@pytest.mark.parametrize(
    "scheduler", [ScoreSDEScheduler(sde="vp", centered=False), EDMScheduler(solver="euler")], ids=["vp", "edm"]
)
def test_frames_of_real_times_are_as_many_and_show_the_images_as_they_are(stock_unet, scheduler):
    pipeline, recorder = GaussianDiffusionPipeline(stock_unet, scheduler), TrajectoryRecorder(4)
    pipeline.set_progress_bar_config(disable=True)
    images = walk(pipeline, recorder, 2, num_inference_steps=25)
    assert len(recorder.frames) == 4
    last = recorder.frames[pipeline.scheduler.timesteps[-1].item()]
    assert [np.array(image).tolist() for image in last[0]] == [np.array(image).tolist() for image in images]
