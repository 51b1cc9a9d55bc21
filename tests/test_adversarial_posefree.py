import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import adversarial_posefree, datasets
from lib.adversarial import Draw, RealPictures, in_proportion
from lib.adversarial_posefree import (
    Options,
    PoseFreeRecipe,
    PoseFreeSettings,
    View,
    judging_loss,
    mirrored_pose,
    new_generator,
    opponent_config,
)
from lib.generators import PoseFreeConfig, PoseFreeEG3D, load_generator, read_metadata, save_generator
from lib.generators.checkpoints import load_discriminator
from lib.generators.discriminators import PoseAwareDiscriminator
from lib.losses import r1_loss
from lib.training import launch
from tests.tiny_adversaries import (
    POSEFREE,
    Killed,
    assert_same,
    players,
    posefree_generator,
    posefree_players,
    posefree_recipe,
    real_pictures,
    rows,
    run,
    state,
    train_in_double,
)
from tests.tiny_portraits import portrait_generator, rendered_portraits

PLAIN = dataclasses.replace(POSEFREE, discriminator="plain")
STILL = dataclasses.replace(POSEFREE, jitter=False)


# ----------------------------------------------------------------------- settings


def test_recipes_of_the_released_models():
    released = [PoseFreeSettings.ffhq256(), PoseFreeSettings.cats(), PoseFreeSettings.cars()]
    assert [(s.gamma, s.lam_consistency, s.lam_supervision) for s in released] == [
        (1.0, 1.0, 2.0),
        (5.0, 10.0, 10.0),
        (0.3, 2.0, 2.0),
    ]
    for s in released:
        assert (s.rate_generator, s.rate_discriminator, s.betas) == (2.5e-3, 2e-3, (0.0, 0.99))
        assert (s.batch, s.blur, s.blur_fade, s.average_half_life) == (32, 10.0, 200_000, 10_000)
        assert (s.lam_density, s.density_every, s.density_points, s.density_distance) == (
            0.25,
            4,
            1000,
            0.004,
        )
        assert (s.mirrored_view, s.lam_fake, s.neural_resolution, s.ada_target) == (True, 1.0, 64, None)
        assert (s.conditioning, s.discriminator) == ("own", "pose_aware")
        assert not {"swap", "swap_fade"} & set(vars(s))
    small = PoseFreeSettings.embedded64(batch=16)
    assert (small.batch, small.neural_resolution, small.lam_supervision) == (16, 32, 2.0)
    assert in_proportion(10_000, small) == 5000


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="conditioning is own or generator; got 'both'"):
        PoseFreeSettings(conditioning="both")
    with pytest.raises(ValueError, match="discriminator is pose_aware or plain; got 'dual'"):
        PoseFreeSettings(discriminator="dual")
    with pytest.raises(ValueError, match="batch must be 1 or more; got 0"):
        PoseFreeSettings(batch=0)


# ----------------------------------------------------------------------- definitions


def camera_at(pose: torch.Tensor, **changes):
    """Cameras of poses, of a generator of such sizes that is never made."""
    with torch.device("meta"):
        generator = PoseFreeEG3D(PoseFreeConfig.embedded(64, **changes))
    return generator.camera_at(pose)


POSES = torch.tensor([[1.2, 1.4], [2.0, 1.9], [math.pi / 2, math.pi / 2]])


def test_mirror_images_to_the_side_are_those_of_the_camera():
    found = camera_at(mirrored_pose(POSES, math.pi / 2, sideways=True), camera_pivot=(0.0, 0.0, 0.2))
    expected = camera_at(POSES, camera_pivot=(0.0, 0.0, 0.2)).mirror()
    assert torch.allclose(found.world_from_cam, expected.world_from_cam, atol=1e-6)
    assert torch.allclose(found.intrinsics, expected.intrinsics)


def test_mirror_images_upside_down_conjugate_the_camera_by_a_reflection_of_y():
    found = camera_at(mirrored_pose(POSES, math.pi / 2, sideways=False), camera_pivot=(0.0, 0.0, 0.2))
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    expected = flip @ camera_at(POSES, camera_pivot=(0.0, 0.0, 0.2)).world_from_cam @ flip
    assert torch.allclose(found.world_from_cam, expected, atol=1e-6)


def test_mirror_images_of_a_front_along_x_change_z():
    """Cars: the camera's position changes the sign of z, and sees the mirrored car as the mirrored picture."""
    changes = {"camera_pivot": (0.0, 0.0, 0.0), "pose_mean_h": math.pi}
    poses = torch.tensor([[3.0, 1.4], [4.1, 1.9]])
    camera = camera_at(poses, **changes)
    found = camera_at(mirrored_pose(poses, math.pi, sideways=True), **changes)
    expected = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])) @ camera.world_from_cam
    expected = expected @ torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert torch.allclose(found.world_from_cam, expected, atol=1e-6)


@pytest.mark.parametrize("sideways", [True, False])
def test_mirror_images_of_mirror_images_are_what_was_there(sideways):
    once = mirrored_pose(POSES, math.pi / 2, sideways)
    assert not torch.allclose(once[:2], POSES[:2])
    assert torch.allclose(once[2], POSES[2])  # the front is its own
    assert torch.allclose(mirrored_pose(once, math.pi / 2, sideways), POSES)


def test_the_discriminators_loss_is_the_cross_entropy_over_all_views():
    rng = torch.Generator().manual_seed(0)
    real, own, mirrored = 3 * torch.randn(3, 5, generator=rng)
    found = judging_loss(real, [own, mirrored], lam_fake=0.7)
    no = torch.zeros(5)
    expected = F.binary_cross_entropy_with_logits(real, no + 1, reduction="none")
    for fake in (own, mirrored):
        expected = expected + 0.7 * F.binary_cross_entropy_with_logits(fake, no, reduction="none")
    assert torch.allclose(found, expected, atol=1e-6)


# ----------------------------------------------------------------------- new heads


def test_heads_are_seen_from_the_cameras_that_they_say_and_from_the_mirror_images():
    one = posefree_recipe(STILL)
    generator = one.players.generator
    w, views = one.fakes(3, Draw.GENERATOR)
    assert len(views) == 2
    assert torch.equal(views[0].pose, generator.pose(w))
    for view in views:
        w_plus = w[:, None].expand(-1, generator.n_layers, -1)
        expected = generator.synthesize(w_plus, generator.camera_at(view.pose), neural_resolution=8)
        assert torch.allclose(view.image, expected.image, atol=1e-5)
        assert torch.allclose(view.image_raw, expected.image_raw, atol=1e-5)
    assert not torch.allclose(views[0].image, views[1].image, atol=1e-2)


def test_half_of_the_batches_are_mirrored_to_the_side(monkeypatch):
    # Nothing is rendered: it takes many batches.
    monkeypatch.setattr(PoseFreeRecipe, "views", lambda self, w, cameras, *_: [View(w, w, w)] * len(cameras))
    one, sideways = posefree_recipe(), []
    for step in range(60):
        own, mirrored = (view.pose for view in one.fakes(step, Draw.GENERATOR)[1])
        changed = (own - mirrored).abs().amin(dim=0) > 1e-6
        assert changed.sum() == 1
        sideways.append(bool(changed[0]))
    assert 18 <= sum(sideways) <= 42


def test_heads_can_be_seen_once():
    one = posefree_recipe(dataclasses.replace(POSEFREE, mirrored_view=False))
    assert len(one.fakes(0, Draw.GENERATOR)[1]) == 1
    assert "mirrored" not in one.generator_losses(0)


def test_phases_draw_heads_of_their_own_and_the_same_ones_again():
    one = posefree_recipe()
    which = ((3, Draw.GENERATOR), (3, Draw.DISCRIMINATOR), (4, Draw.GENERATOR))
    codes = [one.fakes(step, draw)[0] for step, draw in which]
    assert not torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert torch.equal(
        posefree_recipe().fakes(3, Draw.GENERATOR)[1][1].image, one.fakes(*which[0])[1][1].image
    )


# ----------------------------------------------------------------------- losses against plain ones


@pytest.mark.parametrize("conditioning", ["own", "generator"])
def test_the_generators_losses(conditioning):
    one = posefree_recipe(dataclasses.replace(STILL, conditioning=conditioning, lam_consistency=0.5))
    discriminator = one.players.discriminator
    w, (own, mirrored) = one.fakes(2, Draw.GENERATOR)
    found = one.generator_losses(2)
    scores, poses = [], []
    for view in (own, mirrored):
        seen = discriminator(view.image, view.image_raw).pose
        condition = seen if conditioning == "own" else view.pose
        scores.append(discriminator(view.image, view.image_raw, condition).score)
        poses.append(seen)
    assert found["generator"].item() == pytest.approx(F.softplus(-scores[0]).mean().item(), rel=1e-5)
    assert found["mirrored"].item() == pytest.approx(F.softplus(-scores[1]).mean().item(), rel=1e-5)
    expected = 0.5 * F.mse_loss(one.players.generator.pose(w), poses[0])
    assert found["consistency"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert found["spread_h"].item() == pytest.approx(own.pose[:, 0].std(correction=0).item(), rel=1e-4)
    assert found["spread_v"].item() == pytest.approx(own.pose[:, 1].std(correction=0).item(), rel=1e-4)


@pytest.mark.parametrize("conditioning", ["own", "generator"])
def test_the_discriminators_losses(conditioning):
    s = dataclasses.replace(STILL, conditioning=conditioning, lam_supervision=0.5, lam_fake=0.7)
    one = posefree_recipe(s)
    discriminator = one.players.discriminator
    views, real = one.fakes(2, Draw.DISCRIMINATOR)[1], one.reals(2)
    found = one.discriminator_losses(2)
    expected = F.softplus(-discriminator(real.image, real.image_raw).score).mean()
    for view in views:
        pose = view.pose if conditioning == "generator" else None
        expected = expected + 0.7 * F.softplus(discriminator(view.image, view.image_raw, pose).score).mean()
    assert found["discriminator"].item() == pytest.approx(expected.item(), rel=1e-5)
    seen = discriminator(views[0].image, views[0].image_raw).pose
    assert found["supervision"].item() == pytest.approx(
        0.5 * F.mse_loss(seen, views[0].pose).item(), rel=1e-5
    )


def test_both_conditionings_differ():
    own, by_generator = (
        posefree_recipe(dataclasses.replace(STILL, conditioning=kind)) for kind in ("own", "generator")
    )
    losses = [one.generator_losses(0) for one in (own, by_generator)]
    assert abs(losses[0]["generator"] - losses[1]["generator"]) > 1e-4
    assert torch.equal(losses[0]["consistency"], losses[1]["consistency"])


def test_r1_is_of_real_pictures_under_the_poses_that_are_seen_in_them():
    one = posefree_recipe(dataclasses.replace(POSEFREE, gamma=3.0))
    real = one.reals(5)
    assert real.label is None
    inputs = [real.image.requires_grad_(), real.image_raw.requires_grad_()]
    seen = one.players.discriminator(*inputs).pose.detach()
    penalty = r1_loss(one.players.discriminator(*inputs, seen).score, inputs).mean()
    assert one.r1_losses(5)["r1"].item() == pytest.approx(4 * 3.0 / 2 * penalty.item(), rel=1e-5)


def test_the_plain_discriminator_judges_pictures_and_has_no_pose():
    one = posefree_recipe(PLAIN)
    discriminator = one.players.discriminator
    assert not isinstance(discriminator, PoseAwareDiscriminator)
    assert not [name for name in discriminator.state_dict() if "cam_out" in name or "mapping" in name]
    (own, mirrored), real = one.fakes(2, Draw.DISCRIMINATOR)[1], one.reals(2)
    found = one.discriminator_losses(2)
    assert "supervision" not in found
    expected = F.softplus(-discriminator(*real[:2], None)).mean()
    for view in (own, mirrored):
        expected = expected + F.softplus(discriminator(view.image, view.image_raw, None)).mean()
    assert found["discriminator"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert {"generator", "mirrored"} <= one.generator_losses(2).keys()
    assert "consistency" not in one.generator_losses(2)


# ----------------------------------------------------------------------- what learns from what


def reached(loss: torch.Tensor, network: torch.nn.Module) -> set[str]:
    """Names of the parameters that a loss has a gradient of that is not zero."""
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    found = zip(named, gradients, strict=True)
    return {name for name, gradient in found if gradient is not None and gradient.abs().max() > 0}


def pose_learner(names: set[str]) -> set[str]:
    return {name for name in names if ".affine_layer" in name}


@pytest.mark.parametrize("conditioning", ["own", "generator"])
def test_consistency_teaches_the_pose_learner_alone(conditioning):
    one = posefree_recipe(dataclasses.replace(POSEFREE, conditioning=conditioning))
    losses, named = one.generator_losses(0), dict(one.players.generator.named_parameters())
    assert reached(losses["consistency"], one.players.generator) == pose_learner(set(named))
    assert not reached(losses["consistency"], one.players.discriminator)


@pytest.mark.parametrize("conditioning", ["own", "generator"])
@pytest.mark.parametrize("term", ["generator", "mirrored"])
def test_the_score_teaches_the_generator_and_its_pose_learner_through_the_camera(
    conditioning, term, monkeypatch
):
    s = dataclasses.replace(POSEFREE, conditioning=conditioning)
    one = posefree_recipe(s)
    names = set(dict(one.players.generator.named_parameters()))
    found = reached(one.generator_losses(0)[term], one.players.generator)
    silent = {name for name in names if "noise_strength" in name}  # constant noise, of strength 0
    assert names - found <= silent
    original = PoseFreeEG3D.camera_at
    monkeypatch.setattr(PoseFreeEG3D, "camera_at", lambda self, pose: original(self, pose).detach())
    found = reached(one.generator_losses(0)[term], one.players.generator)
    assert found
    assert not pose_learner(found)


def test_the_camera_teaches_the_code_too(monkeypatch):
    """Of heads that cannot change, only poses can be better."""
    views = PoseFreeRecipe.views
    monkeypatch.setattr(
        PoseFreeRecipe, "views", lambda self, w_plus, *rest: views(self, w_plus.detach(), *rest)
    )
    one = posefree_recipe()
    for term in ("generator", "mirrored"):
        found = reached(one.generator_losses(0)[term], one.players.generator)
        mapping = {f"backbone.mapping.fc{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
        assert mapping <= found, term


@pytest.mark.parametrize("settings", [POSEFREE, PLAIN], ids=["pose_aware", "plain"])
def test_the_discriminator_learns_alone_from_its_losses(settings):
    one = posefree_recipe(settings)
    for losses in (one.discriminator_losses(0), one.r1_losses(0)):
        for name, loss in losses.items():
            if loss.requires_grad:
                assert reached(loss, one.players.discriminator), name
                assert not reached(loss, one.players.generator), name


def test_supervision_teaches_the_pose_branch_and_the_score_does_not():
    one = posefree_recipe()
    losses = one.discriminator_losses(0)
    by_score, by_poses = (
        reached(losses[name], one.players.discriminator) for name in ("discriminator", "supervision")
    )
    branch = {f"b4.cam_out{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")}
    assert branch <= by_poses
    assert not branch & by_score
    assert not {name for name in by_poses if name.startswith(("b4.fc", "b4.out", "mapping"))}
    assert "b16.conv0.weight" in by_poses & by_score


def test_taught_poses_come_closer():
    one = posefree_recipe(dataclasses.replace(POSEFREE, rate_generator=1e-3, rate_discriminator=1e-4))
    for losses, name, phase in (
        (one.generator_losses, "consistency", 0),
        (one.discriminator_losses, "supervision", 2),
    ):
        optimiser = one.phases()[phase].optimiser
        before = losses(0)[name]
        optimiser.zero_grad()
        before.backward()
        optimiser.step()
        assert losses(0)[name] < before


def test_the_mean_of_w_is_tracked_while_the_discriminator_learns():
    one = posefree_recipe()
    mapping = one.players.generator.backbone.mapping
    mapping.w_avg.zero_()
    one.generator_losses(0)
    assert mapping.w_avg.eq(0).all()
    one.discriminator_losses(0)
    w = one.fakes(0, Draw.DISCRIMINATOR)[0]
    assert torch.allclose(mapping.w_avg, 0.002 * w.mean(dim=0), atol=1e-6)


def test_the_density_of_a_constant_volume_costs_nothing():
    one = posefree_recipe()
    assert one.density_losses(0)["density"] > 0
    assert not pose_learner(reached(one.density_losses(0)["density"], one.players.generator))
    with torch.no_grad():
        one.players.generator.decoder.net[2].weight[0] = 0
    assert one.density_losses(0)["density"].item() == pytest.approx(0, abs=1e-6)


# ----------------------------------------------------------------------- no camera


def test_labels_are_refused():
    with pytest.raises(ValueError, match="expected RealPictures without labels"):
        PoseFreeRecipe(posefree_players(POSEFREE), real_pictures(labelled=True), POSEFREE)


def test_generators_that_ask_for_a_camera_are_refused():
    with pytest.raises(ValueError, match="says its own poses, a PoseFreeEG3D; got EG3D"):
        PoseFreeRecipe(players(), real_pictures(labelled=False), POSEFREE)


@pytest.mark.parametrize("one, other", [(POSEFREE, PLAIN), (PLAIN, POSEFREE)], ids=["plain", "pose_aware"])
def test_discriminators_of_the_other_kind_are_refused(one, other):
    with pytest.raises(ValueError, match=f"a {one.discriminator} discriminator has pose_branch="):
        PoseFreeRecipe(posefree_players(other), real_pictures(labelled=False), one)


# ----------------------------------------------------------------------- runs


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    s = dataclasses.replace(POSEFREE, ada_target=0.1, ada_images=200, ada_every=3, augment=0.4)
    run(posefree_recipe(s), tmp_path / "whole", 5)
    with pytest.raises(Killed):
        run(posefree_recipe(s), tmp_path / "killed", 5, killed_at=3)
    run(posefree_recipe(s), tmp_path / "killed", 5)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    logs = [[row | {"seconds": 0} for row in rows(tmp_path / name)] for name in ("killed", "whole")]
    assert logs[0] == logs[1]
    terms = {
        "generator",
        "mirrored",
        "consistency",
        "density",
        "discriminator",
        "supervision",
        "r1",
        "spread_h",
    }
    assert terms <= logs[0][0].keys()
    start, end = dict(posefree_recipe(s).players.named_parameters()), state(tmp_path / "whole")["model"]
    moved = [key for key in start if not torch.equal(start[key], end[key])]
    assert len(moved) > 0.9 * len([key for key in start if "noise_strength" not in key])
    assert pose_learner(set(moved)) == pose_learner(set(start))


def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path):
    s = dataclasses.replace(
        STILL, batch=8, augment=0.5, ada_target=0.0, ada_images=100, conditioning="generator"
    )
    train_in_double(tmp_path / "one", s, 2)
    launch(train_in_double, tmp_path / "two", s, 2, device="cpu", devices=2)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for part in ("model", "average"):
        for key, value in one[part].items():
            assert torch.allclose(value, two[part][key], rtol=1e-5, atol=1e-6), key  # cameras are of float32
    logs = [rows(tmp_path / name) for name in ("one", "two")]
    for row, other in zip(*logs, strict=True):
        assert other | {"seconds": 0} == pytest.approx(row | {"seconds": 0}, rel=1e-6, abs=1e-7)


@pytest.fixture
def portraits(monkeypatch):
    """What a pose-free training may see; what it may not see cannot be loaded."""
    known = rendered_portraits(portrait_generator(), people=6, views=2, singles=4, held_out_singles=2)
    found = datasets.UnposedPortraits(
        images=known.images,
        inside=known.inside,
        styles=np.zeros((len(known), 512), np.float32),
        single=known.person >= 6,
        held_out=known.held_out,
    )
    monkeypatch.delattr(datasets, "load_portraits")
    monkeypatch.setattr(datasets, "load_unposed_portraits", lambda *_: found)
    return found


@pytest.fixture
def start(tmp_path):
    generator = posefree_generator().requires_grad_(False).measure_w(n=500)
    return save_generator(generator, tmp_path / "start.safetensors", torch.float32)


def test_training_writes_networks_that_load(portraits, start, tmp_path):
    average = adversarial_posefree.train(start, POSEFREE, 2, tmp_path)
    trained = load_generator(tmp_path / "generator.safetensors")
    assert isinstance(trained, PoseFreeEG3D)
    for key, value in average.state_dict().items():
        assert torch.allclose(trained.state_dict()[key], value, rtol=1e-3, atol=1e-3), key  # float16
    metadata = read_metadata(tmp_path / "generator.safetensors")
    assert metadata["adversarial_steps"] == "2"
    assert json.loads(metadata["adversarial_settings"])["lam_supervision"] == POSEFREE.lam_supervision
    discriminator = load_discriminator(tmp_path / "discriminator.pt")
    assert isinstance(discriminator, PoseAwareDiscriminator)
    assert discriminator.config == opponent_config(16, POSEFREE)
    kept = state(tmp_path)["model"]
    for key, value in discriminator.state_dict().items():
        assert torch.equal(value, kept[f"discriminator.{key}"]), key


def test_training_starts_from_a_given_discriminator_of_the_right_kind(portraits, start, tmp_path):
    file = tmp_path / "opponent.pt"
    plain = posefree_players(PLAIN).discriminator
    torch.save({"D": plain.state_dict(), "init_kwargs": plain.config.to_dict()}, file)
    still = dataclasses.replace(PLAIN, rate_discriminator=0.0)
    adversarial_posefree.train(start, still, 1, tmp_path / "given", file)
    kept = state(tmp_path / "given")["model"]
    for key, value in plain.state_dict().items():
        assert torch.equal(value, kept[f"discriminator.{key}"]), key
    with pytest.raises(
        ValueError, match="a pose_aware discriminator has pose_branch=True and c_dim=2; got False and 0"
    ):
        adversarial_posefree.train(start, POSEFREE, 1, tmp_path / "other", file)


def test_training_sees_pictures_as_they_are_and_none_that_is_held_out(
    portraits, start, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(adversarial_posefree, "play", lambda recipe, *_: seen.append(recipe.pictures))
    adversarial_posefree.train(start, POSEFREE, 1, tmp_path)
    (pictures,) = seen
    assert isinstance(pictures, RealPictures)
    assert pictures.labels is None
    assert len(pictures) == len(portraits) - 2
    expected = portraits.images[~portraits.held_out]
    assert torch.equal(pictures.images, torch.from_numpy(expected).permute(0, 3, 1, 2))


def test_the_command_trains_against_a_plain_discriminator(portraits, start, tmp_path):
    options = Options(start=str(start), steps=2, folder=tmp_path / "run", device="cpu", settings=PLAIN)
    adversarial_posefree.main(options)
    (row,) = rows(tmp_path / "run")
    assert row["step"] == 2
    assert "supervision" not in row
    assert isinstance(load_generator(tmp_path / "run" / "generator.safetensors"), PoseFreeEG3D)


def test_a_new_generator_is_the_same_each_time():
    state = torch.random.get_rng_state()
    one, other = new_generator(0).state_dict(), new_generator(0).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    key = "backbone.mapping.affine_layer1.weight"
    assert torch.equal(one[key], other[key])
    assert not torch.equal(one[key], new_generator(1).state_dict()[key])
