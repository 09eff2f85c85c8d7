"""Repositories that load without this package: their single code file, and the classes that run from it."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from hub_server import TOKEN, running_hub
from no_package import NO_PACKAGE
from torch.testing import assert_close

from ddpm_hf import (
    ADMUNet2DModel,
    ExactDenoiser,
    GaussianDiffusionCascadePipeline,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
    LinearAttentionUNet2DModel,
    MLPDenoiser,
    NoisyImageClassifier,
    __version__,
)
from ddpm_hf.portable.own_module import exporting
from ddpm_hf.portable.pipeline_file import (
    LIBRARIES,
    PIPELINES,
    TRAVELLING,
    assemble,
    pipeline_bytes,
    pipeline_source,
)
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, knots

ROOT = Path(__file__).parents[2]
ROUNDING = {"rtol": 0, "atol": 1e-4}  # the same weights elsewhere in memory may round otherwise

# A process in which the package cannot be imported, until it says so. It pushes folders, loads repositories as it is told
# to, draws images, saves what it has loaded, and says what happened.
PROCESS = (
    NO_PACKAGE
    + """
import json, os
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi
torch.set_num_threads(1)
task = json.load(open("task.json"))

for repository, folder, private, branch in task["pushes"]:
    api = HfApi(token=task["token"])
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder)
    if branch is not None:
        api.create_branch(repository, branch=branch)

def load(loader, case):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": task["token"]} if case["logged_in"] else {})
    try:
        pipeline = loader.from_pretrained(case["repository"], **case["arguments"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    pipeline.set_progress_bar_config(disable=True)
    said = {"class": type(pipeline).__name__, "parts": [type(p).__name__ for p in (pipeline.unet, pipeline.scheduler)]}
    if said["class"].startswith("GaussianDiffusion"):
        options = {"output_type": "latent"} | case["options"]
        options = {name: torch.tensor(value) if name == "image" else value for name, value in options.items()}
    else:
        options = {"output_type": "np", "num_inference_steps": 3}
    said["images"] = pipeline(generator=torch.Generator().manual_seed(0), **options).images.tolist()
    pipeline.save_pretrained(case["again"])
    return said

report = [load(DiffusionPipeline, case) for case in task["without"]]
assert not [name for name in sys.modules if name.split(".")[0] == "ddpm_hf"]
del sys.meta_path[0]
from ddpm_hf import GaussianDiffusionPipeline
report += [load(GaussianDiffusionPipeline, case) for case in task["with"]]
json.dump(report, open("report.json", "w"))
"""
)


def sample(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = {name: torch.tensor(value) if name == "image" else value for name, value in options.items()}
    return pipeline(generator=torch.Generator().manual_seed(0), output_type="latent", **options).images


def files(folder):
    """{path: bytes}"""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def index(folder):
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))


def tiny_classifier():
    torch.manual_seed(1)
    levels = {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    return NoisyImageClassifier(8, 1, 3, attention_head_dim=8, norm_num_groups=4, **levels).eval()


def tiny_mlp():
    torch.manual_seed(0)
    units = {"data_mean": [1.0, 2.0], "data_std": [3.0, 4.0]}
    return MLPDenoiser(width=8, time_embedding_dim=8, num_classes=3, variance_head="npr", **units).eval()


def tiny_foreign():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    levels = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return ADMUNet2DModel(sample_size=8, in_channels=1, num_attention_heads=2, timestep_scale=0.5, **blocks, **levels)


def tiny_linear_attention():
    torch.manual_seed(0)
    heads = {"full_attention": (False, True), "attention_heads": (2, 2), "attention_head_dim": (4, 4)}
    widths = {"first_channels": 8, "block_out_channels": (8, 16), "time_embedding_channels": 8, "memory_size": (2, 2)}
    return LinearAttentionUNet2DModel(sample_size=8, in_channels=1, out_channels=1, **heads, **widths)


def exact_of_images(scheduler):
    """The mixture is one of images of 1x2x2, with two axes a component and a class for each."""
    generator = torch.Generator().manual_seed(0)
    means, axes = torch.randn(3, 1, 2, 2, generator=generator), torch.eye(4)[:2].reshape(1, 2, 1, 2, 2)
    mixture = means, axes.repeat(3, 1, 1, 1, 1), torch.full((3, 2), 0.3), 0.01
    return ExactDenoiser.from_low_rank_mixture(*mixture, scheduler, classes=torch.arange(3))


@pytest.fixture
def models(tiny_unet):
    """{name: (pipeline, how to sample it)}: each thing that a repository may hold."""
    scheduler, steps = GaussianDiffusionScheduler, {"num_inference_steps": 4}
    calibrated = {"mean_square_epsilon": [0.99] * 1000, "timestep_plans": {"4": [999, 700, 250, 20]}}
    analytic = scheduler(variance_type="analytic", eta=0.5, clip_variance_pixels=2.0, **calibrated)
    spectrum = CovarianceSpectrum((1, 8, 8), knots(1000), torch.ones(len(knots(1000)), 1, 6, 6)).to_config()
    of_frequencies = scheduler(variance_type="dct", mean_square_epsilon=[0.99] * 1000, covariance_spectrum=spectrum)
    second_order = scheduler(eta=0.0, solver_order=2, timestep_spacing="karras")
    guided = {"class_labels": [0, 2], "guidance_scale": 2.0, "guidance_rescale": 0.5, "guidance_interval": (0.1, 9.0)}
    steered = {"class_labels": [0, 2], "classifier_guidance_scale": 2.0, "classifier_guidance_form": "mean"}
    ours, upscale = GaussianDiffusionPipeline, GaussianDiffusionUpscalePipeline
    small = {"image": torch.rand(1, 1, 5, 4, generator=torch.Generator().manual_seed(0)).tolist()}
    upscaler = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4, "max_augmentation_level": 0.5}
    of_classes = tiny_unet(**upscaler, num_classes=3)
    cascade = GaussianDiffusionCascadePipeline.from_stages(
        ours(tiny_unet(sample_size=4, num_classes=3), scheduler()), upscale(of_classes, scheduler())
    )
    return {
        "cascade": (cascade, steps | guided | {"augmentation_level": 0.2}),
        "upscaler": (upscale(tiny_unet(**upscaler), scheduler()), steps | small | {"augmentation_level": 0.2}),
        "upscaler of classes": (upscale(of_classes, scheduler()), steps | small | guided),
        "plans": (ours(tiny_unet(), analytic), steps | {"batch_size": 2}),
        "frequencies": (ours(tiny_unet(), of_frequencies), steps | {"batch_size": 2}),
        "2m": (ours(tiny_unet(), second_order), steps),
        "head": (ours(tiny_unet(variance_head="npr"), scheduler(variance_type="npr")), steps),
        "classes": (ours(tiny_unet(num_classes=3), scheduler()), steps | guided),
        "no label": (ours(tiny_unet(num_classes=3), scheduler(timestep_spacing="logsnr")), steps),
        "classifier": (ours(tiny_unet(), scheduler(), tiny_classifier()), steps | steered),
        "points": (
            ours(tiny_mlp(), scheduler(variance_type="npr", clip_sample=False)),
            steps | {"class_labels": [0, 2]},
        ),
        "exact": (ours(ExactDenoiser.from_points(torch.eye(3), scheduler()), scheduler()), steps | {"batch_size": 2}),
        "exact images": (ours(exact_of_images(scheduler()), scheduler()), steps | guided),
        "foreign": (ours(tiny_foreign(), scheduler()), steps | {"batch_size": 2}),
        "linear attention": (ours(tiny_linear_attention(), scheduler()), steps),
    }


# In a process of its own -----------------------------------------------------------------------------------------------


def code(repository, revision=None):
    """A function that loads the pipeline of a repository with the code of the repository."""
    revisions = {} if revision is None else {"revision": revision, "custom_revision": revision}
    return {"custom_pipeline": repository, "trust_remote_code": True} | revisions


def test_loading_with_and_without_the_package(tmp_path, models):
    """Folders, and repositories over HTTP by id, by revision and private, give the same images, and the same files when saved."""
    images, cases = {}, []
    for name, (pipeline, options) in models.items():
        pipeline.save_pretrained(tmp_path / name)
        images[name] = sample(type(pipeline).from_pretrained(tmp_path / name), **options)
        assert_close(images[name], sample(pipeline, **options), **ROUNDING)

    def add(expected, name, repository, arguments, package=False, logged_in=False):
        again = str(tmp_path / "again" / str(len(cases)))
        case = {"repository": repository, "arguments": arguments, "options": models[name][1], "again": again}
        cases.append((expected, name, package, case | {"logged_in": logged_in}))

    refused = "ValueError.*trust_remote_code=True"
    for name in models:
        add("ours", name, str(tmp_path / name), code(str(tmp_path / name)))
    stock = ("plans", "DDPMPipeline", "DDPMPipeline")
    for name, without_trust, with_trust in (stock, ("classes", refused, "ours"), ("points", refused, "ours")):
        add(without_trust, name, str(tmp_path / name), {})
        add(with_trust, name, str(tmp_path / name), {"trust_remote_code": True})
    public, private = "someone/model", "someone/private"
    cascade = "someone/cascade"
    add(refused, "cascade", cascade, {})
    add("ours", "cascade", cascade, {"trust_remote_code": True})
    add("ours", "cascade", cascade, code(cascade))
    add(refused, "classes", public, {})
    add("ours", "classes", public, {"trust_remote_code": True})
    add("ours", "classes", public, code(public))
    add("DDPMPipeline", "head", public, {"revision": "v1"})
    add("ours", "head", public, code(public, "v1"))
    add("OSError: Cannot load model someone/private", "classifier", private, {})
    add("DDPMPipeline", "classifier", private, {"token": TOKEN})
    add("DDPMPipeline", "classifier", private, {}, logged_in=True)
    add("ours", "classifier", private, code(private), logged_in=True)
    for package_loads in ({}, {"trust_remote_code": True}):
        add("ours", "classes", public, package_loads, package=True)
    add("ours", "head", public, {"revision": "v1"}, package=True)
    add("ours", "classifier", private, {"token": TOKEN}, package=True)
    add("ours", "classifier", private, {}, package=True, logged_in=True)

    with running_hub() as hub:
        pushes = [
            (public, "head", False, "v1"),
            (public, "classes", False, None),
            (cascade, "cascade", False, None),
            (private, "classifier", True, None),
        ]
        cases.sort(key=lambda case: case[2])
        without, package = ([case for *_, loads, case in cases if loads == with_it] for with_it in (False, True))
        task = {"pushes": pushes, "without": without, "with": package, "token": TOKEN}
        report = run_process(tmp_path, task, hub.endpoint)
    for (expected, name, _, case), said in zip(cases, report, strict=True):
        if expected == "ours":
            assert said.get("class") == type(models[name][0]).__name__, (case, said)
            own = {"points": "MLPDenoiser", "exact": "ExactDenoiser", "exact images": "ExactDenoiser"}
            own["upscaler of classes"] = "DDPMUNet2DModel"
            own |= {"foreign": "ADMUNet2DModel", "linear attention": "LinearAttentionUNet2DModel"}
            network = own.get(name, "UNet2DModel")
            assert said["parts"] == [network, "GaussianDiffusionScheduler"], case
            # Products of matrices round by where in memory their numbers are.
            exactly = ROUNDING if name in ("points", "exact images") else {"rtol": 0, "atol": 0}
            assert_close(torch.tensor(said["images"]), images[name], **exactly)
            assert files(Path(case["again"])) == files(tmp_path / name), case
        elif expected == "DDPMPipeline":
            assert said.get("class") == expected, (case, said)
            assert said["parts"] == ["UNet2DModel", "DDPMScheduler"], case
            before = sample_stock(DiffusionPipeline.from_pretrained(tmp_path / name))
            assert torch.equal(torch.tensor(said["images"]), torch.from_numpy(before)), case
        else:
            assert re.match(expected, said["error"], re.DOTALL), (case, said)
            assert TOKEN not in said["error"]


def run_process(folder, task, endpoint):
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    (folder / "process.py").write_text(PROCESS, encoding="utf-8")
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "process.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


# In one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plans", "head", "classes", "classifier", "points", "exact", "exact images"])
def test_the_package_needs_no_trust_and_saves_the_same_folder(tmp_path, models, name):
    pipeline, options = models[name]
    pipeline.save_pretrained(tmp_path / "first")
    loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / "first")
    assert type(loaded) is GaussianDiffusionPipeline and type(loaded.scheduler) is GaussianDiffusionScheduler
    assert_close(sample(loaded, **options), sample(pipeline, **options), **ROUNDING)
    loaded.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "first")


def test_the_components_of_a_copy_are_taken_as_the_package_s_own(tmp_path, models, module_cache):
    pipeline, options = models["classifier"]
    pipeline.save_pretrained(tmp_path / "first")
    copy = DiffusionPipeline.from_pretrained(tmp_path / "first", **code(str(tmp_path / "first")))
    assert type(copy) is not GaussianDiffusionPipeline and type(copy).__name__ == "GaussianDiffusionPipeline"
    shared = GaussianDiffusionPipeline.from_pipe(copy)
    assert type(shared.scheduler) is GaussianDiffusionScheduler
    assert_close(sample(shared, **options), sample(pipeline, **options), **ROUNDING)
    shared.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "first")
    back = type(copy).from_pipe(shared)
    assert type(back.scheduler) is type(copy.scheduler)
    assert_close(sample(back, **options), sample(pipeline, **options), **ROUNDING)


def test_stock_classes_save_what_brings_everything_back(tmp_path, models):
    """Weights and configs; the code alone is not theirs to write."""
    models["plans"][0].save_pretrained(tmp_path / "first")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "first")
    assert type(stock) is DDPMPipeline
    stock.save_pretrained(tmp_path / "stock")
    assert "pipeline.py" not in files(tmp_path / "stock")
    GaussianDiffusionPipeline.from_pretrained(tmp_path / "stock").save_pretrained(tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "first")


def other_version(source):
    """The code with another name for one output type: as long as it was, so that Python takes the one's bytecode for both."""
    other = source.replace(b'("pil", "np", "pt", "latent")', b'("pil", "np", "pt", "LATENT")')
    assert other != source and len(other) == len(source)
    return other


def check_versions(loaded, folders, options, again):
    """Checks that each pipeline runs and saves its own code; `loaded` and `folders` have "first" and "other"."""
    images = sample(loaded["first"], **options)
    assert torch.equal(images, sample(GaussianDiffusionPipeline.from_pretrained(folders["first"]), **options))
    for version, own, others in (("first", "latent", "LATENT"), ("other", "LATENT", "latent")):
        assert isinstance(loaded[version], DiffusionPipeline) and loaded[version].unet is not None
        with pytest.raises(ValueError, match=f"output_type='{others}' is not one of"):
            loaded[version](**options | {"output_type": others})
        with pytest.raises(ValueError, match="may name"):  # past the check of its own output type
            loaded[version](**options | {"output_type": own, "callback_on_step_end_tensor_inputs": ("none",)})
        loaded[version].save_pretrained(again / version)
        assert files(again / version) == files(folders[version])


@pytest.fixture
def versions(tmp_path, models):
    """The folders of two versions of a model, written in one second."""
    folders = {version: tmp_path / version for version in ("first", "other")}
    for folder in folders.values():
        models["classes"][0].save_pretrained(folder)
    (folders["other"] / "pipeline.py").write_bytes(other_version(pipeline_bytes()))
    return folders


def test_two_versions_in_one_process(tmp_path, models, versions, module_cache):
    """Both run their own code and save it, though diffusers keeps the code of all folders in one place."""
    loaded = {
        version: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        for version, folder in versions.items()
    }
    check_versions(loaded, versions, models["classes"][1], tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(versions["first"], trust_remote_code=True)
    assert type(again) is type(loaded["first"])


@pytest.mark.parametrize("one_repository", [True, False])
def test_two_versions_in_one_process_over_http(tmp_path, models, versions, module_cache, hub, one_repository):
    """Two commits of one repository, and two repositories; by their commits, by the newest, and in each form of the docs."""
    repositories = {"first": "someone/model", "other": "someone/model" if one_repository else "someone/other"}
    commits = {version: hub.add(repositories[version], folder) for version, folder in versions.items()}
    loaded = {
        version: DiffusionPipeline.from_pretrained(
            repositories[version], **code(repositories[version], commits[version])
        )
        for version in versions
    }
    check_versions(loaded, versions, models["classes"][1], tmp_path / "again")
    newest = DiffusionPipeline.from_pretrained(repositories["other"], **code(repositories["other"]))
    assert type(newest) is type(loaded["other"])
    by_trust = DiffusionPipeline.from_pretrained(repositories["other"], trust_remote_code=True)
    assert type(by_trust) is type(loaded["other"])
    first = DiffusionPipeline.from_pretrained(repositories["first"], **code(repositories["first"], commits["first"]))
    assert type(first) is type(loaded["first"])


# The index ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network, scheduler, stock_runs",
    [
        ({}, {}, True),
        ({}, {"variance_type": "fixed_large_log"}, False),  # diffusers takes the root of a logarithm
        ({"sample_size": None}, {}, False),
        ({"variance_head": "learned_range"}, {"variance_type": "learned_range"}, True),
        ({"variance_head": "ocm"}, {"variance_type": "ocm"}, True),
        ({"variance_head": "learned_range"}, {"variance_type": "fixed_small"}, False),  # twice the channels, not split
        ({"variance_head": "learned_range"}, {"variance_type": "learned"}, False),
    ],
)
def test_the_index_names_the_stock_pipeline_where_it_runs(tmp_path, tiny_unet, network, scheduler, stock_runs):
    ours = GaussianDiffusionPipeline(tiny_unet(**network), GaussianDiffusionScheduler(**scheduler))
    ours.save_pretrained(tmp_path)
    own = ["pipeline", "GaussianDiffusionPipeline"]
    assert index(tmp_path)["_class_name"] == ("DDPMPipeline" if stock_runs else own)
    assert index(tmp_path)["unet"] == ["diffusers", "UNet2DModel"]
    assert index(tmp_path)["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert type(GaussianDiffusionPipeline.from_pretrained(tmp_path)) is GaussianDiffusionPipeline
    if stock_runs:
        images = sample_stock(DiffusionPipeline.from_pretrained(tmp_path))
        assert images.shape == (1, 8, 8, 1) and (images == images).all()


def sample_stock(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np").images


class OtherNetwork(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, in_channels=1):
        super().__init__()


def test_networks_that_are_no_u_net_keep_their_name():
    pipeline = GaussianDiffusionPipeline(OtherNetwork(), GaussianDiffusionScheduler())
    assert json.loads(pipeline.to_json_string())["unet"] == [__name__, "OtherNetwork"]


def test_schedulers_that_the_stock_pipeline_cannot_step(tmp_path, stock_unet):
    """DDPMPipeline does not scale the noise that it begins with."""
    for scheduler, name in ((DPMSolverMultistepScheduler, "DDPMPipeline"), (EulerDiscreteScheduler, ["pipeline"])):
        GaussianDiffusionPipeline(stock_unet, scheduler()).save_pretrained(tmp_path / scheduler.__name__)
        said = index(tmp_path / scheduler.__name__)["_class_name"]
        assert said == name or said[:1] == name
        loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / scheduler.__name__)
        assert type(loaded.scheduler) is scheduler


@pytest.mark.slow  # for the import of the compiler
def test_compiled_networks_are_saved_as_what_they_are(tmp_path, models):
    pipeline = models["classifier"][0]
    pipeline.save_pretrained(tmp_path / "plain")
    pipeline.unet, pipeline.classifier = torch.compile(pipeline.unet), torch.compile(pipeline.classifier)
    pipeline.save_pretrained(tmp_path / "compiled")
    assert files(tmp_path / "compiled") == files(tmp_path / "plain")


def test_no_pickle(tmp_path, models):
    pipeline = models["classifier"][0]
    with pytest.raises(ValueError, match="safe_serialization=False would write pickle"):
        pipeline.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    assert not (tmp_path / "pickle").exists()
    pipeline.save_pretrained(tmp_path / "model")
    assert {path.split(".")[-1] for path in files(tmp_path / "model")} == {"json", "py", "safetensors"}


# The file of code -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINES)
def test_a_file_shows_one_pipeline(tmp_path, name):
    """Diffusers takes the only pipeline of a file; each file exports its own, made from that of any other."""
    for source in (pipeline_bytes(), exporting(pipeline_bytes(), PIPELINES[-1])):
        (tmp_path / "pipeline.py").write_bytes(exporting(source, name))
        names = {"__name__": "a_module", "__file__": str(tmp_path / "pipeline.py")}
        exec(exporting(source, name), names)
        shown = [each for each in names.values() if isinstance(each, type) and issubclass(each, DiffusionPipeline)]
        assert [each.__name__ for each in shown if each.__module__.split(".")[0] != "diffusers"] == [name]


def test_the_file_is_whole_and_the_same_every_time():
    source = pipeline_source()
    assert source.encode() == pipeline_bytes()
    assert f"ddpm_hf {__version__}" in source and "Apache-2.0" in source
    imported, pipelines = set(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.ClassDef) and "DiffusionPipeline" in [ast.unparse(base) for base in node.bases]:
            pipelines.append(node.name)
    assert imported - sys.stdlib_module_names == LIBRARIES
    assert pipelines == ["GaussianDiffusionPipeline", "GaussianDiffusionCascadePipeline"]
    for module in ("ddpm_hf.schedulers.timestep_spacings", *TRAVELLING):
        assert f"# {module} -" in source


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes the files of a package: `package(a="x = 1")` is the module `parts.a`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "parts").mkdir()

    def write(**sources):
        (tmp_path / "parts" / "__init__.py").touch()
        for name, source in sources.items():
            (tmp_path / "parts" / f"{name}.py").write_text(source, encoding="utf-8")

    yield write
    sys.modules.pop("parts", None)


def test_files_are_put_together_in_the_order_of_their_dependence(package):
    package(
        first='"""First."""\n\nimport math\n\nlog = math.log\n\n\n# Of a disc.\ndef area(r):\n    return math.pi * r**2\n',
        second="from parts.first import area\nimport math\nimport json as j\n\nlog = math.log\nAREA = area(2)\n",
        third="from parts.second import AREA\nfrom parts.first import area\n\nBOTH = AREA + area(1)\n",
    )
    source = assemble("parts.third")
    assert source.startswith("import json as j\nimport math\n\n\n# parts.first ---")
    assert source.count("log = math.log") == 1 and "# First." in source and "# Of a disc.\ndef area" in source
    assert "from parts" not in source
    names = {}
    exec(source, names)
    assert names["BOTH"] == pytest.approx(5 * 3.14159265)


@pytest.mark.parametrize(
    "sources, message",
    [
        ({"a": "from parts.b import x\n\ny = 1", "b": "x = 1\ny = 2"}, "Both parts.b and parts.a define 'y'"),
        (
            {"a": "from parts.b import x\nfrom math import log", "b": "from cmath import log\nx = 1"},
            "'log' from math, ",
        ),
        (
            {"a": "from parts.b import x\n\ndef log(): pass", "b": "from math import log\nx = 1"},
            "a defines 'log', which",
        ),
        ({"a": "from parts.b import z", "b": "x = 1"}, "imports 'z' from parts.b, which does not define it"),
        ({"a": "import datasets.io"}, "to where datasets may be missing; PIL, diffusers, numpy, torch are there"),
        ({"a": "def f():\n    import yaml"}, "parts.a, line 2: `import yaml` travels to where yaml may be missing"),
        ({"a": "def f():\n    from parts.b import x", "b": "x = 1"}, "at the top of the file"),
        ({"a": "from parts.b import x as y", "b": "x = 1"}, "without `as`"),
        ({"a": "from . import b", "b": "x = 1"}, "must be `from module import name`"),
        ({"a": "if True:\n    x = 1"}, "only imports, definitions and assignments may stand, not If"),
    ],
)
def test_files_that_do_not_go_together(package, sources, message):
    package(**sources)
    with pytest.raises(ValueError, match=message):
        assemble("parts.a")
