"""An interrupted and continued run equals an uninterrupted one."""

import json
import os
import random
import re
import shutil
import signal
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ddpm_hf.data import ImagesInMemory
from ddpm_hf.errors import InputError
from ddpm_hf.interruptions import Interrupted
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training import own_state
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoint_manifest import MANIFEST, read_manifest, write_manifest
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer

STEPS = 9


class PullThePlug(ImagesInMemory):
    """When the batches that were asked for are used up: raises, or sends this process a signal and goes on."""

    def __init__(self, tensors, after, signum=None):
        super().__init__(tensors)
        self.left, self.signum = after, signum

    def __getitems__(self, indices):
        if self.left == 0 and self.signum is None:
            raise KeyboardInterrupt
        if self.left == 0:
            os.kill(os.getpid(), self.signum)
        self.left -= 1
        return super().__getitems__(indices)


@pytest.fixture
def start(tmp_path, pixels, tiny_unet, make_accelerator):
    """start(name, after=None, **options): a trainer that has resumed what the folder `name` holds, and has trained.

    With `signum` that signal comes after so many batches, with `plug` this is done with the trainer before it trains; with
    `images` it is so many of them, with `network` options of another network.
    """
    # 11 images and batches of 4: no epoch ends with a batch.
    tensors = {"images": torch.from_numpy(pixels[:11, None]), "labels": torch.arange(11) % 3}

    def start(name, after=-1, signum=None, plug=lambda trainer: None, images=11, network=None, **options):
        defaults = {"max_train_steps": STEPS, "batch_size": 4, "checkpoint_every": 2, "log_every": 3, "ema_power": 0.5}
        defaults["unet"] = "fashion_mnist"  # its settings; the network itself is another
        defaults |= {"sample_every": 0, "lr_warmup_steps": 4, "lr_scheduler": "cosine", "learning_rate": 1e-2}
        args = TrainingArguments(**defaults | {"output_dir": str(tmp_path / name), "random_flip": True} | options)
        (tmp_path / name).mkdir(exist_ok=True)
        accelerator = make_accelerator(
            gradient_accumulation_steps=args.gradient_accumulation_steps, mixed_precision=args.mixed_precision
        )
        unet = tiny_unet(dropout=0.3, num_classes=3, variance_head=args.variance_head, **network or {})
        images = PullThePlug({name: tensor[:images] for name, tensor in tensors.items()}, after, signum)
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        trainer = Trainer(args, accelerator, unet, make_scheduler(args), images, args.max_train_steps)
        trainer.resume()
        plug(trainer)
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


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}], ids=["batches", "accumulated"])
def test_a_signal_stops_within_the_update_with_a_checkpoint(start, options):
    whole = start("whole", **options)
    batches = options.get("gradient_accumulation_steps", 1)
    # The signal comes while a batch is read; then the update that it belongs to is made, and no other. Steps 4 and 8 would
    # have had a checkpoint anyway.
    for signum, after, step in ((signal.SIGTERM, 2, 3), (signal.SIGINT, 0, 4), (signal.SIGUSR1, 3, 8)):
        parts = start("parts", after=after * batches, signum=signum, **options)
        assert parts.progress.step == step
        assert max(list_checkpoints(parts.folder)) == step
    parts = start("parts", **options)
    assert_equal_runs(whole, parts)
    assert files_of(whole.folder / "checkpoints" / "step-000009") == files_of(
        parts.folder / "checkpoints" / "step-000009"
    )


def test_a_signal_in_the_last_update_leaves_nothing_to_train(start):
    assert start("run", after=STEPS - 1, signum=signal.SIGINT).progress.step == STEPS
    assert start("run", after=0).progress.step == STEPS


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def fail():
    raise KeyboardInterrupt


@pytest.mark.parametrize("what_happens", [stop, fail])
def test_what_happens_while_sampling_loses_no_update_and_samples_are_drawn_later(start, what_happens):
    options = {"sample_every": 4, "num_samples": 2, "sample_steps": 3}
    whole = start("whole", **options)

    def stop_when_sampling(trainer):
        def hook(unet, inputs):
            calls.append(trainer.progress.step)
            if not unet.training:
                what_happens()

        trainer.model.register_forward_pre_hook(hook)

    calls = []
    stopped = start("parts", plug=stop_when_sampling, **options)
    assert calls == [0, 1, 2, 3, 4]  # four updates, and the first of three calls for samples
    assert max(list_checkpoints(stopped.folder)) == 4 and not (stopped.folder / "samples").exists()
    parts = start("parts", **options)
    assert_equal_runs(whole, parts)
    grids = [
        {p.name: p.read_bytes() for p in sorted((trainer.folder / "samples").iterdir())} for trainer in (whole, parts)
    ]
    assert grids[0] == grids[1] and list(grids[0]) == ["step-000004.png", "step-000008.png"]


def test_what_a_stopped_run_says(start, tmp_path):
    def fit(trainer):
        with pytest.raises(
            Interrupted, match=r"Stopped by SIGTERM. .*run has a checkpoint of step 2 of 9.*same command"
        ) as e:
            trainer.fit()
        assert e.value.exit_code == 143
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        start("run", after=1, signum=signal.SIGTERM, plug=fit)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_random_states_are_restored(start):
    start("run", after=3, signum=signal.SIGTERM, plug=lambda trainer: random.random() + np.random.rand())
    states = []
    for _ in range(2):
        random.seed(7), np.random.seed(7), torch.manual_seed(7)
        start(
            "run",
            plug=lambda trainer: states.append((random.random(), np.random.rand(), torch.rand(1).item())),
            after=0,
        )
    assert states[0] == states[1]
    random.seed(7), np.random.seed(7)
    assert states[0][:2] != (random.random(), np.random.rand())


# Damage --------------------------------------------------------------------------------------------------------------


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:100])


DAMAGES = {
    "a bit of the weights": (
        "model.safetensors",
        flip_a_bit,
        "model.safetensors does not have the content that was written",
    ),
    "a bit of a random state": ("random_states_0.pkl", flip_a_bit, "random_states_0.pkl does not have the content"),
    "the end of the optimizer": ("optimizer.bin", cut_off, "optimizer.bin has 100 bytes instead of "),
    "a file": ("training_state.safetensors", os.remove, "training_state.safetensors cannot be read .No such file"),
    "the manifest": ("manifest.json", os.remove, "manifest.json is missing"),
    "a bit of the manifest": ("manifest.json", flip_a_bit, "manifest.json cannot be read"),
    "the end of the manifest": ("manifest.json", cut_off, "manifest.json cannot be read"),
}


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(start, tmp_path, caplog):
    whole = start("whole")
    start("run", after=5)
    shutil.copytree(tmp_path / "run", tmp_path / "original")
    for name, damage, message in DAMAGES.values():
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "original", tmp_path / "run")
        damage(tmp_path / "run" / "checkpoints" / "step-000004" / name)
        caplog.clear()
        assert start("run", after=0).progress.step == 2
        assert re.search(f"step-000004 is damaged and the one before it is used: {message}", caplog.text)
    # It makes way for the same step, written anew.
    resumed = start("run", after=2, signum=signal.SIGTERM)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005"] and resumed.progress.step == 5
    assert_equal_runs(whole, start("run"))


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(start, tmp_path):
    start("run", after=5)
    for step in (2, 4):
        cut_off(tmp_path / "run" / "checkpoints" / f"step-00000{step}" / "optimizer.bin")
    before = files_of(tmp_path / "run")
    with pytest.raises(
        InputError, match=r"None of the checkpoints .* can be used \(step-000004: optimizer.bin has 100.*"
    ):
        start("run")
    assert files_of(tmp_path / "run") == before


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# What a checkpoint may not do ----------------------------------------------------------------------------------------


class Code:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def put_in(checkpoint, name, state):
    """Replaces a file of a checkpoint, or adds one, and writes the manifest anew."""
    torch.save(state, checkpoint / name)
    about = read_manifest(checkpoint)
    del about["files"]
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint, about)


def with_parts_as_pickles(checkpoint):
    """A checkpoint in the form before the parts had a file that cannot run code."""
    with safe_open(checkpoint / own_state.FILE, "pt") as file:
        state = own_state._with_tensors(json.loads(file.metadata()["state"]), file)
    (checkpoint / own_state.FILE).unlink()
    for number, part in enumerate(state.values()):
        put_in(checkpoint, f"custom_checkpoint_{number}.pkl", part)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optimizer.bin", "optimizer.bin in .*step-000002 holds posix.mkdir, which is code and not data"),
        ("random_states_0.pkl", "random_states_0.pkl in .* holds posix.mkdir"),
        ("custom_checkpoint_2.pkl", "custom_checkpoint_2.pkl in .* holds posix.mkdir"),
        (
            "custom_checkpoint.pkl",
            "holds custom_checkpoint.pkl, which training does not write, and such files can run code",
        ),
        ("pytorch_model.bin", "holds pytorch_model.bin, which training does not write"),
    ],
)
def test_no_file_of_a_checkpoint_can_run_code(start, tmp_path, name, message):
    start("run", after=3)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    with_parts_as_pickles(checkpoint)
    put_in(checkpoint, name, {"state": Code(tmp_path / "was_run")})
    with pytest.raises(InputError, match=message):
        start("run")
    assert not (tmp_path / "was_run").exists()


def test_a_checkpoint_of_an_earlier_version_is_continued(start, tmp_path):
    whole = start("whole")
    start("run", after=3)
    with_parts_as_pickles(tmp_path / "run" / "checkpoints" / "step-000002")
    assert_equal_runs(whole, start("run"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"random_state": 1},
            "random_states_0.pkl in .*step-000002 cannot be read .*Restore it from a copy, or remove",
        ),
        ([], "random_states_0.pkl in .*step-000002 cannot be read"),
    ],
)
def test_a_random_state_that_cannot_be_restored_stops_the_run(start, tmp_path, state, message):
    start("run", after=3)
    put_in(tmp_path / "run" / "checkpoints" / "step-000002", "random_states_0.pkl", state)
    with pytest.raises(InputError, match=message):
        start("run")


# Another run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": {"block_out_channels": (4, 16)}},
            r"of another network: conv_in.weight has shape \(8, 1, 3, 3\) in it, ",
        ),
        (
            {"network": {"layers_per_block": 2}},
            r"of another network: up_blocks.0.resnets.1.norm1.weight has shape \(24,\) in it, ",
        ),
        ({"images": 9}, "was made with 11 readable images, and now there are 9"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_kept(start, tmp_path, changes, message):
    start("run", after=3)
    before = files_of(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        start("run", **changes)
    assert files_of(tmp_path / "run") == before


def test_a_batch_may_be_split_otherwise(start):
    """The images of an update stay the same, and so do its learning rate and its length."""
    start("run", after=3 * 2, gradient_accumulation_steps=2, batch_size=2)
    resumed = start("run", gradient_accumulation_steps=1, batch_size=4)
    assert resumed.progress.step == resumed.ema.optimization_step == STEPS
    assert [row["step"] for row in read_rows(resumed.folder / "loss.csv")] == [3, 6, 9]


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
    assert list(list_checkpoints(trainer.folder)) == [8, 9]


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
