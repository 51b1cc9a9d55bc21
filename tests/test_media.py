"""Pictures and films of shapes that are known: right place, right colour, right unit, whole files."""

import functools

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from analytic_head import NOSE, AnalyticGenerator, AnalyticHead
from PIL import Image

from lib import media
from lib.cameras import Camera
from lib.generators import Rendering
from lib.media import (
    EXPORTS,
    depth_along_axis,
    depth_image,
    depth_limits,
    ellipse,
    export,
    load_depth,
    normal_image,
    save_depth,
    save_depth_picture,
    save_normals,
    save_orbit_video,
)
from lib.meshes import shape_view, to_bytes, view_of
from lib.voxels import load_mrc


@pytest.fixture(scope="module")
def head() -> AnalyticHead:
    return AnalyticHead(AnalyticGenerator(sharpness=2000.0))


def view_with(depth: torch.Tensor, alpha: torch.Tensor | None = None) -> Rendering:
    """A view of which only the depth matters."""
    image = torch.zeros(1, 3, *depth.shape[2:])
    return Rendering(image, image, depth, image, torch.ones_like(depth) if alpha is None else alpha)


# -------------------------------------------------------------------- depth
def test_depth_along_the_axis_of_a_wall_is_the_same_everywhere(head):
    camera = view_of(head, 0.4, 0.2)
    along_rays = 2.5 / camera.ray_cosines(16)
    assert along_rays.max() > 2.51
    assert torch.allclose(depth_along_axis(camera, along_rays), torch.full((1, 1, 16, 16), 2.5))


def test_depth_comes_back_from_its_file(head, tmp_path):
    camera = view_of(head, 0.3)
    view = shape_view(head, camera)
    path = save_depth(view, camera, tmp_path / "new" / "depth.png")
    expected, found = depth_along_axis(camera, view.depth), load_depth(path)
    assert torch.equal(found.isnan(), view.alpha <= 0.5)
    assert 0 < found.isnan().float().mean() < 0.9
    assert (found - expected)[~found.isnan()].abs().max() < 0.51e-4
    assert [p.name for p in path.parent.iterdir()] == ["depth.png"]


def test_depth_file_is_what_depth_cameras_write_and_says_its_unit(head, tmp_path):
    """Read without anything from here, as 16 bits; points from it and the label lie on the head."""
    camera = view_of(head, -0.4, 0.1)
    with Image.open(save_depth(shape_view(head, camera), camera, tmp_path / "depth.png")) as picture:
        steps, texts = np.asarray(picture), picture.text
    assert steps.dtype in (np.uint16, np.int32) and steps.shape == (128, 128)
    assert texts["unit"] == "0.0001 world units"
    seen = steps[steps > 0] * 1e-4
    assert float(texts["nearest"]) == pytest.approx(seen.min(), abs=1e-4)
    assert float(texts["farthest"]) == pytest.approx(seen.max(), abs=1e-4)
    label = torch.tensor([float(word) for word in texts["label"].split()])
    v, u = np.nonzero(steps)
    uv = torch.tensor(np.stack([u + 0.5, v + 0.5], axis=1) / 128, dtype=torch.float32)
    points = Camera.from_label(label).unproject(uv[None], torch.tensor(seen, dtype=torch.float32)[None])
    assert head.generator.inside(points).abs().median() < 0.05


@pytest.mark.parametrize("depth", [7.0, -0.1])
def test_depth_that_16_bits_cannot_hold_is_an_error(head, tmp_path, depth):
    with pytest.raises(ValueError, match=r"the file holds 0 to 6\.554"):
        save_depth(view_with(torch.full((1, 1, 4, 4), depth)), view_of(head, 0.0), tmp_path / "depth.png")
    assert list(tmp_path.iterdir()) == []


def test_depth_of_nothing_is_an_empty_file_not_a_failure(head, tmp_path):
    depth = torch.full((1, 1, 4, 4), 3.0)
    nothing = view_with(depth, torch.zeros_like(depth))
    assert load_depth(save_depth(nothing, view_of(head, 0.0), tmp_path / "depth.png")).isnan().all()
    assert save_depth_picture(nothing, view_of(head, 0.0), tmp_path / "colours.png").exists()


@pytest.mark.parametrize("save", [save_depth, save_depth_picture, save_normals])
def test_one_file_holds_one_view_and_is_png(head, tmp_path, save):
    cameras = view_of(head, torch.tensor([0.0, 0.3]))
    with pytest.raises(ValueError, match="one view, got a batch of 2"):
        save(head.render(cameras), cameras, tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"ends in \.png"):
        save(head.render(cameras[0]), cameras[0], tmp_path / "map.jpg")
    assert list(tmp_path.iterdir()) == []


def test_other_pictures_are_no_depth(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="does not say its unit"):
        load_depth(tmp_path / "grey.png")


def test_limits_leave_out_what_is_not_there_and_a_hundredth_at_either_end():
    depth = torch.linspace(2, 3, 1001)[None, None, None]
    assert depth_limits(depth, torch.ones_like(depth)) == pytest.approx((2.01, 2.99), abs=1e-3)
    assert depth_limits(depth, (depth < 2.5).float()) == pytest.approx((2.005, 2.495), abs=1e-3)
    near, far = depth_limits(torch.full((4,), 2.5), torch.ones(4))
    assert near == 2.5 < far


def test_near_is_yellow_far_is_violet_and_nothing_is_grey():
    depth = torch.tensor([1.0, 2.0, 3.0, 4.0, 2.0])[None, None, None]
    alpha = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])[None, None, None]
    image = depth_image(depth, alpha, (2.0, 3.0))[0, :, 0].T
    yellow, violet = image[1], image[2]
    assert torch.equal(image[0], yellow) and torch.equal(image[3], violet)  # beyond the limits
    assert torch.allclose(yellow, torch.tensor([0.993, 0.906, 0.144]) * 2 - 1, atol=1e-2)
    assert torch.allclose(violet, torch.tensor([0.267, 0.005, 0.329]) * 2 - 1, atol=1e-2)
    assert torch.equal(image[4], torch.full((3,), media.NOTHING))


def test_picture_of_depth_shows_its_range(head, tmp_path):
    camera = view_of(head, 0.0)
    with Image.open(save_depth_picture(head.render(camera), camera, tmp_path / "depth.png")) as picture:
        pixels, texts = np.asarray(picture).astype(int), picture.text
    depth_z = depth_along_axis(camera, head.render(camera).depth)
    near, far = depth_limits(depth_z, head.render(camera).alpha)
    assert (float(texts["nearest"]), float(texts["farthest"])) == pytest.approx((near, far), abs=1e-4)
    assert pixels.shape == (256, 256 + 60, 3)
    bar, numbers = pixels[:, 268], pixels[:, 278:]
    assert np.abs(bar[0] - [253, 231, 37]).max() <= 2 and np.abs(bar[-1] - [68, 1, 84]).max() <= 2
    assert numbers[:20].min() < 60 and numbers[-20:].min() < 60  # written at both ends, and nowhere else
    assert numbers[30:-30].min() == 255


# -------------------------------------------------------------------- normals
def test_normals_have_their_colours(head):
    """In the world the ear's side is red; in a view what looks at the viewer is blue, wherever it stands."""
    front, side = view_of(head, 0.0), view_of(head, 1.2)
    of_front, of_side = (shape_view(head, camera) for camera in (front, side))
    middle = (0, slice(None), slice(54, 74), slice(54, 74))

    def mean(image):
        return image[middle].flatten(1).mean(dim=1)

    world = mean(normal_image(side, of_side.depth, of_side.alpha))
    assert world[0] > 0.8 and world[2] < 0.6
    in_view = mean(normal_image(side, of_side.depth, of_side.alpha, frame="view"))
    assert in_view[2] > 0.9 and in_view[0].abs() < 0.35
    assert torch.allclose(
        normal_image(front, of_front.depth, of_front.alpha, frame="view"),
        normal_image(front, of_front.depth, of_front.alpha, frame="world"),
        atol=1e-5,
    )


def test_frame_of_the_view_is_right_up_and_to_the_viewer(head):
    """A ball seen from above its side: its upper edge is green, its right edge red, its middle blue."""
    camera = view_of(head, 0.7, 0.4)
    origins, directions = camera.rays(64)
    towards = -(origins * directions).sum(dim=-1)
    depth = towards - (0.6**2 - origins.square().sum(dim=-1) + towards**2).clamp_min(1e-3).sqrt()
    depth = depth.reshape(1, 1, 64, 64)
    image = normal_image(camera, depth, torch.ones_like(depth), frame="view")[0]
    assert torch.allclose(image[:, 32, 32], torch.tensor([0.0, 0.0, 1.0]), atol=0.03)
    assert image[1, 8, 32] > 0.3 and image[1, 56, 32] < -0.3
    assert image[0, 32, 56] > 0.3 and image[0, 32, 8] < -0.3


def test_where_nothing_is_normals_are_grey_and_other_frames_are_refused(head):
    camera, depth = view_of(head, 0.0), torch.full((1, 1, 4, 4), 2.5)
    assert (normal_image(camera, depth, torch.zeros_like(depth)) == 0).all()
    with pytest.raises(ValueError, match="'world' or 'view'; got 'camera'"):
        normal_image(camera, depth, depth, frame="camera")


def test_picture_of_normals_says_its_frame(head, tmp_path):
    camera = view_of(head, 0.2)
    view = shape_view(head, camera)
    with Image.open(save_normals(view, camera, tmp_path / "normals.png", frame="view")) as picture:
        assert picture.text["frame"] == "view"
        assert picture.size == (256, 256)
        pixels = torch.tensor(np.asarray(picture).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    expected = normal_image(camera, view.depth, view.alpha, frame="view")[0]
    assert (torch.nn.functional.avg_pool2d(pixels, 2) - expected).abs().mean() < 0.02


# -------------------------------------------------------------------- video
def frames_of(path) -> tuple[dict, np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    return facts, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_orbit_is_closed_and_its_steps_are_even():
    yaw, pitch = ellipse(40, 0.5, 0.2)
    steps = torch.hypot((yaw.roll(-1) - yaw) / 0.5, (pitch.roll(-1) - pitch) / 0.2)
    assert torch.allclose(
        steps, steps.mean().expand(40), rtol=1e-4
    )  # also the step from the last to the first
    assert yaw.max().item() == pytest.approx(0.5)
    assert pitch.min().item() == pytest.approx(-0.2)


def test_video_plays_in_browsers_and_shows_the_orbit(head, tmp_path):
    path = save_orbit_video(head, tmp_path / "orbit.mp4", frames=8, fps=25, yaw_amplitude=0.6)
    facts, frames = frames_of(path)
    assert (facts["codec"], facts["fps"], facts["size"]) == ("h264", 25, (256, 256))
    assert facts["pix_fmt"].startswith("yuv420p(")
    assert len(frames) == 8
    view = head.render(view_of(head, 0.6, 0.0)).image  # a quarter of the way round
    expected = to_bytes(
        torch.nn.functional.interpolate(view, 256, mode="bicubic")[0].permute(1, 2, 0).numpy()
    )
    errors = [np.abs(frame.astype(int) - expected).mean() for frame in frames]
    assert np.argmin(errors) == 2
    assert errors[2] < 3


@pytest.mark.parametrize("beside", [("depth",), ("normals", "depth")])
def test_video_shows_beside_the_colours_what_is_asked(head, tmp_path, beside):
    path = save_orbit_video(head, tmp_path / "orbit.mp4", frames=5, size=64, batch=2, beside=beside)
    facts, frames = frames_of(path)
    assert facts["size"] == (64 * (1 + len(beside)), 64) and len(frames) == 5
    yaws, pitches = ellipse(5, 0.5, 0.2)
    camera, front = view_of(head, yaws[1], pitches[1]), view_of(head, 0.0)
    view, seen_from_front = head.render(camera), head.render(front)
    limits = depth_limits(depth_along_axis(front, seen_from_front.depth), seen_from_front.alpha)
    panels = {
        "depth": depth_image(depth_along_axis(camera, view.depth), view.alpha, limits),
        "normals": normal_image(camera, view.depth, view.alpha),
    }
    for place, name in enumerate(beside, start=1):
        shown = frames[1, :, 64 * place : 64 * (place + 1)].astype(float)
        expected = torch.nn.functional.interpolate(panels[name], 64, mode="bicubic")[0].permute(1, 2, 0)
        error = np.abs(shown / 127.5 - 1 - expected.numpy())
        assert np.median(error) < 0.05 and error.mean() < 0.1, name  # chroma has half the resolution


def test_video_without_panels_is_that_of_the_colours(head, tmp_path):
    alone = save_orbit_video(head, tmp_path / "alone.mp4", frames=3, size=64)
    with_depth = save_orbit_video(head, tmp_path / "both.mp4", frames=3, size=64, beside=("depth",))
    difference = frames_of(alone)[1].astype(int) - frames_of(with_depth)[1][:, :, :64]
    assert np.abs(difference).mean() < 2


def test_failed_video_leaves_the_old_one(head, tmp_path):
    path = tmp_path / "orbit.mp4"
    path.write_bytes(b"old")

    class Broken(AnalyticHead):
        def render(self, camera, **options):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        save_orbit_video(Broken(), path, frames=2)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["orbit.mp4"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 255}, "must be even"),
        ({"frames": 0}, "at least one frame"),
        ({"beside": ("alpha",)}, "unknown panels beside a video: 'alpha'; known: depth, normals"),
    ],
)
def test_impossible_videos_are_refused(head, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        save_orbit_video(head, tmp_path / "orbit.mp4", **wrong)
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        save_orbit_video(head, tmp_path / "orbit.gif")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- everything
FILES = {
    "glb": ["mesh.glb"],
    "ply": ["mesh.ply"],
    "obj": ["mesh.obj"],
    "points": ["points.ply"],
    "depth": ["depth.png", "depth_colours.png"],
    "normals": ["normals.png"],
    "video": ["orbit.mp4"],
    "voxels": ["voxels.mrc", "voxels.ply"],
}


@pytest.fixture
def short_video(monkeypatch):
    monkeypatch.setattr(media, "save_orbit_video", functools.partial(save_orbit_video, frames=2))


def test_everything_is_exported_in_one_call(head, tmp_path, short_video):
    written = export(head, tmp_path / "out", EXPORTS, grid=24, level=0.0, beside=["normals"])
    assert {kind: [path.name for path in paths] for kind, paths in written.items()} == FILES
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {name for names in FILES.values() for name in names}
    meshes = [trimesh.load(written[kind][0], force="mesh", process=False) for kind in ("glb", "ply", "obj")]
    assert all(np.allclose(mesh.vertices, meshes[0].vertices, atol=1e-6) for mesh in meshes)
    assert meshes[0].bounds[1, 2] > NOSE[2] > -meshes[0].bounds[0, 2]
    assert load_mrc(written["voxels"][0]).shape == (24, 24, 24)
    assert frames_of(written["video"][0])[0]["size"] == (512, 256)


def test_only_what_is_asked_is_exported(head, tmp_path):
    assert list(export(head, tmp_path, ["normals", "ply", "normals"], grid=24)) == ["normals", "ply"]
    assert {path.name for path in tmp_path.iterdir()} == {"normals.png", "mesh.ply"}
    assert export(head, tmp_path / "none", []) == {}


def test_maps_are_those_of_the_camera_that_is_given(head, tmp_path):
    camera = view_of(head, 0.5, 0.1)
    depth = load_depth(export(head, tmp_path, ["depth"], camera=camera)["depth"][0])
    expected = depth_along_axis(camera, shape_view(head, camera).depth)
    assert (depth - expected)[~depth.isnan()].abs().max() < 1e-4


def test_unknown_exports_are_refused_before_anything_is_written(head, tmp_path):
    with pytest.raises(ValueError, match="unknown exports: 'stl'; known: glb, ply"):
        export(head, tmp_path / "out", ["glb", "stl"])
    assert list(tmp_path.iterdir()) == []
