"""The border of a square has a closed form, errors there are of there alone, spreads are those of a sample."""

import dataclasses

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.datasets.scenes import Scene, View
from lib.drawings.posefree_ablation import (
    SeededRun,
    border_and_inside,
    errors_by_place,
    over_seeds,
    spread,
)
from lib.evaluation.measures import Comparison
from lib.figures import method_colour
from tests.egg_scene import egg_scene
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import head


def square(side: int, top: int, height: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., top : top + height, 10:42] = True
    return mask


# -------------------------------------------------------------------- border and inside
def test_the_border_of_a_square_is_a_frame():
    parts = border_and_inside(square(64, 12, 32), width=3 / 64)
    assert parts["inside"].sum() == 26**2 and parts["inside"][..., 15:41, 13:39].all()
    assert parts["border"].sum() == 32**2 - 26**2 and not (parts["border"] & parts["inside"]).any()


def test_the_edge_of_the_picture_is_no_border():
    """A head that the picture cuts off goes on below it."""
    parts = border_and_inside(square(64, 34, 30), width=3 / 64)
    assert parts["inside"][..., -1, 13:39].all()
    assert parts["inside"].sum() == 26 * 27


def test_a_wider_border_takes_from_the_inside():
    mask = square(64, 12, 32)
    narrow, wide = (border_and_inside(mask, width)["inside"] for width in (0.03, 0.1))
    assert wide.sum() < narrow.sum() and (narrow | ~wide).all()


# -------------------------------------------------------------------- errors
@pytest.fixture(scope="module")
def flat():
    """A scene of the tiny generator's size: a grey square before nothing, at one distance, and a head for it."""
    generator = tiny_generator()
    egg, side = egg_scene(generator.resolution), generator.resolution
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., 1:-1, 1:-1] = True
    depth = torch.full((1, 1, side, side), 2.7).where(mask, torch.nan)
    grey = torch.full((1, 3, side, side), 0.2)
    views = {
        name: View(grey, egg.views[name].camera, depth=depth, mask=mask) for name in ("yaw+0.0", "yaw+0.6")
    }
    scene = Scene("flat", "yaw+0.0", views)
    return head(generator, 3, scene.input.camera).still(), scene


def test_errors_are_means_over_the_pixels_of_a_place(flat):
    made, scene = flat
    rows = errors_by_place("posefree", made, scene, ["yaw+0.6"], width=1 / scene.input.image.shape[-1])
    assert set(rows["view"]) == {"yaw+0.0", "yaw+0.6"}, "and the input's"
    seen, side = Comparison(made, scene, "yaw+0.6"), scene.input.image.shape[-1]
    found = rows[rows["view"] == "yaw+0.6"].set_index(["place", "metric"])["value"]
    inner = slice(2, side - 2)
    inside = (seen.depth - 2.7).abs()[..., inner, inner]
    all_of_it = (seen.depth - 2.7).abs()[..., 1:-1, 1:-1]
    n_border = all_of_it.numel() - inside.numel()
    assert found["inside", "depth_error"] == pytest.approx(inside.mean().item(), rel=1e-4)
    assert found["border", "depth_error"] == pytest.approx(
        ((all_of_it.sum() - inside.sum()) / n_border).item(), rel=1e-3
    )
    colours = (seen.image - 0.2).square()[..., inner, inner].mean().item()
    assert found["inside", "mse"] == pytest.approx(colours, rel=1e-4)


def test_an_error_at_the_border_is_not_seen_inside(flat):
    made, scene = flat
    width = 1 / scene.input.image.shape[-1]
    border = border_and_inside(scene.input.mask, width)["border"]
    spoilt = dataclasses.replace(
        scene.input, image=scene.input.image.where(~border, 5.0), depth=scene.input.depth + border * 1.0
    )
    changed = dataclasses.replace(scene, views=dict(scene.views) | {scene.input_name: spoilt})
    before, after = (
        errors_by_place("posefree", made, one, [one.input_name], width).set_index(["place", "metric"])[
            "value"
        ]
        for one in (scene, changed)
    )
    assert np.allclose(before["inside"], after["inside"])
    assert (after["border"] > before["border"]).all()


def test_what_has_no_depth_or_few_pixels_has_no_value(flat):
    made, scene = flat
    blind = dataclasses.replace(scene.views["yaw+0.6"], depth=None)
    scarce = dataclasses.replace(scene.input, mask=torch.zeros_like(scene.input.mask))
    views = {scene.input_name: scarce, "yaw+0.6": blind}
    rows = errors_by_place("posefree", made, dataclasses.replace(scene, views=views))
    assert set(rows["view"]) == {scene.input_name} and rows["value"].isna().all()


# -------------------------------------------------------------------- seeds
def runs(*lpips: float) -> list[SeededRun]:
    return [SeededRun([1.0, 0.5, value], value, 0.1 * value) for value in lpips]


def test_spread_is_the_deviation_of_a_sample():
    assert spread(runs(1.0, 3.0)) == pytest.approx(2**0.5)
    assert spread(runs(1.0, 3.0), "yaw") == pytest.approx(0.1 * 2**0.5)
    with pytest.raises(ValueError, match="2 runs or more; got 1"):
        spread(runs(1.0))


def test_every_seed_has_its_curve_and_its_dots():
    found = {"posefree": runs(0.1, 0.2, 0.3), "posefree-one_stage": runs(0.2, 0.4)}
    picture = over_seeds({"turned": found, "painted": found}, fine_from=1.5)
    assert len(picture.axes) == 6
    curves, lpips, _ = picture.axes[:3]
    for name, of_method in found.items():
        colour = method_colour(name)
        drawn = [list(line.get_ydata()) for line in curves.lines if line.get_color() == colour]
        assert drawn == [run.losses for run in of_method]
        dots = [list(line.get_ydata()) for line in lpips.lines if line.get_color() == colour]
        values = [run.lpips for run in of_method]
        assert dots == [values, [pytest.approx(np.mean(values))]]
    assert_nothing_is_cropped(picture)
