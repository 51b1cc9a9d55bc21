"""Scenes of kind `turned`: people of the teacher that the generator never saw, photographed from five yaws.

They are photographic and come from another model than the one that is inverted, as the people of MEAD do in the
papers. No generator of pictures is 3D: the same person is a little different in every view. `drift` measures by
how much; a method that shows one head from all sides cannot come close to all of these views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save

from lib import faces, parsing, paths
from lib.cameras import Camera
from lib.datasets.portraits import Plan, PoseDirections, detect_portrait, inside_picture
from lib.datasets.scenes import YAWS, Scene, View, drawn_input_yaw, yaw_name
from lib.generators import EG3D
from lib.generators.teacher import Teacher
from lib.images import to_tensor
from lib.warping import pixels_in_view, sample_at, visible

DIRECTIONS = paths.WEIGHTS / "teacher" / "pose_directions.safetensors"
"""The directions in the teacher's style space that turn heads, as they come with the repository."""

DATA = (DIRECTIONS,)

FAR_FROM_WANTED = 0.12
"""Radians. A person who is detected further from one of the yaws than this, after correction, is replaced."""

ATTEMPTS = 20
"""People who are tried for one scene."""

MILLIMETRES = 10 / faces.WORLD_PER_CM
"""Per world unit, on a face of the canonical mesh's size."""


class Painter(Protocol):
    """The teacher, as far as it is used here."""

    def styles(self, z: np.ndarray, truncation: float) -> np.ndarray: ...

    def picture(self, style: np.ndarray) -> np.ndarray: ...


# -------------------------------------------------------------------- pose directions
def save_pose_directions(plan: Plan | None = None, path: Path = DIRECTIONS) -> Path:
    """Write the directions that `python -m lib.datasets` found for a plan as they ship: 10 kB, in single precision."""
    folder = paths.CACHE / (Plan() if plan is None else plan).name()
    directions = PoseDirections.load(folder / "pose_directions.npz")
    # safetensors writes the memory as it lies, and a transposed array lies the other way round.
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in vars(directions).items()}
    with paths.replacing(path) as temporary:
        temporary.write_bytes(save(arrays))
    return path


def load_pose_directions(path: Path = DIRECTIONS) -> PoseDirections:
    """The directions that ship with the repository, which make the same people everywhere."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, and without it no head of the teacher is turned: bring it back from the repository, or "
            "make it with `python -m lib.datasets` and lib.datasets.turned.save_pose_directions()"
        )
    return PoseDirections(**{name: np.float64(value) for name, value in load_file(path).items()})


# -------------------------------------------------------------------- making a scene
@lru_cache(maxsize=1)
def _models() -> tuple[Painter, faces.Detector, PoseDirections]:
    """Made once a process: they are native models, and constants."""
    return Teacher(threads=1, precision="f32"), faces.FaceDetector(max_faces=1), load_pose_directions()


def make(seed: int, generator: EG3D, *, input_yaw: float | None = None, truncation: float = 0.8) -> Scene:
    """A person of the teacher in the five yaws, cropped and posed for this generator.

    input_yaw: one of YAWS; None draws one of INPUT_YAWS. truncation: of the teacher's styles. Cameras are those that
    are detected in the pictures. Depth is the face's pseudo-depth from landmarks, unknown elsewhere; there
    are no normals. The mask is the parsing network's. Beyond the border of the teacher's picture nothing is known.
    truth: `view_landmarks` [5, 478, 3] of the views in the order of YAWS, as those of `lib.faces.Portrait`.
    """
    input_yaw = drawn_input_yaw(seed) if input_yaw is None else input_yaw
    if input_yaw not in YAWS:
        raise ValueError(f"turned people are seen from {YAWS}; got {input_yaw} as the input's yaw")
    painter, detector, directions = _models()
    for attempt in range(ATTEMPTS):
        z = np.random.default_rng([seed, attempt]).standard_normal((1, Teacher.z_dim))
        code = directions.canonical(painter.styles(z, truncation)[0])
        shots = _shots(painter, detector, directions, code)
        if shots is not None:
            break
    else:
        raise RuntimeError(f"none of {ATTEMPTS} people of seed {seed} was found in all of the yaws {YAWS}")
    views = {yaw_name(yaw): _view(shot, generator.resolution) for yaw, shot in zip(YAWS, shots, strict=True)}
    landmarks = np.stack([_about_origin(shot) for shot in shots])
    extras = {
        "kind": "turned",
        "seed": seed,
        "attempt": attempt,
        "input_yaw": input_yaw,
        "truncation": truncation,
        "wanted_yaws": list(YAWS),
        "asked_yaws": [float(shot["asked"]) for shot in shots],
        "detected_yaws": [float(shot["pose"][0]) for shot in shots],
        "detected_pitches": [float(shot["pose"][1]) for shot in shots],
    }
    truth = {"view_landmarks": torch.from_numpy(landmarks)}
    return Scene(f"turned-{seed}", yaw_name(input_yaw), views, truth, extras)


def shows_generator(settings: Mapping) -> bool:
    """Not the generator's heads: its weights make no difference."""
    return False


def _shots(
    painter: Painter, detector: faces.Detector, directions: PoseDirections, code: np.ndarray
) -> list[dict] | None:
    """Portraits of a person at the five yaws; None where a face is not found or too far from the wanted yaw.

    The pose that is asked for and the one that is detected differ, by person. Detections at the wanted yaws themselves
    say by how much; a step of the secant method then asks for what should be detected as wanted.
    """

    def shoot(yaw: float) -> dict | None:
        picture = painter.picture(directions.move(code, np.array([yaw, directions.intercept[1]])))
        portrait = detect_portrait(picture, detector)
        return None if portrait is None else portrait | {"asked": yaw, "picture": picture}

    first = [shot for yaw in YAWS if (shot := shoot(yaw)) is not None]
    if len(first) < 2:
        return None
    asked, detected = np.array([(shot["asked"], shot["pose"][0]) for shot in first]).T
    second = [shoot(yaw) for yaw in secant_step(YAWS, asked, detected)]
    sound = all(
        shot is not None and abs(shot["pose"][0] - yaw) <= FAR_FROM_WANTED
        for shot, yaw in zip(second, YAWS, strict=True)
    )
    return second if sound else None


def secant_step(wanted: Sequence[float], asked: np.ndarray, detected: np.ndarray) -> list[float]:
    """What to ask for: on the line through the two (asked, detected) whose detections are nearest to the wanted one."""
    steps = []
    for yaw in wanted:
        near, next_near = np.argsort(np.abs(detected - yaw), kind="stable")[:2]
        rise = (detected[next_near] - detected[near]) / (asked[next_near] - asked[near])
        # Where two detections nearly coincide, the line would lead anywhere; asked and got are about equal.
        rise = float(np.clip(rise, 0.5, 2.0))
        steps.append(float(asked[near] + (yaw - detected[near]) / rise))
    return steps


def _view(shot: Mapping, resolution: int) -> View:
    picture = shot["picture"]
    crop = faces.Crop(shot["square"] * picture.shape[0])
    camera = Camera.from_label(torch.from_numpy(shot["label"]))
    known = torch.from_numpy(inside_picture(shot["square"][None], resolution))[None]
    depth_z = faces.face_depth(shot["landmarks"], float(shot["head_origin_z"]), resolution)
    depth = torch.tensor(depth_z, dtype=torch.float32)[None, None] / camera.ray_cosines(resolution)
    parts = parsing.class_probabilities(to_tensor(crop.cut(picture, parsing.INPUT_SIZE)))
    return View(
        image=to_tensor(crop.cut(picture, resolution)),
        camera=camera,
        depth=depth.where(known, torch.nan),
        mask=parsing.part_masks(parts, resolution)["head"] & known,
        known=known,
    )


def _about_origin(shot: Mapping) -> np.ndarray:
    """Landmarks [478, 3] in the crop, z counted from the head's origin."""
    return shot["landmarks"] - np.array([0, 0, shot["head_origin_z"]], np.float32)


# -------------------------------------------------------------------- how much views disagree
def drift(scene: Scene, identity: Callable[[View, View], float] | None = None) -> dict[str, dict[str, float]]:
    """How far the true views of a scene are from showing one thing: for each view but the input, against the input.

    For pictures of a 2D model or photos a floor, to be reported beside every number: what shows one head cannot match
    views that disagree. (A generator's own scenes drift as far as its colours do not lie where its depth says; its true
    code drifts with them.) The scene needs depths and masks. By its own depth each pixel of the input's head is
    looked up in the other view; pixels count that the other view shows too (`lib.warping.visible`).

    turn: radians of yaw between the two. mse: of the colours in [-1, 1]. colour: by how much the mean colour
    changes, root mean square of the three channels. depth_mm: median distance of the two depths. landmarks_mm: root
    mean square distance of landmarks after both faces are laid on the canonical mesh, where the scene has them; that
    is expression, and the detector's error. identity: what the function given for it says of the two views.
    """
    return {
        name: {"turn": _turn(scene.input, view)}
        | _disagreement(scene.input, view)
        | _landmark_change(scene, name)
        | ({} if identity is None else {"identity": identity(scene.input, view)})
        for name, view in scene.views.items()
        if name != scene.input_name
    }


def _turn(view: View, other: View) -> float:
    return (other.camera.yaw - view.camera.yaw).abs().item()


def _disagreement(view: View, other: View) -> dict[str, float]:
    """Colours and depth of a view against those of another one, where the other shows the same surface of the head."""
    uv, distance = pixels_in_view(view.camera, view.depth.nan_to_num(0.0), other.camera)
    there = sample_at(torch.cat([other.image, other.depth, other.mask.float()], dim=1), uv)
    image, depth, head = there.split([3, 1, 1], dim=1)
    both = visible(uv, distance, other.depth) & view.mask & (head > 0.5) & ~view.depth.isnan()
    if not both.any():
        return dict.fromkeys(("mse", "colour", "depth_mm"), float("nan"))
    change = (image - view.image)[both.expand_as(image)].reshape(3, -1)
    return {
        "mse": change.square().mean().item(),
        "colour": change.mean(dim=1).square().mean().sqrt().item(),
        "depth_mm": (distance.reshape(depth.shape) - depth)[both].abs().median().item() * MILLIMETRES,
    }


def _landmark_change(scene: Scene, name: str) -> dict[str, float]:
    if "view_landmarks" not in scene.truth:
        return {}
    names = list(scene.views)
    one, other = (
        on_canonical_mesh(scene.truth["view_landmarks"][names.index(view)].numpy())
        for view in (scene.input_name, name)
    )
    return {"landmarks_mm": float(10 * np.sqrt(((one - other) ** 2).sum(axis=1).mean()))}


def on_canonical_mesh(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [478, 3] (x right, y down, z away) as they lie on the canonical mesh: [468, 3] in centimetres."""
    vertices, _ = faces.canonical_mesh()
    view = landmarks[: len(vertices)] * [1, -1, -1]
    scale, rotation, translation = faces.similarity_fit(view, vertices)
    return scale * view @ rotation.T + translation
