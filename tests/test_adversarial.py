import dataclasses
import json

import numpy as np
import pytest
import torch

from lib import adversarial, datasets, metrics
from lib.adversarial import (
    Draw,
    EG3DRecipe,
    EG3DSettings,
    Options,
    RealPictures,
    augment_pair,
    blur,
    blur_width,
    in_proportion,
    lazy_adam,
    rays_along_side,
    swap_probability,
)
from lib.augmentation import AugmentationSettings, draw_changes
from lib.cameras import Camera, orbit
from lib.generators import RenderingSettings, load_generator, read_metadata, save_generator
from lib.generators.checkpoints import load_discriminator
from lib.generators.discriminators import DiscriminatorConfig
from lib.images import load_photo, resize, to_uint8
from lib.losses import r1_loss
from lib.training import launch
from tests.tiny_adversaries import SETTINGS, Killed, assert_same, recipe, rows, run, state, train_in_double
from tests.tiny_generator import tiny_generator
from tests.tiny_portraits import portrait_generator, rendered_portraits

# ----------------------------------------------------------------------- schedules


def test_the_swap_fades_from_always_to_its_probability():
    s = EG3DSettings(swap=0.8, swap_fade=1000)
    found = [swap_probability(images, s) for images in (0, 500, 1000, 5000)]
    assert found == pytest.approx([1.0, 0.9, 0.8, 0.8])
    assert swap_probability(0, dataclasses.replace(s, swap_fade=0)) == 0.8


def test_the_blur_fades_to_none_in_proportion_to_the_batch():
    s = EG3DSettings(batch=32, blur=10, blur_fade=200_000)
    assert [blur_width(images, s) for images in (0, 50_000, 200_000, 10**6)] == [10, 7.5, 0, 0]
    half = dataclasses.replace(s, batch=16)
    assert blur_width(50_000, half) == 5  # of the same steps half the images
    assert blur_width(0, dataclasses.replace(s, blur_fade=0)) == 0


def test_rays_grow_linearly_to_the_final_resolution():
    s = EG3DSettings.ffhq512_second_stage()
    assert [rays_along_side(images, s) for images in (0, 10_000, 500_000, 10**6, 10**7)] == [
        64,
        65,
        96,
        128,
        128,
    ]
    assert rays_along_side(10**7, EG3DSettings.ffhq512()) == 64


def test_counts_in_proportion_stand_for_steps():
    for batch in (8, 32):
        s = EG3DSettings(batch=batch)
        assert in_proportion(10_000, s) / batch == 312.5


def test_lazy_adam_shrinks_rate_and_betas():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    (group,) = lazy_adam(parameters, 2.5e-3, (0.0, 0.99), every=4).param_groups
    assert group["lr"] == pytest.approx(0.002)
    assert group["betas"] == pytest.approx((0.0, 0.99**0.8))
    (plain,) = lazy_adam(parameters, 2.5e-3, (0.0, 0.99), every=None).param_groups
    assert (plain["lr"], plain["betas"], plain["eps"]) == (2.5e-3, (0.0, 0.99), 1e-8)


def test_lazy_adam_covers_as_many_updates():
    """Four updates and one of regularisation forget as much as four do without."""
    (group,) = lazy_adam([torch.nn.Parameter(torch.zeros(1))], 1.0, (0.5, 0.9), every=4).param_groups
    assert [beta**5 for beta in group["betas"]] == pytest.approx([0.5**4, 0.9**4])


def test_recipes_of_the_released_models():
    assert [
        (s.gamma, s.swap, s.lam_density, s.density_every, s.r1_every, s.ada_target)
        for s in (
            EG3DSettings.ffhq512(),
            EG3DSettings.ffhq512_second_stage(swap=0.8),
            EG3DSettings.afhq512(),
            EG3DSettings.shapenet128(),
        )
    ] == [
        (1.0, 0.5, 0.25, 4, 16, None),
        (1.0, 0.8, 0.25, 4, 16, None),
        (5.0, 0.8, 0.25, 4, 16, 0.6),
        (0.3, 0.5, 0.25, 4, 16, None),
    ]
    assert blur_width(0, EG3DSettings.afhq512()) == 0


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="r1_every must be 1 or more; got 0"):
        EG3DSettings(r1_every=0)
    with pytest.raises(ValueError, match=r"swap is a probability; got 1\.5"):
        EG3DSettings(swap=1.5)


# ----------------------------------------------------------------------- what the discriminator sees


def test_blur_spreads_a_point_by_its_kernel():
    point = torch.zeros(1, 2, 33, 33)
    point[:, :, 16, 16] = 1
    found = blur(point, 2.0)
    for y, x in ((0, 0), (2, 0), (0, -2), (3, 4), (6, 6)):
        ratio = found[0, 1, 16 + y, 16 + x] / found[0, 1, 16, 16]
        assert ratio.item() == pytest.approx(2 ** (-(x**2 + y**2) / 4), rel=1e-4)
    assert found[0, 0, 16, 23] == 0  # cut off at three widths
    assert found[0, 0].sum().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(blur(point, 0.3), point)


def test_the_pair_is_augmented_as_one():
    """Of a smooth picture the raw picture is the picture made smaller, before and after."""
    rough = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = resize(rough, 16)
    changes = draw_changes(np.random.default_rng(0), 3, 1.0, AugmentationSettings())
    changed, changed_raw = augment_pair(image, resize(image, 8), changes)
    assert changed_raw.shape == (3, 3, 8, 8)
    apart = (resize(changed, 8) - changed_raw).abs().mean()
    assert apart < 0.1 * (resize(image, 8) - changed_raw).abs().mean()


def test_real_pictures_come_mirrored_too_with_the_mirrored_camera():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    camera = orbit(torch.tensor([0.1, -0.4, 0.5]), torch.tensor([0.0, 0.2, -0.1]))
    pictures = RealPictures(images, camera.label().numpy())
    assert len(pictures) == 6
    image, label = pictures[np.array([1, 4])]
    assert torch.equal(image[0], torch.from_numpy(images[1]).permute(2, 0, 1) / 127.5 - 1)
    assert torch.equal(image[1], image[0].flip(2))
    assert torch.equal(label, Camera.cat([camera[1], camera[1].mirror()]).label())


def test_real_pictures_come_straight_alone_and_without_labels_if_wanted():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    labels = orbit(torch.tensor([0.1, -0.4, 0.5]), torch.zeros(3)).label().numpy()
    pictures = RealPictures(images, labels, mirrored=False)
    assert len(pictures) == 3
    image, label = pictures[np.array([2])]
    assert torch.equal(image[0], torch.from_numpy(images[2]).permute(2, 0, 1) / 127.5 - 1)
    assert torch.equal(label, torch.from_numpy(labels[2:]))
    unlabelled = RealPictures(images)
    assert len(unlabelled) == 6
    image, label = unlabelled[np.array([2, 5])]
    assert torch.equal(image[1], image[0].flip(2))
    assert label is None


# ----------------------------------------------------------------------- the phases


def conditioning_and_label(settings: EG3DSettings, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels that codes of a step are conditioned on, and those that they are rendered and judged under."""
    one, seen = recipe(settings), []
    original = one.players.generator.map
    one.players.generator.map = lambda z, camera: seen.append(camera) or original(z, camera)
    return one.fakes(step, Draw.GENERATOR)[1], seen[0]


@pytest.mark.parametrize("swap", [0.0, 0.3, 1.0])
def test_conditioning_is_swapped_with_the_neighbours_as_often_as_settings_say(swap):
    s = dataclasses.replace(SETTINGS, batch=600, swap=swap, neural_resolution=2)
    label, conditioning = conditioning_and_label(s, 0)
    own, neighbours = (label == conditioning).all(1), (label.roll(1, 0) == conditioning).all(1)
    assert (own | neighbours).all()
    both = (label == label.roll(1, 0)).all(1)  # labels are few: some neighbours are alike
    assert neighbours[~both].float().mean().item() == pytest.approx(swap, abs=0.06)


def test_the_rendering_camera_is_the_labels():
    one = recipe(dataclasses.replace(SETTINGS, jitter=False, swap=1.0))
    seen = []
    original = one.players.generator.map
    one.players.generator.map = lambda z, camera: seen.append(original(z, camera)) or seen[-1]
    view, label, _ = one.fakes(0, Draw.GENERATOR)
    expected = one.players.generator.synthesize(seen[0], label, neural_resolution=8)
    assert torch.equal(view.image, expected.image)


def test_phases_draw_pictures_of_their_own_and_the_same_ones_again():
    one = recipe()
    which = ((3, Draw.GENERATOR), (3, Draw.DISCRIMINATOR), (4, Draw.GENERATOR))
    images = [one.fakes(step, draw)[0].image for step, draw in which]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(recipe().fakes(3, Draw.GENERATOR)[0].image, images[0])


def test_raw_pictures_grow_with_the_rays():
    growing = dataclasses.replace(
        SETTINGS, neural_resolution=4, neural_resolution_final=8, neural_resolution_fade=8
    )
    one = recipe(growing)
    for step, size in ((0, 4), (1, 6), (2, 8), (9, 8)):
        assert one.fakes(step, Draw.GENERATOR)[0].image_raw.shape[-1] == size
        assert one.reals(step)[1].shape[-1] == size


def test_real_raw_pictures_are_blurred_and_so_is_what_is_judged():
    sharp, blurred = recipe(), recipe(dataclasses.replace(SETTINGS, blur=2.0, blur_fade=10**6))
    (image, raw, label), (_, blurred_raw, _) = sharp.reals(0), blurred.reals(0)
    assert torch.allclose(blurred_raw, blur(raw, 2.0), atol=1e-6)
    width = blur_width(0, blurred.settings)
    expected = sharp.judge(blur(image, width), raw, label, 0, Draw.REAL_AUGMENTATION)
    assert torch.allclose(blurred.judge(image, raw, label, 0, Draw.REAL_AUGMENTATION), expected, atol=1e-5)


def test_r1_is_of_both_pictures():
    one = recipe(dataclasses.replace(SETTINGS, gamma=3.0))
    image, raw, label = one.reals(5)
    inputs = [image.requires_grad_(), raw.requires_grad_()]
    penalty = r1_loss(one.players.discriminator(*inputs, label), inputs).mean()
    assert one.r1_losses(5)["r1"].item() == pytest.approx(4 * 3.0 / 2 * penalty.item(), rel=1e-5)


def test_the_density_of_a_constant_volume_costs_nothing():
    one = recipe()
    assert one.density_losses(0)["density"] > 0
    with torch.no_grad():
        one.players.generator.decoder.net[2].weight[0] = 0
    assert one.density_losses(0)["density"].item() == pytest.approx(0, abs=1e-6)


def test_density_is_compared_between_neighbours_all_over_the_cube():
    one = recipe(
        dataclasses.replace(SETTINGS, density_points=3000, density_extent=0.5, density_distance=0.01)
    )
    seen, original = [], one.players.generator.sample
    one.players.generator.sample = lambda planes, points: seen.append(points) or original(planes, points)
    loss = one.density_losses(0)["density"]
    points, neighbours = seen[0].chunk(2, dim=1)
    assert points.shape == (4, 3000, 3)
    assert points.abs().max().item() == pytest.approx(0.5, rel=0.01)
    assert points.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.02)  # uniform
    assert (neighbours - points).std().item() == pytest.approx(0.01, rel=0.02)
    planes = one.players.generator.planes(one.players.generator.map(*density_codes(one)))
    density, _ = original(planes, seen[0])
    difference = (density[:, :3000] - density[:, 3000:]).abs().mean()
    assert loss.item() == pytest.approx(2 * 0.25 * difference.item(), rel=1e-5)  # at every second step


def density_codes(one: EG3DRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and conditioning labels of the heads whose density is compared at step 0."""
    rng = one.numbers(0, Draw.DENSITY)
    z, label = one.latents_and_labels(rng)
    swapped = rng.random() < swap_probability(0, one.settings)
    z, label = one.share(z, np.roll(label, 1, axis=0) if swapped else label)
    return z, label


def test_random_noise_is_drawn_from_the_step():
    def image(noise_mode: str) -> torch.Tensor:
        one = recipe(dataclasses.replace(SETTINGS, noise_mode=noise_mode, jitter=False))
        for name, parameter in one.players.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.5)
        return one.fakes(2, Draw.GENERATOR)[0].image

    assert torch.equal(image("random"), image("random"))
    assert not torch.allclose(image("random"), image("const"), atol=1e-3)


def test_the_mean_of_w_is_tracked_while_the_discriminator_learns():
    one = recipe()
    mapping = one.players.generator.backbone.mapping
    mapping.w_avg.zero_()
    one.generator_losses(0)
    assert mapping.w_avg.eq(0).all()
    one.discriminator_losses(0)
    w = one.fakes(0, Draw.DISCRIMINATOR)[2]
    assert torch.allclose(mapping.w_avg, 0.002 * w.mean(dim=0), atol=1e-6)


def test_the_strength_adapts_every_few_steps():
    s = dataclasses.replace(SETTINGS, ada_target=-2.0, ada_images=100, ada_every=2, augment=0.5)
    one = recipe(s)  # no mean sign is below such a target
    strengths = []
    for step in range(4):
        one.discriminator_losses(step)
        strengths.append(one.players.strength.value.item())
    assert strengths == pytest.approx([0.5, 0.58, 0.58, 0.66])  # by 2 batches of 4 in 100


def test_phases_of_no_weight_are_left_out_and_rates_are_plain_then():
    full, bare = recipe(), recipe(dataclasses.replace(SETTINGS, gamma=0.0, lam_density=0.0))
    assert [(phase.losses.__name__, phase.every) for phase in full.phases()] == [
        ("generator_losses", 1),
        ("density_losses", 2),
        ("discriminator_losses", 1),
        ("r1_losses", 4),
    ]
    phases = bare.phases()
    assert [phase.losses.__name__ for phase in phases] == ["generator_losses", "discriminator_losses"]
    assert [phase.optimiser.param_groups[0]["lr"] for phase in phases] == [2.5e-3, 2e-3]


@pytest.mark.parametrize("index", range(4))
def test_gradients_equal_finite_differences(index):
    """Of every phase's loss, along a random direction of the weights that it changes."""
    one = recipe(dataclasses.replace(SETTINGS, augment=0.7), double=True)
    generator = one.players.generator  # without importance samples: where they lie has no gradient by design
    generator.config = dataclasses.replace(generator.config, rendering=RenderingSettings(8, 0))
    phase = one.phases()[index]
    rng = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in phase.parameters]
    losses = phase.losses(0)
    name = next(iter(losses))
    gradients = torch.autograd.grad(losses[name], phase.parameters, materialize_grads=True, allow_unused=True)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, direction in zip(phase.parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        values.append(phase.losses(0)[name].item())
    assert found == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3)


# ----------------------------------------------------------------------- runs


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, killed_at):
    """Weights, averages, both optimisers and the augmentation's strength, in the middle of all intervals."""
    s = dataclasses.replace(SETTINGS, ada_target=0.1, ada_images=200, ada_every=3, augment=0.4)
    run(recipe(s), tmp_path / "whole")
    with pytest.raises(Killed):
        run(recipe(s), tmp_path / "killed", killed_at=killed_at)
    run(recipe(s), tmp_path / "killed")
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    assert state(tmp_path / "whole")["model"]["strength.value"] != 0.4
    logs = [[row | {"seconds": 0} for row in rows(tmp_path / name)] for name in ("killed", "whole")]
    assert logs[0] == logs[1]
    assert {"generator", "density", "discriminator", "r1", "sign_real", "augmentation"} <= logs[0][0].keys()


def test_both_players_learn_and_the_average_follows(tmp_path):
    start, end = recipe().players, run(recipe(), tmp_path, steps=4).players
    for name in ("generator", "discriminator"):
        before, after = (dict(getattr(players, name).named_parameters()) for players in (start, end))
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        assert len(moved) > 0.8 * len(before), name
    average = state(tmp_path)["average"]
    key = "decoder.net.0.weight"
    way = [
        (weights - start.generator.get_parameter(key)).abs().sum().item()
        for weights in (average[key], end.generator.get_parameter(key))
    ]
    assert 0 < way[0] < way[1]


def test_a_discriminator_alone_learns_to_tell_and_leaves_the_generator(tmp_path):
    s = dataclasses.replace(SETTINGS, discriminator_alone=10**6, gamma=0.01, rate_discriminator=1e-2, batch=8)
    end = run(recipe(s), tmp_path, steps=45)
    fresh = recipe()
    for key, value in fresh.players.generator.named_parameters():
        assert torch.equal(end.players.generator.get_parameter(key), value), key
    log = rows(tmp_path)
    assert log[-1]["discriminator"] < 0.7 * log[0]["discriminator"]
    assert "generator" not in log[-1]


def test_a_generator_alone_raises_its_scores():
    one = recipe(dataclasses.replace(SETTINGS, rate_generator=5e-3))
    phase = one.phases()[0]
    before = one.generator_losses(0)["generator"].item()
    for _ in range(5):
        phase.optimiser.zero_grad()
        one.generator_losses(0)["generator"].backward()
        phase.optimiser.step()
    assert one.generator_losses(0)["generator"].item() < before


def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path):
    s = dataclasses.replace(SETTINGS, batch=8, jitter=False, augment=0.5, ada_target=0.0, ada_images=100)
    train_in_double(tmp_path / "one", s, 3)
    launch(train_in_double, tmp_path / "two", s, 3, device="cpu", devices=2)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for part in ("model", "average"):
        for key, value in one[part].items():
            assert torch.allclose(value, two[part][key], rtol=1e-6, atol=1e-8), key
    logs = [rows(tmp_path / name) for name in ("one", "two")]
    for row, other in zip(*logs, strict=True):
        assert other | {"seconds": 0} == pytest.approx(row | {"seconds": 0}, rel=1e-9, abs=1e-12)
    start = recipe(s, double=True).players.state_dict()
    key = "discriminator.b8.conv0.weight"
    assert not torch.allclose(start[key], one["model"][key], atol=1e-4)


@pytest.fixture
def portraits(monkeypatch):
    found = rendered_portraits(portrait_generator(), people=6, views=2, singles=4)
    monkeypatch.setattr(datasets, "load_portraits", lambda *_: found)
    return found


@pytest.fixture
def start(tmp_path):
    return save_generator(tiny_generator(), tmp_path / "start.safetensors", torch.float32)


def test_training_writes_networks_that_load(portraits, start, tmp_path):
    average = adversarial.train(start, SETTINGS, 2, tmp_path)
    trained = load_generator(tmp_path / "generator.safetensors")
    for key, value in average.state_dict().items():
        assert torch.allclose(trained.state_dict()[key], value, rtol=1e-3, atol=1e-3), key  # float16
    metadata = read_metadata(tmp_path / "generator.safetensors")
    assert metadata["adversarial_steps"] == "2"
    assert json.loads(metadata["adversarial_settings"])["gamma"] == SETTINGS.gamma
    discriminator = load_discriminator(tmp_path / "discriminator.pt")
    assert discriminator.config == DiscriminatorConfig.embedded(16)
    kept = state(tmp_path)["model"]
    for key, value in discriminator.state_dict().items():
        assert torch.equal(value, kept[f"discriminator.{key}"]), key


def test_training_starts_from_a_given_discriminator_and_from_the_same_new_one(portraits, start, tmp_path):
    adversarial.train(start, SETTINGS, 1, tmp_path / "first")
    file = tmp_path / "first" / "discriminator.pt"
    still = dataclasses.replace(SETTINGS, rate_discriminator=0.0)
    for name, opponent in (("given", file), ("new", None), ("new again", None)):
        adversarial.train(start, still, 1, tmp_path / name, opponent)
    given, new, again = (state(tmp_path / name)["model"] for name in ("given", "new", "new again"))
    key = "discriminator.b8.conv1.weight"
    assert torch.equal(given[key], load_discriminator(file).state_dict()["b8.conv1.weight"])
    assert torch.equal(new[key], again[key])
    assert not torch.equal(given[key], new[key])


def test_the_command_trains_and_compares(portraits, start, monkeypatch, tmp_path, capsys):
    options = Options(start=str(start), steps=2, folder=tmp_path / "run", device="cpu", settings=SETTINGS)
    adversarial.main(options)
    assert [row["step"] for row in rows(tmp_path / "run")] == [2]
    monkeypatch.setattr(
        metrics, "inception_features", lambda images: images[:, :, ::8, ::8].flatten(1).numpy()
    )
    monkeypatch.setattr(adversarial, "COMPARED", 16)
    adversarial.main(dataclasses.replace(options, compare=True))
    numbers = json.loads((tmp_path / "run" / "results.json").read_text())
    assert str(numbers["fid_after"]) in capsys.readouterr().out
    assert numbers["images"] == 16
    assert numbers["fid_before"] != numbers["fid_after"] > 0
    sheet = load_photo(tmp_path / "run" / "samples.png")
    assert sheet.shape == (64, 128, 3)
    first = load_generator(start)
    z = torch.randn(16, first.z_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(portraits.labels)
    view = first.synthesize(first.map(z[1:2], labels[1:2]), labels[1:2]).image  # the second of the first row
    assert np.abs(sheet[:16, 16:32].astype(int) - to_uint8(view)[0]).max() <= 1
