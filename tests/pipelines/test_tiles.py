import pytest
import torch
from torch.testing import assert_close

from ddpm_hf.pipelines.tiles import blended, check_overlap, tiles_of


@pytest.mark.parametrize("sides", [(8, 8), (8, 9), (12, 32), (40, 10)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_tiles_cover_the_image_and_their_outputs_blend(sides, overlap):
    """Outputs that agree where tiles overlap give the whole; each tile begins at a pixel of the low resolution."""
    whole = torch.randn(2, 3, *sides)
    tiles = tiles_of(sides, (8, 8), (1, 2) if sides[1] % 2 == 0 else (1, 1), overlap)
    assert_close(blended(lambda rows, columns: whole[..., rows, columns], tiles, sides), whole)
    for rows, columns in tiles:
        assert rows.stop - rows.start == columns.stop - columns.start == 8
        assert rows.start >= 0 and rows.stop <= sides[0] and columns.start >= 0 and columns.stop <= sides[1]
    assert sides[1] % 2 or all(columns.start % 2 == 0 for _, columns in tiles)


def test_as_many_tiles_as_the_overlap_needs():
    assert len(tiles_of((8, 8), (8, 8), (2, 2), 0.25)) == 1
    assert [rows.start for rows, _ in tiles_of((20, 8), (8, 8), (2, 2), 0.25)] == [0, 6, 12]
    assert len(tiles_of((16, 16), (8, 8), (2, 2), 0)) == 4


@pytest.mark.parametrize("overlap", [1, -0.1, float("nan")])
def test_overlaps_that_are_none(overlap):
    with pytest.raises(ValueError, match=r"tile_overlap=.* must be in \[0, 1\)"):
        check_overlap(overlap)
