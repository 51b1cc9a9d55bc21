"""Drawings of wrong camera labels: which rows count, means at their places, pictures from the head's own camera."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.cameras import orbit, turned
from lib.datasets.scenes import Scene, View
from lib.drawings.posefree_robustness import (
    OWN_CAMERA,
    by_camera_error,
    degrees_between,
    over_camera_error,
    own_camera_rows,
    told_heads,
    told_names,
    told_wrongly,
)
from lib.evaluation.methods import METHODS
from lib.figures import method_colour

ERRORS = (0.0, 5.0, 10.0, 20.0)
VALUES = {"wplus": 1.0, "wplus-perturbed_5": 2.0, "wplus-perturbed_10": 3.0, "wplus-perturbed": 5.0}


@pytest.fixture
def table():
    """Three scenes with everything, and a fourth without the last row of W+; a value is that above plus 0.1 a scene."""
    return pd.DataFrame(
        [
            {
                "method": method,
                "scene": scene,
                "is_input": is_input,
                "metric": "lpips",
                "value": value + aside,
            }
            for place, scene in enumerate("abcd")
            for method, value in (VALUES | {"posefree": 4.0, "pti": 9.0}).items()
            if (scene, method) != ("d", "wplus-perturbed")
            for is_input, aside in ((True, 0.1 * place), (False, 0.1 * place + 1.0))
        ]
    )


def lines_in(axes, colour):
    return [line for line in axes.lines if line.get_color() == colour]


# -------------------------------------------------------------------- rows
def test_names_are_those_of_the_methods_with_their_errors():
    names = told_names(["wplus", "spi"])
    assert list(names.values()) == [(method, error) for method in ("wplus", "spi") for error in ERRORS]
    for name, (method, degrees) in names.items():
        assert METHODS[name].camera_error == pytest.approx(math.radians(degrees))
        assert METHODS[name].invert is METHODS[method].invert


def test_names_that_are_not_there_do_not_count():
    there = ["wplus", "wplus-perturbed", "pti", "spi-perturbed_5", "pose_opt", "pose_opt-perturbed_10"]
    assert told_wrongly(["pose_opt", "spi", "pti", "wplus"], there) == ["pose_opt", "wplus"]
    assert told_names(["wplus", "spi"], there) == {
        "wplus": ("wplus", 0.0),
        "wplus-perturbed": ("wplus", 20.0),
        "spi-perturbed_5": ("spi", 5.0),
    }


def test_rows_are_of_scenes_that_have_everything(table):
    rows = by_camera_error(table, told_names(["wplus"]), ["posefree"])
    assert set(rows["scene"]) == {"a", "b", "c"}
    found = rows[rows["is_input"]].groupby(["method", "camera_error"])["value"].mean()
    expected = dict(zip(ERRORS, VALUES.values(), strict=True))
    assert found["wplus"].to_dict() == pytest.approx({error: v + 0.1 for error, v in expected.items()})
    assert found["posefree"].to_dict() == pytest.approx({0.0: 4.1})


def test_no_common_scene_is_refused(table):
    with pytest.raises(ValueError, match=r"no scene of the table has all of wplus, .*posefree"):
        by_camera_error(table[table["scene"] == "d"], told_names(["wplus"]), ["posefree"])


# -------------------------------------------------------------------- cameras
@pytest.mark.parametrize("degrees", ERRORS[1:])
def test_angle_is_that_of_the_turn(degrees):
    camera = orbit(0.3, 0.0)
    assert degrees_between(camera, turned(camera, math.radians(degrees))) == pytest.approx(degrees, abs=1e-3)
    assert degrees_between(camera, camera) == pytest.approx(0.0, abs=1e-3)


def test_own_camera_stands_where_the_table_has_its_inputs(table):
    own = own_camera_rows("a", {"wplus": 0.0, "posefree": 3.0})
    rows = pd.concat([table[table["scene"] == "a"], own])
    found = by_camera_error(rows, told_names(["wplus"]), ["posefree"])
    found = found[found["metric"] == OWN_CAMERA]
    assert dict(zip(found["method"], found["value"], strict=True)) == {"wplus": 0.0, "posefree": 3.0}
    assert found["is_input"].all()


# -------------------------------------------------------------------- errors
def test_lines_go_through_the_means_and_what_needs_no_camera_is_level(table):
    rows = by_camera_error(table, told_names(["wplus"]), ["posefree"])
    picture = over_camera_error(rows, [("lpips", "input"), ("lpips", "novel")])
    for axes, more in zip(picture.axes, (0.0, 1.0), strict=False):
        (line,) = lines_in(axes, method_colour("wplus"))
        assert list(line.get_ydata()) == pytest.approx([v + 0.1 + more for v in VALUES.values()])
        assert np.diff(line.get_xdata()) == pytest.approx(np.diff(ERRORS))
        (level,) = lines_in(axes, method_colour("posefree"))
        assert list(level.get_ydata()) == pytest.approx([4.1 + more] * 2)
        assert "n 3" in axes.get_title()
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5", "10", "20"]
    assert [text.get_text() for text in picture.axes[2].get_legend().get_texts()] == [
        "W+",
        "Pose-free, asks for none",
    ]


def test_intervals_need_three_scenes(table):
    rows = by_camera_error(table, told_names(["wplus"]), ["posefree"])
    few = rows[rows["scene"] != "c"]

    def bars(which):
        axes = over_camera_error(which, [("lpips", "input")]).axes[0]
        paths = [path.vertices for part in axes.collections for path in part.get_paths()]
        return [path for path in paths if len(path) == 2 and np.isfinite(path).all()]

    assert len(bars(rows)) == len(ERRORS)
    assert not bars(few)


def test_a_metric_that_is_not_there_is_refused(table):
    rows = by_camera_error(table, told_names(["wplus"]), ["posefree"])
    with pytest.raises(ValueError, match="no psnr in input view"):
        over_camera_error(rows, [("psnr", "input")])


# -------------------------------------------------------------------- heads
class Beacon:
    """A head that shows the yaw from which it is looked at, as grey."""

    def __init__(self, camera):
        self.camera = camera
        self.w_plus = torch.zeros(1, 1, 1)

    def still(self):
        return self

    def render(self, camera):
        grey = torch.full((1, 3, 8, 8), camera.yaw.item())
        return type("Rendering", (), {"image": grey})


def test_heads_are_seen_from_as_far_as_the_views_truly_are():
    def view(yaw):
        return View(torch.full((1, 3, 8, 8), yaw), orbit(yaw, 0.0))

    scene = Scene("one", "front", {"front": view(0.0), "side": view(0.6)})
    photo = scene.input.camera
    told = {error: Beacon(turned(photo, math.radians(error))) for error in (0.0, 20.0)}
    picture = told_heads(scene, {"posefree": {0.0: Beacon(orbit(0.4, 0.0))}, "wplus": told}, "side")
    titles = [text.get_text() for text in picture.texts]
    assert titles[-4:] == ["photo, 0°", "20°", "yaw +0.60, 0°", "20°"]
    assert titles[:3] == ["W+", "Pose-free", "truth"]
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in picture.axes]
    level = math.radians(20)
    yaws = [0.0, level, 0.6, 0.6 + level, 0.4, 1.0, 0.0, 0.6]  # W+ with both labels, pose-free, truth
    assert shown == pytest.approx([127.5 * (1 + min(yaw, 1)) for yaw in yaws], abs=1.1)


def test_no_head_leaves_a_gap():
    camera = orbit(0.0, 0.0)
    scene = Scene("one", "front", {"front": View(torch.zeros(1, 3, 8, 8), camera)})
    side = replace(scene.input, camera=orbit(0.6, 0.0))
    scene = replace(scene, views={"front": scene.input, "side": side})
    heads = {"posefree": {0.0: Beacon(camera)}, "wplus": {0.0: Beacon(camera), 20.0: Beacon(camera)}}
    assert len(told_heads(scene, heads, "side").axes) == 2 * (1 + 2 + 1)
