"""Places, tokens and photo agree on where things are; attention is softmax; pictures show what they are of."""

import math

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.datasets.scenes import Scene, View
from lib.drawings.goae_feature_alignment import (
    attention_pictures,
    attention_weights,
    change_maps,
    crossed,
    details,
    followed,
    furthest,
    most_asked,
    place_of,
    strength,
    token_positions,
)
from lib.encoders.cross_attention import CrossAttention
from lib.encoders.feature_alignment import SPAN, places
from lib.encoders.goae import refine
from lib.images import resize
from tests.tiny_encoders import AFA, deep_generator, network
from tests.tiny_scenes import head


@pytest.fixture(scope="module")
def generator():
    return deep_generator()


@pytest.fixture(scope="module")
def scene(generator):
    """A head of the generator, its photo taken from the side."""
    cameras = {"yaw+0.5": orbit(0.5, 0.0), "yaw+0.0": orbit(0.0, 0.0), "yaw-0.3": orbit(-0.3, 0.0)}
    true = head(generator, 1, cameras["yaw+0.5"])
    views = {name: View(true.render(camera).image.clamp(-1, 1), camera) for name, camera in cameras.items()}
    return Scene("tiny", "yaw+0.5", views)


# -------------------------------------------------------------------- where things are
def test_places_are_counted_from_the_lower_left():
    corners = torch.tensor([[-0.49, -0.49, 0.3], [0.49, -0.49, 0], [-0.49, 0.49, 0], [5.0, 5.0, 0]])
    assert place_of(corners, 8, 1.0).tolist() == [0, 7, 56, 63]
    assert place_of(2 * corners, 8, 2.0).tolist() == [0, 7, 56, 63]


def test_tokens_are_counted_from_the_upper_left():
    found = token_positions(4)
    assert found[0].tolist() == [0.125, 0.125] and found[3].tolist() == [0.875, 0.125]
    assert found[12].tolist() == [0.125, 0.875]


def test_places_and_tokens_are_those_that_the_network_is_told():
    """A place of F and the token of a frontal photo with the same code are at the same point of the world's plane."""
    side, tokens, width = 32, 64, 64
    of_places, of_tokens = places(side, side, width), places(tokens, tokens, width, picture=True)
    uv = token_positions(tokens)
    world = torch.stack([SPAN * (uv[:, 0] - 0.5), -SPAN * (uv[:, 1] - 0.5), torch.zeros(len(uv))], dim=1)
    inside = (world[:, :2].abs() < 0.45).all(dim=1)
    expected = place_of(world[inside], side, 1.0)
    nearest = torch.cdist(of_tokens[inside], of_places).argmin(dim=1)
    assert (nearest == expected).float().mean() > 0.9  # the others lie between two places


def test_the_token_that_is_asked_most_is_found():
    weights = torch.zeros(2, 16)
    weights[0, 3], weights[1, 12] = 1.0, 1.0
    assert most_asked(weights).tolist() == [[0.875, 0.125], [0.125, 0.875]]


# -------------------------------------------------------------------- attention
def test_weights_are_the_softmax_of_scaled_products():
    torch.manual_seed(0)
    block = CrossAttention(8, heads=2, hidden=16).eval()
    query, key = torch.randn(1, 5, 8), torch.randn(1, 7, 8)
    found = attention_weights(block, query, key)
    assert found.shape == (1, 2, 5, 7)
    weight, bias = block.multihead_attn.in_proj_weight, block.multihead_attn.in_proj_bias
    q, k = query[0] @ weight[:8].T + bias[:8], key[0] @ weight[8:16].T + bias[8:16]
    for one in range(2):
        own = slice(4 * one, 4 * one + 4)
        expected = (q[:, own] @ k[:, own].T / math.sqrt(4)).softmax(dim=-1)
        assert torch.allclose(found[0, one], expected, atol=1e-6)


@torch.no_grad()
def test_attention_that_looks_where_the_photo_shows_a_place_is_at_no_distance(generator, scene):
    """Weights made of the true positions have the error of a token's size alone; those of the frontal view more."""
    still = head(generator, 1, scene.input.camera).still()
    side, tokens = 32, 32
    front = generator.frontal_camera()
    depth = still.render(front, neural_resolution=side).depth
    origins, directions = front.rays(side)
    points = (origins + directions * depth.flatten(1)[..., None])[0]
    uv, _ = scene.input.camera.project(points[None])
    frontal, _ = front.project(points[None])

    def looking(at):
        """Each place asks the token nearest to where its point is seen; no place asks anything else."""
        weights = torch.zeros(side**2, tokens**2)
        nearest = torch.cdist(at, token_positions(tokens)).argmin(dim=1)
        weights[place_of(points, side, generator.config.rendering.box_warp), nearest] = 1.0
        return weights

    right = followed(generator, still, scene, looking(uv[0]), side, rays=side)
    ahead = followed(generator, still, scene, looking(frontal[0]), side, rays=side)
    assert right["points"] == ahead["points"] > 20
    assert right["attention"] < 0.05 < ahead["attention"]
    assert ahead["attention"] == pytest.approx(ahead["front"], abs=0.03)


def test_points_beside_the_mask_do_not_count(generator, scene):
    still = head(generator, 1, scene.input.camera).still()
    weights = torch.ones(32**2, 16**2)
    whole = followed(generator, still, scene, weights, 32)["points"]
    photo = scene.input
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 8:] = True
    masked = Scene("half", "yaw+0.5", scene.views | {"yaw+0.5": View(photo.image, photo.camera, mask=mask)})
    half = followed(generator, still, masked, weights, 32)["points"]
    assert 0 < half < whole


# -------------------------------------------------------------------- pictures
def test_a_cross_is_where_it_should_be():
    photo = np.zeros((64, 64, 3), np.uint8)
    found = crossed(photo, torch.tensor([0.25, 0.75]))
    rows, columns = np.nonzero(found[..., 0])
    assert (rows.mean(), columns.mean()) == pytest.approx((48, 16), abs=1)
    assert not photo.any(), "the photo itself is left as it was"
    assert crossed(photo, torch.tensor([1.5, -0.5])).any(), "beside the picture: at its border"


def test_attention_is_brightest_where_its_weight_is_greatest(scene):
    weights = torch.full((2, 16), 0.01)
    weights[0, 5], weights[1, 10] = 0.5, 0.2
    marks = torch.tensor([[0.1, 0.1], [0.9, 0.9]])
    picture = attention_pictures(scene.input.image, weights, marks, ["one", "two"])
    assert_nothing_is_cropped(picture)
    assert {"one", "two", "max 0.500", "max 0.200"} <= {text.get_text() for text in picture.texts}
    for axes, token in zip(picture.axes[2:], (5, 10), strict=True):
        drawn = axes.images[0].get_array().astype(float).sum(axis=-1)
        cells = drawn.reshape(4, 32, 4, 32).mean(axis=(1, 3)).flatten()
        assert cells.argmax() == token


def test_strength_is_a_root_mean_square_and_stands_upright():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, :, 0, 1] = torch.tensor([3.0, 4.0])
    found = strength(maps)
    assert found.shape == (1, 4, 4) and found[0, 3, 1].item() == pytest.approx(math.sqrt(12.5))
    assert found.count_nonzero() == 1


@torch.no_grad()
def test_changes_of_networks_stand_below_each_other(generator, scene):
    twins = {
        name: network("alignment", AFA.__class__(**{**vars(AFA), "alignment": name}))
        for name in ("attention", "convolution")
    }
    photo = scene.input
    w_plus = head(generator, 2, photo.camera).w_plus
    found = {name: refine(generator, each, photo.image, w_plus, photo.camera) for name, each in twins.items()}
    delta = resize(photo.image - found["attention"].plain.image, 32)
    modulations = {name: each(delta, found["attention"].features.values) for name, each in twins.items()}
    picture = change_maps(generator, found, modulations)
    assert_nothing_is_cropped(picture)
    assert len(picture.axes) == 2 * 6
    texts = [text.get_text() for text in picture.texts]
    assert {"attention", "convolution", "plane XY"} <= set(texts)
    assert sum(text.startswith("white:") for text in texts) == 6


def test_details_are_measured_against_the_truth(generator, scene):
    true = head(generator, 1, scene.input.camera).still()
    other = head(generator, 2, scene.input.camera).still()
    assert furthest(scene) == "yaw-0.3"
    picture = details(scene, {"true": true, "other": other}, "yaw-0.3")
    assert_nothing_is_cropped(picture)
    texts = [text.get_text() for text in picture.texts]
    assert texts.count("truth") == 2 and texts.count("MSE 0.0000") == 2
    assert sum(text.startswith("MSE") for text in texts) == 4
    assert len(picture.axes) == 2 + 2 * 3
