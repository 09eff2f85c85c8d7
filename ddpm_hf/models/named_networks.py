"""Networks by name: a preset, or a config as diffusers writes it, in a file, a folder or a repository."""

from diffusers import UNet2DModel

from ddpm_hf.errors import InputError
from ddpm_hf.models.presets import NETWORK_PRESETS, TEXT_PRESETS, check_network_name

CLASSES = ("UNet2DModel", "DDPMUNet2DModel", "MLPDenoiser", "UNet2DConditionModel")
# Keys of a config that follow from the data and from the options of a training.
FOLLOWING = ("out_channels", "num_class_embeds")


def network_config(name):
    """The keyword arguments of a network.

    Args:
        name (`str`): a preset of `ddpm_hf.models.presets`, a `config.json` or a folder that holds one, or the id of a
            repository with one.

    Raises:
        InputError: for a name that is none of these, with the nearest preset, and for the config of another class.
    """
    if name in NETWORK_PRESETS:
        return NETWORK_PRESETS[name]
    return {key: value for key, value in _read(name).items() if not key.startswith("_") and key not in FOLLOWING}


def is_told_a_text(name):
    """Whether a network of that name attends to a text; it raises what `network_config` does."""
    return name in TEXT_PRESETS or (
        name not in NETWORK_PRESETS and _read(name)["_class_name"] == "UNet2DConditionModel"
    )


def _read(name):
    check_network_name(name)
    try:
        config = UNet2DModel.load_config(name)
    except OSError as error:
        raise InputError(f"Cannot read the config of a network from unet={name!r}: {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind not in CLASSES:
        raise InputError(
            f"unet={name!r} is the config of {kind or 'no network'}: give one of {', '.join(CLASSES)}, such as "
            "`save_pretrained` writes."
        )
    return config
