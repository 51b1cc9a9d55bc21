"""What every notebook of the study obeys. Each rule is one function: cells in, faults in words out."""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

from nbformat import NotebookNode

MAX_CODE_CELLS = 30
MAX_CELL_LINES = 25
MAX_FUNCTION_LINES = 15
MAX_KEPT_OUTPUT = 2_000  # characters
ABSOLUTE = re.compile(r"^(/(home|root|work|tmp|usr|opt|mnt|data|Users|content)\b|[A-Za-z]:\\|~/)")
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|<img[^>]*\bsrc=[\"']([^\"']+)")

Rule = Callable[[NotebookNode, Path], Iterator[str]]


def faults(notebook: NotebookNode, path: Path) -> list[str]:
    """Everything that is wrong with a notebook which lies at `path`."""
    unreadable = list(plain_python(notebook, path))
    return unreadable or [fault for rule in RULES for fault in rule(notebook, path)]


# ---- looking at cells -------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Code cells with something in them."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@functools.cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def nodes(notebook: NotebookNode, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of these kinds in all code cells."""
    for cell in code_cells(notebook):
        yield from (node for node in ast.walk(parsed(cell.source)) if isinstance(node, kinds))


def called(node: ast.AST) -> str:
    """`a.b` for the call `a.b(...)`."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def makes_figure(cell: NotebookNode) -> bool:
    """Whether a cell draws: pyplot, the library's figures, or a figure that is saved."""
    calls = [called(node) for node in ast.walk(parsed(cell.source))]
    return any(call.startswith(("plt.", "figures.")) or call.endswith("save_figure") for call in calls)


def links(text: str) -> list[str]:
    """Targets of the relative links and pictures in markdown, without their anchors."""
    found = ["".join(pair) for pair in LINK.findall(text)]
    relative = [target.split("#")[0] for target in found if not re.match(r"[a-z]+:|#", target)]
    return [target for target in relative if target]


# ---- rules ------------------------------------------------------------------------------------------------


def plain_python(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No magics: what a cell does is what Python does."""
    for number, cell in enumerate(code_cells(notebook), 1):
        try:
            parsed(cell.source)
        except SyntaxError as error:
            yield f"code cell {number} is not plain Python (line {error.lineno}: {error.msg})"


def title_first(notebook: NotebookNode, path: Path) -> Iterator[str]:
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    titles = re.findall(r"^# .+", "\n".join(text), flags=re.MULTILINE)
    if len(titles) != 1 or not notebook.cells[0].source.startswith("# "):
        yield f"the first cell is the one title (# ...); found {len(titles)} titles"


def runs_on_python3(notebook: NotebookNode, path: Path) -> Iterator[str]:
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"the kernel is python3, not {kernel}: others exist only on the author's machine"
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield "the format is 4.5 or newer: cells have ids, and differences between versions stay small"


def parameters_are_literals(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """One cell of `name: type = literal  # what it is`: the runner checks and replaces these lines."""
    tagged = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"exactly one code cell is tagged `parameters`; found {len(tagged)}"
        return
    (cell,) = tagged
    commented = _commented_lines(cell.source)
    names = set()
    for statement in parsed(cell.source).body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            yield f"parameters: `{ast.unparse(statement)}` is not `name: type = literal  # meaning`"
            continue
        names.add(statement.target.id)
        if not _is_literal(statement.value):
            yield f"parameters: {statement.target.id} is no literal; it would go stale when another is replaced"
        if statement.end_lineno not in commented:
            yield f"parameters: {statement.target.id} has no comment"
    if "run_id" not in names:
        yield "parameters: there is no run_id, under which the result is recorded"


def _is_literal(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def _commented_lines(source: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def ran_top_to_bottom(notebook: NotebookNode, path: Path) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if any(counts) and counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}: restart and run all, or clear them"


def outputs_are_stripped(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), 1):
        kept = "keep_output" in tags(cell)
        if cell.outputs and not kept:
            yield f"code cell {number} has outputs (nbstripout removes them; the tag keep_output keeps them)"
        if kept and len(str(cell.outputs)) > MAX_KEPT_OUTPUT:
            yield f"code cell {number} keeps more than {MAX_KEPT_OUTPUT} characters of output"


def leaves_the_machine_alone(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No installing, no changed search path or folder, no path of one machine."""
    for node in nodes(notebook, ast.Call, ast.Attribute, ast.Constant):
        text = ast.unparse(node)
        if called(node).endswith("chdir"):
            yield f"`{text}`: paths come from lib.paths, and the folder stays"
        elif isinstance(node, ast.Attribute) and text == "sys.path":
            yield "`sys.path`: lib is installed; nothing else is imported from paths"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if ABSOLUTE.match(node.value):
                yield f"{text} is a path of one machine: begin at lib.paths"
            if re.search(r"\bpip\b.*\binstall\b", node.value):
                yield f"{text}: what a notebook needs stands in pyproject.toml"


def says_what_it_uses(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for node in nodes(notebook, ast.ImportFrom, ast.ExceptHandler):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"`{ast.unparse(node)}`: import names"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield "`except:` without a type hides what went wrong"


def stays_short(notebook: NotebookNode, path: Path) -> Iterator[str]:
    cells = code_cells(notebook)
    if len(cells) > MAX_CODE_CELLS:
        yield f"{len(cells)} code cells; a story has at most {MAX_CODE_CELLS}"
    for number, cell in enumerate(cells, 1):
        lines = len(cell.source.splitlines())
        if lines > MAX_CELL_LINES:
            yield f"code cell {number} has {lines} lines; at most {MAX_CELL_LINES}, the rest belongs in lib"
    for node in nodes(notebook, ast.FunctionDef, ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"function {node.name} has {lines} lines; over {MAX_FUNCTION_LINES} it belongs in lib"


def asserts_beside_figures(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A section (##) that shows a figure also checks something: a picture alone cannot fail."""
    for heading, cells in _sections(notebook):
        asserts = any(
            isinstance(node, ast.Assert) for cell in cells for node in ast.walk(parsed(cell.source))
        )
        if any(map(makes_figure, cells)) and not asserts:
            yield f"section `{heading}` makes a figure and asserts nothing"


def _sections(notebook: NotebookNode) -> list[tuple[str, list[NotebookNode]]]:
    """Code cells by the `##` heading above them."""
    sections = [("before the first heading", [])]
    for cell in notebook.cells:
        headings = (
            re.findall(r"^## .+", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else []
        )
        sections += [(heading, []) for heading in headings]
        if cell.cell_type == "code":
            sections[-1][1].append(cell)
    return sections


def records_last(notebook: NotebookNode, path: Path) -> Iterator[str]:
    cells = code_cells(notebook)
    last = parsed(cells[-1].source).body[-1] if cells else None
    call = last.value if isinstance(last, ast.Expr | ast.Assign) else None
    if called(call).split(".")[-1] != "record":
        yield "the last statement is runs.record(run_id, ...), which writes down what came out"


def links_resolve(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            missing = [target for target in links(cell.source) if not (path.parent / target).exists()]
            yield from (f"link to {target}, which does not exist" for target in missing)


RULES: tuple[Rule, ...] = (
    title_first,
    runs_on_python3,
    parameters_are_literals,
    ran_top_to_bottom,
    outputs_are_stripped,
    leaves_the_machine_alone,
    says_what_it_uses,
    stays_short,
    asserts_beside_figures,
    records_last,
    links_resolve,
)
