"""The generator as a whole: agreement with the original, its interface, its files."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.cameras import eg3d_look_at, orbit
from lib.generators import (
    EG3D,
    EG3DConfig,
    RenderingSettings,
    SuperResolutionConfig,
    load_generator,
    read_metadata,
    save_generator,
)
from lib.generators.official import stated_config
from tests.make_vectors import CONFIGS, FOLDER, TINY, outputs, random_generator


@pytest.fixture
def generator() -> EG3D:
    return random_generator(TINY, seed=3)


@pytest.fixture
def w_plus(generator) -> torch.Tensor:
    """Two heads, with a w of its own in every layer."""
    return torch.randn(2, generator.n_layers, generator.w_dim, generator=torch.Generator().manual_seed(0))


# -------------------------------------------------------------------- agreement
def state_of(vectors) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix("state/"): torch.from_numpy(vectors[key]).float()
        for key in vectors.files
        if key.startswith("state/")
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_own_vectors(name):
    """What is computed is what was computed when the original agreed; the state dict has the same entries."""
    vectors = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
    generator = EG3D(stated_config(json.loads(str(vectors["config"])))).requires_grad_(False)
    generator.load_state_dict(state_of(vectors), strict=True)
    found = outputs(
        generator, *(torch.from_numpy(vectors[f"input/{key}"]) for key in ("z", "label", "points"))
    )
    assert sorted(f"output/{key}" for key in found) == sorted(
        k for k in vectors.files if k.startswith("output/")
    )
    for key, value in found.items():
        expected = torch.from_numpy(vectors[f"output/{key}"])
        scale = expected.abs().mean().item()
        torch.testing.assert_close(
            value, expected, atol=1e-4 * scale, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
        )


OFFICIAL = Path(os.environ.get("EG3D_CONFORMANCE", ""))


def official_config(meta: dict) -> EG3DConfig:
    """Our configuration of one of the original's constructor arguments and rendering_kwargs."""
    sizes, rendering = meta["generator"], meta["rendering_kwargs"]
    names = {field.name for field in dataclasses.fields(RenderingSettings)}
    module = rendering["superresolution_module"].removeprefix(
        "training.superresolution.SuperresolutionHybrid"
    )
    return EG3DConfig(
        z_dim=sizes["z_dim"],
        w_dim=sizes["w_dim"],
        mapping_layers=sizes["mapping_kwargs"]["num_layers"],
        channel_base=sizes["channel_base"],
        channel_max=sizes["channel_max"],
        conv_clamp=sizes["conv_clamp"],
        neural_resolution=meta["neural_rendering_resolution"],
        conditioning_zero=rendering["c_gen_conditioning_zero"],
        c_scale=rendering["c_scale"],
        rendering=RenderingSettings(**{key: value for key, value in rendering.items() if key in names}),
        superresolution=SuperResolutionConfig.official(
            module,
            noise_mode=rendering["superresolution_noise_mode"],
            antialias=rendering["sr_antialias"],
            conv_clamp=256.0 if sizes["sr_num_fp16_res"] > 0 else None,
        ),
    )


def assert_mostly_close(name: str, found: torch.Tensor, expected: np.ndarray, *, absolute: float) -> None:
    """Median and 99.9th percentile of the error: the sort of the samples makes single rays touchy."""
    expected = torch.from_numpy(expected).float()
    assert found.shape == expected.shape, name
    error = (found - expected).abs().flatten().numpy()
    assert np.median(error) <= 0.2 * absolute, name
    assert np.percentile(error, 99.9) <= absolute, name


@pytest.mark.skipif(
    not os.environ.get("EG3D_CONFORMANCE"), reason="EG3D_CONFORMANCE names no folder of vectors"
)
@pytest.mark.parametrize("name", ["eg3d_ffhq512", "eg3d_shapenetcars128"])
def test_agreement_with_the_original(name):
    vectors = np.load(OFFICIAL / f"{name}.npz", allow_pickle=False)
    meta = json.loads(str(vectors["meta"]))
    generator = EG3D(official_config(meta)).requires_grad_(False)
    generator.load_state_dict(state_of(vectors), strict=True)
    z, label, points = (torch.from_numpy(vectors[key]).float() for key in ("z", "c", "points"))

    w_plus = generator.map(z, label, meta["truncation_psi"], meta["truncation_cutoff"])
    torch.testing.assert_close(w_plus, torch.from_numpy(vectors["ws"]), rtol=1e-4, atol=1e-6)
    planes = generator.planes(w_plus, meta["noise_mode"])
    flat = planes.flatten(1, 2).flatten(2)
    statistics = torch.stack([flat.mean(dim=2), flat.std(dim=2)])
    torch.testing.assert_close(statistics, torch.from_numpy(vectors["planes_mean_std"]), rtol=1e-4, atol=1e-5)
    density, colour = generator.sample(planes, points)
    torch.testing.assert_close(
        density[..., None], torch.from_numpy(vectors["point_sigma"]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(colour, torch.from_numpy(vectors["point_rgb"]), rtol=1e-4, atol=1e-5)
    view = generator.render(planes, w_plus, label)
    assert_mostly_close("features", view.features, vectors["feature"], absolute=2e-3)
    assert_mostly_close("image_raw", view.image_raw, vectors["image_raw"], absolute=2e-3)
    assert_mostly_close("depth", view.depth, vectors["image_depth"], absolute=2e-3)
    assert_mostly_close("image", view.image, vectors["image"], absolute=2e-3)


# -------------------------------------------------------------------- configurations
def test_official_sizes():
    """Parameter count and layers of ffhq512-128, counted on the original (no weights are allocated here)."""
    with torch.device("meta"):
        faces, cars = EG3D(EG3DConfig.ffhq512()), EG3D(EG3DConfig.shapenet128())
    assert sum(p.numel() for p in faces.parameters()) == 30_662_136
    assert sum(b.numel() for b in faces.state_dict().values()) == 30_662_136 + 831_024
    assert len(faces.state_dict()) == 176
    assert (faces.n_layers, faces.resolution, cars.resolution) == (14, 512, 128)


@pytest.mark.parametrize("config", [EG3DConfig.ffhq512(), EG3DConfig.shapenet128(), EG3DConfig.embedded()])
def test_configuration_survives_json(config):
    assert stated_config(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_settings_and_modules_are_named():
    with pytest.raises(ValueError, match="plane_size"):
        stated_config(EG3DConfig().to_dict() | {"plane_size": 3})
    with pytest.raises(ValueError, match="8XDC, 8X, 4X, 2X"):
        SuperResolutionConfig.official("16X")
    with pytest.raises(ValueError, match="feature_channels"):
        EG3DConfig(feature_channels=2)


def test_embedded_generator_makes_pictures_of_its_size():
    generator = EG3D(EG3DConfig.embedded(w_dim=16, channel_base=256, channel_max=8)).requires_grad_(False)
    view = generator.synthesize(generator.map(torch.randn(1, 512), orbit(0.0, 0.0)), orbit(0.4, 0.0))
    assert view.image.shape == (1, 3, 64, 64)
    assert view.image_raw.shape == (1, 3, 32, 32)
    assert view.depth.shape == view.alpha.shape == (1, 1, 32, 32)
    assert view.features.shape == (1, 16, 32, 32)
    assert view.features[:, :3].equal(view.image_raw)


# -------------------------------------------------------------------- latents
def test_truncation_pulls_the_first_layers_to_the_mean(generator):
    z, camera = torch.randn(3, generator.z_dim), orbit(0.2, 0.0)
    full, w_avg = generator.map(z, camera), generator.backbone.mapping.w_avg
    half = generator.map(z, camera, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(half[:, :2], (full[:, :2] + w_avg) / 2)
    assert half[:, 2:].equal(full[:, 2:])
    torch.testing.assert_close(generator.map(z, camera, truncation_psi=0.0), w_avg.expand_as(full))


def test_latents_of_numpy_are_taken(generator):
    """EG3D's scripts draw z in float64, and cast it to the parameters' precision."""
    z, camera = torch.from_numpy(np.random.RandomState(0).randn(2, generator.z_dim)), orbit(0.2, 0.0)
    w_plus = generator.map(z, camera)
    assert w_plus.dtype == torch.float32
    assert w_plus.equal(generator.map(z.float(), camera))
    image = generator.synthesize(w_plus, camera).image
    torch.testing.assert_close(generator.synthesize(w_plus.double(), camera.label().double()).image, image)


def test_conditioning_camera(generator):
    z, side = torch.randn(2, generator.z_dim), orbit(0.6, 0.0)
    assert not generator.map(z, side).allclose(generator.map(z, orbit(0.0, 0.0)))
    assert generator.map(z, side).equal(generator.map(z, side.label()))
    blind = random_generator(dataclasses.replace(TINY, conditioning_zero=True), seed=3)
    assert blind.map(z, side).equal(blind.map(z, orbit(0.0, 0.0)))
    scaled = random_generator(dataclasses.replace(TINY, c_scale=0.0), seed=3)
    assert scaled.map(z, side).equal(blind.map(z, side))


def test_statistics_of_w(generator):
    with pytest.raises(RuntimeError, match="measure_w"):
        _ = generator.w_mean
    generator.measure_w(n=500, seed=1)
    z = torch.randn(500, generator.z_dim, generator=torch.Generator().manual_seed(1))
    w = generator.map(z, generator.frontal_camera())[:, 0]
    torch.testing.assert_close(generator.w_mean, w.mean(dim=0))
    distances = (w - w.mean(dim=0)).norm(dim=1)
    assert generator.w_std.item() == pytest.approx(distances.square().mean().sqrt().item(), rel=1e-4)


def test_wrong_shapes_are_explained(generator, w_plus):
    with pytest.raises(ValueError, match=r"expected latents z, a tensor \[B, 16\], got \(2, 17\)"):
        generator.map(torch.randn(2, 17), orbit(0.0, 0.0))
    with pytest.raises(ValueError, match="expected w_plus"):
        generator.planes(w_plus[:, :1])
    with pytest.raises(ValueError, match="3 cameras for a batch of 2"):
        generator.map(torch.randn(2, 16), orbit(torch.zeros(3), 0.0))


WRONG = {
    "latents of numpy": (lambda g, w: g.map(np.zeros((2, 16)), orbit(0.0, 0.0)), "got a ndarray"),
    "truncation": (
        lambda g, w: g.map(torch.zeros(1, 16), orbit(0.0, 0.0), float("nan")),
        "truncation_psi must be",
    ),
    "statistics of nothing": (lambda g, w: g.measure_w(n=0), "2 latents or more"),
    "no rays": (lambda g, w: g.synthesize(w, orbit(0.0, 0.0), neural_resolution=0), "1 or more; got 0"),
    "half a ray": (
        lambda g, w: g.synthesize(w, orbit(0.0, 0.0), neural_resolution=1.5),
        "1 or more; got 1.5",
    ),
    "no heads": (lambda g, w: g.synthesize(w[:0], orbit(0.0, 0.0)), "expected w_plus"),
    "other heads": (lambda g, w: g.render(g.planes(w), w[[0, 1, 1]], orbit(0.0, 0.0)), "for each of 2 heads"),
    "one style": (lambda g, w: g.render(g.planes(w), w[:, :1], orbit(0.0, 0.0)), "expected w_plus"),
    "other planes": (
        lambda g, w: g.render(g.planes(w)[:, :, :2], w, orbit(0.0, 0.0)),
        "planes of 4 channels",
    ),
    "empty label": (lambda g, w: g.synthesize(w, torch.zeros(1, 25)), "focal lengths must not be zero"),
    "label of nan": (lambda g, w: g.synthesize(w, torch.full((1, 25), torch.nan)), "finite numbers"),
    "camera of nan": (lambda g, w: g.camera(yaw=float("nan")), "finite angles"),
    "a box of no size": (lambda g, w: RenderingSettings(box_warp=0.0), "side of a cube"),
    "samples below none": (lambda g, w: RenderingSettings(48, -5), "0 or more; got 48 and -5"),
    "planes that are lines": (
        lambda g, w: EG3D(dataclasses.replace(TINY, plane_axes=np.zeros((3, 3, 3)).tolist())),
        "two different directions",
    ),
    "unknown noise": (lambda g, w: SuperResolutionConfig(noise_mode="loud"), "noise_mode must be one of"),
    "no distance": (
        lambda g, w: dataclasses.replace(TINY, camera_radius=0.0),
        "camera_radius must be more than 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_explained(generator, w_plus, name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(generator, w_plus)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_missing_device_is_named():
    with pytest.raises(ValueError, match="no CUDA device was found"):
        load_generator("portraits64", device="cuda")


def test_what_is_not_a_number_stays_visible(generator, w_plus):
    """An overflow must reach the loss as NaN, not end as a wrong index."""
    broken = w_plus.clone()
    broken[0, 0, 0] = torch.nan
    view = generator.synthesize(broken, orbit(0.0, 0.0))
    assert view.image[0].isnan().any()
    assert view.image[1].isfinite().all()
    points = torch.tensor([[[0.0, 0.1, 0.2], [torch.nan, 0.0, 0.0], [torch.inf, 0.0, 0.0]]])
    density, _ = generator.sample(generator.planes(w_plus[:1]), points)
    assert density.isnan().tolist() == [[False, True, True]]
    empty, _ = generator.sample(generator.planes(w_plus[:1]), points[:, :0])
    assert empty.shape == (1, 0)


# -------------------------------------------------------------------- views
def test_cameras_of_the_generator_stand_where_it_was_trained():
    """At the training's distance from the origin, looking at its pivot: as EG3D's own sampler places them."""
    config = dataclasses.replace(TINY, camera_radius=1.7, camera_focal=1.7074, camera_pivot=(0.0, 0.0, 0.2))
    with torch.device("meta"):
        generator = EG3D(config)
    generator.plane_axes = torch.zeros(1)
    camera = generator.camera(yaw=torch.tensor([0.0, 0.4]))
    expected = eg3d_look_at(math.pi / 2 + torch.tensor([0.0, 0.4]), math.pi / 2, 1.7, 1.7074, (0.0, 0.0, 0.2))
    torch.testing.assert_close(camera.label(), expected.label())
    torch.testing.assert_close(generator.frontal_camera().label(), camera[0].label())


def test_one_head_from_many_cameras_and_many_heads_from_one(generator, w_plus):
    cameras = orbit(torch.tensor([-0.3, 0.0, 0.5]), 0.1)
    planes = generator.planes(w_plus[:1])
    together = generator.render(planes, w_plus[:1], cameras)
    for index, camera in enumerate(cameras):
        alone = generator.synthesize(w_plus[:1], camera)
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(many[index : index + 1], one, atol=1e-4, rtol=1e-4)
    both = generator.synthesize(w_plus, cameras[1])
    torch.testing.assert_close(both.depth[:1], together.depth[1:2], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="planes of batch 2"):
        generator.synthesize(w_plus, cameras)


def test_nothing_is_kept_between_calls(generator, w_plus):
    camera = orbit(0.2, 0.0)
    before = generator.synthesize(w_plus, camera)
    generator.synthesize(w_plus, orbit(-0.5, 0.0), neural_resolution=5, rng=torch.Generator().manual_seed(0))
    generator.synthesize(w_plus, camera, settings=RenderingSettings(depth_resolution=4))
    after = generator.synthesize(w_plus, camera)
    assert after.image.shape[-1] == generator.resolution
    assert all(a.equal(b) for a, b in zip(after, before, strict=True))


def test_jitter_follows_the_random_generator(generator, w_plus):
    views = [
        generator.synthesize(w_plus, orbit(0.0, 0.0), rng=torch.Generator().manual_seed(s)).image
        for s in (1, 1, 2)
    ]
    assert views[0].equal(views[1])
    assert not views[0].equal(views[2])


def test_other_neural_resolution_shows_the_same_view(generator, w_plus):
    view = generator.synthesize(w_plus, orbit(0.0, 0.0), neural_resolution=16)
    assert view.image_raw.shape[-1] == 16
    assert view.image.shape[-1] == generator.resolution


def test_only_the_last_w_styles_the_super_resolution(generator, w_plus):
    planes, camera = generator.planes(w_plus), orbit(0.0, 0.0)
    image = generator.render(planes, w_plus, camera).image
    last = torch.arange(generator.n_layers)[:, None] == generator.n_layers - 1
    assert generator.render(planes, torch.where(last, w_plus, 0.0), camera).image.equal(image)
    assert not generator.render(planes, torch.where(last, 0.0, w_plus), camera).image.allclose(image)


def test_super_resolution_leaves_the_raw_picture_alone():
    """The original's block without upsampling adds its picture to image_raw in place; ours must not."""
    generator = random_generator(CONFIGS["objects"], seed=4).requires_grad_(True)
    w_plus = torch.randn(1, generator.n_layers, generator.w_dim)
    view = generator.synthesize(w_plus, orbit(0.0, 0.0))
    assert view.image_raw.equal(view.features[:, :3])
    assert view.features.amax() <= 1.01  # colours between 0 and 1 on white: nothing was added to them
    view.image.sum().backward()


def test_every_parameter_of_a_view_gets_a_gradient(generator, w_plus):
    generator.requires_grad_(True)
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(5))
    view = generator.synthesize(generator.map(z, orbit(0.1, 0.0)), orbit(0.3, 0.1))
    (view.image.square().mean() + view.depth.mean()).backward()
    # The super-resolution is rendered without noise, so the strength of its noise has no part in the picture.
    silent = {n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()}
    expected = {
        n for n, _ in generator.named_parameters() if "superresolution" in n and "noise_strength" in n
    }
    assert silent == expected
    assert all(p.grad.isfinite().all() for n, p in generator.named_parameters() if n not in silent)


def test_gradients_reach_latent_and_camera(generator, w_plus):
    label = orbit(0.2, 0.1).label().requires_grad_()
    w_plus.requires_grad_()
    generator.synthesize(w_plus, label).image.sum().backward()
    assert (w_plus.grad.abs().sum(dim=2) > 0).all()
    assert label.grad[0, :12].abs().sum() > 0


def test_density_is_what_the_renderer_sees(generator, w_plus):
    points = torch.rand(2, 20, 3) - 0.5
    density, colour = generator.sample(generator.planes(w_plus), points)
    assert generator.density(w_plus, points).equal(density)
    assert colour.shape == (2, 20, generator.config.feature_channels)
    assert colour.amin() >= -0.001
    assert colour.amax() <= 1.001


def test_training_in_half_precision_stays_close(generator, w_plus):
    plain = generator.synthesize(w_plus, orbit(0.2, 0.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = generator.synthesize(w_plus, orbit(0.2, 0.0))
    assert rounded.depth.dtype == rounded.features.dtype == torch.float32
    assert (rounded.image_raw - plain.image_raw).abs().median() < 0.02
    assert (rounded.depth - plain.depth).abs().median() < 0.02


# -------------------------------------------------------------------- files
def test_saved_generator_is_loaded_again(generator, w_plus, tmp_path):
    path = save_generator(
        generator.measure_w(n=100), tmp_path / "new" / "tiny.safetensors", metadata={"steps": "7"}
    )
    loaded = load_generator(path)
    assert loaded.config == generator.config
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    found, expected = (g.synthesize(w_plus, orbit(0.1, 0.0)) for g in (loaded, generator))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))  # these weights fit float16
    assert loaded.w_mean.equal(generator.w_mean)
    assert loaded.w_std.equal(generator.w_std)
    assert read_metadata(path)["steps"] == "7"
    assert [file.name for file in path.parent.iterdir()] == ["tiny.safetensors"]


def test_values_beyond_float16_are_not_written(generator, tmp_path):
    generator.measure_w(n=10)
    generator.backbone.mapping.fc0.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"fc0\.weight is not finite as torch\.float16"):
        save_generator(generator, tmp_path / "tiny.safetensors")
    assert not list(tmp_path.iterdir())
    save_generator(generator, tmp_path / "tiny.safetensors", dtype=torch.float32)


def test_what_is_no_generator_is_refused_in_plain_words(generator, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="unknown generator 'portrait63'"):
        load_generator("portrait63")
    with pytest.raises(FileNotFoundError, match="no generator file"):
        load_generator(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_generator(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not of a generator"):
        load_generator(tmp_path / "other.safetensors")
