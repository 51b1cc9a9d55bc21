import copy
import math
from contextlib import contextmanager

import pytest
import torch

from lib import meshes
from lib.cameras import Camera, orbit
from lib.generators import EG3D, load_generator, save_generator
from lib.inversion import Inversion, invert_pti, invert_w, invert_wplus
from lib.inversion.objective import lpips_for
from lib.inversion.optimisation import learning_rate_ramp, shake_ramp
from lib.inversion.projection import noise_maps, w_statistics
from lib.inversion.pti import locality_loss, locality_sample
from lib.inversion.result import fingerprint
from lib.losses import noise_regulariser
from lib.media import EXPORTS, export, save_orbit_video
from lib.paths import WEIGHTS
from lib.voxels import save_voxels
from tests.tiny_generator import RandomFeatures, tiny_generator

VIEW = orbit(0.2, 0.1)
QUIET = {"perceptual": RandomFeatures(), "progress": False}


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def code(generator) -> torch.Tensor:
    """A latent that inversion has to find from its picture."""
    return generator.map(torch.randn(1, 16, generator=torch.Generator().manual_seed(1)), VIEW)


@pytest.fixture(scope="module")
def target(generator, code) -> torch.Tensor:
    return generator.synthesize(code, VIEW).image


def distance(image: torch.Tensor, target: torch.Tensor) -> float:
    return RandomFeatures()(image, target).item()


def mean_picture(generator: EG3D) -> torch.Tensor:
    return generator.synthesize(generator.w_mean.expand(1, generator.n_layers, -1), VIEW).image


# ----------------------------------------------------------------------- recovery
@pytest.mark.parametrize("method", [invert_w, invert_wplus])
def test_recovers_a_known_latent(generator, target, method):
    found = method(generator, target, VIEW, steps=150, learning_rate=0.05, **QUIET)
    assert distance(found.render().image, target) < 0.1 * distance(mean_picture(generator), target)


def test_w_has_one_code_and_wplus_one_for_each_layer(generator, target):
    one = invert_w(generator, target, VIEW, steps=5, **QUIET).w_plus
    many = invert_wplus(generator, target, VIEW, steps=5, **QUIET).w_plus
    assert torch.equal(one, one[:, :1].expand_as(one))
    assert (many - many[:, :1]).abs().max() > 1e-4


def test_pti_reaches_what_the_latent_space_cannot(generator):
    """A picture that is no sample: the tuned generator renders it better than any code does."""
    target = torch.linspace(-0.9, 0.3, 16).expand(1, 3, 16, 16).contiguous()
    pivot = invert_w(generator, target, VIEW, steps=60, learning_rate=0.05, **QUIET)
    tuned = invert_pti(
        generator, target, VIEW, initial=pivot, steps=80, learning_rate=1e-2, lpips_threshold=0, **QUIET
    )
    assert distance(tuned.render().image, target) < 0.3 * distance(pivot.render().image, target)
    assert torch.equal(tuned.w_plus, pivot.w_plus)


@pytest.mark.skipif(
    not (WEIGHTS / "portraits64.safetensors").exists(), reason="portraits64 is not trained yet"
)
def test_recovers_a_sample_of_portraits64():
    generator = load_generator("portraits64")
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(5))
    target = generator.synthesize(generator.map(z, VIEW), VIEW).image.clamp(-1, 1)
    found = invert_w(generator, target, VIEW, steps=300, learning_rate=0.05, progress=False)
    lpips = lpips_for(generator, resolution=256)
    with torch.no_grad():
        first, last = (
            lpips(image, target).item() for image in (mean_picture(generator), found.render().image)
        )
    assert last < 0.1 * first


# ----------------------------------------------------------------------- what every method keeps to
METHODS = {
    "w": (invert_w, {"steps": 4}),
    "wplus": (invert_wplus, {"steps": 4}),
    "pti": (invert_pti, {"pivot_steps": 3, "steps": 4, "lpips_threshold": 0}),
}


@pytest.fixture(params=METHODS)
def method(request):
    function, counts = METHODS[request.param]
    return lambda *arguments, **settings: function(*arguments, **QUIET | counts | settings)


def test_same_seed_same_result(generator, target, method):
    first, again = (method(generator, target, VIEW, seed=3, ray_jitter=True) for _ in range(2))
    other = method(generator, target, VIEW, seed=4, ray_jitter=True)
    assert first.history == again.history
    assert torch.equal(first.w_plus, again.w_plus)
    assert fingerprint(first.generator.state_dict()) == fingerprint(again.generator.state_dict())
    assert first.history != other.history


def test_leaves_the_generator_and_the_random_state_alone(generator, target, method):
    before, state = fingerprint(generator.state_dict()), torch.get_rng_state()
    noisy = tiny_generator(noise_strength=0.1)
    noisy_before = fingerprint(noisy.state_dict())
    method(generator, target, VIEW)
    method(noisy, target, VIEW)
    assert fingerprint(generator.state_dict()) == before
    assert fingerprint(noisy.state_dict()) == noisy_before
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())


def test_the_result_needs_no_gradient(generator, target, method):
    result = method(generator, target, VIEW)
    assert not result.w_plus.requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in result.generator.parameters())
    assert not result.render().image.requires_grad


def test_history_has_an_entry_for_each_step(generator, target, method):
    history = method(generator, target, VIEW).history
    assert {"loss", "l2", "lpips"} <= set(history)
    assert all(len(values) == (3 if name.startswith("pivot_") else 4) for name, values in history.items())
    assert all(math.isfinite(value) for values in history.values() for value in values)


def test_callback_sees_every_step(generator, target, method):
    seen = []
    result = method(generator, target, VIEW, callback=lambda step, state: seen.append((step, state)))
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [state.losses["l2"] for _, state in seen] == result.history["l2"]
    state = seen[-1][1]
    assert state.image.shape == target.shape
    assert not state.image.requires_grad and not state.w_plus.requires_grad


def test_takes_a_camera_as_25_numbers(generator, target, method):
    as_camera = method(generator, target, VIEW)
    as_label = method(generator, target, VIEW.label()[0].tolist())
    assert as_camera.history == as_label.history


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda t: t.repeat(2, 1, 1, 1), r"pictures of the shape \(1, 3, 16, 16\)"),
        (lambda t: t[..., :8, :8], r"portrait_from_photo"),
        (lambda t: t[0], "project_batch"),
        (lambda t: (t + 1) * 127.5, r"-1, 1.*found"),
        (lambda t: t.where(t > t.min(), t.new_tensor(math.nan)), "NaN"),
        (lambda t: ((t + 1) * 127).byte(), "float tensor.*uint8"),
        (lambda t: t.numpy(), "float tensor.*ndarray"),
    ],
)
def test_refuses_a_bad_target(generator, target, method, bad, message):
    with pytest.raises(ValueError, match=message):
        method(generator, bad(target), VIEW)


def test_refuses_a_bad_camera(generator, target, method):
    with pytest.raises(ValueError, match="needs the camera"):
        method(generator, target)
    with pytest.raises(ValueError, match="25 numbers"):
        method(generator, target, torch.zeros(1, 24))
    with pytest.raises(ValueError, match="5\\.4 from the origin"):
        method(generator, target, orbit(0.0, 0.0, radius=5.4))
    with pytest.raises(ValueError, match="one camera; got 2"):
        method(generator, target, Camera.cat([VIEW, VIEW]))


def test_starts_from_a_latent_or_an_inversion(generator, target, code):
    """Without steps the start is the result."""
    as_w_plus, as_w = code, code[0, 0]
    as_inversion = Inversion(code, generator, VIEW)
    for initial in (as_w_plus, as_w, as_w[None], as_w_plus[0], as_inversion):
        for function in (invert_w, invert_wplus, invert_pti):
            assert torch.allclose(
                function(generator, target, VIEW, initial=initial, steps=1, **QUIET).w_plus, code, atol=1e-6
            )
    with pytest.raises(ValueError, match=r"\[16\] or \[1, 6, 16\].*\(1, 3, 16\)"):
        invert_w(generator, target, VIEW, initial=code[:, :3], steps=1, **QUIET)


def test_says_when_it_diverges(generator, target, method):
    class Infinite(RandomFeatures):
        def __call__(self, image, other):
            return super().__call__(image, other) * math.inf

    with pytest.raises(FloatingPointError, match="learning_rate"):
        method(generator, target, VIEW, perceptual=Infinite())


# ----------------------------------------------------------------------- the projector's parts
@pytest.mark.parametrize("steps", [0, -1])
def test_refuses_to_take_no_step(generator, target, method, steps):
    with pytest.raises(ValueError, match=f"^steps must be 1 or more; got {steps}"):
        method(generator, target, VIEW, steps=steps)


def test_pti_refuses_to_search_in_no_step(generator, target):
    with pytest.raises(ValueError, match="pivot_steps must be 1 or more; got 0"):
        invert_pti(generator, target, VIEW, pivot_steps=0, steps=1, **QUIET)


def test_learning_rate_ramp():
    """Karras et al., 2020, as the projectors have it: up over 5 %, down by a cosine over the last 25 %."""
    assert learning_rate_ramp(0.0) == 0
    assert learning_rate_ramp(0.025) == pytest.approx(0.5)
    assert learning_rate_ramp(0.05) == pytest.approx(1)
    assert learning_rate_ramp(0.5) == pytest.approx(1)
    assert learning_rate_ramp(0.75) == pytest.approx(1)
    assert learning_rate_ramp(0.875) == pytest.approx(0.5)
    assert learning_rate_ramp(1.0) == pytest.approx(0)


def test_the_recorded_learning_rate_follows_the_ramp(generator, target):
    history = invert_w(generator, target, VIEW, steps=40, learning_rate=0.02, **QUIET).history
    expected = [0.02 * learning_rate_ramp(step / 40) for step in range(40)]
    assert history["learning_rate"] == pytest.approx(expected)


def test_shake_ramp():
    assert shake_ramp(0.0) == 1
    assert shake_ramp(0.375) == pytest.approx(0.25)
    assert shake_ramp(0.75) == shake_ramp(1.0) == 0


def test_the_code_is_shaken_at_the_start_only(generator, target):
    states = []
    settings = {"steps": 8, "learning_rate": 0.0, "shake": 0.1, **QUIET}
    result = invert_wplus(generator, target, VIEW, callback=lambda _, state: states.append(state), **settings)
    moved = [(state.w_plus - result.w_plus).norm().item() for state in states]
    expected = 0.1 * generator.w_std.item() * math.sqrt(result.w_plus.numel())  # of the first random step
    assert moved[0] == pytest.approx(expected, rel=0.3)
    assert moved[0] > moved[3] > moved[5] > 0
    assert moved[6:] == [0, 0]


def test_w_statistics_are_those_of_the_generator(generator):
    rng = torch.Generator().manual_seed(0)
    mean, spread = w_statistics(generator, None, 20_000, rng)
    assert (mean[0, 0] - generator.w_mean).norm() < 0.15 * generator.w_std
    assert spread.item() == pytest.approx(generator.w_std.item(), rel=0.05)


def test_w_statistics_follow_the_conditioning_camera(generator, target):
    """The projection starts at the mean code of the camera that is asked for."""
    starts = {}
    for conditioning in ("frontal", "target"):
        found = invert_w(
            generator, target, VIEW, steps=1, conditioning=conditioning, statistics_samples=100, **QUIET
        )
        starts[conditioning] = found.w_plus[0, 0]
    z = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    for conditioning, camera in {"frontal": orbit(0.0, 0.0), "target": VIEW}.items():
        assert torch.allclose(starts[conditioning], generator.map(z, camera)[:, 0].mean(0), atol=1e-5)
    assert not torch.equal(starts["frontal"], starts["target"])


def test_noise_maps_are_optimised_where_they_are_used(generator, target):
    assert noise_maps(generator) == []
    noisy = tiny_generator(noise_strength=0.1)
    assert [tuple(noise.shape) for noise in noise_maps(noisy)] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    kept = invert_w(noisy, target, VIEW, steps=20, noise="keep", **QUIET)
    discarded = invert_w(noisy, target, VIEW, steps=20, **QUIET)
    assert discarded.generator is noisy
    for before, after in zip(noise_maps(noisy), noise_maps(kept.generator), strict=True):
        assert not torch.equal(before, after)
        assert after.mean().item() == pytest.approx(0, abs=1e-5)
        assert after.square().mean().item() == pytest.approx(1, rel=1e-4)


def test_the_regulariser_keeps_noise_noise(target):
    noisy = tiny_generator(noise_strength=0.3)
    settings = {"steps": 60, "learning_rate": 0.05, "noise": "keep", **QUIET}
    free = invert_w(noisy, target, VIEW, lam_noise=0.0, **settings)
    bound = invert_w(noisy, target, VIEW, lam_noise=1e5, **settings)
    correlations = [noise_regulariser(noise_maps(result.generator)).item() for result in (free, bound)]
    assert correlations[1] < 0.1 * correlations[0]


# ----------------------------------------------------------------------- pivotal tuning
def test_pti_stops_before_the_step_once_the_threshold_is_met(generator, target, code):
    met = invert_pti(generator, target, VIEW, initial=code, steps=9, lpips_threshold=1e-3, **QUIET)
    assert met.extras["steps_taken"] == 0  # the pivot already renders the target
    assert len(met.history["lpips"]) == 1
    assert fingerprint(met.generator.state_dict()) == fingerprint(generator.state_dict())

    start = invert_w(generator, target, VIEW, steps=1, **QUIET)
    settings = {"initial": start, "learning_rate": 3e-3, **QUIET}
    full = invert_pti(generator, target, VIEW, steps=30, lpips_threshold=0.0, **settings)
    threshold = full.history["lpips"][10]
    stopped = invert_pti(generator, target, VIEW, steps=30, lpips_threshold=threshold, **settings)
    taken = stopped.extras["steps_taken"]
    assert 0 < taken <= 10
    assert distance(stopped.render().image, target) == pytest.approx(stopped.history["lpips"][-1], rel=1e-5)
    assert stopped.history["lpips"][-1] <= threshold < min(stopped.history["lpips"][:-1])


def test_locality_sample_is_at_its_distance_toward_a_sample(generator, code):
    rng = torch.Generator().manual_seed(0)
    near, view = locality_sample(generator, code, 0.5, rng)
    assert (near - code).norm().item() == pytest.approx(0.5, rel=1e-5)
    assert abs(view.yaw.item()) <= 0.6 and abs(view.pitch.item()) <= 0.3
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    toward = generator.map(z, orbit(0.0, 0.0), truncation_psi=0.5) - code
    assert torch.cosine_similarity((near - code).flatten(), toward.flatten(), dim=0).item() == pytest.approx(
        1
    )


def test_locality_keeps_the_generator_as_it_was_elsewhere(generator):
    target = torch.linspace(-0.9, 0.3, 16).expand(1, 3, 16, 16).contiguous()
    start = invert_w(generator, target, VIEW, steps=1, **QUIET)
    settings = {"initial": start, "steps": 40, "learning_rate": 1e-2, "lpips_threshold": 0, **QUIET}
    free, kept = (
        invert_pti(generator, target, VIEW, lam_locality=weight, locality_distance=2.0, **settings)
        for weight in (0.0, 10.0)
    )
    changes = []
    for result in (free, kept):
        rng = torch.Generator().manual_seed(7)
        samples = (locality_sample(generator, start.w_plus, 2.0, rng) for _ in range(8))
        losses = [locality_loss(result.generator, generator, *sample, RandomFeatures()) for sample in samples]
        changes.append(torch.stack(losses).mean().item())
    assert changes[1] < 0.5 * changes[0]


def test_locality_loss_is_zero_for_the_same_generator_and_pulls_on_a_tuned_one(generator, code):
    tuned = tiny_generator().requires_grad_(True)
    assert locality_loss(tuned, generator, code, VIEW, RandomFeatures()).item() == 0
    with torch.no_grad():
        tuned.decoder.net[2].bias[1:] += 0.5
    loss = locality_loss(tuned, generator, code, VIEW, RandomFeatures())
    loss.backward()
    assert loss.item() > 0
    assert (tuned.decoder.net[2].bias.grad[1:].mean() > 0).item()  # back to where it was
    assert all(parameter.grad is None for parameter in generator.parameters())


# ----------------------------------------------------------------------- the result
@pytest.fixture(scope="module")
def tuned(generator, target) -> Inversion:
    return invert_pti(generator, target, VIEW, pivot_steps=3, steps=3, lpips_threshold=0, **QUIET)


def test_renders_many_views_of_one_head(tuned):
    cameras = orbit(torch.tensor([-0.3, 0.0, 0.3]), 0.0)
    views = tuned.render(cameras)
    assert views.image.shape == (3, 3, 16, 16)
    for index in range(3):
        alone = tuned.generator.synthesize(tuned.w_plus, cameras[index]).image
        assert torch.allclose(views.image[index : index + 1], alone, atol=1e-5)
    kept = tuned.generator.render(tuned.planes(), tuned.w_plus, cameras)
    assert torch.equal(kept.image, views.image)
    assert torch.equal(tuned.render().image, tuned.render(tuned.camera).image)


def test_density_is_the_generators(tuned):
    points = torch.rand(1, 7, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(tuned.density(points), tuned.generator.density(tuned.w_plus, points))


def test_a_still_head_is_the_same_and_runs_the_backbone_once(generator, code):
    head, points = Inversion(code, generator, VIEW), torch.rand(1, 9, 3) - 0.5
    with backbone_calls(generator) as calls:
        still = head.still()
        image, density = still.render().image, still.density(points)
        assert still.still() is still
    assert len(calls) == 1
    assert torch.equal(image, head.render().image) and torch.equal(density, head.density(points))


def test_exports_run_the_backbone_once(generator, code, tmp_path):
    head = Inversion(code, generator, VIEW)
    mesh = meshes.extract_mesh(head, 16)
    for task in (
        lambda: export(head, tmp_path, EXPORTS, grid=16, beside=("depth",)),
        lambda: meshes.density_grid(head, 16, batch=500),
        lambda: meshes.vertex_colours(head, mesh, tolerance=0.1),
        lambda: meshes.point_cloud(head),
        lambda: meshes.extract_mesh(head, 16),
        lambda: save_orbit_video(head, tmp_path / "orbit.mp4", frames=4, batch=1),
        lambda: save_voxels(head, tmp_path / "voxels.mrc", 16, level=None),
    ):
        with backbone_calls(generator) as calls:
            task()
        assert len(calls) == 1


@contextmanager
def backbone_calls(generator):
    """A list that grows by an entry for each run of the backbone."""
    calls = []
    hook = generator.backbone.synthesis.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_a_still_head_does_not_hide_what_changes(generator, code):
    """Nothing is kept between two renderings of the inversion itself."""
    changing = copy.deepcopy(generator)
    head = Inversion(code, changing, VIEW)
    before = head.render().image
    changing.backbone.synthesis.b4.const.add_(1.0)
    assert not torch.equal(before, head.render().image)


def test_refuses_a_latent_of_another_generator(generator):
    with pytest.raises(ValueError, match=r"\(1, 6, 16\).*\(1, 4, 16\)"):
        Inversion(torch.zeros(1, 4, 16), generator, VIEW)
    with pytest.raises(ValueError, match="got 2"):
        Inversion(torch.zeros(1, 6, 16), generator, Camera.cat([VIEW, VIEW]))


def assert_same(a: Inversion, b: Inversion) -> None:
    assert torch.equal(a.w_plus, b.w_plus)
    assert torch.equal(a.camera.label(), b.camera.label())
    assert a.history == b.history and a.extras == b.extras
    assert torch.equal(a.render().image, b.render().image)
    assert torch.equal(a.generator.w_mean, b.generator.w_mean)


def test_saved_and_loaded_is_the_same(tuned, tmp_path):
    assert_same(Inversion.load(tuned.save(tmp_path / "deep" / "head.safetensors")), tuned)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["head.safetensors"]


def test_float16_halves_the_file_and_nearly_keeps_the_picture(tuned, tmp_path):
    full, half = (
        tuned.save(tmp_path / "full.safetensors"),
        tuned.save(tmp_path / "half.safetensors", dtype=torch.half),
    )
    assert half.stat().st_size < 0.7 * full.stat().st_size
    loaded = Inversion.load(half)
    assert torch.equal(loaded.w_plus, tuned.w_plus)
    assert torch.allclose(loaded.render().image, tuned.render().image, atol=0.01)


def test_with_a_base_only_what_differs_is_saved(generator, tuned, target, tmp_path):
    base = str(save_generator(generator, tmp_path / "base.safetensors", dtype=torch.float32))
    untuned = invert_w(load_generator(base), target, VIEW, steps=2, **QUIET)
    small = untuned.save(tmp_path / "w.safetensors", base=base)
    assert_same(Inversion.load(small), untuned)
    assert small.stat().st_size < 0.5 * untuned.save(tmp_path / "complete.safetensors").stat().st_size
    assert_same(Inversion.load(tuned.save(tmp_path / "tuned.safetensors", base=base)), tuned)


def test_refuses_a_base_that_has_changed(generator, target, tmp_path):
    base = str(save_generator(generator, tmp_path / "base.safetensors", dtype=torch.float32))
    path = invert_w(generator, target, VIEW, steps=1, **QUIET).save(tmp_path / "w.safetensors", base=base)
    save_generator(tiny_generator(noise_strength=0.1), base, dtype=torch.float32)
    with pytest.raises(ValueError, match="other weights"):
        Inversion.load(path)


def test_refuses_files_that_are_no_inversion(generator, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        Inversion.load(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Inversion.load(text)
    with pytest.raises(ValueError, match="not an inversion"):
        Inversion.load(save_generator(generator, tmp_path / "generator.safetensors"))


# ----------------------------------------------------------------------- planes of its own
@pytest.fixture(scope="module")
def planes(generator, code) -> torch.Tensor:
    """Other planes than the backbone makes of the code."""
    other = generator.planes(generator.w_mean.expand(1, generator.n_layers, -1))
    return 0.7 * generator.planes(code) + 0.3 * other


def with_planes(generator, code, planes) -> Inversion:
    return Inversion(code, generator, VIEW, {"loss": [0.5]}, {"method": "any", "planes": planes})


def test_planes_of_its_own_are_what_is_rendered(generator, code, planes):
    """Views, densities and still heads are made from them; the code still styles the super-resolution."""
    head, points = with_planes(generator, code, planes), torch.rand(1, 9, 3) - 0.5
    with backbone_calls(generator) as calls:
        assert torch.equal(head.planes(), planes)
        views = head.render(orbit(torch.tensor([-0.3, 0.3]), 0.0))
        assert torch.equal(head.density(points), generator.sample(planes, points)[0])
        assert torch.equal(head.still().render().image, head.render().image)
        assert torch.equal(head.still().density(points), head.density(points))
    assert not calls
    expected = generator.render(planes, code, orbit(torch.tensor([-0.3, 0.3]), 0.0))
    assert torch.equal(views.image, expected.image) and torch.equal(views.depth, expected.depth)
    plain = Inversion(code, generator, VIEW)
    assert not torch.allclose(head.render().image, plain.render().image, atol=1e-3)


def test_planes_are_saved_and_loaded_to_the_bit(generator, code, planes, tmp_path):
    base = str(save_generator(generator, tmp_path / "base.safetensors", torch.float32))
    head = with_planes(generator, code, planes)
    for path in (
        head.save(tmp_path / "whole.safetensors"),
        head.save(tmp_path / "half.safetensors", dtype=torch.half),
        head.save(tmp_path / "small.safetensors", base=base),
    ):
        loaded = Inversion.load(path)
        assert torch.equal(loaded.planes(), planes) and torch.equal(loaded.w_plus, code)
        assert loaded.facts() == head.facts() == {"method": "any"}
        assert loaded.extras.keys() == head.extras.keys() and loaded.history == head.history
    assert torch.equal(Inversion.load(tmp_path / "small.safetensors").render().image, head.render().image)


def test_any_tensor_among_the_extras_is_kept(generator, code, tmp_path):
    mask = torch.arange(6).view(2, 3) % 2 == 0
    head = Inversion(code, generator, VIEW, extras={"mask": mask, "steps": 3})
    loaded = Inversion.load(head.save(tmp_path / "head.safetensors"))
    assert torch.equal(loaded.extras["mask"], mask) and loaded.extras["steps"] == 3
    assert loaded.facts() == {"steps": 3}


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda planes: planes.repeat(2, 1, 1, 1, 1), r"\(2, 3, 4, 16, 16\)"),
        (lambda planes: planes.flatten(1, 2), r"\(1, 12, 16, 16\)"),
        (lambda planes: planes[..., :8], r"\(1, 3, 4, 16, 8\)"),
        (lambda planes: planes.tolist(), "list"),
        (lambda planes: None, "NoneType"),
    ],
)
def test_refuses_planes_of_another_shape(generator, code, planes, wrong, found):
    with pytest.raises(ValueError, match=rf"a tensor \(1, 3, 4, 16, 16\); got {found}"):
        with_planes(generator, code, wrong(planes))


def test_methods_start_from_the_code_of_a_head_with_planes(generator, target, code, planes):
    """Optimisation changes codes and generators; planes that a code does not make are left behind."""
    found = invert_wplus(
        generator, target, VIEW, initial=with_planes(generator, code, planes), steps=1, **QUIET
    )
    expected = invert_wplus(generator, target, VIEW, initial=code, steps=1, **QUIET)
    assert torch.equal(found.w_plus, expected.w_plus)
    assert "planes" not in found.extras
