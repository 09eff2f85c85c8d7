"""Images per second from the loader alone, at 32x32 and 256x256, for each storage, against the stock example.

python benchmarks/data_loading.py

One process without workers measures one core; decoding scales with --dataloader_workers. Our loader gives uint8
batches, which the device mirrors and converts to floats; a separate row has the time of that on the CPU. The stock
example gives mirrored floats.
"""

import io
import tempfile
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from side_by_side import report, time_in_turns
from stock_training import pil_loader

from ddpm_hf.data import (
    EndlessBatches,
    ImageStream,
    batches,
    load_images,
    open_images,
    open_stream,
    to_model_range,
)
from ddpm_hf.data.arguments import DataArguments

BATCH_SIZE = 64
SHARDS = 4
# Resolution: file format, images, and batches per measurement with and without decoding.
DATA = {32: ("PNG", 20_000, 200, 20), 256: ("JPEG", 1_000, 20, 2)}


def main():
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        datasets.disable_progress_bars()
        for resolution in DATA:
            measure(resolution, Path(folder) / str(resolution))


def measure(resolution, folder):
    write_shards(resolution, folder)
    _, _, num_decoded, num_encoded = DATA[resolution]
    args = DataArguments(dataset=str(folder))
    source = open_images(args, resolution)
    stream = ImageStream(open_stream(args, resolution), block_size=1024, seed=0)
    rows = datasets.load_dataset(str(folder), split="train")
    ours = {
        "in memory": (load_images(source, memory_limit_gb=8), num_decoded),
        "memory map": (load_images(source, memory_limit_gb=0), num_decoded),
        "on demand": (load_images(source, memory_limit_gb=0, disk_limit_gb=0), num_encoded),
    }
    walks = {
        name: (iter(batches(images, EndlessBatches(len(images), BATCH_SIZE, seed=0))), number)
        for name, (images, number) in ours.items()
    }
    walks["streaming"] = stream.batches(BATCH_SIZE), num_encoded
    stock = endless(pil_loader(rows, resolution, BATCH_SIZE, "RGB"))

    def take_stock():
        for batch in islice(stock, num_encoded):
            batch["input"]

    def take(walk, number):
        for batch in islice(walk, number):
            batch["images"]

    example = next(walks["in memory"][0])["images"]

    def to_range():
        for _ in range(num_encoded):
            to_model_range(example, random_flip=True)

    runs = {"stock example": take_stock} | {name: lambda walk=walk: take(*walk) for name, walk in walks.items()}
    measured = time_in_turns(runs | {"mirrored and made floats": to_range}, repeats=5)
    for name, row in measured.items():
        number = walks[name][1] if name in walks else num_encoded
        row["images_per_second"] = round(BATCH_SIZE * number / row["seconds"])
        del row["ratio"]  # of seconds, for different amounts of work
    report(f"data_loading_{resolution}", measured)


def write_shards(resolution, folder):
    """Writes Parquet files of smooth random images, which are as costly to decode as photographs."""
    kind, number, _, _ = DATA[resolution]
    random = np.random.default_rng(0)
    folder.mkdir()
    for shard in range(SHARDS):
        values = [encoded(random, resolution, kind) for _ in range(number // SHARDS)]
        features = datasets.Features({"image": datasets.Image()})
        rows = datasets.Dataset.from_dict({"image": [{"bytes": v, "path": None} for v in values]}, features=features)
        rows.to_parquet(str(folder / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"))


def encoded(random, resolution, kind):
    coarse = Image.fromarray(random.integers(0, 256, (resolution // 4, resolution // 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((resolution, resolution), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def endless(loader):
    while True:
        yield from loader


if __name__ == "__main__":
    main()
