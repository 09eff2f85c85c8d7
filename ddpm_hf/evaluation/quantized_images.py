"""Batches of a data set, counted."""


def numbered(batches):
    """(place of the batch's first image in the data, batch) for each batch; an error if there is none."""
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)
    if first == 0:
        raise ValueError("There are no images to evaluate.")
