"""The network of a training with captions: a stock `UNet2DConditionModel` that is told the numbers of captions."""

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ddpm_hf.errors import InputError
from ddpm_hf.models.named_networks import network_config
from ddpm_hf.pipelines.prompts import hidden_states, tokens_of
from ddpm_hf.portable.packed_key import PACKED_KEY

# Captions of a frozen encoder are encoded once if their hidden states take no more than this.
MOST_STATES_BYTES = 2**30
ENCODED_AT_A_TIME = 64
# Keys of the network's config that are ours.
OWN_KEYS = ("autoencoder_factor", "image_channels")


class CaptionedNetwork(nn.Module):
    """A [`UNet2DConditionModel`] as a function of x_t, t and the numbers of captions, with what encodes these.

    A text encoder that is trained is a part of it; one that is frozen is not, so that checkpoints do not have it.

    Args:
        unet ([`UNet2DConditionModel`]): predicts for x_t, t and hidden states.
        parts (`TextParts`): the text encoder and the tokenizer.
        captions: all captions; the number after the last is that of the empty text, the null label.
    """

    _supports_gradient_checkpointing = True

    def __init__(self, unet, parts, captions):
        super().__init__()
        self.unet, self.captions, self.is_trained = unet, captions, parts.is_trained
        self.tokenizer, self._frozen = parts.tokenizer, None if parts.is_trained else (parts.text_encoder,)
        if parts.is_trained:
            self.trained_encoder = parts.text_encoder
        tokens = tokens_of(parts.tokenizer, [*captions, ""])
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("states", None if parts.is_trained else _encoded(parts, tokens), persistent=False)

    @property
    def config(self):
        return self.unet.config

    @property
    def text_encoder(self):
        return self.trained_encoder if self.is_trained else self._frozen[0]

    def forward(self, x_t, timesteps, captions, return_dict=False):
        """The prediction for x_t (N, C, H, W), t (N,) and the numbers of captions (N,), as a tuple of one."""
        return self.unet(x_t, timesteps, self.told(captions), return_dict=return_dict)

    def told(self, captions):
        """The hidden states (N, L, D) of captions with these numbers."""
        if self.states is not None:
            return self.states[captions]
        with torch.set_grad_enabled(self.is_trained and torch.is_grad_enabled()):
            return hidden_states(self.text_encoder.to(self.tokens.device), self.tokens[captions])

    def num_parameters(self):
        return sum(weight.numel() for weight in self.parameters())

    def enable_gradient_checkpointing(self):
        self.unet.enable_gradient_checkpointing()


@torch.no_grad()
def _encoded(parts, tokens):
    """The hidden states of all captions; None if they take too much memory."""
    if tokens.numel() * parts.width * 4 > MOST_STATES_BYTES:
        return None
    return torch.cat([hidden_states(parts.text_encoder, some).float() for some in tokens.split(ENCODED_AT_A_TIME)])


def make_captioned_network(args, source, parts):
    """The [`CaptionedNetwork`] of the network `args.unet`, for the size and channels of the data.

    Raises:
        InputError: for a network that does not suit the data, or attends to hidden states of another width.
    """
    options, preset = dict(source.network_options), dict(network_config(args.unet))
    own = {key: options.pop(key) for key in OWN_KEYS if key in options}
    width = preset.get("cross_attention_dim", parts.width)
    if width != parts.width:
        raise InputError(
            f"unet={args.unet!r} attends to hidden states of {width} numbers, and the text encoder makes "
            f"{parts.width}: set cross_attention_dim to {parts.width}, or give another --text_encoder."
        )
    options |= {"out_channels": options["in_channels"], "cross_attention_dim": parts.width}
    try:
        unet = UNet2DConditionModel(**preset | options)
    except (ValueError, TypeError) as error:
        raise InputError(f"unet={args.unet!r} does not suit the data: {error}") from error
    unet.register_to_config(**{PACKED_KEY: own})
    _check_halves(args, unet)
    return CaptionedNetwork(unet, parts, source.captions)


def _check_halves(args, unet):
    """Raises InputError for sides that the levels of the network cannot halve."""
    size, factor = unet.config.sample_size, 2 ** (len(unet.config.block_out_channels) - 1)
    sides = [size, size] if isinstance(size, int) else list(size)
    if any(side % factor for side in sides):
        raise InputError(
            f"unet={args.unet!r} halves its input to 1/{factor}, and the samples are of {sides[0]}x{sides[1]}: give "
            "another --resolution or network."
        )
