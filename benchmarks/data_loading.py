"""Images per second out of the loader alone: decoded once into memory, against the stock example's PIL path.

python benchmarks/data_loading.py
"""

from itertools import islice

import datasets
from side_by_side import report, time_in_turns
from stock_training import pil_loader

from ddpm_hf.data import FASHION_MNIST
from ddpm_hf.training.arguments import DataArguments
from ddpm_hf.training.data import EndlessBatches, batches, load_images, open_images, to_model_range

BATCH_SIZE = 64
NUM_BATCHES = 40


def endless(loader):
    while True:
        yield from loader


def main():
    rows = datasets.load_dataset(str(FASHION_MNIST), split="train")
    stock = {mode: endless(pil_loader(rows, 28, BATCH_SIZE, mode)) for mode in ("RGB", "L")}
    images = load_images(open_images(DataArguments(), default_resolution=28), memory_limit_gb=4)
    ours = iter(batches(images, EndlessBatches(len(images), BATCH_SIZE, seed=0)))

    def take(loader):
        for batch in islice(loader, NUM_BATCHES):
            batch["input"]

    def take_ours():
        for batch in islice(ours, NUM_BATCHES):
            to_model_range(batch["images"], random_flip=True)

    measured = time_in_turns(
        {
            "stock example (RGB, as it forces)": lambda: take(stock["RGB"]),
            "stock example (grey, were it allowed)": lambda: take(stock["L"]),
            "ddpm_hf": take_ours,
        },
        repeats=9,
    )
    for row in measured.values():
        row["images_per_second"] = BATCH_SIZE * NUM_BATCHES / row["seconds"]
    report("data_loading", measured)


if __name__ == "__main__":
    main()
