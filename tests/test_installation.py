"""The package is installed by the commands that guides, cards and errors give, and what is installed works."""

import configparser
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.hub.cards import card_of
from ddpm_hf.installation import INSTALL, SOURCE, install_extra

ROOT = Path(__file__).parent.parent
# From a checkout: the folder itself, linked or not, with extras or without.
CHECKOUT = re.compile(r'pip install -c constraints\.txt (-e )?("\.\[\w+\]"|\.)$')


def commands_of(text):
    """The commands of pip that install this package, without what follows them on the line."""
    found = re.findall(r"""pip install (?:[^\s`'"]+ )*?(?:"[^"]*"|'[^']*'|[^\s`]+)""", text)
    return [line for line in found if "ddpm_hf" in line or "constraints.txt" in line]


@pytest.mark.parametrize("guide", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_guides_install_it_by_commands_that_exist(guide):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    allowed = {INSTALL, *map(install_extra, setup["options.extras_require"])}
    for command in commands_of(guide.read_text(encoding="utf-8")):
        assert command in allowed or CHECKOUT.match(command), command


def test_cards_install_it_from_where_it_is(tiny_unet, tmp_path):
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(tmp_path)
    assert commands_of(card_of(tmp_path, "someone/model")) == [INSTALL]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, built without the index."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installation_draws_from_the_model_in_it(built, kind, tmp_path):
    """The environment has this one's dependencies, but not this checkout."""
    (archive,) = built.glob(kind)
    assert kind != "*.whl" or archive.name == SOURCE
    run(sys.executable, "-m", "twine", "check", "--strict", archive)
    # A fresh environment may have an older setuptools than a build needs.
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, archive)
    venv.create(tmp_path / "fresh", with_pip=True)
    places = {"base": tmp_path / "fresh", "platbase": tmp_path / "fresh"}
    own = Path(sysconfig.get_path("purelib", vars={name: str(place) for name, place in places.items()}))
    others = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (own / "dependencies.pth").write_text("\n".join(map(str, others)), encoding="utf-8")
    program = tmp_path / "fresh" / "bin"
    run(program / "pip", "install", "--no-deps", tmp_path / SOURCE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone = {"cwd": tmp_path, "env": environment | {"OMP_NUM_THREADS": "1"}}
    where = run(program / "python", "-c", "import ddpm_hf; print(ddpm_hf.__file__)", **alone)
    assert Path(where.strip()).is_relative_to(tmp_path / "fresh")
    run(program / "ddpm-hf", "sample", "--num_images", "4", "--steps", "5", "--output", "drawn.png", **alone)
    assert Image.open(tmp_path / "drawn.png").size[0] > 28
    assert "Usage: ddpm-hf train" in run(program / "ddpm-hf", "train", "--help", **alone)


@pytest.mark.slow
def test_an_environment_with_every_extra_imports_and_passes_the_tests(tmp_path):
    """An extra may bring a library that breaks the import of another, such as a torchvision of another torch."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = [*parser["options.extras_require"]]
    venv.create(tmp_path / "all", with_pip=True)
    python = tmp_path / "all" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[{','.join(extras)}]")
    # As docs/evaluation.md says.
    run(python, "-m", "pip", "install", "-q", "--no-deps", "torch-fidelity")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run(
        python,
        "-c",
        "import diffusers, transformers, gradio, bitsandbytes, deepspeed",
        env=environment,
    )
    run(python, "-m", "pytest", "-q", "-n", "auto", ROOT / "tests", cwd=ROOT, env=environment)
