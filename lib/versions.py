"""Which code a result depends on: the definitions that a function or a notebook names, and those that they name in turn.

Read from the text of the files, without running them. Finer than files: what is added beside the code that a result
depends on leaves its version as it is, and so what was computed remains valid.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lib.paths import ROOT

__all__ = ["code_version", "file_version"]

READERS = (
    "lib.assets",
    "lib.paths",
    "lib.generators.checkpoints",
    "lib.generators.official",
    "lib.generators.pickles",
    "lib.generators.storage",
)
"""Modules that bring files into memory. They do not count: what was read is known by its content."""

SPEAKERS = ("lib.inversion.assumptions",)
"""Modules that only warn. They do not count: no result depends on a warning."""


@dataclass(frozen=True)
class Definition:
    """What defines a name at the top of a file: a statement, or the dotted name that it was imported as."""

    file: Path
    code: ast.AST | None = None
    imported: str = ""


def code_version(*roots: Callable | type) -> str:
    """SHA-256 of functions and classes, and of all code of this library that they depend on.

    Names are followed through bodies, signatures and decorators. Comments, docstrings and layout do not count, nor
    do the libraries of others.
    """
    return _digest(_definition_of(root) for root in roots)


def file_version(path: Path) -> str:
    """SHA-256 of all that a Python file or a notebook says, and of all code of this library that it depends on."""
    return _digest([Definition(path, ast.parse(_source(path)))])


def _digest(roots: Iterable[Definition]) -> str:
    found: set[Definition] = set()
    waiting = list(roots)
    while waiting:
        definition = waiting.pop()
        if definition not in found:
            found.add(definition)
            waiting += _depends_on(definition)
    return hashlib.sha256("\n".join(sorted(map(_text, found))).encode()).hexdigest()


def _definition_of(root: Callable | type) -> Definition:
    """A function or class as it stands in its file."""
    name = getattr(root, "__qualname__", repr(root))
    if inspect.isfunction(inspect.unwrap(root)) or inspect.isclass(root):
        definition = _names(Path(inspect.getsourcefile(inspect.unwrap(root))).resolve()).get(name)
        if definition and definition.code:
            return definition
    raise ValueError(
        f"the version of {name} cannot be told: expected a function or class at the top of a module, "
        "not a lambda, a partial or something inside a function"
    )


# ---- one definition ---------------------------------------------------------------------------------------


@functools.cache
def _text(definition: Definition) -> str:
    """The code of a definition without what does nothing: layout, comments, texts that stand alone."""
    return ast.unparse(_WithoutDocstrings().visit(ast.parse(ast.unparse(definition.code))))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


@functools.cache
def _depends_on(definition: Definition) -> frozenset[Definition]:
    """The definitions of this library that one mentions, as `name` or as `module.name`."""
    here = _names(definition.file)
    chains = (chain for chain in _chains(definition.code) if chain[0] in here)
    return frozenset(found for first, *rest in chains for found in _meant(here[first], rest))


def _chains(code: ast.AST) -> Iterator[list[str]]:
    """Every `a.b.c` in the code as ["a", "b", "c"], every name that stands alone as ["a"]."""
    inner = set()
    for node in ast.walk(code):  # the whole of a chain comes before its parts
        chain, part = [], node
        while isinstance(part, ast.Attribute):
            chain.append(part.attr)
            part = part.value
            inner.add(part)
        if isinstance(part, ast.Name) and node not in inner:
            yield [part.id, *reversed(chain)]


def _meant(definition: Definition, rest: list[str]) -> Iterator[Definition]:
    """The code behind a name, and behind `rest` if the name is that of a module."""
    if definition.code:
        yield definition
    else:
        yield from _resolved((*definition.imported.split("."), *rest))


# ---- names and files --------------------------------------------------------------------------------------


def _resolved(parts: tuple[str, ...]) -> Iterator[Definition]:
    """What a dotted name stands for: a definition, through the packages that pass it on; or all of a module."""
    if parts[0] != "lib" or ".".join(parts).startswith(READERS + SPEAKERS):
        return
    for depth in range(1, len(parts)):
        names = _names(_file(parts[:depth]))
        below = _file(parts[: depth + 1])
        if below is None or (depth == len(parts) - 1 and parts[depth] in names):
            if parts[depth] in names:
                yield from _meant(names[parts[depth]], list(parts[depth + 1 :]))
            return
    yield from (definition for definition in _names(_file(parts)).values() if definition.code)


def _file(parts: tuple[str, ...]) -> Path | None:
    """The file of a module; None if there is no such module."""
    path = ROOT.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@functools.cache
def _names(file: Path) -> dict[str, Definition]:
    """What the names at the top of a file stand for."""
    found = {}
    for statement in ast.parse(_source(file)).body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                dotted = f"{statement.module}.{alias.name}"
                found[alias.asname or alias.name] = Definition(file, imported=dotted)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                dotted = alias.name if alias.asname else alias.name.split(".")[0]
                found[alias.asname or dotted] = Definition(file, imported=dotted)
        else:
            found |= dict.fromkeys(_defined(statement), Definition(file, code=statement))
    return found


def _defined(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a file defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    for target in [statement.target] if isinstance(statement, ast.AnnAssign) else targets:
        # Of the targets alone: the variables of a comprehension on the other side are nobody else's.
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _source(file: Path) -> str:
    """The Python text of a file, or of the code cells of a notebook."""
    if file.suffix != ".ipynb":
        return file.read_text()
    cells = nbformat.read(file, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")
