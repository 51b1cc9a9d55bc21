"""The discriminator of codes: an MLP that judges each code alone, and can be regularised by its gradient."""

import pytest
import torch

from lib.encoders.latent_discriminator import LatentDiscriminator, LatentDiscriminatorConfig, judged_codes
from lib.losses import r1_loss

TINY = LatentDiscriminatorConfig(w_dim=5, hidden=7, layers=3)


def discriminator(config=TINY, seed=0):
    torch.manual_seed(seed)
    return LatentDiscriminator(config).double()


def codes(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in LatentDiscriminator(config).parameters())


def test_sizes():
    assert (
        parameters(LatentDiscriminatorConfig.official()) == 3 * (512 * 512 + 512) + 512 + 1
    )  # e4e's, 0.79 M
    assert parameters(LatentDiscriminatorConfig.embedded()) < 0.1e6


def test_scores_are_those_of_the_layers_written_out():
    network, w = discriminator(), codes(4, 5)
    first, second, last = (layer for layer in network.mlp if isinstance(layer, torch.nn.Linear))
    expected = []
    for code in w:
        hidden = code
        for layer in (first, second):
            hidden = layer.weight @ hidden + layer.bias
            hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        expected.append((last.weight @ hidden + last.bias)[0])
    assert torch.allclose(network(w), torch.stack(expected))


def test_each_code_is_judged_by_itself():
    network, w_plus = discriminator(), codes(2, 3, 5)
    scores = network(judged_codes(w_plus)).reshape(2, 3)
    for picture in range(2):
        for layer in range(3):
            assert torch.allclose(scores[picture, layer], network(w_plus[picture, layer][None])[0])


def test_r1_reaches_the_weights():
    """The penalty's gradient at the weights goes through the gradient at the codes: against finite differences."""
    network, w = discriminator(), codes(6, 5).requires_grad_()

    def penalty():
        return r1_loss(network(w), [w]).mean()

    penalty().backward()
    weight = network.mlp[2].weight
    step, found = 1e-6, weight.grad[3, 2].item()
    with torch.no_grad():
        weight[3, 2] += step
    more = penalty().item()
    with torch.no_grad():
        weight[3, 2] -= 2 * step
    assert found == pytest.approx((more - penalty().item()) / (2 * step), rel=1e-4)
    assert abs(found) > 1e-6


@pytest.mark.parametrize("wrong", [{"layers": 1}, {"hidden": 0}, {"w_dim": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LatentDiscriminatorConfig(**wrong)
