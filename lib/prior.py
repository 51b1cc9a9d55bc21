"""The embedded generator: EG3D made small, distilled from portraits in several views.

Paired distillation: the teacher's canonical code of a person goes in, the person's portraits come out under
their detected cameras, with the depth of the face from landmarks. What is learnt is EG3D's own map from
z ~ N(0, I) and a conditioning camera to a tri-plane. A pixel's loss alone would leave what the code does not
settle (hair by hair, the background) blurred to its mean; a discriminator that sees the very portraits that a
batch is compared with, and EG3D's dual pair of them, asks for one of its possible values instead.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import paths
from lib.cameras import Camera
from lib.datasets import Plan, Portraits, latent_space, load_portraits
from lib.generators import load_generator, save_generator
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator
from lib.generators.eg3d import EG3D, EG3DConfig
from lib.generators.rendering import composite_weights, ray_bounds, sample_weights, stratified_depths
from lib.losses import discriminator_loss, generator_loss, masked_depth_loss, r1_loss, spread_loss
from lib.perceptual import LPIPS
from lib.training import ALONE, Phase, Processes, Schedule, fit, launch

PORTRAITS64 = EG3DConfig.embedded(z_dim=256, channel_base=3584, channel_max=184)
OPPONENT64 = DiscriminatorConfig.embedded(
    64, channel_base=1024, channel_max=128, mapping_layers=2, group_size=6
)


@dataclass(frozen=True)
class Distillation:
    """Weights of the losses, sizes of a batch and learning rates."""

    lam_image: float = 1.0  # L1 of the picture
    lam_l2: float = 1.0  # mean squared error of the picture
    lam_raw: float = 0.5  # L1 of the rendered picture before super-resolution
    lam_lpips: float = 0.8
    lam_depth: float = 5.0  # L1 of the face's depth, world units
    lam_spread: float = (
        2.0  # of the light along a ray, world units: a surface, not fog of the right mean depth
    )
    spread_rays: int = 96  # of each picture
    spread_samples: int = 40  # on each of them
    lpips_resolution: int = 128  # twice the pictures' own: at 64 px LPIPS can be fooled
    lam_adversarial: float = 0.1
    adversarial_from: int = 600  # the step at which the generator is first asked to please the discriminator
    discriminator_from: int = 400  # the step at which the discriminator begins to learn
    gamma: float = 1.0  # R1, taken at every r1_every-th step and as many times as strong
    r1_every: int = 16
    people: int = 7  # in a batch, each in two views
    singles: int = 4  # in a batch, each in its one view
    swap: float = 0.5  # how often a single portrait is conditioned on another's camera
    rate_convolution: float = 1e-2  # demodulated weights of unit variance: only their direction matters
    rate_mapping: float = 7e-2  # stored a hundred times larger than they act
    rate: float = 2e-3  # all else
    rate_discriminator: float = 1e-3
    seed: int = 0


class Batches:
    """Draws the batch of a step: two views of some people, and single portraits. Holds no held-out ones."""

    def __init__(self, portraits: Portraits, settings: Distillation):
        train = portraits[~portraits.held_out]
        self.settings = settings
        self.images = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(train.labels)
        self.depth = torch.from_numpy(train.face_depth)[:, None]
        self.inside = torch.from_numpy(train.inside)[:, None]
        self.z = torch.from_numpy(train.z)
        rows_of: dict[int, list[int]] = {}
        for row, person in enumerate(train.person):
            rows_of.setdefault(int(person), []).append(row)
        self.people = [np.array(rows) for rows in rows_of.values() if len(rows) > 1]
        self.singles = np.array([rows[0] for rows in rows_of.values() if len(rows) == 1])

    def draw(self, step: int, processes: Processes = ALONE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to render; for each code the row whose camera conditions it; for each rendered row its code.

        Of a person's two views one lends the conditioning camera to both: rendered under its own camera and
        under another, as EG3D's swap does with p = 0.5, at the price of one set of planes.
        """
        s = self.settings
        rng = np.random.default_rng([s.seed, step])
        people = rng.choice(len(self.people), s.people, replace=False)
        pairs = np.stack([rng.choice(self.people[i], 2, replace=False) for i in people])
        singles = rng.choice(self.singles, s.singles, replace=False)
        lenders = np.where(rng.random(s.singles) < s.swap, np.roll(singles, 1), singles)
        pairs, singles, lenders = (processes.share(part) for part in (pairs, singles, lenders))
        conditioning = np.concatenate([pairs[:, 0], lenders])
        rows = np.concatenate([pairs[:, 0], pairs[:, 1], singles])
        two = np.arange(len(pairs))
        code = np.concatenate([two, two, len(pairs) + np.arange(len(singles))])
        return rows, conditioning, code


class Pair(nn.Module):
    """Everything that the distillation changes."""

    def __init__(self, generator: EG3D, discriminator: DualDiscriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


class Seen(NamedTuple):
    """What the discriminator is shown of a step: the same heads from the same cameras, rendered and true."""

    image: Tensor
    image_raw: Tensor
    target: Tensor
    target_raw: Tensor
    label: Tensor


class Distiller:
    """The losses of a step, by phases: the generator's, then the discriminator's on what that one rendered."""

    def __init__(
        self,
        pair: Pair,
        batches: Batches,
        perceptual: LPIPS,
        settings: Distillation,
        processes: Processes = ALONE,
    ):
        self.pair, self.batches, self.perceptual = pair, batches, perceptual
        self.settings, self.processes = settings, processes
        self.seen: Seen | None = None

    def phases(self) -> list[Phase]:
        s = self.settings
        generator = torch.optim.Adam(parameter_groups(self.pair.generator, s), betas=(0.8, 0.99), fused=True)
        discriminator = torch.optim.Adam(
            self.pair.discriminator.parameters(), s.rate_discriminator, betas=(0.0, 0.99), fused=True
        )
        return [
            Phase(self.generator_losses, generator),
            Phase(self.discriminator_losses, discriminator, first=s.discriminator_from),
        ]

    def generator_losses(self, step: int) -> dict[str, Tensor]:
        """Weighted losses of one batch, or of this process's share of it.

        Beyond the border of the teacher's picture a portrait shows a reflection. There the rendering is
        compared with itself: it is free, and neither LPIPS nor the discriminator sees a seam.
        """
        s, batches, generator = self.settings, self.batches, self.pair.generator
        rows, conditioning, code = batches.draw(step, self.processes)
        device = generator.plane_axes.device
        label = batches.labels[rows].to(device)
        codes = batches.z[rows[np.unique(code, return_index=True)[1]]].to(device)
        jitter = torch.Generator(device).manual_seed(s.seed * 1_000_003 + step + self.processes.rank * 10**12)

        w_plus = generator.map(codes, Camera.from_label(batches.labels[conditioning].to(device)))
        index = torch.from_numpy(code).to(device)
        planes, camera = generator.planes(w_plus), Camera.from_label(label)
        view = generator.render(planes[index], w_plus[index], camera, rng=jitter)
        image, image_raw = view.image.float(), view.image_raw.float()
        mean_w = self.processes.mean(w_plus[:, 0].mean(dim=0, keepdim=True))
        generator.backbone.mapping.update_w_avg(mean_w)

        photo = batches.images[rows].to(device).float() / 127.5 - 1
        target = torch.where(batches.inside[rows].to(device), photo, image.detach())
        target_raw = F.interpolate(target, size=image_raw.shape[-1], mode="area")
        losses = {
            "spread": s.lam_spread
            * light_spread(generator, planes[index], camera, s.spread_rays, s.spread_samples, jitter),
            "image": s.lam_image * F.l1_loss(image, target),
            "l2": s.lam_l2 * F.mse_loss(image, target),
            "raw": s.lam_raw * F.l1_loss(image_raw, target_raw),
            "lpips": s.lam_lpips * self.perceptual(image, target).mean(),
            "depth": s.lam_depth * masked_depth_loss(view.depth.float(), batches.depth[rows].to(device)),
        }
        if step >= s.adversarial_from:
            score = self.score(image, image_raw, label)
            losses["adversarial"] = s.lam_adversarial * generator_loss(score).mean()
        self.seen = Seen(image.detach(), image_raw.detach(), target, target_raw, label)
        return losses

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """Logistic loss of the step's rendered and true pictures, and R1 on the true ones."""
        s, seen = self.settings, self.seen
        penalised = step % s.r1_every == 0
        true = [picture.clone().requires_grad_(penalised) for picture in (seen.target, seen.target_raw)]
        fake, real = self.score(seen.image, seen.image_raw, seen.label), self.score(*true, seen.label)
        losses = {"discriminator": discriminator_loss(real, fake).mean()}
        if penalised:
            losses["r1"] = s.r1_every * s.gamma / 2 * r1_loss(real, true).mean()
        return losses | {"score_real": real.detach().mean(), "score_fake": fake.detach().mean()}

    def score(self, image: Tensor, image_raw: Tensor, label: Tensor) -> Tensor:
        """The discriminator's scores [B]; in float32, since R1 differentiates them twice."""
        with torch.autocast(image.device.type, enabled=False):
            return self.pair.discriminator(image, image_raw, label)


def light_spread(
    generator: EG3D, planes: Tensor, camera: Camera, rays: int, samples: int, jitter: torch.Generator
) -> Tensor:
    """Mean spread of the light along some rays of each picture, at so many samples a ray."""
    origins, directions = camera.rays(generator.neural_resolution)
    device = directions.device
    some = torch.randint(directions.shape[1], (rays,), generator=jitter, device=device)
    origins, directions = origins.expand_as(directions)[:, some], directions[:, some]
    near, far = ray_bounds(origins, directions, generator.config.rendering)
    depths = stratified_depths(near, far, samples, jitter)
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    density = generator.sample(planes, points.flatten(1, 2))[0].float().view_as(depths)
    return spread_loss(depths, sample_weights(composite_weights(density, depths))).mean()


@torch.no_grad()
def initialise_mapping(generator: EG3D, deviation: np.ndarray) -> None:
    """Let the first mapping layer undo the whitening: latent axes count as much as they do for the teacher.

    Whitening gave every axis the same variance; most of them move a picture very little. Starting from their
    true deviations [z_dim], the student need not find out from a few thousand people which ones matter.
    """
    first = generator.backbone.mapping.fc0
    rng = torch.Generator().manual_seed(0)
    scale = torch.as_tensor(deviation / np.sqrt((deviation**2).mean()), dtype=torch.float32)
    first.weight[:, : generator.z_dim] = scale * torch.randn(
        first.weight.shape[0], generator.z_dim, generator=rng
    )
    # The camera is a small part of the input's energy until training finds use for it.
    first.weight[:, generator.z_dim :] = 0.2 * torch.randn(
        first.weight[:, generator.z_dim :].shape, generator=rng
    )
    first.weight.div_(first.bias_gain)


@torch.no_grad()
def grow(generator: EG3D, smaller: EG3D) -> None:
    """Let a generator of more channels begin as the function that a smaller one is.

    Old channels keep their weights. A new channel reads all others by its random weights; what reads it does so
    with weight 0 at first, so that nothing changes until training has found a use for it.
    """
    weights = smaller.state_dict()
    for name, value in generator.state_dict().items():
        old = weights[name]
        kept = tuple(slice(size) for size in old.shape)
        if name.endswith("torgb.weight"):  # its gain is 1 / sqrt(in), which has changed
            old = old * math.sqrt(value.shape[1] / old.shape[1])
        if value.ndim == 4:
            value[: old.shape[0], old.shape[1] :] = 0
        value[kept] = old


def parameter_groups(generator: EG3D, settings: Distillation) -> list[dict]:
    """Three learning rates: modulated convolutions (and the constant), the mapping network, the rest."""
    groups: dict[float, list] = {settings.rate_convolution: [], settings.rate_mapping: [], settings.rate: []}
    for name, parameter in generator.named_parameters():
        if ".mapping.fc" in name:
            groups[settings.rate_mapping].append(parameter)
        elif parameter.ndim == 4 or name.endswith("const"):
            groups[settings.rate_convolution].append(parameter)
        else:
            groups[settings.rate].append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def train(
    config: EG3DConfig,
    plan: Plan,
    settings: Distillation,
    steps: int,
    folder: Path,
    start: str | Path | None = None,
    opponent: DiscriminatorConfig = OPPONENT64,
    autocast: torch.dtype | None = torch.bfloat16,
    processes: Processes = ALONE,
) -> EG3D:
    """Distil a generator; resumes from the folder.

    `start` names the weights to begin with, of the same widths or smaller; None begins at random. Every
    checkpoint also writes the average as `generator.safetensors`.
    """
    portraits = load_portraits(plan, config.resolution, config.neural_resolution)
    batches = Batches(portraits, settings)
    torch.manual_seed(settings.seed)  # the weights' start
    generator, discriminator = EG3D(config), DualDiscriminator(opponent)
    if start is None:
        initialise_mapping(generator, latent_space(plan).deviation)
    else:
        grow(generator, load_generator(start))
    pair = Pair(generator, discriminator).to(processes.device)
    perceptual = LPIPS("alex", settings.lpips_resolution).to(processes.device)
    metadata = {
        "from": str(start or ""),
        "plan": json.dumps(vars(plan)),
        "settings": json.dumps(vars(settings)),
    }

    def export(average: EG3D, step: int) -> None:
        file = folder / "generator.safetensors"
        save_generator(average.measure_w(), file, metadata=metadata | {"steps": str(step)})

    return fit(
        pair,
        Distiller(pair, batches, perceptual, settings, processes).phases(),
        Schedule(steps),
        folder,
        averaged=generator,
        autocast=autocast,
        on_checkpoint=export,
        processes=processes,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Distil the embedded generator portraits64 from the sampled portraits."
    )
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--from", dest="start", help="weights to begin with: a name or a file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--devices", type=int, default=1, help="how many, with a process for each")
    parser.add_argument("--folder", type=Path, default=paths.CACHE / "training" / "portraits64")
    arguments = parser.parse_args()
    what = (PORTRAITS64, Plan(), Distillation(), arguments.steps, arguments.folder, arguments.start)
    launch(train, *what, device=arguments.device, devices=arguments.devices)
