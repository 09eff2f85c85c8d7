"""A run that is interrupted and continued is the run that was not."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.data import ImagesInMemory
from ddpm_hf.training.loss_curve import read_rows
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer

STEPS = 9


class PullThePlug(ImagesInMemory):
    """Raises when the batches that were asked for are used up."""

    def __init__(self, tensors, after):
        super().__init__(tensors)
        self.left = after

    def __getitems__(self, indices):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__getitems__(indices)


@pytest.fixture
def start(tmp_path, pixels, tiny_unet, make_accelerator):
    """start(name, after=None, **options): a trainer that has resumed what the folder `name` holds, and has trained."""
    # 11 images and batches of 4: no epoch ends with a batch.
    tensors = {"images": torch.from_numpy(pixels[:11, None]), "labels": torch.arange(11) % 3}

    def start(name, after=-1, **options):
        defaults = {"max_train_steps": STEPS, "batch_size": 4, "checkpoint_every": 2, "log_every": 3, "ema_power": 0.5}
        defaults |= {"sample_every": 0, "lr_warmup_steps": 4, "lr_scheduler": "cosine", "learning_rate": 1e-2}
        args = TrainingArguments(**defaults | {"output_dir": str(tmp_path / name), "random_flip": True} | options)
        (tmp_path / name).mkdir(exist_ok=True)
        accelerator = make_accelerator(
            gradient_accumulation_steps=args.gradient_accumulation_steps, mixed_precision=args.mixed_precision
        )
        unet = tiny_unet(dropout=0.3, num_classes=3, variance_head=args.variance_head)
        images = PullThePlug(tensors, after)
        torch.manual_seed(0)
        trainer = Trainer(args, accelerator, unet, make_scheduler(args), images, args.max_train_steps, 3)
        trainer.resume()
        with suppress(KeyboardInterrupt):
            trainer.fit()
        return trainer

    return start


def assert_equal_runs(first, second):
    assert first.progress.step == second.progress.step
    for a, b in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.ema.shadow_params, second.ema.shadow_params, strict=True):
        assert torch.equal(a, b)
    states = [trainer.optimizer.state_dict()["state"] for trainer in (first, second)]
    for i in states[0]:
        for name, value in states[0][i].items():
            assert torch.equal(value, states[1][i][name])
    assert first.lr_scheduler.get_last_lr() == second.lr_scheduler.get_last_lr()
    logs = [read_rows(trainer.folder / "loss.csv") for trainer in (first, second)]
    assert [(r["step"], r["loss"], r["lr"]) for r in logs[0]] == [(r["step"], r["loss"], r["lr"]) for r in logs[1]]


VARIANTS = {
    "float32": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "bf16": {"mixed_precision": "bf16"},
    "low_discrepancy": {
        "timestep_sampling": "low_discrepancy",
        "objective": "hybrid",
        "variance_head": "learned_range",
    },
    # Two timesteps, so that the sampler knows enough to leave its uniform beginning on the way.
    "importance": {
        **{"objective": "vlb", "variance_head": "learned_range"},
        **{"num_train_timesteps": 2, "beta_schedule": "squaredcos_cap_v2"},
    },
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_interrupted_is_uninterrupted_bit_by_bit(start, options):
    whole = start("whole", **options)
    assert whole.progress.step == STEPS
    # Three interruptions: within the first interval of checkpoints, in the middle, and just after a checkpoint;
    # with accumulation two of them fall between the batches of one update.
    for after in (1, 7, 4, -1):
        parts = start("parts", after=after, **options)
    assert_equal_runs(whole, parts)


def test_the_importance_sampler_learns_on_the_way_and_is_in_the_checkpoint(start):
    interrupted = start("run", after=7, **VARIANTS["importance"])
    sampler = start("run", after=0, **VARIANTS["importance"]).timestep_sampler
    assert sampler.counts.sum() == 6 * 4  # as far as the newest checkpoint
    assert interrupted.timestep_sampler.counts.sum() == 7 * 4
    p = start("run", **VARIANTS["importance"]).timestep_sampler.probabilities()
    assert (p[0] - p[1]).abs() > 0.01


def test_a_continued_run_is_not_the_start_of_another(start):
    """The comparison above would pass if nothing were random or nothing were learned."""
    other = start("other", seed=1)
    whole = start("whole")
    assert not torch.equal(whole.parameters[0], other.parameters[0])
    assert not torch.equal(whole.parameters[0], whole.ema.shadow_params[0])


def test_sampling_does_not_disturb_training(start):
    silent = start("silent")
    drawing = start("drawing", sample_every=2, num_samples=2, sample_steps=2)
    assert sorted(p.name for p in (drawing.folder / "samples").iterdir()) == [
        f"step-{s:06d}.png" for s in (2, 4, 6, 8)
    ]
    assert_equal_runs(silent, drawing)


def test_only_the_newest_checkpoints_are_kept(start):
    trainer = start("run", checkpoints_limit=2)
    assert list(list_checkpoints(trainer.folder)) == [6, 8]


def test_the_log_forgets_what_came_after_the_checkpoint(start):
    interrupted = start("run", after=3, checkpoint_every=2, log_every=1)
    assert [row["step"] for row in read_rows(interrupted.folder / "loss.csv")] == [1, 2, 3]
    resumed = start("run", after=1, checkpoint_every=2, log_every=1)
    assert [row["step"] for row in read_rows(resumed.folder / "loss.csv")] == [1, 2, 3]
    assert resumed.progress.step == 3


def test_half_a_checkpoint_is_none(start, tmp_path):
    """A save that was cut short leaves a folder by another name, which is not read and does not stand in the way."""
    folder = tmp_path / "run" / "checkpoints" / "step-000002.tmp"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path / "run") == {}
    trainer = start("run", after=2)
    assert list(list_checkpoints(trainer.folder)) == [2]
    assert not folder.exists()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_learning_rate_counts_updates(start, accumulation):
    trainer = start(
        "run",
        gradient_accumulation_steps=accumulation,
        lr_scheduler="linear",
        lr_warmup_steps=4,
        learning_rate=1.0,
        log_every=1,
    )
    rates = [row["lr"] for row in read_rows(trainer.folder / "loss.csv")]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2])
    assert trainer.ema.optimization_step == STEPS


def test_logged_loss_is_the_mean_of_its_interval(start):
    each = read_rows(start("each", log_every=1).folder / "loss.csv")
    thirds = read_rows(start("thirds", log_every=3).folder / "loss.csv")
    means = np.mean([row["loss"] for row in each], axis=None)
    np.testing.assert_allclose(np.mean([row["loss"] for row in thirds]), means, rtol=1e-6)
    np.testing.assert_allclose(thirds[0]["loss"], np.mean([row["loss"] for row in each[:3]]), rtol=1e-6)
    assert [row["step"] for row in thirds] == [3, 6, 9]
