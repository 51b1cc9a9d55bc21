"""The card of the encoders says what was measured, and what ships is what it says."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from lib import encoders_card
from lib.encoder_training import RECIPES
from lib.encoders import storage
from lib.encoders.psp import PSPConfig, PSPEncoder
from lib.encoders.storage import SHIPPED, save_network
from lib.encoders_card import (
    MOST_BYTES,
    RUN,
    curve,
    described,
    measured,
    require_small,
    ship,
    shown_by,
    training_curves,
)
from lib.encoders_card import (
    encoders_card as card_of,
)
from lib.evaluation.encoders import METRICS
from lib.runs import result_path

NAME = "portraits64-psp"


def interval(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.011, "high": mean + 0.022, "n": 9}


def quality(mse: float, lpips: float, own: float | None = None) -> dict:
    """What `summary` gives, the other views a tenth above the photo's."""
    places = {}
    for place, more in (("input", 0.0), ("other", 0.1)):
        places[place] = {"mse": interval(0.071 + more), "lpips": interval(0.273 + more)}
        places[place] |= {
            "identity": interval(0.215),
            "of_mean": {"mse": interval(mse), "lpips": interval(lpips)},
        }
        if own is not None:
            places[place]["of_own_code"] = {"mse": interval(own), "lpips": interval(own)}
    return places


def network(method: str, kind: str, steps: int, **changes) -> dict:
    steps_of_log = [25, 50, 75]
    pictures = {"step": steps_of_log, "l2": [0.3, 0.2, 0.1], "lpips": [0.3, 0.2, 0.15]}
    return {
        "method": method,
        "kind": kind,
        "parameters": 440_000,
        "bytes": 894_896,
        "sha256": method * 4,
        "ships": True,
        "encoder": None,
        "steps": steps,
        "code_steps": 0,
        "settings": {"lam_l2": 2.0, "lpips_resolution": 128},
        "seconds": {"pictures": 600.0},
        "curves": {"pictures": pictures},
    } | changes


@pytest.fixture
def numbers() -> dict:
    codes = {"step": [25, 50], "code": [1.2, 0.7]}
    psp = network("psp", "psp", 3000, code_steps=2900, seconds={"pictures": 600.0, "codes": 120.0})
    psp["curves"]["codes"] = codes
    goae = "portraits64-goae"
    networks = {
        NAME: psp,
        f"{goae}-alignment": network("goae", "alignment", 2999, encoder=goae),
        f"{goae}-convolution": network("goae-convolution", "alignment", 3000, encoder=goae, ships=False),
    }
    return {
        "facts": {
            "generator": "portraits64",
            "resolution": 64,
            "training_portraits": 22934,
            "singles": 201,
            "people": 41,
            "history": " One was stopped once.",
        },
        "networks": networks,
        "quality": {
            "mean": quality(1, 1),
            NAME: quality(0.271, 0.686),
            f"{goae}-alignment": quality(0.2, 0.5, 0.95),
            f"{goae}-convolution": quality(0.2, 0.5, 0.95),
        },
    }


# ----------------------------------------------------------------------- the card
def test_the_card_says_what_was_measured(numbers):
    card = card_of(numbers)
    assert "| `portraits64-psp` | `psp` | 0.44 M | 0.89 | 2900 | 3000 | 128 px | 12 |  |" in card
    assert "| mean latent | 0.071 [0.060, 0.093] | 0.273 [0.262, 0.295] | 0.215 [0.204, 0.237] |" in card
    assert "| `portraits64-psp` | 0.171 [0.160, 0.193] | 0.373 [0.362, 0.395] |" in card
    words = " ".join(card.split())
    for said in (
        "On 201 single portraits",
        "on 41 such people",
        "22934 portraits",
        "take 1.8 MB",
        "One was stopped",
    ):
        assert said in words, said
    assert not re.search(r"[{}]", card)


def test_the_card_says_which_goals_are_met(numbers):
    card = card_of(numbers)
    assert "| `portraits64-psp` | 0.271 [0.260, 0.293] | 0.686 [0.675, 0.708] | – | missed: lpips |" in card
    row = "0.200 [0.189, 0.222] | 0.500 [0.489, 0.522] | 0.950 [0.939, 0.972]"
    assert f"| `portraits64-goae-alignment` | {row} | missed: alignment |" in card
    assert f"| `portraits64-goae-convolution` | {row} | met |" in card, "only the alignment has that goal"


def test_the_card_calls_a_preview_a_preview(numbers):
    card = card_of(numbers)
    assert "for fewer than 3000 steps on pictures: `portraits64-goae-alignment`." in " ".join(card.split())
    assert "| 10 | refines `portraits64-goae`; preview |" in card
    numbers["networks"]["portraits64-goae-alignment"]["steps"] = 3000
    assert "preview" not in card_of(numbers).lower()


def test_the_card_lists_the_files_that_ship(numbers):
    card = card_of(numbers)
    assert "| portraits64-psp.safetensors | 894896 | psppsppsppsp |" in card
    assert "portraits64-goae-convolution.safetensors" not in card
    assert "refines `portraits64-goae`; does not ship |" in card


def test_curves_have_a_panel_for_codes_encoders_and_refinements(numbers):
    panels = training_curves(numbers["networks"]).axes
    shown = {axes.get_title(): {line.get_label(): line.get_ydata() for line in axes.lines} for axes in panels}
    assert list(shown) == ["codes", "pictures: encoders", "pictures: refinements"]
    assert shown["codes"]["psp"] == pytest.approx([1.2, 0.7])
    assert shown["pictures: encoders"]["psp"] == pytest.approx([0.15, 0.1, 0.05])
    assert set(shown["pictures: refinements"]) == {"goae-alignment", "goae-convolution"}
    del numbers["networks"]["portraits64-goae-alignment"], numbers["networks"]["portraits64-goae-convolution"]
    assert len(training_curves(numbers["networks"]).axes) == 2


# ----------------------------------------------------------------------- what is known of a network
@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Folders of a training that is done, and an empty one for what ships."""
    shipped, folder = tmp_path / "shipped", tmp_path / "trained"
    for module in (storage, encoders_card):
        monkeypatch.setattr(module, "SHIPPED", shipped)
    monkeypatch.setattr(storage, "TRAINED", folder)
    facts = {
        "generator_sha256": "0",
        "steps": "2500",
        "settings": '{"rate": 0.5}',
        "trained": '{"codes": 700}',
    }
    torch.manual_seed(0)
    save_network(PSPEncoder(PSPConfig.embedded()), "psp", folder / NAME / "network.safetensors", facts)
    for run, loss in ((NAME, "l2"), ("codes-psp", "code")):
        (folder / run).mkdir(exist_ok=True)
        rows = [{"step": 25 * i, "seconds": 2.0 * i, loss: 1 / i} for i in range(1, 9)]
        (folder / run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_network_is_described_by_its_file_and_its_logs(trained):
    found = described(NAME, trained)
    data = (trained / NAME / "network.safetensors").read_bytes()
    assert (found["bytes"], found["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert found["parameters"] == sum(p.numel() for p in PSPEncoder(PSPConfig.embedded()).parameters())
    assert (found["steps"], found["code_steps"], found["settings"]) == (2500, 700, {"rate": 0.5})
    assert (found["method"], found["kind"], found["encoder"], found["ships"]) == ("psp", "psp", None, False)
    assert found["seconds"] == {"pictures": 16.0, "codes": 16.0}
    assert found["curves"]["codes"]["step"][-1] == 200


def test_a_trained_network_is_shipped_once_and_not_replaced(trained):
    file = ship(NAME)
    assert file.read_bytes() == (trained / NAME / "network.safetensors").read_bytes()
    assert described(NAME, trained)["ships"]
    file.write_bytes(b"another")
    assert ship(NAME).read_bytes() == b"another"


def test_a_training_without_a_log_is_refused(trained):
    (trained / "codes-psp" / "log.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no log .*codes-psp"):
        described(NAME, trained)
    with pytest.raises(FileNotFoundError, match=r"lib\.encoder_training"):
        curve(trained / "nothing.jsonl")


def test_networks_that_ship_are_small_together():
    one = {"bytes": MOST_BYTES // 2, "ships": True}
    require_small({"a": one, "b": one, "c": one | {"ships": False}})
    with pytest.raises(ValueError, match=r"12\.00 MB together, at most 8"):
        require_small({"a": one, "b": one, "c": one})


@pytest.mark.parametrize("name", RECIPES)
def test_every_network_of_the_recipes_is_the_last_of_a_method(name):
    method = shown_by(name)
    if RECIPES[name].encoder is None:
        assert method.removeprefix("goae-wplus").strip("_") in name.removeprefix("portraits64-")
    else:
        assert encoders_card.ENCODERS[method].encoder == RECIPES[name].encoder
        assert encoders_card.ENCODERS[method].mix == "planes"


def test_a_network_of_no_method_is_refused():
    with pytest.raises(ValueError, match="no method of ENCODERS ends with"):
        shown_by("another")


# ----------------------------------------------------------------------- measuring
def test_a_refinement_is_measured_beside_its_own_code_on_the_same_portraits(monkeypatch):
    errors = {"psp": 0.3, "goae": 0.2, "goae-wplus": 0.4}
    asked = []

    def values(encoder, *on):
        asked.append((encoder, on))
        mse = np.full(4, errors.get(encoder, 1.0))
        values = dict.fromkeys(METRICS, mse) | {"person": np.arange(4)}
        return {"input": values, "other": values}

    monkeypatch.setattr(encoders_card, "MeanLatent", lambda generator: "mean")
    monkeypatch.setattr(encoders_card, "load_encoder", lambda name, generator: name)
    monkeypatch.setattr(encoders_card, "held_out_quality", values)
    names = [NAME, "portraits64-goae", "portraits64-goae-alignment"]
    found = measured(names, None, "portraits", 7, 5)
    once = ["mean", "psp", "goae-wplus", "goae"]
    assert sorted(asked) == sorted((method, ("portraits", 7, 5)) for method in once)
    assert list(found) == ["mean", *names]
    assert found[NAME]["input"]["of_mean"]["mse"]["mean"] == pytest.approx(0.3)
    assert "of_own_code" not in found[NAME]["input"]
    alignment = found["portraits64-goae-alignment"]["input"]
    assert alignment["of_mean"]["mse"]["mean"] == pytest.approx(0.2)
    assert alignment["of_own_code"]["mse"]["mean"] == pytest.approx(0.5)


# ----------------------------------------------------------------------- what ships
def test_what_ships_is_what_was_measured():
    files = {path.stem: path.read_bytes() for path in SHIPPED.glob("*.safetensors")}
    record = result_path(RUN)
    if not files and not record.is_file():
        pytest.skip("no encoder ships yet")
    networks = json.loads(record.read_text())["metrics"]["networks"]
    known = {name: one["sha256"] for name, one in networks.items() if one["ships"]}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == known
    assert sum(map(len, files.values())) <= MOST_BYTES
    assert (SHIPPED / "README.md").read_text() == card_of(json.loads(record.read_text())["metrics"])
