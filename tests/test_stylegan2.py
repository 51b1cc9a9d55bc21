"""StyleGAN2's layers against direct formulas and against numbers measured on the original layers."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.generators.stylegan2 import (
    EqualLinear,
    MappingNetwork,
    SynthesisBlock,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGB,
    modulated_conv2d,
    normalise_2nd_moment,
    resampled_conv2d,
    resampling_filter,
    upsample2d,
)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -------------------------------------------------------------------- resampling
def test_upsample_check_values():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.tensor(
        [
            [0.5625, 0.9375, 1.3125, 1.125],
            [1.125, 1.75, 2.25, 1.875],
            [1.875, 2.75, 3.25, 2.625],
            [1.6875, 2.4375, 2.8125, 2.25],
        ]
    )
    torch.testing.assert_close(upsample2d(x)[0, 0], expected)


def test_up_convolution_check_values():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    found = resampled_conv2d(x, weight, up=True, taps=resampling_filter())
    expected = torch.tensor(
        [
            [17.0625, 29.6875, 37.25, 33.9375],
            [36.0, 60.625, 73.4375, 64.6875],
            [56.25, 90.625, 105.3125, 89.4375],
            [63.9375, 99.4375, 111.875, 92.0625],
        ]
    )
    torch.testing.assert_close(found[0, 0], expected)


# -------------------------------------------------------------------- modulated convolution
def modulated_conv_by_the_paper(x, weight, style, up):
    """Eqs. 1-3 of the paper as they stand: for each sample its own weights; upsampling by explicit zeros."""
    outputs = []
    for one, scale in zip(x, style, strict=True):
        modulated = weight * scale[None, :, None, None]
        modulated = modulated / (modulated.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if not up:
            outputs.append(F.conv2d(one[None], modulated, padding=weight.shape[-1] // 2)[0])
            continue
        height, width = one.shape[1:]
        spread = one.new_zeros(one.shape[0], 2 * height, 2 * width)
        spread[:, ::2, ::2] = one
        # True convolution: the kernel is flipped. One more column of zeros makes room for the filter.
        spread = F.conv2d(F.pad(spread[None], (3, 2, 3, 2)), modulated.flip(2, 3))
        taps = (4 * resampling_filter()).to(one)[None, None].expand(weight.shape[0], 1, 4, 4)
        outputs.append(F.conv2d(spread, taps, groups=weight.shape[0])[0])
    return torch.stack(outputs)


def demodulated(x, weight, style, **options):
    """The convolution with its demodulation, wherever that is applied."""
    y, scale = modulated_conv2d(x, weight, style, **options)
    return y if scale is None else y * scale[:, :, None, None]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(1, 4), (1, 9), (3, 9)])  # few pixels, few weights, many styles
def test_modulated_convolution_follows_the_paper(rng, batch, size, up):
    x = torch.randn(batch, 4, size, size, generator=rng).double()
    style = torch.randn(batch, 4, generator=rng).double()
    weight = torch.randn(5, 4, 3, 3, generator=rng).double()
    found = demodulated(x, weight, style, up=up, taps=resampling_filter().double())
    torch.testing.assert_close(found, modulated_conv_by_the_paper(x, weight, style, up))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(1, 2), (1, 6), (2, 3)])
@pytest.mark.parametrize("weights", [True, False])
def test_gradients_of_a_layer_by_finite_differences(rng, batch, size, up, weights):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = SynthesisLayer(2, 3, 4, size * (2 if up else 1), up=up, conv_clamp=0.9).double()
    torch.nn.init.constant_(layer.noise_strength, 0.3)
    x = torch.randn(batch, 2, size, size, generator=rng, dtype=torch.float64, requires_grad=True)
    w = torch.randn(batch, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    layer.requires_grad_(weights)
    torch.nn.init.normal_(layer.bias, generator=rng)
    assert (layer(x, w).abs() == 0.9).any()  # the clamp is at work
    parameters = dict(layer.named_parameters())

    def outputs(x, w, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x, w))

    assert torch.autograd.gradcheck(outputs, (x, w, *parameters.values()))


def test_upsampling_convolution_can_be_differentiated_twice(rng):
    """As a gradient penalty does."""
    x = torch.randn(1, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    convolved = lambda x, weight: resampled_conv2d(x, weight, True, resampling_filter().double())  # noqa: E731
    assert torch.autograd.gradgradcheck(convolved, (x, weight))


def test_float16_is_close_and_does_not_overflow(rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = SynthesisLayer(32, 16, 8, 16, conv_clamp=256)
    x, w = torch.randn(2, 32, 16, 16, generator=rng), 50 * torch.randn(2, 8, generator=rng)
    layer.weight.data *= 3e3  # demodulation forgets this, the range of float16 does not
    plain, half = layer(x, w), layer(x.half(), w)
    assert half.dtype == torch.float16
    assert (half - plain).abs().max() < 0.01 * plain.abs().max()


def test_one_style_serves_a_batch(rng):
    x, weight = torch.randn(3, 4, 6, 6, generator=rng), torch.randn(5, 4, 3, 3, generator=rng)
    style = torch.randn(1, 4, generator=rng)
    torch.testing.assert_close(demodulated(x, weight, style), demodulated(x, weight, style.expand(3, -1)))


def test_demodulated_output_has_unit_variance(rng):
    x = torch.randn(8, 64, 16, 16, generator=rng)
    weight, style = 7 * torch.randn(32, 64, 3, 3, generator=rng), torch.randn(8, 64, generator=rng)
    inner = demodulated(x, weight, style)[:, :, 1:-1, 1:-1]
    assert inner.std().item() == pytest.approx(1, rel=0.05)


# -------------------------------------------------------------------- linear, normalisation, mapping
def test_equal_linear_formula(rng):
    layer = EqualLinear(6, 3, bias_init=2, lr_multiplier=0.01, activate=True)
    x = torch.randn(4, 6, generator=rng)
    y = x @ (layer.weight * 0.01 / math.sqrt(6)).T + layer.bias * 0.01
    expected = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.bias * 0.01, torch.full((3,), 2.0))


def test_initial_weights_undo_the_learning_rate_multiplier():
    assert (EqualLinear(200, 200, lr_multiplier=0.01).weight * 0.01).std().item() == pytest.approx(
        1, rel=0.05
    )


def test_normalised_latents_have_unit_mean_square(rng):
    x = normalise_2nd_moment(5 * torch.randn(4, 32, generator=rng))
    torch.testing.assert_close(x.square().mean(dim=1), torch.ones(4))


def test_mapping_ignores_the_length_of_z_but_not_the_camera(rng):
    mapping = MappingNetwork(8, 25, 16)
    z, label = torch.randn(2, 8, generator=rng), torch.randn(2, 25, generator=rng)
    torch.testing.assert_close(mapping(3 * z, label), mapping(z, label), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mapping(z, label), mapping(z, label.flip(0)))


def test_w_avg_is_a_moving_average_of_batch_means(rng):
    mapping = MappingNetwork(8, 25, 16)
    first, second = torch.randn(4, 16, generator=rng), torch.randn(6, 16, generator=rng)
    mapping.update_w_avg(first, beta=0.9)
    mapping.update_w_avg(second, beta=0.9)
    expected = 0.9 * (0.1 * first.mean(dim=0)) + 0.1 * second.mean(dim=0)
    torch.testing.assert_close(mapping.w_avg, expected)


# -------------------------------------------------------------------- layers and blocks
def test_synthesis_layer_formula(rng):
    layer = SynthesisLayer(4, 5, 8, 6, conv_clamp=0.7)
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.constant_(layer.noise_strength, 0.5)
    x, w = torch.randn(2, 4, 6, 6, generator=rng), torch.randn(2, 8, generator=rng)
    y = demodulated(x, layer.weight, layer.affine(w))
    y = y + 0.5 * layer.noise_const + layer.bias[:, None, None]
    expected = (F.leaky_relu(y, 0.2) * math.sqrt(2)).clamp(-0.7, 0.7)
    assert (expected.abs() == 0.7).any()  # the clamp is at work
    torch.testing.assert_close(layer(x, w), expected)


def test_noise_modes(rng):
    layer = SynthesisLayer(4, 5, 8, 6)
    x, w = torch.randn(2, 4, 6, 6, generator=rng), torch.randn(2, 8, generator=rng)
    assert layer(x, w, "const").equal(layer(x, w, "none"))  # the strength starts at zero
    torch.nn.init.constant_(layer.noise_strength, 0.5)
    seeded = [layer(x, w, "random", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert seeded[0].equal(seeded[1])
    assert not seeded[0].equal(seeded[2])
    assert not layer(x, w, "const").equal(layer(x, w, "none"))
    with pytest.raises(ValueError, match="needs rng"):
        layer(x, w, "random")
    with pytest.raises(ValueError, match="noise_mode must be one of const, random, none"):
        layer(x, w, "constant")


def test_torgb_is_linear_and_not_demodulated(rng):
    layer = ToRGB(16, 3, 8)
    x, w = torch.randn(2, 16, 4, 4, generator=rng), torch.randn(2, 8, generator=rng)
    styles = layer.affine(w) / 4
    expected = torch.einsum("oi,bi,bihw->bohw", layer.weight[:, :, 0, 0], styles, x)
    torch.testing.assert_close(layer(x, w), expected)
    torch.testing.assert_close(layer(2 * x, w), 2 * expected)


def test_block_adds_its_picture_to_the_upsampled_one(rng):
    block = SynthesisBlock(4, 6, 8, 8, 3)
    x, picture = torch.randn(2, 4, 4, 4, generator=rng), torch.randn(2, 3, 4, 4, generator=rng)
    w_plus = torch.randn(2, 3, 8, generator=rng)
    features, with_picture = block(x, picture, w_plus)
    _, alone = block(x, None, w_plus)
    torch.testing.assert_close(with_picture, alone + upsample2d(picture))
    expected = block.conv1(block.conv0(x, w_plus[:, 0]), w_plus[:, 1])
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(alone, block.torgb(expected, w_plus[:, 2]))


def test_block_without_upsampling_leaves_its_input_alone(rng):
    block = SynthesisBlock(4, 6, 8, 4, 3, up=False)
    x, picture = torch.randn(2, 4, 4, 4, generator=rng), torch.randn(2, 3, 4, 4, generator=rng)
    before, w_plus = picture.clone(), torch.randn(2, 3, 8, generator=rng)
    _, added = block(x, picture, w_plus)
    assert picture.equal(before)
    torch.testing.assert_close(added, block(x, None, w_plus)[1] + picture)


def test_each_layer_has_its_own_style_but_torgb_shares_with_the_next(rng):
    network = SynthesisNetwork(8, 16, 6, channel_base=64, channel_max=8)
    assert network.num_ws == 6  # conv1 | conv0, conv1 | conv0, conv1, torgb
    w_plus = torch.randn(1, 6, 8, generator=rng, requires_grad=True)
    picture = network(w_plus)
    assert picture.shape == (1, 6, 16, 16)
    picture.sum().backward()
    assert (w_plus.grad.abs().sum(dim=2) > 0).all()
    by_hand = network.b4(None, None, w_plus[:, 0:2])
    by_hand = network.b8(*by_hand, w_plus[:, 1:4])
    torch.testing.assert_close(network.b16(*by_hand, w_plus[:, 3:6])[1], picture)


@pytest.mark.parametrize(("resolution", "layers"), [(64, 10), (256, 14)])
def test_number_of_styles(resolution, layers):
    assert SynthesisNetwork(4, resolution, 3, channel_base=256, channel_max=2).num_ws == layers


def test_resolution_must_be_a_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        SynthesisNetwork(8, 48, 3, channel_base=64, channel_max=8)
