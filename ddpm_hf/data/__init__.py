"""Opens and inspects any `datasets` data set, decodes its images once, and draws batches of uint8 images."""

import importlib

_PUBLIC = {
    "arguments": ("DataArguments",),
    "batch_order": ("EndlessBatches", "batches"),
    "buckets": ("BucketedBatches", "in_buckets"),
    "data_source": ("draw_images",),
    "decoding": ("ImageForm", "decode_all", "decode_image", "decoding_workers"),
    "embedded": ("FASHION_MNIST",),
    "for_network": ("data_for",),
    "images": ("BucketedData", "ImagesInMemory", "ImagesOnDemand", "load_images", "loading_workers"),
    "mapped": ("ImagesMapped",),
    "model_range": ("to_model_range",),
    "network_size": ("sized_for_network",),
    "points": ("PointSource", "open_points"),
    "source": ("ImageSource", "open_images"),
    "stored_rows": ("find_image_column", "find_label_column", "open_rows", "read_labels"),
    "streaming": (
        *("ImageStream", "StreamSource", "count_images", "decode_first", "describe_data"),
        *("keep_in_checkpoints", "open_stream"),
    ),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name):
    """Import the public names on first use: the command line reads `DataArguments` without waiting for torch."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"ddpm_hf.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'ddpm_hf.data' has no attribute '{name}'")
