"""Precision and recall of samples: how many look real, and how much of the data they reach."""


def precision_recall(neighbourhoods):
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2), each in [0, 1].

    Precision is the share of samples that lie in the ball of a reference image, recall the share of reference images
    that lie in the ball of a sample. The paper has k = 3, and as many samples as reference images; both figures depend
    on these numbers.

    Args:
        neighbourhoods ([`Neighbourhoods`]): of the features of both.

    Returns:
        `dict`: {"precision": `float`, "recall": `float`}
    """
    return {
        "precision": _mean(neighbourhoods.balls_around_sample > 0),
        "recall": _mean(neighbourhoods.is_in_sample_ball),
    }


def density_coverage(neighbourhoods):
    """Density and coverage (Naeem et al. 2020, eq. 7 and 9), forms of precision and recall that outliers change less.

    Density is the mean number of balls of reference images that a sample lies in, over k; it is 1 for samples from the
    data and can exceed 1. Coverage is the share of balls of reference images that hold a sample, in [0, 1]. The paper
    has k = 5, and as many samples as reference images; both figures depend on these numbers.

    Args:
        neighbourhoods ([`Neighbourhoods`]): of the features of both.

    Returns:
        `dict`: {"density": `float`, "coverage": `float`}
    """
    return {
        "density": _mean(neighbourhoods.balls_around_sample) / neighbourhoods.nearest_k,
        "coverage": _mean(neighbourhoods.holds_a_sample),
    }


def _mean(values):
    return values.double().mean().item()
