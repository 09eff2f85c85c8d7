"""Checks that samples, scores, statistics and weights are finite before they are written."""


def check_all_finite(values, name_of, advice):
    """Checks that every value is finite.

    Args:
        values (`torch.Tensor`): values of any shape.
        name_of: f(*indices) -> the name of a value, as the subject of a sentence.
        advice (`str`): a sentence with the remedy.

    Raises:
        ValueError: with the name of the first value that is infinite or NaN.
    """
    finite = values.isfinite()
    if finite.all():
        return
    where = (~finite).nonzero()[0].tolist()
    raise ValueError(
        f"{name_of(*where)} is {values[tuple(where)].item()}, and {(~finite).sum().item()} of {values.numel()} such "
        f"values are not finite. {advice}"
    )
