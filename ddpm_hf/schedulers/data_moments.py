r"""Mean and covariance of the data, and what they say of a noisy sample without any network.

For data N(mu, U diag(L) U' + r (I - U U')) with orthonormal columns of U, x_t = a x0 + sigma eps has the variance
v_t(L) = a^2 L + sigma^2 along a direction of variance L. With y = x_t - a mu, in closed form (Wang & Vastola 2024),

    E[x0 | x_t]  = mu + a r / v_t(r) y + U diag(a L / v_t(L) - a r / v_t(r)) U' y
    x_t -> x_s   = a' mu + g(r) y + U diag(g(L) - g(r)) U' y,     g(L) = sqrt(v_s(L) / v_t(L))

where a' is the signal at s and the second line is the probability flow. At high noise the flow of any data is nearly
the flow of the Gaussian with its moments, so sampling may spend its first network call further down. The axes U are
principal directions or, for images too large for them, the lowest frequencies of a cosine transform.
"""

import math

from ddpm_hf.schedulers.cosine_transform import cosine_basis
from ddpm_hf.schedulers.number_texts import as_text, from_text


class PrincipalAxes:
    """Orthonormal directions of whole samples.

    Args:
        axes (`torch.Tensor`): (R, D).
    """

    def __init__(self, axes):
        self.axes = axes

    def project(self, x):
        """U' x, (B, R)."""
        return x.flatten(1) @ self.axes.to(x).T

    def lift(self, coefficients, shape):
        """U c, of the shape (B, C, *)."""
        return (coefficients @ self.axes.to(coefficients)).reshape(-1, *shape)


class LowestFrequencies:
    """The cosine functions of the lowest frequencies along both sides of an image, in each channel alone.

    Args:
        counts, sides (`tuple[int, int]`): how many frequencies, and how many pixels.
    """

    def __init__(self, counts, sides):
        self.rows, self.columns = (cosine_basis(side)[:count] for count, side in zip(counts, sides, strict=True))

    def project(self, x):
        """U' x, (B, C, F, G)."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def lift(self, coefficients, shape):
        """U c, (B, C, H, W)."""
        return self.rows.to(coefficients).T @ coefficients @ self.columns.to(coefficients)


class DataMoments:
    """The moments of a data set, in the network's units.

    Args:
        mean (`torch.Tensor`): (C, *), of a sample.
        variances (`torch.Tensor`): L, of the shape that `axes.project` gives for one sample.
        rest (`float`): r, the variance along every direction that no axis has.
        axes ([`PrincipalAxes`] or [`LowestFrequencies`]): U.
    """

    def __init__(self, mean, variances, rest, axes):
        self.mean, self.variances, self.rest, self.axes = mean, variances, rest, axes

    def predicted_x0(self, x_t, signal, sigma):
        """E[x0 | x_t] of the Gaussian with these moments, of x_t's shape."""
        shares = (signal * variance / (signal**2 * variance + sigma**2) for variance in (self.variances, self.rest))
        return self._affine(x_t, signal, 1.0, *shares)

    def flow(self, x_t, signal_t, sigma_t, signal_s, sigma_s):
        """x_s of the Gaussian's probability flow through x_t, of x_t's shape."""
        growths = (
            ((signal_s**2 * variance + sigma_s**2) / (signal_t**2 * variance + sigma_t**2)) ** 0.5
            for variance in (self.variances, self.rest)
        )
        return self._affine(x_t, signal_t, signal_s, *growths)

    def _affine(self, x_t, signal_t, signal, on_axes, elsewhere):
        """signal mu + elsewhere (x_t - signal_t mu) + U diag(on_axes - elsewhere) U' (x_t - signal_t mu)."""
        mean = self.mean.to(x_t)
        of_offset = self.axes.project(x_t) - signal_t * self.axes.project(mean[None])
        on_their_axes = self.axes.lift(of_offset * (on_axes - elsewhere).to(x_t), x_t.shape[1:])
        return on_their_axes.add_(x_t, alpha=elsewhere).add_(mean, alpha=signal - elsewhere * signal_t)

    def to_config(self):
        """The moments as JSON has them; `moments_from_config` gives them back, in float32."""
        told = {"shape": list(self.mean.shape), "rest": float(self.rest), "variances": as_text(self.variances)}
        if isinstance(self.axes, PrincipalAxes):
            return told | {"mean": as_text(self.mean), "axes": as_text(self.axes.axes)}
        coefficients = self.axes.project(self.mean[None])[0]  # few, where the mean image may be large
        return told | {"mean": as_text(coefficients), "frequencies": list(self.variances.shape[1:])}


def moments_from_config(told):
    """The [`DataMoments`] of a config.

    Raises:
        ValueError: for numbers that are too few, too many or not finite.
    """
    shape, rest = tuple(told["shape"]), told["rest"]
    if "axes" in told:
        mean, variances = _numbers(told, "mean", *shape), _numbers(told, "variances")
        axes = PrincipalAxes(_numbers(told, "axes", len(variances), math.prod(shape)))
    else:
        of_frequencies = (shape[0], *told["frequencies"])
        axes = LowestFrequencies(of_frequencies[1:], shape[1:])
        variances = _numbers(told, "variances", *of_frequencies)
        mean = axes.lift(_numbers(told, "mean", *of_frequencies), shape)
    if not (math.isfinite(rest) and rest >= 0 and (variances >= 0).all()):
        raise ValueError("fitted_solvers has data moments with a variance below 0: fit them again.")
    return DataMoments(mean, variances, rest, axes)


def _numbers(told, name, *shape):
    return from_text(
        told[name],
        shape or None,
        f"{name!r} of the data moments in fitted_solvers, of shape {tuple(told['shape'])},",
        "fit them again by ddpm_hf.calibration.fit_solver.",
    )
