"""Text encoders of a training: one of transformers, which stays as it is, or a small one that is trained along."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from ddpm_hf.errors import InputError
from ddpm_hf.files import check_readable

# The classes of encoders by the type that their config names.
ENCODERS = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
# What is trained along: CLIP's form of a text encoder, of 128 numbers a token and two layers.
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
BEGINNING, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
VOCABULARY = 2000
# The tokens of CLIP; longer captions are cut. A small encoder gets as many as the captions need, in eights.
MOST_TOKENS = 77
TOKENS_STEP = 8


class TextParts(NamedTuple):
    """A text encoder with its tokenizer, and whether it is trained along."""

    text_encoder: torch.nn.Module
    tokenizer: object
    is_trained: bool

    @property
    def width(self):
        """The numbers of a hidden state, which are the network's `cross_attention_dim`."""
        return self.text_encoder.config.hidden_size


def open_text_parts(name, captions):
    """The [`TextParts`] of a folder or id of transformers, or of a pipeline; or new ones for None.

    Args:
        name (`str`, *optional*): as --text_encoder.
        captions: all captions, from which a new tokenizer is trained.

    Raises:
        InputError: for an encoder that cannot be had, or is of another kind.
    """
    if name is None:
        tokenizer = new_tokenizer(captions)
        return TextParts(new_text_encoder(tokenizer), tokenizer, True)
    folder = Path(name)
    within = {"text_encoder": "text_encoder", "tokenizer": "tokenizer"} if (folder / "text_encoder").is_dir() else {}
    at = {part: {"subfolder": within[part]} if within else {} for part in ("text_encoder", "tokenizer")}
    try:
        kind = AutoConfig.from_pretrained(name, **at["text_encoder"]).model_type
        if kind not in ENCODERS:
            raise InputError(
                f"text_encoder={name!r} is a {kind}, and the text encoders of CLIP and T5 are taken: give one of "
                "these."
            )
        text_encoder = ENCODERS[kind].from_pretrained(name, **at["text_encoder"])
        tokenizer = AutoTokenizer.from_pretrained(name, **at["tokenizer"])
    except InputError:
        raise
    # transformers has many kinds of errors for what it cannot load.
    except Exception as error:
        check_readable(folder)
        raise InputError(
            f"Cannot load a text encoder with its tokenizer from text_encoder={name!r}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if tokenizer.model_max_length > MOST_TOKENS:
        tokenizer.model_max_length = fitting_length(tokenizer, captions)
    return TextParts(text_encoder.requires_grad_(False).eval(), tokenizer, False)


def new_tokenizer(captions, vocabulary=VOCABULARY):
    """A [`CLIPTokenizer`] with byte pairs learned from captions, of as many tokens as the longest needs.

    Letters that no caption has are known too, because prompts may have them.
    """
    words = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    learned = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD, unk_token=END))
    learned.pre_tokenizer = words
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        # Letters at the end of words are named, because the trainer would number them in another order each time.
        special_tokens=[BEGINNING, END, *(f"{letter}{END_OF_WORD}" for letter in letters)],
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=letters,
        show_progress=False,
    )
    learned.train_from_iterator([each.lower() for each in captions], trainer)
    with tempfile.TemporaryDirectory() as folder:
        learned.model.save(folder)
        told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MOST_TOKENS, "pad_token": END}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = fitting_length(tokenizer, captions)
    return tokenizer


def fitting_length(tokenizer, captions):
    """The number of tokens that the longest caption has, in eights and at most 77."""
    longest = max(map(len, tokenizer(list(captions), verbose=False).input_ids))
    return min(MOST_TOKENS, TOKENS_STEP * -(-longest // TOKENS_STEP))


def new_text_encoder(tokenizer):
    """A small [`CLIPTextModel`] with initial weights for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            **SMALL,
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
