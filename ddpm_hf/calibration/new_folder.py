"""The new pipeline folder of a calibration: where it goes, whether it can go there, and that it appears whole."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ddpm_hf.calibration.models import save_model
from ddpm_hf.calibration.progress_file import state_files
from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole
from ddpm_hf.folder_lock import alone_in
from ddpm_hf.hub.cards import write_card
from ddpm_hf.hub.push import push_folder
from ddpm_hf.hub.reading import INDEX_FILE
from ddpm_hf.reports.report_files import CAPTIONS, Report
from ddpm_hf.results import check_free_folder


def output_folder(output_dir, push_to_hub):
    """The folder, which a repository alone names too."""
    if output_dir is not None:
        return Path(output_dir)
    if push_to_hub is None:
        raise InputError("Where should it go? Give --output_dir FOLDER, or --push_to_hub REPOSITORY, or both.")
    return Path("outputs", push_to_hub.split("/")[-1])


@contextmanager
def alone_in_new_folder(output_dir):
    """A context in which this process alone writes into a folder, which holds at most an unfinished calibration.

    Raises:
        InputError: if another command writes there, or for a folder that holds something else.
    """
    with alone_in(output_dir):
        # The state goes last of all: where there is one, all else is of the same calibration.
        unfinished = [path.name for path in output_dir.iterdir()] if state_files(output_dir) else []
        check_free_folder(output_dir, unfinished=unfinished)
        yield


class Told(NamedTuple):
    """What a calibration tells: the [`Report`] file, its values, and a function that draws its picture to a path."""

    file: Report
    values: dict
    draw: Callable

    def write(self, folder):
        self.file.write(folder, self.values)
        self.draw(folder / self.file.picture)


def write_folder(loaded, scheduler, reports, output_dir, push_to_hub=None):
    """Writes the model with its new scheduler, the reports, their pictures and a card, and pushes them if asked to.

    Args:
        loaded ([`CalibratedModel`]): the model.
        reports (`list`): each [`Told`], or of another class with the method `write(folder)`.
        push_to_hub (`str`, *optional*): the repository.
    """
    with moved_in_whole(output_dir, last=INDEX_FILE) as aside:
        save_model(loaded, scheduler, aside)
        for report in reports:
            report.write(aside)
        if loaded.captions:
            CAPTIONS.write(aside, dict(loaded.captions))
        write_card(aside, push_to_hub or output_dir.name)
    for state in state_files(output_dir):
        state.unlink()
    if push_to_hub is not None:
        print(f"Uploaded: {push_folder(output_dir, push_to_hub, message='Add the calibrated model').url}")
