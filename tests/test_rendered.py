"""Rendered portraits: rows are views of their own people, and what they say of themselves is true."""

import numpy as np
import torch

from lib.cameras import Camera
from lib.datasets.rendered import rendered_portraits
from tests.tiny_portraits import portrait_generator

GENERATOR = portrait_generator()


def test_rows_are_people_in_several_views_then_singles():
    portraits = rendered_portraits(GENERATOR, people=3, views=2, singles=2)
    assert portraits.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    assert np.isnan(portraits.target_yaw).tolist() == [False] * 6 + [True] * 2
    same = (portraits.z[:, None] == portraits.z[None]).all(-1)
    assert np.array_equal(same, portraits.person[:, None] == portraits.person[None])


def test_a_row_is_what_the_generator_renders_under_its_camera():
    portraits = rendered_portraits(GENERATOR, people=2, views=2, singles=1, truncation_psi=0.8, batch=2)
    camera = Camera.from_label(torch.from_numpy(portraits.labels))
    with torch.inference_mode():
        w_plus = GENERATOR.map(torch.from_numpy(portraits.z), GENERATOR.frontal_camera(), 0.8)
        view = GENERATOR.synthesize(w_plus, camera)
    image = torch.from_numpy(portraits.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert (image - view.image).abs().max() < 1.5 / 127.5
    assert np.allclose(portraits.face_depth, view.depth[:, 0].numpy(), atol=1e-4)
    assert np.allclose(camera.yaw.numpy(), portraits.yaw, atol=1e-3)


def test_poses_stay_within_their_limits_and_follow_the_seed():
    one, again, other = (
        rendered_portraits(GENERATOR, people=20, views=1, largest_yaw=0.3, largest_pitch=0.0, seed=seed)
        for seed in (0, 0, 1)
    )
    assert 0.2 < np.abs(one.yaw).max() <= 0.3
    assert np.allclose(Camera.from_label(torch.from_numpy(one.labels)).pitch, 0.0, atol=1e-5)
    assert np.array_equal(one.images, again.images) and np.array_equal(one.z, again.z)
    assert not np.array_equal(one.z, other.z)
