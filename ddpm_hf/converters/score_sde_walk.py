"""The layers of score_sde's networks, which have numbers in the order of use instead of names."""

from itertools import count

from ddpm_hf.converters.renaming import Renaming

RESNET = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "time_emb_proj",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}
ATTENTION = {"NIN_0": "to_q", "NIN_1": "to_k", "NIN_2": "to_v", "NIN_3": "to_out.0"}


class Walk:
    """The layers in the order of their numbers."""

    def __init__(self, weights, family):
        self.names, self.numbers = Renaming(weights, family), count()

    @property
    def next(self):
        return f"all_modules.{next(self.numbers)}"

    def layer(self, target, part=None):
        source = self.next if part is None else f"{self.next}.{part}"
        self.names.move(source, target)

    def resnet(self, target):
        """A residual block; the shortcut of some is a matrix over channels."""
        source = self.next
        self.names.move(source, target, RESNET)
        if self.names.has(f"{source}.NIN_0.W"):
            self._matrix(f"{source}.NIN_0", f"{target}.conv_shortcut")
            self.names.renamed[f"{target}.conv_shortcut.weight"].unsqueeze_(-1).unsqueeze_(-1)

    def attention(self, target):
        source = self.next
        self.names.move(source, target, {"GroupNorm_0": "group_norm"})
        for old, new in ATTENTION.items():
            self._matrix(f"{source}.{old}", f"{target}.{new}")

    def _matrix(self, source, target):
        """A linear layer, whose matrix is (in, out) there."""
        self.names.renamed[f"{target}.weight"] = self.names.take(f"{source}.W").T.contiguous()
        self.names.renamed[f"{target}.bias"] = self.names.take(f"{source}.b")
