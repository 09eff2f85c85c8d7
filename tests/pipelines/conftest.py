import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """A function that makes a grey PIL image of noise: `picture(seed)`, `picture(size=(width, height), mode="RGB")`."""

    def make(seed=0, size=(8, 8), mode="L"):
        shape = (size[1], size[0], *([3] if mode == "RGB" else []))
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)

    return make
