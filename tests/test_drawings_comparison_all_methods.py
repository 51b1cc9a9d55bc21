"""Drawings of all methods: heads from the right side, means over scenes, places, and the best within a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.datasets import Scene, View
from lib.drawings.comparison_all_methods import (
    best_within,
    by_method,
    criterion,
    furthest_view,
    heads_from_the_side,
    orders,
)
from lib.figures import method_label, to_picture
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import head


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def scene(generator):
    """Seen from the left; depth is known from the right alone."""
    true = head(generator, 1, orbit(-0.6, 0.0))
    views = {
        f"yaw{yaw:+.1f}": View(true.render(orbit(yaw, 0.0)).image.clamp(-1, 1), orbit(yaw, 0.0))
        for yaw in (-0.6, 0.0, 0.6)
    }
    depth = torch.full((1, 1, 16, 16), 2.7)
    depth[..., 8:, :] = 2.5
    views["yaw+0.6"] = View(views["yaw+0.6"].image, views["yaw+0.6"].camera, depth)
    views["ellipse00"] = View(views["yaw+0.0"].image, orbit(0.9, 0.1))
    return Scene("tiny", "yaw-0.6", views)


# ---- heads ------------------------------------------------------------------------------------------------
def test_heads_stand_below_the_photo_and_above_the_truth(generator, scene):
    assert furthest_view(scene) == "yaw+0.6", "views for video do not count"
    heads = {name: head(generator, seed, scene.input.camera) for seed, name in enumerate(("goae", "w"), 2)}
    picture = heads_from_the_side({"one": (scene, heads), "two": (scene, {"goae": heads["goae"]})})
    assert_nothing_is_cropped(picture)
    words = [text.get_text() for text in picture.texts]
    assert words == ["photo", "W", "GOAE", "truth", "one", "depth", "two", "depth"]
    images = [np.asarray(axes.images[0].get_array()) for axes in picture.axes]
    # Gaps: the photo has no depth, and the second scene no head by W.
    assert len(images) == 2 + 2 + 4 + 4
    assert np.array_equal(images[0], to_picture(scene.input.image))
    side = scene.views["yaw+0.6"].camera
    for place, name in ((2, "w"), (4, "goae"), (6, "goae")):
        expected = to_picture(heads[name].render(side).image).astype(int)
        assert np.abs(images[place] - expected).max() <= 1
    assert np.array_equal(images[8], to_picture(scene.views["yaw+0.6"].image))
    assert not np.array_equal(images[9][:8], images[9][-8:]), "the truth has two depths"


# ---- numbers ----------------------------------------------------------------------------------------------
def rows(method, scene, seconds, **values):
    """Input LPIPS, then two other views of it, and their depth error."""
    found = [("yaw+0.0", True, "lpips", values["input"])]
    found += [(f"yaw{i:+d}", False, "lpips", value) for i, value in enumerate(values["novel"], 1)]
    found += [("yaw+1", False, "identity", 1 - values["input"])]
    names = ("view", "is_input", "metric", "value")
    return [
        dict(zip(names, row, strict=True)) | {"method": method, "scene": scene, "seconds": seconds}
        for row in found
    ]


@pytest.fixture
def table():
    """PTI is better at the input and slow; GOAE is better elsewhere and quick; W is between, its scenes vary."""
    found = []
    for i in range(6):
        name, hard = f"scene-{i}", 0.01 * i
        found += rows("pti", name, 100.0 + i, input=0.1 + hard, novel=(0.5 + hard, 0.7 + hard))
        found += rows("goae", name, 0.2, input=0.3 + hard, novel=(0.2 + hard, 0.4 + hard))
        found += rows("w", name, 50.0, input=0.31 + hard + 0.1 * (-1) ** i, novel=(0.8, 0.8))
    return pd.DataFrame(found)


CRITERIA = [("lpips", "input"), ("lpips", "novel"), ("seconds", "")]
METHODS = ["pti", "goae", "w"]


def test_means_count_a_scene_once(table):
    means = by_method(table, CRITERIA, METHODS).set_index(["criterion", "method"])
    assert means.at[(criterion("lpips", "input"), "pti"), "mean"] == pytest.approx(0.125)
    assert means.at[(criterion("lpips", "novel"), "pti"), "mean"] == pytest.approx(0.625)
    assert means.at[("seconds ↓", "pti"), "mean"] == pytest.approx(102.5)
    assert (means["n"] == 6).all()
    goae = means.loc[(criterion("lpips", "novel"), "goae")]
    assert goae["low"] < goae["mean"] < goae["high"]
    few = by_method(table[table["scene"] == "scene-0"], CRITERIA, METHODS)
    assert few["low"].isna().all() and (few["n"] == 1).all()


def test_the_best_stands_on_top_whichever_way_better_is(table):
    asked = [("lpips", "input"), ("identity", "novel"), ("seconds", "")]
    picture = orders(by_method(table, asked, METHODS))
    assert_nothing_is_cropped(picture)
    (axes,) = picture.axes
    places = {
        name: line.get_ydata().tolist() for name, line in zip(("w", "pti", "goae"), axes.lines, strict=True)
    }
    assert places["pti"][:2] == [1, 1] and places["pti"][2] == 3
    assert places["goae"][2] == 1
    assert axes.yaxis_inverted()
    labels = [text.get_text() for text in axes.texts]
    assert labels.count(method_label("goae")) == 2, "a name at either end"


def test_the_best_within_a_time_is_the_best_of_those_that_take_no_longer(table):
    budgets = {"moment": 0.1, "second": 1.0, "minute": 60.0, "hour": 3600.0}
    found = best_within(table, "lpips", "input", budgets)
    assert found["method"].tolist() == ["", "goae", "goae", "pti"]
    assert found["next"].tolist() == ["", "", "w", "goae"]
    assert found.at["hour", "difference"] == pytest.approx(-0.2)
    assert found.at["hour", "settled"] and not found.at["minute", "settled"]
    assert not found.at["second", "settled"] and np.isnan(found.at["second", "difference"])
    higher = best_within(table, "identity", "novel", {"hour": 3600.0})
    assert higher.at["hour", "method"] == "pti", "identity is better where it is higher"
    assert best_within(table, "lpips", "novel", {"hour": 3600.0}).at["hour", "method"] == "goae"
