"""Sampling by default and by each precision against stock diffusers in float32, side by side, and what it costs.

python benchmarks/sampling_speed.py [MODEL] [--unet cifar10] [--batch_size 64] [--steps 5] [--repeats 5]
    [--features FOLDER --num_images 1000 --quality_steps 25]

MODEL is a pipeline folder, by default the embedded one; `--unet` measures a preset with random weights instead.
Stock is the loop of diffusers' guides with `DDIMScheduler` on the same weights, and as many network calls. With
`--features`, a folder of a classifier, the Frechet distance of samples to the embedded test images is measured in
float32 and in what `auto` chooses, from common noise.
"""

import argparse
import copy

import torch
from diffusers import DDIMScheduler, UNet2DModel
from side_by_side import report, time_in_turns

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import DataArguments, open_images
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.measures.frechet import estimate_frechet_distance
from ddpm_hf.execution import Execution, compiled_if_faster, fastest_execution
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.pipelines.network_speed import one_call
from ddpm_hf.places import EMBEDDED_MODEL


def open_model(options):
    if options.unet is None:
        return GaussianDiffusionPipeline.from_pretrained(options.model)
    torch.manual_seed(0)
    return GaussianDiffusionPipeline(DDPMUNet2DModel(**UNET_PRESETS[options.unet]), GaussianDiffusionScheduler())


def stock_loop(pipeline, options):
    """The denoising loop of diffusers' guides with its own classes and the same weights, which takes labels too."""
    config = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    network = UNet2DModel(**UNet2DModel.extract_init_dict(config)[0])
    network.load_state_dict(pipeline.unet.state_dict())
    network.eval()
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    labels = pipeline.encode_labels(0 if network.class_embedding else None, batch_size=options.batch_size)

    @torch.no_grad()
    def draw():
        scheduler.set_timesteps(options.steps)
        x = torch.randn(options.batch_size, *pipeline.samples.shape, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            output = network(x, t, labels).sample
            x = scheduler.step(output[:, : x.shape[1]], t, x).prev_sample
        return x

    return draw


def in_execution(pipeline, execution):
    network = copy.deepcopy(pipeline.unet)
    execution.apply(network)
    return GaussianDiffusionPipeline(network, pipeline.scheduler.from_config(pipeline.scheduler.config))


def drawing(pipeline, options):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    labels = 0 if pipeline.unet.class_embedding else None
    sampling = {"batch_size": options.batch_size, "num_inference_steps": options.steps, "eta": 0.0}
    return lambda: pipeline(**sampling, class_labels=labels, generator=generator, output_type="latent")


def speeds(pipeline, chosen, options):
    executions = {each.text: each for each in (Execution(), Execution("bf16"), chosen)}
    contenders = {"diffusers, float32": stock_loop(pipeline, options)}
    contenders |= {name: drawing(in_execution(pipeline, each), options) for name, each in executions.items()}
    return time_in_turns(contenders, options.repeats)


def distances(pipeline, chosen, options):
    """The Frechet distance with its error, in float32 and in what was chosen."""
    see, images = load_features(options.features), open_images(DataArguments(split="test"), None).decode()["images"]
    reference, found = see(images), {}
    for execution in (Execution(), chosen):
        drawn = in_execution(pipeline, execution)
        parts = [
            draw_levels(drawn, [*range(first, first + 100)], 0, num_inference_steps=options.quality_steps)
            for first in range(0, options.num_images, 100)
        ]
        estimate = estimate_frechet_distance(torch.cat([see(part) for part in parts]), reference)
        found[execution.text] = {"distance": estimate.value, "error": estimate.standard_error}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=EMBEDDED_MODEL)
    parser.add_argument("--unet", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--features")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--quality_steps", type=int, default=25)
    options = parser.parse_args()
    pipeline = open_model(options)
    pipeline.unet.eval()
    call = one_call(pipeline, options.batch_size)
    chosen, calls = fastest_execution(pipeline.unet, call, pipeline.unet.device)
    if options.compile:
        chosen = compiled_if_faster(chosen, pipeline.unet, call)
    measured = {
        "chosen": chosen.text,
        "calls_a_second": {each.text: value for each, value in calls.items()},
        "sampling": speeds(pipeline, chosen, options),
    }
    if options.features is not None:
        measured["frechet_distance"] = distances(pipeline, chosen, options)
    report(f"sampling_speed_{options.unet or 'fashion_mnist'}_{pipeline.unet.device.type}", measured)


if __name__ == "__main__":
    main()
