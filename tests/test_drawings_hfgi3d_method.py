"""HFGI3D, step by step: meshes are lit and coloured by what the photo sees, points stand where the numbers are."""

import numpy as np
import pytest
import torch
import trimesh
from matplotlib.colors import to_rgb
from test_figures import assert_nothing_is_cropped

from lib.cameras import Camera, orbit
from lib.drawings.hfgi3d_method import (
    HIDDEN_COLOUR,
    SEEN_COLOUR,
    camera_places,
    errors_over_slant,
    errors_over_theta,
    some_views,
    surface_pictures,
    vertex_normals,
)
from lib.figures import EMPTY
from lib.inversion.hfgi3d import PseudoViews, Surface


@pytest.fixture(scope="module")
def ball():
    """A ball of radius 0.3, whose front half is seen."""
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    return Surface(vertices, torch.tensor(mesh.faces, dtype=torch.long), vertices[:, 2] > 0)


# -------------------------------------------------------------------- meshes
def test_normals_of_a_ball_point_from_its_middle(ball):
    normals = vertex_normals(ball.vertices, ball.faces)
    assert torch.allclose(normals, ball.vertices / 0.3, atol=0.02)


def test_what_the_photo_sees_is_plaster_and_the_rest_is_blue(ball):
    front, back = surface_pictures(ball, Camera.cat([orbit(0.0, 0.0), orbit(np.pi, 0.0)]), side=64)
    for picture, colour in ((front, SEEN_COLOUR), (back, HIDDEN_COLOUR)):
        middle, expected = picture[32, 32] / 255, np.array(to_rgb(colour))
        brightness = middle.mean() / expected.mean()
        assert middle == pytest.approx(brightness * expected, abs=0.01)
        assert picture[0, 0] / 255 == pytest.approx(np.array(to_rgb(EMPTY)), abs=0.01)


def test_the_lamp_is_at_the_upper_left(ball):
    (picture,) = surface_pictures(ball, orbit(0.0, 0.0), side=64)
    assert picture[24, 24].sum() > picture[40, 40].sum()


def test_some_views_keep_all_parts_together():
    maps = torch.arange(4.0).reshape(4, 1, 1, 1)
    cameras = orbit(torch.linspace(-0.3, 0.3, 4), torch.zeros(4))
    views = some_views(PseudoViews(cameras, *(maps + shift for shift in range(5))), slice(1, 3))
    assert views.camera.yaw.tolist() == pytest.approx([-0.1, 0.1], abs=1e-6)
    parts = (views.seen, views.visible, views.visible_mask, views.occluded, views.blended)
    assert [part.flatten().tolist() for part in parts] == [[1.0 + k, 2.0 + k] for k in range(5)]


# -------------------------------------------------------------------- numbers
def test_cameras_stand_at_their_angles():
    around = orbit(torch.tensor([0.3, 0.0]), torch.tensor([0.0, -0.2]))
    picture = camera_places(around, orbit(0.6, 0.1), orbit(-0.6, 0.0))
    places = [line.get_xydata() for line in picture.axes[0].lines]
    assert places[0] == pytest.approx(np.array([[0.3, 0.0], [0.0, -0.2]]), abs=1e-5)
    assert places[1] == pytest.approx(np.array([[-0.6, 0.0]]), abs=1e-5)
    assert places[2] == pytest.approx(np.array([[0.6, 0.1]]), abs=1e-5)
    assert_nothing_is_cropped(picture)


def test_errors_stand_over_the_middles_of_their_bins():
    picture = errors_over_slant((0.0, 0.4, 1.0), {"V_i": [0.2, 0.1], "z_e": [0.05, 0.07]}, [0.25, 0.75])
    (axes,) = picture.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[0.2, 0.2], [0.7, 0.1]],
        [[0.2, 0.05], [0.7, 0.07]],
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 to 0.4\n25%", "0.4 to 1\n75%"]
    assert_nothing_is_cropped(picture)


def test_errors_over_theta_are_those_of_z_o_against_z_e():
    panels = {"hidden": {"a": [0.3, 0.1, 0.2]}, "visible": {"a": [0.2, 0.2, 0.1]}}
    picture = errors_over_theta([0.15, np.inf], panels, chosen=0.15)
    for axes, expected in zip(picture.axes, ([50.0, -50.0], [100.0, 100.0]), strict=True):
        (line,) = [line for line in axes.lines if line.get_marker() == "o"]
        assert line.get_ydata() == pytest.approx(expected)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0.15", "∞"]
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0]
    unchosen = errors_over_theta([0.15, np.inf], panels, chosen=None)
    assert not [line for axes in unchosen.axes for line in axes.lines if line.get_linestyle() == ":"]
    assert_nothing_is_cropped(picture)
