"""The updates of predictor-corrector sampling: x <- mean + noise_std z (Song et al. 2021, section 3.3).

They are functions of x_t, the score and numbers of the process, each () or shaped to broadcast over the samples.
`flow_share` is 1 for the reverse SDE (eq. 6) and 1/2 for the probability flow (eq. 13), which draws no noise.
"""

PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral", "none")
CORRECTORS = ("langevin", "annealed_langevin", "none")


def euler_maruyama_mean(x, score, rate, diffusion, steps, flow_share):
    """A step of length 1 / N backwards along f - g^2 score."""
    return x - (rate * x - flow_share * diffusion**2 * score) / steps


def reverse_diffusion_mean(x, score, factor, gain, flow_share):
    """The reverse of x <- x + f + G z, with the same discrete form (eq. 46)."""
    return x - factor * x + flow_share * gain**2 * score


def ancestral_mean(x, score, removed, shrinking):
    """The mean of DDPM's reverse chain (Ho et al. 2020; eq. 4), and of NCSN's (eq. 47)."""
    return (x + removed * score) / shrinking


def langevin_mean(x, score, size):
    """A step of Langevin dynamics; its noise has the standard deviation sqrt(2 size)."""
    return x + size * score


def langevin_size(score, noise, snr, alpha):
    """2 alpha (snr |z| / |score|)^2, with the norms averaged over the batch (Song et al. 2021, algorithms 4 and 5).

    So a sample depends on the others of its batch, and |z| is measured, not sqrt(d); both are the published code's.
    """
    norms = [values.flatten(1).norm(dim=1).mean() for values in (noise, score)]
    return 2 * alpha * (snr * norms[0] / norms[1]) ** 2


def annealed_size(std, snr, alpha):
    """2 alpha (snr std)^2. NCSN's algorithm 1 with step size eps has snr = sqrt(eps) / (2 sigma_L)."""
    return 2 * alpha * (snr * std) ** 2
