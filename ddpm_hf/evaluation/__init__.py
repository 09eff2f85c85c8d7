"""Measures of a model: its likelihood of images in bits per dimension, and distances of its samples."""

import importlib

_PUBLIC = {
    "bits_per_dim": "ddpm_hf.evaluation.likelihood",
    "ode_log_likelihood": "ddpm_hf.evaluation.flow_likelihood",
}
__all__ = [*_PUBLIC]


def __getattr__(name):
    """Imports the public names on first use: the command line reads the names of metrics without waiting for torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ddpm_hf.evaluation' has no attribute '{name}'")
