"""Pictures of results: every row and column shows what it should, and curves are means over the right scenes."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from lib.cameras import orbit
from lib.datasets import Scene, View
from lib.drawings import (
    error_by_yaw,
    gains_by_input,
    means_by_kind,
    metric_label,
    on_common_scenes,
    quality_against_time,
    scene_heads,
    with_turn,
)
from lib.drawings.comparison import values_by_input
from lib.figures import METHODS, depth_colours, method_colour, method_label, to_picture
from lib.generators import Rendering
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import head

YAWS = (-0.6, 0.0, 0.6)


# ---- heads ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def scene(generator):
    """Three views of a head; depth is known from the front alone."""
    true = head(generator, 1, orbit(0.0, 0.0))
    views = {
        f"yaw{yaw:+.1f}": View(true.render(orbit(yaw, 0.0)).image.clamp(-1, 1), orbit(yaw, 0.0))
        for yaw in YAWS
    }
    front = views["yaw+0.0"]
    depth = torch.full((1, 1, 16, 16), 2.7)
    depth[..., :4, :] = torch.nan
    depth[..., 8:, :] = 2.5
    views["yaw+0.0"] = View(front.image, front.camera, depth)
    views["ellipse00"] = View(front.image, orbit(0.5, 0.1))
    return Scene("tiny", "yaw+0.6", views)


@pytest.fixture(scope="module")
def heads(generator, scene):
    return {
        name: head(generator, seed, scene.input.camera) for seed, name in enumerate(("spi", "w", "pti"), 2)
    }


def shown(picture):
    """Rows of pixels [R, R, 3], None in gaps, by the places of the axes."""
    places = {
        (round(-a.get_position().y0, 3), round(a.get_position().x0, 3)): a.images[0] for a in picture.axes
    }
    rows, columns = (sorted({place[i] for place in places}) for i in (0, 1))
    return [
        [np.asarray(places[y, x].get_array()) if (y, x) in places else None for x in columns] for y in rows
    ]


def words(picture):
    return [text.get_text() for text in picture.texts]


def test_heads_stand_in_the_order_of_all_figures_and_truth_below(scene, heads):
    picture = scene_heads(scene, heads, with_depth=False)
    rows = shown(picture)
    assert words(picture)[:4] == ["W", "PTI", "SPI", "truth"]
    assert words(picture)[4:] == ["input", "yaw \N{MINUS SIGN}0.60", "yaw 0"]
    for name, row in zip(("w", "pti", "spi"), rows, strict=False):
        for yaw, pixels in zip((0.6, -0.6, 0.0), row, strict=True):
            assert np.array_equal(pixels, to_picture(heads[name].render(orbit(yaw, 0.0)).image)), (name, yaw)
    for view, pixels in zip(("yaw+0.6", "yaw-0.6", "yaw+0.0"), rows[-1], strict=True):
        assert np.array_equal(pixels, to_picture(scene.views[view].image))


def test_views_that_are_asked_for_have_gaps_where_truth_is_unknown(scene, heads):
    picture = scene_heads(scene, heads, (0.6, 0.3, 0.0), with_depth=False)
    assert words(picture)[4:] == [
        "input",
        "yaw 0",
        "yaw +0.30",
    ]  # the input once, though it was asked for again
    *methods, truth = shown(picture)
    assert [pixels is not None for pixels in truth] == [True, True, False]
    assert all(pixels is not None for row in methods for pixels in row)


def test_a_photo_is_called_a_photo(scene, heads):
    photo = Scene("photo", "yaw+0.6", {"yaw+0.6": scene.input})
    picture = scene_heads(photo, heads, with_depth=False)
    assert words(picture)[3] == "photo"
    assert [pixels is not None for pixels in shown(picture)[-1]] == [True] + [
        False
    ] * 4  # all yaws but the input's


def test_depth_is_on_the_scale_of_the_truth(scene, heads):
    picture = scene_heads(Scene("front", "yaw+0.0", scene.views), heads)
    assert words(picture)[-2:] == ["depth 0", "depth \N{MINUS SIGN}0.60"]
    *_, front, side = shown(picture)[-1]
    assert side is None  # its depth is unknown
    true = scene.views["yaw+0.0"].depth[0]
    known = ~true.isnan()
    expected = depth_colours(true.where(known, torch.tensor(2.7)), known.float(), (2.5, 2.7))
    assert np.array_equal(front, expected)


class Wall:
    """A head at the same depth wherever it is looked at."""

    def __init__(self, generator, depth):
        self.generator, self.depth, self.w_plus = generator, depth, torch.zeros(1)
        self.camera = generator.frontal_camera()

    def still(self):
        return self

    def render(self, camera, neural_resolution=16, settings=None):
        maps = torch.full((1, 1, neural_resolution, neural_resolution), self.depth)
        colours = torch.zeros(1, 3, 16, 16)
        return Rendering(colours, colours, maps, colours, torch.ones_like(maps))


def test_a_wall_at_another_depth_has_another_colour(generator, scene):
    walls = {"w": Wall(generator, 2.5), "spi": Wall(generator, 2.7)}
    near, far, _ = (row[-2] for row in shown(scene_heads(Scene("a", "yaw+0.0", scene.views), walls)))
    assert near.mean() > far.mean() + 50


def test_no_heads_are_refused(scene):
    with pytest.raises(ValueError, match="one method or more"):
        scene_heads(scene, {})


# ---- tables -----------------------------------------------------------------------------------------------
def rows_of(kind, scene, method, input_yaw, values, seconds=10.0):
    """Rows of a scene: a value by the yaw of the view."""
    return [
        {
            "method": method,
            "scene": scene,
            "scene_kind": kind,
            "split": "test",
            "view": f"yaw{yaw:+.1f}",
            "yaw": yaw,
            "is_input": yaw == input_yaw,
            "metric": "lpips",
            "value": value,
            "seconds": seconds,
        }
        for yaw, value in values.items()
    ]


@pytest.fixture
def table():
    """Four heads; PTI is worse than SPI by 0.1 in views beside the input, and by 0.3 on a photo without others."""
    rows = []
    for i, hard in enumerate((0.1, 0.2, 0.3, 0.4)):
        input_yaw = 0.6 if i == 3 else 0.0
        for method, worse, seconds in (("spi", 0.0, 40.0), ("pti", 0.1, 10.0)):
            values = {yaw: hard + (worse if yaw != input_yaw else 0.0) for yaw in YAWS}
            rows += rows_of("heads", f"head-{i}", method, input_yaw, values, seconds)
    rows += rows_of("photos", "photo", "spi", 0.2, {0.2: 0.5}) + rows_of(
        "photos", "photo", "pti", 0.2, {0.2: 0.8}
    )
    rows += rows_of("heads", "unfinished", "pti", 0.0, dict.fromkeys(YAWS, 9.0))
    return pd.DataFrame(rows)


def line(axes, method):
    """Places and heights of a method's means."""
    (found,) = (
        each
        for each in axes.lines
        if to_hex(each.get_color()) == method_colour(method) and each.get_marker() == "o"
    )
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def test_turns_are_measured_from_each_scene_s_own_input(table):
    turned = with_turn(table)
    from_side = turned[(turned["scene"] == "head-3") & (turned["method"] == "spi")].set_index("yaw")["turn"]
    assert from_side.to_dict() == pytest.approx({-0.6: 1.2, 0.0: 0.6, 0.6: 0.0})


def test_error_by_yaw_is_the_mean_of_scenes_that_have_such_a_view(table):
    (axes,) = error_by_yaw(
        table, "lpips", ["pti", "spi"]
    ).axes  # no panel of photos, which have no other views
    for method, worse in (("pti", 0.1), ("spi", 0.0)):
        turns, heights = line(axes, method)
        assert turns == pytest.approx([0.0, 0.6, 1.2], abs=0.02)
        assert heights == pytest.approx(
            [0.25, 0.25 + worse, 0.4 + worse]
        )  # the unfinished scene does not count
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0\nn 4", "0.6\nn 4", "1.2\nn 1"]


def test_a_view_of_a_scene_does_not_count_as_a_scene(table):
    """Both sides of a frontal head are turned by the same: one value, their mean."""
    side = (table["scene"] == "head-0") & (table["view"] == "yaw-0.6") & (table["method"] == "spi")
    table.loc[side, "value"] += 0.8
    _, heights = line(error_by_yaw(table, "lpips", ["spi", "pti"]).axes[0], "spi")
    assert heights[1] == pytest.approx(0.25 + 0.8 / 2 / 4)


def test_intervals_are_drawn_for_three_scenes_or_more(table):
    (axes,) = error_by_yaw(table, "lpips", ["spi", "pti"]).axes
    segments = [np.array(each) for bars in axes.collections for each in bars.get_segments()]
    known = [each for each in segments if each.size and not np.isnan(each).any()]
    assert len(known) == 4  # two methods, turns 0 and 0.6; the one scene that is turned by 1.2 has none
    assert all(each[0, 1] < each[1, 1] for each in known)


def test_quality_against_time_has_both_kinds_of_views_and_the_papers_seconds(table):
    picture = quality_against_time(table, "lpips", ["pti", "spi"], {"spi": 463.0})
    inputs, others = picture.axes
    assert [axes.get_title() for axes in picture.axes] == ["input view, n 5", "other views, n 4"]
    assert line(inputs, "spi")[1] == pytest.approx([(0.1 + 0.2 + 0.3 + 0.4 + 0.5) / 5])
    assert line(others, "pti")[1] == pytest.approx([0.35])
    seconds = [(4 * 40 + 10) / 5, 10.0]  # a scene counts once
    assert [line(others, name)[0][0] for name in ("spi", "pti")] == pytest.approx(seconds)
    marks = [each for each in others.lines if each.get_marker() == "D"]
    assert [each.get_xdata()[0] for each in marks] == [463.0]


def test_means_by_kind_have_the_kinds_that_know_such_views(table):
    inputs, others = means_by_kind(table, [("lpips", "input"), ("lpips", "novel")], ["pti", "spi"]).axes
    assert [label.get_text() for label in inputs.get_xticklabels()] == ["heads\nn 4", "photos\nn 1"]
    assert [label.get_text() for label in others.get_xticklabels()] == ["heads\nn 4"]
    assert line(inputs, "pti")[1] == pytest.approx([0.25, 0.8])
    assert line(others, "spi")[1] == pytest.approx([0.25])


def test_gains_are_paired_by_scene(table):
    (axes,) = gains_by_input(table, "lpips", "pti", ["pti", "spi"]).axes
    dots = [each for each in axes.lines if each.get_marker() == "."]
    assert [len(each.get_xdata()) for each in dots] == [4]
    assert np.asarray(dots[0].get_ydata()) == pytest.approx([-0.1] * 4)
    assert np.asarray(dots[0].get_xdata()) == pytest.approx([0, 0, 0, 0.6])
    assert line(axes, "spi")[1] == pytest.approx(
        [-0.1]
    )  # an interval where three inputs are alike, none where one is


def test_values_by_input_are_those_of_each_scene(table):
    (axes,) = values_by_input(table, "lpips", ["spi", "pti"]).axes
    dots = {to_hex(each.get_color()): each for each in axes.lines if each.get_marker() == "."}
    assert set(dots) == {method_colour("pti"), method_colour("spi")}
    pti, spi = (np.asarray(dots[method_colour(name)].get_ydata()) for name in ("pti", "spi"))
    (paired,) = gains_by_input(table, "lpips", "pti", ["spi"]).axes
    (difference,) = [each.get_ydata() for each in paired.lines if each.get_marker() == "."]
    assert spi - pti == pytest.approx(np.asarray(difference)), "a gain is the difference of two of these"
    yaws = np.asarray(dots[method_colour("pti")].get_xdata())
    assert yaws == pytest.approx(np.array([0, 0, 0, 0.6]) - 0.015), (
        "beside each other, about the inputs' yaws"
    )
    assert axes.get_ylabel() == metric_label("lpips")


@pytest.mark.parametrize(
    ("metric", "methods", "message"),
    [
        ("psnr", ["pti"], "no metric psnr; it has lpips"),
        ("lpips", ["pti", "w"], "no method w; it has"),
    ],
)
@pytest.mark.parametrize("draw", [error_by_yaw, quality_against_time])
def test_what_a_table_does_not_have_is_named(draw, metric, methods, message, table):
    with pytest.raises(ValueError, match=message):
        draw(table, metric, methods)


def test_a_kind_does_without_the_methods_that_it_has_not(table):
    more = pd.DataFrame(rows_of("heads", "head-0", "w", 0.0, dict.fromkeys(YAWS, 0.7)))
    found = on_common_scenes(pd.concat([table, more]), ["w", "pti", "spi"])
    assert found.groupby("scene_kind")["scene"].unique().map(list).to_dict() == {
        "heads": ["head-0"],
        "photos": ["photo"],
    }
    assert set(found["method"]) == {"w", "pti", "spi"}


def test_methods_without_a_common_scene_are_refused(table):
    heads = table[table["scene_kind"] == "heads"]
    apart = heads[(heads["method"] == "pti") == (heads["scene"] == "head-0")]
    with pytest.raises(ValueError, match="no scene of the table has lpips of all of pti, spi"):
        error_by_yaw(apart, "lpips", ["pti", "spi"])


def test_a_table_of_photos_has_no_turned_views(table):
    with pytest.raises(ValueError, match="turned from its input"):
        error_by_yaw(table[table["scene_kind"] == "photos"], "lpips", ["pti", "spi"])


def test_labels_say_which_way_is_better():
    assert metric_label("lpips") == "LPIPS ↓"
    assert metric_label("identity") == "identity ↑"
    assert metric_label("depth_relief") == "depth_relief"


def test_the_key_names_every_method_once(table):
    picture = error_by_yaw(table, "lpips", ["spi", "pti"])
    assert [text.get_text() for text in picture.legends[0].get_texts()] == [
        method_label("pti"),
        method_label("spi"),
    ]
    assert set(METHODS) >= {"pti", "spi"}
