"""Model cards: README.md of a pipeline folder, made from the files in the folder.

A card ends with a comment that holds its hash, which shows whether somebody edited it; edited cards are kept.
"""

import hashlib
import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ddpm_hf.data.point_clouds import POINT_CLOUDS
from ddpm_hf.files import written_whole
from ddpm_hf.hub import card_sections as sections
from ddpm_hf.hub.autoencoder_card import autoencoder_sections
from ddpm_hf.hub.card_results import TASK, TEXT_TASK, eval_results, read_results, results_text
from ddpm_hf.hub.model_files import is_autoencoder
from ddpm_hf.hub.public_names import local_names, on_the_hub
from ddpm_hf.hub.reading import read_index
from ddpm_hf.reports.report_files import CAPTIONS, TRAINING_OPTIONS, calibration_of

CARD_FILE = "README.md"
MARK = "<!-- As ddpm_hf wrote it: {} -->\n"
MARK_AT_THE_END = re.compile(re.escape(MARK).replace(r"\{\}", r"([0-9a-f]{16})") + r"\Z")


def card_of(folder, repository, license=None, evaluations=()):
    """The card of a shared folder: its own card if somebody wrote or edited it, else a new one.

    Args:
        folder: a pipeline folder.
        repository (`str`): the repository id in the card's code.
        license (`str`, *optional*): the Hub's identifier, such as "apache-2.0"; by default the present card's.
        evaluations (*optional*): result files of `ddpm-hf compare` and `evaluate` besides those in the folder.
    """
    folder, present = Path(folder), None
    if (folder / CARD_FILE).is_file():
        present = (folder / CARD_FILE).read_text(encoding="utf-8")
        if not is_generated(present):
            return present
    if license is None and present is not None:
        license = ModelCard(present).data.license
    if is_autoencoder(folder):
        about = _card_data(None, license=license, datasets=_dataset_ids(folder))
        parts = autoencoder_sections(folder, repository, license)
        return _marked(_with_metadata(about, "\n\n".join(part for part in parts if part)))
    results = read_results(folder, evaluations)
    data = metadata(folder, repository, license, results)
    index = read_index(folder)
    measured = results_text(results)
    parts = [
        f"# {repository.split('/')[-1]}",
        sections.introduction(folder, index),
        sections.picture(folder),
        sections.loading(folder, index, repository),
        sections.classes(folder),
        sections.shapes(folder),
        f"## Samplers and scores\n\n{measured}" if measured else "",
        sections.compared_samples(folder),
        sections.conversion(folder),
        sections.calibration(folder),
        sections.few_steps(folder),
        sections.training(folder),
        sections.versions(folder),
        sections.licence(license),
        sections.limits(),
    ]
    return _marked(_with_metadata(data, "\n\n".join(part for part in parts if part)))


def write_card(folder, repository, license=None):
    """Writes `card_of` into the folder; an edited card stays as it is."""
    text = card_of(folder, repository, license)
    # A partial card would look like an edited one.
    with written_whole(Path(folder) / CARD_FILE) as aside:
        aside.write_text(text, encoding="utf-8")


def save_card(folder, text, base_model=None):
    """Writes README.md of a folder from a given text, below the metadata for the Hub."""
    data = _card_data(base_model=on_the_hub(base_model))
    (Path(folder) / CARD_FILE).write_text(_with_metadata(data, text), encoding="utf-8")


def is_generated(text):
    """Whether a card was made by `card_of` and not edited since."""
    found = MARK_AT_THE_END.search(text)
    return found is not None and found[1] == _hash(text[: found.start()])


def metadata(folder, repository, license, results):
    """The [`ModelCardData`] of a folder."""
    options, report = TRAINING_OPTIONS.read(folder), calibration_of(folder)
    dataset = report["options"]["dataset"] if report else options.get("dataset")
    base_model = report["options"]["model"] if report else options.get("init_from")
    name = sections.data_name(dataset) if report or options else "unknown"
    elsewhere = {*local_names(options), *POINT_CLOUDS}
    dataset_id = None if dataset in elsewhere else on_the_hub(dataset)
    scores = eval_results(results, dataset_id or name, name)
    return _card_data(
        TEXT_TASK if CAPTIONS.read(folder) else TASK,
        license=license,
        datasets=None if dataset_id is None else [dataset_id],
        base_model=None if base_model in elsewhere else on_the_hub(base_model),
        model_name=repository.split("/")[-1] if scores else None,
        eval_results=scores or None,
    )


def _dataset_ids(folder):
    """The id on the Hub of the data of a training, as a list; None for data that are elsewhere."""
    options = TRAINING_OPTIONS.read(folder)
    dataset = options.get("dataset")
    dataset_id = None if dataset in local_names(options) else on_the_hub(dataset)
    return None if dataset_id is None else [dataset_id]


def _card_data(task=TASK, **values):
    return ModelCardData(library_name="diffusers", pipeline_tag=task, tags=["ddpm", "ddpm_hf", "diffusion"], **values)


def _with_metadata(data, text):
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"


def _marked(text):
    text += "\n"
    return text + MARK.format(_hash(text))


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]
