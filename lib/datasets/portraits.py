"""Portraits sampled from the teacher: single people and people in several views, with cameras and face depth.

The teacher is a 2D GAN, but its style space turns heads: the direction along which style and detected yaw
vary together moves the head and keeps the person. Moving a style to yaw 0 and mean pitch removes the pose
(the canonical style, the person's code); moving on from there gives views of one person, whose cameras are
then detected in the pictures.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib import faces, paths
from lib.cameras import FOCAL
from lib.generators.teacher import Teacher, before_activation

HELD_OUT_YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Radians. Further out the teacher's heads are cut by the picture's border, and a sixth of them is not found."""

CROP_RESOLUTION = 128
SHARD_SIZE = 100
MAX_RESIDUAL_CM = 1.0
MAX_YAW, MAX_PITCH = 1.0, 0.7
"""Fits worse than this (RMS centimetres) or turned further (radians) are failed detections, not heads."""


# ----------------------------------------------------------------------
# Pose in the teacher's style space


@dataclass(frozen=True)
class PoseDirections:
    """Measure pose by regression, move it along covariance directions.

    Regression predicts yaw from a style very well but moves it little and leaves the data; the covariance
    direction moves the head and keeps the person. Both are linear, so a wanted change of pose gives the step
    along the direction.
    """

    mean: np.ndarray
    directions: np.ndarray  # [2, 512] unit vectors: yaw, pitch
    regression: np.ndarray  # [2, 512] radians per unit of style
    intercept: np.ndarray  # [2] pose at the mean

    @classmethod
    def fit(cls, styles: np.ndarray, poses: np.ndarray, ridge: float = 1e-2) -> PoseDirections:
        """From styles [n, 512] and their detected (yaw, pitch) [n, 2] in radians."""
        mean, intercept = styles.mean(0), poses.mean(0)
        s, p = styles - mean, poses - intercept
        directions = (p.T @ s) / len(s)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gram = s.T @ s / len(s)
        regression = np.linalg.solve(
            gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), s.T @ p / len(s)
        ).T
        return cls(mean, directions, regression, intercept)

    def pose(self, style: np.ndarray) -> np.ndarray:
        """(yaw, pitch) [..., 2] that regression reads off styles [..., 512]."""
        return (style - self.mean) @ self.regression.T + self.intercept

    def move(self, style: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Style [..., 512] whose pose by regression is ``pose`` [..., 2], along the two directions."""
        # [pose, direction]: a step along either direction changes both, so solve for the two together.
        response = self.regression @ self.directions.T
        steps = np.linalg.solve(response, (pose - self.pose(style))[..., None])[..., 0]
        return style + steps @ self.directions

    def canonical(self, style: np.ndarray) -> np.ndarray:
        """The person's code: the style moved to yaw 0 and mean pitch."""
        return self.move(style, np.array([0.0, self.intercept[1]]))

    def save(self, path: Path) -> None:
        with paths.replacing(path) as temporary:
            np.savez(temporary, **vars(self))

    @classmethod
    def load(cls, path: Path) -> PoseDirections:
        with np.load(path) as arrays:
            return cls(**arrays)


# ----------------------------------------------------------------------
# Sampling


@dataclass(frozen=True)
class Plan:
    """How many portraits are drawn. Of people and of singles the last ``held_out_*`` are never trained on.

    A person to train on is drawn once in each of ``views`` equal intervals of yaw, anywhere in it; one held
    out in the yaws HELD_OUT_YAWS. Singles have the poses that the teacher gives them.
    """

    singles: int = 7000
    people: int = 7150
    views: int = 3
    held_out_singles: int = 5000
    held_out_people: int = 150
    truncation: float = 0.8
    largest_yaw: float = 0.75
    pitch_spread: float = 0.12
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"held_out_singles": 0, "held_out_people": 0, "views": 2, "people": 1}
        least["singles"] = max(self.held_out_singles, 0) + 2  # those not held out give the pose directions
        for name, count in least.items():
            if getattr(self, name) < count:
                raise ValueError(f"a plan needs {name} of at least {count}; got {getattr(self, name)}")
        if self.largest_yaw <= 0 or self.pitch_spread < 0 or not 0 < self.truncation <= 1:
            raise ValueError(
                "a plan needs largest_yaw > 0, pitch_spread >= 0 and truncation in (0, 1]; got "
                f"{self.largest_yaw}, {self.pitch_spread} and {self.truncation}"
            )

    def name(self) -> str:
        return f"portraits-{self.singles}-{self.people}x{self.views}-seed{self.seed}"

    def target_poses(self, person: int, mean_pitch: float) -> np.ndarray:
        """Wanted (yaw, pitch) [views, 2] of a person, radians."""
        if person >= self.people - self.held_out_people:
            return np.column_stack([HELD_OUT_YAWS, np.full(len(HELD_OUT_YAWS), mean_pitch)])
        rng = np.random.default_rng([self.seed, 1, person])
        yaws = (2 * (np.arange(self.views) + rng.random(self.views)) / self.views - 1) * self.largest_yaw
        return np.column_stack([yaws, mean_pitch + rng.normal(0, self.pitch_spread, self.views)])


def detect_portrait(picture: np.ndarray, detector: faces.FaceDetector) -> dict[str, np.ndarray] | None:
    """Aligned crop, camera label, pose and crop landmarks of a square picture; None where no sound face is found."""
    found = detector(picture)
    if not found:
        return None
    pose = faces.head_pose(found[0].landmarks)
    if pose.residual > MAX_RESIDUAL_CM or abs(pose.yaw) > MAX_YAW or abs(pose.pitch) > MAX_PITCH:
        return None
    crop = faces.Crop.of(pose)
    return {
        "image": crop.cut(picture, CROP_RESOLUTION),
        "label": faces.camera_of(pose).label()[0].numpy(),
        "pose": np.array([pose.yaw, pose.pitch, pose.roll, pose.residual], np.float32),
        "landmarks": crop.landmarks(found[0].landmarks).astype(np.float32),
        "head_origin_z": np.float32(-pose.origin[2] / crop.side),
        "square": (crop.matrix / picture.shape[0]).astype(np.float32),
    }


_worker: dict = {}
"""A worker process's own native models, which cannot travel between processes."""


def _start_worker() -> None:
    _worker["teacher"], _worker["detector"] = Teacher(threads=1), faces.FaceDetector(max_faces=1)


def _make_shard(shard: tuple[Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> int:
    """Draw the portraits of styles [n, 512] of people [n] and save what was detected; returns n."""
    path, styles, codes, people, targets = shard
    rows = []
    for style, code, person, target in zip(styles, codes, people, targets, strict=True):
        portrait = detect_portrait(_worker["teacher"].picture(style), _worker["detector"])
        if portrait is not None:
            rows.append(portrait | {"style": style, "code": code, "person": person, "target": target})
    if not rows:
        raise RuntimeError(f"no face was found in any of the {len(styles)} pictures of {path.name}")
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    with paths.replacing(path) as temporary:
        np.savez(temporary, **columns)
    return len(styles)


def _draw(shards: list, processes: int, description: str) -> None:
    """Make the shards that are not there yet; an interrupted run resumes at the missing ones."""
    missing = [shard for shard in shards if not shard[0].exists()]
    total, left = (sum(len(shard[1]) for shard in some) for some in (shards, missing))
    with (
        multiprocessing.get_context("spawn").Pool(processes, initializer=_start_worker) as pool,
        tqdm(total=total, initial=total - left, desc=description, unit="portrait") as progress,
    ):
        for n in pool.imap_unordered(_make_shard, missing):
            progress.update(n)


def _require_same_plan(folder: Path, plan: Plan) -> None:
    """Portraits of two plans never mix, though only the larger numbers stand in a folder's name."""
    file = folder / "plan.json"
    if file.exists() and (other := json.loads(file.read_text())) != vars(plan):
        differing = [name for name, value in vars(plan).items() if other.get(name) != value]
        raise ValueError(
            f"{folder} holds portraits of another plan (other {', '.join(differing)}): move it away, or use that plan"
        )


def _shards(folder: Path, kind: str, styles, codes, people, targets) -> list:
    return [
        (
            folder / f"{kind}-{start:06d}.npz",
            *(a[start : start + SHARD_SIZE] for a in (styles, codes, people, targets)),
        )
        for start in range(0, len(styles), SHARD_SIZE)
    ]


def sample_portraits(plan: Plan, processes: int = 2) -> Path:
    """Draw every portrait of the plan into the cache (resumes); returns the folder.

    About 0.1 s a portrait and core, where the processor computes in bfloat16.
    """
    folder = paths.CACHE / plan.name()
    _require_same_plan(folder, plan)
    with paths.replacing(folder / "plan.json") as temporary:
        temporary.write_text(json.dumps(vars(plan), indent=1))
    teacher = Teacher(threads=processes)
    singles, people = (
        teacher.styles(
            np.random.default_rng([plan.seed, kind]).standard_normal((n, Teacher.z_dim)), plan.truncation
        )
        for kind, n in ((0, plan.singles), (2, plan.people))
    )

    # Singles first: their detected poses give the directions along which people are turned.
    index = np.arange(plan.singles)
    tasks = _shards(folder, "single", singles, singles, index, np.full((plan.singles, 2), np.nan))
    _draw(tasks, processes, "single portraits")
    drawn = [np.load(task[0]) for task in tasks]
    style, pose, single = (np.concatenate([d[key] for d in drawn]) for key in ("style", "pose", "person"))
    train = single < plan.singles - plan.held_out_singles
    directions = PoseDirections.fit(style[train], pose[train, :2])
    directions.save(folder / "pose_directions.npz")

    poses = [plan.target_poses(i, directions.intercept[1]) for i in range(plan.people)]
    person, targets = np.repeat(np.arange(plan.people), [len(p) for p in poses]), np.concatenate(poses)
    codes = directions.canonical(people)[person]
    tasks = _shards(folder, "person", directions.move(codes, targets), codes, person, targets)
    _draw(tasks, processes, "people in several views")
    latents = _fit_latent_space(plan, teacher, directions)
    with paths.replacing(folder / "latents.npz") as temporary:
        np.savez(temporary, **vars(latents))
    return folder


# ----------------------------------------------------------------------
# The student's latent


@dataclass(frozen=True)
class LatentSpace:
    """z ~ N(0, I) for people: the teacher's canonical style before its activation, whitened.

    The style is the output of a leaky ReLU; undone, it is close to Gaussian (kurtosis 3 along the principal
    axes), so that whitening gives a z whose samples from N(0, I) are people again. ``basis`` holds the
    leading principal axes.
    """

    mean_style: np.ndarray
    truncation: np.ndarray
    mean: np.ndarray
    basis: np.ndarray  # [512, z_dim]
    deviation: np.ndarray  # [z_dim] standard deviations along the axes, falling

    @classmethod
    def fit(
        cls, codes: np.ndarray, mean_style: np.ndarray, truncation: float, z_dim: int = 256
    ) -> LatentSpace:
        """From canonical styles [n, 512], n well above 512."""
        space = cls(mean_style, np.float64(truncation), np.zeros(1), np.zeros(1), np.zeros(1))
        linear = space.before_truncation(codes)
        mean = linear.mean(0)
        _, singular, axes = np.linalg.svd(linear - mean, full_matrices=False)
        deviation = singular[:z_dim] / np.sqrt(len(codes) - 1)
        return cls(mean_style, np.float64(truncation), mean, axes[:z_dim].T, deviation)

    def before_truncation(self, codes: np.ndarray) -> np.ndarray:
        """Truncation and activation undone."""
        return before_activation(self.mean_style + (codes - self.mean_style) / self.truncation)

    def z(self, codes: np.ndarray) -> np.ndarray:
        """Latents [n, z_dim] of canonical styles [n, 512]."""
        return ((self.before_truncation(codes) - self.mean) @ self.basis) / self.deviation

    @classmethod
    def load(cls, path: Path) -> LatentSpace:
        with np.load(path) as arrays:
            return cls(**arrays)


def _fit_latent_space(
    plan: Plan, teacher: Teacher, directions: PoseDirections, samples: int = 8192
) -> LatentSpace:
    z = np.random.default_rng([plan.seed, 3]).standard_normal((samples, Teacher.z_dim))
    codes = directions.canonical(teacher.styles(z, plan.truncation))
    return LatentSpace.fit(codes, teacher.mean_style, plan.truncation)


def posed_latent_space(
    plan: Plan, portraits: UnposedPortraits, turned: float = 0.2, samples: int = 8192, z_dim: int = 256
) -> LatentSpace:
    """The space of a z that says the pose, too: the teacher's styles as they are, whitened. No pose is asked for.

    Of styles as the teacher draws them and, to a share `turned`, those of turned people: without them a head far from
    the front would lie many deviations out.
    """
    teacher, rng = Teacher(threads=1), np.random.default_rng([plan.seed, 4])
    natural = teacher.styles(rng.standard_normal((samples, Teacher.z_dim)), plan.truncation)
    rows = np.flatnonzero(~portraits.single & ~portraits.held_out)
    some = rng.choice(rows, round(samples * turned / (1 - turned)), replace=False)
    styles = np.concatenate([natural, portraits.styles[some]])
    return LatentSpace.fit(styles, teacher.mean_style, plan.truncation, z_dim)


# ----------------------------------------------------------------------
# Loading


@dataclass(frozen=True)
class Portraits:
    """Detected portraits as arrays; one row a picture. Rows of one person share ``person`` and ``z``."""

    images: np.ndarray  # uint8 [n, resolution, resolution, 3]
    labels: np.ndarray  # [n, 25] EG3D's camera labels
    yaw: np.ndarray  # [n] radians, detected
    target_yaw: np.ndarray  # [n] the yaw that was asked for; NaN for single portraits
    face_depth: np.ndarray  # [n, depth_resolution, depth_resolution] along the ray; NaN off the face
    inside: (
        np.ndarray
    )  # bool [n, resolution, resolution]: no reflection beyond the sides or the top of the picture
    z: np.ndarray  # [n, z_dim]
    person: np.ndarray  # [n] index; single portraits follow the people in several views
    held_out: np.ndarray  # [n] bool, by person

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> Portraits:
        return Portraits(**{name: column[rows] for name, column in vars(self).items()})


def portraits_folder(plan: Plan) -> Path:
    """Where the portraits of a plan lie, all of them; FileNotFoundError says how to make them."""
    folder = paths.CACHE / plan.name()
    _require_same_plan(folder, plan)
    if not all((folder / name).exists() for name in ("plan.json", "latents.npz")):  # the last to be written
        raise FileNotFoundError(f"no complete portraits in {folder}: make them with `python -m lib.datasets`")
    return folder


def latent_space(plan: Plan) -> LatentSpace:
    """The space of z in which the plan's people are N(0, I)."""
    return LatentSpace.load(portraits_folder(plan) / "latents.npz")


def load_portraits(plan: Plan, resolution: int = 64, depth_resolution: int = 32) -> Portraits:
    """The sampled portraits of a plan; FileNotFoundError says how to make them."""
    folder = portraits_folder(plan)
    latents = latent_space(plan)
    directions = PoseDirections.load(folder / "pose_directions.npz")
    rows: dict[str, list] = {name: [] for name in Portraits.__dataclass_fields__}
    for path in tqdm(
        sorted(folder.glob("person-*.npz")) + sorted(folder.glob("single-*.npz")), desc="load portraits"
    ):
        with np.load(path) as shard:
            single = path.name.startswith("single")
            codes = directions.canonical(shard["style"]) if single else shard["code"]
            person = shard["person"]
            first_held_out = (
                plan.singles - plan.held_out_singles if single else plan.people - plan.held_out_people
            )
            rows["images"].append(area_reduce(shard["image"], resolution))
            rows["labels"].append(shard["label"])
            rows["yaw"].append(shard["pose"][:, 0])
            rows["target_yaw"].append(shard["target"][:, 0])
            rows["face_depth"].append(ray_depths(shard, depth_resolution))
            rows["inside"].append(inside_picture(shard["square"], resolution, below=True))
            rows["z"].append(latents.z(codes).astype(np.float32))
            rows["person"].append(person + plan.people * single)
            rows["held_out"].append(person >= first_held_out)
    return Portraits(**{name: np.concatenate(columns) for name, columns in rows.items()})


@dataclass(frozen=True)
class UnposedPortraits:
    """Portraits of which nothing is known but the picture and the teacher's style that it was drawn from; a row each.

    No camera, no depth, no person: what a pose-free generator may see. (The pictures were cut and turned upright by
    detected landmarks, as those of FFHQ are, and people are in views that the teacher was asked for.)
    """

    images: np.ndarray  # uint8 [n, resolution, resolution, 3]
    inside: np.ndarray  # bool [n, resolution, resolution]: no reflection beyond the sides or the top
    styles: np.ndarray  # [n, 512], with their pose
    single: np.ndarray  # bool [n]: in the pose that the teacher gave it, not turned
    held_out: np.ndarray  # bool [n], by person: the same as of `Portraits`, row by row

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> UnposedPortraits:
        return UnposedPortraits(**{name: column[rows] for name, column in vars(self).items()})


def load_unposed_portraits(plan: Plan, resolution: int = 64) -> UnposedPortraits:
    """The sampled portraits of a plan without all that was detected in them, in the order of `load_portraits`."""
    folder = portraits_folder(plan)
    rows: dict[str, list] = {name: [] for name in UnposedPortraits.__dataclass_fields__}
    files = sorted(folder.glob("person-*.npz")) + sorted(folder.glob("single-*.npz"))
    for path in tqdm(files, desc="load portraits"):
        with np.load(path) as shard:
            single = path.name.startswith("single")
            kept = plan.singles - plan.held_out_singles if single else plan.people - plan.held_out_people
            rows["images"].append(area_reduce(shard["image"], resolution))
            rows["inside"].append(inside_picture(shard["square"], resolution, below=True))
            rows["styles"].append(shard["style"])
            rows["single"].append(np.full(len(shard["style"]), single))
            rows["held_out"].append(shard["person"] >= kept)
    return UnposedPortraits(**{name: np.concatenate(columns) for name, columns in rows.items()})


def area_reduce(images: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 images [n, R, R, 3] averaged down to the resolution, which must divide R."""
    n, side = images.shape[:2]
    if resolution < 1 or side % resolution:
        raise ValueError(f"portraits are stored at {side} px; {resolution} px does not divide that")
    factor = side // resolution
    blocks = images.reshape(n, resolution, factor, resolution, factor, 3).astype(np.float32)
    return np.round(blocks.mean((2, 4))).astype(np.uint8)


def inside_picture(squares: np.ndarray, resolution: int, below: bool = False) -> np.ndarray:
    """Which pixels bool [n, resolution, resolution] of squares [n, 2, 3] of a unit picture lie inside it.

    ``below``: what lies below counts, too. The teacher cuts shoulders off at the same height in every picture;
    without their reflection nothing would say what is there.
    """
    centres = (np.arange(resolution) + 0.5) / resolution
    v, u = np.meshgrid(centres, centres, indexing="ij")
    x, y = np.moveaxis(squares @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1), 1, 0)
    inside = (x > 0) & (x < 1) & (y > 0) & (below | (y < 1))
    return inside.reshape(-1, resolution, resolution)


def ray_depths(shard, resolution: int) -> np.ndarray:
    """Face depth [n, resolution, resolution] along the rays of the study's camera."""
    centres = ((np.arange(resolution) + 0.5) / resolution - 0.5) / FOCAL
    ray_length = np.sqrt(1 + centres[:, None] ** 2 + centres[None] ** 2)  # per unit of z
    depths = [
        faces.face_depth(landmarks, origin, resolution)
        for landmarks, origin in zip(shard["landmarks"], shard["head_origin_z"], strict=True)
    ]
    return (np.stack(depths) * ray_length).astype(np.float32)
