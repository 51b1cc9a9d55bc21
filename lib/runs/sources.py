"""Which files of the library a module or a notebook runs: those that it imports, and what they import in turn.

Read from the text, without running it: the graph of the study (`Snakefile`) lists them as inputs.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import nbformat

from lib.paths import ROOT

__all__ = ["library_files"]


def library_files(path: Path) -> list[Path]:
    """Files of lib/ that a Python file or a notebook depends on, itself included if it is one of them."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file)
    return sorted(file for file in found if file.is_relative_to(ROOT / "lib"))


@functools.cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Files of lib/ that a file imports, wherever in it."""
    return tuple(
        file
        for node in ast.walk(ast.parse(_source(path)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _names(node)
        for file in _files(name)
    )


def _source(path: Path) -> str:
    """The Python text of a file, or of the code cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def _names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Dotted names that a statement imports, `lib.a.b` also where it says `from lib.a import b`."""
    for alias in node.names:
        yield alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"


def _files(name: str) -> Iterator[Path]:
    """What runs when `lib.a.b` is imported: the packages above it, and b if it is a module."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1) if parts[0] == "lib" else ():
        path = ROOT.joinpath(*parts[:depth])
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())
