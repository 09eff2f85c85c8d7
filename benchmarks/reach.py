"""The definitions of a folder that a method can reach, read from the source without running it.

A name in a function is what its file defines or imports under that name, unless it is a local variable. An attribute
of `self`, `cls` and `super()` is looked up in the class of the object and in its bases. An attribute of another object
counts where the class of the object can be told: from an annotation, or because a class, or a function that returns
its object, was called for the variable or the attribute. If it cannot be told, a call of an attribute is the method of
that name where the folder has only one. A call of a class calls its constructor. A table that a function reads counts
with all that it names.
"""

import ast
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

CONSTRUCTORS = ("__init__", "__post_init__")


class Definition(NamedTuple):
    """A function, class or table at the top of a file; with `of_class` a method of that class."""

    module: str
    name: str
    of_class: str | None = None


class Package:
    """The files of one folder."""

    def __init__(self, folder):
        self.nodes, self.imports = {}, {}
        for path in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.nodes |= {(path.stem, name): node for name, node in defined_in(tree)}
            self.imports |= {(path.stem, name): there for name, there in imported_in(tree)}

    def reached_from(self, start, stopping_at=None):
        """The functions, methods and classes that a method reaches, including itself.

        Args:
            stopping_at (`str`, *optional*): methods of this name count without what they reach themselves.
        """
        reached, waiting = set(), [(start, Definition(start.module, start.of_class))]
        while waiting:
            found = waiting.pop()
            if found not in reached:
                reached.add(found)
                waiting += [] if found[0].name == stopping_at else Body(self, *found).names()
        return {definition for definition, _ in reached if not isinstance(self.node(definition), ast.Assign)}

    def node(self, definition):
        if definition.of_class is None:
            return self.nodes[definition.module, definition.name]
        return methods_of(self.nodes[definition.module, definition.of_class])[definition.name]

    def named(self, module, name):
        """The [`Definition`] of a name in a file, or None for what this folder does not define."""
        while (module, name) in self.imports and (module, name) not in self.nodes:
            module, name = self.imports[module, name]
        return Definition(module, name) if (module, name) in self.nodes else None

    def class_named(self, module, name):
        found = self.named(module, name)
        return found if found is not None and isinstance(self.node(found), ast.ClassDef) else None

    def lineage(self, of_class):
        """A class and its bases in this folder, in the order in which attributes are looked up."""
        bases = [self.class_named(of_class.module, base.id) for base in self.node(of_class).bases if is_name(base)]
        return [of_class, *(one for base in bases if base is not None for one in self.lineage(base))]

    def method(self, classes, name):
        """The method of this name in the first of the classes that has one, or None."""
        for one in classes:
            if name in methods_of(self.node(one)):
                return Definition(one.module, name, one.name)
        return None

    def type_of_attribute(self, of_class, name):
        """The class of an attribute, by an annotation in the class or by an assignment in one of its methods."""
        for one in self.lineage(of_class):
            for node in self.node(one).body:
                if isinstance(node, ast.AnnAssign) and is_name(node.target, name) and is_name(node.annotation):
                    return self.class_named(one.module, node.annotation.id)
            for method in methods_of(self.node(one)):
                body = Body(self, Definition(one.module, method, one.name), of_class)
                if name in body.kept:
                    return body.type_of(body.kept[name])
        return None

    @cached_property
    def single_methods(self):
        """{name: the method} for the names that only one method of the folder has."""
        found = {}
        for (module, name), node in self.nodes.items():
            for method in methods_of(node):
                found.setdefault(method, []).append((Definition(module, method, name), Definition(module, name)))
        return {name: methods[0] for name, methods in found.items() if len(methods) == 1}


class Body:
    """The code of a [`Definition`], in which `self` is of a class that may have inherited the method."""

    def __init__(self, package, definition, self_class):
        self.package, self.module, self.self_class = package, definition.module, self_class
        self.own = None if definition.of_class is None else Definition(definition.module, definition.of_class)
        node = package.node(definition)
        # The methods of a class count when they are called.
        parts = [part for part in node.body if not isinstance(part, ast.FunctionDef)] if is_class(node) else [node]
        self.nodes = [one for part in parts for one in ast.walk(part)]
        names = [one for one in self.nodes if isinstance(one, ast.Name)]
        stored = set() if isinstance(node, ast.Assign) else {n.id for n in names if isinstance(n.ctx, ast.Store)}
        self.local = stored | {one.arg for one in self.nodes if isinstance(one, ast.arg)}
        self.read = {one.id for one in names if isinstance(one.ctx, ast.Load)} - self.local
        # What single variables, and attributes of `self`, are assigned.
        self.variables, self.kept = {}, {}
        for target, value in assigned(self.nodes):
            if is_name(target) and not any(is_name(one, target.id) for one in ast.walk(value)):
                self.variables[target.id] = value
            elif isinstance(target, ast.Attribute) and is_name(target.value, "self"):
                self.kept[target.attr] = value

    def names(self):
        """Yields what is named here, each with the class of its `self`."""
        called = {id(one.func) for one in self.nodes if isinstance(one, ast.Call)}
        for name in self.read:
            if (found := self.package.named(self.module, name)) is not None:
                yield found, None
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield from self.attribute(node, id(node) in called)
            elif isinstance(node, ast.Call) and (of_class := self.class_of(node.func)) is not None:
                lineage = self.package.lineage(of_class)
                for name in CONSTRUCTORS:
                    if (method := self.package.method(lineage, name)) is not None:
                        yield method, of_class

    def attribute(self, node, is_called):
        """Yields the method of an attribute with its class, if it can be told."""
        lineage, of_class = self.lookup(node.value)
        if of_class is not None:
            found = self.package.method(lineage, node.attr)
            if found is not None:
                yield found, of_class
        elif is_called and node.attr in self.package.single_methods:
            yield self.package.single_methods[node.attr]

    def lookup(self, value):
        """The classes in which the attributes of an object are looked up, and the class of the object, or None."""
        if isinstance(value, ast.Call) and is_name(value.func, "super"):
            lineage = self.package.lineage(self.self_class)
            return lineage[lineage.index(self.own) + 1 :], self.self_class
        of_class = self.class_of(value) or self.type_of(value)
        return ([], None) if of_class is None else (self.package.lineage(of_class), of_class)

    def class_of(self, value):
        """The class that an expression is, or None."""
        if is_name(value, "cls"):
            return self.self_class
        return self.package.class_named(self.module, value.id) if is_name(value) and value.id in self.read else None

    def type_of(self, value):
        """The class of the object that an expression is, or None."""
        if is_name(value, "self"):
            return self.self_class
        if is_name(value) and value.id in self.variables:
            return self.type_of(self.variables[value.id])
        if isinstance(value, ast.Attribute) and (of_class := self.type_of(value.value)) is not None:
            return self.package.type_of_attribute(of_class, value.attr)
        return self.type_of_call(value.func) if isinstance(value, ast.Call) else None

    def type_of_call(self, function):
        if (of_class := self.class_of(function)) is not None:
            return of_class
        if is_name(function) and function.id in self.read:
            found = self.package.named(self.module, function.id), None
        elif isinstance(function, ast.Attribute):
            found = next(iter(self.attribute(function, True)), (None, None))
        else:
            return None
        return None if found[0] is None else Body(self.package, *found).type_returned()

    def type_returned(self):
        types = [self.type_of(one.value) for one in self.nodes if isinstance(one, ast.Return) and one.value]
        return types[0] if types else None


def is_name(node, name=None):
    return isinstance(node, ast.Name) and name in (None, node.id)


def is_class(node):
    return isinstance(node, ast.ClassDef)


def defined_in(tree):
    """Yields (name, node) of the functions, classes and tables at the top of a file."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if is_name(target))


def imported_in(tree):
    """Yields (name here, (file, name there)) of the names that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((one.asname or one.name, (node.module.split(".")[-1], one.name)) for one in node.names)


def methods_of(node):
    """{name: node} of the methods of a class; none for what is no class."""
    return {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)} if is_class(node) else {}


def assigned(nodes):
    """Yields (target, value) of the assignments to one target, and of each pair of a tuple to a tuple."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from zip(target.elts, node.value.elts, strict=False)
                else:
                    yield target, node.value
