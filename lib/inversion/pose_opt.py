"""Pose-Opt: camera and code found together, then the generator tuned (Ko et al., 2023, "3D GAN Inversion with Pose
Optimization"; no paper of this study but a baseline of two of them)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.contextual import VGGFeatures
from lib.generators import EG3D
from lib.images import resize
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
    search,
    tune,
)
from lib.inversion.poses import Form, FreePose, NetworkPose, canonical_warping_loss
from lib.inversion.projection import w_statistics
from lib.inversion.pti import stopping_threshold
from lib.inversion.result import Inversion
from lib.losses import total_variation_loss
from lib.perceptual import Perceptual

POSES = {"free": FreePose, "network": NetworkPose}
RATES = {"free": 1e-2, "network": 1e-3}
"""Learning rates of the rotation that find a camera 20 degrees away in 50 steps. The released 6e-7 (6e-6 for 6D and
angles) belongs to a large network that was trained to estimate poses before."""


def invert_pose_opt(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    masks: Any = None,
    landmarks: Any = None,
    initial: Tensor | Inversion | None = None,
    space: Literal["w", "wplus"] = "w",
    pose: Literal["free", "network"] = "free",
    form: Form = "quaternion",
    latent_steps: int = 400,
    pose_steps: int = 50,
    latent_rate: float = 0.01,
    pose_rate: float | None = None,
    translation_rate: float = 2e-4,
    steps: int = 400,
    learning_rate: float = 3e-4,
    shake: float = 0.05,
    truncation_psi: float = 0.7,
    statistics_samples: int = 5000,
    lam_l2: float = 1.0,
    lam_lpips: float = 1.0,
    lam_warp: float = 1.0,
    lam_smooth: float = 1.0,
    lpips_threshold: float | None = None,
    perceptual: Perceptual | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    features: Any = None,
    early: Early = "full",
    early_until: float = 0.5,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Find the camera of a picture along with its code, then tune the generator on it.

    camera: where the search for it begins, None for the front; the one that was found is the result's. initial: a
    code to start from instead of the mean of `statistics_samples` codes truncated by `truncation_psi` (the released
    code adds the offset that an encoder predicts). pose: free parameters, or a small network on the picture; form:
    how they say a rotation, see `lib.inversion.poses`. Of the `latent_steps` the first `pose_steps` move the camera
    alone. pose_rate: learning rate of the rotation (None: RATES), translation_rate: of the position's offset.

    Stage 1 minimises lam_l2 L2 + lam_lpips LPIPS + lam_warp times the warping loss to the canonical view, which
    by the depth moves the code, too, as in the released code; it is large, and holds the code back from the
    photo until stage 2. That adds L2 and LPIPS of the raw picture and lam_smooth times the total variation of
    depth to those of the picture, and stops where both LPIPS together have come to `lpips_threshold` (None:
    0.06, but never on pictures under 256 px). features: of the warping loss, conv3_3 of VGG16 if None. masks,
    landmarks: only warned by; all methods take them. The other arguments are those of `project_batch`. In the
    history "latent_..." is stage 1, with the camera's yaw and pitch in radians.
    """
    if pose not in POSES:
        raise ValueError(f"pose is {' or '.join(POSES)}; got {pose!r}")
    require_steps(latent_steps=latent_steps, steps=steps)
    if not 0 <= pose_steps < latent_steps:
        raise ValueError(
            f"pose_steps are the first of the {latent_steps} latent_steps, and some must be left for the code; "
            f"got {pose_steps}"
        )
    about = plain_settings(locals())
    target = checked_target(target, generator)
    start = checked_camera(generator.frontal_camera() if camera is None else camera, generator)
    warn_of_assumptions(target, start)
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    features = VGGFeatures("conv3_3").to(target.device) if features is None else features
    lpips_threshold = stopping_threshold(generator, lpips_threshold)
    rng = torch.Generator().manual_seed(seed)
    mean, spread = w_statistics(generator, None, statistics_samples, rng)
    if initial is None:
        code = generator.w_mean + truncation_psi * (mean - generator.w_mean)
    else:
        code = latent_of(initial, generator)
    code = code.mean(dim=1, keepdim=True) if space == "w" else code.expand(1, generator.n_layers, -1)
    poses = FreePose(start, form) if pose == "free" else NetworkPose(target, start, form, seed)
    poses = poses.to(target.device)
    objective = image_objective(target, perceptual, lam_l2, lam_lpips)
    canonical = generator.frontal_camera().to(target.device)
    seen = features(target)

    def first_terms(w_plus: Tensor, step: int) -> Terms:
        sampling = early_sampling(generator, early, early_until, step / latent_steps)
        now = poses.camera()
        view = generator.synthesize(w_plus, now, **sampling)
        losses = objective.terms(view.image)
        total = objective.total(losses)
        if lam_warp:
            with torch.no_grad():
                front = features(generator.synthesize(w_plus, canonical, **sampling).image)
            losses["warp"] = canonical_warping_loss(seen, front, now, view.depth, canonical)
            total = total + lam_warp * losses["warp"]
        return Terms(view.image, losses | {"yaw": now.yaw, "pitch": now.pitch}, total)

    found = search(
        code,
        first_terms,
        generator,
        name="find pose and code",
        steps=latent_steps,
        wait=pose_steps,
        learning_rate=latent_rate,
        shake=shake * spread.item(),
        rngs=[rng],
        groups=poses.parameter_groups(RATES[pose] if pose_rate is None else pose_rate, translation_rate),
        about=about | {"target": target, "camera": start.label()},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    w_plus = found.w.expand(1, generator.n_layers, -1).clone()
    camera = poses.camera().detach()
    raw = image_objective(resize(target, generator.neural_resolution), perceptual, lam_l2, lam_lpips)

    def second_terms(tuned: EG3D, w_plus: Tensor, step: int) -> Terms:
        view = tuned.synthesize(w_plus, camera, **early_sampling(generator, early, early_until, step / steps))
        losses = objective.terms(view.image)
        losses_raw = raw.terms(resize(view.image_raw, generator.neural_resolution))
        losses |= {f"raw_{name}": value for name, value in losses_raw.items()}
        losses["smooth"] = total_variation_loss(view.depth)
        total = objective.total(losses) + raw.total(losses_raw) + lam_smooth * losses["smooth"]
        return Terms(view.image, losses, total)

    tuned = tune(
        generator,
        w_plus,
        second_terms,
        name="tune at the pose",
        steps=steps,
        learning_rate=learning_rate,
        rng=rng,
        stop=lambda losses: losses["lpips"] + losses["raw_lpips"] <= lpips_threshold,
        about=about | {"target": target, "camera": camera.label(), "w_plus": w_plus},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    history = {f"latent_{name}": values for name, values in found.histories[0].items()} | tuned.history
    extras: dict[str, Any] = {
        "method": "pose_opt",
        "steps": steps,
        "seed": seed,
        "steps_taken": tuned.steps_taken,
    }
    return Inversion(w_plus, tuned.generator, camera, history, extras)
