from dataclasses import fields

import pytest

from ddpm_hf.data import DataArguments
from ddpm_hf.errors import InputError


@pytest.mark.parametrize("name", [each.name for each in fields(DataArguments) if "str" in str(each.type)])
def test_a_name_is_never_empty(name):
    with pytest.raises(InputError, match=f"{name}='' is empty, as it is where a shell variable is not set"):
        DataArguments(**{name: ""})
