"""HFGI3D: 3D GAN inversion by pseudo-multi-view optimisation (Xie et al., 2023), in the order of the paper.

A generator that is fitted to one photo for long gets that view right and all others wrong. So it is fitted to pseudo
views, too: seen from a camera p_i, what the photo shows is warped there by the geometry of an early-stopped inversion,
and what it hides is made up by the generator itself.

    x, p_0      the photo and its camera              p_i        auxiliary cameras, i = 1 .. n
    z_e         the early-stopped code                z_o        the code of what the photo hides
    V_i, M_v    the photo warped to p_i, and where    O_i, M_o   what the generator makes up there, and where
    D           what of the photo z_e explains        v_i        the pseudo view: V_i and O_i blended

The paper's z are codes in W+: w_plus.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.blending import blend, eroded, inpainted, interpolated, poisson_blend, softened
from lib.cameras import Camera
from lib.generators import EG3D
from lib.inversion.assumptions import warn_of_assumptions
from lib.inversion.objective import checked_camera, checked_target, image_objective, latent_of, lpips_for
from lib.inversion.optimisation import (
    Callback,
    Checkpoints,
    Early,
    Terms,
    early_sampling,
    plain_settings,
    require_steps,
    tune,
)
from lib.inversion.projection import project
from lib.inversion.pti import invert_pti
from lib.inversion.result import Inversion, StillHead
from lib.losses import density_loss
from lib.meshes import extract_mesh, shape_view
from lib.perceptual import Perceptual
from lib.rasterisation import depth_mesh, interpolate, rasterise, visible_vertices
from lib.warping import sample_at

RELEASED = MappingProxyType(
    {
        "latent_steps": 500,
        "latent_rate": 0.01,
        "early_tuning_steps": 500,
        "theta": None,
        "steps": 1000,
        "tune_latent": False,
        "objective": "blended",
        "view_settings": {"geometry": "depth", "least_slant": 0.0, "outline": 25 / 512},
    }
)
"""Settings by which the released code differs from the paper: no difference map and no code of its own for what is
hidden, but the renders of an inversion by PTI; the blended views of eq. 2; the code stands still in the end. (It draws
points where we draw the triangles between them.)"""

SCALE = 512
"""Pixels across the paper's pictures: lengths in an image are its pixels over this."""

CHOICES = MappingProxyType(
    {
        "geometry": ("marching_cubes", "depth"),
        "blending": ("gaussian", "poisson"),
        "texture": ("photo", "generated"),
        "fill": ("generated", "interpolated", "inpainted"),
        "objective": ("masked", "blended"),
    }
)
"""What these settings can be."""


# ----------------------------------------------------------------------- 3.2.1: what the photo shows
@dataclass(frozen=True)
class Surface:
    """The surface of the early-stopped head: vertices [V, 3] in the world, faces [F, 3], which vertices p_0 sees [V]."""

    vertices: Tensor
    faces: Tensor
    seen: Tensor


def rough_surface(
    head: StillHead,
    camera: Camera,
    geometry: Literal["marching_cubes", "depth"] = "marching_cubes",
    *,
    grid: int = 128,
    least_slant: float = 0.4,
    tolerance: float = 1 / SCALE,
) -> Surface:
    """The mesh derived from z_e, and the visibility of each vertex by z-buffer (section 3.2.1, appendix A.1).

    marching_cubes: the level set of density on a grid of so many samples a side; it is the head without what lies
    behind. depth: the depth that p_0 sees, its pixels joined to triangles, as in the released code. tolerance: by which
    a vertex may lie behind the z-buffer, world units (released code: 1/512).

    least_slant: cosine by which the surface turns to p_0 at least, or it does not count as seen; of a depth map such
    triangles span a jump and are left out. The paper has no such limit. Without it colours from beside the head
    are smeared over cheeks: on development scenes the warped photo is off by three times the error of the
    generator's picture where the cosine is below 0.3, and as good as that from 0.4 on.
    """
    _require_choices(geometry=geometry)
    if geometry == "depth":
        vertices, faces = depth_mesh(camera, shape_view(head, camera).depth, least_slant)
        turned = torch.ones(len(vertices), dtype=torch.bool, device=camera.device)
    else:
        mesh = extract_mesh(head, grid, coloured=False)
        vertices, normals = (
            torch.tensor(x, dtype=torch.float32, device=camera.device)
            for x in (mesh.vertices, mesh.vertex_normals)
        )
        faces = torch.tensor(mesh.faces, dtype=torch.long, device=camera.device)
        to_camera = F.normalize(camera.position - vertices, dim=-1)
        turned = (normals * to_camera).sum(dim=-1) >= least_slant
    seen = visible_vertices(vertices, faces, camera, tolerance=tolerance)[0] & turned
    return Surface(vertices, faces, seen)


def warped_photo(
    photo: Tensor, camera: Camera, surface: Surface, cameras: Camera
) -> tuple[Tensor, Tensor, Tensor]:
    """V_i [n, 3, R, R], M_v and the outline of the mesh [n, 1, R, R], bool: the coloured mesh seen from p_i.

    The photo [1, 3, R, R] lends each point of the surface the colour that it has there in p_0, rather than one colour
    to each vertex, so that it stays as sharp on a coarse mesh. A pixel is visible where all corners of its triangle are.
    """
    n, side = len(cameras), photo.shape[-1]
    fragments = rasterise(surface.vertices, surface.faces, cameras, side)
    points = interpolate(fragments, surface.faces, surface.vertices).flatten(2).transpose(1, 2)
    seen = interpolate(fragments, surface.faces, surface.seen[:, None].to(photo)) > 0.999
    uv, _ = camera.expand(n).project(points)
    image = sample_at(photo.expand(n, -1, -1, -1), uv)
    return image * seen, seen, fragments.covered


# ----------------------------------------------------------------------- 3.2.2, eq. 3-4: what the photo hides
def difference_map(photo: Tensor, rendered: Tensor, theta: float) -> Tensor:
    """D [B, 1, R, R], eq. 3: 1 where ||x - G(z_e, p_0)||_2 <= theta, the norm over the channels, colours in [-1, 1]."""
    return ((photo - rendered).norm(dim=1, keepdim=True) <= theta).to(photo)


def occluded_inversion(
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    explained: Tensor,
    *,
    perceptual: Perceptual,
    lam_l2: float = 1.0,
    lam_lpips: float = 1.0,
    **settings: Any,
) -> Inversion:
    """z_o, eq. 3: minimises L(G(z, p) D, x D), so that texture which no head has does not spoil the other views.

    explained: D [1, 1, R, R]. The paper prints p_i for p; photo and D are known at p_0 alone. settings: of `project`,
    such as initial, where the search begins.
    """
    photo = image_objective(target * explained, perceptual, lam_l2, lam_lpips)

    def terms(working: EG3D, w_plus: Tensor, step: int) -> Terms:
        image = working.synthesize(w_plus, camera).image
        losses = photo.terms(image * explained)
        return Terms(image, losses, photo.total(losses))

    return project(generator, target, camera, objective=terms, **settings)


# ----------------------------------------------------------------------- pseudo views, figure 3 and appendix A.1
@dataclass(frozen=True)
class PseudoViews:
    """What takes the place of photos from n other cameras; pictures [n, 3, R, R], masks [n, 1, R, R].

    seen: what of the photo the warp brings, bool. visible_mask: M_v, seen less its edge, from 0 to 1; M_o is the rest.
    """

    camera: Camera
    seen: Tensor
    visible: Tensor
    visible_mask: Tensor
    occluded: Tensor
    blended: Tensor

    @property
    def occluded_mask(self) -> Tensor:
        """M_o = 1 - M_v."""
        return 1 - self.visible_mask

    def __len__(self) -> int:
        return len(self.camera)


def auxiliary_cameras(
    generator: EG3D, n: int = 30, yaw_range: float = 0.35, pitch_range: float = 0.25
) -> Camera:
    """p_1 .. p_n, evenly on an ellipse about the front; half its axes in radians.

    The paper says neither how many nor where; the released code has 30 on the path of its videos, yaw to 0.35 and
    pitch to 0.25.
    """
    around = torch.arange(n) * (2 * math.pi / n)
    return generator.camera(yaw_range * around.sin(), pitch_range * around.cos())


def pseudo_views(
    target: Tensor,
    camera: Camera,
    cameras: Camera,
    early: StillHead,
    hidden: StillHead,
    *,
    geometry: Literal["marching_cubes", "depth"] = "marching_cubes",
    grid: int = 128,
    least_slant: float = 0.4,
    tolerance: float = 1 / SCALE,
    erosion: int = 1,
    outline: float = 0.0,
    softness: float = 10 / SCALE,
    blending: Literal["gaussian", "poisson"] = "gaussian",
    texture: Literal["photo", "generated"] = "photo",
    fill: Literal["generated", "interpolated", "inpainted"] = "generated",
) -> PseudoViews:
    """v_i with all parts, from `cameras` p_i: the photo [1, 3, R, R] where the surface of the `early` head shows it,
    elsewhere the picture of the `hidden` head.

    The mask is less by `erosion` pixels, and the mesh's outline by a share `outline` of the picture; its edge is a ramp
    as wide as the share `softness`, or hard where the seam is solved for ("poisson", `lib.blending`). The ablations of
    figure 5: texture "generated" takes O_i where the photo could be seen, fill "interpolated" fills the hidden part
    from the colours beside it. fill "inpainted": each view by itself in 2D, which section 3.2 argues against. The
    others: see `rough_surface`.
    """
    _require_choices(blending=blending, texture=texture, fill=fill)
    side = target.shape[-1]
    surface = rough_surface(early, camera, geometry, grid=grid, least_slant=least_slant, tolerance=tolerance)
    visible, seen, covered = warped_photo(target, camera, surface, cameras)
    certain = eroded(seen, erosion) & eroded(covered, round(outline * side))
    if fill == "generated" or texture == "generated":
        generated = hidden.render(cameras).image.clamp(-1, 1)
    filled = {"interpolated": interpolated, "inpainted": inpainted}
    occluded = generated if fill == "generated" else filled[fill](visible, certain)
    visible = generated if texture == "generated" else visible
    if blending == "poisson":
        mask, blended = certain.to(target), poisson_blend(visible, occluded, certain)
    else:
        mask = softened(certain, softness * side)
        blended = blend(visible, occluded, mask)
    return PseudoViews(cameras, seen, visible, mask, occluded, blended)


VIEW_SETTINGS = tuple(
    name
    for name, parameter in inspect.signature(pseudo_views).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
"""What `invert_hfgi3d` can pass on to `pseudo_views`."""


# ----------------------------------------------------------------------- 3.2.3, eq. 5 and eq. 2: the fit
class PseudoViewLoss:
    """L_rec of a rendered view against a pseudo view: lam_l2 L2 + lam_lpips LPIPS.

    objective "masked": eq. 5, L_rec(M_o G, M_o O_i) + L_rec(M_v G, M_v V_i). "blended": eq. 2, L_rec(G, v_i). They
    differ at the seam, and in what of a picture LPIPS sees at once.
    """

    def __init__(
        self,
        views: PseudoViews,
        objective: Literal["masked", "blended"],
        perceptual: Perceptual,
        lam_l2: float,
        lam_lpips: float,
    ):
        _require_choices(objective=objective)
        if objective == "masked":
            self.masks = torch.stack([views.occluded_mask, views.visible_mask], dim=1)
            pictures = torch.stack([views.occluded, views.visible], dim=1)
        else:
            self.masks, pictures = torch.ones_like(views.visible_mask)[:, None], views.blended[:, None]
        self.compared = [
            image_objective(mask * picture, perceptual, lam_l2, lam_lpips)
            for mask, picture in zip(self.masks, pictures, strict=True)
        ]

    def __call__(self, rendered: Tensor, i: int) -> tuple[dict[str, Tensor], Tensor]:
        """Terms and their weighted sum, [1] each, of G(z, p_i) [1, 3, R, R]."""
        terms = self.compared[i].terms(self.masks[i] * rendered)
        terms = {name: values.sum(dim=0, keepdim=True) for name, values in terms.items()}
        return terms, self.compared[i].total(terms)


# ----------------------------------------------------------------------- appendix D: regularised density instead
def density_regulariser(
    planes: Tensor, tuned: EG3D, early: StillHead, points: int, rng: torch.Generator
) -> Tensor:
    """Mean absolute difference [1] of raw density from the early-stopped head's at random points of the cube.

    Appendix D: "the density of the current output is similar to the correct geometry", without a formula; ours.
    """
    side = tuned.config.rendering.box_warp
    where = (torch.rand(1, points, 3, generator=rng).to(planes) - 0.5) * side
    return density_loss(tuned.sample(planes, where)[0], early.density(where))


# ----------------------------------------------------------------------- the method
def invert_hfgi3d(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    masks: Any = None,
    landmarks: Any = None,
    initial: Tensor | Inversion | None = None,
    space: Literal["w", "wplus"] = "wplus",
    latent_steps: int = 1000,
    latent_rate: float = 5e-3,
    latent_settings: Mapping[str, Any] | None = None,
    theta: float | None = 0.15,
    early_tuning_steps: int = 0,
    views: int = 30,
    yaw_range: float = 0.35,
    pitch_range: float = 0.25,
    view_settings: Mapping[str, Any] | None = None,
    steps: int = 3000,
    learning_rate: float = 3e-4,
    tune_latent: bool = True,
    objective: Literal["masked", "blended"] = "masked",
    alpha: float = 1.0,
    lam_l2: float = 1.0,
    lam_lpips: float = 1.0,
    lam_density: float = 0.0,
    density_points: int = 4096,
    perceptual: Perceptual | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    early: Early = "full",
    early_until: float = 0.5,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Invert a photo so that other views keep what it shows: codes, their pseudo views, a fit to photo and these.

    initial: a code that stands for z_e. space, latent_rate: in which z_e and, from there, z_o are sought, for
    `latent_steps` each, and how fast (W+ in the released code; the fit is in W+ always); latent_settings: further
    settings of `project`. theta: see `difference_map`, not given in the paper; ours had the least errors in hidden
    pixels of development scenes. None takes z_e for z_o. early_tuning_steps: of PTI after z_e, of whose head are
    geometry and hidden parts then. views: how many pseudo views, perhaps none, from where: see `auxiliary_cameras`;
    view_settings: of `pseudo_views`. steps=0 leaves out the fit, and z_e is the result.

    The fit moves the generator, and the code with `tune_latent`, by eq. 5 or 2 (objective: see `PseudoViewLoss`), a
    pseudo view drawn at random in each step; alpha: their weight in eq. 2, 1 in eq. 5. lam_density: of the
    alternative of appendix D, see `density_regulariser`. RELEASED has the settings of the released code. masks,
    landmarks: only warned by; all methods take them. The other arguments are those of `project_batch`. In the
    history "latent_..." is the search for z_e, "occluded_..." that for z_o, "tuned_..." the early tuning;
    "pseudo_..." are the terms of the pseudo views.
    """
    about = plain_settings(locals())
    require_steps(latent_steps=latent_steps, density_points=density_points)
    counts = {"views": views, "early_tuning_steps": early_tuning_steps, "steps": steps}
    weights = {"theta": theta or 0.0, "alpha": alpha, "lam_density": lam_density}
    for name, value in (counts | weights).items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more; got {value}")
    view_settings = dict(view_settings or {})
    if unknown := view_settings.keys() - VIEW_SETTINGS:
        raise ValueError(
            f"view_settings has no {', '.join(sorted(unknown))}; it has {', '.join(VIEW_SETTINGS)}"
        )
    chosen = {"objective": objective} | {
        name: view_settings[name] for name in CHOICES if name in view_settings
    }
    _require_choices(**chosen)
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    warn_of_assumptions(target, camera, landmarks=landmarks, masks=masks)
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    history: dict[str, list[float]] = {}
    extras: dict[str, Any] = {"method": "hfgi3d", "steps": steps, "seed": seed}
    latents = {
        "space": space,
        "steps": latent_steps,
        "learning_rate": latent_rate,
        "perceptual": perceptual,
        "about": {"lpips_net": lpips_net, "lpips_resolution": lpips_resolution, "theta": theta},
        "seed": seed,
        "progress": progress,
    } | dict(latent_settings or {})

    if initial is None:
        initial = project(generator, target, camera, checkpoints=checkpoints, **latents)
        history |= {f"latent_{name}": values for name, values in initial.history.items()}
    rough = Inversion(latent_of(initial, generator), generator, camera, history, extras)
    if steps == 0:
        return rough
    z_e = rough.w_plus

    if early_tuning_steps:
        rough = invert_pti(
            generator,
            target,
            camera,
            initial=z_e,
            steps=early_tuning_steps,
            learning_rate=learning_rate,
            perceptual=perceptual,
            seed=seed,
            checkpoints=_below(checkpoints, "tuned"),
            progress=progress,
        )
        history |= {f"tuned_{name}": values for name, values in rough.history.items()}
    head = rough.still()
    hidden = head
    if theta is not None and views:
        explained = difference_map(target, head.render(camera).image, theta)
        extras["explained"] = explained.mean().item()
        begin = {"initial": z_e, "checkpoints": _below(checkpoints, "occluded")}
        begin["about"] = latents["about"] | {"explained": explained}
        found = occluded_inversion(generator, target, camera, explained, **latents | begin)
        history |= {f"occluded_{name}": values for name, values in found.history.items()}
        hidden = found.still()
    if views:
        around = auxiliary_cameras(generator, views, yaw_range, pitch_range).to(target.device)
        pseudo = pseudo_views(target, camera, around, head, hidden, **view_settings)
        extras["visible"] = pseudo.visible_mask.mean().item()
        compare = PseudoViewLoss(pseudo, objective, perceptual, lam_l2, lam_lpips)

    rng = torch.Generator().manual_seed(seed)
    photo = image_objective(target, perceptual, lam_l2, lam_lpips)

    def terms(tuned: EG3D, w_plus: Tensor, step: int) -> Terms:
        sampling = early_sampling(generator, early, early_until, step / steps)
        i = int(torch.randint(max(views, 1), (1,), generator=rng))
        planes = tuned.planes(w_plus)
        cameras = Camera.cat([camera, around[i]]) if views else camera
        image = tuned.render(planes, w_plus, cameras, **sampling).image
        losses = photo.terms(image[:1])
        total = photo.total(losses)
        if views:
            found, loss = compare(image[1:], i)
            losses |= {f"pseudo_{name}": value for name, value in found.items()}
            total = total + alpha * loss
        if lam_density > 0:
            losses["density"] = density_regulariser(planes, tuned, head, density_points, rng)
            total = total + lam_density * losses["density"]
        return Terms(image[:1], losses, total)

    fitted = tune(
        generator,
        z_e,
        terms,
        name="fit photo and pseudo views",
        steps=steps,
        learning_rate=learning_rate,
        latent_rate=learning_rate if tune_latent else 0.0,
        rng=rng,
        about=about | {"target": target, "camera": camera.label(), "z_e": z_e},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    extras["steps_taken"] = fitted.steps_taken
    return Inversion(fitted.w_plus, fitted.generator, camera, history | fitted.history, extras)


def _require_choices(**chosen: str) -> None:
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is {' or '.join(CHOICES[name])}; got {value!r}")


def _below(checkpoints: Checkpoints | None, folder: str) -> Checkpoints | None:
    """Checkpoints of a stage whose name another stage of the same run has, too."""
    return None if checkpoints is None else Checkpoints(checkpoints.folder / folder, checkpoints.every)
