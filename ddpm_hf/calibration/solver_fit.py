"""Deterministic solvers of few steps fitted to a model: fine paths, where they end, and timesteps and rows for each K."""

from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.fine_paths import CLEAN, ModelOfPaths, fine_timesteps
from ddpm_hf.calibration.measured_moments import measured_moments
from ddpm_hf.calibration.path_choice import (
    BEGINNINGS,
    PathChoice,
    best_choice,
    chosen_paths,
    measured_choices,
    own_features,
    timesteps_of_choices,
)
from ddpm_hf.calibration.solver_rows import bound_of
from ddpm_hf.calibration.solver_search import MANY_CALLS, SolverSearch, calls_of_search
from ddpm_hf.calibration.spreads import clamped
from ddpm_hf.calibration.told_paths import conditions_of_paths, labels_in_turn
from ddpm_hf.calibration.transition_costs import starting_noise
from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import check_chain_length, discrete_chain, evaluating
from ddpm_hf.evaluation.image_labels import check_labels
from ddpm_hf.models.network_config import is_told_text
from ddpm_hf.pipelines.conditioning import Guidance
from ddpm_hf.pipelines.prompts import Prompts
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.fitted_solvers import described_for_fit

LEAST_PATHS, MOST_STEPS = 16, 50
# The search follows so many paths: more would take network calls that more moves make better use of.
SEARCH_PATHS = 48
# How many paths are compared with how many images, at most, for which paths to fit to; no more paths than images.
CHOICE_PATHS, CHOICE_IMAGES = 256, 4096
DETERMINISTIC = {
    "eta": 0.0,
    "variance_type": "fixed_small",
    "solver_order": 2,
    "corrector": False,
    "timestep_plans": None,
    "fitted_solvers": None,
}


class FitOptions(NamedTuple):
    """What solvers are fitted with: the arguments of [`fit_solver`] of the same names."""

    num_paths: int = 96
    seed: int = 0
    guidance_scale: float = 1.0
    class_labels: object = None
    batch_size: int = 96
    image_labels: object = None
    prompt_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None

    @property
    def texts(self):
        """What a network is told in words, [`Prompts`]."""
        return Prompts(prompt_embeds=self.prompt_embeds, negative_prompt_embeds=self.negative_prompt_embeds)


def fit_solver(
    unet, scheduler, steps, images=None, num_paths=96, seed=0, guidance_scale=1.0, progress_bar=True, **more
):
    """A scheduler that samples deterministically in few steps, by solvers fitted to this network.

    Args:
        unet: the network, stock or ours, or any module with the call and the config of one.
        scheduler ([`SchedulerMixin`]): of the network's training.
        steps (`Iterable[int]`): the numbers of steps to fit a solver for, each 1 .. 50.
        images (`torch.Tensor`, *optional*): data, uint8 (N, C, H, W), or points (N, d) as the network has them: for
            which paths to fit to (`path_choice`), and for a free first call. At least 512 serve well. A network that
            is told condition images needs them, and is told those of the images, in turn.
        num_paths (`int`): fine paths to fit to, at least 16; of points, which have few dimensions, 512 serve better.
        seed (`int`): of the noise that the paths begin in.
        guidance_scale (`float`): of classifier-free guidance; the solvers are for this scale alone.
        progress_bar (`bool`): show one, counted in network calls for one path.
        more: `class_labels`, for a class-conditional network one for all paths, or one for each (by default all
            classes in turn); `image_labels`, the classes of the images, for such a network that is told condition
            images too; `prompt_embeds` (M, L, D), for a network that is told a text the hidden states of M texts,
            which are told in turn, and `negative_prompt_embeds` (1, L, D), those of the empty one, as the `encode_prompt`
            of stock pipelines makes them; `batch_size` (96), paths in one call of the network; `features`, a function from samples
            (N, C, *) in the network's units to (N, D), in which ends of paths and `images` are compared (by default
            the network's own middle block).

    Returns:
        [`GaussianDiffusionScheduler`]: with eta = 0 and `fitted_solvers`; `set_timesteps(K)` takes the one for K.

    Raises:
        ValueError: for too few paths or images, images of another shape, numbers of steps out of range, and guidance
            that is not finite.
    """
    features = more.pop("features", None)
    fit = SolverFit(unet, scheduler, steps, images, FitOptions(num_paths, seed, guidance_scale, **more), features)
    with tqdm(total=fit.calls(), desc="solvers", unit="call", disable=not progress_bar) as bar:
        update = in_whole_calls(bar)
        fit.prepare(update)
        solvers = {}
        for count in fit.steps:
            solvers[str(count)] = fit.solver(count, update, like=next(reversed(solvers.values()), None))
        return fit.scheduler(solvers)


def in_whole_calls(bar):
    """An update of the bar that is told parts of calls: calls for a part of the paths count in proportion."""
    done = 0.0

    def update(calls):
        nonlocal done
        done += calls
        bar.update(int(done) - bar.n)

    return update


class SolverFit:
    """The fitting of solvers to one model; [`fit_solver`] says what the arguments are.

    Args:
        options ([`FitOptions`]).
    """

    def __init__(self, unet, scheduler, steps, images, options, features=None):
        self.unet, self.options = unet, options
        self.chain = discrete_chain(scheduler, "have solvers fitted to its model", **DETERMINISTIC)
        check_chain_length(unet, self.chain)
        self.bound = bound_of(self.chain.config)
        Guidance(options.guidance_scale).check()
        _check_paths(options)
        self.data, told = (None, None) if images is None else _checked_data(images, kind_of(unet.config))
        self.conditions = conditions_of_paths(
            unet.config, told, options.class_labels, options.image_labels, options.texts
        )
        # Told an image, a sample is far from the Gaussian of all images.
        self.has_moments = self.data is not None and told is None
        self.features = features or own_features(unet, self.chain, options.batch_size, options.negative_prompt_embeds)
        self.fine = fine_timesteps(self.chain)
        self.steps = _checked_steps(steps, len(self.fine))
        self.chooses = self.data is not None and self.features is not None
        self.tried, self.choice = [], PathChoice()

    def calls(self):
        """The most network calls for each path, of `prepare` and of `solver` for all the steps."""
        searched = sum(calls_of_search(count, self.has_moments) for count in self.steps)
        searched += sum(count * (count - 1) // 2 for count in self.steps if self._begins_within(count))
        share = min(SEARCH_PATHS, self.options.num_paths) / self.options.num_paths
        beginnings = len(BEGINNINGS) if self.has_moments else 1
        choosing = beginnings * len(timesteps_of_choices(self.chain)) * self._choice_paths()
        of_choice = choosing / self.options.num_paths
        return round(len(self.fine) + of_choice + share * searched + sum(self.steps))

    @torch.no_grad()
    def prepare(self, update=lambda calls: None):
        """Measures the data's moments, chooses which paths to fit to, and follows them."""
        self.moments = measured_moments(self.data) if self.has_moments else None
        self.noise = self._noise(self.options.num_paths)
        with evaluating(self.unet):
            if self.chooses:
                self.choice = self._choose(update)
            self.paths = self._followed(self._model(update, 0, len(self.noise)), self.noise)

    @torch.no_grad()
    def solver(self, count, update=lambda calls: None, like=None):
        """The solver for a number of steps, as `fitted_solvers` of a config has it.

        Args:
            like (`dict`, *optional*): the solver for another number, from which the search may begin.
        """
        few = min(SEARCH_PATHS, self.options.num_paths)
        with evaluating(self.unet):
            best = self._search(few, update).best(count, like)
            if few < self.options.num_paths:
                best = self._search(self.options.num_paths, update).fitted(best.free, best.timesteps)
            rows_from = self._rows_from(best.timesteps, few, update) if self._begins_within(count) else {}
        found = {"timesteps": best.timesteps, "rows": [list(row) for row in best.rows], "distance": best.distance}
        return (
            found | ({"free_first_call": True} if best.free else {}) | ({"rows_from": rows_from} if rows_from else {})
        )

    def _begins_within(self, count):
        """Whether runs may begin at later timesteps by rows of their own: stock pipelines of texts edit images so.

        Of many steps those without rows are as good.
        """
        return is_told_text(self.unet.config) and 1 < count <= MANY_CALLS

    def _rows_from(self, timesteps, number, update):
        """{"n": the rows of a run from x_t of the fine paths at timestep number n on}, for all but the first."""
        search = self._search(number, update)
        return {str(first): search.rows_from(timesteps[first:]) for first in range(1, len(timesteps))}

    def scheduler(self, solvers):
        """The scheduler with these solvers, {"5": solver, ..}."""
        described = described_for_fit(self.chain.config, self.chain.alpha_bar(range(len(self.chain))).numpy())
        fitted = {"fitted_for": described | {"guidance_scale": float(self.options.guidance_scale)}, "solvers": solvers}
        if self.moments is not None:
            fitted["moments"] = self.moments.to_config()
        return type(self.chain).from_config(self.chain.config, timestep_spacing="karras", fitted_solvers=fitted)

    def _search(self, number, update):
        paths = self.paths
        x = {t: values[:number] for t, values in paths.x.items()}
        model = self._model(update, 0, number)
        return SolverSearch(
            model, self.noise[:number], paths._replace(x=x, end=paths.end[:number]), self.distance, self.moments
        )

    def distance(self, samples, ends):
        """The root mean square over the values of each sample, averaged over samples, as they will be clamped.

        A path or two that come to another image would decide on the mean of squares, and say nothing of the others.
        """
        return (clamped(samples, self.bound) - ends).flatten(1).square().mean(1).sqrt().mean().item()

    def one_call(self, batch_size):
        """Calls the network once, on noise, and waits for it."""
        with evaluating(self.unet), torch.no_grad():
            model = self._model(lambda calls: None, self._first_unseen, batch_size)
            model.predicted_x0(self._noise(batch_size), self.fine[0])

    def unseen_paths(self, number, update):
        """Noise that nothing was fitted to, (N, C, *), and where the fine paths from it end, on the host."""
        noise = self._noise(number, first=self._first_unseen)
        with evaluating(self.unet):
            model = self._model(update, self._first_unseen, number)
            return noise, self._followed(model, noise, keep_x=False).end

    def sampled(self, pipeline, noise, count):
        """The samples of a pipeline from the noise of unseen paths in `count` steps, on the host, told what those are."""
        labels, images, texts = self.conditions.of(self._first_unseen, len(noise))
        labels = labels_in_turn(self.unet.config, len(noise)) if labels is None else labels
        told = {} if images is None else {"condition_image": images / 2 + 0.5}
        if texts is not None:
            told = {name: getattr(texts, name) for name in ("prompt_embeds", "negative_prompt_embeds")}
        drawn = pipeline(
            latents=noise.to(self.unet.device),
            class_labels=labels,
            guidance_scale=self.options.guidance_scale,
            num_inference_steps=count,
            output_type="latent",
            **told,
        )
        return drawn.images.cpu()

    def _choose(self, update):
        """The paths that come nearest to the data; above their end they have as many timesteps as the longest solver."""
        number = self._choice_paths()
        model = self._model(update, self.options.num_paths, number)
        noise = self._noise(number, first=self.options.num_paths)
        data = self.data[:CHOICE_IMAGES]
        self.tried = measured_choices(model, noise, data, self.features, self.moments, self.bound)
        highest = min(self.fine[0] // 4, self.fine[self.steps[-1] - 1])
        return best_choice(self.tried, self.fine, [*(t for t in self.fine if t <= highest), CLEAN])

    def _choice_paths(self):
        return min(CHOICE_PATHS, len(self.data)) if self.chooses else 0

    def _followed(self, model, noise, keep_x=True):
        paths = chosen_paths(model, noise, self.fine, self.choice, self.moments, keep_x)
        return paths.within(self.bound)

    def _noise(self, number, first=0):
        return starting_noise(self.unet, self.options.seed, first, number).cpu()

    @property
    def _first_unseen(self):
        """The number of the first path that nothing was fitted to."""
        return self.options.num_paths + CHOICE_PATHS

    def _model(self, update, first, number):
        """The network, told what it is of so many paths from number `first` on."""
        options, told = self.options, self.conditions.of(first, number)
        share = number / options.num_paths
        return ModelOfPaths(
            self.unet,
            self.chain,
            options.guidance_scale,
            told,
            options.batch_size,
            lambda part: update(share * part),
        )


def _checked_steps(steps, fine):
    steps, most = sorted({*steps}), min(MOST_STEPS, fine)
    if not steps or steps[0] < 1 or steps[-1] > most:
        raise InputError(f"steps={steps} must be one or more numbers of network calls in 1 .. {most}.")
    return steps


def _check_paths(options):
    if options.num_paths < LEAST_PATHS:
        raise InputError(
            f"num_paths={options.num_paths} must be at least {LEAST_PATHS}: a row has as many numbers as steps before it."
        )
    check_labels(options.class_labels, options.num_paths)


def _checked_data(images, kind):
    """x_0 and the condition images of the data, in the range of the network; None for a network without these."""
    if len(images) < LEAST_PATHS:
        raise InputError(
            f"{len(images)} images are too few to fit a solver with: give at least {LEAST_PATHS}, or None."
        )
    kind.check_data(images)
    shape = (kind.data_channels, *kind.sides)
    if tuple(images.shape[1:]) != shape:
        raise InputError(f"Images of shape {tuple(images.shape[1:])} must be {shape}, as the network's data are.")
    images = to_model_range(images)
    return (images, None) if kind.condition is None else kind.condition.split(images)
