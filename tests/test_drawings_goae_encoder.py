"""Distances from the canonical space agree with closed forms; pictures show what they are of, and nothing is cropped."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.drawings.goae_encoder import (
    DISTANCES,
    code_distances,
    code_picture,
    distance_strips,
    encoders_here,
    growing_code,
    layers_by_stage,
    tap_picture,
)
from lib.encoders import storage
from lib.encoders.geometry_aware import STAGES, GOAEConfig
from tests.tiny_encoders import GOAE, deep_generator, network, write_networks

LAYERS, W_DIM = 10, 6


def members(n: int = 4000, seed: int = 0) -> torch.Tensor:
    """Codes [n, W_DIM] of a space that is wide along its first axes and narrow along its last."""
    scale = torch.linspace(4.0, 0.1, W_DIM)
    return 3.0 + scale * torch.randn(n, W_DIM, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------- distances
def test_members_of_the_space_are_at_distance_one():
    canonical = members()
    found = code_distances(members(2000, seed=1)[:, None].expand(-1, LAYERS, -1), canonical)
    assert np.sqrt((found**2).mean()["centre"]) == pytest.approx(1, abs=0.03)
    assert np.sqrt((found**2).mean()["rows"]) == pytest.approx(1, abs=0.03)
    assert found["spread"].max() < 1e-6


def test_distances_are_those_of_their_definitions():
    """Plain loops, an inverse where the library solves."""
    canonical = members(500).double()
    w_plus = members(3 * LAYERS, seed=2).reshape(3, LAYERS, W_DIM).double() + 1
    mean, inverse = canonical.mean(dim=0), torch.linalg.inv(torch.cov(canonical.T))
    unit = np.sqrt(np.mean([(row - mean).square().sum().item() for row in canonical]))
    found = code_distances(w_plus, canonical)
    for code, row in zip(w_plus, found.itertuples(), strict=True):
        centre = code.mean(dim=0)
        squares = [((each - mean) @ inverse @ (each - mean)).item() / W_DIM for each in code]
        assert row.centre == pytest.approx((centre - mean).norm().item() / unit)
        assert row.rows == pytest.approx(np.sqrt(np.mean(squares)))
        spread = np.sqrt(np.mean([(each - centre).square().sum().item() for each in code])) / unit
        assert row.spread == pytest.approx(spread)


def test_what_the_space_hardly_varies_in_counts_most():
    canonical = members()
    moved = canonical.mean(dim=0).repeat(2, LAYERS, 1)
    moved[0, :, 0] += 1.0
    moved[1, :, -1] += 1.0
    wide, narrow = code_distances(moved, canonical).to_dict("records")
    assert wide["centre"] == pytest.approx(narrow["centre"], rel=1e-4)
    assert narrow["rows"] > 10 * wide["rows"]


def test_too_few_members_are_refused():
    with pytest.raises(ValueError, match="needs 12 canonical codes or more; got 11"):
        code_distances(torch.zeros(1, LAYERS, W_DIM), members(11))


def test_strips_have_a_row_a_method_and_a_band_of_members():
    canonical = members()
    of_members = code_distances(members(200, seed=3)[:, None].expand(-1, LAYERS, -1), canonical)
    codes = members(5 * LAYERS, seed=4).reshape(5, LAYERS, W_DIM)
    found = {
        name: code_distances(codes + shift, canonical) for name, shift in (("goae-wplus", 1), ("psp", 2))
    }
    picture = distance_strips(found, of_members)
    assert_nothing_is_cropped(picture)
    assert len(picture.axes) == len(DISTANCES)
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == ["pSp", "GOAE's code"]
    for axes, name in zip(picture.axes, DISTANCES, strict=True):
        dots, mean = axes.lines[0], axes.lines[1]
        assert np.allclose(dots.get_xdata(), found["psp"][name])
        assert mean.get_xdata() == pytest.approx(found["psp"][name].mean())
        low, high = axes.patches[0].get_extents().transformed(axes.transData.inverted()).intervalx
        assert [low, high] == pytest.approx(of_members[name].quantile([0.05, 0.95]).tolist(), abs=1e-6)


# -------------------------------------------------------------------- taps and codes
def test_a_tap_is_drawn_row_by_row_a_square_a_token():
    tokens = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens[0, 1] += 50.0  # first row, second column
    picture = tap_picture(tokens).astype(float)
    assert picture.shape == (128, 128, 3)
    squares = picture.reshape(4, 32, 4, 32, 3)
    assert np.ptp(squares, axis=(1, 3)).max() == 0
    strongest = squares[:, 0, :, 0, 0]
    odd = np.abs(strongest - np.median(strongest))
    assert np.unravel_index(odd.argmax(), odd.shape) == (0, 1)


@pytest.mark.parametrize("shape", [(2, 16, 5), (1, 15, 5)])
def test_other_than_the_tokens_of_one_picture_are_refused(shape):
    with pytest.raises(ValueError, match="tokens"):
        tap_picture(torch.zeros(shape))


def test_a_code_is_drawn_a_row_a_layer_red_where_it_is_positive():
    offsets = torch.zeros(10, 40)
    offsets[2, 5], offsets[9, 0] = 1.0, -1.0
    picture = code_picture(offsets, 1.0).astype(int)
    cells = picture[12::24, 3::6]
    assert cells.shape == (10, 40, 3)
    assert cells[2, 5, 0] > cells[2, 5, 2] + 50 and cells[9, 0, 2] > cells[9, 0, 0] + 50
    flat = cells[0, 0]
    assert (cells == flat).all(axis=2).sum() == 398


def test_stages_share_the_layers_among_them():
    found = layers_by_stage(GOAEConfig.embedded())
    assert list(found) == list(STAGES)
    assert [list(layers) for layers in found.values()] == [[0], [1, 2], [3, 4], [5, 6, 7, 8, 9]]
    official = layers_by_stage(GOAEConfig.official())
    assert [layers[-1] for layers in official.values()] == [0, 3, 6, 13]


def test_a_stage_moves_its_own_layers_alone():
    """What `layers_by_stage` says is what the encoder does."""
    encoder = network("goae", dataclasses.replace(GOAE, offset_gain=1.0))
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        codes = [encoder(image, stage) for stage in range(len(STAGES))]
    for stage, decided in list(enumerate(layers_by_stage(GOAE).values()))[1:]:
        changed = (codes[stage] != codes[stage - 1]).any(dim=2)[0].nonzero()[:, 0].tolist()
        assert changed == list(decided)


def test_a_growing_code_is_measured_against_the_photo():
    generator = deep_generator()
    mean = generator.w_mean.expand(1, generator.n_layers, -1)
    camera, side = orbit(0.0, 0.0), orbit(0.5, 0.0)
    target = generator.synthesize(mean, camera).image.clamp(-1, 1)
    picture = growing_code(generator, {"mean": mean, "other": mean + 1.0}, target, camera, side)
    assert_nothing_is_cropped(picture)
    texts = [text.get_text() for text in picture.texts]
    assert "MSE 0.0000" in texts and sum(text.startswith("MSE") for text in texts) == 2
    assert {"photo's view", "code", "error", "from the side", "mean", "other"} <= set(texts)
    assert len(picture.axes) == 1 + 4 * 2


# -------------------------------------------------------------------- which encoders are here
def test_encoders_that_do_not_ship_are_left_out(tmp_path, monkeypatch):
    generator = deep_generator()
    write_networks(tmp_path / "shipped", generator, ("portraits64-psp", "portraits64-goae"))
    monkeypatch.setattr(storage, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(storage, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(storage.paths, "ROOT", tmp_path)
    found = encoders_here(("psp", "goae", "goae-wplus", "goae-wplus_no_background"), generator)
    assert list(found) == ["psp", "goae-wplus"]
    assert [each.name for each in found.values()] == list(found)
    with pytest.raises(ValueError, match="no encoder is called"):
        encoders_here(("goe",), generator)


def test_distances_come_as_a_table():
    found = code_distances(torch.zeros(2, LAYERS, W_DIM), members())
    assert isinstance(found, pd.DataFrame) and list(found) == list(DISTANCES) and len(found) == 2
