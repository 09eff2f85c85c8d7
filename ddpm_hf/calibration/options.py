"""The options of `ddpm-hf calibrate`, and their form in `calibration.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ddpm_hf.data.arguments import DataArguments

# The options that choose the data.
OF_DATA = (
    *("dataset_config", "split", "image_column", "condition_column", "label_column", "value_column"),
    *("point_columns", "caption_column", "caption_template"),
)


class CalibrationOptions(NamedTuple):
    """The arguments of `calibrate`, with their defaults; `plans` ascend."""

    model: str
    data: DataArguments
    num_images: int = 1000
    plans: Sequence[int] = ()
    plan_cost: str = "bound"
    batch_size: int = 64
    seed: int = 0
    device: str | None = None
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"

    @property
    def kept_low(self):
        """The cost that the new scheduler keeps low: that of its plans, or the bound without plans."""
        return self.plan_cost if self.plans else "bound"

    def told(self):
        """The values by the names of the command line's options, with absolute paths of folders and files."""
        plan = {"plan": ",".join(map(str, self.plans)), "plan_cost": self.plan_cost} if self.plans else {}
        return told_of(self) | plan


def told_of(options):
    """The options of the model, the data and the work, by their names on the command line, with absolute paths."""
    data = options.data
    return {
        "model": _whole_path(options.model),
        "dataset": None if data.dataset is None else _whole_path(data.dataset),
        **{name: getattr(data, name) for name in OF_DATA},
        "num_images": options.num_images,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "precision": "fp32",
    }


def _whole_path(name):
    """The absolute path of a folder or file; a name on the Hub stays as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else str(name)
