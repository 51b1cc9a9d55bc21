import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import prior
from lib.cameras import orbit
from lib.datasets import Plan, Portraits
from lib.generators import EG3D, load_generator, read_metadata
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator
from lib.prior import Batches, Distillation, Distiller, Pair, grow, initialise_mapping, parameter_groups
from lib.training import Processes
from tests.tiny_generator import TINY, RandomFeatures
from tests.tiny_portraits import portrait_generator, rendered_portraits

SMALL = Distillation(
    people=3, singles=4, lam_l2=0.5, lam_adversarial=0.1, adversarial_from=0, discriminator_from=0
)
OPPONENT = DiscriminatorConfig.embedded(
    TINY.resolution, channel_base=64, channel_max=8, mapping_layers=1, group_size=2
)


@pytest.fixture(scope="module")
def generator() -> EG3D:
    """Ignores the conditioning camera, so that every portrait of a person is a view of one head."""
    return portrait_generator(heeds_camera=False)


@pytest.fixture(scope="module")
def portraits(generator) -> Portraits:
    return rendered_portraits(generator, people=8, views=3, singles=8, held_out_people=2, held_out_singles=2)


@pytest.fixture(scope="module")
def batches(portraits) -> Batches:
    return Batches(portraits, SMALL)


@pytest.fixture(scope="module")
def person(portraits) -> np.ndarray:
    """The person on each of the rows that batches are drawn from."""
    return portraits.person[~portraits.held_out]


# ----------------------------------------------------------------------- batches


def test_the_same_step_draws_the_same_batch(batches, portraits):
    again = Batches(portraits, SMALL)
    for first, second in zip(batches.draw(7), again.draw(7), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(batches.draw(7)[0], batches.draw(8)[0])
    other = Batches(portraits, dataclasses.replace(SMALL, seed=1))
    assert not np.array_equal(batches.draw(7)[0], other.draw(7)[0])


@pytest.mark.parametrize("step", range(20))
def test_a_batch_has_two_views_of_some_people_and_single_portraits(batches, person, step):
    rows, _, code = batches.draw(step)
    first, second, singles = np.split(rows, [3, 6])
    assert np.array_equal(person[first], person[second])
    assert (first != second).all()
    assert len(set(person[first])) == 3
    assert (person[first] < 8).all()
    assert (person[singles] >= 8).all()
    assert len(set(singles)) == 4
    assert code.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("step", range(20))
def test_a_code_is_conditioned_on_the_camera_of_the_first_view(batches, step):
    rows, conditioning, _ = batches.draw(step)
    assert np.array_equal(conditioning[:3], rows[:3])


def test_half_of_the_single_portraits_are_conditioned_on_the_camera_of_another(batches):
    swapped = []
    for step in range(300):
        rows, conditioning, _ = batches.draw(step)
        assert set(conditioning[3:]) <= set(rows[6:])
        swapped.append(conditioning[3:] != rows[6:])
    assert np.mean(swapped) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("swap", [0.0, 1.0])
def test_the_swap_is_never_with_itself(portraits, swap):
    batches = Batches(portraits, dataclasses.replace(SMALL, swap=swap))
    for step in range(20):
        rows, conditioning, _ = batches.draw(step)
        assert np.mean(conditioning[3:] != rows[6:]) == swap


def test_held_out_people_are_never_drawn(batches, portraits):
    drawn = {tuple(batches.z[row].tolist()) for step in range(200) for row in batches.draw(step)[0]}
    assert drawn == {tuple(z.tolist()) for z in portraits.z[~portraits.held_out]}
    assert not drawn & {tuple(z.tolist()) for z in portraits.z[portraits.held_out]}


def test_a_person_of_whom_one_view_is_left_is_a_single_portrait(portraits):
    left = np.ones(len(portraits), bool)
    left[1:3] = False  # of person 0
    batches = Batches(portraits[left], SMALL)
    assert len(batches.people) == 5
    assert 0 in batches.singles


def test_processes_share_a_batch(portraits):
    """What two processes render together is what one would; codes and conditioning cameras stay with them."""
    whole, shares = Processes(), [Processes(), Processes()]
    for rank, process in enumerate(shares):
        process.rank, process.count = rank, 2
    even = Batches(portraits, dataclasses.replace(SMALL, people=4, singles=2))

    def triples(processes: Processes) -> set:
        rows, conditioning, code = even.draw(5, processes)
        return {(int(row), int(conditioning[one])) for row, one in zip(rows, code, strict=True)}

    parts = [triples(process) for process in shares]
    assert parts[0] | parts[1] == triples(whole)
    assert not parts[0] & parts[1]
    assert len(parts[0]) == len(parts[1]) == 5


# ----------------------------------------------------------------------- losses


def distiller(generator: EG3D, portraits: Portraits, settings: Distillation = SMALL) -> Distiller:
    torch.manual_seed(0)
    pair = Pair(generator, DualDiscriminator(OPPONENT))
    return Distiller(pair, Batches(portraits, settings), RandomFeatures(), settings)


def losses_of(generator: EG3D, portraits: Portraits, settings: Distillation = SMALL, step: int = 0) -> dict:
    found = distiller(copy.deepcopy(generator), portraits, settings).generator_losses(step)
    return {name: loss.item() for name, loss in found.items()}


def test_the_generator_that_made_the_portraits_has_hardly_any_loss(generator, portraits):
    """So code, camera, picture and depth of a row belong together; each, mixed up, is noticed."""
    matched = losses_of(generator, portraits)
    of_another = {name: np.roll(column, 3, axis=0) for name, column in vars(portraits).items()}
    for mixed_up, noticed_by in [
        ("images", ("image", "raw", "lpips")),
        ("z", ("image", "raw", "lpips", "depth")),
        ("face_depth", ("depth",)),
    ]:
        losses = losses_of(generator, dataclasses.replace(portraits, **{mixed_up: of_another[mixed_up]}))
        for name in noticed_by:
            assert matched[name] < 0.3 * losses[name], (mixed_up, name)
    turned = losses_of(generator, dataclasses.replace(portraits, labels=np.roll(portraits.labels, 1, axis=0)))
    assert matched["image"] < 0.5 * turned["image"]


def test_the_conditioning_camera_is_the_one_that_was_drawn(portraits):
    """A generator that heeds the camera: portraits of one view each were made under their own."""
    heeding = portrait_generator()
    singles = rendered_portraits(heeding, people=4, views=2, singles=8)
    own, swapped = (
        losses_of(heeding, singles, Distillation(people=1, singles=8, swap=swap))["image"]
        for swap in (0.0, 1.0)
    )
    assert own < 0.7 * swapped


def test_weights_scale_their_own_loss(generator, portraits):
    once = losses_of(generator, portraits)
    doubled = {name: 2 * value for name, value in vars(SMALL).items() if name.startswith("lam_")}
    doubled = dataclasses.replace(SMALL, **doubled)
    assert losses_of(generator, portraits, doubled) == pytest.approx(
        {name: 2 * x for name, x in once.items()}
    )
    silent = losses_of(generator, portraits, dataclasses.replace(SMALL, lam_depth=0.0))
    assert silent == pytest.approx(once | {"depth": 0.0})


def test_losses_depend_on_the_step_alone(generator, portraits):
    assert losses_of(generator, portraits, step=3) == losses_of(generator, portraits, step=3)
    assert losses_of(generator, portraits, step=3) != losses_of(generator, portraits, step=4)


def test_every_parameter_learns(generator, portraits):
    learner = copy.deepcopy(generator).train().requires_grad_(True)
    sum(distiller(learner, portraits).generator_losses(0).values()).backward()
    untouched = {name for name, parameter in learner.named_parameters() if parameter.grad is None}
    assert untouched == {
        name
        for name, _ in learner.named_parameters()
        if name.startswith("superresolution") and name.endswith("noise_strength")
    }
    for name, parameter in learner.named_parameters():
        if name not in untouched:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or ".embed." in name, name  # this generator ignores the camera


def test_depth_that_is_unknown_gives_no_gradient(generator, portraits):
    learner = copy.deepcopy(generator).requires_grad_(True)
    unknown = dataclasses.replace(portraits, face_depth=np.full_like(portraits.face_depth, np.nan))
    loss = distiller(learner, unknown).generator_losses(0)["depth"]
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in learner.parameters() if p.grad is not None)


def test_the_mean_of_w_is_tracked(generator, portraits, batches):
    learner = copy.deepcopy(generator)
    learner.backbone.mapping.w_avg.zero_()
    distiller(learner, portraits).generator_losses(0)
    rows, conditioning, _ = batches.draw(0)
    codes = batches.z[np.concatenate([rows[:3], rows[6:]])]
    w = learner.map(codes, batches.labels[conditioning])[:, 0]
    assert torch.allclose(learner.backbone.mapping.w_avg, 0.002 * w.mean(dim=0), atol=1e-6)


def test_beyond_the_border_nothing_is_asked_for(generator, portraits):
    """Whatever a reflection shows: the losses of pictures are those of the part inside."""
    inside = np.ones_like(portraits.inside)
    inside[:, :, : inside.shape[2] // 2] = False
    spoilt = np.where(inside[..., None], portraits.images, 255 - portraits.images)
    masked = [
        dataclasses.replace(portraits, images=images, inside=inside) for images in (portraits.images, spoilt)
    ]
    first, second = (losses_of(generator, some) for some in masked)
    assert first == second
    outside = dataclasses.replace(portraits, images=spoilt, inside=~inside)
    assert losses_of(generator, outside)["image"] > 10 * second["image"]
    nothing = losses_of(generator, dataclasses.replace(portraits, inside=np.zeros_like(inside)))
    assert [nothing[name] for name in ("image", "l2", "lpips")] == pytest.approx([0, 0, 0], abs=1e-7)


# ----------------------------------------------------------------------- the discriminator


def test_the_two_sides_join_when_they_are_told_to(generator, portraits):
    settings = dataclasses.replace(SMALL, adversarial_from=3, discriminator_from=1)
    one = distiller(copy.deepcopy(generator), portraits, settings)
    assert "adversarial" not in one.generator_losses(2)
    assert "adversarial" in one.generator_losses(3)
    assert [phase.first for phase in one.phases()] == [0, 1]


def test_the_discriminator_learns_to_tell_what_is_rendered_from_what_is_true(generator, portraits):
    inverted = dataclasses.replace(portraits, images=255 - portraits.images)
    one = distiller(copy.deepcopy(generator), inverted, dataclasses.replace(SMALL, gamma=0.01))
    optimiser = one.phases()[1].optimiser
    with torch.no_grad():
        one.generator_losses(0)
    for step in range(60):
        losses = one.discriminator_losses(step)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert losses["score_real"] > losses["score_fake"] + 0.5
    assert losses["discriminator"] < 2 * np.log(2) - 0.3


def test_a_good_score_lowers_the_generators_loss(generator, portraits):
    one = distiller(copy.deepcopy(generator), portraits)
    bias = one.pair.discriminator.b4.out.bias
    before = one.generator_losses(0)["adversarial"]
    with torch.no_grad():
        bias += 5
    assert one.generator_losses(0)["adversarial"] < before


def test_r1_is_taken_at_every_sixteenth_step_and_that_much_stronger(generator, portraits):
    found = {}
    for every in (4, 8):
        one = distiller(copy.deepcopy(generator), portraits, dataclasses.replace(SMALL, r1_every=every))
        one.generator_losses(8)
        found[every] = one.discriminator_losses(8)
        assert "r1" not in one.discriminator_losses(9)
    assert found[8]["r1"].item() == pytest.approx(2 * found[4]["r1"].item(), rel=1e-5)
    assert found[8]["r1"] > 0


def test_the_discriminator_leaves_the_generator_alone(generator, portraits):
    learner = copy.deepcopy(generator).requires_grad_(True)
    one = distiller(learner, portraits)
    with torch.no_grad():
        one.generator_losses(0)
    sum(one.discriminator_losses(0).values()).backward()
    assert all(parameter.grad is None for parameter in learner.parameters())


# ----------------------------------------------------------------------- start and rates


def test_a_grown_generator_is_the_function_that_it_grew_from():
    small = portrait_generator()
    large = EG3D(
        dataclasses.replace(
            small.config, channel_base=2 * TINY.channel_base, channel_max=2 * TINY.channel_max
        )
    )
    grow(large, small)
    assert sum(p.numel() for p in large.parameters()) > 1.5 * sum(p.numel() for p in small.parameters())
    camera = orbit(torch.tensor([0.2, -0.3]), 0.1)
    z = torch.randn(2, TINY.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (g.synthesize(g.map(z, camera), camera) for g in (small, large))
    assert torch.allclose(one.image, other.image, atol=1e-5)
    assert torch.allclose(one.depth, other.depth, atol=1e-5)


def test_what_a_generator_has_grown_learns():
    small = portrait_generator()
    large = EG3D(
        dataclasses.replace(
            small.config, channel_base=2 * TINY.channel_base, channel_max=2 * TINY.channel_max
        )
    )
    grow(large, small)
    camera = orbit(torch.tensor([0.2]), 0.1)
    large.synthesize(large.map(torch.ones(1, TINY.z_dim), camera), camera).image.square().mean().backward()
    weight = large.backbone.synthesis.b8.conv1.weight
    assert weight.grad[:, small.backbone.synthesis.b8.conv1.weight.shape[1] :].any()


def test_the_first_mapping_layer_answers_each_axis_by_its_deviation():
    generator = EG3D(dataclasses.replace(TINY, w_dim=512))
    deviation = np.linspace(4.0, 0.5, TINY.z_dim)
    initialise_mapping(generator, deviation)
    layer = generator.backbone.mapping.fc0
    inputs = layer.weight.shape[1]
    answers = F.linear(torch.eye(inputs), layer.weight * layer.weight_gain).detach()  # one row an input axis
    spread = answers.square().mean(dim=1).sqrt().numpy() * np.sqrt(inputs)
    of_unit_mean_square = deviation / np.sqrt(np.mean(deviation**2))
    assert spread[: TINY.z_dim] == pytest.approx(of_unit_mean_square, rel=0.12)
    assert spread[TINY.z_dim :].mean() == pytest.approx(0.2, rel=0.03)


def test_the_start_is_the_same_each_time():
    first, second = (EG3D(TINY) for _ in range(2))
    for generator in (first, second):
        initialise_mapping(generator, np.ones(TINY.z_dim))
    weights = [generator.backbone.mapping.fc0.weight for generator in (first, second)]
    assert torch.equal(*weights)


def test_every_parameter_is_in_one_group(generator):
    groups = parameter_groups(generator, SMALL)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in generator.parameters()}


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("backbone.mapping.fc0.weight", "rate_mapping"),
        ("backbone.mapping.fc1.bias", "rate_mapping"),
        ("backbone.mapping.embed.weight", "rate"),
        ("backbone.synthesis.b4.const", "rate_convolution"),
        ("backbone.synthesis.b8.conv0.weight", "rate_convolution"),
        ("backbone.synthesis.b8.conv0.affine.weight", "rate"),
        ("superresolution.block1.conv1.weight", "rate_convolution"),
        ("decoder.net.0.weight", "rate"),
    ],
)
def test_rates_are_those_of_the_kind_of_parameter(generator, name, rate):
    parameter = generator.get_parameter(name)
    (found,) = (
        group["lr"]
        for group in parameter_groups(generator, SMALL)
        if any(parameter is p for p in group["params"])
    )
    assert found == getattr(SMALL, rate)


# ----------------------------------------------------------------------- the whole of it


@pytest.mark.parametrize("resumed", [False, True], ids=["from nothing", "from weights"])
def test_training_writes_a_generator_that_loads(generator, portraits, monkeypatch, tmp_path, resumed):
    class Perceptual(RandomFeatures):
        def __init__(self, net, resolution):
            super().__init__()

        def to(self, device):
            return self

    plan = Plan(people=8, singles=8, held_out_people=2, held_out_singles=2)
    monkeypatch.setattr(prior, "load_portraits", lambda *_: portraits)
    monkeypatch.setattr(prior, "LPIPS", Perceptual)
    monkeypatch.setattr(prior, "latent_space", lambda _: SimpleNamespace(deviation=np.ones(TINY.z_dim)))
    monkeypatch.setattr(prior, "load_generator", lambda _: generator)
    start = "the generator" if resumed else None
    average = prior.train(TINY, plan, SMALL, 2, tmp_path / "training", start, OPPONENT)
    path = tmp_path / "training" / "generator.safetensors"
    shipped = load_generator(path)
    assert read_metadata(path)["steps"] == "2"
    assert shipped.config == TINY
    for name, value in average.state_dict().items():
        assert torch.allclose(shipped.state_dict()[name], value.float(), rtol=1e-3, atol=1e-3), (
            name
        )  # float16
    assert shipped.w_std > 0
