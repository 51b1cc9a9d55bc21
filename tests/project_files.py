"""The files that the project consists of, as tests look at them."""

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def project_files(*patterns: str) -> tuple[Path, ...]:
    """Files that git tracks or would track (not ignored), that exist."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    listed = subprocess.run([*command, *patterns], capture_output=True, text=True, check=True).stdout
    return tuple(sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()}))
