"""What the conditioning camera changes, on a generator of random weights and a parser that is told what to see."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_generator import tiny_generator

from lib import metrics, parsing
from lib.cameras import orbit
from lib.datasets import samples
from lib.encoders.background import average_background_depth, background_mask
from lib.evaluation import canonical_space, measures
from lib.evaluation.canonical_space import (
    FEWEST_CELLS,
    LEDGER_METRICS,
    MEASURED,
    changes,
    conditioned,
    head_numbers,
    moved_at_random,
    prior_rows,
    relative_shift,
)
from lib.evaluation.protocol import COLUMNS
from lib.generators import EG3D
from lib.runs import claims, verdicts

N = 6


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def z(generator):
    return torch.randn(N, generator.z_dim, generator=torch.Generator().manual_seed(0))


def skin_in_the_middle(images):
    """Class probabilities [B, 19, R, R]: skin in the inner half of every side, background in the columns left of it and
    hair elsewhere."""
    side = images.shape[-1]
    found = torch.zeros(len(images), len(parsing.CLASSES), side, side)
    classes = torch.full((side, side), parsing.CLASSES.index("hair"))
    classes[:, : side // 4] = parsing.CLASSES.index("background")
    classes[side // 4 : -side // 4, side // 4 : -side // 4] = parsing.CLASSES.index("skin")
    return found.scatter_(1, classes.expand(len(images), 1, -1, -1), 1.0)


@pytest.fixture
def told_parser(monkeypatch):
    monkeypatch.setattr(parsing, "class_probabilities", skin_in_the_middle)


def told_yaws(monkeypatch, *yaws):
    """Detection that finds these yaws, one after the other; NaN: no face."""
    left = list(yaws)

    def found(images, detector):
        turns = torch.tensor([left.pop(0) for _ in images])
        rotations = metrics.camera_rotations(orbit(turns.nan_to_num(), torch.zeros(len(images))))
        return rotations.where(turns.isfinite()[:, None, None], torch.nan)

    monkeypatch.setattr(metrics, "detected_rotations", found)


# ----------------------------------------------------------------------- D_avg
def test_a_mask_has_a_cell_for_every_pixel_or_for_every_ray(told_parser):
    images = torch.zeros(2, 3, 16, 16)
    full, rays = background_mask(images), background_mask(images, 8)
    assert full.shape == (2, 1, 16, 16) and rays.shape == (2, 1, 8, 8)
    for mask in (full, rays):
        assert mask.dtype == torch.bool
        quarter = mask.shape[-1] // 4
        assert mask[..., :quarter].all() and not mask[..., quarter:].any()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 8, 9)])
def test_only_square_pictures_have_a_mask(shape):
    with pytest.raises(ValueError, match=r"\[B, 3, R, R\]"):
        background_mask(torch.zeros(shape))


def test_the_average_is_that_of_all_rays_that_see_background(generator, told_parser):
    """The slow twin: one sample after the other."""
    z = torch.randn(5, generator.z_dim, generator=torch.Generator().manual_seed(3))
    front = generator.frontal_camera()
    depths = []
    for code in z.split(1):
        depth = generator.synthesize(generator.map(code, front), front).depth
        depths.append(depth[..., : depth.shape[-1] // 4].flatten())
    expected = torch.cat(depths).mean().item()
    for batch in (2, 5):
        assert average_background_depth(generator, 5, seed=3, batch=batch) == pytest.approx(
            expected, rel=1e-5
        )
    assert average_background_depth(generator, 5, seed=4) != pytest.approx(expected, rel=1e-5)


def test_heads_with_more_background_count_more(generator, monkeypatch):
    """Every ray counts the same, whichever sample it belongs to."""

    def growing(images):
        found = skin_in_the_middle(images)
        found[0] = 0
        found[0, parsing.CLASSES.index("background")] = 1
        return found

    monkeypatch.setattr(parsing, "class_probabilities", growing)
    front = generator.frontal_camera()
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    depth = generator.synthesize(generator.map(z, front), front).depth
    rays = torch.cat([depth[0].flatten(), depth[1, ..., : depth.shape[-1] // 4].flatten()])
    assert average_background_depth(generator, 2) == pytest.approx(rays.mean().item(), rel=1e-5)


def test_a_generator_without_background_has_no_average(generator, monkeypatch):
    skin = torch.nn.functional.one_hot(torch.tensor(1), 19).float()[None, :, None, None]
    monkeypatch.setattr(parsing, "class_probabilities", lambda images: skin.expand(len(images), -1, 16, 16))
    with pytest.raises(ValueError, match="no background in 3 samples"):
        average_background_depth(generator, 3)
    with pytest.raises(ValueError, match="n = 0"):
        average_background_depth(generator, 0)


# ----------------------------------------------------------------------- codes
def test_stretched_codes_go_on_in_the_direction_of_the_camera(generator, z):
    canonical, near, far = (conditioned(generator, z, 0.4, stretch) for stretch in (0.0, 1.0, 5.0))
    assert torch.equal(canonical, generator.map(z, generator.frontal_camera()))
    assert torch.allclose(near, generator.map(z, generator.camera(0.4)), atol=1e-6)
    assert not torch.allclose(near, canonical, atol=1e-3)
    assert torch.allclose(far - canonical, 5 * (near - canonical), atol=1e-5)
    assert torch.equal(conditioned(generator, z, 0.0, 9.0), canonical)


def test_the_control_goes_as_far_and_elsewhere(generator, z):
    canonical, moved = (conditioned(generator, z, yaw, 5.0) for yaw in (0.0, 0.4))
    control = moved_at_random(canonical, moved, seed=1)
    lengths = [(codes - canonical).norm(dim=2) for codes in (moved, control)]
    assert torch.allclose(*lengths, rtol=1e-4)
    assert torch.equal(control, moved_at_random(canonical, moved, seed=1))
    shift = control - canonical
    assert torch.allclose(shift, shift[:, :1].expand_as(shift)), "one direction for all layers"
    cosine = torch.cosine_similarity(shift[:, 0], (moved - canonical)[:, 0], dim=1)
    assert (cosine < 0.9).all()


def test_the_shift_is_relative_to_the_distance_of_two_codes(generator):
    z = torch.randn(40, generator.z_dim, generator=torch.Generator().manual_seed(0))
    canonical, side = (generator.map(z, generator.camera(yaw))[:, 0] for yaw in (0.0, 0.4))
    pairs = torch.cdist(canonical, canonical)[~torch.eye(40, dtype=torch.bool)]
    expected = (side - canonical).square().sum(1).mean().sqrt() / pairs.square().mean().sqrt()
    assert relative_shift(generator, z, 0.4) == pytest.approx(expected.item(), rel=1e-4)


# ----------------------------------------------------------------------- heads
def test_numbers_are_those_of_face_and_background(generator, z, told_parser, monkeypatch):
    monkeypatch.setattr(canonical_space, "FEWEST_CELLS", 1)
    yaws = np.linspace(-0.3, 0.3, N).astype(np.float32)
    told_yaws(monkeypatch, *yaws)
    codes = conditioned(generator, z, 0.2)
    found = head_numbers(generator, codes, 2.5, detector=None, batch=4)
    assert tuple(found) == MEASURED
    assert found["turn"] == pytest.approx(yaws, abs=1e-4)
    for i, code in enumerate(codes.split(1)):
        depth = generator.synthesize(code, generator.frontal_camera()).depth[0, 0].double().numpy()
        face, background = depth[2:-2, 2:-2], depth[:, :2]
        assert found["relief"][i] == pytest.approx(face.std(), rel=1e-3)
        assert found["background_depth"][i] == pytest.approx(background.mean(), rel=1e-5)
        assert found["background_miss"][i] == pytest.approx(
            np.sqrt(((background - 2.5) ** 2).mean()), rel=1e-4
        )


def test_too_few_rays_have_no_depth(generator, z, monkeypatch):
    def hardly_a_face(images):
        found = torch.zeros(len(images), 19, 8, 8)
        found[:, parsing.CLASSES.index("background")] = 1
        found[0, :, 0, : FEWEST_CELLS - 4] = 0
        found[0, 1, 0, : FEWEST_CELLS - 4] = 1
        return found

    monkeypatch.setattr(parsing, "class_probabilities", hardly_a_face)
    told_yaws(monkeypatch, 0.0, math.nan)
    found = head_numbers(generator, conditioned(generator, z[:2], 0.0), 2.5, detector=None)
    assert np.isnan(found["relief"]).all()
    assert np.isfinite(found["background_depth"]).all() and np.isfinite(found["background_miss"]).all()
    assert np.isfinite(found["turn"][0]) and np.isnan(found["turn"][1])


def test_changes_are_of_the_same_latents():
    rng = np.random.default_rng(0)
    canonical = {
        name: rng.normal(0, 10, 30) for name in MEASURED
    }  # people differ much more than the camera does
    found = {
        -0.5: {name: values - 0.1 for name, values in canonical.items()},
        0.5: {name: np.where(np.arange(30) < 2, np.nan, values + 0.2) for name, values in canonical.items()},
    }
    for name, (left, right) in changes(found, canonical).items():
        assert (left.mean, left.low, left.high) == pytest.approx((-0.1, -0.1, -0.1)), name
        assert (right.mean, right.n, right.missing) == (pytest.approx(0.2), 28, 2), name


# ----------------------------------------------------------------------- the ledger
@pytest.fixture
def coarse_shapes(monkeypatch):
    """Shapes on as few rays as a test needs."""
    monkeypatch.setattr(
        measures, "shape_view", lambda head, camera: head.render(camera, neural_resolution=32)
    )


def sampled_scene(generator, seed=7):
    """A scene of the test split as `lib.datasets.scenes` gives them."""
    scene = samples.make(seed, generator, input_yaw=0.3, with_ellipse=False)
    return replace(scene, extras=dict(scene.extras) | {"split": "test"})


def test_rows_are_those_that_the_claim_asks_for(generator, coarse_shapes):
    scenes = [sampled_scene(generator, seed) for seed in (7, 9)]
    table = prior_rows(generator, scenes)
    assert list(table.columns) == list(COLUMNS)
    claim = claims.read_ledger()["goae-15"]
    assert set(table["method"]) == set(claim.methods)
    assert set(table["metric"]) == {test.metric for test in claim.tests} == set(LEDGER_METRICS)
    assert len(table) == 2 * 2 * 2 and table["is_input"].all()
    assert "missing" not in {finding.outcome for finding in verdicts.verdict(claim, table).findings}


def test_under_the_canonical_camera_a_sample_is_its_own_truth(generator, coarse_shapes):
    scene = sampled_scene(generator)
    rows = prior_rows(generator, [scene]).set_index(["method", "metric"])["value"]
    depth = scene.input.depth[scene.input.mask]
    depth = depth[~depth.isnan()]
    assert rows["prior-canonical", "depth_relief"] == pytest.approx(depth.std(correction=0).item(), rel=0.1)
    assert rows["prior-side", "depth_relief"] != rows["prior-canonical", "depth_relief"]
    same = prior_rows(generator, [scene], yaw=0.0).set_index(["method", "metric"])["value"]
    for metric in LEDGER_METRICS:
        assert (
            same["prior-side", metric] == same["prior-canonical", metric] == rows["prior-canonical", metric]
        )


def test_scenes_of_others_have_no_latent_here(generator):
    scene = sampled_scene(generator)
    with pytest.raises(ValueError, match="no sample of this generator"):
        prior_rows(generator, [replace(scene, truth={"w_plus": scene.truth["w_plus"] + 1})])
    with pytest.raises(ValueError, match="of 'heads'"):
        prior_rows(generator, [replace(scene, extras={"kind": "heads"})])
