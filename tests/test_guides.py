"""The guides: their Python runs and prints what they show, their pictures exist, and translations are up to date."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from PIL import Image
from printed_output import check_printed
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from ddpm_hf import (
    DDPMUNet2DModel,
    GaussianDiffusionCascadePipeline,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
    cli,
)
from ddpm_hf.pipelines.stable_diffusion import stable_diffusion
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments
from ddpm_hf.training.text_encoders import new_text_encoder, new_tokenizer

ROOT = Path(__file__).parent.parent
GUIDES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = [*GUIDES, *NOTEBOOKS]


def names(guides):
    return [guide.name for guide in guides]


def text_of(page):
    """The Markdown of a page; of a notebook the text between its cells of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join(
        "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
    )


def blocks(guide, language):
    """The fenced blocks of a language, with as many empty lines before each as the page has, so that errors name its line."""
    return [block for found, block in all_blocks(guide) if found == language]


def all_blocks(guide):
    """The fenced blocks of a page in their order, as pairs of language and block."""
    found, block, language = [], None, None
    for number, line in enumerate(text_of(guide).splitlines(keepends=True), start=1):
        if line.startswith("```") and block is None:
            block, language = "\n" * number, line.strip().removeprefix("```")
        elif line.startswith("```"):
            found.append((language, block))
            block = None
        elif block is not None:
            block += line
    return found


def python_and_output(guide):
    """Each block of Python, and what the block `text` directly after it shows of its output."""
    found = all_blocks(guide)
    for (language, block), (next_language, shown) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "python":
            yield block, shown.lstrip("\n") if next_language == "text" else ""


# Python --------------------------------------------------------------------------------------------------------------

# Translations have the same code, as a test below says.
ENGLISH = [guide for guide in GUIDES if ".zh-CN" not in guide.name]
WITH_PYTHON = [guide for guide in ENGLISH if blocks(guide, "python")]
TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny models by the names that the guides have for models; diffusers takes folders before the Hub."""
    folder = tmp_path_factory.mktemp("guides")
    torch.manual_seed(0)
    unconditional = GaussianDiffusionPipeline(DDPMUNet2DModel(**TINY), GaussianDiffusionScheduler())
    unconditional.save_pretrained(folder / "outputs" / "mine")
    with_classes = GaussianDiffusionPipeline(DDPMUNet2DModel(num_classes=10, **TINY), GaussianDiffusionScheduler())
    with_classes.save_pretrained(folder / "outputs" / "with_classes")
    told = DDPMUNet2DModel(
        **TINY | {"sample_size": 16, "in_channels": 2},
        **{"condition_channels": 1, "low_resolution": 8, "max_augmentation_level": 0.5},
    )
    upscaler = GaussianDiffusionUpscalePipeline(told, GaussianDiffusionScheduler())
    upscaler.save_pretrained(folder / "outputs" / "upscaler")
    cascade = GaussianDiffusionCascadePipeline.from_stages(unconditional, upscaler)
    cascade.save_pretrained(folder / "outputs" / "cascade")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(1, 1, **blocks, block_out_channels=[4, 4], latent_channels=2, norm_num_groups=2)
    in_latents = DDPMUNet2DModel(**TINY | {"sample_size": 4, "in_channels": 2}, autoencoder_factor=2, image_channels=1)
    latent = GaussianDiffusionPipeline(in_latents, GaussianDiffusionScheduler(clip_sample=False), vae=vae)
    latent.save_pretrained(folder / "outputs" / "latent")
    for name in ("text", "text_few"):
        of_text(vae).save_pretrained(folder / "outputs" / name)
    colours = DDPMUNet2DModel(**TINY | {"in_channels": 4}, condition_channels=1)
    of_pairs = GaussianDiffusionPipeline(colours, GaussianDiffusionScheduler())
    of_pairs.save_pretrained(folder / "outputs" / "colours")
    shutil.copy(ROOT / "tests" / "reference" / "unets" / "lucidrains.pt", folder / "outputs" / "model-100.pt")
    stock = DDPMPipeline(UNet2DModel(**TINY, out_channels=1), DDPMScheduler())
    stock.save_pretrained(folder / "google" / "ddpm-cifar10-32")
    sizes = {"num_channels": 1, "embedding_size": 4, "hidden_sizes": [2], "depths": [1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(folder / "features")
    ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder / "features")
    return folder


def of_text(vae):
    """A stock pipeline of text, in the latents of an autoencoder."""
    tokenizer = new_tokenizer(["a photo of a Bag"])
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    sizes = {"block_out_channels": [8], "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 2}
    unet = UNet2DConditionModel(4, 2, 2, **blocks, **sizes, cross_attention_dim=128)
    unet.register_to_config(_ddpm_hf={"autoencoder_factor": 2, "image_channels": 1})
    parts = {"vae": vae, "text_encoder": new_text_encoder(tokenizer), "tokenizer": tokenizer}
    return stable_diffusion(GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(clip_sample=False), **parts))


def what_readers_bring():
    """The names of guides for what is the reader's: a model, pictures, a mask, uint8 tensors."""
    rng = np.random.default_rng(0)
    image_a, image_b = (Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(2))
    mask = Image.fromarray(np.array([[0, 255]], dtype=np.uint8).repeat(8, axis=0).repeat(4, axis=1))
    images, samples = torch.from_numpy(rng.integers(0, 256, (2, 40, 1, 8, 8), dtype=np.uint8))
    pictures = {"image": image_a, "image_a": image_a, "image_b": image_b, "mask": mask}
    return {"model": "outputs/mine", "images": images, "samples": samples, **pictures}


@pytest.mark.parametrize("guide", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_the_python_of_a_guide_runs(guide, models, tmp_path, monkeypatch):
    """All blocks of a page in turn, in one namespace, where there is nothing but the models that it names."""
    for name in ("outputs", "google", "features"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    namespace = what_readers_bring() | {"__name__": guide.stem}
    is_exact = "from_pretrained(" not in text_of(guide)
    for block, shown in python_and_output(guide):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, guide, "exec"), namespace)
        check_printed(shown, printed.getvalue(), numbers=is_exact)


@pytest.mark.parametrize(
    "shown, printed",
    [("mean 0.51", "mean 0.54"), ("t = 468", "t = 469"), ("equal", "not equal"), ("", "0.5"), ("1.2e-7", "1.5e-7")],
)
def test_other_output_is_found(shown, printed):
    with pytest.raises(AssertionError):
        check_printed(shown, printed)


# Notebooks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts():
    """Imports of the scripts in docs/."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def notebooks(scripts):
    """docs/notebooks.py, which runs notebooks."""
    return scripts("notebooks")


ENGLISH_NOTEBOOKS = [path for path in NOTEBOOKS if ".zh-CN" not in path.name]
# It computes for 17 seconds, so that only the kernel runs it.
LONG_NOTEBOOK = "samplers_and_likelihood"


@pytest.mark.parametrize(
    "path", [path for path in ENGLISH_NOTEBOOKS if path.stem != LONG_NOTEBOOK], ids=lambda path: path.name
)
def test_a_notebook_prints_and_draws_what_it_shows(path, notebooks, tmp_path, monkeypatch):
    """All its cells and the code of its answers in turn, in one namespace; the test below has a kernel, which takes long."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": path.stem}
    cells = notebooks.code_cells(notebooks.with_answers(notebooks.read(path)))
    check_notebook(path, notebooks, [(cell, *run_cell(cell.source, namespace)) for cell in cells])


def run_cell(source, namespace):
    """Runs a cell, whose last expression is shown; returns what it printed, and the number of its pictures."""
    lines, shown = ast.parse(source.removeprefix("%matplotlib inline\n")).body, None
    last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(lines, []), "<cell>", "exec"), namespace)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    if shown is not None:
        shown.savefig(io.BytesIO(), dpi=20)
    return printed.getvalue(), int(shown is not None)


@pytest.mark.slow
@pytest.mark.parametrize("path", ENGLISH_NOTEBOOKS, ids=names(ENGLISH_NOTEBOOKS))
def test_a_kernel_runs_a_notebook(path, notebooks, tmp_path, monkeypatch):
    """The kernel reads and writes no folder of the user."""
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    cells = notebooks.code_cells(notebooks.run(notebooks.read(path), tmp_path))
    outputs = [(cell, notebooks.text_of(cell), notebooks.number_of_pictures(cell)) for cell in cells]
    check_notebook(path, notebooks, outputs)


def check_notebook(path, notebooks, outputs):
    """Checks triples of a cell, what it printed and the number of its pictures by what the file shows."""
    kept = iter(notebooks.code_cells(notebooks.read(path)))
    for cell, printed, pictures in outputs:
        if "shown" in cell.metadata:
            check_printed(cell.metadata.shown, printed)
        else:
            shown = next(kept)
            check_printed(notebooks.text_of(shown), printed)
            assert pictures == notebooks.number_of_pictures(shown)
    assert next(kept, None) is None


@pytest.mark.parametrize("path", ENGLISH_NOTEBOOKS, ids=names(ENGLISH_NOTEBOOKS))
def test_the_translation_of_a_notebook_has_its_code_and_output(path, notebooks):
    english, chinese = (notebooks.read(each) for each in (path, notebooks.translation(path)))
    for cell, translated in zip(notebooks.code_cells(english), notebooks.code_cells(chinese), strict=True):
        assert without_comments(cell.source) == without_comments(translated.source)
        assert cell.outputs == translated.outputs
    answers = [notebooks.ANSWER.findall(text_of(each)) for each in (path, notebooks.translation(path))]
    assert answers[0] == answers[1] and len(answers[0]) >= 4


def test_notebooks_stay_small():
    """Pictures have palettes, and no picture of a trial run is left in a file."""
    assert max(path.stat().st_size for path in NOTEBOOKS) < 300_000


# Commands ------------------------------------------------------------------------------------------------------------


OWN_PARSERS = {
    "train": TrainingArguments,
    "train_classifier": ClassifierArguments,
    "train_autoencoder": AutoencoderArguments,
}


def commands(guide):
    """The lines of shell blocks that call `ddpm-hf`, as lists of arguments; `$name` of a loop stays a word."""
    for block in blocks(guide, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "ddpm-hf" in words:
                yield words[words.index("ddpm-hf") + 1 :]
            elif "training/train.py" in words:
                yield ["train", *words[words.index("training/train.py") + 1 :]]


@pytest.mark.parametrize("guide", ENGLISH, ids=names(ENGLISH))
def test_the_commands_of_a_guide_exist(guide, monkeypatch, tmp_path):
    """Verbs and options are parsed, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("max_train_steps: 10\n", encoding="utf-8")
    for words in commands(guide):
        words = [word.replace("$steps", "25").replace("$variance", "fixed_large") for word in words]
        make_places(words)
        try:
            parse(words)
        except (Exception, SystemExit) as error:  # each parser has its own
            raise AssertionError(f"{guide.name}: ddpm-hf {shlex.join(words)}: {error}") from error


def make_places(words):
    """The folders that a command reads, so that it is not refused for what readers bring."""
    for name, value in pairwise([part for word in words for part in word.split("=")]):
        if name in ("--dataset", "--dataset_name", "--init_from", "--model", "--vae"):
            Path(value).mkdir(parents=True, exist_ok=True)


def parse(words):
    if words[0] in OWN_PARSERS:
        parse_arguments(words[1:], OWN_PARSERS[words[0]])
        return
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


# Options that make the quickstart small; its training and its pushes are left out.
SMALLER = {
    "sample": ["--num_images", "2", "--steps", "3"],
    "improve": ["--minutes", "1"],
    "evaluate": ["--num_images", "4", "--steps", "5"],
}


@pytest.mark.slow
def test_each_command_of_the_quickstart_takes_what_the_one_before_it_left(models, tmp_path, monkeypatch):
    shutil.copytree(models / "outputs" / "mine", tmp_path / "outputs" / "mine")
    (tmp_path / "outputs" / "mine" / "loss.csv").write_text("step,loss\n1,1.0\n2,0.5\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "my_images" / split).mkdir(parents=True)
        for i in range(70):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my_images" / split / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    done = []
    for words in commands(ROOT / "docs" / "quickstart.md"):
        if words[0] not in ("train", "push"):
            typer.main.get_command(cli.app).main([*words, *SMALLER.get(words[0], [])], standalone_mode=False)
            done.append(words[0])
    assert done == ["show", "sample", "improve", "sample", "evaluate"]


# Formulas, papers, functions -----------------------------------------------------------------------------------------


FORMULAS = ROOT / "docs" / "formulas.md"
# "Ho 2020", "Ho et al. (2020", "Lu et al. 2022b", "Dhariwal & Nichol 2021"; not "Step 2000 of 10000".
CITATION = re.compile(
    r"\b((?:[A-Z][a-z]+){1,2}(?:-[A-Z][a-z]+)?(?: & [A-Z][a-z]+)?)(?: et al\.)?,? \(?((?:19[5-9]|20[0-2])\d[ab]?)\b(?! of)"
)


def named(path):
    """The object that a dotted name imports."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):  # what a package has before its module of that name
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


def test_every_function_of_the_formulas_is_there():
    """Its name is that of an import; without a module it is of the scheduler, or an argument of the pipeline's call."""
    of_scheduler = {*dir(GaussianDiffusionScheduler), *inspect.signature(GaussianDiffusionScheduler).parameters}
    of_pipeline = inspect.signature(GaussianDiffusionPipeline.__call__).parameters
    tables = [part for part in FORMULAS.read_text(encoding="utf-8").split("\n## ") if "| function |\n" in part]
    cells = [line.split(" | ")[-1] for table in tables for line in table.splitlines() if line.startswith("| ")]
    names = [name for cell in cells for name in re.findall(r"`([a-z]\w*(?:\.\w+)*)(?=[`=(])", cell)]
    assert len(tables) == 6 and len(names) > 60
    for name in names:
        if name.startswith("ddpm_hf."):
            assert callable(named(name)), name
        else:
            assert name in of_scheduler or name in of_pipeline, name


def test_every_citation_is_a_reference():
    folders = [ROOT / name for name in ("ddpm_hf", "training", "pipelines")]
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py"))]
    texts += [text_of(page).partition("## References")[0] for page in [*ENGLISH, *ENGLISH_NOTEBOOKS]]
    cited = {" ".join(found) for text in texts for found in CITATION.findall(re.sub(r"\s+(?:# )?", " ", text))}
    listed = re.findall(r"^\| (\w[\w& -]*?\d{4}[ab]?) \|", FORMULAS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(listed) > 40 and listed == sorted(set(listed), key=lambda key: key.replace(" &", "")), listed
    assert not cited - set(listed), cited - set(listed)
    assert not set(listed) - cited, set(listed) - cited


# Pictures and pages --------------------------------------------------------------------------------------------------


def linked(page, pattern):
    return re.findall(pattern, text_of(page))


@pytest.fixture(scope="module")
def pictures(scripts):
    """`PICTURES` of docs/figures.py, by file name."""
    return scripts("figures").PICTURES


@pytest.mark.parametrize("guide", PAGES, ids=names(PAGES))
def test_every_picture_is_there_and_has_a_maker(guide, pictures):
    for target in linked(guide, r"!\[[^\]]*\]\(([^)]+)\)"):
        file = (guide.parent / target).resolve()
        assert file.is_file(), target
        assert file.parent == ROOT / "docs" / "images" and file.name in pictures, target


def test_nothing_is_drawn_in_vain(pictures):
    shown = {Path(target).name for guide in GUIDES for target in linked(guide, r"!\[[^\]]*\]\(([^)]+)\)")}
    assert set(pictures) == shown == {file.name for file in (ROOT / "docs" / "images").iterdir()}


@pytest.mark.parametrize("guide", PAGES, ids=names(PAGES))
def test_every_link_within_the_repository_leads_somewhere(guide):
    for target in linked(guide, r"(?<!!)\[[^\]]*\]\(([^)]+)\)"):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            page = (guide.parent / path).resolve() if path else guide
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target


def anchors(page):
    """The anchors of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


READMES = ("README.md", "README.zh-CN.md")


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/derivations.md"])
def test_the_translation_has_the_same_code(page):
    """The code without its comments, and its output."""
    english, chinese = ROOT / page, ROOT / page.replace(".md", ".zh-CN.md")
    for language in ("python", "sh", "text", ""):
        codes = [
            [without_comments(block).strip() for block in blocks(guide, language)] for guide in (english, chinese)
        ]
        assert codes[0] == codes[1]


def without_comments(code):
    return re.sub(r" *#.*", "", code)


def test_the_translation_has_the_same_figures():
    """Every number of a table of the README, in its order."""
    rows = [re.findall(r"^\|.*\|$", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE) for name in READMES]
    measured = [
        [re.findall(r"\d+(?:[.,]\d+)*", row.partition("|")[2].partition("|")[2]) for row in some] for some in rows
    ]
    assert measured[0] == measured[1] and sum(map(len, measured[0])) > 10


# The site ------------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_warnings(tmp_path, monkeypatch, caplog):
    """The site builds as by `mkdocs build --strict`, with every formula in MathML."""
    mkdocs_build = pytest.importorskip("mkdocs.commands.build", reason="needs the extra [docs]")
    for module in ("latex2mathml", "nbconvert"):
        pytest.importorskip(module, reason="needs the extra [docs]")
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    with caplog.at_level("WARNING", logger="mkdocs"):
        mkdocs_build.build(config)
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    for page, count in {"formulas": 80, "derivations": 60, "notebooks/forward_process": 15}.items():
        html = (tmp_path / "site" / page / "index.html").read_text(encoding="utf-8")
        assert html.count("<math ") > count and 'class="arithmatex"' not in html and "$$" not in html
    pictures = re.findall(r'<img [^>]*src="(forward_process[^"]*|\.\./forward_process[^"]*)"', html)
    assert len(pictures) == 5 and all((tmp_path / "site" / page / name).is_file() for name in pictures)
    assert html.count("<details") == html.count("<summary>") == 4
    languages = {
        name: (tmp_path / "site" / name / "index.html").read_text(encoding="utf-8")
        for name in ("quickstart", "quickstart.zh-CN")
    }
    assert '<html lang="en"' in languages["quickstart"] and '<html lang="zh"' in languages["quickstart.zh-CN"]
    tables = {path.name for path in (tmp_path / "site" / "benchmarks" / "results").iterdir()}
    pattern = r"\]\(\.\./benchmarks/results/(\w+)\.md\)"
    assert tables == {name for guide in GUIDES for name in linked(guide, pattern)} and "reverse_sde" in tables
