"""Figures of an evaluation."""

from ddpm_hf.visualization.style import new_figure, save_figure


def draw_bound_terms(result, png_path):
    """Draws the terms of the bound by timestep, as in figure 2 of Nichol & Dhariwal (2021).

    Args:
        result ([`BitsPerDim`]): what `bits_per_dim` returns.
        png_path: the file to write.
    """
    steps = len(result.timesteps)
    figure, ((axes,),) = new_figure(7, 4.5)
    # Points show which timesteps were visited, as long as they can be told apart.
    style = {"marker": "o", "markersize": 4} if steps <= 100 else {}
    axes.plot(result.timesteps[:-1], result.terms[:-1], label=r"KL$(q(x_s|x_t,x_0)\,||\,p(x_s|x_t))$", **style)
    axes.plot(result.timesteps[-1:], result.terms[-1:], "s", color="C3", label=r"decoder, $-\log_2 p(x_0|x_t)$")
    axes.plot(result.timesteps[:1], [result.prior], "D", color="C2", label=r"prior, KL$(q(x_T|x_0)\,||\,N(0,I))$")
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    images = f"{len(result.per_image)} image{'s' * (len(result.per_image) > 1)}"
    axes.set_title(f"Total {result.total:.4g}{error} bits/dim; {images}, {steps} step{'s' * (steps > 1)}")
    axes.set(xlabel="timestep t", ylabel="term (bits/dim)", yscale="log")
    axes.legend()
    save_figure(figure, png_path)
