"""The one file of code that a repository carries: the files that travel, put together.

Diffusers runs just one file of a repository, and there without this package. So the imports of the package's files from
each other are left out, what they import from elsewhere is merged, and their definitions follow in the order of their
dependence, letter for letter. For this the files that travel keep to one form: `from package.module import name` at the top,
without `as`, then definitions and assignments, of which every name is the only one of all the files.
"""

import ast
import importlib.util
import sys
from typing import NamedTuple

from ddpm_hf import __version__
from ddpm_hf.portable.own_module import MODULE_PREFIX

TRAVELLING = ("ddpm_hf.portable.own_module", "ddpm_hf.pipelines.pipeline_gaussian_diffusion")
LIBRARIES = {"torch", "numpy", "diffusers"}
LINE_LENGTH = 119

HEADER = f'''"""The code of a diffusion model's repository, complete: it needs torch, numpy and diffusers, and nothing else.

Put together from the source files of ddpm_hf {__version__}, which are named below; change those rather than this one. Diffusers
runs it for

    DiffusionPipeline.from_pretrained(REPOSITORY, custom_pipeline=REPOSITORY, trust_remote_code=True)

and what that loads is saved with the same file again.

SPDX-License-Identifier: Apache-2.0
"""
'''

CLOSING = f"""
# What this file gives away is the class of a module of its own, for which `own_module` has the reasons; that module has the
# bytes of this file as PIPELINE_SOURCE.
if not __name__.startswith({MODULE_PREFIX!r}):
    GaussianDiffusionPipeline = own_module(__file__).GaussianDiffusionPipeline
"""


class Import(NamedTuple):
    """`import module`, or with a `name` `from module import name`."""

    module: str
    name: str | None


def pipeline_source():
    """The text of `pipeline.py`; the same for the same files."""
    return f"{HEADER}\n{assemble(*TRAVELLING)}\n\n{CLOSING.lstrip()}"


def assemble(*modules, libraries=LIBRARIES):
    """The source of modules of one package, and of those that they import from it, as one.

    Args:
        modules (`str`): full names; their files are read, not run.
        libraries (`set`): what they may import, besides the standard library and each other.

    Raises:
        ValueError: where a file has another form than the one that can be put together, imports what may be missing where it
            is loaded, or gives a name another meaning than a file before it; the message has the file and the name.
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


# Reading ----------------------------------------------------------------------------------------------------------------


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
                f"{module}, line {statement.lineno}: at the top level of a file that travels only imports, definitions and "
                f"assignments may stand, not {type(statement).__name__}."
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
    """Those of files that travel: this one does not, and what they have of it `own_module` gives to the whole."""
    statements = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [node for node in statements if _package(node.module) == _package(module) and node.module != __name__]


def _package(module):
    return module.split(".")[0]


def _has_docstring(tree):
    return ast.get_docstring(tree) is not None


# Names ------------------------------------------------------------------------------------------------------------------


def _import_statements(tree):
    return [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def _merge_imports(module, tree, imports):
    """Adds the imports from elsewhere to `imports`, by the names that they have here."""
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
                    f"{module} imports {name!r} from {wanted.module}, another file from {imports[name].module}: import it "
                    "from one place, or give one of the two another name."
                )


def _repeated(module, tree, origins):
    """The statements that a file before has too, such as that of a logger; adds the names to `origins`."""
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
    """What a statement at the top level defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _check_names(module, tree, trees):
    """That what a file imports of another is defined there."""
    for node in _imports_of_the_package(module, tree):
        defined = {name for statement in trees[node.module][1].body for name in _names(statement)}
        for alias in node.names:
            if alias.name not in defined:
                raise ValueError(f"{module} imports {alias.name!r} from {node.module}, which does not define it.")


# Text -------------------------------------------------------------------------------------------------------------------


def _section(module, source, tree, left_out):
    """The file without its docstring, which becomes a comment, and the statements that are left out."""
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


PIPELINE_SOURCE = pipeline_source().encode()
