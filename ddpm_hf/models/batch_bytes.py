"""The memory that a batch takes at least."""

from ddpm_hf.samples import kind_of

FLOAT_BYTES = 4


def least_batch_bytes(config, batch_size):
    """Fewer bytes than any network of this config takes for a batch: its samples, and one layer's input and output.

    Args:
        config: of the network.
    """
    channels, *sides = kind_of(config).shape
    width = 2 * config.get("block_out_channels", (config.get("width", 0),))[0]
    values = channels + width
    for side in sides:
        values *= side or 1
    return batch_size * values * FLOAT_BYTES
