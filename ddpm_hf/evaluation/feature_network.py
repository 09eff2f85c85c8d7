"""A small image classifier, trained in minutes on any labelled data set: the feature space where none can be downloaded.

python -m ddpm_hf.evaluation.feature_network FOLDER [--dataset D]
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification, get_scheduler

from ddpm_hf.command_options import offered, with_options
from ddpm_hf.data import EndlessBatches, batches, load_images, open_images, to_model_range
from ddpm_hf.data.arguments import DataArguments, option
from ddpm_hf.devices import open_device
from ddpm_hf.environment import leave_out_notices_of_torchvision
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_folder import check_weights_finite
from ddpm_hf.results import alone_in_free_folder

DEFAULT_RESOLUTION = 64  # for a data set whose images differ in size
LABEL_SMOOTHING = 0.1
MEMORY_LIMIT_GB = 8.0
WEIGHT_DECAY = 0.05
LABELLED = {"help": "A data set with labels; the embedded Fashion-MNIST if not given."}


@dataclass
class FeatureTraining:
    """The options of `train_feature_network`."""

    test_split: str = option("test", "Split for the accuracy.")
    epochs: int = option(20, "Passes over the data.", min=1)
    batch_size: int = option(64, "Images of one update.", min=1)
    learning_rate: float = option(2e-3, "Highest learning rate.")
    max_shift: int = option(2, "Most pixels by which an image is shifted.", min=0)
    seed: int = option(0, "Seed of the weights, the order and the augmentation.")
    device: str | None = option(None, "cpu to leave an accelerator alone.")


def train_feature_network(output, data=None, **options):
    """Trains a ResNet on the labels of a data set, and saves it in the form that `load_features` reads.

    Args:
        output: the new folder.
        data (`DataArguments`): images and labels; by default the training split of the embedded Fashion-MNIST.
        test_split (`str`): split for the accuracy, by default "test".
        epochs (`int`): passes over the data, by default 20; those of the embedded data take three minutes on one core.
        batch_size (`int`), learning_rate (`float`): options of AdamW, by default 64 and 2e-3; the rate falls to 0
            along a cosine.
        max_shift (`int`): images are shifted by up to this many pixels either way, by default 2; half are mirrored.
        seed (`int`): seed of the weights, the order of the data and the augmentation, by default 0.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; by default the fastest device.

    Returns:
        `float`: the share of the test images that are classified correctly.
    """
    output, options = Path(output), FeatureTraining(**options)
    open_device(options.device)
    with alone_in_free_folder(output):
        return _train_and_save(output, data, options)


def _train_and_save(output, data, options):
    # Features are of pictures of 8 bits.
    data = replace(data or DataArguments(), class_conditional=True, preserve_input_precision=False)
    train = open_images(data, DEFAULT_RESOLUTION)
    test = open_images(replace(data, split=options.test_split, resolution=train.resolution), DEFAULT_RESOLUTION)
    # Without torchvision, transformers says so at the import, which a command may leave out.
    from transformers import ViTImageProcessor

    accelerator = Accelerator(cpu=options.device == "cpu")
    set_seed(options.seed)
    network = _train(accelerator, train, options)
    accuracy = _accuracy(network, test, options.batch_size, accelerator.device)
    check_weights_finite(output, {"classifier": network})
    with moved_in_whole(output, last="config.json") as aside:
        network.save_pretrained(aside)
        # Pixels are in [-1, 1] as from `to_model_range`, and images keep their size.
        halves = [0.5] * network.config.num_channels
        ViTImageProcessor(do_resize=False, image_mean=halves, image_std=halves).save_pretrained(aside)
    return accuracy


def _train(accelerator, source, options):
    walk = EndlessBatches(len(source), options.batch_size, options.seed)
    steps = max(1, round(options.epochs * len(source) / options.batch_size))
    network = ResNetForImageClassification(_config(source))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    network, optimizer = accelerator.prepare(network, optimizer)
    loader = batches(load_images(source, MEMORY_LIMIT_GB), walk)
    with tqdm(total=steps, desc="feature network", unit="step") as bar:
        for _, batch in zip(range(steps), loader, strict=False):
            images = _moved(
                to_model_range(batch["images"].to(accelerator.device), random_flip=True), options.max_shift
            )
            logits = network(images).logits
            loss = cross_entropy(logits, batch["labels"].to(accelerator.device), label_smoothing=LABEL_SMOOTHING)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.update()
    return network


def _config(source):
    return ResNetConfig(
        num_channels=source.channels,
        num_labels=source.num_classes,
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        layer_type="basic",
    )


def _moved(images, max_shift):
    """Each image moved by its own 0 .. max_shift pixels in both directions; the edge is repeated."""
    height, width = images.shape[-2:]
    wide = pad(images, [max_shift] * 4, mode="replicate")
    windows = wide.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * max_shift + 1, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


@torch.no_grad()
def _accuracy(network, source, batch_size, device):
    network.eval()
    tensors = load_images(source, MEMORY_LIMIT_GB)
    right = 0
    for rows in torch.arange(len(tensors)).split(batch_size):
        batch = tensors.__getitems__(rows.numpy())
        logits = network(to_model_range(batch["images"].to(device))).logits
        right += (logits.argmax(1).cpu() == batch["labels"]).sum().item()
    return right / len(tensors)


@with_options
def main(
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    data: offered(DataArguments, "dataset", "dataset_config", "image_column", "label_column", dataset=LABELLED),
    training: offered(FeatureTraining, "test_split", "epochs", "seed", "device"),
):
    """Train a small image classifier, for distances between sets of images."""
    leave_out_notices_of_torchvision()
    accuracy = train_feature_network(output, data, **vars(training))
    typer.echo(f"{accuracy:.1%} of the test images are classified correctly; the network is in {output}")


if __name__ == "__main__":
    typer.run(main)
