"""torch-fidelity's Inception-v3, in which FID is measured, without the rest of that package.

torch-fidelity requires torchvision, which its Inception does not use. A torchvision that was built for another torch cannot
be imported, and then neither can diffusers and transformers; so this package does not require it.
"""

import importlib
import pickle
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from ddpm_hf.errors import InputError

PACKAGE = "torch_fidelity"
INSTALL = "pip install --no-deps torch-fidelity"
CHANNELS = 3
# Errors of a download, and of torch for a file that is cut off, is none of torch, or holds other weights.
UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, AttributeError, TypeError)


def check_inception():
    """Raises InputError without torch-fidelity; the message has the line that installs it."""
    if find_spec(PACKAGE) is None:
        raise InputError(
            f"features='inception' needs torch-fidelity: {INSTALL} (without --no-deps pip adds a torchvision that may "
            "not fit your torch)."
        )


def load_inception(device):
    """A function from uint8 images (B, 3, H, W) to pool3 features (B, 2048) and logits (B, 1008), and its channels.

    The logits are without the bias of the last layer, as in the Inception score.

    Raises:
        InputError: for weights that are neither there nor can be downloaded, and for weights that cannot be read.
    """
    module = _inception_module()
    try:
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except UNREADABLE as error:
        raise InputError(_what_to_do(module.URL_INCEPTION_V3, " ".join(str(error).split())[:200])) from error
    network = network.eval().to(device)
    return lambda images: network(images.to(device)), CHANNELS


def _what_to_do(url, error):
    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if weights.exists():
        return (
            f"The weights of torch-fidelity's Inception in {weights} cannot be read ({error}): remove the file, and it is "
            "downloaded again."
        )
    return (
        f"The weights of torch-fidelity's Inception are not there and cannot be downloaded ({error}): fetch {url} where "
        f"there is a network, and copy it to {weights}."
    )


def _inception_module():
    """torch-fidelity's module with the network, whether or not there is a torchvision."""
    check_inception()
    with without_init(PACKAGE):
        return importlib.import_module(f"{PACKAGE}.feature_extractor_inceptionv3")


@contextmanager
def without_init(package):
    """Lets the block import modules of a package without its `__init__`; afterwards they are unloaded."""
    if package in sys.modules:
        yield
        return
    bare = ModuleType(package)
    bare.__path__ = find_spec(package).submodule_search_locations
    sys.modules[package] = bare
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
