"""Checkpoints of other codebases, read into the classes of diffusers and of this package."""

from ddpm_hf.converters.convert import convert_checkpoint

__all__ = ["convert_checkpoint"]
