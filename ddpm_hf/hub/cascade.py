"""Puts trained models together to a cascade, in a new folder."""

from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.cards import write_card
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.reading import INDEX_FILE
from ddpm_hf.pipelines.pipeline_cascade import GaussianDiffusionCascadePipeline
from ddpm_hf.results import alone_in_free_folder, check_apart


def make_cascade(base, upscalers, output_dir):
    """Writes a cascade of models, as [`GaussianDiffusionCascadePipeline`], with a card.

    Args:
        base (`str`): a pipeline folder or a Hub id: the model of the smallest images.
        upscalers (`list[str]`): the models that enlarge, from small to large.
        output_dir: the new folder.

    Returns:
        [`GaussianDiffusionCascadePipeline`]

    Raises:
        InputError: for models that do not fit each other, and a folder that is not empty or cannot be written to.
    """
    output_dir = Path(output_dir)
    for model in (base, *upscalers):
        check_apart(output_dir, model)
    with alone_in_free_folder(output_dir):
        stages = [load_pipeline(model, latents=False) for model in (base, *upscalers)]
        try:
            cascade = GaussianDiffusionCascadePipeline.from_stages(*stages)
        except ValueError as error:
            raise InputError(f"{', '.join((base, *upscalers))} make no cascade: {error}") from error
        with moved_in_whole(output_dir, last=INDEX_FILE) as aside:
            cascade.save_pretrained(aside)
        write_card(output_dir, output_dir.resolve().name)
    return cascade
