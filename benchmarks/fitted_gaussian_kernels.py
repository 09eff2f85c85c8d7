"""Rows fitted to noised images, with what they leave as noise: the linear Gaussian kernel of the largest likelihood.

python benchmarks/fitted_gaussian_kernels.py MODEL --features FOLDER --dataset D [--steps 5 10 25] [--samples 2000]
    [--images 2000] [--test_images 1000] [--seed 1] [--precision bf16] [--compile]

A kernel takes x_t to x_s = a_s x0 + sigma_s eps, s < t, where the last s is clean data. Its mean is a weighted sum of
x_t and of predictions x0_hat, its variance what this leaves on average (least squares, which is the maximum of the
likelihood):

- `posterior`: the coefficients of DDPM's posterior mean, which is Analytic-DPM (Bao et al. 2022a);
- `fitted`: those of x_t and of x0_hat(x_t) fitted to images of the training split;
- `fitted, history`: the same with every earlier x0_hat of the path too;

each with one variance, or with one for each spatial frequency (DCT), and `fitted by frequency`: coefficients for each.
Each has the bits per dimension of images of the test split, where 2 / 255 is the width of a level, and the Frechet
distance of its samples to half of the test split.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from fitted_solvers import FIT_IMAGES
from image_distance import BATCH, ImageDistance, split_of, turns
from side_by_side import RESULTS, machine, told_options
from tqdm.auto import tqdm

from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.variational_bound import normal_nats
from ddpm_hf.execution import DTYPES, Execution
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.schedulers.cosine_transform import cosine_transform
from ddpm_hf.schedulers.gaussian_kernel import Levels, posterior_variance, posterior_weights

LEVEL = 2 / 255


class Chain:
    """x0_hat of a DDPM's network, and the noise levels of a spacing of its timesteps."""

    def __init__(self, pipeline, steps):
        self.unet, self.scheduler = pipeline.unet, pipeline.scheduler
        alphas_bar = self.scheduler.alpha_bar(range(len(self.scheduler))).numpy()
        self.scheduler.set_timesteps(steps)
        self.timesteps = self.scheduler.timesteps.tolist()
        self.levels = [(alphas_bar[t] ** 0.5, (1 - alphas_bar[t]) ** 0.5) for t in self.timesteps] + [(1.0, 0.0)]

    def noised(self, x0, generator):
        """A draw of q(x_t1, x_t2, .. | x0), noisiest first, and x0 at its end."""
        path = [x0]
        for (a, sigma), (a_s, sigma_s) in reversed(list(zip(self.levels, self.levels[1:], strict=False))):
            ratio = a / a_s
            noise = torch.randn(x0.shape, generator=generator)
            path.append(ratio * path[-1] + (sigma**2 - ratio**2 * sigma_s**2) ** 0.5 * noise)
        return path[::-1]

    @torch.inference_mode()
    def predict(self, x, step, labels):
        t, parts = self.timesteps[step], []
        for first in range(0, len(x), BATCH):
            rows = slice(first, first + BATCH)
            given = {} if labels is None else {"class_labels": labels[rows]}
            output = self.unet(x[rows].to(self.unet.dtype), t, **given).sample.float()
            parts.append(self.scheduler.p_mean_variance(output, t, x[rows]).pred_original_sample)
        return torch.cat(parts)

    def posterior(self, step):
        """The coefficients of x_t and of x0 in the mean of q(x_s | x_t, x0), and its variance."""
        levels = Levels(*self.levels[step], *self.levels[step + 1])
        of_x0, of_x = posterior_weights(levels)
        return of_x, of_x0, posterior_variance(levels)


class Kernel:
    """A Gaussian kernel of one step: `mean` of x_t and the predictions, `variance` a number or by frequency."""

    def __init__(self, name, chain, step, path, predictions):
        base, by_frequency = name.removesuffix(", by frequency"), name.endswith("by frequency")
        self.history, self.transformed = base == "fitted, history", base == "fitted by frequency"
        self.by_frequency = by_frequency or self.transformed
        inputs, target = self._inputs(path[step], predictions), path[step + 1]
        if base == "posterior":
            self.coefficients = torch.tensor(chain.posterior(step)[:2], dtype=target.dtype)
        elif self.transformed:
            self.coefficients = least_squares_of_each(inputs, self._project(target))
        else:
            self.coefficients = least_squares(inputs, target)
        left = self._project(target - self.mean(path[step], predictions)).square()
        variance = left.mean(0) if self.by_frequency else left.mean()
        self.variance = variance.clamp(min=LEVEL**2 / 12)

    def _inputs(self, x, predictions):
        inputs = torch.stack([x, *(predictions if self.history else predictions[-1:])])
        if not self.transformed:
            return inputs
        projected = [self._project(value) for value in inputs]
        return torch.stack([*projected, torch.ones_like(projected[0])])

    def _project(self, x):
        return cosine_transform(x).project(x) if self.by_frequency else x

    def _lift(self, x):
        return cosine_transform(x).lift(x) if self.by_frequency else x

    def mean(self, x, predictions):
        inputs = self._inputs(x, predictions)
        if self.transformed:
            return self._lift((inputs * self.coefficients[:, None]).sum(0))
        return torch.tensordot(self.coefficients, inputs, 1)

    def nats(self, target, x, predictions):
        """-log of the density of each target, per dimension, (B,)."""
        left = self._project(target - self.mean(x, predictions)).square()
        return normal_nats(left, self.variance).flatten(1).mean(1)

    def noise(self, standard):
        return self._lift(standard * self.variance.sqrt())


def least_squares(inputs, target):
    """c with the smallest |target - sum_i c_i inputs_i|^2 over everything, float64 inside."""
    rows = inputs.flatten(1).double()
    gram, right = rows @ rows.T, rows @ target.flatten().double()
    return torch.linalg.lstsq(gram, right, driver="gelsd").solution.to(target.dtype)


def least_squares_of_each(inputs, target):
    """The same for each value of a sample by itself, (inputs, C, H, W)."""
    inputs = inputs.double()
    gram = torch.einsum("inchw,jnchw->chwij", inputs, inputs)
    right = torch.einsum("inchw,nchw->chwi", inputs, target.double())
    gram += 1e-9 * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    return torch.linalg.solve(gram, right[..., None])[..., 0].permute(3, 0, 1, 2).to(target.dtype)


NAMES = (
    "posterior",
    "fitted",
    "fitted, history",
    "posterior, by frequency",
    "fitted, history, by frequency",
    "fitted by frequency",
)


def predicted(chain, images, labels, seed):
    """A noised path of every image, and x0_hat at each of its steps."""
    path = chain.noised(images, torch.Generator().manual_seed(seed))
    return path, [chain.predict(path[step], step, labels) for step in range(len(chain.timesteps))]


def bits(chain, kernels, path, predictions):
    """(bits per dimension, standard error) of a kernel for each step, by KL(q || p) of each and the density of x0."""
    nats = torch.zeros(len(path[0]))
    for step, kernel in enumerate(kernels):
        nats += kernel.nats(path[step + 1], path[step], predictions[: step + 1])
        if step + 1 < len(kernels):
            nats -= (1 + math.log(2 * math.pi * chain.posterior(step)[2])) / 2
    values = nats / math.log(2) - math.log2(LEVEL)
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def draw(chain, kernels, x, labels, generator):
    predictions = []
    for step, kernel in enumerate(kernels):
        predictions.append(chain.predict(x, step, labels))
        mean = kernel.mean(x, predictions)
        x = mean if step + 1 == len(kernels) else mean + kernel.noise(torch.randn(x.shape, generator=generator))
    return x.clamp(-1, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--features", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--test_images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=DTYPES, help="of the network; by default its own")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--name", help="of the table; by default that of the model")
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    Execution(options.precision, compiled=options.compile).apply(pipeline.unet)
    train, test = (split_of(options.dataset, split, pipeline.unet.config) for split in ("train", "test"))
    distance = ImageDistance(load_features(options.features), test[0][1::2][:FIT_IMAGES])
    images, labels = chosen(*train, slice(options.images))
    unseen, unseen_labels = chosen(*test, slice(0, 2 * options.test_images, 2))
    drawn_labels = turns(pipeline.unet, options.samples)
    found = {name: {} for name in NAMES}
    for count in options.steps:
        chain = Chain(pipeline, count)
        path, predictions = predicted(chain, images, labels, options.seed)
        unseen_path = predicted(chain, unseen, unseen_labels, options.seed + 1)
        for name in tqdm(NAMES, desc=f"{count} steps"):
            kernels = [Kernel(name, chain, step, path, predictions[: step + 1]) for step in range(count)]
            generator = torch.Generator().manual_seed(options.seed)
            noise = torch.randn(options.samples, *pipeline.samples.shape, generator=generator)
            value, error = bits(chain, kernels, *unseen_path)
            found[name][count] = {"bits": value, "error": error}
            if options.samples:
                found[name][count]["distance"] = distance(draw(chain, kernels, noise, drawn_labels, generator))
            print(name, count, found[name][count], flush=True)
        result = {"machine": machine(), "options": told_options(options), "measured": found}
        file = RESULTS / f"fitted_gaussian_kernels_{options.name or Path(options.model).name}.json"
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def chosen(images, labels, rows):
    return to_model_range(images[rows]), None if labels is None else torch.as_tensor(labels[rows])


if __name__ == "__main__":
    main()
