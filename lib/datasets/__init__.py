"""Where images with known cameras come from: portraits sampled from the teacher, ground-truth scenes, real data."""

from lib.datasets.catalogue import scenes
from lib.datasets.portraits import (
    LatentSpace,
    Plan,
    Portraits,
    PoseDirections,
    UnposedPortraits,
    latent_space,
    load_portraits,
    load_unposed_portraits,
    posed_latent_space,
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
    "UnposedPortraits",
    "View",
    "drift",
    "latent_space",
    "load_portraits",
    "load_unposed_portraits",
    "posed_latent_space",
    "real_scenes",
    "sample_portraits",
    "scenes",
    "yaw_name",
]
