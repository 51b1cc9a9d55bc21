"""Drawings about the embedded generator: series, counts and arrows stand where their numbers say."""

import numpy as np
import pytest
from matplotlib.text import Annotation
from test_drawings_metrics import points_of
from test_figures import assert_nothing_is_cropped

from lib.drawings import count_panels, densities_over_normal, line_panels, two_moves


def test_every_series_has_its_panel_and_gaps_where_nothing_is_known():
    panels = {
        "left": {"a": ([1, 2, 3], [0.5, None, 0.7])},
        "right": {"b": ([1, 2], [3, 4]), "c": ([1, 2], [5, 6])},
    }
    picture = line_panels(panels, "step", ["one", "other"], levels={"right": {"goal": 4.5}})
    left, right = picture.axes
    assert points_of(left, "a")[[0, 2]].tolist() == [[1, 0.5], [3, 0.7]]
    assert np.isnan(points_of(left, "a")[1, 1])
    assert points_of(right, "c").tolist() == [[1, 5], [2, 6]]
    assert list(points_of(right, "goal")[:, 1]) == [4.5, 4.5]
    assert (left.get_ylabel(), right.get_ylabel()) == ("one", "other")
    assert len({line.get_color() for line in right.lines}) == 3
    assert_nothing_is_cropped(picture)


def test_a_series_without_a_name_has_no_legend():
    picture = line_panels({"a": {"": ([0, 1], [1, 2])}}, "place")
    assert picture.axes[0].get_legend() is None
    assert line_panels({"a": {"x": ([0, 1], [1, 2])}}, "place").axes[0].get_legend() is not None


def test_counts_stand_over_their_bins():
    columns = {"edges": [0.0, 0.5, 1.0], "few": [1, 2], "many": [30, 10]}
    picture = count_panels({"yaw": columns}, ["radians"])
    (axes,) = picture.axes
    drawn = {patch.get_label(): patch.get_data() for patch in axes.patches if not patch.get_fill()}
    assert drawn.keys() == {"few", "many"}
    for name, data in drawn.items():
        assert data.values.tolist() == columns[name]
        assert data.edges.tolist() == columns["edges"]
    assert_nothing_is_cropped(picture)


def test_arrows_lead_from_the_start_to_their_ends_and_ellipses_are_deviations():
    rng = np.random.default_rng(0)
    styles = rng.standard_normal((4000, 2)) * [3.0, 1.0] + [1.0, 2.0]
    ends = {"far": np.array([4.0, 2.0]), "near": np.array([1.0, 3.0])}
    picture = two_moves(styles, np.array([1.0, 2.0]), ends)
    (axes,) = picture.axes
    arrows = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert [(list(a.xyann), list(a.xy)) for a in arrows] == [([1, 2], [4, 2]), ([1, 2], [1, 3])]
    one, two, _ = axes.patches
    assert (one.width, one.height) == pytest.approx((6.0, 2.0), rel=0.05)
    assert two.width == pytest.approx(2 * one.width)
    assert abs(np.sin(np.radians(one.angle))) < 0.05  # along the first axis, to either side
    assert_nothing_is_cropped(picture)


def test_the_normal_density_is_that_of_unit_deviation():
    edges = np.linspace(-4, 4, 41)
    density = np.histogram(np.random.default_rng(0).standard_normal(20_000), edges, density=True)[0]
    picture = densities_over_normal(edges, {"a": density, "b": density[::-1]}, [3.0, 2.0, 1.0])
    left, other, right = picture.axes
    assert other.patches[0].get_data().values.tolist() == density[::-1].tolist()
    normal = points_of(left, "N(0, 1)")
    area = np.sum((normal[1:, 1] + normal[:-1, 1]) / 2 * np.diff(normal[:, 0]))
    assert area == pytest.approx(1, abs=1e-3)
    assert normal[:, 1].max() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-3)
    centres = (edges[1:] + edges[:-1]) / 2
    assert np.interp(centres, *normal.T) == pytest.approx(density, abs=0.03)
    assert right.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert_nothing_is_cropped(picture)
