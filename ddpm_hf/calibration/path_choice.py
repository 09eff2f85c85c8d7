"""Which map from noise to data solvers are fitted to: the one that brings this network nearest to the data.

The converged flow is not the best that a network has, and errs at both ends and in the contrast:

- At the highest noise x_t says little of the image, and what the network makes of it is less exact than the flow of
  the data's moments (`DataMoments`). Paths may follow that flow down to some timestep before they call the network.
- At the lowest noise its predictions are worst, relative to that noise. Paths may take x0_hat at some timestep for
  their end, and leave the rest out: the denoising at the end of Jolicoeur-Martineau et al. 2021, earlier.
- The ends differ less from each other than images do. They may be moved away from their mean by one factor, which
  gives them the spread of the data.

Each choice is judged by the Frechet distance of where the paths end to the data. Choices come near to each other, and
the noise that they are judged with decides between them; solvers of few calls follow the flow better than paths that
end early. So of all that are nearly as good as the best, the one with the lowest end is taken.
"""

from functools import partial
from typing import NamedTuple

import torch

from ddpm_hf.calibration.fine_paths import CLEAN, Paths, fine_timesteps, level_of
from ddpm_hf.calibration.spreads import clamped, factor_to_spread, spread_of
from ddpm_hf.calibration.told_paths import told_beside
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.conditioning import encode_labels
from ddpm_hf.samples.condition_values import value_limits_of

# Where the network may be called first, as shares of the chain; the first choice is pure noise.
BEGINNINGS = (1.0, 0.9, 0.8, 0.7)
# The flow of many paths, whose ends are compared with the data, takes fewer steps than that of few.
EVEN_IN_LOG_SNR, EVEN_IN_TIME = 9, 14
# The share of the chain at whose timestep the network is shown samples.
SEEN_AT = 0.1
# The paths may end at timesteps below this share of the chain.
HIGHEST_END = 0.25
# A choice must be nearer to the data by this share than those which leave less of the flow out.
LEAST_GAIN = 0.025


class PathChoice(NamedTuple):
    """A map from noise to data.

    begin: the timestep to which the flow of the data's moments goes before the network is called, or None: the network
        is called from pure noise on.
    end: the timestep whose x0_hat ends the paths; -1: the end of the flow.
    contrast: the factor by which ends are moved away from their mean.
    distance: of the ends to the data; None where none was measured.
    """

    begin: int | None = None
    end: int = CLEAN
    contrast: float = 1.0
    distance: float | None = None


def measured_choices(model, noise, data, features, moments, bound=None):
    """The choices that were tried, each with its distance to the data, a list of [`PathChoice`].

    Lower beginnings are tried as long as they bring ends nearer to the data, if the data's moments are known.

    Args:
        model ([`ModelOfPaths`]): the network.
        noise (`torch.Tensor`): (N, C, *), where the paths begin; at least as many as features, better several times.
        data (`torch.Tensor`): (M, C, *), in the network's units.
        features (`Callable`): samples in the network's units to (B, D).
        moments ([`DataMoments`], *optional*): of the data.
        bound (`float`, *optional*): samples are clamped to [-bound, bound].
    """
    real, wanted, length = FeatureStatistics(features(data)), spread_of(data), len(model.chain)
    tried = []
    for share in BEGINNINGS if moments is not None else BEGINNINGS[:1]:
        begin = None if share == 1.0 else int(share * (length - 1))
        timesteps = timesteps_of_choices(model.chain, begin)
        paths = model.follow(
            noise,
            timesteps,
            keep_x=False,
            keep_x0_below=int(HIGHEST_END * length),
            free_flow=None if begin is None else moments,
        )
        # x0_hat at the last timestep is the end of the flow.
        ends = {t: x0 for t, x0 in paths.x0.items() if t != timesteps[-1]} | {CLEAN: paths.end}
        of_begin = []
        for end, samples in ends.items():
            for contrast in (1.0, factor_to_spread(partial(with_contrast, samples), wanted, bound)):
                shown = clamped(with_contrast(samples, contrast), bound)
                distance = frechet_distance(FeatureStatistics(features(shown)), real)
                of_begin.append(PathChoice(begin, end, contrast, distance))
        is_better = not tried or _nearest(of_begin).distance < _nearest(tried).distance
        tried += of_begin
        if not is_better:
            break
    return tried


def timesteps_of_choices(chain, begin=None):
    """The timesteps, descending, that `measured_choices` calls the network at."""
    timesteps = fine_timesteps(chain, EVEN_IN_LOG_SNR, EVEN_IN_TIME)
    return timesteps if begin is None else [begin, *(t for t in timesteps if t < begin)]


def best_choice(tried, timesteps, ends):
    """The choice that leaves out least of the flow, among those whose distance to the data is close to the least.

    Args:
        tried (`list[PathChoice]`): with their distances.
        timesteps, ends (`list[int]`): where the paths may begin and end; the nearest to those chosen are taken.
    """
    least = _nearest(tried).distance
    taken = min((c for c in tried if (1 - LEAST_GAIN) * c.distance <= least), key=_left_out)
    begin = taken.begin and min(timesteps, key=lambda t: abs(t - taken.begin))
    return taken._replace(begin=begin, end=min(ends, key=lambda t: abs(t - taken.end)))


def _left_out(choice):
    """Sorts choices by how much of the flow they leave out or change: at its end first, then at its beginning."""
    return choice.end, choice.begin is not None, -(choice.begin or 0), choice.contrast != 1.0


def distance_of_flow(tried):
    """The distance of the converged flow, from pure noise to its end, to the data."""
    return next(c.distance for c in tried if (c.begin, c.end, c.contrast) == (None, CLEAN, 1.0))


def _nearest(choices):
    return min(choices, key=lambda choice: choice.distance)


def chosen_paths(model, noise, timesteps, choice, moments, keep_x=True):
    """The [`Paths`] of a choice from the noise (N, C, *), with x at all of the timesteps above their end.

    Args:
        timesteps (`list[int]`): descending; with the choice's beginning and end, where it has them.
        moments ([`DataMoments`]): of the data; None will do for a choice that begins in pure noise.
        keep_x (`bool`): keep x at the timesteps.
    """
    called = [t for t in timesteps if choice.end <= t and (choice.begin is None or t <= choice.begin)]
    free_flow = None if choice.begin is None else moments
    paths = model.follow(noise, called, keep_x, keep_x0_below=choice.end + 1, free_flow=free_flow)
    ends = paths.end if choice.end == CLEAN else paths.x0[choice.end]
    x = dict(paths.x)
    if keep_x and free_flow is not None:
        noisy = level_of(model.chain, len(model.chain) - 1)
        above = {t: moments.flow(noise, *noisy, *level_of(model.chain, t)) for t in timesteps if t > choice.begin}
        x = above | x
    return Paths(x, {}, with_contrast(ends, choice.contrast))


def with_contrast(ends, contrast):
    """The ends (N, C, *), moved away from their mean by a factor."""
    mean = ends.mean(0)
    return mean + contrast * (ends - mean)


def own_features(unet, chain, batch_size, nothing=None):
    """What samples are compared in: the network's own middle block, or nothing for a network without one.

    The pixels of images are too many to be compared by their covariance, and of points it says too little.

    Args:
        nothing (`torch.Tensor`, *optional*): the hidden states of the empty text, (1, L, D), for a network that is told
            texts.

    Returns:
        `Callable` or None: (N, C, *) in the network's units to (N, D), float32, on the host.
    """
    if not hasattr(unet, "mid_block"):
        return None
    return MiddleBlock(unet, int(SEEN_AT * len(chain)), batch_size, nothing)


class MiddleBlock:
    """The means over the image of the channels in a U-Net's middle block, at a low timestep and for no class.

    A network of condition images is told what `told_beside` gives, one of numbers the number in the middle, and one of
    texts `nothing`, the empty one.
    """

    def __init__(self, unet, timestep, batch_size, nothing=None):
        self.unet, self.timestep, self.batch_size, self.nothing = unet, timestep, batch_size, nothing
        (classes, null_label), limits = classes_of(unet.config), value_limits_of(unet.config)
        self.label = null_label if null_label is not None or classes is None else 0
        if limits is not None:
            self.label = sum(limits) / 2

    @torch.no_grad()
    def __call__(self, samples):
        seen = []
        handle = self.unet.mid_block.register_forward_hook(lambda _, inputs, output: seen.append(output.mean((2, 3))))
        try:
            for part in samples.split(self.batch_size):
                labels = self._told(len(part))
                part = told_beside(self.unet.config, part.to(self.unet.device, self.unet.dtype))
                self.unet(part, self.timestep, labels)
        finally:
            handle.remove()
        return torch.cat(seen).float().cpu()

    def _told(self, number):
        """What the network is told of so many samples in the place of labels."""
        if self.nothing is not None:
            return self.nothing.expand(number, -1, -1).to(self.unet.device, self.unet.dtype)
        return encode_labels(self.unet.config, self.label, 1.0, number, self.unet.device)
