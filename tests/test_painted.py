"""Painted scenes: samples with marks that lie on the face, differ from side to side, and are the seed's own."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from egg_scene import HALF_AXES, egg_scene
from tiny_generator import tiny_generator

from lib.cameras import Camera
from lib.datasets import painted, samples
from lib.datasets.marks import paint_view
from lib.datasets.painted import KINDS, LANDMARKS, Face, drawn_kind, make, world_from_face
from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.generators import load_generator


@pytest.fixture(scope="module")
def egg() -> Scene:
    return egg_scene()


@pytest.fixture(scope="module")
def face(egg) -> Face:
    """As the canonical face lies."""
    return Face([egg.views[yaw_name(yaw)] for yaw in YAWS], 0.0, 1.0, torch.eye(3), torch.zeros(3))


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def portrait() -> View:
    generator = load_generator("portraits64")
    w_plus = samples.sampled_code(3, generator, 0.8)
    return samples.true_view(generator, generator.planes(w_plus), w_plus, generator.frontal_camera())


def painted_egg(egg: Scene, face: Face, kind: str, seed: int) -> Scene:
    return painted.paint(egg, KINDS[kind](face, np.random.default_rng(seed)))


@pytest.fixture(scope="module", params=itertools.product(KINDS, (0, 1)), ids=lambda p: f"{p[0]}-{p[1]}")
def scene(egg, face, request) -> Scene:
    return painted_egg(egg, face, *request.param)


# -------------------------------------------------------------------- kinds
def test_every_kind_shows(egg, scene):
    masks = {name: scene.truth[f"painted/{name}"] for name in egg.views}
    changed = [
        (scene.views[name].image - egg.views[name].image).abs().amax(dim=1)[masks[name][:, 0]]
        for name in masks
    ]
    assert max(mask.sum() for mask in masks.values()) >= 4
    assert torch.cat(changed).mean() > 0.1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "earring"])
def test_skin_is_painted_on_the_head_alone_and_keeps_its_shape(egg, face, kind):
    scene = painted_egg(egg, face, kind, seed=2)
    for name, view in egg.views.items():
        changed = (scene.views[name].image - view.image).abs().amax(dim=1, keepdim=True)
        assert torch.equal(scene.views[name].mask, view.mask)
        assert torch.equal(scene.views[name].depth.nan_to_num(), view.depth.nan_to_num())
        assert not (scene.truth[f"painted/{name}"] & ~view.mask & (changed > 0.5)).any()


def test_the_mirrored_view_is_a_wrong_one(egg, scene):
    """The egg is symmetric: its painting, taken from the mirrored side and mirrored, must not be the same."""
    change = {name: scene.views[name].image - view.image for name, view in egg.views.items()}
    apart = sum((change[yaw_name(yaw)] - change[yaw_name(-yaw)].flip(3)).square().sum() for yaw in YAWS)
    assert apart > 0.2 * sum(part.square().sum() for part in change.values())


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_differ_and_repeat(egg, face, kind):
    first, same, other = (painted_egg(egg, face, kind, seed).input.image for seed in (0, 0, 3))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_earring_is_at_one_ear(egg, face):
    scene = painted_egg(egg, face, "earring", 0)
    near, far = sorted(("yaw-0.6", "yaw+0.6"), key=lambda name: -scene.truth[f"painted/{name}"].sum())
    assert scene.truth[f"painted/{near}"].any()
    assert not scene.truth[f"painted/{far}"].any()
    new = scene.views[near].mask & ~egg.views[near].mask
    assert scene.views[near].depth[new].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("yaw", [-0.3, 0.3])
def test_the_input_shows_what_is_painted(egg, face, kind, yaw):
    seen = replace(face, input_yaw=yaw)
    for seed in (0, 1):
        _, painted = paint_view(egg.views[yaw_name(yaw)], KINDS[kind](seen, np.random.default_rng(seed)))
        assert painted.sum() >= 3


def test_marks_are_on_either_side_of_a_frontal_input_and_on_the_side_that_another_shows(face):
    rng = np.random.default_rng(0)
    assert {face.seen_side(rng) for _ in range(20)} == {-1, 1}
    for yaw, side in ((0.3, 1), (-0.3, -1)):
        assert {replace(face, input_yaw=yaw).seen_side(rng) for _ in range(20)} == {side}


# -------------------------------------------------------------------- places
@pytest.mark.parametrize("landmark", ["forehead", "brow", "cheek", "lower cheek", "eye"])
def test_places_are_on_the_surface_and_outward(face, landmark):
    for side in (-1, 1):
        place = face.place(landmark, side)
        assert (place.centre / HALF_AXES).norm().item() == pytest.approx(1, abs=0.01)
        assert place.outward @ place.centre > 0
        axes = place.axes(0.3)
        assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-5)
        assert torch.linalg.det(axes) > 0.99
        assert place.axes()[1, 1] > 0.5  # up is up


@pytest.mark.parametrize("landmark", LANDMARKS)
def test_places_of_the_two_sides_mirror_each_other(face, landmark):
    right, left = face.place(landmark, -1, (0.3, 0.1, 0.0)), face.place(landmark, 1, (0.3, 0.1, 0.0))
    if LANDMARKS[landmark][0] != LANDMARKS[landmark][1]:
        assert right.centre[0] < 0 < left.centre[0]
        assert torch.allclose(right.centre * torch.tensor([-1.0, 1.0, 1.0]), left.centre, atol=0.004)


def test_a_point_far_from_any_surface_stays(face):
    lost = torch.tensor([[0.0, 0.0, 0.5]])
    assert torch.equal(face.snapped(lost, torch.tensor([[0.0, 0.0, 1.0]])), lost)


def test_brightness_is_that_of_the_picture_at_the_place(egg, face):
    bright = [replace(view, image=torch.full_like(view.image, 0.4)) for view in face.views]
    assert replace(face, views=bright).place("cheek", 1).brightness == pytest.approx(0.7, abs=1e-4)


# -------------------------------------------------------------------- where the face is
def test_without_a_face_it_lies_as_in_the_embedded_generators(egg):
    scale, rotation, translation = world_from_face(egg.input)
    assert scale == 1
    assert torch.equal(rotation, torch.eye(3))
    assert not translation.any()


def test_faces_of_the_embedded_generator_lie_as_the_canonical_one(portrait):
    scale, rotation, translation = world_from_face(portrait)
    assert scale == pytest.approx(1, abs=0.1)
    assert rotation.diagonal().min() > 0.98
    assert translation.norm() < 0.05


def test_face_is_found_where_a_generator_has_it(portrait):
    """The same picture by a camera of another world, larger, turned and moved."""
    angle, size, shift = 0.4, 1.3, torch.tensor([0.1, -0.2, 0.3])
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], dtype=torch.float32)
    pose = portrait.camera.world_from_cam.clone()
    pose[:, :3, 3] = size * pose[:, :3, 3] @ turn.T + shift
    pose[:, :3, :3] = turn @ pose[:, :3, :3]
    moved = replace(portrait, camera=Camera(pose, portrait.camera.intrinsics), depth=size * portrait.depth)
    scale, rotation, translation = world_from_face(portrait)
    moved_scale, moved_rotation, moved_translation = world_from_face(moved)
    assert moved_scale == pytest.approx(size * scale, rel=1e-4)
    assert torch.allclose(moved_rotation, turn @ rotation, atol=1e-4)
    assert torch.allclose(moved_translation, size * turn @ translation + shift, atol=1e-4)


# -------------------------------------------------------------------- scenes
def test_at_strength_zero_it_is_the_sample(generator):
    scene = make(5, generator, what="face_paint", strength=0.0, with_ellipse=False)
    sample = samples.make(5, generator, with_ellipse=False)
    assert scene.input_name == sample.input_name
    assert torch.equal(scene.truth["w_plus"], sample.truth["w_plus"])
    for name, view in sample.views.items():
        assert torch.equal(scene.views[name].image, view.image)
        assert torch.equal(scene.views[name].depth.nan_to_num(), view.depth.nan_to_num())
        assert f"painted/{name}" in scene.truth


def test_same_call_same_scene_and_extras_say_what_it_is(generator):
    first, second = (make(1, generator, with_ellipse=False) for _ in range(2))
    assert first.extras == second.extras
    assert first.extras["what"] in KINDS
    assert first.extras["kind"] == "painted"
    assert first.extras["seed"] == 1
    for name, view in first.views.items():
        assert torch.equal(view.image, second.views[name].image)


def test_all_kinds_are_drawn():
    assert {drawn_kind(seed) for seed in range(60)} == set(KINDS)


def test_unknown_paint_is_refused(generator):
    with pytest.raises(ValueError, match=r"unknown kind of paint 'graffiti'; known: moles"):
        make(0, generator, what="graffiti")
