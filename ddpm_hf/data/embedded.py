"""The data set in the package, for training without a network connection."""

from pathlib import Path

# `datasets.load_dataset` reads this folder like the Hub data set of that name: splits train and test, columns image
# (28x28 grey) and label (10 classes).
FASHION_MNIST = Path(__file__).parent / "fashion_mnist"
