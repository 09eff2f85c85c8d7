"""Pictures of x_t and x0_hat, recorded while a pipeline samples."""

import numpy as np
import torch

from ddpm_hf.number_checks import check_count
from ddpm_hf.pipelines.image_grids import image_rows
from ddpm_hf.pipelines.schedulers import centered

# Milliseconds of each frame of an animation, and of its last frame.
FRAME_MILLISECONDS = 120
LAST_FRAME_MILLISECONDS = 2000


class TrajectoryRecorder:
    """A callback that keeps x_s, and the x0_hat from which it was drawn, after some of the steps x_t -> x_s.

        recorder = TrajectoryRecorder(num_frames=10)
        pipeline(..., callback_on_step_end=recorder, callback_on_step_end_tensor_inputs=recorder.tensor_inputs)
        recorder.save("way.png")
        recorder.save("way.gif")

    Args:
        num_frames (`int`): number of recorded steps, evenly spaced up to the last; all if there are fewer.

    Attributes:
        frames: `{t: (images of x_s, images of x0_hat)}`, PIL images by the timestep at which the step began, in the
            order of sampling. If inpainting repeats a step, the last repetition stays.
    """

    tensor_inputs = ("latents", "pred_original_sample")

    def __init__(self, num_frames=10):
        check_count("num_frames", num_frames)
        self.num_frames, self.frames = int(num_frames), {}

    def __call__(self, pipeline, step, timestep, tensors):
        if tensors["pred_original_sample"] is None:
            raise ValueError(
                f"A {type(pipeline.scheduler).__name__} does not tell the x0 it predicts: use another one."
            )
        timesteps, t = pipeline.scheduler.timesteps, torch.as_tensor(timestep).item()
        chosen = np.linspace(len(timesteps) - 1, 0, self.num_frames).round().astype(int)
        if t in timesteps[np.unique(chosen)]:
            self.frames[t] = tuple(pictures(pipeline, tensors[name]) for name in self.tensor_inputs)
        return {}

    def strip(self):
        """A PIL image with, for each sample, a row of x_s above a row of x0_hat; sampling runs to the right."""
        by_sample = zip(*(zip(*frame, strict=True) for frame in self.frames.values()), strict=True)
        return image_rows([row for sample in by_sample for row in zip(*sample, strict=True)])

    def save(self, path):
        """Write the strip, or for .gif an animation: the samples side by side, x_s above x0_hat."""
        if str(path).lower().endswith(".gif"):
            save_animation([image_rows(frame) for frame in self.frames.values()], path)
        else:
            self.strip().save(path)


def pictures(pipeline, x):
    """States of a run, or its x0_hat, as PIL images: latents decoded, and data in [0, 1] as they are there."""
    return pipeline.samples.to_output(centered(pipeline.scheduler, x), "pil")


def save_animation(images, path):
    """Write PIL images as a GIF that loops and pauses at its last frame."""
    first, *others = images
    durations = [FRAME_MILLISECONDS] * len(others) + [LAST_FRAME_MILLISECONDS]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)
