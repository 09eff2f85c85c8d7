"""README.md of a calibrated model: whose it is, what was measured, how it is sampled."""

from pathlib import Path

from ddpm_hf.training.sharing import save_card

TEXT = """
# {name}

{base}, its weights untouched, calibrated with ddpm_hf for sampling in few steps: its scheduler carries Gamma_t, the mean square of
the predicted noise, from {num_images} images of {data} ([calibration.json](calibration.json) has the standard errors){plans}.

![Gamma](calibration.png)

Anyone loads it as what it was:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{repository}")
```

and with ddpm_hf installed it is sampled as it was calibrated, or by any other recipe (`ddpm_hf.recipes`):

```python
{ours}
image = pipeline(num_inference_steps=25).images[0]
```
"""

OF_PIXELS = """from ddpm_hf import GaussianDiffusionPipeline

pipeline = GaussianDiffusionPipeline.from_pretrained("{repository}")"""

OF_LATENTS = """from ddpm_hf import GaussianDiffusionScheduler

pipeline.scheduler = GaussianDiffusionScheduler.from_config(pipeline.scheduler.config)"""


def write_card(folder, repository, model, data, report, latents):
    """Of what `calibrate` left in the folder.

    Args:
        repository (`str`): the id that loads it.
        model: what was calibrated: an id on the Hub, or a folder.
        data (`DataArguments`): with which images.
        report (`dict`): calibration.json.
        latents (`bool`): whether it is a model of latents, which a stock pipeline runs.
    """
    plans = ", ".join(report.get("plans", {}))
    text = TEXT.format(
        name=repository.split("/")[-1],
        base=Path(model).name if Path(model).exists() else f"[{model}](https://huggingface.co/{model})",
        num_images=report["mean_square_epsilon"]["num_images"],
        data="Fashion-MNIST" if data.dataset is None else Path(data.dataset).name,
        plans=f", and planned timesteps for {plans} steps" if plans else "",
        repository=repository,
        ours=(OF_LATENTS if latents else OF_PIXELS).format(repository=repository),
    )
    save_card(folder, text, data.dataset, base_model=str(model))
