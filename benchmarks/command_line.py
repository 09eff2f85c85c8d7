"""Seconds that the command line takes to answer: help, mistakes, and the import of the package.

python benchmarks/command_line.py [--repeats 7]

Each is a new process. `wall` is what a user waits, and `cpu` what the process computes (user and system time), which
counts where the machine is shared; both are medians. Everything but `import torch`, for comparison, should take less
than a second on a quiet core. The figures go to benchmarks/results, with the load of the machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from side_by_side import report

CLI = ("-m", "ddpm_hf.cli")
COMMANDS = {
    "--help": (*CLI, "--help"),
    "train --help": (*CLI, "train", "--help"),
    "sample --help": (*CLI, "sample", "--help"),
    "a mistyped verb": (*CLI, "smaple"),
    "a mistyped option": (*CLI, "sample", "someone/model", "--stpes", "10"),
    "a mistyped option of train": (*CLI, "train", "--lerning_rate", "1e-4"),
    "a mistyped value of train": (*CLI, "train", "--beta_schedule", "linaer"),
    "a mistyped recipe": (*CLI, "sample", "someone/model", "--recipe", "ddmi-2m"),
    "a mistyped folder": (*CLI, "sample", "./my_modle"),
    "a mistyped class": (*CLI, "sample", "--class", "Snaeker"),
    "import ddpm_hf": ("-c", "import ddpm_hf"),
    "import torch": ("-c", "import torch"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    measured = {name: [seconds_of(command) for _ in range(repeats)] for name, command in COMMANDS.items()}
    medians = {
        name: {
            kind: round(statistics.median(column), 3)
            for kind, column in zip(("wall", "cpu"), zip(*runs, strict=True), strict=True)
        }
        for name, runs in measured.items()
    }
    report("command_line", {"seconds": medians, "repeats": repeats, "load": round(os.getloadavg()[0], 1)})


def seconds_of(arguments):
    """(wall, user and system) seconds of a process of Python."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
