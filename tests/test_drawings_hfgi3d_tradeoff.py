"""A fit seen on its way: heads are those of their step, numbers those of their heads, and drawings show both."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.datasets import Scene, View
from lib.drawings.hfgi3d_tradeoff import (
    ALL_MEASURES,
    COLUMNS,
    changes_with_length,
    curves_over_steps,
    density_changes,
    detail,
    detail_error,
    detail_share,
    details_shown,
    errors_over_steps,
    halvings,
    heads_over_steps,
    means_over_steps,
    planned_run,
    run_of,
    side_view,
    trade_off,
    with_settings,
)
from lib.evaluation import MEASURES, Comparison, EvaluationPlan, Method, inversion_key
from lib.evaluation.plans import Input, PlannedMethod
from lib.figures import method_colour, to_picture
from lib.inversion import Inversion
from lib.inversion.optimisation import State
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import calls, head, tiny_scene

SIDE = "yaw+0.3"


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def scene(generator):
    return tiny_scene(generator)


# -------------------------------------------------------------------- heads over steps
def walk(
    generator, target, camera, *, seed, progress, steps, callback, checkpoints, log, initial=None, until=None
):
    """A fit that adds 1 to the code and to a weight in every step, and notes that it was asked."""
    with Path(log).open("a") as file:
        file.write("called\n")
    (checkpoints.folder / "left").mkdir(parents=True)
    code = torch.zeros(1, generator.n_layers, generator.w_dim) if initial is None else initial.w_plus.clone()
    tuned = tiny_generator()
    taken = steps if until is None else min(until, steps)
    for step in range(taken):
        callback(step, State(code, tuned, target, {}))
        code += 1
        tuned.decoder.net[0].bias.add_(1)
    return Inversion(code, tuned, camera, extras={"steps_taken": taken})


def begun(generator, target, camera, *, seed, progress):
    """A code of tens."""
    return Inversion(torch.full((1, generator.n_layers, generator.w_dim), 10.0), generator, camera)


@pytest.fixture
def run(generator, scene, tmp_path):
    """A run of `walk` in a cache of its own."""

    def run(kept, start=None, **settings):
        settings = {"log": str(tmp_path / "log"), "steps": 99} | settings
        method = Method("walk", walk, settings, start)
        view = scene.input
        return run_of(method, generator, view.image, view.camera, kept, folder=tmp_path / "runs")

    return run


def test_steps_are_halved_from_the_last_one_down():
    assert halvings(1332, 10) == [0, 10, 21, 42, 83, 166, 333, 666, 1332]
    assert halvings(4, 1) == [0, 1, 2, 4]
    assert halvings(5, 5) == [0, 5]


@pytest.mark.parametrize("steps, least", [(4, 0), (4, 5)])
def test_steps_cannot_be_halved_to_nothing(steps, least):
    with pytest.raises(ValueError, match="halved down to 1"):
        halvings(steps, least)


def test_kept_heads_are_those_after_so_many_steps(run, generator):
    found = run([5, 0, 2])
    assert list(found) == [0, 2, 5]
    bias = generator.decoder.net[0].bias
    for step, seen in found.items():
        assert torch.equal(seen.w_plus, torch.full_like(seen.w_plus, step))
        assert torch.allclose(seen.generator.decoder.net[0].bias, bias + step), "each has its own weights"


def test_a_run_is_computed_once_and_leaves_no_checkpoints(run, tmp_path):
    run([0, 2]), run([2, 0])
    assert calls(tmp_path / "log") == 1
    run([0, 3])
    assert calls(tmp_path / "log") == 2, "other heads are asked for"
    assert not list((tmp_path / "runs").rglob("left"))


def test_a_run_begins_where_the_method_does(run, monkeypatch, tmp_path):
    monkeypatch.setattr("lib.paths.CACHE", tmp_path)
    found = run([0, 1], Method("begun", begun))
    assert [seen.w_plus.mean().item() for seen in found.values()] == [10.0, 11.0]


def test_a_run_that_stops_before_its_last_step_says_so(run):
    with pytest.raises(RuntimeError, match="stopped after 3 of 5"):
        run([0, 5], until=3)


@pytest.mark.parametrize("kept", [[], [0], [-1, 4]])
def test_kept_steps_are_some(run, kept):
    with pytest.raises(ValueError, match="numbers of steps"):
        run(kept)


def test_settings_of_one_method_are_replaced():
    others = {
        "a": PlannedMethod(Method("a", begun, {"x": 1}), n=3),
        "b": PlannedMethod(Method("b", begun, {"x": 2})),
    }
    plan = EvaluationPlan("portraits64", (), others)
    changed = with_settings(plan, "a", x=5, y=6)
    assert changed.methods["a"].method.settings == {"x": 5, "y": 6}
    assert changed.methods["a"].n == 3
    assert changed.methods["b"] == others["b"]
    assert plan.methods["a"].method.settings == {"x": 1}, "the plan itself stays"


def test_a_planned_run_goes_on_with_what_the_evaluation_has(generator, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.paths.CACHE", tmp_path)
    given = Input(0, "photos", 0)
    methods = {
        name: PlannedMethod(Method(name, walk, {"log": str(tmp_path / "log"), "steps": steps}))
        for name, steps in (("walk", 9), ("walk-long", 6), ("walk-longest", 7))
    }
    plan = EvaluationPlan(None, (given,), methods)  # files are complete in themselves
    (tmp_path / "inversions").mkdir()
    ended = Inversion(
        torch.full((1, generator.n_layers, generator.w_dim), 6.0), generator, scene.input.camera
    )
    view = scene.input
    key = inversion_key(methods["walk-long"].method, generator, view.image, view.camera, plan.seed)
    ended.save(tmp_path / "inversions" / f"{key}.safetensors")
    found = planned_run(plan, given, "walk", [0, 2], generator, scene, ["walk-long", "walk-longest"])
    assert {step: head.w_plus.mean().item() for step, head in found.items()} == {0: 0.0, 2: 2.0, 6: 6.0}


# -------------------------------------------------------------------- fine detail
def seen_with(image, target, mask=None):
    known = torch.ones_like(target[:, :1], dtype=torch.bool)
    return SimpleNamespace(image=image, target=target, known=known, view=SimpleNamespace(mask=mask))


@pytest.fixture(scope="module")
def textured():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5


def test_detail_is_what_a_gaussian_of_one_pixel_in_64_takes_away(textured):
    assert np.abs(detail(torch.full((1, 3, 32, 32), 0.7))).max() < 1e-6
    smooth = gaussian_filter(textured[0].numpy(), (0, 1, 1), mode="nearest")
    assert np.allclose(detail(textured) + smooth, textured[0], atol=1e-6)


def test_the_truth_itself_has_its_detail(textured):
    seen = seen_with(textured, textured)
    assert (detail_share(seen), detail_error(seen)) == (1.0, 0.0)


def test_none_is_a_share_of_zero_and_an_error_of_one(textured):
    seen = seen_with(torch.zeros_like(textured), textured)
    assert (detail_share(seen), detail_error(seen)) == (0.0, 1.0)


def test_noise_of_as_much_energy_doubles_the_share_and_errs_by_one(textured):
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    seen = seen_with(textured + noise, textured)
    assert detail_share(seen) == pytest.approx(2.0, rel=0.05)
    assert detail_error(seen) == pytest.approx(1.0, rel=0.05)


def test_detail_beside_the_head_does_not_count(textured):
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :32] = True
    spoiled = textured.clone()
    spoiled[..., 40:] = 1.0  # beyond the reach of the Gaussian
    assert detail_error(seen_with(spoiled, textured, mask)) == 0.0
    assert detail_error(seen_with(spoiled, textured)) > 0.1


# -------------------------------------------------------------------- errors over steps
@pytest.fixture(scope="module")
def runs(generator, scene):
    """Two runs of three and of two heads."""
    camera = scene.input.camera
    return {
        "hfgi3d": {0: head(generator, 2, camera), 4: head(generator, 3, camera)},
        "pti": {0: head(generator, 4, camera), 2: head(generator, 5, camera), 4: head(generator, 6, camera)},
    }


@pytest.fixture(scope="module")
def asked(scene):
    return {"mse": [scene.input_name, SIDE], "mean_depth_error": [SIDE]}


def test_numbers_are_those_of_the_heads(runs, scene, asked, tmp_path):
    table = errors_over_steps(runs, scene, asked, folder=tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 5 * 3
    for row in table.itertuples():
        seen = Comparison(runs[row.method][row.step].still(), scene, row.view)
        assert row.value == pytest.approx(MEASURES[row.metric].of(seen))
        assert row.is_input == (row.view == scene.input_name)


def test_numbers_are_kept_by_what_they_depend_on(runs, scene, asked, tmp_path):
    one = {"pti": {0: runs["pti"][0]}}
    first = errors_over_steps(one, scene, asked, folder=tmp_path)
    for file in tmp_path.iterdir():
        file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), 7.0)))
    again = errors_over_steps(one, scene, asked, folder=tmp_path)
    assert set(again["value"]) == {7.0}, "files are read, and nothing is measured again"
    other = errors_over_steps(one, scene, {"mse": [SIDE]}, folder=tmp_path)
    of_side = first[(first["metric"] == "mse") & (first["view"] == SIDE)]
    assert np.allclose(other["value"], of_side["value"]), "other views are measured"


def test_the_side_view_is_the_furthest_within_reach(generator):
    views = {
        f"yaw{yaw:+.1f}": View(torch.zeros(1, 3, 16, 16), orbit(yaw, 0.0))
        for yaw in (0.6, -0.6, -0.3, 0.0, 0.3)
    }
    views["ellipse00"] = View(torch.zeros(1, 3, 16, 16), orbit(0.62, 0.1))
    assert side_view(Scene("a", "yaw+0.6", views)) == "yaw+0.0"
    assert side_view(Scene("a", "yaw+0.0", views)) == "yaw+0.6", "the first of two"
    assert side_view(Scene("a", "yaw-0.3", views), within=0.4) == "yaw-0.6"


def test_views_beside_the_input_are_averaged():
    rows = [
        ("pti", "a", "k", 3, view, view == "in", "mse", value)
        for view, value in (("in", 9), ("x", 1), ("y", 3))
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    assert means_over_steps(table, "mse", "novel")["value"].tolist() == [2.0]
    assert means_over_steps(table, "mse", "input")["value"].tolist() == [9.0]
    with pytest.raises(ValueError, match="no lpips"):
        means_over_steps(table, "lpips", "input")


def test_measures_of_detail_join_those_of_tables():
    assert {"psnr", "detail_share", "detail_error"} <= set(ALL_MEASURES)


# -------------------------------------------------------------------- pictures
def by_rows(picture):
    """Pictures by row and column of their places, None in gaps."""
    places = {
        (-round(a.get_position().y0, 3), round(a.get_position().x0, 3)): a.images[0] for a in picture.axes
    }
    ys, xs = (sorted({place[i] for place in places}) for i in (0, 1))
    return [[np.asarray(places[y, x].get_array()) if (y, x) in places else None for x in xs] for y in ys]


@pytest.fixture
def lpips_without_network(monkeypatch):
    """LPIPS asks a network that has to be fetched; what stands under a picture is another measure here."""
    monkeypatch.setitem(MEASURES, "lpips", MEASURES["mae"])


def test_heads_stand_in_columns_of_their_steps(runs, scene, lpips_without_network):
    picture = heads_over_steps(runs, scene, SIDE, with_depth=True)
    rows = by_rows(picture)
    assert [len(row) for row in rows] == [4] * 6, "two methods: input, side, depth; three steps and the truth"
    for i, name in enumerate(("pti", "hfgi3d")):  # in the order of all figures
        for j, step in enumerate((0, 2, 4)):
            for k, view in enumerate((scene.input_name, SIDE)):
                shown = rows[3 * i + k][j]
                if step not in runs[name]:
                    assert shown is None
                    continue
                seen = runs[name][step].render(scene.views[view].camera).image
                assert np.array_equal(shown, to_picture(seen.clamp(-1, 1)))
        assert np.array_equal(rows[3 * i + 1][3], to_picture(scene.views[SIDE].image))
    texts = {text.get_text() for text in picture.texts}
    seen = Comparison(runs["pti"][2].still(), scene, scene.input_name)
    assert {f"{MEASURES['psnr'].of(seen):.1f} dB", "step 2", "truth", "yaw +0.30"} <= texts
    assert_nothing_is_cropped(picture)


def test_chosen_steps_alone_are_shown(runs, scene, lpips_without_network):
    rows = by_rows(heads_over_steps(runs, scene, SIDE, [4]))
    assert [len(row) for row in rows] == [2] * 4


def test_detail_stands_below_its_picture(runs, scene):
    heads = {"hfgi3d": runs["hfgi3d"][4], "pti": runs["pti"][4]}
    picture = details_shown(heads, scene, SIDE, gain=2.0)
    above, below = by_rows(picture)
    image = runs["pti"][4].render(scene.views[SIDE].camera).image.clamp(-1, 1)
    assert np.array_equal(above[0], to_picture(image))
    assert np.array_equal(above[2], to_picture(scene.views[SIDE].image))
    expected = (2 * detail(image).transpose(1, 2, 0) + 1).clip(0, 2) * 127.5
    assert np.abs(below[0] - expected).max() <= 0.5
    assert_nothing_is_cropped(picture)


def test_changes_of_density_share_one_scale():
    small, large = torch.full((8, 8), -0.1), torch.full((8, 8), 2.0)
    surface = torch.linspace(-1, 1, 8).expand(8, 8)
    picture = density_changes({"hfgi3d": large, "pti": small}, surface, 0.0, 0.5)
    (first, *_), (second, *_) = (axes.images for axes in picture.axes[:2])
    assert np.array_equal(first.get_array(), small), "methods stand in the order of all figures"
    assert first.get_clim() == second.get_clim() == (-2.0, 2.0)
    (line,) = (path for path in picture.axes[0].collections[0].get_paths())
    assert np.allclose(line.vertices[:, 0], 0.0), "the surface is where the density has its level"
    assert_nothing_is_cropped(picture)


# -------------------------------------------------------------------- curves
@pytest.fixture(scope="module")
def table():
    """Two methods on two scenes: psnr of the input is 10 + step, lpips of the side 1 / (1 + step), more for PTI."""
    rows = []
    for method, more in (("pti", 0.5), ("hfgi3d", 0.0)):
        for scene in ("a", "b"):
            for step in (0, 5, 10, 20, 40):
                rows.append((method, scene, "k", step, "in", True, "psnr", 10 + step + more))
                rows.append((method, scene, "k", step, "out", False, "lpips", 1 / (1 + step) + more))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_curves_have_the_colour_of_their_method_and_the_style_of_their_scene(table):
    picture = curves_over_steps(table, [("psnr", "input"), ("lpips", "novel")], level={"lpips": 0.25})
    first, second = picture.axes
    drawn = {(line.get_color(), line.get_linestyle()): line.get_xydata().tolist() for line in first.lines}
    steps = (0, 5, 10, 20, 40)
    assert drawn[method_colour("pti"), "--"] == [[step, 10.5 + step] for step in steps]
    assert drawn[method_colour("hfgi3d"), "-"] == [[step, 10.0 + step] for step in steps]
    assert len(first.lines) == 4
    assert any(list(line.get_ydata()) == [0.25, 0.25] for line in second.lines), "the level goes across"
    assert {"PTI", "HFGI3D", "a", "b"} == {text.get_text() for text in picture.legends[0].get_texts()}
    assert_nothing_is_cropped(picture)


def test_relative_curves_begin_at_one(table):
    (axes,) = curves_over_steps(table, [("psnr", "input")], relative=["psnr"]).axes
    pti = next(line for line in axes.lines if line.get_color() == method_colour("pti"))
    assert np.allclose(pti.get_ydata(), (10.5 + np.array([0, 5, 10, 20, 40])) / 10.5)
    assert "share of the first's" in axes.get_title()


def test_trade_off_goes_from_step_to_step(table):
    picture = trade_off(table, ("psnr", "input"), ("lpips", "novel"), noted=[40])
    assert [axes.get_title() for axes in picture.axes] == ["a", "b"]
    ways = [line for line in picture.axes[0].lines if len(line.get_xdata()) > 1]
    assert [line.get_color() for line in ways] == [method_colour("pti"), method_colour("hfgi3d")]
    assert np.allclose(ways[0].get_xydata()[-1], [50.5, 1 / 41 + 0.5])
    assert [text.get_text() for text in picture.axes[0].texts] == ["40", "40"]
    assert_nothing_is_cropped(picture)


def lengths_table(scenes):
    """psnr of the input: the scene's own number, and 1, 2, 3 for short, normal and long; hfgi3d gains twice as much."""
    rows = []
    for number, scene in enumerate(scenes):
        for family, gain in (("pti", 1.0), ("hfgi3d", 2.0)):
            for length, name in enumerate((f"{family}-short", family, f"{family}-long")):
                wobble = 0.1 * number * length
                rows.append((name, scene, "in", True, "psnr", 100.0 * number + gain * (1 + length) + wobble))
    return pd.DataFrame(rows, columns=["method", "scene", "view", "is_input", "metric", "value"])


FAMILIES = {
    "pti": {0.25: "pti-short", 1: "pti", 4: "pti-long"},
    "hfgi3d": {0.25: "hfgi3d-short", 1: "hfgi3d", 4: "hfgi3d-long"},
}


def test_lengths_are_compared_within_scenes():
    table = lengths_table("abc")
    lacking = table[~((table["scene"] == "c") & (table["method"] == "pti-long"))]
    picture = changes_with_length(lacking, [("psnr", "input")], FAMILIES)
    (axes,) = picture.axes
    assert "n 2" in axes.get_title(), "a scene that lacks a length does not count"
    pti, hfgi3d = (line for line in axes.lines if len(line.get_xdata()) == 3)
    assert np.allclose(pti.get_ydata(), [0.0, 1.05, 2.1])
    assert np.allclose(hfgi3d.get_ydata(), [0.0, 2.05, 4.1])
    assert np.allclose(pti.get_xdata(), [-2, 0, 2])
    assert not axes.collections, "two scenes have no interval"
    assert_nothing_is_cropped(picture)


def test_three_scenes_have_intervals_about_their_mean():
    (axes,) = changes_with_length(lengths_table("abc"), [("psnr", "input")], FAMILIES).axes
    segments = [bar.get_segments()[0] for bar in axes.collections]
    assert len(segments) == 4, "two lengths of two methods differ from the first"
    (_, low), (_, high) = segments[0]
    assert low <= 1.1 <= high


def test_lengths_need_scenes_that_have_all():
    with pytest.raises(ValueError, match="all lengths"):
        changes_with_length(lengths_table("a").query("method != 'pti'"), [("psnr", "input")], FAMILIES)
