"""HFGI3D equation by equation, its warps against a head whose surface is known, then the method as a whole."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.blending import eroded, softened
from lib.cameras import Camera, orbit
from lib.generators import EG3D, EG3DConfig, Rendering
from lib.inversion import Checkpoints, Inversion, hfgi3d, invert_hfgi3d, invert_pti, project
from lib.inversion.hfgi3d import (
    RELEASED,
    PseudoViewLoss,
    PseudoViews,
    Surface,
    auxiliary_cameras,
    density_regulariser,
    difference_map,
    occluded_inversion,
    pseudo_views,
    rough_surface,
    warped_photo,
)
from lib.inversion.result import fingerprint
from lib.warping import sample_at, visible
from tests.analytic_head import AnalyticGenerator, AnalyticHead
from tests.tiny_generator import RandomFeatures, tiny_generator

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

PERCEPTUAL = RandomFeatures()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------- a head that rays meet in closed form
SIDE = 64
BALLS = {
    "skull": ((0.02, -0.02, 0.0), 0.22),
    "nose": ((0.02, -0.02, 0.22), 0.07),
    "ear": ((0.23, -0.01, 0.0), 0.06),
}
PHOTOS = {"front": orbit(0.05, 0.0), "turned": orbit(0.6, -0.1)}
GEOMETRIES = ["marching_cubes", "depth"]


def first_hit(origins: Tensor, directions: Tensor) -> Tensor:
    """Distance [..., N] along unit rays to the nearest ball; infinite where they pass by. In double precision."""
    distances = []
    for centre, radius in BALLS.values():
        away = origins.double() - torch.tensor(centre, dtype=torch.float64)
        along = (away * directions).sum(dim=-1)
        inside = (radius**2 - away.square().sum(dim=-1) + along.square()).sqrt()  # NaN for rays that pass by
        distances.append((-along - inside).nan_to_num(math.inf))
    return torch.stack(distances).amin(dim=0)


def places(camera: Camera, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Where the pixels' rays meet the balls, [B, 3, R, R] (0 beside them), and how far along, [B, 1, R, R]."""
    origins, directions = camera.to(dtype=torch.float64).rays(side)
    distance = first_hit(origins, directions)
    points = torch.where(distance[..., None].isfinite(), origins + directions * distance[..., None], 0.0)
    as_maps = lambda x: x.transpose(1, 2).unflatten(2, (side, side)).float()  # noqa: E731
    return as_maps(points), as_maps(distance[..., None])


def met(camera: Camera) -> Tensor:
    return places(camera)[1].isfinite()


def seen_from(source: Camera, camera: Camera) -> Tensor:
    """Which pixels of `camera` show what a ray from `source` meets first, bool [B, 1, R, R]: marched, not warped."""
    points, depth = places(camera)
    towards = points.flatten(2).transpose(1, 2).double() - source.position.double()
    distance = towards.norm(dim=-1)
    free = (
        first_hit(source.position.double().expand_as(towards), F.normalize(towards, dim=-1)) > distance - 1e-3
    )
    return depth.isfinite() & free.unflatten(1, (1, SIDE, SIDE))


def facing(source: Camera, camera: Camera) -> Tensor:
    """Cosine [B, 1, R, R] between the normal of what each pixel of `camera` shows and the direction to `source`."""
    points = places(camera)[0]
    centres, radii = zip(*BALLS.values(), strict=True)
    outward = points[:, None] - torch.tensor(centres)[None, :, :, None, None]
    nearest = (outward.norm(dim=2) - torch.tensor(radii)[:, None, None]).argmin(dim=1)
    normal = outward.take_along_dim(nearest[:, None, None], dim=1)[:, 0]
    towards = source.position[..., None, None] - points
    return F.cosine_similarity(normal, towards, dim=1)[:, None]


def on_ball(name: str, direction: tuple[float, float, float]) -> Tensor:
    """A point [3] of a ball's surface."""
    centre, radius = BALLS[name]
    return torch.tensor(centre) + radius * F.normalize(torch.tensor(direction), dim=0)


def near(points: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Which of the points [B, 3, R, R] lie in a ball, bool [B, 1, R, R]."""
    return (points - centre[:, None, None]).norm(dim=1, keepdim=True) < radius


@dataclass(frozen=True)
class Sculpture(AnalyticGenerator):
    """The balls, all at once where they meet; colours are places."""

    def inside(self, points: Tensor) -> Tensor:
        return torch.stack(
            [r - (points - points.new_tensor(c)).norm(dim=-1) for c, r in BALLS.values()]
        ).amax(0)

    def render(self, planes, w_plus, camera, neural_resolution=None, settings=None, **_) -> Rendering:
        _, depth = places(camera, neural_resolution or SIDE)
        image = 3 * places(camera)[0]
        return Rendering(image, image, depth.nan_to_num(posinf=math.nan), image, depth.isfinite().float())


@dataclass(frozen=True)
class Negative(AnalyticHead):
    """The balls in opposite colours, brighter than a picture can be."""

    def render(self, camera: Camera, **_) -> Rendering:
        seen = self.generator.render(None, None, camera)
        return seen._replace(image=-2 * seen.image)


SCULPTURE = Sculpture(config=EG3DConfig.embedded(SIDE))
HEAD, NEGATIVE = AnalyticHead(SCULPTURE), Negative(SCULPTURE)
AROUND = auxiliary_cameras(SCULPTURE, 6)
GRID = 64
PIXEL = 2.5 / (SCULPTURE.config.camera_focal * SIDE)
"""World units of a pixel at the face."""


@pytest.fixture(scope="module")
def surfaces():
    """The rough surface of the balls by geometry and photo, made once."""
    return {
        (geometry, place): rough_surface(HEAD, camera, geometry, grid=GRID)
        for geometry in GEOMETRIES
        for place, camera in PHOTOS.items()
    }


@pytest.mark.parametrize("place", PHOTOS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_warp_shows_what_the_photo_saw_and_nothing_else(surfaces, geometry, place):
    """M_v against marched rays: it differs along its edges only, whose triangles have corners on both sides.

    What the photo sees at a slant is left out.
    """
    camera = PHOTOS[place]
    _, seen, covered = warped_photo(torch.zeros(1, 3, SIDE, SIDE), camera, surfaces[geometry, place], AROUND)
    truth = seen_from(camera, AROUND)
    slanted = facing(camera, AROUND) < 0.5  # the limit, and what a triangle of a coarse mesh is off
    surely, surely_not = eroded(truth & ~slanted, 2), eroded(~truth, 2)
    assert (surely.sum(dim=(1, 2, 3)) > 200).all()
    assert seen[surely].float().mean() > 0.995
    assert not seen[surely_not].any()
    assert not (seen & ~covered).any()
    assert place == "front" or eroded(met(AROUND) & ~truth, 2).sum() > 200, "or else nothing is hidden"
    if geometry == "marching_cubes":
        assert covered[eroded(met(AROUND), 2)].all() and not covered[eroded(~met(AROUND), 2)].any()


def test_what_the_photo_sees_at_a_slant_does_not_count_as_seen():
    """A limit on the cosine of 0.4 leaves out what turns away more, with a margin of a coarse triangle; 0 nothing."""
    camera = PHOTOS["turned"]
    photo, cosine = torch.zeros(1, 3, SIDE, SIDE), facing(camera, AROUND)
    counted = {
        limit: warped_photo(photo, camera, rough_surface(HEAD, camera, grid=GRID, least_slant=limit), AROUND)[
            1
        ]
        for limit in (0.0, 0.4)
    }
    slanted = seen_from(camera, AROUND) & (cosine > 0.1) & (cosine < 0.3)
    assert slanted.sum() > 200
    assert counted[0.0][slanted].float().mean() > 0.8 and counted[0.4][slanted].float().mean() < 0.02
    assert not (counted[0.4] & ~counted[0.0]).any()


def test_a_triangle_is_visible_where_all_its_corners_are():
    """Two triangles of a square across the axis; the photo sees three of its corners."""
    corners = torch.tensor([[-0.2, -0.2, 0.0], [0.2, -0.2, 0.0], [-0.2, 0.2, 0.0], [0.2, 0.2, 0.0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    surface = Surface(corners, faces, torch.tensor([True, True, True, False]))
    camera = orbit(0.0, 0.0)
    _, seen, covered = warped_photo(torch.zeros(1, 3, SIDE, SIDE), camera, surface, camera)
    x, y = camera.rays(SIDE)[1][0, :, :2].T.reshape(2, 1, 1, SIDE, SIDE)
    assert covered.sum() > 1000
    assert torch.equal(seen, covered & (x + y <= 0))


@pytest.mark.parametrize("place", PHOTOS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_colours_arrive_where_they_belong(surfaces, geometry, place):
    """Colours of the photo are places, so what a pseudo view shows says where it should be seen.

    Not where the photo sees the surface edge-on or beside another one: its pixels mix colours there.
    """
    camera = PHOTOS[place]
    image, seen, _ = warped_photo(3 * places(camera)[0], camera, surfaces[geometry, place], AROUND)
    assert (image[~seen.expand_as(image)] == 0).all()
    off = (image / 3 - places(AROUND)[0]).norm(dim=1, keepdim=True) / PIXEL
    clear = eroded(seen_from(camera, AROUND) & (facing(camera, AROUND) > 0.4), 2) & seen
    assert clear.float().mean() > 0.3 * met(AROUND).float().mean()
    assert off[clear].median() < 0.1 and off[clear].quantile(0.99) < 1


SPOTS = (
    on_ball("skull", (0.15, 0.7, 0.8)),
    on_ball("skull", (0.5, -0.5, 0.8)),
    on_ball("skull", (0.7, 0.3, 0.8)),
)


@pytest.mark.parametrize("place", PHOTOS)
def test_what_is_painted_on_the_visible_side_is_in_its_place_in_every_view(surfaces, place):
    """Forehead red, cheek green, temple blue, against the projections of their middles."""
    camera = PHOTOS[place]
    painted = lambda points: torch.cat([near(points, spot, 0.03) for spot in SPOTS], dim=1).float()  # noqa: E731
    photo, truth = painted(places(camera)[0]), painted(places(AROUND)[0])
    image, _, _ = warped_photo(photo, camera, surfaces["marching_cubes", place], AROUND)
    rows, columns = torch.meshgrid(*2 * [torch.arange(SIDE) + 0.5], indexing="ij")
    found = torch.stack(
        [(image * axis).sum(dim=(2, 3)) / image.sum(dim=(2, 3)) for axis in (columns, rows)], -1
    )
    expected = AROUND.project(torch.stack(SPOTS).expand(len(AROUND), -1, -1))[0] * SIDE
    assert truth.sum(dim=(2, 3)).min() > 10
    assert (image.sum(dim=(2, 3)) > 0.8 * truth.sum(dim=(2, 3))).all()
    assert (found - expected).norm(dim=-1).max() < 0.6
    assert (expected[0] - expected[len(AROUND) // 2]).norm(dim=-1).min() > 4, (
        "or else standing still would do"
    )


def test_what_is_painted_on_the_hidden_side_is_in_no_view(surfaces):
    """The far cheek, which the photo does not show, stays open: nothing that the photo shows is drawn there."""
    camera, spot = PHOTOS["turned"], on_ball("skull", (-1.0, 0.0, 0.35))
    assert not near(places(camera)[0], spot, 0.06).any()
    where = eroded(near(places(AROUND)[0], spot, 0.06), 1)
    assert where.sum() > 50
    for geometry in GEOMETRIES:
        image, seen, _ = warped_photo(
            torch.ones(1, 3, SIDE, SIDE), camera, surfaces[geometry, "turned"], AROUND
        )
        assert not seen[where].any() and (image[where.expand_as(image)] == 0).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_hides_does_not_stain_what_it_hides(surfaces, geometry):
    """A red nose before a grey cheek: projected alone, the photo paints the cheek behind it red."""
    camera = PHOTOS["turned"]
    nose = lambda camera: near(places(camera)[0], torch.tensor(BALLS["nose"][0]), BALLS["nose"][1] + 1e-3)  # noqa: E731
    red = nose(camera).float().expand(-1, 3, -1, -1)
    image, _, _ = warped_photo(red, camera, surfaces[geometry, "turned"], AROUND)
    truth = seen_from(camera, AROUND)
    not_nose = eroded(~nose(AROUND) & truth, 2) | eroded(~nose(AROUND) & ~truth, 2)
    assert image[not_nose.expand_as(image)].max() == 0
    points = places(AROUND)[0].flatten(2).transpose(1, 2)
    careless = sample_at(red.expand(len(AROUND), -1, -1, -1), camera.expand(len(AROUND)).project(points)[0])
    assert (careless[:, :1][not_nose & met(AROUND)] > 0.9).sum() > 50


def test_a_depth_mesh_that_spans_its_jumps_claims_what_is_hidden():
    """As the released code's does; `least_slant` is what leaves the triangles out."""
    camera, photo = PHOTOS["turned"], torch.zeros(1, 3, SIDE, SIDE)
    hidden = eroded(met(AROUND) & ~seen_from(camera, AROUND), 2)
    claimed = {}
    for least_slant in (0.0, 0.1):
        surface = rough_surface(HEAD, camera, "depth", least_slant=least_slant)
        claimed[least_slant] = (warped_photo(photo, camera, surface, AROUND)[1] & hidden).sum().item()
    assert claimed[0.1] == 0 and claimed[0.0] > 30


def test_true_depth_of_a_parametric_head_shows_what_its_photo_saw():
    """A head of the `heads` scenes, its depth and places traced by Mitsuba, through the mesh of its depth."""
    pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install -e '.[heads]'")
    from lib.datasets import heads, makehuman
    from lib.datasets.path_tracing import ColouredMesh, PathTracer

    vertices = heads.nominal_placement(heads.random_shape(np.random.default_rng(0)))
    tracer = PathTracer(
        ColouredMesh(vertices, makehuman.fine_triangles(), np.full_like(vertices, 0.5)), np.ones((2, 4, 3))
    )

    def traced(camera: Camera, side: int) -> tuple[Tensor, Tensor]:
        """Places [1, 3, R, R], NaN off the head, and depth [1, 1, R, R]."""
        depth = tracer.surface(camera, side)[0]
        origins, directions = (x.transpose(1, 2).unflatten(2, (side, side)) for x in camera.rays(side))
        return origins + directions * depth, depth

    class Traced(AnalyticHead):
        def render(self, camera: Camera, neural_resolution: int = SIDE, **_) -> Rendering:
            points, depth = traced(camera, neural_resolution)
            return Rendering(points, points, depth, points, depth.isfinite().float())

    camera, other, side = orbit(0.4, 0.0), orbit(-0.2, 0.15), 128
    surface = rough_surface(Traced(SCULPTURE), camera, "depth", least_slant=0.1)
    image, seen, _ = warped_photo(traced(camera, side)[0].nan_to_num(), camera, surface, other)
    points, _ = traced(other, side)
    uv, _ = camera.project(points.flatten(2).transpose(1, 2))
    distance = (points - camera.position[..., None, None]).norm(dim=1).flatten(1)
    truth = visible(uv.nan_to_num(-1.0), distance, traced(camera, 512)[1], tolerance=0.005)
    assert seen[eroded(truth, 2)].float().mean() > 0.99
    assert seen[eroded(~truth, 2)].float().mean() < 0.01
    off = (image - points).norm(dim=1, keepdim=True)[eroded(seen & truth, 2)] / (PIXEL * SIDE / side)
    assert off.median() < 0.1 and off.quantile(0.95) < 1


# -------------------------------------------------------------------- pseudo views
@pytest.fixture(scope="module")
def parts():
    """Pseudo views of the balls seen from one side, hidden parts in other colours."""
    photo = 3 * places(PHOTOS["turned"])[0]

    def make(hidden=NEGATIVE, cameras: Camera = AROUND[[0, 4]], **settings) -> PseudoViews:
        return pseudo_views(photo, PHOTOS["turned"], cameras, HEAD, hidden, **{"grid": 32} | settings)

    return make


@pytest.fixture(scope="module")
def plain_parts(parts) -> PseudoViews:
    return parts()


def test_pseudo_views_are_warp_and_generator_along_a_soft_mask(plain_parts):
    v = plain_parts
    assert torch.equal(v.occluded, (-6 * places(v.camera)[0]).clamp(-1, 1))
    assert torch.equal(v.visible_mask, softened(eroded(v.seen, 1), 10 / 512 * SIDE))
    assert torch.equal(v.occluded_mask, 1 - v.visible_mask)
    assert torch.allclose(v.blended, v.visible_mask * v.visible + v.occluded_mask * v.occluded, atol=1e-6)
    inside, outside = (mask.expand_as(v.blended) for mask in (v.visible_mask == 1, v.visible_mask == 0))
    assert torch.equal(v.blended[inside], v.visible[inside]) and inside.float().mean() > 0.05
    assert torch.equal(v.blended[outside], v.occluded[outside]) and outside.float().mean() > 0.1
    assert (v.visible_mask[~v.seen] == 0).all()
    assert len(v) == 2


def test_from_its_own_camera_the_photo_is_itself(parts):
    camera = PHOTOS["turned"]
    v = parts(cameras=camera)
    photo = 3 * places(camera)[0]
    assert v.seen[eroded(met(camera) & (facing(camera, camera) > 0.5), 2)].float().mean() > 0.95
    assert torch.allclose(v.visible, photo * v.seen, atol=1e-3)


def test_masks_shrink_by_their_settings(parts, plain_parts):
    seen = plain_parts.seen
    hard = parts(softness=0.0, erosion=0)
    assert torch.equal(hard.visible_mask, seen.float())
    assert torch.equal(parts(softness=0.0, erosion=3).visible_mask, eroded(seen, 3).float())
    outline = parts(softness=0.0, erosion=0, outline=4 / SIDE).visible_mask > 0
    assert torch.equal(outline, seen & eroded(met_by_mesh(hard), 4)) and outline.sum() < seen.sum()
    edge = lambda v: ((v.visible_mask > 0) & (v.visible_mask < 1)).sum()  # noqa: E731
    assert edge(hard) == 0 < edge(plain_parts) < edge(parts(softness=4 / SIDE))


def met_by_mesh(views: PseudoViews) -> Tensor:
    surface = rough_surface(HEAD, PHOTOS["turned"], grid=32)
    return warped_photo(views.visible[:1], PHOTOS["turned"], surface, views.camera)[2]


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"fill": "interpolated"}, {"occluded", "blended"}),
        ({"fill": "inpainted"}, {"occluded", "blended"}),
        ({"texture": "generated"}, {"visible", "blended"}),
        ({"blending": "poisson"}, {"visible_mask", "blended"}),
        ({"softness": 0.0}, {"visible_mask", "blended"}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_ablation_changes_what_it_says_and_nothing_else(parts, plain_parts, settings, changed):
    found = parts(cameras=plain_parts.camera[0], **settings)
    names = ("seen", "visible", "visible_mask", "occluded", "blended")
    pairs = {name: (getattr(found, name), getattr(plain_parts, name)[:1]) for name in names}
    assert {name for name, (a, b) in pairs.items() if (a.float() - b.float()).abs().max() > 1e-4} == changed


def test_ablations_take_their_colours_from_where_they_say(parts, plain_parts):
    camera = plain_parts.camera[0]
    generated = plain_parts.occluded[:1]
    assert torch.allclose(parts(cameras=camera, texture="generated").blended, generated, atol=1e-6)
    poisson = parts(cameras=camera, blending="poisson")
    certain = poisson.visible_mask.bool().expand_as(poisson.blended)
    assert torch.equal(certain[:, :1], eroded(poisson.seen, 1))
    assert torch.equal(poisson.blended[certain], poisson.visible[certain])
    assert not torch.allclose(poisson.blended[~certain], poisson.occluded[~certain], atol=0.05)
    for fill in ("interpolated", "inpainted"):
        found = parts(hidden=None, cameras=camera, fill=fill)  # which asks the hidden head for nothing
        assert torch.equal(found.occluded[certain], found.visible[certain])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"geometry": "voxels"}, "marching_cubes or depth; got 'voxels'"),
        ({"blending": "laplace"}, "gaussian or poisson; got 'laplace'"),
        ({"texture": "warped"}, "photo or generated; got 'warped'"),
        ({"fill": "zero"}, "generated or interpolated or inpainted; got 'zero'"),
    ],
)
def test_pseudo_views_of_no_such_kind_are_refused(parts, settings, message):
    with pytest.raises(ValueError, match=message):
        parts(**settings)


# -------------------------------------------------------------------- auxiliary cameras
def test_auxiliary_cameras_stand_evenly_on_a_closed_ellipse():
    cameras = auxiliary_cameras(SCULPTURE)
    assert len(cameras) == 30
    yaw, pitch = cameras.yaw / 0.35, cameras.pitch / 0.25
    assert torch.allclose(yaw.square() + pitch.square(), torch.ones(30), atol=1e-4)
    assert yaw.max() > 0.99 and yaw.min() < -0.99 and pitch.max() > 0.99 and pitch.min() < -0.99
    angle = torch.atan2(yaw, pitch)
    steps = (angle.roll(-1) - angle).remainder(2 * math.pi)  # the last step leads back to the first camera
    assert torch.allclose(steps, torch.full((30,), 2 * math.pi / 30), atol=1e-3)
    assert torch.allclose(cameras.position.norm(dim=1), torch.tensor(2.7), atol=1e-5)


def test_auxiliary_cameras_reach_as_far_as_they_are_told():
    cameras = auxiliary_cameras(SCULPTURE, 4, yaw_range=0.6, pitch_range=0.1)
    assert cameras.yaw.tolist() == pytest.approx([0, 0.6, 0, -0.6], abs=1e-5)
    assert cameras.pitch.tolist() == pytest.approx([0.1, 0, -0.1, 0], abs=1e-5)


# -------------------------------------------------------------------- eq. 3
def test_difference_map_is_one_where_colours_are_near():
    """||(0.3, 0, 0.4)|| = 0.5, over the channels and not over a picture or a channel alone."""
    photo = torch.zeros(2, 3, 1, 4)
    rendered = photo.clone()
    rendered[0, :, 0, 1] = torch.tensor([0.3, 0.0, -0.4])
    rendered[0, :, 0, 2] = torch.tensor([0.3, 0.3, 0.3])
    rendered[1, 1, 0, 3] = -1.9
    assert difference_map(photo, rendered, 0.49).tolist() == [[[[1, 0, 0, 1]]], [[[1, 1, 1, 0]]]]
    assert difference_map(photo, rendered, 0.51).tolist() == [[[[1, 1, 0, 1]]], [[[1, 1, 1, 0]]]]
    assert difference_map(rendered, photo, 0.53).tolist() == [[[[1, 1, 1, 1]]], [[[1, 1, 1, 0]]]]
    assert difference_map(photo, photo, 0.0).min() == 1, "equal colours are explained whatever theta is"
    assert difference_map(photo, rendered, math.inf).min() == 1


VIEW = orbit(0.45, 0.1)


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def code(generator) -> Tensor:
    return generator.map(torch.randn(1, 16, generator=rng(1)), VIEW)


@pytest.fixture(scope="module")
def target(generator, code) -> Tensor:
    """A head of the generator with a mark that no head of it has."""
    picture = generator.synthesize(code, VIEW).image.clamp(-1, 1)
    picture[..., 6:9, 6:9] = torch.tensor([0.9, -0.9, 0.9])[:, None, None]
    return picture


@pytest.fixture(scope="module")
def explained(target) -> Tensor:
    """D: all but the mark."""
    known = torch.ones(1, 1, 16, 16)
    known[..., 5:10, 5:10] = 0
    return known


LATENTS = {"space": "wplus", "statistics_samples": 50, "progress": False}
"""Of `project`."""


def test_equation_3_is_of_what_is_explained_alone(monkeypatch, generator, code, target, explained):
    """Its value by hand, and no gradient from other pixels."""
    monkeypatch.setattr(hfgi3d, "project", lambda *_, objective, **__: objective)
    objective = occluded_inversion(generator, target, VIEW, explained, perceptual=PERCEPTUAL)
    found = objective(generator, (code + 0.1).requires_grad_(), 0)
    image = generator.synthesize(code + 0.1, VIEW).image
    l2 = ((image - target) * explained).square().mean()
    lpips = PERCEPTUAL(image * explained, target * explained)
    assert found.total.item() == pytest.approx((l2 + lpips).item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(found.total.sum(), found.image)
    differs = gradient.abs().sum(dim=1, keepdim=True) > 0
    assert torch.equal(differs, explained.bool())


def test_what_is_not_explained_does_not_matter(generator, target, explained):
    """Other colours where D is 0 give the same z_o to the bit; where it is 1, another."""

    def found(picture: Tensor) -> Tensor:
        settings = LATENTS | {"steps": 3, "perceptual": PERCEPTUAL}
        return occluded_inversion(generator, picture, VIEW, explained, **settings).w_plus

    other, elsewhere = target.clone(), target.clone()
    other[..., 6, 6], elsewhere[..., 2, 2] = -1, -1
    assert torch.equal(found(other), found(target))
    assert not torch.equal(found(elsewhere), found(target))


def test_a_photo_that_is_explained_is_inverted_whole(generator, target):
    settings = LATENTS | {"steps": 3, "perceptual": PERCEPTUAL}
    whole = occluded_inversion(generator, target, VIEW, torch.ones(1, 1, 16, 16), **settings)
    plain = project(generator, target, VIEW, **settings)
    assert torch.equal(whole.w_plus, plain.w_plus) and whole.history == plain.history


# -------------------------------------------------------------------- eq. 5 and eq. 2
class DoubleFeatures(RandomFeatures):
    def __init__(self):
        super().__init__()
        self.kernel = self.kernel.double()


def any_views(mask: Tensor, dtype: torch.dtype = torch.float32) -> PseudoViews:
    """Three pseudo views of random colours with this mask [3, 1, R, R] of what is visible."""
    side = mask.shape[-1]
    photo, made = (torch.rand(2, 3, 3, side, side, generator=rng(1), dtype=dtype) * 2 - 1).unbind(0)
    mask = mask.to(dtype)
    return PseudoViews(AROUND[:3], mask > 0, photo, mask, made, mask * photo + (1 - mask) * made)


SOFT = torch.rand(3, 1, 6, 6, generator=rng(2))
HARD = (SOFT > 0.5).float()
RENDERED = torch.rand(1, 3, 6, 6, generator=rng(3)) * 2 - 1


def loss_of(views: PseudoViews, objective: str = "masked", lam_l2=1.0, lam_lpips=1.0, rendered=RENDERED, i=1):
    perceptual = DoubleFeatures() if rendered.dtype == torch.float64 else PERCEPTUAL
    return PseudoViewLoss(views, objective, perceptual, lam_l2, lam_lpips)(rendered, i)


def test_equation_5_by_hand():
    """Both masks on both pictures, a term for each."""
    v, i = any_views(SOFT), 2
    m = SOFT[i]
    pairs = [((1 - m) * RENDERED, (1 - m) * v.occluded[i]), (m * RENDERED, m * v.visible[i])]
    l2 = sum((a - b).square().mean() for a, b in pairs).item()
    lpips = sum(PERCEPTUAL(a, b[None]) for a, b in pairs).item()
    terms, total = loss_of(v, lam_l2=0.7, lam_lpips=1.3, i=i)
    assert set(terms) == {"l2", "lpips"} and total.shape == terms["l2"].shape == terms["lpips"].shape == (1,)
    assert terms["l2"].item() == pytest.approx(l2, rel=1e-5)
    assert terms["lpips"].item() == pytest.approx(lpips, rel=1e-5)
    assert total.item() == pytest.approx(0.7 * l2 + 1.3 * lpips, rel=1e-5)


def test_equation_2_by_hand():
    """The whole view against the blended one."""
    v, i = any_views(SOFT), 0
    l2, lpips = (RENDERED - v.blended[i]).square().mean().item(), PERCEPTUAL(RENDERED, v.blended[:1]).item()
    terms, total = loss_of(v, "blended", lam_l2=0.7, lam_lpips=1.3, i=i)
    assert terms["l2"].item() == pytest.approx(l2, rel=1e-5)
    assert terms["lpips"].item() == pytest.approx(lpips, rel=1e-5)
    assert total.item() == pytest.approx(0.7 * l2 + 1.3 * lpips, rel=1e-5)


def test_each_view_is_compared_with_its_own_parts():
    views = any_views(SOFT)
    for objective in ("masked", "blended"):
        totals = [loss_of(views, objective, i=i)[1].item() for i in range(3)]
        assert len(set(totals)) == 3
        alone = replace(
            views,
            camera=views.camera[2],
            **{
                name: getattr(views, name)[2:]
                for name in ("seen", "visible", "visible_mask", "occluded", "blended")
            },
        )
        assert loss_of(alone, objective, i=0)[1].item() == pytest.approx(totals[2], rel=1e-6)


def test_hard_masks_make_equations_5_and_2_agree_in_l2_but_not_in_lpips():
    """The pixels are the same; a window of LPIPS across the seam sees both parts at once in eq. 2 alone."""
    hard, soft = any_views(HARD), any_views(SOFT)
    (five, _), (two, _) = (loss_of(hard, objective) for objective in ("masked", "blended"))
    assert five["l2"].item() == pytest.approx(two["l2"].item(), rel=1e-5)
    assert five["lpips"].item() != pytest.approx(two["lpips"].item(), rel=1e-2)
    (five, _), (two, _) = (loss_of(soft, objective) for objective in ("masked", "blended"))
    assert five["l2"].item() != pytest.approx(two["l2"].item(), rel=1e-2)


def test_a_part_counts_where_its_mask_is():
    """Colours of V_i outside M_v and of O_i inside it are nobody's, in either objective."""
    views = any_views(HARD)
    noise = torch.randn(views.visible.shape, generator=rng(4))
    hidden, shown = 1 - HARD, HARD
    for objective in ("masked", "blended"):
        before = loss_of(views, objective)[1]
        other = replace(
            views, visible=views.visible + noise * hidden, occluded=views.occluded + noise * shown
        )
        assert torch.equal(loss_of(other, objective)[1], before)
    for name, mask in (("visible", shown), ("occluded", hidden)):
        other = replace(views, **{name: getattr(views, name) + noise * mask})
        assert not torch.equal(loss_of(other)[1], loss_of(views)[1])


def test_gradient_of_equation_5_in_closed_form():
    """L2: 2 (M_o^2 (G - O_i) + M_v^2 (G - V_i)) over the number of values; none from a part with mask 0."""
    mask = SOFT.clone()
    mask[..., :2, :], mask[..., 2:4, :] = 0, 1
    v, i = any_views(mask), 1
    rendered = RENDERED.clone().requires_grad_()
    _, total = loss_of(v, lam_lpips=0.0, rendered=rendered, i=i)
    (gradient,) = torch.autograd.grad(total.sum(), rendered)
    m = mask[i]
    expected = (
        2 * ((1 - m) ** 2 * (RENDERED - v.occluded[i]) + m**2 * (RENDERED - v.visible[i])) / RENDERED.numel()
    )
    assert torch.allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("objective", ["masked", "blended"])
def test_gradient_of_the_pseudo_views_by_finite_differences(objective):
    views = any_views(SOFT, torch.float64)
    rendered = RENDERED.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image: loss_of(views, objective, 0.8, 1.2, image)[1], (rendered,), eps=1e-7, atol=1e-6
    )


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="masked or blended; got 'both'"):
        loss_of(any_views(HARD), "both")


# -------------------------------------------------------------------- appendix D
def test_density_regulariser_is_the_mean_difference_from_the_early_head(generator, code):
    """None for the generator as it was; of a density that is 0.3 more everywhere, 0.3."""
    head = Inversion(code, generator, VIEW).still()
    moved = tiny_generator()
    assert density_regulariser(moved.planes(code), moved, head, 100, rng()).item() == 0
    bias = moved.decoder.net[2].bias
    bias[0] += 0.3 / moved.decoder.net[2].bias_gain
    bias.requires_grad_()
    found = density_regulariser(moved.planes(code), moved, head, 100, rng())
    assert found.shape == (1,) and found.item() == pytest.approx(0.3, rel=1e-3)
    (gradient,) = torch.autograd.grad(found.sum(), bias)
    assert gradient[0] > 0 and (gradient[1:] == 0).all(), "it pulls densities down that are too large"


def test_density_is_compared_all_over_the_cube(generator, code):
    asked = []

    class Asked:
        def density(self, points: Tensor) -> Tensor:
            asked.append(points)
            return torch.zeros(points.shape[:2])

    for seed in (0, 0, 1):
        density_regulariser(generator.planes(code), generator, Asked(), 500, rng(seed))
    half = generator.config.rendering.box_warp / 2
    assert asked[0].shape == (1, 500, 3) and asked[0].abs().max() <= half
    assert asked[0].amin() < -0.98 * half and asked[0].amax() > 0.98 * half
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])


# -------------------------------------------------------------------- the method
@pytest.fixture(scope="module")
def invert(generator, target, code):
    """HFGI3D in a second, from a code near the right one."""

    def run(picture: Tensor = target, **changes) -> Inversion:
        settings = {
            "initial": code + 0.2,
            "theta": 0.5,
            "latent_steps": 2,
            "latent_settings": {"statistics_samples": 50},
            "views": 3,
            "view_settings": {"grid": 24},
            "steps": 3,
            "learning_rate": 3e-3,
            "perceptual": PERCEPTUAL,
            "progress": False,
        }
        return invert_hfgi3d(generator, picture, VIEW, **settings | changes)

    return run


@pytest.fixture(scope="module")
def whole(invert) -> Inversion:
    return invert()


def test_history_has_the_terms_of_all_stages(invert, whole):
    fit = {"loss", "l2", "lpips", "pseudo_l2", "pseudo_lpips"}
    assert {"occluded_loss", "occluded_l2", "occluded_lpips"} | fit <= set(whole.history)
    assert not any(name.startswith("latent_") for name in whole.history), "z_e was given"
    assert all(len(whole.history[name]) == 3 for name in fit) and len(whole.history["occluded_loss"]) == 2
    assert all(math.isfinite(value) for values in whole.history.values() for value in values)
    assert 0 < whole.extras["visible"] < 1 and 0 < whole.extras["explained"] < 1
    assert whole.extras["method"] == "hfgi3d" and whole.extras["steps_taken"] == 3
    assert not any(p.requires_grad or p.grad is not None for p in whole.generator.parameters())
    assert not whole.w_plus.requires_grad


def test_no_steps_give_the_early_stopped_code(invert, generator, target):
    found = invert(initial=None, steps=0)
    settings = LATENTS | {"steps": 2, "learning_rate": 5e-3, "perceptual": PERCEPTUAL}
    early = project(generator, target, VIEW, **settings)
    assert torch.equal(found.w_plus, early.w_plus) and found.generator is generator
    assert found.history == {f"latent_{name}": values for name, values in early.history.items()}


def test_a_code_or_an_inversion_stands_for_the_early_stopped_one(invert, code, generator):
    for initial in (code, Inversion(code, generator, VIEW)):
        assert torch.equal(invert(initial=initial, steps=0).w_plus, code)


WEIGHTS = {"lam_l2": 0.7, "lam_lpips": 1.3}
ELLIPSE = {"yaw_range": 0.3, "pitch_range": 0.15}


def expected_losses(generator, target, early: Inversion, hidden: Inversion, n: int, objective: str):
    """Of the photo, a number, and of each pseudo view, a list, at the first step: nothing has moved yet."""
    head, cameras = early.still(), auxiliary_cameras(generator, n, **ELLIPSE)
    views = pseudo_views(target, VIEW, cameras, head, hidden, grid=24)
    photo = head.render().image
    photo_loss = 0.7 * (photo - target).square().mean() + 1.3 * PERCEPTUAL(photo, target)
    loss = PseudoViewLoss(views, objective, PERCEPTUAL, **WEIGHTS)
    return photo_loss.item(), [loss(head.render(cameras[i]).image, i)[1].item() for i in range(n)]


@pytest.mark.parametrize(("objective", "alpha", "theta"), [("masked", 1.0, 0.5), ("blended", 0.3, None)])
def test_each_step_is_of_the_photo_and_one_view_drawn_at_random(
    invert, generator, target, code, objective, alpha, theta
):
    """Eq. 5 and eq. 2 at a rate of 0, so that all steps see the same head: every view comes up, none else."""
    early = hidden = Inversion(code + 0.2, generator, VIEW)
    if theta is not None:
        explained = difference_map(target, early.render().image, theta)
        settings = LATENTS | {"initial": early.w_plus, "steps": 2, "learning_rate": 5e-3}
        hidden = occluded_inversion(generator, target, VIEW, explained, perceptual=PERCEPTUAL, **settings)
    photo, pseudo = expected_losses(generator, target, early, hidden, 3, objective)
    settings = {"learning_rate": 0.0, "objective": objective, "alpha": alpha, "theta": theta}
    found = invert(steps=12, **settings, **WEIGHTS, **ELLIPSE).history
    drawn = Counter()
    for step in range(12):
        assert 0.7 * found["l2"][step] + 1.3 * found["lpips"][step] == pytest.approx(photo, rel=1e-4)
        loss = 0.7 * found["pseudo_l2"][step] + 1.3 * found["pseudo_lpips"][step]
        assert found["loss"][step] == pytest.approx(photo + alpha * loss, rel=1e-4)
        (i,) = [i for i, value in enumerate(pseudo) if loss == pytest.approx(value, rel=1e-4)]
        drawn[i] += 1
    assert set(drawn) == {0, 1, 2}
    assert ("occluded_loss" in found) == (theta is not None)


def test_the_code_of_what_is_hidden_is_sought_from_the_early_one_on(invert, generator, code, target):
    """At its first step, unshaken, eq. 3 of z_e by hand."""
    found = invert(theta=0.2, latent_settings={"statistics_samples": 50, "shake": 0.0}, steps=1)
    image = generator.synthesize(code + 0.2, VIEW).image
    known = (image - target).square().sum(dim=1, keepdim=True) <= 0.2**2
    assert found.extras["explained"] == pytest.approx(known.float().mean().item())
    assert 0.02 < known.float().mean() < 0.98
    expected = ((image - target) * known).square().mean().item()
    assert found.history["occluded_l2"][0] == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_result_and_leaves_all_else_alone(invert, whole, generator):
    before, state = fingerprint(generator.state_dict()), torch.get_rng_state()
    again, other = invert(), invert(seed=4, theta=None)
    assert again.history == whole.history and again.extras == whole.extras
    assert torch.equal(again.w_plus, whole.w_plus)
    assert fingerprint(again.generator.state_dict()) == fingerprint(whole.generator.state_dict())
    assert other.history["pseudo_l2"] != invert(seed=5, theta=None).history["pseudo_l2"]
    assert fingerprint(generator.state_dict()) == before != fingerprint(whole.generator.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_code_and_weights_move_together_or_weights_alone(invert, whole, generator, code):
    """Adam's steps have the length of its rate, in the code as in the weights."""
    still = invert(tune_latent=False, theta=None)
    assert torch.equal(still.w_plus, code + 0.2)
    moved = (whole.w_plus - (code + 0.2)).abs()
    assert moved.min() > 0 and moved.max() <= 3 * 3e-3 * 1.01
    for found in (whole, still):
        changed = [
            not torch.equal(now, then)
            for now, then in zip(found.generator.parameters(), generator.parameters(), strict=True)
        ]
        assert sum(changed) > len(changed) / 2


def test_without_pseudo_views_and_with_a_code_that_stands_still_it_is_pti(invert, generator, target, code):
    ours = invert(views=0, tune_latent=False)
    pti = invert_pti(
        generator,
        target,
        VIEW,
        initial=code + 0.2,
        steps=3,
        learning_rate=3e-3,
        perceptual=PERCEPTUAL,
        progress=False,
    )
    assert set(ours.history) == {"loss", "l2", "lpips"}
    for name, values in ours.history.items():
        assert values == pytest.approx(pti.history[name], rel=1e-4)
    assert torch.allclose(ours.render().image, pti.render().image, atol=1e-4)


def test_pseudo_views_of_no_weight_are_as_none(invert):
    """But for rounding, which a batch of two pictures does in another order than one."""
    none, weightless = invert(views=0), invert(alpha=0.0, theta=None)
    for name in ("loss", "l2", "lpips"):
        assert weightless.history[name] == pytest.approx(none.history[name], rel=1e-3)
    assert "pseudo_l2" in weightless.history and "pseudo_l2" not in none.history
    assert torch.allclose(weightless.render().image, none.render().image, atol=5e-3)


def test_densities_are_held_where_asked(invert, whole):
    found = invert(lam_density=1.0, density_points=64, theta=None)
    assert found.history["density"][0] == 0 < found.history["density"][-1]
    terms = [found.history[name] for name in ("l2", "lpips", "pseudo_l2", "pseudo_lpips", "density")]
    assert found.history["loss"] == pytest.approx([sum(step) for step in zip(*terms, strict=True)], rel=1e-4)
    assert "density" not in whole.history


def test_the_density_regulariser_keeps_the_geometry(invert, generator, code):
    """Appendix D, instead of pseudo views: densities all over the cube stay nearer to the early head's."""
    head = Inversion(code + 0.2, generator, VIEW).still()
    free, held = (invert(lam_density=lam, density_points=1000, views=0, steps=10) for lam in (0.0, 0.1))
    moved = [
        density_regulariser(found.planes(), found.generator, head, 2000, rng(5)).item()
        for found in (free, held)
    ]
    assert "density" not in free.history
    assert 0 < moved[1] < 0.5 * moved[0]


def test_early_tuning_is_for_geometry_and_hidden_parts_alone(invert, generator, code, target):
    """The fit begins at the generator as it came, as in the released code."""
    plain, tuned = (invert(early_tuning_steps=count, theta=None, steps=1) for count in (0, 3))
    assert len(tuned.history["tuned_lpips"]) == 3 and "tuned_lpips" not in plain.history
    assert tuned.history["l2"][0] == pytest.approx(plain.history["l2"][0], rel=1e-5)
    assert tuned.history["pseudo_l2"][0] != pytest.approx(plain.history["pseudo_l2"][0], rel=1e-2)


def test_the_settings_of_the_released_code_run(invert, code):
    found = invert(**dict(RELEASED) | {"latent_steps": 2, "early_tuning_steps": 2, "steps": 3})
    assert torch.equal(found.w_plus, code + 0.2), "its code stands still"
    assert not any(name.startswith("occluded_") for name in found.history)
    assert math.isfinite(found.history["loss"][-1])


class Killed(BaseException):
    """Like Ctrl-C, whatever a method does about errors."""


class Mortal(RandomFeatures):
    """A perceptual distance that kills its run after so many calls."""

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().__call__(image, other)


def test_a_killed_run_goes_on_and_ends_the_same(invert, tmp_path):
    """All four stages, killed in each of them: codes that move along, draws of views and all."""
    settings = {"initial": None, "early_tuning_steps": 3, "steps": 4}
    deaths = 0
    while deaths < 9:
        try:
            found = invert(perceptual=Mortal(5), checkpoints=Checkpoints(tmp_path, every=1), **settings)
            break
        except Killed:
            deaths += 1
    straight = invert(**settings)
    assert deaths >= 2
    assert found.history == straight.history and found.extras == straight.extras
    assert torch.equal(found.w_plus, straight.w_plus)
    assert fingerprint(found.generator.state_dict()) == fingerprint(straight.generator.state_dict())
    again = invert(perceptual=Mortal(0), checkpoints=Checkpoints(tmp_path), **settings)
    assert again.history == straight.history, "and is read when it is over"


def test_callback_sees_every_step_of_the_fit_and_can_look_from_the_side(invert, whole, target):
    seen = []

    def look(step, state):
        side = state.generator.synthesize(state.w_plus, orbit(-0.3, 0.0)).image
        seen.append((step, state.losses, state.w_plus.clone(), state.image, side.detach()))

    invert(callback=look)
    assert [step for step, *_ in seen] == [0, 1, 2]
    assert [losses["pseudo_l2"] for _, losses, *_ in seen] == whole.history["pseudo_l2"]
    (_, _, first, image, before), (_, _, last, _, after) = seen[0], seen[-1]
    assert image.shape == target.shape and not image.requires_grad
    assert not torch.equal(first, last) and not torch.equal(before, after)


@pytest.mark.parametrize("early", ["half_rays", "coarse"])
def test_early_steps_may_be_cheaper(invert, early):
    found = invert(early=early, early_until=0.5, theta=None, steps=2)
    plain = invert(theta=None, steps=2)
    assert found.history["l2"][0] != plain.history["l2"][0]
    assert found.history["pseudo_l2"][0] != plain.history["pseudo_l2"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_steps": 0}, "latent_steps must be 1 or more; got 0"),
        ({"density_points": 0}, "density_points must be 1 or more; got 0"),
        ({"steps": -1}, "steps must be 0 or more; got -1"),
        ({"views": -1}, "views must be 0 or more; got -1"),
        ({"early_tuning_steps": -2}, "early_tuning_steps must be 0 or more; got -2"),
        ({"alpha": -1.0}, "alpha must be 0 or more"),
        ({"lam_density": -1.0}, "lam_density must be 0 or more"),
        ({"theta": -0.1}, r"theta must be 0 or more; got -0\.1"),
        ({"theta": math.nan}, "nan"),
        ({"objective": "both"}, "masked or blended; got 'both'"),
        ({"view_settings": {"fill": "zero"}}, "got 'zero'"),
        ({"view_settings": {"grids": 24}}, "grids"),
        ({"early": "none"}, "got 'none'"),
        ({"space": "z"}, "w or wplus, not 'z'"),
    ],
)
def test_bad_settings_are_refused(invert, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        invert(**changes)


def test_bad_pictures_and_cameras_are_refused(invert, generator, target):
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\)"):
        invert(target[..., :8, :8])
    with pytest.raises(ValueError, match="one camera; got 2"):
        invert_hfgi3d(generator, target, Camera.cat([VIEW, VIEW]))


# -------------------------------------------------------------------- what it is for
def test_views_from_the_side_stay_what_they_should_be(invert, generator, target, code):
    """A photo with a mark, fitted for long: PTI forgets the other views, HFGI3D does not, and fits the photo too."""
    long = {"steps": 25, "learning_rate": 1e-2, "theta": None}
    with_views, without = invert(**long), invert(views=0, **long)
    head = Inversion(code + 0.2, generator, VIEW).still()
    views = pseudo_views(target, VIEW, auxiliary_cameras(generator, 3), head, head, grid=24)
    ours, pti = (
        (found.render(views.camera).image - views.blended).square().mean().item()
        for found in (with_views, without)
    )
    assert ours < 0.5 * pti
    assert with_views.history["l2"][-1] < 0.8 * with_views.history["l2"][0]


def test_a_head_of_the_generator_is_found_again(invert, generator, code):
    """By all steps, from the mean code on; from the side, where there is no photo, as well."""
    picture = generator.synthesize(code, VIEW).image.clamp(-1, 1)
    found = invert(picture, initial=None, latent_steps=30, latent_rate=0.05, steps=15)
    mean = Inversion(generator.w_mean.expand(1, generator.n_layers, -1), generator, VIEW)
    truth = Inversion(code, generator, VIEW)
    for camera, share in ((VIEW, 0.05), (orbit(-0.2, 0.0), 0.3)):
        expected = truth.render(camera).image
        off, far = ((head.render(camera).image - expected).square().mean().item() for head in (found, mean))
        assert off < share * far
