"""Drawings that explain: cameras and heads in space, what happens along a ray, planes, a stack machine.

Space is projected onto the page by a `Camera` of its own, so a drawing obeys the conventions that it explains.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import trimesh
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.spatial import ConvexHull
from torch import Tensor

from lib.cameras import RADIUS, Camera, eg3d_look_at, orbit
from lib.figures import EMPTY, ERROR_COLOURS, Picture, show_picture, signed, to_picture, use_style
from lib.generators.rendering import project_to_planes

AXIS_COLOURS = {"x": "#d62728", "y": "#2a9d3a", "z": "#1f6fd0"}
"""Right, up or down, and out or forward: red, green, blue."""

POSITION_COLOUR = "#8e44ad"
PLASTER = (0.93, 0.90, 0.86)

RAY_COLOURS = ("#d1700b", "#1f6fd0", "#2a9d3a", "#8e44ad")
"""Of the rays that a figure follows, in their order."""

PLANE_COLOURS = ("#4c78a8", "#54a24b", "#e45756")
U_COLOUR, V_COLOUR = "#d62728", "#1f4fd6"
DOT_COLOURS = ("#ffd92f", "#ffffff", "#ff7f0e", "#17becf", "#e377c2", "#8cd17d")
"""Of planes 0, 1 and 2, of the directions u and v on them, and of marked points."""

STAGE_VIEW = {"yaw": 1.08, "pitch": 0.36, "radius": 9.0, "pivot": (0.4, 0.2, 1.1)}
"""From where drawings in space are seen: camera on the left, head on the right."""

CUBE_VIEW = {"yaw": 0.5, "pitch": 0.36, "radius": 7.0}
"""From where the cube of the planes is seen: its back, floor and left wall hide nothing."""

CELLS = 50
"""So many cells a side a picture in space is drawn with."""


# -------------------------------------------------------------------- space on a page
class Stage:
    """A drawing in space: everything is given in world units and projected onto the page by a camera.

    What is drawn later lies on top; only the triangles of one surface hide each other.
    """

    def __init__(self, axes: Axes, viewer: Camera):
        self.axes, self.viewer = axes, viewer
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.invert_yaxis()  # image positions have v downward

    def project(self, points_world: np.ndarray | Tensor) -> np.ndarray:
        """Places on the page [N, 2] of world points [N, 3]."""
        points = torch.as_tensor(points_world, dtype=torch.float32).reshape(1, -1, 3)
        return self.viewer.project(points)[0][0].numpy()

    def line(self, points_world: np.ndarray | Tensor, **style: object) -> None:
        """A line through points [N, 3]."""
        self.axes.plot(*self.project(points_world).T, **style)

    def arrow(self, start: Tensor, end: Tensor, colour: str, label: str = "") -> None:
        """An arrow between two points, its label just beyond the tip."""
        tail, head = self.project(torch.stack([start, end]))
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", head, tail, arrowprops=style)
        right, down = (head - tail) / max(np.hypot(*(head - tail)), 1e-9)
        side = "left" if right > 0.4 else "right" if right < -0.4 else "center"
        self.note(end, label, (3 * right, -8 * down), color=colour, ha=side, weight="bold")
        self._make_room(tail, head)

    def note(self, point: Tensor, label: str, offset: tuple[float, float] = (0, 0), **style: object) -> None:
        """Words beside a point, so many typographic points to the right of it and above it."""
        at = self.project(point)[0]
        style = {"ha": "center", "va": "center"} | style
        words = self.axes.annotate(label, at, offset, textcoords="offset points", **style)
        words.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        self._make_room(at)

    def surface(self, vertices: np.ndarray, triangles: np.ndarray, colours: np.ndarray) -> None:
        """Triangles [T, 3] of vertices [N, 3], flat, one colour [T, 3] each; the nearest are drawn last."""
        uv, depth_z = self.viewer.project(torch.as_tensor(vertices, dtype=torch.float32)[None])
        order = np.argsort(-depth_z[0].numpy()[triangles].mean(axis=1))
        self._polygons(uv[0].numpy()[triangles[order]], colours[order])

    def picture(self, image: np.ndarray, camera: Camera, depth_z: float) -> None:
        """A picture [R, R, 3] in bytes, where the camera's image plane lies at this depth."""
        step = max(1, len(image) // CELLS)
        image = image[::step, ::step]
        n = len(image)
        grid = self.project(image_grid_points(camera, depth_z, n + 1)).reshape(n + 1, n + 1, 2)
        cells = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2)
        self._polygons(cells.reshape(-1, 4, 2), image.reshape(-1, 3) / 255)

    def frustum(self, camera: Camera, depth_z: float, picture: np.ndarray) -> None:
        """A camera, the picture on its image plane at this depth, and the camera's axes."""
        position, corners = camera.position[0], image_grid_points(camera, depth_z, 2)[[0, 1, 3, 2]]
        for corner in corners:
            self.line(torch.stack([position, corner]), color="0.45", lw=0.9)
        self.picture(picture, camera, depth_z)
        self.line(torch.cat([corners, corners[:1]]), color="0.25", lw=1.1)
        self.axes_of(position, 0.32 * camera.rotation[0].T, ("right", "down", "forward"))

    def axes_of(self, origin: Tensor, directions: Tensor, labels: Sequence[str]) -> None:
        """Three arrows [3, 3] from an origin, in the colours of x, y and z."""
        for direction, colour, label in zip(directions, AXIS_COLOURS.values(), labels, strict=True):
            self.arrow(origin, origin + direction, colour, label)

    def _polygons(self, corners: np.ndarray, colours: np.ndarray) -> None:
        """Filled polygons [N, K, 2] of the page, without seams between them."""
        self.axes.add_collection(
            PolyCollection(corners, facecolors=colours, edgecolors=colours, linewidths=0.3)
        )
        self._make_room(*corners.reshape(-1, 2))

    def _make_room(self, *places: np.ndarray) -> None:
        """Widen the page to hold these places: annotations and collections alone do not."""
        self.axes.update_datalim(np.array(places))
        self.axes.autoscale_view()


def image_grid_points(camera: Camera, depth_z: float, count: int) -> Tensor:
    """World points [count * count, 3] of an even grid over a camera's image, edges included, at one depth."""
    steps = torch.linspace(0, 1, count)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    uv = torch.stack([u, v], dim=-1).reshape(1, -1, 2)
    return camera.unproject(uv, torch.full((1, count * count), depth_z))[0]


def face_colours(mesh: trimesh.Trimesh) -> np.ndarray:
    """Colours [T, 3] of a mesh's triangles in [0, 1], lit from the upper front; plaster, if it has none."""
    lit = 0.55 + 0.45 * (mesh.face_normals @ np.array([0.35, 0.6, 0.72])).clip(0, 1)
    coloured = mesh.visual.kind in ("vertex", "face")
    colours = mesh.visual.face_colors[:, :3] / 255 if coloured else np.array([PLASTER])
    return (colours * lit[:, None]).clip(0, 1)


def _cube(side: float) -> list[Tensor]:
    """The twelve edges [2, 3] of a cube about the origin."""
    corners = side * torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    pairs = itertools.combinations(corners, 2)
    return [torch.stack([a, b]) for a, b in pairs if torch.count_nonzero(a - b) == 1]


def _draw_head(stage: Stage, mesh: trimesh.Trimesh, camera: Camera) -> None:
    """A head, the world's axes out of it, and the dashed line from the camera to the origin."""
    stage.surface(np.asarray(mesh.vertices), np.asarray(mesh.faces), face_colours(mesh))
    origin = torch.zeros(3)
    stage.line(torch.stack([origin, camera.position[0]]), color="0.55", lw=0.9, ls=(0, (4, 3)))
    stage.axes_of(origin, 0.62 * torch.eye(3), ("x", "y", "z"))


# -------------------------------------------------------------------- cameras
def world_and_camera(camera: Camera, picture: np.ndarray, mesh: trimesh.Trimesh, box: float = 1.0) -> Picture:
    """The conventions in one drawing: the world's axes in the head, the cube of the planes, a camera's axes.

    picture: what the camera sees, bytes [R, R, 3], drawn on its image plane. box: side of the cube.
    """
    position = camera.position[0]
    with use_style():
        drawing = Picture(8.4, 4.9)
        stage = Stage(drawing.add_axes((0.02, 0.0, 0.96, 1.0)), orbit(**STAGE_VIEW))
        for edge in _cube(box):
            stage.line(edge, color="0.8", lw=0.8)
        _draw_head(stage, mesh, camera)
        stage.frustum(camera, 1.25, picture)
        stage.note(torch.zeros(3), "origin", (26, -13), size=9)
        stage.note(0.4 * position, f"{position.norm():.1f} world units", (0, 30), color="0.35", size=9)
        below = torch.tensor([box / 2, -box / 2, 0.0])
        stage.note(below, f"cube of side {box:g}:\nthe planes", (36, -12), size=9)
        stage.note(position, "camera", (0, 14), weight="bold")
    return drawing


def label_explained(camera: Camera, picture: np.ndarray, mesh: trimesh.Trimesh) -> Picture:
    """EG3D's 25 numbers as two matrices between the picture [R, R, 3] (bytes) and the scene.

    Each column has the colour of what it draws.
    """
    with use_style():
        drawing = Picture(9.6, 3.2)
        show_picture(drawing.add_axes((0.005, 0.14, 0.24, 0.72)), picture)
        numbers = drawing.add_axes((0.25, 0.0, 0.31, 1.0))
        numbers.set_axis_off()
        numbers.set(xlim=(-0.1, 4.1), ylim=(10.1, -0.9))
        _write_pose(numbers, camera.world_from_cam[0])
        _write_intrinsics(numbers, camera.intrinsics[0])
        stage = Stage(drawing.add_axes((0.565, 0.02, 0.43, 0.96)), orbit(**STAGE_VIEW | {"yaw": 0.95}))
        _draw_head(stage, mesh, camera)
        stage.frustum(camera, 1.25, picture)
        stage.note(camera.position[0], "position", (0, 12), color=POSITION_COLOUR, weight="bold")
    return drawing


def _write_pose(axes: Axes, world_from_cam: Tensor) -> None:
    """The 4 x 4 matrix in numbers, its columns named and coloured; what is always the same is grey."""
    axes.text(2, -0.25, "world_from_cam: numbers 0 to 15", ha="center", weight="bold")
    colours = (*AXIS_COLOURS.values(), POSITION_COLOUR)
    for column, name in enumerate(("right", "down", "forward", "position")):
        axes.text(column + 0.5, 0.55, name, color=colours[column], ha="center")
        for row in range(4):
            colour = colours[column] if row < 3 else "0.6"
            _write_number(axes, column + 0.92, 1.35 + 0.8 * row, world_from_cam[row, column], colour)


def _write_intrinsics(axes: Axes, intrinsics: Tensor) -> None:
    axes.text(2, 5.35, "intrinsics: numbers 16 to 24", ha="center", weight="bold")
    for row, column in itertools.product(range(3), range(3)):
        colour = "0.1" if row < 2 and column in (row, 2) else "0.6"
        _write_number(axes, column + 1.42, 6.3 + 0.8 * row, intrinsics[row, column], colour)
    axes.text(
        2, 9.1, "focal length and centre,\nin units of the picture's side", ha="center", size=9, color="0.3"
    )


def _write_number(axes: Axes, x: float, y: float, value: Tensor, colour: str) -> None:
    text = f"{value.item():.4f}".replace("-", "\N{MINUS SIGN}") if round(value.item(), 4) else "0"
    axes.text(x, y, text, color=colour, ha="right", family="monospace")


def depth_two_ways(camera: Camera, resolution: int = 64, wall: float = RADIUS) -> Picture:
    """Depth along the ray and along z, on a flat wall at depth_z = wall: from the side, and over a picture."""
    ratio = (1 / camera.ray_cosines(resolution))[0, 0].numpy()
    with use_style():
        drawing = Picture(9.0, 3.1)
        _draw_two_depths(drawing.add_axes((0.0, 0.02, 0.6, 0.96)), camera, wall)
        over = drawing.add_axes((0.655, 0.17, 0.24, 0.69))
        shown = over.imshow(ratio, extent=(0, 1, 1, 0), cmap="viridis", interpolation="nearest")
        over.grid(False)
        over.set(title="depth / depth_z", xlabel="u", ylabel="v", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        drawing.colorbar(shown, cax=drawing.add_axes((0.91, 0.17, 0.018, 0.69)), format="%.3f")
    return drawing


def _draw_two_depths(axes: Axes, camera: Camera, wall: float) -> None:
    """A camera, a wall, and two ways to say how far the wall is, for the corner of the picture."""
    corner = camera.unproject(torch.zeros(1, 1, 2), torch.full((1, 1), wall))[0, 0] - camera.position[0]
    depth = corner.norm().item()
    edge, angle = math.sqrt(depth**2 - wall**2), np.linspace(-1, 1) * math.acos(wall / depth)
    along_z, along_ray = AXIS_COLOURS["z"], RAY_COLOURS[0]
    axes.set_axis_off()
    axes.set(xlim=(-0.3, 1.13 * wall), ylim=(-1.25 * edge, 1.5 * edge))
    axes.plot([wall, wall], [-1.2 * edge, 1.2 * edge], color="0.35", lw=3)
    axes.plot(depth * np.cos(angle), depth * np.sin(angle), color="0.6", ls="--", lw=1)
    axes.plot([0, wall], [0, 0], color=along_z)
    axes.plot([0, wall], [0, edge], color=along_ray)
    axes.plot(0, 0, "o", color="0.2")
    axes.text(0.5 * wall, -0.06 * edge, f"depth_z = {wall:.4f}", color=along_z, ha="center", va="top")
    axes.text(0.45 * wall, 0.6 * edge, f"depth = {depth:.4f}", color=along_ray, ha="right", va="bottom")
    axes.text(0, 0.14 * edge, "camera", ha="center")
    axes.text(wall, 1.27 * edge, "a flat wall", ha="center")
    axes.text(0.97 * wall, -0.62 * edge, "(heights are stretched)", size=9, color="0.4", ha="right")
    axes.text(1.02 * depth, -0.5 * edge, "equal\ndepth", size=9, color="0.4", va="center")


def asked_and_got(asked: Tensor, got: Tensor, pictures: Mapping[float, Sequence[Tensor]]) -> Picture:
    """EG3D's pitch argument [N] against the elevation [N] that it gives, and what that looks like.

    pictures: offset asked for -> the picture [3, R, R] that an angle would give, and the one that comes.
    """
    elevations = np.interp(list(pictures), asked, got)
    with use_style():
        drawing = Picture(9.6, 3.2)
        axes = drawing.add_axes((0.075, 0.165, 0.285, 0.79))
        axes.plot(asked, -asked, color="0.6", ls="--", label="an angle")
        axes.plot(asked, got, color=AXIS_COLOURS["y"], lw=2.2, label="the sampler")
        axes.plot(list(pictures), elevations, "o", color=AXIS_COLOURS["y"])
        axes.set(xlabel="asked: offset of v from π/2", ylabel="got: elevation of the camera (rad)")
        axes.legend(loc="lower left")
        room = {"left": 0.45, "right": 0.995, "bottom": 0.02, "top": 0.9, "wspace": 0.04, "hspace": 0.22}
        grid = drawing.add_gridspec(2, len(pictures), **room)
        _titled(drawing, grid, 0, {f"asked {signed(offset)}": pair[0] for offset, pair in pictures.items()})
        came = zip(elevations, pictures.values(), strict=True)
        _titled(drawing, grid, 1, {signed(elevation): pair[1] for elevation, pair in came})
        for y, label in ((0.7, "an\nangle"), (0.2, "the\nsampler")):
            drawing.text(0.44, y, label, ha="right", va="center", size=9)
    return drawing


def _titled(drawing: Picture, grid: GridSpec, row: int, pictures: Mapping[str, Tensor]) -> None:
    """One row of a grid of pictures (title: [3, R, R])."""
    for column, (title, picture) in enumerate(pictures.items()):
        cell = drawing.add_subplot(grid[row, column])
        show_picture(cell, picture)
        cell.set_title(title, size=9, pad=3)


def orbit_from_above(yaws: Sequence[float], pivot: Sequence[float], mesh: trimesh.Trimesh) -> Picture:
    """EG3D's cameras about a head, from above: on a circle about the origin, looking at the pivot.

    Beside it how far they are from the pivot, all around.
    """
    cameras = [eg3d_look_at(math.pi / 2 + yaw, math.pi / 2, pivot=pivot) for yaw in yaws]
    with use_style():
        drawing = Picture(9.0, 3.6)
        plan, curve = drawing.subplots(1, 2, width_ratios=(1.1, 1))
        _draw_ground(plan, pivot, mesh)
        _draw_distance_to_pivot(curve, pivot)
        for yaw, camera, colour in zip(yaws, cameras, itertools.cycle(RAY_COLOURS)):
            position = camera.position[0, [0, 2]].numpy()
            line = np.stack([position, np.array(pivot)[[0, 2]]])
            plan.plot(*np.stack([position, [0, 0]]).T, color="0.7", lw=1, ls=":")
            plan.plot(*line.T, color=colour)
            plan.plot(*position, "o", color=colour)
            words = f"yaw {yaw:g}\nturned by {camera.yaw.item():.3f}"
            place = {"ha": "right", "xytext": (-7, -16)} if yaw < 0.1 else {"ha": "left", "xytext": (7, -5)}
            plan.annotate(words, position, textcoords="offset points", color=colour, size=9, **place)
            at = (yaw, np.hypot(*(line[0] - line[1])))
            curve.plot(*at, "o", color=colour)
            curve.annotate(f"{at[1]:.3f}", at, (9, -8), textcoords="offset points", color=colour, size=9)
        drawing.tight_layout()
    return drawing


def _draw_ground(axes: Axes, pivot: Sequence[float], mesh: trimesh.Trimesh) -> None:
    """The head's outline from above, the circle on which cameras run, origin and pivot."""
    axes.set_aspect("equal")
    axes.grid(False)
    points = np.asarray(mesh.vertices)[:, [0, 2]]
    axes.fill(*points[ConvexHull(points).vertices].T, color=PLASTER, ec="0.6", lw=1)
    circle = np.linspace(0, 1.2, 200)
    axes.plot(RADIUS * np.sin(circle), RADIUS * np.cos(circle), color="0.75", lw=1)
    axes.plot(pivot[0], pivot[2], "*", color="black", ms=11)
    axes.plot(0, 0, "+", color="black", ms=9, mew=1.6)
    axes.annotate("pivot", (pivot[0], pivot[2]), (-9, 3), textcoords="offset points", ha="right")
    axes.annotate("origin", (0, 0), (-25, -4), textcoords="offset points", ha="right", va="top")
    axes.set(xlabel="x", ylabel="z", xlim=(-1.45, 3.3), ylim=(-0.5, 3.0))


def _draw_distance_to_pivot(axes: Axes, pivot: Sequence[float]) -> None:
    yaw = torch.linspace(-math.pi / 2, math.pi / 2, 181)
    camera = eg3d_look_at(math.pi / 2 + yaw, math.pi / 2, pivot=pivot)
    distance = (camera.position - torch.tensor(pivot, dtype=torch.float32)).norm(dim=-1)
    axes.plot(yaw, distance, color="0.3")
    axes.axhline(RADIUS, color="0.75", lw=1)
    place = {"xytext": (0, -4), "textcoords": "offset points", "ha": "center", "va": "top"}
    axes.annotate("the radius", (0, RADIUS), color="0.5", **place)
    axes.set(xlabel="yaw of the camera's position (rad)", ylabel="distance to the pivot")


def field_of_view(focal: float, pictures: Mapping[str, Tensor], limit: float = 0.5) -> Picture:
    """What a focal length in picture widths means, two pictures (title: [3, R, R]) and their difference."""
    one, other = pictures.values()
    scale = ScalarMappable(Normalize(0, limit), ERROR_COLOURS)
    difference = scale.to_rgba((one - other).abs().mean(dim=0).numpy(), bytes=True)[..., :3]
    with use_style():
        drawing = Picture(9.6, 2.65)
        _draw_angles(drawing.add_axes((0.014, 0.02, 0.226, 0.85)), focal)
        grid = drawing.add_gridspec(1, 3, left=0.25, right=0.946, bottom=0.02, top=0.87, wspace=0.03)
        _titled(drawing, grid, 0, {**pictures, "mean |difference|": difference})
        drawing.colorbar(scale, cax=drawing.add_axes((0.953, 0.05, 0.01, 0.79)))
    return drawing


def _draw_angles(axes: Axes, focal: float) -> None:
    """A picture's frame with the angles that its side and its diagonal span."""
    axes.set_axis_off()
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal", title=f"focal length {focal:.4f}")
    axes.fill([0, 1, 1, 0], [0, 0, 1, 1], color=EMPTY, ec="0.3")
    diagonal = {"end": (1, 1), "half": math.sqrt(0.5), "place": (0.43, 0.57), "turn": 45}
    side = {"end": (1, 0.12), "half": 0.5, "place": (0.6, 0.2), "turn": 0}
    for span, start, colour in ((diagonal, (0, 0), RAY_COLOURS[0]), (side, (0, 0.12), RAY_COLOURS[1])):
        arrow = {"arrowstyle": "<|-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0, "color": colour}
        axes.annotate("", span["end"], start, arrowprops=arrow)
        words = f"{math.degrees(2 * math.atan(span['half'] / focal)):.2f}°"
        style = {"ha": "center", "va": "center", "rotation": span["turn"], "weight": "bold"}
        axes.text(*span["place"], words, color=colour, **style)


# -------------------------------------------------------------------- rays
def rays_from_above(
    image: Tensor, pixels: Mapping[str, tuple[int, int]], points: Tensor, sigma: Tensor, camera: Camera
) -> Picture:
    """A picture with pixels (name: row, column; all of one row) marked, and the fog that this row looks through.

    points [R, D, 3]: samples along the row's R rays, from the camera on; sigma [R, D]: density there.
    """
    uv, depth_z = camera.project(points.reshape(1, -1, 3))
    aside = ((uv[..., 0] - 0.5) * depth_z / camera.intrinsics[0, 0, 0]).reshape(sigma.shape).numpy()
    ahead = depth_z.reshape(sigma.shape).numpy()
    scale = image.shape[-1] / len(points)
    with use_style():
        drawing = Picture(9.4, 3.7)
        front = drawing.add_axes((0.005, 0.03, 0.35, 0.889))
        show_picture(front, image)
        front.set_title("one row of the picture")
        plan = drawing.add_axes((0.43, 0.14, 0.48, 0.775))
        fog = _draw_fog(plan, ahead, aside, sigma)
        for (name, (row, column)), colour in zip(pixels.items(), RAY_COLOURS, strict=False):
            x, y = ((index + 0.5) * scale - 0.5 for index in (column, row))
            front.axhline(y, color="white", lw=0.8, alpha=0.7)
            front.plot(x, y, "o", color=colour, mec="white", ms=9)
            plan.plot(ahead[column], aside[column], color=colour, lw=1.8)
            start = (ahead[column, 0], aside[column, 0])
            plan.annotate(name, start, (3, 4), textcoords="offset points", color=colour, weight="bold")
        drawing.colorbar(fog, cax=drawing.add_axes((0.93, 0.2, 0.014, 0.65)), label="density σ")
    return drawing


def _draw_fog(axes: Axes, ahead: np.ndarray, aside: np.ndarray, sigma: Tensor) -> ScalarMappable:
    """Density over the plane of a row's rays; dashed, where samples begin and end."""
    axes.grid(False)
    for end in (0, -1):
        axes.plot(ahead[:, end], aside[:, end], color="0.5", lw=0.8, ls="--")
    axes.set_title("the fog that this row looks through, from above")
    axes.set(xlabel="distance ahead of the camera", ylabel="to the right of the camera")
    axes.set(aspect="equal", ylim=(aside.max() + 0.03, aside.min() - 0.03))
    return axes.pcolormesh(ahead, aside, sigma.numpy(), cmap="Greys", shading="gouraud", rasterized=True)


def along_the_ray(profiles: Mapping[str, Mapping[str, Tensor]], limits: tuple[float, float]) -> Picture:
    """A column for each ray (its name): density, light left, weight per length and colour along it.

    Each profile holds depths, sigma [D] and colour [D, 3] in [0, 1]; transmittance and weights of the
    intervals, at their middle [D-1]; depth and pixel [3] of the ray. The dashed line is the depth.
    """
    with use_style():
        drawing = Picture(9.4, 5.6)
        options = {"sharex": True, "sharey": "row", "squeeze": False, "height_ratios": (1, 1, 1, 0.24)}
        panels = drawing.subplots(4, len(profiles), **options)
        for (name, profile), column, colour in zip(profiles.items(), panels.T, RAY_COLOURS, strict=False):
            _draw_profile(column, profile, colour)
            column[0].set_title(f"{name}: depth {profile['depth']:.3f}", color=colour, weight="bold")
            column[3].set(xlabel="distance t along the ray", xlim=limits)
        labels = ("density σ", "light left T", "weight / length", "colour")
        for axes, label in zip(panels[:, 0], labels, strict=True):
            axes.set_ylabel(label)
        panels[3, 0].yaxis.label.set(rotation=0, ha="right", va="center")
        panels[1, 0].set_ylim(-0.03, 1.06)
        drawing.tight_layout(h_pad=0.4)
        drawing.align_ylabels(panels[:3, 0])
    return drawing


def _draw_profile(column: Sequence[Axes], profile: Mapping[str, Tensor], colour: str) -> None:
    """One ray down a column of four panels, and the pixel that it makes."""
    depths, middle = profile["depths"], profile["middle"]
    curves = (
        (depths, profile["sigma"]),
        (middle, profile["transmittance"]),
        (middle, profile["weights"] / depths.diff()),
    )
    for axes, (distance, values) in zip(column, curves, strict=False):
        axes.fill_between(distance.numpy(), values.numpy(), color=colour, alpha=0.2, lw=0)
        axes.plot(distance, values, color=colour)
        axes.axvline(profile["depth"], color="0.35", ls="--", lw=1)
    strip, swatch = column[3], column[1].inset_axes((0.86, 0.5, 0.12, 0.34))
    ends = (depths[0].item(), depths[-1].item(), 0, 1)
    strip.imshow(profile["colour"].clip(0, 1)[None].numpy(), extent=ends, aspect="auto")
    strip.set_yticks([])
    swatch.imshow(profile["pixel"].clip(0, 1)[None, None].numpy())
    swatch.set(xticks=[], yticks=[])
    swatch.set_title("pixel", size=9, pad=3)
    for axes in (strip, swatch):
        axes.grid(False)


def sum_and_integral(
    curve: tuple[Tensor, Tensor],
    depths: Tensor,
    mid_sigma: Tensor,
    errors: Mapping[str, Mapping[int, float]],
) -> Picture:
    """The mid-point rule as steps under a density, and how errors fall with the number of samples.

    curve: distances and densities. depths [N]: samples; mid_sigma [N-1]: what the rule puts between them.
    errors: name -> {number of samples: error}, all of the same numbers.
    """
    counts = np.array(list(next(iter(errors.values()))))
    with use_style():
        drawing = Picture(9.2, 3.4)
        steps, fall = drawing.subplots(1, 2)
        steps.plot(*curve, color=RAY_COLOURS[0], label="σ(t)")
        steps.stairs(mid_sigma, depths, fill=True, color="0.85")
        steps.stairs(mid_sigma, depths, color="0.45", label="what the sum sees")
        steps.plot(depths, torch.zeros(len(depths)), "|", color="black", ms=9)
        steps.set(xlabel="distance t", ylabel="density σ", title=f"{len(depths)} samples")
        steps.legend(loc="upper right")
        _draw_errors(fall, errors, RAY_COLOURS)
        first = max(error[counts[0]] for error in errors.values())
        square = first * (counts[0] / counts) ** 2.0
        fall.plot(counts, square, color="0.6", ls="--", lw=1, label="a quarter per doubling")
        fall.set(ylabel="error of the sum")
        fall.legend(loc="lower left")
        drawing.tight_layout()
    return drawing


def _draw_errors(axes: Axes, errors: Mapping[str, Mapping[int, float]], colours: Sequence[str]) -> None:
    """Errors against numbers of samples, both on logarithmic scales; the numbers themselves are the ticks."""
    for (name, error), colour in zip(errors.items(), colours, strict=False):
        axes.plot(list(error), list(error.values()), "o-", ms=4.5, color=colour, label=name)
    counts = sorted({count for error in errors.values() for count in error})
    axes.set(xscale="log", yscale="log", xlabel="samples on a ray")
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.minorticks_off()


def importance_drawn(
    coarse: tuple[Tensor, Tensor],
    bins: tuple[Tensor, Tensor],
    fine: Tensor,
    density: tuple[Tensor, Tensor],
) -> Picture:
    """From coarse weights to fine samples, in three panels over the same distance.

    coarse: depths [D] and weights [D-1] of the first pass. bins: edges [M+1] and mass [M] that is drawn from.
    fine [N]: what was drawn. density: distances and sigma of the field itself.
    """
    edges, mass = bins
    cdf = np.concatenate([[0.0], (mass / mass.sum()).cumsum(0).numpy()])
    quantiles = (np.arange(len(fine)) + 0.5) / len(fine)
    with use_style():
        drawing = Picture(8.6, 5.4)
        found, drawn, looked = drawing.subplots(3, 1, sharex=True)
        found.stairs(
            coarse[1], coarse[0], fill=True, color=RAY_COLOURS[1], alpha=0.3, label="weights, coarse pass"
        )
        found.stairs(
            mass, edges, color=RAY_COLOURS[3], lw=1.6, label="smoothed, with a floor, on EG3D's bins"
        )
        found.set(ylabel="weight")
        found.legend(loc="best")
        drawn.plot(edges, cdf, color=RAY_COLOURS[3])
        drawn.hlines(quantiles, coarse[0][0], fine, color="0.75", lw=0.8)
        drawn.vlines(fine, 0, quantiles, color=RAY_COLOURS[0], lw=0.9)
        drawn.set(ylabel="sum so far", ylim=(0, 1.04))
        looked.plot(*density, color="0.4")
        _draw_ticks(looked, {"coarse": coarse[0], "fine": fine}, max(density[1].max().item(), 1e-3))
        looked.set(ylabel="density σ", xlabel="distance t along the ray")
        drawing.tight_layout()
        drawing.align_ylabels()
    return drawing


def _draw_ticks(axes: Axes, depths: Mapping[str, Tensor], top: float) -> None:
    """Samples as ticks below a curve of this height, one row for each name."""
    beside = axes.get_yaxis_transform()
    for height, colour, (name, at) in zip((-0.125, -0.325), RAY_COLOURS[1::-1], depths.items(), strict=True):
        axes.vlines(at, (height - 0.075) * top, (height + 0.075) * top, color=colour, lw=1.6)
        axes.text(1.005, height * top, name, color=colour, va="center", transform=beside)
    axes.set_ylim(-0.45 * top, 1.08 * top)
    axes.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, top) if tick <= top])


def off_by_one(
    depths: Tensor, weights: Tensor, drawn: Tensor, errors: Mapping[str, Tensor], limit: float
) -> Picture:
    """Where samples [N] fall that are drawn from one interval's weight, and maps of depth errors (title: [R, R], mm).

    depths [D], weights [D-1]: the coarse pass, all weight in one interval. limit: end of the errors' scale.
    """
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    maps = {title: scale.to_rgba(error.numpy(), bytes=True)[..., :3] for title, error in errors.items()}
    with use_style():
        drawing = Picture(9.6, 3.1)
        _draw_spike(drawing.add_axes((0.03, 0.19, 0.36, 0.68)), depths, weights, drawn)
        grid = drawing.add_gridspec(1, len(maps), left=0.43, right=0.885, bottom=0.08, top=0.9, wspace=0.04)
        _titled(drawing, grid, 0, maps)
        drawing.colorbar(scale, cax=drawing.add_axes((0.9, 0.14, 0.013, 0.69)), label="depth error, mm")
    return drawing


def _draw_spike(axes: Axes, depths: Tensor, weights: Tensor, drawn: Tensor) -> None:
    """A histogram of samples over the interval that has the weight, and the middle of either."""
    centre = ((depths[1:] + depths[:-1]) / 2)[weights > 0].mean().item()
    bins = np.arange(centre - 4, centre + 4, 0.25)
    axes.hist(drawn, bins=bins, color=RAY_COLOURS[0], alpha=0.55, label="samples")
    top = axes.get_ylim()[1]
    axes.stairs(weights / weights.max() * 0.8 * top, depths, color=RAY_COLOURS[1], lw=1.8, label="weight")
    middles = ((drawn.mean().item(), RAY_COLOURS[0], "right", -4), (centre, RAY_COLOURS[1], "left", 4))
    for value, colour, side, shift in middles:
        axes.axvline(value, color=colour, ls="--", lw=1.2)
        style = {"color": colour, "weight": "bold", "va": "top", "ha": side}
        axes.annotate(f"{value:.1f}", (value, top), (shift, 0), textcoords="offset points", **style)
    axes.set(xlim=(centre - 3.5, centre + 3.5), ylim=(0, 1.02 * top), yticks=[])
    axes.set(xlabel="distance, in coarse intervals")
    axes.legend(loc="center right")


def samples_enough(
    errors: Mapping[str, Mapping[int, float]], rows: Sequence[Mapping[str, Tensor]]
) -> Picture:
    """Error against the samples of a ray (name: {count: error}), and rows of pictures (title: [3, R, R])."""
    with use_style():
        drawing = Picture(9.6, 3.6)
        curve = drawing.add_axes((0.075, 0.15, 0.33, 0.8))
        _draw_errors(curve, errors, RAY_COLOURS[1:])
        curve.set(ylabel="error of the raw picture")
        curve.legend(loc="lower left")
        room = {"left": 0.44, "right": 0.995, "bottom": 0.02, "top": 0.93, "wspace": 0.04, "hspace": 0.2}
        grid = drawing.add_gridspec(len(rows), max(map(len, rows)), **room)
        for row, pictures in enumerate(rows):
            _titled(drawing, grid, row, pictures)
    return drawing


# -------------------------------------------------------------------- tri-planes
def principal_colours(planes: Tensor) -> np.ndarray:
    """The first three principal components of the features of planes [3, C, R, R] as bytes [3, R, R, 3].

    The components are those of all planes together, so that one colour means one feature everywhere.
    """
    features = planes.detach().float().cpu().permute(0, 2, 3, 1)
    centred = features.flatten(0, 2) - features.flatten(0, 2).mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions.flip(1)[:, :3]  # largest first; their signs mean nothing, so fix them
    parts = centred @ (directions * directions.sum(dim=0).sign())
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    colours = ((parts - low) / (high - low)).clamp(0, 1)
    return (255 * colours).round().byte().reshape(*features.shape[:3], 3).numpy()


def axis_names(axes: Tensor) -> list[tuple[str, str]]:
    """Names of u and v of each plane, such as ("x", "y"), from plane axes [3, 3, 3]."""
    unit = torch.eye(3, dtype=axes.dtype)
    if not all((row == unit).all(dim=1).any() for row in axes.cpu().flatten(0, 1)):
        raise ValueError(f"only axes along +x, +y and +z have names; got {axes.tolist()}")
    return [tuple("xyz"[i] for i in plane[:2].argmax(dim=-1)) for plane in axes.cpu()]


def planes_of_head(
    planes: Tensor,
    axes: Tensor,
    points: Mapping[str, Tensor],
    image: Tensor,
    camera: Camera,
    box_warp: float = 1.0,
) -> Picture:
    """A head's picture, its planes [3, C, R, R] as colours, and where named points [3] lie on each of them.

    Planes are drawn with v upwards: row 0 of the array is at the bottom.
    """
    half, names = box_warp / 2, axis_names(axes)
    places = torch.stack(list(points.values()))[None]
    uv, on_planes = camera.project(places)[0][0], project_to_planes(places, axes)[0]
    with use_style():
        picture = Picture(11.2, 3.4)
        panels = picture.subplots(1, 4)
        panels[0].imshow(to_picture(image), extent=(0, 1, 1, 0))
        panels[0].set(title="the picture", xticks=[], yticks=[])
        _mark(panels[0], uv, points)
        for k, (panel, colours) in enumerate(zip(panels[1:], principal_colours(planes), strict=True)):
            panel.imshow(colours, origin="lower", extent=(-half, half, -half, half))
            panel.set(xlabel=f"u = {names[k][0]}", ylabel=f"v = {names[k][1]}")
            panel.set(xticks=[-half, 0, half], yticks=[-half, 0, half])
            panel.set_title(f"plane {k}", color=PLANE_COLOURS[k], fontweight="bold")
            _mark(panel, on_planes[k], points)
        for panel in panels:
            panel.grid(False)
        dots = panels[0].get_legend_handles_labels()
        picture.tight_layout(rect=(0, 0.09, 1, 1))
        picture.legend(*dots, loc="lower center", ncols=len(points), facecolor="#d9d9d9", frameon=True)
    return picture


def _mark(axes: Axes, places: Tensor, names: Iterable[str]) -> None:
    for (u, v), name, colour in zip(places.tolist(), names, itertools.cycle(DOT_COLOURS)):
        axes.plot(u, v, "o", color=colour, markeredgecolor="black", markersize=7, label=name, linestyle="")


def lookup_drawing(axes: Tensor, point: Sequence[float], texels: Tensor, half: float = 0.5) -> Picture:
    """One lookup: a point's feet on the three planes, and the four texels that plane 0 mixes for it.

    texels [R, R]: one channel of plane 0. Each of the four is weighted by the area of its own colour.
    """
    with use_style():
        picture = Picture(9.0, 4.3)
        room, grid = picture.subplots(1, 2, width_ratios=[1.1, 1])
        stage = _cube_on_stage(room, half)
        for k, (plane, names) in enumerate(zip(axes, axis_names(axes), strict=True)):
            _draw_wall(stage, plane, torch.tensor(point), half, PLANE_COLOURS[k])
            label = f"plane {k}: ({', '.join(names)})"
            room.text(0.01 + 0.35 * k, -0.07, label, color=PLANE_COLOURS[k], transform=room.transAxes)
        room.set_title("a point and its foot on each plane")
        uv = project_to_planes(torch.tensor([[point]]) / half, axes)[0, 0, 0].tolist()
        _draw_texels(grid, texels, uv)
        grid.set_title("plane 0: four texels, weighted by area")
        picture.tight_layout()
    return picture


def _draw_texels(axes: Axes, texels: Tensor, uv: Sequence[float]) -> None:
    """Numbers of texels, the point at (u, v), and the areas by which its four neighbours are weighted."""
    size = texels.shape[-1]
    column, row = ((t + 1) * size / 2 - 0.5 for t in uv)
    j, i = math.floor(column), math.floor(row)
    colours = dict(zip(itertools.product((0, 1), repeat=2), DOT_COLOURS[2:6], strict=True))
    for (di, dj), colour in colours.items():
        opposite = (j + 1 - dj, i + 1 - di)
        area = Rectangle(
            opposite, column - opposite[0], row - opposite[1], facecolor=colour, alpha=0.6, edgecolor="black"
        )
        axes.add_patch(area)
        weight = abs((column - opposite[0]) * (row - opposite[1]))
        middle = ((column + opposite[0]) / 2, (row + opposite[1]) / 2)
        axes.text(*middle, f"{weight:.2f}", ha="center", va="center", fontsize=9)
    for b, a in itertools.product(range(size), repeat=2):
        colour = colours.get((b - i, a - j), "#f2f2f2")
        value = f"{texels[b, a]:.0f}"
        box = {"boxstyle": "round", "facecolor": colour, "edgecolor": "#808080"}
        axes.text(a, b, value, ha="center", va="center", bbox=box, zorder=3)
    axes.plot(column, row, "o", color="black", markersize=7, zorder=4)
    ticks = [-0.5, (size - 1) / 2, size - 0.5]
    axes.set(xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5), aspect="equal", xlabel="u", ylabel="v")
    axes.set(xticks=ticks, xticklabels=[f"{t:g}" for t in (-1, 0, 1)])
    axes.set(yticks=ticks, yticklabels=[f"{t:g}" for t in (-1, 0, 1)])
    axes.grid(False)


def plane_drawings(conventions: Mapping[str, Tensor], point: Sequence[float], half: float = 0.5) -> Picture:
    """A row for each convention (name: axes [3, 3, 3]): its planes, the foot of a point on each, u and v."""
    with use_style():
        picture = Picture(9.4, 3.1 * len(conventions))
        rooms = picture.subplots(len(conventions), 3, squeeze=False)
        for row, (name, axes) in zip(rooms, conventions.items(), strict=True):
            for k, (room, names) in enumerate(zip(row, axis_names(axes), strict=True)):
                _draw_wall(
                    _cube_on_stage(room, half), axes[k], torch.tensor(point), half, PLANE_COLOURS[k], names
                )
                room.margins(0.16)  # for the names at the arrows' tips
                room.set_title(f"{name}, plane {k}", fontweight="bold", color=PLANE_COLOURS[k])
        picture.tight_layout()
    return picture


def _cube_on_stage(axes: Axes, half: float) -> Stage:
    """The edges of the planes' cube, seen from the upper right of its front."""
    stage = Stage(axes, orbit(**CUBE_VIEW))
    for edge in _cube(2 * half):
        stage.line(edge, color="0.7", lw=0.8)
    return stage


def _draw_wall(
    stage: Stage, axes: Tensor, point: Tensor, half: float, colour: str, names: Sequence[str] = ()
) -> None:
    """A plane as the wall of the cube that hides nothing, the point's foot on it, and named u and v."""
    u, v, normal = axes
    away = normal.abs()
    wall = -half * away
    foot = point - (point * away).sum() * away + wall
    corners = torch.stack([wall + half * (a * u + b * v) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    stage.axes.fill(*stage.project(corners).T, facecolor=colour, edgecolor=colour, alpha=0.35)
    start = wall - half * (u + v)
    for direction, shade, letter, name in zip((u, v), (U_COLOUR, V_COLOUR), "uv", names, strict=False):
        stage.arrow(start, start + 2 * half * direction, shade, f"{letter} = {name}")
    stage.line(torch.stack([point, foot]), color="black", ls="--", lw=1)
    for place, shade in ((point, "black"), (foot, colour)):
        stage.axes.plot(*stage.project(place).T, "o", color=shade, markeredgecolor="black", markersize=6)


def slices(
    maps: Mapping[str, Tensor],
    extent: tuple[float, float, float, float],
    names: tuple[str, str],
    signs: Sequence[str] = (),
    level: float | None = None,
) -> Picture:
    """Slices of a field (title: values [rows, columns], row 0 at the bottom), red above zero, blue below.

    extent: left, right, bottom, top. names: of the two axes. signs: what stands between neighbours. level: a
    line is drawn in the last where the field has this value.
    """
    with use_style():
        picture = Picture(2.75 * len(maps) + 0.3, 3.3)
        panels = picture.subplots(1, len(maps), sharey=True, squeeze=False)[0]
        for panel, (title, values) in zip(panels, maps.items(), strict=True):
            values = values.detach().float().cpu().numpy()
            limit = np.percentile(np.abs(values), 99)
            panel.imshow(values, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
            panel.set(title=title, xlabel=names[0], xticks=[extent[0], 0, extent[1]])
            panel.grid(False)
        panels[0].set(ylabel=names[1], yticks=[extent[2], 0, extent[3]])
        if level is not None:
            panels[-1].contour(values, [level], extent=extent, colors="black", linewidths=1.2)
        picture.tight_layout(w_pad=2.2)
        for panel, sign in zip(panels[1:], signs, strict=False):
            box = panel.get_position()
            picture.text(
                box.x0 - 0.09 / len(maps), (box.y0 + box.y1) / 2, sign, size=16, ha="center", va="center"
            )
    return picture


# -------------------------------------------------------------------- a stack machine
def stack_drawing(steps: Sequence[tuple[str, Sequence[str]]], alarming: str = "") -> Picture:
    """A stack machine at work: a column for each step (instruction, stack after it), the bottom item lowest.

    Steps of the instruction `alarming` are red.
    """
    height = max(len(stack) for _, stack in steps)
    with use_style():
        picture = Picture(2.3 * len(steps), 0.7 * height + 0.7)
        axes = picture.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set(xlim=(0, len(steps)), ylim=(-0.1, height + 0.9))
        axes.set_axis_off()
        for column, (instruction, stack) in enumerate(steps):
            colour = "#e45756" if instruction == alarming else "#4c78a8"
            title = f"{column + 1}. {instruction}"
            axes.text(
                column + 0.5, height + 0.45, title, color=colour, fontweight="bold", ha="center", va="center"
            )
            for row, item in enumerate(stack):
                axes.add_patch(
                    Rectangle(
                        (column + 0.04, row + 0.06), 0.92, 0.88, facecolor=colour, alpha=0.2, edgecolor=colour
                    )
                )
                axes.text(column + 0.5, row + 0.5, item, ha="center", va="center")
    return picture
