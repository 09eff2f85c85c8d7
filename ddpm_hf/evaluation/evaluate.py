"""`ddpm-hf evaluate` measures a model, or images, by any of the metrics of `metric_names`."""

import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_hf.data import open_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in, together
from ddpm_hf.environment import describe_environment
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import FeatureStatistics
from ddpm_hf.evaluation.evaluation_state import STATE_FOLDER, Pieces, open_state
from ddpm_hf.evaluation.features import INCEPTION, check_features, load_features
from ddpm_hf.evaluation.image_archives import holds_images, read_statistics, write_images, write_statistics
from ddpm_hf.evaluation.image_sets import ArchivedImages, DrawnImages, StoredImages
from ddpm_hf.evaluation.measures.neighbours import nearest
from ddpm_hf.evaluation.measures_report import MeasuresReport
from ddpm_hf.evaluation.memorisation_sheet import ROWS, Neighbour, draw_memorisation_sheet
from ddpm_hf.evaluation.metric_names import OF_PIXELS, Metrics, parse_metrics
from ddpm_hf.evaluation.pixel_features import CHANNELS, PIXELS, channel_network, check_same_shape, pixel_features
from ddpm_hf.evaluation.run import evaluate_bits_per_dim, open_data
from ddpm_hf.evaluation.sample_metrics import Seen, Sets, check_metric, figures
from ddpm_hf.evaluation.sampler_measurements import check_pictures
from ddpm_hf.evaluation.samplers import make_sampler, pipeline_with, set_steps
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_files import INDEX_FILE
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.limits import check_fits_memory, expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.models.network_checksum import network_checksum
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.recipes import changes_for, check_head, prepared_count, with_recipe
from ddpm_hf.reports.report_files import BOUND, MEASURES, MEMORISED_SAMPLES
from ddpm_hf.results import alone_in_free_folder

NUM_SAMPLES = 10_000
SAMPLES_FILE, ARCHIVE = "samples.npz", ".npz"
# The side of images of several sizes.
SIDE_OF_SEVERAL = 256


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
    batch_size: int = 64
    seed: int = 0
    device: str | None = None


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
        extrapolate (`bool`): adds the limit of each Frechet distance for infinitely many samples.
        batch_size (`int`): images at a time and process, by default 64. Another one can change roundings.
        seed (`int`): sample i is that of `seed + i`.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; by default the fastest device.

    Returns:
        [`MeasuresReport`], [`BitsPerDim`] for "bpd" alone.

    Raises:
        InputError: before anything is sampled, for an unknown metric, a network that cannot be had, too few images,
            a reference of another preprocessing, and a folder that has results already.
    """
    metrics, data = parse_metrics(metrics), data or DataArguments(split="test")
    request = Request(model, Path(output), metrics, data, **options)
    if not metrics.of_samples:
        return _evaluate_model(request, Path(output))
    _check_request(request)
    return _evaluate(request)


def _check_request(request):
    for name in {_network_name(metric, request) for metric in request.metrics.of_samples} - {CHANNELS}:
        check_features(name)
    if not _is_model(request.model):
        of_models = {"steps": None, "recipe": None, "variance_type": None, "num_images": None, "guidance_scale": 1.0}
        given = [name for name, usual in of_models.items() if getattr(request, name) != usual]
        given += [f"metrics {name}" for name in request.metrics.of_the_model]
        if given:
            raise InputError(
                f"{request.model} has images and no model, so {given[0]} has no meaning: leave it out; all of the images are "
                "measured."
            )


def _is_model(model):
    """Whether a name is that of a model: not an archive, and not a folder of images."""
    return not str(model).endswith(ARCHIVE) and (not Path(model).is_dir() or (Path(model) / INDEX_FILE).is_file())


def _network_name(metric, request):
    return CHANNELS if metric.measure in OF_PIXELS else metric.network or request.features


def _evaluate(request):
    accelerator = join_processes(request.device)
    place = alone_in_free_folder(request.output, _result_names(request))
    with main_process_in(place, accelerator):
        return _Evaluation(request, accelerator).run()


def _result_names(request):
    """The files that the result may have."""
    names = [MEASURES.name, f"{MEASURES.stem}.md", MEMORISED_SAMPLES, SAMPLES_FILE]
    if request.save_reference:
        names += [_statistics_name(_network_name(metric, request)) for metric in request.metrics.of_samples]
    return [*names, *([BOUND.name, BOUND.picture] if request.metrics.of_the_model else [])]


def _statistics_name(network):
    return f"reference_{Path(network).name}{ARCHIVE}"


def _evaluate_model(request, output, **changes):
    """Measures the metrics of the model, whose files are written into the folder."""
    options = {name: getattr(request, name) for name in ("num_images", "steps", "variance_type")} | changes
    for name in ("batch_size", "seed", "device"):
        options[name] = getattr(request, name)
    return evaluate_bits_per_dim(request.model, output, request.data, **options)


class _Evaluation:
    """One evaluation of samples: its sets of images, networks, and figures."""

    def __init__(self, request, accelerator):
        self.request, self.accelerator = request, accelerator
        self.device = request.device or str(accelerator.device)
        self.memorises = any(metric.measure == "memorisation" for metric in request.metrics.of_samples)

    def run(self):
        request = self.request
        main_process_first(self.accelerator, self._open)
        self.networks = together(self.accelerator, self._load_networks)
        together(self.accelerator, self._check)
        self.state = request.output / STATE_FOLDER
        together(self.accelerator, lambda: open_state(request.output, self._settings()), main_process_only=True)
        self._say_duration()
        if request.metrics.of_the_model and not (self.state / BOUND.name).is_file():
            _evaluate_model(request, self.state, num_images=self._num_bound_images())
        self._see_all()
        report = together(self.accelerator, self._measure_and_write, main_process_only=True)
        return report

    # What is measured ---------------------------------------------------------------------------------------------------

    def _open(self):
        """Opens the samples, the reference and the training images."""
        request = self.request
        self.pipeline = _open_pipeline(request).to(self.device) if _is_model(request.model) else None
        if self.pipeline is None:
            self.samples = _stored_samples(request.model)
            self.side = self.samples.shape[-1]
        data = request.data
        self.statistics_file = None
        if request.reference is not None and request.reference.endswith(ARCHIVE):
            is_statistics = not holds_images(request.reference)
            self.statistics_file = request.reference if is_statistics else None
            self.reference = None if is_statistics else ArchivedImages(request.reference)
        else:
            data = data if request.reference is None else replace(data, dataset=request.reference)
            self.reference = self._stored(data)
        self.train = self._stored(replace(data, split=request.train_split)) if self.memorises else None
        if self.pipeline is not None:
            self.samples = DrawnImages(
                self.pipeline, request.num_images or NUM_SAMPLES, request.seed, self._labels(), self._sampling()
            )

    def _stored(self, data):
        if self.pipeline is not None:
            source = open_data(data, self.pipeline.unet.config)
        else:
            source = open_images(replace(data, resolution=self.side), None)
        return StoredImages(source, f"{data.dataset or 'embedded Fashion-MNIST'}, {data.split}")

    def _labels(self):
        """The classes of the samples of a conditional model: those of the data, or all alike often; None without classes."""
        num_classes = classes_of(self.pipeline.unet.config)[0]
        if num_classes is None:
            return None
        count = self.request.num_images or NUM_SAMPLES
        labels = getattr(self.reference, "labels", None)
        if labels is None:
            return torch.arange(count) % num_classes
        # Data are often sorted by class, and the first samples should represent all.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return torch.as_tensor(labels)[order[torch.arange(count) % len(order)]]

    def _sampling(self):
        steps = self.request.steps or prepared_count(self.pipeline.scheduler)
        return {"num_inference_steps": steps, "guidance_scale": self.request.guidance_scale}

    def _num_bound_images(self):
        """`bpd` takes all images of the data where there are fewer than samples."""
        count = self.request.num_images
        return None if count is None or self.reference is None or count >= len(self.reference) else count

    # Networks and checks ------------------------------------------------------------------------------------------------

    def _load_networks(self):
        """{name: [`FeatureNetwork`]} of all metrics."""
        networks = {}
        for metric in self.request.metrics.of_samples:
            name = _network_name(metric, self.request)
            if name not in networks:
                networks[name] = channel_network() if name == CHANNELS else load_features(name, self.device)
        if self.memorises:
            networks[PIXELS] = pixel_features()
        return networks

    def _check(self):
        """Tries each network once, and checks numbers of images, so that a mistake shows before anything is sampled."""
        trial = torch.zeros(1, *self.samples.shape, dtype=torch.uint8)
        dimensions = {name: network(trial).shape[1] for name, network in self.networks.items()}
        for name in self.networks.keys() & {PIXELS, CHANNELS}:
            if self.reference is not None:
                check_same_shape(name, self.samples.shape, self.reference.shape)
        if self.reference is not None:
            for name in self.networks.keys() - {PIXELS, CHANNELS}:
                self.networks[name](self.reference.batch(range(1)))
        self.moments = {}
        for metric in self.request.metrics.of_samples:
            name = _network_name(metric, self.request)
            if self.statistics_file is not None and name not in self.moments:
                self.moments[name] = read_statistics(self.statistics_file, self.networks[name], dimensions[name])
            reference = len(self.reference) if self.reference is not None else self.moments[name]
            limit = dimensions[name] if self.request.extrapolate and metric.measure == "fd" else None
            check_metric(metric, self.networks[name], len(self.samples), reference, limit)
        if self.request.keep_samples:
            check_fits_memory("the samples take", self.samples.shape[0] * len(self.samples), "lower --num_images")

    def _settings(self):
        """What the pieces of the state depend on."""
        request = self.request
        return {
            "model": str(request.model),
            "weights": None if self.pipeline is None else network_checksum(self.pipeline.unet),
            "num_images": len(self.samples),
            "seed": request.seed,
            "sampling": {
                "recipe": request.recipe,
                "variance_type": request.variance_type,
                "guidance": request.guidance_scale,
            }
            | ({} if self.pipeline is None else self._sampling()),
            "batch_size": request.batch_size,
            "data": None if self.reference is None else f"{self.reference.name}, {len(self.reference)} images",
            "train": None if self.train is None else f"{self.train.name}, {len(self.train)} images",
        }

    def _say_duration(self):
        """Prints how long sampling will take, from a batch of one step."""
        if self.pipeline is None:
            return
        steps = self._sampling()["num_inference_steps"] or len(self.pipeline.scheduler)
        # Any sampler costs a call of the network for a step; this one takes a single step of every model.
        pipeline = pipeline_with(make_sampler("diffusers-ddim", self.pipeline.scheduler), self.pipeline.unet)
        sampling = self._sampling() | {"num_inference_steps": 1}
        one_step = DrawnImages(pipeline, len(self.samples), 0, self.samples.labels, sampling)
        batch = range(min(self.request.batch_size, len(self.samples)))
        with fitting_into_memory(f"lower --batch_size, which is {self.request.batch_size}"):
            seconds = seconds_of(lambda: one_step.batch(batch))
        batches = -(-len(self.samples) // (self.request.batch_size * self.accelerator.num_processes))
        duration = expected_duration(seconds * steps * batches, "give fewer --num_images or --steps")
        self.accelerator.print(
            f"{len(self.samples)} samples: {batches * steps} network calls in each process, about {duration} (h:mm:ss)"
        )

    # The work -----------------------------------------------------------------------------------------------------------

    def _see_all(self):
        """Draws the samples, and gathers the features of all sets in all networks on every process."""
        self.images = self._pieces(
            "images", "samples", self.samples, lambda places: {"images": self.samples.batch(places).numpy()}
        )
        # The features of the data come first, because what is wrong there would be found only after the samples.
        self.seen = {}
        for network in self.networks.values():
            if self.reference is not None:
                self._see("reference", network, self.reference, self.reference.batch)
            if self.memorises and network.name in self._memorised_in():
                self._see("train", network, self.train, self.train.batch)
        self.images.make_all()
        for network in self.networks.values():
            self._see("samples", network, self.samples, self._drawn)
        self.kept = self.images.gathered()["images"] if self.request.keep_samples else None

    def _drawn(self, places):
        return torch.from_numpy(self.images.piece(places)["images"])

    def _memorised_in(self):
        """The names of the networks in which nearest training images are looked for."""
        metrics = (metric for metric in self.request.metrics.of_samples if metric.measure == "memorisation")
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
        return Pieces(self.state, name, title, len(images), self.request.batch_size, make, self.accelerator)

    # The result ---------------------------------------------------------------------------------------------------------

    def _measure_and_write(self):
        report = MeasuresReport(
            self._about_samples(),
            self._about_reference(),
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

    def _write_pictures_and_archives(self, folder):
        for name in (BOUND.name, BOUND.picture):
            if (self.state / name).is_file():
                shutil.copyfile(self.state / name, folder / name)
        if self.memorises:
            self._draw_memorisation(folder)
        if self.kept is not None:
            write_images(folder / SAMPLES_FILE, self.kept.shape, [self.kept])
        if self.request.save_reference and self.reference is not None:
            for name in self.networks.keys() - {PIXELS, CHANNELS}:
                network = self.networks[name]
                statistics = FeatureStatistics(self.seen["reference", network.name].features)
                conditions = network.conditions | {"data": self.reference.name}
                write_statistics(folder / _statistics_name(name), statistics, conditions)

    def _figures(self, metric):
        network = self.networks[_network_name(metric, self.request)]
        found = figures(metric, network, self._sets(network), self.request.extrapolate)
        if metric.measure == "memorisation":
            in_pixels = metric._replace(name=f"{metric.name}_{PIXELS}")
            found += figures(in_pixels, self.networks[PIXELS], self._sets(self.networks[PIXELS]))
        return found

    def _sets(self, network):
        reference = self.moments[network.name] if self.reference is None else self.seen["reference", network.name]
        return Sets(self.seen["samples", network.name], reference, self.seen.get(("train", network.name)))

    def _draw_memorisation(self, folder):
        neighbours = {}
        for name in self._memorised_in():
            distances, places = nearest(self.seen["samples", name].features, self.seen["train", name].features)
            found = zip(distances[:, 0].tolist(), places[:, 0].tolist(), strict=True)
            neighbours[Path(name).name] = {place: Neighbour(*each) for place, each in enumerate(found)}
        in_pixels = neighbours[PIXELS]
        shown = sorted(in_pixels, key=lambda place: in_pixels[place].distance)[:ROWS]
        samples = {place: self.samples_at(place) for place in shown}
        title = (
            f"The {len(shown)} of {len(self.samples)} samples that are nearest to training images\n(distances below)"
        )
        draw_memorisation_sheet(folder, samples, neighbours, self.train, title)

    def samples_at(self, place):
        first = place - place % self.request.batch_size
        places = range(first, min(first + self.request.batch_size, len(self.samples)))
        return self.images.piece(places)["images"][place - first]

    def _about_samples(self):
        request = self.request
        about = {"of": str(request.model), "count": len(self.samples), "shape": "x".join(map(str, self.samples.shape))}
        if self.pipeline is not None:
            scheduler = self.pipeline.scheduler
            about |= self._sampling() | {
                "num_inference_steps": self._sampling()["num_inference_steps"] or len(scheduler),
                "sampler": request.recipe or type(scheduler).__name__,
                "seed": request.seed,
                "classes": "those of the reference" if self.samples.labels is not None else None,
            }
        return {
            name: value for name, value in (about | {"resizing": self.samples.resizing}).items() if value is not None
        }

    def _about_reference(self):
        if self.reference is None:
            counts = {each.count for each in self.moments.values()}
            return {"name": Path(self.statistics_file).name, "count": counts.pop(), "statistics": True}
        about = {
            "name": self.reference.name,
            "count": len(self.reference),
            "shape": "x".join(map(str, self.reference.shape)),
        }
        about |= {
            "resizing": self.reference.resizing,
            "training images": None if self.train is None else self.train.name,
        }
        return {name: value for name, value in about.items() if value is not None}


def _open_pipeline(request):
    """The pipeline of the model with the requested sampler, checked to make images."""
    pipeline = load_pipeline(request.model)
    if request.recipe is not None:
        scheduler = with_recipe(pipeline.scheduler, request.recipe, **changes_for(pipeline.unet.config))
        pipeline.register_modules(scheduler=scheduler)
        check_head(pipeline.unet, pipeline.scheduler)
    if request.variance_type is not None:
        scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, variance_type=request.variance_type)
        pipeline.register_modules(scheduler=scheduler)
    if request.steps is not None:
        set_steps(pipeline.scheduler, request.steps, f"{type(pipeline.scheduler).__name__} of {request.model}")
    check_pictures(pipeline, request.model, "measure bpd, or use `ddpm_hf.evaluation.distances` for points")
    pipeline.unet.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stored_samples(place):
    if str(place).endswith(ARCHIVE):
        if not holds_images(place):
            raise InputError(f"{place} has statistics and no images: give it as --reference, and images to measure.")
        return ArchivedImages(place)
    return StoredImages(open_images(DataArguments(dataset=str(place)), SIDE_OF_SEVERAL), Path(place).name)
