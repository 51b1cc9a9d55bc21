"""What a pose-free generator is worth: does its code say from where its head is seen, and is that the camera alone?

Nothing fixes the frame of heads that were learned without cameras: all may be turned by a constant, or be hollow and
lie mirrored. So learned angles are compared with detected ones after an offset and a sign, and both are told. Angles
are radians in arrays, degrees in what comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib import datasets, metrics
from lib.cameras import Camera
from lib.evaluation.prior import (
    by_target_yaw,
    by_yaw,
    held_out_renders,
    sample_images,
    thickness,
    to_images,
)
from lib.faces import Detector, FaceDetector
from lib.generators import EG3D, PoseFreeEG3D

ANGLES = ("yaw", "pitch")

Numbers = dict[str, float]


# ----------------------------------------------------------------------- angles
def camera_angles(camera: Camera) -> np.ndarray:
    """Yaw and pitch [n, 2] of cameras."""
    return torch.stack([camera.yaw, camera.pitch], dim=1).numpy()


def detected_angles(images: Tensor, detector: Detector) -> np.ndarray:
    """Yaw and pitch [n, 2] of the heads in images [n, 3, H, W], from landmarks; NaN where none is found."""
    return metrics.head_angles(metrics.detected_rotations(images, detector))[:, :2].numpy()


def agreement(learned: np.ndarray, detected: np.ndarray) -> Numbers:
    """How far learned angles [n] say what the detected [n] say, once detected = sign * learned + offset aligns them.

    ``rms`` is of what is left then. ``spread``: deviation of the learned over that of the detected; a learner that
    says the same of all heads has 0. Heads without a detected angle (NaN) do not count.
    """
    a, b = _found(learned, detected)
    correlation = _correlation(a, b)
    sign = -1.0 if correlation < 0 else 1.0
    offset = (b - sign * a).mean()
    return {
        "correlation": correlation,
        "sign": sign,
        "offset": float(np.degrees(offset)),
        "rms": float(np.degrees(np.sqrt(np.square(sign * a + offset - b).mean()))),
        "spread": float(a.std() / b.std()),
        "learned_deviation": float(np.degrees(a.std())),
        "detected_deviation": float(np.degrees(b.std())),
        "found": len(a) / len(learned),
        "heads": len(learned),
    }


def painted(learned: np.ndarray, detected: np.ndarray) -> Numbers:
    """What of the pose is in the head and not in the camera: angles [n] detected in heads seen from the front.

    ``share``: by how much a head turns of itself for every unit of learned angle. 0: the camera does it all. 1: the
    camera might as well have stayed. ``turn``, ``turn_deviation``: mean and deviation of the detected angles.
    """
    a, b = _found(learned, detected)
    varies = a.std() > 1e-9
    return {
        "correlation": _correlation(a, b),
        "share": float(((a - a.mean()) * (b - b.mean())).mean() / a.var()) if varies else 0.0,
        "turn": float(np.degrees(b.mean())),
        "turn_deviation": float(np.degrees(b.std())),
        "found": len(a) / len(learned),
        "heads": len(learned),
    }


def _found(learned: np.ndarray, detected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both angles of the heads that were found; at least three."""
    if learned.shape != detected.shape or learned.ndim != 1:
        raise ValueError(
            f"expected learned and detected angles [n]; got {learned.shape} and {detected.shape}"
        )
    found = np.isfinite(detected)
    if found.sum() < 3:
        raise ValueError(
            f"no agreement of {found.sum()} heads: at least 3 must be found, of {len(found)} that were looked at"
        )
    return learned[found].astype(float), detected[found].astype(float)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one of the two does not vary and so says nothing."""
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 1e-9 else 0.0


def by_angle(
    measure: Callable[[np.ndarray, np.ndarray], Numbers], learned: np.ndarray, detected: np.ndarray
) -> dict[str, Numbers]:
    """`agreement` or `painted` of yaw and of pitch, from learned and detected angles [n, 2]."""
    return {name: measure(learned[:, i], detected[:, i]) for i, name in enumerate(ANGLES)}


def some_points(learned: np.ndarray, detected: np.ndarray, n: int = 250) -> list[list[float]]:
    """For figures: learned yaw and pitch, then detected, degrees to a tenth, of at most n heads out of angles [., 2]."""
    rows = np.degrees(np.concatenate([learned, detected], axis=1))
    rows = rows[np.isfinite(rows).all(axis=1)]
    chosen = np.random.default_rng(0).permutation(len(rows))[:n]
    return rows[np.sort(chosen)].round(1).tolist()


# ----------------------------------------------------------------------- samples
@dataclass(frozen=True)
class OwnSamples:
    """Codes of a pose-free generator, and their pictures from the cameras that they say and from the front."""

    w_plus: Tensor  # [n, n_layers, w_dim]
    camera: Camera  # n
    images: Tensor  # [n, 3, H, W]
    frontal: Tensor  # [n, 3, H, W]; n is 0 where it was not asked for


@torch.inference_mode()
def own_samples(
    generator: PoseFreeEG3D,
    n: int,
    seed: int = 0,
    *,
    psi: float = 1.0,
    frontal: bool = False,
    batch: int = 20,
) -> OwnSamples:
    """Samples from N(0, I), each seen from where its code says and, if asked for, from the front."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    w_plus, camera = generator.generate(z, psi)
    front = generator.frontal_camera()
    own, ahead = [], [torch.empty(0, 3, generator.resolution, generator.resolution)]
    for rows in tqdm(torch.arange(n).split(batch), desc="samples"):
        codes, planes = w_plus[rows], generator.planes(w_plus[rows])
        own.append(generator.render(planes, codes, camera[rows]).image)
        if frontal:
            ahead.append(generator.render(planes, codes, front.expand(len(rows))).image)
    return OwnSamples(w_plus, camera, torch.cat(own).clamp(-1, 1), torch.cat(ahead).clamp(-1, 1))


def sampled_poses(samples: OwnSamples, detector: Detector) -> dict:
    """Do samples show the pose that their code says, and does it leave them when they are seen from the front?"""
    learned = camera_angles(samples.camera)
    own, frontal = (detected_angles(images, detector) for images in (samples.images, samples.frontal))
    return {
        "samples": by_angle(agreement, learned, own),
        "samples_points": some_points(learned, own),
        "painted": by_angle(painted, learned, frontal),
    }


# ----------------------------------------------------------------------- held-out portraits
def with_posed_codes(
    portraits: datasets.Portraits, unposed: datasets.UnposedPortraits, space: datasets.LatentSpace
) -> datasets.Portraits:
    """The portraits with the latents that a pose-free generator knows them by: they say the pose, too."""
    if not np.array_equal(portraits.held_out, unposed.held_out):
        raise ValueError("portraits with and without poses must be the same, of one plan, row by row")
    return dataclasses.replace(portraits, z=space.z(unposed.styles).astype(np.float32))


@torch.inference_mode()
def seen_from_own_pose(generator: PoseFreeEG3D, portraits: datasets.Portraits) -> datasets.Portraits:
    """The portraits with the cameras that their codes say, in place of those that were detected."""
    camera = generator.own_camera(generator.map(torch.from_numpy(portraits.z))[:, 0])
    return dataclasses.replace(portraits, labels=camera.label().numpy())


def portrait_angles(generator: PoseFreeEG3D, portraits: datasets.Portraits) -> tuple[np.ndarray, np.ndarray]:
    """Learned and detected angles [n, 2] of portraits, the learned ones from the code alone."""
    learned, detected = (
        camera_angles(Camera.from_label(torch.from_numpy(seen.labels)))
        for seen in (seen_from_own_pose(generator, portraits), portraits)
    )
    return learned, detected


@torch.inference_mode()
def spread(generator: PoseFreeEG3D, detected: np.ndarray, n: int = 5000, seed: int = 0) -> Numbers:
    """Deviation of the angles that n samples' codes say over that of detected angles [., 2]: for yaw and for pitch."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    learned = camera_angles(generator.own_camera(generator.map(z)[:, 0]))
    return dict(zip(ANGLES, (learned.std(axis=0) / detected.std(axis=0)).tolist(), strict=True))


def distances(generator: PoseFreeEG3D, start: EG3D, portraits: datasets.Portraits) -> Numbers:
    """FID of samples in their own poses against the pictures of as many portraits, and that of the generator that the
    training began with, whose samples are conditioned on the portraits' cameras and seen from them."""
    true = metrics.inception_features(to_images(portraits.images))
    samples = {
        "fid": own_samples(generator, len(portraits)).images,
        "start_fid": sample_images(start, torch.from_numpy(portraits.labels)),
    }
    return {
        name: metrics.frechet_distance(metrics.inception_features(images), true)
        for name, images in samples.items()
    }


# ----------------------------------------------------------------------- the whole
def evaluate_posefree(
    generator: PoseFreeEG3D,
    start: EG3D,
    samples: int = 500,
    rendered: int = 300,
    fid_portraits: int = 5000,
) -> dict:
    """Every number of the model card.

    start: the generator that the training began with. samples: in whose pictures the pose is detected. rendered:
    held-out portraits of turned people that are rendered from their codes. fid_portraits: against which so many
    samples of each of the two generators are held.
    """
    plan = datasets.Plan()
    unposed = datasets.load_unposed_portraits(plan, generator.resolution)
    space = datasets.posed_latent_space(plan, unposed, z_dim=generator.z_dim)
    portraits = datasets.load_portraits(plan, generator.resolution, generator.neural_resolution)
    portraits = with_posed_codes(portraits, unposed, space)
    held_out = portraits[portraits.held_out]
    turned = ~np.isnan(held_out.target_yaw)
    people, singles = held_out[turned][:rendered], held_out[~turned][:fid_portraits]
    angles = {
        "singles": portrait_angles(generator, held_out[~turned]),
        "people": portrait_angles(generator, held_out[turned]),
    }
    cameras = Camera.from_label(torch.from_numpy(people.labels))
    with torch.inference_mode():
        codes = generator.map(torch.from_numpy(people.z))
    labelled = held_out_renders(generator, people)
    shown = own_samples(generator, samples, seed=1, frontal=True)
    return {
        **sampled_poses(shown, FaceDetector(max_faces=1)),
        **{name: by_angle(agreement, *found) for name, found in angles.items()},
        **{f"{name}_points": some_points(*found) for name, found in angles.items()},
        "spread": spread(generator, angles["singles"][1]),
        "own_pose": by_yaw(held_out_renders(generator, seen_from_own_pose(generator, people))),
        "labelled_camera": by_yaw(labelled),
        "labelled_camera_by_target_yaw": by_target_yaw(labelled),
        "thickness": thickness(generator, codes[:100], cameras[:100]),
        **distances(generator, start, singles),
        "fid_images": len(singles),
        "training_portraits": int((~portraits.held_out).sum()),
    }
