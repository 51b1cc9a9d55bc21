"""Training of encoders: what is drawn, what is learned, by whom, and what stays as it is."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

from lib import encoder_training
from lib.cameras import Camera
from lib.encoder_training import (
    RECIPES,
    CodeLearner,
    Codes,
    PictureLearning,
    Pictures,
    canonical_w,
    code_loss,
    rendered_samples,
    stage_at,
)
from lib.encoders import ENCODERS, networks_of, storage
from lib.encoders.encoder import generator_digest
from lib.encoders.goae import offset_loss
from lib.encoders.psp import offset_loss as summed_offset_loss
from lib.encoders.storage import KINDS, load_network
from lib.generators import EG3D
from lib.losses import l2_loss
from lib.training import Processes, Schedule, fit, launch
from tests.tiny_adversaries import Killed, assert_same, state
from tests.tiny_encoders import (
    ALL,
    LAYERS,
    NETWORKS,
    W_DIM,
    OwnFeatures,
    assert_unchanged,
    deep_generator,
    learner,
    network,
    portraits,
    rows,
    run,
    stand_ins,
    state_of,
    train_in_double,
)

REFINEMENTS = ("portraits64-goae-alignment", "portraits64-triplanenet")
PLAIN = dataclasses.replace(
    ALL,
    lam_identity=0.0,
    lam_adversarial=0.0,
    lam_background=0.0,
    lam_offsets=0.0,
    lam_change=0.0,
    lam_mirror=0.0,
)
"""Pictures, and what is known of samples."""


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return deep_generator()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where rendered samples are kept."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def pictures(generator, data) -> Pictures:
    return Pictures(generator, portraits(generator), 6, data)


@pytest.fixture(autouse=True)
def no_networks():
    with stand_ins():
        yield


# ----------------------------------------------------------------------- samples
def test_samples_are_canonical_heads_seen_from_cameras_of_portraits(generator, tmp_path):
    labels = torch.from_numpy(portraits(generator).labels)
    found = rendered_samples(generator, labels, 5, tmp_path, seed=1, batch=2)
    seen_from, z = torch.from_numpy(found["label"]), torch.from_numpy(found["z"])
    assert all((labels == label).all(dim=1).any() for label in seen_from)
    assert len(seen_from.unique(dim=0)) > 1
    view = generator.synthesize(generator.map(z, generator.frontal_camera()), seen_from)
    image = torch.from_numpy(found["image"]).permute(0, 3, 1, 2) / 127.5 - 1
    assert (image - view.image).abs().max() < 1 / 127.5 + 1e-4
    assert torch.allclose(torch.from_numpy(found["depth"]), view.depth[:, 0], atol=1e-4)


def test_samples_are_rendered_once_for_each_generator_cameras_and_seed(generator, tmp_path, monkeypatch):
    labels = torch.from_numpy(portraits(generator).labels)
    first = rendered_samples(generator, labels, 3, tmp_path, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(EG3D, "synthesize", lambda *_: pytest.fail("rendered again"))
        again = rendered_samples(generator, labels, 3, tmp_path, seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    fewer = rendered_samples(generator, labels[:1], 3, tmp_path, seed=1)
    assert all(np.array_equal(label, labels[0]) for label in fewer["label"])
    other = deep_generator()
    other.decoder.net[0].weight.mul_(1.1)
    assert not np.array_equal(first["z"], rendered_samples(generator, labels, 3, tmp_path, seed=2)["z"])
    assert not np.array_equal(first["depth"], rendered_samples(other, labels, 3, tmp_path, seed=1)["depth"])


# ----------------------------------------------------------------------- batches
def drawn(pictures: Pictures, mirror: float, steps: int = 30, **keywords):
    return [pictures.draw(step, 2, 3, mirror, **keywords) for step in range(steps)]


def test_batches_hold_so_many_of_each_kind_and_nobody_held_out(generator, pictures):
    known = portraits(generator)
    train, held_out = (torch.from_numpy(known.z[rows]) for rows in (~known.held_out, known.held_out))
    seen = set()
    for batch in drawn(pictures, 0.0):
        assert batch.sampled.tolist() == [False, False, True, True, True]
        assert not batch.mirrored.any()
        for z in batch.z[:2]:
            assert (train == z).all(dim=1).any() and not (held_out == z).all(dim=1).any()
        assert len(batch.z.unique(dim=0)) == 5
        assert batch.depth[~batch.sampled].isnan().any() and not batch.depth[batch.sampled].isnan().any()
        assert batch.inside[batch.sampled].all() and not batch.inside[~batch.sampled].all()
        seen |= {tuple(z.tolist()) for z in batch.z}
    assert len(seen) == len(pictures) == 12


def test_a_step_is_drawn_the_same_again_and_another_one_otherwise(pictures):
    first, again, other = (pictures.draw(step, 2, 3, 0.5) for step in (3, 3, 4))
    for name, value in vars(first).items():
        assert torch.equal(value.nan_to_num(9), getattr(again, name).nan_to_num(9)), name
    assert not torch.equal(first.image, other.image)


def test_pictures_are_those_of_their_codes(generator, pictures):
    """Image, label, depth and z of a row belong together, portraits and samples alike."""
    batch = pictures.draw(0, 2, 3, 0.0)
    camera = Camera.from_label(batch.label)
    conditioned = torch.where(batch.sampled[:, None], generator.frontal_camera().label(), batch.label)
    view = generator.synthesize(generator.map(batch.z, conditioned), camera)
    assert (batch.image - view.image).abs().max() < 1 / 127.5 + 1e-4
    assert torch.allclose(
        batch.depth, view.depth.where(~batch.depth.isnan(), torch.nan), atol=1e-4, equal_nan=True
    )


def test_what_is_mirrored_is_mirrored_in_all_it_has(pictures):
    """Picture, what lies inside of it and depth are flipped; the camera sees a mirrored point at the mirrored place."""
    points = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)) / 6
    for straight, mirrored, some in zip(
        *(drawn(pictures, mirror, steps=6) for mirror in (0.0, 1.0, 0.5)), strict=True
    ):
        assert mirrored.mirrored.all() and torch.equal(straight.z, mirrored.z)
        assert torch.equal(straight.sampled, mirrored.sampled)
        for name in ("image", "inside", "depth"):
            flipped = getattr(straight, name).flip(3).nan_to_num(9)
            assert torch.equal(getattr(mirrored, name).nan_to_num(9), flipped), name
        ((here, _), (there, _)) = (
            Camera.from_label(batch.label).project(there_points)
            for batch, there_points in (
                (straight, points),
                (mirrored, points * torch.tensor([-1.0, 1.0, 1.0])),
            )
        )
        assert torch.allclose(there, torch.stack([1 - here[..., 0], here[..., 1]], dim=-1), atol=1e-5)
        for name, value in vars(some).items():
            if name != "mirrored":
                own, other = (getattr(batch, name) for batch in (mirrored, straight))
                where = some.mirrored.view(-1, *[1] * (own.ndim - 1))
                assert torch.equal(value.nan_to_num(9), torch.where(where, own, other).nan_to_num(9)), name


def test_mirroring_happens_as_often_as_asked(pictures):
    share = torch.cat([batch.mirrored for batch in drawn(pictures, 0.3, steps=150)]).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.06)


def test_processes_share_a_batch(pictures):
    whole = pictures.draw(3, 2, 2, 0.5)
    shares = []
    for rank in range(2):
        process = Processes()
        process.rank, process.count = rank, 2
        shares.append(pictures.draw(3, 2, 2, 0.5, process))
    for name, value in vars(whole).items():
        parts = torch.stack([getattr(share, name) for share in shares], dim=1).flatten(0, 1)
        assert torch.equal(parts.nan_to_num(9), value.nan_to_num(9)), name


# ----------------------------------------------------------------------- codes
def test_code_loss_against_a_loop_and_in_units_of_the_variance(generator):
    w_plus = torch.randn(2, LAYERS, W_DIM, generator=torch.Generator().manual_seed(0))
    w = torch.randn(2, W_DIM, generator=torch.Generator().manual_seed(1))
    found = code_loss(generator, w_plus, w)
    for b in range(2):
        squares = [(w_plus[b, layer] - w[b]).square().sum() for layer in range(LAYERS)]
        expected = sum(squares) / LAYERS / generator.w_std.square()  # both sums over w_dim
        assert found[b].item() == pytest.approx(expected.item(), rel=1e-5)
    z = torch.randn(400, generator.z_dim, generator=torch.Generator().manual_seed(2))
    mean = generator.w_mean.expand(400, LAYERS, -1)
    assert code_loss(generator, mean, canonical_w(generator, z)).mean().item() == pytest.approx(1, abs=0.15)


def test_known_codes_are_canonical(generator):
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(2))
    found = canonical_w(generator, z)
    assert torch.equal(found, generator.map(z, generator.frontal_camera())[:, 0])
    assert not torch.allclose(found, generator.map(z, generator.camera(0.4))[:, 0], atol=1e-3)


def test_progressive_encoders_grow_in_equal_parts():
    goae, psp, e4e = (network(*NETWORKS[f"portraits64-{name}"]) for name in ("goae", "psp", "e4e"))
    progress = (0.0, 0.3, 0.34, 0.6, 0.67, 0.99, 1.0, 2.0)
    assert [stage_at(goae, p) for p in progress] == [0, 0, 1, 1, 2, 2, None, None]
    assert [stage_at(e4e, p) for p in progress] == [0, 2, 3, 5, 6, 8, None, None]
    assert [stage_at(psp, p) for p in progress] == [None] * 8


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("goae", "mapper_base_channel.2.weight", "outputs.fine.weight"),
        ("e4e", "styles.0.weight", "styles.9.weight"),
    ],
)
def test_no_layer_is_learnt_before_its_stage(generator, pictures, name, first, last):
    """In the first step of a run only what all layers share; in the end what the finest have, too."""
    encoder = network(*NETWORKS[f"portraits64-{name}"]).train()
    one = CodeLearner(generator, encoder, pictures, Codes(steps=10, portraits=2, samples=2))
    for step, taught in ((0, {first}), (9, {first, last})):
        encoder.zero_grad()
        one.losses(step)["code"].backward()
        assert gradients(encoder) & {first, last} == taught


@pytest.mark.parametrize(("name", "rate"), [("psp", 2e-2), ("goae", 1e-2)])
def test_an_encoder_learns_the_codes_of_four_pictures(generator, data, tmp_path, name, rate):
    before = state_of(generator)
    four = Pictures(generator, portraits(generator, 2), 2, data)
    encoder = network(*NETWORKS[f"portraits64-{name}"]).train()
    one = CodeLearner(generator, encoder, four, Codes(steps=40, portraits=2, samples=2, rate=rate))
    first = code_error(generator, encoder, four)
    fit(encoder, one.phases(), Schedule(40, warm_up=1, decay_fraction=0.2), tmp_path)
    assert code_error(generator, encoder, four) < 0.5 * first
    assert_unchanged(generator, before)


@torch.no_grad()
def code_error(generator, encoder, pictures) -> float:
    batch = pictures.draw(0, 2, 2, 0.0)
    w_plus = encoder_training.inverted(generator, encoder, batch.image)
    return code_loss(generator, w_plus, canonical_w(generator, batch.z)).mean().item()


# ----------------------------------------------------------------------- pictures
def gradients(module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_what_is_trained_and_nothing_else(data, name):
    one = learner(name, data)
    sum(one.losses(0).values()).backward()
    reached = gradients(one.trained.network)
    assert len(reached) > 0.8 * len(list(one.trained.network.parameters()))
    assert all(p.grad is None or p.grad.isfinite().all() for p in one.trained.network.parameters())
    assert all(p.grad is None for p in one.generator.parameters())
    if name.endswith(("alignment", "convolution", "triplanenet")):
        assert all(p.grad is None for p in one.encoder.parameters())


def test_the_discriminators_update_teaches_the_discriminator_alone(data):
    one = learner("portraits64-goae", data)
    sum(one.discriminator_losses(0).values()).backward()
    assert gradients(one.trained.discriminator) and not gradients(one.trained.network)


def test_the_discriminator_sees_codes_of_mean_0_and_variance_1(generator, data):
    one = learner("portraits64-goae", data)
    z = torch.randn(500, generator.z_dim, generator=torch.Generator().manual_seed(2))
    seen = one.standardised(canonical_w(generator, z))
    assert seen.square().mean().item() == pytest.approx(1, abs=0.15)
    assert seen.mean(dim=0).abs().max() < 0.3
    judged = []
    one.trained.discriminator.register_forward_pre_hook(lambda module, given: judged.append(given[0]))
    one.discriminator_losses(0)
    assert [len(codes) for codes in judged] == [4 * LAYERS, 4 * LAYERS], "as many canonical codes as rows"


def step_losses(data, step: int = 0, name: str = "portraits64-goae", **changes) -> dict[str, float]:
    one = learner(name, data, dataclasses.replace(ALL, **changes))
    return {key: value.item() for key, value in one.losses(step).items()}


@pytest.mark.parametrize(
    ("term", "every"), [("identity", "identity_every"), ("background", "background_every")]
)
def test_terms_that_are_taken_seldom_are_as_many_times_as_strong(data, term, every):
    always, seldom = (step_losses(data, 3, **{every: n}) for n in (1, 3))
    assert seldom[term] == pytest.approx(3 * always[term], rel=1e-5)
    assert term not in step_losses(data, 4, **{every: 3})
    others = always.keys() - {term}
    assert {key: seldom[key] for key in others} == {key: always[key] for key in others}


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        ("lam_l2", "l2"),
        ("lam_lpips", "lpips"),
        ("lam_identity", "identity"),
        ("lam_adversarial", "adversarial"),
        ("lam_background", "background"),
        ("lam_offsets", "offsets"),
        ("lam_code", "code"),
        ("lam_depth", "depth"),
    ],
)
def test_a_weight_scales_its_term_alone(data, weight, term):
    once, twice = step_losses(data), step_losses(data, **{weight: 2 * getattr(ALL, weight)})
    assert twice.pop(term) == pytest.approx(2 * once.pop(term), rel=1e-5)
    assert twice == once


def test_terms_of_the_refinement_and_its_weights(data):
    for name, weight, term in (
        ("portraits64-goae-alignment", "lam_change", "change"),
        ("portraits64-triplanenet", "lam_mirror", "mirror"),
    ):
        once, twice = (
            step_losses(data, 0, name, **{weight: factor * getattr(ALL, weight)}) for factor in (1, 2)
        )
        assert twice.pop(term) == pytest.approx(2 * once.pop(term), rel=1e-5)
        assert twice == once


def test_losses_of_a_step_against_their_definitions(generator, data):
    """L2, offsets, codes and depth of a batch of which half is mirrored, one row after another."""
    settings = dataclasses.replace(ALL, mirror=0.5, portraits=2, samples=3)
    one = learner("portraits64-goae", data, settings)
    step = next(s for s in range(20) if len(set(one.batch(s).mirrored[2:].tolist())) == 2)
    found, batch = one.losses(step), one.batch(step)
    w_plus = encoder_training.inverted(generator, one.trained.network, batch.image)
    view = generator.synthesize(w_plus, Camera.from_label(batch.label))
    errors = {"l2": 0.0, "code": 0.0, "depth": 0.0}
    for i in range(5):
        known = batch.inside[i].expand(3, -1, -1)
        errors["l2"] += ((view.image[i] - batch.image[i])[known] ** 2).sum().item() / known.numel()
        if batch.sampled[i]:
            errors["depth"] += (view.depth[i] - batch.depth[i]).abs().mean().item()
            if not batch.mirrored[i]:  # a mirrored head has another code
                w = canonical_w(generator, batch.z[i : i + 1])
                errors["code"] += code_loss(generator, w_plus[i : i + 1], w).item()
    for term, total in errors.items():
        assert found[term].item() == pytest.approx(getattr(settings, f"lam_{term}") * total / 5, rel=1e-3), (
            term
        )
    assert found["offsets"].item() == pytest.approx(0.001 * offset_loss(w_plus).mean().item(), rel=1e-4)
    summed = learner("portraits64-goae", data, dataclasses.replace(settings, offsets="summed")).losses(step)
    assert summed["offsets"].item() == pytest.approx(
        0.001 * summed_offset_loss(w_plus).mean().item(), rel=1e-4
    )


def test_beyond_the_border_a_rendering_is_free(data):
    """What lies there is no teacher: whatever a portrait has there, losses and gradients are the same."""
    one = learner("portraits64-psp", data, PLAIN)
    batch = one.batch(0)
    image = torch.zeros_like(batch.image, requires_grad=True)
    camera = Camera.from_label(batch.label)
    one.picture_losses(0, image, batch, camera)["l2"].backward()
    outside = ~batch.inside.expand_as(image)
    assert outside.any() and image.grad[outside].abs().max() == 0 and image.grad[~outside].abs().max() > 0
    noise = torch.where(batch.inside, batch.image, 0.5)
    other = one.picture_losses(0, image, dataclasses.replace(batch, image=noise), camera)
    for name, value in one.picture_losses(0, image, batch, camera).items():
        assert value.item() == other[name].item()


def test_the_mirrored_view_is_compared_with_the_mirrored_photo(generator, data):
    """TriPlaneNet's symmetry term, on its own planes."""
    name, settings = "portraits64-triplanenet", dataclasses.replace(PLAIN, lam_mirror=0.5, mirror=0.0)
    one, batch = learner(name, data, settings), learner(name, data, settings).batch(0)
    camera = Camera.from_label(batch.label)
    w_plus = encoder_training.inverted(generator, one.encoder, batch.image)
    planes = encoder_training.offset_planes(generator, one.trained.network, batch.image, w_plus, camera)
    straight, mirrored = (generator.render(planes, w_plus, view).image for view in (camera, camera.mirror()))
    target = torch.where(batch.inside, batch.image, straight).flip(3)
    expected = l2_loss(mirrored, target).mean() + 0.8 * OwnFeatures()(mirrored, target).mean()
    assert one.losses(0)["mirror"].item() == pytest.approx(0.5 * expected.item(), rel=1e-4)


# ----------------------------------------------------------------------- runs
@pytest.mark.parametrize("name", ["portraits64-psp", "portraits64-goae"])
def test_an_encoder_overfits_four_pictures(data, tmp_path, name):
    settings = dataclasses.replace(PLAIN, steps=30, mirror=0.0, rate=1e-2)
    one = learner(name, data, settings, pool=(2, 2))
    before, first = state_of(one.generator), {key: v.item() for key, v in one.losses(0).items()}
    run(one, tmp_path)
    last = {key: v.item() for key, v in one.losses(0).items()}
    for term, share in {"l2": 0.4, "lpips": 0.6, "depth": 0.6, "code": 0.9}.items():
        assert last[term] < share * first[term], term
    assert_unchanged(one.generator, before)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_refinement_brings_back_what_the_code_left_out(data, tmp_path, name):
    """From a start that changes nothing."""
    settings = dataclasses.replace(PLAIN, steps=25, mirror=0.0, rate=5e-3, lam_code=0.0, lam_depth=0.0)
    one = learner(name, data, settings, pool=(2, 2))
    refinement = one.trained.network
    last = refinement.final_head_two[-1:] if "tri" in name else (refinement.conv_gamma, refinement.conv_beta)
    for layer, bias in zip(last, (0.0,) if "tri" in name else (1.0, 0.0), strict=True):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, bias)
    before, encoder = state_of(one.generator), state_of(one.encoder)
    batch = one.batch(0)
    camera = Camera.from_label(batch.label)
    w_plus = encoder_training.inverted(one.generator, one.encoder, batch.image)
    plain = one.generator.synthesize(w_plus, camera).image
    without = one.picture_losses(0, plain, batch, camera)["l2"].item()
    assert one.losses(0)["l2"].item() == pytest.approx(without, rel=1e-4)
    run(one, tmp_path)
    assert one.losses(0)["l2"].item() < 0.7 * without
    assert_unchanged(one.generator, before)
    assert_unchanged(one.encoder, encoder)


@pytest.mark.parametrize("name", ["portraits64-goae", "portraits64-goae-alignment"])
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, name):
    """Killed in the middle of a step, with steps behind the last checkpoint; weights, averages, optimisers, log."""

    def killed(one):
        *first, last = one.phases()

        def losses(step):
            if step == 3:
                raise Killed
            return last.losses(step)

        return [*first, dataclasses.replace(last, losses=losses)]

    settings = dataclasses.replace(ALL, steps=5)
    run(learner(name, data, settings), tmp_path / "whole", checkpoint_every=2)
    with pytest.raises(Killed):
        one = learner(name, data, settings)
        run(one, tmp_path / "killed", killed(one), checkpoint_every=2)
    run(learner(name, data, settings), tmp_path / "killed", checkpoint_every=2)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert {"l2", "lpips", "identity", "background"} <= rows(tmp_path / "whole")[0].keys()


def test_two_processes_do_what_one_does_with_the_whole_batch(data, tmp_path):
    """An encoder with its discriminator, and a refinement, with every term that there is."""
    settings, names = dataclasses.replace(ALL, steps=2), ("portraits64-goae", "portraits64-goae-alignment")
    train_in_double(names, data, tmp_path / "one", settings)
    launch(train_in_double, names, data, tmp_path / "two", settings, device="cpu", devices=2)
    for name in names:
        one, two = state(tmp_path / "one" / name), state(tmp_path / "two" / name)
        for part in ("model", "average"):
            for key, value in one[part].items():
                assert torch.allclose(value, two[part][key], rtol=1e-6, atol=1e-8), key
        logs = [rows(tmp_path / folder / name) for folder in ("one", "two")]
        for row, other in zip(*logs, strict=True):
            assert other == pytest.approx(row, rel=1e-8, abs=1e-12)
        start = learner(name, data, settings, double=True).trained.state_dict()
        moved = [
            key for key, value in start.items() if not torch.allclose(value, one["model"][key], atol=1e-5)
        ]
        assert len(moved) > 0.8 * len(start)


# ----------------------------------------------------------------------- recipes
def difference(name: str, base: str) -> dict[str, set[str]]:
    """Fields in which a recipe differs from another, of each of its parts."""
    found = {}
    for part in ("kind", "config", "pictures", "codes", "encoder"):
        own, other = (getattr(RECIPES[f"portraits64-{one}"], part) for one in (name, base))
        if own != other:
            plain = not dataclasses.is_dataclass(own)
            found[part] = (
                {"value"}
                if plain
                else {
                    field.name
                    for field in dataclasses.fields(own)
                    if getattr(own, field.name) != getattr(other, field.name)
                }
            )
    return found


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("goae-no_discriminator", "goae", {"pictures": {"lam_adversarial"}}),
        ("goae-no_background", "goae", {"pictures": {"lam_background"}}),
        (
            "goae-no_discriminator_no_background",
            "goae",
            {"pictures": {"lam_adversarial", "lam_background"}},
        ),
        ("goae-convolution", "goae-alignment", {"config": {"alignment", "upright"}}),
    ],
)
def test_an_ablation_differs_in_what_its_name_says(name, base, expected):
    assert difference(name, base) == expected
    for weight in expected.get("pictures", ()):
        assert getattr(RECIPES[f"portraits64-{name}"].pictures, weight) == 0


def test_recipes_hold_the_papers_weights():
    """GOAE's appendix A; its discriminator and background term are what e4e and pSp lack."""
    stage_1, stage_2 = (RECIPES[f"portraits64-{name}"].pictures for name in ("goae", "goae-alignment"))
    assert (stage_1.lam_l2, stage_1.lam_lpips, stage_1.lam_identity) == (1.0, 0.8, 0.25)
    assert (stage_1.lam_adversarial, stage_1.lam_background, stage_1.lam_offsets) == (0.05, 5.0, 0.001)
    assert (stage_2.lam_l2, stage_2.lam_lpips, stage_2.lam_identity) == (1.0, 0.8, 0.25)
    assert (stage_2.lam_background, stage_2.lam_change) == (5.0, 1e-4)
    assert stage_2.lam_adversarial == stage_2.lam_offsets == 0, "left out in stage 2"
    psp = RECIPES["portraits64-psp"].pictures
    assert psp.lam_adversarial == psp.lam_background == psp.lam_offsets == 0


def test_every_network_of_a_method_has_a_recipe_that_can_be_followed():
    assert {part for name in ENCODERS for part in networks_of(name)} == RECIPES.keys()
    for name, recipe in RECIPES.items():
        assert isinstance(recipe.config, KINDS[recipe.kind][1])
        assert (recipe.codes is None) != (recipe.encoder is None), name
        assert recipe.encoder is None or RECIPES[recipe.encoder].encoder is None
        assert recipe.pictures.steps >= 3000
        json.dumps(dataclasses.asdict(recipe.config), allow_nan=False)
    shared = {recipe.codes: recipe for recipe in RECIPES.values() if recipe.codes}
    for recipe in RECIPES.values():
        if recipe.codes:
            assert (recipe.kind, recipe.config) == (shared[recipe.codes].kind, shared[recipe.codes].config)


# ----------------------------------------------------------------------- the whole
@pytest.fixture
def tiny_study(generator, tmp_path, monkeypatch):
    """The recipes with tiny networks, on the portraits of the tiny generator."""
    recipes = {
        name: dataclasses.replace(RECIPES[name], kind=kind, config=config)
        for name, (kind, config) in NETWORKS.items()
    }
    monkeypatch.setattr(encoder_training, "RECIPES", recipes)
    monkeypatch.setattr(encoder_training, "load_generator", lambda *_: deep_generator())
    monkeypatch.setattr(encoder_training, "load_portraits", lambda *_: portraits(generator, 24))
    monkeypatch.setattr(storage, "SHIPPED", storage.paths.ROOT / "lib" / "weights" / "nowhere")
    monkeypatch.setattr(storage, "TRAINED", tmp_path)
    return functools.partial(encoder_training.train, steps=2, code_steps=2, folder=tmp_path, samples=14)


def test_training_writes_networks_that_load_for_their_generator(tiny_study, generator, tmp_path):
    encoder = tiny_study("portraits64-goae")
    found = load_network(tmp_path / "portraits64-goae" / "network.safetensors")
    for key, value in encoder.state_dict().items():
        assert torch.allclose(found.network.state_dict()[key], value, rtol=1e-3, atol=1e-3), key
    assert found.generator_sha256 == generator_digest(generator)
    assert (found.facts["steps"], found.facts["name"]) == ("2", "portraits64-goae")
    settings = json.loads(found.facts["settings"])
    assert PictureLearning(**settings) == dataclasses.replace(RECIPES["portraits64-goae"].pictures, steps=2)
    assert json.loads(found.facts["trained"]) == {"codes": 2}

    tiny_study("portraits64-goae-alignment")
    found = load_network(tmp_path / "portraits64-goae-alignment" / "network.safetensors")
    assert json.loads(found.facts["trained"]) == {"encoder": "portraits64-goae"}
    assert found.kind == "alignment"


def test_pictures_follow_codes_and_a_finished_run_is_not_taken_again(tiny_study, tmp_path, monkeypatch):
    first = tiny_study("portraits64-psp")
    codes = state(tmp_path / "codes-psp")["average"]
    assert {row["step"] for row in rows(tmp_path / "codes-psp")} == {2}
    moved = {key: (value - codes[key]).abs().max().item() for key, value in first.state_dict().items()}
    assert 0 < max(moved.values()) < 0.05, "two small steps away from where codes ended"
    monkeypatch.setattr(CodeLearner, "losses", lambda *_: pytest.fail("codes again"))
    monkeypatch.setattr(encoder_training.PictureLearner, "losses", lambda *_: pytest.fail("pictures again"))
    assert_unchanged(tiny_study("portraits64-psp"), state_of(first))


def test_unknown_recipes_and_missing_encoders_are_named(tiny_study):
    with pytest.raises(
        ValueError, match="no encoder network is called 'portraits64-vgg'; there are: portraits64-psp"
    ):
        tiny_study("portraits64-vgg")
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.encoder_training portraits64-psp"):
        tiny_study("portraits64-triplanenet")
