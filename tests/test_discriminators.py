import dataclasses
import json
import math

import pytest
import torch

from lib.generators.discriminators import (
    ConvLayer,
    DiscriminatorBlock,
    DiscriminatorConfig,
    DualDiscriminator,
    downsampling_conv2d,
    minibatch_deviation,
)
from lib.generators.stylegan2 import MappingNetwork, normalise_2nd_moment, resampling_filter
from lib.losses import r1_loss

TINY = DiscriminatorConfig.embedded(8, channel_base=64, channel_max=6, mapping_layers=2, group_size=2)
TAPS = resampling_filter()
KERNEL = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def discriminator(config: DiscriminatorConfig = TINY) -> DualDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DualDiscriminator(config)


def inputs(
    batch: int = 4, size: int = 8, raw: int = 4, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Picture, raw picture, label."""
    shapes = ((batch, 3, size, size), (batch, 3, raw, raw), (batch, 25))
    return [random(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes, 1)]


# ----------------------------------------------------------------------- resampling


def test_downsampling_convolutions_have_the_originals_values():
    """Numbers that the original code gave (reference for released weights): 0..15 under 1..9, and under 1."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    three = torch.tensor([[183.9219, 206.4688], [264.3594, 268.5312]])
    one = torch.tensor([[2.7344, 3.9375], [7.5469, 8.7500]])
    assert torch.allclose(downsampling_conv2d(x, KERNEL, TAPS)[0, 0], three, atol=1e-4)
    assert torch.allclose(downsampling_conv2d(x, torch.ones(1, 1, 1, 1), TAPS)[0, 0], one, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_downsampling_convolution_equals_filter_everything_then_skip(kernel):
    """By loops over channels: pad, filter every pixel, convolve every pixel, keep every second."""
    x, weight = random(0, 2, 3, 8, 8), random(1, 4, 3, kernel, kernel)
    padding = 2 if kernel == 3 else 1
    padded = torch.nn.functional.pad(x, [padding] * 4)
    side = padded.shape[-1] - 3
    filtered = sum(TAPS[i, j] * padded[:, :, i : i + side, j : j + side] for i in range(4) for j in range(4))
    everywhere = torch.nn.functional.conv2d(filtered, weight)
    assert torch.allclose(downsampling_conv2d(x, weight, TAPS), everywhere[:, :, ::2, ::2], atol=1e-5)


def test_a_constant_stays_a_constant_away_from_the_border():
    y = downsampling_conv2d(torch.ones(1, 1, 16, 16), torch.ones(1, 1, 1, 1), TAPS)
    assert torch.allclose(y[..., 1:-1, 1:-1], torch.ones(()))


# ----------------------------------------------------------------------- minibatch deviation


def test_minibatch_deviation_equals_loops():
    x = random(0, 8, 3, 2, 2, dtype=torch.float64)
    found = minibatch_deviation(x, 4)
    for group in range(2):
        members = x[group::2].reshape(4, -1)  # of two groups, every second picture
        deviations = [(sum((v - column.mean()) ** 2 for v in column) / 4) ** 0.5 for column in members.T]
        expected = float(sum(deviations) / len(deviations))
        assert found[group::2].flatten().tolist() == pytest.approx([expected] * 16, rel=1e-6)


def test_minibatch_deviation_of_equals_is_nearly_zero_and_small_batches_are_one_group():
    same = random(0, 1, 3, 2, 2).expand(3, -1, -1, -1)
    assert minibatch_deviation(same, 4).max() <= 1.1e-4  # the root of the epsilon
    x = random(0, 3, 2, 2, 2)
    assert torch.equal(minibatch_deviation(x, 4), minibatch_deviation(x, 3))


def test_a_batch_that_no_groups_fit_in_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 cannot be split into groups of 4"):
        minibatch_deviation(random(0, 6, 1, 2, 2), 4)


# ----------------------------------------------------------------------- layers


def test_gain_scales_the_output_and_the_clamp():
    layer = ConvLayer(2, 3, 3, conv_clamp=0.5)
    x = 10 * random(0, 1, 2, 4, 4)
    assert layer(x).abs().max() == 0.5
    assert layer(x, gain=0.25).abs().max() == 0.125
    unclamped = ConvLayer(2, 3, 3)
    unclamped.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(x), unclamped(x).clamp(-0.5, 0.5))
    assert torch.allclose(layer(x, 0.25), (0.25 * unclamped(x)).clamp(-0.125, 0.125))


def test_a_convolution_keeps_unit_variance():
    y = ConvLayer(64, 64, 1, linear=True)(random(0, 4, 64, 16, 16))
    assert y.var().item() == pytest.approx(1, rel=0.1)


def test_a_block_is_the_mean_of_its_branches_in_energy():
    block = DiscriminatorBlock(4, 4, conv_clamp=None)
    x = random(0, 2, 4, 8, 8)
    expected = (block.skip(x) + block.conv1(block.conv0(x))) * math.sqrt(0.5)
    assert torch.allclose(block(x), expected, atol=1e-6)


def test_the_shortcut_is_not_clamped():
    block = DiscriminatorBlock(2, 2, conv_clamp=0.01)
    assert block(100 * random(0, 1, 2, 8, 8)).abs().max() > 1


def test_the_label_network_maps_a_normalised_embedding():
    """z_dim 0: no latent, no mean of w."""
    mapping = MappingNetwork(0, 25, 8, 2)
    label = random(0, 3, 25)
    x = normalise_2nd_moment(mapping.embed(label))
    assert torch.equal(mapping(None, label), mapping.fc1(mapping.fc0(x)))
    assert "w_avg" not in mapping.state_dict()


# ----------------------------------------------------------------------- the whole


def official_shapes() -> dict[str, list[int]]:
    """Names and shapes of the released FFHQ 512 model's state dict, 92 of them."""
    widths = {512: 64, 256: 128, 128: 256, 64: 512, 32: 512, 16: 512, 8: 512, 4: 512}
    shapes: dict[str, list[int]] = {"resample_filter": [4, 4], "b512.fromrgb.weight": [64, 6, 1, 1]}
    shapes |= {"b512.fromrgb.bias": [64], "b512.fromrgb.resample_filter": [4, 4]}
    for size in (512, 256, 128, 64, 32, 16, 8):
        width, next_width = widths[size], widths[size // 2]
        shapes |= {
            f"b{size}.resample_filter": [4, 4],
            f"b{size}.conv0.weight": [width, width, 3, 3],
            f"b{size}.conv0.bias": [width],
            f"b{size}.conv0.resample_filter": [4, 4],
            f"b{size}.conv1.weight": [next_width, width, 3, 3],
            f"b{size}.conv1.bias": [next_width],
            f"b{size}.conv1.resample_filter": [4, 4],
            f"b{size}.skip.weight": [next_width, width, 1, 1],
            f"b{size}.skip.resample_filter": [4, 4],
        }
    shapes |= {"mapping.embed.weight": [512, 25], "mapping.embed.bias": [512]}
    for index in range(8):
        shapes |= {f"mapping.fc{index}.weight": [512, 512], f"mapping.fc{index}.bias": [512]}
    shapes |= {"b4.conv.weight": [512, 513, 3, 3], "b4.conv.bias": [512], "b4.conv.resample_filter": [4, 4]}
    shapes |= {"b4.fc.weight": [512, 8192], "b4.fc.bias": [512], "b4.out.weight": [512, 512]}
    return shapes | {"b4.out.bias": [512]}


def test_official_state_dicts_have_these_names_and_shapes():
    with torch.device("meta"):
        model = DualDiscriminator(DiscriminatorConfig.ffhq512())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == official_shapes()
    assert len(official_shapes()) == 92
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_359_744


def test_which_resolutions_compute_in_half_precision():
    with torch.device("meta"):
        model = DualDiscriminator(DiscriminatorConfig.ffhq512())
    half = [size for size in model.block_resolutions if getattr(model, f"b{size}").float16]
    assert half == [512, 256, 128, 64]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_precision_is_close_and_can_be_forbidden():
    model = discriminator(dataclasses.replace(TINY, num_fp16_res=1, conv_clamp=256.0)).cuda()
    args = [value.cuda() for value in inputs()]
    exact = model(*args, force_fp32=True)
    assert model(*args) == pytest.approx(exact, abs=1e-2)
    assert torch.allclose(exact.cpu(), model.cpu()(*inputs()), atol=1e-3)


def test_picture_raw_picture_and_label_all_count():
    model, (image, raw, label) = discriminator(), inputs()
    score = model(image, raw, label)
    assert score.shape == (4,)
    for changed in [(image.flip(3), raw, label), (image, raw.flip(3), label), (image, raw, -label)]:
        assert (model(*changed) - score).abs().min() > 1e-4


def test_score_is_the_projection_on_the_mapped_label():
    model, (image, raw, label) = discriminator(), inputs()
    mapped = model.mapping(None, label)
    features = []
    model.b4.register_forward_hook(lambda *event: features.append(event[2]))
    score = model(image, raw, label)
    assert torch.allclose(score, (features[0] * mapped).sum(1) / math.sqrt(6), atol=1e-6)


def test_the_raw_picture_may_have_any_size():
    model, (image, _, label) = discriminator(), inputs()
    enlarged = model(image, random(5, 1, 3, 1, 1).expand(4, -1, 1, 1), label)
    assert torch.allclose(enlarged, model(image, random(5, 1, 3, 1, 1).expand(4, -1, 8, 8), label), atol=1e-6)


def test_label_noise_is_drawn_and_has_its_size():
    noisy = discriminator(dataclasses.replace(TINY, label_noise=0.5))
    image, raw, label = inputs()
    with pytest.raises(ValueError, match="needs rng"):
        noisy(image, raw, label)
    before = label.clone()
    scores = [noisy(image, raw, label, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert torch.equal(label, before)
    many = random(0, 4000, 25) * torch.arange(25)
    changed = noisy._noisy(many, torch.Generator().manual_seed(0)) - many
    assert changed.std(dim=0) == pytest.approx(0.5 * many.std(dim=0), rel=0.1)


def test_another_resolution_is_refused():
    with pytest.raises(ValueError, match="judges pictures of 8 px, not 16"):
        discriminator()(*inputs(size=16))
    with pytest.raises(ValueError, match="power of two"):
        DiscriminatorConfig(resolution=96)


def test_configuration_is_plain_values():
    for config in (TINY, DiscriminatorConfig.ffhq512()):
        assert DiscriminatorConfig(**json.loads(json.dumps(config.to_dict()))) == config


# ----------------------------------------------------------------------- gradients


def test_gradients_of_the_score_equal_finite_differences():
    model = discriminator().double()
    image, raw, label = (value.requires_grad_() for value in inputs(dtype=torch.float64))
    assert torch.autograd.gradcheck(model, (image, raw, label), fast_mode=True)


def test_gradients_of_r1_with_respect_to_weights_equal_finite_differences():
    """The second derivative, which training by R1 needs."""
    model = discriminator().double()
    image, raw, label = inputs(dtype=torch.float64)

    def penalty() -> torch.Tensor:
        pictures = [image.clone().requires_grad_(), raw.clone().requires_grad_()]
        return r1_loss(model(*pictures, label), pictures).mean()

    penalty().backward()
    for name in (
        "b8.fromrgb.weight",
        "b8.conv1.weight",
        "b8.skip.weight",
        "b4.conv.weight",
        "mapping.fc0.weight",
    ):
        parameter = model.get_parameter(name)
        direction = random(7, *parameter.shape, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(penalty().item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=step)
        expected = (values[0] - values[1]) / 2e-5
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4), name
