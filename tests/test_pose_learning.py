import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib import pose_learning
from lib.datasets import LatentSpace, Plan, UnposedPortraits
from lib.generators import load_generator, read_metadata
from lib.generators.discriminators import DiscriminatorConfig, PoseAwareDiscriminator
from lib.generators.stylegan2 import normalise_2nd_moment
from lib.pose_learning import Batches, PoseLearner, PoseLearning, parameter_groups, without_cameras
from lib.prior import Pair
from lib.training import Processes
from tests.tiny_generator import TINY, RandomFeatures, tiny_posefree
from tests.tiny_portraits import portrait_generator

STYLE = 20
SMALL = PoseLearning(
    singles=2, turned=2, adversarial_from=0, discriminator_from=0, r1_every=1, spread_rays=8, spread_samples=6
)
OPPONENT = DiscriminatorConfig.embedded(
    TINY.resolution,
    channel_base=64,
    channel_max=8,
    mapping_layers=1,
    group_size=2,
    c_dim=2,
    pose_branch=True,
)


def space_of(seed: int, shift: float = 0.0, z_dim: int = TINY.z_dim) -> LatentSpace:
    """A latent space of styles of 20 numbers, with axes and deviations of its own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((STYLE, STYLE)))[0][:, :z_dim]
    deviation = np.sort(rng.uniform(0.5, 2, z_dim))[::-1].copy()
    return LatentSpace(np.zeros(STYLE), np.float64(1), np.full(STYLE, shift), basis, deviation)


@pytest.fixture(scope="module")
def portraits() -> UnposedPortraits:
    """What a pose-free generator draws of its own codes: what is to be learned exists."""
    generator, rng = tiny_posefree(), np.random.default_rng(0)
    z = rng.standard_normal((12, TINY.z_dim)).astype(np.float32)
    with torch.no_grad():
        image = generator.synthesize(*generator.generate(torch.from_numpy(z))).image.clamp(-1, 1)
    styles = np.zeros((12, STYLE))
    styles[:, : TINY.z_dim] = z
    return UnposedPortraits(
        images=((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy(),
        inside=np.ones((12, TINY.resolution, TINY.resolution), bool),
        styles=styles,
        single=np.arange(12) % 2 == 0,
        held_out=np.arange(12) >= 8,
    )


@pytest.fixture
def plain_space(monkeypatch) -> LatentSpace:
    """z are the first numbers of a style; no activation is undone."""
    monkeypatch.setattr(LatentSpace, "before_truncation", lambda self, codes: codes)
    axes = np.eye(STYLE)[:, : TINY.z_dim]
    return LatentSpace(np.zeros(STYLE), np.float64(1), np.zeros(STYLE), axes, np.ones(TINY.z_dim))


@pytest.fixture
def learner(portraits, plain_space) -> PoseLearner:
    pair = Pair(tiny_posefree().requires_grad_(True), PoseAwareDiscriminator(OPPONENT))
    return PoseLearner(pair, Batches(portraits, plain_space, SMALL), RandomFeatures(), SMALL)


# ----------------------------------------------------------------------- the start
def test_a_start_is_the_generator_under_its_frontal_camera_and_looks_from_the_front():
    original = portrait_generator()
    space = space_of(0)
    start = without_cameras(original, space, space)
    z = torch.randn(5, TINY.z_dim, generator=torch.Generator().manual_seed(1))
    expected = original.map(z, original.frontal_camera())
    assert torch.allclose(start.map(z), expected, atol=1e-5)
    assert torch.allclose(start.planes(start.map(z)), original.planes(expected), atol=1e-4)
    front = original.frontal_camera().label().expand(5, -1)
    assert torch.allclose(start.own_camera(start.map(z)[:, 0]).label(), front, atol=1e-4)


def test_a_start_in_another_space_of_z_hears_the_same_style():
    """The first layer gives what it gave for the same style; only lengths are normalised anew."""
    original, old, new = portrait_generator(), space_of(0, 0.1), space_of(1, 0.3)
    start = without_cameras(original, old, new)
    z = np.random.default_rng(2).standard_normal((4, TINY.z_dim))
    z *= np.sqrt(TINY.z_dim) / np.linalg.norm(z, axis=1, keepdims=True)  # lengths that normalisation leaves
    styles = z * new.deviation @ new.basis.T + new.mean
    heard = torch.tensor((styles - old.mean) @ old.basis / old.deviation, dtype=torch.float32)
    mapping, label = original.backbone.mapping, original.frontal_camera().label()
    camera = normalise_2nd_moment(mapping.embed(label * original.config.c_scale)).expand(4, -1)
    found = start.backbone.mapping.fc0(torch.tensor(z, dtype=torch.float32))
    assert torch.allclose(found, mapping.fc0(torch.cat([heard, camera], dim=1)), atol=1e-4)


def test_nothing_is_left_of_the_conditioning_camera():
    start = without_cameras(portrait_generator(), space_of(0), space_of(1))
    assert not [name for name in start.state_dict() if "embed" in name]
    assert start.config.c_dim == 0
    assert start.config.pose_bound == "smooth"


# ----------------------------------------------------------------------- batches
def test_portraits_know_no_camera():
    names = {field.name for field in dataclasses.fields(UnposedPortraits)}
    assert names == {"images", "inside", "styles", "single", "held_out"}


def test_batches_hold_singles_and_turned_people_and_nothing_held_out(portraits, plain_space):
    batches = Batches(portraits, plain_space, SMALL)
    assert len(batches.images) == 8
    for step in range(20):
        rows = batches.draw(step)
        assert (rows[:2] % 2 == 0).all() and (rows[2:] % 2 == 1).all() and len(set(rows)) == 4
        assert np.array_equal(rows, batches.draw(step))
    assert {tuple(batches.draw(step)) for step in range(5)} != {tuple(batches.draw(0))}
    assert torch.equal(batches.z, torch.from_numpy(portraits.styles[:8, : TINY.z_dim].astype(np.float32)))


def test_processes_share_a_batch(portraits, plain_space):
    batches = Batches(portraits, plain_space, SMALL)
    shares = []
    for rank in range(2):
        process = Processes()
        process.rank, process.count = rank, 2
        shares.append(batches.draw(3, process))
    assert sorted(np.concatenate(shares)) == sorted(batches.draw(3))


# ----------------------------------------------------------------------- losses
def gradients(module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_the_camera_is_learnt_from_the_picture(learner):
    losses = learner.generator_losses(0)
    losses["image"].backward()
    moved = gradients(learner.pair.generator)
    assert {"backbone.mapping.affine_layer1.weight", "backbone.mapping.affine_layer2.weight"} <= moved
    assert "backbone.mapping.fc0.weight" in moved
    assert any(name.startswith("decoder") for name in moved)
    assert not gradients(learner.pair.discriminator)


def test_consistency_teaches_the_pose_learner_alone(learner):
    losses = learner.generator_losses(0)
    losses["consistency"].backward()
    layers = (
        f"backbone.mapping.affine_layer{index}.{part}" for index in (1, 2) for part in ("weight", "bias")
    )
    assert gradients(learner.pair.generator) == set(layers)
    assert not gradients(learner.pair.discriminator)


def test_supervision_teaches_the_pose_branch_and_the_generator_nothing(learner):
    learner.generator_losses(0)
    losses = learner.discriminator_losses(0)
    losses["supervision"].backward()
    moved = gradients(learner.pair.discriminator)
    assert {"b4.cam_out1.weight", "b4.cam_out2.weight", "b4.conv.weight"} <= moved
    assert not {"b4.fc.weight", "b4.out.weight"} & moved
    assert not gradients(learner.pair.generator)


def test_a_perfect_generator_has_no_error_of_the_picture(learner):
    """The portraits are its own pictures: what is left is their rounding, and the samples along rays that jitter."""
    exact = learner.generator_losses(0)
    with torch.no_grad():
        learner.pair.generator.backbone.mapping.affine_layer2.bias += 100 * torch.tensor([0.5, 0.0])
    turned = learner.generator_losses(0)
    assert exact["image"] < 0.5 * turned["image"]


def test_every_parameter_has_one_rate(learner):
    generator = learner.pair.generator
    groups = parameter_groups(generator, SMALL)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in generator.parameters())
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    mapping = generator.backbone.mapping
    assert rates[id(mapping.affine_layer1.weight)] == SMALL.rate_pose
    assert rates[id(mapping.fc0.weight)] == SMALL.rate_mapping
    assert rates[id(generator.decoder.net[0].weight)] == SMALL.rate


# ----------------------------------------------------------------------- a run
def test_a_run_writes_the_average_and_is_not_taken_again(portraits, plain_space, tmp_path, monkeypatch):
    original = portrait_generator()
    stand_ins = {
        "load_generator": lambda name: copy.deepcopy(original),
        "load_unposed_portraits": lambda *_: portraits,
        "posed_latent_space": lambda *_, **__: plain_space,
        "latent_space": lambda *_: plain_space,
        "LPIPS": lambda *_: SimpleNamespace(to=lambda device: RandomFeatures()),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(pose_learning, name, stand_in)
    run = "tiny", Plan(), SMALL, 2, tmp_path, OPPONENT
    whole = pose_learning.train(*run, autocast=None)
    file = tmp_path / "generator.safetensors"
    assert read_metadata(file)["steps"] == "2"
    assert json.loads(read_metadata(file)["settings"])["lam_supervision"] == SMALL.lam_supervision
    loaded = load_generator(file)
    assert torch.allclose(loaded.pose(loaded.w_mean[None]), whole.pose(loaded.w_mean[None]), atol=2e-2)
    again = pose_learning.train(*run, autocast=None)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
