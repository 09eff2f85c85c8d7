"""Makes the pairs of docs/conditions.md: a folder of photographs, each with a grey copy, named by `metadata.csv`.

python docs/grey_pairs.py uoft-cs/cifar10 outputs/photos --classes airplane ship
"""

import argparse
import csv
from pathlib import Path

import datasets

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


if __name__ == "__main__":
    main()
