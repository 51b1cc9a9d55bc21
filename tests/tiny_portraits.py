"""Portraits whose truth is known: what a tiny generator renders of known codes."""

import dataclasses

import numpy as np
import torch

from lib.cameras import orbit
from lib.datasets import Portraits
from lib.generators import EG3D
from tests.tiny_generator import TINY, tiny_generator


def portrait_generator(heeds_camera: bool = True) -> EG3D:
    """A tiny generator of pictures inside [-1, 1] that do, or do not, change with the conditioning camera."""
    generator = (
        EG3D(dataclasses.replace(TINY, conditioning_zero=not heeds_camera)).eval().requires_grad_(False)
    )
    generator.load_state_dict(tiny_generator().state_dict())
    for name, parameter in generator.named_parameters():
        if name.startswith("superresolution") and "torgb.weight" in name:
            parameter.mul_(0.05)
        if name.endswith("block1.torgb.bias"):
            parameter.add_(0.1)  # the empty background is at -1
    return generator.measure_w(n=500)


def rendered_portraits(
    generator: EG3D,
    people: int,
    views: int,
    singles: int,
    held_out_people: int = 0,
    held_out_singles: int = 0,
) -> Portraits:
    """Each portrait rendered from its own z, conditioned on its own camera, and stored like real ones."""
    rng = np.random.default_rng(0)
    person = np.concatenate([np.repeat(np.arange(people), views), people + np.arange(singles)])
    single = person >= people
    n = len(person)
    yaw, pitch = rng.uniform(-0.6, 0.6, n), rng.uniform(-0.2, 0.2, n)
    z = rng.standard_normal((people + singles, generator.z_dim)).astype(np.float32)[person]
    camera = orbit(torch.tensor(yaw, dtype=torch.float32), torch.tensor(pitch, dtype=torch.float32))
    with torch.inference_mode():
        view = generator.synthesize(generator.map(torch.from_numpy(z), camera), camera)
    assert view.image.abs().max() <= 1, "pictures of uint8 would be cut off"
    return Portraits(
        images=((view.image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy(),
        labels=camera.label().numpy(),
        yaw=yaw.astype(np.float32),
        target_yaw=np.where(single, np.nan, yaw),
        face_depth=view.depth[:, 0].numpy(),
        inside=np.ones((n, generator.resolution, generator.resolution), bool),
        z=z,
        person=person,
        held_out=np.where(
            single, person - people >= singles - held_out_singles, person >= people - held_out_people
        ),
    )
