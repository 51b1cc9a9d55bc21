"""A pose-free generator (PoF3D; Shi et al., 2023) out of EG3D, without a GPU and without a camera label.

The paper's way is adversarial training from nothing (`lib.adversarial_posefree`). Here a distilled EG3D is the start:
what it knew of cameras is removed, its pose learner knows nothing, and both learn by reconstruction: the teacher's
style of a portrait goes in, head and camera come out, and the picture from that camera must be the portrait. A
pose-aware discriminator looks on, with PoF3D's two losses between its pose and the generator's.

`python -m lib.pose_learning` trains `portraits64-posefree`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from lib import paths
from lib.datasets import (
    LatentSpace,
    Plan,
    UnposedPortraits,
    latent_space,
    load_unposed_portraits,
    posed_latent_space,
)
from lib.generators import EG3D, PoseFreeConfig, PoseFreeEG3D, load_generator, save_generator
from lib.generators.discriminators import DiscriminatorConfig, PoseAwareDiscriminator
from lib.generators.stylegan2 import normalise_2nd_moment
from lib.losses import discriminator_loss, generator_loss, pose_agreement_loss, r1_loss
from lib.perceptual import LPIPS
from lib.prior import Pair, light_spread
from lib.training import ALONE, Phase, Processes, Schedule, fit, launch

OPPONENT64 = DiscriminatorConfig.embedded(
    64, channel_base=1024, channel_max=128, mapping_layers=2, group_size=7, c_dim=2, pose_branch=True
)


@dataclass(frozen=True)
class PoseLearning:
    """Weights of the losses, sizes of a batch and learning rates."""

    lam_image: float = 1.0  # L1 of the picture
    lam_l2: float = 1.0  # mean squared error of the picture
    lam_raw: float = 0.5  # L1 of the rendered picture before super-resolution
    lam_lpips: float = 0.8
    lam_spread: float = 2.0  # of the light along a ray
    spread_rays: int = 96
    spread_samples: int = 40
    lpips_resolution: int = 128
    lam_adversarial: float = 0.1
    lam_consistency: float = 0.1  # the generator's pose is taught by the discriminator's; PoF3D has 1
    lam_supervision: float = 2.0  # the discriminator's pose is taught by the generator's, as PoF3D on FFHQ
    adversarial_from: int = 400  # the step at which the generator is first asked to please the discriminator
    discriminator_from: int = 200  # the step at which the discriminator begins to learn
    gamma: float = 1.0  # R1, taken at every r1_every-th step and as many times as strong
    r1_every: int = 16
    singles: int = 7  # in a batch
    turned: int = 7  # in a batch: portraits of people in views that the teacher was asked for
    rate_pose: float = 5e-2  # the pose learner: stored a hundred times larger than it acts
    rate_mapping: float = 1e-2  # the same
    rate_convolution: float = 1e-3  # demodulated: only their direction matters
    rate: float = 1e-4  # all else; four times as much let the density run away after 800 steps
    betas: tuple[float, float] = (0.9, 0.999)  # of the generator: slow, a good start is soon spoilt
    rate_discriminator: float = 1e-3
    seed: int = 0


# ----------------------------------------------------------------------- the start: an EG3D whose cameras are removed
def without_cameras(generator: EG3D, old: LatentSpace, new: LatentSpace) -> PoseFreeEG3D:
    """A pose-free generator that begins as the function that `generator` is under its frontal conditioning camera.

    Nothing is left of the conditioning camera but that constant, and the pose learner says "from the front" of all
    codes. Its z is of the space `new`, that of `generator` of the space `old`; from one to the other it is linear.
    """
    config = PoseFreeConfig.like(generator.config)
    found = PoseFreeEG3D(config)
    weights = generator.state_dict()
    mapping = "backbone.mapping."
    kept = {
        key: value
        for key, value in weights.items()
        if not key.startswith((mapping + "embed", mapping + "fc0"))
    }
    found.load_state_dict(found.state_dict() | kept)
    axes = (new.basis * new.deviation).T @ old.basis / old.deviation  # [new z, old z]
    shift = (new.mean - old.mean) @ old.basis / old.deviation
    first, start = generator.backbone.mapping.fc0, found.backbone.mapping.fc0
    effective = first.weight * first.weight_gain
    of_z, of_camera = effective[:, : generator.z_dim], effective[:, generator.z_dim :]
    label = generator.frontal_camera().label() * generator.config.c_scale
    front = normalise_2nd_moment(generator.backbone.mapping.embed(label))[0]
    to = {"dtype": effective.dtype}
    with torch.no_grad():
        start.weight.copy_(of_z @ torch.as_tensor(axes, **to).T / start.weight_gain)
        bias = first.bias * first.bias_gain + of_camera @ front + of_z @ torch.as_tensor(shift, **to)
        start.bias.copy_(bias / start.bias_gain)
        found.backbone.mapping.affine_layer2.weight.zero_()
    return found


# ----------------------------------------------------------------------- data
class Batches:
    """Portraits and their z, in batches drawn from the step's number. Holds no held-out ones, and no camera."""

    def __init__(self, portraits: UnposedPortraits, space: LatentSpace, settings: PoseLearning):
        train = portraits[~portraits.held_out]
        self.settings = settings
        self.images = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous()
        self.inside = torch.from_numpy(train.inside)[:, None]
        self.z = torch.from_numpy(space.z(train.styles).astype(np.float32))
        self.single, self.turned = np.flatnonzero(train.single), np.flatnonzero(~train.single)

    def draw(self, step: int, processes: Processes = ALONE) -> np.ndarray:
        """Rows of a batch, or of this process's share of it."""
        s = self.settings
        rng = np.random.default_rng([s.seed, step])
        kinds = ((self.single, s.singles), (self.turned, s.turned))
        rows = np.concatenate([rng.choice(kind, n, replace=False) for kind, n in kinds])
        return processes.share(rows)


# ----------------------------------------------------------------------- losses
class Seen(NamedTuple):
    """What the discriminator is shown of a step: renderings with the poses that their codes say, and portraits."""

    image: Tensor
    image_raw: Tensor
    pose: Tensor
    target: Tensor
    target_raw: Tensor


class PoseLearner:
    """The losses of a step, by phases: the generator's, then the discriminator's on what that one rendered."""

    def __init__(
        self,
        pair: Pair,
        batches: Batches,
        perceptual: LPIPS,
        settings: PoseLearning,
        processes: Processes = ALONE,
    ):
        self.pair, self.batches, self.perceptual = pair, batches, perceptual
        self.settings, self.processes = settings, processes
        self.seen: Seen | None = None

    def phases(self) -> list[Phase]:
        s = self.settings
        generator = torch.optim.Adam(parameter_groups(self.pair.generator, s), betas=s.betas, fused=True)
        discriminator = torch.optim.Adam(
            self.pair.discriminator.parameters(), s.rate_discriminator, betas=(0.0, 0.99), fused=True
        )
        return [
            Phase(self.generator_losses, generator),
            Phase(self.discriminator_losses, discriminator, first=s.discriminator_from),
        ]

    def generator_losses(self, step: int) -> dict[str, Tensor]:
        """Weighted losses of one batch. Beyond the border of the teacher's picture a rendering is free."""
        s, batches, generator = self.settings, self.batches, self.pair.generator
        rows = batches.draw(step, self.processes)
        device = generator.plane_axes.device
        jitter = torch.Generator(device).manual_seed(s.seed * 1_000_003 + step + self.processes.rank * 10**12)
        with torch.autocast(device.type, enabled=False):  # bfloat16 would blur the camera
            w_plus = generator.map(batches.z[rows].to(device))
            pose = generator.pose(w_plus[:, 0])
            camera = generator.camera_at(pose)
        generator.backbone.mapping.update_w_avg(self.processes.mean(w_plus[:, 0].mean(dim=0, keepdim=True)))
        planes = generator.planes(w_plus)
        view = generator.render(planes, w_plus, camera, rng=jitter)
        image, image_raw = view.image.float(), view.image_raw.float()

        photo = batches.images[rows].to(device).float() / 127.5 - 1
        target = torch.where(batches.inside[rows].to(device), photo, image.detach())
        target_raw = F.interpolate(target, size=image_raw.shape[-1], mode="area")
        losses = {
            "spread": s.lam_spread
            * light_spread(generator, planes, camera.detach(), s.spread_rays, s.spread_samples, jitter),
            "image": s.lam_image * F.l1_loss(image, target),
            "l2": s.lam_l2 * F.mse_loss(image, target),
            "raw": s.lam_raw * F.l1_loss(image_raw, target_raw),
            "lpips": s.lam_lpips * self.perceptual(image, target).mean(),
        }
        if step >= s.adversarial_from:
            judged = self.judge(image, image_raw)
            losses["adversarial"] = s.lam_adversarial * generator_loss(judged.score).mean()
            # Only the pose learner is taught: its w has no gradient.
            own = generator.pose(w_plus[:, 0].detach())
            losses["consistency"] = s.lam_consistency * pose_agreement_loss(own, judged.pose).mean()
        self.seen = Seen(image.detach(), image_raw.detach(), pose.detach(), target, target_raw)
        spread = pose.detach().std(dim=0)
        return losses | {"spread_h": spread[0], "spread_v": spread[1]}

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """Logistic loss of the step's renderings and portraits, R1, and the pose that renderings were made from."""
        s, seen = self.settings, self.seen
        penalised = step % s.r1_every == 0
        true = [picture.clone().requires_grad_(penalised) for picture in (seen.target, seen.target_raw)]
        fake, real = self.judge(seen.image, seen.image_raw), self.judge(*true)
        losses = {
            "discriminator": discriminator_loss(real.score, fake.score).mean(),
            "supervision": s.lam_supervision * pose_agreement_loss(fake.pose, seen.pose).mean(),
        }
        if penalised:
            losses["r1"] = s.r1_every * s.gamma / 2 * r1_loss(real.score, true).mean()
        return losses | {
            "score_real": real.score.detach().mean(),
            "score_fake": fake.score.detach().mean(),
        }

    def judge(self, image: Tensor, image_raw: Tensor):
        """What the discriminator says; in float32, since R1 differentiates it twice."""
        with torch.autocast(image.device.type, enabled=False):
            return self.pair.discriminator(image, image_raw)


def parameter_groups(generator: PoseFreeEG3D, s: PoseLearning) -> list[dict]:
    """Four learning rates: pose learner, mapping network, modulated convolutions (and the constant), the rest."""
    groups: dict[float, list] = {
        rate: [] for rate in (s.rate_pose, s.rate_mapping, s.rate_convolution, s.rate)
    }
    for name, parameter in generator.named_parameters():
        if ".affine_layer" in name:
            rate = s.rate_pose
        elif ".mapping.fc" in name:
            rate = s.rate_mapping
        elif parameter.ndim == 4 or name.endswith("const"):
            rate = s.rate_convolution
        else:
            rate = s.rate
        groups[rate].append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


# ----------------------------------------------------------------------- a run
def train(
    start: str,
    plan: Plan,
    settings: PoseLearning,
    steps: int,
    folder: Path,
    opponent: DiscriminatorConfig = OPPONENT64,
    autocast: torch.dtype | None = torch.bfloat16,
    processes: Processes = ALONE,
) -> PoseFreeEG3D:
    """Learn poses from a generator's name or file on; resumes from the folder.

    Every checkpoint also writes the average as `generator.safetensors`.
    """
    original = load_generator(start)
    portraits = load_unposed_portraits(plan, original.resolution)
    space = posed_latent_space(plan, portraits, z_dim=original.z_dim)
    torch.manual_seed(settings.seed)  # of the pose learner and the discriminator
    generator = without_cameras(original, latent_space(plan), space).requires_grad_(True)
    pair = Pair(generator, PoseAwareDiscriminator(opponent)).to(processes.device)
    batches = Batches(portraits, space, settings)
    perceptual = LPIPS("alex", settings.lpips_resolution).to(processes.device)
    metadata = {
        "from": start,
        "plan": json.dumps(vars(plan)),
        "settings": json.dumps(dataclasses.asdict(settings)),
    }

    def export(average: PoseFreeEG3D, step: int) -> None:
        file = folder / "generator.safetensors"
        save_generator(average.measure_w(), file, metadata=metadata | {"steps": str(step)})

    return fit(
        pair,
        PoseLearner(pair, batches, perceptual, settings, processes).phases(),
        Schedule(steps),
        folder,
        averaged=generator,
        autocast=autocast,
        on_checkpoint=export,
        processes=processes,
    )


@dataclass(frozen=True)
class Options:
    """Learn poses without labels; goes on where it was interrupted."""

    start: Annotated[str, tyro.conf.arg(name="from")] = "portraits64"
    """Name or file of the EG3D to begin with."""
    steps: int = 800
    folder: Path = paths.CACHE / "training" / "portraits64-posefree"
    """Gets checkpoint.pt, log.jsonl and generator.safetensors."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    devices: int = 1
    """How many, with a process for each."""
    settings: Annotated[PoseLearning, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PoseLearning
    )


def main(options: Options) -> None:
    """What the command line does."""
    what = (options.start, Plan(), options.settings, options.steps, options.folder)
    launch(train, *what, device=options.device, devices=options.devices)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m lib.pose_learning"))
