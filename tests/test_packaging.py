"""setup.cfg lists every package; an unlisted one would be missing from wheels only."""

import ast
import configparser
import functools
import importlib
import re
import sys
import typing
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import ddpm_hf
from ddpm_hf.training.arguments import RunArguments

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def options():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed(options):
    mapped = {"pipelines": "ddpm_hf.pipelines", "training": "ddpm_hf.training"}
    found = set()
    for top in ("ddpm_hf", *mapped):
        for init in (ROOT / top).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            found.add(mapped.get(top, top) + name.removeprefix(top))
    assert found == set(options["options"]["packages"].split())


def test_every_public_name_and_entry_point_is_there(options):
    for name in ddpm_hf.__all__:
        assert getattr(ddpm_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ddpm_hf.nothing
    module, function = re.search(r"= ([\w.]+):(\w+)", options["options.entry_points"]["console_scripts"]).groups()
    assert callable(getattr(importlib.import_module(module), function))


def test_embedded_files_match_the_patterns_that_ship_them(options):
    patterns = options["options.package_data"]
    for package, folder in (("ddpm_hf.data", ROOT / "ddpm_hf" / "data"), ("ddpm_hf.training", ROOT / "training")):
        for pattern in patterns[package].split(","):
            assert list(folder.glob(pattern.strip())), pattern


def names_of(requirements):
    """The distributions of a list in setup.cfg, as packages are compared by name."""
    return {name.lower().replace("-", "_") for name in re.findall(r"^\s*([\w-]+)", requirements, flags=re.M)}


@functools.cache
def imports_of(file):
    """(top-level module, whether it is imported with the file itself) of all imports in a file."""
    tree, found = ast.parse(file.read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        found += [(name.split(".")[0], node in tree.body) for name in names]
    return found


def imported(*folders, at_the_top=(True, False)):
    """{module: a file} of what the files of folders import from elsewhere, at their top or inside of functions."""
    found = {}
    for file in (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))):
        for name, is_at_the_top in imports_of(file):
            if is_at_the_top in at_the_top and name not in {"ddpm_hf", *sys.stdlib_module_names}:
                found.setdefault(name, file.relative_to(ROOT).as_posix())
    return found


def undeclared(modules, declared):
    """The modules that no declared distribution has; without a distribution a module is its own name."""
    there = packages_distributions()
    return {
        module: file
        for module, file in modules.items()
        if not {name.lower().replace("-", "_") for name in there.get(module, [module])} & declared
    }


def test_every_import_is_declared(options):
    """A dependency of another package may disappear with its next version."""
    package, required = ("ddpm_hf", "pipelines", "training"), names_of(options["options"]["install_requires"])
    assert undeclared(imported(*package, at_the_top=[True]), required) == {
        "gradio": "ddpm_hf/hub/demo_page.py"  # which `ddpm-hf demo` imports after it has asked for the extra
    }
    extras = set().union(*(names_of(listed) for listed in options["options.extras_require"].values()))
    # An option names these, and `RunArguments` says how to install the one that is asked for.
    trackers = set(typing.get_args(typing.get_type_hints(RunArguments)["report_to"]))
    assert undeclared(imported(*package), required | extras | trackers) == {}
    beside = ("tests", "benchmarks", "docs")
    scripts = {file.stem for folder in beside for file in (ROOT / folder).rglob("*.py")}
    assert undeclared(imported(*beside), required | extras | scripts) == {}


def test_no_extra_brings_torchvision(options):
    """One that was built for another torch breaks the import of diffusers and transformers."""
    for extra, listed in options["options.extras_require"].items():
        assert not names_of(listed) & {"torchvision", "torch_fidelity"}, extra


def test_tested_versions_are_within_what_is_required(options):
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    required = re.findall(r"^(\w+)", options["options"]["install_requires"], flags=re.M)
    assert {name.lower() for name in required} <= {name.lower() for name in pinned}
