"""The nearest right name for a mistyped one, as the end of an error."""

import difflib
from collections import Counter


def did_you_mean(name, names):
    """`"; did you mean 'ddim'?"` for the nearest of the names, whatever its case; `"."` where none is near."""
    near = nearest(name, names)
    return "." if near is None else f"; did you mean {near!r}?"


def nearest(name, names):
    """The nearest of the names to a mistyped one, whatever its case; None where none is near."""
    mistyped, folded = str(name).lower(), {str(each).lower(): each for each in names}
    near = difflib.get_close_matches(mistyped, folded)
    return folded[max(near, key=lambda each: _likeness(mistyped, each))] if near else None


def _likeness(a, b):
    """Sorts by what two names have in common in order, and then in any order, for letters that changed places."""
    return difflib.SequenceMatcher(None, a, b).ratio(), (Counter(a) & Counter(b)).total()


def not_one_of(name, names):
    """The end of a sentence about a name that is not allowed: all that are allowed, and the nearest of them."""
    return f"is not one of {', '.join(map(repr, names))}{did_you_mean(name, names)}"
