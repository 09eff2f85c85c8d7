"""Measures of a model: its likelihood of images in bits per dimension, and distances of its samples."""

from ddpm_hf.evaluation.flow_likelihood import ode_log_likelihood
from ddpm_hf.evaluation.likelihood import bits_per_dim

__all__ = ["bits_per_dim", "ode_log_likelihood"]
