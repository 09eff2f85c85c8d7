"""The structure of the code in figures: sizes, reach of one step, direction of imports, and how often a kind is asked for.

python benchmarks/structure.py [ROOT]

ROOT is a checkout, this one by default; another one shows what a change did. A function counts with its docstring. What `step`
reaches is every function, method or class of the schedulers' folder that its body names, and theirs in turn. Folders are ranked
from the ground up, and an import of a higher rank from a lower one points upwards.
"""

import ast
import json
import re
import sys
from pathlib import Path

PACKAGES = ("ddpm_hf", "pipelines", "training")
# From the ground up; what has equal rank may not import each other, except the files of one folder.
RANKS = {
    **dict.fromkeys(("", "errors", "files", "distributed", "environment", "interruptions"), 0),
    **dict.fromkeys(("portable", "visualization"), 1),
    "schedulers": 2,
    **dict.fromkeys(("models", "samples"), 3),
    "pipelines": 4,
    **dict.fromkeys(("data", "recipes"), 5),
    **dict.fromkeys(("calibration", "evaluation", "training", "reports"), 6),
    "hub": 7,
    **dict.fromkeys(("commands", "cli"), 8),
}
# A look-up in a table by the kind's name is a question too, and so is the choice between presets.
KIND_QUESTIONS = re.compile(
    r"is_of_points\(|isinstance\([^)]*\b(?:PointSource|Points|Images)\b|\bin MLP_PRESETS|\bof_points = |if sides_of\("
    r"|(?:kind_of\(\w+\)|samples)\.name(?:\]| [!=]=)"
)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources(root)}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    scheduler = root / "ddpm_hf/schedulers/scheduling_gaussian_diffusion.py"
    pipeline = root / "pipelines/pipeline_gaussian_diffusion.py"
    print(
        json.dumps(
            {
                "lines of the scheduler": lines(scheduler),
                "lines of the pipeline": lines(pipeline),
                "functions over 50 lines": sum(length(f) > 50 for f in functions),
                "functions over 6 parameters": sum(len(parameters(f)) > 6 for f in functions),
                "definitions that step reaches": len(reached_from_step(root)),
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


def reached_from_step(root):
    """The definitions of the schedulers' folder that one sampling step can come to, `step` included.

    A name stands for every definition that has it, called or passed on; what a table of functions holds counts where it is put
    into the table, and so not here.
    """
    definitions = {}
    for path in sorted((root / "ddpm_hf" / "schedulers").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                definitions.setdefault(node.name, []).append(node)
    reached, waiting = set(), ["step"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            functions = [node for node in definitions[name] if isinstance(node, ast.FunctionDef)]
            waiting += [other for node in functions for other in named_in(node) & definitions.keys()]
    return reached


def named_in(function):
    """The names that a function reads, and the methods that it calls."""
    own = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    calls = [n.func for n in ast.walk(function) if isinstance(n, ast.Call)]
    return (names - own) | {call.attr for call in calls if isinstance(call, ast.Attribute)}


def upward_arrows(root, trees):
    """`lower -> higher` for each pair of folders with an import at the top level of a file."""
    arrows = set()
    for path, tree in trees.items():
        here = folder_of(".".join(path.relative_to(root).with_suffix("").parts))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddpm_hf."):
                there = folder_of(node.module)
                if here != there and RANKS.get(there, 99) >= RANKS.get(here, 99):
                    arrows.add(f"{here} -> {there}")
    return arrows


def folder_of(module):
    parts = [part for part in module.split(".") if part not in ("ddpm_hf", "__init__")]
    return parts[0] if parts else ""


if __name__ == "__main__":
    main()
