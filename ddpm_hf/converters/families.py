"""The codes whose checkpoints are known, each recognised by names of its weights."""

from collections.abc import Callable
from typing import NamedTuple

from ddpm_hf.converters.ddpm import convert_ddpm, is_ddpm
from ddpm_hf.converters.lucidrains import convert_lucidrains, is_lucidrains
from ddpm_hf.converters.openai import convert_openai, is_openai
from ddpm_hf.converters.score_sde import convert_score_sde, is_score_sde
from ddpm_hf.errors import InputError


class Family(NamedTuple):
    """A code: whether weights are of it, by their names, and how they are converted."""

    name: str
    recognises: Callable
    convert: Callable


FAMILIES = (
    Family("improved-diffusion, guided-diffusion", is_openai, convert_openai),
    Family("ddim, pytorch_diffusion", is_ddpm, convert_ddpm),
    Family("score_sde", is_score_sde, convert_score_sde),
    Family("denoising-diffusion-pytorch", is_lucidrains, convert_lucidrains),
)


def family_of(path, weights):
    """The [`Family`] of a checkpoint.

    Raises:
        InputError: with the first names of weights of an unknown one.
    """
    for family in FAMILIES:
        if family.recognises(weights):
            return family
    names = ", ".join(list(weights)[:3])
    raise InputError(
        f"{path} is a checkpoint of no code known here (its first weights are {names}); known are "
        f"{'; '.join(family.name for family in FAMILIES)}."
    )
