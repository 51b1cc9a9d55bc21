"""Pose-free inversion (Luo & Ghosh, "Faithful Single Image Face Reconstruction Using GAN Inversion").

The generator says itself from where a head is seen, so codes are all that is optimised (eq. 1): L1 and LPIPS
(eq. 2), identity (eq. 3), neighbouring views warped back (eq. 4) and the variation of depth (eq. 5), weighed against
each other by a curriculum (eq. 6) over two resolutions (section 3.4). What the paper leaves unsaid is a parameter
here; the notebook `posefree/method` measures those that matter. One default goes beyond eq. 1: in W+ a code of its own
says the camera, as each layer has one (`pose_code`); with pose_from="mean", or in W, the pose is a function of the
code that makes the head, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera
from lib.generators import PoseFreeEG3D, Rendering
from lib.identity import align, camera_points, face_network
from lib.images import resize
from lib.inversion.assumptions import warn_of_assumptions
from lib.inversion.objective import checked_target, latent_of, lpips_for
from lib.inversion.optimisation import (
    Callback,
    Checkpoints,
    Terms,
    cosine_decay,
    plain_settings,
    require_steps,
    search,
)
from lib.inversion.result import Inversion
from lib.losses import depth_variation_loss, l1_loss
from lib.perceptual import LPIPS
from lib.warping import TOLERANCE, warp

Embedding = Callable[[Tensor], Tensor]
"""phi of eq. 3: pictures [B, 3, R, R] to embeddings [B, D] of unit length."""

IDENTITIES = ("face", "image", "none")


# ----------------------------------------------------------------------- eq. 2 to 5
def reconstruction_loss(
    image: Tensor, target: Tensor, perceptual: LPIPS, alpha: float, beta: float
) -> dict[str, Tensor]:
    """L_rec = alpha |I - I^|_1 + beta LPIPS(I, I^) [B], its two terms as they enter (Luo & Ghosh, eq. 2).

    L1 is a mean over pixels and colours.
    """
    return {"l1": alpha * l1_loss(image, target), "lpips": beta * perceptual(image, target)}


def identity_loss(embedded: Tensor, target: Tensor) -> Tensor:
    """L_id = 1 - cos(phi(I), phi(I^)) [B] of embeddings of unit length (Luo & Ghosh, eq. 3)."""
    return 1 - (embedded * target).sum(dim=1)


def multi_view_loss(
    psi: Callable[[Tensor], Sequence[Tensor]],
    view: Rendering,
    camera: Camera,
    near: Rendering,
    near_cameras: Camera,
    tolerance: float = TOLERANCE,
    through_depth: bool = False,
) -> Tensor:
    """L_mv = sum over the offsets of |psi(I^_dtheta->0) - psi(I^)|_1 (Luo & Ghosh, eq. 4): a single number.

    view: the reference, I^. near: the n renderings I^_dtheta of the same head from `near_cameras`. psi: feature maps of
    pictures [n, 3, R, R], compared by their mean absolute difference. The paper does not say whose depth warps, nor
    what of surfaces that a neighbour does not see: here the depth of the reference says where in the neighbour a pixel's
    surface lies, and hidden pixels (depths differ by `tolerance`, world units) keep the reference's colour, so that
    they count nothing. through_depth: let the gradient move the warp, that is depth and cameras, too, and not the
    colours alone.
    """
    n, side = len(near_cameras), view.image.shape[-1]
    depth, near_depth = resize(view.depth, side), resize(near.depth, side)
    if not through_depth:
        camera, near_cameras = camera.detach(), near_cameras.detach()
        depth, near_depth = depth.detach(), near_depth.detach()
    warped, seen = warp(
        near.image, near_cameras, near_depth, camera.expand(n), depth.expand(n, -1, -1, -1), tolerance
    )
    image = view.image.expand(n, -1, -1, -1)
    features = zip(psi(warped.where(seen, image)), psi(image), strict=True)
    return sum((a - b).abs().flatten(1).mean(dim=1).sum() for a, b in features)


def geometry_loss(view: Rendering) -> Tensor:
    """L_geo = TV(D) [B] (Luo & Ghosh, eq. 5), D the depth along the rays in world units; a mean over neighbours."""
    return depth_variation_loss(view.depth)


# ----------------------------------------------------------------------- eq. 6 and its curriculum
@dataclass(frozen=True)
class Weights:
    """lambda_rec, lambda_id, lambda_mv, lambda_geo of eq. 6."""

    rec: float = 1.0
    identity: float = 0.2
    mv: float = 0.5
    geo: float = 0.5

    def at(self, t: float, curriculum: bool = True) -> Weights:
        """The weights at progress t in [0, 1] (section 3.4): identity falls from its full weight to 0, the terms of
        shape rise from 0 to theirs. The paper strengthens these in the second stage, says "reduce" of identity, and
        gives no numbers; here all are straight lines over both stages. Without a curriculum each is its mean."""
        t = t if curriculum else 0.5
        return Weights(self.rec, self.identity * (1 - t), self.mv * t, self.geo * t)


def objective(losses: Mapping[str, Tensor], weights: Weights) -> Tensor:
    """L = lambda_rec L_rec + lambda_id L_id + lambda_mv L_mv + lambda_geo L_geo [B] (Luo & Ghosh, eq. 6).

    Terms that a step left out are not among the losses.
    """
    total = weights.rec * (losses["l1"] + losses["lpips"])
    for name in ("identity", "mv", "geo"):
        if name in losses:
            total = total + getattr(weights, name) * losses[name]
    return total


# ----------------------------------------------------------------------- phi and psi
def embedding(kind: Literal["face", "image"], perceptual: LPIPS, camera: Camera) -> Embedding:
    """phi: "face", the recognition network that no metric uses; "image", for what is no face.

    The paper has ArcFace and, off faces, CLIP's image features. Here the former is SFace (Zhong et al., 2021), and the
    latter are the deepest features of the perceptual network, averaged over the picture. Photo and rendering are cut
    out where `camera` has the face: a first guess, and the same for both.
    """
    if kind == "image":
        return lambda image: F.normalize(perceptual.features(image).layers[-1].mean(dim=(2, 3)), dim=1)
    network = face_network("optimisation").to(camera.device)
    return lambda image: network(align(image, camera_points(camera).expand(len(image), 5, 2)))


# ----------------------------------------------------------------------- the pose of a code
def pose_code(w_plus: Tensor, pose_from: Literal["mean", "separate"], own: Tensor | None) -> Tensor:
    """The w [B, w_dim] that the pose learner reads: it knows a single one, and W+ has one for each layer.

    "separate": a code of its own, optimised along with w_plus, as each layer has one; of the same start. It moves the
    camera and nothing else, more than eq. 1 grants. "mean": that of the layers: the pose is a function of w_plus alone.
    """
    return w_plus.mean(dim=1) if pose_from == "mean" else own.expand(len(w_plus), -1)


@torch.no_grad()
def starting_codes(generator: PoseFreeEG3D, n: int, samples: int, rng: torch.Generator) -> Tensor:
    """Codes [n, 1, w_dim] to start from: mean codes of samples that look from one side to the other.

    The samples are sorted by yaw and cut into n parts. One code is the mean of all, the paper's guess of everybody.
    """
    if samples < n:
        raise ValueError(f"{n} starts need as many samples of codes or more; got {samples}")
    z = torch.randn(samples, generator.z_dim, generator=rng).to(generator.w_mean)
    w = generator.map(z)[:, 0]
    order = generator.pose(w)[:, 0].argsort()
    return torch.stack([w[part].mean(dim=0) for part in order.tensor_split(n)])[:, None]


# ----------------------------------------------------------------------- eq. 1: what a step minimises
class PoseFreeObjective:
    """L(G(w), I) of eq. 1: the head of a code from the camera that the code says, against the photo.

    own: the code that says the camera (see `pose_code`), or None. coarse_until: steps whose terms of the photo (L_rec,
    L_id) compare at half the resolution (section 3.4); rendering, L_mv and L_geo keep theirs.
    """

    def __init__(
        self,
        generator: PoseFreeEG3D,
        target: Tensor,
        perceptual: LPIPS,
        phi: Embedding | None,
        weights: Weights,
        *,
        own: Tensor | None,
        alpha: float,
        beta: float,
        steps: int,
        coarse_until: float,
        curriculum: bool,
        views: int,
        offsets: tuple[float, float],
        tolerance: float,
        through_depth: bool,
        rng: torch.Generator,
    ):
        self.generator, self.perceptual, self.phi, self.weights = generator, perceptual, phi, weights
        self.own, self.alpha, self.beta, self.steps = own, alpha, beta, steps
        self.coarse_until, self.curriculum, self.rng = coarse_until, curriculum, rng
        self.views, self.offsets, self.warping = views, offsets, (tolerance, through_depth)
        self.photos = (resize(target, generator.resolution // 2), target)
        with torch.no_grad():
            self.embedded = None if phi is None else [phi(photo) for photo in self.photos]

    def pose(self, w_plus: Tensor) -> Tensor:
        """f_pose(w) [B, 2]: h and v of the view."""
        return self.generator.pose(pose_code(w_plus, "mean" if self.own is None else "separate", self.own))

    def terms(self, w_plus: Tensor, step: int) -> Terms:
        """The terms of a step, and eq. 6 of them."""
        weights = self.weights.at((step + 0.5) / self.steps, self.curriculum)
        fine = step >= self.coarse_until
        pose = self.pose(w_plus)
        camera = self.generator.camera_at(pose)
        planes = self.generator.planes(w_plus)
        view = self.generator.render(planes, w_plus, camera)
        photo = self.photos[fine]
        image = resize(view.image, photo.shape[-1])
        losses = reconstruction_loss(image, photo, self.perceptual, self.alpha, self.beta)
        if weights.identity:
            losses["identity"] = identity_loss(self.phi(image), self.embedded[fine])
        if weights.mv:
            losses["mv"] = self.neighbours_loss(planes, w_plus, pose, view)
        if weights.geo:
            losses["geo"] = geometry_loss(view)
        total = objective(losses, weights)
        return Terms(view.image, losses | {"yaw": camera.yaw, "pitch": camera.pitch}, total)

    def neighbours_loss(self, planes: Tensor, w_plus: Tensor, pose: Tensor, view: Rendering) -> Tensor:
        """Eq. 4 [1], with neighbours from offsets that are drawn anew at every step."""
        moved = (2 * torch.rand(self.views, 2, generator=self.rng).to(pose) - 1) * pose.new_tensor(
            self.offsets
        )
        cameras = self.generator.camera_at(pose + moved)
        near = self.generator.render(planes.expand(self.views, -1, -1, -1, -1), w_plus, cameras)
        camera = self.generator.camera_at(pose)
        return multi_view_loss(self.psi, view, camera, near, cameras, *self.warping)[None]

    def psi(self, image: Tensor) -> Sequence[Tensor]:
        """The unit-length features of LPIPS."""
        return self.perceptual.features(image).layers


# ----------------------------------------------------------------------- the method
def invert_posefree(
    generator: PoseFreeEG3D,
    target: Tensor,
    camera: Any = None,
    *,
    masks: Any = None,
    landmarks: Any = None,
    initial: Tensor | Inversion | None = None,
    space: Literal["w", "wplus"] = "wplus",
    pose_from: Literal["mean", "separate"] = "separate",
    starts: int = 4,
    start_steps: int = 50,
    steps: int = 1000,
    coarse_share: float = 0.5,
    curriculum: bool = True,
    learning_rate: float = 0.01,
    shake: float = 0.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    lam_rec: float = 1.0,
    lam_id: float = 0.2,
    lam_mv: float = 0.5,
    lam_geo: float = 0.5,
    identity: Literal["face", "image", "none"] = "face",
    views: int = 2,
    offsets: tuple[float, float] = (0.2, 0.1),
    tolerance: float = TOLERANCE,
    through_depth: bool = False,
    statistics_samples: int = 600,
    perceptual: LPIPS | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Find the code of a picture, and with it its camera; both the generator and its pose learner stay as they are.

    camera: not looked at; all methods take one. masks, landmarks: only warned by, with the camera that is found.
    initial: a code to start from, and of a pose-free `Inversion` the camera's, too, instead of the best of `starts`
    codes from one side to the other after `start_steps` steps of eq. 2 each, which end at different poses; their mean
    codes are those of `statistics_samples`. space: one code for all layers, or one each; pose_from: see `pose_code`; in
    W it is that of the layers. Of `steps` the first `coarse_share` compare at half the
    resolution. curriculum: see `Weights.at`. shake: random steps of the code, in units of its spread, as in
    `project_batch`; the paper has none. identity: what phi sees. views: neighbours a step, from offsets uniform in
    -+`offsets`, radians of h and v. through_depth, tolerance: see `multi_view_loss`. psi are the unit-length features
    of LPIPS. A term of weight 0 is not computed. The rate of w_plus falls by a cosine from the first step, that of the
    code that says the camera in the last quarter.

    In the history "start_..." is the look for a start, then yaw and pitch in radians of the generator's own frame.
    """
    if not isinstance(generator, PoseFreeEG3D):
        raise ValueError(
            "pose-free inversion needs a generator that says its own camera, such as "
            f"load_generator('portraits64-posefree'); got {type(generator).__name__}"
        )
    _require_choices(space=space, pose_from=pose_from, identity=identity)
    if not 0 <= coarse_share <= 1:
        raise ValueError(f"coarse_share is a share of the steps, from 0 to 1; got {coarse_share}")
    require_steps(steps=steps, start_steps=start_steps, starts=starts)
    if views < 0:
        raise ValueError(f"views counts the neighbours of a step, 0 for none; got {views}")
    about = plain_settings(locals())
    target = checked_target(target, generator)
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    rng = torch.Generator().manual_seed(seed)
    searched = {
        "generator": generator,
        "learning_rate": learning_rate,
        "ramp": cosine_decay,
        "about": about | {"target": target},
        "checkpoints": checkpoints,
        "progress": progress,
    }
    codes, history, said = starting_codes(generator, starts, statistics_samples, rng), {}, None
    if initial is not None:
        codes = latent_of(initial, generator)
        said = initial.extras.get("pose_code") if isinstance(initial, Inversion) else None
    elif starts > 1:
        rec = partial(reconstruction_loss, perceptual=perceptual, alpha=alpha, beta=beta)
        codes, history = _best_start(codes, target, rec, start_steps, seed, searched)
    code = codes.mean(dim=1, keepdim=True) if space == "w" else codes.expand(1, generator.n_layers, -1)
    own = None
    if space == "wplus" and pose_from == "separate":
        own = code.mean(dim=1) if said is None else code.new_tensor(said)[None]
        own = own.detach().clone().requires_grad_()
    phi = None
    if identity != "none" and lam_id:
        phi = embedding(identity, perceptual, generator.own_camera(code.mean(dim=1)))
    minimised = PoseFreeObjective(
        generator,
        target,
        perceptual,
        phi,
        Weights(lam_rec, lam_id if phi else 0.0, lam_mv if views else 0.0, lam_geo),
        own=own,
        alpha=alpha,
        beta=beta,
        steps=steps,
        coarse_until=coarse_share * steps,
        curriculum=curriculum,
        views=views,
        offsets=offsets,
        tolerance=tolerance,
        through_depth=through_depth,
        rng=rng,
    )
    found = search(
        code,
        minimised.terms,
        name="find the code",
        steps=steps,
        shake=shake * generator.w_std.item(),
        rngs=[rng],
        groups=[] if own is None else [{"params": [own], "lr": learning_rate}],
        callback=callback,
        **searched,
    )
    w_plus = found.w.expand(1, generator.n_layers, -1).clone()
    with torch.no_grad():
        pose = minimised.pose(w_plus)
        own_camera = generator.camera_at(pose)
    warn_of_assumptions(target, own_camera, landmarks=landmarks, masks=masks)
    extras = {"method": "posefree", "steps": steps, "seed": seed, "space": space}
    extras |= {"pose_from": "mean" if own is None else "separate", "pose": pose[0].tolist()}
    if own is not None:
        extras["pose_code"] = own.detach()[0].tolist()
    return Inversion(w_plus, generator, own_camera, history | found.histories[0], extras)


def _best_start(
    codes: Tensor,
    target: Tensor,
    rec: Callable[[Tensor, Tensor], dict[str, Tensor]],
    steps: int,
    seed: int,
    searched: Mapping[str, Any],
) -> tuple[Tensor, dict[str, list[float]]]:
    """The code [1, 1, w_dim] that, of several, comes closest to the picture in a few steps of `rec` (eq. 2) in W, at
    half the resolution, and the history of how: "start_loss_0" and "start_yaw_0" are those of the first."""
    generator = searched["generator"]
    coarse = resize(target, generator.resolution // 2).expand(len(codes), -1, -1, -1)

    def terms(w_plus: Tensor, step: int) -> Terms:
        camera = generator.own_camera(w_plus[:, 0])
        image = generator.synthesize(w_plus, camera).image
        losses = rec(resize(image, coarse.shape[-1]), coarse)
        return Terms(image, losses | {"yaw": camera.yaw}, losses["l1"] + losses["lpips"])

    rngs = [torch.Generator().manual_seed(seed) for _ in codes]
    found = search(codes, terms, name="look for the pose", steps=steps, shake=0.0, rngs=rngs, **searched)
    last = torch.tensor([one["loss"][-1] for one in found.histories]).nan_to_num(nan=torch.inf)
    best = int(last.argmin())
    if found.failures[best] is not None:
        raise found.failures[best]
    history = {
        f"start_{name}_{place}": one[name]
        for place, one in enumerate(found.histories)
        for name in ("loss", "yaw")
    }
    return found.w[best : best + 1], history


def _require_choices(**given: str) -> None:
    """An error where a choice is none of those that there are."""
    known = {"space": ("w", "wplus"), "pose_from": ("mean", "separate"), "identity": IDENTITIES}
    for name, value in given.items():
        if value not in known[name]:
            raise ValueError(f"{name} is one of {', '.join(known[name])}; got {value!r}")
