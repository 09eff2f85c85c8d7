"""What setup.cfg says against what is there: a package that is not listed is missing from wheels only."""

import configparser
import importlib
import re
from pathlib import Path

import pytest

import ddpm_hf

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


def test_tested_versions_are_within_what_is_required(options):
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    required = re.findall(r"^(\w+)", options["options"]["install_requires"], flags=re.M)
    assert {name.lower() for name in required} <= {name.lower() for name in pinned}
