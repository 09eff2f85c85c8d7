"""Reads the pickles of checkpoints as plain data: tensors, numbers, text and containers of them, and nothing that runs.

An ordinary `pickle.load` calls whatever the file says. So of what training writes, no pickle is read but by torch's restricted
unpickler, or by one that knows the few classes by name which torch's sharded checkpoints are described with.
"""

import io
import pickle
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import load
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader

from ddpm_hf.errors import InputError

PICKLES = {".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".distcp", ".joblib", ".metadata"}
# What accelerate, FSDP2 and DeepSpeed write, with the parts of earlier versions that `own_state` reads.
WRITTEN = re.compile(
    r"optimizer\.bin|scaler\.pt|(random_states|custom_checkpoint)_\d+\.pkl|pytorch_model_fsdp\.bin|"
    r"(pytorch_model_fsdp_0|optimizer_0)/(\.metadata|__\d+_\d+\.distcp)|pytorch_model/\w+\.pt"
)


def refuse_foreign_pickles(folder):
    """Passes where a checkpoint has no pickle but those of the names that training gives.

    Raises:
        InputError: naming one that it has.
    """
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.suffix or path.name) in PICKLES and not WRITTEN.fullmatch(name):
            raise InputError(
                f"The checkpoint {folder} holds {name}, which training does not write, and such files can run code when they "
                "are read: find out where it is from, and remove it to go on."
            )


def load_pickle(path):
    """What `torch.save` wrote, on the host, if it is plain data.

    Raises:
        InputError: naming the file, and what it holds that is not.
    """
    with named_when_unreadable(path):
        return load(path, map_location="cpu", weights_only=True)


@contextmanager
def named_when_unreadable(path):
    """Raises what goes wrong with the file at `path` as an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each format has its own, down to KeyError
        name, where = Path(path).name, Path(path).parent
        called = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        reason = (
            f"holds {called[1]}, which is code and not data, and was not written by training"
            if called
            else f"cannot be read ({' '.join(str(error).split())[:200]})"
        )
        raise InputError(
            f"{name} in {where} {reason}. Restore it from a copy, or remove {where} to go on from the checkpoint before it."
        ) from error


# Sharded checkpoints -------------------------------------------------------------------------------------------------

# The classes that describe which tensor stands where, by module. None of them does anything when it is made.
DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}


class DescriptionUnpickler(pickle.Unpickler):
    """Reads the description of a sharded checkpoint."""

    def find_class(self, module, name):
        if name not in DESCRIPTIONS.get(module, ()):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        return super().find_class(module, name)


class PlainReader(FileSystemReader):
    """Reads a sharded checkpoint whose description is one."""

    def read_metadata(self, *args, **kwargs):
        path = Path(self.path) / ".metadata"
        with named_when_unreadable(path):
            metadata = DescriptionUnpickler(io.BytesIO(path.read_bytes())).load()
            metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainPlanner(DefaultLoadPlanner):
    """Reads what is no tensor in it, as learning rates, as plain data too."""

    def load_bytes(self, read_item, value):
        torch.load(value, weights_only=True)  # raises where it is more than that
        value.seek(0)
        super().load_bytes(read_item, value)
