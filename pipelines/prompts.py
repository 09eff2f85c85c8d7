"""Prompts for networks that are told a text: their tokens, and the hidden states that the network attends to."""

from typing import NamedTuple

import torch
from diffusers.utils import logging

from ddpm_hf.models.network_config import is_told_text

logger = logging.get_logger(__name__)


class Prompts(NamedTuple):
    """What a run is told in words: the arguments of a pipeline's `__call__` with the same names."""

    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None

    def states(self, guidance_scale, batch_size):
        """The given hidden states for so many samples, (B, L, D), or (2B, L, D) followed by the negative ones.

        Raises:
            ValueError: for texts beside them, another number than of samples, and guidance without negative ones.
        """
        if self.prompt is not None or self.negative_prompt is not None:
            raise ValueError("Give prompt, or its hidden states prompt_embeds, and not both.")
        wanted = {"prompt_embeds": self.prompt_embeds}
        if guidance_scale != 1.0:
            wanted["negative_prompt_embeds"] = self.negative_prompt_embeds
        for name, states in wanted.items():
            if states is None:
                raise ValueError(f"guidance_scale={guidance_scale} with prompt_embeds needs {name} too, (1, L, D).")
            if states.ndim != 3 or len(states) not in (1, batch_size):
                raise ValueError(
                    f"{name} of shape {tuple(states.shape)} must be (1, L, D), or ({batch_size}, L, D) for "
                    f"{batch_size} samples."
                )
        return torch.cat([states.expand(batch_size, -1, -1) for states in wanted.values()])


def tokens_of(tokenizer, texts):
    """The tokens of texts, (N, L), int64, filled up or cut to the L tokens that the model was trained with.

    A warning says how many texts are cut.
    """
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    whole = tokenizer(list(texts), verbose=False).input_ids
    num_cut = sum(len(each) > tokenizer.model_max_length for each in whole)
    if num_cut:
        logger.warning(
            f"{num_cut} of {len(whole)} texts are cut to {tokenizer.model_max_length} tokens; the longest has "
            f"{max(map(len, whole))}."
        )
    return tokens


def hidden_states(text_encoder, tokens):
    """What the network attends to, (N, L, D), for tokens (N, L); as Stable Diffusion does, padding is not masked."""
    return text_encoder(tokens.to(text_encoder.device))[0]


@torch.no_grad()
def encode_prompts(pipeline, prompt, negative_prompt, guidance_scale, batch_size):
    """The hidden states of prompts, (B, L, D), or (2B, L, D) followed by those of the negative prompts.

    Args:
        pipeline: a pipeline with a text encoder and its tokenizer.
        prompt: one text for all, or a list of one for each; None for the empty text.
        negative_prompt: what guidance leads away from, in the same form.

    Raises:
        ValueError: for another number of texts than of samples, and for what is no text.
    """
    wanted = {"prompt": prompt}
    if guidance_scale != 1.0:
        wanted["negative_prompt"] = negative_prompt
    texts = [text for name, given in wanted.items() for text in _for_each_sample(name, given, batch_size)]
    states = hidden_states(pipeline.text_encoder, tokens_of(pipeline.tokenizer, texts))
    return states.to(pipeline.unet.device, pipeline.unet.dtype)


def with_prompts(pipeline, conditioning, prompts, batch_size):
    """The [`Conditioning`] with the hidden states of [`Prompts`] in the place of labels; as it is without any.

    Raises:
        ValueError: for prompts of a model that is told no text, and as `encode_prompts`.
    """
    scale = conditioning.guidance.guidance_scale
    if prompts.prompt_embeds is not None and is_told_text(pipeline.unet.config):
        states = prompts.states(scale, batch_size)
        return conditioning._replace(labels=states.to(pipeline.unet.device, pipeline.unet.dtype))
    if pipeline.text_encoder is not None:
        told = encode_prompts(pipeline, prompts.prompt, prompts.negative_prompt, scale, batch_size)
        return conditioning._replace(labels=told)
    if any(each is not None for each in prompts):
        raise ValueError(
            "prompt and negative_prompt are for models that were trained with captions, and this one was not: leave "
            "them out."
        )
    return conditioning


def _for_each_sample(name, given, batch_size):
    texts = [given or ""] * batch_size if isinstance(given, str | None) else list(given)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name}={given!r} must be a text, or a list of texts.")
    if len(texts) != batch_size:
        raise ValueError(f"{name} has {len(texts)} texts for {batch_size} samples: give one for all or for each.")
    return texts
