"""Scenes and methods for tests of seconds: heads of the tiny generator, inverted without any optimisation."""

import dataclasses
import time
from pathlib import Path

import torch

from lib.cameras import Camera, orbit
from lib.datasets import Scene, View
from lib.generators import EG3D
from lib.inversion import Inversion

YAWS = {"yaw+0.0": 0.0, "yaw+0.3": 0.3, "ellipse00": 0.5}


def head(generator: EG3D, seed: int, camera: Camera) -> Inversion:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return Inversion(generator.map(z, generator.frontal_camera()), generator, camera)


def tiny_scene(generator: EG3D, seed: int = 1) -> Scene:
    """A head of the generator from three sides, with flat depth; `input` is the first."""
    cameras = {name: orbit(yaw, 0.0) for name, yaw in YAWS.items()}
    true = head(generator, seed, cameras["yaw+0.0"])
    views = {
        name: View(true.render(camera).image.clamp(-1, 1), camera, depth=torch.full((1, 1, 16, 16), 2.7))
        for name, camera in cameras.items()
    }
    return Scene(f"tiny-{seed}", "yaw+0.0", views, extras={"kind": "tiny", "seed": seed})


# ---- methods: at the top of a module, as those of the study, so that other processes find them ---------------


def guess(generator, target, camera, *, seed, progress, initial=None, log="", gate="", head_seed=0):
    """The head of `head_seed`, or `initial` with another picture. Notes each call; waits while `gate` exists."""
    if log:
        with Path(log).open("a") as file:
            file.write("called\n")
    while gate and Path(gate).exists():
        time.sleep(0.01)
    if initial is not None:
        return dataclasses.replace(initial, w_plus=initial.w_plus + 0.1)
    return head(generator, head_seed + seed, camera)


def another_guess(generator, target, camera, *, seed, progress):
    """The mean head."""
    code = generator.w_mean.expand(1, generator.n_layers, -1)
    return Inversion(code, generator, camera)


def failing(generator, target, camera, *, seed, progress, log="", needed=""):
    """Fails until the file `needed` exists."""
    if log:
        with Path(log).open("a") as file:
            file.write("called\n")
    if not (needed and Path(needed).exists()):
        raise RuntimeError("no head in this picture")
    return head(generator, 0, camera)


def without_end(generator, target, camera, *, seed, progress, initial=None):
    """A code that is no number."""
    return Inversion(torch.full((1, generator.n_layers, generator.w_dim), torch.nan), generator, camera)


def interrupted(generator, target, camera, *, seed, progress, log, stop):
    """Ctrl-C, as long as the file `stop` exists."""
    with Path(log).open("a") as file:
        file.write("called\n")
    if Path(stop).exists():
        raise KeyboardInterrupt
    return head(generator, 0, camera)


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0
