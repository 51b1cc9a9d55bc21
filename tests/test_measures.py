"""Each column of a table is the metric that it is named after, of the head and the truth of its view."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from lib import assets, metrics
from lib.cameras import orbit
from lib.evaluation import MEASURES, Comparison
from lib.evaluation import measures as module
from lib.generators import EG3D, Rendering
from lib.meshes import extract_mesh, normals_from_depth, seen_points
from tests.egg_scene import egg_scene, egg_view
from tests.tiny_generator import RandomFeatures, tiny_generator
from tests.tiny_scenes import head, tiny_scene


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def scene(generator):
    return tiny_scene(generator)


@pytest.fixture(scope="module")
def inverted(generator, scene):
    """Another head than that of the scene."""
    return head(generator, 5, scene.input.camera).still()


@pytest.fixture(scope="module")
def itself(generator, scene):
    return head(generator, scene.extras["seed"], scene.input.camera).still()


NETWORKS = {
    "lpips": partial(module._lpips.__wrapped__, "alex"),
    "identity": module._network.__wrapped__,
    "pose_error": module._detector.__wrapped__,
}
"""What makes the networks that measures ask, before tests put cheaper ones in their place."""


def coarse_view(head, camera):
    """`shape_view` with as few rays as a test needs."""
    return head.render(camera, neural_resolution=32)


def coarse_mesh(head, coloured):
    return extract_mesh(head, resolution=24, coloured=coloured)


@pytest.fixture(autouse=True)
def cheap_parts(monkeypatch):
    monkeypatch.setattr(module, "shape_view", coarse_view)
    monkeypatch.setattr(module, "extract_mesh", coarse_mesh)
    monkeypatch.setattr(module, "_lpips", lambda net: RandomFeatures())
    monkeypatch.setattr(
        module, "_network", lambda: lambda faces: torch.nn.functional.normalize(faces.flatten(1))
    )


def of(name, *arguments):
    return MEASURES[name].of(Comparison(*arguments))


PAIRS = ("mse", "mae", "ssim", "ms_ssim", "ms_ssim_dissimilarity", "e3dge_ssim")


@pytest.mark.parametrize("name", PAIRS)
def test_pictures_are_compared_by_the_metric_of_that_name(name, inverted, scene):
    view = scene.views["yaw+0.3"]
    shown = inverted.render(view.camera).image.clamp(-1, 1)
    expected = getattr(metrics, name)(shown, view.image).item()
    assert of(name, inverted, scene, "yaw+0.3") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "e3dge_ssim", "identity"])
def test_a_head_is_like_itself(name, itself, scene):
    assert of(name, itself, scene, "yaw+0.3") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["lpips", "lpips_vgg", "mse", "ms_ssim_dissimilarity"])
def test_a_head_has_no_distance_from_itself(name, itself, inverted, scene):
    assert of(name, itself, scene, "yaw+0.3") == pytest.approx(0, abs=1e-5)
    assert of(name, inverted, scene, "yaw+0.3") > 1e-3


def test_the_mirrored_view_is_compared_with_the_flipped_portrait(inverted, generator, scene):
    """A scene whose input is the flip of what the mirrored camera sees of the head: the same person."""
    camera = orbit(0.3, 0.0)
    seen = inverted.render(camera.mirror()).image.clamp(-1, 1)
    view = dataclasses.replace(scene.views["yaw+0.3"], image=seen.flip(-1), camera=camera)
    mirrored = dataclasses.replace(scene, views=dict(scene.views) | {"yaw+0.3": view})
    assert of("mirrored_identity", inverted, mirrored, "yaw+0.3") == pytest.approx(1, abs=1e-5)
    assert of("mirrored_identity", inverted, scene, "yaw+0.3") < 0.999


def test_paint_is_measured_where_it_is(inverted, scene):
    marks = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    marks[..., 3:5, 6:9] = True
    painted = dataclasses.replace(scene, truth={"painted/yaw+0.3": marks})
    view = scene.views["yaw+0.3"]
    error = (inverted.render(view.camera).image.clamp(-1, 1) - view.image)[..., 3:5, 6:9].square().mean()
    assert of("painted_error", inverted, painted, "yaw+0.3") == pytest.approx(error.item(), rel=1e-4)
    assert MEASURES["painted_error"].applies(painted, "yaw+0.3")
    assert not MEASURES["painted_error"].applies(painted, "yaw+0.0")


@pytest.fixture(scope="module")
def with_shape(inverted, scene):
    """The scene's input with the depth of another head: 0.1 further away, known on the upper half of the head."""
    camera = scene.input.camera
    depth = torch.nn.functional.interpolate(coarse_view(inverted, camera).depth, (16, 16), mode="area")
    known = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    known[..., 2:8, 3:13] = True
    view = dataclasses.replace(
        scene.input,
        depth=torch.where(torch.arange(16)[:, None] < 12, depth + 0.1, torch.nan),
        normals=normals_from_depth(camera, depth),
        mask=known,
    )
    return dataclasses.replace(scene, views=dict(scene.views) | {scene.input_name: view})


def test_depth_is_measured_on_the_head_and_in_world_units(inverted, with_shape):
    where = (inverted, with_shape, with_shape.input_name)
    assert of("mean_depth_error", *where) == pytest.approx(0.1, abs=5e-3)
    assert of("median_depth_error", *where) == pytest.approx(0.1, abs=5e-3)
    assert of("depth_error", *where) == pytest.approx(0, abs=0.05)
    assert of("depth_correlation", *where) == pytest.approx(1, abs=0.03)
    assert of("normal_error", *where) < 10
    known = with_shape.input.depth[..., 2:8, 3:13]
    assert of("depth_relief", *where) == pytest.approx(known.std(correction=0).item(), rel=0.1)
    beside = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    beside[..., 2:8, 3:13] = False
    depth = Comparison(*where).depth
    assert of("background_depth", *where) == pytest.approx(depth[beside].mean().item(), rel=1e-5)


def test_own_scan_has_no_distance(inverted, generator, scene):
    """A scan taken from the head's own mesh, in millimetres: distances are those of the alignment's rest."""
    mesh = coarse_mesh(inverted, coloured=False)
    front = generator.frontal_camera()
    surface = seen_points(front, coarse_view(inverted, front).depth)[0]
    side = int(len(surface) ** 0.5)
    rows_columns = (
        np.array([(50, 40), (50, 55), (50, 73), (50, 88), (70, 64), (85, 50), (85, 78)]) * side // 128
    )
    truth = {
        "vertices": torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32),
        "skin": torch.arange(len(mesh.vertices)) % 10 == 0,
        "landmarks": surface[rows_columns[:, 0] * side + rows_columns[:, 1]],
        "millimetres_per_unit": torch.tensor(300.0),
    }
    scanned = dataclasses.replace(scene, truth=truth)
    assert MEASURES["scan_to_mesh"].applies(scanned, scene.input_name)
    assert of("scan_to_mesh", inverted, scanned, scene.input_name) < 1.0


def test_consistency_is_of_the_views_that_predict_the_input(inverted, scene):
    seen = Comparison(inverted, scene, scene.input_name)
    expected = metrics.view_consistency(
        inverted, scene.input.image, scene.input.camera, {"psnr": metrics.psnr}
    )
    assert MEASURES["consistency_psnr"].of(seen) == pytest.approx(expected["psnr"].item(), rel=1e-5)
    assert not MEASURES["consistency_psnr"].applies(scene, "yaw+0.3")
    assert MEASURES["consistency_lpips"].of(seen) > 0
    assert MEASURES["consistency_ssim"].of(seen) < 1


@pytest.fixture(scope="module")
def half_known(scene):
    """The scene, its input known on the left half only."""
    known = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    known[..., :8] = True
    mask = torch.zeros_like(known)
    mask[..., 4:12, 4:12] = True

    def with_made_up(colour: float):
        image = scene.input.image.where(known, torch.tensor(colour))
        view = dataclasses.replace(scene.input, image=image, known=known, mask=mask)
        return dataclasses.replace(scene, views=dict(scene.views) | {scene.input_name: view})

    return with_made_up


def test_consistency_is_measured_where_the_picture_is_known(inverted, half_known):
    dark, light = (half_known(colour) for colour in (-1.0, 1.0))
    for name in ("consistency_psnr", "consistency_lpips"):
        everywhere = dataclasses.replace(
            dark, views={dark.input_name: dataclasses.replace(dark.input, known=None)}
        )
        assert of(name, inverted, dark, dark.input_name) != of(name, inverted, everywhere, dark.input_name)
    predicted = metrics.predict_view(inverted, dark.input.camera, metrics.edge_cameras(inverted)).image[
        ..., :8
    ]
    expected = metrics.psnr(predicted, dark.input.image[..., :8]).item()
    for one in (dark, light):
        assert of("consistency_psnr", inverted, one, one.input_name) == pytest.approx(expected, rel=1e-5)


def test_depth_of_the_background_is_measured_where_the_picture_is_known(inverted, half_known):
    seen = Comparison(inverted, half_known(0.0), "yaw+0.0")
    beside = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    beside[..., 4:12, 4:12] = False
    beside[..., 8:] = False
    assert MEASURES["background_depth"].of(seen) == pytest.approx(seen.depth[beside].mean().item(), rel=1e-5)
    assert seen.depth[~seen.view.mask].mean().item() != pytest.approx(
        seen.depth[beside].mean().item(), rel=1e-4
    )


@pytest.fixture(scope="module")
def egg_inverted():
    """The scene of an egg, inverted without fault: a head that shows the egg to every camera."""
    return EggHead(), egg_scene()


class EggHead:
    """What the warp asks of an inversion."""

    w_plus, camera = torch.zeros(1, 1, 1), orbit(0.0, 0.0)

    def render(self, camera, neural_resolution):
        view = egg_view(camera, neural_resolution)
        return Rendering(view.image, view.image, view.depth, view.image, view.mask.float())


def test_a_photo_warped_by_the_right_depth_is_the_other_view(egg_inverted):
    head, scene = egg_inverted
    photo, view = scene.input, scene.views["yaw+0.3"]
    error = of("warp_error", head, scene, "yaw+0.3")
    trusted = Comparison(head, scene, "yaw+0.3").warped_photo[1]
    assert trusted.sum() > 0.5 * view.mask.sum()
    assert not (trusted & ~view.mask).any()
    unwarped = (photo.image - view.image)[trusted.expand_as(view.image)].square().mean().item()
    assert error < 0.01 * unwarped
    assert of("warp_error", head, scene, "yaw+0.0") < 1e-10


def test_a_warped_photo_is_measured_where_photo_and_view_are_true(egg_inverted):
    """What is made up, in the photo or in the view, changes nothing; the background of the photo is not trusted."""
    head, scene = egg_inverted
    expected = of("warp_error", head, scene, "yaw+0.3")
    left = torch.arange(40) < 20
    for name, known in (("yaw+0.0", left), ("yaw+0.3", ~left)):
        known = known.expand(1, 1, 40, 40)
        view = scene.views[name]
        made_up = dataclasses.replace(view, image=view.image.where(known, torch.tensor(1.0)), known=known)
        spoilt = dataclasses.replace(scene, views=dict(scene.views) | {name: made_up})
        assert of("warp_error", head, spoilt, "yaw+0.3") < 5 * expected
        believed = dataclasses.replace(
            scene, views=dict(scene.views) | {name: dataclasses.replace(made_up, known=None)}
        )
        assert of("warp_error", head, believed, "yaw+0.3") > 1000 * expected
    nothing = dataclasses.replace(scene.input, mask=torch.zeros_like(scene.input.mask))
    bare = dataclasses.replace(scene, views=dict(scene.views) | {"yaw+0.0": nothing})
    assert math.isnan(of("warp_error", head, bare, "yaw+0.3"))


def test_only_neighbours_of_the_input_have_a_warp_error(egg_inverted):
    _, scene = egg_inverted
    turned = dataclasses.replace(scene, input_name="yaw+0.6")
    measured = [name for name in turned.views if MEASURES["warp_error"].applies(turned, name)]
    assert measured == ["yaw+0.0", "yaw+0.3", "yaw+0.6"]
    assert all(MEASURES["warp_error"].applies(scene, name) for name in scene.views)


def test_equal_pictures_have_infinite_psnr(inverted, scene):
    view = scene.views["yaw+0.3"]
    shown = dataclasses.replace(view, image=inverted.render(view.camera).image.clamp(-1, 1))
    equal = dataclasses.replace(scene, views=dict(scene.views) | {"yaw+0.3": shown})
    assert of("psnr", inverted, equal, "yaw+0.3") == math.inf


@pytest.mark.parametrize("name", NETWORKS)
def test_measures_name_the_files_that_they_read(name, monkeypatch):
    read, folder = set(), assets.folder

    def noting(asset, **options):
        read.add(asset)
        return folder(asset, **options)

    monkeypatch.setattr(assets, "folder", noting)
    NETWORKS[name]()
    assert read == set(MEASURES[name].assets)


def test_assets_of_measures_are_in_the_manifest():
    assert {asset for measure in MEASURES.values() for asset in measure.assets} <= assets.manifest().keys()


def test_every_measure_is_under_its_name():
    assert all(name == measure.name for name, measure in MEASURES.items())
