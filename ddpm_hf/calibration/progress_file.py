"""The file from which an interrupted estimate continues: the sums so far, and checksums of their data."""

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ddpm_hf.errors import InputError
from ddpm_hf.files import written_whole
from ddpm_hf.models.network_checksum import network_checksum
from ddpm_hf.reports.report_files import Report

# The name of the file in the folder of the result. Each of several processes has its own file beside it.
STATE_FILE = "calibration_state.npz"
# The solvers so far of `calibrate --solver`.
SOLVER_STATE = "calibration_state.json"
# What `improve` has chosen to fit in its minutes.
SCOPE_STATE = Report("calibration_state_scope.json", ("steps", "num_images"))


def state_files(folder):
    """The files of all processes of an estimate in this folder, with those that were not written to the end."""
    stem, suffixes = STATE_FILE.split(".")[0], (".npz", ".json")
    return [path for path in folder.glob(f"{stem}*") if path.name.removesuffix(".tmp").endswith(suffixes)]


@dataclass
class Progress:
    """Sums over the first batches of a process; `checksums` has one number for each of them."""

    path: Path | None
    settings: dict
    sums: torch.Tensor
    checksums: list[int] = field(default_factory=list)

    def has(self, number, batch, labels):
        """Whether the sums have batch `number` (from 1); ValueError if they have another one in its place."""
        if number > len(self.checksums):
            return False
        if self.checksums[number - 1] != _checksum(batch, labels):
            raise ValueError(
                f"{self.path} was begun with other images, labels or batches than these (batch {number} differs). Give the "
                "same, or remove the file to begin anew."
            )
        return True


def open_progress(path, rank, processes, settings, pipeline, zeros):
    """The [`Progress`] in the file of this process, or a new one.

    Args:
        path: the file, made by `save_progress`; None for no file.
        settings (`dict`): arguments of the call; the network and the schedule of `pipeline` are added.
        zeros (`torch.Tensor`): the initial sums.

    Raises:
        ValueError: if the file was written with other settings.
    """
    if path is None:
        return Progress(None, {}, zeros)
    path = Path(path)
    if processes > 1:
        path = path.with_name(f"{path.stem}.{rank}-of-{processes}{path.suffix}")
    scheduler = pipeline.scheduler
    settings = settings | {
        "processes": processes,
        "prediction_type": scheduler.config.prediction_type,
        "noise schedule": zlib.crc32(scheduler.alpha_bar(range(len(scheduler))).numpy().tobytes()),
        "network": network_checksum(pipeline.unet),
    }
    if not path.exists():
        return Progress(path, settings, zeros)
    stored, sums, checksums = _read(path)
    for name, value in settings.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path} was begun with another {name} ({stored.get(name)} instead of {value}). Give the same to continue "
                "it, or remove the file to begin anew."
            )
    return Progress(path, settings, sums, checksums)


def _read(path):
    try:
        with np.load(path) as arrays:
            stored = json.loads(str(arrays["settings"]))
            return stored, torch.from_numpy(arrays["sums"]), arrays["checksums"].tolist()
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): remove the file to begin the measurement anew.") from error


def save_progress(progress, batch, labels):
    """Writes the sums, which include `batch` now; an interruption leaves the file as it was."""
    if progress.path is None:
        return
    progress.checksums.append(_checksum(batch, labels))
    with written_whole(progress.path) as aside:
        np.savez(
            aside,
            settings=json.dumps(progress.settings),
            sums=progress.sums.numpy(),
            checksums=np.array(progress.checksums, dtype=np.int64),
        )


def _checksum(batch, labels):
    labels = b"" if labels is None else torch.as_tensor(labels).cpu().numpy().tobytes()
    return zlib.crc32(labels, zlib.crc32(batch.cpu().contiguous().numpy().tobytes()))
