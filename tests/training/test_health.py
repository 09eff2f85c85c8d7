"""Statistics of training, and updates whose loss or gradient is not finite."""

import csv
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import ImagesInMemory, to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.health import UpdateStatistics, refuse_nonfinite
from ddpm_hf.training.objectives import make_objective
from ddpm_hf.training.timestep_samplers import ImportanceTimesteps, make_timestep_sampler
from ddpm_hf.training.train import make_scheduler, train
from ddpm_hf.training.trainer import Trainer


class SomeSpoiled(ImagesInMemory):
    """Images in [-1, 1]; the batches of these numbers, counted from 1, have a NaN in one pixel."""

    def __init__(self, tensors, spoiled):
        super().__init__(tensors)
        self.spoiled, self.number = spoiled, 0

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        self.number += 1
        if self.number in self.spoiled:
            batch["images"][0, 0, 0, 0] = torch.nan
        return batch


@pytest.fixture
def make_trainer(tmp_path, pixels, tiny_unet, make_accelerator):
    """make_trainer(name, spoiled, **options): a trainer that has resumed what the folder `name` holds."""

    def make(name="run", spoiled=(), **options):
        defaults = {"max_train_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 0, "sample_every": 0}
        defaults["unet"] = "fashion_mnist"  # its settings; the network itself is another
        args = TrainingArguments(**defaults | {"output_dir": str(tmp_path / name), "learning_rate": 1e-2} | options)
        (tmp_path / name).mkdir(exist_ok=True)
        accelerator = make_accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps)
        images = SomeSpoiled({"images": to_model_range(torch.from_numpy(pixels[:, None]))}, spoiled)
        trainer = Trainer(args, accelerator, tiny_unet(), make_scheduler(args), images, args.max_train_steps)
        trainer.resume()
        return trainer

    return make


def what_updates_change(trainer):
    """Weights, and the state of the optimizer: means of gradients and the number of updates."""
    states = trainer.optimizer.state_dict()["state"].values()
    return [p.detach().clone() for p in trainer.parameters] + [v.clone() for state in states for v in state.values()]


def assert_same(first, second):
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("averaged", [False, True], ids=["weights", "averages"])
def test_weights_that_are_not_finite_are_never_saved(make_trainer, averaged):
    trainer = make_trainer(max_train_steps=2, checkpoint_every=1)
    finish_update = trainer._finish_update

    def spoil_after_the_second():
        finish_update()
        if trainer.progress.step == 2:
            (trainer.ema.shadow_params if averaged else trainer.parameters)[3].data.view(-1)[0] = torch.inf

    trainer._finish_update = spoil_after_the_second
    with pytest.raises(
        InputError, match=r"1 of \d+ weights and averages are not finite after update 2, so they are not saved"
    ):
        trainer.fit()
    assert list(list_checkpoints(trainer.folder)) == [1]


def test_samples_that_are_not_finite_end_the_run_with_a_sentence(make_trainer):
    trainer = make_trainer(max_train_steps=1, num_samples=2, sample_steps=2)
    with torch.no_grad():
        trainer.ema.shadow_params[0].fill_(torch.inf)
    with pytest.raises(InputError, match="2 of 2 samples are not finite"):
        trainer.sample()


def test_a_network_that_is_not_finite_makes_no_model(tmp_path, image_folder, tiny_unet):
    unet = tiny_unet()
    unet.conv_in.weight.data.fill_(torch.nan)
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler()).save_pretrained(tmp_path / "start")
    options = {"dataset": image_folder, "init_from": str(tmp_path / "start"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match="not finite in the last 2 updates|are not finite after update"):
        train(TrainingArguments(**options, max_train_steps=2, batch_size=4, num_samples=1, sample_steps=2))
    assert not (tmp_path / "run" / "model_index.json").exists()


@pytest.mark.parametrize(("spoiled", "options"), [({3, 4, 5}, {}), ({3}, {"gradient_accumulation_steps": 2})])
def test_an_update_that_is_not_finite_changes_nothing(make_trainer, spoiled, options):
    """The next finite update continues from there, with the same batch, noise and learning rate as if it were the first."""
    spoiled = {number for update in spoiled for number in ([update * 2] if options else [update])}
    trainer = make_trainer(spoiled=spoiled, max_train_steps=6, log_every=6, **options)
    states = []
    finish_update = trainer._finish_update
    trainer._finish_update = lambda: (finish_update(), states.append(what_updates_change(trainer)))
    trainer.fit()
    changed = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in pairwise(states)]
    steps_per_update = 2 if options else 1
    assert changed == [number * steps_per_update not in spoiled for number in (2, 3, 4, 5, 6)]
    (row,) = read_rows(trainer.folder / "loss.csv")
    assert row["skipped_updates"] == len(spoiled)
    assert 0 < row["loss"] < 3 and row["grad_norm"] > 0  # means of what was finite


def test_learning_rate_and_average_count_every_update(make_trainer):
    options = {"lr_scheduler": "linear", "max_train_steps": 5, "ema_power": 0.5}
    spoiled, whole = make_trainer("spoiled", {2, 3}, **options), make_trainer("whole", **options)
    spoiled.fit()
    whole.fit()
    assert spoiled.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()
    rows = [read_rows(trainer.folder / "loss.csv") for trainer in (spoiled, whole)]
    assert [[row["lr"] for row in run] for run in rows[:1]] == [[row["lr"] for row in run] for run in rows[1:]]
    assert [row["ema_decay"] for row in rows[0]] == [row["ema_decay"] for row in rows[1]]
    assert all(torch.isfinite(p).all() for p in spoiled.ema.shadow_params)


def test_a_loss_that_overflows_spoils_its_finite_gradient():
    x = torch.tensor([1e30], requires_grad=True)
    x.square().sum().backward()
    assert x.square().isinf() and x.grad.isfinite()
    x.grad = None
    refuse_nonfinite(x.square().sum()).backward()
    assert x.grad.isnan()
    y = torch.tensor([3.0], requires_grad=True)
    refuse_nonfinite(y.square().sum()).backward()
    assert y.grad == 6


def test_after_too_many_in_a_row_it_stops_with_a_checkpoint_from_before(make_trainer):
    trainer = make_trainer(spoiled=set(range(6, 99)), max_train_steps=20, max_nonfinite_steps=4)
    before = make_trainer("before", max_train_steps=5)
    before.fit()
    message = r"after update 10: .* in the last 5 updates, from 6 on \(5 of all\).* checkpoint of step 10 .* 0\.01"
    with pytest.raises(InputError, match=message):
        trainer.fit()
    assert_same(what_updates_change(trainer), what_updates_change(before))
    assert list(list_checkpoints(trainer.folder)) == [10]
    resumed = make_trainer(max_train_steps=20, max_nonfinite_steps=4)
    assert resumed.progress.step == 10
    assert_same(what_updates_change(resumed), what_updates_change(before))
    resumed.fit()
    assert read_rows(trainer.folder / "loss.csv")[-1]["skipped_updates"] == 5
    assert all(p.isfinite().all() for p in resumed.parameters)


def test_checkpoints_from_before_are_kept(make_trainer):
    options = {"max_train_steps": 20, "max_nonfinite_steps": 3, "checkpoint_every": 2, "checkpoints_limit": 1}
    trainer = make_trainer(spoiled=set(range(5, 99)), log_every=5, **options)
    with pytest.raises(InputError, match=r"after update 10: .* from 5 on .* checkpoint of step 4 "):
        trainer.fit()
    assert list(list_checkpoints(trainer.folder)) == [4]
    trainer = make_trainer("odd", spoiled=set(range(6, 99)), log_every=5, **options)
    with pytest.raises(InputError, match=r"after update 10: .* checkpoint of step 10 "):
        trainer.fit()
    assert list(list_checkpoints(trainer.folder)) == [4, 10]


def test_a_row_that_ended_does_not_stop_it(make_trainer):
    trainer = make_trainer(spoiled={2, 3, 4}, max_train_steps=6, log_every=5, max_nonfinite_steps=3)
    trainer.fit()
    assert [row["skipped_updates"] for row in read_rows(trainer.folder / "loss.csv")] == [3, 3]


class HostReads(TorchFunctionMode):
    """Counts what makes a host wait for a device: reading a value, or a shape that depends on values."""

    WAITING = (
        *("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"),
        *("nonzero", "argwhere", "masked_select", "unique", "equal", "allclose", "is_nonzero"),
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.WAITING:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"timestep_sampling": "importance"}, {"ema": "power"}])
def test_nothing_is_read_between_logs(make_trainer, options):
    trainer = make_trainer(spoiled={3}, max_train_steps=8, log_every=4, **options)
    counts = []

    def counting(work):
        def work_and_count(*args):
            before = len(reads.found)
            work(*args)
            counts.append(len(reads.found) - before)

        return work_and_count

    trainer.learn, trainer._finish_update = counting(trainer.learn), counting(trainer._finish_update)
    scheduler, images, timesteps = trainer.scheduler, torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    with HostReads() as of_add_noise:  # timesteps that are on the host, as on a CPU, are looked at there
        scheduler.add_noise(images, images, timesteps)
    with HostReads() as reads:
        trainer.fit()
    learning, finishing = counts[::2], counts[1::2]
    assert learning == [len(of_add_noise.found)] * 8
    assert [count > 0 for count in finishing] == [False, False, False, True] * 2  # where it logs


class HostCopies(TorchFunctionMode):
    """Collects what takes values from the host to a device: the host waits for the copy, if they are not in pinned memory."""

    # They make a tensor of the host, whichever device they are asked for.
    MAKING = ("tensor", "new_tensor")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)]
        if func.__name__ in self.MAKING or len({tensor.device for tensor in tensors}) > 1:
            self.found.append(func)
        return result


@pytest.mark.parametrize(
    ("objective", "variance_head", "sampling"),
    [
        ("simple", None, "low_discrepancy"),
        ("hybrid", "learned_range", "uniform"),
        ("vlb", None, "importance"),
        ("vlb", "learned_range", "importance"),
        ("npr", "npr", "uniform"),
        ("sn", "sn", "uniform"),
        ("ocm", "ocm", "uniform"),
    ],
)
def test_nothing_is_read_from_a_device_or_copied_to_it(tiny_unet, objective, variance_head, sampling):
    """On one whose tensors have no values, so that reading them is an error. The first batch may make tables."""
    scheduler = GaussianDiffusionScheduler(
        variance_type=variance_head or "fixed_small", prediction_type="v_prediction"
    )
    device = torch.device("meta")
    network = tiny_unet(variance_head=variance_head, num_classes=3).to(device)
    accelerator = SimpleNamespace(
        device=device, gather=lambda tensors: tensors, gradient_accumulation_steps=1, num_processes=1
    )
    sampler = make_timestep_sampler(sampling, len(scheduler), accelerator, seed=0)
    statistics = UpdateStatistics(len(scheduler), accelerator)
    loss_of = make_objective(objective, scheduler, min_snr_gamma=5.0, device=device)
    images, labels = torch.zeros(4, 1, 8, 8, device=device), torch.zeros(4, dtype=torch.int64, device=device)

    def learn():
        timesteps, weights = sampler.sample(4, 0)
        losses = loss_of(network, images, timesteps, labels)
        loss = (weights * losses).mean()
        refuse_nonfinite(loss).backward()
        statistics.add_update(torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0))
        sampler.update(timesteps, losses)
        statistics.add_losses(loss, timesteps, weights, losses)

    learn()
    with HostCopies() as copies:
        learn()
    assert copies.found == []


def test_losses_by_quartile_are_means_over_its_timesteps(make_accelerator):
    """The timesteps are drawn by importance, with the weights 1 / (T p_t); the last quartile has none."""
    statistics = UpdateStatistics(100, make_accelerator())
    torch.manual_seed(0)
    p = torch.rand(75)
    p /= p.sum()
    of_timestep = torch.arange(100.0).square()
    for _ in range(20):
        timesteps = torch.multinomial(p, 5000, replacement=True)
        weights, losses = 1 / (100 * p[timesteps]), of_timestep[timesteps]
        statistics.add_losses((weights * losses).mean(), timesteps, weights, losses)
    means = statistics.means()
    for number, quarter in enumerate(of_timestep[:75].split(25), 1):
        assert means[f"loss_quartile_{number}"] == pytest.approx(quarter.mean().item(), rel=0.05)
    assert means["loss_quartile_4"] != means["loss_quartile_4"]  # NaN: nothing was seen of it
    statistics.begin_interval()
    statistics.add_losses(torch.tensor(torch.inf), torch.tensor([0, 1]), torch.ones(2), torch.tensor([torch.inf, 5.0]))
    statistics.add_losses(torch.tensor(3.0), torch.tensor([2, 99]), torch.ones(2), torch.tensor([1.0, 5.0]))
    means = statistics.means()
    assert (means["loss"], means["loss_quartile_1"], means["loss_quartile_4"]) == (3, 3, 5)


def test_importance_does_not_learn_from_what_is_not_finite():
    sampler = ImportanceTimesteps(4, "cpu", lambda pair: pair, history_size=2)
    timesteps = torch.arange(4).repeat(2)
    sampler.update(timesteps, torch.tensor([1.0, 2.0, 3.0, 4.0] * 2))
    learned = sampler.probabilities()
    sampler.update(timesteps, torch.tensor([torch.nan, torch.inf, -torch.inf, 4.0] * 2))
    assert torch.equal(sampler.probabilities(), learned)


def test_the_log_goes_on_where_it_was_interrupted(make_trainer):
    """The run stops in the middle of an interval, with a skipped update in it."""
    options = {"max_train_steps": 6, "log_every": 4, "checkpoint_every": 3}
    whole = make_trainer("whole", {2}, **options)
    whole.fit()
    stopped = make_trainer("stopped", {2}, **options)
    stopped.images.spoiled = {2, 5}

    class Unplugged(Exception):
        pass

    def unplug(indices):
        if stopped.images.number == 4:
            raise Unplugged
        return SomeSpoiled.__getitems__(stopped.images, indices)

    stopped.images.__getitems__ = unplug
    with suppress(Unplugged):
        stopped.fit()
    resumed = make_trainer("stopped", **options)
    assert resumed.progress.step == 3
    resumed.fit()
    rows = [read_rows(trainer.folder / "loss.csv") for trainer in (whole, resumed)]
    for row in [*rows[0], *rows[1]]:
        del row["images_per_second"], row["peak_memory_gb"]
    assert rows[0] == rows[1]


def test_the_log_has_what_it_promises(make_trainer):
    trainer = make_trainer()
    trainer.fit()
    with open(trainer.folder / "loss.csv", encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    assert header == [
        *("step", "loss", "grad_norm", "loss_quartile_1", "loss_quartile_2", "loss_quartile_3", "loss_quartile_4"),
        *("lr", "images_per_second", "ema_decay", "skipped_updates", "peak_memory_gb"),
    ]
    rows = read_rows(trainer.folder / "loss.csv")
    assert rows[0]["ema_decay"] == pytest.approx(1 - 2**-0.75)
    assert 0.05 < rows[0]["peak_memory_gb"] < 64


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "log_every": 2},
        **{"max_train_steps": 4, "batch_size": 4, "num_samples": 1, "sample_steps": 2, "checkpoint_every": 0},
    }


def test_bits_per_dim_of_held_out_images(options, tmp_path, pixels):
    held_out = {"split": "train[:12]", "eval_split": "train[12:]", "eval_every": 2, "eval_steps": 3}
    folder = train(TrainingArguments(**options, **held_out))
    rows = read_rows(folder / "bits_per_dim.csv")
    assert [row["step"] for row in rows] == [2, 4]
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    images = torch.from_numpy(pixels[12:, None])
    measured = bits_per_dim(pipeline.unet, pipeline.scheduler, images, num_inference_steps=3)
    assert rows[1]["bits_per_dim"] == pytest.approx(measured.total, rel=1e-6)
    assert rows[1]["bits_per_dim_standard_error"] == pytest.approx(measured.standard_error, rel=1e-6)
    assert rows[0]["bits_per_dim"] != rows[1]["bits_per_dim"]
    without = train(TrainingArguments(**options | {"split": "train[:12]", "output_dir": str(tmp_path / "without")}))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == (without / name).read_bytes()
    assert not (without / "bits_per_dim.csv").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "eval_every=2 needs images that are not trained on: name their split with --eval_split"),
        ({"eval_split": "train"}, "eval_split='train' is trained on"),
        ({"eval_split": "train[:2]", "eval_steps": 2000}, "eval_steps=2000 must be at most num_train_timesteps=1000"),
        ({"eval_split": "valid"}, "Cannot read split 'valid'"),
    ],
)
def test_what_cannot_be_held_out_is_refused(options, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options, eval_every=2, **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_skip_what_one_of_them_cannot_use(tmp_path, tiny_pipeline, on_two_processes):
    (tmp_path / "run").mkdir()
    (tmp_path / "run.py").write_text(
        f"""
import sys
import torch
from accelerate import Accelerator
from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer
sys.path.insert(0, "{Path(__file__).parent}")
from test_health import SomeSpoiled
torch.set_num_threads(1)
args = TrainingArguments(
    unet="small_32", output_dir="{tmp_path}/run", max_train_steps=5, batch_size=2, log_every=5, checkpoint_every=0, sample_every=0
)
accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
images = torch.randn(16, 1, 8, 8)
data = SomeSpoiled({{"images": images}}, {{2, 4}} if accelerator.process_index else {{3}})
unet = GaussianDiffusionPipeline.from_pretrained("{tiny_pipeline}").unet
trainer = Trainer(args, accelerator, unet, make_scheduler(args), data, 5)
trainer.resume()
trainer.fit()
torch.save([p.detach() for p in trainer.parameters], f"{tmp_path}/{{accelerator.process_index}}.pt")
""",
        encoding="utf-8",
    )
    on_two_processes(str(tmp_path / "run.py"))
    first, second = (torch.load(tmp_path / f"{process}.pt") for process in (0, 1))
    assert_same(first, second)
    assert all(p.isfinite().all() for p in first)
    (row,) = read_rows(tmp_path / "run" / "loss.csv")
    assert row["skipped_updates"] == 3
