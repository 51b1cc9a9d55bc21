"""The embedded generator: EG3D made small, distilled from portraits in several views.

Paired distillation: the teacher's canonical code of a person goes in, the person's portraits come out under
their detected cameras, with the depth of the face from landmarks. What is learnt is EG3D's own map from
z ~ N(0, I) and a conditioning camera to a tri-plane; no discriminator is involved.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import paths
from lib.cameras import Camera
from lib.datasets import Plan, Portraits, load_portraits
from lib.generators import save_generator
from lib.generators.eg3d import EG3D, EG3DConfig
from lib.losses import masked_depth_loss
from lib.perceptual import LPIPS
from lib.training import ALONE, Phase, Processes, Schedule, fit, launch

PORTRAITS64 = EG3DConfig.embedded(z_dim=256, channel_base=3072, channel_max=160)


@dataclass(frozen=True)
class Distillation:
    """Weights of the losses, sizes of a batch and learning rates."""

    lam_image: float = 1.0  # L1 of the picture
    lam_l2: float = 4.0  # mean squared error of the picture, which joins in late
    l2_after: int = 4500  # the step from which it does
    lam_raw: float = 0.5  # L1 of the rendered picture before super-resolution
    lam_lpips: float = 0.8
    lam_depth: float = 5.0  # L1 of the face's depth, world units
    lpips_resolution: int = 128  # twice the pictures' own: at 64 px LPIPS can be fooled
    people: int = 6  # in a batch, each in two views
    singles: int = 6  # in a batch, each in its one view
    swap: float = 0.5  # how often a single portrait is conditioned on another's camera
    rate_convolution: float = 1.5e-2  # demodulated weights of unit variance: only their direction matters
    rate_mapping: float = 1e-1  # stored a hundred times larger than they act
    rate: float = 3e-3  # all else
    seed: int = 0


class Batches:
    """Draws the batch of a step: two views of some people, and single portraits. Holds no held-out ones."""

    def __init__(self, portraits: Portraits, settings: Distillation):
        train = portraits[~portraits.held_out]
        self.settings = settings
        self.images = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(train.labels)
        self.depth = torch.from_numpy(train.face_depth)[:, None]
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


def distillation_losses(
    generator: EG3D,
    batches: Batches,
    perceptual: LPIPS,
    settings: Distillation,
    step: int,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """Weighted losses of one batch, or of this process's share of it."""
    rows, conditioning, code = batches.draw(step, processes)
    device = generator.plane_axes.device
    target = batches.images[rows].to(device).float() / 127.5 - 1
    camera = Camera.from_label(batches.labels[rows].to(device))
    codes = batches.z[rows[np.unique(code, return_index=True)[1]]].to(device)
    jitter = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + step + processes.rank * 10**12)

    w_plus = generator.map(codes, Camera.from_label(batches.labels[conditioning].to(device)))
    index = torch.from_numpy(code).to(device)
    view = generator.render(generator.planes(w_plus)[index], w_plus[index], camera, rng=jitter)
    generator.backbone.mapping.update_w_avg(processes.mean(w_plus[:, 0].mean(dim=0, keepdim=True)))

    raw_target = F.interpolate(target, size=view.image_raw.shape[-1], mode="area")
    squared = F.mse_loss(view.image.float(), target) * (step >= settings.l2_after)
    return {
        "image": settings.lam_image * F.l1_loss(view.image.float(), target),
        "l2": settings.lam_l2 * squared,
        "raw": settings.lam_raw * F.l1_loss(view.image_raw.float(), raw_target),
        "lpips": settings.lam_lpips * perceptual(view.image, target).mean(),
        "depth": settings.lam_depth * masked_depth_loss(view.depth.float(), batches.depth[rows].to(device)),
    }


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
    autocast: torch.dtype | None = torch.bfloat16,
    processes: Processes = ALONE,
) -> EG3D:
    """Distil a generator; resumes from the folder.

    Every checkpoint also writes the average as `generator.safetensors`.
    """
    portraits = load_portraits(plan, config.resolution, config.neural_resolution)
    batches = Batches(portraits, settings)
    torch.manual_seed(settings.seed)  # the weights' start
    generator = EG3D(config).to(processes.device)
    with np.load(paths.CACHE / plan.name() / "latents.npz") as latents:
        initialise_mapping(generator, latents["deviation"])
    perceptual = LPIPS("alex", settings.lpips_resolution).to(processes.device)
    optimiser = torch.optim.Adam(parameter_groups(generator, settings), betas=(0.8, 0.99), fused=True)

    def export(average: EG3D, step: int) -> None:
        save_generator(average.measure_w(), folder / "generator.safetensors", metadata={"steps": str(step)})

    def losses(step: int) -> dict[str, Tensor]:
        return distillation_losses(generator, batches, perceptual, settings, step, processes)

    return fit(
        generator,
        [Phase(losses, optimiser)],
        Schedule(steps),
        folder,
        autocast=autocast,
        on_checkpoint=export,
        processes=processes,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Distil the embedded generator portraits64 from the sampled portraits."
    )
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--devices", type=int, default=1, help="how many, with a process for each")
    parser.add_argument("--folder", type=Path, default=paths.CACHE / "training" / "portraits64")
    arguments = parser.parse_args()
    what = (PORTRAITS64, Plan(), Distillation(), arguments.steps, arguments.folder)
    launch(train, *what, device=arguments.device, devices=arguments.devices)
