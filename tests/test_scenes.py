"""Scenes: their cameras and names, their files, and `scenes`, whose results depend on its arguments alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_generator import tiny_generator

from lib import datasets, paths, versions
from lib.cameras import orbit
from lib.datasets import catalogue, samples
from lib.datasets.catalogue import scene_seed
from lib.datasets.scenes import (
    ELLIPSE,
    ELLIPSE_PITCH,
    ELLIPSE_YAW,
    INPUT_YAWS,
    YAWS,
    Scene,
    View,
    drawn_input_yaw,
    scene_cameras,
    yaw_name,
)
from lib.datasets.storage import load_scene, save_scene


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache; gives what lies in its folder of scenes."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    return lambda: sorted(path for path in tmp_path.rglob("*") if path.is_file())


def small(generator, n=1, **settings):
    return datasets.scenes("samples", n, generator=generator, with_ellipse=False, **settings)


def assert_same(one: Scene, other: Scene) -> None:
    """Equal to the last bit."""
    assert (one.name, one.input_name, list(one.views)) == (other.name, other.input_name, list(other.views))
    assert one.extras == other.extras
    assert {k: v.tolist() for k, v in one.truth.items()} == {k: v.tolist() for k, v in other.truth.items()}
    for name, view in one.views.items():
        assert torch.equal(view.camera.label(), other.views[name].camera.label())
        for part in ("image", "depth", "normals", "mask", "known"):
            ours, theirs = getattr(view, part), getattr(other.views[name], part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


# ---- names and cameras ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaw", "name"),
    [(-0.6, "yaw-0.6"), (0.0, "yaw+0.0"), (-0.0, "yaw+0.0"), (0.3, "yaw+0.3"), (0.45, "yaw+0.45")],
)
def test_views_are_named_by_their_yaw(yaw, name):
    assert yaw_name(yaw) == name


def test_yaws_that_round_to_nothing_have_one_name():
    assert yaw_name(-0.001) == yaw_name(0.0)


def test_a_scene_has_its_input_among_its_views():
    with pytest.raises(ValueError, match=r"has no view 'front'; its views: yaw\+0\.0"):
        Scene("a", "front", {"yaw+0.0": View(torch.zeros(1, 3, 2, 2), orbit(0.0, 0.0))})


def test_cameras_stand_where_their_names_say():
    poses = SimpleNamespace(camera=lambda yaw, pitch: orbit(yaw, pitch, radius=3.0))
    cameras = scene_cameras(poses, input_yaw=0.45)
    assert next(iter(cameras)) == "yaw+0.45"
    assert len(cameras) == 1 + len(YAWS) + ELLIPSE
    for yaw in (0.45, *YAWS):
        camera = cameras[yaw_name(yaw)]
        assert len(camera) == 1
        assert (camera.yaw.item(), camera.pitch.item()) == pytest.approx((yaw, 0.0), abs=1e-6)
        assert camera.position.norm().item() == pytest.approx(3.0)  # the generator places them


def test_the_ellipse_is_closed_and_goes_round_once():
    poses = SimpleNamespace(camera=orbit)
    path = [camera for name, camera in scene_cameras(poses, 0.0).items() if name.startswith("ellipse")]
    yaw, pitch = (torch.cat([getattr(camera, angle) for camera in path]) for angle in ("yaw", "pitch"))
    assert ((yaw / ELLIPSE_YAW) ** 2 + (pitch / ELLIPSE_PITCH) ** 2 - 1).abs().max() < 1e-5
    turn = torch.atan2(yaw / ELLIPSE_YAW, pitch / ELLIPSE_PITCH)
    steps = (turn.roll(-1) - turn) % (2 * torch.pi)
    assert steps.sum().item() == pytest.approx(2 * torch.pi, abs=1e-4)


def test_an_input_among_the_five_is_no_further_view():
    assert len(scene_cameras(SimpleNamespace(camera=orbit), 0.3, with_ellipse=False)) == len(YAWS)


def test_input_yaws_are_drawn_evenly():
    drawn = [drawn_input_yaw(seed) for seed in range(300)]
    assert set(drawn) == set(INPUT_YAWS)
    for distance in (0.0, 0.3, 0.6):
        assert 70 < sum(abs(yaw) == distance for yaw in drawn) < 130


def test_later_scenes_are_those_of_a_longer_list(generator, cache):
    whole = small(generator, 4)
    for ours, theirs in zip(small(generator, 2, first=2), whole[2:], strict=True):
        assert_same(ours, theirs)


def test_a_recipe_is_what_a_scene_is_kept_under_and_makes_nothing(generator, cache):
    recipe = catalogue.scene_recipe("samples", 2, 0, generator, with_ellipse=False)
    assert not cache()
    small(generator, 1, first=2)
    assert [path.stem for path in cache()] == [recipe]
    others = [
        catalogue.scene_recipe("samples", 3, 0, generator, with_ellipse=False),
        catalogue.scene_recipe("samples", 2, 1, generator, with_ellipse=False),
        catalogue.scene_recipe("samples", 2, 0, generator, "development", with_ellipse=False),
        catalogue.scene_recipe("samples", 2, 0, generator, with_ellipse=False, input_yaw=0.1),
    ]
    assert len({recipe, *others}) == 5


def test_inputs_of_a_set_go_round_the_yaws_and_know_their_split(generator, cache):
    n = len(INPUT_YAWS) + 1
    found = datasets.scenes("samples", n, generator=generator, split="development", with_ellipse=False)
    assert [scene.input_name for scene in found] == [
        yaw_name(INPUT_YAWS[i % len(INPUT_YAWS)]) for i in range(n)
    ]
    assert {scene.extras["split"] for scene in found} == {"development"}
    (asked,) = datasets.scenes("samples", 1, generator=generator, input_yaw=0.3, with_ellipse=False)
    assert asked.input_name == "yaw+0.3"


# ---- seeds and splits -------------------------------------------------------------------------------------


def test_no_two_scenes_share_a_seed_and_test_none_with_development():
    seeds = {
        split: {
            scene_seed(name, seed, split, index)
            for name in ("samples", "turned")
            for seed in range(5)
            for index in range(200)
        }
        for split in ("test", "development")
    }
    assert {len(found) for found in seeds.values()} == {2 * 5 * 200}
    assert {seed % 2 for seed in seeds["test"]} == {1}
    assert {seed % 2 for seed in seeds["development"]} == {0}
    assert max(map(max, seeds.values())) < 2**31


def test_more_scenes_begin_with_the_fewer(generator, cache):
    few, many = small(generator, n=1), small(generator, n=2)
    assert_same(few[0], many[0])
    assert few[0].name != many[1].name


def test_splits_and_seeds_show_other_heads(generator, cache):
    shown = [
        *small(generator),
        *small(generator, seed=1),
        *small(generator, split="development"),
    ]
    codes = torch.stack([scene.truth["w_plus"] for scene in shown])
    assert all((codes[i] - codes[j]).abs().max() > 0.01 for i in range(3) for j in range(i))


# ---- the cache --------------------------------------------------------------------------------------------


def test_a_scene_is_made_once_and_a_hit_equals_a_miss(generator, cache, monkeypatch):
    made = []
    monkeypatch.setattr(samples, "make", _counted(samples.make, made))
    (missed,) = small(generator)
    (hit,) = small(generator)
    assert len(made) == 1
    assert_same(missed, hit)
    assert len(cache()) == 1


def test_a_fresh_cache_gives_the_same_scene(generator, cache, monkeypatch, tmp_path):
    (first,) = small(generator)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "elsewhere")
    (second,) = small(generator)
    assert_same(first, second)


def test_default_settings_need_not_be_spelled_out(generator, cache):
    small(generator)
    small(generator, truncation=0.8, input_yaw=None)
    assert len(cache()) == 1


def test_settings_and_weights_have_scenes_of_their_own(generator, cache):
    small(generator)
    small(generator, truncation=0.5)
    other = tiny_generator()
    other.decoder.net[2].bias += 0.1
    small(other)
    assert len(cache()) == 3


def test_scenes_that_do_not_show_the_generator_outlive_its_weights(generator, cache, monkeypatch):
    monkeypatch.setattr(samples, "shows_generator", lambda settings: False, raising=False)
    other = tiny_generator()
    other.decoder.net[2].bias += 0.1
    assert_same(*small(generator), *small(other))
    assert len(cache()) == 1
    assert not catalogue.KINDS["turned"].shows_generator({})


def test_pictures_as_settings_are_told_apart(monkeypatch):
    one, other = (np.full((2, 2, 3), level, np.uint8) for level in (1, 2))
    keys = {catalogue._key("samples", 0, "", {"photo": photo}) for photo in (one, one.copy(), other)}
    assert len(keys) == 2


def _damaged(path, kind: str, generator) -> None:
    whole = path.read_bytes()
    if kind == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    else:  # the scene of another seed
        small(generator, seed=1)
        (other,) = (file for file in path.parent.iterdir() if file != path)
        path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("kind", ["torn", "empty", "foreign", "of another seed"])
def test_a_damaged_file_is_made_again(generator, cache, kind):
    (sound,) = small(generator)
    (path,) = cache()
    views = dict(sound.views)  # read now: views are read from the file
    sound = Scene(sound.name, sound.input_name, views, sound.truth, sound.extras)
    _damaged(path, kind, generator)
    (again,) = small(generator)
    assert_same(sound, again)


def test_several_at_once_do_not_disturb_one_another(generator, cache, monkeypatch):
    n = 4
    together, make = threading.Barrier(n), samples.make

    def slow(*arguments, **settings):
        together.wait(timeout=60)  # all have found the cache empty
        return make(*arguments, **settings)

    slow.__signature__ = catalogue.inspect.signature(make)
    monkeypatch.setattr(samples, "make", slow)
    with ThreadPoolExecutor(n) as pool:
        found = list(pool.map(lambda _: small(generator)[0], range(n)))
    assert len(cache()) == 1, "one file, and no temporary ones"
    for scene in found[1:]:
        assert_same(found[0], scene)


def _counted(make, made: list):
    def counting(*arguments, **settings):
        made.append(arguments)
        return make(*arguments, **settings)

    counting.__signature__ = catalogue.inspect.signature(make)
    return counting


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "statues"}, "no scenes of kind 'statues'; there are samples"),
        ({"split": "training"}, "development or test, not 'training'"),
        ({"truncaton": 1.0}, "samples scenes have no setting truncaton; they have .*truncation"),
    ],
)
def test_what_cannot_be_made_is_refused(generator, cache, call, message):
    with pytest.raises(ValueError, match=message):
        datasets.scenes(**{"name": "samples", "n": 1, "generator": generator, **call})


def test_a_changed_recipe_makes_new_scenes(generator, cache, monkeypatch, tmp_path):
    small(generator)
    changed = tmp_path / "recipe" / "samples.py"
    changed.parent.mkdir()
    for addition, files in (("# a comment", 1), ("CHANGED = 1", 2)):
        changed.write_text(Path(samples.__file__).read_text() + addition)
        with monkeypatch.context() as patch:
            patch.setattr(samples, "__file__", str(changed))
            small(generator)
        assert sum(path.suffix == ".safetensors" for path in cache()) == files


def test_the_recipe_is_all_the_code_behind_a_scene(monkeypatch):
    """What renders counts, wherever it is written."""
    before = catalogue._key("samples", 0, "", {})
    rendering = versions._source

    def changed(path):
        text = rendering(path)
        return (
            text.replace("return (1 - torch.exp(", "return (2 - torch.exp(")
            if path.name == "rendering.py"
            else text
        )

    monkeypatch.setattr(versions, "_source", changed)
    for cached in vars(versions).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    assert catalogue._key("samples", 0, "", {}) != before
    monkeypatch.undo()
    for cached in vars(versions).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


def test_a_kind_built_upon_samples_takes_their_settings(generator, cache):
    settings = catalogue._complete("painted", {"strength": 0.5, "truncation": 0.6})
    assert settings["strength"] == 0.5
    assert settings["truncation"] == 0.6
    assert settings.keys() > catalogue._complete("samples", {}).keys()


# ---- files ------------------------------------------------------------------------------------------------


def some_scene() -> Scene:
    rng = torch.Generator().manual_seed(0)
    image = 2 * torch.rand(1, 3, 8, 8, generator=rng) - 1
    depth = torch.rand(1, 1, 8, 8, generator=rng) + 2.5
    depth[..., 0] = torch.nan
    full = View(image, orbit(0.2, 0.1), depth, image.clone(), depth > 3, depth < 3)
    return Scene(
        "a", "front", {"front": full, "bare": View(-image, orbit(0.0, 0.0))}, {"w": image}, {"n": [1]}
    )


def test_a_scene_survives_its_file(tmp_path):
    scene = some_scene()
    save_scene(scene, tmp_path / "a.safetensors", "key")
    loaded = load_scene(tmp_path / "a.safetensors", "key")
    assert (loaded.name, loaded.input_name, list(loaded.views), loaded.extras) == (
        *("a", "front", ["front", "bare"]),
        {"n": [1]},
    )
    assert torch.equal(loaded.truth["w"], scene.truth["w"])
    assert torch.equal(loaded.input.depth.nan_to_num(0), scene.input.depth.nan_to_num(0))
    assert torch.equal(loaded.input.depth.isnan(), scene.input.depth.isnan())
    for part in ("mask", "known"):
        assert torch.equal(getattr(loaded.input, part), getattr(scene.input, part))
    assert torch.equal(loaded.input.camera.label(), scene.input.camera.label())
    assert (loaded.input.image - scene.input.image).abs().max() < 2 / 255 / 16
    assert loaded.input.image.dtype == torch.float32
    bare = loaded.views["bare"]
    assert [bare.depth, bare.normals, bare.mask, bare.known] == [None] * 4


def test_a_view_that_is_not_there_is_named(tmp_path):
    save_scene(some_scene(), tmp_path / "a.safetensors", "key")
    with pytest.raises(KeyError, match="no view 'back'; there are front, bare"):
        load_scene(tmp_path / "a.safetensors", "key").views["back"]


def test_a_scene_in_memory_outlives_a_change_of_its_tensors(tmp_path):
    """What is read is the reader's own: writing into it changes no later reading."""
    save_scene(some_scene(), tmp_path / "a.safetensors", "key")
    loaded = load_scene(tmp_path / "a.safetensors", "key")
    loaded.input.depth.zero_()
    assert loaded.input.depth.nanmean() > 2
