"""Inversion into the latent space, the generator fixed: one code for all layers (W), or one for each (W+).

The projector of StyleGAN2-ADA (Karras et al., 2020), from which the projectors of all five papers descend:
start at the mean code, shake the code while the learning rate is high, optimise the noise maps along with it
but keep them noise.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from lib.cameras import Camera
from lib.generators import EG3D
from lib.generators.stylegan2 import SynthesisLayer
from lib.inversion.objective import checked_camera, checked_target, image_objective, latent_of, lpips_for
from lib.inversion.result import Inversion
from lib.losses import noise_regulariser, recentre_noise
from lib.perceptual import Perceptual


@dataclass(frozen=True)
class State:
    """What a callback sees of a step: the code, its picture and the terms of the loss, before the update."""

    w_plus: Tensor
    image: Tensor
    losses: dict[str, float]


Callback = Callable[[int, State], None]


def invert_w(
    generator: EG3D, target: Tensor, camera: Camera | Tensor | Sequence[float] | None = None, **settings: Any
) -> Inversion:
    """Invert a picture into W: one code w for all layers. `settings` are those of `project`."""
    return project(generator, target, camera, space="w", **settings)


def invert_wplus(
    generator: EG3D, target: Tensor, camera: Camera | Tensor | Sequence[float] | None = None, **settings: Any
) -> Inversion:
    """Invert a picture into W+: a code for each layer. `settings` are those of `project`."""
    return project(generator, target, camera, space="wplus", **settings)


def project(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    space: Literal["w", "wplus"],
    masks: Any = None,
    landmarks: Any = None,
    initial: Tensor | Inversion | None = None,
    steps: int = 500,
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
    seed: int = 0,
    progress: bool = True,
    callback: Callback | None = None,
) -> Inversion:
    """Optimise a latent code so that its picture from `camera` is `target`.

    target: [1, 3, R, R] in [-1, 1] at the generator's resolution. camera: that of the picture, also as EG3D's
    25 numbers. masks, landmarks: not used by this method; all methods take them. initial: where to start
    instead of the mean code. shake: size of the random steps of the code at the start, in units of its
    spread. conditioning: the camera under which the mean code and its spread are measured. perceptual:
    replaces LPIPS of `lpips_net` at `lpips_resolution` (None: twice the picture's, at most 256). ray_jitter:
    draw the samples along rays anew at every step, as EG3D does, instead of keeping them fixed. noise:
    "own" leaves the generator's noise maps as they are; "discard" starts from random ones, optimises them along
    with the code and then forgets them, as the reference does; "keep" leaves them in the result's generator. A
    generator that was trained with fixed noise, as the embedded ones are, needs its own. The same seed gives
    the same result.
    """
    if noise not in ("own", "discard", "keep"):
        raise ValueError(f"noise is own, discard or keep, not {noise!r}")
    require_steps(steps=steps)
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    rng = torch.Generator().manual_seed(seed)
    mean, spread = w_statistics(
        generator, camera if conditioning == "target" else None, statistics_samples, rng
    )
    perceptual = lpips_for(generator, lpips_net, lpips_resolution) if perceptual is None else perceptual
    objective = image_objective(target, perceptual, lam_l2, lam_lpips)

    working = copy.deepcopy(generator).eval().requires_grad_(False)
    noises = [] if noise == "own" else noise_maps(working)
    for noise_map in noises:
        noise_map.copy_(torch.randn(noise_map.shape, generator=rng)).requires_grad_()
    start = mean if initial is None else latent_of(initial, generator)
    w = (start.mean(dim=1, keepdim=True) if space == "w" else start.expand(1, generator.n_layers, -1)).clone()
    optimiser = torch.optim.Adam([w.requires_grad_(), *noises], lr=learning_rate)

    history: dict[str, list[float]] = {}
    bar = tqdm(range(steps), desc=f"invert into {space.upper().replace('PLUS', '+')}", disable=not progress)
    for step in bar:
        t = step / steps
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * learning_rate_ramp(t)
        random_step = torch.randn(w.shape, generator=rng).to(w.device) * spread * shake * shake_ramp(t)
        w_plus = (w + random_step).expand(1, generator.n_layers, -1)
        image = working.synthesize(w_plus, camera, rng=rng if ray_jitter else None).image
        terms = objective.terms(image)
        loss = objective.total(terms) + lam_noise * noise_regulariser(noises)

        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for noise_map in noises:
                noise_map.copy_(recentre_noise(noise_map))

        losses = record(history, {"loss": loss, **terms}, learning_rate=optimiser.param_groups[0]["lr"])
        bar.set_postfix(lpips=f"{losses['lpips']:.3f}", l2=f"{losses['l2']:.4f}", refresh=False)
        if callback is not None:
            callback(step, State(w_plus.detach(), image.detach(), losses))

    for noise_map in noises:
        noise_map.requires_grad_(False).grad = None
    return Inversion(
        w_plus=w.detach().expand(1, generator.n_layers, -1).clone(),
        generator=working if noise == "keep" else generator,
        camera=camera,
        history=history,
        extras={"method": space, "steps": steps, "seed": seed},
    )


# ----------------------------------------------------------------------- the parts of the projector
def require_steps(**counts: int) -> None:
    """An error where a number of steps is none."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more; got {count}")


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


def learning_rate_ramp(t: float, rampup: float = 0.05, rampdown: float = 0.25) -> float:
    """Factor on the learning rate at progress t in [0, 1]: linear up from 0, flat, a cosine down to 0."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / rampdown))
    return down * min(1.0, t / rampup)


def shake_ramp(t: float, until: float = 0.75) -> float:
    """Factor on the random steps of the code: from 1 to 0 by a square, none from t = `until` on."""
    return max(0.0, 1 - t / until) ** 2


def noise_maps(generator: EG3D) -> list[Tensor]:
    """The noise maps [H, W] of the backbone's layers that use theirs."""
    layers = [layer for layer in generator.backbone.synthesis.modules() if isinstance(layer, SynthesisLayer)]
    return [layer.noise_const for layer in layers if layer.noise_strength.item() != 0]


def record(history: dict[str, list[float]], tensors: dict[str, Tensor], **numbers: float) -> dict[str, float]:
    """Append one step's values to their lists, and return them as numbers."""
    values = {name: float(value.detach()) for name, value in tensors.items()} | numbers
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(f"the loss is {values['loss']}: try a smaller learning_rate; {values}")
    for name, value in values.items():
        history.setdefault(name, []).append(value)
    return values
