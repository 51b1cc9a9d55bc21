"""TriPlaneNet's second branch: pictures and planes to offsets of the planes."""

import dataclasses
import json

import pytest
import torch
from tiny_generator import tiny_generator

from lib.encoders.irse import IRSE, IRSEConfig
from lib.encoders.triplanenet import DoubleConv, TriPlaneNet, TriPlaneNetConfig, offset_planes

SIDE = 16
"""Pixels of the tiny generator's pictures and of its planes, which have four channels."""


def network(**changes):
    """A network for the tiny generator, with random weights; its last layer too."""
    torch.manual_seed(0)
    tiny = {"resolution": SIDE, "plane_channels": 4, "zero_start": False}
    return TriPlaneNet(TriPlaneNetConfig.embedded(**(tiny | changes)))


def first_version(**changes):
    """The same without the mirrored photo and without planes."""
    body = IRSEConfig.embedded(in_channels=6, units=(1, 1, 1, 2), widths=(16, 24, 40, 48))
    return network(mirrored=False, sees_planes=False, body=body, **changes)


def pictures(count, n=2, side=SIDE):
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(n, 3, side, side, generator=rng) * 2 - 1 for _ in range(count)]


def some_planes(n=2, side=SIDE, channels=4):
    return 20 * torch.randn(n, 3, channels, side, side, generator=torch.Generator().manual_seed(1))


def entering(module):
    """A list that the inputs of a module are appended to."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    return seen


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- official size --------------------------------------------------------------------------------------


def double_conv(before, channels):
    """Parameters of a norm, two 3x3 convolutions with biases, and three PReLUs."""
    return 2 * before + (9 * before + 1) * channels + (9 * channels + 1) * channels + 3 * channels


def head(before, width=96):
    """Parameters of two 3x3 convolutions with PReLU and a 1x1 convolution to 96 channels of planes."""
    return (9 * before + 1) * width + width + (9 * width + 1) * width + width + (width + 1) * 96


RELEASED = {
    "version 2": (TriPlaneNetConfig.official(), 9, [(1024, 512), (768, 256), (384, 128), (192, 64)], 64 + 96),
    "version 2, shuffled": (
        TriPlaneNetConfig.official(decoder=(512, 384, 256, 96), upsampling="shuffle"),
        9,
        [(1024, 512), (384, 384), (224, 256), (128, 96)],
        24 + 96,
    ),
    "version 1": (TriPlaneNetConfig.official_v1(), 6, [(1024, 512), (384, 384), (224, 256), (128, 96)], 24),
}
"""Configuration, channels that enter, channels in and out of each step up, channels that enter the head."""


@pytest.mark.parametrize("name", RELEASED)
def test_official_networks_have_the_released_size(name):
    config, in_channels, steps, last = RELEASED[name]
    with torch.device("meta"):
        made = TriPlaneNet(config)
        body = IRSE(IRSEConfig.official(in_channels=in_channels))
        seen = [torch.empty(1, 3, 256, 256) for _ in range(2 * in_channels // 3 - 2)]
        planes = torch.empty(1, 3, 32, 256, 256)
    assert count(made) == count(body) + sum(double_conv(*step) for step in steps) + head(last)
    assert made(*seen, planes=planes if config.sees_planes else None).shape == (1, 3, 32, 256, 256)


def test_names_are_those_of_the_released_version():
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape) for name, value in TriPlaneNet(TriPlaneNetConfig()).state_dict().items()
        }
        body = {
            name: tuple(value.shape) for name, value in IRSE(IRSEConfig(in_channels=9)).state_dict().items()
        }
    expected = dict(body)
    for step, (before, channels) in enumerate(RELEASED["version 2"][2], start=1):
        name = f"up{step}.conv.double_conv"
        expected |= {
            f"{name}.0.{part}": (before,) for part in ("weight", "bias", "running_mean", "running_var")
        }
        expected |= {
            f"{name}.0.num_batches_tracked": (),
            f"{name}.1.weight": (channels, before, 3, 3),
            f"{name}.1.bias": (channels,),
            f"{name}.2.weight": (channels,),
            f"{name}.3.weight": (channels, channels, 3, 3),
            f"{name}.3.bias": (channels,),
            f"{name}.4.weight": (channels,),
            f"{name}.5.weight": (channels,),
        }
    for index, shape in {0: (96, 160, 3, 3), 2: (96, 96, 3, 3), 4: (96, 96, 1, 1)}.items():
        expected |= {f"final_head_two.{index}.weight": shape, f"final_head_two.{index}.bias": (96,)}
    expected |= {"final_head_two.1.weight": (96,), "final_head_two.3.weight": (96,)}
    assert shapes == expected


# ---- what enters ----------------------------------------------------------------------------------------


def test_the_reconstruction_and_what_it_misses_enter_from_both_sides():
    made = network()
    seen = entering(made.input_layer)
    reconstruction, target, mirrored_reconstruction, mirrored_target = pictures(4)
    made(reconstruction, target, mirrored_reconstruction, mirrored_target, some_planes())
    expected = [reconstruction, target - reconstruction, mirrored_target - mirrored_reconstruction]
    assert torch.equal(seen[0][0], torch.cat(expected, dim=1))


def test_the_first_version_sees_one_side_and_no_planes():
    made = first_version()
    seen = entering(made.input_layer)
    reconstruction, target = pictures(2)
    offsets = made(reconstruction, target)
    assert torch.equal(seen[0][0], torch.cat([reconstruction, target - reconstruction], dim=1))
    assert torch.equal(made(reconstruction, target, *pictures(2), some_planes()), offsets)


@pytest.mark.parametrize("upsampling", ["nearest", "shuffle"])
def test_each_step_up_meets_the_body_at_its_resolution(upsampling):
    made = network(upsampling=upsampling, decoder=(32, 64, 64, 32)).eval()
    steps = [entering(up) for up in (made.up1, made.up2, made.up3, made.up4)]
    made(*pictures(4), some_planes())
    taps = made.taps(torch.cat(_residuals(*pictures(4)), dim=1), (0, 1, 2, 3, 4))
    sides = []
    for seen, beside in zip(steps, taps[3::-1], strict=True):
        assert torch.equal(seen[0][1], beside)
        sides.append((seen[0][0].shape[-1], beside.shape[-1]))
    assert torch.equal(steps[0][0][0], taps[4])
    assert sides == [(1, 1), (1, 2), (2, 4), (4, 8)]


def _residuals(reconstruction, target, mirrored_reconstruction, mirrored_target):
    return [reconstruction, target - reconstruction, mirrored_target - mirrored_reconstruction]


def test_a_double_convolution_is_its_definition():
    made = DoubleConv(16, 8, "group").eval()
    norm, first, prelu, second, *rest = made.double_conv
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    for i, module in enumerate((prelu, *rest)):
        module.weight.data = torch.linspace(-0.5, 0.9, 8).roll(i)

    def bent(y, module):
        return torch.where(y > 0, y, module.weight[:, None, None] * y)

    expected = bent(second(bent(first(norm(x)), prelu)), rest[0])
    assert torch.allclose(made(x), bent(expected, rest[1]), atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_the_scale_of_planes_enters_and_leaves(scale):
    unscaled, scaled = network(plane_scale=1.0), network(plane_scale=scale)  # the same weights
    planes = some_planes() / 20
    expected = scale * unscaled(*pictures(4), planes)
    assert torch.allclose(scaled(*pictures(4), scale * planes), expected, rtol=1e-4, atol=1e-4)


def test_planes_stay_planes():
    """Offsets of one plane and channel are where that plane and channel is, as the generator orders them."""
    made = network(plane_scale=1.0)
    last = made.final_head_two[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(12.0))
    offsets = made(*pictures(4), some_planes())
    assert torch.equal(offsets[0, :, :, 3, 5], torch.arange(12.0).reshape(3, 4))


def test_what_is_missing_is_said():
    two, four = pictures(2), pictures(4)
    with pytest.raises(ValueError, match="give mirrored_reconstruction and mirrored_target"):
        network()(*two, planes=some_planes())
    with pytest.raises(ValueError, match=r"expected planes \[B, 3, 4, 16, 16\], got None"):
        network()(*four)
    with pytest.raises(ValueError, match=r"got \[2, 3, 4, 32, 32\]"):
        network()(*four, some_planes(side=32))
    with pytest.raises(ValueError, match=r"expected pictures \[B, 3, 16, 16\].*\[32, 32\]"):
        network()(*pictures(4, side=32), some_planes())


# ---- with a generator -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def heads(generator):
    """Codes, photos of others, and cameras from the side."""
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(3))
    camera = generator.camera(torch.tensor([0.4, -0.2]), torch.tensor([0.1, 0.0]))
    return generator.map(z, generator.frontal_camera()), pictures(1)[0], camera


def test_a_start_at_zero_leaves_the_planes(generator, heads):
    w_plus, photo, camera = heads
    planes = offset_planes(generator, network(zero_start=True), photo, w_plus, camera)
    assert torch.equal(planes, generator.planes(w_plus))


@pytest.mark.parametrize("make", [network, first_version])
def test_offsets_are_added_to_the_planes_of_the_code(generator, heads, make):
    w_plus, photo, camera = heads
    made, planes = make(), generator.planes(w_plus)
    shown = generator.render(planes, w_plus, camera).image
    turned = generator.render(planes, w_plus, camera.mirror()).image
    offsets = made(shown, photo, turned, photo.flip(3), planes)
    assert offsets.abs().max() > 0.1
    assert torch.allclose(offset_planes(generator, made, photo, w_plus, camera), planes + offsets, atol=1e-5)


def test_gradients_reach_the_network_alone(generator, heads):
    w_plus, photo, camera = heads
    w_plus, made = w_plus.clone().requires_grad_(), network()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    planes = offset_planes(generator, made, photo, w_plus, camera)
    generator.render(planes, w_plus.detach(), camera).image.square().sum().backward()
    assert w_plus.grad is None
    assert not [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


# ---- settings -------------------------------------------------------------------------------------------


def test_the_embedded_network_is_small_and_fits_portraits64():
    made = TriPlaneNet(TriPlaneNetConfig.embedded())
    assert count(made) <= 350_000
    assert made(*pictures(4, n=1, side=64), some_planes(1, 64, 16)).shape == (1, 3, 16, 64, 64)


@pytest.mark.parametrize("config", [TriPlaneNetConfig.official_v1(), TriPlaneNetConfig.embedded()])
def test_settings_survive_json(config):
    assert TriPlaneNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mirrored": False}, "takes 6 channels.*got 9"),
        ({"decoder": (32, 64, 64)}, "four steps up"),
        ({"decoder": (32, 64, 66, 32)}, "multiples of 4"),
        ({"upsampling": "bilinear"}, "nearest or shuffle; got 'bilinear'"),
        ({"resolution": 48}, "power of two"),
        ({"plane_scale": 0.0}, "positive size; got 0"),
        ({"body": IRSEConfig.embedded(in_channels=9)}, "the last of two units"),
    ],
)
def test_settings_that_make_no_network_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TriPlaneNetConfig.embedded(**wrong)
