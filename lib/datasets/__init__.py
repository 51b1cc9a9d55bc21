"""Where images with known cameras come from: portraits sampled from the teacher, ground-truth scenes, real data."""

from lib.datasets.catalogue import scenes
from lib.datasets.portraits import (
    LatentSpace,
    Plan,
    Portraits,
    PoseDirections,
    latent_space,
    load_portraits,
    sample_portraits,
)
from lib.datasets.real import RealScenes, real_scenes
from lib.datasets.scenes import Scene, View, yaw_name
from lib.datasets.turned import drift

__all__ = [
    "LatentSpace",
    "Plan",
    "Portraits",
    "PoseDirections",
    "RealScenes",
    "Scene",
    "View",
    "drift",
    "latent_space",
    "load_portraits",
    "real_scenes",
    "sample_portraits",
    "scenes",
    "yaw_name",
]
