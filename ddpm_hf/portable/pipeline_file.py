"""The single code file of a repository, bundled from several files of this package.

Diffusers runs just one file of a repository, without this package. So imports between the bundled files are removed,
other imports are merged, and the definitions follow unchanged in the order of their dependencies. Bundled files keep
to one form: `from package.module import name` at the top, without `as`, then definitions and assignments whose names
are unique across all bundled files.
"""

import ast
import importlib.util
import sys
from functools import cache
from typing import NamedTuple

from ddpm_hf import __version__
from ddpm_hf.portable.own_module import EXPORT, MODULE_PREFIX

TRAVELLING = (
    "ddpm_hf.portable.own_module",
    "ddpm_hf.pipelines.pipeline_gaussian_diffusion",
    "ddpm_hf.pipelines.pipeline_upscale",
    "ddpm_hf.pipelines.pipeline_cascade",
)
# The pipelines in the file; it exports one of them, because diffusers takes the only one that it finds.
PIPELINES = (
    "GaussianDiffusionPipeline",
    "GaussianDiffusionUpscalePipeline",
    "GaussianDiffusionCascadePipeline",
)
LIBRARIES = {"torch", "numpy", "diffusers", "PIL"}
LINE_LENGTH = 119

HEADER = f'''"""The complete code of a diffusion model's repository; it needs only torch, numpy, diffusers and Pillow.

Bundled from the source files of ddpm_hf {__version__} that are named below; change those rather than this file.
Diffusers runs it in

    DiffusionPipeline.from_pretrained(REPOSITORY, custom_pipeline=REPOSITORY, trust_remote_code=True)

and a pipeline loaded by that call saves this file again.

SPDX-License-Identifier: Apache-2.0
"""
'''

CLOSING = f"""
# This file exports one class from a separate module, for the reasons given in `own_module`; that module keeps the
# bytes of this file, as `pipeline_bytes()`.
if not __name__.startswith({MODULE_PREFIX!r}):
    del {", ".join(PIPELINES)}
{EXPORT.format(name=PIPELINES[0])}"""


class Import(NamedTuple):
    """`import module`, or `from module import name` if there is a `name`."""

    module: str
    name: str | None


def pipeline_source():
    """The text of `pipeline.py`, which depends on the bundled files alone."""
    return f"{HEADER}\n{assemble(*TRAVELLING)}\n\n{CLOSING.lstrip()}"


def assemble(*modules, libraries=LIBRARIES):
    """One source file for modules of a package and everything that they import from it.

    Args:
        modules (`str`): full names; their files are read, not run.
        libraries (`set`): what they may import besides the standard library and each other.

    Raises:
        ValueError: if a file does not have the form that can be bundled, imports a library that may be missing where
            it is loaded, or defines a name that an earlier file defines otherwise; the message names the file.
    """
    trees = {}
    for module in modules:
        _add_in_order_of_dependence(module, trees, libraries)
    imports, origins, sections = {}, {}, []
    for module, (source, tree) in trees.items():
        _merge_imports(module, tree, imports)
        left_out = _import_statements(tree) + _repeated(module, tree, origins)
        _check_names(module, tree, trees)
        sections.append(_section(module, source, tree, left_out))
    for name in imports.keys() & origins.keys():
        raise ValueError(
            f"{origins[name][0]} defines {name!r}, which another file imports from {imports[name].module}."
        )
    return "\n\n\n".join([_import_lines(imports), *sections]) + "\n"


# Reading -------------------------------------------------------------------------------------------------------------


def _add_in_order_of_dependence(module, trees, libraries):
    if module in trees:
        return
    source = importlib.util.find_spec(module).loader.get_source(module)
    tree = ast.parse(source)
    _check_form(module, tree, libraries)
    for statement in _imports_of_the_package(module, tree):
        _add_in_order_of_dependence(statement.module, trees, libraries)
    trees[module] = source, tree


def _check_form(module, tree, libraries):
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for statement in tree.body[_has_docstring(tree) :]:
        if not isinstance(statement, allowed):
            raise ValueError(
                f"{module}, line {statement.lineno}: at the top level of a file that travels only imports, "
                f"definitions and assignments may stand, not {type(statement).__name__}."
            )
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _check_import(module, node, libraries, inside=node not in tree.body)


def _check_import(module, node, libraries, inside):
    where = f"{module}, line {node.lineno}: `{ast.unparse(node)}`"
    package = _package(module)
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
        if node.level or any(alias.name == "*" for alias in node.names):
            raise ValueError(f"{where} must be `from module import name`, the module with its full name.")
    else:
        names = [alias.name for alias in node.names]
    for name in names:
        top = name.split(".")[0]
        if top not in libraries | sys.stdlib_module_names | {package}:
            raise ValueError(
                f"{where} travels to where {top} may be missing; {', '.join(sorted(libraries))} are there."
            )
        aliased = any(alias.asname is not None for alias in node.names)
        if top == package and (isinstance(node, ast.Import) or inside or aliased):
            raise ValueError(
                f"{where} must be `from {package}.module import name`, without `as`, at the top of the file."
            )


def _imports_of_the_package(module, tree):
    """The imports of bundled files. This module is not bundled; `own_module` supplies its names."""
    statements = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [node for node in statements if _package(node.module) == _package(module) and node.module != __name__]


def _package(module):
    return module.split(".")[0]


def _has_docstring(tree):
    return ast.get_docstring(tree) is not None


# Names ---------------------------------------------------------------------------------------------------------------


def _import_statements(tree):
    return [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def _merge_imports(module, tree, imports):
    """Adds the imports from other packages to `imports`, keyed by the names that they bind."""
    for node in _import_statements(tree):
        for alias in node.names:
            if isinstance(node, ast.Import):
                name, wanted = alias.asname or alias.name, Import(alias.name, None)
            elif _package(node.module) == _package(module):
                continue
            else:
                name, wanted = alias.asname or alias.name, Import(node.module, alias.name)
            if imports.setdefault(name, wanted) != wanted:
                raise ValueError(
                    f"{module} imports {name!r} from {wanted.module}, another file from {imports[name].module}: "
                    "import it from one place, or give one of the two another name."
                )


def _repeated(module, tree, origins):
    """The statements that an earlier file has too, such as a logger's; adds the names to `origins`."""
    repeated = []
    for statement in tree.body:
        meaning = ast.dump(statement)
        for name in _names(statement):
            other, its_meaning = origins.setdefault(name, (module, meaning))
            if other == module:
                continue
            if its_meaning != meaning:
                raise ValueError(f"Both {other} and {module} define {name!r}: give one of the two another name.")
            repeated.append(statement)
    return repeated


def _names(statement):
    """The names that a statement at the top level defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _check_names(module, tree, trees):
    """Raises ValueError if a name imported from another file is not defined there."""
    for node in _imports_of_the_package(module, tree):
        defined = {name for statement in trees[node.module][1].body for name in _names(statement)}
        for alias in node.names:
            if alias.name not in defined:
                raise ValueError(f"{module} imports {alias.name!r} from {node.module}, which does not define it.")


# Text ----------------------------------------------------------------------------------------------------------------


def _section(module, source, tree, left_out):
    """The file without its docstring, which becomes a comment, and without the omitted statements."""
    lines = source.splitlines()
    title = f"# {module} ".ljust(LINE_LENGTH, "-")
    comment = []
    if _has_docstring(tree):
        comment = [f"# {line}".rstrip() for line in ast.get_docstring(tree).splitlines()]
        left_out = [tree.body[0], *left_out]
    for statement in sorted(left_out, key=lambda node: -node.lineno):
        end = statement.end_lineno
        while end < len(lines) and not lines[end].strip():
            end += 1
        del lines[statement.lineno - 1 : end]
    return "\n".join([title, "#", *comment, "", "", "\n".join(lines).strip()])


def _import_lines(imports):
    whole = [
        f"import {m}" if name == m else f"import {m} as {name}" for name, (m, part) in imports.items() if part is None
    ]
    parts = {}
    for name, (module, part) in imports.items():
        if part is not None:
            parts.setdefault(module, []).append(part if part == name else f"{part} as {name}")
    lines = whole + [_from_line(module, sorted(names)) for module, names in parts.items()]
    library = {True: [], False: []}
    for line in sorted(lines, key=lambda line: (line.startswith("from"), line)):
        library[line.split()[1].split(".")[0] in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(library[standard]) for standard in (True, False) if library[standard])


def _from_line(module, names):
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


@cache
def pipeline_bytes():
    """The bytes of `pipeline.py`, which take a third of a second to assemble, when the first pipeline is saved."""
    return pipeline_source().encode()
