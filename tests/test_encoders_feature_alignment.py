"""Feature alignment: the released layout, what asks what, a start that changes nothing, gradients that reach all."""

import dataclasses
import json
import math

import pytest
import torch

from lib.cameras import RADIUS, orbit, pixel_centres
from lib.encoders.feature_alignment import (
    PLACE_GAIN,
    AFAConfig,
    EqualConv2d,
    FeatureAlignment,
    normalised_tokens,
    places,
)
from lib.encoders.irse import IRSEConfig

FORMS = [{}, {"blocks": "shared"}, {"alignment": "convolution"}]
"""The two attentions, and Table 3's plain CNN."""


def released(**changes):
    """The released form, small: no projections, no places, tokens as wide as F."""
    body = IRSEConfig(stem=8, units=(1, 1), widths=(8, 16), reduction=4)
    small = {"resolution": 16, "channels": 24, "body": body, "width": 24, "hidden": 16, "dropout": 0.0}
    return network(AFAConfig(**(small | changes))).eval()


def embedded(**changes):
    return network(AFAConfig.embedded(**changes)).eval()


def network(config, seed=0):
    torch.manual_seed(seed)
    return FeatureAlignment(config)


def awake(net, seed=1):
    """The network with projections that let something through."""
    torch.manual_seed(seed)
    for layer in (net.conv_gamma, net.conv_beta):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return net


def inputs(config, batch=2, size=8, seed=2):
    rng = torch.Generator().manual_seed(seed)
    residual = torch.randn(batch, 3, config.resolution, config.resolution, generator=rng)
    return residual, torch.randn(batch, config.channels, size, size, generator=rng)


# ---- sizes and names ----------------------------------------------------------------------------------------


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in FeatureAlignment(config).parameters())


def test_sizes():
    assert parameters(AFAConfig.official()) / 1e6 == pytest.approx(12.1, abs=0.05)  # the released model's
    attention, _, convolution = (parameters(AFAConfig.embedded(**form)) for form in FORMS)
    assert attention < 0.4e6
    assert convolution == pytest.approx(attention, rel=0.05)  # or Table 3 would compare sizes
    plain = parameters(AFAConfig.official(alignment="convolution"))
    assert plain == pytest.approx(parameters(AFAConfig.official()), rel=0.05)


def test_official_shapes_and_names():
    with torch.device("meta"):
        net = FeatureAlignment(AFAConfig.official())
        gamma, beta = net(torch.zeros(1, 3, 512, 512), torch.zeros(1, 512, 32, 32))
    assert gamma.shape == beta.shape == (1, 512, 32, 32)
    names = set(net.state_dict())
    parts = {"input_layer", "body", "output_layer", "cross_att_gamma", "cross_att_beta"}
    assert {name.split(".")[0] for name in names} == parts
    assert {"output_layer.0.weight", "output_layer.2.bias", "body.8.res_layer.4.running_var"} <= names
    assert {"cross_att_gamma.multihead_attn.in_proj_weight", "cross_att_beta.linear2.bias"} <= names
    assert "body.9.res_layer.0.weight" not in names  # three units in each of three stages


@pytest.mark.parametrize("form", FORMS)
def test_a_configuration_survives_json(form):
    config = AFAConfig.embedded(**form)
    values = json.loads(json.dumps(config.to_dict()))
    assert AFAConfig(**values) == config


# ---- the start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_with_projections_nothing_changes_at_the_start(form):
    net = embedded(**form)
    gamma, beta = net(*inputs(net.config))
    assert torch.equal(gamma, torch.ones_like(gamma))
    assert torch.equal(beta, torch.zeros_like(beta))


def test_without_projections_it_does_as_in_the_released_code():
    net = released()
    gamma, _ = net(*inputs(net.config))
    assert (gamma - 1).abs().mean() > 0.1


# ---- what asks what -----------------------------------------------------------------------------------------


def test_gamma_and_beta_are_the_tokens_of_their_blocks():
    net = released()
    residual, features = inputs(net.config, batch=1, size=4)
    gamma, beta = net(residual, features)
    found = net.output_layer(net.body(net.input_layer(residual)))
    assert found.shape == (1, 24, 4, 4)  # two halvings of 16 pixels
    for maps, block in ((gamma, net.cross_att_gamma), (beta, net.cross_att_beta)):
        for row in range(4):
            for column in range(4):
                place = features[:, :, row, column]
                query = (place - place.mean()) / (place.var(correction=0) + 1e-5).sqrt()
                token = block(query[:, None], normalised_tokens(found))[0, 0]
                assert torch.allclose(maps[0, :, row, column], token, atol=1e-5)


def test_tokens_without_places_do_not_know_where_they_lie():
    net = released()
    residual, features = inputs(net.config)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    shuffled = features.flatten(2)[..., order].reshape(features.shape)
    gamma, moved = net(residual, features)[0], net(residual, shuffled)[0]
    assert torch.allclose(moved.flatten(2), gamma.flatten(2)[..., order], atol=1e-5)

    net = awake(embedded())
    residual, features = inputs(net.config)
    shuffled = features.flatten(2)[..., order].reshape(features.shape)
    gamma, moved = net(residual, features)[0], net(residual, shuffled)[0]
    assert not torch.allclose(moved.flatten(2), gamma.flatten(2)[..., order], atol=1e-2)


def test_only_the_form_of_features_is_asked_not_their_scale():
    net = awake(embedded())
    residual, features = inputs(net.config)
    scaled = 3 * features + 0.5
    for first, second in zip(net(residual, features), net(residual, scaled), strict=True):
        assert torch.allclose(first, second, atol=1e-4)


def test_one_attention_serves_both_where_blocks_are_shared():
    net = awake(embedded(blocks="shared"))
    net.conv_beta.load_state_dict(net.conv_gamma.state_dict())
    gamma, beta = net(*inputs(net.config))
    assert torch.equal(gamma, beta)
    net = awake(embedded())
    net.conv_beta.load_state_dict(net.conv_gamma.state_dict())
    gamma, beta = net(*inputs(net.config))
    assert not torch.allclose(gamma, beta, atol=1e-2)


# ---- places -------------------------------------------------------------------------------------------------


def waves(x, y, channels):
    frequencies = [math.pi * 2 ** (4 * k / (channels // 4 - 1)) for k in range(channels // 4)]
    parts = [[wave(f * along) for f in frequencies] for along in (x, y) for wave in (math.sin, math.cos)]
    return PLACE_GAIN * torch.tensor([value for part in parts for value in part])


def test_places_of_a_plane_are_its_texels():
    found = places(3, 5, 16)
    for row in range(3):
        for column in range(5):
            x, y = (column + 0.5) / 5 - 0.5, (row + 0.5) / 3 - 0.5  # rows of plane (x, y) go up
            assert torch.allclose(found[5 * row + column], waves(x, y, 16), atol=1e-5)


def test_places_of_a_picture_are_where_a_frontal_camera_sees_them():
    camera = orbit(0.0, 0.0)
    uv = pixel_centres(4, camera.world_from_cam)
    points = camera.unproject(uv[None], torch.full((1, 16), RADIUS))[0]
    found = places(4, 4, 16, picture=True)
    for token, (x, y, z) in zip(found, points.tolist(), strict=True):
        assert z == pytest.approx(0, abs=1e-6)
        assert torch.allclose(token, waves(x, y, 16), atol=1e-4)


def test_queries_have_places_on_the_plane_and_keys_in_the_picture():
    net = embedded()
    given = []
    net.cross_att_beta.register_forward_pre_hook(lambda _, tokens: given.extend(tokens))
    residual, features = inputs(net.config, size=8)
    net(residual, features)
    query, key_value = given
    found = net.output_layer(net.body(net.input_layer(residual)))
    contents = net.query_layer(normalised_tokens(features)), normalised_tokens(found)
    width = net.config.width
    assert torch.allclose(query - contents[0], places(8, 8, width).expand_as(query), atol=1e-5)
    expected = places(16, 16, width, picture=True)
    assert torch.allclose(key_value - contents[1], expected.expand_as(key_value), atol=1e-5)


def test_with_places_attention_is_local_from_the_start():
    net = embedded()
    width = net.config.width
    query, key = places(16, 16, width), places(16, 16, width, picture=True)
    block = net.cross_att_gamma
    _, weights = block.multihead_attn(query[None], key[None], key[None], need_weights=True)
    camera = orbit(0.0, 0.0)
    uv = pixel_centres(16, camera.world_from_cam)
    of_keys = camera.unproject(uv[None], torch.full((1, 256), RADIUS))[0, :, :2]
    of_queries = uv - 0.5
    within = of_queries.abs().amax(dim=1) < 0.3  # shown by the picture
    distance = torch.cdist(of_queries, of_keys)[within]
    attended = (weights[0, within] * distance).sum(dim=1).mean()
    assert attended < 0.6 * distance.mean()


# ---- the plain CNN ------------------------------------------------------------------------------------------


def test_the_plain_cnn_does_not_look_at_the_features():
    net = awake(embedded(alignment="convolution"))
    residual, features = inputs(net.config)
    for first, second in zip(net(residual, features), net(residual, -2 * features), strict=True):
        assert torch.equal(first, second)


def test_upright_turns_the_plain_cnns_map_over():
    plain = awake(embedded(alignment="convolution"))
    turned = awake(embedded(alignment="convolution", upright=True))
    for net in (plain, turned):
        for block in (net.cross_att_gamma, net.cross_att_beta):
            block[1].weight.data += block[1].weight.data.flip(
                2
            )  # so that the last layers know no up and down
    residual, features = inputs(plain.config)
    for first, second in zip(plain(residual, features), turned(residual, features), strict=True):
        assert torch.allclose(first.flip(2), second, atol=1e-5)
        assert not torch.allclose(first, second, atol=1e-2)


def test_convolution_with_equalised_rate():
    layer = EqualConv2d(4, 2)
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    layer.bias.data += 0.5
    expected = (layer.weight[1] * x[0, :, 1:4, 2:5]).sum() / 6 + 0.5  # 6 = sqrt(9 * 4)
    assert torch.allclose(layer(x)[0, 1, 2, 3], expected, atol=1e-5)


# ---- gradients ----------------------------------------------------------------------------------------------


def without_gradient(net, loss):
    net.zero_grad()
    loss.backward()
    return {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_is_taught(form):
    net = awake(embedded(**form))
    gamma, beta = net(*inputs(net.config))
    assert not without_gradient(net, gamma.square().mean() + beta.square().mean())


def test_gamma_teaches_the_cnn_and_its_own_block():
    net = awake(embedded())
    untaught = without_gradient(net, net(*inputs(net.config))[0].square().mean())
    assert {name.split(".")[0] for name in untaught} == {"cross_att_beta", "conv_beta"}


def test_the_start_can_be_left():
    """Where projections are 0, they alone are taught at first; after one step all is."""
    net = embedded()
    residual, features = inputs(net.config)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)

    def loss():
        gamma, beta = net(residual, features)
        return (gamma * features + beta).square().mean()

    first = loss()
    taught = set(dict(net.named_parameters())) - without_gradient(net, first)
    assert {name.split(".")[0] for name in taught} == {"conv_gamma", "conv_beta"}
    optimiser.step()
    assert loss() < first
    assert not without_gradient(net, loss())


# ---- errors -------------------------------------------------------------------------------------------------


def test_pictures_and_features_of_other_sizes_are_refused():
    net = embedded()
    residual, features = inputs(net.config)
    with pytest.raises(ValueError, match="resize the picture"):
        net(residual[..., :32, :32], features)
    with pytest.raises(ValueError, match="take the features"):
        net(residual, features[:, :56])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"blocks": "one"}, "separate, shared"),
        ({"alignment": "mlp"}, "attention, convolution"),
        ({"projections": False}, "Set projections=True"),
        ({"blocks": "shared", "width": 112, "projections": False}, "Set projections=True"),
        ({"width": 66, "heads": 1}, "multiple of 4"),
        ({"body": IRSEConfig.embedded(in_channels=9)}, "three channels"),
    ],
)
def test_impossible_forms_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(AFAConfig.embedded(), **wrong)
