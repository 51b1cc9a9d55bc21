"""What the embedded generator is worth: every number of its model card."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib import datasets, metrics
from lib.cameras import Camera, orbit
from lib.generators import EG3D
from lib.generators.rendering import composite_weights, ray_bounds, sample_weights, stratified_depths
from lib.identity import face_network
from lib.inversion import invert_pti, invert_wplus
from lib.losses import spread_loss

CODE_RATE, TUNING_RATE = 0.05, 1e-3
"""Learning rates of inversions of the embedded generators: larger than the papers', as their networks are smaller."""

YAW_BANDS = ((0.0, 0.3), (0.3, 0.65))
"""Radians of |yaw| between which the prior's numbers are averaged."""


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 pictures [n, H, W, 3] as images [n, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def held_out_renders(
    generator: EG3D,
    portraits: datasets.Portraits,
    conditioning: Literal["own", "frontal"] = "own",
    batch: int = 20,
) -> dict:
    """MSE, LPIPS and face-depth correlation of portraits rendered from their own codes, a value each.

    ``conditioning``: "own" conditions every code on its portrait's camera, "frontal" on the frontal one.
    """
    if conditioning not in ("own", "frontal"):
        raise ValueError(f"conditioning is own or frontal, not {conditioning!r}")
    lpips = metrics.make_lpips()
    rows: dict[str, list] = {"yaw": [], "target_yaw": [], "mse": [], "lpips": [], "depth_correlation": []}
    for start in tqdm(range(0, len(portraits), batch), desc=f"held-out people, {conditioning} conditioning"):
        part = portraits[slice(start, start + batch)]
        camera, target = Camera.from_label(torch.from_numpy(part.labels)), to_images(part.images)
        condition = camera if conditioning == "own" else generator.frontal_camera()
        view = generator.synthesize(generator.map(torch.from_numpy(part.z), condition), camera)
        depth = torch.from_numpy(part.face_depth)[:, None]
        rows["yaw"] += part.yaw.tolist()
        rows["target_yaw"] += part.target_yaw.tolist()
        rows["mse"] += metrics.mse(view.image, target).tolist()
        rows["lpips"] += lpips(view.image, target).tolist()
        rows["depth_correlation"] += metrics.depth_correlation(view.depth, depth).tolist()
    return rows


def by_yaw(rows: dict, bands=YAW_BANDS) -> dict[str, dict]:
    """Means over bands of |yaw|."""
    yaw = np.abs(rows["yaw"])
    return {
        f"|yaw| {low:.2f} to {high:.2f}": _means(rows, (yaw >= low) & (yaw < high)) for low, high in bands
    }


def by_target_yaw(rows: dict) -> dict[str, dict]:
    """Means over the yaws that people in several views were asked for."""
    target = np.array(rows["target_yaw"])
    return {
        f"yaw {value:+.2f}": _means(rows, target == value) for value in np.unique(target[~np.isnan(target)])
    }


def _means(rows: dict, chosen: np.ndarray) -> dict[str, float]:
    """Means of the chosen portraits; one without a known depth does not count in the mean of the correlation."""
    names = ("mse", "lpips", "depth_correlation")
    return {name: float(np.nanmean(np.array(rows[name])[chosen])) for name in names} | {
        "portraits": int(chosen.sum())
    }


YAW_GAP = 0.15
"""Radians by which two portraits may differ in yaw to be compared as strangers: same and strangers are seen alike."""


def separation(similarity: np.ndarray, person: np.ndarray, yaw: np.ndarray) -> dict[str, float]:
    """How far apart same and strangers are, from the similarities [n, n] of n pictures to n others of the same people.

    person, yaw [n]: strangers are two people seen from about the same side. ``auc``: how often a picture is more
    similar to its own counterpart than a pair of strangers are to one another. NaN where there are no strangers.
    """
    same = np.diag(similarity)
    apart = (person[:, None] != person) & (np.abs(yaw[:, None] - yaw) < YAW_GAP)
    strangers = np.sort(similarity[apart]) if apart.any() else np.array([np.nan])
    below, up_to = (np.searchsorted(strangers, same, side) for side in ("left", "right"))
    return {
        "same": float(same.mean()),
        "strangers": float(strangers.mean()),
        "strangers_deviation": float(strangers.std()),
        "auc": float((below + up_to).mean() / (2 * len(strangers))) if apart.any() else float("nan"),
        "portraits": len(similarity),
    }


@torch.inference_mode()
def thickness(generator: EG3D, w_plus: Tensor, camera: Camera, samples: int = 192) -> float:
    """Root mean square distance, world units, of a ray's light from its mean depth: a mean over the middle of pictures.

    The middle is the inner half of either side, which the head fills.
    """
    side, middle = generator.neural_resolution, generator.neural_resolution // 4
    origins, directions = (
        rays.unflatten(1, (side, side))[:, middle:-middle, middle:-middle].flatten(1, 2)
        for rays in camera.rays(side)
    )
    near, far = ray_bounds(origins, directions, generator.config.rendering)
    depths = stratified_depths(near, far, samples)
    spreads = []
    for i, w in enumerate(w_plus.split(1)):
        points = origins[[i], :, None] + depths[[i], :, :, None] * directions[[i], :, None]
        density = generator.density(w, points.flatten(1, 2)).view_as(depths[[i]])
        spreads.append(spread_loss(depths[[i]], sample_weights(composite_weights(density, depths[[i]]))))
    return float(torch.cat(spreads).mean())


@torch.inference_mode()
def mirrored_identities(generator: EG3D, w_plus: Tensor, portraits: datasets.Portraits) -> dict[str, float]:
    """Heads [n, n_layers, w_dim] from their portraits' mirrored cameras against the flipped portraits: same, strangers.

    What SPI measures of an inversion (its figure 6), with strangers as the scale.
    """
    network = face_network("evaluation")
    camera = Camera.from_label(torch.from_numpy(portraits.labels)).mirror()
    rendered = torch.cat([generator.synthesize(w, camera[[i]]).image for i, w in enumerate(w_plus.split(1))])
    flipped = to_images(portraits.images).flip(-1)
    heads, photos = (metrics.embed(network, images, camera) for images in (rendered, flipped))
    return separation((heads @ photos.T).numpy(), portraits.person, portraits.yaw)


def inversions(
    generator: EG3D, portraits: datasets.Portraits, wplus_steps: int, pti_steps: int, tuned: int | None = None
) -> dict:
    """W+ of portraits, and PTI of the first ``tuned``: MSE and LPIPS of the input view, identity of the mirrored one."""
    lpips, tuned = metrics.make_lpips(), len(portraits) if tuned is None else tuned
    rows: dict[str, list] = {"wplus_mse": [], "wplus_lpips": [], "pti_mse": [], "pti_lpips": []}
    codes = []
    for i in tqdm(range(len(portraits)), desc="inversions"):
        target = to_images(portraits.images[i : i + 1])
        camera = Camera.from_label(torch.from_numpy(portraits.labels[i : i + 1]))
        shared = {"target": target, "camera": camera, "progress": False}
        wplus = invert_wplus(generator, steps=wplus_steps, learning_rate=CODE_RATE, lam_l2=2.0, **shared)
        found = {"wplus": wplus}
        if i < tuned:
            found["pti"] = invert_pti(
                generator,
                initial=wplus,
                steps=pti_steps,
                learning_rate=TUNING_RATE,
                lpips_threshold=0.0,
                **shared,
            )
        codes.append(wplus.w_plus)
        for name, inversion in found.items():
            with torch.inference_mode():
                image = inversion.render(camera).image
                rows[f"{name}_mse"].append(metrics.mse(image, target).item())
                rows[f"{name}_lpips"].append(lpips(image, target).item())
    return {name: float(np.mean(values)) for name, values in rows.items()} | {
        "mirrored_identity": mirrored_identities(generator, torch.cat(codes), portraits),
        "portraits": len(portraits),
        "tuned": tuned,
        "wplus_steps": wplus_steps,
        "pti_steps": pti_steps,
    }


@torch.inference_mode()
def sample_images(
    generator: EG3D, labels: Tensor, seed: int = 0, batch: int = 20, psi: float = 1.0
) -> Tensor:
    """Samples from N(0, I), each conditioned on and seen from one of the cameras."""
    z = torch.randn(len(labels), generator.z_dim, generator=torch.Generator().manual_seed(seed))
    images = []
    for start in tqdm(range(0, len(z), batch), desc="samples"):
        camera = Camera.from_label(labels[start : start + batch])
        images.append(
            generator.synthesize(generator.map(z[start : start + batch], camera, psi), camera).image
        )
    return torch.cat(images).clamp(-1, 1)


def fid(generator: EG3D, portraits: datasets.Portraits, seed: int = 0) -> float:
    """FID of as many samples as portraits are given, under the portraits' cameras."""
    samples = sample_images(generator, torch.from_numpy(portraits.labels), seed)
    return metrics.frechet_distance(
        metrics.inception_features(samples), metrics.inception_features(to_images(portraits.images))
    )


@torch.inference_mode()
def conditioning_effect(generator: EG3D, n: int = 32, yaw: float = 0.5) -> float:
    """How far the planes move when the conditioning camera does, relative to how far people are apart.

    Root mean square difference of a person's planes between conditioning yaws -yaw, 0 and yaw, over that
    between people.
    """
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(1))
    planes = torch.stack([generator.planes(generator.map(z, orbit(y, 0.0))) for y in (-yaw, 0.0, yaw)])
    return float(planes.std(dim=0).square().mean().sqrt() / planes[1].std(dim=0).square().mean().sqrt())


def evaluate_prior(generator: EG3D, inverted: int = 64, tuned: int = 16, fid_portraits: int = 5000) -> dict:
    """Every number of the model card."""
    portraits = datasets.load_portraits(datasets.Plan(), generator.resolution, generator.neural_resolution)
    train, held_out = portraits[~portraits.held_out], portraits[portraits.held_out]
    turned = ~np.isnan(held_out.target_yaw)
    people, singles = held_out[turned], held_out[~turned]
    nearly_frontal = np.flatnonzero(np.abs(people.yaw) < 0.35)
    chosen = people[np.random.default_rng(0).choice(nearly_frontal, inverted, replace=False)]
    some = np.random.default_rng(1).choice(len(people), min(150, len(people)), replace=False)
    own = held_out_renders(generator, people)
    with torch.inference_mode():
        w_plus = generator.map(torch.from_numpy(people.z), Camera.from_label(torch.from_numpy(people.labels)))
    return {
        "held_out_own_conditioning": by_yaw(own),
        "held_out_by_target_yaw": by_target_yaw(own),
        "held_out_frontal_conditioning": by_yaw(held_out_renders(generator, people, "frontal")),
        "conditioning_effect": conditioning_effect(generator),
        "thickness": thickness(
            generator, w_plus[some], Camera.from_label(torch.from_numpy(people.labels[some]))
        ),
        "mirrored_identity_from_code": mirrored_identities(generator, w_plus, people),
        "inversion": inversions(generator, chosen, wplus_steps=1000, pti_steps=250, tuned=tuned),
        "fid": fid(generator, singles[:fid_portraits]),
        "fid_images": min(fid_portraits, len(singles)),
        "training_portraits": len(train),
        "training_people": len(np.unique(train.person)),
        "held_out_portraits": len(people),
        "held_out_people": len(np.unique(people.person)),
    }
