"""The sides of images that a U-Net takes."""


def check_halves(height, width, levels):
    """Raises ValueError for odd sides at a level that halves: upsampling would not give the same size again."""
    factor = 2 ** (levels - 1)
    if height % factor == 0 and width % factor == 0:
        return
    fitting = max(n for n in range(1, levels) if height % 2 ** (n - 1) == 0 and width % 2 ** (n - 1) == 0)
    nearest = " or ".join(str(s) for s in sorted({height // factor * factor, -(-height // factor) * factor}) if s)
    raise ValueError(
        f"Images of {height}x{width} do not suit a network of {levels} levels, which needs sides divisible by "
        f"{factor}. Resize the images (to {nearest}, say), or make a network of at most {fitting} levels: "
        "`block_out_channels`, `down_block_types` and `up_block_types` have an entry for each."
    )
