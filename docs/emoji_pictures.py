"""Writes the emoji of README's first picture, a folder for each of their categories, and draws that picture.

python docs/emoji_pictures.py outputs/emoji

The pictures are those of Noto Emoji (Google, Apache License 2.0) and of Twemoji (Twitter, CC BY 4.0), 64x64 on
transparent grounds. npm fetches them, in the packages emoji-datasource-google and emoji-datasource-twitter.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch

from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.image_grids import image_rows

VENDORS = "google", "twitter"
VERSION = "16.0.0"
# Letters and signs, which must not be mirrored.
LEFT_OUT = {"Symbols", "Component"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if shutil.which("npm") is None:
        sys.exit("npm is not there, which fetches the pictures: install Node.js.")
    if folder.exists():
        sys.exit(f"{folder} is there already: give a new folder, or remove it.")
    for vendor in VENDORS:
        print(f"{write_emoji(vendor, folder)} emoji of {vendor}")


def write_emoji(vendor, folder):
    """Writes the emoji of a vendor into the folders of their categories; returns their number."""
    with tempfile.TemporaryDirectory() as place:
        package = fetched(f"emoji-datasource-{vendor}", Path(place))
        written = 0
        for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
            if emoji["category"] not in LEFT_OUT and emoji[f"has_img_{vendor}"]:
                category = re.sub("[^a-z]+", "_", emoji["category"].lower())
                (folder / category).mkdir(parents=True, exist_ok=True)
                source = package / "img" / vendor / "64" / emoji["image"]
                shutil.copy(source, folder / category / f"{vendor}_{emoji['image']}")
                written += 1
    return written


def fetched(package, place):
    """The folder of a package of npm, unpacked in `place`."""
    command = ["npm", "pack", "--silent", f"{package}@{VERSION}"]
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
    (archive,) = place.glob("*.tgz")
    with tarfile.open(archive) as files:
        files.extractall(place, filter="data")
    return place / "package"


def draw(file, model, columns=16, steps=50, scale=3.0):
    """A row of samples for each class."""
    pipeline = load_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for label in range(classes_of(pipeline.unet.config)[0]):
        generators = [torch.Generator().manual_seed(number) for number in range(columns)]
        told = {"class_labels": [label] * columns, "guidance_scale": scale, "num_inference_steps": steps}
        rows.append(pipeline(generator=generators, **told).images)
    image_rows(rows).save(file)


if __name__ == "__main__":
    main()
