"""Poses, crops and depth against closed forms; whole portraits of the astronaut, treated in every bad way."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage import data

from lib import cameras, faces
from lib.cameras import FOCAL, RADIUS
from lib.faces import WORLD_PER_CM, Crop, FaceError, FaceWarning
from lib.images import resize

NOSE_TIP, FOREHEAD, LEFT_IRIS, RIGHT_IRIS, UPPER_LIP = 4, 10, 473, 468, 0


@pytest.fixture(scope="module")
def detector():
    return faces.FaceDetector()


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


@pytest.fixture(scope="module")
def portrait(astronaut, detector):
    return faces.portrait_from_photo(astronaut, 128, detector=detector)


def landmarks_at(yaw, pitch, roll=0.0, scale=6.0, centre=(250.0, 260.0)) -> np.ndarray:
    """Canonical vertices by an orthographic camera at (yaw, pitch), on a picture turned clockwise by roll."""
    vertices, _ = faces.canonical_mesh()
    in_camera = vertices @ cameras.orbit(yaw, pitch).rotation[0].double().numpy()  # x right, y down, z away
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return scale * in_camera @ turn.T + np.array([*centre, 30.0])


# -------------------------------------------------------------------- poses
def test_similarity_fit_recovers_what_was_applied():
    rng = np.random.default_rng(0)
    for _ in range(5):
        source = rng.normal(size=(40, 3)) * [1.0, 2.0, 0.5]
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        scale, translation = rng.uniform(0.1, 9), rng.normal(size=3) * 50
        fitted = faces.similarity_fit(source, scale * source @ rotation.T + translation)
        for found, expected in zip(fitted, (scale, rotation, translation), strict=True):
            assert np.allclose(found, expected, atol=1e-8)


def test_similarity_fit_never_mirrors_and_is_least_squares():
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(2, 30, 3))
    scale, rotation, translation = faces.similarity_fit(source, target * [-1, 1, 1])
    assert np.isclose(np.linalg.det(rotation), 1)

    def error(s, r, t):
        return ((s * source @ r.T + t - target * [-1, 1, 1]) ** 2).sum()

    best = error(scale, rotation, translation)
    for step in [*np.eye(3) * 1e-3, *np.eye(3) * -1e-3]:
        assert error(scale, rotation @ Rotation.from_rotvec(step).as_matrix(), translation) > best
        assert error(scale, rotation, translation + step) > best
        assert error(scale + step.sum(), rotation, translation) > best


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (0.5, 0.2, 0), (-0.4, 0.1, 0.3), (0.2, -0.3, -2.5)]
)
def test_pose_and_camera_of_known_landmarks(yaw, pitch, roll):
    pose = faces.head_pose(landmarks_at(yaw, pitch, roll, scale=7.0, centre=(300, 200)))
    assert np.allclose((pose.yaw, pose.pitch, pose.roll), (yaw, pitch, roll), atol=1e-6)
    assert np.allclose(pose.origin[:2], (300, -200)) and np.isclose(pose.scale, 7) and pose.residual < 1e-6
    camera, expected = faces.camera_of(pose), cameras.orbit(yaw, pitch)
    assert torch.allclose(camera.label(), expected.label(), atol=1e-5)
    cameras.validate(camera.label())


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_the_camera_projects_the_head_onto_its_crop(roll):
    """Up to perspective: a point h nearer to the camera than the origin appears R / (R - h) times larger."""
    landmarks = landmarks_at(0.4, -0.2, roll)
    pose = faces.head_pose(landmarks)
    on_crop = Crop.of(pose).landmarks(landmarks)
    vertices, _ = faces.canonical_mesh()
    points = torch.tensor(vertices * WORLD_PER_CM, dtype=torch.float32)[None]
    uv, depth_z = faces.camera_of(pose).project(points)
    larger = RADIUS / depth_z[0].numpy()
    assert 0.9 < larger.min() < 1 < larger.max() < 1.15
    assert np.allclose(uv[0], 0.5 + (on_crop[:, :2] - 0.5) * larger[:, None], atol=1e-5)
    height = RADIUS - depth_z[0].numpy()
    origin_z = -pose.origin[2] / Crop.of(pose).side
    assert np.allclose((origin_z - on_crop[:, 2]) * RADIUS / FOCAL, height, atol=1e-5)


def test_the_mirrored_face_has_the_mirrored_camera():
    vertices, _ = faces.canonical_mesh()
    partner = np.linalg.norm(vertices[:, None] - vertices * [-1, 1, 1], axis=2).argmin(1)
    landmarks = landmarks_at(0.4, 0.15, 0.2)
    mirrored = landmarks[partner] * [-1, 1, 1] + [512, 0, 0]
    pose, other = faces.head_pose(landmarks), faces.head_pose(mirrored)
    assert np.allclose((other.yaw, other.pitch, other.roll), (-pose.yaw, pose.pitch, -pose.roll), atol=5e-3)
    expected = faces.camera_of(pose).mirror().label()
    assert torch.allclose(faces.camera_of(other).label(), expected, atol=0.02)


# -------------------------------------------------------------------- crops
@pytest.fixture(scope="module")
def smooth():
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(60, 80, 3)), (4, 4, 0))
    return np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8)


def directly(picture, crop, resolution):
    """The crop by interpolating the picture at each pixel centre; beyond its border it is reflected."""
    steps = (np.arange(resolution) + 0.5) / resolution
    v, u = np.meshgrid(steps, steps, indexing="ij")
    x, y = crop.matrix @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    channels = [
        ndimage.map_coordinates(picture[..., c].astype(float), (y - 0.5, x - 0.5), order=1, mode="mirror")
        for c in range(3)
    ]
    return np.stack(channels, axis=-1).reshape(resolution, resolution, 3)


@pytest.mark.parametrize("turn", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("middle", [(40, 30), (3, 50), (200, -40)])
def test_cut_shows_the_square_and_reflects_beyond_the_picture(smooth, turn, middle):
    crop = Crop.about(*middle, side=50, turn=turn)
    assert np.abs(crop.cut(smooth, 50) - directly(smooth, crop, 50)).max() < 2.5
    averaged = directly(smooth, crop, 50).reshape(10, 5, 10, 5, 3).mean((1, 3))
    assert np.abs(crop.cut(smooth, 10) - averaged).max() < 2.5


def test_landmarks_and_to_picture_are_inverse_and_keep_the_scale():
    rng = np.random.default_rng(0)
    crop = Crop.about(120, 80, side=37, turn=0.7)
    landmarks = rng.uniform(0, 200, size=(20, 3))
    on_crop = crop.landmarks(landmarks)
    assert np.allclose(crop.to_picture(on_crop), landmarks)
    assert np.allclose(crop.landmarks(np.array([[120.0, 80.0, 37.0]])), [[0.5, 0.5, 1.0]])
    distances = np.linalg.norm(landmarks[1:] - landmarks[:-1], axis=1)
    assert np.allclose(np.linalg.norm(on_crop[1:] - on_crop[:-1], axis=1) * crop.side, distances)


def test_share_outside():
    picture = np.zeros((100, 200, 3), np.uint8)
    assert Crop.about(100, 50, side=100).share_outside(picture) == 0
    assert Crop.about(0, 50, side=100).share_outside(picture) == 0.5
    assert Crop.about(200, 100, side=100).share_outside(picture) == 0.75


def test_the_roll_is_turned_away(astronaut, detector, portrait):
    """Turning the photo turns the crop back: the same picture and the same camera."""
    turned = np.asarray(Image.fromarray(astronaut).rotate(30, Image.Resampling.BICUBIC))
    other = faces.portrait_from_photo(turned, 128, parse=False, detector=detector)
    assert (other.camera.yaw - portrait.camera.yaw).abs() < 0.05
    assert (other.camera.pitch - portrait.camera.pitch).abs() < 0.05
    middle = (..., slice(32, 96), slice(32, 96))
    assert (other.image[middle] - portrait.image[middle]).abs().mean() < 0.06
    strangers = (portrait.image[middle].flip(2) - portrait.image[middle]).abs().mean()
    assert strangers > 0.3, "or else the comparison above says nothing"


# -------------------------------------------------------------------- depth
def depth_at(landmarks, triangles, u, v) -> float:
    """Depth of the nearest triangle over (u, v), one after the other; NaN where there is none."""
    nearest = np.nan
    for corners in landmarks[triangles]:
        (a, b, c), z = corners[:, :2], corners[:, 2]
        try:
            s, t = np.linalg.solve(np.column_stack([b - a, c - a]), np.array([u, v]) - a)
        except np.linalg.LinAlgError:
            continue
        if s >= 0 and t >= 0 and s + t <= 1:
            depth = RADIUS + (z[0] + s * (z[1] - z[0]) + t * (z[2] - z[0])) * RADIUS / FOCAL
            nearest = np.fmin(nearest, depth)
    return nearest


@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_face_depth_is_that_of_the_nearest_triangle(yaw):
    resolution = 64
    landmarks = landmarks_at(yaw, 0.1)
    pose = faces.head_pose(landmarks)
    on_crop = Crop.of(pose).landmarks(landmarks) - [0, 0, -pose.origin[2] / Crop.of(pose).side]
    depth = faces.face_depth(on_crop, 0.0, resolution)
    _, triangles = faces.canonical_mesh()
    rng = np.random.default_rng(0)
    errors = []
    for row, column in rng.integers(8, 56, size=(40, 2)):
        expected = depth_at(on_crop, triangles, (column + 0.5) / resolution, (row + 0.5) / resolution)
        if np.isfinite(depth[row, column]) and np.isfinite(expected):
            errors.append(abs(depth[row, column] - expected))
    assert len(errors) > 15
    assert np.median(errors) < 0.002 and np.quantile(errors, 0.9) < 0.02  # steep at the silhouette


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_face_depth_has_no_holes(resolution):
    landmarks = landmarks_at(0.3, 0.0)
    on_crop = Crop.of(faces.head_pose(landmarks)).landmarks(landmarks)
    covered = np.isfinite(faces.face_depth(on_crop, 0.0, resolution))
    assert 0.2 < covered.mean() < 0.5
    assert np.array_equal(ndimage.binary_fill_holes(covered), covered)


# -------------------------------------------------------------------- whole portraits
def test_portrait_of_the_astronaut(portrait):
    assert portrait.image.shape == (1, 3, 128, 128) and portrait.image.abs().max() <= 1
    assert len(portrait.camera) == 1 and portrait.landmarks.shape == (478, 3)
    cameras.validate(portrait.camera.label())
    assert portrait.camera.yaw.abs() < 0.1 and portrait.camera.pitch.abs() < 0.35  # she looks at us
    nose = portrait.landmarks[NOSE_TIP]
    column, row = (nose[:2] * 128).long().tolist()
    expected = RADIUS + nose[2] * RADIUS / FOCAL
    ray = portrait.camera.ray_cosines(128)[0, 0, row, column]
    assert abs(portrait.face_depth[0, 0, row, column] * ray - expected) < 0.01
    assert torch.isnan(portrait.face_depth[0, 0, 0, 0])


def test_masks_fall_where_they_should(portrait):
    masks = {part: mask[0, 0] for part, mask in portrait.masks.items()}
    assert all(mask.dtype == torch.bool and mask.shape == (128, 128) for mask in masks.values())

    def part_at(landmark, part, up=0):
        column, row = (portrait.landmarks[landmark, :2] * 128).long().tolist()
        return bool(masks[part][row - up, column])

    assert part_at(LEFT_IRIS, "eyes") and part_at(RIGHT_IRIS, "eyes")
    assert part_at(NOSE_TIP, "nose") and part_at(UPPER_LIP, "mouth")
    assert part_at(FOREHEAD, "hair", up=8) and not part_at(FOREHEAD, "face", up=8)
    assert masks["background"][4, 4] and not masks["glasses"].any()
    assert not (masks["face"] & masks["hair"]).any() and not (masks["head"] & masks["background"]).any()
    assert torch.equal(masks["head"] & masks["face"], masks["face"])
    assert 100 < masks["brows"].sum() + masks["eyes"].sum() < 1000


def test_masks_by_landmarks_agree_with_the_parsing_network(astronaut, detector, portrait):
    other = faces.portrait_from_photo(astronaut, 128, parse=False, detector=detector)
    assert set(other.masks) == {"face", "eyes", "brows", "nose", "mouth"}
    for part, least in {"face": 0.7, "eyes": 0.5, "mouth": 0.7, "nose": 0.4}.items():
        mine, theirs = other.masks[part], portrait.masks[part]
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert (mine & theirs).sum() / (mine | theirs).sum() > least, part


def test_the_same_photo_gives_the_same_portrait(astronaut, detector, portrait):
    again = faces.portrait_from_photo(astronaut, 128, detector=detector)
    assert torch.equal(again.image, portrait.image) and torch.equal(again.landmarks, portrait.landmarks)
    assert torch.equal(again.camera.label(), portrait.camera.label())


def test_to_moves_every_tensor(portrait):
    moved = portrait.to("meta")
    tensors = [moved.image, moved.landmarks, moved.face_depth, moved.camera.label(), *moved.masks.values()]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.image.shape == portrait.image.shape and moved.crop is portrait.crop


def small_in_a_large_photo(picture):
    canvas = np.full((1400, 1800, 3), 90, np.uint8)
    canvas[700:1212, 1100:1612] = picture
    return canvas


@pytest.mark.parametrize(
    "treat",
    [
        lambda p: np.rot90(p, 1),
        lambda p: np.rot90(p, 2),
        lambda p: p[60:190, 165:285],  # the face fills the frame
        small_in_a_large_photo,
        lambda p: np.asarray(Image.fromarray(p).reduce(2)),
    ],
    ids=["on its side", "upside down", "fills the frame", "small in a large photo", "tiny"],
)
def test_a_face_is_found_however_it_lies_in_the_photo(astronaut, detector, portrait, treat):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaceWarning)
        other = faces.portrait_from_photo(treat(astronaut), 128, parse=False, detector=detector)
    assert (other.camera.yaw - portrait.camera.yaw).abs() < 0.07
    assert (other.camera.pitch - portrait.camera.pitch).abs() < 0.07
    middle = (..., slice(40, 100), slice(40, 88))
    assert (other.image[middle] - portrait.image[middle]).abs().mean() < 0.12


def test_mirroring_the_photo_mirrors_the_camera(astronaut, detector, portrait):
    other = faces.portrait_from_photo(astronaut[:, ::-1], 128, parse=False, detector=detector)
    assert (other.camera.label() - portrait.camera.mirror().label()).abs().max() < 0.15
    assert (other.image.flip(3) - portrait.image).abs().mean() < 0.1


@pytest.mark.parametrize("kind", ["CMYK", "grey of 16 bits", "transparent"])
def test_files_of_every_kind_give_the_same_portrait(astronaut, detector, portrait, tmp_path, kind):
    picture = Image.fromarray(astronaut)
    if kind == "CMYK":
        path = tmp_path / "photo.jpg"
        picture.convert("CMYK").save(path, quality=95)
    elif kind == "transparent":
        path = tmp_path / "photo.png"
        picture.putalpha(Image.new("L", picture.size, 230))
        picture.save(path)
    else:
        path = tmp_path / "photo.png"
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
    other = faces.portrait_from_photo(path, 128, parse=False, detector=detector)
    assert (other.camera.yaw - portrait.camera.yaw).abs() < 0.05
    assert (other.image.mean(1) - portrait.image.mean(1)).abs().mean() < 0.15


# -------------------------------------------------------------------- doubts and refusals
def test_no_face(detector):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with pytest.raises(FaceError, match="no face is found"):
        faces.portrait_from_photo(noise, 64, detector=detector)
    with pytest.raises(FaceError, match="no face is found"):
        faces.portrait_from_photo(data.coffee(), 64, detector=detector)  # on which the detector sees one


def test_several_faces(astronaut, detector, portrait):
    smaller = np.zeros_like(astronaut)
    smaller[:384, :384] = np.asarray(Image.fromarray(astronaut[:, ::-1]).resize((384, 384)))
    both = np.concatenate([smaller, astronaut], axis=1)
    with pytest.warns(FaceWarning, match="2 faces .*face=0: .*face=1: "):
        largest = faces.portrait_from_photo(both, 128, parse=False, detector=detector)
    assert (largest.image - portrait.image).abs().mean() < 0.06
    second = faces.portrait_from_photo(both, 64, face=1, parse=False, detector=detector)
    assert (second.image.flip(3) - resize(portrait.image, 64)).abs().mean() < 0.12
    assert second.crop.side < 0.8 * largest.crop.side
    with pytest.raises(FaceError, match="no face=2"):
        faces.portrait_from_photo(both, 64, face=2, parse=False, detector=detector)


def test_doubtful_portraits_warn(astronaut, detector):
    with pytest.warns(FaceWarning, match="pixels of the photo but the generator has 512"):
        faces.portrait_from_photo(astronaut, 512, parse=False, detector=detector)
    with pytest.warns(FaceWarning, match="outside the photo"):
        faces.portrait_from_photo(astronaut[60:190, 165:285], 64, parse=False, detector=detector)


def test_arrays_that_are_no_photos(detector):
    with pytest.raises(ValueError, match="uint8 RGB"):
        faces.portrait_from_photo(np.zeros((64, 64, 3)), 64, detector=detector)


# -------------------------------------------------------------------- ready crops and their labels
def test_ready_crop_keeps_its_camera(astronaut, detector, portrait):
    pixels = portrait.crop.cut(astronaut, 256)
    label = cameras.orbit(0.1, -0.05).label()[0]
    ready = faces.portrait_from_crop(pixels, label, 128, parse=False, detector=detector)
    assert torch.allclose(ready.camera.label()[0], label)
    assert (ready.image - portrait.image).abs().mean() < 0.02
    assert (ready.landmarks - portrait.landmarks)[:, :2].abs().mean() < 0.01
    assert torch.isnan(ready.face_depth).all(), "the label does not tell where the landmarks stand"


def test_ready_crop_without_a_face_still_serves(detector):
    with pytest.warns(FaceWarning, match="no landmarks"):
        ready = faces.portrait_from_crop(
            data.chelsea()[:300, 100:400], cameras.orbit(0, 0).label(), 64, parse=False, detector=detector
        )
    assert ready.landmarks is None and ready.masks == {} and ready.image.shape == (1, 3, 64, 64)


def test_ready_crop_refuses_what_cannot_be(astronaut, detector):
    label = cameras.orbit(0, 0).label()
    with pytest.raises(ValueError, match="square"):
        faces.portrait_from_crop(astronaut[:100], label, 64, detector=detector)
    with pytest.raises(ValueError, match="from the origin"):
        far = cameras.orbit(0, 0, radius=4.0).label()
        faces.portrait_from_crop(astronaut, far, 64, detector=detector)
    with pytest.raises(ValueError, match="one camera label, got 2"):
        faces.portrait_from_crop(astronaut, label.repeat(2, 1), 64, detector=detector)


def test_dataset_json(tmp_path):
    path = tmp_path / "dataset.json"
    labels = cameras.orbit(torch.tensor([0.1, -0.3]), 0.2).label()
    names = ["00000/img00000000.png", "00000/img00000001.png"]
    path.write_text(json.dumps({"labels": [[n, c.tolist()] for n, c in zip(names, labels, strict=True)]}))
    found = faces.labels_from_dataset_json(path)
    assert list(found) == names
    assert torch.allclose(torch.stack(list(found.values())), labels)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a.png": {"intrinsics": np.eye(3).tolist(), "pose": np.eye(4).tolist()}}, "cameras.json"),
        ({"labels": None}, "no camera labels"),
        ([], "no camera labels"),
        ({"labels": [["a.png", [1.0] * 24]]}, "25 numbers"),
        ({"labels": [["a.png", [0.0] * 25]]}, "camera label 0"),
        ({"labels": [1, 2]}, "each label"),
        ({"labels": [["a.png", None]]}, "each label"),
        ({"labels": [["a.png", [0.0] * 25], ["b.png", [0.0] * 24]]}, "each label"),
        ({"labels": [["a.png", [0.0] * 25, "extra"]]}, "each label"),
    ],
)
def test_other_json_is_refused_with_a_reason(tmp_path, content, says):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says) as error:
        faces.labels_from_dataset_json(path)
    assert str(path) in str(error.value)


def test_every_label_of_a_file_is_checked(tmp_path):
    """Also one far behind the first, which a slip of a script may have left in pixels."""
    labels = cameras.orbit(torch.linspace(-0.5, 0.5, 200), 0.1).label().tolist()
    labels[177][16] *= 512
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": [[f"{i}.png", label] for i, label in enumerate(labels)]}))
    with pytest.raises(ValueError, match=r"dataset\.json: camera label 177 of 200.*pixels"):
        faces.labels_from_dataset_json(path)


def test_no_json_at_all(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        faces.labels_from_dataset_json(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("labels: none")
    with pytest.raises(ValueError, match="not JSON"):
        faces.labels_from_dataset_json(tmp_path / "text.json")


# -------------------------------------------------------------------- the overlay
@pytest.fixture
def blank():
    """A portrait of nobody, seen from the left and from above."""
    return faces.Portrait(
        image=torch.zeros(1, 3, 64, 64),
        camera=cameras.orbit(0.5, 0.3),
        masks={},
        landmarks=None,
        face_depth=torch.full((1, 1, 64, 64), torch.nan),
        photo=np.zeros((64, 64, 3), np.uint8),
        crop=Crop.about(32, 32, side=64),
    )


def test_axes_point_as_the_camera_sees_them(blank):
    drawn = faces.draw_pose(blank, 384).astype(float)
    origin = np.array([191.5, 191.5])
    tips = torch.eye(3)[None] * faces.AXIS_LENGTH
    uv, _ = blank.camera.project(tips)
    for axis, (name, colour) in enumerate(faces.AXIS_COLOURS.items()):
        rows, columns = np.nonzero(np.abs(drawn - colour).max(-1) < 60)
        away = np.column_stack([columns, rows]) - origin
        expected = uv[0, axis].numpy() * 384 - origin
        along = away @ expected / (expected @ expected)
        assert len(along) > 20, f"axis {name} is not drawn"
        assert np.median(along) > 0.2, f"axis {name} points elsewhere"


def test_the_mesh_covers_the_face_and_only_it(blank):
    drawn = faces.draw_pose(blank, 384)
    assert drawn.shape == (384, 384, 3) and drawn.dtype == np.uint8
    vertices, _ = faces.canonical_mesh()
    uv, _ = blank.camera.project(torch.tensor(vertices * WORLD_PER_CM, dtype=torch.float32)[None])
    low, high = uv[0].amin(0).numpy() * 384, uv[0].amax(0).numpy() * 384
    white = np.ptp(drawn.astype(int), axis=-1) < 12
    rows, columns = np.nonzero(white & (drawn.max(-1) > 40) & (np.arange(384)[:, None] > 40))
    assert len(rows) > 2000
    assert columns.min() >= low[0] - 3 and columns.max() <= high[0] + 3
    assert rows.min() >= low[1] - 3 and rows.max() <= high[1] + 3


def test_facing_and_edges():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, -1]], float)
    triangles = np.array([[0, 1, 2], [2, 1, 0], [1, 3, 2]])
    facing = faces._facing(vertices, triangles, np.array([0.0, 0.0, 5.0]))
    assert facing.tolist() == [True, False, True]
    assert faces._edges(triangles).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
