"""Reads the pickles of checkpoints as plain data: tensors, numbers, text and containers of them, without running code.

An ordinary `pickle.load` calls whatever the file names. So pickles of checkpoints are read only by torch's restricted
unpickler, or by an unpickler limited to the few classes that describe torch's sharded checkpoints.
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
# The files of accelerate, FSDP2 and DeepSpeed, and the parts from earlier versions that `own_state` reads.
WRITTEN = re.compile(
    r"optimizer\.bin|scaler\.pt|(random_states|custom_checkpoint)_\d+\.pkl|pytorch_model_fsdp\.bin|"
    r"(pytorch_model_fsdp_0|optimizer_0)/(\.metadata|__\d+_\d+\.distcp)|pytorch_model/\w+\.pt"
)


def refuse_foreign_pickles(folder):
    """Checks that a checkpoint has only pickles with names that training writes.

    Raises:
        InputError: with the name of any other pickle.
    """
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.suffix or path.name) in PICKLES and not WRITTEN.fullmatch(name):
            raise InputError(
                f"The checkpoint {folder} holds {name}, which training does not write, and such files can run code "
                "when they are read: find out where it is from, and remove it to go on."
            )


def load_pickle(path):
    """The plain data in a file of `torch.save`, on the host.

    Raises:
        InputError: with the file and the content that is not plain data.
    """
    with named_when_unreadable(path):
        return load(path, map_location="cpu", weights_only=True)


@contextmanager
def named_when_unreadable(path):
    """Turns errors of reading into an `InputError` that names the file at `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each format has its own errors, down to KeyError
        name, where = Path(path).name, Path(path).parent
        called = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        reason = (
            f"holds {called[1]}, which is code and not data, and was not written by training"
            if called
            else f"cannot be read ({' '.join(str(error).split())[:200]})"
        )
        raise InputError(
            f"{name} in {where} {reason}. Restore it from a copy, or remove {where} to go on from the checkpoint "
            "before it."
        ) from error


# Sharded checkpoints -------------------------------------------------------------------------------------------------

# The classes that describe the places of tensors, by module. Constructing them has no side effects.
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
    """Reads a sharded checkpoint and its description as plain data."""

    def read_metadata(self, *args, **kwargs):
        path = Path(self.path) / ".metadata"
        with named_when_unreadable(path):
            metadata = DescriptionUnpickler(io.BytesIO(path.read_bytes())).load()
            metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainPlanner(DefaultLoadPlanner):
    """Reads values other than tensors, such as learning rates, as plain data."""

    def load_bytes(self, read_item, value):
        torch.load(value, weights_only=True)  # raises if it is more than that
        value.seek(0)
        super().load_bytes(read_item, value)
