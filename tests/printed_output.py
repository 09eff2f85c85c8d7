"""Compares what code prints with what a page shows of it."""

import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# Networks that are trained, and sums of many numbers, come out a little different on another processor.
RELATIVE = 0.02


def check_printed(shown, printed, numbers=True):
    """Words and whole numbers are equal; numbers with a point differ by 2 % or one unit of the last digit at most.

    Args:
        numbers (`bool`): whether numbers are compared at all, which depend on the model of the reader on some pages.
    """
    assert NUMBER.sub("0", shown).split() == NUMBER.sub("0", printed).split(), f"printed:\n{printed}\nshown:\n{shown}"
    if numbers:
        for ours, theirs in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
            assert _equal(ours, theirs), f"{theirs} is printed where {ours} is shown:\n{printed}"


def _equal(shown, printed):
    mantissa, _, exponent = shown.partition("e")
    if "." not in mantissa and not exponent:
        return shown == printed
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(shown) - float(printed)) <= 1.001 * max(unit, RELATIVE * abs(float(shown)))
