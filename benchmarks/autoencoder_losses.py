"""What a perceptual term and a patch discriminator are worth in the training of an autoencoder.

    python benchmarks/autoencoder_losses.py outputs/autoencoder_losses [--updates 700]

It trains, each in a folder of its own and unless it is there: two feature networks that differ in their seeds, one to
teach and one to measure; and autoencoders of the same size for the same updates, which learn the absolute difference
alone, with the perceptual distance, and with a discriminator too, of each weight, from the middle on. Then it measures
the reconstructions of test images: PSNR; their Frechet distance to other test images, beside that of training images
(the floor); and their texture, the mean absolute difference of neighbouring pixels over that of the images. A picture
has a row of test images, and one of each autoencoder's reconstructions.
"""

import argparse
import time
from pathlib import Path

from latents_and_pixels import measure_reconstruction
from side_by_side import RESULTS, report, told_options
from super_resolution import COLUMNS, Measured

from ddpm_hf.data import DataArguments
from ddpm_hf.evaluation.feature_network import train_feature_network
from ddpm_hf.pipelines.image_grids import image_rows
from ddpm_hf.samples import kind_of_batch
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.train_autoencoder import train_autoencoder


def losses(options):
    """{autoencoder: the options of its training that differ}."""
    perceptual = {
        "perceptual_network": str(options.output / "judge"),
        "perceptual_weight": options.perceptual_weight,
    }
    start = {"discriminator_start": options.updates // 2}
    discriminators = {
        f"discriminator {weight:g}": perceptual | start | {"discriminator_weight": weight}
        for weight in options.discriminator_weights
    }
    return {"l1": {}, "perceptual": perceptual, **discriminators}


def trained_autoencoder(options, name, changes):
    """The folder of an autoencoder, and the CPU seconds of its training, None if it was there."""
    folder, begun = options.output / name.replace(" ", "_"), time.process_time()
    if (folder / "config.json").exists():
        return folder, None
    common = {
        **{"dataset": options.dataset, "resolution": options.resolution, "autoencoder": options.autoencoder},
        **{"batch_size": options.batch_size, "max_train_steps": options.updates, "sample_every": 0},
    }
    train_autoencoder(AutoencoderArguments(output_dir=str(folder), **common | changes))
    return folder, time.process_time() - begun


def roughness(images):
    """The mean absolute difference of neighbouring pixels."""
    return (images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder for the networks, which is continued")
    parser.add_argument("--dataset", help="by default the embedded Fashion-MNIST")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--autoencoder", default="small_f4")
    parser.add_argument("--updates", type=int, default=700)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--perceptual_weight", type=float, default=1.0)
    parser.add_argument("--discriminator_weights", type=float, nargs="*", default=[0.1, 0.5])
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--feature_epochs", type=int, default=20, help="of the network that measures")
    parser.add_argument("--judge_epochs", type=int, default=10, help="of the network that teaches")
    parser.add_argument("--name", default="autoencoder_losses_fashion_mnist", help="of the results")
    options = parser.parse_args()
    data = DataArguments(dataset=options.dataset, resolution=options.resolution)
    epochs = {"features": options.feature_epochs, "judge": options.judge_epochs}
    for seed, name in enumerate(epochs):
        if not (options.output / name / "config.json").exists():
            train_feature_network(options.output / name, data, epochs=epochs[name], seed=seed)
    folders = {name: trained_autoencoder(options, name, changes) for name, changes in losses(options).items()}
    rows, again, measured = {}, {}, Measured(options)
    for name, (folder, seconds) in folders.items():
        of_one, (images, again[name]) = measure_reconstruction(options, measured, folder)
        rows |= {"training images": of_one["training images"]}
        rows[name] = of_one["reconstructions"] | {
            "texture": roughness(again[name]) / roughness(images),
            "CPU seconds of the training": seconds,
        }
    kind, shown = kind_of_batch(images), [images, *again.values()]
    image_rows([kind.to_output(row[:COLUMNS], "pil") for row in shown]).save(RESULTS / f"{options.name}.png")
    report(options.name, {"options": told_options(options), "reconstructions": rows})


if __name__ == "__main__":
    main()
