"""The files of a model: its index and configs as they are read, and which of them is damaged."""

from safetensors import SafetensorError, safe_open

from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping

INDEX_FILE = "model_index.json"
CONFIG_FILE = "config.json"  # of a network; schedulers and processors have others
WEIGHTS = ("*.safetensors", "*.bin")


def component_names(index):
    """The names of a pipeline's parts, of which its index has the library and the class; settings are no lists."""
    parts = {name: part for name, part in index.items() if isinstance(part, list) and not name.startswith("_")}
    return [name for name, part in parts.items() if len(part) == 2 and part[1] is not None]


def check_files(folder):
    """Passes a pipeline folder whose configs can be read and whose weights are there as a whole.

    Raises:
        InputError: naming the file.
    """
    for name in component_names(read_mapping(folder / INDEX_FILE)):
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
