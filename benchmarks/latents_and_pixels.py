"""A model of latents beside a model of pixels, trained for the same time on the same images.

    python benchmarks/latents_and_pixels.py outputs/latents [--updates 1000] [--autoencoder_updates 1000]
    python benchmarks/latents_and_pixels.py outputs/cifar_latents --dataset ../shared/data/cifar10 --unet small_32 \\
        --name latents_and_pixels_cifar10

It trains, each in a folder of its own and unless it is there: a feature network; an autoencoder; a model of pixels for
`--updates`; and one of latents for as many updates as take the same time, by the ratio of bare updates timed in turns.
The time of the autoencoder stands beside it, because it is trained once for all models in its latents. Then it
measures:

1. the reconstruction of test images: PSNR, and their Frechet distance to other test images, beside that of training
   images (the floor);
2. samples of both models: the Frechet distance to the same test images, a mean over seeds with its standard error, and
   images per second, in turns.

A picture has rows of test images, their reconstructions, samples of latents, and samples of pixels.
"""

import argparse
import time
from pathlib import Path

import torch
import yaml
from bare_training import BareTraining
from diffusers import AutoencoderKL
from side_by_side import RESULTS, report, time_in_turns, told_options
from super_resolution import COLUMNS, Measured, in_batches, loaded, psnr, save_picture

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.data import DataArguments, draw_images, to_model_range
from ddpm_hf.evaluation.feature_network import train_feature_network
from ddpm_hf.models.named_networks import network_config
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.train import train
from ddpm_hf.training.train_autoencoder import train_autoencoder

TIMED_UPDATES, TIMED_IMAGES, REPEATS = 5, 64, 5


def autoencoder_of(options):
    """The folder of the autoencoder, and the CPU seconds of its training, None if it was there."""
    folder, begun = options.output / "autoencoder", time.process_time()
    if (folder / "config.json").exists():
        return folder, None
    train_autoencoder(
        AutoencoderArguments(
            dataset=options.dataset,
            resolution=options.resolution,
            autoencoder=options.autoencoder,
            batch_size=options.batch_size,
            max_train_steps=options.autoencoder_updates,
            sample_every=0,
            output_dir=str(folder),
        )
    )
    return folder, time.process_time() - begun


def seconds_of_updates(options, latent_sides):
    """Medians of the seconds of a bare update of each network, in turns."""
    sides = {"pixels": (options.unet, options.resolution), "latents": (options.latent_unet, latent_sides)}
    runs = {}
    for name, (unet, side) in sides.items():
        config = dict(network_config(unet))
        config |= {"sample_size": side, "out_channels": config["in_channels"]}
        images = torch.randn(options.batch_size, config["in_channels"], side, side)
        runs[name] = BareTraining(config, images).run
    timed = {name: (lambda run=run: run(TIMED_UPDATES)) for name, run in runs.items()}
    return {name: row["seconds"] / TIMED_UPDATES for name, row in time_in_turns(timed, REPEATS).items()}


def train_model(options, name, updates, **changes):
    folder = options.output / name
    if not (folder / "model_index.json").exists():
        common = {
            **{"dataset": options.dataset, "resolution": options.resolution, "class_conditional": True},
            **{"batch_size": options.batch_size, "learning_rate": 1e-3, "adam_beta2": 0.99, "lr_warmup_steps": 100},
            **{"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "ema_decay": 0.999},
            **{"num_samples": 16, "sample_every": 0, "output_dir": str(folder), "max_train_steps": updates},
        }
        train(TrainingArguments(**common | changes))
    return folder


def updates_of(folder):
    return yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))["max_train_steps"]


def measure_reconstruction(options, measured, autoencoder):
    """The rows of a report, and pairs of images and reconstructions."""
    images = to_model_range(draw_images(measured.test, options.num_images, 0).decode()["images"])
    vae = AutoencoderKL.from_pretrained(autoencoder).eval()
    with torch.no_grad():
        again = in_batches(lambda part: vae(part).sample.clamp(-1, 1), images)
    floor = to_model_range(draw_images(measured.train, options.num_images, 0).decode()["images"])
    rows = {"training images": {"distance": measured.distance(floor)}}
    rows["reconstructions"] = {"psnr": psnr(again, images), "distance": measured.distance(again)}
    return rows, (images, again)


def drawn(pipeline, options, number, seed):
    """Samples (N, C, H, W) in [-1, 1], of the classes in turn, each from the noise of a generator of its own."""
    classes = classes_of(pipeline.unet.config)[0]

    def part(places):
        generators = [torch.Generator().manual_seed(1000 * seed + place) for place in places.tolist()]
        given = {"class_labels": places % classes, "num_inference_steps": options.steps, "output_type": "pt"}
        return pipeline(generator=generators, **given).images * 2 - 1

    return in_batches(part, torch.arange(number))


def measure_samples(options, measured, folders):
    """The rows of a report, and the first samples of each model."""
    pipelines = {name: loaded(GaussianDiffusionPipeline, folder) for name, folder in folders.items()}
    first = {name: drawn(pipeline, options, options.num_images, 0) for name, pipeline in pipelines.items()}
    rows = {
        name: measured.over_seeds(
            lambda seed, name=name, pipeline=pipeline: (
                first[name] if seed == 0 else drawn(pipeline, options, options.num_images, seed)
            )
        )
        for name, pipeline in pipelines.items()
    }
    runs = {name: (lambda p=pipeline: drawn(p, options, TIMED_IMAGES, 0)) for name, pipeline in pipelines.items()}
    for name, row in time_in_turns(runs, REPEATS).items():
        rows[name] |= {"images per second": TIMED_IMAGES / row["seconds"], "time over that of pixels": row["ratio"]}
    return rows, {name: images[:COLUMNS] for name, images in first.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder for the models, which is continued")
    parser.add_argument("--dataset", help="by default the embedded Fashion-MNIST")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--unet", default="fashion_mnist", help="the network of pixels")
    parser.add_argument("--autoencoder", default="small_f4")
    parser.add_argument("--latent_unet", default="latents_small")
    parser.add_argument("--updates", type=int, default=1000, help="of the model of pixels")
    parser.add_argument("--autoencoder_updates", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--feature_epochs", type=int, default=20)
    parser.add_argument("--name", default="latents_and_pixels_fashion_mnist", help="of the results")
    options = parser.parse_args()
    if not (options.output / "features" / "config.json").exists():
        data = DataArguments(dataset=options.dataset, resolution=options.resolution)
        train_feature_network(options.output / "features", data, epochs=options.feature_epochs)
    autoencoder, autoencoder_seconds = autoencoder_of(options)
    factor = 2 ** (len(AutoencoderKL.load_config(autoencoder)["block_out_channels"]) - 1)
    of_update = seconds_of_updates(options, options.resolution // factor)
    latent_updates = round(options.updates * of_update["pixels"] / of_update["latents"])
    folders = {
        "pixels": train_model(options, "pixels", options.updates, unet=options.unet),
        "latents": train_model(options, "latents", latent_updates, unet=options.latent_unet, vae=str(autoencoder)),
    }
    measured = Measured(options)
    reconstruction, shown = measure_reconstruction(options, measured, autoencoder)
    samples, first = measure_samples(options, measured, folders)
    rows = (*shown, first["latents"], first["pixels"])
    save_picture(loaded(GaussianDiffusionPipeline, folders["pixels"]), rows, RESULTS / f"{options.name}.png")
    report(
        options.name,
        {
            "options": told_options(options),
            "CPU seconds of the autoencoder": autoencoder_seconds,
            "seconds of an update": of_update,
            "updates": {name: updates_of(folder) for name, folder in folders.items()},
            "reconstruction": reconstruction,
            "samples": samples,
        },
    )


if __name__ == "__main__":
    main()
