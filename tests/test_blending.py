"""Blending: what is known stays, the seam is continuous, and Poisson's equation is the one solved directly."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from lib.blending import blend, eroded, inpainted, interpolated, poisson_blend, softened

SIDE = 16
FILLINGS = [interpolated, inpainted]


def pictures(number: int = 2, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    """Smooth pictures with a little noise [N, 3, R, R], float64."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(number, 3, 1, 1, generator=generator)
    noise = torch.rand(number, 3, side, side, generator=generator)
    y, x = grid(side)
    return torch.sin(3 * x + 5 * phase) * torch.cos(2 * y - phase) * 0.7 + 0.05 * noise


def grid(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(side, dtype=torch.float64) / side
    return torch.meshgrid(places, places, indexing="ij")


def holed(side: int = SIDE) -> torch.Tensor:
    """All but a block inside, a lone pixel and a block at the border: bool [1, 1, R, R]."""
    mask = torch.ones(1, 1, side, side, dtype=torch.bool)
    mask[..., side // 4 : side // 2, side // 4 : side // 2 + 1] = False
    mask[..., side - 3, side // 2] = False
    mask[..., : side // 3, -side // 4 :] = False
    return mask


def half(side: int = SIDE) -> torch.Tensor:
    """The left half is known."""
    return (torch.arange(side) < side // 2).expand(1, 1, side, side).clone()


def random_masks(number: int, side: int, share: float = 0.8) -> torch.Tensor:
    return torch.rand(number, 1, side, side, generator=torch.Generator().manual_seed(3)) < share


# -------------------------------------------------------------------- erosion
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_erosion_is_the_minimum_over_a_square(radius, kind):
    values = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = values > 0.1 if kind == torch.bool else values
    result = eroded(mask, radius)
    assert result.dtype == kind
    for number, row, column in np.ndindex(2, 7, 7):
        rows = slice(max(row - radius, 0), row + radius + 1)
        columns = slice(max(column - radius, 0), column + radius + 1)
        assert result[number, 0, row, column] == mask[number, 0, rows, columns].min()


def test_the_border_of_the_picture_does_not_erode():
    assert eroded(torch.ones(1, 1, 5, 5, dtype=torch.bool), 3).all()
    assert eroded(half(), 1).equal((torch.arange(SIDE) < SIDE // 2 - 1).expand(1, 1, SIDE, SIDE))


# -------------------------------------------------------------------- soft edges
@pytest.mark.parametrize("radius", [0, 0.6, 1, 1.25, 2.7, 4])
def test_soft_edges_equal_a_slow_loop(radius):
    """Weights exp(-d^2 / 2 sigma^2), sigma = radius / 2, d up to the radius; pixels repeat beyond the border."""
    mask, reach = random_masks(1, 9, share=0.7), int(radius)
    result = softened(mask.double(), radius)
    for row, column in np.ndindex(9, 9):
        total = weights = 0.0
        for down, right in np.ndindex(2 * reach + 1, 2 * reach + 1):
            down, right = down - reach, right - reach
            weight = math.exp(-(down**2 + right**2) / (2 * (radius / 2) ** 2)) if reach else 1.0
            place = np.clip(row + down, 0, 8), np.clip(column + right, 0, 8)
            total, weights = total + weight * mask[0, 0][place].item(), weights + weight
        expected = max(0.0, 2 * total / weights - 1) * mask[0, 0, row, column].item()
        assert result[0, 0, row, column].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("radius", [1, 1.25, 3, 6.5])
def test_soft_edges_lie_inside_the_mask_and_no_further_than_the_radius(radius):
    mask = holed(24)
    soft = softened(mask, radius)
    assert soft.dtype == torch.float32
    assert soft.min() >= 0 and soft.max() <= 1
    assert (soft[~mask] == 0).all()
    deep = eroded(mask, int(radius))
    assert deep.any() and (soft[deep] == 1).all()
    assert (soft[mask & ~deep] < 1).all()


def test_a_straight_edge_is_a_rising_ramp_up_to_the_border():
    ramp = softened(half().double(), 5)[0, 0]
    assert (ramp == ramp[:1]).all()
    rising = ramp[0].flip(0)[SIDE // 2 :]
    assert 0 < rising[0] < 0.25 and (rising[:6].diff() > 0).all() and (rising[5:] == 1).all()


def test_without_radius_a_soft_mask_is_the_mask():
    assert softened(holed(), 0).equal(holed().float())


@pytest.mark.parametrize("radius", [0, 3])
def test_empty_and_full_masks_have_no_edge(radius):
    full = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    for mask in (full, ~full):
        assert softened(mask, radius).equal(mask.float())
        assert eroded(mask, radius).equal(mask)


# -------------------------------------------------------------------- a mixture
def test_a_blend_weighs_both_pictures():
    visible, occluded = pictures(2)
    weight = torch.full((1, 1, SIDE, SIDE), 0.25, dtype=torch.float64)
    expected = 0.25 * visible + 0.75 * occluded
    assert torch.allclose(blend(visible[None], occluded[None], weight)[0], expected)


def test_a_blend_keeps_the_inside_and_the_outside():
    visible, occluded, mask = pictures(1, seed=0), pictures(1, seed=1), holed()
    blended = blend(visible, occluded, softened(mask, 1.25))
    inside, outside = eroded(mask, 1).expand_as(visible), (~mask).expand_as(visible)
    assert blended[inside].equal(visible[inside]) and blended[outside].equal(occluded[outside])
    assert blended.dtype == torch.float64


def test_a_soft_seam_jumps_no_more_than_its_ramp():
    """Two flat colours 1 apart, over a straight edge: each step is that of the ramp, the hard seam steps by 1."""
    visible, occluded = torch.ones(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)
    steps = {
        radius: blend(visible, occluded, softened(half(), radius)).diff(dim=-1).abs() for radius in (0, 6)
    }
    assert steps[0].max() == 1
    sigma = 3  # the ramp is 2 Phi(x / sigma) - 1, no steeper than 2 / (sigma sqrt(2 pi)) but for its cut ends
    assert steps[6].max() < 1.06 * 2 / (sigma * math.sqrt(2 * math.pi))


def test_gradients_of_a_blend_reach_both_pictures_and_the_mask():
    inputs = [
        *(pictures(1, side=4, seed=seed) for seed in (0, 1)),
        torch.rand(1, 1, 4, 4, dtype=torch.float64),
    ]
    assert torch.autograd.gradcheck(blend, [x.requires_grad_() for x in inputs])


# -------------------------------------------------------------------- Poisson
def poisson_direct(visible: np.ndarray, occluded: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One channel [R, R] by a dense system with a row for each pixel, Perez et al. (2003) eq. 7 as printed."""
    side = len(mask)
    matrix, right_side = np.zeros((side**2, side**2)), np.zeros(side**2)
    for row, column in np.ndindex(side, side):
        here = row * side + column
        if mask[row, column]:
            matrix[here, here], right_side[here] = 1, visible[row, column]
            continue
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            beside = row + down, column + right
            if not (0 <= beside[0] < side and 0 <= beside[1] < side):
                continue
            matrix[here, here] += 1
            matrix[here, beside[0] * side + beside[1]] -= 1
            right_side[here] += occluded[row, column] - occluded[beside]
    return np.linalg.solve(matrix, right_side).reshape(side, side)


@pytest.mark.parametrize("mask", [holed(8), half(8), ~holed(8)], ids=["holes", "half", "islands"])
def test_poisson_blending_is_the_direct_solution(mask):
    visible, occluded = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    blended = poisson_blend(visible, occluded, mask)
    for channel in range(3):
        planes = (x[0, channel].numpy() for x in (visible, occluded))
        assert np.allclose(blended[0, channel], poisson_direct(*planes, mask[0, 0].numpy()), atol=1e-10)


def test_poisson_blending_keeps_the_photo():
    visible, occluded, mask = pictures(1, seed=0), pictures(1, seed=1), holed()
    inside = mask.expand_as(visible)
    assert poisson_blend(visible, occluded, mask)[inside].equal(visible[inside])


@pytest.mark.parametrize("mask", [holed(), half()], ids=["holes", "half"])
def test_a_constant_offset_vanishes(mask):
    visible = pictures(1)
    offset = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)[:, None, None]
    assert torch.allclose(poisson_blend(visible, visible - offset, mask), visible, atol=1e-12)


def test_the_seam_steps_as_the_generated_picture_does():
    """An offset that grows along a straight seam: the step across it is that of `occluded`, up to the curvature."""
    y, _ = grid(32)
    mask, occluded = half(32), pictures(1, side=32)
    visible = occluded + 0.5 + 0.2 * torch.cos(math.pi * y)
    seam = slice(15, 17)
    steps = [image[..., seam].diff(dim=-1) for image in (poisson_blend(visible, occluded, mask), occluded)]
    hard = blend(visible, occluded, mask)[..., seam].diff(dim=-1)
    # cos(pi y) falls off as exp(-pi x) from the seam: by pi/32 of 0.2 in the first pixel
    assert (steps[0] - steps[1]).abs().max() < 1.05 * 0.2 * math.pi / 32
    assert (hard - steps[1]).abs().min() > 0.25


def test_a_shift_lies_between_those_along_the_edge():
    """The maximum principle: no new extreme colours of the difference arise inside a hole."""
    visible, occluded = torch.rand(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4)).double()
    mask = half()
    shift = (poisson_blend(visible, occluded, mask) - occluded).where(~mask, 0)[..., SIDE // 2 :]
    edge = (visible - occluded)[..., SIDE // 2 - 1]
    for channel in range(3):
        assert (
            edge[0, channel].min()
            < shift[0, channel].min()
            < shift[0, channel].max()
            < edge[0, channel].max()
        )


def test_poisson_blending_of_empty_and_full_masks():
    visible, occluded = pictures(1, seed=0), pictures(1, seed=1)
    full = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    assert poisson_blend(visible, occluded, full).equal(visible)
    assert poisson_blend(visible, occluded, ~full).equal(occluded)


def test_poisson_blending_uses_no_colour_from_outside_the_mask():
    visible, occluded, mask = pictures(1, seed=0), pictures(1, seed=1), holed()
    unknown = visible.where(mask, math.nan)
    assert poisson_blend(unknown, occluded, mask).equal(poisson_blend(visible, occluded, mask))


# -------------------------------------------------------------------- fillings of one picture
@pytest.mark.parametrize("fill", FILLINGS)
def test_a_filling_keeps_what_is_known_and_uses_nothing_else(fill):
    picture, mask = pictures(1), holed()
    filled = fill(picture, mask)
    known = mask.expand_as(picture)
    assert filled[known].equal(picture[known])
    assert filled.isfinite().all()
    assert fill(picture.where(mask, 7.0), mask).equal(filled)
    assert fill(filled, torch.ones_like(mask)).equal(filled)


@pytest.mark.parametrize("fill", FILLINGS)
def test_linear_ramps_are_filled_exactly(fill):
    """Both equations hold for them; the holes lie inside, so that nothing is extrapolated."""
    y, x = grid(SIDE)
    picture = torch.stack([x, y, 0.3 * x - 0.6 * y + 0.1])[None]
    mask = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., 3:8, 4:11] = mask[..., 11, 12] = False
    assert torch.allclose(fill(picture, mask), picture, atol=1e-9)


def test_beyond_the_hull_of_what_is_known_lies_the_nearest_colour():
    picture = pictures(1)
    filled = interpolated(picture, half())
    assert torch.allclose(
        filled[..., SIDE // 2 :], picture[..., SIDE // 2 - 1, None].expand(-1, -1, -1, SIDE // 2)
    )


@pytest.mark.parametrize("places", [[(3, 4)], [(3, 4), (9, 1)], [(5, x) for x in range(SIDE)]])
def test_known_pixels_on_one_line_give_the_nearest_colour(places):
    picture = pictures(1)
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    rows, columns = zip(*places, strict=True)
    mask[..., rows, columns] = True
    filled = interpolated(picture, mask)
    for row, column in np.ndindex(SIDE, SIDE):
        distances = [(row - y) ** 2 + (column - x) ** 2 for y, x in places]
        nearest = [
            picture[0, :, y, x] for (y, x), d in zip(places, distances, strict=True) if d == min(distances)
        ]
        assert any(filled[0, :, row, column].equal(colour) for colour in nearest)


def test_inpainting_stays_in_the_range_of_known_colours():
    """The biharmonic equation alone would go on with the slope at the edge: here to 1 beyond 0.5."""
    _, x = grid(SIDE)
    picture = x.expand(1, 3, SIDE, SIDE)
    filled = inpainted(picture, half())
    assert filled.max() <= picture[..., : SIDE // 2].max() + 1e-12


@pytest.mark.parametrize("fill", FILLINGS)
def test_nothing_known_is_an_error(fill):
    mask = torch.cat([holed(), torch.zeros_like(holed())])
    with pytest.raises(ValueError, match="mask of picture 1 is empty"):
        fill(pictures(2), mask)


# -------------------------------------------------------------------- batches, types and bad input
@pytest.mark.parametrize("function", [poisson_blend, blend, *FILLINGS])
def test_a_batch_is_its_pictures_one_by_one(function):
    number = 2 if function in (poisson_blend, blend) else 1
    inputs = [pictures(3, seed=seed) for seed in range(number)]
    masks = random_masks(3, SIDE)
    together = function(*inputs, masks)
    alone = [function(*(x[i : i + 1] for x in inputs), masks[i : i + 1]) for i in range(3)]
    assert together.equal(torch.cat(alone))
    assert together.dtype == torch.float64
    assert function(*(x.float() for x in inputs), masks).dtype == torch.float32


@pytest.mark.parametrize("function", [lambda mask: eroded(mask, 1), lambda mask: softened(mask, 2.0)])
def test_a_batch_of_masks_is_its_masks_one_by_one(function):
    masks = random_masks(3, SIDE).double()
    assert function(masks).equal(torch.cat([function(mask[None]) for mask in masks]))
    assert function(masks).dtype == torch.float64


@pytest.mark.parametrize("function", [poisson_blend, *FILLINGS])
def test_a_mask_of_numbers_is_one_of_truth_and_a_soft_one_is_an_error(function):
    inputs = [pictures(1, seed=seed) for seed in range(2 if function is poisson_blend else 1)]
    assert function(*inputs, holed().float()).equal(function(*inputs, holed()))
    with pytest.raises(ValueError, match="expected a mask of 0 and 1"):
        function(*inputs, softened(holed(), 3))


@pytest.mark.parametrize("function", [poisson_blend, blend, *FILLINGS])
@pytest.mark.parametrize(
    "shape", [(2, 1, SIDE, SIDE), (1, 3, SIDE, SIDE), (1, 1, SIDE, SIDE - 1), (SIDE, SIDE)]
)
def test_masks_of_another_shape_are_refused(function, shape):
    inputs = [pictures(1) for _ in range(2 if function in (poisson_blend, blend) else 1)]
    with pytest.raises(TypeCheckError, match="mask"):
        function(*inputs, torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("function", [poisson_blend, blend])
def test_pictures_of_different_sizes_are_refused(function):
    with pytest.raises(TypeCheckError, match="occluded"):
        function(pictures(1), pictures(1, side=SIDE // 2), holed())


@pytest.mark.parametrize("radius", [-1, math.nan, math.inf])
def test_impossible_radii_are_refused(radius):
    with pytest.raises(ValueError, match="radius of 0 or more"):
        softened(holed(), radius)
    with pytest.raises((ValueError, TypeCheckError), match="radius"):
        eroded(holed(), radius)
