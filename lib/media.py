"""A head as pictures and films: depth and normal maps, an orbit video, and every file at once by `export`."""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from lib.cameras import Camera
from lib.generators import Rendering
from lib.images import resize
from lib.meshes import (
    Head,
    extract_mesh,
    normals_from_depth,
    point_cloud,
    save_mesh,
    save_points,
    shape_view,
    surface_level,
    to_bytes,
    view_of,
)
from lib.paths import replacing, require_suffix
from lib.shapes import Images, SingleMaps, checked
from lib.voxels import save_voxels

MESHES = ("glb", "ply", "obj")
EXPORTS = (*MESHES, "points", "depth", "normals", "video", "voxels")
"""What `export` can write."""

SHOWN_SIZE = 256
"""Pictures are written at no less than this, so that they can be looked at."""

DEPTH_STEP = 1e-4
"""World units in one step of a depth map on disk; 0 stands for nothing seen, the farthest is 6.5."""

DEPTH_COLOURS = "viridis"
NOTHING = 0.9
"""Grey of what no surface fills, as an image value."""

BESIDE = ("depth", "normals")
"""What a video can show beside the colours."""


# -------------------------------------------------------------------- maps
@checked
def depth_along_axis(camera: Camera, depth: SingleMaps) -> SingleMaps:
    """Depth [B, 1, R, R] along the camera's axis, as depth cameras measure it, of depth along the rays."""
    return depth * camera.to(depth.device).ray_cosines(depth.shape[-1])


def depth_limits(depth: Tensor, alpha: Tensor, opaque: float = 0.5) -> tuple[float, float]:
    """Nearest and farthest depth worth showing: the 1st and 99th per cent of where rays are absorbed."""
    seen = depth.detach().float().cpu()[alpha.detach().float().cpu() > opaque].numpy()
    if not seen.size:
        return 0.0, 1.0
    near, far = (float(limit) for limit in np.percentile(seen, [1, 99]))
    return near, max(far, near + 1e-3)


def depth_image(depth: Tensor, alpha: Tensor, limits: tuple[float, float], opaque: float = 0.5) -> Tensor:
    """Depth maps [B, 1, R, R] as images [B, 3, R, R]: yellow at the nearest limit, violet at the farthest."""
    near, far = limits
    colours = torch.tensor(matplotlib.colormaps[DEPTH_COLOURS].colors, dtype=torch.float32) * 2 - 1
    nearness = ((far - depth.float().cpu()) / (far - near)).clamp(0, 1)
    index = (nearness[:, 0] * (len(colours) - 1)).round().long()
    return colours[index].permute(0, 3, 1, 2).where(alpha.cpu() > opaque, torch.tensor(NOTHING))


@checked
def normal_image(
    camera: Camera, depth: SingleMaps, alpha: SingleMaps, frame: str = "world", opaque: float = 0.5
) -> Images:
    """Normals of a depth map as images: a component n in -1..1 is the image value n, the byte 255 (n + 1) / 2.

    frame "world": red +x, green +y (up), blue +z (where the face looks); a place keeps its colour as the
    camera turns. "view": red to the right, green up, blue to the viewer. Grey where alpha is at most `opaque`.
    """
    if frame not in ("world", "view"):
        raise ValueError(f"normals are drawn in the frame 'world' or 'view'; got {frame!r}")
    camera, depth, alpha = camera.to("cpu"), depth.float().cpu(), alpha.float().cpu()
    normals = normals_from_depth(camera, depth)
    if frame == "view":
        axes = camera.rotation * torch.tensor([1.0, -1.0, -1.0])  # columns: right, up, to the viewer
        normals = torch.einsum("bij,bihw->bjhw", axes, normals)
    return normals * (alpha > opaque)


# -------------------------------------------------------------------- maps on disk
def save_depth(view: Rendering, camera: Camera, path: str | Path, opaque: float = 0.5) -> Path:
    """Write a view's depth along the camera's axis as 16-bit PNG: value * DEPTH_STEP in world units, 0: nothing.

    This is the layout of depth cameras. The file's text entries say unit, range and EG3D's label.
    """
    path = _path_of_one(view, path)
    depth_z = depth_along_axis(camera, view.depth.float().cpu())[0, 0].numpy()
    seen = view.alpha[0, 0].cpu().numpy() > opaque
    steps = np.where(seen, np.round(depth_z / DEPTH_STEP), 0)
    if steps.max() > np.iinfo(np.uint16).max or steps.min() < 0:
        raise ValueError(
            f"depths lie between {depth_z.min():.4g} and {depth_z.max():.4g}; the file holds 0 to "
            f"{np.iinfo(np.uint16).max * DEPTH_STEP:.4g}"
        )
    texts = {
        "quantity": "depth along the camera's axis; 0: nothing there",
        "unit": f"{DEPTH_STEP:g} world units",
        "nearest": f"{depth_z[seen].min(initial=np.inf):.4f}",
        "farthest": f"{depth_z[seen].max(initial=-np.inf):.4f}",
        "label": " ".join(f"{number:.6g}" for number in camera.label()[0].tolist()),
    }
    return _save_png(Image.fromarray(steps.astype(np.uint16)), path, texts)


def load_depth(path: str | Path) -> Tensor:
    """Depth [1, 1, R, R] along the camera's axis from a file of `save_depth`; NaN where there is nothing."""
    with Image.open(path, formats=["PNG"]) as picture:
        if picture.text.get("unit") != f"{DEPTH_STEP:g} world units":
            raise ValueError(f"{path} is not a depth map from here: it does not say its unit")
        steps = torch.from_numpy(np.asarray(picture, np.float32).copy())
    return (steps * DEPTH_STEP).where(steps > 0, torch.nan)[None, None]


def save_depth_picture(view: Rendering, camera: Camera, path: str | Path) -> Path:
    """Write a view's depth along the camera's axis in colours, with a scale at the right that says the range."""
    path = _path_of_one(view, path)
    depth_z = depth_along_axis(camera, view.depth.float().cpu())
    near, far = depth_limits(depth_z, view.alpha)
    colours = shown(depth_image(depth_z, view.alpha, (near, far)))
    side = colours.shape[-1]
    scale = torch.linspace(near, far, side)[:, None].expand(1, 1, side, 16)
    bar = depth_image(scale, torch.ones_like(scale), (near, far))
    gap, margin = torch.ones(1, 3, side, 4), torch.ones(1, 3, side, 40)
    picture = _picture(torch.cat([colours, gap, bar, margin], dim=3))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for depth, y, anchor in ((near, 2, "lt"), (far, side - 2, "lb")):
        draw.text((side + 24, y), f"{depth:.2f}", fill="black", font=font, anchor=anchor)
    return _save_png(
        picture, path, {"nearest": f"{near:.4f}", "farthest": f"{far:.4f}", "unit": "world units"}
    )


def save_normals(view: Rendering, camera: Camera, path: str | Path, frame: str = "world") -> Path:
    """Write the normals of a view's depth as a picture (`normal_image`); a text entry says the frame."""
    path = _path_of_one(view, path)
    picture = _picture(shown(normal_image(camera, view.depth, view.alpha, frame)))
    return _save_png(picture, path, {"frame": frame, "colour": "255 (n + 1) / 2"})


def _path_of_one(view: Rendering, path: str | Path) -> Path:
    if len(view.depth) != 1:
        raise ValueError(f"one file holds one view, got a batch of {len(view.depth)}")
    return require_suffix(path, ".png")


def shown(image: Tensor) -> Tensor:
    """Images [B, 3, R, R] large enough to look at."""
    return resize(image.clamp(-1, 1), max(SHOWN_SIZE, image.shape[-1]))


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(to_bytes(image[0].permute(1, 2, 0).numpy()))


def _save_png(picture: Image.Image, path: Path, texts: dict[str, str]) -> Path:
    notes = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        notes.add_text(name, text)
    with replacing(path) as temporary:
        picture.save(temporary, pnginfo=notes)
    return path


# -------------------------------------------------------------------- video
def ellipse(frames: int, yaw_amplitude: float, pitch_amplitude: float) -> tuple[Tensor, Tensor]:
    """Yaw and pitch [frames] of a camera that goes once around an ellipse; the end joins the start."""
    turn = 2 * math.pi * torch.arange(frames) / frames
    return yaw_amplitude * turn.sin(), pitch_amplitude * turn.cos()


@torch.no_grad()
def save_orbit_video(
    head: Head,
    path: str | Path,
    frames: int = 60,
    fps: int = 30,
    yaw_amplitude: float = 0.5,
    pitch_amplitude: float = 0.2,
    size: int | None = None,
    batch: int = 6,
    beside: Sequence[str] = (),
) -> Path:
    """Write the head on an elliptic orbit as H.264 video that every browser plays and loops without a jump.

    size: side in pixels; None gives the generator's own resolution, at least 256. beside: what stands to the
    right of the colours, "depth" (one scale in all frames), "normals" (in the world) or both.
    """
    path = require_suffix(path, ".mp4")
    size = max(head.generator.resolution, SHOWN_SIZE) if size is None else size
    if size % 2 or size < 16:
        raise ValueError(f"the side of a video must be even and at least 16 pixels; got {size}")
    if frames < 1:
        raise ValueError(f"a video needs at least one frame; got {frames}")
    _require_known(beside, BESIDE, "panels beside a video")
    head = head.still()
    limits = _frontal_limits(head) if "depth" in beside else (0.0, 1.0)
    cameras = view_of(head, *ellipse(frames, yaw_amplitude, pitch_amplitude))
    progress = tqdm(total=frames, desc=path.name, unit="frame", leave=False)
    width = size * (1 + len(beside))
    with replacing(path) as temporary, _encoder(temporary, (width, size), fps) as encoder, progress:
        for start in range(0, frames, batch):
            camera = cameras[slice(start, start + batch)]
            for frame in _panels(head.render(camera), camera, beside, limits, size):
                encoder.send(np.ascontiguousarray(to_bytes(frame)))
                progress.update()
    return path


def _frontal_limits(head: Head) -> tuple[float, float]:
    front = view_of(head, 0.0)
    view = head.render(front)
    return depth_limits(depth_along_axis(front, view.depth), view.alpha)


def _panels(
    view: Rendering, camera: Camera, beside: Sequence[str], limits: tuple[float, float], size: int
) -> np.ndarray:
    """Frames [B, size, width, 3] in [-1, 1]: the colours, and at their right what stands beside them."""
    draw = {
        "depth": lambda: depth_image(depth_along_axis(camera, view.depth), view.alpha, limits),
        "normals": lambda: normal_image(camera, view.depth, view.alpha),
    }
    panels = [view.image.float().cpu(), *(draw[name]() for name in beside)]
    sized = [
        panel
        if panel.shape[-1] == size
        else F.interpolate(panel, size=(size, size), mode="bicubic", antialias=True)
        for panel in panels
    ]
    return torch.cat(sized, dim=3).permute(0, 2, 3, 1).numpy()


@contextmanager
def _encoder(path: Path, size: tuple[int, int], fps: int) -> Iterator[Generator]:
    """A running ffmpeg that takes frames of this width and height by `send`."""
    encoder = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=fps,
        codec="libx264",
        quality=None,  # the constant rate factor below says it
        macro_block_size=2,  # the default, 16, would rescale
        output_params=["-crf", "18", "-movflags", "+faststart"],
    )
    encoder.send(None)
    try:
        yield encoder
    finally:
        encoder.close()


# -------------------------------------------------------------------- everything
@torch.no_grad()
def export(
    head: Head,
    folder: str | Path,
    kinds: Iterable[str],
    *,
    camera: Camera | None = None,
    grid: int = 128,
    level: float | None = None,
    beside: Sequence[str] = (),
) -> dict[str, list[Path]]:
    """Write a head in these kinds (of `EXPORTS`) into a folder; returns the files of each.

    glb, ply, obj: mesh.*, the coloured surface in world units. points: points.ply, likewise. depth: depth.png
    (16 bits) and depth_colours.png, normals: normals.png (in the world), both seen from `camera` (None: the
    front). video: orbit.mp4, with depth or normals `beside`. voxels: voxels.mrc and voxels.ply as EG3D's
    scripts write them. grid: samples a side for meshes and voxels. level: raw density of the surface; None
    measures it.
    """
    kinds, folder = tuple(dict.fromkeys(kinds)), Path(folder)
    _require_known(kinds, EXPORTS, "exports")
    head, camera = head.still(), view_of(head, 0.0) if camera is None else camera
    if level is None and {*MESHES, "voxels"} & set(kinds):
        level = surface_level(head)
    mesh = extract_mesh(head, grid, level) if set(MESHES) & set(kinds) else None
    view = shape_view(head, camera) if {"depth", "normals"} & set(kinds) else None
    write = {
        **{kind: lambda name=f"mesh.{kind}": [save_mesh(mesh, folder / name)] for kind in MESHES},
        "points": lambda: [save_points(point_cloud(head), folder / "points.ply")],
        "depth": lambda: [
            save_depth(view, camera, folder / "depth.png"),
            save_depth_picture(view, camera, folder / "depth_colours.png"),
        ],
        "normals": lambda: [save_normals(view, camera, folder / "normals.png")],
        "video": lambda: [save_orbit_video(head, folder / "orbit.mp4", beside=beside)],
        "voxels": lambda: save_voxels(head, folder / "voxels.mrc", grid, level),
    }
    return {kind: write[kind]() for kind in kinds}


def _require_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown {what}: {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
