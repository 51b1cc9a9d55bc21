"""Pose-free inversion, step by step: lines and dots stand where the numbers are, maps add up to the losses."""

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.drawings.posefree_method import (
    Ends,
    Landscape,
    Start,
    bent_down,
    ends_over_truth,
    kept,
    landscape_and_paths,
    over_steps,
    starts_of,
    valleys,
    variation_map,
)
from lib.losses import depth_variation_loss

STARTS = [Start([-0.2, -0.1], [0.6, 0.5]), Start([0.2, 0.3], [0.7, 0.4])]


def drawn(axes):
    """Coordinates of every line of a panel."""
    return [np.asarray(line.get_xydata()).tolist() for line in axes.lines]


# -------------------------------------------------------------------- starts
def test_starts_come_out_of_a_history_in_their_order():
    history = {"loss": [1.0]}
    for i, start in enumerate(STARTS):
        history |= {f"start_yaw_{i}": start.yaws, f"start_loss_{i}": start.losses}
    assert starts_of(history) == STARTS
    assert starts_of({"loss": [1.0]}) == []


def test_the_start_that_ends_lowest_is_kept():
    assert kept(STARTS) == 1
    assert kept([*STARTS, Start([0.0], [float("nan")])]) == 1, "what is no number is never the lowest"


def test_valleys_are_counted_within_the_range():
    places = np.linspace(0, 1, 41)
    assert valleys(np.cos(6 * np.pi * places)) == 3
    assert valleys(places) == 0, "the end of a slope is none"


def test_what_is_convex_is_bent_down_nowhere():
    places = np.linspace(-1, 1, 41)
    assert bent_down(places**2) == 0
    assert bent_down(-(places**2)) == 1
    assert bent_down(places**3) == pytest.approx(0.5, abs=0.03)


def test_profiles_and_paths_stand_where_the_numbers_are():
    heads = [Landscape([0.5, -0.5], [0.6, 0.8], (-0.2, 0.7)), Landscape([0.5, -0.5], [0.5, 0.9], (0.2, 0.7))]
    found = Landscape([0.5, -0.5], [0.2, 0.3], (0.3, 0.1))
    picture = landscape_and_paths(heads, found, STARTS, "yaw")
    still, moving = (drawn(axes) for axes in picture.axes)
    assert [[-0.5, 0.8], [0.5, 0.6]] in still, "places are drawn from left to right"
    assert [[-0.2, 0.7]] in still
    assert [[0.3, 0.1]] in still, "the own camera of the head that was found"
    assert [[0.2, 0.7], [0.3, 0.4]] in moving
    stars = [line for line in picture.axes[1].lines if line.get_marker() == "*"]
    assert [line.get_xydata().tolist() for line in stars] == [[[0.3, 0.4]]], "one is kept, and ends there"
    assert_nothing_is_cropped(picture)


def test_ends_stand_beside_each_other_where_inputs_share_a_yaw():
    found = [Ends(0.6, [0.1, 0.5], 1, 0.55), Ends(0.6, [0.2, 0.4], 0, 0.3), Ends(0.0, [-0.1, 0.0], 1, 0.02)]
    picture = ends_over_truth(found)
    crosses = [line.get_xydata()[0] for line in picture.axes[0].lines if line.get_marker() == "x"]
    by_end = {round(y, 2): x for x, y in crosses}
    assert by_end[0.02] == pytest.approx(0.0), "alone, it stands at its own yaw"
    assert (by_end[0.3] + by_end[0.55]) / 2 == pytest.approx(0.6)
    assert by_end[0.55] > by_end[0.3]
    full = [line for line in picture.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    filled = {line.get_ydata()[0] for line in full if line.get_markerfacecolor() != "white"}
    assert filled == {0.5, 0.2, 0.0}, "the kept starts"
    assert_nothing_is_cropped(picture)


# -------------------------------------------------------------------- over the steps
def test_stages_are_apart_where_they_change():
    picture = over_steps(
        {"loss": {"all": [3.0, 2.0, 1.0]}, "camera": {"yaw": [0.1, 0.2, 0.3]}}, ["", ""], 1.5
    )
    for axes, values in zip(picture.axes, ([3.0, 2.0, 1.0], [0.1, 0.2, 0.3]), strict=True):
        line, boundary = drawn(axes)
        assert line == [[0, values[0]], [1, values[1]], [2, values[2]]]
        assert [x for x, _ in boundary] == [1.5, 1.5]
    assert_nothing_is_cropped(picture)


@pytest.mark.parametrize("change", [0, 3])
def test_one_stage_has_no_boundary(change):
    picture = over_steps({"loss": {"all": [3.0, 2.0, 1.0]}}, ["loss"], change)
    assert len(picture.axes[0].lines) == 1


# -------------------------------------------------------------------- differences
def test_the_map_of_a_depth_adds_up_to_its_variation():
    depth = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    total = variation_map(depth).sum().item()
    assert total / 30 == pytest.approx(depth_variation_loss(depth).item(), rel=1e-5), "means over 6 x 5 pairs"


def test_a_step_of_depth_shows_where_it_is():
    depth = torch.zeros(1, 1, 4, 4)
    depth[..., 2:] = 0.5
    found = variation_map(depth)[0]
    assert found[:, 1].tolist() == [0.5] * 4
    assert found.sum() == pytest.approx(2.0), "and nowhere else"
