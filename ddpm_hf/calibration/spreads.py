"""How far samples spread about their mean, and by what factor they come to spread as others do."""

# Scaling and clamping in turn come to the wanted spread in few rounds.
ROUNDS_OF_CLAMPING = 8


def spread_of(x):
    """The standard deviation about the mean over samples, of all dimensions together, of (N, *)."""
    return (x.double() - x.double().mean(0)).square().mean().sqrt().item()


def factor_to_spread(scaled, wanted, bound=None):
    """The factor at which `scaled(factor)`, clamped, spreads as wanted; 1 for samples that are all the same.

    Args:
        scaled (`Callable`): a factor to samples (N, *), whose spread grows with it.
        wanted (`float`): the spread.
        bound (`float`, *optional*): samples are clamped to [-bound, bound].
    """
    factor = 1.0
    for _ in range(1 if bound is None else ROUNDS_OF_CLAMPING):
        spread = spread_of(clamped(scaled(factor), bound))
        factor *= wanted / spread if spread > 0 else 1.0
    return factor


def clamped(samples, bound):
    """The samples as they will be shown: clamped to [-bound, bound], if there is a bound."""
    return samples if bound is None else samples.clamp(-bound, bound)
