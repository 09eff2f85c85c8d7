"""DDPM's network with the numbered layers of score_sde, written out from its architecture."""

import math
from itertools import count

import torch
import torch.nn.functional as F


class Weights(dict):
    """Random weights by name, drawn when they are first asked for."""

    def __missing__(self, key):
        name, shape = key
        scale = 0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        self[key] = torch.randn(shape) * scale + (name.endswith("weight") and len(shape) == 1)
        return self[key]

    def named(self):
        return {name: weight for (name, _), weight in self.items()}


class NumberedDDPM:
    """The network of DDPM (Ho et al. 2020, appendix B), its layers numbered in the order of use.

    weights ([`Weights`]); widths: of the levels; layers: residual blocks of each; attention: the sizes that have it.
    """

    def __init__(self, weights, widths, layers, attention, dtype=torch.float32):
        self.weights, self.widths, self.layers, self.attention_sizes = weights, widths, layers, attention
        self.dtype, self.numbers = dtype, count()

    @property
    def next(self):
        return f"all_modules.{next(self.numbers)}"

    def of(self, name, *shape):
        return self.weights[name, shape].to(self.dtype)

    def linear(self, name, x, width):
        return F.linear(x, self.of(f"{name}.weight", width, x.shape[-1]), self.of(f"{name}.bias", width))

    def convolution(self, name, x, width, **options):
        weight = self.of(f"{name}.weight", width, x.shape[1], 3, 3)
        return F.conv2d(x, weight, self.of(f"{name}.bias", width), **options)

    def norm(self, name, x):
        shape = (x.shape[1],)
        return F.group_norm(x, 32, self.of(f"{name}.weight", *shape), self.of(f"{name}.bias", *shape), 1e-6)

    def matrix(self, name, x, width):
        weight = self.of(f"{name}.W", x.shape[1], width)
        return torch.einsum("bchw,cd->bdhw", x, weight) + self.of(f"{name}.b", width)[:, None, None]

    def resnet(self, x, embedding, width):
        name = self.next
        hidden = self.convolution(f"{name}.Conv_0", F.silu(self.norm(f"{name}.GroupNorm_0", x)), width, padding=1)
        hidden = hidden + self.linear(f"{name}.Dense_0", F.silu(embedding), width)[:, :, None, None]
        hidden = self.convolution(f"{name}.Conv_1", F.silu(self.norm(f"{name}.GroupNorm_1", hidden)), width, padding=1)
        return hidden + (x if x.shape[1] == width else self.matrix(f"{name}.NIN_0", x, width))

    def attention(self, x):
        name, width = self.next, x.shape[1]
        normed = self.norm(f"{name}.GroupNorm_0", x)
        q, k, v = (self.matrix(f"{name}.NIN_{i}", normed, width).flatten(2) for i in range(3))
        shares = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(width), dim=-1)
        mixed = torch.einsum("bij,bcj->bci", shares, v).reshape(x.shape)
        return x + self.matrix(f"{name}.NIN_3", mixed, width)

    def __call__(self, x, t):
        first, last, levels = self.widths[0], self.widths[-1], list(enumerate(self.widths))
        frequencies = torch.exp(-math.log(10000) / (first // 2 - 1) * torch.arange(first // 2))
        angles = t.float()[:, None] * frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.dtype)
        embedding = self.linear(self.next, embedding, 4 * first)
        embedding = self.linear(self.next, F.silu(embedding), 4 * first)
        side, skips = x.shape[-1], [self.convolution(self.next, x, first, padding=1)]
        for level, width in levels:
            for _ in range(self.layers):
                hidden = self.resnet(skips[-1], embedding, width)
                skips.append(self.attention(hidden) if side >> level in self.attention_sizes else hidden)
            if level < len(levels) - 1:
                padded = F.pad(skips[-1], (0, 1, 0, 1))
                skips.append(self.convolution(f"{self.next}.Conv_0", padded, padded.shape[1], stride=2))
        hidden = self.resnet(skips[-1], embedding, last)
        hidden = self.resnet(self.attention(hidden), embedding, last)
        for level, width in reversed(levels):
            for _ in range(self.layers + 1):
                hidden = self.resnet(torch.cat([hidden, skips.pop()], dim=1), embedding, width)
            hidden = self.attention(hidden) if side >> level in self.attention_sizes else hidden
            if level > 0:
                hidden = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
                hidden = self.convolution(f"{self.next}.Conv_0", hidden, hidden.shape[1], padding=1)
        hidden = F.silu(self.norm(self.next, hidden))
        return self.convolution(self.next, hidden, x.shape[1], padding=1)
