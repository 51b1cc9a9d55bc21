"""Drawings of failures: what is drawn are the given shares, and means over the right views and scenes."""

import numpy as np
import pandas as pd
import pytest

from lib.drawings.hfgi3d_failures import first_against_final, of_scenes, share_shown

FIRST, FINAL = "hfgi3d-early", "hfgi3d"


@pytest.fixture
def table():
    """Two scenes of two kinds in two views; a third one lacks the final head."""
    rows = [
        {"method": method, "scene": scene, "scene_kind": kind, "view": view, "metric": metric, "value": value}
        for scene, kind, by_method in (
            ("a", "heads", {FIRST: (1.0, 3.0), FINAL: (1.0, 1.0)}),
            ("b", "turned", {FIRST: (4.0, 4.0), FINAL: (6.0, 10.0), "pti": (0.1, 0.1)}),
            ("c", "heads", {FIRST: (9.0, 9.0)}),
        )
        for method, values in by_method.items()
        for metric, factor in (("mean_depth_error", 1.0), ("mse", 100.0))
        for view, value in zip(("left", "right"), factor * np.array(values), strict=True)
    ]
    return pd.DataFrame(rows)


def marks(axes, marker):
    """Places of the marks of this kind."""
    found = [line for line in axes.lines if line.get_marker() == marker]
    return [point for line in found for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_scenes_count_once_and_need_both_heads(table):
    found = of_scenes(table, "mean_depth_error", FIRST, FINAL)
    assert list(found.columns) == [FIRST, FINAL]
    assert {scene: tuple(row) for (_, scene), row in zip(found.index, found.to_numpy(), strict=True)} == {
        "a": (2.0, 1.0),
        "b": (4.0, 8.0),
    }


def test_a_mark_is_a_scene_and_a_star_a_case(table):
    picture = first_against_final(table, "mean_depth_error", FIRST, FINAL, {"a hand": (5.0, 7.0)})
    (axes,) = picture.axes
    assert marks(axes, "D") == [(2.0, 1.0)]
    assert marks(axes, "^") == [(4.0, 8.0)]
    assert marks(axes, "*") == [(5.0, 7.0)]
    assert "a hand" in [text.get_text() for text in axes.texts]
    assert axes.get_xlim() == axes.get_ylim(), "or the diagonal would not be where nothing changed"
    assert axes.get_xlim()[0] < 1 and axes.get_xlim()[1] > 8
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["heads, n 1", "turned, n 1"]


def test_nothing_to_draw_is_refused(table):
    with pytest.raises(ValueError, match="no scene of the table has psnr"):
        first_against_final(table, "psnr", FIRST, FINAL, {})


def test_the_share_is_drawn_from_the_worst_view_to_the_best():
    shares = np.array([[0.5, 0.9, 0.7], [0.2, 0.4, 0.6]])
    (axes,) = share_shown([0.0, 0.9], shares, FINAL).axes
    mean = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(mean.get_xdata()) == [0.0, 0.9]
    assert list(mean.get_ydata()) == pytest.approx([0.7, 0.4])
    (band,) = axes.collections
    edges = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(0.0, 0.5), (0.0, 0.9), (0.9, 0.2), (0.9, 0.6)} <= edges


def test_shares_without_views_are_refused():
    with pytest.raises(ValueError, match=r"expected shares \[2 yaws"):
        share_shown([0.0, 0.9], np.array([0.5, 0.2]), FINAL)
