"""Tables on the terminal."""


def aligned(rows):
    """The lines of a table of texts, all rows equally long: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_line(row, widths)) for row in rows]


def _line(row, widths):
    yield row[0].ljust(widths[0])
    for cell, width in zip(row[1:], widths[1:], strict=True):
        yield cell.rjust(width)
