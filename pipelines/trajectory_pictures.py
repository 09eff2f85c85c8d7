"""The way from noise to images, recorded while a pipeline walks it: pictures of x_t and of the predicted x0."""

import numpy as np

from ddpm_hf.number_checks import check_count
from ddpm_hf.pipelines.image_grids import image_rows

# Milliseconds of a frame of an animation, and of its last one, the images.
FRAME_MILLISECONDS = 120
LAST_FRAME_MILLISECONDS = 2000


class TrajectoryRecorder:
    """A callback that keeps x_s and the x0_hat it was drawn from, after some of the steps x_t -> x_s.

        recorder = TrajectoryRecorder(num_frames=10)
        pipeline(..., callback_on_step_end=recorder, callback_on_step_end_tensor_inputs=recorder.tensor_inputs)
        recorder.save("way.png")
        recorder.save("way.gif")

    Args:
        num_frames (`int`): after so many steps, evenly chosen from those of the scheduler, the last one included; all of
            them, if they are fewer.

    Attributes:
        frames: `{t: (images of x_s, images of x0_hat)}`, PIL images by the timestep that the step began at, in the order of
            sampling. Where inpainting walks a stretch again, its last walk stays.
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
        timesteps, t = pipeline.scheduler.timesteps, int(timestep)
        chosen = np.linspace(len(timesteps) - 1, 0, self.num_frames).round().astype(int)
        if t in timesteps[np.unique(chosen)]:
            to_images = pipeline.image_processor.postprocess
            self.frames[t] = tuple(to_images(tensors[name], output_type="pil") for name in self.tensor_inputs)
        return {}

    def strip(self):
        """A PIL image: for each sample a row of x_s and under it one of x0_hat, time going to the right."""
        by_sample = zip(*(zip(*frame, strict=True) for frame in self.frames.values()), strict=True)
        return image_rows([row for sample in by_sample for row in zip(*sample, strict=True)])

    def save(self, path):
        """Write the strip, or, if the name ends in .gif, an animation: the samples side by side, x_s above and x0_hat below."""
        if str(path).lower().endswith(".gif"):
            save_animation([image_rows(frame) for frame in self.frames.values()], path)
        else:
            self.strip().save(path)


def save_animation(images, path):
    """Write PIL images as a GIF that begins again and again and rests at its last frame."""
    first, *others = images
    durations = [FRAME_MILLISECONDS] * len(others) + [LAST_FRAME_MILLISECONDS]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)
