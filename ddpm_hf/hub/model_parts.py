"""The parts of a model: what is wrong with one of them, by the name of its file, and whether this package can sample it."""

import inspect
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ddpm_hf.errors import InputError
from ddpm_hf.hub.reading import WHAT_IS_TAKEN, component_names, read_index, read_mapping

CONFIG_FILE = "config.json"  # of a network; schedulers and processors have others
WEIGHTS = ("*.safetensors", "*.bin")
# What a pipeline gives the step of a scheduler.
OF_A_STEP = ("self", "model_output", "timestep", "sample")


def check_files(model):
    """Passes a pipeline folder whose configs can be read and whose weights are there as a whole; a Hub id too.

    Raises:
        InputError: naming the file.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    for name in component_names(read_index(model)):
        for config in sorted((folder / name).glob("*config.json")):
            read_mapping(config)
        if (folder / name / CONFIG_FILE).is_file():
            _check_weights(folder / name)


def _check_weights(folder):
    files = [file for pattern in WEIGHTS for file in sorted(folder.glob(pattern))]
    if not files:
        raise InputError(
            f"{folder} has a {CONFIG_FILE} and no weights (diffusion_pytorch_model.safetensors): copy them there, or write "
            "the model again with `save_pretrained`."
        )
    for file in files:
        try:
            if file.suffix == ".safetensors":
                safe_open(file, "pt")
        except SafetensorError as error:
            raise InputError(
                f"{file} is cut off or damaged ({error}): copy or download it again, or write the model again with "
                "`save_pretrained`."
            ) from error


def check_sampled(model, unet_config, scheduler):
    """Passes a network with a size that images can have and a scheduler of the process that DDPMs are trained for.

    Raises:
        InputError: for others, as for flow matching, whose networks are told another time and predict a velocity.
    """
    size = unet_config.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise InputError(
            f"Cannot take model={str(model)!r}: the config of its network has sample_size={size!r}, which must be a positive "
            "whole number, or two of them (height, width); mend it in unet/config.json."
        )
    step = inspect.signature(scheduler.step).parameters.values() if hasattr(scheduler, "step") else ()
    needed = {parameter.name for parameter in step if parameter.default is inspect.Parameter.empty} - {"kwargs"}
    # The noise levels of DDPM are what a scheduler of another process (flow matching, EDM, consistency) does not have.
    if not hasattr(scheduler, "alphas_cumprod") or not needed <= set(OF_A_STEP):
        raise InputError(
            f"Cannot take model={str(model)!r}: its scheduler, {type(scheduler).__name__}, is of another process than DDPM. "
            f"{WHAT_IS_TAKEN}"
        )
