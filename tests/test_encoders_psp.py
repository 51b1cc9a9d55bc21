"""pSp, e4e and the IR-SE body that convolutional encoders share."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.encoders.irse import GROUP, IRSE, IRSEConfig, IRSEUnit, normalisation
from lib.encoders.psp import (
    PSPConfig,
    PSPEncoder,
    SharedHalving,
    StyleHead,
    offset_loss,
    summed,
    upsample_add,
)

IRSE50 = [(64, 3), (128, 4), (256, 14), (512, 3)]
"""Channels and units of each stage of the released body."""


def photos(n=2, side=64, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encoder(**changes):
    """A small encoder with random weights; its last layers too."""
    torch.manual_seed(0)
    return PSPEncoder(PSPConfig.embedded(**({"zero_start": False} | changes)))


def own_heads(**changes):
    """A small encoder with pSp's released heads, one for each layer."""
    body = IRSEConfig.embedded(widths=(8, 16, 24, 32), units=(1, 1, 1, 1), stem=8)
    return encoder(heads="own", w_dim=32, body=body, **changes)


def shuffled(module, seed=0):
    """The module with random parameters and statistics, so that no norm is the identity."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            random = torch.rand(value.shape, generator=rng)
            value.data.copy_(random + 0.5 if name.endswith("var") else random - 0.5)
    return module


# ---- the body -------------------------------------------------------------------------------------------


def plain_norm(x, norm):
    """Normalisation by its definition."""
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    else:
        groups = x.reshape(len(x), -1, GROUP, *x.shape[2:])
        mean = groups.mean(dim=(2, 3, 4), keepdim=True).expand_as(groups).reshape(x.shape)
        squares = groups.square().mean(dim=(2, 3, 4), keepdim=True).expand_as(groups).reshape(x.shape)
        variance = squares - mean.square()
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def plain_unit(x, unit, stride):
    """An IR-SE unit, step by step."""
    first, conv1, prelu, conv2, last, gate = unit.res_layer
    y = F.conv2d(plain_norm(x, first), conv1.weight, padding=1)
    y = torch.where(y > 0, y, prelu.weight[:, None, None] * y)
    y = plain_norm(F.conv2d(y, conv2.weight, stride=stride, padding=1), last)
    means = y.mean(dim=(2, 3))
    opened = (means @ gate.fc1.weight[:, :, 0, 0].T).clamp_min(0) @ gate.fc2.weight[:, :, 0, 0].T
    y = y / (1 + torch.exp(-opened))[:, :, None, None]
    if isinstance(unit.shortcut_layer, nn.MaxPool2d):
        return y + x[:, :, ::stride, ::stride]
    conv, norm = unit.shortcut_layer
    return y + plain_norm(F.conv2d(x[:, :, ::stride, ::stride], conv.weight), norm)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels, stride", [(16, 1), (16, 2), (24, 1), (24, 2)])
def test_a_unit_is_its_definition(channels, stride, norm):
    unit = shuffled(IRSEUnit(16, channels, stride, norm, reduction=4).eval())
    x = torch.randn(2, 16, 10, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(unit(x), plain_unit(x, unit, stride), atol=1e-5)


def unit_parameters(before, channels):
    """Two 3x3 convolutions, the norms about them, PReLU, the gate; and the shortcut where the width changes."""
    residual = 2 * before + 9 * before * channels + channels + 9 * channels**2 + 2 * channels
    gate = 2 * channels * (channels // 16)
    return residual + gate + (before * channels + 2 * channels if before != channels else 0)


def body_parameters(in_channels=3):
    total, before = 9 * in_channels * 64 + 2 * 64 + 64, 64
    for channels, count in IRSE50:
        total += unit_parameters(before, channels) + (count - 1) * unit_parameters(channels, channels)
        before = channels
    return total


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(kind, config):
    """A network of official size, without its numbers."""
    with torch.device("meta"):
        return kind(config)


def test_irse50_has_the_released_size_and_taps():
    body = on_meta(IRSE, IRSEConfig.official())
    assert count(body) == body_parameters()
    assert body.stage_ends == (2, 6, 20, 23)  # the last three are the pyramid's in the released encoders
    shapes = [tuple(x.shape) for x in body.taps(torch.empty(1, 3, 256, 256, device="meta"))]
    assert shapes == [(1, 64, 128, 128), (1, 128, 64, 64), (1, 256, 32, 32), (1, 512, 16, 16)]


def test_taps_are_what_leaves_their_units():
    body = IRSE(IRSEConfig.embedded()).eval()
    x = body.input_layer(photos())
    expected = []
    for unit in body.body:
        x = unit(x)
        expected.append(x)
    found = body.taps(photos(), after=(1, 3))
    assert len(found) == 2
    assert torch.equal(found[0], expected[1]) and torch.equal(found[1], expected[3])


def test_group_norm_looks_at_one_picture_and_batch_norm_at_all():
    for norm, alone in (("group", True), ("batch", False)):
        body = IRSE(IRSEConfig.embedded(norm=norm))
        first = body.taps(photos(2))[-1][0]
        other = body.taps(torch.cat([photos(1), photos(1, seed=9)]))[-1][0]
        assert torch.equal(photos(2)[0], photos(1)[0])
        assert torch.allclose(first, other, atol=1e-5) is alone


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": (1, 2)},
        {"units": (0, 1, 1, 1)},
        {"reduction": 40},
        {"norm": "layer"},
        {"widths": (20, 48, 64, 64)},
    ],
)
def test_sizes_that_make_no_body_are_named(wrong):
    with pytest.raises(ValueError, match="got"):
        IRSE(IRSEConfig.embedded(**wrong))


def test_normalisation_says_which_channels_make_groups():
    with pytest.raises(ValueError, match=f"multiple of {GROUP}.*12 channels"):
        normalisation("group", 12)


# ---- the released layout --------------------------------------------------------------------------------


def released_layout(n_layers, levels):
    """Names and shapes of a released pSp or e4e encoder, written out from its structure."""
    shapes = {}

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["input_layer.0.weight"] = (64, 3, 3, 3)
    norm("input_layer.1", 64)
    shapes["input_layer.2.weight"] = (64,)
    unit, before = 0, 64
    for channels, units in IRSE50:
        for _ in range(units):
            name = f"body.{unit}"
            if before != channels:
                shapes[f"{name}.shortcut_layer.0.weight"] = (channels, before, 1, 1)
                norm(f"{name}.shortcut_layer.1", channels)
            norm(f"{name}.res_layer.0", before)
            shapes[f"{name}.res_layer.1.weight"] = (channels, before, 3, 3)
            shapes[f"{name}.res_layer.2.weight"] = (channels,)
            shapes[f"{name}.res_layer.3.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.res_layer.4", channels)
            shapes[f"{name}.res_layer.5.fc1.weight"] = (channels // 16, channels, 1, 1)
            shapes[f"{name}.res_layer.5.fc2.weight"] = (channels, channels // 16, 1, 1)
            unit, before = unit + 1, channels
    for i in range(n_layers):
        side = 16 if i < levels[0] else 32 if i < levels[0] + levels[1] else 64
        for j in range(int(math.log2(side))):
            shapes[f"styles.{i}.convs.{2 * j}.weight"] = (512, 512, 3, 3)
            shapes[f"styles.{i}.convs.{2 * j}.bias"] = (512,)
        shapes[f"styles.{i}.linear.weight"] = (512, 512)
        shapes[f"styles.{i}.linear.bias"] = (512,)
    for i, channels in ((1, 256), (2, 128)):
        shapes[f"latlayer{i}.weight"] = (512, channels, 1, 1)
        shapes[f"latlayer{i}.bias"] = (512,)
    return shapes


@pytest.mark.parametrize("n_layers, levels", [(14, (3, 4, 7)), (18, (3, 4, 11))])
def test_official_networks_have_the_released_layout(n_layers, levels):
    network = on_meta(PSPEncoder, PSPConfig.official(n_layers=n_layers, levels=levels))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == released_layout(n_layers, levels)
    heads = sum(
        count * (int(math.log2(side)) * (9 * 512 + 1) + 512 + 1) * 512
        for count, side in zip(levels, (16, 32, 64), strict=True)
    )
    laterals = 512 * (256 + 1) + 512 * (128 + 1)
    assert count(network) == body_parameters() + heads + laterals


def test_a_key_that_is_missing_or_renamed_is_named():
    with torch.device("meta"):
        network = PSPEncoder(PSPConfig.official())
        state = {name: torch.empty(shape) for name, shape in released_layout(14, (3, 4, 7)).items()}
    network.load_state_dict(state, strict=True, assign=True)
    state["styles.3.line.weight"] = state.pop("styles.3.linear.weight")
    with pytest.raises(RuntimeError, match=r"styles\.3\.linear\.weight[\s\S]*styles\.3\.line\.weight"):
        network.load_state_dict(state, strict=True)


@pytest.mark.parametrize("progressive", [False, True])
def test_official_codes_have_the_shape_of_eg3d_codes(progressive):
    network = on_meta(PSPEncoder, PSPConfig.official(progressive=progressive))
    assert network(torch.empty(2, 3, 256, 256, device="meta")).shape == (2, 14, 512)


# ---- pyramid and heads ----------------------------------------------------------------------------------


def plain_upsampling(x, side):
    """Bilinear, the centres of corner pixels on each other."""
    small = x.shape[-1]
    out = torch.empty(*x.shape[:2], side, side)
    for i in range(side):
        for j in range(side):
            v, u = i * (small - 1) / (side - 1), j * (small - 1) / (side - 1)
            a, b = min(int(v), small - 2), min(int(u), small - 2)
            top = x[:, :, a, b] * (1 - u + b) + x[:, :, a, b + 1] * (u - b)
            bottom = x[:, :, a + 1, b] * (1 - u + b) + x[:, :, a + 1, b + 1] * (u - b)
            out[:, :, i, j] = top * (1 - v + a) + bottom * (v - a)
    return out


def test_one_step_down_the_pyramid():
    rng = torch.Generator().manual_seed(0)
    top, lateral = torch.randn(1, 2, 4, 4, generator=rng), torch.randn(1, 2, 8, 8, generator=rng)
    assert torch.allclose(upsample_add(top, lateral), plain_upsampling(top, 8) + lateral, atol=1e-6)


@pytest.mark.parametrize("side", [2, 16, 64])
def test_a_head_halves_until_one_pixel_is_left(side):
    x = torch.randn(2, 8, side, side, generator=torch.Generator().manual_seed(0))
    assert StyleHead(8, 12, side).convs(x).shape == (2, 12, 1, 1)
    assert SharedHalving(8)(x).shape == (2, 8)


def test_shared_halving_keeps_the_size_of_what_enters():
    torch.manual_seed(0)
    x = torch.randn(16, 64, 16, 16)
    assert 0.3 < SharedHalving(64)(x).square().mean().sqrt() < 3


@pytest.mark.parametrize("make", [encoder, own_heads])
def test_each_layer_is_decided_by_the_features_of_its_level(make):
    """Fine features enter fine layers only; coarse ones, through the pyramid, all."""
    network = make()
    coarse, mid, _ = network.config.levels
    fine = list(range(coarse + mid, network.config.n_layers))
    before = network(photos())
    with torch.no_grad():
        network.latlayer2.bias += 1
    changed = (network(photos()) - before).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == fine
    before = network(photos())
    with torch.no_grad():
        network.latlayer1.bias += 1
    changed = (network(photos()) - before).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == list(range(coarse, network.config.n_layers))


# ---- e4e ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [encoder, own_heads])
@pytest.mark.parametrize("stage", [0, 1, 4, 9, None])
def test_a_stage_moves_its_layers_and_repeats_the_first_code_elsewhere(make, stage):
    network = make(progressive=True)
    separate = make(progressive=False)(photos())  # the same weights
    code = network(photos(), stage=stage)
    last = 9 if stage is None else stage
    for layer in range(10):
        expected = separate[:, 0] + (separate[:, layer] if 0 < layer <= last else 0)
        assert torch.allclose(code[:, layer], expected, atol=1e-5)


def test_psp_has_no_stages():
    network = encoder()
    assert torch.equal(network(photos(), stage=0), network(photos()))


@pytest.mark.parametrize("make", [encoder, own_heads])
@pytest.mark.parametrize("stage", [0, 5, 8])
def test_gradients_reach_the_heads_of_a_stage_and_no_other(make, stage):
    network = make(progressive=True)
    network(photos(), stage=stage).square().sum().backward()
    for layer, head in enumerate(network.styles):
        found = [parameter.grad for parameter in head.parameters()]
        if layer <= stage:
            assert all(gradient.abs().sum() > 0 for gradient in found)
        else:
            assert all(gradient is None for gradient in found)


@pytest.mark.parametrize("make", [encoder, own_heads])
def test_gradients_reach_every_parameter_of_psp(make):
    network = make()
    network(photos()).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_codes_of_a_stage_are_summed():
    codes = [torch.full((1, 2), float(value)) for value in (1, 10, 100)]
    assert summed(codes, 5)[0, :, 0].tolist() == [1, 11, 101, 1, 1]


def test_offset_loss_sums_lengths_and_leaves_what_has_none():
    w_plus = torch.ones(2, 4, 3)
    w_plus[0, 1, :2] += torch.tensor([3.0, 4.0])
    w_plus[0, 3, 2] -= 2
    w_plus.requires_grad_()
    loss = offset_loss(w_plus)
    assert loss.tolist() == pytest.approx([7, 0])
    loss.sum().backward()
    assert w_plus.grad.isfinite().all()
    assert not w_plus.grad[1].any() and not w_plus.grad[0, 2].any()
    assert w_plus.grad[0, 1].tolist() == pytest.approx([0.6, 0.8, 0])


# ---- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_the_embedded_encoder_is_small(progressive):
    assert count(encoder(progressive=progressive)) <= 450_000


@pytest.mark.parametrize("make", [encoder, own_heads])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_start_at_zero_is_the_mean_code(make, progressive):
    network = make(progressive=progressive, zero_start=True)
    code = network(photos())
    assert not code.any()
    code.sum().backward()
    assert all(
        parameter.grad.any() for name, parameter in network.styles.named_parameters() if "linear" in name
    )


@pytest.mark.parametrize("config", [PSPConfig.official(progressive=True), PSPConfig.embedded()])
def test_settings_survive_json(config):
    assert PSPConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"levels": (3, 4, 7)}, "10 in all; got .3, 4, 7"),
        ({"levels": (10, 0, 0)}, "10 in all; got .10, 0, 0"),
        ({"resolution": 60}, "power of two from 32 on; got 60"),
        ({"heads": "both"}, "own or shared; got 'both'"),
        ({"heads": "own"}, "must be w_dim = 256; got 64"),
        ({"body": IRSEConfig.embedded(in_channels=6)}, "takes three channels"),
        ({"body": IRSEConfig.embedded(units=(1, 1), widths=(16, 16))}, "four stages"),
    ],
)
def test_settings_that_make_no_encoder_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PSPConfig.embedded(**wrong)


def test_photos_of_another_size_and_stages_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"expected photos \[B, 3, 64, 64\]; got \[1, 3, 32, 32\]"):
        encoder()(photos(1, 32))
    with pytest.raises(ValueError, match="from 0 to 9; got -1"):
        encoder(progressive=True)(photos(1), stage=-1)


@pytest.mark.parametrize("progressive", [False, True])
def test_an_encoder_learns_four_photos_by_heart(progressive):
    network = encoder(progressive=progressive, zero_start=True)
    shown, wanted = photos(4), torch.randn(4, 10, 256, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(25):
        loss = (network(shown) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * wanted.square().mean()
