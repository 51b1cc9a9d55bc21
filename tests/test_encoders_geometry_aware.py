"""GOAE's encoder: cross-attention against loops, heads against their definition, eq. 11, progressive stages."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from lib.encoders.cross_attention import CrossAttention
from lib.encoders.geometry_aware import LEVELS, GOAEConfig, GOAEEncoder, assembled_offsets

SMALL = {
    "resolution": 32,
    "patch": 2,
    "dims": (8, 12, 16, 20),
    "depths": (1, 1, 1, 1),
    "heads": (1, 1, 1, 1),
    "window": 4,
    "bias_hidden": 4,
    "n_layers": 10,
    "w_dim": 24,
    "levels": (2, 2, 5),
    "attention_dim": 16,
    "attention_hidden": 12,
    "lift_hidden": None,
}


def encoder(seed=0, **changes):
    torch.manual_seed(seed)
    return GOAEEncoder(GOAEConfig.embedded(**(SMALL | changes))).double().eval()


def pictures(count=2):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


# ---- cross-attention --------------------------------------------------------------------------------------


def block(dim=8, heads=2, hidden=12, dropout=0.0):
    torch.manual_seed(0)
    made = CrossAttention(dim, heads, hidden, dropout).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def slow_cross_attention(module, query, key_value):
    """The block, one query and one head at a time."""
    attention, dim = module.multihead_attn, query.shape[-1]
    size = dim // attention.num_heads
    projections = zip(attention.in_proj_weight.split(dim), attention.in_proj_bias.split(dim), strict=True)
    (to_q, q_bias), (to_k, k_bias), (to_v, v_bias) = projections
    result = torch.zeros_like(query)
    for b, n in ((b, n) for b in range(len(query)) for n in range(query.shape[1])):
        q, keys, values = (
            to_q @ query[b, n] + q_bias,
            key_value[b] @ to_k.T + k_bias,
            key_value[b] @ to_v.T + v_bias,
        )
        heads = [slice(first, first + size) for first in range(0, dim, size)]
        weights = [(keys[:, head] @ q[head] / size**0.5).softmax(dim=0) for head in heads]
        found = torch.cat([w @ values[:, head] for w, head in zip(weights, heads, strict=True)])
        x = query[b, n] + attention.out_proj.weight @ found + attention.out_proj.bias
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        hidden = (module.linear1.weight @ x + module.linear1.bias).clamp(min=0)
        result[b, n] = x + module.linear2.weight @ hidden + module.linear2.bias
    return result


def test_cross_attention_is_that_of_a_loop():
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 8, generator=rng).double()
    keys = torch.randn(2, 5, 8, generator=rng).double()
    with torch.no_grad():
        assert torch.allclose(block()(query, keys), slow_cross_attention(block(), query, keys), atol=1e-12)


def test_the_order_of_keys_says_nothing():
    query, keys = torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    with torch.no_grad():
        assert torch.allclose(block()(query, keys), block()(query, keys.flip(1)))
        assert not torch.allclose(block()(query, keys), block()(query, keys + 1))


def test_cross_attention_has_the_released_names():
    names = {f"multihead_attn.in_proj_{kind}" for kind in ("weight", "bias")}
    layers = ("multihead_attn.out_proj", "linear1", "linear2")
    names |= {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(block().state_dict()) == names


def test_dropout_acts_in_training_alone():
    module, query, keys = block(dropout=0.5), torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    with torch.no_grad():
        assert torch.allclose(module(query, keys), block()(query, keys))
        module.train()
        assert not torch.allclose(module(query, keys), block()(query, keys))


def test_heads_that_do_not_share_the_channels_are_refused():
    with pytest.raises(ValueError, match="dim=10, heads=4: choose a multiple"):
        CrossAttention(10, 4)


# ---- sizes ------------------------------------------------------------------------------------------------


def test_the_official_encoder_is_that_of_the_reference():
    with torch.device("meta"):
        network = GOAEEncoder(GOAEConfig.official()).eval()
        offsets = network(torch.zeros(2, 3, 256, 256))
    assert offsets.shape == (2, 14, 512)
    total = sum(parameter.numel() for parameter in network.parameters())
    heads = total - sum(parameter.numel() for parameter in network.swin_model.parameters())
    assert round(heads / 1e6, 1) == 24.3
    assert round(total / 1e6, 1) == 111.2


def test_heads_have_the_released_names():
    linear = {f"mapper_base_{part}": (0, 2) for part in ("spatial", "channel")}
    linear |= {f"mapper_query_{part}_{level}": (0, 2) for part in ("spatial", "channel") for level in LEVELS}
    linear |= {"mapper_coarse_channel": (0,), "mapper_mid_channel": (0,), "mapper_fine_channel": (0, 2)}
    linear |= {"mapper_coarse_to_mid_spatial": (0, 2), "mapper_mid_to_fine_spatial": (0, 2)}
    linear |= {f"cross_att_{level}": ("linear1", "linear2", "multihead_attn.out_proj") for level in LEVELS}
    expected = {
        f"{part}.{layer}.{kind}" for part in linear for layer in linear[part] for kind in ("weight", "bias")
    }
    expected |= {
        f"cross_att_{level}.multihead_attn.in_proj_{kind}" for level in LEVELS for kind in ("weight", "bias")
    }
    found = {name for name in encoder(attention_dim=24).state_dict() if not name.startswith("swin_model.")}
    assert found == expected


def test_the_embedded_encoder_is_small_and_starts_near_the_mean():
    torch.manual_seed(0)
    network = GOAEEncoder(GOAEConfig.embedded()).eval()
    assert sum(2 * parameter.numel() for parameter in network.parameters()) <= 1.5e6  # bytes, as it ships
    with torch.no_grad():
        offsets = network(torch.rand(3, 3, 64, 64) * 2 - 1)
    assert offsets.shape == (3, 10, 256)
    assert 0.01 < offsets.square().mean().sqrt() < 0.2  # codes differ from their mean by 0.7


def test_offset_gain_scales_the_start():
    def rms(gain):
        return encoder(offset_gain=gain)(pictures()).square().mean().sqrt().item()

    assert rms(0.25) == pytest.approx(rms(1.0) / 4)


# ---- heads ------------------------------------------------------------------------------------------------


def applied(layers, x):
    """Linear, leaky ReLU, linear."""
    return layers[2](F.leaky_relu(layers[0](x), 0.01))


def test_base_and_queries_weigh_tokens_and_add_the_greatest():
    network, tokens = encoder(), torch.randn(2, 4, 20).double()
    spatial = network.mapper_base_spatial
    expected = torch.empty(2, 20).double()
    for b in range(2):
        for channel in range(20):
            expected[b, channel] = applied(spatial, tokens[b, :, channel])[0] + tokens[b, :, channel].max()
    with torch.no_grad():
        assert torch.allclose(network.base(tokens), applied(network.mapper_base_channel, expected))


def test_a_difference_asks_its_keys_with_as_many_queries_as_layers():
    network = encoder()
    query, keys = torch.randn(1, 4, 20).double(), torch.randn(1, 7, 16).double()
    for level, count in zip(LEVELS, (2, 2, 5), strict=True):
        spatial = getattr(network, f"mapper_query_spatial_{level}")
        channel = getattr(network, f"mapper_query_channel_{level}")
        with torch.no_grad():
            asked = [applied(spatial, query[0, :, c]) + query[0, :, c].max() for c in range(20)]
            queries = applied(channel, torch.stack(asked, dim=1))[None]
            found = slow_cross_attention(getattr(network, f"cross_att_{level}"), queries, keys)
            assert found.shape == (1, count, 16)
            assert torch.allclose(network.difference(level, query, keys), network.outputs[level](found))


def test_keys_come_from_coarse_to_fine():
    network = encoder()
    fine, mid, coarse = (torch.randn(1, n, c).double() for n, c in ((256, 8), (64, 12), (16, 16)))
    inputs = (fine, mid, coarse, torch.zeros(1, 4, 20).double())

    def act(layer, x):
        return F.leaky_relu(layer(x), 0.01)

    def lifted(layers, x):
        return act(layers[2], act(layers[0], x.mT)).mT

    with torch.no_grad():
        first = act(network.mapper_coarse_channel[0], coarse)
        second = act(network.mapper_mid_channel[0], mid) + lifted(network.mapper_coarse_to_mid_spatial, first)
        channels = network.mapper_fine_channel
        third = act(channels[2], act(channels[0], fine)) + lifted(network.mapper_mid_to_fine_spatial, second)
        found = network.pyramid(inputs, 3)
    assert all(torch.allclose(x, y) for x, y in zip(found, (first, second, third), strict=True))
    assert [len(network.pyramid(inputs, levels)) for levels in range(4)] == [0, 1, 2, 3]


def test_token_layers_are_twice_as_wide_unless_said():
    widths = {}
    for hidden in (None, (3, 5)):
        network = encoder(lift_hidden=hidden)
        lifts = (network.mapper_coarse_to_mid_spatial, network.mapper_mid_to_fine_spatial)
        widths[hidden] = [(lift[0].in_features, lift[0].out_features, lift[2].out_features) for lift in lifts]
    assert widths == {None: [(16, 32, 64), (64, 128, 256)], (3, 5): [(16, 3, 64), (64, 5, 256)]}


# ---- eq. 11 and stages ------------------------------------------------------------------------------------


def test_codes_are_assembled_as_equation_11_says():
    w0 = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    coarse, mid, fine = (torch.full((2, n, 2), value) for n, value in ((3, 0.1), (3, 0.2), (7, 0.3)))
    added = [0.0] + [0.1] * 3 + [0.2] * 3 + [0.3] * 7
    for levels in range(4):
        known = torch.tensor(added[: 1 + 3 * min(levels, 2) + 7 * (levels == 3)])
        known = F.pad(known, (0, 14 - len(known)))
        found = assembled_offsets(w0, [coarse, mid, fine][:levels], 14)
        assert torch.equal(found, w0[:, None] + known[None, :, None])


def planted(network):
    """An encoder whose w0 is 1 and whose differences are 10, 20 and 30; it notes which it was asked for."""
    asked = []

    def difference(level, query, keys):
        asked.append(level)
        count = network.config.levels[LEVELS.index(level)]
        return torch.full((len(query), count, network.config.w_dim), 10.0 * len(asked)).double()

    network.base = lambda tokens: torch.ones(len(tokens), network.config.w_dim).double()
    network.difference = difference
    return asked


@pytest.mark.parametrize("stage", [0, 1, 2, 3, None])
def test_a_stage_decides_its_layers_and_asks_for_no_others(stage):
    network = encoder()
    asked = planted(network)
    layers = network(pictures(), stage)[:, :, 0]
    last = 3 if stage is None else stage
    expected = [1] + [11] * 2 * (last > 0) + [21] * 2 * (last > 1) + [31] * 5 * (last > 2)
    assert layers.tolist() == [expected + [1] * (10 - len(expected))] * 2
    assert asked == list(LEVELS[:last])


def test_stages_agree_on_what_both_decide():
    network = encoder()
    with torch.no_grad():
        whole = network(pictures())
        for stage, decided in ((0, 1), (1, 3), (2, 5), (3, 10)):
            part = network(pictures(), stage)
            assert torch.equal(part[:, :decided], whole[:, :decided])
            assert (part[:, decided:] == part[:, :1]).all()
        assert not torch.allclose(network(pictures(), 2)[:, 5:], whole[:, 5:])


HEADS = {
    0: ("swin_model", "mapper_base"),
    1: (
        "mapper_query_spatial_coarse",
        "mapper_query_channel_coarse",
        "mapper_coarse_channel",
        "cross_att_coarse",
    ),
    2: ("mapper_query_spatial_mid", "mapper_query_channel_mid", "mapper_mid_channel", "cross_att_mid"),
    3: ("mapper_query_spatial_fine", "mapper_query_channel_fine", "mapper_fine_channel", "cross_att_fine"),
}
HEADS[1] += ("outputs.coarse",)
HEADS[2] += ("outputs.mid", "mapper_coarse_to_mid_spatial")
HEADS[3] += ("outputs.fine", "mapper_mid_to_fine_spatial")
"""What takes part from each stage on."""


@pytest.mark.parametrize("stage", range(4))
def test_gradients_reach_what_a_stage_decides_and_nothing_else(stage):
    network = encoder(norm_start=1.0)
    target = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(3)).double()
    (network(pictures(), stage) - target).square().sum().backward()
    taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    open_heads = sum((HEADS[first] for first in range(stage + 1)), ())
    expected = {name for name, _ in network.named_parameters() if name.startswith(open_heads)}
    assert taught == expected


def test_pictures_do_not_see_each_other():
    network = encoder()
    with torch.no_grad():
        both = network(pictures(2))
        assert torch.allclose(both[1:], network(pictures(2)[1:]))
        assert not torch.allclose(both[0], both[1])


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match=r"stage from 0 to 3.*got 4"):
        encoder()(pictures(), 4)


# ---- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GOAEConfig.official(), GOAEConfig.embedded(dropout=0.2)])
def test_a_configuration_survives_json(config):
    assert GOAEConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert dataclasses.replace(config) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (2, 2, 6)}, r"n_layers=10; got levels \(2, 2, 6\)"),
        ({"levels": (4, 5)}, "first layer and those of coarse, mid and fine"),
        (
            {"dims": (8, 8, 8), "depths": (1, 1, 1), "heads": (1, 1, 1), "pretrained_windows": (0, 0, 0)},
            "features of four stages; got 3 dims",
        ),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GOAEConfig.embedded(**(SMALL | changes))
