"""Runs in their own processes that are killed, stopped, or out of disk space, and continue with the same command."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from kill_training import (
    differences,
    find_damage,
    kill_before_operation,
    kill_in_a_file_after_operation,
    kill_once,
    limit_files,
    list_checkpoints,
    list_file_operations,
    make_start,
    on_file_operations,
    pause_before_operation,
    start_run,
    wait_for,
)

from ddpm_hf import folder_lock, interruptions
from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole, written_whole
from ddpm_hf.interruptions import Interrupted, StopRequest, raising_interrupted
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_folder import check_run_folder, write_arguments
from ddpm_hf.training.train import train

STEPS = 4


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Options, an uninterrupted run of them, and what that did with its files."""
    folder = tmp_path_factory.mktemp("straight")
    options = make_start(folder) | {"max_train_steps": STEPS, "output_dir": str(folder / "run")}
    train(TrainingArguments(**options))  # here, so that the children find all imported
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    shutil.move(folder / "run", folder / "straight")
    operations = list_file_operations(options)
    return options, folder / "straight", operations


class Run:
    """A run like the straight one, in a folder of its own."""

    def __init__(self, straight, folder):
        options, self.straight, self.operations = straight
        self.options, self.folder, self.log = (
            options | {"output_dir": str(folder / "run")},
            folder / "run",
            folder / "log",
        )

    def first(self, operation):
        """The number of the first operation on a file that is called so."""
        return self.operations.index(operation) + 1

    def start(self, before=lambda: None, **options):
        """Runs it to its end; returns the exit code, and what it said."""
        self.log.unlink(missing_ok=True)
        code = wait_for(start_run(self.options | options, self.log, before))
        return code, self.log.read_text(encoding="utf-8")

    def start_and(self, act, operation, **options):
        """The same, with `act()` before an operation on a file."""
        number = self.first(operation)
        acts = lambda count, what: act() if count == number else None  # noqa: E731
        return self.start(lambda: on_file_operations(self.folder, acts), **options)

    def assert_goes_on(self):
        assert self.start()[0] == 0
        assert differences(self.folder, self.straight) == []


@pytest.fixture
def run(straight, tmp_path):
    return Run(straight, tmp_path)


# Killed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [
        "os.rename checkpoints/step-000002.tmp",  # whole, and without its name
        "os.rename checkpoints/step-000002",  # the last one has its name, and the old one is still there
        "os.rename new.tmp/unet/diffusion_pytorch_model.safetensors",  # some of the pipeline moved in
    ],
)
def test_a_killed_run_goes_on(run, operation):
    kill = kill_before_operation(run.first(operation))
    found, problems = kill_once(run.options, run.straight, run.log, kill)
    assert found is not None and problems == []


def test_a_run_killed_in_the_middle_of_a_file_goes_on(run):
    kill = kill_in_a_file_after_operation(run.first("os.mkdir checkpoints/step-000003.tmp"), 5000)
    found, problems = kill_once(run.options, run.straight, run.log, kill)
    assert found == "a checkpoint half written, or half removed; whole checkpoints" and problems == []


def test_a_run_killed_while_it_claims_its_folder_goes_on(run):
    run.start_and(lambda: os.kill(os.getpid(), signal.SIGKILL), "os.rename training_args.tmp.yaml")
    assert {path.name for path in run.folder.iterdir()} == {"training_args.tmp.yaml", "run.lock"}
    check_run_folder(TrainingArguments(**run.options))


@pytest.mark.slow
def test_kills_at_many_moments():
    """In a process of its own: a progress bar of an earlier test leaves a thread, which its children would not have."""
    command = [sys.executable, str(Path(__file__).parent.parent / "kill_training.py"), "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_good_checkpoint_is_there_at_every_moment(run):
    first = run.first("os.rename checkpoints/step-000002.tmp")

    def check(count, what):
        if count >= first and not any(find_damage(path) is None for path in list_checkpoints(run.folder).values()):
            os._exit(99)

    assert run.start(lambda: on_file_operations(run.folder, check), checkpoints_limit=1)[0] == 0
    assert list(list_checkpoints(run.folder)) == [STEPS]


# Two runs in one folder ----------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_with_the_name_of_the_first_which_goes_on(run, monkeypatch):
    monkeypatch.setattr(folder_lock, "SECONDS_TO_WAIT", 0.1)
    first = run.first("os.mkdir checkpoints/step-000002.tmp")
    child = start_run(run.options, run.log, lambda: pause_before_operation(first)(run.options))
    os.waitpid(child, os.WUNTRACED)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"in use by process {child} on host {socket.gethostname()}, since .*choose"):
        train(TrainingArguments(**run.options))
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    os.kill(child, signal.SIGCONT)
    assert wait_for(child) == 0
    assert differences(run.folder, run.straight) == []


def test_the_lock_of_a_run_that_was_killed_is_taken_over(run):
    first = run.first("os.mkdir checkpoints/step-000002.tmp")
    child = start_run(run.options, run.log, lambda: kill_before_operation(first)(run.options))
    assert wait_for(child) == -signal.SIGKILL
    assert json.loads((run.folder / "run.lock").read_text(encoding="utf-8"))["process"] == child
    run.assert_goes_on()
    assert not (run.folder / "run.lock").exists()


# Stopped -------------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_the_code_of_the_signal_and_says_how_to_go_on(run):
    code, said = run.start_and(lambda: os.kill(os.getpid(), signal.SIGTERM), "os.mkdir checkpoints/step-000002.tmp")
    # It was saving after update 2, and leaves the samples that are due after it.
    assert code == 128 + signal.SIGTERM
    message = (
        f"train: Stopped by SIGTERM. {run.folder} has a checkpoint of step 2 of 4: to continue, run the same command"
    )
    assert message in said and "Traceback" not in said
    assert list(list_checkpoints(run.folder)) == [1, 2] and not (run.folder / "samples").exists()
    run.assert_goes_on()


def test_before_the_first_update_there_is_nothing_to_save(run):
    code, said = run.start_and(lambda: os.kill(os.getpid(), signal.SIGINT), "os.rename training_args.tmp.yaml")
    assert code == 128 + signal.SIGINT and "train: Stopped by SIGINT before the first checkpoint." in said
    assert "Traceback" not in said


@pytest.mark.parametrize("listening", [lambda: StopRequest().listening(), lambda: raising_interrupted(str)])
def test_a_second_signal_quits_at_once(listening, monkeypatch):
    monkeypatch.setattr(interruptions, "SAME_REQUEST_SECONDS", 0.1)
    child = os.fork()
    if child == 0:
        with listening():
            for pause in (0, 0, 0.2):
                try:
                    time.sleep(pause)
                    os.kill(os.getpid(), signal.SIGTERM)
                except Interrupted:
                    pass
        os._exit(0)
    assert wait_for(child) == -signal.SIGTERM


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="^stopped$"), raising_interrupted(lambda signum: "stopped"):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


# Two processes -------------------------------------------------------------------------------------------------------


def launch(options, folder):
    """A training on two processes, begun: the launcher, and what it says is in launch.log."""
    (folder / "config.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "ddpm_hf.training.train", "--config", str(folder / "config.yaml")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with (folder / "launch.log").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def workers_of(launcher):
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in children]


def wait_for_checkpoint(folder, step, launcher):
    while max(list_checkpoints(folder), default=0) < step:
        assert launcher.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_stop_and_go_on_together(straight, tmp_path, streaming):
    options = straight[0] | {"max_train_steps": 40, "checkpoint_every": 4, "sample_every": 0, "log_every": 3}
    options |= {"streaming": True} if streaming else {}
    options |= {"output_dir": str(tmp_path / "run")}
    assert launch(options, tmp_path).wait() == 0, (tmp_path / "launch.log").read_text(encoding="utf-8")
    shutil.move(tmp_path / "run", tmp_path / "straight")  # the card has the name of the folder

    def signalled(choose, signum, step):
        """Begun, and sent the signal when there is a checkpoint of the step."""
        launcher = launch(options, tmp_path)
        wait_for_checkpoint(tmp_path / "run", step, launcher)
        os.kill(choose(launcher), signum)
        assert launcher.wait() != 0
        newest = max(list_checkpoints(tmp_path / "run"))
        assert step <= newest < 40
        return newest, (tmp_path / "launch.log").read_text(encoding="utf-8")

    # One is told by the scheduler, and both stop after the same update, with a checkpoint.
    step, said = signalled(lambda launcher: workers_of(launcher)[1], signal.SIGTERM, 4)
    assert f"train: Stopped by SIGTERM. {tmp_path / 'run'} has a checkpoint of step {step} of 40" in said
    assert said.count("has a checkpoint of step") == 1 and "exitcode  : 143" in said
    # One is killed, and the launcher ends the other.
    signalled(lambda launcher: workers_of(launcher)[0], signal.SIGKILL, 12)
    # The launcher is told, and tells both.
    step, said = signalled(lambda launcher: launcher.pid, signal.SIGTERM, 20)
    assert f"has a checkpoint of step {step} of 40" in said
    assert launch(options, tmp_path).wait() == 0
    assert differences(tmp_path / "run", tmp_path / "straight") == []


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began(straight, tmp_path):
    options = straight[0] | {"max_train_steps": 4, "output_dir": str(tmp_path / "run"), "batch_size": 4}
    assert launch(options, tmp_path).wait() == 0
    with pytest.raises(
        InputError, match="holds another run, with 2 processes instead of 1 .their number, batch_size and"
    ):
        train(TrainingArguments(**options | {"max_train_steps": 6}))
    folder = train(TrainingArguments(**options | {"max_train_steps": 6, "gradient_accumulation_steps": 2}))
    options |= {"gradient_accumulation_steps": 2, "max_train_steps": 6, "output_dir": str(tmp_path / "straight")}
    straight = train(TrainingArguments(**options))
    rows = [read_rows(path / "loss.csv") for path in (folder, straight)]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    # The noise of a batch depends on its place alone, so that it is the same run, up to the order of sums.
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-4)


def test_a_stream_keeps_the_number_of_its_processes(tmp_path):
    args = TrainingArguments(unet="small_32", streaming=True, max_train_steps=4, output_dir=str(tmp_path))
    write_arguments(args, num_processes=2)
    (tmp_path / "loss.csv").touch()
    with pytest.raises(InputError, match="with 2 processes instead of 1 .each has a place of its own in a stream"):
        check_run_folder(replace(args, gradient_accumulation_steps=2))


# No room -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_in_the_middle_of_a_save(run):
    code, said = run.start_and(lambda: limit_files(5000), "os.mkdir checkpoints/step-000003.tmp")
    assert code == 1 and "Traceback" not in said
    sentence = said[said.index("train: error:") :]
    assert sentence.startswith(
        f"train: error: The checkpoint of step 3 cannot be written in {run.folder}/checkpoints ("
    )
    assert "The checkpoint of step 2 stands: make room, or repair the disk, and run the same command again" in sentence
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    run.assert_goes_on()


def test_a_disk_that_is_full_at_the_end(run):
    code, said = run.start_and(lambda: limit_files(5000), "os.mkdir new.tmp")
    assert code == 1 and "Traceback" not in said
    assert f"train: error: Cannot write {run.folder} (" in said
    assert not (run.folder / "new.tmp").exists() and not (run.folder / "model_index.json").exists()
    run.assert_goes_on()


def test_a_checkpoint_that_cannot_be_read_back_replaces_none(run):
    """The new checkpoint is damaged after it was written, as by a disk that loses data."""

    def lose_a_bit():
        file = run.folder / "checkpoints" / "step-000003.tmp" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    reading = [n for n, what in enumerate(run.operations) if what == "open checkpoints/step-000003.tmp/manifest.json"]
    acts = lambda count, what: lose_a_bit() if count == reading[-1] + 1 else None  # noqa: E731
    code, said = run.start(lambda: on_file_operations(run.folder, acts))
    assert code == 1
    assert (
        "(it was written and cannot be read back: model.safetensors does not have the content that was written" in said
    )
    assert list(list_checkpoints(run.folder)) == [1, 2]


def test_a_disk_without_room_for_the_checkpoints_is_found_before_the_work(run):
    with pytest.raises(InputError, match=r"MB of free disk, and the run needs .* keep fewer with --checkpoints_limit"):
        train(TrainingArguments(**run.options, checkpoints_limit=10**9))
    assert not run.folder.exists()


def test_a_folder_that_cannot_be_made_is_found_before_the_work(run, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written .*/file.: choose another"):
        train(TrainingArguments(**run.options | {"output_dir": str(tmp_path / "file" / "run")}))


@pytest.mark.parametrize(
    ("change", "is_of_before", "message"),
    [
        (os.remove, False, "holds a run on 16 images, and the data set has 15 now"),
        (lambda path: path.write_bytes(b"nothing"), False, "has other content now, or the same in another order"),
        # A run that kept no fingerprint finds that when the image is decoded.
        (lambda path: path.write_bytes(b"nothing"), True, "was made with 16 readable images, and now there are 15"),
    ],
)
def test_data_that_shrank_is_refused_and_nothing_overwritten(run, tmp_path, change, is_of_before, message):
    shutil.copytree(run.straight, run.folder)
    shutil.copytree(run.options["dataset"], tmp_path / "fewer")
    arguments = run.folder / "training_args.yaml"
    text = arguments.read_text(encoding="utf-8").replace(run.options["dataset"], str(tmp_path / "fewer"))
    arguments.write_text(re.sub("  data_fingerprint: .*\n", "", text) if is_of_before else text, encoding="utf-8")
    change(tmp_path / "fewer" / "03.png")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**run.options | {"dataset": str(tmp_path / "fewer"), "max_train_steps": STEPS + 1}))
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


# Files that are whole ------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(InputError, match="Cannot write .*file.txt .*No space left"), written_whole(path) as aside:
        aside.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"] and path.read_text(encoding="utf-8") == "before"


def test_files_are_moved_in_with_the_index_last(tmp_path):
    """Each file belongs to one of two pipelines at every moment, and the index of the first comes last."""
    (tmp_path / "unet").mkdir()
    for name in ("index.json", "unet/config.json", "mine.txt"):
        (tmp_path / name).write_text("before", encoding="utf-8")
    with moved_in_whole(tmp_path, last="index.json") as aside:
        (aside / "unet").mkdir()
        for name in ("index.json", "unet/config.json", "unet/weights"):
            (aside / name).write_text("after", encoding="utf-8")
        assert (tmp_path / "index.json").read_text(encoding="utf-8") == "before"
    files = {
        p.relative_to(tmp_path).as_posix(): p.read_text(encoding="utf-8") for p in tmp_path.rglob("*") if p.is_file()
    }
    assert files == {"index.json": "after", "unet/config.json": "after", "unet/weights": "after", "mine.txt": "before"}


def test_no_limit_to_files_is_left():
    """The limits above are those of children."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
