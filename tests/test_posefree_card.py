"""The card of a pose-free generator says what was measured, and its log is read as it was written."""

import json
import re

import pytest

from lib.pose_learning import PoseLearning
from lib.posefree_card import posefree_card, training_curve

AGREEMENT = {
    "correlation": 0.912,
    "sign": -1.0,
    "offset": 3.21,
    "rms": 4.5,
    "spread": 0.77,
    "learned_deviation": 7.0,
    "detected_deviation": 9.0,
    "found": 1.0,
    "heads": 321,
}
PAINTED = {
    "correlation": 0.1,
    "share": 0.0437,
    "turn": 1.25,
    "turn_deviation": 0.95,
    "found": 1.0,
    "heads": 12,
}
RENDERED = {"mse": 0.0871, "lpips": 0.2861, "depth_correlation": 0.9781, "portraits": 33}


@pytest.fixture
def numbers() -> dict:
    return {
        **{"parameters": 2.8, "megabytes": 5.7, "resolution": 64, "rays": 32, "steps": 800, "history": ""},
        **{"start": "portraits64", "settings": vars(PoseLearning(singles=9)), "seconds": 872.0},
        **{key: {"yaw": AGREEMENT, "pitch": AGREEMENT} for key in ("samples", "singles", "people")},
        **{f"{key}_points": [[1.0, 2.0, 3.0, 4.0]] for key in ("samples", "singles", "people")},
        "painted": {"yaw": PAINTED, "pitch": PAINTED},
        "spread": {"yaw": 1.06, "pitch": 0.38},
        "own_pose": {"|yaw| 0.00 to 0.30": RENDERED},
        "labelled_camera": {"|yaw| 0.00 to 0.30": RENDERED},
        "labelled_camera_by_target_yaw": {"yaw -0.60": RENDERED},
        **{
            "thickness": 0.0231,
            "fid": 51.23,
            "start_fid": 45.88,
            "fid_images": 4999,
            "training_portraits": 22934,
        },
        "curve": [
            {
                "step": 100,
                "image": 0.2,
                "lpips": 0.1,
                "spread_h": 0.3,
                "spread_v": 0.05,
                "discriminator": None,
            }
        ],
    }


def test_the_card_says_what_was_measured(numbers):
    card = posefree_card("portraits64-posefree", numbers)
    assert "| held-out singles | yaw | 321 | 0.912 | -1 | +3.2 | 4.5 | 0.77 |" in card
    assert "| its own pose | to either side 0.00 to 0.30 | 33 | 0.087 | 0.286 | 0.978 |" in card
    assert "| the label's camera | yaw -0.60 | 33 |" in card
    assert "| 100 | 0.200 | 0.100 | 0.300 | 0.050 | – |" in card
    words = " ".join(card.split())
    for said in (
        "800 steps, 15 minutes",
        "4999 samples",
        "51.2",
        "45.9.",
        "0.044",
        "1.06 times",
    ):
        assert said in words, said
    assert "beside 9 as the teacher draws them" in words
    assert not re.search(r"[{}]", card)


def test_the_card_says_that_its_start_has_seen_labels(numbers):
    words = " ".join(posefree_card("portraits64-posefree", numbers).split())
    assert "Warm start that has seen labels" in words
    assert "weights are those of `portraits64`" in words
    assert "weights are those of `another`" in " ".join(
        posefree_card("x", numbers | {"start": "another"}).split()
    )


def test_rows_of_a_log_are_spread_evenly_and_end_with_the_last(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"step": 25 * i, "seconds": 2.0 * i, "image": 1 / i}) + "\n" for i in range(1, 17))
    )
    found = training_curve(log, rows=4)
    assert [row["step"] for row in found["curve"]] == [100, 200, 300, 400]
    assert found["curve"][0] == {
        "step": 100,
        "image": 0.25,
        "lpips": None,
        "spread_h": None,
        "spread_v": None,
        "discriminator": None,
    }
    assert found["seconds"] == 32
    assert [row["step"] for row in training_curve(log, rows=40)["curve"]] == [25 * i for i in range(1, 17)]


def test_a_log_without_rows_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        training_curve(tmp_path / "log.jsonl")
