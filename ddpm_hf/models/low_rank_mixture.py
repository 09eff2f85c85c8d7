r"""A mixture of low-rank normals with isotropic noise, fitted to images: data like them whose exact denoiser is known.

The images are clustered by k-means (Lloyd 1982), begun as k-means++ (Arthur & Vassilvitskii 2007). Each cluster is a
component: its share is w_k, its mean m_k, and for the given noise s = noise_std^2 the maximum of the likelihood of
N(m_k, s I + U diag(l) U') is at the R leading eigenvectors U of the cluster's covariance and l_r = max(eigenvalue_r -
s, 0) (Tipping & Bishop 1999, sec. 3.2).
"""

from typing import NamedTuple

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of_batch

# Rounds of k-means at most; it usually ends sooner, when no image changes its cluster.
MOST_ROUNDS = 100


class LowRankMixture(NamedTuple):
    """It holds the arguments of [`ExactDenoiser.from_low_rank_mixture`], float32, in the range of networks, [-1, 1].

    The fields are means (K, C, H, W), axes (K, R, C, H, W), variances (K, R), noise_variance, weights (K,), and
    classes (K,) or None.
    """

    means: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    noise_variance: float
    weights: torch.Tensor
    classes: torch.Tensor | None = None


def fit_low_rank_mixture(images, num_components=64, num_axes=24, noise_std=0.02, seed=0, class_labels=None):
    """Fits a [`LowRankMixture`] to images; it is the same for the same seed.

    Clusters without images, which many equal images lead to, are left out.

    Args:
        images (`torch.Tensor`): (N, C, H, W), uint8.
        num_components (`int`): K clusters, or, with labels, K over the number of classes for each class.
        num_axes (`int`): R principal directions of each.
        noise_std (`float`): the standard deviation in all other directions, above 0; a level of 8 bits is 0.0078.
        seed (`int`): of the first centres of the clusters.
        class_labels (`torch.Tensor`, *optional*): (N,), 0 .. number of classes - 1: no cluster mixes classes then.

    Raises:
        InputError: for numbers out of range, and fewer images than components.
    """
    x = kind_of_batch(images).from_data(images).flatten(1)
    labels = torch.zeros(len(x), dtype=torch.int64) if class_labels is None else torch.as_tensor(class_labels)
    per_class = num_components // (int(labels.max()) + 1)
    _check(x, labels, per_class, num_components, num_axes, noise_std)
    generator, clusters, classes = torch.Generator().manual_seed(seed), [], []
    for label in labels.unique().tolist():
        found = clusters_of(x[labels == label], per_class, generator)
        clusters += found
        classes += [label] * len(found)
    fitted = [principal_axes(cluster, num_axes) for cluster in clusters]
    means, axes, variances = (torch.stack(each).float() for each in zip(*fitted, strict=True))
    return LowRankMixture(
        means.reshape(-1, *images.shape[1:]),
        axes.reshape(-1, num_axes, *images.shape[1:]),
        (variances - noise_std**2).clamp(min=0),
        noise_std**2,
        torch.tensor([len(cluster) / len(x) for cluster in clusters]),
        None if class_labels is None else torch.tensor(classes),
    )


def clusters_of(x, number, generator):
    """Splits vectors (N, D) into at most `number` clusters by k-means, and returns a list of (n, D), none empty."""
    centres = spread_centres(x, number, generator)
    nearest = None
    for _ in range(MOST_ROUNDS):
        before, nearest = nearest, squared_distances(x, centres).argmin(1)
        if before is not None and torch.equal(before, nearest):
            break
        counts = nearest.bincount(minlength=number)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        # A cluster that has lost all its vectors keeps its centre.
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
    return [x[nearest == k] for k in nearest.unique().tolist()]


def spread_centres(x, number, generator):
    """Starts k-means++: each further centre is a vector drawn by its squared distance to the nearest centre."""
    first = torch.randint(len(x), (1,), generator=generator)
    centres = x[first]
    distances = squared_distances(x, centres).squeeze(1)
    for _ in range(number - 1):
        # Where all vectors are centres already, all are equally likely.
        weights = distances if distances.sum() > 0 else torch.ones_like(distances)
        chosen = torch.multinomial(weights, 1, generator=generator)
        centres = torch.cat([centres, x[chosen]])
        distances = distances.minimum(squared_distances(x, x[chosen]).squeeze(1))
    return centres


def squared_distances(x, centres):
    """Returns the squared distances of vectors to centres, (N, K), not negative."""
    squares = x.square().sum(1, keepdim=True) + centres.square().sum(1)
    return (squares - 2 * x @ centres.T).clamp(min=0)


def principal_axes(x, number):
    """Returns the mean of vectors (n, D) and their covariance's leading eigenvectors (R, D) and eigenvalues (R,)."""
    mean = x.double().mean(0)
    offsets = x.double() - mean
    if len(x) < number:  # rows of zeros, so that there are enough directions, of variance 0
        offsets = torch.cat([offsets, offsets.new_zeros(number - len(x), x.shape[1])])
    _, singular, directions = torch.linalg.svd(offsets, full_matrices=False)
    return mean, directions[:number], singular[:number].square() / len(x)


def _check(x, labels, per_class, num_components, num_axes, noise_std):
    counts = labels.bincount().tolist()
    if per_class < 1:
        raise InputError(f"num_components={num_components} must be at least {len(counts)}, one for each class.")
    if min(counts) < per_class:
        label = counts.index(min(counts))
        whose = "and there are" if len(counts) == 1 else f"of each class, and class {label} has"
        raise InputError(
            f"num_components={num_components} asks for {per_class} clusters {whose} {counts[label]} images: give more "
            "images or fewer components."
        )
    if not 1 <= num_axes <= x.shape[1]:
        raise InputError(f"num_axes={num_axes} must be in 1 .. {x.shape[1]}, the dimensions of an image.")
    if not noise_std > 0:
        raise InputError(f"noise_std={noise_std} must be above 0.")
