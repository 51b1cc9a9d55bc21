"""Real data sets of a few pictures in the official layouts: what is found, chosen, refused and made of it."""

import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_real_data import (
    SIDES,
    TETRAHEDRON,
    annotate,
    crop_labels,
    faceless_photo,
    make_celeba_hq,
    make_crops,
    make_mead,
    make_now,
    picked_points,
    portrait_photo,
    save_picture,
    write_dataset_json,
    write_points,
    write_video,
    zipped,
)

from lib import faces
from lib.cameras import orbit
from lib.datasets import celeba_hq, mead, now, pictures, real
from lib.datasets.photographed import INPUT, MissingData, PhotoSet, SceneError, ViewMaker
from lib.datasets.pictures import open_pictures
from lib.datasets.real import DATA_SETS, RealScenes, SkippedWarning, choose, real_scenes
from lib.images import PhotoError, to_tensor
from lib.parsing import CLASSES, PARTS

RESOLUTION = 32


@pytest.fixture(scope="module")
def detector():
    """The real detector, which sees each picture once."""
    real, seen = faces.FaceDetector(), {}

    def detect(picture):
        key = (picture.shape, picture.tobytes())
        if key not in seen:
            seen[key] = real(picture)
        return seen[key]

    return detect


@pytest.fixture(scope="module")
def no_detector():
    def detect(picture):
        raise AssertionError("a face was looked for")

    return detect


@pytest.fixture
def opened(detector):
    """`real_scenes` with the shared detector and without parsing."""
    return lambda *args, **kwargs: real_scenes(
        *args, **{"generator": RESOLUTION, "masks": False, "detector": detector} | kwargs
    )


@pytest.fixture(scope="module")
def photo():
    return portrait_photo()


def of(pictures_by_name):
    return {name: faceless_photo(i) for i, name in enumerate(pictures_by_name)}


# -------------------------------------------------------------------- folders and zip files
@pytest.fixture
def crops(tmp_path):
    names = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png"]
    return make_crops(tmp_path / "crops", of(names), dict(zip(names, crop_labels(3), strict=True)))


def test_a_zip_file_is_as_its_folder(crops):
    folder, archive = open_pictures(crops), open_pictures(zipped(crops))
    assert folder.names == archive.names == tuple(sorted(of(folder.names)))
    for i, name in enumerate(folder.names):
        assert np.array_equal(folder.picture(name), faceless_photo(i))
        assert np.array_equal(archive.picture(name), faceless_photo(i))
    one, other = folder.labels(), archive.labels()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_hidden_files_and_those_of_archive_programs_are_no_pictures(tmp_path):
    for name in ("a.png", ".hidden/b.png", "._a.png", "__MACOSX/a.png"):
        save_picture(tmp_path / "p" / name, faceless_photo())
    (tmp_path / "p" / "a.png.txt").write_text("notes")
    assert open_pictures(tmp_path / "p").names == open_pictures(zipped(tmp_path / "p")).names == ("a.png",)


def test_a_member_that_names_a_place_outside_is_written_nowhere(tmp_path):
    content = save_picture(tmp_path / "source.png", faceless_photo()).read_bytes()
    archive, outside = tmp_path / "in" / "evil.zip", f"{tmp_path}/absolute.png"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as writer:
        for name in ("../../outside.png", "a/../../outside.png", outside):
            writer.writestr(name, content)
    before = sorted(tmp_path.rglob("*"))
    found = open_pictures(archive)
    assert found.names == (outside,)
    assert np.array_equal(found.picture(outside), faceless_photo())
    assert sorted(tmp_path.rglob("*")) == before


def test_only_listed_pictures_are_opened(crops, tmp_path):
    save_picture(tmp_path / "secret.png", faceless_photo())
    for where in (crops, zipped(crops)):
        with pytest.raises(PhotoError, match=r"no picture '\.\./secret\.png'"):
            open_pictures(where).picture("../secret.png")


def test_large_and_damaged_members_are_refused_by_name(crops, monkeypatch):
    archive = zipped(crops)
    content = bytearray(archive.read_bytes())
    start = content.find(b"IDAT")
    content[start + 100] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(PhotoError, match=r"img00000000\.png in .*crops\.zip cannot be unpacked"):
        open_pictures(archive).picture("00000/img00000000.png")
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with pytest.raises(PhotoError, match=r"img00000001\.png in .*crops\.zip is too large"):
        open_pictures(archive).picture("00000/img00000001.png")


@pytest.mark.parametrize("as_zip", [False, True])
def test_damaged_pictures_and_labels_are_named(crops, as_zip):
    (crops / "00000" / "img00000000.png").write_bytes(b"no picture")
    labels = {"00000/img00000000.png": torch.ones(25)}
    write_dataset_json(crops / "dataset.json", labels)
    found = open_pictures(zipped(crops) if as_zip else crops)
    with pytest.raises(PhotoError, match=r"img00000000\.png.* is not a picture"):
        found.picture("00000/img00000000.png")
    with pytest.raises(ValueError, match=r"dataset\.json.*camera label 0 of 1"):
        found.labels()


def test_what_is_no_folder_or_zip_file_is_refused(tmp_path):
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(ValueError, match="neither a folder nor a zip file"):
        open_pictures(tmp_path / "text.zip")
    with pytest.raises(FileNotFoundError, match="no folder or zip file"):
        open_pictures(tmp_path / "nowhere")


# -------------------------------------------------------------------- labelled crops
@pytest.mark.parametrize("name", ["ffhq", "afhq_cats", "folder"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_labelled_crops_are_taken_as_they_are(crops, name, as_zip, no_detector):
    found = real_scenes(
        name, zipped(crops) if as_zip else crops, generator=64, masks=False, detector=no_detector
    )
    assert found.ids == open_pictures(crops).names
    for i, (scene, label) in enumerate(zip(found, crop_labels(3), strict=True)):
        assert torch.equal(scene.input.image, to_tensor(faceless_photo(i)))
        assert torch.equal(scene.input.camera.label()[0], label)
        assert scene.input.depth is None and scene.input.mask is None and scene.input.known is None
        assert scene.extras["camera"] == "label" and scene.extras["kind"] == name


def test_cats_are_not_parsed_as_people(crops, monkeypatch):
    monkeypatch.setattr("lib.parsing.class_probabilities", lambda image: pytest.fail("parsed"))
    assert real_scenes("afhq_cats", crops, generator=RESOLUTION)[0].input.mask is None


def test_mirrored_copies_make_no_scenes(tmp_path):
    """By EG3D's name before its dataset tool, and by the label after it, which numbers the files anew."""
    first, second = (label[None] for label in crop_labels(2))
    labels = [first, orbit(-0.1, 0.0).label(), second, orbit(-0.15, 0.02).label()]
    labels[1::2] = [mirrored_label(first), mirrored_label(second)]
    for names in (
        ["00000.png", "00000_mirror.png", "00001.png", "00001_mirror.png"],
        [f"00000/img{i:08d}.png" for i in range(4)],
    ):
        folder = make_crops(
            tmp_path / names[1].replace("/", "_"),
            of(names),
            {name: label[0] for name, label in zip(names, labels, strict=True)},
        )
        assert real_scenes("ffhq", folder, generator=RESOLUTION).ids == (names[0], names[2])


def mirrored_label(label):
    """EG3D's own recipe: these entries of the pose change sign."""
    label = label.clone()
    label[:, [1, 2, 3, 4, 8]] *= -1
    return label


def test_what_follows_a_mirrored_copy_is_no_copy_of_the_copy(tmp_path):
    label = crop_labels(1)[0]
    other = mirrored_label(label[None])[0]
    labels = dict(zip(["a.png", "b.png", "c.png", "d.png"], (label, other, label, other), strict=True))
    folder = make_crops(tmp_path / "p", of(labels), labels)
    assert real_scenes("ffhq", folder, generator=RESOLUTION).ids == ("a.png", "c.png")


def test_heads_seen_alike_or_from_straight_ahead_are_no_mirrored_copies(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    front, side = orbit(0.0, 0.0).label()[0], orbit(0.3, 0.1).label()[0]
    folder = make_crops(tmp_path / "p", of(names), dict(zip(names, (front, front, side, side), strict=True)))
    assert real_scenes("folder", folder, generator=RESOLUTION).ids == tuple(names)


def test_labels_without_pictures_and_pictures_without_labels_are_recorded(crops):
    labels = dict(zip(["00000/img00000000.png", "gone.png"], crop_labels(2), strict=True))
    write_dataset_json(crops / "dataset.json", labels)
    found = real_scenes("ffhq", crops, generator=RESOLUTION)
    assert found.ids == ("00000/img00000000.png",)
    assert set(found.skipped) == {"gone.png", "00000/img00000001.png", "00001/img00001000.png"}
    write_dataset_json(crops / "dataset.json", {"gone.png": crop_labels(1)[0]})
    with pytest.raises(ValueError, match="none of the 1 labels"):
        real_scenes("ffhq", crops, generator=RESOLUTION)


def test_a_crop_that_is_not_square_or_of_another_camera_is_refused(tmp_path):
    wide = make_crops(tmp_path / "wide", {"a.png": faceless_photo()[:32]}, {"a.png": crop_labels(1)[0]})
    with pytest.raises(SceneError, match=r"ffhq a\.png: .*64 x 32"):
        real_scenes("ffhq", wide, generator=RESOLUTION)[0]
    far = orbit(0.1, 0.0, radius=4.0).label()[0]
    farther = make_crops(tmp_path / "far", {"a.png": faceless_photo()}, {"a.png": far})
    with pytest.raises(SceneError, match=r"ffhq a\.png: .*the camera is 4 from the origin"):
        real_scenes("ffhq", farther, generator=RESOLUTION)[0]


# -------------------------------------------------------------------- photos
def test_a_photo_is_posed_by_its_landmarks(tmp_path, opened, photo, detector):
    save_picture(tmp_path / "p" / "sub" / "anybody.png", photo)
    scene = opened("folder", tmp_path / "p")[0]
    portrait = faces.portrait_from_photo(photo, RESOLUTION, parse=False, detector=detector)
    assert torch.equal(scene.input.image, portrait.image)
    assert torch.equal(scene.input.camera.label(), portrait.camera.label())
    assert torch.equal(scene.truth["landmarks"], portrait.landmarks[None])
    assert scene.input_name == INPUT and scene.extras["id"] == "sub/anybody.png"
    assert scene.name == "folder/sub/anybody.png"
    json.dumps(scene.extras)


def test_beyond_the_border_of_a_photo_nothing_is_known(photo, detector):
    """The photo ends in the middle of the face: its crop shows the reflection of a half there."""
    half = np.ascontiguousarray(photo[:, 110:])
    view = ViewMaker(RESOLUTION, masks=True, detector=detector).of_photo(half).view
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", faces.FaceWarning)
        portrait = faces.portrait_from_photo(half, RESOLUTION, detector=detector)
    x, y = positions(portrait.crop)
    inside = (x > 0) & (x < half.shape[1]) & (y > 0) & (y < half.shape[0])
    known = view.known
    assert np.array_equal(known.numpy().ravel(), inside) and 0.5 < inside.mean() < 0.95
    assert torch.equal(view.mask, portrait.masks["head"] & known)
    assert (portrait.masks["head"] & ~known).any() and view.mask.any()
    assert view.depth[~known].isnan().all() and portrait.face_depth[~known].isfinite().any()
    assert torch.equal(view.depth[known].nan_to_num(), portrait.face_depth[known].nan_to_num())
    assert view.depth[known].isfinite().any()


def positions(crop):
    """x, y in the photo of the crop's pixel centres, row by row."""
    steps = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    u, v = np.meshgrid(steps, steps)
    return crop.matrix @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])


def test_doubts_are_recorded_and_not_shouted(photo, detector):
    small = np.asarray(Image.fromarray(photo).resize((144, 144)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", faces.FaceWarning)
        shot = ViewMaker(256, masks=False, detector=detector).of_photo(small)
    assert any("the portrait is blurred" in doubt for doubt in shot.doubts)


# -------------------------------------------------------------------- CelebA-HQ
def test_celeba_hq_is_split_as_celeba_is(tmp_path, opened):
    originals = {0: 0, 1: 162_770, 2: 162_771, 9: 182_637, 10: 182_638, 11: 202_598}
    folder = make_celeba_hq(tmp_path / "c", originals, faceless_photo())
    splits = {"train": ("0", "1"), "validation": ("2", "9"), "test": ("10", "11")}
    for split, ids in splits.items():
        assert opened("celeba_hq", folder, split=split).ids == ids
    assert opened("celeba_hq", folder).ids == splits["test"]
    assert opened("celeba_hq", folder, split="all").ids == tuple(map(str, originals))
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        opened("celeba_hq", folder, split="dev")


def test_celeba_hq_without_its_mapping_says_what_to_do(tmp_path, opened):
    save_picture(tmp_path / "00010.jpg", faceless_photo())
    save_picture(tmp_path / "9.jpg", faceless_photo())
    with pytest.raises(MissingData, match=r'CelebA-HQ-to-CelebA-mapping\.txt.*split="all" takes all'):
        opened("celeba_hq", tmp_path)
    assert opened("celeba_hq", tmp_path, split="all").ids == ("9", "10")
    mapping = tmp_path / celeba_hq.MAPPING
    mapping.write_text("idx orig_idx orig_file\n9 190000 190001.jpg\n10 x 190001.jpg\n")
    with pytest.raises(ValueError, match=r"line 3 of .*mapping\.txt"):
        opened("celeba_hq", tmp_path)
    mapping.write_text("a b\n")
    with pytest.raises(ValueError, match="expected the columns idx, orig_idx, orig_file"):
        opened("celeba_hq", tmp_path)


def test_celeba_hq_takes_the_annotated_head(tmp_path, opened, photo, detector):
    """Hair is annotated left of the middle, skin of the right quarter; the neck is no head."""
    folder = make_celeba_hq(tmp_path / "c", {2001: 190_000}, photo)
    x = (np.arange(512) + 0.5) / 512 * np.ones((512, 1))
    annotate(folder, 2001, {"hair": x < 0.5, "skin": x > 0.75, "neck": x > 0.5, "cloth": x > 0})
    scene = opened("celeba_hq", folder)[0]
    assert scene.extras["annotated_head"]
    stored = np.asarray(Image.open(folder / "CelebA-HQ-img" / "2001.jpg"))
    crop = faces.portrait_from_photo(stored, RESOLUTION, parse=False, detector=detector).crop
    column = positions(crop)[0] / photo.shape[1]
    expected = (column < 0.5) | (column > 0.75)
    unclear = np.minimum(abs(column - 0.5), abs(column - 0.75)) < crop.side / photo.shape[1] / RESOLUTION
    compared = ~unclear & scene.input.known.numpy().ravel()
    assert np.array_equal(scene.input.mask.numpy().ravel()[compared], expected[compared])
    assert 0.2 < expected[compared].mean() < 0.9
    assert celeba_hq.annotated_head(folder / celeba_hq.ANNOTATIONS, "2001", (20, 10)).shape == (20, 10)


def test_annotations_name_every_class_of_a_head():
    assert set(celeba_hq._ANNOTATED) == set(PARTS["head"]) <= set(CLASSES)
    assert celeba_hq.annotated_head(Path("nowhere"), "5", (8, 8)) is None


def test_celeba_hq_in_eg3ds_crops(tmp_path, no_detector):
    folder = make_celeba_hq(tmp_path / "c", {3: 190_000, 4: 1}, faceless_photo())
    labels = dict(zip(["3.jpg", "4.jpg"], crop_labels(2), strict=True))
    write_dataset_json(folder / "CelebA-HQ-img" / "dataset.json", labels)
    found = real_scenes("celeba_hq", folder, generator=RESOLUTION, masks=False, detector=no_detector)
    assert found.ids == ("3",) and found[0].extras["camera"] == "label"
    assert torch.equal(found[0].input.camera.label()[0], crop_labels(2)[0])


# -------------------------------------------------------------------- MEAD
@pytest.fixture(scope="module")
def mead_folder(tmp_path_factory, photo):
    """M003, from whose left at 60 degrees no face is seen; W009 lacks a view."""
    folder, empty = tmp_path_factory.mktemp("mead"), np.full_like(photo, 128)
    views = {view: [empty if view == "L60" else photo, empty] for view in mead.VIEWS}
    make_mead(folder, "M003", views, clips=("neutral/level_1/002", "neutral/level_1/003"))
    make_mead(folder, "W009", {"F": [empty], "L30": [empty]})
    (folder / "M003" / "video" / "front" / "neutral" / "level_1" / "001.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def mead_scene(mead_folder, detector):
    return real_scenes("mead", mead_folder, generator=RESOLUTION, masks=False, detector=detector)[0]


def test_a_mead_scene_is_one_moment_from_five_sides(mead_folder, mead_scene, opened, photo, detector):
    found = opened("mead", mead_folder)
    assert found.ids == ("M003/neutral/level_1/002@0.000",), "the first clip that all five views have"
    assert set(found.skipped) == {"W009"}
    assert list(mead_scene.views) == ["L30", "F", "R30", "R60"] and mead_scene.input_name == "F"
    assert set(mead_scene.extras["views_left_out"]) == {"L60"} and mead_scene.extras["frame"] == 0
    assert len(mead_scene.truth["landmarks"]) == len(mead_scene.views)
    portrait = faces.portrait_from_photo(photo, RESOLUTION, parse=False, detector=detector)
    for view in mead_scene.views.values():
        assert (view.image - portrait.image).abs().mean() < 0.05  # the video is compressed
        assert (view.camera.yaw - portrait.camera.yaw).abs() < 0.05, "estimated, not nominal"
    json.dumps(mead_scene.extras)


def test_each_view_can_be_the_input(mead_folder, mead_scene, opened):
    scenes = mead.from_each_view(mead_scene)
    assert [other.input_name for other in scenes] == list(mead_scene.views)
    assert len({other.name for other in scenes}) == len(scenes)
    assert all(other.views is mead_scene.views for other in scenes)
    with pytest.raises(SceneError, match="view L60: no face is found"):
        opened("mead", mead_folder, input_view="L60")[0]
    with pytest.raises(ValueError, match="unknown input_view 'left'"):
        opened("mead", mead_folder, input_view="left")


def test_random_moments_of_mead_belong_to_their_seed(mead_folder, opened):
    found = opened("mead", mead_folder, frames=5)
    assert len(found.ids) == 5 and found.ids == opened("mead", mead_folder, frames=5).ids
    assert all(mead._ID.fullmatch(scene_id) for scene_id in found.ids)
    assert {scene_id.split("@")[0] for scene_id in found.ids} <= {
        f"M003/neutral/level_1/{clip}" for clip in ("002", "003")
    }
    other = opened("mead", mead_folder, frames=5, frame_seed=1)
    assert other.ids != found.ids
    assert opened("mead", mead_folder, only=other.ids).ids == other.ids, "a shared list needs no seed"
    for bad in ("M003/../../x@0.000", "M003/neutral/level_1/009@0.000", "../M003/neutral/level_1/002@0.000"):
        with pytest.raises(ValueError, match="1 of 1 ids are not in"):
            opened("mead", mead_folder, only=[bad])


def test_frames_go_to_eg3ds_alignment_and_come_back_as_crops(
    mead_folder, opened, tmp_path, photo, no_detector
):
    scenes = opened("mead", mead_folder)
    files = mead.save_frames(scenes.data, scenes.ids, tmp_path / "crops")
    assert sorted(file.name for file in files) == [
        f"M003-neutral-level_1-002-000-{view}.png" for view in sorted(mead.VIEWS)
    ]
    assert abs(np.asarray(Image.open(files[2])).astype(int) - photo).mean() < 6
    labels = dict(zip([file.name for file in files[1:]], crop_labels(4), strict=True))
    write_dataset_json(tmp_path / "crops" / "dataset.json", labels)
    for crops in (tmp_path / "crops", zipped(tmp_path / "crops")):
        scene = opened("mead", mead_folder, crops=crops, generator=288, detector=no_detector)[0]
        assert list(scene.views) == list(mead.VIEWS)[1:] and set(scene.extras["views_left_out"]) == {"L60"}
        for file, view, label in zip(files[1:], scene.views.values(), crop_labels(4), strict=True):
            assert torch.equal(view.image, to_tensor(np.asarray(Image.open(file))))
            assert torch.equal(view.camera.label()[0], label)
    with pytest.raises(SceneError, match="view L60: there is no M003-neutral-level_1-002-000-L60"):
        opened("mead", mead_folder, crops=tmp_path / "crops", input_view="L60")[0]
    (tmp_path / "crops" / "dataset.json").unlink()
    with pytest.raises(SceneError, match=r"no dataset\.json with camera labels"):
        opened("mead", mead_folder, crops=tmp_path / "crops")[0]


def levels(n, size=64):
    return [np.full((size, size, 3), 20 + 30 * i, np.uint8) for i in range(n)]


def test_frames_are_counted_and_read_by_number(tmp_path):
    video = write_video(tmp_path / "a.mp4", levels(6))
    assert mead.count_frames(video) == 6
    for i, frame in enumerate(levels(6)):
        assert abs(mead.read_frame(video, i).astype(int) - frame).mean() < 4
    with pytest.raises(SceneError, match=r"a\.mp4 has no frame 6"):
        mead.read_frame(video, 6)


def test_a_moment_is_the_same_frame_in_all_views(tmp_path, monkeypatch):
    """Counted by the shortest video: 0.7 of 3 frames is frame 2, whose grey is 80."""
    views = {view: levels(3 if view == "R60" else 5) for view in mead.VIEWS}
    make_mead(tmp_path, "M003", views)
    seen = []

    def look(self, picture):
        seen.append(picture)
        raise faces.FaceError("no face")

    monkeypatch.setattr(ViewMaker, "of_photo", look)
    with pytest.raises(SceneError, match="view F: no face"):
        real_scenes("mead", tmp_path, generator=8, only=["M003/neutral/level_1/001@0.700"])[0]
    assert len(seen) == 5 and all(abs(picture.mean() - 80) < 4 for picture in seen)


def test_what_only_calls_itself_mp4_is_not_followed(tmp_path):
    write_video(tmp_path / "other.mp4", levels(2))
    for text in ("ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n", "x"):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(SceneError, match=r"list\.mp4 cannot be read as an MP4 video"):
            mead.read_frame(tmp_path / "list.mp4", 0)


# -------------------------------------------------------------------- NoW
NAMES = (
    "FaMoS_180424_03335_TA/multiview_neutral/IMG_0101.jpg",
    "FaMoS_180424_03335_TA/selfie/IMG_0202.jpg",
    "FaMoS_180427_03338_TA/selfie/IMG_0303.jpg",
)


@pytest.mark.parametrize("pictures_in", ["NoW_Dataset/final_release_version", "."])
def test_now_has_photos_and_scans(tmp_path, opened, photo, pictures_in):
    folder = make_now(tmp_path / "now", NAMES, photo, pictures_in)
    assert opened("now", folder).ids == NAMES
    assert opened("now", folder, challenge="selfie").ids == NAMES[1:]
    scene = opened("now", folder)[1]
    assert scene.extras["subject"] == "FaMoS_180424_03335_TA" and scene.extras["challenge"] == "selfie"
    assert np.array_equal(scene.truth["scan_vertices"][:4], TETRAHEDRON)
    assert torch.equal(scene.truth["scan_vertices"][4:], torch.tensor([[7.0, 8, 9]])), "nothing is dropped"
    assert np.array_equal(scene.truth["scan_triangles"], SIDES)
    assert np.array_equal(scene.truth["scan_landmarks"], picked_points())
    assert scene.truth["landmarks"].shape == (1, 478, 3)
    assert set(opened("now", folder, scans=False)[0].truth) == {"landmarks"}


def test_now_says_what_it_lacks(tmp_path, opened, photo):
    folder = make_now(tmp_path / "now", NAMES, photo)
    with pytest.raises(ValueError, match="no scans of its test split: pass scans=False"):
        opened("now", folder, split="test")
    with pytest.raises(MissingData, match=r"imagepathstest\.txt"):
        opened("now", folder, split="test", scans=False)
    with pytest.raises(ValueError, match="unknown challenge 'smile'"):
        opened("now", folder, challenge="smile")
    next((folder / "scans" / NAMES[0].split("/")[0]).iterdir()).unlink()
    with pytest.raises(SceneError, match=r"(?s)IMG_0101\.jpg: there is no \.obj file in .*scans"):
        opened("now", folder)[0]
    (folder / "imagepathsvalidation.txt").write_text(f"{NAMES[0]}\n../../secret/IMG.jpg\n")
    with pytest.raises(ValueError, match=r"line 2 of .*imagepathsvalidation\.txt"):
        opened("now", folder)


def test_damaged_scans_are_named(tmp_path):
    (tmp_path / "a.obj").write_text("v 1 2\nf 1 2 3\n")
    with pytest.raises(SceneError, match=r"a\.obj"):
        now.read_scan(tmp_path / "a.obj")
    write_points(tmp_path / "a.pp")
    text = (tmp_path / "a.pp").read_text()
    (tmp_path / "a.pp").write_text(text.replace('z="', 'depth="', 1))
    with pytest.raises(SceneError, match=r"a\.pp: a point without x, y and z"):
        now.read_picked_points(tmp_path / "a.pp")


# -------------------------------------------------------------------- what is chosen
def test_a_choice_depends_on_seed_and_ids_alone():
    ids = [f"{i:03d}" for i in range(200)]
    chosen = choose(ids, 50, seed=0)
    assert len(set(chosen)) == 50 and set(chosen) <= set(ids)
    assert choose(ids[::-1], 50, 0) == chosen and choose(ids, 20, 0) == chosen[:20]
    without = [scene_id for scene_id in ids if scene_id != chosen[7]]
    assert choose(without, 49, 0) == chosen[:7] + chosen[8:]
    assert choose(ids, 50, 1) != chosen and choose(ids, None, 1) == tuple(ids)
    assert 10 <= sum(int(scene_id) < 100 for scene_id in chosen) <= 40, "from everywhere"
    for n in (0, 201):
        with pytest.raises(ValueError, match=f"cannot choose {n} of 200"):
            choose(ids, n, 0)


def test_a_saved_selection_is_the_same_selection(crops, tmp_path):
    chosen = real_scenes("ffhq", crops, 2, seed=4, generator=RESOLUTION)
    path = chosen.save_selection(tmp_path / "shared.json")
    assert real_scenes("ffhq", crops, generator=RESOLUTION, only=path).ids == chosen.ids
    assert real_scenes("ffhq", crops, generator=RESOLUTION, only=list(chosen.ids)).ids == chosen.ids
    with pytest.raises(ValueError, match="selects from 'ffhq', not from 'folder'"):
        real_scenes("folder", crops, generator=RESOLUTION, only=path)
    with pytest.raises(ValueError, match=r"1 of 1 ids are not in .*such as 'other'"):
        real_scenes("ffhq", crops, generator=RESOLUTION, only=["other"])
    with pytest.raises(ValueError, match="of 2 ids only 1 are different"):
        real_scenes("ffhq", crops, generator=RESOLUTION, only=chosen.ids[:1] * 2)
    for text in ("[]", '{"data": "ffhq", "ids": [1]}', "x"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"shared\.json is no selection"):
            real_scenes("ffhq", crops, generator=RESOLUTION, only=path)


def test_a_bad_picture_is_named_or_passed_over_and_recorded(crops):
    (crops / "00000" / "img00000001.png").write_bytes(b"no picture")
    strict = real_scenes("ffhq", crops, generator=RESOLUTION, masks=False)
    with pytest.raises(SceneError, match=r"ffhq 00000/img00000001\.png: .*img00000001\.png is not a picture"):
        list(strict)
    lenient = real_scenes("ffhq", crops, generator=RESOLUTION, masks=False, on_error="skip")
    with pytest.warns(SkippedWarning, match=r"img00000001\.png"):
        scenes = list(lenient)
    assert [scene.extras["id"] for scene in scenes] == [lenient.ids[0], lenient.ids[2]]
    assert set(lenient.skipped) == {lenient.ids[1]} and len(lenient) == 3
    with pytest.raises(SceneError):
        lenient[1]
    assert [scene.name for scene in lenient[2:]] == [scenes[1].name]
    with pytest.raises(ValueError, match="on_error"):
        RealScenes(lenient.data, lenient.ids, on_error="ignore")


def test_scenes_are_made_when_asked_for(crops, monkeypatch):
    made = []
    make = PhotoSet.scene
    monkeypatch.setattr(PhotoSet, "scene", lambda self, name: made.append(name) or make(self, name))
    found = real_scenes("ffhq", crops, generator=RESOLUTION, masks=False)
    assert len(found) == 3 and not made
    first, again = found[0], found[0]
    assert made == [found.ids[0]] * 2
    assert torch.equal(first.input.image, again.input.image) and first.extras == again.extras


@pytest.mark.parametrize("name", DATA_SETS)
def test_missing_data_says_what_is_expected_and_whence(name, tmp_path, opened):
    with pytest.raises(
        MissingData, match=r"(?s)there is no folder.*is expected as\n.*It comes from .*\(.+\)"
    ):
        opened(name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match=r"(?s)is expected as\n.*It comes from"):
        opened(name, tmp_path / "empty")


def test_unknown_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'lfw'; known: celeba_hq"):
        real_scenes("lfw", tmp_path)


def test_views_have_the_size_of_the_generator(crops, monkeypatch):
    assert real_scenes("ffhq", crops, generator=Sized(20), masks=False)[0].input.image.shape == (1, 3, 20, 20)
    monkeypatch.setattr(real, "load_generator", {"portraits64": Sized(24)}.__getitem__)
    assert real_scenes("ffhq", crops, masks=False)[0].input.image.shape == (1, 3, 24, 24)


@dataclass
class Sized:
    """A generator, as far as its portraits are concerned."""

    resolution: int
