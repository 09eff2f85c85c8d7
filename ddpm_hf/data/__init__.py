"""From any `datasets` data set to batches of uint8 images: opened, looked at, decoded once, walked through."""

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.data_source import draw_images
from ddpm_hf.data.decoding import ImageForm, decode_all, decode_image, decoding_workers
from ddpm_hf.data.embedded import FASHION_MNIST
from ddpm_hf.data.for_network import data_for
from ddpm_hf.data.images import ImagesInMemory, ImagesOnDemand, load_images, loading_workers
from ddpm_hf.data.mapped import ImagesMapped
from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.data.network_size import sized_for_network
from ddpm_hf.data.opening import find_image_column, find_label_column, open_rows, read_labels
from ddpm_hf.data.points import PointSource, open_points
from ddpm_hf.data.source import ImageSource, open_images
from ddpm_hf.data.streaming import (
    ImageStream,
    StreamSource,
    count_images,
    decode_first,
    describe_data,
    keep_in_checkpoints,
    open_stream,
)
from ddpm_hf.data.walking import EndlessBatches, batches

__all__ = [
    "FASHION_MNIST",
    "DataArguments",
    "EndlessBatches",
    "ImageForm",
    "ImageSource",
    "ImageStream",
    "ImagesInMemory",
    "ImagesMapped",
    "ImagesOnDemand",
    "PointSource",
    "StreamSource",
    "batches",
    "count_images",
    "data_for",
    "decode_all",
    "decode_first",
    "decode_image",
    "decoding_workers",
    "describe_data",
    "draw_images",
    "find_image_column",
    "find_label_column",
    "keep_in_checkpoints",
    "load_images",
    "loading_workers",
    "open_images",
    "open_points",
    "open_rows",
    "open_stream",
    "read_labels",
    "sized_for_network",
    "to_model_range",
]
