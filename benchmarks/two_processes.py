"""Images per second of training on two processes with one core each, against twice the rate of one process.

OMP_NUM_THREADS=1 python benchmarks/two_processes.py [--unet fashion_mnist] [--batch_size 32] [--updates 40]
    [--turns 5]

It runs the whole trainer on the embedded images. Each turn starts one process, then two processes that train one
network, then two runs at once of one process each: these send each other nothing, and share the memory and the clock
of the machine as the two processes do. The share of their rate is what sending gradients and waiting leave.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import report

from ddpm_hf.data.embedded import FASHION_MNIST
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.reports.loss_curve import read_rows

CONFIGS = Path(__file__).parents[1] / "training" / "configs" / "accelerate"
INTERVALS = 8
ONE, TWO, APART = "one process", "two processes", "two runs of one process"


def started(config, options, folder):
    """A training that has been started."""
    flags = {
        **{"dataset": FASHION_MNIST, "split": "train[:2000]", "unet": options.unet, "mixed_precision": "no"},
        **{"resolution": UNET_PRESETS[options.unet]["sample_size"], "batch_size": options.batch_size},
        **{"max_train_steps": options.updates, "log_every": options.updates // INTERVALS, "output_dir": folder},
        **{"sample_every": 0, "checkpoint_every": 0, "num_samples": 1, "sample_steps": 1},
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    return subprocess.Popen(
        [*launch, "-m", "ddpm_hf.training.train", *(f"--{name}={value}" for name, value in flags.items())],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def images_per_second(options, config, at_once=1):
    """The sum over the runs that were started `at_once` of the median over the intervals but the first."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(at_once)]
        runs = [started(config, options, folder) for folder in folders]
        codes = [run.wait() for run in runs]
        if any(codes):
            sys.exit("A training ended with an error.")
        rates = [[row["images_per_second"] for row in read_rows(folder / "loss.csv")[1:]] for folder in folders]
    return sum(map(statistics.median, rates))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", default="fashion_mnist", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    kinds = {ONE: ("cpu.yaml",), TWO: ("multi_cpu.yaml",), APART: ("cpu.yaml", 2)}
    turns = [{kind: images_per_second(options, *how) for kind, how in kinds.items()} for _ in range(options.turns)]
    measured = {kind: {"images_per_second": statistics.median(turn[kind] for turn in turns)} for kind in kinds}
    for name, whole in {"of twice one": lambda turn: 2 * turn[ONE], "of two runs": lambda turn: turn[APART]}.items():
        shares = [turn[TWO] / whole(turn) for turn in turns]
        measured[f"two processes, share {name}"] = {"median": statistics.median(shares), "turns": shares}
    measured["load average of the machine at the end"] = os.getloadavg()
    report(f"two_processes_{options.unet}_{options.batch_size}_cpu", measured)


if __name__ == "__main__":
    main()
