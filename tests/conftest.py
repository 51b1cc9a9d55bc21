"""What all tests share: no display, the checkout, and things a machine may or may not have."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def conformance() -> Path:
    """Folder of vectors made with the original EG3D classes, which `EG3D_CONFORMANCE` names."""
    folder = os.environ.get("EG3D_CONFORMANCE", "")
    if not folder:
        pytest.skip("EG3D_CONFORMANCE names no folder with the vectors of the original EG3D")
    assert Path(folder).is_dir(), f"EG3D_CONFORMANCE={folder} is no folder"
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser for JupyterLab."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine")
    return found
