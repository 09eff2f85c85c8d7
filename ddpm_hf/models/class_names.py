"""The names of the classes of a network, which its config has; they are read without waiting for torch."""

import difflib

from ddpm_hf.portable.packed_key import PACKED_KEY


def class_names_of(config):
    """{label: name} of the classes of a network or classifier, from its `id2label`; {} without names."""
    id2label = config.get("id2label", config.get(PACKED_KEY, {}).get("id2label"))
    return {int(label): name for label, name in (id2label or {}).items()}


def id2label_of(names):
    """The `id2label` of a config for names in the order of their labels, as transformers writes it; None for None."""
    return None if names is None else {str(label): name for label, name in enumerate(names)}


def to_labels(class_labels, names):
    """Labels in which the names of classes are replaced by their numbers.

    A string is first taken for a name and then for a number, because the names of classes may be numbers themselves.

    Args:
        class_labels: a label, a name, a list or tuple of these, or a tensor, or None.
        names (`dict`): the names of the classes by label, as from `class_names_of`.

    Raises:
        ValueError: for a name that no class has; the message has the nearest name.
    """
    if isinstance(class_labels, str):
        return _to_label(class_labels, names)
    if isinstance(class_labels, (list, tuple)):
        return [to_labels(each, names) for each in class_labels]
    return class_labels


def _to_label(name, names):
    labels = {each: label for label, each in names.items()}
    if name in labels:
        return labels[name]
    if name.isdecimal():
        return int(name)
    if not names:
        raise ValueError(f"class_labels={name!r} is the name of a class, and this model has no such names.")
    folded = {each.lower(): each for each in labels}
    nearest = difflib.get_close_matches(name.lower(), folded, n=1)
    advice = f"did you mean {folded[nearest[0]]!r}?" if nearest else f"the classes are {', '.join(labels)}."
    raise ValueError(f"class_labels={name!r} is not the name of a class: {advice}")
