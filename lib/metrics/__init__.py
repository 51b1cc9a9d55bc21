"""Metrics, one function each: images in [-1, 1], a value per image. Definitions: the module of each."""

from lib.metrics.distribution import (
    frechet_distance,
    inception_features,
)
from lib.metrics.geometry import (
    depth_correlation,
    resize_depth,
)
from lib.metrics.images import (
    make_lpips,
    mse,
    psnr,
)

__all__ = [
    "depth_correlation",
    "frechet_distance",
    "inception_features",
    "make_lpips",
    "mse",
    "psnr",
    "resize_depth",
]
