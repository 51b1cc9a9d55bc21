"""The benchmark measures what it says, and the README says what was measured."""

import json
import re
from functools import partial

import pytest
import torch
from project_files import ROOT

from benchmarks import inversion
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


# ---- methods of inversion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["code", "tuning"])
def test_a_step_costs_time_and_memory(stage):
    # In a process of its own: one that has computed before has memory at hand, and takes no more.
    found = inversion.in_fresh_process(inversion.measure, inversion.Case("portraits64", stage, repetitions=1))
    assert found.seconds > 0
    assert found.peak_mib > 1


def test_seconds_are_those_of_a_step_of_the_fastest_cycle(monkeypatch):
    times = iter(
        [0.0, 100.0, 109.0, 110.0, 112.0, 115.0]
    )  # one look of an earlier stage, then cycles of two steps
    monkeypatch.setattr(inversion, "now", lambda device: next(times))

    def run(generator, photo, look):
        for step in range(1000):
            look(step, None)

    monkeypatch.setitem(inversion.STAGES, "made up", inversion.Stage(run, cycle=2, before=1))
    found = inversion.measure(inversion.Case("portraits64", "made up", repetitions=2))
    assert found.seconds == (115 - 110) / 2
    assert next(times, None) is None, "as many looks as are needed, and no more"


def test_a_stage_of_every_method_is_known_and_large_ones_are_methods():
    assert {stage for recipe in inversion.METHODS.values() for stage in recipe.steps} == set(inversion.STAGES)
    assert set(inversion.LARGE) < set(inversion.METHODS)


def test_an_image_is_steps_times_seconds_of_its_stages():
    rows = [
        {"model": "m", "stage": "code", "seconds": 2.0, "peak_mib": 7.0},
        {"model": "m", "stage": "tuning", "seconds": 3.0, "peak_mib": 5.0},
    ]
    w, pti = inversion.method_rows(rows, ["w", "pti"])
    assert (w["steps"], w["seconds"]) == (1500, 3000.0)
    assert (pti["steps"], pti["seconds"], pti["peak_mib"]) == (800, 450 * 2.0 + 350 * 3.0, 7.0)
    assert w["times_pti"] == 3000 / 1950


def test_several_codes_take_as_many_pictures():
    photo = inversion.Photo.of(inversion.generator_of("portraits64"), 3)
    assert photo.image.shape == (3, 3, 64, 64)
    assert len(photo.camera) == 3
    assert photo.image.std() > 0.1, "it shows a face, and not one grey"


def test_a_fresh_process_gives_the_result_and_keeps_its_state_to_itself():
    before = torch.get_num_threads()
    assert inversion.in_fresh_process(partial(pow, 3), 2) == 9
    inversion.in_fresh_process(torch.set_num_threads, before + 1)
    assert torch.get_num_threads() == before


def test_cheaper_first_steps_are_measured_beside_the_others():
    full, half, coarse = inversion.early_rows(inversion.EarlyCase(count=1, steps=2))
    assert [row["early"] for row in (full, half, coarse)] == ["full", "half_rays", "coarse"]
    assert full["times_as_fast"] == 1
    assert full["side_mse"] > 0
    assert half["input_mse"] != full["input_mse"], "the first of the two steps saw another picture"


def test_the_recorded_images_are_made_of_the_recorded_stages():
    found = json.loads((RESULTS / "inversion-cpu.json").read_text())
    for model in {row["model"] for row in found["methods"]}:
        stages, methods = (
            [row for row in found[name] if row["model"] == model] for name in ("stages", "methods")
        )
        known = inversion.LARGE if model == "ffhq512" else tuple(inversion.METHODS)
        assert methods == inversion.method_rows(stages, known)


def test_tables_show_short_numbers_and_a_dash_for_none(capsys):
    inversion.show("a table", [{"method": "w", "seconds": 1234.5, "paper": None, "ratio": 0.12345}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a table"
    assert lines[3].split() == ["w", "1234", "-", "0.123"]
