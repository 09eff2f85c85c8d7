"""Figures of what was measured."""


def draw_bound_terms(result, png_path):
    """The terms of the bound by timestep, as in figure 2 of Nichol & Dhariwal (2021).

    Args:
        result ([`BitsPerDim`]): what `bits_per_dim` returns.
        png_path: the file to write.
    """
    from matplotlib.figure import Figure  # takes a second to import, and only the end of an evaluation needs it

    steps = len(result.timesteps)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    # Points show which timesteps were visited, as long as they can be told apart.
    style = {"marker": "o", "markersize": 4} if steps <= 100 else {}
    axes.plot(result.timesteps[:-1], result.terms[:-1], label=r"KL$(q(x_s|x_t,x_0)\,||\,p(x_s|x_t))$", **style)
    axes.plot(result.timesteps[-1:], result.terms[-1:], "s", color="C3", label=r"decoder, $-\log_2 p(x_0|x_t)$")
    axes.plot(result.timesteps[:1], [result.prior], "D", color="C2", label=r"prior, KL$(q(x_T|x_0)\,||\,N(0,I))$")
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    images = f"{len(result.per_image)} image{'s' * (len(result.per_image) > 1)}"
    axes.set_title(f"Total {result.total:.4g}{error} bits/dim; {images}, {steps} step{'s' * (steps > 1)}")
    axes.set(xlabel="timestep t", ylabel="term (bits/dim)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(png_path, dpi=150)
