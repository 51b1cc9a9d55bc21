import numpy as np
import pytest
import torch

from lib.augmentation import (
    AugmentationSettings,
    Changes,
    Strength,
    adapted_strength,
    apply_changes,
    covered,
    draw_changes,
    move,
    recolour,
)

ALL = AugmentationSettings(cutout=0.5)


def none(batch: int) -> Changes:
    """Changes that change nothing."""
    return draw_changes(np.random.default_rng(0), batch, 0.0, ALL)


def pictures(batch: int = 2, channels: int = 6, size: int = 8, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(
        batch, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype
    ).clamp(-1, 1)


# ----------------------------------------------------------------------- what is drawn


def test_strength_zero_changes_nothing():
    x = pictures()
    assert torch.allclose(apply_changes(x, none(2)), x, atol=1e-5)


def test_each_change_happens_as_often_as_the_strength_says():
    changes = draw_changes(np.random.default_rng(0), 4000, 0.3, ALL)
    happened = {
        "shift": (changes.shift != 0).all(dim=1),
        "angle": changes.angle != 0,
        "scale": changes.scale != 1,
        "brightness": changes.brightness != 0,
        "contrast": changes.contrast != 1,
        "saturation": changes.saturation != 1,
        "hole": changes.hole_side != 0,
    }
    for name, flags in happened.items():
        assert flags.float().mean().item() == pytest.approx(0.3, abs=0.03), name
    both = (happened["angle"] & happened["contrast"]).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.02)  # independent of each other


def test_sizes_of_the_changes_are_those_of_the_settings():
    changes = draw_changes(np.random.default_rng(0), 20_000, 1.0, ALL)
    assert changes.shift.std().item() == pytest.approx(0.125, rel=0.03)
    assert changes.angle.abs().max().item() == pytest.approx(np.pi, rel=0.01)
    assert changes.angle.mean().item() == pytest.approx(0, abs=0.05)
    assert changes.scale.log2().std().item() == pytest.approx(0.2, rel=0.03)
    assert changes.brightness.std().item() == pytest.approx(0.2, rel=0.03)
    assert changes.contrast.log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert changes.saturation.log2().std().item() == pytest.approx(1.0, rel=0.03)
    assert changes.hole_side.unique().tolist() == [0.5]


def test_a_larger_strength_adds_changes_to_those_of_a_smaller_one():
    few, many = (draw_changes(np.random.default_rng(3), 200, strength, ALL) for strength in (0.2, 0.7))
    kept = few.angle != 0
    assert torch.equal(few.angle[kept], many.angle[kept])
    assert (many.angle != 0).sum() > kept.sum()


# ----------------------------------------------------------------------- what changes do


def test_a_shift_moves_pixels_right_and_down():
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, 2, 3] = 1
    moved = move(x, none(1)._replace(shift=torch.tensor([[2 / 8, 1 / 8]])))
    expected = torch.zeros(1, 3, 8, 8)
    expected[:, :, 3, 5] = 1
    assert torch.allclose(moved, expected, atol=1e-5)


def test_a_quarter_turn_is_a_quarter_turn():
    x = pictures()
    turned = move(x, none(2)._replace(angle=torch.full((2,), np.pi / 2)))
    assert torch.allclose(turned, x.rot90(-1, (2, 3)), atol=1e-5)  # clockwise


def test_scale_enlarges_about_the_middle():
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, 2:6, 2:6] = 1
    larger = move(x, none(1)._replace(scale=torch.tensor([2.0])))
    assert larger.mean() > 0.85
    assert larger[0, 0, 1:7, 1:7].min() == pytest.approx(1)
    smaller = move(x, none(1)._replace(scale=torch.tensor([0.5])))
    assert smaller[0, 0, 3:5, 3:5].min() == pytest.approx(1)
    assert smaller[0, 0, 2].max() == 0


def test_what_comes_in_from_outside_is_the_mirrored_border():
    x = pictures()
    moved = move(x, none(2)._replace(shift=torch.tensor([[2 / 8, 0.0]] * 2)))
    assert torch.allclose(moved[..., :2], x[..., :2].flip(3), atol=1e-5)


def test_brightness_adds_then_contrast_multiplies():
    x = pictures()
    changes = none(2)._replace(brightness=torch.tensor([0.1, 0.0]), contrast=torch.tensor([2.0, 1.0]))
    found = recolour(x, changes)
    assert torch.allclose(found[0], (x[0] + 0.1) * 2, atol=1e-6)
    assert torch.allclose(found[1], x[1], atol=1e-6)


def test_saturation_keeps_grey_and_the_two_pictures_apart():
    x = pictures()
    grey = recolour(x, none(2)._replace(saturation=torch.zeros(2)))
    for first in (0, 3):
        mean = x[:, first : first + 3].mean(dim=1, keepdim=True)
        assert torch.allclose(grey[:, first : first + 3], mean.expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.allclose(recolour(grey, none(2)._replace(saturation=torch.full((2,), 3.0))), grey, atol=1e-6)


def test_the_hole_lies_where_it_should():
    changes = none(1)._replace(hole=torch.tensor([[0.25, 0.75]]), hole_side=torch.tensor([0.5]))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[4:, :4] = True  # y 0.75 is below, x 0.25 to the left
    assert torch.equal(covered((8, 8), changes)[0, 0], expected)
    x = pictures(batch=1)
    found = apply_changes(x, changes)
    assert found[0, :, 4:, :4].eq(0).all()
    assert torch.allclose(found[0, :, :4], x[0, :, :4], atol=1e-5)


def test_picture_and_raw_picture_change_alike():
    same = pictures(channels=3).repeat(1, 2, 1, 1)
    changed = apply_changes(same, draw_changes(np.random.default_rng(1), 2, 1.0, ALL))
    assert torch.equal(changed[:, :3], changed[:, 3:])
    assert not torch.allclose(changed, same, atol=0.1)


def test_gradients_and_their_gradients_equal_finite_differences():
    changes = draw_changes(np.random.default_rng(1), 2, 1.0, ALL)
    x = pictures(size=4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_changes(x, changes), x)
    assert torch.autograd.gradgradcheck(lambda x: apply_changes(x, changes).square(), x, fast_mode=True)


# ----------------------------------------------------------------------- how much


@pytest.mark.parametrize(
    ("strength", "sign", "expected"),
    [(0.5, 0.9, 0.51), (0.5, 0.2, 0.49), (0.5, 0.6, 0.5), (0.0, -1.0, 0.0), (1.0, 1.0, 1.0)],
)
def test_strength_follows_the_sign_of_the_scores(strength, sign, expected):
    found = adapted_strength(strength, sign, target=0.6, images=1000, full=100_000)
    assert found == pytest.approx(expected)


def test_signs_are_gathered_between_adaptations():
    strength = Strength(0.5)
    for sign in (1.0, 1.0, 0.2, 0.4):  # mean 0.65
        strength.note(torch.tensor(sign))
    strength.adapt(0.6, images=10, full=100)
    assert strength.value.item() == pytest.approx(0.6)
    strength.note(torch.tensor(-1.0))  # those before are forgotten
    strength.adapt(0.6, images=10, full=100)
    assert strength.value.item() == pytest.approx(0.5)


def test_what_adapts_is_in_the_state_dict():
    strength = Strength(0.25)
    strength.note(torch.tensor(0.5))
    again = Strength()
    again.load_state_dict(strength.state_dict())
    assert again.value.item() == 0.25
    assert again.signs.tolist() == [0.5, 1.0]
