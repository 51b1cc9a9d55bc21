"""Drawings about a pose-free generator: every head from its own camera, every angle where its numbers say."""

import numpy as np
import pytest
import torch
from test_drawings_metrics import points_of
from test_figures import assert_nothing_is_cropped
from tiny_generator import TINY

from lib.drawings.posefree_generator import degrees, learned_against_detected, samples_in_own_pose
from lib.figures import to_picture
from lib.generators import PoseFreeConfig, PoseFreeEG3D


@pytest.fixture(scope="module")
def generator() -> PoseFreeEG3D:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = PoseFreeEG3D(PoseFreeConfig.like(TINY)).eval().requires_grad_(False)
    found.decoder.net[2].weight[0] *= 60
    return found


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_angles_are_whole_degrees_with_a_sign():
    assert [degrees(angle) for angle in (0.5, -0.1, 0.0)] == ["+29°", "\N{MINUS SIGN}6°", "+0°"]


def test_each_head_is_seen_from_its_own_camera_and_from_the_front(generator):
    w_plus, camera = generator.generate(
        torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(0))
    )
    picture = samples_in_own_pose(generator, w_plus, camera)
    assert_nothing_is_cropped(picture)
    assert len(picture.axes) == 9
    for i, w in enumerate(w_plus.split(1)):
        for row, seen_from in enumerate((camera[i], generator.frontal_camera())):
            expected = to_picture(generator.synthesize(w, seen_from).image)
            assert np.array_equal(shown(picture.axes[3 * row + i]), expected)
    assert not np.array_equal(shown(picture.axes[0]), shown(picture.axes[3]))
    words = [text.get_text() for text in picture.texts]
    assert f"{degrees(camera.yaw[1])}, {degrees(camera.pitch[1])}" in words


def test_learned_angles_stand_over_detected_ones():
    heads = {"held out": [[10, 1, 20, 2], [-10, 3, -15, 4]], "samples": [[0, 5, 1, 6]]}
    picture = learned_against_detected(heads)
    yaw, pitch = picture.axes
    assert points_of(yaw, "held out").tolist() == [[20, 10], [-15, -10]]
    assert points_of(pitch, "held out").tolist() == [[2, 1], [4, 3]]
    assert points_of(pitch, "samples").tolist() == [[6, 5]]
    for axes in (yaw, pitch):  # all within, and what agrees on the line
        low, high = axes.get_xlim()
        assert (low, high) == axes.get_ylim()
        for line in axes.lines:
            assert (line.get_xydata() >= low).all() and (line.get_xydata() <= high).all()
        assert np.ptp(np.diff(axes.lines[-1].get_xydata(), axis=1)) == 0
    assert_nothing_is_cropped(picture)


def test_angles_come_in_rows_of_four():
    with pytest.raises(ValueError, match="samples: expected rows"):
        learned_against_detected({"samples": [[1, 2, 3]]})
    with pytest.raises(ValueError, match="expected rows"):
        learned_against_detected({"none": []})
