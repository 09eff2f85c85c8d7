"""Writes a folder of mixed photographs, as people have them: of all shapes, modes and formats, and one damaged.

    python benchmarks/mixed_photographs.py outputs/photographs --number 300

The photographs are crops of the pictures that installed packages ship (matplotlib, and gradio where it is there).
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

ROTATED = 6  # the orientation tag of a camera that was held upright
ORIENTATION = 0x0112


def shipped_pictures():
    """The photographs that installed packages ship, RGB."""
    found = [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    gradio = find_spec("gradio")
    if gradio is not None:
        folder = Path(gradio.origin).parent / "media_assets" / "images"
        found += [folder / name for name in ("cheetah.jpg", "cheetah1.jpg", "groot.jpeg", "tower.jpg")]
    return [Image.open(path).convert("RGB") for path in found if path.is_file()]


def write_photographs(folder, number=300, seed=0):
    """Writes `number` files into the folder, which is made; the one in the middle is damaged."""
    folder, random, pictures = Path(folder), np.random.default_rng(seed), shipped_pictures()
    folder.mkdir(parents=True)
    for index in range(number):
        crop = random_crop(pictures[index % len(pictures)], random)
        FORMS[index % len(FORMS)](crop, folder / f"{index:04d}")
    damage(sorted(folder.iterdir())[number // 2])


def random_crop(picture, random):
    """A part of the picture, wide, high or square."""
    width, height = random.integers(96, 320, size=2)
    width, height = min(width, picture.width), min(height, picture.height)
    left, top = random.integers(0, picture.width - width + 1), random.integers(0, picture.height - height + 1)
    return picture.crop((left, top, left + width, top + height))


def damage(path):
    """Cuts the file off after its header."""
    path.write_bytes(path.read_bytes()[:400])


def save_portrait(image, path):
    image.resize((120, 200)).save(path.with_suffix(".jpg"))


def save_landscape(image, path):
    image.resize((240, 150)).save(path.with_suffix(".png"))


def save_transparent(image, path):
    """What is outside of an ellipse is transparent."""
    alpha = Image.new("L", image.size, 0)
    ImageDraw.Draw(alpha).ellipse((0, 0, *image.size), fill=255)
    image.putalpha(alpha)
    image.save(path.with_suffix(".png"))


def save_grey(image, path):
    image.convert("L").save(path.with_suffix(".png"))


def save_palette(image, path):
    image.quantize(64).save(path.with_suffix(".gif"))


def save_for_print(image, path):
    image.convert("CMYK").save(path.with_suffix(".jpg"))


def save_turned(image, path):
    """Stored on its side, with the tag by which programs show it upright."""
    exif = image.getexif()
    exif[ORIENTATION] = ROTATED
    image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif)


def save_as_it_is(image, path):
    image.save(path.with_suffix(".webp"))


FORMS = (
    save_portrait,
    save_landscape,
    save_transparent,
    save_grey,
    save_palette,
    save_for_print,
    save_turned,
    save_as_it_is,
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_photographs(options.folder, options.number, options.seed)
    print(f"{options.number} photographs in {options.folder}")
