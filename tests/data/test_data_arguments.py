from dataclasses import fields

import pytest

from ddpm_hf.data import DataArguments
from ddpm_hf.data.arguments import POINT_CLOUD_NAMES
from ddpm_hf.data.point_clouds import POINT_CLOUDS
from ddpm_hf.errors import InputError


@pytest.mark.parametrize("name", [each.name for each in fields(DataArguments) if "str" in str(each.type)])
def test_a_name_is_never_empty(name):
    with pytest.raises(InputError, match=f"{name}='' is empty, as it is where a shell variable is not set"):
        DataArguments(**{name: ""})


def test_every_point_cloud_is_named_in_the_help():
    assert tuple(POINT_CLOUDS) == POINT_CLOUD_NAMES
