"""Drawings of SPI's modules: points stand where the numbers are, boxes hold their marks, profiles are surfaces."""

import numpy as np
import pytest
import torch

from lib.cameras import orbit
from lib.drawings.spi_modules import (
    CLOSE_UP,
    Changes,
    box_about,
    close_up,
    middle_profile,
    profiles,
    row_by_row,
)
from lib.figures import method_colour

NAN = float("nan")


# -------------------------------------------------------------------- table 3
@pytest.fixture(scope="module")
def picture():
    ours = {"spi-latent": (0.0, 0.0, 0.0), "spi": (-0.2, -0.3, -0.1)}
    none = {"spi-latent": (0.0, NAN, NAN), "spi": (0.1, NAN, NAN)}
    panels = {
        "frontal": {"mse": Changes(ours, [0.0, -0.15], 7), "lpips": Changes(none, [0.0, -0.1], 2)},
        "side": {"mse": Changes(none, [0.0, -0.4], 1), "lpips": Changes(ours, [0.0, -0.2], 9)},
    }
    return row_by_row(panels, ["code", "all"])


def test_each_panel_has_its_numbers(picture):
    assert [axes.get_title() for axes in picture.axes] == [
        "mse, n = 7",
        "lpips, n = 2",
        "mse, n = 1",
        "lpips, n = 9",
    ]
    paper, *_ = [line for line in picture.axes[2].lines if line.get_marker() == "D"]
    assert list(paper.get_ydata()) == [0.0, -0.4]
    (point,) = [
        line
        for line in picture.axes[0].lines
        if line.get_marker() == "o" and line.get_color() == method_colour("spi")
    ]
    assert (*point.get_xdata(), *point.get_ydata()) == (1, -0.2)
    bars = [list(line.get_ydata()) for line in picture.axes[0].lines if line.get_linewidth() == 2.4]
    assert [-0.3, -0.1] in bars


def test_rows_of_panels_say_which_inputs_and_columns_what_was_added(picture):
    assert [picture.axes[i].get_ylabel() for i in (0, 2)] == ["frontal", "side"]
    assert [label.get_text() for label in picture.axes[2].get_xticklabels()] == ["code", "all"]


# -------------------------------------------------------------------- close by
def mask_of(rows: slice, columns: slice, side: int = 20) -> torch.Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., rows, columns] = True
    return mask


def test_a_box_is_a_square_about_what_is_marked():
    u0, v0, u1, v1 = box_about(mask_of(slice(8, 12), slice(4, 12)), least=0.1, room=0.05)[0].tolist()
    assert u1 - u0 == pytest.approx(v1 - v0) == pytest.approx(0.5)
    assert ((u0 + u1) / 2, (v0 + v1) / 2) == pytest.approx((0.4, 0.5))


@pytest.mark.parametrize(
    "place", [(slice(0, 1), slice(19, 20)), (slice(19, 20), slice(0, 1)), (slice(0, 20),) * 2]
)
def test_a_box_stays_in_the_picture_and_holds_the_mark(place):
    (box,) = box_about(mask_of(*place), least=0.3)
    assert box.min() >= 0 and box.max() <= 1 + 1e-6
    (rows, columns) = place
    assert box[0] <= columns.start / 20 + 1e-6 and box[2] >= columns.stop / 20 - 1e-6
    assert box[1] <= rows.start / 20 + 1e-6 and box[3] >= rows.stop / 20 - 1e-6


def test_nothing_marked_has_no_box():
    with pytest.raises(ValueError, match="marks nothing"):
        box_about(torch.zeros(1, 1, 4, 4))


def test_a_close_up_shows_the_box_and_nothing_else():
    image = torch.full((1, 3, 20, 20), -1.0)
    image[..., 8:12, 4:8] = 0.5
    found = close_up(image, torch.tensor([[0.2, 0.4, 0.4, 0.6]]))
    assert found.shape == (3, CLOSE_UP, CLOSE_UP)
    assert torch.allclose(found[:, 20:-20, 20:-20], torch.tensor(0.5))
    assert found[:, 0, 0].max() < 0.5


# -------------------------------------------------------------------- profiles
def test_the_profile_of_a_wall_is_upright_and_of_a_ball_round():
    camera, side = orbit(0.0, 0.0, 2.7), 32
    wall = 2.5 / camera.ray_cosines(side)
    z, y = middle_profile(camera, wall)
    assert z == pytest.approx(np.full(side, 0.2), abs=1e-5)
    assert (np.diff(y) < 0).all() and y[0] == pytest.approx(-y[-1], abs=1e-5)

    origins, directions = camera.rays(side)
    along = -(origins * directions).sum(-1)
    inside = 0.3**2 - (origins.square().sum(-1) - along**2)
    ball = torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), torch.nan).reshape(1, 1, side, side)
    z, y = middle_profile(camera, ball)
    known = ~np.isnan(z)
    assert 4 < known.sum() < side
    assert np.hypot(z[known], y[known]) == pytest.approx(np.full(known.sum(), 0.3), abs=3e-3)


def test_each_head_has_its_lines_and_its_truth():
    line, other, truth = (np.array([0.0, 1.0]) + shift for shift in (0.0, 0.1, 0.2))
    picture = profiles(
        {"a head": {"spi": (line, line), "spi-no_depth": (other, line)}}, {"a head": (truth, line)}
    )
    (axes,) = picture.axes
    assert [line.get_label() for line in axes.lines] == ["truth", "SPI", "SPI without depth"]
    assert axes.lines[0].get_xdata().tolist() == truth.tolist()
    assert axes.lines[2].get_color() == method_colour("spi-no_depth")
    assert [line.get_linestyle() for line in axes.lines] == ["-", ":", "-"]
    with pytest.raises(ValueError, match="at least one head"):
        profiles({}, {})
