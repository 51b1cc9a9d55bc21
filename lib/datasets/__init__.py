"""Where images with known cameras come from: portraits sampled from the teacher, ground-truth scenes, real data."""

from lib.datasets.portraits import (
    LatentSpace,
    Plan,
    Portraits,
    PoseDirections,
    load_portraits,
    sample_portraits,
)
from lib.datasets.scenes import Scene, View

__all__ = [
    "LatentSpace",
    "Plan",
    "Portraits",
    "PoseDirections",
    "Scene",
    "View",
    "load_portraits",
    "sample_portraits",
]
