"""What an encoder is worth: people who were never trained on, in the photo's view and in others, beside the mean head.

All is measured on the sampled portraits that trainings leave out. Pixels outside the teacher's picture show reflections;
a rendering has the portrait's own values there, so that they count nowhere, as in training.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from lib import metrics
from lib.cameras import Camera
from lib.datasets import Portraits
from lib.evaluation.prior import to_images
from lib.generators import EG3D
from lib.identity import face_network
from lib.inversion import Inversion

MOST_MSE, MOST_LPIPS = 0.35, 0.65
"""Goals of an encoder on held-out people, in parts of the mean latent's error in the input view."""

MOST_OF_OWN_CODE = 0.9
"""Goal of GOAE's feature alignment: its MSE in the input view, in parts of that of its own w+."""

METRICS = ("mse", "lpips", "identity")
"""MSE in [-1, 1]; LPIPS of AlexNet at 256 px; cosine of the evaluation network's embeddings."""

Values = dict[str, np.ndarray]
"""METRICS, each [n], and `person` [n]: whose picture it is."""


# ----------------------------------------------------------------------- what is measured
class OnePass(Protocol):
    """What makes heads of pictures in one pass: a `lib.encoders.Encoder`, or the mean head."""

    @property
    def generator(self) -> EG3D: ...

    def encode_batch(self, images: Tensor, cameras: Camera) -> list[Inversion]:
        """The heads in pictures [B, 3, R, R], each seen from its camera."""


@dataclass(frozen=True)
class MeanLatent:
    """The mean latent's head, whatever the picture: what is there without any encoder."""

    generator: EG3D

    def encode_batch(self, images: Tensor, cameras: Camera) -> list[Inversion]:
        w_plus = self.generator.w_mean.expand(1, self.generator.n_layers, -1)
        return [Inversion(w_plus, self.generator, cameras[i]) for i in range(len(images))]


# ----------------------------------------------------------------------- on which portraits
def held_out_singles(portraits: Portraits, n: int, seed: int = 0) -> Portraits:
    """n single portraits that were not trained on, in the poses that the teacher gives."""
    rows = np.flatnonzero(portraits.held_out & np.isnan(portraits.target_yaw))
    return portraits[_drawn(rows, n, seed, "single portraits")]


def held_out_people(portraits: Portraits, n: int, seed: int = 0) -> tuple[Portraits, Portraits]:
    """Frontal portraits of n people who were not trained on, and all portraits of the same people from elsewhere."""
    asked = portraits.held_out & ~np.isnan(portraits.target_yaw)
    frontal = asked & np.isclose(portraits.target_yaw, 0)
    chosen = _drawn(np.flatnonzero(frontal), n, seed, "frontal portraits of people")
    others = asked & ~frontal & np.isin(portraits.person, portraits.person[chosen])
    return portraits[chosen], portraits[np.flatnonzero(others)]


def _drawn(rows: np.ndarray, n: int, seed: int, what: str) -> np.ndarray:
    if n > len(rows):
        raise ValueError(f"{n} held-out {what} were asked for, and the plan has {len(rows)}: ask for fewer")
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))


# ----------------------------------------------------------------------- values
def held_out_quality(
    encoder: OnePass, portraits: Portraits, n: int = 200, people: int = 40, seed: int = 0, batch: int = 10
) -> dict[str, Values]:
    """Values per picture: "input", of n held-out singles in their own view; "other", of so many held-out people,
    inverted from the front and seen from the yaws -0.6, -0.3, 0.3 and 0.6.

    The same portraits, in the same order, for every encoder: values of two of them are pairs.
    """
    singles = held_out_singles(portraits, n, seed)
    photos, views = held_out_people(portraits, people, seed)
    return {
        "input": view_quality(encoder, singles, singles, batch),
        "other": view_quality(encoder, photos, views, batch),
    }


@torch.no_grad()
def view_quality(encoder: OnePass, photos: Portraits, views: Portraits, batch: int = 10) -> Values:
    """The heads of photos, one of each person, against views of the same people, a value per view."""
    lpips, face = metrics.make_lpips(), face_network("evaluation")
    values = {name: np.full(len(views), np.nan) for name in METRICS}
    for start in tqdm(range(0, len(photos), batch), desc="held-out portraits"):
        part = photos[start : start + batch]
        heads = dict(
            zip(part.person, encoder.encode_batch(to_images(part.images), cameras_of(part)), strict=True)
        )
        rows = np.flatnonzero(np.isin(views.person, part.person))
        if not len(rows):  # nobody of these has been seen from elsewhere
            continue
        target, camera = to_images(views.images[rows]), cameras_of(views[rows])
        image = rendered([heads[person] for person in views.person[rows]], camera)
        image = torch.where(torch.from_numpy(views.inside[rows])[:, None], image, target)
        values["mse"][rows] = metrics.mse(image, target)
        values["lpips"][rows] = lpips(image, target)
        values["identity"][rows] = metrics.identity_similarity(face, image, camera, target)
    return values | {"person": views.person}


def cameras_of(portraits: Portraits) -> Camera:
    return Camera.from_label(torch.from_numpy(portraits.labels).float())


def rendered(heads: Sequence[Inversion], camera: Camera) -> Tensor:
    """Pictures [B, 3, R, R] in [-1, 1] of heads of one generator, each from its camera."""
    planes, w_plus = torch.cat([head.planes() for head in heads]), torch.cat([head.w_plus for head in heads])
    return heads[0].generator.render(planes, w_plus, camera).image.clamp(-1, 1)


# ----------------------------------------------------------------------- numbers
def summary(found: dict[str, Values], mean: dict[str, Values], own: dict[str, Values] | None = None) -> dict:
    """Means and intervals of `held_out_quality`: as they are, in parts of the mean latent's, and, where it has one, of
    its own w+'s (`own`).

    The unit is a person: several views of one are averaged first.
    """
    baselines = {"of_mean": mean} | ({"of_own_code": own} if own else {})
    numbers: dict[str, dict] = {}
    for place, values in found.items():
        person = values["person"].tolist()
        known = {name: metrics.mean_interval(values[name], groups=person) for name in METRICS}
        numbers[place] = {name: _plain(interval) for name, interval in known.items()}
        for label, baseline in baselines.items():
            numbers[place][label] = {
                name: _plain(ratio_interval(values[name], baseline[place][name], groups=person))
                for name in ("mse", "lpips")
            }
    return numbers


def ratio_interval(
    values: ArrayLike, baseline: ArrayLike, *, groups: Sequence[Hashable] | None = None
) -> metrics.Interval:
    """Mean of values over that of the baseline on the same pictures [n], and its bootstrap interval.

    To first order a ratio of means r = a / b deviates by the mean of (values - r baseline) / b, whose interval is one of
    paired differences.
    """
    scale = metrics.mean_interval(baseline, groups=groups).mean
    ratio = metrics.mean_interval(values, groups=groups).mean / scale
    around = metrics.paired_difference(values, ratio * np.asarray(baseline), groups=groups)
    return replace(around, mean=ratio, low=ratio + around.low / scale, high=ratio + around.high / scale)


def _plain(interval: metrics.Interval) -> dict[str, float]:
    return {name: getattr(interval, name) for name in ("mean", "low", "high", "n")}


def goals(numbers: dict, alignment: bool = False) -> dict[str, bool]:
    """Which of the goals the numbers of `summary` meet, by their means. alignment: it is GOAE's, and has its own."""
    place = numbers["input"]
    met = {
        "mse": place["of_mean"]["mse"]["mean"] <= MOST_MSE,
        "lpips": place["of_mean"]["lpips"]["mean"] <= MOST_LPIPS,
    }
    if alignment:
        met["alignment"] = place["of_own_code"]["mse"]["mean"] <= MOST_OF_OWN_CODE
    return met
