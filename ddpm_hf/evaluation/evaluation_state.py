"""The folder from which an interrupted evaluation continues: images and features in pieces, each written when done."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ddpm_hf.distributed import gather_parts, own_part
from ddpm_hf.errors import InputError
from ddpm_hf.execution import Execution
from ddpm_hf.files import read_mapping, written_whole

STATE_FOLDER, SETTINGS = "evaluation_state", "settings.json"


def open_state(folder, settings):
    """The path of the state in the folder of a result, made if it is not there; the main process calls this.

    Args:
        settings (`dict`): what the pieces depend on.

    Raises:
        InputError: for a state that was begun with other settings.
    """
    state = Path(folder) / STATE_FOLDER
    file = state / SETTINGS
    if file.is_file():
        begun = read_mapping(file)
        for name, value in json.loads(json.dumps(settings)).items():
            if begun.get(name) != value:
                raise InputError(
                    f"{state} was begun with another {name} ({begun.get(name)} instead of {value}): give the same to continue "
                    "it, or remove that folder to begin anew."
                )
        return state
    state.mkdir(exist_ok=True)
    with written_whole(file) as aside:
        aside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return state


def begun_execution(folder):
    """The [`Execution`] that draws the samples of the state in a folder; None if there is none."""
    file = Path(folder) / STATE_FOLDER / SETTINGS
    begun = read_mapping(file) if file.is_file() else {}
    if begun.get("precision") is None:
        return None
    return Execution(*(begun.get(name) for name in Execution._fields))


def ranges_of(count, batch_size):
    """The places of so many images, in ranges of a batch each."""
    return [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]


class Pieces:
    """Arrays about a number of images, made and kept in pieces of a batch each, which all processes share.

    A piece depends neither on the other pieces nor on the number of processes.

    Args:
        state (`Path`): the folder of the pieces.
        name (`str`): the beginning of their file names. title (`str`): what the bar of progress says.
        ranges (`list[range]`): the images of each piece.
        make: a function of a `range` of images that gives {name: array}, one entry for each image.
        accelerator (`Accelerator`): of the processes that share the work.
    """

    def __init__(self, state, name, title, ranges, make, accelerator):
        self.state, self.name, self.title, self.ranges = state, name, title, ranges
        self.make, self.accelerator = make, accelerator

    @cached_property
    def own(self):
        """The ranges of this process, a contiguous part."""
        part = own_part(len(self.ranges), self.accelerator)
        return self.ranges[part.start : part.stop]

    def piece(self, places):
        """The arrays of one range, from its file, or made and written now."""
        file = self.state / f"{self.name}_{places.start:08d}.npz"
        if not file.is_file():
            with written_whole(file) as aside:
                np.savez(aside, **self.make(places))
        try:
            with np.load(file) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file} is damaged ({error}): remove it, and run the same command again.") from error

    def make_all(self):
        """Makes the pieces of this process, with a bar on the main one."""
        for places in tqdm(self.own, desc=self.title, unit="batch", disable=not self.accelerator.is_main_process):
            self.piece(places)

    def gathered(self):
        """{name: array} of all images of all processes, in order; every process must call this."""
        self.make_all()
        pieces = gather_parts([self.piece(places) for places in self.own], self.accelerator)
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
