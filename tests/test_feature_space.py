"""Features of the generator, taken out and put back: nothing is lost on the way, and each layer acts where it should."""

import pytest
import torch

from lib.encoders.feature_space import features_at, planes_of
from lib.generators import EG3D
from tests.tiny_encoders import LAYERS, W_DIM, deep_generator
from tests.tiny_generator import tiny_generator

BLOCKS = (4, 8, 16, 32)
LAYERS_OF = {4: [0, 1], 8: [1, 2, 3], 16: [3, 4, 5], 32: [5, 6, 7], 64: [7, 8, 9]}
"""The layers of w_plus that a block reads: its convolutions', then its ToRGB's, which is the next block's first."""


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return deep_generator()


@pytest.fixture(scope="module")
def w_plus(generator) -> torch.Tensor:
    """Two codes, other ones in each layer."""
    offsets = torch.randn(2, LAYERS, W_DIM, generator=torch.Generator().manual_seed(0))
    return generator.w_mean + 0.5 * offsets


@pytest.mark.parametrize("resolution", BLOCKS)
def test_what_is_taken_out_and_put_back_gives_the_same_planes(generator, w_plus, resolution):
    features = features_at(generator, w_plus, resolution)
    assert features.resolution == resolution
    width = getattr(generator.backbone.synthesis, f"b{resolution}").conv1.weight.shape[0]
    assert features.values.shape == (2, width, resolution, resolution)
    assert torch.equal(planes_of(generator, features, w_plus), generator.planes(w_plus))


@pytest.mark.parametrize("resolution", BLOCKS)
def test_features_are_what_leaves_the_block(generator, w_plus, resolution):
    block, left = getattr(generator.backbone.synthesis, f"b{resolution}"), []
    hook = block.register_forward_hook(lambda module, given, result: left.append(result))
    generator.planes(w_plus)
    hook.remove()
    features = features_at(generator, w_plus, resolution)
    (values, added), *_ = left
    assert torch.equal(features.values, values) and torch.equal(features.added, added)


@pytest.mark.parametrize("resolution", BLOCKS)
def test_changed_features_change_the_planes_and_not_what_was_added_before(generator, w_plus, resolution):
    """The planes are a sum over the blocks: the part before the features moves them by itself, one to one."""
    features = features_at(generator, w_plus, resolution)
    values = features.values.clone().requires_grad_()
    changed = planes_of(generator, features._replace(values=1.5 * values + 0.1), w_plus)
    assert (changed - generator.planes(w_plus)).abs().max() > 1e-3
    changed.square().sum().backward()
    assert (values.grad.flatten(1).abs().max(dim=1).values > 0).all()

    shift = torch.randn(12, generator=torch.Generator().manual_seed(1))[:, None, None]
    moved = planes_of(generator, features._replace(added=features.added + shift), w_plus)
    inner = (moved - generator.planes(w_plus)).flatten(1, 2)[
        ..., 24:40, 24:40
    ]  # at borders filters see nothing
    assert torch.allclose(inner, shift.expand_as(inner), atol=1e-4)


@pytest.mark.parametrize("resolution", BLOCKS)
def test_each_layer_acts_in_the_blocks_that_read_it(generator, w_plus, resolution):
    before, after = (
        {layer for size, layers in LAYERS_OF.items() if keep(size) for layer in layers}
        for keep in (lambda size: size <= resolution, lambda size: size > resolution)
    )
    features, planes = features_at(generator, w_plus, resolution), generator.planes(w_plus)
    for layer in range(LAYERS):
        other = w_plus.clone()
        other[:, layer] += 0.3
        found = features_at(generator, other, resolution)
        assert torch.equal(found.added, features.added) == (layer not in before)
        own = layer in before and layer != max(before)  # the last is ToRGB's alone
        assert torch.equal(found.values, features.values) == (not own)
        assert torch.equal(planes_of(generator, features, other), planes) == (layer not in after)


def test_heads_of_a_batch_do_not_mix(generator, w_plus):
    features = features_at(generator, w_plus, 16)
    values = features.values.clone()
    values[1] += 1
    planes = planes_of(generator, features._replace(values=values), w_plus)
    assert torch.allclose(planes[0], generator.planes(w_plus[:1])[0], atol=1e-5)


@pytest.mark.parametrize("resolution", [64, 12, 128])
def test_only_blocks_before_the_last_have_features_to_refine(generator, w_plus, resolution):
    with pytest.raises(ValueError, match=f"at 4, 8, 16, 32; got {resolution}"):
        features_at(generator, w_plus, resolution)


def test_the_blocks_are_the_generators():
    shallow = tiny_generator()
    mean = shallow.w_mean.expand(1, shallow.n_layers, -1)
    assert features_at(shallow, mean, 8).values.shape == (1, 16, 8, 8)
    with pytest.raises(ValueError, match="at 4, 8; got 16"):
        features_at(shallow, mean, 16)
