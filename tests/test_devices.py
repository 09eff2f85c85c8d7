import pytest
import torch

from ddpm_hf.devices import open_device
from ddpm_hf.errors import InputError


@pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu", 0)])
def test_the_cpu_goes_by_the_name_that_accelerate_gives_it_in_several_processes_too(name):
    assert open_device(name).type == "cpu"


@pytest.mark.parametrize("name", ["cpu:1", "gpu", ""])
def test_other_devices_are_refused(name):
    with pytest.raises(InputError, match=f"The device {name} is not there: torch .* finds cpu"):
        open_device(name)
