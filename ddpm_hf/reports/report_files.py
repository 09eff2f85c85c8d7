"""The files of a model's folder that tell how it was made and measured: one owner of their names and formats."""

import json
from pathlib import Path
from typing import NamedTuple

import yaml

from ddpm_hf.files import read_mapping, written_whole


class Report(NamedTuple):
    """A `dict` in a file `name`, YAML or JSON by its suffix; a picture and a table may have the same stem."""

    name: str

    @property
    def stem(self):
        return Path(self.name).stem

    @property
    def picture(self):
        return f"{self.stem}.png"

    def text(self, values):
        if self._is_yaml():
            return yaml.safe_dump(values, sort_keys=False)
        return json.dumps(values, indent=2) + "\n"

    def parse(self, text):
        return yaml.safe_load(text) if self._is_yaml() else json.loads(text)

    def write(self, folder, values):
        with written_whole(Path(folder) / self.name) as aside:
            aside.write_text(self.text(values), encoding="utf-8")

    def read(self, folder):
        """The values; {} if the folder does not have the file.

        Raises:
            InputError: if the file cannot be read.
        """
        file = Path(folder) / self.name
        return read_mapping(file, self.parse) if file.is_file() else {}

    def _is_yaml(self):
        return self.name.endswith(".yaml")


TRAINING_OPTIONS = Report("training_args.yaml")
CALIBRATION = Report("calibration.json")
COMPARISON = Report("compare.json")
BOUND = Report("bpd.json")
ACCURACY = Report("accuracy.json")
REPORTS = (TRAINING_OPTIONS, CALIBRATION, COMPARISON, BOUND, ACCURACY)
