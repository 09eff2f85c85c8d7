"""The Gaussian and the Gaussian mixture that the reference arrays of continuous time are computed on."""

import torch


def toy_score(arrays, toy):
    """score(x, a, s): the score of x = a x0 + s z, for x (B, ..) and numbers a and s, () or (B,)."""

    def score(x, signal, std):
        log_joint, slopes = toy_components(arrays, toy, x, signal, std)
        return (log_joint.softmax(0)[..., None] * slopes).sum(0).reshape(x.shape)

    return score


def toy_log_prob(arrays, toy, x, signal, std):
    """log p(x) in nats, (B,)."""
    return toy_components(arrays, toy, x, signal, std)[0].logsumexp(0)


def toy_components(arrays, toy, x, signal, std):
    """For each of the K normal components: log(weight density), (K, B), and its score, (K, B, d)."""
    signal, std = (torch.as_tensor(level, dtype=x.dtype).reshape(1, -1, 1) for level in (signal, std))
    if toy == "gauss":
        weights = torch.ones(1, dtype=x.dtype)
        means, variances = arrays["toy/gauss/mean"].reshape(1, 1, -1), arrays["toy/gauss/var"].reshape(1, 1, -1)
    else:
        weights = arrays["toy/gmm/weights"]
        means, variances = arrays["toy/gmm/means"].flatten(1)[:, None], arrays["toy/gmm/vars"].reshape(-1, 1, 1)
    variance, away = signal**2 * variances + std**2, signal * means - x.flatten(1)
    logs = -(away**2) / (2 * variance) - (2 * torch.pi * variance).log() / 2
    return weights.log()[:, None] + logs.sum(2), away / variance
