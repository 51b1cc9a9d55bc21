"""Pictures of scenes: every known part is shown, unknown ones leave gaps, and warped views land where they belong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.cameras import orbit
from lib.datasets import Scene, View, drift
from lib.datasets.scenes import YAWS, yaw_name
from lib.drawings import carried, carried_views, contact_sheet, drift_chart
from lib.drawings.scenes import QUANTITIES, known_part, shape_pictures, veiled

SIDE = 24


def stripes(yaw: float) -> View:
    """A wall at z = 0 with stripes along x in red and along y in green, and all that is known of it."""
    camera = orbit(yaw, 0.0)
    origins, directions = camera.rays(SIDE)
    depth = -origins[..., 2] / directions[..., 2]
    x, y, _ = (origins + directions * depth[..., None]).unbind(-1)
    image = torch.stack([torch.sin(12 * x), torch.sin(12 * y), 0 * x], dim=1).reshape(1, 3, SIDE, SIDE)
    normals = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand_as(image)
    everywhere = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    return View(image, camera, depth.reshape(1, 1, SIDE, SIDE), normals, everywhere)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene("wall", "yaw+0.0", {yaw_name(yaw): stripes(yaw) for yaw in YAWS})


def pictures(drawing) -> int:
    return sum(bool(axes.images) for axes in drawing.axes)


def test_a_contact_sheet_shows_all_that_is_known(scene):
    assert pictures(contact_sheet([scene, scene])) == 2 * (1 + len(YAWS) + 3)


def test_a_contact_sheet_leaves_gaps(scene):
    bare = Scene("a", "yaw+0.0", {name: View(v.image, v.camera) for name, v in scene.views.items()})
    assert pictures(contact_sheet([scene, bare])) == 2 * (1 + len(YAWS)) + 3
    assert shape_pictures(bare.input) == [None, None, None]
    assert pictures(contact_sheet([bare])) == 1 + len(YAWS)
    assert not any(text.get_text() == "depth" for text in contact_sheet([bare]).texts)


def test_what_does_not_count_is_pale():
    image, kept = torch.full((1, 3, 2, 2), -1.0), torch.tensor([[[[True, False], [False, True]]]])
    pale = veiled(image, kept)
    assert (pale[kept.expand_as(pale)] == -1).all()
    assert (pale[~kept.expand_as(pale)] > 0).all()


def test_made_up_parts_of_a_view_are_pale(scene):
    view = scene.input
    known = view.mask.clone()
    known[..., :5] = False
    shown = known_part(replace(view, known=known))
    assert torch.equal(shown[..., 5:], view.image[0, ..., 5:])
    assert (shown[..., :5] - view.image[0, ..., :5]).abs().mean() > 0.1
    assert torch.equal(known_part(view), view.image[0])


def test_a_depth_without_any_known_pixel_is_a_gap(scene):
    unknown = replace(scene.input, depth=torch.full((1, 1, SIDE, SIDE), torch.nan))
    assert shape_pictures(unknown)[0] is None
    assert isinstance(shape_pictures(scene.input)[0], np.ndarray)


def test_a_carried_view_agrees_with_the_input(scene):
    image, both = carried(scene, "yaw+0.6")
    assert both.float().mean() > 0.5
    inside = both.expand_as(image)
    assert (image - scene.input.image)[inside].abs().mean() < 0.04
    assert (scene.views["yaw+0.6"].image - scene.input.image)[inside].abs().mean() > 0.08


def test_carried_views_have_both_errors_below(scene):
    picture = carried_views({"samples": scene}, {"samples": "yaw+0.3"})
    assert pictures(picture) == 5
    errors = [
        float(text.get_text().split()[1]) for text in picture.texts if text.get_text().startswith("MSE")
    ]
    assert len(errors) == 2
    assert errors[0] < errors[1]


def test_a_drift_chart_has_a_panel_for_each_quantity_and_a_curve_for_each_kind(scene):
    drifts = {"turned": [drift(scene, lambda one, other: 0.5)], "samples": [drift(scene)]}
    panels = drift_chart(drifts).axes
    assert [axes.get_title() for axes in panels] == [
        QUANTITIES[name] for name in ("mse", "colour", "depth_mm", "identity")
    ]
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["samples", "turned"]
    identity = panels[3].lines
    assert identity[-1].get_xdata() == pytest.approx([0.3, 0.6])
    assert identity[-1].get_ydata() == pytest.approx([0.5, 0.5])
