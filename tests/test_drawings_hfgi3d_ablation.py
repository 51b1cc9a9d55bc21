"""What a photo shows of another view agrees with closed forms, errors of parts are of these parts alone."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from test_figures import assert_nothing_is_cropped

from lib.cameras import Camera, orbit
from lib.datasets.scenes import Scene, View
from lib.drawings.hfgi3d_ablation import (
    Change,
    bars_by_method,
    box_amid,
    change_from,
    changes_by_part,
    disagreement,
    errors_by_part,
    part_errors,
    parts_of_view,
)
from lib.drawings.scenes import KIND_COLOURS
from lib.evaluation.measures import Comparison
from lib.figures import method_colour, method_label
from lib.inversion.hfgi3d import PseudoViews
from tests.egg_scene import HALF_AXES, egg_scene, egg_view
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import head

SIDE = 64


@pytest.fixture(scope="module")
def egg():
    """An egg whose photo is taken from yaw 0.6."""
    return dataclasses.replace(egg_scene(SIDE), input_name="yaw+0.6")


def facing(view: View, camera: Camera) -> torch.Tensor:
    """Cosine [1, 1, R, R] between the egg's surface and the direction to another camera; NaN beside it."""
    side = view.image.shape[-1]
    origins, directions = (x[0] for x in view.camera.rays(side))
    points = origins + directions * view.depth.reshape(-1, 1)
    normals = torch.nn.functional.normalize(points / HALF_AXES.square(), dim=1)
    towards = torch.nn.functional.normalize(camera.position - points, dim=1)
    return (normals * towards).sum(dim=1).reshape(1, 1, side, side)


# -------------------------------------------------------------------- parts
@pytest.mark.parametrize("name", ["yaw-0.6", "yaw+0.0", "yaw+0.3"])
def test_a_photo_shows_of_an_egg_what_faces_it(egg, name):
    """Of a convex body a camera sees just what faces it."""
    view = egg.views[name]
    parts, cosine = parts_of_view(egg, name), facing(view, egg.input.camera)
    assert parts.visible[cosine > 0.3].float().mean() > 0.99  # not all: beside the egg depth is unknown
    assert parts.hidden[cosine < -0.4].all()
    assert not parts.visible[cosine < -0.2].any()
    assert not parts.hidden[cosine > 0.2].any()
    assert not (parts.visible & parts.hidden).any()
    assert not ((parts.visible | parts.hidden) & ~view.mask).any(), "what is beside the head is neither"


def test_the_photo_shows_all_of_itself(egg):
    parts = parts_of_view(egg, egg.input_name)
    inner = facing(egg.input, egg.input.camera) > 0.3
    assert parts.visible[inner].float().mean() > 0.99
    assert not parts.hidden.any()


def test_what_lies_beyond_the_photos_border_is_hidden(egg):
    camera = egg.input.camera
    wide = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ camera.intrinsics + torch.tensor(
        [[0.0, 0.0, -0.5], [0.0, 0.0, -0.5], [0.0, 0.0, 0.0]]
    )
    close = egg_view(Camera(camera.world_from_cam, wide), SIDE)
    scene = dataclasses.replace(egg, views=dict(egg.views) | {egg.input_name: close})
    view = scene.views["yaw+0.3"]
    seen = facing(view, camera) > 0.3
    chin = torch.zeros_like(seen)
    chin[:, :, 50:] = True  # below what the close photo shows
    assert parts_of_view(egg, "yaw+0.3").visible[seen & chin].any()
    assert parts_of_view(scene, "yaw+0.3").hidden[seen & chin].all()


def test_where_the_photo_is_made_up_it_neither_shows_nor_hides(egg):
    photo = dataclasses.replace(egg.input, known=torch.zeros_like(egg.input.mask))
    scene = dataclasses.replace(egg, views=dict(egg.views) | {egg.input_name: photo})
    parts = parts_of_view(scene, "yaw+0.0")
    assert not parts.visible.any()
    assert not parts.hidden.any()


def test_parts_need_depth(egg):
    blind = dataclasses.replace(egg.views["yaw+0.0"], depth=None)
    with pytest.raises(ValueError, match="needs true depth"):
        parts_of_view(dataclasses.replace(egg, views=dict(egg.views) | {"yaw+0.0": blind}), "yaw+0.0")


# -------------------------------------------------------------------- errors
def test_an_error_counts_in_the_part_that_it_is_in(egg):
    view, parts = egg.views["yaw-0.6"], parts_of_view(egg, "yaw-0.6")
    assert part_errors(view.image, egg, "yaw-0.6") == {"visible": 0.0, "hidden": 0.0}
    wrong = view.image + 0.5 * parts.hidden
    found = part_errors(wrong, egg, "yaw-0.6")
    assert found["hidden"] == pytest.approx(0.25, abs=1e-6)
    assert found["visible"] == 0.0


def test_a_part_of_few_pixels_has_no_error(egg):
    found = part_errors(egg.input.image, egg, egg.input_name)
    assert np.isnan(found["hidden"])
    assert found["visible"] == 0.0


def test_rows_hold_what_a_slow_twin_finds():
    generator = tiny_generator()
    side = generator.resolution
    cameras = {"yaw+0.0": orbit(0.0, 0.0), "yaw+0.6": orbit(0.6, 0.0)}
    flat = torch.full((1, 1, side, side), 2.7)
    views = {
        name: View(torch.full((1, 3, side, side), 0.2), camera, depth=flat)
        for name, camera in cameras.items()
    }
    scene = Scene("flat", "yaw+0.0", views, extras={"kind": "painted"})
    made = head(generator, 3, cameras["yaw+0.0"]).still()
    rows = errors_by_part("pti", made, scene, lambda image, target: (image - target).abs().mean())
    assert set(rows["view"]) == {"yaw+0.6"}
    assert set(rows["scene_kind"]) == {"painted"}
    seen, pixels = Comparison(made, scene, "yaw+0.6"), parts_of_view(scene, "yaw+0.6").visible
    found = rows[rows["part"] == "visible"].set_index("metric")["value"]
    inside = [
        (seen.image[0, :, i, j], seen.depth[0, 0, i, j])
        for i in range(side)
        for j in range(side)
        if pixels[0, 0, i, j]
    ]
    colours = torch.stack([colour for colour, _ in inside])
    assert found["mse"] == pytest.approx((colours - 0.2).square().mean().item(), rel=1e-4)
    assert found["lpips"] == pytest.approx((colours - 0.2).abs().sum().item() / (3 * side**2), rel=1e-4)
    depths = torch.stack([depth for _, depth in inside])
    assert found["depth_error"] == pytest.approx((depths - 2.7).abs().mean().item(), rel=1e-4)


# -------------------------------------------------------------------- agreement
def pseudo_views(colours: list[float], made_up: float) -> PseudoViews:
    """Views from side to side, each of one grey, made up everywhere or nowhere."""
    n, side = len(colours), 32
    blended = torch.tensor(colours).reshape(n, 1, 1, 1).expand(n, 3, side, side)
    mask = torch.full((n, 1, side, side), 1 - made_up)
    cameras = orbit(torch.linspace(-0.1, 0.1, n), torch.zeros(n))
    return PseudoViews(cameras, mask > 0.5, blended, mask, blended, blended)


@pytest.fixture(scope="module")
def rough():
    return head(tiny_generator(), 1, orbit(0.0, 0.0)).still()


def test_views_of_one_colour_agree_and_others_differ_by_their_colours(rough):
    assert disagreement(pseudo_views([0.3, 0.3, 0.3], 1.0), rough) == pytest.approx(0.0, abs=1e-9)
    assert disagreement(pseudo_views([0.3, -0.1], 1.0), rough) == pytest.approx(0.16, abs=1e-5)


def test_only_what_is_made_up_can_disagree(rough):
    assert np.isnan(disagreement(pseudo_views([0.3, -0.1], 0.0), rough))


def test_views_further_apart_are_compared_with_each_other(rough):
    views = pseudo_views([0.0, 0.4, 0.0, 0.4], 1.0)
    assert disagreement(views, rough, apart=1) == pytest.approx(0.16, abs=1e-5)
    assert disagreement(views, rough, apart=2) == pytest.approx(0.0, abs=1e-9)


# -------------------------------------------------------------------- changes and figures
def rows_of(values: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Of {method: {scene: value}}, in one view."""
    rows = [
        (method, scene, "yaw+0.0", value) for method, each in values.items() for scene, value in each.items()
    ]
    return pd.DataFrame(rows, columns=["method", "scene", "view", "value"])


def test_changes_are_paired_by_scene():
    rows = rows_of({"hfgi3d": {"a": 1.0, "b": 3.0}, "pti": {"a": 2.0, "b": 3.0, "c": 50.0}})
    change = change_from(rows, "pti", "hfgi3d")
    assert change.by_scene == {"a": 0.5, "b": 0.0}, "a scene without a partner does not count"
    assert change.mean == 0.25
    assert np.isnan(change.low)
    assert change.recorded() == {"n": 2, "mean": 0.25}


def test_three_scenes_have_an_interval_about_their_mean():
    rows = rows_of({"hfgi3d": dict.fromkeys("abc", 1.0), "pti": {"a": 1.1, "b": 1.2, "c": 1.3}})
    change = change_from(rows, "pti", "hfgi3d")
    assert change.low < change.mean < change.high
    assert change.mean == pytest.approx(0.2)
    assert set(change.recorded()) == {"n", "mean", "low", "high"}


def test_each_dot_and_bar_stands_where_its_number_is():
    nan = float("nan")
    panels = {
        "MSE, hidden": {
            "hfgi3d-interpolated": Change({"a": 0.5, "b": -0.1, "c": 0.2}, 0.2, -0.2, 0.6),
            "hfgi3d-released": Change({"a": 0.0}, 0.0, nan, nan),
        }
    }
    picture = changes_by_part(panels, "hfgi3d", {"a": "painted", "b": "heads", "c": "heads"}, columns=2)
    axes, empty = picture.axes
    assert not empty.axison
    assert axes.get_title() == "MSE, hidden, n 3"
    dots = {
        (line.get_xdata()[0], to_hex(line.get_color())) for line in axes.lines if line.get_marker() == "o"
    }
    assert (50.0, KIND_COLOURS["painted"]) in dots
    assert (-10.0, KIND_COLOURS["heads"]) in dots
    means = {line.get_color(): line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"}
    assert means == {method_colour("hfgi3d-interpolated"): 20.0, method_colour("hfgi3d-released"): 0.0}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [method_label("hfgi3d-interpolated"), method_label("hfgi3d-released")]
    assert_nothing_is_cropped(picture)


def test_bars_have_the_heights_of_their_values():
    values = {"hfgi3d": [0.1, 0.2], "hfgi3d-inpainted": [0.3, 0.4]}
    picture = bars_by_method(values, ["near", "far"], "MSE")
    (axes,) = picture.axes
    assert [bar.get_height() for bar in axes.patches] == [0.1, 0.2, 0.3, 0.4]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches[::2]] == list(map(method_colour, values))
    lefts = [bar.get_x() for bar in axes.patches]
    assert lefts[0] < lefts[2] < lefts[1] < lefts[3], "bars of a label stand beside each other"
    assert_nothing_is_cropped(picture)


@pytest.mark.parametrize(
    ("place", "expected"), [((8, 10), (0.3, 0.2, 0.8, 0.7)), ((0, 19), (0.5, 0.0, 1.0, 0.5))]
)
def test_a_box_lies_about_the_middle_of_its_mask_and_in_the_picture(place, expected):
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    mask[0, 0, place[0], place[1]] = True
    if place == (8, 10):  # a ring has its middle where nothing is marked
        mask[0, 0, 6:12, 8:14] = True
        mask[0, 0, 8, 10] = False
        mask[0, 0, 9, 11] = False
    assert box_amid(mask, 0.5)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_mask_without_pixels_has_no_box():
    with pytest.raises(ValueError, match="no middle"):
        box_amid(torch.zeros(1, 1, 8, 8, dtype=torch.bool))
