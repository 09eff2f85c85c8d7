"""Places of results are checked before the work, and a killed command can be repeated."""

import functools
import itertools
import os
import signal
import time

import pytest
from kill_results import Scenario, contents, makers
from kill_training import kill_before_operation, limit_files, pause_before_operation, start_child, wait_for

from ddpm_hf import folder_lock
from ddpm_hf.errors import InputError
from ddpm_hf.files import FOLDER_ASIDE, MOVED_LIST, half_moved_files, moved_in_whole
from ddpm_hf.folder_lock import LOCK_FILE, alone_in
from ddpm_hf.results import alone_in_free_folder, check_apart, check_free_file, check_free_folder, free_output

VERBS = [pytest.param("calibrate", marks=pytest.mark.slow), "export", "export --stock", "evaluate"]


@pytest.fixture(scope="module")
def scenario_of(tmp_path_factory):
    """A function that gives the scenario of a verb, which is made once."""
    folder = tmp_path_factory.mktemp("killed")
    made = makers(folder)
    return functools.cache(lambda name: Scenario(name, *made[name], folder / name))


def test_a_place_that_is_free_is_left_as_it_was(tmp_path):
    check_free_folder(tmp_path / "a" / "b")
    check_free_file(tmp_path / "a" / "b.png", (".png",))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    check_free_folder(tmp_path, ["bpd.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_result_without_a_name_gets_a_number_where_its_name_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("samples.png", "samples_2.png", "samples_3.png"):
        file = free_output(None, "samples.png", (".png",))
        assert str(file) == name
        file.touch()
    with pytest.raises(InputError, match="samples.png is already there"):
        free_output(tmp_path / "samples.png", "samples.png", (".png",))
    assert free_output(tmp_path / "mine.png", "samples.png", (".png",)) == tmp_path / "mine.png"


@pytest.mark.parametrize("place", ["file/new", "/proc/new", "x" * 300])
def test_where_nothing_can_be_written(tmp_path, place):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="Cannot write to"):
        check_free_folder(tmp_path / place)
    with pytest.raises(InputError, match="Cannot write to|file is a file"):
        check_free_file(tmp_path / f"{place}.png", (".png",))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_never_written_over(tmp_path):
    (tmp_path / "mine.png").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not empty \(mine.png\): choose another folder"):
        check_free_folder(tmp_path)
    with pytest.raises(InputError, match="mine.png is already there"):
        check_free_folder(tmp_path, ["mine.png", "other.json"])
    with pytest.raises(InputError, match="mine.png is already there"):
        check_free_file(tmp_path / "mine.png", (".png",))
    with pytest.raises(InputError, match="mine.png is a file"):
        check_free_folder(tmp_path / "mine.png")
    with pytest.raises(InputError, match="must end in .png or .svg"):
        check_free_file(tmp_path / "new.gif", (".png", ".svg"))


def test_a_new_folder_lies_beside_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    check_apart(tmp_path / "model_2", tmp_path / "model")
    check_apart(tmp_path / "new", "someone/model")
    with pytest.raises(InputError, match="lies within the model"):
        check_apart(tmp_path / "model" / "sub" / "new", tmp_path / "model")


# Two commands in one folder ------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_lock(tmp_path):
    with alone_in(tmp_path / "a" / "b"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [LOCK_FILE]
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "a"):
        (tmp_path / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


@pytest.mark.parametrize("place", ["file", "file/new", "/proc/new", "x" * 300])
def test_where_no_lock_can_be_made(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write to|is a file"), alone_in(tmp_path / place):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_command_finds_what_the_first_has_left(tmp_path, monkeypatch):
    """The folder is looked at while it is locked: the first may have ended while the second waited."""
    monkeypatch.setattr(folder_lock, "SECONDS_TO_WAIT", 10)
    with alone_in(tmp_path):

        def wait_and_look():
            with (
                pytest.raises(InputError, match=r"is not empty \(result\)"),
                alone_in_free_folder(tmp_path),
            ):
                pass

        child = start_child(wait_and_look, tmp_path.with_suffix(".log"))
        time.sleep(0.3)
        (tmp_path / "result").touch()
    assert wait_for(child) == 0


@pytest.mark.parametrize("name", VERBS)
def test_a_second_command_is_refused_with_the_name_of_the_first_which_goes_on(scenario_of, name, monkeypatch):
    monkeypatch.setattr(folder_lock, "SECONDS_TO_WAIT", 0.1)
    scenario = scenario_of(name)
    scenario.begin_anew()
    moves = [i for i, what in enumerate(scenario.list_operations(), 1) if what.startswith("os.rename")]
    scenario.begin_anew()
    child = scenario.start(pause_before_operation(moves[0]))
    os.waitpid(child, os.WUNTRACED)
    before = contents(scenario.folder)
    with pytest.raises(InputError, match=rf"is in use by process {child} on host .*choose another folder"):
        scenario.make(scenario.folder)
    assert contents(scenario.folder) == before
    os.kill(child, signal.SIGCONT)
    assert wait_for(child) == 0
    assert contents(scenario.folder) == scenario.straight


# Commands that are killed --------------------------------------------------------------------------------------------


def killed_while_moving(folder, number):
    """A program that moves the files a, b and c into a folder, c last, and ends before it moves file `number`."""
    child = os.fork()
    if child == 0:
        replace, moved = os.replace, []

        def replace_or_end(source, target):
            if os.path.basename(source) in "abc":
                moved.append(target)
                if len(moved) == number:
                    os._exit(9)
            replace(source, target)

        os.replace = replace_or_end
        with moved_in_whole(folder, last="c") as aside:
            for name in "cab":
                (aside / name).write_text(f"new {name}", encoding="utf-8")
        os._exit(0)
    assert wait_for(child) == 9


@pytest.mark.parametrize("number", [1, 2, 3])
def test_files_of_a_move_that_was_killed_are_no_obstacle(tmp_path, number):
    killed_while_moving(tmp_path, number)
    there = {path.name for path in tmp_path.iterdir()} - {FOLDER_ASIDE, MOVED_LIST}
    assert there == set("abc"[: number - 1]) and half_moved_files(tmp_path) == {"a", "b", "c"}
    check_free_folder(tmp_path)
    check_free_folder(tmp_path, ["a", "c"])
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not empty \(mine\)"):
        check_free_folder(tmp_path)
    with moved_in_whole(tmp_path, last="c") as aside:
        (aside / "c").write_text("again", encoding="utf-8")
    assert half_moved_files(tmp_path) == set() and not (tmp_path / FOLDER_ASIDE).exists()


def test_a_move_that_was_killed_at_any_moment_can_be_made_again(tmp_path):
    """Also at the very end, where the result is whole and the last traces are removed, and if it is killed again."""

    def move(folder):
        with moved_in_whole(folder, last="c") as aside:
            for name in "cab":
                (aside / name).write_text(f"new {name}", encoding="utf-8")

    for number in itertools.count(1):
        folder = tmp_path / str(number)

        def move_in_part(folder=folder, number=number):
            kill_before_operation(number)({"output_dir": str(folder)})
            move(folder)

        codes = [wait_for(start_child(move_in_part, tmp_path / "log")) for _ in range(2)]
        if codes[0] == 0:
            break
        if codes[1] != 0:
            check_free_folder(folder, "abc")
            check_free_folder(folder)
            move(folder)
        assert {path.name for path in folder.iterdir()} == set("abc")
    assert number > 15


@pytest.mark.parametrize("name", VERBS)
def test_the_same_command_goes_on_where_a_kill_cut_it_off(scenario_of, name):
    """Before the last file is moved in, which of all moments leaves most; kill_results.py has others."""
    scenario = scenario_of(name)
    scenario.begin_anew()
    last_move = max(i for i, what in enumerate(scenario.list_operations(), 1) if what.startswith("os.rename"))
    scenario.begin_anew()
    assert wait_for(scenario.start(kill_before_operation(last_move))) == -9
    assert scenario.found() == "the result half moved in"
    assert scenario.problems_of_another_run() == []


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("size", [100, 5000])
def test_a_full_disk_leaves_nothing_half_done(scenario_of, name, size):
    """Writing a file beyond a limit fails as on a full disk, with another number of the same error."""
    scenario = scenario_of(name)
    scenario.begin_anew()

    def work():
        limit_files(size)
        with pytest.raises(InputError, match="Cannot write .*make room"):
            scenario.make(scenario.folder)

    assert wait_for(start_child(work, os.devnull)) == 0
    assert not scenario.is_whole()
    assert scenario.problems_of_another_run() == []
