"""`ddpm-hf improve`: solvers fitted to a model within some minutes, and a picture of its samples before and after."""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from tqdm.auto import tqdm

from ddpm_hf.calibration.models import CalibratedModel, load_for_measuring
from ddpm_hf.calibration.new_folder import alone_in_new_folder
from ddpm_hf.calibration.progress_file import SCOPE_STATE
from ddpm_hf.calibration.solver_fit import LEAST_PATHS
from ddpm_hf.calibration.solver_run import (
    SolverOptions,
    calls_of_fit,
    fit_and_write,
    make_fit,
    seconds_of_path,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.distributed import join_processes
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.comparison_report import DISTANCE, Comparison
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data, open_data, with_own_captions
from ddpm_hf.evaluation.sampler_measurements import (
    Amounts,
    calls_for,
    check_pictures,
    check_seeds,
    make_task,
    measure_samplers,
    settings_of,
)
from ddpm_hf.evaluation.samplers import check_calls, make_sampler
from ddpm_hf.limits import expected_duration
from ddpm_hf.reports.report_files import COMPARED_SAMPLES
from ddpm_hf.results import check_apart

# The usual solver of diffusers that needs fewest steps.
USUAL = "unipc"
OWN_FEATURES = "the network's own middle block"
# The samples of each sampler at each number of steps, and the most images of the data, that are compared.
SAMPLES, MOST_UNSEEN = 200, 1000


class ImproveOptions(NamedTuple):
    """What `improve` works on.

    model: a pipeline folder, or the id of a repository on the Hub; of images.
    data: images that the model was trained on; by default the training split of the embedded Fashion-MNIST.
    minutes: how long all may take.
    guidance_scale: of classifier-free guidance, for which the solvers are fitted.
    features: as in [`SolverOptions`]; samples and data are compared in them too.
    batch_size, seed, device, precision, channels_last, compile: as in [`SolverOptions`].
    """

    model: str
    data: DataArguments = DataArguments()
    minutes: float = 10.0
    features: str | None = None
    batch_size: int = 64
    seed: int = 0
    device: str | None = None
    guidance_scale: float = 1.0
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"

    def for_solvers(self, scope):
        """The [`SolverOptions`] of a fit of this scope."""
        own = ("model", "data", "minutes")
        shared = {name: value for name, value in self._asdict().items() if name not in own}
        return SolverOptions(self.model, list(scope.steps), self.data, scope.num_images, **shared)


class Scope(NamedTuple):
    """How much is fitted: solvers for numbers of network calls, to so many images."""

    steps: tuple[int, ...]
    num_images: int

    def __str__(self):
        return f"solvers for {', '.join(map(str, self.steps))} network calls, fitted with {self.num_images} images"


# From the widest to the narrowest; the first that fits into the minutes is taken.
SCOPES = (
    Scope((3, 5, 10, 25), 1000),
    Scope((5, 10, 25), 1000),
    Scope((5, 10), 1000),
    Scope((5, 10), 128),
    Scope((5,), 128),
    Scope((5,), 64),
    Scope((5,), 32),
)


class _Before(NamedTuple):
    """What is known before the fit: the model, the process, the samplers to beat, and images for the comparison."""

    loaded: CalibratedModel
    accelerator: Accelerator
    samplers: dict
    unseen: tuple


def improve(options, output_dir=None):
    """Writes a copy of a model that samples better in few steps, its weights untouched, and shows the difference.

    A call of the network is timed, and as much is fitted as the minutes allow (`SCOPES`), as by `calibrate_solvers`.
    The new folder gets `compare.json`, `compare.md`, `compare.png` and `compare_samples.png` too: samples of the model's
    own sampler and of diffusers' UniPC before, and of the fitted solvers after, from the same noise, with their Frechet
    distances to images that nothing was fitted to. Called again after it was cut off, it goes on with the scope that
    was chosen, and with the first solver that is missing. The result follows from the scope and the seed.

    Args:
        options ([`ImproveOptions`]): the model, the data and the minutes.
        output_dir (*optional*): the new folder; empty if it is there. By default it is in outputs/, and has the name of
            the model (`new_folder_of`).

    Returns:
        [`GaussianDiffusionPipeline`]: what was written.

    Raises:
        InputError: before the work, for a model, data or a folder that do not serve, and for too few minutes.
    """
    _check(options)
    output_dir = new_folder_of(options.model) if output_dir is None else Path(output_dir)
    accelerator = join_processes(options.device)
    if accelerator.num_processes > 1:
        raise InputError("`improve` works in one process: start it without `accelerate launch`.")
    check_apart(output_dir, options.model)
    with alone_in_new_folder(output_dir):
        loaded = _load(options, accelerator)
        options = options._replace(data=with_own_captions(options.data, options.model))
        scope = _scope(loaded, options, output_dir)
        before = _before(loaded, options, scope, accelerator)
        fit = _fit(loaded, options, scope)
        further = partial(_compared, before, fit, options)
        fit_and_write(loaded, fit, options.for_solvers(scope), output_dir, further)
    print(f"{output_dir / COMPARED_SAMPLES} shows samples before and after. Next:")
    print(f"  ddpm-hf sample {output_dir} --steps {scope.steps[0]}")
    return loaded.pipeline


def new_folder_of(model):
    """The default folder for a folder or an id on the Hub: outputs/mine_improved for runs/mine and for me/mine."""
    return Path("outputs", f"{Path(model).resolve().name}_improved")


def _compared(before, fit, options, fitted):
    """The comparison of the samplers before with the fitted one, printed as a table, in a list."""
    amounts = Amounts(SAMPLES, (options.seed,), options.batch_size, guidance_scale=options.guidance_scale)
    pipeline, see = before.loaded.own_pipeline, _seen_by(fit, before.loaded, options)
    task = make_task(pipeline, before.unseen, see, amounts, before.accelerator)
    samplers = before.samplers | {"after: fitted": fitted}
    with tqdm(total=calls_for(task, samplers, fit.steps), desc="compare", unit="call") as bar:
        measurements, shown = measure_samplers(task, samplers, fit.steps, bar)
    distance = f"{DISTANCE} in {OWN_FEATURES}" if options.features is None else DISTANCE
    settings = settings_of(task, measurements, options.model, options.features or OWN_FEATURES, options.data)
    comparison = Comparison("Before and after", distance, settings, measurements, shown)
    print("\n".join(comparison.lines()))
    return [comparison]


def _seen_by(fit, loaded, options):
    """The features of uint8 images in which samples and data are compared; those of the fit see the network's samples."""
    if loaded.encode is None:
        return lambda levels: fit.features(to_model_range(levels))
    if options.features is not None:
        return load_features(options.features, loaded.pipeline.unet.device)
    return lambda levels: fit.features(loaded.encode(to_model_range(levels).to(loaded.pipeline.unet.device)))


# Before the work -----------------------------------------------------------------------------------------------------


def _check(options):
    if not options.minutes > 0:
        raise InputError(f"minutes={options.minutes:g} must be more than 0.")
    check_seeds([options.seed], SAMPLES)


def _load(options, accelerator):
    loaded = load_for_measuring(options, accelerator)
    instead = "use `ddpm-hf calibrate --solver 5,10`, which compares no pictures"
    check_pictures(loaded.own_pipeline, options.model, instead)
    return loaded


def _scope(loaded, options, output_dir):
    """The scope that was chosen before the fit was cut off, or the widest that fits into the minutes."""
    begun = SCOPE_STATE.read(output_dir)
    if begun:
        scope = Scope(tuple(begun["steps"]), begun["num_images"])
        print(f"Going on with what was begun in {output_dir}: {scope}.")
        return scope
    scope = _widest(loaded, options)
    SCOPE_STATE.write(output_dir, scope._asdict())
    return scope


def _widest(loaded, options):
    scopes = _possible_scopes(loaded, options)
    fits = [_fit(loaded, options, scope) for scope in scopes]
    seconds_of_one = seconds_of_path(fits[-1])
    for scope, fit in zip(scopes, fits, strict=True):
        seconds = seconds_of_one * _images_through_network(fit, scope)
        if seconds <= 60 * options.minutes:
            print(f"{scope}, in float32: about {expected_duration(seconds, 'give fewer --minutes')} (h:mm:ss)")
            return scope
    needed = math.ceil(seconds / 60)
    raise InputError(
        f"The network takes {1000 * seconds_of_one:.3g} ms for an image here, so that the least of work, {scope}, takes "
        f"about {needed} minutes: give --minutes {needed}."
    )


def _possible_scopes(loaded, options):
    """The scopes, narrowed to the model's timesteps and to half of the data: the rest is for the comparison."""
    available = len(open_data(options.data, loaded.image_config))
    if available < 2 * LEAST_PATHS:
        raise InputError(f"{available} images are too few to fit solvers to: give at least {2 * LEAST_PATHS}.")
    longest, fewest = loaded.pipeline.scheduler.config.num_train_timesteps, SCOPES[-1].steps[0]
    if longest < fewest:
        raise InputError(
            f"{options.model} has {longest} training timesteps, and the least that is fitted is a solver for {fewest} "
            "network calls: sample in all of its timesteps."
        )
    narrowed = [
        Scope(tuple(k for k in scope.steps if k <= longest), min(scope.num_images, available // 2)) for scope in SCOPES
    ]
    return list(dict.fromkeys(narrowed))


def _fit(loaded, options, scope):
    images, told = load_data(options.data, loaded.image_config, scope.num_images, options.seed)
    fit = make_fit(loaded, options.for_solvers(scope), loaded.encoded(images, options.batch_size), told)
    if fit.features is None:
        raise InputError(
            f"The network of {options.model} has no middle block, in which samples would be compared: give --features, a "
            "folder of an image classifier, or inception."
        )
    return fit


def _images_through_network(fit, scope):
    """How often an image goes through the network, at most, from the fit to the comparison."""
    of_samples = SAMPLES * 3 * sum(scope.steps)
    return calls_of_fit(fit) * fit.options.num_paths + of_samples + scope.num_images + MOST_UNSEEN


def _before(loaded, options, scope, accelerator):
    own = loaded.pipeline.scheduler
    samplers = {"before: own sampler": own, f"before: {USUAL}": make_sampler(USUAL, own)}
    for name, sampler in samplers.items():
        for count in scope.steps:
            check_calls(name, sampler, count)
    rest = len(open_data(options.data, loaded.image_config)) - scope.num_images
    unseen = load_data(options.data, loaded.image_config, min(MOST_UNSEEN, rest), options.seed, after=scope.num_images)
    return _Before(loaded, accelerator, samplers, unseen)
