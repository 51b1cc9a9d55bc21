"""Every notebook obeys the rules, every run names a notebook and its parameters, and every rule can fail."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import RULES, faults
from project_files import ROOT, project_files

from lib.runs.execution import complete_parameters, read_run

NOTEBOOKS = project_files("*.ipynb")
RUN_FILES = project_files("papermill_runs/runs/*.yaml")


def named(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebook_obeys_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not faults(notebook, path)


@pytest.mark.parametrize("path", RUN_FILES, ids=named)
def test_run_names_a_notebook_and_its_parameters(path):
    run = read_run(path)
    for scale, given in run.parameters.items():
        parameters = complete_parameters(run.notebook, given, f"{run.id}-{scale}")
        assert parameters.items() >= given.items()


def test_every_notebook_has_a_run():
    started = {read_run(path).notebook for path in RUN_FILES}
    idle = [named(path) for path in NOTEBOOKS if path not in started and path.stem != "template"]
    assert not idle, "no file in papermill_runs/runs executes them"


# ---- the rules themselves ---------------------------------------------------------------------------------

PARAMETERS = "steps: int = 3  # how many\nrun_id: str = 'x'  # name of the result"


def sound_notebook():
    """The least that obeys every rule."""
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, execution_count=1),
            new_markdown_cell("## A section"),
            new_code_cell("plt.plot([steps])\nassert steps > 0", execution_count=2),
            new_code_cell("runs.record(run_id, metrics={})", execution_count=3),
        ],
    )


def changed(index, **changes):
    """The sound notebook with one cell changed."""
    notebook = sound_notebook()
    notebook.cells[index].update(changes)
    return notebook


def without(index):
    notebook = sound_notebook()
    del notebook.cells[index]
    return notebook


def with_parameters(source):
    return changed(1, source=f"{source}\n{PARAMETERS}")


def with_code(source):
    return changed(3, source=f"assert steps > 0\n{source}")


def with_metadata(**metadata):
    notebook = sound_notebook()
    notebook.metadata.update(metadata)
    return notebook


def with_cells(count):
    notebook = sound_notebook()
    notebook.cells[3:3] = [new_code_cell("pass") for _ in range(count)]
    for cell in notebook.cells:
        cell.pop("execution_count", None)
        if cell.cell_type == "code":
            cell.execution_count = None
    return notebook


OUTPUT = new_output("stream", text="x")
LONG_OUTPUT = new_output("stream", text="x" * 3000)

BROKEN = {
    "magic": (with_code("%matplotlib inline"), "not plain Python"),
    "shell": (with_code("!ls"), "not plain Python"),
    "no title": (without(0), "0 titles"),
    "two titles": (changed(2, source="# Another"), "2 titles"),
    "foreign kernel": (with_metadata(kernelspec={"name": "my-env"}), "kernel is python3"),
    "no parameters": (changed(1, metadata={}), "found 0"),
    "two parameters cells": (changed(3, metadata={"tags": ["parameters"]}), "found 2"),
    "untyped parameter": (with_parameters("a = 1  # one"), "`a = 1` is not"),
    "derived parameter": (with_parameters("a: int = 2 * 3  # six"), "a is no literal"),
    "parameter without value": (with_parameters("a: int  # nothing"), "a is no literal"),
    "uncommented parameter": (with_parameters("a: int = 1"), "a has no comment"),
    "no run_id": (changed(1, source="a: int = 1  # one"), "no run_id"),
    "out of order": (changed(3, execution_count=7), "[1, 7, 3]"),
    "partly run": (changed(4, execution_count=None), "[1, 2, None]"),
    "outputs": (changed(3, outputs=[OUTPUT]), "has outputs"),
    "large kept output": (
        changed(3, outputs=[LONG_OUTPUT], metadata={"tags": ["keep_output"]}),
        "keeps more",
    ),
    "installs": (with_code("subprocess.run('pip install x', shell=True)"), "pyproject.toml"),
    "search path": (with_code("sys.path.insert(0, '..')"), "sys.path"),
    "folder": (with_code("os.chdir('..')"), "the folder stays"),
    "absolute path": (with_code("open('/" + "home/me/a.png')"), "path of one machine"),
    "home path": (with_code("Path('~/a.png')"), "path of one machine"),
    "windows path": (with_code(r"open('C:\\a.png')"), "path of one machine"),
    "star import": (with_code("from lib import *"), "import names"),
    "bare except": (with_code("try:\n    f()\nexcept:\n    pass"), "without a type"),
    "many cells": (with_cells(28), "31 code cells"),
    "long cell": (with_code("a = 1\n" * 25), "26 lines"),
    "long function": (with_code("def f():\n" + "    a = 1\n" * 15), "function f has 16 lines"),
    "figure without assert": (changed(3, source="plt.plot([steps])"), "asserts nothing"),
    "saved without assert": (changed(3, source="runs.save_figure(f, 'a', run_id)"), "asserts nothing"),
    "no record": (changed(4, source="runs.recall(run_id)"), "runs.record"),
    "record not last": (changed(4, source="runs.record(run_id)\nprint()"), "runs.record"),
    "broken link": (changed(2, source="## A [link](no/such.md)"), "no/such.md"),
    "broken picture": (changed(2, source="## A\n<img src='no.png'>"), "no.png"),
}


def test_sound_notebook_has_no_faults(tmp_path):
    assert faults(sound_notebook(), tmp_path / "a.ipynb") == []


def test_cleared_notebook_has_no_faults(tmp_path):
    assert faults(with_cells(0), tmp_path / "a.ipynb") == []


@pytest.mark.parametrize("case", BROKEN)
def test_broken_notebook_has_exactly_its_fault(case, tmp_path):
    notebook, words = BROKEN[case]
    found = faults(notebook, tmp_path / "a.ipynb")
    assert len(found) == 1
    assert words in found[0]


def test_every_rule_is_broken_by_some_case(tmp_path):
    broken = {rule for notebook, _ in BROKEN.values() for rule in RULES if _breaks(rule, notebook, tmp_path)}
    assert broken == set(RULES)


def _breaks(rule, notebook, folder):
    try:
        return any(rule(notebook, folder / "a.ipynb"))
    except SyntaxError:
        return False  # faults() asks for plain Python before it asks this rule
