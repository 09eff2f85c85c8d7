"""The texts that a network is told of its fine paths: captions of the data, or the lines of a file, and their states."""

from pathlib import Path

import numpy as np
import torch

from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.prompts import Prompts, encode_prompts

# Texts are told in turn, and no fit of images follows more paths.
MOST_TEXTS = 400
ENCODED_AT_A_TIME = 64


def read_prompts(file):
    """The texts of a file, one for each line that is not empty.

    Raises:
        InputError: for a file that cannot be read, is no text, or has none.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the texts of --prompts {file}: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"--prompts {file} has no text: write one on each line.")
    return texts


def drawn_texts(texts, seed):
    """Up to 400 of the texts, drawn at random: data are often sorted."""
    places = np.random.default_rng(seed).permutation(len(texts))[:MOST_TEXTS]
    return [texts[place] for place in places]


@torch.no_grad()
def states_of_texts(pipeline, texts):
    """The hidden states of texts, and of the empty one as the negative, [`Prompts`], on the host.

    Args:
        pipeline: a pipeline with a text encoder and its tokenizer, stock or ours.
    """
    parts = [texts[first : first + ENCODED_AT_A_TIME] for first in range(0, len(texts), ENCODED_AT_A_TIME)]
    states = [encode_prompts(pipeline, part, None, 1.0, len(part)).float().cpu() for part in parts]
    empty = encode_prompts(pipeline, None, None, 1.0, 1).float().cpu()
    return Prompts(prompt_embeds=torch.cat(states), negative_prompt_embeds=empty)
