"""A small image classifier, trained in minutes on any labelled data set: the feature space where none can be downloaded.

python -m ddpm_hf.evaluation.feature_network FOLDER [--dataset D]
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, get_scheduler

from ddpm_hf.data import EndlessBatches, batches, load_images, open_images, to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.devices import open_device
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_folder import check_weights_finite
from ddpm_hf.results import check_free_folder

DEFAULT_RESOLUTION = 64  # for a data set whose images differ in size
LABEL_SMOOTHING = 0.1
MEMORY_LIMIT_GB = 8.0
WEIGHT_DECAY = 0.05


def train_feature_network(
    output,
    data=None,
    test_split="test",
    epochs=20,
    batch_size=64,
    learning_rate=2e-3,
    max_shift=2,
    seed=0,
    device=None,
):
    """Trains a ResNet on the labels of a data set, and saves it where `load_features` reads it.

    Args:
        output: the folder to write.
        data (`DataArguments`): which images and labels; by default the training split of the embedded Fashion-MNIST.
        test_split (`str`): split on which the accuracy is measured.
        epochs (`int`): passes over the data; 20 of the embedded one take three minutes on one core.
        batch_size, learning_rate: of AdamW; the rate falls to 0 along a cosine.
        max_shift (`int`): images are moved by up to as many pixels either way, and half of them mirrored.
        seed (`int`): of the weights, the order of the data and the augmentation.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; the fastest there is by default.

    Returns:
        `float`: the share of the test images that are classified rightly.
    """
    output = Path(output)
    open_device(device)
    check_free_folder(output)
    data = dataclasses.replace(data or DataArguments(), class_conditional=True)
    train = open_images(data, DEFAULT_RESOLUTION)
    test = open_images(dataclasses.replace(data, split=test_split, resolution=train.resolution), DEFAULT_RESOLUTION)
    accelerator = Accelerator(cpu=device == "cpu")
    set_seed(seed)
    walk = EndlessBatches(len(train), batch_size, seed)
    network = _train(
        accelerator, train, walk, max(1, round(epochs * len(train) / batch_size)), learning_rate, max_shift
    )
    accuracy = _accuracy(network, test, batch_size, accelerator.device)
    check_weights_finite(output, {"classifier": network})
    with moved_in_whole(output, last="config.json") as aside:
        network.save_pretrained(aside)
        # As `to_model_range`: pixels in [-1, 1], at their own size.
        ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5]).save_pretrained(aside)
    return accuracy


def _train(accelerator, source, walk, steps, learning_rate, max_shift):
    network = ResNetForImageClassification(_config(source))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    network, optimizer = accelerator.prepare(network, optimizer)
    loader = batches(load_images(source, MEMORY_LIMIT_GB), walk)
    with tqdm(total=steps, desc="feature network", unit="step") as bar:
        for _, batch in zip(range(steps), loader, strict=False):
            images = _moved(to_model_range(batch["images"].to(accelerator.device), random_flip=True), max_shift)
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


def main(
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    dataset: Annotated[str | None, typer.Option(help="With labels; the embedded Fashion-MNIST if not given.")] = None,
    dataset_config: Annotated[str | None, typer.Option("--dataset_config", help="As in training.")] = None,
    image_column: Annotated[str | None, typer.Option("--image_column", help="As in training.")] = None,
    label_column: Annotated[str | None, typer.Option("--label_column", help="As in training.")] = None,
    test_split: Annotated[str, typer.Option("--test_split", help="Split for the accuracy.")] = "test",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the weights, the order and the augmentation.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu to leave an accelerator alone.")] = None,
):
    """Train a small image classifier, for distances between sets of images."""
    data = DataArguments(
        dataset=dataset, dataset_config=dataset_config, image_column=image_column, label_column=label_column
    )
    accuracy = train_feature_network(output, data, test_split, epochs, seed=seed, device=device)
    typer.echo(f"{accuracy:.1%} of the test images are classified rightly; the network is in {output}")


if __name__ == "__main__":
    typer.run(main)
