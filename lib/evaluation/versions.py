"""Which code a result depends on: the definitions that a function names, and those that they name in turn."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.paths import ROOT

READERS = frozenset(
    ROOT / "lib" / name
    for name in (
        "assets.py",
        "paths.py",
        "generators/checkpoints.py",
        "generators/official.py",
        "generators/pickles.py",
        "generators/storage.py",
    )
)
"""Modules that bring files into memory. They do not count: what a method is given is known by its content."""


@dataclass(frozen=True)
class Definition:
    """A name at the top of a module: what defines it, or the dotted name that it was imported as."""

    module: Path
    code: ast.stmt | None = None
    imported: str = ""


@functools.cache
def code_version(*roots: Callable | type) -> str:
    """SHA-256 of functions and classes and of all code of this library that they depend on.

    Followed are the names in their bodies, signatures and decorators, definition by definition: a new function
    beside those that are used changes nothing, and neither do comments, docstrings and layout. Libraries of
    others do not count.
    """
    found: dict[str, str] = {}
    waiting = [_root(root) for root in roots]
    while waiting:
        name, definition = waiting.pop()
        if name not in found and definition.module not in READERS:
            found[name] = _text(definition)
            waiting += _named(definition)
    return hashlib.sha256("\n".join(sorted(found.values())).encode()).hexdigest()


def _root(root: Callable | type) -> tuple[str, Definition]:
    """A function or class by name, as it stands in its file."""
    name = getattr(root, "__qualname__", repr(root))
    if inspect.isfunction(inspect.unwrap(root)) or inspect.isclass(root):
        module = Path(inspect.getsourcefile(inspect.unwrap(root))).resolve()
        definition = _definitions(module).get(name)
        if definition and definition.code:
            return f"{module}:{name}", definition
    raise ValueError(
        f"the version of {name} cannot be told: expected a function or class at the top of a module, "
        "not a lambda, a partial or something inside a function"
    )


@functools.cache
def _text(definition: Definition) -> str:
    """The code of a definition without what does nothing: layout, comments, texts that stand alone."""
    copy = ast.parse(ast.unparse(definition.code))
    return ast.unparse(_WithoutDocstrings().visit(copy))


@functools.cache
def _named(definition: Definition) -> tuple[tuple[str, Definition], ...]:
    """The definitions of this library that one mentions: as `name`, or as `module.name`."""
    return tuple(_mentions(definition))


def _mentions(definition: Definition) -> Iterator[tuple[str, Definition]]:
    here = _definitions(definition.module)
    for node in ast.walk(definition.code):
        if isinstance(node, ast.Name):
            target = here.get(node.id)
            found = _resolved(definition.module, node.id) if target else None
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = here.get(node.value.id)
            module = _file_of(target.imported) if target and target.imported else None
            found = _resolved(module, node.attr) if module else None
        else:
            continue
        if found:
            yield found


def _resolved(module: Path, name: str) -> tuple[str, Definition] | None:
    """Where a name of a module is defined, through the modules that only pass it on; None if not here."""
    definition = _definitions(module).get(name)
    while definition and definition.imported:
        parent, _, name = definition.imported.rpartition(".")
        module = _file_of(parent)
        definition = _definitions(module).get(name) if module else None
    return (f"{module}:{name}", definition) if definition else None


def _file_of(dotted: str) -> Path | None:
    """The file of a module of this library, `lib.losses`; None for others."""
    path = ROOT.joinpath(*dotted.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if dotted.startswith("lib") and file.is_file()), None)


@functools.cache
def _definitions(module: Path) -> dict[str, Definition]:
    """What the names at the top of a module stand for."""
    found = {}
    for statement in ast.parse(module.read_text()).body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                dotted = f"{statement.module}.{alias.name}"
                found[alias.asname or alias.name] = Definition(module, imported=dotted)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                found[alias.asname or alias.name.split(".")[0]] = Definition(module, imported=alias.name)
        else:
            found |= dict.fromkeys(_defined(statement), Definition(module, code=statement))
    return found


def _defined(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    for node in ast.walk(statement) if isinstance(statement, ast.Assign | ast.AnnAssign) else ():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes texts that stand alone: they say something and do nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
