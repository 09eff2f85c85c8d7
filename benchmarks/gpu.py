"""What a GPU gains, within eight minutes: sampling, training and their health, with the network of CIFAR-10.

python benchmarks/gpu.py [--unet cifar10] [--seconds 450]
python benchmarks/gpu.py --tiny     # every part of it on any machine, with a network of toy size, to try the script

1. Sampling by stock diffusers in float32, and by ours in each precision and layout, compiled, and with CUDA graphs
   (`torch.compile(mode="reduce-overhead")`), at batches of 1, 64 and 512; and what `auto` chooses.
2. Training by the loop of diffusers' example, a bare loop and our trainer, in float32 and bf16, with peaks of memory.
3. Lines of the trainer's loop that wait for the device between two logs, for three objectives; there must be none.
4. Skipped updates under fp16, bf16 and with 8-bit AdamW, after which weights must be finite.

What fails is recorded with its error, and what the time does not allow as left out. Results are in benchmarks/results.
IT HAS NOT BEEN RUN ON A GPU YET; `--tiny` has been run on a CPU.
"""

import argparse
import tempfile
import time
import warnings
from types import SimpleNamespace

import torch
from accelerate.state import AcceleratorState
from sampling_speed import drawing, in_execution, stock_loop
from side_by_side import report, time_in_turns
from training_step import bare_run, our_run, random_images, stock_run

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import ImagesInMemory
from ddpm_hf.execution import Execution, fastest_execution
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.pipelines.network_speed import one_call
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer

OBJECTIVES = {
    "simple": {},
    "hybrid": {"variance_head": "learned_range"},
    "vlb": {"objective": "vlb", "timestep_sampling": "importance"},
}
EXECUTIONS = (
    *(
        Execution("fp32"),
        Execution("fp32", channels_last=True),
        Execution("bf16"),
        Execution("bf16", channels_last=True),
    ),
    Execution("fp16", channels_last=True),
)
# Compiling the network takes about so long on a GPU.
SECONDS_TO_COMPILE = 90
TINY = {
    **{"sample_size": 8, "in_channels": 3, "block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    **{"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
}


class Sizes:
    """The sizes of all parts: those of the measurement, or toy sizes."""

    def __init__(self, options):
        self.config = TINY if options.tiny else UNET_PRESETS[options.unet]
        self.config = {"out_channels": self.config["in_channels"]} | self.config
        self.batches = (1, 2, 3) if options.tiny else (1, 64, 512)
        self.batch_of_training, self.updates = (2, 2) if options.tiny else (128, 10)
        self.repeats, self.steps = (1, 2) if options.tiny else (5, 5)


class Budget:
    """Runs measurements while there is time, and records what fails."""

    def __init__(self, seconds):
        self.end, self.seconds = time.monotonic() + seconds, {}

    def run(self, name, work, needed=0):
        """The result of `work()`, or an entry that says why there is none; `needed` are the seconds it may take."""
        begun = time.monotonic()
        if begun + needed > self.end:
            return {"left out": f"it needs up to {needed} s"}
        try:
            return work()
        except Exception as error:  # each of them is a result: what does not work on this device
            torch.compiler.reset()
            return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 1)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


# Sampling ------------------------------------------------------------------------------------------------------------


def sampling(sizes, budget):
    """{batch: {contender: figures}}, the contenders of a batch in turns."""
    pipeline = _pipeline(sizes)
    return {batch: _eager(pipeline, _run_options(sizes, batch), budget) for batch in sizes.batches}


def compiled_sampling(sizes, budget):
    """{contender: figures} of the compiled network, each beside stock diffusers."""
    pipeline, found = _pipeline(sizes), {}
    for mode in (None, "reduce-overhead"):
        for batch in sizes.batches:
            name = f"{batch}, bf16 weights, channels last, compiled{' with CUDA graphs' if mode else ''}"
            options = _run_options(sizes, batch)
            work = lambda options=options, mode=mode: _compiled(pipeline, options, mode)  # noqa: E731
            found[name] = budget.run(f"sampling {name}", work, SECONDS_TO_COMPILE)
    return found


def _pipeline(sizes):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = DDPMUNet2DModel(**sizes.config).eval().to(device)
    return GaussianDiffusionPipeline(network, GaussianDiffusionScheduler())


def _run_options(sizes, batch):
    return SimpleNamespace(batch_size=batch, steps=sizes.steps, repeats=sizes.repeats)


def _eager(pipeline, options, budget):
    contenders, found = {"diffusers, float32": stock_loop(pipeline, options)}, {}
    contenders |= {each.text: drawing(in_execution(pipeline, each), options) for each in EXECUTIONS}
    for name, draw in contenders.items():
        found[name] = budget.run(f"sampling {options.batch_size} {name}, first", lambda draw=draw: draw() is None)
    sound = {name: draw for name, draw in contenders.items() if found[name] is False}
    measured = budget.run(f"sampling {options.batch_size}", lambda: time_in_turns(sound, options.repeats, warm_up={}))
    return found | {name: _per_second(row, options) for name, row in measured.items()} | _choice(pipeline, options)


def _compiled(pipeline, options, mode):
    changed = in_execution(pipeline, Execution("bf16", channels_last=True))
    changed.unet.compile(mode=mode)
    draw = drawing(changed, options)
    measured = time_in_turns({"diffusers, float32": stock_loop(pipeline, options), "compiled": draw}, options.repeats)
    return _per_second(measured["compiled"], options)


def _per_second(row, options):
    if "seconds" not in row:
        return row
    return {
        "images_per_second": options.batch_size / row["seconds"],
        "milliseconds_per_call": 1000 * row["seconds"] / options.steps,
        "speed_over_stock_float32": 1 / row["ratio"],
    }


def _choice(pipeline, options):
    call = one_call(pipeline, options.batch_size)
    return {"auto": fastest_execution(pipeline.unet, call, pipeline.unet.device)[0].text}


# Training ------------------------------------------------------------------------------------------------------------


def training(sizes, budget):
    """{contender: figures}, each with the peak of the tensors on the GPU."""
    contenders = {}
    for precision in ("no", "bf16"):
        contenders |= {f"{name}, {precision}": (name, precision, {}) for name in LOOPS}
    contenders["ddpm_hf, bf16, channels last"] = ("ddpm_hf", "bf16", {"channels_last": "yes"})
    return _trainings(contenders, sizes, budget)


def compiled_training(sizes, budget):
    """The same of compiled networks."""
    is_compiled = {"compile": "yes"}
    contenders = {
        "ddpm_hf, bf16, compiled": ("ddpm_hf", "bf16", is_compiled),
        "stock loop, bf16, compiled": ("stock loop", "bf16", is_compiled),
        "ddpm_hf, bf16, channels last, compiled": ("ddpm_hf", "bf16", is_compiled | {"channels_last": "yes"}),
    }
    return _trainings(contenders, sizes, budget, 2 * SECONDS_TO_COMPILE)


def _trainings(contenders, sizes, budget, needed=0):
    return {
        name: budget.run(f"training, {name}", lambda chosen=chosen: _training_of(sizes, *chosen), needed)
        for name, chosen in contenders.items()
    }


def _training_of(sizes, loop, precision, layout):
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    layout = {"channels_last": "no", "compile": "no"} | layout
    images = random_images(sizes.config)
    run = LOOPS[loop](sizes.config, images, sizes.batch_of_training, precision, sizes.updates, layout)
    seconds = time_in_turns({"it": run}, sizes.repeats)["it"]["seconds"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {"images_per_second": sizes.batch_of_training * sizes.updates / seconds, "peak_gib": peak}


def _stock(*common_and_layout):
    *common, layout = common_and_layout
    return stock_run(*common, layout["compile"] == "yes")


LOOPS = {"stock loop": _stock, "bare loop": bare_run, "ddpm_hf": our_run}


# Health --------------------------------------------------------------------------------------------------------------


class SomeSpoiled(ImagesInMemory):
    """Points, which can be NaN; every fifth batch has one."""

    number = 0

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        self.number += 1
        if self.number % 5 == 0:
            batch["images"][0, 0, 0, 0] = torch.nan
        return batch


def health(sizes, budget):
    """Waits between logs of each objective, and skipped updates of each precision and optimizer."""
    waits = {
        f"waits, {name}": budget.run(f"waits, {name}", lambda given=given: waits_between_logs(sizes.config, **given))
        for name, given in OBJECTIVES.items()
    }
    kinds = {
        **{"fp16": {"mixed_precision": "fp16"}, "bf16": {"mixed_precision": "bf16"}},
        **{"adamw8bit": {"mixed_precision": "bf16", "optimizer": "adamw8bit"}},
    }
    return waits | {
        f"skipped, {name}": budget.run(f"skipped, {name}", lambda given=given: skipped_updates(sizes.config, **given))
        for name, given in kinds.items()
    }


def make_trainer(config, updates, data, **options):
    AcceleratorState._reset_state(reset_partial_state=True)
    args = TrainingArguments(
        **{"unet": "fashion_mnist", "output_dir": tempfile.mkdtemp(), "max_train_steps": updates, "batch_size": 16},
        log_every=updates,
        **options,
    )
    heads = 1 if args.variance_head is None else 2
    head = {"variance_head": args.variance_head, "out_channels": heads * config["in_channels"]}
    size = config["sample_size"]
    images = data({"images": torch.rand(256, config["in_channels"], size, size) * 2 - 1})
    network = DDPMUNet2DModel(**config | head)
    trainer = Trainer(args, make_accelerator(args), network, make_scheduler(args), images, updates)
    trainer.checkpoint = lambda limit=None: None
    return trainer


def waits_between_logs(config, **options):
    """CUDA's warnings of synchronization in updates 2 to 9 of 10."""
    trainer = make_trainer(config, 10, ImagesInMemory, mixed_precision="bf16", **options)
    learn, finish, found = trainer.learn, trainer._finish_update, []

    def set_debug_mode(mode):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(mode)

    def watched(work):
        def run(*args):
            set_debug_mode("warn" if 1 <= trainer.progress.step < 9 else "default")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                work(*args)
            set_debug_mode("default")
            found.extend(str(warning.message) for warning in caught if "synchroniz" in str(warning.message))

        return run

    trainer.learn, trainer._finish_update = watched(learn), watched(finish)
    trainer.fit()
    return {"count": len(found), "which": sorted(set(found))}


def skipped_updates(config, **options):
    """Trains for 20 updates, four of which have a NaN in their batch."""
    trainer = make_trainer(config, 20, SomeSpoiled, **options)
    trainer.fit()
    finite = all(parameter.isfinite().all().item() for parameter in trainer.parameters)
    return {"skipped": trainer.statistics.num_skipped()[0], "weights_are_finite": finite}


# The compiled ones, which take longest, are last.
PARTS = (health, sampling, training, compiled_sampling, compiled_training)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", default="cifar10", choices=UNET_PRESETS)
    parser.add_argument("--seconds", type=float, default=450, help="When no further measurement begins.")
    parser.add_argument("--tiny", action="store_true", help="Toy sizes, on any machine; nothing is written.")
    options = parser.parse_args()
    if not (options.tiny or torch.cuda.is_available()):
        parser.exit(
            1, "This benchmark needs a GPU, and there is none: --tiny tries it, and training_step.py measures.\n"
        )
    sizes, budget = Sizes(options), Budget(options.seconds)
    measured = {part.__name__: part(sizes, budget) for part in PARTS}
    measured["seconds"] = budget.seconds
    if options.tiny:
        failed = {name for part in measured.values() for name, row in _rows(part) if "failed" in row}
        print(measured, f"\nfailed: {sorted(failed) or 'nothing'}")
    else:
        report(f"gpu_{options.unet}", measured)


def _rows(part):
    """(name, row) of all entries of a part, which may be grouped by batch."""
    for name, row in part.items():
        if isinstance(row, dict):
            yield name, row
            yield from _rows(row)


if __name__ == "__main__":
    main()
