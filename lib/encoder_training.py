"""Training of encoders: codes first, then pictures, then the refinement of features.

Three kinds of runs, all through `lib.training.fit`:

* codes: pictures whose code is known (samples of the generator, and portraits whose teacher's latent is known); the
  encoder learns the code. No picture is rendered, so this is fast.
* pictures: the losses of the encoders' papers on portraits and samples, through the frozen generator; with GOAE's
  discriminator of codes and its background term, which are options of any encoder.
* refinement: the encoder is frozen, too, and a network on top of it learns what the code cannot say.

`python -m lib.encoder_training portraits64-goae` trains a network of `RECIPES`, with its run on codes; the encoder
that a refinement refines has to be there before.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from lib import paths
from lib.cameras import Camera
from lib.datasets import Plan, Portraits, load_portraits
from lib.encoders.background import background_mask
from lib.encoders.encoder import generator_digest
from lib.encoders.feature_alignment import AFAConfig
from lib.encoders.geometry_aware import STAGES, GOAEConfig
from lib.encoders.goae import (
    Reconstruction,
    background_depth_loss,
    canonical_codes,
    canonical_discriminator_loss,
    canonical_loss,
    feature_change_loss,
    inverted,
    mix,
    offset_loss,
    reconstruction_losses,
    refine,
)
from lib.encoders.latent_discriminator import LatentDiscriminator, LatentDiscriminatorConfig
from lib.encoders.psp import PSPConfig
from lib.encoders.psp import offset_loss as summed_offset_loss
from lib.encoders.storage import KINDS, TRAINED, load_network, network_path, save_network
from lib.encoders.triplanenet import TriPlaneNet, TriPlaneNetConfig, offset_planes
from lib.generators import EG3D, load_generator
from lib.identity import align, camera_points, face_network
from lib.perceptual import LPIPS
from lib.training import ALONE, Phase, Processes, Schedule, fit, launch

PLAN = Plan()
GENERATOR = "portraits64"


# ----------------------------------------------------------------------- data
@dataclass(frozen=True)
class Batch:
    """Pictures with what is known of them; a row each."""

    image: Tensor  # [B, 3, R, R] in [-1, 1]
    inside: Tensor  # bool [B, 1, R, R]: not the reflection beyond the border of the teacher's picture
    label: Tensor  # [B, 25]
    z: Tensor  # [B, z_dim], of the head as it is not mirrored
    depth: Tensor  # [B, 1, r, r] along the ray; NaN where it is not known
    sampled: Tensor  # bool [B]: a picture of the generator itself
    mirrored: Tensor  # bool [B]

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


class Pictures:
    """Portraits to train on and samples of the generator; batches are drawn from the step's number.

    Samples are seen from cameras of portraits, and rendered once: `samples.npz` in the folder keeps them.
    """

    def __init__(self, generator: EG3D, portraits: Portraits, samples: int, folder: Path, seed: int = 0):
        train = portraits[~portraits.held_out]
        own = rendered_samples(generator, torch.from_numpy(train.labels), samples, folder, seed)
        both = {
            "image": (train.images, own["image"]),
            "inside": (train.inside, np.ones(own["image"].shape[:3], bool)),
            "label": (train.labels, own["label"]),
            "z": (train.z, own["z"]),
            "depth": (train.face_depth, own["depth"]),
        }
        self.columns = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in both.items()}
        self.n_portraits, self.seed = len(train), seed

    def __len__(self) -> int:
        return len(self.columns["z"])

    def draw(
        self, step: int, portraits: int, samples: int, mirror: float, processes: Processes = ALONE
    ) -> Batch:
        """So many of each kind, or this process's share of them; mirrored with this probability."""
        rng = np.random.default_rng([self.seed, step])
        rows = np.concatenate(
            [
                rng.choice(self.n_portraits, portraits, replace=False),
                self.n_portraits + rng.choice(len(self) - self.n_portraits, samples, replace=False),
            ]
        )
        mirrored = rng.random(len(rows)) < mirror
        rows, mirrored = processes.share(rows), processes.share(mirrored)
        image = self.columns["image"][rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        label = self.columns["label"][rows].float()
        inside, depth = self.columns["inside"][rows][:, None], self.columns["depth"][rows][:, None].float()
        flip = torch.from_numpy(mirrored)
        where = flip[:, None, None, None]
        return Batch(
            image=torch.where(where, image.flip(3), image),
            inside=torch.where(where, inside.flip(3), inside),
            label=torch.where(flip[:, None], Camera.from_label(label).mirror().label(), label),
            z=self.columns["z"][rows],
            depth=torch.where(where, depth.flip(3), depth),
            sampled=torch.from_numpy(rows >= self.n_portraits),
            mirrored=flip,
        )


@torch.no_grad()
def rendered_samples(
    generator: EG3D, labels: Tensor, n: int, folder: Path, seed: int, batch: int = 20
) -> dict[str, np.ndarray]:
    """Samples of the generator under the canonical camera, each seen from one of the cameras `labels`: image (uint8),
    label, z, depth. They are kept in the folder."""
    seen = zlib.crc32(labels.numpy().tobytes())
    path = folder / f"samples-{generator_digest(generator)[:12]}-{seen:08x}-{n}-{seed}.npz"
    if not path.is_file():
        rng = torch.Generator().manual_seed(seed)
        z = torch.randn(n, generator.z_dim, generator=rng)
        label = labels[torch.randint(len(labels), (n,), generator=rng)].float()
        image, depth = [], []
        for some, seen_from in zip(z.split(batch), label.split(batch), strict=True):
            w_plus = generator.map(some, generator.frontal_camera())
            view = generator.synthesize(w_plus, Camera.from_label(seen_from))
            image.append(((view.image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu())
            depth.append(view.depth[:, 0].cpu())
        found = {"image": torch.cat(image), "label": label, "z": z, "depth": torch.cat(depth)}
        with paths.replacing(path) as temporary:
            np.savez(temporary, **{name: value.numpy() for name, value in found.items()})
    with np.load(path) as arrays:
        return dict(arrays)


# ----------------------------------------------------------------------- codes
@dataclass(frozen=True)
class Codes:
    """Settings of a run on codes."""

    steps: int = 3000
    portraits: int = 20  # in a batch
    samples: int = 12
    rate: float = 1e-3
    grown: float = 0.3  # share of the steps after which a progressive encoder is whole
    seed: int = 0


class CodeLearner:
    """The encoder learns codes: no picture is rendered."""

    def __init__(self, generator, encoder, pictures: Pictures, settings: Codes, processes: Processes = ALONE):
        self.generator, self.encoder, self.pictures = generator, encoder, pictures
        self.settings, self.processes = settings, processes

    def phases(self) -> list[Phase]:
        return [Phase(self.losses, torch.optim.Adam(self.encoder.parameters(), self.settings.rate))]

    def losses(self, step: int) -> dict[str, Tensor]:
        s = self.settings
        batch = self.pictures.draw(step, s.portraits, s.samples, 0.0, self.processes)
        batch = batch.to(self.generator.plane_axes.device)
        stage = stage_at(self.encoder, step / (s.grown * s.steps))
        w_plus = inverted(self.generator, self.encoder, batch.image, stage)
        return {"code": code_loss(self.generator, w_plus, canonical_w(self.generator, batch.z)).mean()}


def stage_at(encoder: nn.Module, progress: float) -> int | None:
    """The stage of progressive training (GOAE: base, coarse, mid, fine; e4e: layer by layer): equal parts of progress
    0 to 1; None: the encoder is whole."""
    config = encoder.config
    last = len(STAGES) - 1 if isinstance(config, GOAEConfig) else config.n_layers - 1
    if isinstance(config, PSPConfig) and not config.progressive:
        return None
    return int(progress * last) if progress < 1 else None


def canonical_w(generator: EG3D, z: Tensor) -> Tensor:
    """w [B, w_dim] of latents under the canonical camera."""
    with torch.no_grad():
        return generator.map(z, generator.frontal_camera())[:, 0]


def code_loss(generator: EG3D, w_plus: Tensor, w: Tensor) -> Tensor:
    """Mean squared difference [B] of w_plus from w in all layers, in units of the variance of w."""
    variance = generator.w_std.square() / generator.w_dim
    return (w_plus - w[:, None]).square().mean(dim=(1, 2)) / variance


# ----------------------------------------------------------------------- pictures
@dataclass(frozen=True)
class PictureLearning:
    """Settings of a run on pictures, for an encoder or for what refines its result. Weights are those of GOAE's
    appendix A, which it also used for its pSp and e4e."""

    steps: int = 3000
    portraits: int = 2  # in a batch
    samples: int = 1
    mirror: float = 0.5  # how often a picture and its camera are mirrored
    rate: float = 5e-4
    lam_l2: float = 1.0  # lambda_1
    lam_lpips: float = 0.8  # lambda_2
    lam_identity: float = 0.25  # lambda_3
    identity_every: int = 4  # taken at these steps alone, and as many times as strong: as StyleGAN2 takes R1
    lam_adversarial: float = 0.0  # lambda_4
    gamma: float = 10.0  # R1 of the discriminator of codes
    rate_discriminator: float = 1e-3
    lam_background: float = 0.0  # lambda_5
    background_every: int = 16
    lam_offsets: float = 0.0  # lambda_6
    offsets: Literal["stacked", "summed"] = "stacked"  # one norm, or e4e's sum of norms, a layer each
    lam_change: float = 0.0  # lambda_7, of refined features
    lam_code: float = 0.1  # of samples, whose code is known
    lam_depth: float = 1.0  # of samples, whose depth is known: L1, world units
    lam_mirror: float = 0.0  # of the mirrored picture from the mirrored camera (TriPlaneNet)
    lpips_resolution: int = 128  # twice the pictures' own; 256 is what is measured
    background_depth: float = 2.894  # D_avg of portraits64, world units, over 300 samples
    seed: int = 0


class Trained(nn.Module):
    """All that a run changes."""

    def __init__(self, network: nn.Module, discriminator: LatentDiscriminator | None = None):
        super().__init__()
        self.network, self.discriminator = network, discriminator


class PictureLearner:
    """The losses of a step through the frozen generator: of its pictures, and of what is known of its codes."""

    def __init__(
        self,
        generator: EG3D,
        trained: Trained,
        pictures: Pictures,
        settings: PictureLearning,
        processes: Processes = ALONE,
    ):
        self.generator, self.trained, self.pictures = generator, trained, pictures
        self.settings, self.processes = settings, processes
        self.device = generator.plane_axes.device
        self.perceptual = LPIPS("alex", settings.lpips_resolution).to(self.device)
        self.face = face_network("optimisation").to(self.device) if settings.lam_identity else None

    def phases(self) -> list[Phase]:
        """As the paper has it, the discriminator learns first in each step, then what is trained."""
        s, found = self.settings, []
        if self.trained.discriminator is not None:
            parameters = self.trained.discriminator.parameters()
            optimiser = torch.optim.Adam(parameters, s.rate_discriminator, betas=(0.0, 0.99))
            found.append(Phase(self.discriminator_losses, optimiser))
        return [*found, Phase(self.losses, torch.optim.Adam(self.trained.network.parameters(), s.rate))]

    def batch(self, step: int) -> Batch:
        s = self.settings
        return self.pictures.draw(step, s.portraits, s.samples, s.mirror, self.processes).to(self.device)

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """Eq. 2 on codes in units of their deviation, which an MLP of few steps needs."""
        with torch.no_grad():
            w_plus = inverted(self.generator, self.trained.network, self.batch(step).image)
        rng = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        n = self.settings.portraits + self.settings.samples
        canonical = self.processes.share(canonical_codes(self.generator, n * w_plus.shape[1], rng))
        real, rows = self.standardised(canonical), self.standardised(w_plus)
        return canonical_discriminator_loss(self.trained.discriminator, real, rows, self.settings.gamma)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Weighted losses of one batch, or of this process's share of it."""
        s, generator, batch = self.settings, self.generator, self.batch(step)
        camera = Camera.from_label(batch.label)
        w_plus = inverted(generator, self.trained.network, batch.image)
        planes = generator.planes(w_plus)
        view = generator.render(planes, w_plus, camera)
        losses = self.picture_losses(step, view.image, batch, camera)
        if s.lam_adversarial:
            judged = canonical_loss(self.trained.discriminator, self.standardised(w_plus))
            losses["adversarial"] = s.lam_adversarial * judged
        if s.lam_background and step % s.background_every == 0:
            losses["background"] = self.background_loss(planes, w_plus)
        if s.lam_offsets:
            known = summed_offset_loss if s.offsets == "summed" else offset_loss
            losses["offsets"] = s.lam_offsets * known(w_plus).mean()
        if s.lam_code:
            known = code_loss(generator, w_plus, canonical_w(generator, batch.z))
            losses["code"] = s.lam_code * known.where(batch.sampled & ~batch.mirrored, 0).mean()
        if s.lam_depth:
            # Portraits' depths have gaps, which no gradient may meet.
            sampled = batch.sampled[:, None, None, None]
            known = (view.depth - batch.depth.where(sampled, view.depth.detach())).abs()
            losses["depth"] = s.lam_depth * known.mean()
        return losses

    def picture_losses(self, step: int, image: Tensor, batch: Batch, camera: Camera) -> dict[str, Tensor]:
        """L_rec (eq. 13). Beyond the border of the teacher's picture a rendering is free."""
        s = self.settings
        target = torch.where(batch.inside, batch.image, image.detach())
        weights = Reconstruction(s.lam_l2, s.lam_lpips, s.lam_identity * s.identity_every)
        phi = None
        if self.face is not None and step % s.identity_every == 0:
            points = camera_points(camera)
            phi = lambda picture: self.face(align(picture, points))  # noqa: E731 (a closure over this step's cameras)
        return reconstruction_losses(image, target, self.perceptual, phi, weights)

    def background_loss(self, planes: Tensor, w_plus: Tensor) -> Tensor:
        """lambda_5 L_BG (eq. 4), as many times as strong as it is seldom."""
        s = self.settings
        front = self.generator.render(planes, w_plus, self.generator.frontal_camera())
        mask = background_mask(front.image.detach(), front.depth.shape[-1])
        known = background_depth_loss(front.depth, mask, s.background_depth).mean()
        return s.lam_background * s.background_every * known

    def standardised(self, w: Tensor) -> Tensor:
        """Codes [..., w_dim] as deviations from the mean, of variance 1."""
        return (w - self.generator.w_mean) / (self.generator.w_std / self.generator.w_dim**0.5)


class RefinementLearner(PictureLearner):
    """The same losses for what refines the planes of a frozen encoder's code (GOAE's stage 2; TriPlaneNet)."""

    def __init__(self, encoder: nn.Module, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.encoder = encoder

    def losses(self, step: int) -> dict[str, Tensor]:
        s, generator, batch = self.settings, self.generator, self.batch(step)
        camera = Camera.from_label(batch.label)
        with torch.no_grad():
            w_plus = inverted(generator, self.encoder, batch.image)
        losses = {}
        if isinstance(self.trained.network, TriPlaneNet):
            planes = offset_planes(generator, self.trained.network, batch.image, w_plus, camera)
        else:
            found = refine(generator, self.trained.network, batch.image, w_plus, camera)
            planes = mix(generator, found, camera)
            if s.lam_change:
                change = feature_change_loss(found.refined.values, found.features.values).mean()
                losses["change"] = s.lam_change * change
        image = generator.render(planes, w_plus, camera).image
        losses |= self.picture_losses(step, image, batch, camera)
        if s.lam_background and step % s.background_every == 0:
            losses["background"] = self.background_loss(planes, w_plus)
        if s.lam_mirror:
            mirrored = generator.render(planes, w_plus, camera.mirror()).image
            target = torch.where(batch.inside, batch.image, image.detach()).flip(3)
            known = reconstruction_losses(mirrored, target, self.perceptual)
            losses["mirror"] = s.lam_mirror * sum(known.values())
        return losses


# ----------------------------------------------------------------------- recipes
@dataclass(frozen=True)
class Recipe:
    """How a network of the study comes to be."""

    kind: str  # of lib.encoders.storage.KINDS
    config: Any
    pictures: PictureLearning
    codes: str | None = None  # name of the run on codes that it starts from
    encoder: str | None = None  # name of the network that it refines


GOAE_WEIGHTS = PictureLearning(lam_adversarial=0.05, lam_background=5.0, lam_offsets=0.001)
"""Stage 1 (eq. 14)."""

REFINING = PictureLearning(samples=0, lam_code=0.0, lam_depth=0.0, rate=1e-3)
"""What all refinements share."""

RECIPES = {
    f"{GENERATOR}-psp": Recipe(
        "psp", PSPConfig.embedded(), PictureLearning(steps=6000, lpips_resolution=256), "psp"
    ),
    f"{GENERATOR}-e4e": Recipe(
        "psp",
        PSPConfig.embedded(progressive=True),
        PictureLearning(
            rate=1e-3, lam_adversarial=0.1, lam_offsets=2e-4, offsets="summed", lpips_resolution=256
        ),
        "e4e",
    ),
    f"{GENERATOR}-goae": Recipe("goae", GOAEConfig.embedded(), GOAE_WEIGHTS, "goae"),
    f"{GENERATOR}-goae-no_discriminator": Recipe(
        "goae", GOAEConfig.embedded(), dataclasses.replace(GOAE_WEIGHTS, lam_adversarial=0.0), "goae"
    ),
    f"{GENERATOR}-goae-no_background": Recipe(
        "goae", GOAEConfig.embedded(), dataclasses.replace(GOAE_WEIGHTS, lam_background=0.0), "goae"
    ),
    f"{GENERATOR}-goae-no_discriminator_no_background": Recipe(
        "goae",
        GOAEConfig.embedded(),
        dataclasses.replace(GOAE_WEIGHTS, lam_adversarial=0.0, lam_background=0.0),
        "goae",
    ),
    f"{GENERATOR}-goae-alignment": Recipe(
        "alignment",
        AFAConfig.embedded(),
        dataclasses.replace(REFINING, lam_background=5.0, lam_change=1e-4),
        encoder=f"{GENERATOR}-goae",
    ),
    f"{GENERATOR}-goae-convolution": Recipe(
        "alignment",
        AFAConfig.embedded(alignment="convolution", upright=True),
        dataclasses.replace(REFINING, lam_background=5.0, lam_change=1e-4),
        encoder=f"{GENERATOR}-goae",
    ),
    f"{GENERATOR}-triplanenet": Recipe(
        "triplanenet",
        TriPlaneNetConfig.embedded(),
        dataclasses.replace(REFINING, lam_mirror=0.1),
        encoder=f"{GENERATOR}-psp",
    ),
}
"""The networks of `portraits64`. Ablations are named `<network>-<what differs>`."""


# ----------------------------------------------------------------------- a run
def train(
    name: str,
    steps: int | None,
    code_steps: int | None,
    folder: Path,
    samples: int = 4000,
    processes: Processes = ALONE,
) -> nn.Module:
    """Train a network of RECIPES; resumes from `folder / name`, where every checkpoint writes `network.safetensors`.

    steps, code_steps: in place of the recipe's. A run on codes lies in `folder / "codes-<name>"` and is shared by those
    that start from it; what a refinement refines must have been trained, or ship.
    """
    if name not in RECIPES:
        raise ValueError(f"no encoder network is called {name!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    generator = load_generator(GENERATOR, processes.device)
    portraits = load_portraits(PLAN, generator.resolution, generator.neural_resolution)
    pictures = Pictures(generator, portraits, samples, folder)
    settings = recipe.pictures if steps is None else dataclasses.replace(recipe.pictures, steps=steps)
    if recipe.encoder is None:
        codes = Codes() if code_steps is None else Codes(steps=code_steps)
        network = trained_on_codes(generator, recipe, pictures, codes, folder, processes)
        learner_of, about = PictureLearner, {"codes": codes.steps}
    else:
        own = folder / recipe.encoder / "network.safetensors"  # trained beside this one
        stored = load_network(own if own.is_file() else network_path(recipe.encoder), processes.device)
        torch.manual_seed(settings.seed)
        network = KINDS[recipe.kind][0](recipe.config).to(processes.device)
        learner_of = functools.partial(RefinementLearner, stored.network)
        about = {"encoder": recipe.encoder}
    discriminator = None
    if settings.lam_adversarial:
        torch.manual_seed(settings.seed)
        discriminator = LatentDiscriminator(LatentDiscriminatorConfig.embedded(w_dim=generator.w_dim))
    trained = Trained(network, discriminator).to(processes.device)
    facts = {"generator": GENERATOR, "generator_sha256": generator_digest(generator), "name": name}
    facts |= {"settings": json.dumps(dataclasses.asdict(settings)), "trained": json.dumps(about)}

    def export(average: nn.Module, step: int) -> None:
        file = folder / name / "network.safetensors"
        save_network(average, recipe.kind, file, facts | {"steps": str(step)})

    return fit(
        trained,
        learner_of(generator, trained, pictures, settings, processes).phases(),
        Schedule(settings.steps),
        folder / name,
        averaged=trained.network,
        on_checkpoint=export,
        processes=processes,
    )


def trained_on_codes(
    generator: EG3D, recipe: Recipe, pictures: Pictures, settings: Codes, folder: Path, processes: Processes
) -> nn.Module:
    """An encoder after its run on codes: the average of its weights."""
    torch.manual_seed(settings.seed)
    encoder = KINDS[recipe.kind][0](recipe.config).to(processes.device)
    return fit(
        encoder,
        CodeLearner(generator, encoder, pictures, settings, processes).phases(),
        Schedule(settings.steps),
        folder / f"codes-{recipe.codes}",
        processes=processes,
    ).requires_grad_(True)


@dataclass(frozen=True)
class Options:
    """Train an encoder network of the study; goes on where it was interrupted."""

    name: Annotated[str, tyro.conf.Positional]
    """A network of RECIPES, such as portraits64-goae."""
    steps: int | None = None
    """Of the run on pictures; the recipe's by default."""
    code_steps: int | None = None
    """Of the run on codes, for encoders."""
    folder: Path = TRAINED
    """Gets a folder for each run, with checkpoint.pt, log.jsonl and network.safetensors."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    devices: int = 1
    """How many, with a process for each."""


def main(options: Options) -> None:
    """What the command line does."""
    what = (options.name, options.steps, options.code_steps, options.folder)
    launch(train, *what, device=options.device, devices=options.devices)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m lib.encoder_training"))
