"""SPI, idea by idea: reliefs look like their photo from its camera alone, points and frames stand where they belong."""

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import Camera, orbit
from lib.drawings.spi_method import (
    PART_COLOURS,
    photo_in_relief,
    second_view,
    trust_over_yaw,
    with_boxes,
)
from lib.drawings.spi_warps import BLANK
from lib.inversion.spi import mirror_weight
from tests.egg_scene import egg_view, on_egg

SIDE = 32
VIEW = orbit(0.5, 0.1)
VIEWS = Camera.cat([VIEW, orbit(0.0, 0.0), orbit(-0.3, 0.0)])


def wall_behind(depth: torch.Tensor) -> torch.Tensor:
    """The egg's depth with something behind it: a relief has a depth everywhere."""
    return depth.nan_to_num(3.0)


# -------------------------------------------------------------------- reliefs
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_from_its_own_camera_every_relief_is_the_photo(strength):
    egg = egg_view(VIEW, SIDE)
    seen = photo_in_relief(egg.image, VIEW, wall_behind(egg.depth), strength, VIEWS)
    assert seen.shape == (3, 3, SIDE, SIDE)
    assert (seen[0] - egg.image[0]).abs().max() < 1e-3
    assert (seen[1] - egg.image[0]).abs().mean() > 0.01, "from elsewhere it is another picture"


def test_a_true_relief_shows_the_true_picture_of_what_the_photo_shows():
    """Left as it is, the relief of an egg is the egg: colours of its surface, as far as the photo has them."""
    egg, other = egg_view(VIEW, 64), egg_view(VIEWS[1], 64)
    seen = photo_in_relief(egg.image, VIEW, wall_behind(egg.depth), 1.0, VIEWS[1])
    x, y = 0.05, 0.1  # seen from both
    point, _ = on_egg(x, y)
    (u, v), _ = (found[0, 0] for found in VIEWS[1].project(point[None, None]))
    row, column = int(v * 64), int(u * 64)
    assert (seen[0, :, row, column] - other.image[0, :, row, column]).abs().max() < 0.02
    flat = photo_in_relief(egg.image, VIEW, wall_behind(egg.depth), 0.0, VIEWS[1])
    assert (flat[0, :, row, column] - other.image[0, :, row, column]).abs().max() > 0.02


def test_a_flat_photo_is_a_plane_through_the_origin():
    """Strength 0: each pixel of a view sees the photo where its ray meets the plane across the photo's axis."""
    egg = egg_view(VIEW, SIDE)
    (seen,) = photo_in_relief(egg.image, VIEW, wall_behind(egg.depth), 0.0, VIEWS[2])
    forward = VIEW.rotation[0, :, 2]
    origins, directions = (x[0] for x in VIEWS[2].rays(SIDE))
    on_plane = origins - directions * (origins @ forward / (directions @ forward))[:, None]
    uv, _ = VIEW.project(on_plane[None])
    from_middle = (uv[0] - 0.5).abs().amax(dim=1)
    clear = (from_middle - 0.5).abs() > 1 / SIDE  # of the border of the photo
    blank = (seen == BLANK).all(dim=0).flatten()
    assert 0.05 < blank.float().mean() < 0.95
    assert torch.equal(blank[clear], from_middle[clear] > 0.5)


# -------------------------------------------------------------------- the second view
def test_points_stand_in_both_photos_and_from_above():
    photo = torch.zeros(1, 3, SIDE, SIDE)
    points = torch.tensor([[0.0, 0.0, 0.2], [0.1, 0.1, 0.1], [-0.1, 0.1, 0.1]])
    uv, counterparts = VIEW.project(points[None])[0][0], VIEW.mirror().project(points[None])[0][0]
    picture = second_view(photo, VIEW, uv, counterparts, points, [0, 1, 2])
    left, right, plan = picture.axes
    dots = lambda axes: np.array([line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"])  # noqa: E731
    assert dots(left) == pytest.approx(uv.numpy() * SIDE - 0.5, abs=1e-4)
    assert dots(right) == pytest.approx(counterparts.numpy() * SIDE - 0.5, abs=1e-4)
    assert dots(plan) == pytest.approx(points[:, [0, 2]].numpy())
    assert_nothing_is_cropped(picture)


def test_each_line_and_both_rays_pass_through_their_point():
    photo = torch.zeros(1, 3, SIDE, SIDE)
    points = torch.tensor([[0.05, 0.02, 0.15], [-0.1, 0.0, 0.1]])
    uv, counterparts = VIEW.project(points[None])[0][0], VIEW.mirror().project(points[None])[0][0]
    _, right, plan = second_view(photo, VIEW, uv, counterparts, points, [0, 1]).axes
    lines = [line.get_xydata() for line in right.lines if line.get_marker() != "o"]
    for line, at in zip(lines, counterparts.numpy() * SIDE - 0.5, strict=True):
        assert np.linalg.norm(line - at, axis=1).min() < 0.5
    rays = [
        line.get_xydata()
        for line in plan.lines
        if line.get_linestyle() in ("-", ":") and len(line.get_xydata()) > 5
    ]
    assert len(rays) == 4
    for number, ray in enumerate(rays):
        assert np.linalg.norm(ray - points[number // 2, [0, 2]].numpy(), axis=1).min() < 0.02


# -------------------------------------------------------------------- eq. 3 and 4
@pytest.mark.parametrize("yaw", [-0.5, 0.1, 0.4])
def test_dots_stand_at_the_weights_of_the_yaw(yaw):
    _, weight = (picture := trust_over_yaw(yaw, k=0.9)).axes
    dots = [line.get_xydata()[0] for line in weight.lines if line.get_marker() == "o"]
    expected = [mirror_weight(yaw, "paper", 0.9), mirror_weight(yaw, "code"), mirror_weight(yaw, "constant")]
    assert np.array(dots)[:, 1] == pytest.approx([each.item() for each in expected], abs=5e-3)
    assert all(at == pytest.approx(abs(yaw)) for at, _ in dots)
    assert_nothing_is_cropped(picture)


# -------------------------------------------------------------------- eq. 10
def test_frames_lie_at_their_boxes_and_hide_nothing_within():
    image = torch.zeros(1, 3, SIDE, SIDE)
    boxes = {"nose": torch.tensor([[0.25, 0.5, 0.5, 0.75]]), "mouth": torch.tensor([[0.5, 0.75, 0.9, 1.2]])}
    picture = with_boxes(image, boxes, side=128)
    assert picture.shape == (128, 128, 3)
    nose = tuple(int(PART_COLOURS["nose"][i : i + 2], 16) for i in (1, 3, 5))
    rows, columns = np.nonzero((picture == nose).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 96, 32, 64)
    assert (picture[70:90, 38:58] == 128).all() and (picture[:60] == 128).all()
