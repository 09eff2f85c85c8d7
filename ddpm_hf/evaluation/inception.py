"""The class of torch-fidelity's Inception-v3, without the rest of that package.

torch-fidelity requires torchvision, which its Inception does not use. A torchvision that was built for another torch cannot
be imported, and then neither can diffusers and transformers; so this package does not require it.
"""

import importlib
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from ddpm_hf.errors import InputError

PACKAGE = "torch_fidelity"
INSTALL = "pip install --no-deps torch-fidelity"


def inception_class():
    """`FeatureExtractorInceptionV3` of torch-fidelity, whether or not there is a torchvision.

    Raises:
        InputError: without torch-fidelity; the message has the line that installs it.
    """
    if find_spec(PACKAGE) is None:
        raise InputError(
            f"features='inception' needs torch-fidelity: {INSTALL} (without --no-deps pip adds a torchvision that may "
            "not fit your torch)."
        )
    with without_init(PACKAGE):
        return importlib.import_module(f"{PACKAGE}.feature_extractor_inceptionv3").FeatureExtractorInceptionV3


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
