"""A photo becomes a portrait: landmarks, head pose, aligned crop, camera, face depth and part masks.

The head frame is the world frame of the study: x to the right of the picture when the head looks at us, y up,
the face looks along +z, origin at that of MediaPipe's canonical face mesh (about the centre of the head).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lib import assets, parsing
from lib.cameras import FOCAL, RADIUS, Camera, intrinsics_matrix, validate
from lib.images import load_photo, to_tensor

WORLD_PER_CM = 0.025
"""World units per centimetre of the canonical face mesh: the scale of heads in the embedded generators."""

VIEW_TO_CV = np.diag([1.0, -1.0, -1.0])
"""Axes of a view (x right, y up, z to the viewer) to OpenCV's (x right, y down, z away from the viewer)."""

MAX_RESIDUAL_CM = 1.5
"""A face mesh that fits its landmarks worse than this is no face; laughing or turned heads stay below 1."""

LARGEST_SOUND_ANGLE = 0.8
"""Yaw or pitch (radians) beyond which landmarks are mostly guesses."""


class FaceError(ValueError):
    """A photo in which the wanted face is not found; the message says what to do."""


class FaceWarning(UserWarning):
    """A face that is found but about which the user should know something."""


# -------------------------------------------------------------------- the canonical face mesh
def wire_fields(message: bytes):
    """(field number, value) pairs of a protobuf message; a value is an int or the bytes of a nested field."""
    position = 0

    def varint() -> int:
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        field, kind = key >> 3, key & 7
        if kind == 0:
            yield field, varint()
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind) or varint()
            yield field, message[position : position + length]
            position += length
        else:
            raise ValueError(f"protobuf wire type {kind} is not supported")


@lru_cache(maxsize=1)
def canonical_mesh() -> tuple[np.ndarray, np.ndarray]:
    """MediaPipe's face mesh out of the landmark model's own file: vertices [468, 3] and triangles [898, 3].

    In centimetres; x right, y up, z to the viewer.
    """
    with zipfile.ZipFile(assets.folder("landmarks") / "face_landmarker.task") as task:
        metadata = task.read("geometry_pipeline_metadata_landmarks.binarypb")
    mesh = next(value for number, value in wire_fields(metadata) if number == 1)
    fields: dict[int, list] = {3: [], 4: []}
    for number, value in wire_fields(mesh):
        fields.setdefault(number, []).append(value)
    buffer = np.frombuffer(b"".join(fields[3]), "<f4").reshape(-1, 5)  # x, y, z, u, v
    return buffer[:, :3].astype(np.float64), np.array(fields[4], np.int64).reshape(-1, 3)


# -------------------------------------------------------------------- landmarks and head pose
@dataclass(frozen=True)
class DetectedFace:
    """One face in a picture: 52 blendshapes and landmarks [478, 3] in pixels (x right, y down, z away)."""

    landmarks: np.ndarray
    blendshapes: dict[str, float]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom in pixels."""
        (left, top), (right, bottom) = self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)
        return float(left), float(top), float(right), float(bottom)

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def centre(self) -> np.ndarray:
        """x, y of the middle of the box in pixels."""
        left, top, right, bottom = self.box
        return np.array([(left + right) / 2, (top + bottom) / 2])


class FaceDetector:
    """MediaPipe's face landmarker on single pictures. It holds a native model: make one for many pictures."""

    def __init__(self, max_faces: int = 5, min_confidence: float = 0.5):
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(
                model_asset_path=str(assets.folder("landmarks") / "face_landmarker.task")
            ),
            num_faces=max_faces,
            min_face_detection_confidence=min_confidence,
            output_face_blendshapes=True,
        )
        with _native_messages_silenced():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        # The native model must go before the interpreter does: its own destructor fails then.
        self.close = weakref.finalize(self, self._landmarker.close)

    def __call__(self, picture: np.ndarray) -> list[DetectedFace]:
        """Faces of a uint8 RGB picture [height, width, 3], largest first."""
        import mediapipe

        height, width = picture.shape[:2]
        found = self._landmarker.detect(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        )
        scale = np.array([width, height, width])  # MediaPipe's z is in units of the picture's width
        faces = [
            DetectedFace(
                landmarks=np.array([[p.x, p.y, p.z] for p in points]) * scale,
                blendshapes={b.category_name: b.score for b in shapes},
            )
            for points, shapes in zip(found.face_landmarks, found.face_blendshapes, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


@contextlib.contextmanager
def _native_messages_silenced() -> Iterator[None]:
    """MediaPipe greets on the process's standard error, from C++ and whatever its log level is told to be."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class HeadPose:
    """The head in the picture: view = scale * rotation @ head + origin, pixels with y up and z to the viewer.

    ``scale`` is pixels per centimetre, ``origin`` the head origin (x, -y, -z) in pixels, ``residual`` the RMS
    distance between landmarks and fitted mesh in centimetres.
    """

    rotation: np.ndarray
    scale: float
    origin: np.ndarray
    residual: float

    @property
    def roll(self) -> float:
        """Angle (radians) by which turning the picture counter-clockwise makes the head upright."""
        return float(np.arctan2(self.rotation[0, 1], self.rotation[1, 1]))

    @property
    def upright_rotation(self) -> np.ndarray:
        """The rotation without the roll: the camera's x axis is horizontal in the head frame."""
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ self.rotation

    @property
    def yaw(self) -> float:
        """Azimuth of the camera about the head (radians): positive when the camera stands at +x."""
        toward_camera = self.rotation[2]
        return float(np.arctan2(toward_camera[0], toward_camera[2]))

    @property
    def pitch(self) -> float:
        """Elevation of the camera over the head (radians): positive when it looks down on the face."""
        return float(np.arcsin(np.clip(self.rotation[2, 1], -1, 1)))


def similarity_fit(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, rotation R and translation t that minimise sum |s R source + t - target|^2.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991,
    eq. 40-42.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_centred, target_centred = source - source_mean, target - target_mean
    covariance = target_centred.T @ source_centred / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / (source_centred**2).sum(1).mean()
    return float(scale), rotation, target_mean - scale * rotation @ source_mean


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """Pose of the canonical mesh under landmarks [>=468, 3] in pixels (x right, y down, z away)."""
    vertices, _ = canonical_mesh()
    view = landmarks[: len(vertices)] * np.array([1.0, -1.0, -1.0])
    scale, rotation, origin = similarity_fit(vertices, view)
    residual = np.sqrt((((scale * vertices @ rotation.T + origin) - view) ** 2).sum(1).mean()) / scale
    return HeadPose(rotation, scale, origin, float(residual))


def camera_of(pose: HeadPose) -> Camera:
    """The camera of an aligned crop: radius 2.7, focal 4.2647, no roll, looking at the head's origin."""
    rotation = pose.upright_rotation
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = rotation.T @ VIEW_TO_CV
    world_from_cam[:3, 3] = RADIUS * rotation[2]
    return Camera(torch.tensor(world_from_cam, dtype=torch.float32)[None], intrinsics_matrix(FOCAL))


# -------------------------------------------------------------------- the aligned crop
@dataclass(frozen=True)
class Crop:
    """A square in a picture, upright or turned: xy = matrix @ (u, v, 1), (u, v) in [0, 1] over the square.

    Pixel i of a picture spans [i, i + 1].
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, pose: HeadPose) -> Crop:
        """A head's aligned square: 1 cm at its origin spans WORLD_PER_CM at RADIUS from the camera."""
        side = RADIUS / (FOCAL * WORLD_PER_CM) * pose.scale
        return cls.about(pose.origin[0], -pose.origin[1], side, pose.roll)

    @classmethod
    def about(cls, x: float, y: float, side: float, turn: float = 0.0) -> Crop:
        """Square about a point of the picture, turned clockwise from upright (radians)."""
        cosine, sine = np.cos(turn), np.sin(turn)
        axes = side * np.array([[cosine, -sine], [sine, cosine]])
        return cls(np.column_stack([axes, np.array([x, y]) - axes @ [0.5, 0.5]]))

    @property
    def side(self) -> float:
        """Pixels of the picture across the square."""
        return float(np.hypot(*self.matrix[:, 0]))

    def landmarks(self, landmarks: np.ndarray) -> np.ndarray:
        """Landmarks [n, 3] in the square: (u, v) in [0, 1], z in units of the square's side."""
        uv = np.linalg.solve(self.matrix[:, :2], (landmarks[:, :2] - self.matrix[:, 2]).T).T
        return np.column_stack([uv, landmarks[:, 2] / self.side])

    def to_picture(self, crop_landmarks: np.ndarray) -> np.ndarray:
        """Landmarks [n, 3] of the square in pixels of the picture: the inverse of `landmarks`."""
        xy = crop_landmarks[:, :2] @ self.matrix[:, :2].T + self.matrix[:, 2]
        return np.column_stack([xy, crop_landmarks[:, 2] * self.side])

    def share_outside(self, picture: np.ndarray) -> float:
        """Share of the square that lies outside the picture, where `cut` shows reflections."""
        steps = (np.arange(64) + 0.5) / 64
        u, v = (grid.ravel() for grid in np.meshgrid(steps, steps))
        x, y = self.matrix @ np.stack([u, v, np.ones_like(u)])
        height, width = picture.shape[:2]
        return float(np.mean((x < 0) | (x >= width) | (y < 0) | (y >= height)))

    def cut(self, picture: np.ndarray, resolution: int) -> np.ndarray:
        """The square, uint8 [resolution, resolution, 3]; what lies outside the picture is its reflection."""
        # Sample finer, then average: no aliasing.
        factor = max(1, int(np.ceil(min(self.side, 4096) / resolution)))
        corners = (self.matrix @ np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]).T).T
        height, width = picture.shape[:2]
        low = np.floor(corners.min(0)).astype(int) - 2
        high = np.ceil(corners.max(0)).astype(int) + 2
        columns = _reflect(np.arange(low[0], high[0]), width)
        rows = _reflect(np.arange(low[1], high[1]), height)
        patch = Image.fromarray(picture[rows[:, None], columns])
        size = resolution * factor
        matrix = self.matrix.copy()
        matrix[:, :2] /= size
        matrix[:, 2] -= low
        fine = patch.transform(
            (size, size), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR
        )
        return np.asarray(fine.resize((resolution, resolution), Image.Resampling.BOX))


def _reflect(index: np.ndarray, length: int) -> np.ndarray:
    """Indices folded back into [0, length) by reflection about the border pixels."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.mod(index, period)
    return np.where(folded < length, folded, period - folded)


# -------------------------------------------------------------------- depth of the face from landmarks
@lru_cache(maxsize=4)
def _surface_points(pixels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points spread over the face mesh: triangles [n, 3] and the barycentric weights [m, 3] in each of them.

    Dense enough to leave no holes on an aligned square of that many pixels, under larger faces too.
    """
    vertices, triangles = canonical_mesh()
    pixels_per_cm = pixels * WORLD_PER_CM * FOCAL / RADIUS
    corners = vertices[triangles]
    longest_edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    subdivisions = np.ceil(1.5 * longest_edge * pixels_per_cm).astype(int)
    points = []
    for count in np.unique(subdivisions):
        steps = (np.arange(count) + 0.5) / count
        a, b = (grid.ravel() for grid in np.meshgrid(steps, steps))
        weights = np.column_stack([a, b, 1 - a - b])[a + b <= 1]
        points.append((triangles[subdivisions == count], weights))
    return points


def face_depth(crop_landmarks: np.ndarray, head_origin_z: float, resolution: int) -> np.ndarray:
    """Depth along z [resolution, resolution] of the face in world units, NaN off the face.

    ``crop_landmarks`` as of Crop.landmarks; ``head_origin_z`` is the head origin's z in the same units. The
    orthographic landmarks are taken as they are: depth is RADIUS minus height toward the camera. The nearest
    surface wins a pixel.
    """
    fine = 2 * resolution
    surface = [
        (weights @ crop_landmarks[triangles]).reshape(-1, 3) for triangles, weights in _surface_points(fine)
    ]
    points = np.concatenate(surface)
    column, row = np.floor(points[:, :2].T * fine).astype(int)
    inside = (column >= 0) & (column < fine) & (row >= 0) & (row < fine)
    depth = RADIUS + (points[:, 2] - head_origin_z) * RADIUS / FOCAL
    nearest = np.full(fine * fine, np.inf)
    np.minimum.at(nearest, (row * fine + column)[inside], depth[inside])
    blocks = (
        nearest.reshape(resolution, 2, resolution, 2).transpose(0, 2, 1, 3).reshape(resolution, resolution, 4)
    )
    covered = np.isfinite(blocks)
    total = np.where(covered, blocks, 0).sum(-1)
    count = covered.sum(-1)
    return np.where(count >= 2, total / np.maximum(count, 1), np.nan)


# -------------------------------------------------------------------- finding faces in any photo
LOOK_SIDE = 640
"""Pixels across the squares that are shown to the detector, which itself works on 128 and 256."""

SMALLEST_TILE = 160
"""Parts of a photo with fewer pixels across are not searched: faces in them would be too blurred to use."""

Detector = Callable[[np.ndarray], list[DetectedFace]]


def find_faces(photo: np.ndarray, detector: Detector) -> list[DetectedFace]:
    """Faces of a uint8 photo [height, width, 3], largest first; empty where there are none.

    The detector expects an upright head of middling size. It is shown the photo and its halves; where it sees
    nothing, more around the photo (a face that fills the frame), the photo turned (a lost EXIF tag), and
    smaller parts.
    """
    for squares in _search_squares(*photo.shape[:2]):
        seen = _distinct(_look_at_all(photo, squares, detector))
        again = [_read_again(photo, face, detector) for face in seen]
        found = _distinct([face for face in again if face is not None])
        if found:
            return found
    return []


def _search_squares(height: int, width: int) -> Iterator[list[Crop]]:
    """What is shown to the detector, in turn, until it sees a face."""
    longest, middle = max(height, width), (width / 2, height / 2)
    yield [Crop.about(*middle, longest), *_tiles(height, width, longest / 2)]
    yield [Crop.about(*middle, 2 * longest)]
    for quarter in (1, 2, 3):  # one after the other: of faces seen in two ways, one is wrong
        yield [Crop.about(*middle, longest, quarter * np.pi / 2)]
    for parts in (4, 8):
        if longest / parts >= SMALLEST_TILE:
            yield _tiles(height, width, longest / parts)


def _tiles(height: int, width: int, side: float) -> list[Crop]:
    """Squares of that side, half over one another, that cover a picture."""
    step = side / 2
    columns, rows = np.arange(step / 2, width, step), np.arange(step / 2, height, step)
    return [Crop.about(x, y, side) for y in rows for x in columns]


def _look_at_all(photo: np.ndarray, squares: list[Crop], detector: Detector) -> list[DetectedFace]:
    """Faces that the detector sees in squares of a photo, which is shrunk for that where it is large."""
    found = []
    for side, same in itertools.groupby(squares, key=lambda square: square.side):
        shrink = max(1.0, side / LOOK_SIDE)
        size = [max(1, round(length / shrink)) for length in photo.shape[1::-1]]
        small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX)) if shrink > 1 else photo
        for square in same:
            seen = _look(small, Crop(square.matrix / shrink), detector)
            found += [replace(face, landmarks=face.landmarks * shrink) for face in seen]
    return found


def _look(photo: np.ndarray, square: Crop, detector: Detector) -> list[DetectedFace]:
    """Faces that the detector sees in a square, in the photo's pixels; no reflections of faces."""
    resolution = int(np.clip(square.side, 256, LOOK_SIDE))
    faces = detector(square.cut(photo, resolution))
    faces = [replace(face, landmarks=square.to_picture(face.landmarks / resolution)) for face in faces]
    return [face for face in faces if _is_inside(photo, face.centre)]


def _is_inside(photo: np.ndarray, point: np.ndarray) -> bool:
    height, width = photo.shape[:2]
    return bool(0 <= point[0] < width and 0 <= point[1] < height)


def _read_again(photo: np.ndarray, face: DetectedFace, detector: Detector) -> DetectedFace | None:
    """The same face with landmarks read in its own aligned square; None where nothing is seen there.

    This makes the landmarks those of an upright head of one size, however the face was found, and it unmasks
    what is no face (a cup) or was taken upside down: shown as they should stand, those are not recognised.
    """
    for _ in range(2):  # the second square is aligned by better landmarks
        seen = _look(photo, Crop.of(head_pose(face.landmarks)), detector)
        same = [other for other in seen if _covers(face, other)]
        if not same:
            return None
        face = same[0]
    return face if head_pose(face.landmarks).residual <= MAX_RESIDUAL_CM else None


def _covers(face: DetectedFace, other: DetectedFace) -> bool:
    left, top, right, bottom = face.box
    x, y = other.centre
    return bool(left <= x <= right and top <= y <= bottom)


def _distinct(faces: list[DetectedFace]) -> list[DetectedFace]:
    """Largest first, without those that lie over a larger one: found twice."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: -face.area):
        if not any(_covers(other, face) for other in kept):
            kept.append(face)
    return kept


# -------------------------------------------------------------------- portraits
class HasResolution(Protocol):
    """A generator, as far as its portraits are concerned."""

    resolution: int


@dataclass(frozen=True)
class Portrait:
    """What an inversion needs of one photo.

    Shapes: R is the generator's resolution. Masks are named as in `lib.parsing.PARTS`.
    """

    image: Tensor
    """[1, 3, R, R] in [-1, 1]."""
    camera: Camera
    """The one that took the image."""
    masks: dict[str, Tensor]
    """Part of the face -> bool [1, 1, R, R]."""
    landmarks: Tensor | None
    """[478, 3]: (u, v) in [0, 1] over the image, z behind the head's origin in units of the image's side.
    None where a ready crop shows no face."""
    face_depth: Tensor
    """[1, 1, R, R] distance along the camera's rays in world units, NaN where it is unknown."""
    photo: np.ndarray
    """uint8 [height, width, 3]."""
    crop: Crop
    """The square of the photo that the image shows."""

    def to(self, device: str | torch.device) -> Portrait:
        """The same portrait with its tensors on a device."""
        return replace(
            self,
            image=self.image.to(device),
            camera=self.camera.to(device),
            masks={part: mask.to(device) for part, mask in self.masks.items()},
            landmarks=None if self.landmarks is None else self.landmarks.to(device),
            face_depth=self.face_depth.to(device),
        )


def portrait_from_photo(
    photo: str | os.PathLike | np.ndarray,
    generator: HasResolution | int,
    *,
    face: Literal["largest"] | int = "largest",
    parse: bool = True,
    detector: Detector | None = None,
) -> Portrait:
    """Any photo with a face, cropped and posed as the embedded generators stand their heads.

    photo: a file, or a uint8 RGB array. generator: one, or a resolution.
    face: which of several, by its number in order of size from 0.
    parse: whether the masks come from the parsing network. Otherwise they are drawn from the landmarks: only
    those of face, eyes, brows, nose and mouth.
    detector: one to use for many photos.
    """
    name, pixels = _pixels(photo)
    resolution = _resolution(generator)
    found = _choose(find_faces(pixels, detector or FaceDetector()), face, name)
    pose = head_pose(found.landmarks)
    crop = Crop.of(pose)
    _warn_of_doubts(name, pixels, pose, crop, resolution)
    landmarks = _about_origin(crop, found, pose)
    depth_z = torch.tensor(face_depth(landmarks, 0.0, resolution), dtype=torch.float32)[None, None]
    camera = camera_of(pose)
    return Portrait(
        image=to_tensor(crop.cut(pixels, resolution)),
        camera=camera,
        masks=_masks(pixels, crop, landmarks, resolution, parse),
        landmarks=torch.tensor(landmarks, dtype=torch.float32),
        face_depth=depth_z / camera.ray_cosines(resolution),
        photo=pixels,
        crop=crop,
    )


def portrait_from_crop(
    picture: str | os.PathLike | np.ndarray,
    label: Tensor | np.ndarray,
    generator: HasResolution | int,
    *,
    parse: bool = True,
    detector: Detector | None = None,
) -> Portrait:
    """A square crop that is aligned already, with its camera as EG3D's 25 numbers: nothing is posed again.

    The label does not say where landmarks stand in the world, so the face depth is unknown: NaN everywhere.
    """
    name, pixels = _pixels(picture)
    height, width = pixels.shape[:2]
    if height != width:
        raise ValueError(
            f"a ready crop is square; {name} is {width} x {height}. For photos use portrait_from_photo."
        )
    camera = Camera.from_label(validate(torch.as_tensor(label, dtype=torch.float32).reshape(-1, 25)))
    if len(camera) != 1:
        raise ValueError(f"one crop has one camera label, got {len(camera)}")
    resolution = _resolution(generator)
    crop = Crop.about(width / 2, height / 2, width)
    found = find_faces(pixels, detector or FaceDetector())
    if not found:
        warnings.warn(f"no face is found in {name}: it gets no landmarks", FaceWarning, stacklevel=2)
    landmarks = _about_origin(crop, found[0], head_pose(found[0].landmarks)) if found else None
    return Portrait(
        image=to_tensor(crop.cut(pixels, resolution)),
        camera=camera,
        masks=_masks(pixels, crop, landmarks, resolution, parse),
        landmarks=None if landmarks is None else torch.tensor(landmarks, dtype=torch.float32),
        face_depth=torch.full((1, 1, resolution, resolution), torch.nan),
        photo=pixels,
        crop=crop,
    )


def _pixels(photo: str | os.PathLike | np.ndarray) -> tuple[str, np.ndarray]:
    """What to call the photo in messages, and its pixels."""
    if not isinstance(photo, np.ndarray):
        return str(photo), load_photo(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(
            f"a photo given as an array is uint8 RGB [height, width, 3], got {photo.dtype} "
            f"{list(photo.shape)}; of a file, any kind of picture is converted: give its path"
        )
    return "the photo", photo


def _resolution(generator: HasResolution | int) -> int:
    return generator if isinstance(generator, int) else generator.resolution


def _choose(found: list[DetectedFace], which: Literal["largest"] | int, name: str) -> DetectedFace:
    if not found:
        raise FaceError(
            f"no face is found in {name}. It takes a face seen from the front or up to 45 degrees from it, "
            "sharp, not covered, some 50 pixels wide or more. Crop the photo closer to the head, or give a "
            "ready crop with its camera to portrait_from_crop."
        )
    boxes = "; ".join(f"face={i}: {_describe(face)}" for i, face in enumerate(found))
    if which == "largest":
        if len(found) > 1:
            message = (
                f"{len(found)} faces in {name}, the largest is taken; choose another by its number ({boxes})"
            )
            warnings.warn(message, FaceWarning, stacklevel=3)
        return found[0]
    if not 0 <= which < len(found):
        raise FaceError(f"there is no face={which} in {name}, which has {len(found)} ({boxes})")
    return found[which]


def _describe(face: DetectedFace) -> str:
    left, top, right, bottom = (round(side) for side in face.box)
    return f"{right - left} x {bottom - top} pixels at ({left}, {top})"


def _warn_of_doubts(name: str, photo: np.ndarray, pose: HeadPose, crop: Crop, resolution: int) -> None:
    """Say what makes this portrait less than it could be."""
    doubts = []
    if crop.side < 0.9 * resolution:
        doubts.append(
            f"the head spans {crop.side:.0f} pixels of the photo but the generator has {resolution}: "
            "the portrait is blurred. Use a larger photo."
        )
    outside = crop.share_outside(photo)
    if outside > 0.25:
        doubts.append(f"{outside:.0%} of the crop lies outside the photo and is filled with its reflection")
    if max(abs(pose.yaw), abs(pose.pitch)) > LARGEST_SOUND_ANGLE:
        doubts.append(
            f"the head is turned far (yaw {pose.yaw:+.2f}, pitch {pose.pitch:+.2f} rad): its pose is a guess"
        )
    for doubt in doubts:
        warnings.warn(f"{name}: {doubt}", FaceWarning, stacklevel=3)


def _about_origin(crop: Crop, face: DetectedFace, pose: HeadPose) -> np.ndarray:
    """Landmarks [478, 3] in the square, z counted from the head's origin."""
    return crop.landmarks(face.landmarks) - [0, 0, -pose.origin[2] / crop.side]


def _masks(
    photo: np.ndarray, crop: Crop, landmarks: np.ndarray | None, resolution: int, parse: bool
) -> dict[str, Tensor]:
    """By the parsing network or, without it, face, eyes, brows, nose and mouth by the landmarks."""
    if parse:
        picture = to_tensor(crop.cut(photo, parsing.INPUT_SIZE))
        return parsing.part_masks(parsing.class_probabilities(picture), resolution)
    if landmarks is None:
        return {}
    face = np.isfinite(face_depth(landmarks, 0.0, resolution))
    return {"face": torch.from_numpy(face)[None, None]} | parsing.landmark_masks(landmarks[:, :2], resolution)


# -------------------------------------------------------------------- labels of ready crops
def labels_from_dataset_json(path: str | os.PathLike) -> dict[str, Tensor]:
    """File name -> camera label [25] of EG3D's dataset.json; a ValueError says which label is no camera.

    The intermediate cameras.json is refused: its radius is uncorrected and its intrinsics are not normalised.
    """
    path = Path(path)
    content = _read_json(path)
    if isinstance(content, dict) and "labels" not in content and _is_cameras_json(content):
        raise ValueError(
            f"{path} is EG3D's intermediate cameras.json: poses before correction, intrinsics in pixels. "
            "Inversion from it does not converge. Use the dataset.json of the same data set, which the "
            "preprocessing writes last."
        )
    labels = content.get("labels") if isinstance(content, dict) else None
    if not labels:
        raise ValueError(
            f'{path} holds no camera labels; expected {{"labels": [["file.png", [25 numbers]], ...]}}'
        )
    try:
        names, numbers = zip(*labels, strict=True)
        cameras = torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{path}: each label is ["file.png", [25 numbers]] ({error})') from error
    try:
        validate(cameras, radius=None, focal=None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dict(zip(map(str, names), cameras.unbind(), strict=True))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected EG3D's dataset.json") from None


def _is_cameras_json(content: dict) -> bool:
    first = next(iter(content.values()), None)
    return isinstance(first, dict) and {"intrinsics", "pose"} <= first.keys()


# -------------------------------------------------------------------- judging a pose at a glance
MESH_COLOUR, FEATURE_COLOUR = (255, 255, 255), (255, 220, 0)
AXIS_COLOURS = {"x": (255, 60, 60), "y": (60, 220, 60), "z": (90, 170, 255)}
AXIS_LENGTH = 0.22


def draw_pose(portrait: Portrait, size: int = 512) -> np.ndarray:
    """The crop [size, size, 3] under the canonical face mesh and the head's axes, as its camera sees them.

    The mesh is rigid and the same for everyone: where its eyes, lips and outline (yellow) lie about on those
    of the photo, and z leaves the face along the nose, the pose is right.
    """
    scale = 2  # drawn larger and averaged: smooth thin lines
    canvas = Image.fromarray(portrait.crop.cut(portrait.photo, size * scale))
    draw = ImageDraw.Draw(canvas, "RGBA")
    camera = portrait.camera.to("cpu")
    vertices, triangles = canonical_mesh()
    vertices = vertices * WORLD_PER_CM
    corners = _on_canvas(camera, vertices, canvas.width)
    facing = _facing(vertices, triangles, camera.position[0].double().numpy())
    for start, end in _edges(triangles[facing]):
        draw.line([*corners[start], *corners[end]], fill=(*MESH_COLOUR, 150), width=scale)
    visible = set(triangles[facing].ravel())
    for start, end in parsing.contours():
        if start in visible and end in visible:
            draw.line([*corners[start], *corners[end]], fill=FEATURE_COLOUR, width=3 * scale // 2)
    _draw_axes(draw, camera, canvas.width, scale)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def _draw_axes(draw: ImageDraw.ImageDraw, camera: Camera, width: int, scale: int) -> None:
    tips = np.vstack([np.zeros(3), AXIS_LENGTH * np.eye(3), 1.12 * AXIS_LENGTH * np.eye(3)])
    origin, *ends = _on_canvas(camera, tips, width)
    font = ImageFont.load_default(26 * scale)
    outline = {"font": font, "stroke_width": scale, "stroke_fill": "black"}
    for (name, colour), tip, label in zip(AXIS_COLOURS.items(), ends[:3], ends[3:], strict=True):
        draw.line([*origin, *tip], fill=colour, width=3 * scale)
        draw.text(tuple(label), name, fill=colour, anchor="mm", **outline)
    angles = f"yaw {camera.yaw.item():+.2f}  pitch {camera.pitch.item():+.2f} rad"
    draw.text((6 * scale, 6 * scale), angles, fill="white", **outline)


def _on_canvas(camera: Camera, points_world: np.ndarray, width: int) -> np.ndarray:
    uv, _ = camera.project(torch.tensor(points_world, dtype=torch.float32)[None])
    return uv[0].numpy() * width


def _facing(vertices: np.ndarray, triangles: np.ndarray, viewpoint: np.ndarray) -> np.ndarray:
    """Which triangles [n] show their outer side to the viewpoint."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    return (np.cross(b - a, c - a) * (viewpoint - a)).sum(1) > 0


def _edges(triangles: np.ndarray) -> np.ndarray:
    """Each edge [n, 2] of the triangles once."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(np.sort(edges, axis=1), axis=0)
