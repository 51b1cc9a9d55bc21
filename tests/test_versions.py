"""The version of a function changes with the code that it depends on, and with nothing else."""

import functools
import importlib.util

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import versions
from lib.evaluation import MEASURES, METHODS
from lib.versions import code_version, file_version

LIBRARY = {
    "lib/__init__.py": "",
    "lib/losses.py": "SCALE = 2\n\ndef l2(x):\n    return SCALE * x * x\n\ndef unused(x):\n    return x\n",
    "lib/nets/__init__.py": "from lib.nets.trunk import Trunk\n",
    "lib/nets/trunk.py": "class Trunk:\n    def features(self, x):\n        return x + 1\n",
    "lib/method.py": '''import math

from lib import losses
from lib.nets import Trunk


def invert(x, trunk: Trunk):
    """Invert."""
    return losses.l2(x) + helper(x) + math.pi


def helper(x):
    return x  # the same
''',
}


@pytest.fixture
def version(tmp_path, monkeypatch):
    """Version of `invert` in a little library of its own, some texts in it replaced."""

    def version(**replaced):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in LIBRARY.items():
            for old, new in replaced.get(name.replace("/", "_").removesuffix(".py"), {}).items():
                assert old in text
                text = text.replace(old, new)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        monkeypatch.setattr(versions, "ROOT", root)
        spec = importlib.util.spec_from_file_location("little_method", root / "lib" / "method.py")
        module = importlib.util.module_from_spec(spec)
        # Not executed: its imports would find the real library. What counts is where its functions stand.
        exec(compile("def invert(x, trunk):\n    return x", spec.origin, "exec"), module.__dict__)
        return code_version(module.invert)

    return version


DEPENDS = {
    "its body": {"lib_method": {"math.pi": "math.e"}},
    "a function beside it": {"lib_method": {"return x  #": "return 2 * x  #"}},
    "a function of an imported module": {"lib_losses": {"x * x": "abs(x)"}},
    "a constant": {"lib_losses": {"SCALE = 2": "SCALE = 3"}},
    "a class in its signature, through a package": {"lib_nets_trunk": {"x + 1": "x + 2"}},
}
DOES_NOT = {
    "a function that is not used": {"lib_losses": {"return x\n": "return 2 * x\n"}},
    "a docstring": {"lib_method": {'"""Invert."""': '"""Turn round."""'}},
    "a comment": {"lib_method": {"# the same": "# what came"}},
    "layout": {"lib_losses": {"SCALE * x * x": "(SCALE * x\n            * x)"}},
}


@pytest.mark.parametrize("change", DEPENDS.values(), ids=DEPENDS)
def test_version_changes_with(version, change):
    assert version(**change) != version()


@pytest.mark.parametrize("change", DOES_NOT.values(), ids=DOES_NOT)
def test_version_does_not_change_with(version, change):
    assert version(**change) == version()


def test_every_method_and_metric_has_a_version_of_its_own():
    roots = [*{method.invert for method in METHODS.values()}] + [measure.of for measure in MEASURES.values()]
    assert len({code_version(root) for root in roots}) == len(roots)


@pytest.mark.parametrize("function", [lambda x: x, functools.partial(print)], ids=["lambda", "partial"])
def test_what_has_no_place_at_the_top_of_a_module_has_no_version(function):
    with pytest.raises(ValueError, match="top of"):
        code_version(function)


def test_a_notebook_has_the_version_of_its_code_and_of_what_it_uses(tmp_path, monkeypatch):
    def version(code, text="# A story", body="return 1"):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        (root / "lib").mkdir(parents=True)
        (root / "lib" / "__init__.py").touch()
        (root / "lib" / "losses.py").write_text(f"def l2():\n    {body}\n\ndef l1():\n    return 0\n")
        monkeypatch.setattr(versions, "ROOT", root)
        notebook = new_notebook(cells=[new_markdown_cell(text), new_code_cell(code)])
        nbformat.write(notebook, root / "story.ipynb")
        return file_version(root / "story.ipynb")

    whole, part = "import lib.losses as l\nl.l2()", "from lib import losses\nf = losses.l1"
    assert version(whole) == version(whole, text="# Another")
    assert version(whole) == version(whole + "  # a remark")
    assert version(whole) != version(whole + "\nprint(1)")
    assert version(whole) != version(whole, body="return 2")
    assert version(part) == version(part, body="return 2")
    passed_on = "from lib import losses\nprint(losses)"  # who knows what is taken from it
    assert version(passed_on) != version(passed_on, body="return 2")
