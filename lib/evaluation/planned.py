"""The inversions of a plan for those who show them: as the evaluation computes them, or only what it has computed."""

from __future__ import annotations

from pathlib import Path

from lib import paths
from lib.datasets.catalogue import KINDS
from lib.datasets.scenes import Scene
from lib.evaluation.inversion_cache import cached_inversion, inversion_key
from lib.evaluation.methods import Method
from lib.evaluation.plans import EvaluationPlan, Input
from lib.generators import EG3D
from lib.inversion import Inversion


def planned_inversion(
    plan: EvaluationPlan, given: Input, name: str, generator: EG3D, scene: Scene | None = None
) -> Inversion:
    """What the method of this name makes of an input, exactly as the evaluation asks for it.

    generator: the plan's, loaded. scene: the input's, if it is at hand: photos take a while to make. Computed where the
    cache does not have it; `finished` says beforehand what it has. Raises `InversionFailed` where the method gave none.
    """
    methods = _methods(plan, given)
    if name not in methods:
        raise ValueError(f"the plan does not run {name!r} on {given.name}; it runs {', '.join(methods)}")
    target = (scene or given.scene(generator, plan.seed)).input
    return cached_inversion(
        methods[name], generator, target.image, target.camera, seed=plan.seed, base=plan.generator
    )


def finished(
    plan: EvaluationPlan, given: Input, generator: EG3D, scene: Scene | None = None
) -> tuple[str, ...]:
    """Names of the plan's methods whose inversions of an input are in the cache, in the order of the plan.

    Nothing is inverted, and no scene is made but of photos, which no cache keeps: give theirs if it is at hand. An
    evaluation that is running may have more a moment later; what is named here stays.
    """
    if scene is None:
        if given.kind in KINDS and not _scene_file(plan, given, generator).is_file():
            return ()
        scene = given.scene(generator, plan.seed)
    image, camera = scene.input.image, scene.input.camera
    keys = {
        name: inversion_key(method, generator, image, camera, plan.seed)
        for name, method in _methods(plan, given).items()
    }
    return tuple(name for name, key in keys.items() if _inversion_file(key).is_file())


def _methods(plan: EvaluationPlan, given: Input) -> dict[str, Method]:
    """The methods that a plan runs on an input."""
    return {name: planned.method for name, planned in plan.methods.items() if planned.takes(given)}


def _scene_file(plan: EvaluationPlan, given: Input, generator: EG3D) -> Path:
    """Where the cache of `lib.datasets.scenes` keeps the scene of an input."""
    return paths.CACHE / "scenes" / given.kind / f"{given.recipe(generator, plan.seed)}.safetensors"


def _inversion_file(key: str) -> Path:
    """Where the cache of `cached_inversion` keeps an inversion."""
    return paths.CACHE / "inversions" / f"{key}.safetensors"
