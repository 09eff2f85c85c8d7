"""Files are written completely or not at all, with the permissions of the umask."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm_hf.errors import InputError
from ddpm_hf.files import check_readable, moved_in_whole, written_whole

SOMEBODY_ELSE = 65534


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_of_safetensors_get_the_mode_of_the_umask(tmp_path, umask):
    weights = {"weight": torch.zeros(2)}
    with written_whole(tmp_path / "alone.safetensors") as aside:
        save_file(weights, aside)
    with moved_in_whole(tmp_path / "folder", last="index.json") as aside:
        (aside / "unet").mkdir()
        save_file(weights, aside / "unet" / "model.safetensors")
        (aside / "index.json").write_text("{}", encoding="utf-8")
    for name in ("alone.safetensors", "folder/unet/model.safetensors", "folder/index.json"):
        assert mode_of(tmp_path / name) == 0o666 & ~umask, name
    assert os.umask(umask) == umask


def message_to_somebody_else(act):
    """The message of the InputError of `act()` in a process that is not root; empty without an error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(SOMEBODY_ELSE)
            act()
        except InputError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as pipe:
        return pipe.read()


def test_a_file_that_may_not_be_read_is_named_with_its_mode():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.chmod(folder, 0o755)
        (folder / "unet").mkdir()
        weights = folder / "unet" / "model.safetensors"
        save_file({"weight": torch.zeros(2)}, weights)
        os.chmod(weights, 0o644)
        assert message_to_somebody_else(lambda: check_readable(folder, folder / "nowhere")) == ""
        os.chmod(weights, 0)
        message = message_to_somebody_else(lambda: check_readable(folder))
        assert f"{weights} is there, but you may not read it: it has the mode 0000 and belongs to user " in message
        assert "chmod -R a+rX" in message
