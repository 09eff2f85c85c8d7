"""What `benchmarks/structure.py` says that a step reaches, on files whose reach is plain."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from reach import Definition, Package

FIRST = """
from package.second import Part, Other, helper as made_by

TABLE = {"one": made_by}

class Base:
    def flow(self):
        return self.last()

class Thing(Base):
    def __init__(self):
        self.part = Part()

    def step(self, made):
        part, name = self.part, "one"
        self.flow()
        return part.at(TABLE[name]).ended() if made else made.only_here()

    def last(self):
        pass

    def unused(self):
        return Other().at(0)
"""
SECOND = """
class Part:
    def __init__(self):
        started()

    def at(self, x):
        return Other()

class Other:
    def at(self, x):
        pass

    def ended(self):
        pass

    def only_here(self):
        pass

def started():
    pass

def helper():
    pass

def made():
    pass
"""


@pytest.fixture
def package(tmp_path):
    for name, text in (("first", FIRST), ("second", SECOND)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return Package(tmp_path)


def test_a_name_is_that_of_its_file_and_an_attribute_that_of_its_class(package):
    reached = package.reached_from(Definition("first", "step", "Thing"))
    # `Other.at` has the name of a method that is called, `made` that of an argument.
    assert reached == {
        *(Definition("first", name, "Thing") for name in ("step", "last")),
        Definition("first", "flow", "Base"),
        Definition("second", "at", "Part"),
        *(Definition("second", name, "Other") for name in ("ended", "only_here")),
        *(Definition("second", name) for name in ("helper", "Other")),
    }


def test_what_makes_an_object_is_reached_where_it_is_made(package):
    reached = package.reached_from(Definition("first", "__init__", "Thing"))
    assert reached == {
        Definition("first", "__init__", "Thing"),
        Definition("second", "__init__", "Part"),
        *(Definition("second", name) for name in ("Part", "started")),
    }


def test_a_method_may_count_without_its_own_reach(package):
    reached = package.reached_from(Definition("first", "step", "Thing"), stopping_at="at")
    assert Definition("second", "at", "Part") in reached
    assert Definition("second", "Other") not in reached
