"""Images per second of training on two processes with one core each, against twice the rate of one process.

OMP_NUM_THREADS=1 python benchmarks/two_processes.py

It runs the whole trainer with the network of the preset fashion_mnist; each turn starts one process, then two.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import report

from ddpm_hf.reports.loss_curve import read_rows

CONFIGS = Path(__file__).parents[1] / "training" / "configs" / "accelerate"
TURNS, UPDATES, INTERVAL = 5, 40, 5
OPTIONS = {
    **{"preset": "fashion_mnist", "split": "train[:2000]", "batch_size": 32, "max_train_steps": UPDATES},
    **{"log_every": INTERVAL, "sample_every": 0, "checkpoint_every": 0, "num_samples": 1, "sample_steps": 1},
}


def images_per_second(config):
    """The median over the intervals of one run except the first."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{name}={value}" for name, value in (OPTIONS | {"output_dir": folder}).items()]
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
        subprocess.run(
            [*launch, "-m", "ddpm_hf.training.train", *flags],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return statistics.median(row["images_per_second"] for row in read_rows(Path(folder) / "loss.csv")[1:])


def main():
    turns = [{config: images_per_second(config) for config in ("cpu.yaml", "multi_cpu.yaml")} for _ in range(TURNS)]
    one, two = (statistics.median(turn[config] for turn in turns) for config in ("cpu.yaml", "multi_cpu.yaml"))
    efficiencies = [turn["multi_cpu.yaml"] / (2 * turn["cpu.yaml"]) for turn in turns]
    measured = {
        "one process": {"images_per_second": one},
        "two processes": {"images_per_second": two},
        "efficiency": {"median": statistics.median(efficiencies), "turns": efficiencies},
        "load average of the machine at the end": os.getloadavg(),
    }
    report("two_processes_cpu", measured)


if __name__ == "__main__":
    main()
