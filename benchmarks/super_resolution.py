"""Upscalers and cascades: how well images of low resolution are enlarged, and what a cascade is worth.

    python benchmarks/super_resolution.py outputs/super_resolution [--updates 2000] [--num_images 500]
    python benchmarks/super_resolution.py outputs/cifar --dataset ../shared/data/cifar10 --unet small_32 \\
        --resolution 32 --low_resolution 8 --name super_resolution_cifar10

It trains, each in a folder of its own and unless it is there: a feature network; one model of whole images; a base of
low resolution; and two upscalers, with levels of noise on what they are told and without. All have labels. The base
and an upscaler together take as many FLOPs as the one model. Then it measures:

1. enlarged test images: the PSNR of what they become in low resolution again, against what was told, and their Frechet
   distance to other test images, beside bicubic interpolation of the same and beside training images (the floor);
2. the Frechet distance of samples of the cascade and of the one model to the same test images;
3. the same of the cascade at several augmentation levels, for both upscalers.

Each Frechet distance is a mean over seeds, with the standard error. A picture has rows of the told image, its bicubic
interpolation, a sample, and the original.
"""

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.utils import make_image_grid
from side_by_side import RESULTS, report, told_options
from torch.utils.flop_counter import FlopCounterMode

from ddpm_hf import GaussianDiffusionCascadePipeline, GaussianDiffusionPipeline, GaussianDiffusionUpscalePipeline
from ddpm_hf.data import DataArguments, draw_images, open_images, to_model_range
from ddpm_hf.data.model_range import to_levels
from ddpm_hf.evaluation.distances import frechet_distance
from ddpm_hf.evaluation.feature_network import train_feature_network
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.models.named_networks import network_config
from ddpm_hf.pipelines.image_grids import enlargement, sample_images
from ddpm_hf.recipes import with_recipe
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

RECIPE = "ddim-2m"
LEVELS = (0.0, 0.1, 0.2, 0.3)
ROWS, COLUMNS = 4, 12


def settings(options):
    """{model: the options of its training that differ}."""
    upscaler = {"resolution": options.resolution, "low_resolution": options.low_resolution}
    return {
        "single": {"resolution": options.resolution},
        "base": {"resolution": options.low_resolution, "unet": str(base_network(options))},
        "upscaler": upscaler | {"max_augmentation_level": 0.5},
        "upscaler_without_noise": upscaler,
    }


def base_network(options):
    """The config of a network for the low resolution: the deepest levels of the other, as many as can be halved."""
    config, count = dict(network_config(options.unet)), 1
    while options.low_resolution % 2**count == 0 and count < len(config["block_out_channels"]):
        count += 1
    for name in ("block_out_channels", "down_block_types"):
        config[name] = config[name][-count:]
    config |= {
        "_class_name": "UNet2DModel",
        "up_block_types": config["up_block_types"][:count],
        "sample_size": options.low_resolution,
    }
    file = options.output / "base.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def arguments(options, name, updates):
    common = {
        **{"dataset": options.dataset, "unet": options.unet, "class_conditional": True, "max_train_steps": updates},
        **{"batch_size": options.batch_size, "learning_rate": 1e-3, "adam_beta2": 0.99, "lr_warmup_steps": 100},
        **{"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "ema_decay": 0.999},
        **{"num_samples": 16, "sample_every": 0, "output_dir": str(options.output / name)},
    }
    return TrainingArguments(**common | settings(options)[name])


def flops_of(folder):
    """FLOPs of a network's call on one image."""
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    x = torch.zeros(1, pipeline.unet.config.in_channels, *pipeline.samples.sides)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipeline.unet(x, 0, pipeline.encode_labels(0))
    return counter.get_total_flops()


def trained(options):
    """The folders of the models; each stage of the cascade has half of the FLOPs of the one model."""
    folders = {name: options.output / name for name in settings(options)}
    flops = {}
    for name, folder in folders.items():
        if not (folder / "model_index.json").exists():  # one update, for its FLOPs
            train(replace(arguments(options, name, 1), sample_steps=1))
    for name, folder in folders.items():
        flops[name] = flops_of(folder)
    for name in folders:
        share = 1 if name == "single" else flops["single"] / flops[name] / 2
        train(arguments(options, name, max(1, round(options.updates * share))))
    return folders, flops


def loaded(kind, folder):
    pipeline = kind.from_pretrained(folder)
    pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, RECIPE))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def in_batches(function, *tensors, size=64):
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(size) for tensor in tensors), strict=True)])


def psnr(a, b):
    """In dB, of images in [-1, 1]; a mean over images."""
    return (10 * (4 / (a - b).square().flatten(1).mean(1)).log10()).mean().item()


class Measured:
    """Features of test images, and distances to them."""

    def __init__(self, options):
        self.features = load_features(options.output / "features")
        data = DataArguments(dataset=options.dataset, class_conditional=True, resolution=options.resolution)
        self.test = open_images(replace(data, split="test"), None)
        self.train = open_images(data, None)
        self.options = options
        others = draw_images(self.test, options.num_images, 0, after=options.num_images).decode()["images"]
        self.reference = in_batches(self.features, others)

    def distance(self, images):
        """The Frechet distance of images in [-1, 1] to the other test images."""
        return frechet_distance(in_batches(self.features, to_levels(images)), self.reference)

    def over_seeds(self, draw):
        """Mean and standard error over seeds of the distance of `draw(seed)`."""
        values = [self.distance(draw(seed)) for seed in range(self.options.seeds)]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return {"mean": statistics.mean(values), "standard_error": error}


def enlarged(pipeline, small, labels, seed, steps, level=0.0):
    """The images (N, C, h, w) in [-1, 1] enlarged, image i from the noise of a generator of its own."""

    def enlarge(part, part_labels, places):
        generators = [torch.Generator().manual_seed(1000 * seed + place) for place in places.tolist()]
        options = {"class_labels": part_labels, "num_inference_steps": steps, "output_type": "pt"}
        return pipeline(part / 2 + 0.5, level, generator=generators, **options).images * 2 - 1

    return in_batches(enlarge, small, labels, torch.arange(len(small)))


def measure_upscaling(options, measured, folders):
    drawn = draw_images(measured.test, options.num_images, 0).decode()
    images, labels = to_model_range(drawn["images"]), drawn["labels"]
    floor = draw_images(measured.train, options.num_images, 0).decode()["images"]
    rows = {"training images": {"distance": measured.distance(to_model_range(floor))}}
    for name in ("upscaler", "upscaler_without_noise"):
        pipeline = loaded(GaussianDiffusionUpscalePipeline, folders[name])
        condition = pipeline.samples.condition
        small = condition.of_image(images)
        if name == "upscaler":
            blown_up = F.interpolate(small, images.shape[2:], mode="bicubic").clamp(-1, 1)
            rows["bicubic"] = {
                "psnr_low": psnr(condition.of_image(blown_up), small),
                "distance": measured.distance(blown_up),
            }
        first = enlarged(pipeline, small, labels, 0, options.steps)
        draw = lambda seed: first if seed == 0 else enlarged(pipeline, small, labels, seed, options.steps)  # noqa: B023, E731
        rows[name] = {
            "psnr_low": psnr(condition.of_image(first), small),
            "psnr": psnr(first, images),
            **measured.over_seeds(draw),
        }
        save_picture(pipeline, (small, blown_up, first, images), RESULTS / f"{options.name}_{name}.png")
    return rows


def save_picture(pipeline, kinds, file):
    size = kinds[-1].shape[2:]
    factor = enlargement(max(size))
    rows = []
    for images in kinds:
        same = F.interpolate(images[:COLUMNS], size) if images.shape[2:] != size else images[:COLUMNS]
        rows += pipeline.image_processor.postprocess(same, output_type="pil")
    rows = [image.resize((factor * image.width, factor * image.height), 0) for image in rows]
    make_image_grid(rows, ROWS, COLUMNS).convert(rows[0].mode).save(file)


def measure_cascades(options, measured, folders):
    labels = torch.arange(options.num_images) % measured.train.num_classes

    def draw(pipeline, seed, **keywords):
        def part(places, part_labels):
            generators = [torch.Generator().manual_seed(1000 * seed + place) for place in places.tolist()]
            told = {"class_labels": part_labels, "num_inference_steps": options.steps, **keywords}
            return pipeline(generator=generators, output_type="pt", **told).images * 2 - 1

        return in_batches(part, torch.arange(options.num_images), labels)

    single, base = (loaded(GaussianDiffusionPipeline, folders[name]) for name in ("single", "base"))
    rows = {"single": measured.over_seeds(lambda seed: draw(single, seed))}
    for name in ("upscaler", "upscaler_without_noise"):
        cascade = GaussianDiffusionCascadePipeline.from_stages(
            base, loaded(GaussianDiffusionUpscalePipeline, folders[name])
        )
        cascade.set_progress_bar_config(disable=True)
        for level in LEVELS if name == "upscaler" else LEVELS[:1]:
            rows[f"cascade with {name}, level {level:g}"] = measured.over_seeds(
                lambda seed, level=level, cascade=cascade: draw(cascade, seed, augmentation_level=level)
            )
    save_samples(cascade, RESULTS / f"{options.name}_cascade.png", options)
    return rows


def save_samples(cascade, file, options):
    images = sample_images(cascade, ROWS * COLUMNS, num_inference_steps=options.steps)
    factor = enlargement(max(images[0].size))
    images = [image.resize((factor * image.width, factor * image.height), 0) for image in images]
    make_image_grid(images, ROWS, COLUMNS).convert(images[0].mode).save(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder for the models, which is continued")
    parser.add_argument("--dataset", help="by default the embedded Fashion-MNIST")
    parser.add_argument("--unet", default="fashion_mnist")
    parser.add_argument("--resolution", type=int, default=28)
    parser.add_argument("--low_resolution", type=int, default=7)
    parser.add_argument("--updates", type=int, default=2000, help="of the one model of whole images")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--feature_epochs", type=int, default=20)
    parser.add_argument("--name", default="super_resolution_fashion_mnist", help="of the results")
    options = parser.parse_args()
    if not (options.output / "features" / "config.json").exists():
        data = DataArguments(dataset=options.dataset, resolution=options.resolution)
        train_feature_network(options.output / "features", data, epochs=options.feature_epochs)
    folders, flops = trained(options)
    measured = Measured(options)
    report(
        options.name,
        {
            "options": told_options(options),
            "flops of a call": flops,
            "upscaling": measure_upscaling(options, measured, folders),
            "sampling": measure_cascades(options, measured, folders),
        },
    )


if __name__ == "__main__":
    main()
