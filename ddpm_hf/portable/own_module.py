"""The module in which a repository's `pipeline.py` runs, named by the file's content."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

MODULE_PREFIX = "ddpm_hf_pipeline_"
# The last line of a `pipeline.py`.
EXPORT = "    {name} = own_module(__file__).{name}\n"


def own_module(path):
    """The module made from the file at `path`; the same content gives the same module.

    Diffusers copies the `pipeline.py` of every folder to one path and runs it in one module. Functions of the first
    file would then see the names of the second, and if both have the same size and time stamp, Python would run the
    bytecode of the first. So the file is read and run here in a module of its own. The module keeps the text as
    `pipeline_bytes()`, because another file may soon replace it on the disk.
    """
    source = Path(path).read_bytes()
    name = MODULE_PREFIX + hashlib.sha256(source).hexdigest()[:16]
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__file__, module.pipeline_bytes = str(path), lambda: source
        exec(compile(source, str(path), "exec"), vars(module))
        sys.modules[name] = module
    return module


def exporting(source, name):
    """The bytes of a `pipeline.py` that exports the pipeline of that name, from those of one that exports another."""
    return source[: source.rindex(b"\n", 0, -1) + 1] + EXPORT.format(name=name).encode()
