"""The kinds of single files of data, by their endings, and the builder of `datasets` that reads each."""

from pathlib import Path

from ddpm_hf.errors import InputError

# Not .zip, whose folders `datasets` does not take for classes.
BUILDERS = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
ARRAYS = (".npy", ".npz")


def builder_of(file):
    """The name of the builder of `datasets` for a file.

    Raises:
        InputError: with the endings that are read, for a file of another one, and for one of arrays.
    """
    ending = Path(file).suffix.lower()
    if ending in ARRAYS:
        raise InputError(
            f"dataset={str(file)!r} is a file of arrays, which are images and read into memory: leave out --streaming "
            "and --point_columns."
        )
    if ending not in BUILDERS:
        endings = ", ".join(sorted([*BUILDERS, *ARRAYS]))
        raise InputError(
            f"dataset={str(file)!r} is a file, and files of data end in {endings}: give one of these, or "
            "the folder of the images, unpacked if this is an archive of it."
        )
    return BUILDERS[ending]


def is_of_arrays(name):
    """Whether data are a file of arrays, by its name."""
    return (name or "").lower().endswith(ARRAYS)
