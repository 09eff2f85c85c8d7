"""Images while they form: what a page shows after each step of a pipeline."""

import queue
import threading
import time
from typing import NamedTuple

from PIL import Image

from ddpm_hf.pipelines.image_grids import image_grid, sample_images
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder

STRIP_FRAMES = 12
# More than the eye follows, and less than a run of a thousand steps has.
MOST_VIEWS = 60
LARGEST_SEED = 2**32 - 1
# A scheduler is between two steps of just one run, and a run of its own is what a time is of.
ONE_AT_A_TIME = threading.Lock()


class View(NamedTuple):
    """What there is to see after a step, number `step` of `num_steps`.

    image: all images as they are now, x_s, laid out as a grid. strip: the way of the first one so far, x_s above and
    x0_hat below; the same object as before where it has not grown. seconds: since the beginning, for one image.
    """

    image: Image.Image
    strip: Image.Image
    step: int
    num_steps: int
    seconds: float


class ReaderLeft(Exception):
    """Nobody takes any more of what a run has to show."""


def draw(pipeline, num_images=1, seed=0, **options):
    """Draws images, and yields a [`View`] now and then; the image of the last one is the result.

    Image i is that of `seed + i`, as in `image_grids.sample_images`. A generator that is closed ends the run at its next step.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): with a scheduler that tells the x0 it predicts.
        options: those of its call.

    Raises:
        ValueError: for a seed that is not a whole number in 0 .. 2^32 - 1, and as the pipeline does.
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
                images = pipeline.image_processor.postprocess(tensors["latents"], output_type="pil")
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
    """Yields what `run(show)` hands to `show` while it is running, in a thread; raises what it raises.

    When the generator is closed, the next `show` raises [`ReaderLeft`].
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
        # Whatever it is, it is the reader's.
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
