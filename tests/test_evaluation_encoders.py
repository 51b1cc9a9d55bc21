"""What an encoder is worth, on portraits whose codes are known."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_generator import RandomFeatures
from tiny_portraits import portrait_generator, rendered_portraits

from lib import metrics
from lib.datasets import Portraits
from lib.evaluation import encoders as evaluation
from lib.evaluation.encoders import (
    METRICS,
    MeanLatent,
    goals,
    held_out_people,
    held_out_quality,
    held_out_singles,
    ratio_interval,
    summary,
    view_quality,
)
from lib.evaluation.prior import to_images
from lib.generators import EG3D
from lib.inversion import Inversion

VIEWS = 3
ROUNDED = (1 / 255) ** 2
"""More than the MSE that pictures of bytes cost."""


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return portrait_generator(heeds_camera=False)


@pytest.fixture(scope="module")
def portraits(generator) -> Portraits:
    """Five people in three views each, the first of them frontal by what was asked for, and eight singles."""
    found = rendered_portraits(
        generator, people=5, views=VIEWS, singles=8, held_out_people=4, held_out_singles=6
    )
    target_yaw = found.target_yaw.copy()
    target_yaw[: 5 * VIEWS : VIEWS] = 0
    return dataclasses.replace(found, target_yaw=target_yaw)


@pytest.fixture(autouse=True)
def no_assets(monkeypatch):
    """A perceptual distance and a face network of random weights, and no face cut out."""
    monkeypatch.setattr(metrics, "make_lpips", RandomFeatures)
    weight = torch.randn(3 * 16 * 16, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(evaluation, "face_network", lambda role: lambda x: _unit(x.flatten(1) @ weight))
    monkeypatch.setattr("lib.metrics.identity.align", lambda image, points: image)


def _unit(x):
    return x / x.norm(dim=1, keepdim=True)


class Oracle:
    """Knows the code of every portrait by its picture; the head of each is moved by `error` in w."""

    def __init__(self, generator: EG3D, portraits: Portraits, error: float = 0.0):
        self.generator, self.error = generator, error
        images = to_images(portraits.images)
        self.z = {_key(image): z for image, z in zip(images, portraits.z, strict=True)}
        self.batches = []

    def encode_batch(self, images, cameras) -> list[Inversion]:
        assert len(images) == len(cameras)
        self.batches.append(len(images))
        z = torch.from_numpy(np.stack([self.z[_key(image)] for image in images]))
        w_plus = self.generator.map(z, self.generator.frontal_camera()) + self.error
        return [Inversion(w, self.generator, cameras[i]) for i, w in enumerate(w_plus.split(1))]


def _key(image) -> bytes:
    return ((image + 1) * 127.5).round().byte().numpy().tobytes()


# ----------------------------------------------------------------------- on which portraits
def test_only_people_who_were_not_trained_on_are_measured(portraits):
    singles = held_out_singles(portraits, 6)
    assert singles.held_out.all() and np.isnan(singles.target_yaw).all()
    assert len(np.unique(singles.person)) == 6
    photos, views = held_out_people(portraits, 4)
    assert photos.held_out.all() and views.held_out.all()
    assert (photos.target_yaw == 0).all() and (views.target_yaw != 0).all()
    assert sorted(views.person) == sorted(np.repeat(photos.person, VIEWS - 1))


def test_the_same_portraits_for_every_encoder_and_others_by_another_seed(portraits):
    first, again = held_out_singles(portraits, 3), held_out_singles(portraits, 3)
    assert np.array_equal(first.person, again.person)
    others = {tuple(held_out_singles(portraits, 3, seed).person) for seed in range(6)}
    assert len(others) > 1


def test_more_portraits_than_there_are_is_refused(portraits):
    with pytest.raises(ValueError, match="7 held-out single portraits were asked for, and the plan has 6"):
        held_out_singles(portraits, 7)
    with pytest.raises(ValueError, match="the plan has 4"):
        held_out_people(portraits, 5)


# ----------------------------------------------------------------------- values
def test_who_knows_the_codes_makes_no_error_in_any_view(generator, portraits):
    found = held_out_quality(Oracle(generator, portraits), portraits, n=5, people=4, batch=3)
    assert [len(found[place]["mse"]) for place in ("input", "other")] == [5, 4 * (VIEWS - 1)]
    for values in found.values():
        assert (values["mse"] < ROUNDED).all()
        assert values["identity"] == pytest.approx(1, abs=1e-3)
        assert (values["lpips"] >= 0).all()


def test_the_mean_head_is_worse_and_one_head(generator, portraits):
    own, mean = (
        held_out_quality(encoder, portraits, n=5, people=4)
        for encoder in (Oracle(generator, portraits), MeanLatent(generator))
    )
    for place in own:
        assert (mean[place]["mse"] > 4 * own[place]["mse"]).all()
        assert (mean[place]["lpips"] > own[place]["lpips"]).all()
        assert np.array_equal(own[place]["person"], mean[place]["person"])
    w_plus = [
        head.w_plus
        for head in MeanLatent(generator).encode_batch(torch.zeros(2, 3, 16, 16), _cameras(portraits, 2))
    ]
    assert all(torch.equal(w, generator.w_mean.expand(1, generator.n_layers, -1)) for w in w_plus)


def _cameras(portraits, n):
    return evaluation.cameras_of(portraits[:n])


def test_values_do_not_depend_on_batches_and_people_are_encoded_once(generator, portraits):
    photos, views = held_out_people(portraits, 4)
    oracle = Oracle(generator, portraits, error=0.3)
    whole, one_by_one = view_quality(oracle, photos, views, 4), view_quality(oracle, photos, views, 1)
    assert oracle.batches == [4, 1, 1, 1, 1]
    for name in METRICS:
        assert whole[name] == pytest.approx(one_by_one[name], abs=1e-4)
        assert np.isfinite(whole[name]).all()


def test_a_value_is_that_of_the_picture_rendered_alone(generator, portraits):
    singles = held_out_singles(portraits, 3)
    oracle = Oracle(generator, portraits, error=0.3)
    found = view_quality(oracle, singles, singles)
    for i in range(3):
        target, camera = to_images(singles.images[[i]]), _cameras(singles, 3)[i]
        image = oracle.encode_batch(target, camera)[0].render(camera).image.clamp(-1, 1)
        assert found["mse"][i] == pytest.approx((image - target).square().mean().item(), rel=1e-4)


def test_pixels_outside_the_teachers_picture_do_not_count(generator, portraits):
    inside = portraits.inside.copy()
    inside[:, :, :5] = False
    painted = portraits.images.copy()
    painted[:, :, :5] = 255 - painted[:, :, :5]
    spoilt = dataclasses.replace(portraits, images=painted)
    known = dataclasses.replace(spoilt, inside=inside)
    oracle = Oracle(generator, spoilt)
    seen, unseen = (held_out_quality(oracle, some, n=4, people=3) for some in (spoilt, known))
    for place in seen:
        assert (seen[place]["mse"] > 10 * ROUNDED).all()
        assert (unseen[place]["mse"] < ROUNDED).all()


def test_refined_planes_are_seen(generator, portraits):
    class Lighter(MeanLatent):
        def encode_batch(self, images, cameras):
            heads = super().encode_batch(images, cameras)
            return [dataclasses.replace(head, extras={"planes": head.planes() + 0.5}) for head in heads]

    refined, mean = (
        held_out_quality(one, portraits, n=4, people=3) for one in (Lighter(generator), MeanLatent(generator))
    )
    for place in mean:
        assert (np.abs(refined[place]["mse"] - mean[place]["mse"]) > 1e-4).all()


# ----------------------------------------------------------------------- numbers
def test_a_ratio_of_equal_parts_is_sure():
    baseline = np.random.default_rng(0).uniform(1, 3, 30)
    found = ratio_interval(0.4 * baseline, baseline)
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == (pytest.approx(0.4), pytest.approx(0.4))


def test_the_interval_of_a_ratio_is_that_of_drawing_pairs_again():
    rng = np.random.default_rng(0)
    baseline = rng.uniform(1, 2, 80)
    values = 0.5 * baseline * rng.uniform(0.7, 1.3, 80)
    found = ratio_interval(values, baseline)
    rows = rng.integers(80, size=(4000, 80))
    low, high = np.quantile(values[rows].mean(1) / baseline[rows].mean(1), [0.025, 0.975])
    assert found.mean == pytest.approx(values.mean() / baseline.mean())
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def quality(mse, person=None) -> dict:
    """Values of both places, all metrics alike."""
    person = np.arange(len(mse)) if person is None else np.array(person)
    values = {name: np.asarray(mse, float) for name in METRICS} | {"person": person}
    return {"input": values, "other": values}


def test_views_of_one_person_are_one_value():
    person = [0, 0, 1, 1, 2, 2]
    found = summary(quality([1, 3, 2, 2, 4, 2], person), quality([2] * 6, person))
    assert found["other"]["mse"]["n"] == 3
    assert found["other"]["mse"]["mean"] == pytest.approx(14 / 6)
    assert found["other"]["of_mean"]["lpips"]["mean"] == pytest.approx(14 / 12)
    assert "of_own_code" not in found["other"]


def test_a_refinement_is_compared_with_its_own_code():
    found = summary(quality([1, 2, 3]), quality([8, 8, 8]), quality([2, 4, 6]))
    assert found["input"]["of_mean"]["mse"]["mean"] == pytest.approx(0.25)
    assert found["input"]["of_own_code"]["mse"]["mean"] == pytest.approx(0.5)
    assert found["input"]["of_own_code"]["mse"]["high"] == pytest.approx(0.5)


@pytest.mark.parametrize("mse", [0.34, 0.36])
@pytest.mark.parametrize("lpips", [0.64, 0.66])
@pytest.mark.parametrize("own", [0.89, 0.91])
def test_goals_are_met_by_means_of_the_input_view(mse, lpips, own):
    place = {
        "of_mean": {"mse": {"mean": mse}, "lpips": {"mean": lpips}},
        "of_own_code": {"mse": {"mean": own}},
    }
    expected = {"mse": mse < 0.35, "lpips": lpips < 0.65}
    assert goals({"input": place}) == expected
    assert goals({"input": place}, alignment=True) == expected | {"alignment": own < 0.9}
