"""Every option that a sentence of the package names exists."""

import ast
import re
from pathlib import Path

import pytest
import torch
import typer.main

from ddpm_hf import cli
from ddpm_hf.training import train, train_autoencoder, train_classifier
from ddpm_hf.training.argument_parsing import training_verb
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments

ROOT = Path(__file__).parent.parent
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?<!_)(?![\w-])")
SOURCES = sorted(path for name in ("ddpm_hf", "pipelines", "training") for path in (ROOT / name).rglob("*.py"))
# Options of other programs, in commands that the sentences spell out.
OF_OTHERS = {
    "--body-text-color-subdued": "a style sheet",
    "--type": "hf upload",
    "--image_size": "improved-diffusion",
    "--num_heads": "improved-diffusion",
    "--logdir": "tensorboard",
    "--num_processes": "accelerate launch",
    "--config_file": "accelerate launch",
    "--no-deps": "pip install",
    "--signal": "sbatch",
}


def sentences(source):
    """All texts of a file but its docstrings, with the numbers of their lines."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        node.body[0].value for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.lineno, node.value


def all_options():
    def of(command):
        for each in getattr(command, "commands", {}).values():
            yield from of(each)
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)

    trainings = (TrainingArguments, ClassifierArguments, AutoencoderArguments)
    verbs = [typer.main.get_command(cli.app), *map(training_verb, trainings)]
    return {"--help", *(option for verb in verbs for option in of(verb))}


OPTIONS = all_options()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_is_named_exists(source):
    named = [(line, option) for line, text in sentences(source) for option in OPTION.findall(text)]
    assert [(line, option) for line, option in named if option not in OPTIONS and option not in OF_OTHERS] == []


@pytest.mark.parametrize(
    "module", [train, train_classifier, train_autoencoder], ids=["train", "classifier", "autoencoder"]
)
def test_a_full_memory_names_the_options_of_its_own_training(module):
    def fill(args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(SystemExit) as stopped:
        module.PROGRAM._replace(train=fill).run(None)
    options = {option for parameter in training_verb(module.PROGRAM.arguments).params for option in parameter.opts}
    named = OPTION.findall(str(stopped.value))
    assert "--batch_size" in named and set(named) <= options
