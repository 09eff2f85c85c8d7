"""Captions of images: from a column of texts, or made from other columns by a template.

Equal captions are kept once. An image has the number of its caption in the place of a label, so that captions take the
way of labels through caches and batches.
"""

import string

import datasets
import numpy as np

from ddpm_hf.data.stored_rows import find_label_column
from ddpm_hf.errors import InputError

ROWS_TO_NAME = 5
# The field of a template that is the class of an image, whatever the name of its column.
LABEL = "label"


def read_captions(rows, args):
    """All different captions of the rows, a tuple, and the number of each row's, int64 (N,).

    Args:
        rows (`datasets.Dataset`): with all of their columns.
        args (`DataArguments`): `caption_column` or `caption_template`.

    Raises:
        InputError: for missing captions, for a column that is not there or has no texts, and for a template without a
            field, or with one that is no column.
    """
    texts = _column_of_texts(rows, args) if args.caption_column is not None else _from_template(rows, args)
    captions, numbers = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return tuple(captions), numbers.astype(np.int64)


def captions_of(source):
    """The caption of each image of an [`ImageSource`] with captions, `np.ndarray` (N,) of `str`."""
    return np.array(source.captions, dtype=object)[source.labels]


def _column_of_texts(rows, args):
    column = args.caption_column
    _check_column(rows, column, f"caption_column={column!r}")
    values = rows.with_format(None).select_columns(column)[:][column]
    missing = [row for row, value in enumerate(values) if value is None or value == ""]
    if missing:
        named = ", ".join(map(str, missing[:ROWS_TO_NAME])) + (", .." if len(missing) > ROWS_TO_NAME else "")
        raise InputError(
            f"caption_column={column!r} has no caption in {len(missing)} of {len(values)} rows ({named}, counted from "
            "0): complete them, or remove these rows."
        )
    other = next((value for value in values if not isinstance(value, str)), None)
    if other is not None:
        raise InputError(
            f"caption_column={column!r} holds {type(other).__name__}s such as {str(other)[:40]!r}, and captions are "
            "texts: name a column of one text for each image, or give --caption_template."
        )
    return values


def _from_template(rows, args):
    """The captions that the template makes of each row."""
    template = args.caption_template
    columns = {field: _column_of_field(field, rows, args) for field in fields_of(template)}
    values = rows.with_format(None).select_columns(list({*columns.values()}))[:]
    named = {field: _as_words(values[column], rows.features[column]) for field, column in columns.items()}
    return [template.format(**dict(zip(named, row, strict=True))) for row in zip(*named.values(), strict=True)]


def fields_of(template):
    """The names in braces in a template.

    Raises:
        InputError: for a template without any, or with braces that do not match.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise InputError(
            f"caption_template={template!r} cannot be read ({error}): write fields as {{label}}."
        ) from error
    if not fields or not all(fields):
        raise InputError(
            f"caption_template={template!r} has no field in braces, such as {{label}}, so that all images would have "
            "the same caption: name a column in it."
        )
    return fields


def _column_of_field(field, rows, args):
    if field == LABEL and (args.label_column is not None or LABEL not in rows.features):
        return find_label_column(rows.features, args.label_column)
    _check_column(rows, field, f"caption_template={args.caption_template!r} has the field {{{field}}}, which")
    return field


def _check_column(rows, column, what):
    if column not in rows.features:
        raise InputError(f"{what} is no column of the data: they have {', '.join(rows.features)}.")


def _as_words(values, feature):
    """The values of a column as they are put into a caption: classes by their names."""
    return [feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else str(value) for value in values]
