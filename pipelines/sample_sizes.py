"""The size of the samples that a pipeline draws, where it is asked for another than the network's own."""

from diffusers.utils import logging

from ddpm_hf.models.image_sides import check_halves
from ddpm_hf.number_checks import check_count
from ddpm_hf.samples.kind import trained_shapes

size_logger = logging.get_logger(__name__)


def sides_to_draw(pipeline, height, width):
    """The sides of x_t for samples of this height and width, each by default the network's own.

    It warns of a size that the network was not trained at.

    Raises:
        ValueError: for points, and for sides that are none, or that the network cannot halve.
    """
    if height is None and width is None:
        return pipeline.samples.sides
    for name, side in (("height", height), ("width", width)):
        if side is not None:
            check_count(name, side)
    sides, config = pipeline.samples.sides_of_output(height, width), pipeline.unet.config
    if "block_out_channels" in config:
        check_halves(*sides, len(config["block_out_channels"]))
    trained = trained_shapes(config) or (pipeline.samples.sides,)
    if sides not in trained and None not in trained[0]:
        named = ", ".join("{}x{}".format(*shape) for shape in trained)
        size_logger.warning(f"The network was trained at {named} (height x width), and draws {sides[0]}x{sides[1]}.")
    return sides
