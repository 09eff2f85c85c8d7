"""The Inception score of a classifier's logits."""

import math
from itertools import pairwise

import torch

from ddpm_hf.evaluation.measures.estimates import Estimate

SPLITS = 10


def inception_score(logits, splits=SPLITS):
    """The Inception score of Salimans et al. (2016): the mean over splits of exp(mean KL(p(y | x) || p(y))).

    p(y) is the mean of p(y | x) over the split. The score lies between 1 and the number of classes; higher is better.
    It depends on the samples alone. It is biased downwards for few samples in a split.

    Args:
        logits (`torch.Tensor`): (N, K), in an order that has nothing to do with the classes.
        splits (`int`): contiguous parts of nearly equal size.

    Returns:
        [`Estimate`]: the error is the standard deviation between the splits over the root of their number. (The spread
        that papers print beside the score is the standard deviation itself, with the divisor `splits`.)

    Raises:
        ValueError: for fewer samples than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"An Inception score of {splits} splits needs as many samples; there are {len(logits)}.")
    logits = logits.double()
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    parts = (logits[first:last] for first, last in pairwise(bounds))
    scores = torch.stack([_score(part) for part in parts])
    error = (scores.std() / math.sqrt(splits)).item() if splits > 1 else None
    return Estimate(scores.mean().item(), error)


def _score(logits):
    log_p = logits.log_softmax(1)
    log_mean = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp()
