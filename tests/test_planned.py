"""Inversions of a plan: those that the evaluation keeps are found, and asking which there are computes nothing."""

import pytest
import torch

from lib import paths
from lib.evaluation import EvaluationPlan, Method, finished, planned_inversion
from lib.evaluation.plans import PlannedMethod, listed
from lib.evaluation.protocol import Trial, rows_of
from tests import tiny_scenes
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import calls, head


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Two samples, a method and one that starts from it, and one that is run on the first sample only."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    log = {"log": str(tmp_path / "log")}
    first = Method("first", tiny_scenes.guess, log)
    methods = {
        "first": PlannedMethod(first),
        "second": PlannedMethod(Method("second", tiny_scenes.guess, log | {"head_seed": 5}, start=first)),
        "rare": PlannedMethod(Method("rare", tiny_scenes.another_guess), n=1),
    }
    # Its generator has no name that files could refer to.
    return EvaluationPlan(None, listed([{"kinds": ["samples"], "n": 2}]), methods, metrics=["mse"], seed=3)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_nothing_is_finished_before_a_scene_is_made(plan, generator):
    assert finished(plan, plan.inputs[0], generator) == ()
    assert not (paths.CACHE / "scenes").exists()


def test_asking_inverts_nothing(plan, generator, log):
    given = plan.inputs[0]
    scene = given.scene(generator, plan.seed)
    assert finished(plan, given, generator) == finished(plan, given, generator, scene) == ()
    assert calls(log) == 0


def test_what_is_computed_is_finished_in_the_order_of_the_plan(plan, generator, log):
    given, other = plan.inputs
    planned_inversion(plan, given, "rare", generator)
    planned_inversion(plan, given, "first", generator)
    assert finished(plan, given, generator) == ("first", "rare")
    assert calls(log) == 1
    assert finished(plan, other, generator) == ()


def test_the_plan_s_seed_scene_and_start_count(plan, generator, log):
    given = plan.inputs[0]
    scene = given.scene(generator, plan.seed)
    found = planned_inversion(plan, given, "second", generator)
    expected = head(generator, plan.seed, scene.input.camera).w_plus + 0.1
    assert torch.equal(found.w_plus, expected)
    assert calls(log) == 2
    assert finished(plan, given, generator) == ("first", "second")


def test_the_evaluation_and_those_who_show_it_share_inversions(plan, generator, log, tmp_path):
    given = plan.inputs[0]
    scene = given.scene(generator, plan.seed)
    method = plan.methods["first"].method
    rows_of(Trial(method, scene, generator, (scene.input_name,), (), tmp_path, None, plan.seed, retry=False))
    assert finished(plan, given, generator, scene) == ("first",)
    planned_inversion(plan, given, "first", generator, scene)
    assert calls(log) == 1


def test_a_method_that_is_not_run_on_an_input_is_refused(plan, generator):
    with pytest.raises(ValueError, match=r"does not run 'rare' on samples-01; it runs first, second"):
        planned_inversion(plan, plan.inputs[1], "rare", generator)
