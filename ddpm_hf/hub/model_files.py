"""Reads a model's index and configs, and finds damaged files."""

from safetensors import SafetensorError, safe_open

from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping

INDEX_FILE = "model_index.json"
CONFIG_FILE = "config.json"  # the name for networks; schedulers and processors have other names
WEIGHTS = ("*.safetensors", "*.bin")
AUTOENCODER_CLASS = "AutoencoderKL"


def is_autoencoder(folder):
    """Whether a folder holds an autoencoder by itself, as `train_autoencoder` writes it, and no pipeline."""
    config = folder / CONFIG_FILE
    has_index = (folder / INDEX_FILE).is_file()
    return not has_index and config.is_file() and read_mapping(config).get("_class_name") == AUTOENCODER_CLASS


def component_names(index):
    """The names of a pipeline's parts. The index lists library and class of each part; settings are not lists."""
    parts = {name: part for name, part in index.items() if isinstance(part, list) and not name.startswith("_")}
    return [name for name, part in parts.items() if len(part) == 2 and part[1] is not None]


def check_files(folder):
    """Checks that the configs of a pipeline folder can be read and its weights are complete.

    Raises:
        InputError: naming the file.
    """
    for name in component_names(read_mapping(folder / INDEX_FILE)):
        for config in sorted((folder / name).glob("*config.json")):
            read_mapping(config)
        if (folder / name / CONFIG_FILE).is_file():
            check_weights_files(folder / name)


def check_weights_files(folder):
    """Raises InputError, naming the file, for a folder of a network without weights, or with damaged ones."""
    files = [file for pattern in WEIGHTS for file in sorted(folder.glob(pattern))]
    if not files:
        raise InputError(
            f"{folder} has a {CONFIG_FILE} and no weights (diffusion_pytorch_model.safetensors): copy them there, or "
            "write the model again with `save_pretrained`."
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
