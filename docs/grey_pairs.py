"""Makes the pairs of docs/conditions.md, photographs with grey copies that `metadata.csv` names, and their picture.

python docs/grey_pairs.py uoft-cs/cifar10 outputs/photos --classes airplane ship
"""

import argparse
import csv
from pathlib import Path

import datasets
import torch
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.recipes import with_recipe
from ddpm_hf.visualization import draw_image_rows, save_figure

# So many photographs go into a folder of their own, FOLDER_left_out, for the picture.
LEFT_OUT = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a data set in colour that `datasets.load_dataset` reads")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="*", help="names of classes; by default all")
    args = parser.parse_args()
    rows = datasets.load_dataset(args.dataset, split="train")
    (images,) = (name for name, feature in rows.features.items() if isinstance(feature, datasets.Image))
    if args.classes:
        (labels,) = (name for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel))
        wanted = {rows.features[labels].str2int(name) for name in args.classes}
        rows = rows.select([place for place, label in enumerate(rows[labels]) if label in wanted])
    write_pairs((row[images].convert("RGB") for row in rows.select(range(LEFT_OUT, len(rows)))), args.folder)
    left_out = args.folder.with_name(f"{args.folder.name}_left_out")
    write_pairs((row[images].convert("RGB") for row in rows.select(range(LEFT_OUT))), left_out)


def write_pairs(images, folder):
    """The images, their grey copies in the folder `grey`, and the names of both in `metadata.csv`."""
    (folder / "grey").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "grey_file_name"])
        for number, image in enumerate(images):
            name = f"{number:05d}.png"
            image.save(folder / name)
            image.convert("L").save(folder / "grey" / name)
            table.writerow([name, f"grey/{name}"])


def colours(file, model):
    """Columns: photographs that were not trained on; rows: in grey, as three seeds colour them, and as they are."""
    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    pipeline.scheduler = with_recipe(pipeline.scheduler, "ddim-2m")
    left_out = model.with_name("photos_left_out")
    photos = [Image.open(path) for path in sorted(left_out.glob("*.png"))[:9]]
    grey = [Image.open(path) for path in sorted((left_out / "grey").glob("*.png"))[:9]]
    rows = {"told": [image.convert("RGB") for image in grey]}
    for seed in range(3):
        generators = [torch.Generator().manual_seed(100 * seed + place) for place in range(len(grey))]
        rows[f"seed {seed}"] = pipeline(generator=generators, condition_image=grey, num_inference_steps=25).images
    rows["photo"] = photos
    save_figure(draw_image_rows(list(rows.values()), row_titles=list(rows)), file)


if __name__ == "__main__":
    main()
