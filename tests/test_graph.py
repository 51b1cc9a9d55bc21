"""The study as a graph: `snakemake -n` says what would be done, in the right order."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from lib.paths import ROOT
from lib.runs.execution import read_runs


@pytest.fixture
def dry_run(tmp_path):
    """Steps that snakemake would do for a target, without any of what was made here before."""
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("snakemake is not installed (the extra `graph`)")

    def dry_run(*target, **config):
        settings = [f"{name}={value}" for name, value in config.items()]
        command = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock", *target]
        done = subprocess.run(
            [*command, "--config", *settings], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, flags=re.MULTILINE)

    return dry_run


def test_everything_at_quick(dry_run):
    steps = dry_run(scale="quick")
    plan = yaml.safe_load((ROOT / "papermill_runs" / "evaluation.yaml").read_text())["quick"]
    kinds = {kind for block in plan["inputs"] for kind in block["kinds"]}
    tables = len(kinds) * len(plan["methods"])
    assert steps.count("inversions") == steps.count("measurements") == tables
    assert steps.count("notebook") == len([run for run in read_runs() if "quick" in run.parameters])
    assert steps.count("assets") == steps.count("table") == 1
    assert "prior" not in steps


def test_claims_at_full_come_after_everything_that_they_are_judged_by(dry_run):
    steps = dry_run("ledger", scale="full")
    assert {"inversions", "measurements", "table", "notebook"} <= set(steps)
    assert steps.count("notebook") == 1


def test_training_is_a_target_of_its_own(dry_run):
    assert sorted(dry_run("prior")) == ["assets", "portraits", "prior"]


def test_no_step_writes_to_the_shipped_weights():
    """A training may be worse than what is shipped, and may be interrupted: a person installs its weights."""
    outputs = re.findall(r"^    +output:\n((?: {8,}.*\n)+)", (ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert len(outputs) == (ROOT / "Snakefile").read_text().count("output:\n")
    assert not [text for text in outputs if "WEIGHTS" in text or "lib/weights" in text]


def test_records_that_notebooks_read_are_inputs_of_theirs():
    """A result, or the numbers of a model card, that a notebook opens by name is named in the graph."""
    graph = (ROOT / "Snakefile").read_text()
    for run in read_runs():
        story = run.notebook.read_text()
        if "result_path(" in story or "paths.WEIGHTS" in story:
            assert f'"{run.id}": [' in graph, f"RECORDS does not say what {run.notebook.name} reads"


def test_other_scales_are_refused(dry_run):
    with pytest.raises(AssertionError, match="quick\\|full\\|paper"):
        dry_run(scale="slow")
