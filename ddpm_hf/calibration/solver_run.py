"""`ddpm-hf calibrate --solver`: a pipeline folder in, a new one out whose scheduler has solvers fitted to the model."""

import json
import time
import zlib
from functools import partial
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.fine_paths import CLEAN
from ddpm_hf.calibration.models import load_for_measuring
from ddpm_hf.calibration.new_folder import Told, alone_in_new_folder, output_folder, write_folder
from ddpm_hf.calibration.options import told_of
from ddpm_hf.calibration.path_choice import PathChoice, distance_of_flow
from ddpm_hf.calibration.plots import draw_solvers
from ddpm_hf.calibration.progress_file import SOLVER_STATE
from ddpm_hf.calibration.solver_comparison import (
    calls_of_comparison,
    distances_to_paths,
    samplers_compared,
    table_of,
)
from ddpm_hf.calibration.solver_fit import LEAST_PATHS, FitOptions, SolverFit, in_whole_calls
from ddpm_hf.calibration.told_texts import drawn_texts, read_prompts, states_of_texts
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.captions import captions_of
from ddpm_hf.data.model_range import to_levels
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data, open_data, with_own_captions
from ddpm_hf.files import read_mapping, written_whole
from ddpm_hf.hub.push import prepare_repository
from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.models.network_checksum import network_checksum
from ddpm_hf.reports.report_files import SOLVERS
from ddpm_hf.results import check_apart
from ddpm_hf.samples import kind_of

IMAGE_PATHS, POINT_PATHS = 96, 512
FEWER = "give fewer numbers of network calls to --solver"


class SolverOptions(NamedTuple):
    """What solvers are fitted to.

    model: a pipeline folder, or the id of a repository on the Hub.
    steps: the numbers of network calls K.
    data: images that the model was trained on; by default the training split of the embedded Fashion-MNIST. They say
        where paths end, and give their moments; they are encoded for a model of latents that was trained here.
    num_images: how many of them, drawn at random by `seed`. Of fewer than 256 there are fewer paths too: the solvers are
        found sooner and are less exact.
    guidance_scale: of classifier-free guidance, for which alone the solvers hold.
    prompts: for a model that is told a text, a file with a text on each line, which its paths are told in turn; by
        default the captions of the data.
    features: a folder of an image classifier, or "inception", in which the ends of paths are compared with the images;
        by default the network's own middle block.
    batch_size: paths in a network call. seed: of the noise, and of the choice of images.
    device, precision, channels_last, compile: as in `calibrate`.
    """

    model: str
    steps: list[int]
    data: DataArguments = DataArguments()
    num_images: int = 1000
    guidance_scale: float = 1.0
    features: str | None = None
    batch_size: int = 64
    seed: int = 0
    device: str | None = None
    prompts: str | None = None
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"

    def told(self):
        """The values by the names of the command line's options, with absolute paths of folders and files."""
        options = {"solver": ",".join(map(str, self.steps)), "guidance_scale": self.guidance_scale}
        given = {name: getattr(self, name) for name in ("features", "prompts")}
        return told_of(self) | options | {name: value for name, value in given.items() if value is not None}


def calibrate_solvers(options, output_dir=None, push_to_hub=None):
    """Fits a solver for each number of steps, and writes a new pipeline folder whose scheduler has them.

    The weights stay what they are; the new scheduler is deterministic (eta = 0), and `set_timesteps(K)` takes the
    solver for K. Beside the model there are `solvers.json` and `solvers.png`, with the distances to the model's
    fine paths from unseen noise. Called again after it was cut off, it goes on with the first solver that is missing.
    The result follows from the seed. Of several processes one works, and the others wait.

    Args:
        options ([`SolverOptions`]): the model, the steps and the data.
        output_dir (*optional*): the new folder; empty if it is there. With `push_to_hub` alone it is outputs/ and the
            name of the repository.
        push_to_hub (`str`, *optional*): the id of a repository, made if it is not there, that gets the folder too.

    Returns:
        [`GaussianDiffusionPipeline`]: what was written; for a model of latents its own pipeline.

    Raises:
        InputError: before the work, for steps, data, features or folders that do not serve.
    """
    output_dir = output_folder(output_dir, push_to_hub)
    accelerator = join_processes(options.device)
    check_apart(output_dir, options.model)
    with main_process_in(alone_in_new_folder(output_dir), accelerator):
        loaded = load_for_measuring(options, accelerator)
        options = options._replace(data=with_own_captions(options.data, options.model))
        data = _data(loaded, options, accelerator)
        fit = make_fit(loaded, options, *data)
        if accelerator.is_main_process:
            if push_to_hub is not None:
                push_to_hub = prepare_repository(push_to_hub).repository
            _announce(fit)
            fit_and_write(loaded, fit, options, output_dir, push_to_hub=push_to_hub)
        accelerator.wait_for_everyone()
    return loaded.pipeline


def _announce(fit):
    """Prints how long the fit will take."""
    calls, paths = calls_of_fit(fit), fit.options.num_paths
    duration = expected_duration(calls * paths * seconds_of_path(fit), FEWER)
    print(f"{calls} network calls for {paths} paths, in float32: about {duration}")


def calls_of_fit(fit):
    """The most network calls of `fit_and_write`, for each path of the fit."""
    return round(fit.calls() + calls_of_comparison(fit, samplers_compared(fit.chain, fit.steps)))


def seconds_of_path(fit):
    """The seconds that the network takes for one path in a call, measured."""
    batch_size = fit.options.batch_size
    with fitting_into_memory(f"lower --batch_size, which is {batch_size}"):
        return seconds_of(lambda: fit.one_call(batch_size)) / batch_size


def fit_and_write(loaded, fit, options, output_dir, further=lambda scheduler: (), push_to_hub=None):
    """Fits the solvers, from where a fit that was cut off ended, and writes the new folder.

    Args:
        loaded ([`CalibratedModel`]): the model.
        fit ([`SolverFit`]): from `make_fit` for the model and the options.
        options ([`SolverOptions`]): they tell what the solvers follow from.
        output_dir (`Path`): the folder, which this process is alone in.
        further (`Callable`): makes further reports for the folder, as `write_folder` takes them, from the new scheduler.
        push_to_hub (`str`, *optional*): the repository.
    """
    samplers = samplers_compared(loaded.pipeline.scheduler, fit.steps)
    started, state = time.monotonic(), _State(output_dir / SOLVER_STATE, fit, options)
    with tqdm(total=calls_of_fit(fit), desc="solvers", unit="call") as bar:
        update = in_whole_calls(bar)
        fit.prepare(update)
        like = None
        for count in map(str, fit.steps):
            if state.solvers.get(count) is None:
                state.add(count, fit.solver(int(count), update, like))
            like = state.solvers[count]
        scheduler = fit.scheduler(state.solvers)
        distances = distances_to_paths(fit, scheduler, samplers, update)
    report = {
        "options": options.told(),
        "seconds": time.monotonic() - started,
        "solvers": {count: _without_rows(solver) for count, solver in state.solvers.items()},
        "distances": distances,
        "paths": fit.choice._asdict(),
        "paths_tried": [choice._asdict() for choice in fit.tried],
    }
    _print_summary(report, fit, output_dir)
    told = Told(SOLVERS, report, partial(draw_solvers, report))
    write_folder(loaded, scheduler, [told, *further(scheduler)], output_dir, push_to_hub)


def _without_rows(solver):
    return {key: value for key, value in solver.items() if key not in ("rows", "rows_from")}


class _State:
    """The solvers so far, in a file from which a fit that was cut off goes on."""

    def __init__(self, path, fit, options):
        self.path, self.settings, self.solvers = path, _settings(fit, options), {}
        if path.is_file():
            stored = {"settings": {}, "solvers": {}} | read_mapping(path, json.loads)
            for name, value in self.settings.items():
                if stored["settings"].get(name) != value:
                    raise InputError(
                        f"{path} was begun with another {name} ({stored['settings'].get(name)} instead of {value}). "
                        "Give the same to continue it, or remove the file to begin anew."
                    )
            self.solvers = {count: stored["solvers"].get(count) for count in map(str, fit.steps)}

    def add(self, count, solver):
        self.solvers[count] = solver
        known = {count: solver for count, solver in self.solvers.items() if solver is not None}
        with written_whole(self.path) as aside:
            aside.write_text(json.dumps({"settings": self.settings, "solvers": known}), encoding="utf-8")


def _settings(fit, options):
    """What the solvers follow from: each also from the numbers before it, where its search begins, and the last."""
    texts = fit.conditions.texts
    return {
        "solver": ",".join(map(str, fit.steps)),
        "images": _checksum(fit.data, fit.conditions.images),
        **({} if texts is None else {"texts": _checksum(texts.prompt_embeds, texts.negative_prompt_embeds)}),
        "network": network_checksum(fit.unet),
        "noise schedule": zlib.crc32(fit.chain.alpha_bar(range(len(fit.chain))).numpy().tobytes()),
        **{name: getattr(options, name) for name in ("guidance_scale", "features", "batch_size", "seed")},
    }


def _checksum(*tensors):
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(b"" if tensor is None else tensor.contiguous().numpy().tobytes(), checksum)
    return checksum


def _print_summary(report, fit, output_dir):
    print("Distance of samples to the model's fine paths, root mean square, from noise that no solver was fitted to:")
    print("\n".join(table_of(report["distances"], fit.steps)))
    for line in _choices_told(fit):
        print(line)
    print(f"{output_dir}: the same weights; pipeline(num_inference_steps=K) takes the solver for K.")


def _choices_told(fit):
    """What the chosen paths do that the converged flow does not, in sentences."""
    choice = fit.choice
    if choice.begin is not None:
        yield f"Down to t = {choice.begin} the fine paths follow the flow of the images' mean and covariance."
    if choice.end != CLEAN:
        yield f"They end by x0_hat at t = {choice.end}."
    if choice.contrast != 1.0:
        yield f"Their contrast is changed by {choice.contrast - 1:+.1%}, to that of the images."
    if choice != PathChoice(distance=choice.distance):
        plain = distance_of_flow(fit.tried)
        yield f"So they are {1 - choice.distance / plain:.0%} nearer to the images than the converged flow."


# Before the work -----------------------------------------------------------------------------------------------------


def _data(loaded, options, accelerator):
    """The data of the fit in the network's form, and their classes or the texts that the model is told.

    Images become latents for a model of them. There are no data for latents of a network that was not trained here,
    whose scale is not known, nor where such a model is told the texts of a file, and no data set is named.
    """
    if options.prompts is not None and not loaded.is_told_text:
        raise InputError(f"--prompts {options.prompts} is for a model that is told a text: leave it out.")
    prompts = None if options.prompts is None else read_prompts(options.prompts)
    if loaded.is_told_text and prompts is None:
        prompts = main_process_first(accelerator, lambda: captions_of(open_data(options.data, loaded.image_config)))
    named = options.prompts is None or options.data.dataset is not None
    if loaded.encode is not None and not (loaded.has_known_units and named):
        return None, prompts
    wanted = options.data, loaded.image_config, options.num_images, options.seed
    images, labels = main_process_first(accelerator, lambda: load_data(*wanted))
    return loaded.encoded(images, options.batch_size), labels if prompts is None else prompts


def make_fit(loaded, options, images, labels=None):
    """The [`SolverFit`] of a model for data as its network has them, (N, C, *), and their classes; or for none.

    Args:
        labels: for a model that is told a text, the texts to tell.
    """
    unet = loaded.pipeline.unet
    num_paths = IMAGE_PATHS if kind_of(unet.config).sides else POINT_PATHS
    if images is not None:
        num_paths = max(LEAST_PATHS, min(num_paths, len(images)))
    told = {"image_labels": labels}
    if loaded.is_told_text:
        texts = states_of_texts(loaded.pipeline, drawn_texts(labels, options.seed))
        told = {name: getattr(texts, name) for name in ("prompt_embeds", "negative_prompt_embeds")}
    chosen = FitOptions(num_paths, options.seed, options.guidance_scale, batch_size=options.batch_size, **told)
    features = None if options.features is None else _features_of_levels(options.features, loaded)
    return SolverFit(unet, loaded.pipeline.scheduler, options.steps, images, chosen, features)


def _features_of_levels(name, loaded):
    """The features of samples in the network's units, decoded if they are latents, by a network of uint8 images."""
    device, kind = loaded.pipeline.unet.device, loaded.own_pipeline.samples
    features = load_features(name, device)

    def of_samples(samples):
        return torch.cat([features(to_levels(kind.decoded(part.to(device)))).cpu() for part in samples.split(500)])

    return of_samples
