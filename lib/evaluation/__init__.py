"""Protocols: what is measured on which images, with which settings. Metrics themselves are in lib.metrics."""

from lib.evaluation.inversion_cache import InversionFailed, cached_inversion, inversion_key
from lib.evaluation.measures import MEASURES, Comparison, Measure
from lib.evaluation.methods import METHODS, Method, method_named
from lib.evaluation.planned import finished, planned_inversion
from lib.evaluation.plans import EvaluationPlan, PlanError, read_plan
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
from lib.evaluation.protocol import COLUMNS, evaluate, joined, read_table, summarise, write_table
from lib.evaluation.results import record_evaluation, recorded_table

__all__ = [
    "CODE_RATE",
    "COLUMNS",
    "MEASURES",
    "METHODS",
    "TUNING_RATE",
    "YAW_BANDS",
    "Comparison",
    "EvaluationPlan",
    "InversionFailed",
    "Measure",
    "Method",
    "PlanError",
    "by_target_yaw",
    "by_yaw",
    "cached_inversion",
    "conditioning_effect",
    "evaluate",
    "evaluate_prior",
    "fid",
    "finished",
    "held_out_renders",
    "inversion_key",
    "inversions",
    "joined",
    "method_named",
    "planned_inversion",
    "read_plan",
    "read_table",
    "record_evaluation",
    "recorded_table",
    "sample_images",
    "summarise",
    "to_images",
    "write_table",
]
