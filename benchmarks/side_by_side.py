"""Measures alternatives in turns in one process, so that drift affects all alike, and takes medians."""

import json
import platform
import statistics
import time
from pathlib import Path

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = Path(__file__).parent / "results"


def add_clock_option(parser):
    """Adds `--clock`; the seconds of the processor are to be believed on a machine that has other work, too."""
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of the processor.")


def time_in_turns(contenders, repeats, warm_up=None, clock="wall"):
    """Median seconds of each contender, and the median ratio to the first contender within a turn.

    Args:
        contenders (`dict[str, Callable]`): the first is the alternative that a user would otherwise run.
        repeats (`int`): number of turns.
        warm_up (`dict[str, Callable]`, *optional*): untimed calls before the first turn, for turns too long to repeat;
            by default the contenders themselves.
        clock (`str`): a name of `CLOCKS`.
    """
    now = CLOCKS[clock]
    seconds = {name: [] for name in contenders}
    for run in (warm_up or contenders).values():
        run()
    for turn in range(repeats):
        # The order alternates, because the first in a turn may find the machine in another state.
        for name, run in list(contenders.items())[:: -1 if turn % 2 else 1]:
            _synchronize()
            start = now()
            run()
            _synchronize()
            seconds[name].append(now() - start)
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": statistics.median(times),
            "ratio": statistics.median(t / base for t, base in zip(times, first, strict=True)),
        }
        for name, times in seconds.items()
    }


def _synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine():
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "torch": torch.__version__, "python": platform.python_version()}


def told_options(options):
    """The options of a run but for the folder of its output, and of each path the last part."""
    given = {name: value for name, value in vars(options).items() if name != "output"}
    return {name: Path(value).name if isinstance(value, (str, Path)) else value for name, value in given.items()}


def report(name, measured, clock="wall"):
    """Prints the figures and writes them to benchmarks/results, which README quotes."""
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine() | ({} if clock == "wall" else {"clock": clock}), "measured": measured}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
