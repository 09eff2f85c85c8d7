"""Which files of a pipeline folder are shared, and in which form: only those that a model needs."""

import os
import re
from fnmatch import fnmatch
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping
from ddpm_hf.hub.cards import CARD_FILE
from ddpm_hf.hub.model_files import CONFIG_FILE, INDEX_FILE, component_names, is_autoencoder
from ddpm_hf.hub.public_names import public_name, public_report
from ddpm_hf.hub.reading import read_index
from ddpm_hf.hub.secrets import find_secret
from ddpm_hf.pipelines.portable_pipeline import CODE_FILE
from ddpm_hf.reports.loss_curve import BITS_PER_DIM_FILE, CHANNELS_FILE, DISTANCE_FILE, LOSS_FILE, LOSS_PICTURE
from ddpm_hf.reports.report_files import (
    AUTOENCODER,
    BOUND,
    CALIBRATION,
    COMPARED_SAMPLES,
    COMPARISON,
    MEASURES,
    MEMORISED_SAMPLES,
    REPORTS,
    SOLVERS,
    TRAINING_OPTIONS,
    Report,
)

REPORT_FILES = {report.name: report for report in REPORTS}
SHARED = (
    *(INDEX_FILE, CODE_FILE, CARD_FILE, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"),
    *REPORT_FILES,
    *(
        LOSS_FILE,
        LOSS_PICTURE,
        BITS_PER_DIM_FILE,
        CHANNELS_FILE,
        DISTANCE_FILE,
        CALIBRATION.picture,
        SOLVERS.picture,
        COMPARISON.picture,
        COMPARED_SAMPLES,
        MEMORISED_SAMPLES,
        BOUND.picture,
        AUTOENCODER.picture,
    ),
    *("samples.png", "samples_*.png", "samples/*.png"),
)
# In the folder of a component: config, weights, and files of tokenizers and processors.
SHARED_OF_COMPONENTS = (
    *("*config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model"),
)
# What a reader of the list may wonder about. Nothing loads these files, and the log can be left out.
LOG = {
    LOSS_FILE: "the loss by update",
    LOSS_PICTURE: "the curve of the loss",
    BITS_PER_DIM_FILE: "bits per dimension by update",
    CHANNELS_FILE: "the channels of the samples by update, beside the data's",
    DISTANCE_FILE: "the distance of samples to held-out images by update",
}
NOTES = LOG | {
    TRAINING_OPTIONS.name: "the options of the training, for the command in the card; paths are left out",
    INDEX_FILE: "names the parts of the pipeline",
    CODE_FILE: "the code, for readers without ddpm_hf",
    CARD_FILE: "the model card",
    CALIBRATION.name: "how the calibration was measured; paths are left out",
    SOLVERS.name: "how the solvers were fitted; paths are left out",
    COMPARISON.name: "the scores of `ddpm-hf compare`; paths are left out",
    BOUND.name: "the score of `ddpm-hf evaluate`",
    AUTOENCODER.name: "the measures of the reconstructions",
    MEASURES.name: "the measures of samples of `ddpm-hf evaluate`; paths are left out",
}
# Files that only the run itself needs.
OF_THE_RUN = ("checkpoints", "ema_snapshots", "logs", "__pycache__", ".cache", ".git", "*.tmp")
PICTURE_OF_A_CARD = re.compile(r"""(?:\]\(|src=["'])(?:\./)?([^)\s"']+\.(?:png|jpe?g|gif|webp|svg))""", re.IGNORECASE)
# Keys in which diffusers and transformers record where a part was loaded from.
PLACES = ("_name_or_path", "name_or_path")
WEIGHTS = ".safetensors"


def files_to_share(folder):
    """{path in the repository: `Path`, or bytes if the public form differs} of all shared files of a pipeline folder.

    Raises:
        InputError: for a folder that is not a pipeline, or has a link that leads out of it.
    """
    folder = Path(folder)
    return {name: _public_content(folder / name, name) for name in _names_to_share(folder)}


def files_left_out(folder):
    """The names of files that are not shared, except those that only a run needs."""
    shared = set(_names_to_share(Path(folder)))
    return [name for name in _names(Path(folder)) if name not in shared]


def check_contents(files, folder):
    """Checks that {path: `Path` or bytes} contain no tokens, passwords or private keys.

    Raises:
        InputError: with the file and the kind of secret.
    """
    for name, content in files.items():
        secret = find_secret(_text_of(content))
        if secret is not None:
            raise InputError(f"{folder} has {name}, which contains {secret}: take it out of that file.")


# Which files ---------------------------------------------------------------------------------------------------------


def _names_to_share(folder):
    card, patterns = folder / CARD_FILE, [*SHARED, *_patterns_of_parts(folder)]
    pictures = PICTURE_OF_A_CARD.findall(card.read_text(encoding="utf-8")) if card.is_file() else []
    return [name for name in _names(folder) if name in pictures or any(_matches(name, p) for p in patterns)]


def _patterns_of_parts(folder):
    """The files of the parts of a pipeline, or of an autoencoder by itself."""
    if is_autoencoder(folder):
        return [CONFIG_FILE, *(pattern for pattern in SHARED_OF_COMPONENTS if WEIGHTS in pattern)]
    index = read_index(folder)
    patterns = [f"{name}/{pattern}" for name in component_names(index) for pattern in SHARED_OF_COMPONENTS]
    # Code files are the modules of parts, or of the pipeline, in the index.
    patterns += [f"{name}/{index[name][0]}.py" for name in component_names(index)]
    return patterns + ([f"{index['_class_name'][0]}.py"] if isinstance(index["_class_name"], list) else [])


def _matches(name, pattern):
    """Like `fnmatch`, except that a star does not match a slash."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def _names(folder):
    """All files except those that only a run needs."""
    names = []
    for place, folders, files in os.walk(folder):
        place = Path(place)
        folders[:] = sorted(name for name in folders if not any(fnmatch(name, pattern) for pattern in OF_THE_RUN))
        for name in [*folders, *files]:
            _check_link(folder, place / name)
        files = [name for name in files if not fnmatch(name, "*.tmp*")]
        names += [(place / name).relative_to(folder).as_posix() for name in files if (place / name).is_file()]
    return sorted(names)


def _check_link(folder, path):
    if not path.is_symlink():
        return
    name = path.relative_to(folder).as_posix()
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{folder} has {name}, a link to something outside of the folder, which would be shared with its content: "
            "put a copy there instead (`cp -rL FOLDER COPY` copies a folder with what its links lead to), or remove "
            "it."
        )
    if path.is_dir() and path.parent == folder:  # a loader would take it for a part of the model
        raise InputError(f"{folder} has {name}, a link to a folder: put the folder itself there, or remove the link.")


def size_of(content):
    """The size of a `Path` or of bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


# Their content -------------------------------------------------------------------------------------------------------


def _public_content(path, name):
    """The file, or bytes without the paths of this machine if it holds any."""
    if name in REPORT_FILES:
        return _if_changed(path, public_report)
    if name == INDEX_FILE or name.endswith("config.json"):
        return _if_changed(path, _without_places)
    return path


def _if_changed(path, public):
    file = Report(path.name)
    value = read_mapping(path, file.parse)
    return path if public(value) == value else file.text(public(value)).encode()


def _without_places(config):
    return {key: public_name(value) if key in PLACES and value else value for key, value in config.items()}


def _text_of(content):
    """The bytes that may hold text; for weights only the header."""
    if isinstance(content, bytes):
        return content
    if content.suffix != WEIGHTS:
        return content.read_bytes()
    with content.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), size_of(content)))
