import math

import numpy as np
import pytest
import torch

from lib.metrics import depth_correlation, resize_depth


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_correlation_is_blind_to_offset_and_scale_but_not_to_sign():
    target = random(3, 1, 5, 5)
    depth = torch.stack([3 * target[0] + 2, 5 - 0.1 * target[1], target[2]])
    assert depth_correlation(depth, target).tolist() == pytest.approx([1, -1, 1], abs=1e-5)


def test_correlation_against_numpy_over_the_known_pixels():
    depth, target = random(2, 1, 6, 6), random(2, 1, 6, 6, seed=1)
    target[0, 0, :3] = torch.nan
    target[1, 0, 4, 1] = torch.nan
    for i in range(2):
        known = ~target[i].isnan()
        expected = np.corrcoef(depth[i][known].numpy(), target[i][known].numpy())[0, 1]
        assert depth_correlation(depth, target)[i].item() == pytest.approx(expected, abs=1e-5)


def test_correlation_ignores_what_is_rendered_off_the_face():
    depth, target = random(1, 1, 6, 6), random(1, 1, 6, 6, seed=1)
    target[0, 0, 2] = torch.nan
    before = depth_correlation(depth, target)
    depth[0, 0, 2] = 1e4
    assert torch.equal(depth_correlation(depth, target), before)


@pytest.mark.parametrize("known", [0, 1])
def test_correlation_of_fewer_than_two_pixels_is_nan(known):
    target = torch.full((1, 1, 3, 3), math.nan)
    target.view(-1)[:known] = 1.0
    assert depth_correlation(random(1, 1, 3, 3), target).isnan().all()


def test_resized_depth_is_the_mean_of_what_is_known():
    depth = random(2, 1, 6, 6)
    depth[random(2, 1, 6, 6, seed=1) > 0.1] = torch.nan
    resized = resize_depth(depth, 3)
    assert resized.shape == (2, 1, 3, 3)
    unknown = 0
    for n, row, column in np.ndindex(2, 3, 3):
        block = [depth[n, 0, 2 * row + a, 2 * column + b].item() for a in range(2) for b in range(2)]
        known = [value for value in block if not math.isnan(value)]
        found = resized[n, 0, row, column].item()
        if len(known) >= 2:
            assert found == pytest.approx(sum(known) / len(known), abs=1e-5)
        else:
            unknown += 1
            assert math.isnan(found)
    assert 0 < unknown < 18
