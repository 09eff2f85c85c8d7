"""What a converter makes of a checkpoint: a network with its weights, and the process that it was trained for."""

from typing import NamedTuple

import torch
from diffusers import ModelMixin

from ddpm_hf.errors import InputError


class Conversion(NamedTuple):
    """A network and its diffusion process.

    family: the code that the checkpoint is of; network: with its weights; process: what kind of process it is, under
    the key `process`, and the config of its scheduler; doubtful: {option: other values that would fit the weights
    too}; notes: sentences on what the reader of the card should know.
    """

    family: str
    network: ModelMixin
    process: dict
    doubtful: dict = {}  # noqa: RUF012
    notes: tuple = ()


def network_of(network_class, config, weights, family):
    """A network with weights; nothing is drawn at random.

    Raises:
        InputError: if the class does not hold these weights exactly.
    """
    try:
        with torch.device("meta"):
            network = network_class(**config)
        network.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{network_class.__name__} does not hold this checkpoint of {family} ({reason[:300]}): its options are "
            "those of another model, or it is a variant that is not known here."
        ) from error
    return network.eval()
