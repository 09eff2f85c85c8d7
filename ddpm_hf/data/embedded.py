"""Data that comes with the package, so that the main job runs with no network."""

from pathlib import Path

# A folder that `datasets.load_dataset` reads as it reads the Hub data set of that name: splits train and test,
# columns image (28x28 grey) and label (10 classes).
FASHION_MNIST = Path(__file__).parent / "fashion_mnist"
