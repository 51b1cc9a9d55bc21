"""What the sampled portraits are like: their poses, how far turning stays sound, how far views of a person disagree.

Everything is measured on the portraits of a plan in the cache, but the trial of poses beyond the plan, which draws
its own people with the teacher. Names of angles are in radians, counts count portraits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import kurtosis, zscore
from torch import Tensor
from tqdm import tqdm

from lib import faces
from lib.cameras import Camera
from lib.datasets.portraits import (
    HELD_OUT_YAWS,
    LatentSpace,
    Plan,
    PoseDirections,
    area_reduce,
    detect_portrait,
    inside_picture,
    latent_space,
    portraits_folder,
    ray_depths,
)
from lib.datasets.scenes import Scene, View, yaw_name
from lib.datasets.turned import Painter, drift
from lib.identity import align, camera_points, face_network
from lib.images import to_tensor

YAW_EDGES = np.linspace(-0.75, 0.75, 16).round(2)
PITCH_EDGES = np.linspace(-0.5, 0.5, 21).round(2)
RESIDUAL_EDGES = np.linspace(0, 10, 21)
"""Radians and millimetres between which portraits are counted."""

TRIAL_YAWS = (-1.0, -0.8, -0.6, -0.3, 0.0, 0.3, 0.6, 0.8, 1.0)
TRIAL_PITCHES = (-0.4, -0.2, 0.0, 0.2, 0.4)
"""Radians that people of the trial are asked for; pitch counts from the mean."""

TILE = 128
"""Pixels across a picture of a sheet."""


# -------------------------------------------------------------------- reading
def rows_of(folder: Path, kind: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of all portraits of a kind, "person" or "single", in the order of people."""
    shards = [np.load(path) for path in sorted(folder.glob(f"{kind}-*.npz"))]
    if not shards:
        raise FileNotFoundError(
            f"no portraits {kind}-*.npz in {folder}: make them with `python -m lib.datasets`"
        )
    return {name: np.concatenate([shard[name] for shard in shards]) for name in names}


def held_out_people(plan: Plan) -> Iterator[dict[str, np.ndarray]]:
    """The rows, by name of the column, of each held-out person who was found in all of HELD_OUT_YAWS."""
    first = plan.people - plan.held_out_people
    for path in sorted(portraits_folder(plan).glob("person-*.npz")):
        with np.load(path) as shard:
            if shard["person"].max() < first:
                continue
            columns = dict(shard)
        for person in np.unique(columns["person"][columns["person"] >= first]):
            rows = {name: column[columns["person"] == person] for name, column in columns.items()}
            if np.array_equal(rows["target"][:, 0], HELD_OUT_YAWS):
                yield rows


# -------------------------------------------------------------------- poses
def mean_by_bin(places: np.ndarray, values: np.ndarray, edges: np.ndarray) -> list[float | None]:
    """Mean of the values [n] whose places [n] lie between each two edges; None where there are none."""
    index = np.digitize(places, edges) - 1
    groups = (values[index == i] for i in range(len(edges) - 1))
    return [float(group.mean()) if len(group) else None for group in groups]


def asked_and_found(
    plan: Plan, person: np.ndarray, target: np.ndarray, mean_pitch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Every pose [n, 2] that was asked of the people to train on, and whether it was found [n].

    person [m], target [m, 2]: of the portraits that were found.
    """
    kept = set(zip(person.tolist(), target[:, 0].tolist(), strict=True))
    people = range(plan.people - plan.held_out_people)
    poses = [plan.target_poses(i, mean_pitch) for i in people]
    found = [(i, yaw) in kept for i, pose in zip(people, poses, strict=True) for yaw in pose[:, 0].tolist()]
    return np.concatenate(poses), np.array(found)


def pose_statistics(plan: Plan) -> dict:
    """Which poses the portraits have, how well heads fit, and what becomes of a yaw that is asked for."""
    folder = portraits_folder(plan)
    names = ("pose", "target", "person", "square")
    people, singles = (rows_of(folder, kind, names) for kind in ("person", "single"))
    mean_pitch = PoseDirections.load(folder / "pose_directions.npz").intercept[1]
    asked, found = asked_and_found(plan, people["person"], people["target"], mean_pitch)
    wanted, got = people["target"][:, 0], people["pose"][:, 0]
    outside = 1 - inside_picture(people["square"], 32).mean((1, 2))
    kinds = {"people": people["pose"], "singles": singles["pose"]}
    return {
        "found": {"people": len(people["pose"]), "singles": len(singles["pose"])},
        "asked": {"people": len(asked) + plan.held_out_people * len(HELD_OUT_YAWS), "singles": plan.singles},
        "yaw": _counts({name: pose[:, 0] for name, pose in kinds.items()}, YAW_EDGES),
        "pitch": _counts({name: pose[:, 1] for name, pose in kinds.items()}, PITCH_EDGES),
        "residual_mm": _counts({name: 10 * pose[:, 3] for name, pose in kinds.items()}, RESIDUAL_EDGES),
        "by_asked_yaw": {
            "edges": YAW_EDGES.tolist(),
            "share_found": mean_by_bin(asked[:, 0], found.astype(float), YAW_EDGES),
            "gap": mean_by_bin(wanted, got - wanted, YAW_EDGES),
            "gap_rms": [m and m**0.5 for m in mean_by_bin(wanted, (got - wanted) ** 2, YAW_EDGES)],
            "outside": mean_by_bin(wanted, outside, YAW_EDGES),
        },
    }


def _counts(columns: Mapping[str, np.ndarray], edges: np.ndarray) -> dict[str, list]:
    """How many lie between each two edges; the few beyond the outermost are not counted."""
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in columns.items()}
    return {"edges": edges.tolist(), **counts}


# -------------------------------------------------------------------- drift
def person_scene(rows: Mapping[str, np.ndarray], resolution: int = 64) -> Scene:
    """The views of a person as a scene whose input is the frontal one; its masks hold the face alone."""
    images = area_reduce(rows["image"], resolution)
    depths = torch.from_numpy(ray_depths(rows, resolution))[:, None, None]
    known = torch.from_numpy(inside_picture(rows["square"], resolution))[:, None, None]
    views = {
        yaw_name(yaw): View(
            to_tensor(image), Camera.from_label(torch.from_numpy(label)), depth, None, ~depth.isnan() & inside
        )
        for yaw, image, label, depth, inside in zip(
            rows["target"][:, 0], images, rows["label"], depths, known, strict=True
        )
    }
    landmarks = rows["landmarks"] - rows["head_origin_z"][:, None, None] * np.array([0, 0, 1], np.float32)
    truth = {"view_landmarks": torch.from_numpy(landmarks)}
    return Scene(f"person-{rows['person'][0]}", yaw_name(0.0), views, truth)


def embeddings(rows: Mapping[str, np.ndarray]) -> Tensor:
    """Embeddings [n, D] of the faces on portraits, by the network that nothing optimises."""
    images = torch.cat([to_tensor(image) for image in rows["image"]])
    camera = Camera.from_label(torch.from_numpy(np.asarray(rows["label"])))
    with torch.inference_mode():
        return face_network("evaluation")(align(images, camera_points(camera)))


def drift_by_yaw(people: Iterable[Mapping[str, np.ndarray]]) -> dict[str, dict]:
    """How far views of a person are from showing one thing: means over people, against the frontal view.

    As `lib.datasets.drift` has it. `strangers`: the cosines of frontal views of different people.
    """
    found: dict[str, dict[str, list]] = {}
    frontal = []
    for rows in tqdm(people, desc="drift between views"):
        scene, faces_of = person_scene(rows), embeddings(rows)
        names = list(scene.views)
        middle = faces_of[names.index(scene.input_name)]
        frontal.append(middle)
        cosines = dict(zip(names, (faces_of @ middle).tolist(), strict=True))
        for name, values in drift(scene).items():
            for key, value in (values | {"identity": cosines[name]}).items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
    views = {
        name: {key: float(np.nanmean(of_people)) for key, of_people in values.items()}
        for name, values in found.items()
    }
    between = (torch.stack(frontal) @ torch.stack(frontal).T)[~torch.eye(len(frontal), dtype=torch.bool)]
    strangers = {"mean": between.mean().item(), "deviation": between.std().item()}
    return {"people": len(frontal), "views": views, "strangers": strangers}


# -------------------------------------------------------------------- the latent
def latent_statistics(plan: Plan, space: LatentSpace) -> dict:
    """How Gaussian people are: their styles, number by number, those with the activation undone, and their z.

    kurtosis: the median over numbers; 3 of a Gaussian. density: of all numbers, each brought to mean 0 and deviation 1,
    but those of z, which have them.
    """
    codes = rows_of(portraits_folder(plan), "person", ("code", "person"))
    train = codes["person"] < plan.people - plan.held_out_people
    _, first = np.unique(codes["person"][train], return_index=True)
    people = codes["code"][train][first]
    z = space.z(people)
    columns = {
        "style": zscore(people, axis=0),
        "undone": zscore(space.before_truncation(people), axis=0),
        "z": z,
    }
    edges = np.linspace(-4, 4, 41)
    return {
        "people": len(people),
        "deviation": space.deviation.tolist(),
        "kurtosis": {
            name: float(np.median(kurtosis(x, axis=0, fisher=False))) for name, x in columns.items()
        },
        "z_mean": float(np.abs(z.mean(0)).mean()),
        "z_deviation": float(z.std(0).mean()),
        "edges": edges.tolist(),
        "density": {name: np.histogram(x, edges, density=True)[0].tolist() for name, x in columns.items()},
    }


# -------------------------------------------------------------------- beyond the plan
@dataclass(frozen=True)
class Studio:
    """What draws people of the teacher and finds their faces."""

    painter: Painter
    detector: faces.Detector
    directions: PoseDirections

    def codes(self, people: int, truncation: float, seed: int) -> np.ndarray:
        """Canonical styles [people, 512] of people who are in no plan."""
        z = np.random.default_rng([seed, 4]).standard_normal((people, 512))
        return self.directions.canonical(self.painter.styles(z, truncation))

    def picture(self, code: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
        """A person, turned; pitch counts from the mean."""
        pose = np.array([yaw, self.directions.intercept[1] + pitch])
        return self.painter.picture(self.directions.move(code, pose))


def pose_trial(studio: Studio, codes: np.ndarray) -> dict[str, dict]:
    """What becomes of people who are turned, or who nod: share found, detected pose, identity with the frontal view.

    A face is found if `detect_portrait` takes it for a sound one. Those that are not do not count in the other means.
    """
    poses = {f"yaw {yaw:+.1f}": (yaw, 0.0) for yaw in TRIAL_YAWS}
    poses |= {f"pitch {pitch:+.1f}": (0.0, pitch) for pitch in TRIAL_PITCHES}
    rows: dict[str, list[dict]] = {name: [] for name in poses}
    asked = 0
    for code in tqdm(codes, desc="trial of poses"):
        shots = {
            name: detect_portrait(studio.picture(code, *pose), studio.detector)
            for name, pose in poses.items()
        }
        if shots["yaw +0.0"] is None:
            continue
        asked += 1
        found = {name: shot for name, shot in shots.items() if shot is not None}
        faces_of = embeddings({key: [shot[key] for shot in found.values()] for key in ("image", "label")})
        cosines = faces_of @ faces_of[list(found).index("yaw +0.0")]
        for (name, shot), cosine in zip(found.items(), cosines.tolist(), strict=True):
            yaw, pitch = shot["pose"][:2].tolist()
            rows[name].append({"yaw": yaw, "pitch": pitch, "identity": cosine})
    return {
        name: {"asked": asked, "found": len(of_pose)}
        | {key: float(np.mean([row[key] for row in of_pose])) for key in (of_pose[0] if of_pose else ())}
        for name, of_pose in rows.items()
    }


# -------------------------------------------------------------------- sheets of pictures
def people_sheet(people: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Portraits [people, 5, TILE, TILE, 3] of people in HELD_OUT_YAWS."""
    return np.stack([rows["image"] for rows in people])


def border_sheet(people: Iterable[Mapping[str, np.ndarray]], count: int = 6) -> np.ndarray:
    """Of the portraits with most beyond the border, one a person: [2, count, TILE, TILE, 3], below each what is true."""
    worst = []
    for rows in people:
        inside = inside_picture(rows["square"], TILE)
        row = inside.mean((1, 2)).argmin()
        worst.append((inside[row].mean(), rows["image"][row], inside[row]))
    worst.sort(key=lambda found: found[0])
    images = np.stack([image for _, image, _ in worst[:count]])
    masks = np.stack([inside for _, _, inside in worst[:count]])
    return np.stack([images, np.repeat(255 * masks[..., None].astype(np.uint8), 3, axis=-1)])


def pose_sheets(studio: Studio, codes: np.ndarray) -> dict[str, np.ndarray]:
    """The teacher's whole pictures [rows, columns, TILE, TILE, 3] of some people: turned, nodding, moved two ways."""
    return {
        "yaws": _sheet(codes[:3], lambda code: [studio.picture(code, yaw, 0.0) for yaw in TRIAL_YAWS]),
        "pitches": _sheet(codes[:3], lambda code: [studio.picture(code, 0.0, p) for p in TRIAL_PITCHES]),
        "moves": two_moves(studio, codes[0]),
    }


def two_moves(studio: Studio, code: np.ndarray, yaws: Sequence[float] = HELD_OUT_YAWS) -> np.ndarray:
    """A person to whom regression reads these yaws: moved along the covariance (above), along the regression (below)."""
    directions = studio.directions
    reader = directions.regression[0]
    moved = [directions.move(code, np.array([yaw, directions.intercept[1]])) for yaw in yaws]
    read = [code + yaw / (reader @ reader) * reader for yaw in yaws]
    return _sheet((moved, read), lambda styles: [studio.painter.picture(style) for style in styles])


def _sheet(rows: Iterable, pictures_of: Callable[..., list[np.ndarray]]) -> np.ndarray:
    return np.stack([[_small(picture) for picture in pictures_of(row)] for row in rows])


def _small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BOX))


def sheet_picture(sheet: np.ndarray) -> Image.Image:
    """A sheet [rows, columns, TILE, TILE, 3] as one picture, tile beside tile."""
    rows, columns = sheet.shape[:2]
    return Image.fromarray(sheet.swapaxes(1, 2).reshape(rows * TILE, columns * TILE, 3))


def read_sheet(path: Path) -> np.ndarray:
    """The sheet uint8 [rows, columns, TILE, TILE, 3] in a file that `sheet_picture` was saved to."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    if height % TILE or width % TILE:
        raise ValueError(f"{path} is no sheet of {TILE}-pixel tiles: it has {width} x {height} pixels")
    return pixels.reshape(height // TILE, TILE, width // TILE, TILE, 3).swapaxes(1, 2)


# -------------------------------------------------------------------- all of it
def describe_portraits(
    plan: Plan, studio: Studio, drift_people: int = 60, trial_people: int = 24
) -> tuple[dict, dict[str, np.ndarray]]:
    """All numbers, and all sheets by name, of the portraits of a plan.

    drift_people: of those held out; trial_people: drawn for poses beyond the plan.
    """
    people = list(held_out_people(plan))
    codes = studio.codes(trial_people, plan.truncation, plan.seed)
    numbers = {
        "plan": dict(vars(plan)),
        "poses": pose_statistics(plan),
        "drift": drift_by_yaw(people[:drift_people]),
        "latent": latent_statistics(plan, latent_space(plan)),
        "trial": pose_trial(studio, codes),
    }
    sheets = {
        "people": people_sheet(people[:6]),
        "borders": border_sheet(people),
        **pose_sheets(studio, codes),
    }
    return numbers, sheets
