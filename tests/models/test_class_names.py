"""The names of classes in the configs of networks."""

import pytest

from ddpm_hf.models.class_names import class_names_of, id2label_of, to_labels

NAMES = {0: "10", 1: "Cats", 2: "dogs"}


def test_names_are_read_from_every_form_of_a_config():
    id2label = id2label_of(["a", "b"])
    assert id2label == {"0": "a", "1": "b"}
    for config in ({"id2label": id2label}, {"_ddpm_hf": {"id2label": id2label}}, {"id2label": {0: "a", 1: "b"}}):
        assert class_names_of(config) == {0: "a", 1: "b"}
    assert class_names_of({}) == class_names_of({"id2label": None}) == {}
    assert id2label_of(None) is None


def test_names_come_before_numbers():
    assert to_labels("10", NAMES) == 0
    assert to_labels("2", NAMES) == 2
    assert to_labels(["dogs", 1, "0"], NAMES) == [2, 1, 0]
    assert to_labels(7, NAMES) == 7
    assert to_labels(None, NAMES) is None
    assert to_labels("7", {}) == 7


def test_a_name_that_is_none_gets_the_nearest():
    with pytest.raises(ValueError, match="class_labels='cat' is not the name of a class: did you mean 'Cats'"):
        to_labels("cat", NAMES)
    with pytest.raises(ValueError, match="'horse' is not the name of a class: the classes are 10, Cats, dogs"):
        to_labels("horse", NAMES)
    with pytest.raises(ValueError, match="'cat' is the name of a class, and this model has no such names"):
        to_labels("cat", {})
