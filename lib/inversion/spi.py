"""SPI: 3D GAN inversion with a facial symmetry prior (Yin et al., 2023), in the order and the letters of the paper.

A face is nearly symmetric, so the mirrored photo is a second view of it, from the mirrored camera. Stage 1 finds a
code from both, and with it a rough geometry (eq. 3-5). Stage 2 tunes the generator on the photo, on neighbouring
views that photo and mirrored photo are warped into by that geometry, where they can be trusted, and on depth that
stays near the rough one (eq. 6-12).

    I_s, pi_s   the photo ("source") and its camera        w, theta   code, weights of the generator
    I_m, pi_m   the mirrored photo and its camera          D, D_0     depth of the tuned and of the untuned generator
    pi_t        a neighbouring view                        M_t        the authentic mask
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera
from lib.contextual import PARTS_OF_FACE, RELEASED_PARTS, VGGFeatures, part_boxes, parts_loss
from lib.generators import EG3D
from lib.inversion.anatomy import detected_landmarks, face_mask, landmarks_uv
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
from lib.inversion.result import Inversion, StillHead
from lib.losses import l2_loss
from lib.perceptual import Perceptual
from lib.warping import TOLERANCE, depth_along_axis, pixels_in_view, sample_at, visible

RELEASED = MappingProxyType(
    {
        "mirror_form": "code",
        "gate_symmetry": True,
        "interval": 4,
        "views": 4,
        "parts": RELEASED_PARTS,
        "depth_views": "one_sided",
        "warp_depth": "ray_as_axis",
        "lpips_net": "vgg",
        "lpips_threshold": 0.05,
    }
)
"""Settings by which the released code differs from the paper. (Its depth term is not made up for the interval.)"""

CONTEXTUAL_SCALE = 0.1
"""Factor on the contextual loss in the released code, with which lambda_sym is the paper's. The paper prints none and
cites the loss: read literally, without it, eq. 10 outweighs the photo."""


# ----------------------------------------------------------------------- eq. 3-5: a second, less trusted view
def mirrored(picture: Tensor) -> Tensor:
    """I_m: pictures or maps [B, C, H, W] flipped horizontally (section 4.1)."""
    return picture.flip(-1)


def importance(x: Tensor | float, sigma: float = 0.29, mu: float = 0.0) -> Tensor:
    """E(x), eq. 3: the density of a normal distribution; its peak is 1 / (sigma sqrt(2 pi)), not 1.

    x: |yaw|, radians. The paper gives no sigma and mu; these are the released code's.
    """
    x = torch.as_tensor(x, dtype=torch.float32)
    return torch.exp(-((x - mu) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def mirror_weight(
    yaw: Tensor | float, form: Literal["paper", "code", "constant"] = "paper", k: float = 1.0
) -> Tensor:
    """lambda_m, eq. 4: how much the mirrored photo of a face at `yaw` (radians) counts.

    paper: 1 - E where E <= k, else 0; at most k = 1, that the weight is not negative. code: half of
    1 - E / 2.7 from 0.2 rad on, else 0, as the released code has it; it never exceeds a half. constant: 1.
    """
    yaw = torch.as_tensor(yaw, dtype=torch.float32).abs()
    if form == "paper":
        if k > 1:
            raise ValueError(f"k is at most 1, or lambda_m gets negative; got {k}")
        return (1 - importance(yaw)) * (importance(yaw) <= k)
    if form == "code":
        return (1 - importance(yaw) / 2.7) / 2 * (yaw >= 0.2)
    if form == "constant":
        return torch.ones_like(yaw)
    raise ValueError(f"the form of lambda_m is paper, code or constant; got {form!r}")


# ----------------------------------------------------------------------- eq. 6: the geometry stays
def depth_loss(depth: Tensor, rough_depth: Tensor) -> Tensor:
    """L_depth, eq. 6: squared difference of depths [B, 1, R, R] in one sampled view, a mean over its pixels [B].

    As the released code has it; the paper prints a norm, whose gradient does not vanish with the difference.
    """
    return l2_loss(depth, rough_depth)


def depth_cameras(
    generator: EG3D,
    count: int,
    rng: torch.Generator,
    form: Literal["symmetric", "one_sided"] = "symmetric",
    yaw: float = 0.7,
    pitch: float = 0.2,
) -> Camera:
    """S of eq. 6: cameras at random angles (radians) about the front.

    one_sided: yaws are never negative, as in the released code, whose "uniform" sampler adds and never subtracts.
    """
    across, up = torch.rand(2, count, generator=rng)
    if form not in ("symmetric", "one_sided"):
        raise ValueError(f"the views of the depth term are symmetric or one_sided; got {form!r}")
    across = across * 2 - 1 if form == "symmetric" else across
    return generator.camera(across * yaw, (up * 2 - 1) * pitch)


# ----------------------------------------------------------------------- eq. 7-8: warping and what to trust of it
@dataclass(frozen=True)
class Source:
    """A picture that is warped: [1, 3, R, R], its camera, its depth along the ray and face mask [1, 1, R, R]."""

    image: Tensor
    camera: Camera
    depth: Tensor
    face: Tensor

    def mirrored(self) -> Source:
        """The mirrored picture; its depth is the mirrored one, as the geometry is taken to be symmetric."""
        image, depth, face = (mirrored(x) for x in (self.image, self.depth, self.face))
        return Source(image, self.camera.mirror(), depth, face)


def warped(
    source: Source,
    camera: Camera,
    depth: Tensor,
    *,
    tolerance: float = TOLERANCE,
    warp_depth: Literal["ray", "ray_as_axis"] = "ray",
) -> tuple[Tensor, Tensor]:
    """I_{s->t} and M_t, eq. 7-8: the source in views pi_t [B] whose depth D_t [B, 1, r, r] along the ray is known.

    The authentic mask M_t [B, 1, R, R], float, is what the source shows of that surface, times its face mask
    warped along. Low-resolution depth is enlarged first (section 4.2). warp_depth: "ray_as_axis" takes depth along
    the ray for depth along the axis, as the released code does: up to 0.037 too far in the corners.
    """
    if warp_depth not in ("ray", "ray_as_axis"):
        raise ValueError(f"warp_depth is ray or ray_as_axis; got {warp_depth!r}")
    count, side = len(camera), source.image.shape[-1]
    depth = _enlarged(depth, side)
    seen_from = source.camera.expand(count)
    source_depth = source.depth.expand(count, -1, -1, -1)
    if warp_depth == "ray_as_axis":
        depth, source_depth = (
            d * d / depth_along_axis(c, d) for c, d in ((camera, depth), (seen_from, source_depth))
        )
    uv, distance = pixels_in_view(camera, depth, seen_from)
    shown = visible(uv, distance, source_depth, tolerance)
    image = sample_at(source.image.expand(count, -1, -1, -1), uv)
    face = sample_at(source.face.expand(count, -1, -1, -1), uv)
    return image, shown * face


def neighbours(
    camera: Camera, count: int, rng: torch.Generator, yaw_range: float = 0.2, pitch_range: float = 0.1
) -> Camera:
    """pi_t: a camera turned about the world's origin by random angles within these ranges (radians)."""
    yaw, pitch = (torch.rand(2, count, generator=rng).to(camera.device) * 2 - 1) * torch.tensor(
        [[yaw_range], [pitch_range]], device=camera.device
    )
    turn = torch.eye(4, device=camera.device).repeat(count, 1, 1)
    turn[:, :3, :3] = _about_y(yaw) @ _about_x(pitch)
    return Camera(turn @ camera.world_from_cam, camera.intrinsics.expand(count, 3, 3))


def neighbour_range(
    yaw: float, form: Literal["fixed", "narrowing", "lambda_m", "none"] = "fixed", fixed: float = 0.2
) -> float:
    """How far neighbours of a view at `yaw` are turned at most (radians).

    fixed: the same for all, the released code's default. narrowing: less for faces from the side, its option
    `use_adapt_yaw_range`, a normal density of sigma 0.4 over 2.6. lambda_m: a fixed ratio of lambda_m, as the
    paper prints it, which is the other way round than its figure 3; the ratio is ours, `fixed` at its most. none:
    not at all, so that the mirrored photo is compared where it is, unwarped.
    """
    if form == "none":
        return 0.0
    if form == "fixed":
        return fixed
    if form == "narrowing":
        return importance(yaw, sigma=0.4).item() / 2.6
    if form == "lambda_m":
        return fixed * mirror_weight(yaw).item()
    raise ValueError(f"the range of neighbours is fixed, narrowing, lambda_m or none; got {form!r}")


# ----------------------------------------------------------------------- eq. 9-11: what is compared
def adjacent_loss(rendered: Tensor, warped_source: Tensor, mask: Tensor, perceptual: Perceptual) -> Tensor:
    """L_adj, eq. 9: LPIPS(M_t G(w, pi_t), M_t I_{s->t}) of pictures [B, 3, R, R], [B]."""
    return perceptual(mask * rendered, mask * warped_source)


def symmetry_loss(
    features: Callable[[Tensor], Tensor],
    rendered: Tensor,
    warped_mirror: Tensor,
    mask: Tensor,
    boxes: Mapping[str, Tensor],
    parts: Sequence[str],
    size: int = 80,
    scale: float = CONTEXTUAL_SCALE,
) -> Tensor:
    """L_sym, eq. 10: the contextual loss between parts of the face in G(w, pi_t) and in I_{m->t}, summed, [B].

    Where the mirrored photo cannot be trusted both are grey, as in eq. 9. size: pixels across a part;
    scale: see CONTEXTUAL_SCALE.
    """
    return scale * parts_loss(features, mask * rendered, mask * warped_mirror, boxes, parts=parts, size=size)


# ----------------------------------------------------------------------- stage 1, section 4.1
def rough_inversion(
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    *,
    lambda_m: float,
    perceptual: Perceptual,
    lam_l2: float = 0.0,
    early: Early = "full",
    early_until: float = 0.5,
    steps: int = 500,
    **settings: Any,
) -> Inversion:
    """w of stage 1: minimises L_inv, eq. 5, over W+; the noise term is added by `project`.

    L_inv = LPIPS(G(w, pi_s), I_s) + lambda_m LPIPS(G(w, pi_m), I_m) + lambda_n L_n(n). lam_l2: of L2 beside each
    LPIPS, which the paper does not have. `settings` are those of `project`.
    """
    views = [(camera, image_objective(target, perceptual, lam_l2, 1.0), 1.0, "")]
    if lambda_m > 0:
        objective = image_objective(mirrored(target), perceptual, lam_l2, 1.0)
        views.append((camera.mirror(), objective, lambda_m, "mirror_"))
    cameras = Camera.cat([view for view, *_ in views])

    def terms(working: EG3D, w_plus: Tensor, step: int) -> Terms:
        sampling = early_sampling(generator, early, early_until, step / steps)
        images = working.render(working.planes(w_plus), w_plus, cameras, **sampling).image
        losses, total = {}, torch.zeros(1, device=images.device)
        for image, (_, objective, weight, name) in zip(images.split(1), views, strict=True):
            found = objective.terms(image)
            losses |= {name + term: value for term, value in found.items()}
            total = total + weight * objective.total(found)
        return Terms(images[:1], losses, total)

    return project(generator, target, camera, space="wplus", objective=terms, steps=steps, **settings)


# ----------------------------------------------------------------------- stage 2, section 4.2
class Refinement:
    """L_opt, eq. 12, and all that its terms need of the photo, its mirrored picture and the rough geometry."""

    def __init__(
        self,
        rough: StillHead,
        source: Source,
        landmarks: Tensor,
        *,
        perceptual: Perceptual,
        features: Callable[[Tensor], Tensor],
        rng: torch.Generator,
        lam_adj: float,
        lam_sym: float,
        lam_depth: float,
        symmetry: Literal["parts", "whole", "none"],
        parts: Sequence[str],
        part_size: int,
        contextual_scale: float,
        neighbour_range: float,
        depth_views: Literal["symmetric", "one_sided"],
        warp_depth: Literal["ray", "ray_as_axis"],
        authentic_mask: bool,
        tolerance: float,
        interval: int,
        views: int,
    ):
        self.rough, self.source, self.mirror = rough, source, source.mirrored()
        self.perceptual, self.features, self.rng = perceptual, features, rng
        self.lam = {"adjacent": lam_adj, "symmetry": lam_sym, "depth": lam_depth}
        self.symmetry, self.parts = symmetry, parts
        self.part_size, self.contextual_scale = part_size, contextual_scale
        self.neighbour_range, self.depth_views, self.warp_depth = neighbour_range, depth_views, warp_depth
        self.authentic_mask, self.tolerance = authentic_mask, tolerance
        self.interval, self.views = interval, views
        self.photo = image_objective(source.image, perceptual, 1.0, 1.0)
        self.whole = image_objective(self.mirror.image, perceptual, 1.0, 1.0)
        self.mirrored_landmarks = on_surface(source, landmarks) * landmarks.new_tensor([-1.0, 1.0, 1.0])

    def cameras(self) -> dict[str, Camera]:
        """The views of one step, by the term of the loss that they serve."""
        pi_s, pi_m, count = self.source.camera, self.mirror.camera, self.views
        found = {"original": pi_s}
        if self.lam["adjacent"]:
            found["adjacent"] = self._neighbours(pi_s)
        if self.symmetry == "whole":
            found["symmetry"] = pi_m
        elif self.symmetry == "parts" and self.lam["symmetry"]:
            found["symmetry"] = self._neighbours(pi_m)
        if self.lam["depth"]:
            generator = self.rough.generator
            found["depth"] = depth_cameras(generator, count, self.rng, self.depth_views).to(pi_s.device)
        return found

    def __call__(self, tuned: EG3D, step: int, **sampling: Any) -> Terms:
        """L_opt = L_ori + lambda_adj L_adj + lambda_sym L_sym + lambda_depth L_depth, eq. 12.

        Where the auxiliary terms are not taken at every step they count for those that they are not taken at, too.
        """
        w, cameras = self.rough.w_plus, self.cameras()
        if step % self.interval:
            cameras = {"original": cameras["original"]}
        planes = tuned.planes(w)
        together = Camera.cat(list(cameras.values()))
        view = tuned.render(planes, w, together, **sampling)
        image, depth = (_by_name(x, cameras) for x in (view.image, view.depth))
        losses = self.photo.terms(image["original"])  # L_ori, eq. 11: L2 + LPIPS
        total = self.photo.total(losses)
        rough = self.rough_depths({name: cameras[name] for name in cameras if name != "original"}, **sampling)
        auxiliary = {}
        if "adjacent" in cameras:
            warp, mask = self.warped(self.source, cameras["adjacent"], rough["adjacent"])
            auxiliary["adjacent"] = adjacent_loss(image["adjacent"], warp, mask, self.perceptual)
        if "symmetry" in cameras and self.symmetry == "parts":
            warp, mask = self.warped(self.mirror, cameras["symmetry"], rough["symmetry"])
            boxes = part_boxes(
                cameras["symmetry"].project(self.mirrored_landmarks.expand(len(warp), -1, -1))[0]
            )
            auxiliary["symmetry"] = symmetry_loss(
                self.features,
                image["symmetry"],
                warp,
                mask,
                boxes,
                self.parts,
                self.part_size,
                self.contextual_scale,
            )
        if "symmetry" in cameras and self.symmetry == "whole":
            found = self.whole.terms(image["symmetry"])
            losses |= {f"whole_{name}": value for name, value in found.items()}
            total = total + self.interval * self.whole.total(found)
        if "depth" in cameras:
            auxiliary["depth"] = depth_loss(depth["depth"], rough["depth"])
        for name, values in auxiliary.items():
            losses[name] = values.mean(dim=0, keepdim=True)
            total = total + self.interval * self.lam[name] * losses[name]
        return Terms(image["original"], losses, total)

    def rough_depths(self, cameras: Mapping[str, Camera], **sampling: Any) -> dict[str, Tensor]:
        """D_0 in the views of the auxiliary terms, which also are the D_t of eq. 7."""
        if not cameras:
            return {}
        return _by_name(self.rough.render(Camera.cat(list(cameras.values())), **sampling).depth, cameras)

    def _neighbours(self, camera: Camera) -> Camera:
        """pi_t of one step, up and down half as far as to the sides."""
        return neighbours(camera, self.views, self.rng, self.neighbour_range, self.neighbour_range / 2)

    def warped(self, source: Source, camera: Camera, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 7-8; without the authentic mask all of the warped picture counts."""
        image, mask = warped(source, camera, depth, tolerance=self.tolerance, warp_depth=self.warp_depth)
        return image, mask if self.authentic_mask else torch.ones_like(mask)


def invert_spi(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    landmarks: Tensor | None = None,
    initial: Tensor | Inversion | None = None,
    latent_steps: int = 500,
    latent_settings: Mapping[str, Any] | None = None,
    steps: int = 1000,
    learning_rate: float = 3e-4,
    mirror_form: Literal["paper", "code", "constant", "none"] = "paper",
    lam_adj: float = 0.1,
    lam_sym: float = 0.05,
    lam_depth: float = 1.0,
    symmetry: Literal["parts", "whole", "none"] = "parts",
    parts: Sequence[str] = tuple(PARTS_OF_FACE),
    part_size: int | None = None,
    contextual_scale: float = CONTEXTUAL_SCALE,
    gate_symmetry: bool = False,
    neighbour_form: Literal["fixed", "narrowing", "lambda_m", "none"] = "fixed",
    depth_views: Literal["symmetric", "one_sided"] = "symmetric",
    warp_depth: Literal["ray", "ray_as_axis"] = "ray",
    authentic_mask: bool = True,
    tolerance: float = TOLERANCE,
    interval: int = 1,
    views: int = 1,
    lpips_threshold: float = 0.0,
    perceptual: Perceptual | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    early: Early = "full",
    early_until: float = 0.5,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Invert a photo with the symmetry of the face as prior: a code (stage 1), then the generator tuned (stage 2).

    masks["face"]: where [1, 1, R, R] the photo shows the face; landmarks: MediaPipe's [N, 2 or 3], (u, v) in
    [0, 1]; both as `lib.faces.Portrait` has them, and found in the photo where they are not given. initial: a code
    that stands for stage 1. latent_settings: further settings of `project` for it. steps=0 leaves out stage 2.

    mirror_form: lambda_m of eq. 4, see `mirror_weight`; "none" leaves the mirrored photo out of stage 1.
    symmetry: "parts" is eq. 10; "whole" fits the mirrored photo like the photo, whatever lam_sym is (the paper's
    figure 9); "none" leaves it out of stage 2. part_size: pixels across a part of the face in eq. 10 (None: 80
    as in the released code, 40 for pictures under 256 px, which have no more to show). contextual_scale: see
    CONTEXTUAL_SCALE. gate_symmetry: eq. 10 counts only where lambda_m > 0, as in the released code.
    neighbour_form: see `neighbour_range`. depth_views: see `depth_cameras`. warp_depth, tolerance: see `warped`.
    authentic_mask: False trusts all of what is warped. views, interval: every `interval`-th step takes so many
    views for each auxiliary term; in the released code four, every fourth step. lpips_threshold: stop where
    LPIPS of the photo has come to it, 0.05 in the released code. features: of the contextual loss; conv2_1 of
    VGG16 stands in for the paper's VGG19 (`VGGFeatures(net="vgg19", weights=...)`). RELEASED has the settings of
    the released code. The other arguments are those of `project_batch`. In the history "latent_..." is stage 1.
    """
    if symmetry not in ("parts", "whole", "none"):
        raise ValueError(f"symmetry is parts, whole or none; got {symmetry!r}")
    require_steps(latent_steps=latent_steps, interval=interval, views=views)
    about = plain_settings(locals())
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    seen = detected_landmarks(target) if landmarks is None else landmarks
    warn_of_assumptions(
        target, camera, symmetric=True, face_found=seen is not None, landmarks=landmarks, masks=masks
    )
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    yaw = camera.yaw.item()
    lambda_m = 0.0 if mirror_form == "none" else mirror_weight(yaw, mirror_form).item()
    history: dict[str, list[float]] = {}
    extras: dict[str, Any] = {"method": "spi", "steps": steps, "seed": seed, "lambda_m": lambda_m}

    if initial is None:
        settings = {"steps": latent_steps, "seed": seed, "progress": progress, "checkpoints": checkpoints}
        settings["about"] = {
            "lambda_m": lambda_m,
            "lpips_net": lpips_net,
            "lpips_resolution": lpips_resolution,
            "latent_settings": latent_settings,
        }
        settings |= {"early": early, "early_until": early_until} | dict(latent_settings or {})
        rough = rough_inversion(
            generator, target, camera, lambda_m=lambda_m, perceptual=perceptual, **settings
        )
        history |= {f"latent_{name}": values for name, values in rough.history.items()}
        initial = rough
    w_plus = latent_of(initial, generator)
    rough = Inversion(w_plus, generator, camera, history, extras)
    if steps == 0:
        return rough

    head, side = rough.still(), generator.resolution
    face = face_mask(target, camera, masks, seen)
    source = Source(target, camera, _enlarged(head.render(camera).depth, side), face)
    rng = torch.Generator().manual_seed(seed)
    loss = Refinement(
        head,
        source,
        landmarks_uv(target, camera, seen),
        perceptual=perceptual,
        features=(VGGFeatures().to(target.device) if features is None else features),
        rng=rng,
        lam_adj=lam_adj,
        lam_sym=lam_sym,
        lam_depth=lam_depth,
        symmetry="none" if gate_symmetry and lambda_m == 0 else symmetry,
        parts=parts,
        part_size=(80 if generator.resolution >= 256 else 40) if part_size is None else part_size,
        contextual_scale=contextual_scale,
        neighbour_range=neighbour_range(yaw, neighbour_form),
        depth_views=depth_views,
        warp_depth=warp_depth,
        authentic_mask=authentic_mask,
        tolerance=tolerance,
        interval=interval,
        views=views,
    )
    found = tune(
        generator,
        w_plus,
        lambda tuned, _, step: loss(
            tuned, step, **early_sampling(generator, early, early_until, step / steps)
        ),
        name="tune by SPI",
        steps=steps,
        learning_rate=learning_rate,
        rng=rng,
        stop=lambda losses: losses["lpips"] <= lpips_threshold,
        about=about | {"target": target, "camera": camera.label(), "w_plus": w_plus},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    extras["steps_taken"] = found.steps_taken
    return Inversion(w_plus, found.generator, camera, history | found.history, extras)


# ----------------------------------------------------------------------- parts of it
@torch.no_grad()
def on_surface(source: Source, uv: Tensor) -> Tensor:
    """World points [1, N, 3] that a source shows at image positions uv [1, N, 2], by its depth."""
    depth_z = depth_along_axis(source.camera, source.depth)
    grid = 2 * uv[:, None] - 1
    seen = F.grid_sample(depth_z, grid, padding_mode="border", align_corners=False)
    return source.camera.unproject(uv, seen[:, 0, 0])


def _enlarged(depth: Tensor, side: int) -> Tensor:
    """Depth at the size of the picture: low-resolution depth is enlarged to match it (section 4.2)."""
    return F.interpolate(depth, (side, side), mode="bilinear", align_corners=False)


def _by_name(x: Tensor, cameras: Mapping[str, Camera]) -> dict[str, Tensor]:
    """A batch taken apart by the term that its views serve."""
    return dict(zip(cameras, x.split([len(camera) for camera in cameras.values()]), strict=True))


def _about_y(angle: Tensor) -> Tensor:
    """Rotations [B, 3, 3] that take +z towards +x."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [cosine, zero, sine, zero, one, zero, -sine, zero, cosine]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _about_x(angle: Tensor) -> Tensor:
    """Rotations [B, 3, 3] that take +z towards +y: a camera before the face goes up."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [one, zero, zero, zero, cosine, sine, zero, -sine, cosine]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
