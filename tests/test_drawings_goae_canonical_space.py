"""Drawings about the canonical space: every view, depth and plane where its labels say, every change at its yaw."""

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped
from tiny_generator import tiny_generator

from lib import parsing
from lib.drawings.goae_canonical_space import (
    PLANE_REACH,
    backgrounds,
    change_panels,
    plane_pictures,
    under_conditions,
)
from lib.evaluation.canonical_space import conditioned
from lib.figures import to_picture
from lib.generators import EG3D
from lib.metrics.statistics import Interval


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def codes(generator) -> dict[str, torch.Tensor]:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(0))
    return {
        name: conditioned(generator, z, yaw)
        for name, yaw in {"left": -0.6, "canonical": 0.0, "right": 0.6}.items()
    }


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_a_row_has_views_depths_and_planes_of_its_code(generator, codes):
    yaws = (-0.4, 0.0, 0.4)
    picture = under_conditions(generator, codes, "canonical", yaws)
    assert_nothing_is_cropped(picture)
    assert len(picture.axes) == 3 * 9
    for row, w_plus in enumerate(codes.values()):
        for column, yaw in enumerate(yaws):
            expected = to_picture(generator.synthesize(w_plus, generator.camera(yaw)).image).astype(int)
            assert np.abs(shown(picture.axes[9 * row + column]) - expected).max() <= 1
        planes = plane_pictures(generator.planes(w_plus), generator.planes(codes["canonical"]))
        for axes, plane in zip(picture.axes[9 * row + 6 : 9 * row + 9], planes, strict=True):
            assert np.array_equal(shown(axes), to_picture(plane))
    words = [text.get_text() for text in picture.texts]
    assert [name for name in words if name in codes] == list(codes)
    assert words[-3:] == ["XY", "XZ", "ZX"]
    with pytest.raises(ValueError, match="the rows left, canonical, right"):
        under_conditions(generator, codes, "front")


def test_planes_are_grey_as_in_the_reference():
    planes = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    planes[0, 1] += 5  # a plane has grey levels of its own
    own = plane_pictures(planes, planes)
    assert [picture.shape for picture in own] == [(3, 8, 8)] * 3
    spread = planes[0].mean(dim=1).std(dim=(1, 2))
    for k, picture in enumerate(own):
        assert torch.equal(picture[0], picture[2])
        assert picture.mean().abs() < 0.05
        brighter = planes.clone()
        brighter[0, k] += 0.5 * spread[k]
        difference = plane_pictures(brighter, planes)[k] - picture
        inside = picture.abs() < 0.7
        assert torch.allclose(difference[inside], torch.tensor(0.5 / PLANE_REACH), atol=1e-4)


def test_only_the_background_keeps_its_colours(generator, monkeypatch):
    def left_half(images):
        found = torch.zeros(len(images), 19, 16, 16)
        found[:, 0, :, :8] = found[:, 1, :, 8:] = 1
        return found

    monkeypatch.setattr(parsing, "class_probabilities", left_half)
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(1))
    w_plus = conditioned(generator, z, 0.0)
    picture = backgrounds(generator, w_plus)
    assert_nothing_is_cropped(picture)
    seen = generator.synthesize(w_plus, generator.frontal_camera())
    for i in range(2):
        sample, kept = shown(picture.axes[i]).astype(int), shown(picture.axes[2 + i]).astype(int)
        assert np.array_equal(kept[:, :8], sample[:, :8])
        assert (kept[:, 8:] >= sample[:, 8:]).all() and (kept[:, 8:] > sample[:, 8:]).any()
        mean = seen.depth[i, 0, :, :4].mean().item()
        assert f"{mean:.3f}" in [text.get_text() for text in picture.texts]


def interval(mean: float) -> Interval:
    return Interval(mean, mean - 1, mean + 3, n=9, missing=0, level=0.95)


def test_changes_stand_over_their_yaws_and_the_canonical_code_changes_nothing():
    panels = {
        "depth": {"camera": [interval(1.0), interval(-2.0)], "random": [interval(4.0), interval(5.0)]},
        "turn": {"camera": [interval(0.5), interval(0.25)]},
    }
    picture = change_panels(panels, [-0.6, 0.6], {"turn": 100.0})
    assert_nothing_is_cropped(picture)
    depth, turn = picture.axes
    assert [axes.get_title() for axes in (depth, turn)] == list(panels)
    points = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in depth.containers}
    assert points == {"camera": [[-0.6, 1], [0, 0], [0.6, -2]], "random": [[-0.6, 4], [0, 0], [0.6, 5]]}
    (bars,) = turn.containers
    assert bars.lines[0].get_xydata().tolist() == [[-0.6, 50], [0, 0], [0.6, 25]]
    (ends,) = bars.lines[2]
    assert np.allclose([segment[:, 1] for segment in ends.get_segments()], [[-50, 350], [0, 0], [-75, 325]])
    with pytest.raises(ValueError, match="yaw 0 is the canonical code"):
        change_panels(panels, [0.0, 0.6], {})
