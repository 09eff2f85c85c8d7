"""The files of a model's folder that tell how it was made and measured: one owner of their names and formats."""

import json
from pathlib import Path
from typing import NamedTuple

import yaml

from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping, written_whole

# The loader and dumper of libyaml are many times as fast as those in Python, and some builds of PyYAML lack them.
LOADER, DUMPER = (getattr(yaml, f"C{name}", getattr(yaml, name)) for name in ("SafeLoader", "SafeDumper"))


class Report(NamedTuple):
    """A `dict` in a file `name`, YAML or JSON by its suffix; a picture and a table may have the same stem.

    It always has the entries `needed`, such as `"options.dataset"` for an entry of an entry.
    """

    name: str
    needed: tuple = ()

    @property
    def stem(self):
        return Path(self.name).stem

    @property
    def picture(self):
        return f"{self.stem}.png"

    def text(self, values):
        if self._is_yaml():
            return yaml.dump(values, Dumper=DUMPER, sort_keys=False)
        return json.dumps(values, indent=2) + "\n"

    def parse(self, text):
        return yaml.load(text, Loader=LOADER) if self._is_yaml() else json.loads(text)

    def write(self, folder, values):
        with written_whole(Path(folder) / self.name) as aside:
            aside.write_text(self.text(values), encoding="utf-8")

    def read(self, folder):
        """The values; {} if the folder does not have the file.

        Raises:
            InputError: if the file cannot be read, or lacks an entry.
        """
        file = Path(folder) / self.name
        if not file.is_file():
            return {}
        values = read_mapping(file, self.parse)
        self.check(file, values)
        return values

    def check(self, file, values):
        """Raises InputError, which names `file`, if `values` lack an entry."""
        for entry in self.needed:
            if not _has(values, entry.split(".")):
                raise InputError(
                    f"{file} has no entry {entry!r}, and so does not tell how the model was made or measured: restore "
                    "it as it was written, or move it away."
                )

    def _is_yaml(self):
        return self.name.endswith(".yaml")


def _has(values, names):
    for name in names:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def calibration_of(folder):
    """The report of what was measured or fitted to a trained model in this folder, {} without one."""
    return CALIBRATION.read(folder) or SOLVERS.read(folder)


TRAINING_OPTIONS = Report("training_args.yaml", ("dataset", "environment.num_processes"))
CALIBRATION = Report("calibration.json", ("options.model", "options.dataset", "mean_square_epsilon.num_images"))
SOLVERS = Report(
    "solvers.json", ("options.model", "options.dataset", "options.guidance_scale", "solvers", "distances")
)
COMPARISON = Report("compare.json", ("settings.data", "distance", "measurements"))
# Beside the table and the curves of a comparison: samples of each sampler at each number of steps.
COMPARED_SAMPLES = f"{COMPARISON.stem}_samples.png"
BOUND = Report("bpd.json", ("total", "standard_error", "num_images", "timesteps"))
MEASURES = Report("measures.json", ("samples.count", "reference.name", "figures"))
# Beside the measures: the samples that lie nearest to training images, with these.
MEMORISED_SAMPLES = "memorisation.png"
FLOW_BITS = Report("nll.json", ("total", "standard_error", "num_images", "dequantization"))
ACCURACY = Report("accuracy.json")
# `train_autoencoder` writes it, with a picture of images and their reconstructions.
AUTOENCODER = Report("autoencoder.json", ("psnr", "standard_error", "num_images", "split", "scaling_factor"))
# The captions of a training: how many different ones, some of them, and the column or template that they come from.
CAPTIONS = Report("captions.json", ("number", "examples"))
# `convert` writes it: what the checkpoint of another codebase was, and how it was checked.
CONVERSION = Report("conversion.json", ("checkpoint", "family", "weights", "network"))
REPORTS = (
    *(TRAINING_OPTIONS, CALIBRATION, SOLVERS, COMPARISON, BOUND, FLOW_BITS, MEASURES, ACCURACY, CONVERSION),
    *(AUTOENCODER, CAPTIONS),
)
