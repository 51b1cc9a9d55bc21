"""Inversions are computed once, whatever happens in between; what they depend on is what they are kept under."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib import assets
from lib.cameras import orbit
from lib.encoders import storage
from lib.evaluation import InversionFailed, Method, cached_inversion, inversion_cache, inversion_key
from lib.generators import EG3D, load_generator
from lib.generators.storage import save_generator
from lib.inversion import Inversion, invert_w
from lib.paths import ROOT
from tests import tiny_scenes
from tests.tiny_generator import RandomFeatures, tiny_generator
from tests.tiny_scenes import calls, tiny_scene


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def view(generator):
    return tiny_scene(generator).input


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def invert(generator, view, tmp_path):
    """One inversion of the tiny scene's input, in a cache of its own."""

    def invert(method, **options):
        return cached_inversion(
            method, generator, view.image, view.camera, folder=tmp_path / "cache", **options
        )

    return invert


def guess(log, **settings):
    return Method("guess", tiny_scenes.guess, {"log": str(log)} | settings)


# ---- computed once ----------------------------------------------------------------------------------------


def test_second_call_reads_what_the_first_computed(invert, log, generator, view):
    first, second = invert(guess(log)), invert(guess(log))
    assert calls(log) == 1
    assert torch.equal(first.w_plus, second.w_plus)
    assert torch.equal(first.w_plus, tiny_scenes.head(generator, 0, view.camera).w_plus)
    assert first.extras == second.extras
    assert second.extras["cost"]["seconds"] > 0
    assert second.extras["evaluated"]["settings"] == {"log": str(log)}


def tuned(generator, target, camera, *, seed, progress):
    changed = tiny_generator()
    changed.superresolution.block0.conv0.weight.mul_(1.1)
    return Inversion(generator.w_mean.expand(1, generator.n_layers, -1), changed, camera)


def test_tuned_generator_comes_back_to_the_bit(invert, generator):
    method = Method("tuned", tuned)
    invert(method)
    found, expected = invert(method), tuned(generator, None, orbit(0.0, 0.0), seed=0, progress=False)
    assert torch.equal(found.render().image, expected.render().image)
    assert not torch.equal(
        found.render().image, Inversion(found.w_plus, generator, found.camera).render().image
    )


def test_file_of_a_named_generator_has_only_what_differs(log, generator, view, tmp_path):
    name = str(tmp_path / "named.safetensors")
    save_generator(generator, name)
    named, cache = load_generator(name), tmp_path / "cache"
    first = cached_inversion(guess(log), named, view.image, view.camera, base=name, folder=cache)
    (small,) = cache.glob("*.safetensors")
    assert small.stat().st_size < 0.2 * Path(name).stat().st_size
    assert torch.equal(first.render().image, tiny_scenes.head(named, 0, view.camera).render().image)


def test_methods_that_share_a_start_share_its_computation(invert, log):
    start = guess(log)
    follow = Method("follow", tiny_scenes.guess, {}, start)
    other = Method("other", tiny_scenes.guess, {"head_seed": 1}, start)
    first, found = invert(start), invert(follow)
    invert(other)
    assert calls(log) == 1
    torch.testing.assert_close(found.w_plus, first.w_plus + 0.1)
    assert found.extras["cost"]["seconds"] > first.extras["cost"]["seconds"]


def test_damaged_file_is_made_again(invert, log, tmp_path):
    first = invert(guess(log))
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    torn = file.read_bytes()[:100]
    file.unlink()  # not written over: the tensors of `first` lie in it
    file.write_bytes(torn)
    assert torch.equal(invert(guess(log)).w_plus, first.w_plus)
    assert calls(log) == 2


# ---- the key ----------------------------------------------------------------------------------------------


def changed_weights():
    generator = tiny_generator()
    generator.decoder.net[0].bias[0] += 1e-3
    return generator


def changed_statistics():
    generator = tiny_generator()
    generator.set_w_statistics(generator.w_mean + 1e-3, generator.w_std)
    return generator


BASE = Method("guess", tiny_scenes.guess, {"head_seed": 1})
CHANGES = {
    "setting": lambda: {"method": dataclasses.replace(BASE, settings={"head_seed": 2})},
    "function": lambda: {"method": Method("guess", tiny_scenes.another_guess, {"head_seed": 1})},
    "start": lambda: {"method": dataclasses.replace(BASE, start=BASE)},
    "setting of the start": lambda: {
        "method": dataclasses.replace(BASE, start=Method("guess", tiny_scenes.guess))
    },
    "seed": lambda: {"seed": 1},
    "weights": lambda: {"generator": changed_weights()},
    "statistics of w": lambda: {"generator": changed_statistics()},
    "picture": lambda: {"target": torch.zeros(1, 3, 16, 16)},
    "camera": lambda: {"camera": orbit(1e-3, 0.0)},
}


def test_whatever_an_inversion_depends_on_changes_its_key(generator, view):
    given = {"method": BASE, "generator": generator, "target": view.image, "camera": view.camera, "seed": 0}
    keys = {name: inversion_key(**given | change()) for name, change in CHANGES.items()}
    keys["nothing"] = inversion_key(**given)
    assert len(set(keys.values())) == len(keys)


def test_other_networks_of_the_losses_change_the_key(generator, view, monkeypatch):
    first = inversion_key(BASE, generator, view.image, view.camera, 0)
    manifest = dict(assets.manifest())
    (weights,) = manifest["vgg16"].files
    manifest["vgg16"] = dataclasses.replace(
        manifest["vgg16"], files=(dataclasses.replace(weights, sha256=64 * "0"),)
    )
    monkeypatch.setattr(inversion_cache, "_manifest", lambda: manifest)
    assert inversion_key(BASE, generator, view.image, view.camera, 0) != first


def test_names_and_objects_do_not_change_the_key(view):
    first = inversion_key(BASE, tiny_generator(), view.image, view.camera, 0)
    renamed = dataclasses.replace(BASE, name="other")
    assert inversion_key(renamed, tiny_generator(), view.image.clone(), view.camera.to("cpu"), 0) == first


def test_settings_that_no_key_can_hold_are_refused():
    with pytest.raises(ValueError, match="plain values"):
        Method("guess", tiny_scenes.guess, {"perceptual": object()})


# ---- networks of encoders ---------------------------------------------------------------------------------


def refined(generator, target, camera, *, seed, progress):
    """A head with planes that no code makes."""
    code = generator.w_mean.expand(1, generator.n_layers, -1)
    return Inversion(code, generator, camera, extras={"planes": 0.5 * generator.planes(code), "note": "own"})


def test_planes_of_its_own_come_back_to_the_bit(invert, generator):
    method = Method("refined", refined)
    first, found = invert(method), invert(method)
    expected = refined(generator, None, orbit(0.0, 0.0), seed=0, progress=False)
    for head in (first, found):
        assert torch.equal(head.planes(), expected.planes())
        assert torch.equal(head.render().image, expected.render().image)
        assert head.extras["note"] == "own" and head.extras["cost"]["seconds"] > 0


def test_other_weights_of_a_network_change_the_key(generator, view, tmp_path, monkeypatch):
    """Its file is what counts, and not whether it was trained here or ships; without networks nothing changes."""
    monkeypatch.setattr(storage, "SHIPPED", ROOT / "lib" / "weights" / "nowhere")
    monkeypatch.setattr(storage, "TRAINED", tmp_path)
    own = dataclasses.replace(BASE, networks=("one", "two"))
    follow = Method("follow", tiny_scenes.guess, start=own)

    def write(name: str, content: bytes) -> list[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "network.safetensors").write_bytes(content)
        return [inversion_key(method, generator, view.image, view.camera, 0) for method in (own, follow)]

    keys = [write("one", b"first"), write("two", b"first"), write("two", b"second"), write("three", b"third")]
    for of_method in zip(*keys, strict=True):
        assert len(set(of_method)) == 3 and of_method[2] == of_method[3]
    plain = inversion_key(BASE, generator, view.image, view.camera, 0)
    assert plain not in keys[-1]
    write("one", b"other")
    assert inversion_key(BASE, generator, view.image, view.camera, 0) == plain

    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("one", "two"):
        (shipped / f"{name}.safetensors").write_bytes((tmp_path / name / "network.safetensors").read_bytes())
    before = inversion_key(own, generator, view.image, view.camera, 0)
    monkeypatch.setattr(storage, "SHIPPED", shipped)
    assert inversion_key(own, generator, view.image, view.camera, 0) == before


# ---- failures ---------------------------------------------------------------------------------------------


def test_failure_is_remembered_and_done_again_only_on_demand(invert, log, tmp_path):
    needed = tmp_path / "needed"
    method = Method("failing", tiny_scenes.failing, {"log": str(log), "needed": str(needed)})
    for _ in range(2):
        with pytest.raises(InversionFailed, match="RuntimeError: no head in this picture"):
            invert(method)
    assert calls(log) == 1
    (record,) = (tmp_path / "cache").glob("*.failure.json")
    content = json.loads(record.read_text())
    assert content["method"]["settings"] == method.settings
    assert 'raise RuntimeError("no head in this picture")' in content["traceback"]

    with pytest.raises(InversionFailed):
        invert(method, retry=True)
    assert calls(log) == 2
    needed.touch()
    invert(method, retry=True)
    assert not record.exists()
    invert(method)
    assert calls(log) == 3


def test_code_that_is_no_number_is_a_failure(invert):
    with pytest.raises(InversionFailed, match="NaN"):
        invert(Method("nan", tiny_scenes.without_end))


def test_failure_of_a_start_is_that_of_the_method(invert):
    start = Method("failing", tiny_scenes.failing)
    with pytest.raises(InversionFailed) as caught:
        invert(Method("guess", tiny_scenes.guess, start=start))
    assert caught.value.record["method"]["name"] == "failing"


def test_interruption_is_no_failure(invert, log, tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    method = Method("interrupted", tiny_scenes.interrupted, {"log": str(log), "stop": str(stop)})
    with pytest.raises(KeyboardInterrupt):
        invert(method)
    stop.unlink()
    invert(method)
    assert calls(log) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space left on device"),
        ImportError("no module"),
        MemoryError(),
        torch.OutOfMemoryError("no memory on the device"),
        assets.AssetError("offline"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_machine_lacks_is_no_failure_of_a_method(invert, monkeypatch, tmp_path, error):
    def lacking(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(inversion_cache, "_computed", lacking)
        with pytest.raises(type(error)) as caught:
            invert(Method("guess", tiny_scenes.guess))
    assert caught.value is error
    assert not list((tmp_path / "cache").glob("*.failure.json"))
    invert(Method("guess", tiny_scenes.guess))


# ---- going on ---------------------------------------------------------------------------------------------


def stepwise(generator, target, camera, *, seed, progress, checkpoints, log, stop="", spoil=""):
    """Ten steps into W. Notes each; in the eighth Ctrl-C while the file `stop` exists, or no number with `spoil`."""

    def note(step, state):
        with Path(log).open("a") as file:
            file.write(f"{step}\n")
        if stop and Path(stop).exists() and step == 7:
            raise KeyboardInterrupt
        if spoil and step == 7:
            raise FloatingPointError("no number")

    quiet = {"perceptual": RandomFeatures(), "statistics_samples": 20, "progress": progress, "callback": note}
    return invert_w(generator, target, camera, steps=10, seed=seed, checkpoints=checkpoints, **quiet)


def passing_on(generator, target, camera, *, log, **settings):
    return stepwise(generator, target, camera, log=log, **settings)


@pytest.fixture
def killed(invert, log, tmp_path, monkeypatch):
    """A method whose inversion was killed in its eighth step, after checkpoints at the third and sixth."""
    monkeypatch.setattr(inversion_cache, "CHECKPOINT_EVERY", 3)
    stop = tmp_path / "stop"
    stop.touch()
    method = Method("stepwise", stepwise, {"log": str(log), "stop": str(stop)})
    with pytest.raises(KeyboardInterrupt):
        invert(method)
    stop.unlink()
    assert steps(log) == [0, 1, 2, 3, 4, 5, 6, 7]
    log.unlink()
    return method


def steps(log):
    return [int(line) for line in log.read_text().splitlines()]


def unfinished(tmp_path):
    return [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


CALM = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")


@CALM
def test_a_killed_inversion_goes_on_from_its_checkpoint(invert, killed, log, generator, view, tmp_path):
    (folder,) = unfinished(tmp_path)
    os.utime(folder / "begun", times=(0, (folder / "invert_into_W.pt").stat().st_mtime - 1000))
    found = invert(killed)
    assert steps(log) == [6, 7, 8, 9]
    assert unfinished(tmp_path) == []
    whole = stepwise(
        generator, view.image, view.camera, seed=0, progress=False, checkpoints=None, log=str(log)
    )
    assert torch.equal(found.w_plus, whole.w_plus) and found.history == whole.history
    assert 1000 < found.extras["cost"]["seconds"] < 1100  # those before the checkpoint count


@CALM
def test_time_that_led_to_no_checkpoint_does_not_count(invert, killed, log, tmp_path):
    (folder,) = unfinished(tmp_path)
    (folder / "begun").write_text("2000")
    os.utime(folder / "begun", times=(0, (folder / "invert_into_W.pt").stat().st_mtime + 1000))
    assert 2000 < invert(killed).extras["cost"]["seconds"] < 2100


@CALM
@pytest.mark.parametrize("name", ["invert_into_W.pt", "begun"])
def test_what_cannot_be_gone_on_from_is_begun_anew(invert, killed, log, tmp_path, name):
    (folder,) = unfinished(tmp_path)
    (folder / name).write_text("torn")
    invert(killed)
    assert steps(log) == list(range(10))
    assert unfinished(tmp_path) == []
    assert not list((tmp_path / "cache").glob("*.failure.json"))


@CALM
def test_a_failed_inversion_leaves_no_checkpoint(invert, log, tmp_path, monkeypatch):
    monkeypatch.setattr(inversion_cache, "CHECKPOINT_EVERY", 3)
    method = Method("stepwise", stepwise, {"log": str(log), "spoil": "yes"})
    with pytest.raises(InversionFailed, match="no number"):
        invert(method)
    assert steps(log) == list(range(8))  # once
    assert unfinished(tmp_path) == []


@CALM
def test_methods_get_checkpoints_only_where_they_take_them(invert, log, tmp_path):
    invert(Method("guess", tiny_scenes.guess))
    assert invert(Method("passing on", passing_on, {"log": str(log)})).extras["steps"] == 10
    assert unfinished(tmp_path) == []


# ---- other processes --------------------------------------------------------------------------------------

SCRIPT = """
import sys
from lib.evaluation import Method, cached_inversion
from tests import tiny_scenes
from tests.tiny_generator import tiny_generator
log, gate, folder = sys.argv[1:]
generator = tiny_generator()
view = tiny_scenes.tiny_scene(generator).input
method = Method("guess", tiny_scenes.guess, {"log": log, "gate": gate})
print("ready", flush=True)
found = cached_inversion(method, generator, view.image, view.camera, folder=folder)
print(found.w_plus.sum().item(), flush=True)
"""


@pytest.fixture
def gate(tmp_path):
    """A file that keeps `guess` waiting."""
    path = tmp_path / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def start_process(log, gate, tmp_path):
    """Starts a process that wants the inversion; returns when it is about to ask for it."""
    started = []

    def start():
        command = [sys.executable, "-c", SCRIPT, log, gate, tmp_path / "cache"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the other process never came so far"
        time.sleep(0.01)


def test_killed_run_leaves_nothing_that_looks_done(start_process, invert, log, gate, tmp_path):
    process = start_process()
    wait_until(lambda: calls(log) == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gate.unlink()
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    invert(guess(log, gate=str(gate)))  # the lock of the dead is no obstacle
    assert calls(log) == 2


def test_two_processes_compute_once(start_process, log, gate):
    processes = [start_process(), start_process()]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    wait_until(lambda: calls(log) > 0)
    time.sleep(0.3)  # for the other one to get to where it has to wait; without a lock it would now compute
    gate.unlink()
    first, second = (process.stdout.readline() for process in processes)
    assert first == second != ""
    assert calls(log) == 1
