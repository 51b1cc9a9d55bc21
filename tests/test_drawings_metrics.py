"""Drawings about metrics: points stand where their numbers say, frames where the crop is, and everything fits."""

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped, flat_image

from lib.cameras import orbit
from lib.drawings import Card, distance_over_samples, error_map, framed, intervals, lines_over, psnr_of_mse
from lib.metrics import mean_interval, mse, psnr


def points_of(axes, label: str) -> np.ndarray:
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return line.get_xydata()


# -------------------------------------------------------------------- PSNR over MSE
def test_pairs_stand_where_they_were_printed_and_curves_where_the_metrics_are():
    picture = psnr_of_mse({"one": [(0.02, 22.0), (0.3, 12.0)], "other": [(0.05, 19.0)]})
    (axes,) = picture.axes
    assert points_of(axes, "one").tolist() == [[0.02, 22.0], [0.3, 12.0]]
    curve = next(line.get_xydata() for line in axes.lines if line.get_label().endswith("(4 / MSE)"))
    image, target = flat_image(0.2, 0.2, 0.2)[None], flat_image(0.0, 0.0, 0.0)[None]
    at = np.interp(np.log(mse(image, target).item()), np.log(curve[:, 0]), curve[:, 1])
    assert at == pytest.approx(psnr(image, target).item(), abs=0.01)
    assert_nothing_is_cropped(picture)


# -------------------------------------------------------------------- frames and maps
def test_a_frame_lies_around_the_crop_and_hides_nothing_else():
    image = flat_image(0.0, 0.0, 0.0, side=128)
    picture = framed(image, slice(16, 48), slice(32, 64), size=64)  # counted in pixels twice as large
    red = (picture == (255, 0, 0)).all(axis=-1)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (32, 96, 64, 128)
    assert not red[33:95, 65:127].any() and red[32, 64:128].all() and red[32:96, 64].all()
    assert (picture[~red] == 128).all()


def test_a_frame_outside_the_picture_is_an_error():
    with pytest.raises(ValueError, match="outside a picture of 64 pixels"):
        framed(flat_image(0.0, 0.0, 0.0), slice(35, 223), slice(32, 220), size=64)


def test_errors_grow_brighter_to_their_limit_and_nothing_is_grey():
    errors = torch.tensor([[[0.0, 0.05, 0.1, 0.5, torch.nan]]])
    none, half, limit, beyond, unknown = error_map(errors, limit=0.1)[0].astype(int)
    assert none.sum() < 10 < half.sum() < limit.sum()
    assert beyond.tolist() == limit.tolist()
    assert unknown.tolist() == [242, 242, 242]


# -------------------------------------------------------------------- lines and intervals
def test_measured_distances_are_dots_expected_ones_lines_and_truths_levels():
    measured, expected = {"A": [5.0, 3.0], "B": [6.0, 4.5]}, {"A": [4.8, 3.2], "B": [6.2, 4.2]}
    picture = distance_over_samples([100, 1000], measured, expected, {"A": 2.0, "B": 3.0})
    (axes,) = picture.axes
    assert points_of(axes, "A").tolist() == [[100, 5.0], [1000, 3.0]]
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert levels == [2.0, 3.0]
    lines = [line.get_ydata().tolist() for line in axes.lines if line.get_linestyle() == "-"]
    assert expected["A"] in lines and expected["B"] in lines
    assert_nothing_is_cropped(picture)


def test_every_series_is_drawn_in_its_own_colour():
    values = {name: [i, i + 1.0, i + 2.0] for i, name in enumerate("abcd")}
    picture = lines_over([1, 10, 100], values, "places", "values")
    (axes,) = picture.axes
    assert [points_of(axes, name)[:, 1].tolist() for name in values] == list(values.values())
    assert len({line.get_color() for line in axes.lines}) == 4
    assert_nothing_is_cropped(picture)


def test_intervals_reach_from_low_to_high_and_zero_is_shown_where_it_matters():
    rng = np.random.default_rng(0)
    wide, narrow = (mean_interval(offset + rng.standard_normal(n)) for n, offset in ((10, 0.1), (200, 5.0)))
    panels = {"differences": {"few": wide}, "means": {"many": narrow, "few": narrow}}
    picture = intervals(panels, {"differences": "dB", "means": "dB"})
    left, right = picture.axes
    assert list(left.lines[0].get_xdata()) == [wide.low, wide.high]
    assert [label.get_text() for label in right.get_yticklabels()] == ["many", "few"]
    assert any(list(line.get_xdata()) == [0, 0] for line in left.lines)
    assert not any(list(line.get_xdata()) == [0, 0] for line in right.lines)
    assert_nothing_is_cropped(picture)


# -------------------------------------------------------------------- a head that is a card
@pytest.fixture
def card() -> Card:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Card(None, image, orbit(0.3, 0.1))


def test_a_card_shows_its_picture_to_its_own_camera(card):
    view = card.render(card.camera)
    assert torch.allclose(view.image, card.image, atol=1e-4)
    assert card.render(card.camera, neural_resolution=16).depth.shape == (1, 1, 16, 16)


def test_a_card_is_flat_wherever_it_is_seen_from(card):
    cameras = orbit(torch.tensor([-0.6, 0.0, 0.6]), 0.0)
    origins, directions = cameras.rays(32)
    view = card.render(cameras)
    points = origins + directions * view.depth.flatten(1)[..., None]
    assert view.image.shape == (3, 3, 32, 32)
    assert (points @ card.camera.rotation[0, :, 2]).abs().max() < 1e-5


def test_from_the_side_a_card_is_narrow():
    """Seen at an angle of 0.8 its middle stripe is narrower by the cosine, and by nothing in height."""
    stripes = torch.full((1, 3, 64, 64), -1.0)
    stripes[..., 24:40] = 1.0
    square = Card(None, stripes, orbit(0.0, 0.0))
    width = (square.render(orbit(0.8, 0.0)).image[0, 0, 32] > 0).sum().item()
    assert width == pytest.approx(16 * np.cos(0.8), abs=1)
    upright = Card(None, stripes.mT, orbit(0.0, 0.0))
    assert (upright.render(orbit(0.8, 0.0)).image[0, 0, :, 32] > 0).sum().item() == pytest.approx(16, abs=1)
