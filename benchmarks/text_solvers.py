"""Fitted solvers of a text-to-image model beside those of diffusers, in the stock pipelines of Stable Diffusion.

    python benchmarks/text_solvers.py MODEL --judge FOLDER [--judge_side 28] [--template "a photo of a {label}"]
        [--guidance_scale 3] [--steps 5,10] [--per_class 50] [--strength 0.8] [--name fashion_mnist]
        [--pipelines "text to image,image to image,inpainting"]

MODEL is a folder that `ddpm-hf calibrate --solver` has written, a StableDiffusionPipeline of the embedded
Fashion-MNIST. Three pipelines are asked for each class by its caption: StableDiffusionPipeline from noise;
StableDiffusionImg2ImgPipeline, which repaints test images of the class before it, so that it begins in the middle of
the timesteps; and StableDiffusionInpaintPipeline, which paints the lower half of test images of the class. All
samplers have the same noise and images. The judge, a classifier of clean images that had no part in the training
(`python -m ddpm_hf.evaluation.feature_network FOLDER` trains one), says how many samples it takes for the class that
was asked for, and in its features the Frechet distance to the test split is measured. Standard errors: of a share, and
of the distance by leaving out each tenth of the samples (jackknife).
"""

import argparse
import copy
import json

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from side_by_side import RESULTS, machine, told_options

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.data import open_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.samplers import make_sampler

FITTED, SECOND_ORDER = "fitted rows", "fitted timesteps, 2M"
STOCK = ("unipc@leading", "unipc@trailing", "diffusers-ddim@trailing", "dpmpp-2m@trailing")
TEXT, REPAINT, INPAINT = "text to image", "image to image", "inpainting"
KINDS = {
    TEXT: StableDiffusionPipeline,
    REPAINT: StableDiffusionImg2ImgPipeline,
    INPAINT: StableDiffusionInpaintPipeline,
}
BATCH, TENTHS = 100, 10


def samplers_of(scheduler):
    """{name: scheduler}: the fitted rows, the same without rows for a beginning in the middle, and diffusers'."""
    fitted = GaussianDiffusionScheduler.from_config(scheduler.config)
    solvers = copy.deepcopy(fitted.config.fitted_solvers)
    for solver in solvers["solvers"].values():
        solver.pop("rows_from", None)
    whole = GaussianDiffusionScheduler.from_config(scheduler.config, fitted_solvers=solvers)
    return {FITTED: fitted, SECOND_ORDER: whole} | {name: make_sampler(name, scheduler) for name in STOCK}


class Judge:
    """What the judge says of images (N, 1, H, W), uint8, in the size of its training."""

    def __init__(self, options, test):
        self.network, self.side = load_features(options.judge, "cpu"), options.judge_side
        self.data = FeatureStatistics(self.see(test)[0])

    def see(self, images):
        """The features and the logits."""
        parts = [self.network.see(part) for part in self._sized(images).split(500)]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def _sized(self, images):
        if self.side in (None, images.shape[-1]):
            return images
        size = (self.side, self.side)
        sized = [np.asarray(Image.fromarray(image[0]).resize(size, Image.LANCZOS)) for image in images.numpy()]
        return torch.from_numpy(np.stack(sized))[:, None]

    def figures(self, images, asked):
        """The share that is recognised and the Frechet distance, each with its standard error."""
        features, logits = self.see(images)
        share = (logits.argmax(1) == asked).double().mean().item()
        tenths = torch.arange(len(asked)) // len(asked.unique()) % TENTHS  # each has all classes alike
        without = torch.tensor([self._distance(features[tenths != tenth]) for tenth in range(TENTHS)])
        return {
            "recognised": share,
            "recognised_error": (share * (1 - share) / len(asked)) ** 0.5,
            "frechet_distance": self._distance(features),
            "frechet_distance_error": ((TENTHS - 1) * without.var(unbiased=False)).sqrt().item(),
        }

    def _distance(self, features):
        return frechet_distance(FeatureStatistics(features), self.data)


class Task:
    """The captions of all samples, and for editing the images and the mask.

    Args:
        test: images (M, 1, 28, 28), uint8, of labels (M,), with class names.
    """

    def __init__(self, options, test, labels, names):
        self.options, number = options, options.per_class
        self.asked = torch.arange(number * len(names)) % len(names)
        self.prompts = [options.template.format(label=names[label]) for label in self.asked]
        of_class = [torch.from_numpy(np.flatnonzero(labels == label)[:number]) for label in range(len(names))]
        taken = torch.arange(len(self.asked)) // len(names)
        self.own = self._pictures(test, of_class, self.asked, taken)
        self.before = self._pictures(test, of_class, (self.asked - 1) % len(names), taken)

    def _pictures(self, test, of_class, classes, taken):
        places = [of_class[label][place] for label, place in zip(classes, taken, strict=True)]
        side = self.options.side
        return [Image.fromarray(test[place, 0].numpy()).resize((side, side), Image.LANCZOS) for place in places]

    def drawn(self, pipeline, kind, steps):
        """The samples, (N, 1, H, W), uint8; sample i has the noise of seed i."""
        side, found = self.options.side, []
        mask = Image.fromarray(np.repeat([[0], [255]], side // 2, axis=0).astype(np.uint8).repeat(side, axis=1))
        for first in range(0, len(self.prompts), BATCH):
            batch = slice(first, first + BATCH)
            number = len(self.prompts[batch])
            given = {
                TEXT: {},
                REPAINT: {"image": self.before[batch], "strength": self.options.strength},
                INPAINT: {"image": self.own[batch], "mask_image": [mask] * number, "height": side, "width": side},
            }[kind]
            images = pipeline(
                self.prompts[batch],
                guidance_scale=self.options.guidance_scale,
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(first + i) for i in range(number)],
                output_type="np",
                **given,
            ).images
            found.append(torch.from_numpy((images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
        return torch.cat(found)


def measured(options):
    """Yields a row of the table for each pipeline, number of steps and sampler."""
    source = open_images(DataArguments(split="test", class_conditional=True), None)
    tensors = source.decode()
    test = tensors["images"]
    judge = Judge(options, test)
    stock = StableDiffusionPipeline.from_pretrained(options.model)
    task = Task(options, test, tensors["labels"].numpy(), source.class_names)
    samplers = samplers_of(stock.scheduler)
    for kind in options.pipelines.split(","):
        pipeline = KINDS[kind].from_pipe(stock, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        for steps in map(int, options.steps.split(",")):
            for name, sampler in samplers.items():
                if kind != REPAINT and name == SECOND_ORDER:
                    continue  # it differs in the middle alone
                pipeline.scheduler = sampler
                found = judge.figures(task.drawn(pipeline, kind, steps), task.asked)
                yield {"pipeline": kind, "steps": steps, "sampler": name, **found}


def table(rows):
    """The lines of a table in Markdown."""
    lines = ["| pipeline | steps | sampler | recognised | Frechet distance |", "|---|---|---|---|---|"]
    for row in rows:
        share = f"{row['recognised']:.1%} ± {row['recognised_error']:.1%}"
        distance = f"{row['frechet_distance']:.2f} ± {row['frechet_distance_error']:.2f}"
        lines.append(f"| {row['pipeline']} | {row['steps']} | {row['sampler']} | {share} | {distance} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--judge_side", type=int, help="The side of the images that the judge was trained on.")
    parser.add_argument("--template", default="a photo of a {label}")
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--steps", default="5,10")
    parser.add_argument("--pipelines", default=",".join(KINDS), help="Some of these, with commas between.")
    parser.add_argument("--per_class", type=int, default=50)
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--name", default="fashion_mnist")
    options = parser.parse_args()
    rows = []
    for row in measured(options):
        rows.append(row)
        print(table(rows)[-1], flush=True)
        file = RESULTS / f"text_solvers_{options.name}"
        file.with_suffix(".json").write_text(
            json.dumps({**told_options(options), **machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
        file.with_suffix(".md").write_text("\n".join(table(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
