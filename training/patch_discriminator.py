"""The network that tells reconstructed patches of images from true ones (PatchGAN, Isola et al. 2017)."""

from torch import nn

# The paper's width, and the widest layer in multiples of it.
WIDTH, WIDEST = 64, 8
GROUPS = 8
SLOPE = 0.2
# The halvings for images whose shorter side is at least so long, and the side of a patch: 70, 34 and 16 pixels.
HALVINGS = ((128, 3), (64, 2), (0, 1))
# The images of less than this have no patch.
LEAST_SIDE = 6


class PatchDiscriminator(nn.Sequential):
    """Images (N, C, H, W) to a number for each of their overlapping patches, (N, 1, h, w), large for true ones.

    These are the convolutions of Isola et al. (2017), appendix 6.1.2: of 4x4, the first ones of stride 2, with leaky
    rectifiers. In the place of their batch norms are group norms, because then what is said of an image does not
    depend on the others, nor on how they are spread over processes.

    Args:
        channels (`int`): C.
        side (`int`): the shorter side of the images, which gives the size of the patches.
    """

    def __init__(self, channels, side):
        halvings = next(number for least, number in HALVINGS if side >= least)
        layers = [nn.Conv2d(channels, WIDTH, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for number in range(1, halvings + 1):
            before, after = (WIDTH * min(2**power, WIDEST) for power in (number - 1, number))
            stride = 2 if number < halvings else 1
            layers += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(GROUPS, after),
                nn.LeakyReLU(SLOPE),
            ]
        super().__init__(*layers, nn.Conv2d(after, 1, 4, padding=1))
