"""Several pictures at once: as by themselves, whatever happens to one of them."""

import os
import warnings

import pytest
import torch
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.generators import EG3D
from lib.inversion import (
    Checkpoints,
    Diverged,
    Inversion,
    invert_posefree,
    invert_pti,
    invert_w,
    invert_wplus,
)
from lib.inversion import several as module
from lib.inversion.assumptions import AssumptionWarning
from lib.inversion.optimisation import digest
from lib.inversion.several import invert_several
from tests.tiny_generator import RandomFeatures, tiny_generator, tiny_posefree

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

VIEWS = Camera.cat([orbit(0.0, 0.0), orbit(0.4, -0.1), orbit(-0.3, 0.2)])
QUIET = {"perceptual": RandomFeatures(), "progress": False}
TUNING = QUIET | {"pivot_steps": 2, "steps": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def targets(generator) -> Tensor:
    codes = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(2))
    return generator.synthesize(generator.map(codes, VIEWS), VIEWS).image.clamp(-1, 1)


def with_a_bad_one(targets: Tensor) -> Tensor:
    spoiled = targets.clone()
    spoiled[1, 0, 3, 3] = torch.nan
    return spoiled


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Numbers of pictures that were given to `project_batch`."""
    sizes, project_batch = [], module.project_batch

    def counting(generator, targets, cameras, **settings):
        sizes.append(len(targets))
        return project_batch(generator, targets, cameras, **settings)

    monkeypatch.setattr(module, "project_batch", counting)
    return sizes


# ----------------------------------------------------------------------- codes
@pytest.mark.parametrize("method", [invert_w, invert_wplus])
def test_codes_are_found_in_a_batch_as_one_by_one(generator, targets, batches, method):
    settings = QUIET | {"steps": 6, "initial": generator.w_mean}
    found = invert_several(method, generator, targets, VIEWS.label(), **settings)
    assert batches == [3]
    for place, result in enumerate(found):
        alone = method(generator, targets[place : place + 1], VIEWS[place], **settings)
        torch.testing.assert_close(result.w_plus, alone.w_plus, atol=2e-4, rtol=1e-3)
        assert result.extras == alone.extras
        assert torch.equal(result.camera.label(), VIEWS[place].label())


def test_batches_have_a_limit(generator, targets, batches, monkeypatch):
    monkeypatch.setattr(module, "BATCHED_AT_MOST", 2)
    found = invert_several(invert_w, generator, targets, VIEWS, steps=1, **QUIET)
    assert batches == [2, 1] and len(found) == 3


def test_a_bad_picture_does_not_spoil_its_batch(generator, targets, batches):
    found = invert_several(invert_w, generator, with_a_bad_one(targets), VIEWS, steps=2, **QUIET)
    assert isinstance(found[1], ValueError) and "NaN" in str(found[1])
    assert isinstance(found[0], Inversion) and isinstance(found[2], Inversion)
    assert batches == [3, 1, 2, 1, 1]  # halves, and the half with the bad one once more


def test_where_memory_is_too_small_for_all_fewer_are_taken(generator, targets, monkeypatch):
    project_batch = module.project_batch

    def small(generator, targets, cameras, **settings):
        if len(targets) > 1:
            raise torch.OutOfMemoryError
        return project_batch(generator, targets, cameras, **settings)

    monkeypatch.setattr(module, "project_batch", small)
    found = invert_several(invert_w, generator, targets, VIEWS, steps=1, **QUIET)
    assert [
        torch.equal(result.camera.label(), VIEWS[place].label()) for place, result in enumerate(found)
    ] == [True] * 3


def test_each_batch_has_its_checkpoints(generator, targets, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCHED_AT_MOST", 2)
    invert_several(invert_w, generator, targets, VIEWS, steps=1, checkpoints=Checkpoints(tmp_path), **QUIET)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pt")) == [
        "0-1/invert_into_W.pt",
        "2-2/invert_into_W.pt",
    ]


def test_warnings_name_the_picture(generator, targets):
    grey = targets.clone()
    grey[2] = 0.0
    with pytest.warns(AssumptionWarning, match=r"picture 2: .*nearly a single colour"):
        invert_several(invert_w, generator, grey, VIEWS, steps=1, **QUIET)


# ----------------------------------------------------------------------- methods that tune
def same(found: Inversion, expected: Inversion) -> bool:
    parts = [
        (inversion.w_plus, inversion.camera.label(), inversion.generator.state_dict(), inversion.history)
        for inversion in (found, expected)
    ]
    return digest(*parts[0]) == digest(*parts[1])


def test_pictures_are_tuned_to_one_after_the_other(generator, targets, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    found = invert_several(
        invert_pti, generator, with_a_bad_one(targets), VIEWS, checkpoints=checkpoints, **TUNING
    )
    assert isinstance(found[1], ValueError) and "NaN" in str(found[1])
    for place in (0, 2):
        assert same(found[place], invert_pti(generator, targets[place : place + 1], VIEWS[place], **TUNING))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2"]


def adventurous(generator, target, camera, *, masks, **settings):
    """PTI, but the mask says what happens."""
    fate = int(masks["fate"])
    warnings.warn("careful", AssumptionWarning, stacklevel=2)
    if fate == 1:
        raise Unsendable
    if fate == 2:
        raise Diverged("a stage", 4, {"l2": torch.nan})
    return invert_pti(generator, target, camera, **settings)


class Unsendable(RuntimeError):
    """An error that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("not to be sent")


def test_processes_give_what_this_one_does_and_errors_in_their_places(generator, targets):
    masks = [{"fate": torch.tensor(fate)} for fate in (0, 1, 2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as the processes have: sums in the same order
    try:
        expected = invert_pti(generator, targets[:1], VIEWS[0], **TUNING)
    finally:
        torch.set_num_threads(threads)
    with pytest.warns(AssumptionWarning, match="picture 0: careful"):
        found = invert_several(adventurous, generator, targets, VIEWS, jobs=2, masks=masks, **TUNING)
    assert same(found[0], expected)
    assert isinstance(found[1], RuntimeError) and "Unsendable" in str(found[1])
    assert isinstance(found[2], Diverged) and (found[2].step, found[2].term) == (4, "l2")


def vanishing(generator, target, camera, **settings):
    """The process is gone at once, as when the machine kills it for its memory."""
    os._exit(9)


def test_a_process_that_dies_is_an_error_and_no_hang(generator, targets):
    (found,) = invert_several(vanishing, generator, targets[:1], VIEWS[0], jobs=2)
    assert isinstance(found, Exception) and "terminated abruptly" in str(found)


# ----------------------------------------------------------------------- what is asked
def test_bad_values_are_refused(generator, targets):
    with pytest.raises(ValueError, match="jobs must be 1 or more; got 0"):
        invert_several(invert_w, generator, targets, VIEWS, jobs=0)
    with pytest.raises(ValueError, match="one camera; got 2 for 3"):
        invert_several(invert_w, generator, targets, VIEWS[:2])
    with pytest.raises(ValueError, match="masks has an entry for each of the 3 pictures; got 1"):
        invert_several(invert_pti, generator, targets, VIEWS, masks=[{}])
    assert invert_several(invert_pti, generator, targets[:0], VIEWS[:0]) == []


def test_pictures_without_cameras_are_inverted_by_a_generator_that_says_its_own():
    generator = tiny_posefree()
    with torch.no_grad():
        targets = generator.synthesize(*generator.generate(torch.randn(2, generator.z_dim))).image.clamp(
            -1, 1
        )
    settings = {"starts": 1, "steps": 2, "views": 1, "identity": "none", "statistics_samples": 8}
    settings |= {"perceptual": RandomFeatures(), "progress": False}
    found = invert_several(invert_posefree, generator, targets, **settings)
    for place, each in enumerate(found):
        alone = invert_posefree(generator, targets[place : place + 1], **settings)
        assert torch.equal(each.w_plus, alone.w_plus)
        assert torch.equal(each.camera.label(), alone.camera.label())
    with pytest.raises(ValueError, match="needs the camera"):
        invert_several(invert_pti, tiny_generator(), targets)
