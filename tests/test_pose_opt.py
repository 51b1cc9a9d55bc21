"""Pose-Opt: the camera is found along with the code, and its two objectives are what they say."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lib.cameras import orbit
from lib.generators import EG3D
from lib.images import resize
from lib.inversion import Inversion, invert_pose_opt
from lib.inversion.poses import FORMS, canonical_warping_loss
from lib.inversion.projection import w_statistics
from lib.inversion.result import fingerprint
from lib.losses import total_variation_loss
from tests.tiny_generator import RandomFeatures, tiny_generator

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

TRUE_YAW, TRUE_PITCH = 0.13, -0.07
"""8.5 degrees from the front, where the search begins."""

PERCEPTUAL = RandomFeatures()


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def code(generator) -> Tensor:
    """A head whose pictures tell their camera: from the front the way to it leads downhill."""
    return generator.map(torch.randn(1, 16, generator=torch.Generator().manual_seed(3)), orbit(0.0, 0.0))


@pytest.fixture(scope="module")
def target(generator, code) -> Tensor:
    return generator.synthesize(code, orbit(TRUE_YAW, TRUE_PITCH)).image.clamp(-1, 1)


@pytest.fixture(scope="module")
def invert(generator, target):
    """Pose-Opt in a second."""

    def run(camera=None, **changes) -> Inversion:
        settings = {
            "latent_steps": 3,
            "pose_steps": 1,
            "steps": 2,
            "statistics_samples": 50,
            "perceptual": PERCEPTUAL,
            "features": PERCEPTUAL.target,
            "progress": False,
        }
        return invert_pose_opt(generator, target, camera, **settings | changes)

    return run


def degrees_off(found: Inversion) -> float:
    """Angle between the directions from which the found camera and the true one see the head."""
    true = torch.nn.functional.normalize(orbit(TRUE_YAW, TRUE_PITCH).position[0], dim=0)
    direction = torch.nn.functional.normalize(found.camera.position[0], dim=0)
    return math.degrees(torch.linalg.vector_norm(true - direction).item())


# -------------------------------------------------------------------- the camera
@pytest.mark.parametrize("pose", ["free", "network"])
@pytest.mark.parametrize("form", FORMS)
def test_a_planted_error_of_the_pose_is_found(invert, code, pose, form):
    """The head known and kept: from the front most of the way to the camera, in all forms, by both kinds of pose."""
    settings = {"latent_steps": 24, "pose_steps": 6, "latent_rate": 0.0, "shake": 0.0, "lam_warp": 0.1}
    found = invert(initial=code, pose=pose, form=form, steps=1, **settings)
    assert degrees_off(found) < 4.2 < 8.4 < degrees_off(Inversion(code, found.generator, orbit(0.0, 0.0)))
    assert found.history["latent_l2"][-1] < 0.3 * found.history["latent_l2"][0]


def test_the_first_steps_move_the_camera_and_leave_the_code_alone(invert, code):
    codes = []
    found = invert(
        initial=code,
        latent_steps=8,
        pose_steps=5,
        space="wplus",
        shake=0.5,
        callback=lambda _, state: codes.append(state.w_plus.clone()),
    )
    assert all(torch.equal(now, code) for now in codes[:5])
    assert not torch.allclose(codes[5], code) and not torch.allclose(found.w_plus, code)
    yaws = found.history["latent_yaw"]
    assert len(yaws) == 8 and all(now != then for now, then in itertools.pairwise(yaws))
    assert (
        found.history["latent_learning_rate"][:6] == [0.0] * 6
        and found.history["latent_learning_rate"][6] > 0
    )


def test_the_results_camera_is_the_one_that_was_found(invert, target, generator):
    found = invert(latent_steps=6, pose_steps=3)
    assert found.camera.yaw.abs().item() > 1e-3 and not found.camera.world_from_cam.requires_grad
    assert found.camera.position.norm().item() == pytest.approx(2.7, abs=1e-5)
    assert torch.equal(found.camera.intrinsics, orbit(0.0, 0.0).intrinsics)
    before_tuning = generator.synthesize(found.w_plus, found.camera).image
    assert found.history["lpips"][0] == pytest.approx(PERCEPTUAL(before_tuning, target).item(), rel=1e-4)


def test_the_search_begins_at_the_given_camera(invert):
    found = invert(orbit(0.3, 0.1), form="angles")
    assert found.history["latent_yaw"][0] == pytest.approx(0.3, abs=1e-5)
    assert found.history["latent_pitch"][0] == pytest.approx(0.1, abs=1e-5)
    assert invert().history["latent_yaw"][0] == pytest.approx(0, abs=1e-6)


# -------------------------------------------------------------------- the code
@pytest.mark.parametrize("space", ["w", "wplus"])
def test_a_code_may_be_given_to_start_from(invert, generator, code, space):
    """Without steps of the code it stays: as it is in W+, the mean of its layers in W."""
    many = code + 0.1 * torch.arange(generator.n_layers)[None, :, None]
    expected = many if space == "wplus" else many.mean(dim=1, keepdim=True).expand_as(many)
    for initial in (many, Inversion(many, generator, orbit(0.0, 0.0))):
        found = invert(initial=initial, space=space, latent_rate=0.0)
        assert torch.allclose(found.w_plus, expected, atol=1e-6)


# -------------------------------------------------------------------- the objectives
def start_code(generator: EG3D, samples: int, psi: float) -> Tensor:
    """The mean of truncated codes, one by one, is what the search starts from."""
    mean, _ = w_statistics(generator, None, samples, torch.Generator().manual_seed(0))
    return (generator.w_mean + psi * (mean - generator.w_mean)).expand(1, generator.n_layers, -1)


def test_stage_1_minimises_picture_and_warp_of_the_canonical_view(invert, generator, target):
    start = orbit(0.1, 0.05)
    found = invert(start, shake=0.0, lam_l2=2.0, lam_lpips=3.0, lam_warp=5.0).history
    w = start_code(generator, 50, 0.7)
    view, front = (generator.synthesize(w, camera) for camera in (start, generator.frontal_camera()))
    warp = canonical_warping_loss(
        PERCEPTUAL.target(target),
        PERCEPTUAL.target(front.image),
        start,
        view.depth,
        generator.frontal_camera(),
    )
    l2, lpips = (view.image - target).square().mean(), PERCEPTUAL(view.image, target)
    assert found["latent_warp"][0] == pytest.approx(warp.item(), rel=1e-3)
    assert found["latent_loss"][0] == pytest.approx((2 * l2 + 3 * lpips + 5 * warp).item(), rel=1e-3)
    assert "latent_warp" not in invert(lam_warp=0.0).history


def test_stage_2_minimises_both_pictures_and_the_variation_of_depth(invert, generator, target):
    """At its first step, the generator as it was: L2 + LPIPS of the picture and of the raw one, and smooth depth."""
    found = invert(lam_l2=2.0, lam_lpips=3.0, lam_smooth=50.0)
    view, small = generator.synthesize(found.w_plus, found.camera), resize(target, 8)
    expected = {
        "l2": (view.image - target).square().mean(),
        "lpips": PERCEPTUAL(view.image, target),
        "raw_l2": (view.image_raw - small).square().mean(),
        "raw_lpips": PERCEPTUAL(view.image_raw, small),
        "smooth": total_variation_loss(view.depth),
    }
    for name, value in expected.items():
        assert found.history[name][0] == pytest.approx(value.item(), rel=1e-3), name
    weights = {"l2": 2.0, "lpips": 3.0, "raw_l2": 2.0, "raw_lpips": 3.0, "smooth": 50.0}
    total = sum(weights[name] * value.item() for name, value in expected.items())
    assert found.history["loss"][0] == pytest.approx(total, rel=1e-3)


def test_it_stops_where_both_distances_together_have_come_to_the_threshold(invert):
    plain = invert(steps=3)
    both = plain.history["lpips"][0] + plain.history["raw_lpips"][0]
    assert invert(steps=3, lpips_threshold=1.001 * both).extras["steps_taken"] == 0
    assert invert(steps=3, lpips_threshold=0.9 * both).extras["steps_taken"] > 0
    assert plain.extras["steps_taken"] == 3, "no threshold of its own on small pictures"


# -------------------------------------------------------------------- what every method keeps to
@pytest.mark.parametrize("pose", ["free", "network"])
def test_the_same_seed_gives_the_same_result_and_leaves_all_else_alone(invert, generator, pose):
    before, state = fingerprint(generator.state_dict()), torch.get_rng_state()
    first, again, other = (invert(pose=pose, seed=seed) for seed in (3, 3, 4))
    assert first.history == again.history != other.history
    assert torch.equal(first.camera.label(), again.camera.label())
    assert fingerprint(first.generator.state_dict()) == fingerprint(again.generator.state_dict())
    assert fingerprint(generator.state_dict()) == before != fingerprint(first.generator.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad or p.grad is not None for p in first.generator.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose": "fixed"}, "free or network; got 'fixed'"),
        ({"form": "matrix"}, "quaternion, 6d, angles; got 'matrix'"),
        ({"pose_steps": 3}, "first of the 3 latent_steps.*got 3"),
        ({"pose_steps": -1}, "got -1"),
        ({"steps": 0}, "steps must be 1 or more; got 0"),
        ({"latent_steps": 0}, "latent_steps must be 1 or more; got 0"),
    ],
)
def test_bad_settings_are_refused(invert, changes, message):
    with pytest.raises(ValueError, match=message):
        invert(**changes)
