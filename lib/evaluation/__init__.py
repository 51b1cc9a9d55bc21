"""Protocols: what is measured on which images, with which settings. Metrics themselves are in lib.metrics."""

from lib.evaluation.prior import (
    CODE_RATE,
    TUNING_RATE,
    YAW_BANDS,
    by_target_yaw,
    by_yaw,
    conditioning_effect,
    evaluate_prior,
    fid,
    held_out_renders,
    inversions,
    sample_images,
    to_images,
)

__all__ = [
    "CODE_RATE",
    "TUNING_RATE",
    "YAW_BANDS",
    "by_target_yaw",
    "by_yaw",
    "conditioning_effect",
    "evaluate_prior",
    "fid",
    "held_out_renders",
    "inversions",
    "sample_images",
    "to_images",
]
