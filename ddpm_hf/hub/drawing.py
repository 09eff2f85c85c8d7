"""Images during sampling, for a page that shows each step of a pipeline."""

import queue
import threading
import time
from typing import NamedTuple

from PIL import Image

from ddpm_hf.pipelines.image_grids import image_grid, sample_images
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder, pictures

STRIP_FRAMES = 12
# More views than the eye can follow, and fewer than a thousand steps.
MOST_VIEWS = 60
LARGEST_SEED = 2**32 - 1
# A scheduler holds the state of one run, and a measured time belongs to one run alone.
ONE_AT_A_TIME = threading.Lock()


class View(NamedTuple):
    """The view after step number `step` of `num_steps`.

    image: the current images x_s as a grid. strip: the path of the first image so far, x_s above and x0_hat below; the
    same object as before if it has not grown. seconds: elapsed time per image.
    """

    image: Image.Image
    strip: Image.Image
    step: int
    num_steps: int
    seconds: float


class ReaderLeft(Exception):
    """The reader of a run's views has left."""


def draw(pipeline, num_images=1, seed=0, **options):
    """Draws images and yields a [`View`] now and then; the image of the last view is the result.

    Image i has the seed `seed + i`, as in `image_grids.sample_images`. Closing the generator ends the run.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): a pipeline whose scheduler returns x0_hat.
        options: arguments of the pipeline call.

    Raises:
        ValueError: for a seed that is not a whole number in 0 .. 2^32 - 1, and for any error of the pipeline.
    """
    if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed={seed} must be a whole number in 0 .. {LARGEST_SEED}.")
    recorder = TrajectoryRecorder(STRIP_FRAMES)

    def run(show):
        started, strip = time.perf_counter(), None

        def after_step(pipeline, step, timestep, tensors):
            nonlocal strip
            num_frames = len(recorder.frames)
            recorder(pipeline, step, timestep, {name: tensor[:1] for name, tensor in tensors.items()})
            strip = recorder.strip() if len(recorder.frames) > num_frames else strip
            num_steps = len(pipeline.scheduler.timesteps)
            if (num_steps - 1 - step) % -(-num_steps // MOST_VIEWS) == 0:
                images = pictures(pipeline, tensors["latents"])
                seconds = (time.perf_counter() - started) / num_images
                show(View(image_grid(images), strip, step + 1, num_steps, seconds))
            return {}

        sample_images(
            pipeline,
            num_images,
            seed,
            batch_size=num_images,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=recorder.tensor_inputs,
            **options,
        )

    yield from shown_by(run)


def shown_by(run):
    """Runs `run(show)` in a thread, yields what it passes to `show`, and raises its errors.

    After the generator is closed, the next `show` raises [`ReaderLeft`].
    """
    shown, left, errors = queue.SimpleQueue(), threading.Event(), []
    finished = object()

    def show(value):
        if left.is_set():
            raise ReaderLeft
        shown.put(value)

    def work():
        try:
            with ONE_AT_A_TIME:
                run(show)
        except ReaderLeft:
            pass
        # Every error is passed on to the reader.
        except Exception as error:
            errors.append(error)
        finally:
            shown.put(finished)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while (value := shown.get()) is not finished:
            yield value
        if errors:
            raise errors[0]
    finally:
        left.set()
        thread.join()
