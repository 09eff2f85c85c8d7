"""Where the paths that solvers are fitted to should end: as near to the data as this network comes.

The converged flow is not the best map from noise to data that a network has. At the lowest noise its predictions are
worst, relative to that noise, and paths that take x0_hat at some timestep for their end leave this out: the denoising
at the end of Jolicoeur-Martineau et al. 2021, earlier. All such ends come from one run of the flow.
"""

import torch

from ddpm_hf.calibration.fine_paths import CLEAN, fine_timesteps
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.conditioning import encode_labels

# The flow of many paths, whose ends are compared with the data, takes fewer steps than that of few.
EVEN_IN_LOG_SNR, EVEN_IN_TIME = 16, 24
# The share of the chain at whose timestep the network is shown samples.
SEEN_AT = 0.1
# The paths may end at timesteps below this share of the chain.
HIGHEST_END = 0.25
# An earlier end must be nearer to the data by this share, or the flow is left as it is.
LEAST_GAIN = 0.02


def distances_of_ends(model, noise, data, features):
    """{timestep: Frechet distance of x0_hat there to the data}, and that of the whole flow at -1.

    Args:
        model ([`ModelOfPaths`]): the network.
        noise (`torch.Tensor`): (N, C, *), where the paths begin; at least as many as features, better several times.
        data (`torch.Tensor`): (M, C, *), in the network's units.
        features (`Callable`): samples in the network's units to (B, D).
    """
    timesteps = timesteps_of_ends(model.chain)
    paths = model.follow(noise, timesteps, keep_x=False, keep_x0_below=int(HIGHEST_END * len(model.chain)))
    real = FeatureStatistics(features(data))
    ends = paths.x0 | {CLEAN: paths.end}
    return {t: frechet_distance(FeatureStatistics(features(end)), real) for t, end in ends.items()}


def timesteps_of_ends(chain):
    """The timesteps that `distances_of_ends` calls the network at."""
    return fine_timesteps(chain, EVEN_IN_LOG_SNR, EVEN_IN_TIME)


def best_end(distances, among):
    """The end of least distance, among these timesteps; -1 unless it gains enough."""
    best = min(distances, key=distances.get)
    if distances[best] > (1 - LEAST_GAIN) * distances[CLEAN]:
        return CLEAN
    return min(among, key=lambda t: abs(t - best))


def own_features(unet, chain, batch_size):
    """What samples are compared in: the network's own middle block, or nothing for a network without one.

    The pixels of images are too many to be compared by their covariance, and of points it says too little.

    Returns:
        `Callable` or None: (N, C, *) in the network's units to (N, D), float32, on the host.
    """
    if not hasattr(unet, "mid_block"):
        return None
    return MiddleBlock(unet, int(SEEN_AT * len(chain)), batch_size)


class MiddleBlock:
    """The means over the image of the channels in a U-Net's middle block, at a low timestep and for no class."""

    def __init__(self, unet, timestep, batch_size):
        self.unet, self.timestep, self.batch_size = unet, timestep, batch_size
        classes, null_label = classes_of(unet.config)
        self.label = null_label if null_label is not None or classes is None else 0

    @torch.no_grad()
    def __call__(self, samples):
        seen = []
        handle = self.unet.mid_block.register_forward_hook(lambda _, inputs, output: seen.append(output.mean((2, 3))))
        try:
            for part in samples.split(self.batch_size):
                labels = encode_labels(self.unet.config, self.label, 1.0, len(part), self.unet.device)
                self.unet(part.to(self.unet.device, self.unet.dtype), self.timestep, labels)
        finally:
            handle.remove()
        return torch.cat(seen).float().cpu()
