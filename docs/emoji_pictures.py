"""Writes the emoji of README's first picture, a folder for each of their categories, and draws that picture.

python docs/emoji_pictures.py outputs/emoji
python docs/emoji_pictures.py outputs/emoji --nearest docs/images/emoji.png

The second command says how far the samples of the picture are from the nearest pictures of the folder.

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

import numpy as np
import torch
from PIL import Image

from ddpm_hf.data import open_images
from ddpm_hf.data.arguments import DataArguments
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
    parser.add_argument("--nearest", type=Path, metavar="PICTURE")
    options = parser.parse_args()
    folder = options.folder
    if options.nearest is not None:
        return say_nearest(folder, Image.open(options.nearest))
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


def say_nearest(folder, picture, side=32):
    """Prints the distances of samples, and of the folder's pictures, to the nearest (other) ones, mirrored ones too.

    They are root mean squares of values in [0, 1], averaged over each category, whose samples are a row of `picture`.
    """
    known = open_images(
        DataArguments(dataset=str(folder), resolution=str(side), class_conditional=True), side
    ).decode()
    tile = picture.height // len(known["labels"].unique())
    columns = picture.width // tile
    small = picture.resize((columns * side, picture.height // tile * side), Image.Resampling.BOX)
    samples = torch.from_numpy(np.array(small)).unflatten(0, (-1, side)).unflatten(2, (-1, side))
    samples = samples.permute(0, 2, 4, 1, 3).flatten(0, 1)
    own = torch.eye(len(known["images"]), dtype=torch.bool)
    among = nearest(known["images"], known["images"], own)
    rows = [among[known["labels"] == label].mean() for label in known["labels"].unique()]
    found = nearest(samples, known["images"])
    print("samples", [f"{row.mean():.2f}" for row in found.split(columns)], f"nearest {found.min():.3f}")
    print("pictures", [f"{row:.2f}" for row in rows])


def nearest(images, known, left_out=None):
    """The distance of each image, uint8 (N, C, H, W), to the nearest known one that is not left out, (N, M)."""
    points = images.flatten(1) / 255
    distances = torch.stack([torch.cdist(points, each.flatten(1) / 255) for each in (known, known.flip(-1))]).amin(0)
    if left_out is not None:
        distances[left_out] = torch.inf
    return distances.amin(1) / points.shape[1] ** 0.5


if __name__ == "__main__":
    main()
