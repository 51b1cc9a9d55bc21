import dataclasses

import numpy as np
import pytest
import torch

from lib import datasets, metrics
from lib.cameras import Camera, orbit
from lib.datasets import Portraits
from lib.evaluation import prior as evaluation
from lib.evaluation.prior import (
    by_target_yaw,
    by_yaw,
    conditioning_effect,
    fid,
    held_out_renders,
    inversions,
    mirrored_identities,
    sample_images,
    separation,
    thickness,
    to_images,
)
from lib.generators import EG3D
from tests.tiny_generator import TINY, RandomFeatures
from tests.tiny_portraits import portrait_generator, rendered_portraits


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return portrait_generator()


@pytest.fixture(scope="module")
def portraits(generator) -> Portraits:
    """What the generator renders of its own codes: it should find nothing to improve."""
    return rendered_portraits(generator, people=4, views=3, singles=5, held_out_people=2, held_out_singles=2)


@pytest.fixture(autouse=True)
def cheap_lpips(monkeypatch):
    monkeypatch.setattr(metrics, "make_lpips", RandomFeatures)


def test_pictures_become_images():
    pictures = np.zeros((1, 2, 2, 3), np.uint8)
    pictures[0, 0, 1] = (255, 51, 0)
    images = to_images(pictures)
    assert images.shape == (1, 3, 2, 2)
    assert images[0, :, 0, 1].tolist() == pytest.approx([1, -0.6, -1])


# ----------------------------------------------------------------------- renders of held-out people


def test_renders_of_its_own_portraits_differ_by_rounding_alone(generator, portraits):
    rows = held_out_renders(generator, portraits)
    half_a_level = 1 / 255
    assert max(rows["mse"]) < half_a_level**2
    assert max(rows["lpips"]) < 1e-4
    assert rows["depth_correlation"] == pytest.approx([1] * len(portraits), abs=1e-4)
    assert rows["yaw"] == pytest.approx(portraits.yaw.tolist())


def test_rows_do_not_depend_on_the_batch(generator, portraits):
    darker = dataclasses.replace(portraits, images=portraits.images // 2)
    together, apart = (held_out_renders(generator, darker, batch=batch) for batch in (len(portraits), 3))
    for name in together:
        assert apart[name] == pytest.approx(together[name], rel=1e-3, abs=1e-5, nan_ok=True), name


def test_frontal_conditioning_is_another(generator, portraits):
    own, frontal = (
        held_out_renders(generator, portraits, conditioning)["mse"] for conditioning in ("own", "frontal")
    )
    assert np.mean(frontal) > 10 * np.mean(own)
    codes, cameras = torch.from_numpy(portraits.z), Camera.from_label(torch.from_numpy(portraits.labels))
    image = generator.synthesize(generator.map(codes, generator.frontal_camera()), cameras).image
    assert frontal == pytest.approx(metrics.mse(image, to_images(portraits.images)).tolist(), rel=1e-3)


ROWS = {
    "yaw": [0.0, -0.2, 0.3, -0.5, 0.9],
    "target_yaw": [0.0, np.nan, 0.3, -0.3, 0.3],
    "mse": [1.0, 3.0, 10.0, 20.0, 100.0],
    "lpips": [5, 7, 1, 2, 9],
    "depth_correlation": [0.8, np.nan, 0.6, 0.4, 0.2],
}


def test_yaw_bands_have_both_sides_and_the_lower_limit():
    table = by_yaw(ROWS, bands=((0.0, 0.3), (0.3, 0.65)))
    assert list(table.values()) == [
        {"mse": 2.0, "lpips": 6.0, "depth_correlation": 0.8, "portraits": 2},
        {"mse": 15.0, "lpips": 1.5, "depth_correlation": 0.5, "portraits": 2},
    ]


def test_every_yaw_that_was_asked_for_has_its_means_and_single_portraits_none():
    table = by_target_yaw(ROWS)
    assert {name: row["mse"] for name, row in table.items()} == {
        "yaw -0.30": 20,
        "yaw +0.00": 1,
        "yaw +0.30": 55,
    }
    assert sum(row["portraits"] for row in table.values()) == 4


def test_an_unknown_conditioning_is_refused(generator, portraits):
    with pytest.raises(ValueError, match="frontal"):
        held_out_renders(generator, portraits, "forntal")


# ----------------------------------------------------------------------- conditioning


def test_a_generator_that_ignores_the_camera_has_no_conditioning_effect(generator):
    blind = portrait_generator(heeds_camera=False)
    assert conditioning_effect(blind, n=4) == 0
    assert conditioning_effect(generator, n=4) > 0.01


def test_conditioning_effect_is_a_ratio_of_root_mean_square_differences():
    """Planes z + slope * yaw: yaws -y, 0, y differ by slope * (y, y, 2y), people by N(0, 2)."""

    class Sliding:
        z_dim = 5

        def map(self, z, camera):
            return z + 0.3 * camera.yaw[:, None]

        def planes(self, w):
            return w

    expected = 0.3 * 0.5 * np.sqrt((1 + 1 + 4) / 3) / np.sqrt(2)
    assert conditioning_effect(Sliding(), n=4000, yaw=0.5) == pytest.approx(expected, rel=0.03)


# ----------------------------------------------------------------------- samples and FID


def test_thickness_is_the_deviation_of_depth_along_the_rays():
    """A generator whose density is the same everywhere and high: light stops within 1 / sigma of the near end."""

    class Fog:
        neural_resolution = 8
        config = TINY

        def __init__(self, sigma):
            self.raw = float(np.log(np.expm1(sigma))) + 1

        def density(self, w_plus, points):
            return torch.full(points.shape[:2], self.raw)

    camera = orbit(torch.tensor([0.0, 0.3]), 0.1)
    thick, thin = (
        thickness(Fog(sigma), torch.zeros(2, 1, 1), camera, samples=3000) for sigma in (20.0, 80.0)
    )
    assert thick == pytest.approx(1 / 20, rel=0.03)
    assert thin == pytest.approx(1 / 80, rel=0.03)


def test_samples_are_seen_from_and_conditioned_on_their_own_camera(generator, portraits):
    labels = torch.from_numpy(portraits.labels[:5])
    images = sample_images(generator, labels, seed=3, batch=2)
    z = torch.randn(5, generator.z_dim, generator=torch.Generator().manual_seed(3))
    for i in range(5):
        camera = Camera.from_label(labels[i : i + 1])
        alone = generator.synthesize(generator.map(z[i : i + 1], camera), camera).image.clamp(-1, 1)
        assert torch.allclose(images[i : i + 1], alone, atol=1e-4)


def test_samples_depend_on_the_seed_and_the_truncation(generator, portraits):
    labels = torch.from_numpy(portraits.labels[:4])
    assert torch.equal(sample_images(generator, labels, seed=1), sample_images(generator, labels, seed=1))
    assert not torch.equal(sample_images(generator, labels, seed=1), sample_images(generator, labels, seed=2))
    centred = sample_images(generator, labels[:1].expand(4, -1), psi=0.0)
    assert centred.std(dim=0).max() < 1e-4


def test_fid_compares_samples_under_the_cameras_of_the_portraits(generator, portraits, monkeypatch):
    monkeypatch.setattr(
        metrics, "inception_features", lambda images: images[:, :, ::8, ::8].flatten(1).numpy()
    )
    samples = sample_images(generator, torch.from_numpy(portraits.labels), seed=0)
    own = ((samples + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert fid(generator, dataclasses.replace(portraits, images=own)) == pytest.approx(0, abs=0.01)
    assert fid(generator, dataclasses.replace(portraits, images=own // 2)) > 0.1


# ----------------------------------------------------------------------- inversions and the whole


class Found:
    """An inversion whose pictures are the target and an offset."""

    def __init__(self, generator, target, camera, offset):
        self.image = target + offset
        self.w_plus = generator.map(torch.zeros(1, generator.z_dim), camera)

    def render(self, camera):
        return self


def patches(faces: torch.Tensor) -> torch.Tensor:
    """Stands for a face network: the aligned faces themselves, coarse, without their mean, of unit length."""
    coarse = torch.nn.functional.adaptive_avg_pool2d(faces, 14).flatten(1)
    return torch.nn.functional.normalize(coarse - coarse.mean(1, keepdim=True), dim=1)


def test_same_and_strangers_are_told_apart_by_their_similarities():
    similarity = np.array([[0.9, 0.1, 0.3], [0.2, 0.5, 0.6], [0.0, 0.2, 0.7]])
    found = separation(similarity, np.arange(3), np.zeros(3))
    assert found["same"] == pytest.approx(0.7)
    assert found["strangers"] == pytest.approx(1.4 / 6)
    assert found["strangers_deviation"] == pytest.approx(np.std([0.1, 0.3, 0.2, 0.6, 0.0, 0.2]))
    assert found["auc"] == pytest.approx(17 / 18)  # 0.5 of the second is below 0.6 of a pair of strangers
    assert separation(np.ones((3, 3)), np.arange(3), np.zeros(3))["auc"] == 0.5


def test_strangers_are_other_people_seen_from_the_same_side():
    similarity = np.array([[0.9, 0.8, 0.3], [0.7, 0.5, 0.6], [0.1, 0.2, 0.7]])
    person, yaw = np.array([4, 4, 7]), np.array([0.3, -0.3, 0.3])
    assert separation(similarity, person, yaw)["strangers"] == pytest.approx((0.3 + 0.1) / 2)


def test_the_heads_of_mirror_images_are_recognised_from_the_mirrored_camera(monkeypatch):
    """Portraits that show what the generator shows from the mirrored camera, flipped."""
    generator = portrait_generator(heeds_camera=False)
    portraits = rendered_portraits(generator, people=4, views=1, singles=1)
    monkeypatch.setattr(evaluation, "YAW_GAP", 2.0)  # five people have five yaws
    monkeypatch.setattr(evaluation, "face_network", lambda role: patches)
    camera = Camera.from_label(torch.from_numpy(portraits.labels))
    w_plus = generator.map(torch.from_numpy(portraits.z), camera)
    with torch.inference_mode():
        seen = generator.synthesize(w_plus, camera.mirror()).image.flip(-1)
    pictures = ((seen + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    found = mirrored_identities(generator, w_plus, dataclasses.replace(portraits, images=pictures))
    assert found["same"] == pytest.approx(1, abs=1e-3)
    assert found["auc"] == 1
    assert found["portraits"] == 5
    assert (
        mirrored_identities(generator, w_plus.roll(1, 0), dataclasses.replace(portraits, images=pictures))[
            "same"
        ]
        < 0.99
    )


def test_inversions_are_measured_in_the_input_view(generator, portraits, monkeypatch):
    tuned = []

    def wplus(generator, target, camera, *, steps, progress, **rates):
        assert steps == 7
        return Found(generator, target, camera, 0.1)

    def pti(generator, target, camera, *, initial, steps, progress, **rates):
        assert torch.allclose(initial.image, target + 0.1)  # starts from the latent of the same portrait
        assert steps == 3
        tuned.append(target)
        return Found(generator, target, camera, 0.01)

    monkeypatch.setattr(evaluation, "invert_wplus", wplus)
    monkeypatch.setattr(evaluation, "invert_pti", pti)
    monkeypatch.setattr(evaluation, "face_network", lambda role: patches)
    monkeypatch.setattr(evaluation, "YAW_GAP", 2.0)
    found = inversions(generator, portraits[:3], wplus_steps=7, pti_steps=3, tuned=2)
    assert len(tuned) == found["tuned"] == 2
    assert found["wplus_mse"] == pytest.approx(0.01, rel=1e-3)
    assert found["pti_mse"] == pytest.approx(0.0001, rel=1e-2)
    assert 0 < found["pti_lpips"] < found["wplus_lpips"]
    assert (found["portraits"], found["wplus_steps"], found["pti_steps"]) == (3, 7, 3)


def test_the_model_card_measures_people_that_were_not_trained_on(generator, portraits, monkeypatch):
    seen = {}

    def renders(generator, portraits, conditioning="own"):
        seen[conditioning] = portraits
        values = {name: [1.0, 2.0] for name in ("mse", "lpips", "depth_correlation")}
        return {"yaw": [0.1, 0.4], "target_yaw": [0.0, 0.3]} | values

    def inverted(generator, portraits, **steps):
        seen["inverted"] = portraits
        return {}

    monkeypatch.setattr(datasets, "load_portraits", lambda *_: portraits)
    monkeypatch.setattr(evaluation, "held_out_renders", renders)
    monkeypatch.setattr(evaluation, "inversions", inverted)

    def distance(generator, portraits):
        seen["fid"] = portraits
        return float(len(portraits))

    monkeypatch.setattr(evaluation, "fid", distance)
    monkeypatch.setattr(evaluation, "face_network", lambda role: patches)
    monkeypatch.setattr(evaluation, "YAW_GAP", 2.0)
    numbers = evaluation.evaluate_prior(generator, inverted=2, tuned=1, fid_portraits=9)
    assert all(used.held_out.all() for used in seen.values())
    assert len(seen["own"]) == len(seen["frontal"]) == numbers["held_out_portraits"] == 6
    assert len(seen["inverted"]) == 2
    assert np.abs(seen["inverted"].yaw).max() < 0.35
    assert np.isnan(seen["fid"].target_yaw).all()  # single portraits, in the poses that the teacher gives
    assert (numbers["fid"], numbers["fid_images"], numbers["training_portraits"]) == (2, 2, 9)
    assert numbers["mirrored_identity_from_code"]["portraits"] == 6
