import pytest

from ddpm_hf.errors import InputError
from ddpm_hf.sizes import config_size, parsed_size, sides_of_size, size_of


@pytest.mark.parametrize(
    "written, kept, sides",
    [(32, 32, (32, 32)), ("32", 32, (32, 32)), ("24x40", "24x40", (24, 40)), (" 8x8 ", 8, (8, 8))],
)
def test_sizes(written, kept, sides):
    size = parsed_size("resolution", written)
    assert size == kept and parsed_size("resolution", size) == size
    assert sides_of_size(size) == sides and size_of(*sides) == size
    assert config_size(size) == (kept if isinstance(kept, int) else sides)
    assert parsed_size("resolution", None) is None


@pytest.mark.parametrize("written", ["0", 0, -8, "0x8", "8x0"])
def test_sizes_too_small(written):
    with pytest.raises(InputError, match=f"resolution={written} is not allowed: it must be at least 1"):
        parsed_size("resolution", written)


@pytest.mark.parametrize("written", ["x8", "8x", "8x8x8", "8.5", 8.0, "eight", True, "8,8"])
def test_what_is_no_size(written):
    with pytest.raises(InputError, match="must be a whole number, such as 32, or a height and a width, such as 24x40"):
        parsed_size("resolution", written)
