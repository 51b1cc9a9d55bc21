"""The fast lookup and decoder against autograd through grid_sample, and the generator against its plain twin."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lib.cameras import orbit
from lib.generators import EG3D, RenderingSettings, SuperResolutionConfig
from lib.generators.rendering import plane_axes, sample_planes
from lib.generators.triplanes import decode, plane_table
from tests import plain_eg3d
from tests.make_vectors import TINY, random_generator

AXES = plane_axes("corrected").double()
SIDE = 1.6


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_field(rng, batch=1, channels=3, hidden=5, colours=4, size=6):
    """Planes and two layers in float64."""
    make = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    first, last = (make(hidden, channels), make(hidden)), (make(1 + colours, hidden), make(1 + colours))
    return make(batch, 3, channels, size, size), first, last


def random_points(rng, batch, n):
    """Some of them outside the box."""
    return (torch.rand(batch, n, 3, generator=rng, dtype=torch.float64) - 0.5) * SIDE * 1.3


def decoded_plainly(planes, points, first, last):
    x = F.linear(F.softplus(F.linear(sample_planes(planes, points, AXES, SIDE), *first)), *last)
    return x[..., 0], torch.sigmoid(x[..., 1:]) * 1.002 - 0.001


def decoded(planes, points, first, last):
    return decode(plane_table(planes, AXES, SIDE), points, first, last)


@pytest.mark.parametrize(("heads", "batch"), [(1, 1), (1, 3), (3, 3)])
def test_decoding_equals_its_plain_twin(rng, heads, batch):
    planes, first, last = random_field(rng, heads)
    points = random_points(rng, batch, 50)
    for found, expected in zip(
        decoded(planes, points, first, last),
        decoded_plainly(planes.expand(batch, -1, -1, -1, -1), points, first, last),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tiles", [(16384, 16 * 16384), (7, 21)])
@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_equal_those_of_the_plain_twin(rng, monkeypatch, heads, tiles):
    monkeypatch.setattr("lib.generators.triplanes.TILE", tiles[0])
    monkeypatch.setattr("lib.generators.triplanes.SCATTER_TILE", tiles[1])
    planes, first, last = random_field(rng, heads)
    inputs = [planes, random_points(rng, 2, 50), *first, *last]
    weights = torch.randn(2, 50, 5, generator=rng, dtype=torch.float64)

    def gradients(function):
        leaves = [x.clone().requires_grad_() for x in inputs]
        density, colour = function(leaves[0], leaves[1], leaves[2:4], leaves[4:])
        loss = (weights * torch.cat([density[..., None], colour], dim=2)).sum()
        return torch.autograd.grad(loss, leaves)

    plain = lambda planes, *rest: decoded_plainly(planes.expand(2, -1, -1, -1, -1), *rest)  # noqa: E731
    fast = lambda planes, points, first, last: decoded(planes, points, tuple(first), tuple(last))  # noqa: E731
    for found, expected in zip(gradients(fast), gradients(plain), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_by_finite_differences(rng):
    planes, first, last = random_field(rng, channels=2, hidden=3, colours=2, size=4)
    points = random_points(rng, 1, 6)
    leaves = [x.requires_grad_() for x in (planes, points, *first, *last)]
    assert torch.autograd.gradcheck(
        lambda planes, points, w1, b1, w2, b2: decoded(planes, points, (w1, b1), (w2, b2)), leaves
    )


def test_only_wanted_gradients_are_computed(rng):
    planes, first, last = random_field(rng)
    planes.requires_grad_()
    density, colour = decoded(planes, random_points(rng, 1, 9), first, last)
    (density.sum() + colour.sum()).backward()
    assert planes.grad.abs().sum() > 0


def test_outside_the_box_the_biases_decide(rng):
    planes, first, last = random_field(rng)
    points = torch.tensor([[[1.0, 1.0, 1.0], [-1.0, -5.0, 1e6]]], dtype=torch.float64)
    density, _ = decoded(planes, points, first, last)
    expected = F.linear(F.softplus(first[1]), *last)[0]
    torch.testing.assert_close(density, expected.expand(1, 2))


def test_autocast_changes_nothing(rng):
    planes, first, last = random_field(rng)
    points = random_points(rng, 1, 20)
    plain = decoded(planes, points, first, last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = decoded(planes, points, first, last)
    assert all(a.equal(b) for a, b in zip(plain, rounded, strict=True))


def test_wrong_planes_are_explained(rng):
    planes, first, last = random_field(rng, batch=2)
    with pytest.raises(ValueError, match="planes of batch 2 cannot serve points of batch 3"):
        decoded(planes, random_points(rng, 3, 4), first, last)
    with pytest.raises(ValueError, match="expected square planes"):
        plane_table(planes[..., :4], AXES, SIDE)


# -------------------------------------------------------------------- the generator as a whole
def official(name: str, **changes) -> dict:
    """A tiny super-resolution of the structure that the official module has."""
    known = SuperResolutionConfig.official(name, **changes)
    return {"superresolution": dataclasses.replace(known, input_resolution=8, widths=(6, 4))}


CASES = {
    "8XDC": official("8XDC"),
    "8X": official("8X"),
    "4X": official("4X"),
    "4X, larger features": official("4X") | {"neural_resolution": 12},
    "2X": official("2X"),
    "enlarged": official("2X") | {"neural_resolution": 6},
    "reduced": official("8X") | {"neural_resolution": 12},
    "reduced without antialiasing": official("8X", antialias=False) | {"neural_resolution": 12},
    "noise in the super-resolution": official("2X", noise_mode="const"),
    "white": {
        "rendering": RenderingSettings(8, 6, ray_start=0.5, ray_end=2.0, white_back=True, box_warp=1.6)
    },
    "backbone clamped": {"conv_clamp": 1.5},
    "float16 on a CPU is float32": {"num_fp16_res": 2, "conv_clamp": 256.0},
    "axes as numbers": {"plane_axes": tuple(tuple(map(tuple, axes)) for axes in AXES.tolist())},
}


@pytest.mark.parametrize("case", CASES)
def test_generator_equals_its_plain_twin(case):
    generator = random_generator(dataclasses.replace(TINY, **CASES[case]), seed=5)
    w_plus = torch.randn(2, generator.n_layers, generator.w_dim, generator=torch.Generator().manual_seed(1))
    camera = orbit(torch.tensor([0.4, -0.3]), 0.1)
    found, expected = (
        generator.synthesize(w_plus, camera),
        plain_eg3d.synthesised(generator, w_plus, camera.label()),
    )
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert b.std() > 0, name
        torch.testing.assert_close(
            a, b, atol=1e-4 * b.abs().max().item(), rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_gradients_equal_those_of_the_plain_twin_for_w_and_weights():
    generator = random_generator(dataclasses.replace(TINY, conv_clamp=2.0), seed=6).double()
    generator.requires_grad_(True)
    label = orbit(0.3, 0.1).label().double()
    w_plus = torch.randn(1, generator.n_layers, generator.w_dim, dtype=torch.float64).requires_grad_()
    leaves = [w_plus, *generator.parameters()]

    def gradients(view):
        loss = view.image.square().mean() + view.depth.mean() + view.features.square().mean()
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    found = gradients(generator.synthesize(w_plus, label))
    expected = gradients(plain_eg3d.synthesised(generator, w_plus, label))
    names = ["w_plus", *(name for name, _ in generator.named_parameters())]
    for name, a, b in zip(names, found, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("trained", [False, True])
def test_gradients_after_autocast_stay_close(trained):
    generator = random_generator(TINY, seed=6).requires_grad_(trained)
    start = torch.randn(1, generator.n_layers, generator.w_dim, generator=torch.Generator().manual_seed(1))

    def gradient(precision):
        w_plus = start.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            view = generator.synthesize(w_plus, orbit(0.3, 0.1))
        view.image.float().square().mean().backward()
        return w_plus.grad

    plain, rounded = gradient("float32"), gradient("bfloat16")
    assert F.cosine_similarity(plain.flatten(), rounded.flatten(), dim=0) > 0.98


def test_aliasing_of_the_original_is_an_option():
    """There, a block that does not upsample adds its picture to the raw one in place."""
    config = dataclasses.replace(TINY, **official("2X"))
    aliased = dataclasses.replace(
        config, superresolution=dataclasses.replace(config.superresolution, aliased=True)
    )
    ours, theirs = (random_generator(c, seed=7) for c in (config, aliased))
    w_plus = torch.randn(1, ours.n_layers, ours.w_dim, generator=torch.Generator().manual_seed(1))
    camera = orbit(0.2, 0.0)
    plain, tied = ours.synthesize(w_plus, camera), theirs.synthesize(w_plus, camera)
    assert tied.image.equal(plain.image)
    assert tied.features.equal(plain.features)
    block, styles = ours.superresolution.block0, w_plus[:, -1:].expand(-1, 3, -1)
    _, added = block(plain.features, plain.image_raw, styles, "none")
    torch.testing.assert_close(tied.image_raw, added)
    assert not tied.image_raw.allclose(plain.image_raw)
    # Features of another size are resized first: a copy, which the original leaves alone.
    resized = theirs.synthesize(w_plus, camera, neural_resolution=4)
    assert resized.image_raw.equal(ours.synthesize(w_plus, camera, neural_resolution=4).image_raw)


def test_noise_of_the_super_resolution_is_drawn_from_the_given_generator():
    config = dataclasses.replace(TINY, **official("2X", noise_mode="random"))
    generator: EG3D = random_generator(config, seed=8)
    w_plus = torch.randn(1, generator.n_layers, generator.w_dim, generator=torch.Generator().manual_seed(1))
    images = [
        generator.synthesize(w_plus, orbit(0.0, 0.0), rng=torch.Generator().manual_seed(seed)).image
        for seed in (1, 1, 2)
    ]
    assert images[0].equal(images[1])
    assert not images[0].equal(images[2])
    # Without one a view repeats itself: one fixed map of noise stands for all.
    fixed = random_generator(dataclasses.replace(TINY, **official("2X", noise_mode="const")), seed=8)
    assert generator.synthesize(w_plus, orbit(0.0, 0.0)).image.equal(
        fixed.synthesize(w_plus, orbit(0.0, 0.0)).image
    )
