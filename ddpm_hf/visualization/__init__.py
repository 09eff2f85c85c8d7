"""Pictures of diffusion: each function takes tensors or schedulers and returns a matplotlib `Figure`.

    from ddpm_hf.visualization import draw_schedules, save_figure

    save_figure(draw_schedules({"linear": GaussianDiffusionScheduler()}), "schedules.svg")

`ddpm-hf show` draws the same figures of models and data sets.
"""

from ddpm_hf.visualization.calibration import draw_gamma, draw_timesteps, draw_variances
from ddpm_hf.visualization.forward_process import draw_forward_process
from ddpm_hf.visualization.images import draw_image_rows
from ddpm_hf.visualization.loss import draw_loss
from ddpm_hf.visualization.points import draw_path, draw_samples, draw_score_field, path_images, score
from ddpm_hf.visualization.schedules import draw_schedules
from ddpm_hf.visualization.style import new_figure, save_figure

__all__ = [
    "draw_forward_process",
    "draw_gamma",
    "draw_image_rows",
    "draw_loss",
    "draw_path",
    "draw_samples",
    "draw_schedules",
    "draw_score_field",
    "draw_timesteps",
    "draw_variances",
    "new_figure",
    "path_images",
    "save_figure",
    "score",
]
