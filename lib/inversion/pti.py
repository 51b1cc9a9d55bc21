"""Pivotal tuning (Roich et al., 2022): find a code near the picture, then tune the generator around it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lib.cameras import Camera, orbit
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
from lib.inversion.result import Inversion
from lib.losses import l2_loss
from lib.perceptual import Perceptual

RECIPES = {"pti": (450, 350), "spi": (500, 1000), "pose_opt": (400, 400)}
"""Steps of the search for a pivot and of the tuning: of PTI's own code (quoted by GOAE), and of the PTI that SPI and
Pose-Opt compare with."""

SMALL_PICTURE = 256
"""Pixels across, below which PTI's threshold on LPIPS says too little: it is reached long before the photo."""


def invert_pti(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    masks: Any = None,
    landmarks: Any = None,
    initial: Tensor | Inversion | None = None,
    pivot_space: Literal["w", "wplus"] = "w",
    recipe: Literal["pti", "spi", "pose_opt"] = "pti",
    pivot_steps: int | None = None,
    pivot_settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    learning_rate: float = 3e-4,
    lam_l2: float = 1.0,
    lam_lpips: float = 1.0,
    lpips_threshold: float | None = None,
    lam_locality: float = 0.0,
    locality_distance: float = 30.0,
    perceptual: Perceptual | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    ray_jitter: bool = False,
    early: Early = "full",
    early_until: float = 0.5,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Tune a copy of the generator so that the pivot's picture from `camera` is `target`.

    The first stage is `project` into `pivot_space` (`pivot_settings` are its further settings), unless
    `initial` gives the pivot. The second stops before the step at which LPIPS has come to `lpips_threshold`
    (None: the paper's 0.06, but never on pictures under 256 px, where so little is reached long before the photo).
    recipe: whose numbers of steps are taken where pivot_steps and steps are None, see `RECIPES`.
    lam_locality: of the regulariser that keeps the generator as it was elsewhere, 0.1 in the paper's code, where
    it is off by default; locality_distance: how far from the pivot. masks, landmarks: only warned by, where they
    tell that the photo is unusual; all methods take them. The other arguments are those of `project_batch`. In
    the history of a run from a photo "pivot_..." is the first stage.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe is one of {', '.join(RECIPES)}; got {recipe!r}")
    pivot_steps = RECIPES[recipe][0] if pivot_steps is None else pivot_steps
    steps = RECIPES[recipe][1] if steps is None else steps
    require_steps(steps=steps, pivot_steps=pivot_steps)
    about = plain_settings(locals())
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    warn_of_assumptions(target, camera, landmarks=landmarks, masks=masks)
    lpips_threshold = stopping_threshold(generator, lpips_threshold)
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    history: dict[str, list[float]] = {}
    extras: dict[str, Any] = {"method": "pti", "steps": steps, "seed": seed}
    if initial is None:
        settings = {"steps": pivot_steps, "seed": seed, "progress": progress, "checkpoints": checkpoints}
        settings["about"] = {"lpips_net": lpips_net, "lpips_resolution": lpips_resolution}
        settings |= dict(pivot_settings or {})
        found = project(generator, target, camera, space=pivot_space, perceptual=perceptual, **settings)
        history |= {f"pivot_{name}": values for name, values in found.history.items()}
        extras["pivot"] = found.extras
        initial = found
    pivot = latent_of(initial, generator)

    rng = torch.Generator().manual_seed(seed)
    objective = image_objective(target, perceptual, lam_l2, lam_lpips)

    def terms(tuned: EG3D, pivot: Tensor, step: int) -> Terms:
        sampling = early_sampling(generator, early, early_until, step / steps)
        image = tuned.synthesize(pivot, camera, rng=rng if ray_jitter else None, **sampling).image
        losses = objective.terms(image)
        total = objective.total(losses)
        if lam_locality > 0:
            code, view = locality_sample(generator, pivot, locality_distance, rng)
            losses["locality"] = locality_loss(tuned, generator, code, view, perceptual)
            total = total + lam_locality * losses["locality"]
        return Terms(image, losses, total)

    found = tune(
        generator,
        pivot,
        terms,
        name="tune the generator",
        steps=steps,
        learning_rate=learning_rate,
        rng=rng,
        stop=lambda losses: losses["lpips"] <= lpips_threshold,
        about=about | {"target": target, "camera": camera.label(), "pivot": pivot},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    extras["steps_taken"] = found.steps_taken
    return Inversion(pivot, found.generator, camera, history | found.history, extras)


def stopping_threshold(generator: EG3D, lpips_threshold: float | None) -> float:
    """LPIPS at which a tuning stops: the given one, or PTI's, which is never reached on pictures under 256 px."""
    if lpips_threshold is not None:
        return lpips_threshold
    return 0.06 if generator.resolution >= SMALL_PICTURE else 0.0


# ----------------------------------------------------------------------- locality regularisation, section 3.3
@torch.no_grad()
def locality_sample(
    generator: EG3D, pivot: Tensor, distance: float, rng: torch.Generator, truncation_psi: float = 0.5
) -> tuple[Tensor, Camera]:
    """A code at `distance` from the pivot toward a random sample, and a random view of it.

    w_r = w_p + distance * (w_z - w_p) / |w_z - w_p|, the length being that of the whole w_plus. The paper's
    generator is 2D; in 3D the head has to stay what it was from every side, so the view is drawn too.
    """
    z = torch.randn(1, generator.z_dim, generator=rng).to(pivot)
    yaw, pitch = (torch.rand(2, generator=rng) * 2 - 1) * torch.tensor([0.6, 0.3])
    view = orbit(yaw, pitch, generator.config.camera_radius, generator.config.camera_focal).to(pivot.device)
    sample = generator.map(z, generator.frontal_camera(), truncation_psi=truncation_psi)
    direction = sample - pivot
    return pivot + distance * direction / direction.norm(), view


def locality_loss(
    tuned: EG3D, original: EG3D, w_plus: Tensor, view: Camera, perceptual: Perceptual
) -> Tensor:
    """L2 + LPIPS between the pictures of a code before and after tuning (Roich et al., 2022, section 3.3)."""
    with torch.no_grad():
        before = original.synthesize(w_plus, view, noise_mode="none").image
    after = tuned.synthesize(w_plus, view, noise_mode="none").image
    return l2_loss(after, before) + perceptual(after, before)
