"""`ddpm-hf evaluate` measures a model, or images, by any of the metrics of `metric_names`."""

import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in, together
from ddpm_hf.environment import describe_environment
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import FeatureStatistics
from ddpm_hf.evaluation.evaluated_images import ARCHIVE, is_model, open_evaluated
from ddpm_hf.evaluation.evaluation_state import STATE_FOLDER, Pieces, begun_execution, open_state, ranges_of
from ddpm_hf.evaluation.features import INCEPTION, check_features, load_features
from ddpm_hf.evaluation.flow_run import evaluate_flow
from ddpm_hf.evaluation.image_archives import read_statistics, write_images, write_statistics
from ddpm_hf.evaluation.image_sets import DrawnImages
from ddpm_hf.evaluation.measures.neighbours import nearest
from ddpm_hf.evaluation.measures_report import MeasuresReport
from ddpm_hf.evaluation.memorisation_sheet import Neighbour, nearest_first, neighbour_sheet
from ddpm_hf.evaluation.metric_names import OF_PIXELS, Metrics, parse_metrics
from ddpm_hf.evaluation.pixel_features import CHANNELS, PIXELS, channel_network, check_same_shape, pixel_features
from ddpm_hf.evaluation.run import evaluate_bits_per_dim, with_own_captions
from ddpm_hf.evaluation.sample_metrics import MEASURES as MEASURES_OF_SAMPLES
from ddpm_hf.evaluation.sample_metrics import Seen, Sets, check_metric, figures
from ddpm_hf.evaluation.samplers import make_sampler, with_sampler
from ddpm_hf.files import moved_in_whole
from ddpm_hf.limits import check_fits_memory, expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.pipelines.network_speed import choose_execution
from ddpm_hf.reports.report_files import BOUND, FLOW_BITS, MEASURES, MEMORISED_SAMPLES
from ddpm_hf.results import alone_in_free_folder
from ddpm_hf.visualization.style import save_figure

SAMPLES_FILE = "samples.npz"
OPTIONS_OF_DRAWING = ("precision", "channels_last", "compile")
OPTIONS_OF_MODELS = ("steps", "recipe", "variance_type", "num_images", "guidance_scale", *OPTIONS_OF_DRAWING)
OPTIONS_OF_THE_FLOW = ("probes", "rtol", "dequantization")
OPTIONS_OF_SAMPLES = ("reference", "recipe", "guidance_scale", "keep_samples", "save_reference", "extrapolate")
# Networks that are there without weights.
OF_THE_IMAGES = {PIXELS: pixel_features, CHANNELS: channel_network}


class Request(NamedTuple):
    """The arguments of `evaluate`, with their defaults."""

    model: str
    output: Path
    metrics: Metrics
    data: DataArguments
    reference: str | None = None
    features: str = INCEPTION
    num_images: int | None = None
    train_split: str = "train"
    steps: int | None = None
    recipe: str | None = None
    variance_type: str | None = None
    guidance_scale: float = 1.0
    keep_samples: bool = False
    save_reference: bool = False
    extrapolate: bool = False
    probes: int = 1
    rtol: float = 1e-5
    dequantization: str = "uniform"
    batch_size: int = 64
    seed: int = 0
    device: str | None = None
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"


def evaluate(model, output, metrics="bpd", data=None, **options):
    """Measures a model, or a set of images, and writes figures with their errors, floors and conditions into a folder.

    Samples are measured against the images of `data`, or of `reference`: `measures.json` and `measures.md` have the
    figures, `memorisation.png` the samples that are nearest to training images. `bpd` writes its own files. All are moved
    in when everything is done. Until then images and features are kept in `evaluation_state/`, from which the same
    command continues after an interruption. It runs on one process, or on all that `accelerate launch` starts, and the
    figures do not depend on their number.

    Args:
        model: a pipeline folder, the id of a repository on the Hub, a folder of images, or an .npz file of images in
            guided-diffusion's format.
        output: the folder, which is made if it does not exist; it may hold other files.
        metrics (`str`): names of `metric_names.metric_names`, with commas between.
        data (`DataArguments`): the reference images; by default the test split of the embedded Fashion-MNIST.
        reference (*optional*): in place of the data set of `data`: another data set, or an .npz file of images or of
            statistics (guided-diffusion, EDM, pytorch-fid, and ours by `save_reference`).
        features: the network of metrics that name none, as in `load_features`; by default "inception".
        num_images (`int`, *optional*): for a model, how many samples, by default 10,000, and for `bpd` how many images of
            the data, by default all.
        train_split (`str`): the split of the training images, for memorisation.
        steps, recipe, variance_type, guidance_scale: how the model is sampled; by default as `ddpm-hf sample` does.
        keep_samples (`bool`): writes `samples.npz`, in guided-diffusion's format.
        save_reference (`bool`): writes the statistics of the reference in each network as `reference_NETWORK.npz`.
        probes, rtol, dequantization: of `nll`, as in `evaluate_flow`.
        extrapolate (`bool`): adds the limit of each Frechet distance for infinitely many samples.
        batch_size (`int`): images at a time and process, by default 64. Another one can change roundings.
        seed (`int`): sample i is that of `seed + i`.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; by default the fastest device.
        precision, channels_last, compile: how the network is called that draws samples, as in `choose_execution`. An
            interrupted evaluation goes on as it began. `bpd` and `nll` are always computed in float32.

    Returns:
        [`MeasuresReport`]; for metrics of the model alone {name: result}, such as {"bpd": [`BitsPerDim`]}.

    Raises:
        InputError: before anything is sampled, for an unknown metric, a network that cannot be had, too few images,
            a reference of another preprocessing, and a folder that has results already.
    """
    metrics, data = parse_metrics(metrics), data or DataArguments(split="test")
    request = Request(model, Path(output), metrics, data, **options)
    if "nll" not in metrics.of_the_model:
        _refuse(request, OPTIONS_OF_THE_FLOW, "metrics has no 'nll'")
    if not metrics.of_samples:
        _refuse_drawing(request)
        return {name: MODEL_METRICS[name].measure(request, request.output) for name in metrics.of_the_model}
    _check_request(request)
    return _evaluate(request)


def _check_request(request):
    for name in {_network_name(metric, request) for metric in request.metrics.of_samples} - {CHANNELS}:
        check_features(name)
    if not is_model(request.model):
        _refuse(request, OPTIONS_OF_MODELS, f"{request.model} has images and no model")
        if request.metrics.of_the_model:
            raise InputError(
                f"{request.model} has images and no model, which metrics={request.metrics.of_the_model[0]!r} measures: leave "
                "it out."
            )


def _refuse_drawing(request):
    """Raises InputError for an option of drawn samples that is given without a metric of samples."""
    reason = f"metrics={','.join(request.metrics.of_the_model)} draws no samples"
    _refuse(request, OPTIONS_OF_SAMPLES, reason)
    # These metrics are in float32 as it is.
    as_computed = request._replace(precision="auto") if request.precision == "fp32" else request
    _refuse(as_computed, OPTIONS_OF_DRAWING, f"{reason}, and is computed in float32")


def _refuse(request, names, reason):
    """Raises InputError for an option among `names` that was given another value than its default."""
    for name in names:
        if getattr(request, name) != Request._field_defaults[name]:
            raise InputError(f"{reason}, so --{name} has no effect: leave it out.")


def _is_memorisation(metric):
    return MEASURES_OF_SAMPLES[metric.measure].needs_training_images


def _network_name(metric, request):
    return CHANNELS if metric.measure in OF_PIXELS else str(metric.network or request.features)


def _evaluate(request):
    accelerator = join_processes(request.device)
    place = alone_in_free_folder(request.output, _result_names(request))
    with main_process_in(place, accelerator):
        if is_model(request.model):
            request = request._replace(data=with_own_captions(request.data, request.model))
        return _Evaluation(request, accelerator).run()


def _result_names(request):
    """The files that the result may have."""
    names = [MEASURES.name, f"{MEASURES.stem}.md", MEMORISED_SAMPLES, SAMPLES_FILE]
    if request.save_reference:
        names += [_statistics_name(_network_name(metric, request)) for metric in request.metrics.of_samples]
    return [*names, *(file for name in request.metrics.of_the_model for file in MODEL_METRICS[name].files)]


def _statistics_name(network):
    return f"reference_{Path(network).name}{ARCHIVE}"


def _bits_per_dim(request, folder, **changes):
    """Writes the bound on the likelihood of the data into the folder; `changes` are options other than the request's."""
    names = ("num_images", "steps", "variance_type", "batch_size", "seed", "device")
    options = {name: getattr(request, name) for name in names} | changes
    return evaluate_bits_per_dim(request.model, folder, request.data, **options)


def _flow_bits(request, folder, **changes):
    """Writes the likelihood of the data by the probability flow into the folder."""
    names = ("num_images", "probes", "rtol", "dequantization", "batch_size", "seed", "device")
    options = {name: getattr(request, name) for name in names} | changes
    return evaluate_flow(request.model, folder, request.data, **options)


class ModelMetric(NamedTuple):
    """A metric of a model: a function of the request, a folder and changes of the request, and the files that it writes.

    The last file is there only when all are.
    """

    measure: Callable
    files: tuple[str, ...]


MODEL_METRICS = {
    "bpd": ModelMetric(_bits_per_dim, (BOUND.picture, BOUND.name)),
    "nll": ModelMetric(_flow_bits, (FLOW_BITS.name,)),
}


class _Evaluation:
    """One evaluation of samples on its way: its images, its networks, what they see, and the figures."""

    def __init__(self, request, accelerator):
        self.request, self.accelerator = request, accelerator
        self.device = request.device or str(accelerator.device)
        self.memorises = any(map(_is_memorisation, request.metrics.of_samples))

    def run(self):
        request = self.request
        self.sets = main_process_first(self.accelerator, lambda: open_evaluated(request, self.device, self.memorises))
        self.networks = together(self.accelerator, self._load_networks)
        together(self.accelerator, self._check)
        self.state = request.output / STATE_FOLDER
        settings = self.sets.settings(request)
        self.execution = None if self.sets.pipeline is None else self._set_up_network()
        settings |= {} if self.execution is None else self.execution._asdict()
        together(self.accelerator, lambda: open_state(request.output, settings), main_process_only=True)
        self._say_duration()
        for metric in self._model_metrics():
            if not (self.state / metric.files[-1]).is_file():
                self.accelerator.print(f"{metric.files[-1]} is computed in float32.")
                metric.measure(request, self.state, num_images=self._num_data_images())
        self._see_all()
        return together(self.accelerator, self._measure_and_write, main_process_only=True)

    def _model_metrics(self):
        return [MODEL_METRICS[name] for name in self.request.metrics.of_the_model]

    def _num_data_images(self):
        """Metrics of the model take all images of the data where there are fewer than samples."""
        count, reference = self.request.num_images, self.sets.reference
        return None if count is None or reference is None or count >= len(reference) else count

    # Networks and checks ------------------------------------------------------------------------------------------------

    def _load_networks(self):
        """{name: [`FeatureNetwork`]} of all metrics."""
        networks = {}
        for metric in self.request.metrics.of_samples:
            name = _network_name(metric, self.request)
            if name not in networks:
                networks[name] = OF_THE_IMAGES[name]() if name in OF_THE_IMAGES else load_features(name, self.device)
        if self.memorises:
            networks[PIXELS] = OF_THE_IMAGES[PIXELS]()
        return networks

    def _check(self):
        """Tries each network once, and checks numbers of images, so that a mistake shows before anything is sampled."""
        trial = torch.zeros(1, *self.sets.samples.shape, dtype=torch.uint8)
        dimensions = {name: network(trial).shape[1] for name, network in self.networks.items()}
        if self.sets.reference is not None:
            for name, network in self.networks.items():
                if name in OF_THE_IMAGES:
                    check_same_shape(name, self.sets.samples.shape, self.sets.reference.shape)
                network(self.sets.reference.batch(range(1)))
        self.moments = {}
        for metric in self.request.metrics.of_samples:
            name = _network_name(metric, self.request)
            if self.sets.statistics is not None and name not in self.moments:
                self.moments[name] = read_statistics(self.sets.statistics, self.networks[name], dimensions[name])
            reference = len(self.sets.reference) if self.sets.reference is not None else self.moments[name]
            limit = dimensions[name] if self.request.extrapolate and metric.measure == "fd" else None
            check_metric(metric, self.networks[name], len(self.sets.samples), reference, limit)
        if self.request.keep_samples:
            needed = math.prod(self.sets.samples.shape) * len(self.sets.samples)
            check_fits_memory("the samples take", needed, "lower --num_images, or do without --keep_samples")

    def _set_up_network(self):
        """Puts the network that draws into its [`Execution`], which is returned."""
        pipeline, batch_size = self.sets.pipeline, min(self.request.batch_size, len(self.sets.samples))
        calls, begun = self._batches() * self.sets.steps, begun_execution(self.request.output)
        execution = choose_execution(pipeline, self.request, batch_size, calls, self.accelerator, begun)
        execution.apply(pipeline.unet)
        return execution

    def _batches(self):
        """The number of batches of samples of the main process."""
        return -(-len(self.sets.samples) // (self.request.batch_size * self.accelerator.num_processes))

    def _say_duration(self):
        """Prints how long sampling will take, from a batch of one step."""
        if self.sets.pipeline is None:
            return
        steps, batches = self.sets.steps, self._batches()
        # Any sampler costs a call of the network for a step; this one takes a single step of every model.
        model = self.sets.pipeline
        pipeline = with_sampler(model, make_sampler("diffusers-ddim", model.scheduler))
        sampling = self.sets.sampling | {"num_inference_steps": 1}
        one_step = DrawnImages(pipeline, len(self.sets.samples), 0, self.sets.samples.conditions, sampling)
        batch = range(min(self.request.batch_size, len(self.sets.samples)))
        with fitting_into_memory(f"lower --batch_size, which is {self.request.batch_size}"):
            seconds = seconds_of(lambda: one_step.batch(batch))
        duration = expected_duration(seconds * steps * batches, "give fewer --num_images or --steps")
        self.accelerator.print(
            f"{len(self.sets.samples)} samples: {batches * steps} network calls in each process, about {duration} (h:mm:ss)"
        )

    # The work -----------------------------------------------------------------------------------------------------------

    def _see_all(self):
        """Draws the samples, and gathers the features of all sets in all networks on every process."""
        self.images = self._pieces(
            "images", "samples", self.sets.samples, lambda places: {"images": self.sets.samples.batch(places).numpy()}
        )
        # The features of the data come first, because what is wrong there would be found only after the samples.
        self.seen = {}
        for network in self.networks.values():
            if self.sets.reference is not None:
                self._see("reference", network, self.sets.reference, self.sets.reference.batch)
            if self.memorises and network.name in self._memorised_in():
                self._see("train", network, self.sets.train, self.sets.train.batch)
        self.images.make_all()
        for network in self.networks.values():
            self._see("samples", network, self.sets.samples, self._drawn)
        self.kept = self.images.gathered()["images"] if self.request.keep_samples else None

    def _drawn(self, places):
        return torch.from_numpy(self.images.piece(places)["images"])

    def _memorised_in(self):
        """The names of the networks in which nearest training images are looked for."""
        metrics = filter(_is_memorisation, self.request.metrics.of_samples)
        return [PIXELS, *(_network_name(metric, self.request) for metric in metrics)]

    def _see(self, kind, network, images, batch):
        """Gathers what a network makes of a set of images on every process."""

        def see(places):
            features, logits = network.see(batch(places))
            seen = {"features": features.cpu().numpy()}
            return seen if logits is None else seen | {"logits": logits.cpu().numpy()}

        name = f"{kind}_{zlib.crc32(str(network.conditions).encode()):08x}"
        arrays = self._pieces(name, f"{kind} in {Path(network.name).name}", images, see).gathered()
        logits = arrays.get("logits")
        logits = None if logits is None else torch.from_numpy(logits)
        self.seen[kind, network.name] = Seen(torch.from_numpy(arrays["features"]), logits)

    def _pieces(self, name, title, images, make):
        ranges = ranges_of(len(images), self.request.batch_size)
        return Pieces(self.state, name, title, ranges, make, self.accelerator)

    # The result ---------------------------------------------------------------------------------------------------------

    def _measure_and_write(self):
        report = MeasuresReport(
            self.sets.about_samples(self.request) | self._about_execution(),
            self.sets.about_reference(self.moments),
            [figure for metric in self.request.metrics.of_samples for figure in self._figures(metric)],
            describe_environment(self.accelerator.num_processes),
        )
        output = self.request.output
        with moved_in_whole(output, last=MEASURES.name) as aside:
            report.write(aside)
            self._write_pictures_and_archives(aside)
        shutil.rmtree(self.state)
        print("\n".join(report.lines()))
        print(f"{output / MEASURES.name} has the conditions of each figure.")
        return report

    def _about_execution(self):
        return {} if self.execution is None else {"precision": self.execution.text}

    def _write_pictures_and_archives(self, folder):
        for metric in self._model_metrics():
            for name in metric.files:
                shutil.copyfile(self.state / name, folder / name)
        if self.memorises:
            self._draw_memorisation(folder)
        if self.kept is not None:
            write_images(folder / SAMPLES_FILE, self.kept.shape, [self.kept])
        if self.request.save_reference and self.sets.reference is not None:
            for name in self.networks.keys() - OF_THE_IMAGES.keys():
                network = self.networks[name]
                statistics = FeatureStatistics(self.seen["reference", network.name].features)
                conditions = network.conditions | {"data": self.sets.reference.name}
                write_statistics(folder / _statistics_name(name), statistics, conditions)

    def _figures(self, metric):
        network = self.networks[_network_name(metric, self.request)]
        found = figures(metric, network, self._sets(network), self.request.extrapolate)
        if _is_memorisation(metric):
            in_pixels = metric._replace(name=f"{metric.name}_{PIXELS}")
            found += figures(in_pixels, self.networks[PIXELS], self._sets(self.networks[PIXELS]))
        return found

    def _sets(self, network):
        reference = self.moments[network.name] if self.sets.reference is None else self.seen["reference", network.name]
        return Sets(self.seen["samples", network.name], reference, self.seen.get(("train", network.name)))

    def _draw_memorisation(self, folder):
        neighbours = {}
        for space, name in zip((PIXELS, "features"), self._memorised_in(), strict=False):
            distances, places = nearest(self.seen["samples", name].features, self.seen["train", name].features)
            found = zip(distances[:, 0].tolist(), places[:, 0].tolist(), strict=True)
            neighbours[space] = {place: Neighbour(*each) for place, each in enumerate(found)}
        samples = {place: self._image_at(place) for place in nearest_first(neighbours[PIXELS])}
        title = (
            f"The {len(samples)} of {len(self.sets.samples)} samples that are nearest\nto training images, with the nearest "
            "of these\n(distances below)"
        )
        figure = neighbour_sheet(samples, neighbours, lambda place: self.sets.train.batch([place])[0].numpy(), title)
        save_figure(figure, folder / MEMORISED_SAMPLES)

    def _image_at(self, place):
        places = self.images.ranges[place // self.request.batch_size]
        return self.images.piece(places)["images"][place - places.start]
