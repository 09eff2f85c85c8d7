"""Pictures of docs/point_clouds.md and docs/sde_and_langevin.md; `figures.py` lists the model of each."""

import torch
from matplotlib.patches import Rectangle

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.point_clouds import swiss_roll, two_moons
from ddpm_hf.evaluation.forward_process import forward_marginals
from ddpm_hf.figures import model_figures, scheduler_figures
from ddpm_hf.pipelines.trajectory_pictures import save_animation
from ddpm_hf.reports.loss_curve import draw_loss_curve
from ddpm_hf.visualization import (
    draw_forward_process,
    draw_path,
    draw_score_field,
    new_figure,
    path_images,
    save_figure,
    score,
)

ROLL = DataArguments(dataset="swiss_roll")


def schedules(file):
    save_figure(scheduler_figures.schedules(), file)


def forward(file):
    """2,000 points, noised in the two ways."""
    generator = torch.Generator().manual_seed(1)
    points = standardised(swiss_roll(2000, generator).points)
    marginals = forward_marginals(GaussianDiffusionScheduler(), points, [0, 29, 59, 99, 299, 999], generator)
    save_figure(draw_forward_process(marginals), file)


def score_field(file):
    """The exact score of 1,000 points."""
    points = standardised(swiss_roll(1000, torch.Generator().manual_seed(0)).points)
    scheduler, predict = exact_model(points)
    save_figure(draw_score_field(scheduler, predict, points, [9, 99, 199, 299, 499, 999]), file)


def four_samplers(file, shown=(0.0, 0.5, 0.75, 0.9, 0.97, 1.0)):
    """One exact score as ancestral chain, probability flow, predictor-corrector and annealed Langevin dynamics."""
    points = standardised(swiss_roll(400, torch.Generator().manual_seed(0)).points)
    chain = GaussianDiffusionScheduler(clip_sample=False)
    pipeline = GaussianDiffusionPipeline(ExactDenoiser.from_points(points, chain), chain)
    pipeline.set_progress_bar_config(disable=True)
    samplers = {
        "ancestral": {"predictor": "ancestral"},
        "flow": {"predictor": "reverse_diffusion", "probability_flow": True},
        "corrected": {"predictor": "reverse_diffusion", "corrector": "langevin"},
        "Langevin": {"predictor": "none", "corrector": "annealed_langevin", "correct_steps": 10},
    }
    frames = {}
    for name, options in samplers.items():
        pipeline.scheduler = ScoreSDEScheduler.from_config(chain.config, **options)
        steps = 50 if name == "Langevin" else 200
        kept = {round(share * (steps - 1)) for share in shown}

        def keep(pipeline, i, t, tensors, name=name, kept=kept):
            if i in kept:
                frames[f"{name} {t:.2f}"] = tensors["latents"]

        generator = torch.Generator().manual_seed(0)
        pipeline(300, generator=generator, num_inference_steps=steps, callback_on_step_end=keep)
    save_figure(draw_path(frames, points), file)


def langevin(file, t=99, share=0.1, shown=(0, 3, 10, 30, 100, 1000)):
    """Langevin dynamics at one t, from a blob to x_t of the data: the code of docs/sde_and_langevin.md."""
    generator = torch.Generator().manual_seed(0)
    points = standardised(two_moons(500, generator).points)
    scheduler, predict = exact_model(points)
    noisy_data = scheduler.add_noise(points, torch.randn(points.shape, generator=generator, dtype=points.dtype), t)
    x = 0.1 * torch.randn(points.shape, generator=generator, dtype=points.dtype)
    step, frames = share * (1 - scheduler.alpha_bar(t).item()), {}
    for done in range(shown[-1] + 1):
        if done in shown:
            frames[f"{done:,} steps"] = x
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + step / 2 * score(scheduler, predict, x, t) + step**0.5 * noise
    save_figure(draw_path(frames, noisy_data), file)


def loss(file, swiss_roll):
    draw_loss_curve(swiss_roll, file)


def samples(file, swiss_roll):
    pipeline = GaussianDiffusionPipeline.from_pretrained(swiss_roll)
    save_figure(model_figures.samples(pipeline, ROLL, 3000, num_inference_steps=100), file)


def path(file, swiss_roll):
    """100 steps of DDPM: a strip of 12 states, or an animation of about 40."""
    pipeline = GaussianDiffusionPipeline.from_pretrained(swiss_roll)
    if file.suffix == ".gif":
        save_animation(path_images(model_figures.path(pipeline, 1500, 40, num_inference_steps=100)), file)
    else:
        save_figure(draw_path(model_figures.path(pipeline, 1500, 12, num_inference_steps=100)), file)


def gamma(file, swiss_roll_calibrated):
    save_figure(scheduler_figures.gamma(swiss_roll_calibrated), file)


def variances(file, swiss_roll_calibrated):
    pipeline = GaussianDiffusionPipeline.from_pretrained(swiss_roll_calibrated)
    save_figure(model_figures.variances(pipeline, 25, ROLL), file)


def timesteps(file, swiss_roll_calibrated):
    save_figure(scheduler_figures.timesteps(swiss_roll_calibrated, 25), file)


def standardised(points):
    return (points - points.mean(0)) / points.std(0)


def exact_model(points):
    """The process of DDPM and the exact predictor of its noise."""
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    denoiser = ExactDenoiser.from_points(points, scheduler)
    return scheduler, lambda x_t, t: denoiser(x_t, t).sample


def time_index(file, steps=(0, 1, 2, None, 998, 999)):
    """The chain of the forward process as boxes: how papers, diffusers and this package count it; None is a gap."""
    figure, ((axes,),) = new_figure(9, 1.9)
    axes.grid(False)
    axes.set(xlim=(-1.15, len(steps) + 0.55), ylim=(-0.35, 2.0))
    axes.set_axis_off()
    places = {place: t for place, t in enumerate((-1, *steps)) if t is not None}
    for place, t in places.items():
        _draw_state(axes, place, t)
        if place:
            _draw_noising(axes, place, t, follows_gap=place - 1 not in places)
    gap = next(place for place in range(len(steps) + 1) if place not in places)
    axes.text(gap, 1, "$\\cdots$", ha="center", va="center", fontsize=16)
    for height, name in ((1, "here, diffusers"), (0.05, "papers")):
        axes.text(-0.55, height, name, ha="right", va="center", fontsize=9)
    save_figure(figure, file)


def _draw_state(axes, place, t):
    """A box with the index of the state here, the share of noise in it as its grey, and below the papers' name."""
    alpha_bar = GaussianDiffusionScheduler().alpha_bar(t).item()
    axes.add_patch(
        Rectangle((place - 0.36, 0.55), 0.72, 0.9, facecolor=str(0.97 - 0.35 * (1 - alpha_bar)), edgecolor="0.2")
    )
    axes.text(place, 1.12, "clean data" if t < 0 else f"t = {t}", ha="center", va="center", fontsize=10)
    axes.text(
        place,
        0.75,
        rf"$\bar\alpha$ = {alpha_bar:.4f}" if t < 100 else rf"$\bar\alpha$ = {alpha_bar:.0e}",
        ha="center",
        va="center",
        fontsize=8,
    )
    axes.text(place, 0.05, f"$x_{{{t + 1}}}$", ha="center", va="center", fontsize=13)


def _draw_noising(axes, place, t, follows_gap):
    """The arrow of the step that makes the state t, with the variance of its noise."""
    style = {"arrowstyle": "-|>", "color": "C0", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (place - 0.36, 1), (place - 0.64, 1), arrowprops=style)
    if not follows_gap:
        axes.text(place - 0.5, 1.65, rf"$\beta_{{{t}}}$", ha="center", fontsize=12, color="C0")
