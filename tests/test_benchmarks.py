"""The benchmark measures what it says, and the README says what was measured."""

import json
import re

import pytest
from project_files import ROOT

from benchmarks.generator import BF16, OURS, PLAIN, TASKS, Case, run

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("side", [PLAIN, OURS, BF16])
def test_both_sides_make_the_same_picture(task, side):
    measured = run(Case(model="portraits64", task=task, side=side, repetitions=1))
    assert measured.seconds > 0
    assert measured.difference < (0.02 if side == BF16 else 1e-5)


def test_the_readme_holds_what_was_measured():
    rows = json.loads((RESULTS / "generator-cpu.json").read_text())["rows"]
    measured = {(row["task"], row["side"]): row for row in rows if row["model"] == "ffhq512"}
    table = re.findall(
        r"^\| (.+) \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+)x \| ([\d.]+)x \| ([\d.]+) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    names = {
        "forward": TASKS[0],
        "gradient with respect to w": TASKS[1],
        "gradient with respect to the weights": TASKS[2],
    }
    assert {row[0] for row in table} == set(names)
    for name, *numbers in table:
        plain, ours, half = (measured[names[name], side] for side in (PLAIN, OURS, BF16))
        expected = (plain["seconds"], ours["seconds"], ours["times_as_fast"], half["times_as_fast"])
        assert [float(number) for number in numbers[:4]] == [round(value, 1) for value in expected]
        assert float(numbers[4]) == round(ours["share_of_memory"], 2)


def test_the_reported_fid_is_what_was_measured():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for done in json.loads((RESULTS / "adversarial-cpu.json").read_text())["runs"]:
        steps = f"{done['steps_of_generator']}, {done['steps_of_discriminator_alone']}"
        row = next(line for line in text.splitlines() if line.startswith(f"| {done['batch']} | {steps} |"))
        assert f"| {done['fid_before']:.2f} | {done['fid_after']:.2f}" in row
