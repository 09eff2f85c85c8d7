"""Numbers are checked where they come in, and samples, scores, statistics and weights where they go out."""

import math


def is_whole(value, least, most=math.inf):
    """Whether a number is a whole one from `least` to `most`; infinity and NaN are not."""
    return least <= value <= most and value % 1 == 0


def check_count(name, value):
    """Raises ValueError for a number that is not a whole one of at least 1."""
    if not is_whole(value, 1):
        raise ValueError(f"{name}={value} must be a whole number of at least 1.")


def where_not_finite(values):
    """The indices of the values that are infinite or NaN, (count, dimensions of `values`)."""
    return (~values.isfinite()).nonzero()


def check_all_finite(values, name_of, advice):
    """Raises ValueError if a value is infinite or NaN, with the name of the first one.

    Args:
        values (`torch.Tensor`): of any shape.
        name_of: a function of the indices of a value that gives its name, as the subject of a sentence.
        advice (`str`): what to look at or to do.
    """
    bad = where_not_finite(values)
    if len(bad):
        where = bad[0].tolist()
        raise ValueError(
            f"{name_of(*where)} is {values[tuple(where)].item()}, and {len(bad)} of {values.numel()} such values are "
            f"not finite. {advice}"
        )
