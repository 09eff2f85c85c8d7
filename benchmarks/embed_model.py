"""Puts a trained pipeline into the package in half precision, as the model of verbs that are given none.

python benchmarks/embed_model.py FOLDER
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from ddpm_hf.files import give_usual_mode
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.places import EMBEDDED_MODEL

PARTS = (
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)


def embed(folder):
    """Writes weights and configs alone: the code is the package's own, and the README stays."""
    pipeline = load_pipeline(str(folder)).to(torch.float16)
    with tempfile.TemporaryDirectory() as temporary:
        pipeline.save_pretrained(temporary)
        for file in PARTS:
            target = Path(EMBEDDED_MODEL, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(temporary, file), target)
            give_usual_mode(target)


if __name__ == "__main__":
    embed(sys.argv[1])
