"""The card of an autoencoder's folder, from the files that its training wrote."""

import yaml

from ddpm_hf.hub.card_sections import OF_THE_RUN, data_name, licence, limits, versions
from ddpm_hf.hub.public_names import public_name, public_report
from ddpm_hf.installation import INSTALL, WHERE
from ddpm_hf.reports.report_files import AUTOENCODER, TRAINING_OPTIONS

LOADING = """## How to load it

```python
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("{repository}")
latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor  # images (N, C, H, W) in [-1, 1]
images = vae.decode(latents / vae.config.scaling_factor).sample
```

A diffusion model in its latents is trained by `ddpm-hf train DATA --vae {repository}` (`{install}`; {where})."""

MEASURED = """## Reconstructions

The PSNR is **{psnr:.2f} dB ± {error:.2f}** (mean and standard error over {number} images of the split {split}, decoded
from the means of the encoder's distributions). The latents are centred, and a factor of {scale:.4f}
(`scaling_factor`) gives them a variance of 1.{distance}{picture}"""

DISTANCE = """

Their Frechet distance to the images is {distance:.4g}, in the features of {features}."""

TRAINING = """## Training

On {data}, with all of its options in [{file}]({file}):

```sh
accelerate launch --num_processes {num_processes} -m ddpm_hf.training.train_autoencoder --config {file} \\
    --output_dir outputs/again
```

<details><summary>Options</summary>

```yaml
{options}```

</details>"""


def autoencoder_sections(folder, repository, license):
    """The parts of the card, in their order; "" for what the folder has no file of."""
    options, report = public_report(TRAINING_OPTIONS.read(folder)), AUTOENCODER.read(folder)
    data = f" of {data_name(options['dataset'])}, trained with ddpm_hf" if options else ""
    return [
        f"# {repository.split('/')[-1]}",
        f"An autoencoder for latent diffusion (`AutoencoderKL`){data}.",
        LOADING.format(repository=repository, install=INSTALL, where=WHERE),
        _measured(folder, report) if report else "",
        _training(options) if options else "",
        versions(folder),
        licence(license),
        limits(),
    ]


def _measured(folder, report):
    distance = ""
    if "frechet_distance" in report:
        distance = DISTANCE.format(distance=report["frechet_distance"], features=public_name(report["features"]))
    has_picture = (folder / AUTOENCODER.picture).is_file()
    return MEASURED.format(
        psnr=report["psnr"],
        error=report["standard_error"],
        number=report["num_images"],
        split=report["split"],
        scale=report["scaling_factor"],
        distance=distance,
        picture=f"\n\n![images, each with its reconstruction]({AUTOENCODER.picture})" if has_picture else "",
    )


def _training(options):
    environment = options.pop("environment")
    kept = {name: value for name, value in options.items() if name not in OF_THE_RUN}
    return TRAINING.format(
        data=data_name(options["dataset"]),
        file=TRAINING_OPTIONS.name,
        num_processes=environment["num_processes"],
        options=yaml.safe_dump(kept, sort_keys=False),
    )
