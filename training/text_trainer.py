"""Training of a diffusion model with captions, whose result is a stock `StableDiffusionPipeline` where it can be."""

import numpy as np

from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.stable_diffusion import stable_diffusion, why_not_stable_diffusion
from ddpm_hf.reports.report_files import CAPTIONS
from ddpm_hf.training.objectives import drop_labels
from ddpm_hf.training.trainer import Trainer

# Captions that are kept with the model, for its card.
MOST_EXAMPLES = 10


class TextTrainer(Trainer):
    """Trains a [`CaptionedNetwork`]; the numbers of captions are its labels.

    Args:
        args .. total_steps: as in [`Trainer`], the network a [`CaptionedNetwork`].
    """

    def labels_to_learn(self, batch):
        return drop_labels(batch["labels"], self.args.label_dropout, null_label=len(self.captions))

    def pipeline_of(self, network):
        scheduler = self.scheduler.from_config(self.scheduler.config)
        network.text_encoder.to(self.accelerator.device)
        return GaussianDiffusionPipeline(
            unet=network.unet,
            scheduler=scheduler,
            vae=self.vae,
            text_encoder=network.text_encoder,
            tokenizer=network.tokenizer,
        )

    def save_pipeline(self, network, folder):
        """Writes the networks as a stock pipeline, or as ours where none can run them, and the captions."""
        pipeline = self.pipeline_of(network)
        is_stock = why_not_stable_diffusion(self.kind, network.text_encoder, pipeline.scheduler) is None
        (stable_diffusion(pipeline) if is_stock else pipeline).save_pretrained(folder)
        told = {name: getattr(self.args, name) for name in ("caption_column", "caption_template")}
        examples = some_of(self.captions, min(len(self.captions), MOST_EXAMPLES))
        CAPTIONS.write(folder, {"number": len(self.captions), "examples": examples, **told})

    def _examples(self, number):
        return {"prompts": some_of(self.captions, number)}


def some_of(captions, number):
    """So many captions, evenly spread over all, and again where there are fewer."""
    if number > len(captions):
        return [captions[place % len(captions)] for place in range(number)]
    return [captions[place] for place in np.linspace(0, len(captions) - 1, number).astype(int)]
