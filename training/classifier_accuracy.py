"""Accuracy of a classifier of noisy images by noise level, which shows how well it can guide."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from ddpm_hf.data import to_model_range
from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps


@dataclass(frozen=True)
class QuarterAccuracy:
    """The share of correctly classified x_t for t uniform in first .. last, with its standard error."""

    first: int
    last: int
    accuracy: float
    standard_error: float


@torch.no_grad()
def accuracy_by_quarter(classifier, scheduler, images, labels, batch_size=64, seed=0):
    """The accuracy in each quarter of the T timesteps, with each image once per quarter at a random timestep.

    Args:
        classifier (`NoisyImageClassifier`): p(y | x_t, t).
        scheduler (`GaussianDiffusionScheduler`): gives x_t.
        images (`torch.Tensor`): uint8, (N, C, H, W).
        labels (`torch.Tensor`): int64, (N,).
        batch_size (`int`): images at a time; the noise does not depend on it.
        seed (`int`): seed of timesteps and noise.

    Returns:
        `list[QuarterAccuracy]`: in the order of t; fewer than four if T < 4.
    """
    num_timesteps = scheduler.config.num_train_timesteps
    quarters = np.array_split(np.arange(num_timesteps), min(4, num_timesteps))
    # Drawn for all images at once, so that timesteps, like noise, do not depend on the batch size.
    random = np.random.default_rng(seed)
    timesteps = torch.from_numpy(np.stack([random.choice(quarter, len(images)) for quarter in quarters]))
    right = torch.empty(len(quarters), len(images), dtype=torch.bool)
    with evaluating(classifier):
        for first in tqdm(range(0, len(images), batch_size), desc="accuracy", unit="batch"):
            rows = slice(first, first + batch_size)
            x0 = to_model_range(images[rows].to(classifier.device))
            generators = image_generators(seed, first, x0)
            for q, noise in enumerate(noise_of_steps(generators, len(quarters), x0)):
                t = timesteps[q, rows].to(x0.device)
                logits = classifier(scheduler.add_noise(x0, noise, t), t)
                right[q, rows] = logits.argmax(1).cpu() == labels[rows]
    accuracies = right.double().mean(1)
    errors = (accuracies * (1 - accuracies) / len(images)).sqrt()
    return [
        QuarterAccuracy(int(quarter[0]), int(quarter[-1]), accuracy, error)
        for quarter, accuracy, error in zip(quarters, accuracies.tolist(), errors.tolist(), strict=True)
    ]


def accuracy_report(quarters, labels, split):
    """The report as JSON data, with the majority-class baseline."""
    return {
        "split": split,
        "num_images": len(labels),
        "commonest_class": labels.bincount().max().item() / len(labels),
        "quarters": [asdict(quarter) for quarter in quarters],
    }


def accuracy_table(report):
    lines = [f"{'timesteps':>14}  accuracy on {report['num_images']} noisy images of split {report['split']!r}"]
    lines += [
        f"{q['first']:>6} .. {q['last']:>4}  {q['accuracy']:.3f} +- {q['standard_error']:.3f}"
        for q in report["quarters"]
    ]
    return "\n".join([*lines, f"{'no look':>14}  {report['commonest_class']:.3f}"])
