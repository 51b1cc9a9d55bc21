"""The loops of all methods: killed runs go on to the bit, what diverges or runs short says so, batches are fair."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.contextual import canonical_landmarks
from lib.generators import EG3D
from lib.generators.eg3d import Decoder
from lib.inversion import (
    Checkpoints,
    Diverged,
    Inversion,
    invert_pose_opt,
    invert_pti,
    invert_spi,
    invert_w,
    invert_wplus,
    optimisation,
    project,
    project_batch,
)
from lib.inversion.optimisation import Terms, digest, early_sampling
from lib.paths import ROOT
from tests.tiny_generator import RandomFeatures, tiny_generator

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

VIEW = orbit(0.3, 0.1)


class Features(RandomFeatures):
    """Features for warping and contextual losses, of no network that would have to be fetched."""

    def __call__(self, image: Tensor) -> Tensor:
        return self.target(image)


class Killed(BaseException):
    """Like Ctrl-C, whatever a method does about errors."""


class Mortal(RandomFeatures):
    """A perceptual distance that kills its run when asked for the time after `calls`."""

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().__call__(image, other)


class Spoiled(RandomFeatures):
    """A perceptual distance that is no number after so many calls."""

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        self.left -= 1
        return super().__call__(image, other) * (torch.nan if self.left < 0 else 1.0)


@dataclass(frozen=True)
class Run:
    """A call of a method that takes a second, and the names of its stages."""

    invert: Any
    settings: dict[str, Any]
    stages: tuple[str, ...]
    noise_strength: float = 0.0

    def __call__(self, target: Tensor, **settings: Any) -> Inversion:
        given = {"perceptual": RandomFeatures(), "progress": False, "seed": 3} | self.settings | settings
        return self.invert(tiny_generator(self.noise_strength), target, VIEW, **given)


POSE_OPT = {"latent_steps": 8, "pose_steps": 3, "steps": 5, "statistics_samples": 50, "features": Features()}
SPI = {
    "latent_steps": 6,
    "steps": 6,
    "interval": 2,
    "views": 2,
    "features": Features(),
    "masks": {"face": torch.ones(1, 1, 16, 16)},
    "landmarks": canonical_landmarks(VIEW)[0],
}
PTI = {
    "pivot_steps": 7,
    "steps": 7,
    "lam_locality": 0.1,
    "ray_jitter": True,
    "pivot_settings": {"ray_jitter": True},
}
RUNS = {
    "w": Run(invert_w, {"steps": 13, "ray_jitter": True}, ("invert into W",)),
    "wplus": Run(invert_wplus, {"steps": 13}, ("invert into W+",)),
    "wplus, noise discarded": Run(invert_wplus, {"steps": 13, "noise": "discard"}, ("invert into W+",), 0.1),
    "wplus, noise kept": Run(invert_wplus, {"steps": 13, "noise": "keep"}, ("invert into W+",), 0.1),
    "pti": Run(invert_pti, PTI, ("invert into W", "tune the generator")),
    "pose_opt, free": Run(invert_pose_opt, POSE_OPT, ("find pose and code", "tune at the pose")),
    "pose_opt, network": Run(
        invert_pose_opt, POSE_OPT | {"pose": "network"}, ("find pose and code", "tune at the pose")
    ),
    "spi": Run(invert_spi, SPI, ("invert into W+", "tune by SPI")),
}


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


def picture(generator: EG3D, seed: int, camera: Camera = VIEW) -> Tensor:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.synthesize(generator.map(z, camera), camera).image.clamp(-1, 1)


@pytest.fixture(scope="module")
def target(generator) -> Tensor:
    return picture(generator, 1)


@dataclass(frozen=True)
class Survivor:
    """A run that was killed until it came to its end, and the same run in peace."""

    name: str
    found: Inversion
    expected: Inversion
    folder: Path
    deaths: int


@pytest.fixture(scope="module")
def survivors(target, tmp_path_factory):
    """Survivor of each of the RUNS, made when it is first asked for.

    Six distances bring a run past one checkpoint, never to its end: one that began anew would not arrive.
    """
    known = {}

    def survivor(name: str) -> Survivor:
        if name not in known:
            run, folder, deaths = RUNS[name], tmp_path_factory.mktemp("run") / "deep" / "folder", 0
            while deaths < 30:
                try:
                    found = run(target, perceptual=Mortal(6), checkpoints=Checkpoints(folder, every=2))
                    break
                except Killed:
                    deaths += 1
            known[name] = Survivor(name, found, run(target), folder, deaths)
        return known[name]

    return survivor


def assert_same(found: Inversion, expected: Inversion) -> None:
    """Equal to the bit, all of it."""
    assert found.history == expected.history
    assert found.extras == expected.extras
    assert torch.equal(found.w_plus, expected.w_plus)
    assert torch.equal(found.camera.label(), expected.camera.label())
    assert digest(found.generator.state_dict()) == digest(expected.generator.state_dict())


# ----------------------------------------------------------------------- killed and gone on
@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(name, survivors):
    survivor = survivors(name)
    assert survivor.deaths >= 2
    assert_same(survivor.found, survivor.expected)


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_is_read_and_not_repeated(name, survivors, target):
    survivor = survivors(name)
    names = {path.name for path in survivor.folder.iterdir()}
    assert names == {f"{stage.replace(' ', '_')}.pt" for stage in RUNS[name].stages}
    again = RUNS[name](target, perceptual=Mortal(0), checkpoints=Checkpoints(survivor.folder))
    assert_same(again, survivor.expected)


def test_a_tuning_that_stopped_early_is_not_taken_up_again(survivors, target, tmp_path):
    """At the second start the threshold is met no more by any loss that is computed, as none is."""
    early = survivors("pti").expected.history["lpips"][4]
    settings = {"lpips_threshold": early, "checkpoints": Checkpoints(tmp_path)}
    stopped = RUNS["pti"](target, **settings)
    assert stopped.extras["steps_taken"] <= 4
    assert_same(RUNS["pti"](target, perceptual=Mortal(0), **settings), stopped)


@pytest.mark.parametrize("name", ["w", "pti"])
def test_who_watches_a_run_does_not_matter_to_its_checkpoints(name, survivors, target, tmp_path):
    def killing(step, state):
        if step == 5:
            raise Killed

    checkpoints = Checkpoints(tmp_path, every=2)
    with pytest.raises(Killed):
        RUNS[name](target, checkpoints=checkpoints, callback=killing, progress=True)
    seen = []
    found = RUNS[name](target, checkpoints=checkpoints, callback=lambda step, _: seen.append(step))
    assert_same(found, survivors(name).expected)
    assert seen[0] == 4


def test_checkpoints_come_as_often_as_they_are_asked_for(target, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        optimisation.torch, "save", lambda state, path: saved.append(state["step"]) or path.touch()
    )
    RUNS["w"](target, checkpoints=Checkpoints(tmp_path, every=5))
    assert saved == [5, 10, 13]


def test_a_run_killed_while_it_writes_goes_on_from_the_checkpoint_before(
    survivors, target, tmp_path, monkeypatch
):
    save, checkpoints = torch.save, Checkpoints(tmp_path, every=2)

    def tearing(state, path):
        if state["step"] < 6:
            return save(state, path)
        path.write_bytes(b"half of it")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(optimisation.torch, "save", tearing)
        with pytest.raises(Killed):
            RUNS["w"](target, checkpoints=checkpoints)
    assert [path.name for path in tmp_path.iterdir()] == ["invert_into_W.pt"]
    seen = []
    found = RUNS["w"](target, checkpoints=checkpoints, callback=lambda step, _: seen.append(step))
    assert seen[0] == 4
    assert_same(found, survivors("w").expected)


KILLED_SCRIPT = """
import os, signal, sys
import torch
from lib.inversion import Checkpoints
from tests.test_optimisation import RUNS, Mortal, picture
from tests.tiny_generator import tiny_generator

class Sudden(Mortal):
    def __call__(self, image, other):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, other)

RUNS["pti"](picture(tiny_generator(), 1), perceptual=Sudden(11), checkpoints=Checkpoints(sys.argv[1], every=2))
"""


def test_a_process_that_is_killed_leaves_what_another_goes_on_from(survivors, target, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-W", "ignore", "-c", KILLED_SCRIPT, tmp_path]
    dead = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert len(list(tmp_path.glob("[!.]*.pt"))) == 2
    seen = []
    found = RUNS["pti"](
        target, checkpoints=Checkpoints(tmp_path, 2), callback=lambda step, _: seen.append(step)
    )
    assert seen and seen[0] > 0
    assert_same(found, survivors("pti").expected)


# ----------------------------------------------------------------------- checkpoints that are not this run's
OTHERS = {
    "picture": ("w", lambda target: {"target": target.flip(-1)}),
    "seed": ("w", lambda _: {"seed": 4}),
    "number of steps": ("w", lambda _: {"steps": 14}),
    "learning rate": ("w", lambda _: {"learning_rate": 0.02}),
    "tuning rate": ("pti", lambda _: {"learning_rate": 1e-3}),
    "search for the pivot": ("pti", lambda _: {"pivot_settings": {"ray_jitter": True, "shake": 0.01}}),
    "form of the pose": ("pose_opt, free", lambda _: {"form": "6d"}),
    "weight of the mirrored photo": ("spi", lambda _: {"mirror_form": "constant"}),
    "views": ("spi", lambda _: {"views": 1}),
    "landmarks": ("spi", lambda _: {"landmarks": SPI["landmarks"] + 0.01}),
    "masks": ("spi", lambda _: {"masks": {"face": torch.zeros(1, 1, 16, 16)}}),
}


@pytest.mark.parametrize("change", OTHERS)
def test_checkpoints_of_another_run_are_refused(change, survivors, target):
    name, changed = OTHERS[change]
    given = {"target": target, "checkpoints": Checkpoints(survivors(name).folder)}
    with pytest.raises(ValueError, match=r"is of another run.*Give another folder"):
        RUNS[name](**given | changed(target))


def test_a_rough_head_of_another_weighting_is_not_taken_up(survivors, target, tmp_path):
    """Of a run that was killed before its second stage only the file of the first can tell."""
    shutil.copy(survivors("spi").folder / "invert_into_W+.pt", tmp_path)
    with pytest.raises(ValueError, match=r"invert_into_W\+\.pt is of another run"):
        RUNS["spi"](target, checkpoints=Checkpoints(tmp_path), mirror_form="none")


@pytest.mark.parametrize("name", ["w", "pti"])
def test_checkpoints_of_another_generator_are_refused(name, survivors, target):
    run, other = RUNS[name], tiny_generator()
    other.decoder.net[2].bias[0] += 1e-3  # the codes are drawn as before
    given = {"perceptual": RandomFeatures(), "progress": False, "seed": 3} | run.settings
    with pytest.raises(ValueError, match="is of another run"):
        run.invert(other, target, VIEW, checkpoints=Checkpoints(survivors(name).folder), **given)


class Malicious:
    """A pickle of this touches a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["torn", "empty", "text", "pickle", "torch file", "no state"])
def test_files_that_are_no_checkpoints_are_refused_unread(kind, survivors, target, tmp_path):
    run, file, trace = RUNS["w"], tmp_path / "invert_into_W.pt", tmp_path / "trace"
    shutil.copy(survivors("w").folder / file.name, file)
    {
        "torn": lambda: file.write_bytes(file.read_bytes()[:-200]),
        "empty": lambda: file.write_bytes(b""),
        "text": lambda: file.write_text("hello"),
        "pickle": lambda: file.write_bytes(pickle.dumps(Malicious(trace), protocol=2)),
        "torch file": lambda: torch.save({"identity": Malicious(trace)}, file),
        "no state": lambda: torch.save([torch.zeros(3)], file),
    }[kind]()
    with pytest.raises(ValueError, match=r"invert_into_W\.pt is no checkpoint.*remove it"):
        run(target, checkpoints=Checkpoints(tmp_path))
    assert not trace.exists()


def test_the_malicious_file_would_act_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_a_checkpoint_is_written_every_so_many_steps_or_not_at_all(target, tmp_path):
    for every in (0, -2):
        with pytest.raises(ValueError, match=f"every must be 1 or more; got {every}"):
            RUNS["w"](target, checkpoints=Checkpoints(tmp_path, every=every))


# ----------------------------------------------------------------------- several pictures at once
CAMERAS = (orbit(0.0, 0.0), orbit(0.4, -0.1), orbit(-0.3, 0.2))
BATCH = {"steps": 16, "learning_rate": 0.02, "perceptual": RandomFeatures(), "progress": False, "seed": 5}


@pytest.fixture(scope="module")
def targets(generator) -> Tensor:
    return torch.cat([picture(generator, seed, camera) for seed, camera in enumerate(CAMERAS)])


@pytest.mark.parametrize(("space", "early"), [("w", "full"), ("wplus", "half_rays")])
def test_a_batch_takes_the_steps_of_its_pictures_by_themselves(generator, targets, space, early):
    settings = BATCH | {"space": space, "early": early}
    together = project_batch(generator, targets, Camera.cat(list(CAMERAS)), **settings)
    for place, (camera, found) in enumerate(zip(CAMERAS, together, strict=True)):
        alone = project(generator, targets[place : place + 1], camera, **settings)
        assert torch.equal(found.camera.label(), camera.label())
        torch.testing.assert_close(found.w_plus, alone.w_plus, atol=2e-4, rtol=1e-3)
        assert found.history.keys() == alone.history.keys()
        for name, values in alone.history.items():
            np.testing.assert_allclose(found.history[name], values, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(together[0].w_plus, together[1].w_plus, atol=0.01)


def spoiling(place: int, first: int) -> Any:
    """An objective in which one picture's loss is no number from step `first` on, and takes its gradient along."""

    def objective(working: EG3D, w_plus: Tensor, step: int) -> Terms:
        image = working.synthesize(w_plus, Camera.cat(list(CAMERAS))[: len(w_plus)]).image
        bright = (image - 0.3).square().mean(dim=(1, 2, 3))
        factor = torch.ones(len(w_plus))
        if step >= first:
            factor[place] = torch.nan
        return Terms(image, {"bright": bright, "spoiled": bright * factor}, bright + bright * factor)

    return objective


def test_one_that_diverges_leaves_the_others_as_they_are_without_it(generator, targets):
    settings = BATCH | {"space": "wplus"}
    cameras = Camera.cat(list(CAMERAS))
    expected = project_batch(generator, targets, cameras, objective=spoiling(1, 1000), **settings)
    found = project_batch(generator, targets, cameras, objective=spoiling(1, 7), **settings)
    for place in (0, 2):
        assert_same(found[place], expected[place])
    lost = found[1]
    assert isinstance(lost, Diverged)
    assert (lost.stage, lost.step, lost.term) == ("invert into W+", 7, "spoiled")


def test_what_was_lost_before_a_kill_is_lost_after_it(generator, targets, tmp_path):
    def killing(step, state):
        if step == 15:
            raise Killed

    settings = BATCH | {"space": "w", "objective": spoiling(2, 3)}
    cameras = Camera.cat(list(CAMERAS))
    expected = project_batch(generator, targets, cameras, **settings)
    settings["checkpoints"] = Checkpoints(tmp_path, every=10)
    with pytest.raises(Killed):
        project_batch(generator, targets, cameras, callback=killing, **settings)
    found = project_batch(generator, targets, cameras, **settings)
    for place in (0, 1):
        assert_same(found[place], expected[place])
    assert str(found[2]) == str(expected[2]) and found[2].step == expected[2].step == 3


def test_all_may_diverge(generator, targets):
    settings = BATCH | {"space": "w", "objective": lambda *given: spoiling(0, 0)(*given)}
    lost = project_batch(
        generator, targets[:1].expand(2, -1, -1, -1), Camera.cat([CAMERAS[0]] * 2), **settings
    )
    assert isinstance(lost[0], Diverged) and isinstance(lost[1], Inversion)


def test_noise_maps_belong_to_one_picture(generator, targets):
    with pytest.raises(ValueError, match="noise='keep' takes one picture at a time"):
        project_batch(generator, targets, Camera.cat(list(CAMERAS)), space="w", noise="keep")


# ----------------------------------------------------------------------- divergence
STARTS = {"w": 4, "wplus": 4, "pti": 3, "pose_opt, free": 5, "pose_opt, network": 5, "spi": 4}
"""Run: calls of the distance before it is spoiled, all within the first stage."""


@pytest.mark.parametrize("name", STARTS)
def test_a_run_that_diverges_says_where(name, target):
    with pytest.raises(Diverged, match="learning_rate") as caught:
        RUNS[name](target, perceptual=Spoiled(STARTS[name]))
    calls_a_step = 2 if name == "spi" else 1  # photo and mirrored photo
    assert caught.value.stage == RUNS[name].stages[0]
    assert caught.value.step == STARTS[name] // calls_a_step
    assert caught.value.term == "lpips"
    assert f"{caught.value.stage} diverged at step {caught.value.step}: lpips is nan" in str(caught.value)


@pytest.mark.parametrize("name", ["pti", "pose_opt, free", "spi"])
def test_a_tuning_that_diverges_says_where(name, target):
    initial = {"spi": "latent_steps", "pti": "pivot_steps", "pose_opt, free": "latent_steps"}[name]
    calls_before = RUNS[name].settings[initial] * (2 if name == "spi" else 1)
    with pytest.raises(Diverged) as caught:
        RUNS[name](target, perceptual=Spoiled(calls_before))
    assert caught.value.stage == RUNS[name].stages[1] and caught.value.step == 0


def test_weights_that_the_last_step_spoils_are_no_result(target):
    with pytest.raises(Diverged, match="tune the generator diverged at step 1: weight") as caught:
        RUNS["pti"](target, steps=1, learning_rate=torch.inf)
    assert caught.value.step == 1


def test_a_code_that_the_last_step_spoils_is_no_result(generator, target):
    """The loss is a number at every step, its gradient is none at the last."""

    def objective(working, w_plus, step):
        edge = (w_plus - w_plus).sum(dim=(1, 2)).abs() if step == 4 else w_plus.square().sum(dim=(1, 2))
        return Terms(target, {"edge": edge.sqrt()}, edge.sqrt())

    settings = {"space": "w", "objective": objective, "steps": 5, "progress": False}
    with pytest.raises(Diverged, match="invert into W diverged at step 5"):
        project(generator, target, VIEW, **settings)


def test_a_divergence_is_the_same_in_another_process(target):
    with pytest.raises(Diverged) as caught:
        RUNS["w"](target, perceptual=Spoiled(4))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is Diverged and str(again) == str(caught.value)
    assert (again.stage, again.step, again.term) == ("invert into W", 4, "lpips")


def test_the_first_wrong_term_is_named_and_the_sum_only_where_no_term_is():
    assert Diverged("a stage", 3, {"loss": torch.nan, "l2": 1.0, "depth": torch.inf}).term == "depth"
    assert Diverged("a stage", 3, {"loss": torch.inf, "l2": 1.0}).term == "loss"


# ----------------------------------------------------------------------- memory
def out_of_memory_on_a_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")


def out_of_memory_on_a_cpu(*_):
    return torch.empty(2**60)


@pytest.mark.parametrize("happens", [out_of_memory_on_a_gpu, out_of_memory_on_a_cpu])
@pytest.mark.parametrize("stage", [0, 1])
def test_where_memory_ends_there_is_advice(happens, stage, target):
    class Large(RandomFeatures):
        calls = 0

        def __call__(self, image, other):
            self.calls += 1
            return super().__call__(image, other) if self.calls <= 7 * stage else happens()

    advice = r"out of memory.*8 rays a side.*early='half_rays'.*[Tt]ried to allocate"
    with pytest.raises(torch.OutOfMemoryError, match=advice):
        RUNS["pti"](target, perceptual=Large())


def test_other_errors_stay_what_they_are(target):
    def failing(step, state):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$") as caught:
        RUNS["w"](target, callback=failing)
    assert type(caught.value) is RuntimeError


# ----------------------------------------------------------------------- cheaper first steps
HALF_RAYS, COARSE = ("half_rays", 1 / 4), ("coarse", 8 / 12)  # and the share of points that they ask for


@pytest.mark.parametrize(
    ("name", "early", "share"),
    [
        ("w", *HALF_RAYS),
        ("wplus", *COARSE),
        ("pti", *HALF_RAYS),
        ("pose_opt, free", *COARSE),
        ("spi", *HALF_RAYS),
        ("spi", *COARSE),
    ],
)
def test_first_steps_cost_less_and_the_others_what_they_did(name, early, share, target, monkeypatch):
    """Points that the decoder is asked for from one step of the loop to the next."""
    points, by_step, forward = [0], [], Decoder.forward

    def counting(decoder, table, positions):
        points[0] += positions.shape[-2]
        return forward(decoder, table, positions)

    def step_over(step, state):
        by_step.append(points[0])
        points[0] = 0

    monkeypatch.setattr(Decoder, "forward", counting)
    changes = {"pti": {"lam_locality": 0.0}, "spi": {"interval": 1}}.get(name, {})
    initial = {} if name.startswith("w") else {"initial": tiny_generator().w_mean}
    steps = {"steps": 8, "early": early, "early_until": 0.5, "callback": step_over}
    RUNS[name](target, **changes, **initial, **steps)
    last = by_step[-8:]
    assert len(set(last[-4:])) == 1
    assert last[1:4] == pytest.approx([share * last[-1]] * 3)


def test_bad_values_are_refused(generator, target):
    with pytest.raises(ValueError, match="early is full, half_rays or coarse; got 'quick'"):
        early_sampling(generator, "quick", 0.5, 0.0)
    with pytest.raises(ValueError, match="early is full, half_rays or coarse; got 'quick'"):
        RUNS["w"](target, early="quick")
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        project_batch(generator, target, VIEW, space="w", steps=0)
    with pytest.raises(ValueError, match=r"pose_steps.*got 8"):
        RUNS["pose_opt, free"](target, pose_steps=8)
