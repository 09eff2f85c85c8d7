"""How good a model is: the likelihood it gives to images, in bits per dimension."""

from ddpm_hf.evaluation.likelihood import bits_per_dim

__all__ = ["bits_per_dim"]
