"""Weights on their way from the names of one code to those of another; none is lost and none is left over."""

import re

from ddpm_hf.errors import InputError


class Renaming:
    """Takes weights by their foreign names, and gives them by their new ones.

    Args:
        weights (`dict`): by their names in the foreign code.
        family (`str`): what messages call that code.
    """

    def __init__(self, weights, family):
        self.left, self.family, self.renamed = dict(weights), family, {}

    def take(self, name):
        """A weight, which is then used up."""
        weight = weight_of(self.left, name, self.family)
        del self.left[name]
        return weight

    def has(self, name):
        return name in self.left

    def move(self, source, target, table=None, reshape=None):
        """Renames the weight and bias of a layer, or of each layer of a block.

        Args:
            source, target (`str`): names of the layer, or of the block.
            table (`dict`, *optional*): {name of a layer within the block: its new name}; layers that are not there,
                such as shortcuts of equal widths, are passed over.
            reshape (*optional*): a function of a weight, but not of a bias, that gives it another shape.
        """
        layers = {source: target} if table is None else {f"{source}.{a}": f"{target}.{b}" for a, b in table.items()}
        for old, new in layers.items():
            if table is not None and f"{old}.weight" not in self.left:
                continue
            weight, bias = self.take(f"{old}.weight"), self.take(f"{old}.bias")
            self.renamed[f"{new}.weight"] = weight if reshape is None else reshape(weight)
            self.renamed[f"{new}.bias"] = bias

    def drop(self, pattern):
        """Leaves out what is no weight, such as tables of the noise schedule."""
        self.left = {name: value for name, value in self.left.items() if not re.search(pattern, name)}

    def finished(self):
        """The renamed weights.

        Raises:
            InputError: if weights are left over; the message has the first names.
        """
        if self.left:
            names = ", ".join(list(self.left)[:3])
            raise InputError(
                f"The checkpoint has weights that no network of {self.family} known here has ({names}): it is a "
                "variant that cannot be converted exactly."
            )
        return self.renamed


def weight_of(weights, name, family):
    """A weight by its foreign name.

    Raises:
        InputError: if the checkpoint does not have it.
    """
    if name not in weights:
        raise InputError(
            f"The checkpoint has no {name}, which every model of {family} of this form has: its file is damaged, or "
            "it is a variant that is not known here."
        )
    return weights[name]


def numbers_after(weights, pattern):
    """The sorted set of the whole numbers that a pattern's first group finds at the beginning of names."""
    found = (re.match(pattern, name) for name in weights)
    return sorted({int(each[1]) for each in found if each})
