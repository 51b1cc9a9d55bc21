"""Widths and sections of shapes whose sizes are known, and means by the input's yaw of a small table."""

import math

import pandas as pd
import pytest
import torch

from lib.cameras import Camera, orbit
from lib.drawings.spi_symmetry import (
    TRUTH,
    by_input_yaw,
    horizontal_section,
    middle_widths,
    over_input_yaw,
    sections,
    width_over_yaw,
)
from lib.evaluation import COLUMNS


def ellipse(width, height, side=256, aside=0.0):
    """A mask [1, 1, side, side] of half axes as shares of the picture's side."""
    centres = (torch.arange(side) + 0.5) / side - 0.5
    return (((centres - aside) / width) ** 2 + (centres[:, None] / height) ** 2 <= 1)[None, None]


# ---- width ------------------------------------------------------------------------------------------------


def test_width_of_an_ellipse_is_the_mean_of_its_middle_chords():
    chords = 2 * (math.sqrt(0.75) / 2 + math.asin(0.5))  # the mean of 2 sqrt(1 - t^2) for |t| < 1/2
    found = middle_widths(torch.cat([ellipse(0.2, 0.3), ellipse(0.3, 0.3), ellipse(0.2, 0.4, aside=0.1)]))
    torch.testing.assert_close(found, chords * torch.tensor([0.2, 0.3, 0.2]), atol=3e-3, rtol=0)


def test_width_leaves_out_what_is_narrow_above_and_below():
    mask = torch.zeros(1, 1, 40, 40)
    mask[0, 0, 10:30, 10:30] = 1
    mask[0, 0, 5:10, 19:21] = mask[0, 0, 30:35, 19:21] = 1  # as hair and a collar leave of a face
    assert middle_widths(mask).item() == 0.5


def test_width_of_nothing_is_nan():
    assert middle_widths(torch.zeros(1, 1, 8, 8)).isnan().all()


# ---- section ----------------------------------------------------------------------------------------------


def sphere_depth(camera: Camera, radius: float, side: int):
    """Depth along the rays of a sphere about the origin, NaN beside it."""
    origins, directions = camera.rays(side)
    ahead = -(origins * directions).sum(dim=-1)
    inside = radius**2 - (origins.square().sum(dim=-1) - ahead**2)
    return (ahead - inside.sqrt()).reshape(1, 1, side, side)


@pytest.mark.parametrize("height", [0.0, 0.1])
def test_section_of_a_sphere_is_a_circle(height):
    camera, side = orbit(torch.zeros(1), torch.zeros(1)), 128
    x, z = (
        torch.tensor(part) for part in horizontal_section(camera, sphere_depth(camera, 0.3, side), height)
    )
    known = ~x.isnan()
    middle = known & (x.abs() < 0.2)
    assert 30 < known.sum() < side
    torch.testing.assert_close(
        x[middle] ** 2 + z[middle] ** 2,
        torch.tensor(0.09 - height**2).expand(middle.sum()),
        atol=4e-3,
        rtol=0,
    )
    assert (z[middle] > 0).all(), "a frontal camera sees the near side"


# ---- means by the input's yaw -----------------------------------------------------------------------------


def table_of(values):
    """A table of one metric: {(scene, yaw of the input): {method: value}}, with a view beside each input."""
    rows = [
        {"method": method, "scene": scene, "scene_kind": "turned", "split": "test", "view": view, "yaw": at}
        | {"is_input": is_input, "metric": "mirrored_identity", "value": value if is_input else -9.0}
        for (scene, yaw), by_method in values.items()
        for method, value in by_method.items()
        for view, at, is_input in (("photo", yaw, True), ("other", yaw + 0.3, False))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


TABLE = table_of(
    {
        ("a", 0.0): {"pti": 0.8, "spi": 0.9},
        ("b", -0.59): {"pti": 0.3, "spi": 0.6},
        ("c", 0.61): {"pti": 0.5, "spi": 0.8},
        ("d", 0.6): {"pti": -1.0},
    }
)


def test_means_pool_both_sides_on_scenes_that_all_methods_have():
    means = by_input_yaw(TABLE, "mirrored_identity", ["pti", "spi"], {"b": 0.7, "c": 0.9})
    found = means.assign(input_yaw=means["input_yaw"].round(2)).set_index(["method", "input_yaw"])
    assert found.loc[("pti", 0.0), "mean"] == 0.8
    assert found.loc[("pti", 0.6), ["mean", "n"]].tolist() == pytest.approx([0.4, 2])
    assert found.loc[("spi", 0.6), "mean"] == pytest.approx(0.7)
    assert found.loc[(TRUTH, 0.6), ["mean", "n"]].tolist() == pytest.approx([0.8, 2])
    assert (TRUTH, 0.0) not in found.index


def test_means_of_what_no_scene_has_are_an_error():
    with pytest.raises(ValueError, match="no scene of the table has mirrored_identity of all of w, spi"):
        by_input_yaw(TABLE, "mirrored_identity", ["w", "spi"])


# ---- drawings ---------------------------------------------------------------------------------------------


def lines_of(picture):
    return [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in picture.axes]


def test_identity_is_drawn_by_yaw_with_the_number_of_scenes():
    picture = over_input_yaw(by_input_yaw(TABLE, "mirrored_identity", ["spi", "pti"], {"b": 0.7}), "identity")
    (lines,) = lines_of(picture)
    assert list(lines) == ["PTI", "SPI", TRUTH]
    assert [value for _, value in lines["SPI"]] == pytest.approx([0.9, 0.7])
    assert [text.get_text() for text in picture.axes[0].get_xticklabels()] == ["0.0\nn 1", "0.6\nn 2"]


def test_widths_have_the_truth_last_and_a_panel_a_head():
    curves = {TRUTH: ([0, 1], [0.4, 0.3]), "spi": ([0, 1], [0.4, 0.35])}
    picture = width_over_yaw({"one": curves, "two": {"spi": ([0, 1], [0.2, 0.2])}})
    first, second = lines_of(picture)
    assert list(first) == ["SPI", TRUTH] and first[TRUTH] == [[0, 0.4], [1, 0.3]]
    assert list(second) == ["SPI"]
    with pytest.raises(ValueError, match="one head or more"):
        width_over_yaw({})


def test_sections_are_not_distorted_and_look_down():
    axes = sections({"one": {"spi": ([-0.1, 0.0, 0.1], [0.0, 0.2, 0.0])}}).axes[0]
    assert axes.get_aspect() == 1.0
    bottom, top = axes.get_ylim()
    assert bottom > top, "the nose, which is nearest to the viewer, points down"
