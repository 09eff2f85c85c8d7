"""The options of the smallest network that the tests train and sample, stock or ours."""

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
