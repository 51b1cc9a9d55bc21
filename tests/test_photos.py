"""Photos that anyone may have: named as what they are, one view each, in an order that goes on."""

from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch

from lib.datasets import photos as module
from lib.datasets.photographed import SceneError
from lib.datasets.photos import FIRST_SEED, PHOTOS, TRUNCATION, photo, photo_name, photos
from lib.generators.teacher import Teacher


@pytest.fixture
def teacher(monkeypatch):
    """A stand-in whose pictures show the first three numbers of the style, and which notes what it was asked."""
    asked = []

    def styles(z, truncation):
        asked.append((z, truncation))
        return np.tanh(z)

    def synthesis(given):
        assert given["style"].dtype == np.float32
        colours = given["style"][:, :3, None, None]
        return [np.broadcast_to(colours, (1, 3, 1024, 1024))]

    monkeypatch.setattr(module, "_teacher", lambda: (SimpleNamespace(styles=styles), synthesis))
    return asked


def test_packages_come_first_then_the_teacher_by_number():
    assert [photo_name(index) for index in range(3)] == [
        "astronaut",
        "teacher-portrait-0",
        "teacher-portrait-1",
    ]
    assert (photo("astronaut") == skimage.data.astronaut()).all()


@pytest.mark.parametrize("name", ["cosmonaut", "teacher-portrait-", "teacher-portrait-x", "portrait-1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="there are astronaut and teacher-portrait-<seed>"):
        photo(name)


def test_a_portrait_is_the_teacher_s_picture_at_its_full_size(teacher):
    picture = photo("teacher-portrait-4")
    ((z, truncation),) = teacher
    assert z.shape == (1, Teacher.z_dim)
    assert (z == np.random.default_rng(FIRST_SEED + 4).standard_normal(z.shape)).all()
    assert truncation == TRUNCATION
    assert (picture.shape, picture.dtype) == ((1024, 1024, 3), np.uint8)
    assert picture[0, 0] == pytest.approx(np.tanh(z[0, :3]) * 127.5 + 128, abs=1)
    assert (photo("teacher-portrait-4") == picture).all()
    assert (photo("teacher-portrait-5") != picture).any()


def test_a_photo_is_a_scene_of_one_view():
    (scene,) = photos(1, 32)
    assert scene.name == "photos/astronaut"
    assert list(scene.views) == [scene.input_name]
    assert scene.extras["kind"] == "photos"
    view = scene.input
    assert view.image.shape == (1, 3, 32, 32)
    assert view.camera.yaw.abs() < 0.2  # she looks at us
    assert 0.2 < view.mask.float().mean() < 0.9
    assert view.known.all()
    assert scene.truth["landmarks"].shape == (1, 478, 3)
    assert torch.isfinite(view.depth).any()


def test_later_photos_follow_the_first_ones(monkeypatch):
    made = []
    monkeypatch.setattr(module, "_scene", lambda name, maker: made.append((name, maker.resolution)) or name)
    assert photos(3, SimpleNamespace(resolution=64)) == [photo_name(index) for index in range(3)]
    assert photos(2, 64, first=1) == [photo_name(1), photo_name(2)]
    assert {resolution for _, resolution in made} == {64}


def test_a_photo_without_a_face_is_named(monkeypatch):
    monkeypatch.setitem(PHOTOS, "astronaut", lambda: np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(SceneError, match="photos astronaut: no face is found"):
        photos(1, 32, detector=lambda picture: [])
