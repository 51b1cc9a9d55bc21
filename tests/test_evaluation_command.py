"""`python -m lib.evaluation`: what a plan says is computed, and the whole of it is recorded."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lib import paths
from lib.cameras import orbit
from lib.datasets import Scene, View, drift
from lib.evaluation import (
    METHODS,
    Method,
    PlanError,
    evaluate,
    inversion_cache,
    plans,
    progress,
    read_plan,
    read_table,
    recorded_table,
)
from lib.evaluation import __main__ as command
from lib.evaluation.plans import Input, listed
from lib.evaluation.protocol import Trial
from lib.evaluation.results import mean_drift, nested_means
from lib.runs import SCALES, records
from tests import tiny_scenes
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import tiny_scene

PLAN = """
quick:
  generator: tiny
  inputs:
    - {kinds: [samples, heads], n: 3}
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
    monkeypatch.setattr(progress, "Trial", without_a_name)
    monkeypatch.setattr(Input, "scene", tiny_input)
    monkeypatch.setattr(Input, "recipe", lambda given, *_: given.name)
    return tmp_path


def without_a_name(*, base, **fields):
    """The tiny generator has none under which it could be loaded."""
    return Trial(base=None, **fields)


def tiny_input(given, generator, seed):
    return tiny_scene(generator, given.index if given.kind == "samples" else 100 + given.index)


# ---- plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "paper"])
def test_committed_plans_name_what_exists(scale):
    plan = read_plan(scale)
    assert list(plan.methods) == [planned.method.name for planned in plan.methods.values()]
    names = [given.name for given in plan.inputs]
    assert len(set(names)) == len(names)


def test_a_plan_sets_methods_and_what_they_start_from(plan_file):
    plan = read_plan("quick", plan_file())
    assert plan.methods["first"].method.settings == {"head_seed": 3}
    assert plan.methods["second"].method.start == plan.methods["first"].method


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quick:", "full:", "no plan at scale quick; it has full"),
        ("generator: tiny", "generators: tiny", "unknown key generators; key generator is missing"),
        ("second: {start", "third: {start", "no method is called .third.; there are: "),
        ("start: first", "begin: first", "method second has no begin; it has settings, start"),
        ("start: first", "start: none", "starts from none, which is not among the methods"),
        ("{settings: {head_seed: 3}}", "{start: second}", "starts from itself: first <- second <- first"),
        ("{head_seed: 3}", "{head_seed: .nan}", "plain values"),
        ("[mse, psnr]", "[mse, pnsr]", "no metric is called pnsr"),
        ("[samples, heads]", "[samples, head]", "a list of samples, .*, photos; got .*'head'"),
        ("[samples, heads]", "samples", "a list of samples"),
        ("n: 3}", "n: 0}", "1 input or more"),
        ("n: 3}", "m: 3}", "a block of inputs is"),
        ("n: 3}", "n: 3, yaws: []}", "some yaw"),
        ("{start: first}", "{start: first, fraction: a third}", "fraction of its paper's steps"),
        ("{start: first}", "{start: first, fraction: 0}", "fraction of its paper's steps"),
        ("{start: first}", "{start: first, kinds: [head]}", "for kinds head, which there are not"),
    ],
)
def test_mistakes_in_a_plan_are_named(plan_file, old, new, message):
    with pytest.raises(PlanError, match=message):
        read_plan("quick", plan_file(old, new))


def test_part_of_a_plan(plan_file):
    plan = read_plan("quick", plan_file())
    part = plan.only(methods=["second"], scenes=["samples"], metrics=["mae"], n=2)
    assert (list(part.methods), part.metrics) == (["second"], ("mae",))
    assert [(given.name, given.place) for given in part.inputs] == [("samples-00", 0), ("samples-01", 2)]
    assert part.methods["second"].method.start.name == "first"
    assert plan.only() == plan
    with pytest.raises(PlanError, match="no method third; it has first, second"):
        plan.only(methods=["third"])
    with pytest.raises(PlanError, match="no kind of scenes turned; it has samples, heads"):
        plan.only(scenes=["turned"])
    with pytest.raises(PlanError, match="has 1 inputs of these kinds; n = 2"):
        plan.only(scenes=["heads"], n=2)


def test_kinds_and_yaws_of_a_list_go_round_and_photos_have_no_yaw():
    found = listed(
        [{"kinds": ["painted", "heads"], "n": 5, "yaws": [0.0, 0.6, -0.6]}, {"kinds": ["photos"], "n": 2}]
    )
    assert [given.place for given in found] == list(range(7))
    assert [given.name for given in found] == [
        "painted-00",
        "heads-00",
        "painted-01",
        "heads-01",
        "painted-02",
        "photos-00",
        "photos-01",
    ]
    assert [given.input_yaw for given in found] == [0.0, 0.6, -0.6, 0.0, 0.6, None, None]


def test_a_longer_list_begins_with_the_shorter_one():
    def block(n):
        return [{"kinds": ["painted", "turned", "heads"], "n": n, "yaws": [0.0, 0.6, -0.6, 0.3]}]

    assert listed(block(11))[:4] == listed(block(4))


@pytest.mark.parametrize("n", [12, 24, 36])
def test_every_kind_of_the_full_list_is_seen_from_the_front_and_evenly_from_both_sides(n):
    blocks = yaml.safe_load(plans.PLANS.read_text())["full"]["inputs"]
    (block,) = [block for block in blocks if len(block["kinds"]) > 1]
    found = listed([block | {"n": n}])
    assert {abs(given.input_yaw) for given in found[:12]} == {0.0, 0.6}
    for kind in block["kinds"]:
        yaws = [given.input_yaw for given in found if given.kind == kind]
        assert len(yaws) == n // len(block["kinds"])
        assert sum(yaws) == pytest.approx(0.0)
        assert {0.0, 0.6, -0.6} <= set(yaws)


def test_a_method_may_be_for_few_inputs_only(plan_file):
    plan = read_plan(
        "quick", plan_file("{start: first}", "{start: first, n: 2, kinds: [samples], fraction: 0.3}")
    )
    assert [(given.name, name) for given, name in plan.pairs()] == [
        ("samples-00", "first"),
        ("samples-00", "second"),
        ("heads-00", "first"),
        ("samples-01", "first"),
    ]
    part = plan.only(scenes=["samples"])  # places are those of the whole list
    assert [name for given, name in part.pairs()] == ["first", "second", "first"]
    assert plan.fractions == {"first": None, "second": 0.3}
    described = plan.described()["methods"]["second"]
    assert (described["n"], described["kinds"], described["fraction"]) == (2, ["samples"], 0.3)
    assert "n" not in plan.described()["methods"]["first"]


def test_an_input_is_the_scene_that_it_says(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        plans, "scenes", lambda *given, **more: asked.update(given=given, **more) or ["scene"]
    )
    assert Input(5, "painted", 8, -0.6).scene("generator", 3) == "scene"
    assert asked == {
        "given": ("painted", 1, 3, "generator"),
        "first": 8,
        "input_yaw": -0.6,
        "what": plans.PAINT[8 % len(plans.PAINT)],
        "with_ellipse": False,
    }
    asked.clear()
    Input(5, "turned", 1, 0.3).scene("generator", 3)
    assert asked.keys() == {"given", "first", "input_yaw"}


def test_recipes_tell_inputs_apart_and_do_not_need_the_scene():
    generator = tiny_generator()
    given = [
        Input(0, "painted", 0, 0.0),
        Input(0, "painted", 1, 0.0),
        Input(0, "painted", 0, 0.6),
        Input(0, "heads", 0, 0.0),
        Input(0, "photos", 0),
        Input(0, "photos", 1),
    ]
    recipes = [one.recipe(generator, 0) for one in given]
    assert len(set(recipes)) == len(recipes)
    assert dataclasses.replace(given[0], place=7).recipe(generator, 0) == recipes[0]
    assert given[0].recipe(generator, 1) != recipes[0]


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
    arguments = ["--methods", "first", "--scenes", "samples", "--n", "1", "--metrics", "mse"]
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
    assert not list((repository / "results").glob("evaluation-quick.*"))


def test_a_package_that_is_missing_is_named(repository, monkeypatch, capsys):
    def scene(*_):
        raise ModuleNotFoundError("heads take mitsuba: pip install it")

    monkeypatch.setattr(Input, "scene", scene)
    assert command.main([]) == 1
    assert capsys.readouterr().err == "error: heads take mitsuba: pip install it\n"


# ---- going on ---------------------------------------------------------------------------------------------


def finished(repository):
    return sorted(path.name for path in (repository / "results" / "evaluation-quick").iterdir())


def test_a_part_with_the_plan_s_metrics_is_kept_for_the_whole(repository, monkeypatch, tmp_path):
    assert command.main(["--n", "2", "--methods", "first"]) == 0
    assert finished(repository) == ["heads-00.jsonl", "samples-00.jsonl"]
    assert not (repository / "results" / "evaluation-quick.parquet").exists()
    made = []
    monkeypatch.setattr(
        Input, "scene", lambda given, *rest: made.append(given.name) or tiny_input(given, *rest)
    )
    assert command.main(["--methods", "first"]) == 0
    assert made == ["samples-01"]


def test_a_machine_that_has_only_the_committed_files_computes_nothing(repository, monkeypatch, tmp_path):
    assert command.main([]) == 0
    table = recorded_table("quick")
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(Input, "scene", None)  # no scene is rendered, let alone inverted
    assert command.main([]) == 0
    pd.testing.assert_frame_equal(recorded_table("quick"), table)


def test_other_settings_are_computed_anew_and_take_the_place_of_the_old(repository, monkeypatch):
    assert command.main([]) == 0
    before, texts = recorded_table("quick"), lines_of(repository, "samples-00")
    plan = read_plan("quick", repository / "evaluation.yaml")
    first = plan.methods["first"]
    other = dataclasses.replace(first, method=dataclasses.replace(first.method, settings={"head_seed": 4}))
    monkeypatch.setattr(
        command,
        "read_plan",
        lambda scale: dataclasses.replace(plan, methods=dict(plan.methods) | {"first": other}),
    )
    assert command.main([]) == 0
    after = recorded_table("quick")
    by_method = {
        name: part["value"].equals(after.loc[part.index, "value"]) for name, part in before.groupby("method")
    }
    assert by_method == {"first": False, "second": True}
    assert len(after) == len(before)
    assert len(lines_of(repository, "samples-00")) == len(texts)


def lines_of(repository, name):
    return (repository / "results" / "evaluation-quick" / f"{name}.jsonl").read_text().splitlines()


def test_a_scene_with_another_recipe_begins_its_file_anew(repository, monkeypatch):
    assert command.main([]) == 0
    monkeypatch.setattr(Input, "recipe", lambda given, *_: f"new {given.name}")
    assert command.main(["--methods", "first"]) == 0
    about, *rest = map(json.loads, lines_of(repository, "samples-00"))
    assert about["recipe"] == "new samples-00"
    assert {line["method"] for line in rest} == {"first"}


def test_a_run_that_stops_leaves_how_the_list_begins(repository, monkeypatch):
    def stops(given, *rest):
        if given.place == 2:
            raise KeyboardInterrupt
        return tiny_input(given, *rest)

    monkeypatch.setattr(Input, "scene", stops)
    with pytest.raises(KeyboardInterrupt):
        command.main([])
    assert finished(repository) == ["heads-00.jsonl", "samples-00.jsonl"]
    assert command.main(["--record"]) == 0
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    assert record["extra"]["inputs"] == {"first": 2, "second": 2}
    monkeypatch.setattr(Input, "scene", tiny_input)
    assert command.main([]) == 0
    assert recorded_table("quick")["scene"].nunique() == 3


def test_nothing_is_recorded_where_nothing_is_finished(repository, capsys):
    assert command.main(["--record"]) == 1
    assert "nothing is finished" in capsys.readouterr().err


def test_numbers_of_the_files_are_those_of_evaluate(repository, tmp_path):
    assert command.main([]) == 0
    generator, plan = tiny_generator(), read_plan("quick", repository / "evaluation.yaml")
    scenes = [given.scene(generator, 0) for given in plan.inputs]
    methods = [planned.method for planned in plan.methods.values()]
    direct = evaluate(methods, scenes, generator, folder=tmp_path / "direct", metrics=plan.metrics)
    numbers = ["yaw", "value", "seconds", "peak_memory_mb"]
    recorded = recorded_table("quick")
    pd.testing.assert_frame_equal(recorded.drop(columns=numbers), direct.drop(columns=numbers))
    pd.testing.assert_frame_equal(recorded[numbers], direct[numbers], rtol=1e-6)


def test_fractions_of_the_steps_stand_in_the_table(repository, monkeypatch):
    plan = read_plan("quick", repository / "evaluation.yaml")
    told = dict(plan.methods) | {"first": dataclasses.replace(plan.methods["first"], fraction=0.25)}
    assert command.main([]) == 0
    assert recorded_table("quick")["fraction"].isna().all()
    monkeypatch.setattr(command, "read_plan", lambda scale: dataclasses.replace(plan, methods=told))
    monkeypatch.setattr(Input, "scene", None)  # to say it, nothing is computed again
    assert command.main([]) == 0
    by_method = (
        recorded_table("quick").groupby("method")["fraction"].agg(lambda of: of.unique().tolist()).to_dict()
    )
    assert by_method["first"] == [0.25]
    assert np.isnan(by_method["second"]).all()


def test_failures_are_done_again_on_demand(repository, second, monkeypatch):
    second(failing_once)
    assert command.main([]) == 0
    monkeypatch.setattr(Input, "scene", None)
    assert command.main([]) == 0  # not asked for
    made = []
    monkeypatch.setattr(
        Input, "scene", lambda given, *rest: made.append(given.name) or tiny_input(given, *rest)
    )
    assert command.main(["--retry"]) == 0
    assert made == ["samples-00"]


def test_a_damaged_file_is_named(repository, capsys):
    assert command.main([]) == 0
    path = repository / "results" / "evaluation-quick" / "samples-00.jsonl"
    path.write_text(path.read_text()[:-20])
    assert command.main([]) == 1
    assert "samples-00.jsonl is damaged" in capsys.readouterr().err


# ---- drift ------------------------------------------------------------------------------------------------


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


def test_drift_is_the_mean_over_scenes():
    found = mean_drift([drift(walls(0.1)), drift(walls(0.3))])
    assert found.keys() == {"yaw+0.3"}
    assert found["yaw+0.3"]["mse"] == pytest.approx((0.1**2 + 0.3**2) / 2, abs=1e-5)
    assert found["yaw+0.3"]["turn"] == pytest.approx(0.3, abs=1e-5)
    assert mean_drift([]) == {}
    apart = dataclasses.replace(
        walls(0.1), views={"yaw+0.0": wall(0.0, 0.0), "yaw+0.3": unseen(wall(0.3, 0.0))}
    )
    assert mean_drift([drift(apart)])["yaw+0.3"]["mse"] is None


def unseen(view):
    return dataclasses.replace(view, mask=~view.mask)


def test_drift_of_turned_scenes_is_recorded(repository, monkeypatch):
    monkeypatch.setattr(Input, "scene", lambda given, *_: walls(0.1 * (1 + given.place), "turned"))
    assert command.main([]) == 0
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    expected = mean_drift([drift(walls(0.1 * place)) for place in (1, 2, 3)])
    assert record["extra"]["turned_drift"]["yaw+0.3"] == pytest.approx(expected["yaw+0.3"], abs=1e-5)
    monkeypatch.setattr(Input, "scene", lambda given, *_: walls(0.1 * (1 + given.place), "heads"))
    monkeypatch.setattr(Input, "recipe", lambda given, *_: f"new {given.name}")
    assert command.main([]) == 0
    record = json.loads((repository / "results" / "evaluation-quick.json").read_text())
    assert record["extra"]["turned_drift"] == {}


@pytest.mark.parametrize(
    "arguments", [["--methods", "third"], ["--metrics", "msse"], ["--jobs", "0"], ["--n", "4"]]
)
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
