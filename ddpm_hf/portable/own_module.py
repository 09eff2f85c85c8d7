"""The module that a repository's `pipeline.py` runs in: one of its own, named by its content."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

MODULE_PREFIX = "ddpm_hf_pipeline_"


def own_module(path):
    """The module that the file makes, the same one for the same content.

    Diffusers copies the `pipeline.py` of every folder to one place and runs it in one module: the functions of the first
    would then see the names of the second, and of two files of the same size and second Python runs the bytecode of the
    first. So the file is read and run here once more. The module has the file as `PIPELINE_SOURCE`, because its place may
    soon be another's.
    """
    source = Path(path).read_bytes()
    name = MODULE_PREFIX + hashlib.sha256(source).hexdigest()[:16]
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__file__, module.PIPELINE_SOURCE = str(path), source
        exec(compile(source, str(path), "exec"), vars(module))
        sys.modules[name] = module
    return module
