"""Inversion into the latent space, the generator fixed: one code for all layers (W), or one for each (W+).

The projector of StyleGAN2-ADA (Karras et al., 2020), from which the projectors of all five papers descend:
start at the mean code, shake the code while the learning rate is high, optimise the noise maps along with it
but keep them noise. The papers call the results SG2 and SG2 W+.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.generators import EG3D
from lib.generators.stylegan2 import SynthesisLayer
from lib.inversion.assumptions import warn_of_assumptions
from lib.inversion.objective import checked_camera, checked_target, image_objective, latent_of, lpips_for
from lib.inversion.optimisation import (
    Callback,
    Checkpoints,
    Diverged,
    Early,
    Terms,
    early_sampling,
    plain_settings,
    require_steps,
    search,
)
from lib.inversion.result import Inversion
from lib.losses import noise_regulariser, recentre_noise
from lib.perceptual import Perceptual

Objective = Callable[[EG3D, Tensor, int], Terms]
"""What a projection minimises, of the working generator, w_plus [B, n_layers, w_dim] and the step."""


def invert_w(
    generator: EG3D, target: Tensor, camera: Camera | Tensor | Sequence[float] | None = None, **settings: Any
) -> Inversion:
    """Invert a picture into W: one code w for all layers. `settings` are those of `project`."""
    return _checked_projection(generator, target, camera, space="w", **settings)


def invert_wplus(
    generator: EG3D, target: Tensor, camera: Camera | Tensor | Sequence[float] | None = None, **settings: Any
) -> Inversion:
    """Invert a picture into W+: a code for each layer. `settings` are those of `project`."""
    return _checked_projection(generator, target, camera, space="wplus", **settings)


def _checked_projection(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    landmarks: Tensor | None = None,
    **settings: Any,
) -> Inversion:
    """`project`, after warnings of what is unusual in the photo, as far as masks and landmarks tell."""
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    warn_of_assumptions(target, camera, landmarks=landmarks, masks=masks)
    return project(generator, target, camera, **settings)


def project(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    initial: Tensor | Inversion | None = None,
    **settings: Any,
) -> Inversion:
    """Optimise a latent code so that its picture from `camera` is `target` [1, 3, R, R].

    `settings` are those of `project_batch`. initial: where to start instead of the mean code, a latent or an
    `Inversion`. Raises `Diverged` where the loss becomes no number.
    """
    target = checked_target(target, generator)
    initial = None if initial is None else latent_of(initial, generator)
    (found,) = project_batch(generator, target, camera, initial=initial, **settings)
    if isinstance(found, Diverged):
        raise found
    return found


def project_batch(
    generator: EG3D,
    targets: Tensor,
    cameras: Camera | Tensor | Sequence[float] | None = None,
    *,
    space: Literal["w", "wplus"],
    initial: Tensor | None = None,
    steps: int = 1500,
    learning_rate: float = 0.01,
    lam_l2: float = 1.0,
    lam_lpips: float = 1.0,
    noise: Literal["own", "discard", "keep"] = "own",
    lam_noise: float = 1e5,
    shake: float = 0.05,
    conditioning: Literal["frontal", "target"] = "frontal",
    statistics_samples: int = 600,
    perceptual: Perceptual | None = None,
    lpips_net: Literal["alex", "vgg"] = "alex",
    lpips_resolution: int | None = None,
    ray_jitter: bool = False,
    early: Early = "full",
    early_until: float = 0.5,
    objective: Objective | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> list[Inversion | Diverged]:
    """Optimise latent codes so that their pictures from `cameras` are `targets`, several at once.

    targets: [B, 3, R, R] in [-1, 1] at the generator's resolution. cameras: theirs, also as EG3D's 25 numbers.
    initial: w_plus [B, n_layers, w_dim] to start from instead of the mean code. shake: size of the random steps
    of the code at the start, in units of its spread. conditioning: the camera under which the mean code and its
    spread are measured ("target": that of the first picture). perceptual: replaces LPIPS of `lpips_net` at
    `lpips_resolution` (None: twice the picture's, at most 256). ray_jitter: draw the samples along rays anew at
    every step, as EG3D does, instead of keeping them fixed. early: cheaper renderings for the first
    `early_until` of the steps: "half_rays" or "coarse" ones. noise: "own" leaves the generator's noise maps as
    they are; "discard" starts from random ones, optimises them along with the code and then forgets them, as the
    reference does; "keep" leaves them in the result's generator. A generator that was trained with fixed noise,
    as the embedded ones are, needs its own. objective: what is minimised instead of L2 and LPIPS. about: what of
    it, or of `perceptual`, a checkpoint must be of. checkpoints: see `Checkpoints`.

    Each picture takes the same steps as by itself with this seed (but for ray_jitter, which draws for the batch).
    Where one diverges, its place holds the error and the others are not touched.
    """
    if noise not in ("own", "discard", "keep"):
        raise ValueError(f"noise is own, discard or keep, not {noise!r}")
    if space not in ("w", "wplus"):
        raise ValueError(f"space is w or wplus, not {space!r}")
    if conditioning not in ("frontal", "target"):
        raise ValueError(f"conditioning is frontal or target, not {conditioning!r}")
    if noise != "own" and len(targets) > 1:
        raise ValueError(
            f"noise maps are those of one generator: noise={noise!r} takes one picture at a time"
        )
    require_steps(steps=steps)
    about = plain_settings(locals() | {"about": dict(about)})
    targets = checked_target(targets, generator, pictures=None)
    cameras = checked_camera(cameras, generator, pictures=len(targets))
    rng = torch.Generator().manual_seed(seed)
    mean, spread = w_statistics(
        generator, cameras[0] if conditioning == "target" else None, statistics_samples, rng
    )
    rngs = [_twin(rng) for _ in targets]
    if objective is None:
        perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
        pictures = image_objective(targets, perceptual, lam_l2, lam_lpips)

        def objective(working: EG3D, w_plus: Tensor, step: int) -> Terms:
            sampling = early_sampling(generator, early, early_until, step / steps)
            image = working.synthesize(w_plus, cameras, rng=rngs[0] if ray_jitter else None, **sampling).image
            losses = pictures.terms(image)
            return Terms(image, losses, pictures.total(losses))

    working = copy.deepcopy(generator).eval().requires_grad_(False)
    noises = [] if noise == "own" else noise_maps(working)
    for noise_map in noises:
        noise_map.copy_(torch.randn(noise_map.shape, generator=rngs[0])).requires_grad_()

    def terms(w_plus: Tensor, step: int) -> Terms:
        found = objective(working, w_plus, step)
        return found._replace(total=found.total + lam_noise * noise_regulariser(noises))

    start = mean.expand(1, generator.n_layers, -1) if initial is None else initial.to(mean)
    start = start.mean(dim=1, keepdim=True) if space == "w" else start
    found = search(
        start.expand(len(targets), -1, -1),
        terms,
        generator,
        name=f"invert into {'W' if space == 'w' else 'W+'}",
        steps=steps,
        learning_rate=learning_rate,
        shake=shake * spread.item(),
        rngs=rngs,
        noises=noises,
        after_step=lambda: recentre_all(noises),
        about=about | {"targets": targets, "cameras": cameras.label()},
        checkpoints=checkpoints,
        progress=progress,
        callback=callback,
    )
    for noise_map in noises:
        noise_map.requires_grad_(False).grad = None
    w_plus = found.w.expand(-1, generator.n_layers, -1)
    return [
        failure
        or Inversion(
            w_plus=w_plus[place : place + 1].clone(),
            generator=working if noise == "keep" else generator,
            camera=cameras[place],
            history=found.histories[place],
            extras={"method": space, "steps": steps, "seed": seed},
        )
        for place, failure in enumerate(found.failures)
    ]


# ----------------------------------------------------------------------- the parts of the projector
@torch.no_grad()
def w_statistics(
    generator: EG3D, camera: Camera | None, samples: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean code [1, 1, w_dim] and spread, the root of the mean squared distance to it: a single number.

    The spread is the length of a typical step from the mean, not a deviation per dimension. camera: the one
    the codes are conditioned on; None for the frontal one.
    """
    z = torch.randn(samples, generator.z_dim, generator=rng).to(generator.w_mean)
    w = generator.map(z, generator.frontal_camera() if camera is None else camera)[:, 0]
    mean = w.mean(dim=0)
    return mean[None, None], (w - mean).square().sum(dim=1).mean().sqrt()


def noise_maps(generator: EG3D) -> list[Tensor]:
    """The noise maps [H, W] of the backbone's layers that use theirs."""
    layers = [layer for layer in generator.backbone.synthesis.modules() if isinstance(layer, SynthesisLayer)]
    return [layer.noise_const for layer in layers if layer.noise_strength.item() != 0]


@torch.no_grad()
def recentre_all(noises: Sequence[Tensor]) -> None:
    """Make noise maps noise again after an update."""
    for noise_map in noises:
        noise_map.copy_(recentre_noise(noise_map))


def _twin(rng: torch.Generator) -> torch.Generator:
    """A generator of random numbers that goes on as this one does."""
    return torch.Generator().set_state(rng.get_state())
