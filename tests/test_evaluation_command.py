"""`python -m lib.evaluation`: what a plan says is computed, and the whole of it is recorded."""

import dataclasses
import json

import pandas as pd
import pytest
import torch

from lib import paths
from lib.cameras import orbit
from lib.datasets import Scene, View
from lib.evaluation import (
    METHODS,
    Method,
    PlanError,
    evaluate,
    inversion_cache,
    read_plan,
    read_table,
    recorded_table,
    results,
)
from lib.evaluation import __main__ as command
from lib.evaluation.results import mean_drift, nested_means
from lib.runs import SCALES, records
from tests import tiny_scenes
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import tiny_scene

PLAN = """
quick:
  generator: tiny
  scenes: {one: 2, other: 1}
  metrics: [mse, psnr]
  methods:
    first: {settings: {head_seed: 3}}
    second: {start: first}
"""


@pytest.fixture
def methods(monkeypatch):
    for name in ("first", "second"):
        monkeypatch.setitem(METHODS, name, Method(name, tiny_scenes.guess))


@pytest.fixture
def plan_file(tmp_path, methods):
    """Writes a plan, some text of it replaced."""

    def write(old="", new=""):
        assert old in PLAN
        path = tmp_path / "evaluation.yaml"
        path.write_text(PLAN.replace(old, new))
        return path

    return write


@pytest.fixture
def repository(tmp_path, monkeypatch, plan_file):
    """A repository with the plan above, and with tiny scenes."""
    plan, generator = plan_file(), tiny_generator()
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(command, "RUNS", tmp_path)
    monkeypatch.setattr(records, "RUNS", tmp_path)
    monkeypatch.setattr(command, "read_plan", lambda scale: read_plan(scale, plan))
    monkeypatch.setattr(command, "load_generator", lambda name, device: generator)
    monkeypatch.setattr(command, "evaluate", without_a_name)
    monkeypatch.setattr(
        command, "scenes", lambda kind, n, *_: [tiny_scene(generator, i) for i in seeds(kind, n)]
    )
    return tmp_path


def without_a_name(*arguments, base, **options):
    """The tiny generator has none under which it could be loaded."""
    return evaluate(*arguments, **options)


def seeds(kind, n):
    return range(n) if kind == "one" else range(100, 100 + n)


# ---- plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "paper"])
def test_committed_plans_name_what_exists(scale):
    plan = read_plan(scale)
    assert plan.scenes.keys() <= {"samples", "painted", "turned", "heads"}
    assert list(plan.methods) == [method.name for method in plan.methods.values()]


def test_a_plan_sets_methods_and_what_they_start_from(plan_file):
    plan = read_plan("quick", plan_file())
    assert plan.methods["first"].settings == {"head_seed": 3}
    assert plan.methods["second"].start == plan.methods["first"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quick:", "full:", "no plan at scale quick; it has full"),
        ("generator: tiny", "generators: tiny", "unknown key generators; key generator is missing"),
        ("second: {start", "third: {start", "no method is called .third.; there are: "),
        ("start: first", "begin: first", "method second has no begin; it has settings and start"),
        ("start: first", "start: none", "starts from none, which is not among the methods"),
        ("{settings: {head_seed: 3}}", "{start: second}", "starts from itself: first <- second <- first"),
        ("{head_seed: 3}", "{head_seed: .nan}", "plain values"),
        ("[mse, psnr]", "[mse, pnsr]", "no metric is called pnsr"),
    ],
)
def test_mistakes_in_a_plan_are_named(plan_file, old, new, message):
    with pytest.raises(PlanError, match=message):
        read_plan("quick", plan_file(old, new))


def test_part_of_a_plan(plan_file):
    plan = read_plan("quick", plan_file())
    part = plan.only(methods=["second"], scenes=["other"], metrics=["mae"], n=7)
    assert (list(part.methods), part.scenes, part.metrics) == (["second"], {"other": 7}, ("mae",))
    assert part.methods["second"].start.name == "first"
    assert plan.only() == plan
    with pytest.raises(PlanError, match="no method third; it has first, second"):
        plan.only(methods=["third"])


# ---- the command ------------------------------------------------------------------------------------------


def test_whole_plan_is_recorded(repository, capsys):
    assert command.main([]) == 0
    table = read_table(repository / "results" / "evaluation-quick.parquet")
    assert len(table) == 2 * 3 * 2 * 2
    pd.testing.assert_frame_equal(recorded_table("quick"), table)
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    assert record["run_id"] == "evaluation-quick"
    assert record["extra"]["plan"]["methods"]["second"]["start"]["name"] == "first"
    mean = table.query("method == 'second' and metric == 'mse' and is_input")["value"].mean()
    assert record["metrics"]["tiny"]["second"]["input"]["mse"]["mean"] == pytest.approx(mean, rel=1e-4)
    assert {"commit", "versions", "device", "figures"} <= record.keys()
    assert "second" in capsys.readouterr().out


def test_part_of_a_plan_is_not_recorded(repository, tmp_path):
    arguments = ["--methods", "first", "--scenes", "one", "--n", "1", "--metrics", "mse"]
    assert command.main([*arguments, "--out", str(tmp_path / "part.parquet")]) == 0
    assert len(read_table(tmp_path / "part.parquet")) == 2
    assert not (repository / "results").exists()


def test_inversions_alone(repository, monkeypatch, tmp_path):
    assert command.main(["--invert-only", "--out", str(tmp_path / "none.parquet")]) == 0
    assert read_table(tmp_path / "none.parquet").empty
    assert len(list((tmp_path / "cache" / "inversions").glob("*.safetensors"))) == 6
    monkeypatch.setattr(inversion_cache, "_computed", None)  # from here on nothing can be inverted
    assert command.main([]) == 0
    assert recorded_table("quick")["value"].notna().all()


def failing_once(generator, target, camera, *, seed, progress, initial):
    """Fails on the picture of the first scene."""
    if torch.equal(target, tiny_scene(generator, 0).input.image):
        raise RuntimeError("no head in this picture")
    return initial


@pytest.fixture
def second(repository, monkeypatch):
    """Sets the function of the plan's second method."""

    def put(invert):
        monkeypatch.setitem(METHODS, "second", Method("second", invert))
        plan = read_plan("quick", repository / "evaluation.yaml")
        monkeypatch.setattr(command, "read_plan", lambda scale: plan)

    return put


def test_failures_are_reported_and_recorded(repository, second, capsys):
    second(failing_once)
    assert command.main([]) == 0
    assert "second on tiny-0: RuntimeError: no head in this picture" in capsys.readouterr().out
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    found = record["metrics"]["tiny"]["second"]["input"]["mse"]
    assert (found["n"], found["missing"]) == (2, 1)
    assert found["mean"] > 0
    assert found["low"] is None


def test_a_method_that_fails_everywhere_is_not_recorded(repository, second, capsys):
    second(tiny_scenes.without_end)
    assert command.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: nothing is recorded, as method second failed everywhere: FloatingPointError"
    )
    assert not (repository / "results").exists()


def test_a_package_that_is_missing_is_named(repository, monkeypatch, capsys):
    def scenes(*_):
        raise ModuleNotFoundError("heads take mitsuba: pip install it")

    monkeypatch.setattr(command, "scenes", scenes)
    assert command.main([]) == 1
    assert capsys.readouterr().err == "error: heads take mitsuba: pip install it\n"


def wall(yaw, colour):
    """The plane z = 0, of one grey."""
    camera = orbit(yaw, 0.0)
    origins, directions = camera.rays(16)
    depth = (-origins[..., 2] / directions[..., 2]).reshape(1, 1, 16, 16)
    everywhere = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    return View(torch.full((1, 3, 16, 16), colour), camera, depth, mask=everywhere)


def walls(colour, kind="turned"):
    """A wall that is black from the front and of another grey from the side."""
    views = {"yaw+0.0": wall(0.0, 0.0), "yaw+0.3": wall(0.3, colour)}
    return Scene(f"wall {colour}", "yaw+0.0", views, extras={"kind": kind})


def test_drift_is_the_mean_over_turned_scenes():
    found = mean_drift([walls(0.1), walls(0.3), walls(0.9, kind="heads")])
    assert found.keys() == {"yaw+0.3"}
    assert found["yaw+0.3"]["mse"] == pytest.approx((0.1**2 + 0.3**2) / 2, abs=1e-5)
    assert found["yaw+0.3"]["turn"] == pytest.approx(0.3, abs=1e-5)
    assert mean_drift([walls(0.9, kind="heads")]) == {}
    apart = dataclasses.replace(
        walls(0.1), views={"yaw+0.0": wall(0.0, 0.0), "yaw+0.3": unseen(wall(0.3, 0.0))}
    )
    assert mean_drift([apart])["yaw+0.3"]["mse"] is None


def unseen(view):
    return dataclasses.replace(view, mask=~view.mask)


def test_drift_of_the_scenes_is_recorded(repository, monkeypatch):
    monkeypatch.setattr(results, "mean_drift", lambda scenes: {"scenes": [scene.name for scene in scenes]})
    assert command.main([]) == 0
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    assert record["extra"]["turned_drift"] == {"scenes": ["tiny-0", "tiny-1", "tiny-100"]}


@pytest.mark.parametrize("arguments", [["--methods", "third"], ["--metrics", "msse"], ["--jobs", "0"]])
def test_mistakes_end_with_a_line_and_no_trace(repository, capsys, arguments):
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_means_say_what_an_inversion_costs(methods, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    generator = tiny_generator()
    scenes = [tiny_scene(generator, seed) for seed in (1, 2)]
    table = evaluate([METHODS["first"]], scenes, generator, folder=tmp_path, metrics=["mse"])
    means = nested_means(table.assign(seconds=2.0, peak_memory_mb=torch.arange(4.0).numpy()))
    assert means["tiny"]["first"]["cost"] == {"seconds": 2.0, "peak_memory_mb": 2.0}
