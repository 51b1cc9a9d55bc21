"""Portraits rendered by a generator: the arrays of those sampled from the teacher, and every number in them true."""

from __future__ import annotations

import numpy as np
import torch

from lib.datasets.portraits import Portraits
from lib.generators import EG3D
from lib.images import to_uint8


@torch.inference_mode()
def rendered_portraits(
    generator: EG3D,
    people: int,
    views: int,
    singles: int = 0,
    *,
    truncation_psi: float = 1.0,
    largest_yaw: float = 0.6,
    largest_pitch: float = 0.15,
    batch: int = 16,
    seed: int = 0,
) -> Portraits:
    """Samples of N(0, I): people in several views, then singles in one, at poses drawn evenly within these limits.

    Codes are conditioned on the frontal camera, so that all views of a person show one head. All are to be trained on.
    """
    rng = np.random.default_rng(seed)
    person = np.concatenate([np.repeat(np.arange(people), views), people + np.arange(singles)])
    z = rng.standard_normal((people + singles, generator.z_dim)).astype(np.float32)[person]
    yaw, pitch = (
        torch.tensor(rng.uniform(-limit, limit, len(person)), dtype=torch.float32)
        for limit in (largest_yaw, largest_pitch)
    )
    camera = generator.camera(yaw, pitch)
    images, depths = [], []
    for start in range(0, len(person), batch):
        rows = slice(start, start + batch)
        w_plus = generator.map(torch.from_numpy(z[rows]), generator.frontal_camera(), truncation_psi)
        view = generator.synthesize(w_plus, camera[rows])
        images.append(to_uint8(view.image))
        depths.append(view.depth[:, 0].numpy())
    side = generator.resolution
    return Portraits(
        images=np.concatenate(images),
        labels=camera.label().numpy(),
        yaw=yaw.numpy(),
        target_yaw=np.where(person < people, yaw.numpy(), np.nan),
        face_depth=np.concatenate(depths),
        inside=np.ones((len(person), side, side), bool),
        z=z,
        person=person,
        held_out=np.zeros(len(person), bool),
    )
