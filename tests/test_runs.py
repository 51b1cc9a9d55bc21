"""Records and runs: what is written, what is refused, and what failures, Ctrl-C and rivals leave behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from lib import runs
from lib.paths import ROOT
from lib.runs import execution, records
from lib.runs.__main__ import _parsed
from lib.runs.execution import RunError, complete_parameters, fingerprint, read_run

PARAMETERS = """steps: int = 3  # how many
rate: float = 0.5  # how fast
flag: bool = True  # whether
image: str = ""  # which
run_id: str = "good"  # name"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository that records and runs are read from and written to."""
    for module in (records, execution):
        for name, path in {"ROOT": ".", "RUNS": "papermill_runs", "FIGURES": "figures"}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(execution, "WEIGHTS", tmp_path / "lib" / "weights")
    return tmp_path


def write_notebook(path, *cells, parameters=PARAMETERS, tags=("parameters",)):
    path.parent.mkdir(parents=True, exist_ok=True)
    first = new_code_cell(parameters, metadata={"tags": list(tags)})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    sources = [new_code_cell(source) for source in cells]
    notebook = new_notebook(
        cells=[new_markdown_cell("# T"), first, *sources], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, path)
    return path


def write_run(repository, name, text):
    path = repository / "papermill_runs" / "runs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- names and seeds --------------------------------------------------------------------------------------


def test_each_scale_has_its_own_record_and_figures():
    ids = ["spi_warping-quick", "spi_warping-full", "spi_warping-paper", "spi_warping"]
    assert len({runs.result_path(run_id) for run_id in ids}) == 4
    assert len({runs.figure_folder(run_id) for run_id in ids}) == 4
    assert runs.result_path("spi_warping").name == "spi_warping-interactive.json"
    assert runs.figure_folder("spi_warping-full") == ROOT / "figures" / "spi_warping"


@pytest.mark.parametrize("run_id", ["", "../out", "a/b", "A", "a-slow", "-quick"])
def test_run_ids_that_could_leave_their_folder_are_refused(run_id):
    with pytest.raises(ValueError, match="run id"):
        runs.result_path(run_id)


def draws(seed):
    generator = runs.seed_all(seed)
    return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()  # noqa: NPY002


def test_a_seed_fixes_every_source_of_randomness():
    first, again, other = draws(3), draws(3), draws(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


# ---- figures ----------------------------------------------------------------------------------------------


def noise_picture(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_small_picture_is_kept_to_the_pixel_and_names_its_run(repository):
    picture = noise_picture(40)
    path = runs.save_figure(picture, "noise", "spi-full")
    assert path == repository / "figures" / "spi" / "noise.png"
    saved = Image.open(path)
    assert np.array_equal(np.asarray(saved), np.asarray(picture))
    assert saved.text["run_id"] == "spi-full"


@pytest.fixture
def little_room(monkeypatch):
    """Figures of at most 10 kB: what noise needs in the formats is known, and noise is slow to compress."""
    monkeypatch.setattr(records, "FIGURE_BYTES", 10_000)


def test_large_picture_loses_colours_before_resolution(repository, little_room):
    # 100 x 100 pixels of noise take 30 kB in full colour and 9 kB at 7 bits each; 200 x 200 do not fit.
    fewer_colours = Image.open(runs.save_figure(noise_picture(100), "a", "spi-full"))
    smaller = Image.open(path := runs.save_figure(noise_picture(200), "b", "spi-full"))
    assert (fewer_colours.mode, fewer_colours.size) == ("P", (100, 100))
    assert smaller.width < 200
    assert path.stat().st_size <= 10_000


def test_photographic_figure_is_a_jpeg_that_names_its_run(repository):
    smooth = noise_picture(8).resize((400, 400), Image.Resampling.BICUBIC)
    path = runs.save_figure(smooth, "faces", "spi-full", photographic=True)
    saved = Image.open(path)
    assert path == repository / "figures" / "spi" / "faces.jpg"
    assert saved.size == smooth.size
    assert saved.info["comment"] == b"spi-full"
    difference = np.abs(np.asarray(saved, dtype=float) - np.asarray(smooth, dtype=float))
    assert difference.mean() < 3


def test_photographic_figure_loses_quality_before_resolution(repository, little_room):
    # 120 x 120 pixels of noise take 13 kB at the best quality and 8 kB at the least; of 200 x 200, 23 kB.
    kept = Image.open(runs.save_figure(noise_picture(120), "a", "spi-full", photographic=True))
    smaller = Image.open(path := runs.save_figure(noise_picture(200), "b", "spi-full", photographic=True))
    assert kept.size == (120, 120)
    assert smaller.width < 200
    assert path.stat().st_size <= 10_000


@pytest.mark.parametrize("photographic", [False, True])
def test_picture_that_cannot_be_small_is_refused(repository, little_room, photographic):
    with pytest.raises(ValueError, match="fewer panels"):
        runs.save_figure(noise_picture(400), "noise", "spi-full", photographic=photographic)
    assert not list(repository.rglob("noise.*"))


def test_matplotlib_figure_is_saved_the_same_each_time(repository):
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, 1], [0, 1])
    first = runs.save_figure(fig, "line", "spi-quick").read_bytes()
    assert runs.save_figure(fig, "line", "spi-quick").read_bytes() == first
    plt.close(fig)


@pytest.mark.parametrize("name", ["../up", "a b", "A", "", "a.png"])
def test_figure_names_are_plain(repository, name):
    with pytest.raises(ValueError, match="figure is named"):
        runs.save_figure(noise_picture(4), name, "spi-full")


def test_only_figures_and_pictures_are_saved(repository):
    with pytest.raises(TypeError, match="ndarray"):
        runs.save_figure(np.zeros((4, 4, 3)), "a", "spi-full")


# ---- records ----------------------------------------------------------------------------------------------


def test_record_holds_metrics_figures_and_circumstances(repository):
    figure = runs.save_figure(noise_picture(8), "noise", "spi-full")
    metrics = {"mse": torch.tensor(0.25), "per_view": np.arange(2), "nested": {"n": 3}, "name": "a"}
    path = runs.record("spi-full", metrics=metrics, figures=[figure], extra={"file": Path("a") / "b"})
    result = json.loads(path.read_text())
    assert path == repository / "papermill_runs" / "results" / "spi-full.json"
    assert result["run_id"] == "spi-full"
    assert result["metrics"] == {"mse": 0.25, "per_view": [0, 1], "nested": {"n": 3}, "name": "a"}
    assert result["extra"] == {"file": os.path.join("a", "b")}  # noqa: PTH118 - the form of this system
    assert result["figures"] == [
        {
            "file": "figures/spi/noise.png",
            "sha256": records.digest(figure.read_bytes()),
            "bytes": figure.stat().st_size,
        }
    ]
    assert result["versions"]["numpy"] == np.__version__
    assert "gpu" not in result["device"] or torch.cuda.is_available()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf")), [np.nan]])
def test_record_refuses_numbers_that_are_none(repository, value):
    with pytest.raises(ValueError, match="finite"):
        runs.record("spi-full", metrics={"psnr": value})
    assert not list(repository.rglob("*.json"))


def test_record_refuses_what_json_cannot_hold(repository):
    with pytest.raises(TypeError, match="object"):
        runs.record("spi-full", metrics={"a": object()})


def test_record_refuses_figures_that_are_missing_or_elsewhere(repository, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="never written"):
        runs.record("spi-full", metrics={}, figures=[repository / "none.png"])
    outside = tmp_path_factory.mktemp("elsewhere") / "a.png"
    noise_picture(4).save(outside)
    with pytest.raises(ValueError, match="outside the repository"):
        runs.record("spi-full", metrics={}, figures=[outside])


def test_failed_write_leaves_the_old_file_alone(repository, monkeypatch):
    path = repository / "a.json"
    records.write_json(path, {"a": 1})

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        records.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(repository.iterdir()) == [path]


def test_peak_memory_is_that_of_this_process_and_remembers_what_was_freed():
    code = (
        "import numpy as np; from lib.runs import records; before = records._peak_memory();"
        "a = np.ones(25_000_000); del a; print(before, records._peak_memory())"
    )
    ballast = np.ones(60_000_000)  # in the parent, and no part of the child
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < ballast.nbytes
    assert after - before > 0.9 * 200e6


def test_commit_says_whether_the_code_was_changed(repository):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)

    assert records._commit() == {"hash": None, "dirty": True}
    git("init")
    (repository / "lib").mkdir()
    (repository / "lib" / "a.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    clean = records._commit()
    assert len(clean["hash"]) == 40
    assert not clean["dirty"]
    records.write_json(repository / "papermill_runs" / "results" / "a.json", {})
    assert records._commit() == clean
    (repository / "lib" / "a.py").write_text("a = 2\n")
    assert records._commit() == {"hash": clean["hash"], "dirty": True}


# ---- definitions ------------------------------------------------------------------------------------------

SOUND = """id: good
notebook: notebooks/good.ipynb
assets: [landmarks]
parameters:
  quick: {steps: 1}
  full:
"""


def test_run_is_read(repository):
    notebook = write_notebook(repository / "notebooks" / "good.ipynb")
    run = read_run(write_run(repository, "good", SOUND))
    assert run == execution.Run("good", notebook, {"quick": {"steps": 1}, "full": {}}, ("landmarks",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the keys"),
        ("- a", "expected the keys"),
        (SOUND.replace("parameters", "params"), "expected the keys"),
        (SOUND + "colour: red\n", "unknown keys colour"),
        (SOUND.replace("id: good", "id: bad"), "must be the name of the file"),
        (SOUND.replace("good.ipynb", "none.ipynb"), "no notebook notebooks/none.ipynb"),
        (SOUND.replace("quick", "fast"), "per scale"),
        ("id: good\nnotebook: notebooks/good.ipynb\nparameters: 3\n", "per scale"),
    ],
)
def test_broken_run_is_refused(repository, text, words):
    write_notebook(repository / "notebooks" / "good.ipynb")
    with pytest.raises(RunError, match=words):
        read_run(write_run(repository, "good", text))


def test_unknown_run_is_named_with_those_there_are(repository):
    write_run(repository, "good", SOUND)
    with pytest.raises(RunError, match="no run is called bad; there are: good"):
        execution.read_runs(["bad"])


def test_parameters_keep_their_types_and_defaults(repository):
    notebook = write_notebook(repository / "a.ipynb")
    complete = complete_parameters(notebook, {"flag": False, "rate": 1}, "good-quick")
    assert complete == {"steps": 3, "rate": 1, "flag": False, "image": "", "run_id": "good-quick"}
    assert complete["flag"] is False


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stepz": 3}, "no parameter stepz; it has: steps, rate"),
        ({"steps": "3"}, "steps is int in the notebook; '3' is str"),
        ({"steps": True}, "steps is int in the notebook; True is bool"),
        ({"steps": 2.5}, "steps is int"),
        ({"flag": "false"}, "flag is bool"),
        ({"flag": 0}, "flag is bool"),
        ({"image": None}, "image is str"),
        ({"run_id": "mine"}, "set by the runner"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(repository, given, words):
    notebook = write_notebook(repository / "a.ipynb")
    with pytest.raises(RunError, match=words):
        complete_parameters(notebook, given, "good-quick")


def test_notebook_without_tagged_parameters_is_refused(repository):
    with pytest.raises(RunError, match="no cell tagged `parameters`"):
        complete_parameters(write_notebook(repository / "a.ipynb", tags=()), {}, "good-quick")
    with pytest.raises(RunError, match="no parameter `run_id`"):
        complete_parameters(write_notebook(repository / "b.ipynb", parameters="a: int = 1"), {}, "good-quick")


def test_fingerprint_changes_with_everything_that_the_result_depends_on(repository):
    notebook = write_notebook(repository / "a.ipynb", "a = 1")
    photo = repository / "photo.png"
    library = repository / "lib" / "deep" / "module.py"
    library.parent.mkdir(parents=True)
    weights = repository / "lib" / "weights" / "tiny.safetensors"
    weights.parent.mkdir()
    for path in (photo, library, weights):
        path.write_text("1")
    parameters = {"image": "photo.png", "weights": "tiny"}
    seen = [fingerprint(notebook, parameters)]
    assert fingerprint(notebook, parameters) == seen[0]

    seen.append(fingerprint(notebook, {**parameters, "steps": 1}))
    for path in (photo, library, weights):
        path.write_text("2")
        seen.append(fingerprint(notebook, parameters))
    write_notebook(notebook, "a = 2")
    seen.append(fingerprint(notebook, parameters))
    assert len(set(seen)) == len(seen)

    told = nbformat.read(notebook, as_version=4)
    told.cells[0].source = "# Another title"
    nbformat.write(told, notebook)
    assert fingerprint(notebook, parameters) == seen[-1]


def test_parameters_on_the_command_line_are_typed_and_paths_are_kept():
    given = {"a": "3", "b": "0.5", "c": "false", "d": "[1, 2]", "e": "/b c/#1: d.jpg", "f": "", "g": "x=y"}
    expected = {"a": 3, "b": 0.5, "c": False, "d": [1, 2], "e": given["e"], "f": "", "g": "x=y"}
    assert _parsed([f"{name}={text}" for name, text in given.items()]) == expected


# ---- whole runs, in processes of their own ----------------------------------------------------------------

GOOD = """import os
from pathlib import Path

import matplotlib.pyplot as plt

from lib import runs

assert (type(steps), type(rate), flag) == (int, float, False)
fig, ax = plt.subplots(figsize=(1, 1))
figure = runs.save_figure(fig, "empty", run_id)
runs.record(run_id, metrics={"steps": steps}, figures=[figure], extra={"folder": str(Path.cwd())})"""
BAD = "values = [1, 2]\nvalues[7]"
SLOW = """import time
from pathlib import Path

from lib import runs
with Path("executions.txt").open("a") as file:
    file.write("once\\n")
time.sleep(1.5)
runs.record(run_id, metrics={})"""


@pytest.fixture
def checkout(tmp_path):
    """A small checkout: the runner, its notebooks, and nothing else of the library."""
    shutil.copytree(
        ROOT / "lib" / "runs", tmp_path / "lib" / "runs", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("__init__.py", "paths.py"):
        shutil.copy(ROOT / "lib" / name, tmp_path / "lib")
    return tmp_path


def add_run(checkout, name, source, quick="{steps: 2, rate: 0.25, flag: false}"):
    write_notebook(checkout / "notebooks" / f"{name}.ipynb", source)
    write_run(
        checkout, name, f"id: {name}\nnotebook: notebooks/{name}.ipynb\nparameters:\n  quick: {quick}\n"
    )


def start(checkout, *arguments):
    """The runner of that checkout, called from another folder."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lib.runs", *arguments]
    return subprocess.Popen(
        command,
        cwd=checkout.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a test can interrupt it as a terminal would
        preexec_fn=listen_to_interrupts,
    )


def listen_to_interrupts():
    """A test suite in the background is deaf to Ctrl-C, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process):
    out, error = process.communicate(timeout=900)  # a bound for machines that are busy, not an expectation
    return process.returncode, out, error


def test_study_goes_on_after_a_failure_and_resumes_with_what_is_not_done(checkout):
    add_run(checkout, "bad", BAD)
    add_run(checkout, "good", GOOD)
    out_folder, result_file = checkout / "papermill_runs" / "out", checkout / "papermill_runs" / "results"

    code, out, error = finish(start(checkout))
    assert code == 1, error
    assert "bad-quick: cell [3] of notebooks/bad.ipynb, which begins `values = [1, 2]`: IndexError" in out
    assert "papermill_runs/out/bad-quick.failed.ipynb" in out
    assert "IndexError" in (out_folder / "bad-quick.failed.ipynb").read_text()
    assert not (out_folder / "bad-quick.ipynb").exists()
    result = json.loads((result_file / "good-quick.json").read_text())
    assert result["metrics"] == {"steps": 2}
    assert result["parameters"]["rate"] == 0.25
    assert result["extra"]["folder"] == str(checkout)
    assert result["wall_seconds"] > 0
    assert result["peak_memory_mb"] > 0
    assert (checkout / "figures" / "good" / "quick" / "empty.png").exists()
    table = out.split("notebook ")[-1]
    assert [line.split("  ")[-1] for line in table.splitlines() if "good.ipynb" in line] == [
        "1 in figures/good/quick"
    ]

    add_run(checkout, "bad", GOOD)
    code, out, error = finish(start(checkout))
    assert code == 0, error
    assert "good-quick: skipped (done)" in out
    assert "bad-quick: done" in out
    assert not (out_folder / "bad-quick.failed.ipynb").exists()

    recorded_at = result["recorded_at"]
    code, out, error = finish(start(checkout, "--only", "good", "--force", "--set", "steps=5"))
    assert code == 0, error
    again = json.loads((result_file / "good-quick.json").read_text())
    assert again["recorded_at"] > recorded_at
    assert again["metrics"] == {"steps": 5}
    assert not [path.name for path in out_folder.iterdir() if "running" in path.name]


def test_notebook_that_records_nothing_has_failed(checkout):
    add_run(checkout, "silent", "a = 1")
    code, out, _ = finish(start(checkout))
    assert code == 1
    assert "silent-quick: notebooks/silent.ipynb ended without runs.record(run_id, ...)" in out


def test_two_processes_execute_a_run_once(checkout):
    add_run(checkout, "slow", SLOW, quick="{}")
    both = [start(checkout), start(checkout)]
    results = [finish(process) for process in both]
    assert [code for code, _, _ in results] == [0, 0]
    assert sorted("skipped (done)" in out for _, out, _ in results) == [False, True]
    assert (checkout / "executions.txt").read_text() == "once\n"


def test_several_notebooks_at_a_time(checkout):
    add_run(checkout, "one", SLOW, quick="{}")
    add_run(checkout, "two", SLOW, quick="{}")
    code, out, error = finish(start(checkout, "--jobs", "2"))
    assert code == 0, error
    assert (checkout / "executions.txt").read_text() == "once\nonce\n"
    assert "one-quick: done" in out
    assert "two-quick: done" in out


def test_interrupted_run_keeps_its_notebook_and_can_be_repeated(checkout):
    add_run(checkout, "slow", SLOW.replace("1.5", "60"), quick="{}")
    process = start(checkout)
    deadline = time.monotonic() + 600
    while not (checkout / "executions.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    code, _, error = finish(process)
    assert code == 130, error
    assert "goes on with what is not done" in error
    assert (checkout / "papermill_runs" / "out" / "slow-quick.failed.ipynb").exists()
    add_run(checkout, "slow", SLOW, quick="{}")
    assert finish(start(checkout))[0] == 0


def test_wrong_arguments_are_told_without_a_traceback(checkout):
    add_run(checkout, "good", GOOD)
    for arguments, words in [
        (("--only", "none"), "no run is called none"),
        (("--set", "steps"), "name=value"),
    ]:
        code, _, error = finish(start(checkout, *arguments))
        assert code == 2
        assert words in error
        assert "Traceback" not in error
