"""The error of x0_hat on pixels that are exactly -1 and elsewhere, against the one variance for all pixels.

python benchmarks/background_error.py MODEL [--dataset fashion_mnist] [--num_images 150] [--timesteps 10 60 222 444]

MODEL is a folder from `ddpm-hf calibrate`. The table compares the standard deviation of x0 that its scheduler gives
every pixel with the root mean square error of x0_hat on held-out images: over all pixels, those that are -1, and the
rest.
"""

import argparse

import torch
from side_by_side import RESULTS

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.data import to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.schedulers.gaussian_kernel import covariance_scale
from ddpm_hf.schedulers.variances import mean_covariance


@torch.no_grad()
def errors(unet, scheduler, images, t, generator):
    """The standard deviation of x0 that the scheduler assumes, and the errors of x0_hat by kind of pixel."""
    noise = torch.randn(images.shape, generator=generator)
    x_t = scheduler.add_noise(images, noise, t)
    x0_hat = torch.cat(
        [scheduler.p_mean_variance(unet(x, t).sample, t, x).pred_original_sample for x in x_t.split(50)]
    )
    squares, background = (images - x0_hat) ** 2, images == -1
    gamma = scheduler.config.mean_square_epsilon[t]
    alpha_bar = scheduler.alpha_bar(t)
    scale = covariance_scale(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
    variance = mean_covariance(gamma, scale).clamp(0, scheduler.config.clip_sample_range**2)
    kinds = (squares, squares[background], squares[~background])
    return [variance.sqrt().item(), *(kind.mean().sqrt().item() for kind in kinds)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dataset")
    parser.add_argument("--num_images", type=int, default=150)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[10, 60, 222, 444])
    options = parser.parse_args()
    pipeline = GaussianDiffusionPipeline.from_pretrained(options.model)
    unet = pipeline.unet.eval()
    scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, clip_sample=True, variance_type="analytic")
    data = DataArguments(split="test", **{} if options.dataset is None else {"dataset": options.dataset})
    images = to_model_range(load_data(data, unet.config, options.num_images)[0])
    generator = torch.Generator().manual_seed(1)
    lines = [
        "| t | analytic | all | background | the rest |",
        "|---|---|---|---|---|",
        *(
            f"| {t} | {' | '.join(f'{error:.3f}' for error in errors(unet, scheduler, images, t, generator))} |"
            for t in options.timesteps
        ),
    ]
    text = f"{(images == -1).float().mean():.0%} of the pixels of {len(images)} images are -1.\n\n" + "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "background_error.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
