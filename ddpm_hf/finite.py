"""Samples, scores, statistics and weights are finite numbers before they go out."""


def check_all_finite(values, name_of, advice):
    """Passes where every value is finite.

    Args:
        values (`torch.Tensor`): of any shape.
        name_of: a function of the indices of a value that gives its name, as the subject of a sentence.
        advice (`str`): what to look at or to do.

    Raises:
        ValueError: with the name of the first value that is infinite or NaN.
    """
    finite = values.isfinite()
    if finite.all():
        return
    where = (~finite).nonzero()[0].tolist()
    raise ValueError(
        f"{name_of(*where)} is {values[tuple(where)].item()}, and {(~finite).sum().item()} of {values.numel()} such values "
        f"are not finite. {advice}"
    )
