"""Statistics of portraits, on folders of portraits whose statistics are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib import paths
from lib.datasets import LatentSpace, Plan, PoseDirections
from lib.datasets import portrait_statistics as statistics
from lib.datasets.portrait_statistics import Studio, mean_by_bin, read_sheet, sheet_picture
from lib.datasets.portraits import HELD_OUT_YAWS
from lib.generators.teacher import LEAKY_GAIN, LEAKY_SLOPE

PLAN = Plan(singles=6, people=40, views=3, held_out_singles=2, held_out_people=3)
SIZE, MEAN_PITCH = 6, 0.1
DIRECTIONS = PoseDirections(
    np.zeros(SIZE), np.eye(2, SIZE), np.eye(2, SIZE), np.array([0.0, MEAN_PITCH])
)  # the first two numbers of a style are its yaw and pitch, from the mean


def rows(person: list[int], target: np.ndarray, gap: float = 0.0) -> dict[str, np.ndarray]:
    """Portraits detected `gap` to the side of where they were asked, whose crop reaches a quarter beyond the border."""
    n = len(person)
    pose = np.column_stack([np.nan_to_num(target) + np.array([gap, 0.0]), np.zeros(n), np.full(n, 0.45)])
    return {
        "image": np.full((n, 128, 128, 3), 100, np.uint8),
        "pose": pose.astype(np.float32),
        "square": np.tile(np.array([[1, 0, 0.25], [0, 1, 0]], np.float32), (n, 1, 1)),
        "person": np.array(person),
        "target": target,
    }


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Portraits of PLAN, all found but the first view of each person to train on of even number."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    folder = tmp_path / PLAN.name()
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(vars(PLAN)))
    (folder / "latents.npz").touch()
    DIRECTIONS.save(folder / "pose_directions.npz")
    poses = [PLAN.target_poses(i, MEAN_PITCH) for i in range(PLAN.people)]
    kept = [p[1:] if i < 37 and i % 2 == 0 else p for i, p in enumerate(poses)]
    person = [i for i, p in enumerate(kept) for _ in p]
    np.savez(folder / "person-000000.npz", **rows(person[:60], np.concatenate(kept)[:60], gap=0.02))
    np.savez(folder / "person-000100.npz", **rows(person[60:], np.concatenate(kept)[60:], gap=0.02))
    np.savez(folder / "single-000000.npz", **rows([0, 1, 2, 3, 4], np.full((5, 2), np.nan)))
    return folder


# -------------------------------------------------------------------- poses
def test_means_by_bin_against_a_loop():
    rng = np.random.default_rng(0)
    places, values, edges = (
        rng.uniform(-1, 1, 200),
        rng.standard_normal(200),
        np.array([-0.9, -0.2, 0.1, 0.11, 3, 4]),
    )
    for i, found in enumerate(mean_by_bin(places, values, edges)):
        inside = [v for p, v in zip(places, values, strict=True) if edges[i] <= p < edges[i + 1]]
        assert found == (pytest.approx(np.mean(inside)) if inside else None)


def test_what_was_not_found_is_missed_where_it_was_asked_for(folder):
    found = statistics.pose_statistics(PLAN)
    assert found["asked"] == {"people": 37 * 3 + 15, "singles": 6}
    assert found["found"] == {"people": 37 * 3 + 15 - 19, "singles": 5}
    by_yaw = found["by_asked_yaw"]
    shares = {False: [], True: []}
    for left, share in zip(by_yaw["edges"][:-1], by_yaw["share_found"], strict=True):
        shares[left < -0.3].append(share)  # first views are asked for between -0.75 and -0.25
    assert all(share in (1.0, None) for share in shares[False][1:])
    assert np.mean([share for share in shares[True] if share is not None]) == pytest.approx(18 / 37, abs=0.12)


def test_gap_and_share_beyond_the_border_are_those_of_the_portraits(folder):
    by_yaw = statistics.pose_statistics(PLAN)["by_asked_yaw"]
    for key, truth in {"gap": 0.02, "gap_rms": 0.02, "outside": 0.25}.items():
        values = [value for value in by_yaw[key] if value is not None]
        assert values == pytest.approx([truth] * len(values), abs=1e-3), key


def test_counts_are_of_all_portraits(folder):
    found = statistics.pose_statistics(PLAN)
    assert sum(found["pitch"]["people"]) == found["found"]["people"]
    place = np.digitize(4.5, found["residual_mm"]["edges"]) - 1
    assert found["residual_mm"]["singles"][place] == 5


def test_held_out_people_come_whole(folder):
    people = list(statistics.held_out_people(PLAN))
    assert [person["person"].tolist() for person in people] == [[i] * 5 for i in (37, 38, 39)]
    assert all(person["target"][:, 0].tolist() == list(HELD_OUT_YAWS) for person in people)


def test_a_held_out_person_who_was_not_found_in_every_yaw_is_left_out(folder):
    with np.load(folder / "person-000100.npz") as shard:
        columns = dict(shard)
    gone = np.flatnonzero(columns["person"] == 38)[2]
    np.savez(folder / "person-000100.npz", **{k: np.delete(v, gone, axis=0) for k, v in columns.items()})
    assert [int(person["person"][0]) for person in statistics.held_out_people(PLAN)] == [37, 39]


def test_no_portraits_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.datasets"):
        statistics.rows_of(tmp_path, "person", ("pose",))


# -------------------------------------------------------------------- latent
def test_people_from_a_leaky_relu_are_gaussian_again(monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    linear = rng.standard_normal((3000, SIZE)) * np.arange(1, SIZE + 1) + 0.5
    codes = LEAKY_GAIN * np.where(linear < 0, LEAKY_SLOPE * linear, linear)
    space = LatentSpace.fit(codes, np.zeros(SIZE), 1.0, z_dim=SIZE)
    monkeypatch.setattr(statistics, "portraits_folder", lambda plan: tmp_path)
    np.savez(tmp_path / "person-000000.npz", code=codes, person=np.arange(3000))
    found = statistics.latent_statistics(Plan(people=3100, held_out_people=100), space)
    assert found["people"] == 3000
    assert found["kurtosis"]["undone"] == pytest.approx(3.0, abs=0.2)
    assert found["kurtosis"]["z"] == pytest.approx(3.0, abs=0.2)
    assert found["kurtosis"]["style"] > 3.5
    assert found["z_deviation"] == pytest.approx(1, abs=0.02) and found["z_mean"] < 0.02
    for density in found["density"].values():
        assert np.sum(density) * 0.2 == pytest.approx(1, abs=1e-6)


# -------------------------------------------------------------------- trial
class Drawn:
    """A painter whose picture is its style, and a detector that loses faces turned beyond 0.7."""

    def styles(self, z, truncation):
        return np.pad(z[:, :2], ((0, 0), (2, SIZE - 4)))

    def picture(self, style):
        return style


def detect(picture, _):
    if abs(picture[0]) > 0.7:
        return None
    return {"image": picture, "label": picture, "pose": np.array([picture[0], picture[1] + MEAN_PITCH])}


def identity_of(found):
    """Embeddings that turn with the head, by as many radians."""
    yaw = np.array([style[0] for style in found["image"]])
    return torch.tensor(np.stack([np.cos(yaw), np.sin(yaw)], axis=1))


def test_a_trial_counts_who_is_lost_and_compares_the_others_with_their_front(monkeypatch):
    monkeypatch.setattr(statistics, "detect_portrait", detect)
    monkeypatch.setattr(statistics, "embeddings", identity_of)
    studio = Studio(Drawn(), None, DIRECTIONS)
    trial = statistics.pose_trial(studio, studio.codes(4, truncation=0.8, seed=0))
    assert (trial["yaw -0.8"]["found"], trial["yaw -0.8"]["asked"]) == (0, 4)
    assert trial["yaw +0.6"]["found"] == 4
    assert trial["yaw +0.6"]["yaw"] == pytest.approx(0.6)
    assert trial["yaw +0.6"]["identity"] == pytest.approx(np.cos(0.6))
    assert trial["pitch -0.4"]["pitch"] == pytest.approx(MEAN_PITCH - 0.4)
    assert trial["pitch -0.4"]["identity"] == pytest.approx(1.0)


def test_both_moves_are_read_alike_but_lead_elsewhere(monkeypatch):
    monkeypatch.setattr(statistics, "_small", lambda style: style)
    tilted = PoseDirections(
        np.zeros(SIZE), np.eye(2, SIZE), np.eye(2, SIZE) + 0.5 * np.eye(2, SIZE, k=2), DIRECTIONS.intercept
    )
    studio = Studio(Drawn(), None, tilted)
    code = tilted.canonical(np.random.default_rng(2).standard_normal(SIZE))
    moved, read = statistics.two_moves(studio, code)
    for styles in (moved, read):
        assert tilted.pose(styles)[:, 0] == pytest.approx(list(HELD_OUT_YAWS))
    assert np.abs(moved[-1] - code)[2:] == pytest.approx(np.zeros(SIZE - 2))
    assert abs(read[-1] - code)[2] > 0.1


# -------------------------------------------------------------------- sheets
def test_a_sheet_comes_back_tile_by_tile(tmp_path):
    sheet = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40
    sheet = np.broadcast_to(sheet, (2, 3, 128, 128, 3))
    sheet_picture(sheet).save(tmp_path / "sheet.jpg", quality=92)
    back = read_sheet(tmp_path / "sheet.jpg")
    assert back.shape == sheet.shape
    assert np.abs(back.astype(int) - sheet).max() <= 3


def test_another_picture_is_no_sheet(tmp_path):
    Image.new("RGB", (130, 128)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="128-pixel tiles: it has 130 x 128"):
        read_sheet(tmp_path / "a.png")


def test_the_worst_borders_come_first_and_one_a_person():
    def person(shift):
        found = rows([0] * 5, np.column_stack([HELD_OUT_YAWS, np.zeros(5)]))
        found["square"][3, 0, 2] = shift  # one of its views is cut
        return found

    sheet = statistics.border_sheet([person(0.3), person(0.75), person(0.5)], count=2)
    assert sheet.shape == (2, 2, 128, 128, 3)
    assert (sheet[1] > 127).mean((1, 2, 3)) == pytest.approx([0.25, 0.5], abs=0.01)
