"""Figures of the code's structure: sizes, reach of one step, direction of imports, and tests for the kind of sample.

python benchmarks/structure.py [ROOT]

ROOT is a checkout, this one by default; another one shows what a change did. A function counts with its docstring.
What `step` reaches is every function, method or class of the schedulers' folder that its body names, and theirs in
turn, by the rules of `reach`; that includes what makes the tables of a trajectory, once for each eta. What one step
enters is counted by running it: the functions of the package that it calls when the tables are there. Folders have
the ranks of the contract in this checkout's setup.cfg; an import that it does not allow points upwards.
"""

import ast
import configparser
import json
import re
import sys
from pathlib import Path

import torch
from reach import Definition, Package

PACKAGES = ("ddpm_hf", "pipelines", "training")
# What a folder was called before, so that older checkouts are measured by the same ranks.
FORMER_NAMES = {"processes": "distributed", "configuration": "portable"}
# A look-up in a table by the kind's name is a question too, and so is the choice between presets.
KIND_QUESTIONS = re.compile(
    r"is_of_points\(|isinstance\([^)]*\b(?:PointSource|Points|Images)\b|\bin MLP_PRESETS|\bof_points = |if sides_of\("
    r"|\b(?:Images|Latents|Points)\.is_of\(|(?:kind_of\(\w+\)|samples)\.name(?:\]| [!=]=)"
)

# What a config or the Hub's interface of pipelines calls by the names of its arguments.
CALLS = ("__init__", "__call__")
STEP = Definition("scheduling_gaussian_diffusion", "step", "GaussianDiffusionScheduler")
# The choices of a scheduler and the arguments of its `step`: the plainest step, and one that goes through every stage.
X_T, OUTPUT = torch.zeros(1, 3, 4, 4), torch.zeros(1, 6, 4, 4)
STEPS = {
    "plain": ({}, {}),
    "every stage": (
        {"variance_type": "learned_range", "solver_order": 2, "corrector": True, "clip_variance_pixels": 2},
        {"classifier_gradient": X_T},
    ),
}


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources(root)}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    package = Package(root / "ddpm_hf/schedulers")
    scheduler = root / "ddpm_hf/schedulers/scheduling_gaussian_diffusion.py"
    pipeline = root / "pipelines/pipeline_gaussian_diffusion.py"
    wide = [f for f in functions if len(parameters(f)) > 6]
    print(
        json.dumps(
            {
                "lines of the scheduler": lines(scheduler),
                "lines of the pipeline": lines(pipeline),
                "functions over 50 lines": sum(length(f) > 50 for f in functions),
                "functions over 6 parameters": len(wide),
                "of them neither constructors nor calls": sum(f.name not in CALLS for f in wide),
                "definitions that step reaches": len(package.reached_from(STEP)),
                "of them when the tables are there": len(package.reached_from(STEP, stopping_at="_table")),
                "functions that one step enters": {name: entered_by_step(root, *step) for name, step in STEPS.items()},
                "upward arrows between folders": sorted(upward_arrows(root, trees)),
                "places that ask for the kind of sample": sum(
                    len(KIND_QUESTIONS.findall(path.read_text(encoding="utf-8"))) for path in trees
                ),
                "lines in all": sum(map(lines, trees)),
            },
            indent=2,
        )
    )


def sources(root):
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def length(function):
    return function.end_lineno - function.lineno + 1


def parameters(function):
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def entered_by_step(root, choices, arguments):
    """The number of functions of the checkout's package that one step calls in the second run over a trajectory."""
    sys.path.insert(0, str(root.resolve()))
    from ddpm_hf import GaussianDiffusionScheduler

    scheduler, entered = GaussianDiffusionScheduler(**choices), set()
    scheduler.set_timesteps(10)
    folders = tuple(f"{(root / package).resolve()}/" for package in PACKAGES)

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            entered.add(frame.f_code)

    for t in scheduler.timesteps[[0, 1, 2, 0, 1, 2]]:
        entered.clear()
        sys.setprofile(note)
        scheduler.step(OUTPUT, t, X_T, **arguments)
        sys.setprofile(None)
    return len(entered)


def upward_arrows(root, trees):
    """`lower -> higher` for each pair of folders or files with an import that the contract does not allow."""
    ranks, arrows = folder_ranks(), set()
    for path, tree in trees.items():
        here = folder_of(".".join(path.relative_to(root).with_suffix("").parts))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddpm_hf."):
                there = folder_of(node.module)
                if here not in ("", there) and ranks[there] >= ranks[here]:
                    arrows.add(f"{here} -> {there}")
    return arrows


def folder_ranks():
    """{folder: its height above the ground}, from the layers of the contract in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
    layers = config["importlinter:contract:direction"]["layers"].split("\n")
    return {name.strip(): rank for rank, layer in enumerate(reversed(layers)) for name in layer.split("|")}


def folder_of(module):
    parts = [part for part in module.split(".") if part not in ("ddpm_hf", "__init__")]
    return FORMER_NAMES.get(parts[0], parts[0]) if parts else ""


if __name__ == "__main__":
    main()
