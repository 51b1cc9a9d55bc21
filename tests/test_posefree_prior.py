"""What a pose-free generator is worth, on generators and angles whose truth is known."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_generator import TINY, RandomFeatures

from lib import datasets, metrics
from lib.cameras import orbit
from lib.datasets import LatentSpace, Portraits, UnposedPortraits
from lib.evaluation import posefree_prior as evaluation
from lib.evaluation.posefree_prior import (
    agreement,
    by_angle,
    camera_angles,
    own_samples,
    painted,
    portrait_angles,
    sampled_poses,
    seen_from_own_pose,
    some_points,
    spread,
    with_posed_codes,
)
from lib.evaluation.prior import held_out_renders
from lib.generators import PoseFreeConfig, PoseFreeEG3D

STYLE = 6
"""Numbers in a style of the teacher of these tests."""


@pytest.fixture(scope="module")
def generator() -> PoseFreeEG3D:
    """Random weights, dim pictures, poses of some tenths of a radian."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = PoseFreeEG3D(PoseFreeConfig.like(TINY)).eval().requires_grad_(False)
    found.backbone.mapping.affine_layer2.weight.mul_(0.3)
    found.decoder.net[2].weight[0] *= 60
    for name, parameter in found.named_parameters():
        if name.startswith("superresolution") and "torgb.weight" in name:
            parameter.mul_(0.02)
    return found.measure_w(n=500)


@pytest.fixture(scope="module")
def portraits(generator) -> Portraits:
    """Rendered from the cameras that the codes say: four people in three views each, held out, and eight singles."""
    n = 20
    z = np.random.default_rng(0).standard_normal((n, generator.z_dim)).astype(np.float32)
    w_plus, camera = generator.generate(torch.from_numpy(z))
    with torch.inference_mode():
        view = generator.synthesize(w_plus, camera)
    single = np.arange(n) >= 12
    return Portraits(
        images=((view.image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(),
        labels=camera.label().numpy(),
        yaw=camera.yaw.numpy(),
        target_yaw=np.where(single, np.nan, 0.3),
        face_depth=view.depth[:, 0].numpy(),
        inside=np.ones((n, generator.resolution, generator.resolution), bool),
        z=z,
        person=np.where(single, np.arange(n), np.arange(n) // 3),
        held_out=np.arange(n) >= 6,
    )


@pytest.fixture(autouse=True)
def cheap_lpips(monkeypatch):
    monkeypatch.setattr(metrics, "make_lpips", RandomFeatures)


# ----------------------------------------------------------------------- angles
def test_a_mirrored_and_turned_frame_is_aligned():
    detected = np.random.default_rng(0).normal(0, 0.3, 50)
    found = agreement(-(detected - 0.1), detected)
    assert found["sign"] == -1
    assert found["correlation"] == pytest.approx(-1)
    assert found["offset"] == pytest.approx(np.degrees(0.1))
    assert found["rms"] == pytest.approx(0, abs=1e-9)
    assert found["spread"] == pytest.approx(1)


def test_timid_angles_have_a_small_spread_and_leave_the_rest_as_error():
    detected = np.random.default_rng(0).normal(0.2, 0.3, 400)
    found = agreement(0.25 * detected, detected)
    assert found["correlation"] == pytest.approx(1)
    assert found["spread"] == pytest.approx(0.25)
    assert found["rms"] == pytest.approx(0.75 * found["detected_deviation"])
    assert found["learned_deviation"] == pytest.approx(0.25 * found["detected_deviation"])


def test_the_frame_is_kept_where_both_turn_alike():
    learned = np.array([0.0, 0.1, 0.2, 0.3])
    found = agreement(learned, learned + 0.05 + np.array([0.01, -0.01, -0.01, 0.01]))
    assert (found["sign"], found["offset"]) == (1, pytest.approx(np.degrees(0.05)))
    assert found["rms"] == pytest.approx(np.degrees(0.01))


def test_heads_that_are_not_found_do_not_count():
    learned, detected = np.array([0.0, 9.0, 0.1, 0.2]), np.array([0.0, np.nan, 0.1, 0.2])
    for measure in (agreement, painted):
        found = measure(learned, detected)
        assert found["correlation"] == pytest.approx(1)
        assert (found["found"], found["heads"]) == (0.75, 4)
        with pytest.raises(ValueError, match="at least 3"):
            measure(learned[:3], detected[:3])
        with pytest.raises(ValueError, match="expected"):
            measure(learned[:, None], detected[:, None])


def test_a_learner_that_says_the_same_of_all_knows_nothing():
    detected = np.array([0.0, 0.3, -0.2])
    assert agreement(np.full(3, 0.7), detected)["correlation"] == 0
    assert agreement(np.full(3, 0.7), detected)["spread"] == pytest.approx(0)
    assert painted(np.full(3, 0.7), detected)["share"] == 0


def test_what_is_painted_is_the_slope_of_what_is_seen_from_the_front():
    learned = np.array([-0.4, 0.0, 0.1, 0.3])
    found = painted(learned, 0.2 * learned + 0.05)
    assert found["share"] == pytest.approx(0.2)
    assert found["turn"] == pytest.approx(np.degrees(0.05))
    assert found["turn_deviation"] == pytest.approx(np.degrees(0.2 * learned.std()))
    apart = painted(learned, np.array([0.1, -0.2, 0.3, 0.0]))
    by_hand = np.polyfit(learned, [0.1, -0.2, 0.3, 0.0], 1)[0]
    assert apart["share"] == pytest.approx(by_hand)


def test_yaw_is_compared_with_yaw_and_pitch_with_pitch():
    angles = np.random.default_rng(0).normal(size=(30, 2))
    found = by_angle(agreement, angles, angles * [1, -2])
    assert found["yaw"]["correlation"] == pytest.approx(1)
    assert (found["pitch"]["sign"], found["pitch"]["spread"]) == (-1, pytest.approx(0.5))


def test_points_of_a_figure_stay_together():
    learned = np.radians([[1.0, 2.0], [10.0, 20.0], [3.0, 4.0], [5.0, 6.0]])
    detected = np.where([[False], [True], [False], [False]], np.nan, 2 * learned)
    assert some_points(learned, detected) == [[1, 2, 2, 4], [3, 4, 6, 8], [5, 6, 10, 12]]
    fewer = some_points(learned, detected, n=2)
    assert len(fewer) == 2
    assert all(row in some_points(learned, detected) for row in fewer)


# ----------------------------------------------------------------------- samples
def test_samples_are_seen_from_the_cameras_that_their_codes_say(generator):
    found = own_samples(generator, 5, seed=3, frontal=True, batch=2)
    z = torch.randn(5, generator.z_dim, generator=torch.Generator().manual_seed(3))
    w_plus = generator.map(z)
    assert torch.allclose(found.w_plus, w_plus)
    assert np.ptp(camera_angles(found.camera)[:, 0]) > 0.1
    for i, w in enumerate(w_plus.split(1)):
        for image, camera in (
            (found.images[i], generator.own_camera(w[:, 0])),
            (found.frontal[i], generator.frontal_camera()),
        ):
            alone = generator.synthesize(w, camera).image[0].clamp(-1, 1)
            assert torch.allclose(image, alone, atol=1e-4)
    assert not len(own_samples(generator, 2).frontal)


def test_truncation_moves_people_and_not_their_cameras(generator):
    whole, centred = (own_samples(generator, 3, psi=psi) for psi in (1.0, 0.0))
    assert torch.equal(whole.camera.label(), centred.camera.label())
    assert torch.allclose(
        centred.w_plus, generator.backbone.mapping.w_avg.expand_as(centred.w_plus), atol=1e-5
    )
    assert not torch.allclose(whole.w_plus, centred.w_plus, atol=0.1)


def test_heads_that_stand_as_their_cameras_say_agree(generator, monkeypatch):
    """The detector of this test sees, from their own cameras, what the codes say, and turned heads from the front."""
    samples = own_samples(generator, 8, frontal=True)
    kept = orbit(0.1 * samples.camera.yaw + 0.2, -0.1)
    rotations = {
        id(samples.images): metrics.camera_rotations(samples.camera),
        id(samples.frontal): metrics.camera_rotations(kept),
    }
    monkeypatch.setattr(metrics, "detected_rotations", lambda images, detector: rotations[id(images)])
    found = sampled_poses(samples, detector=None)
    for angle in ("yaw", "pitch"):
        own = found["samples"][angle]
        assert (own["sign"], own["offset"]) == (1, pytest.approx(0, abs=1e-3))
        assert own["correlation"] == pytest.approx(1, abs=1e-4)
        assert own["rms"] < 1e-3
    assert found["painted"]["yaw"]["share"] == pytest.approx(0.1, abs=1e-4)
    assert found["painted"]["yaw"]["turn"] == pytest.approx(
        np.degrees(0.1 * camera_angles(samples.camera)[:, 0].mean() + 0.2), abs=1e-3
    )
    assert found["painted"]["pitch"]["turn"] == pytest.approx(np.degrees(-0.1), abs=1e-3)
    assert np.radians(found["samples_points"][0][0]) == pytest.approx(samples.camera.yaw[0].item(), abs=1e-3)


# ----------------------------------------------------------------------- held-out portraits
def unposed(portraits: Portraits) -> UnposedPortraits:
    styles = np.random.default_rng(1).standard_normal((len(portraits), STYLE))
    return UnposedPortraits(
        portraits.images, portraits.inside, styles, np.isnan(portraits.target_yaw), portraits.held_out
    )


class Doubling:
    """Stands for the whitening of styles."""

    def z(self, styles):
        return 2 * styles


def test_portraits_get_the_codes_of_their_own_styles(portraits):
    others = unposed(portraits)
    found = with_posed_codes(portraits, others, Doubling())
    assert np.allclose(found.z, 2 * others.styles)
    assert found.z.dtype == np.float32
    assert found.images is portraits.images
    with pytest.raises(ValueError, match="row by row"):
        with_posed_codes(portraits, others[::-1], Doubling())


def test_codes_that_say_the_pose_of_their_portraits_agree_with_them(generator, portraits):
    learned, detected = portrait_angles(generator, portraits)
    assert np.allclose(learned, detected, atol=1e-4)
    elsewhere = dataclasses.replace(portraits, labels=orbit(0.3, 0.1).expand(len(portraits)).label().numpy())
    learned, detected = portrait_angles(generator, elsewhere)
    assert np.allclose(detected, [0.3, 0.1], atol=1e-4)
    assert np.ptp(learned[:, 0]) > 0.1


def test_portraits_are_rendered_from_where_their_codes_say(generator, portraits):
    elsewhere = dataclasses.replace(portraits, labels=orbit(0.3, 0.1).expand(len(portraits)).label().numpy())
    back = seen_from_own_pose(generator, elsewhere)
    assert np.allclose(back.labels, portraits.labels, atol=1e-5)
    assert np.allclose(elsewhere.labels[0], orbit(0.3, 0.1).label()[0])  # what came in is left alone
    own, other = (np.mean(held_out_renders(generator, some)["mse"]) for some in (back, elsewhere))
    assert own < (1 / 255) ** 2 < other


def test_spread_is_that_of_the_learned_angles_over_the_detected(generator):
    samples = own_samples(generator, 40, seed=5)
    found = spread(generator, camera_angles(samples.camera) * [2, 0.5] + 1, n=40, seed=5)
    assert found == {"yaw": pytest.approx(0.5, rel=1e-4), "pitch": pytest.approx(2, rel=1e-4)}


# ----------------------------------------------------------------------- the whole
def test_the_card_measures_portraits_that_were_not_trained_on(generator, portraits, monkeypatch):
    seen = []
    space = LatentSpace(
        np.zeros(STYLE),
        np.float64(1),
        np.zeros(STYLE),
        np.eye(STYLE, generator.z_dim),
        np.ones(generator.z_dim),
    )
    angles = np.random.default_rng(0).normal(size=(6, 2))

    def renders(given, some, conditioning="own"):
        seen.append(some)
        return {name: [1.0] * len(some) for name in ("mse", "lpips", "depth_correlation")} | {
            "yaw": [0.1, 0.4] * (len(some) // 2),
            "target_yaw": some.target_yaw.tolist(),
        }

    def distance(given, start, some):
        assert given is generator and start is None
        seen.append(some)
        return {"fid": float(len(some)), "start_fid": 1.0}

    for module, name, stand_in in (
        (datasets, "load_portraits", lambda *_: portraits),
        (datasets, "load_unposed_portraits", lambda *_: unposed(portraits)),
        (datasets, "posed_latent_space", lambda *_, **__: space),
        (evaluation, "FaceDetector", lambda **_: None),
        (evaluation, "detected_angles", lambda *_: angles),
        (evaluation, "held_out_renders", renders),
        (evaluation, "distances", distance),
    ):
        monkeypatch.setattr(module, name, stand_in)
    numbers = evaluation.evaluate_posefree(generator, None, samples=6, rendered=4, fid_portraits=7)
    assert all(some.held_out.all() for some in seen)
    labelled, own, singles = seen
    assert [len(some) for some in seen] == [4, 4, 7]
    assert np.allclose(labelled.labels, portraits[portraits.held_out][:4].labels)
    assert np.allclose(own.labels, seen_from_own_pose(generator, labelled).labels)
    assert np.isnan(singles.target_yaw).all()  # singles, in the poses that the teacher gives
    assert (numbers["fid"], numbers["fid_images"], numbers["training_portraits"]) == (7, 7, 6)
    assert numbers["singles"]["yaw"]["heads"] == 8
    assert numbers["people"]["yaw"]["heads"] == 6
    assert numbers["samples"]["pitch"]["heads"] == 6
