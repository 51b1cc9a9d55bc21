"""JupyterLab in a real browser: a notebook runs from top to bottom, and its slider turns the head."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from lib import runs
from lib.paths import ROOT, WEIGHTS

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

START = ROOT / "notebooks" / "00_start_here.ipynb"
FEW_STEPS = 20
"""Enough for what the start notebook asserts, far too few for a good head."""

PATIENCE = 120
"""Seconds to wait for the server or the page before saying that it hangs."""

RUN_LIMIT = 600
"""The same for all cells of a notebook."""

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# -------------------------------------------------------------------- the server
@contextlib.contextmanager
def jupyterlab(folder: Path, private: Path) -> Iterator[str]:
    """A server of `folder`, for this machine alone, with its own settings; yields the address of `{name}`."""
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_DATA_DIR": str(private / "data"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(private / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(private / "workspaces"),
        "IPYTHONDIR": str(private / "ipython"),
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    environment.pop("MPLBACKEND", None)  # kernels choose their own
    set_up(private / "settings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
        *("--ServerApp.port_retries=0", "--LabApp.extension_manager=readonly"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (private / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(server, f"{address}/api/status?token={token}", private / "server.log")
        yield f"{address}/lab/tree/{{name}}?token={token}"
    finally:
        stop(server)


def set_up(settings: Path) -> None:
    """Keep cells that are scrolled out of sight in the page, and no question about news in front of it."""
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false"},
    }.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


def wait_for_server(server: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def stop(server: subprocess.Popen) -> None:
    """SIGTERM lets the server end its kernels; what does not end is killed."""
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


# -------------------------------------------------------------------- the page
@contextlib.contextmanager
def page_of(chromium: str, url: str) -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=[*QUIET])
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(url)
            yield page
        finally:
            browser.close()


def run_all(page) -> None:
    """Run all cells by the menu, as a user does, and wait until the kernel rests."""
    idle = page.get_by_text("Python 3 (ipykernel) | Idle")
    idle.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(
                prompt => prompt.textContent.trim());
            return prompts.some(text => /^\\[\\d+\\]:$/.test(text)) && !prompts.includes('[*]:');
        }""",
        timeout=1000 * RUN_LIMIT,
    )
    check_that_nothing_failed(page)
    idle.wait_for()


def check_that_nothing_failed(page) -> None:
    """Neither a traceback under a cell nor red words of the viewer."""
    tracebacks = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    failed = tracebacks.all_inner_texts() + page.locator('.viewer-status [style*="color"]').all_inner_texts()
    assert not failed, "\n\n".join(failed)


def shown(page, name: str) -> bytes:
    """The bytes of a picture that the browser shows, when it has loaded."""
    picture = page.locator(f"img.viewer-{name}")
    picture.wait_for()
    content = picture.evaluate(
        """async image => {
            await image.decode();
            return [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())];
        }"""
    )
    return bytes(content)


def drag_slider(page, name: str, position: float) -> None:
    """Drag a slider's handle to a position between 0 (left) and 1 (right) with the mouse."""
    handle = page.locator(f".viewer-{name} .noUi-handle")
    handle.scroll_into_view_if_needed()
    start, track = handle.bounding_box(), page.locator(f".viewer-{name} .noUi-base").bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + position * track["width"], start["y"] + start["height"] / 2, steps=5)
    page.mouse.up()


def check_that_the_head_turns(page) -> None:
    before = {name: shown(page, name) for name in ("picture", "depth")}
    status = page.locator(".viewer-status")
    assert "yaw +0.6" not in status.inner_text()
    drag_slider(page, "yaw", 0.9)  # of -0.8 to 0.8: +0.64
    status.get_by_text("yaw +0.6").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    for name, old in before.items():
        new = shown(page, name)
        assert new.startswith(b"\x89PNG")
        assert new != old, f"the {name} did not change when the slider moved"
    check_that_nothing_failed(page)


def check_notebook(notebook: nbformat.NotebookNode, chromium: str, folder: Path) -> None:
    (folder / "notebooks").mkdir()
    (folder / "private").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "tested.ipynb")
    with (
        jupyterlab(folder / "notebooks", folder / "private") as address,
        page_of(chromium, address.format(name="tested.ipynb")) as page,
    ):
        run_all(page)
        check_that_the_head_turns(page)


# -------------------------------------------------------------------- the tests
VIEWER_ALONE = """
from analytic_head import AnalyticHead
from lib.widgets import Viewer

viewer = Viewer({"pti": AnalyticHead()})
viewer
"""


def notebook_of(*sources: str) -> nbformat.NotebookNode:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    return nbformat.v4.new_notebook(metadata=kernel, cells=[nbformat.v4.new_code_cell(s) for s in sources])


def with_parameters(notebook: nbformat.NotebookNode, values: dict) -> nbformat.NotebookNode:
    """The notebook with a cell after its parameters that sets some of them, as papermill does."""
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    place = 1 + next(i for i, names in enumerate(tags) if "parameters" in names)
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(place, nbformat.v4.new_code_cell(source))
    return notebook


def test_the_viewer_turns_a_head(chromium, tmp_path):
    check_notebook(notebook_of(VIEWER_ALONE.strip(), "viewer.static()"), chromium, tmp_path)


def test_a_failing_cell_is_noticed(chromium, tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check_notebook(notebook_of("1 / 0", VIEWER_ALONE.strip()), chromium, tmp_path)


@pytest.mark.skipif(not START.exists(), reason="there is no start notebook yet")
@pytest.mark.skipif(
    not WEIGHTS.joinpath("portraits64.safetensors").exists(), reason="no weights of portraits64"
)
def test_the_start_notebook_runs_and_turns_its_head(chromium, tmp_path):
    values = dict.fromkeys(["steps_w", "steps_wplus", "steps_pti"], FEW_STEPS)
    values |= {"run_id": "browser_test", "export": str(tmp_path / "exports")}
    try:
        check_notebook(with_parameters(nbformat.read(START, 4), values), chromium, tmp_path)
    finally:  # what a run writes into the checkout
        runs.result_path("browser_test").unlink(missing_ok=True)
        shutil.rmtree(runs.figure_folder("browser_test").parent, ignore_errors=True)
