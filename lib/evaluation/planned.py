"""The inversions of a plan for those who show them: as the evaluation computes them, or only what it has computed."""

from __future__ import annotations

from lib import paths
from lib.datasets.catalogue import KINDS
from lib.evaluation.inversion_cache import cached_inversion, inversion_key
from lib.evaluation.plans import EvaluationPlan, Input
from lib.generators import EG3D
from lib.inversion import Inversion


def planned_inversion(plan: EvaluationPlan, given: Input, name: str, generator: EG3D) -> Inversion:
    """What the method of this name makes of an input, exactly as the evaluation asks for it.

    generator: the plan's, loaded. Computed where the cache does not have it: `finished` says beforehand what it has.
    Raises `InversionFailed` where the method gave none.
    """
    target = given.scene(generator, plan.seed).input
    method = _planned(plan, given, name)
    return cached_inversion(
        method, generator, target.image, target.camera, seed=plan.seed, base=plan.generator
    )


def finished(plan: EvaluationPlan, given: Input, generator: EG3D) -> tuple[str, ...]:
    """Names of the plan's methods whose inversions of an input are in the cache, in the order of the plan.

    Nothing is inverted, and no scene is made but of photos, which are kept nowhere. A running evaluation may have more a
    moment later; what is named here stays.
    """
    if given.kind in KINDS and not _scene_file(plan, given, generator).is_file():
        return ()
    target = given.scene(generator, plan.seed).input
    keys = {
        name: inversion_key(planned.method, generator, target.image, target.camera, plan.seed)
        for name, planned in plan.methods.items()
        if planned.takes(given)
    }
    return tuple(
        name for name, key in keys.items() if (paths.CACHE / "inversions" / f"{key}.safetensors").is_file()
    )


def _planned(plan: EvaluationPlan, given: Input, name: str):
    """The method of this name, if the plan runs it on this input."""
    taken = {name: planned.method for name, planned in plan.methods.items() if planned.takes(given)}
    if name not in taken:
        raise ValueError(f"the plan does not run {name!r} on {given.name}; it runs {', '.join(taken)}")
    return taken[name]


def _scene_file(plan: EvaluationPlan, given: Input, generator: EG3D):
    """Where the cache of `lib.datasets.scenes` keeps the scene of an input."""
    return paths.CACHE / "scenes" / given.kind / f"{given.recipe(generator, plan.seed)}.safetensors"
