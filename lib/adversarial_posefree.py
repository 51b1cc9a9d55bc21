"""PoF3D's adversarial recipe (Shi et al., 2023, "Learning 3D-aware Image Synthesis with Unknown Pose Distribution"): a
generator whose codes say their cameras, against a discriminator that says the pose of a picture before it judges it.

What it shares with EG3D's is `lib.adversarial.Recipe`: R1 on both pictures, density regularisation, blur that fades,
adaptive augmentation. No camera is known of any picture; what makes up for it is

* a second picture of every head, from the mirror image of its camera: a head that is right from one side only is found
  out,
* pose supervision: the discriminator learns poses from the generator's pictures, of which they are known,
* pose consistency: the pose learner is taught what the discriminator sees in its own pictures.

`python -m lib.adversarial_posefree --from portraits64-posefree` trains on; `--discriminator plain` is the ablation of
Luo & Ghosh, Table 2, whose discriminator judges pictures without poses.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from lib import datasets, paths
from lib.adversarial import (
    AdversarialSettings,
    Draw,
    Players,
    Real,
    RealPictures,
    Recipe,
    RunOptions,
    opponent_of,
    play,
)
from lib.generators import PoseFreeConfig, PoseFreeEG3D, load_generator
from lib.generators.discriminators import DiscriminatorConfig
from lib.generators.posefree import Pose
from lib.losses import generator_loss, pose_agreement_loss
from lib.shapes import PerImage, checked
from lib.training import ALONE, Processes, launch

# ----------------------------------------------------------------------- settings


@dataclass(frozen=True)
class PoseFreeSettings(AdversarialSettings):
    """Those of PoF3D. The defaults are the released recipe for FFHQ."""

    discriminator: Literal["pose_aware", "plain"] = "pose_aware"  # "plain": judges pictures, without any pose
    conditioning: Literal["own", "generator"] = "own"  # whose pose samples are judged under: see `condition`
    mirrored_view: bool = True  # whether heads are also seen from the mirror images of their cameras
    lam_fake: float = 1.0  # of each view in the discriminator's loss: the code's `flip_to_disd_weight`
    lam_consistency: float = 1.0  # the generator's pose is taught by the discriminator's
    lam_supervision: float = 2.0  # the discriminator's pose is taught by the generator's

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {"discriminator": ("pose_aware", "plain"), "conditioning": ("own", "generator")}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {' or '.join(choices)}; got {getattr(self, name)!r}")

    @classmethod
    def ffhq256(cls, **changes: Any) -> PoseFreeSettings:
        """FFHQ, pictures of 256 pixels, 25 million of them."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def cats(cls, **changes: Any) -> PoseFreeSettings:
        """Cats, pictures of 256 pixels."""
        return dataclasses.replace(cls(gamma=5.0, lam_consistency=10.0, lam_supervision=10.0), **changes)

    @classmethod
    def cars(cls, **changes: Any) -> PoseFreeSettings:
        """ShapeNet's cars, pictures of 128 pixels, whose generator has pose_mean_h pi."""
        return dataclasses.replace(cls(gamma=0.3, lam_consistency=2.0, lam_supervision=2.0), **changes)


# ----------------------------------------------------------------------- definitions


@checked
def mirrored_pose(pose: Pose, mean_h: float, sideways: bool) -> Pose:
    """Poses (h, v) of the cameras' mirror images: left becomes right, h -> 2 mean_h - h, or up down, v -> pi - v.

    The camera's position changes the sign of one coordinate, x or y for a face (mean_h pi / 2), and looks at the pivot
    again. That is what the released code does to the camera's matrix, where the pivot lies in the mirror's plane.
    """
    h, v = pose.unbind(dim=1)
    return torch.stack([2 * mean_h - h, v] if sideways else [h, math.pi - v], dim=1)


@checked
def judging_loss(real: PerImage, fakes: list[PerImage], lam_fake: float = 1.0) -> PerImage:
    """-log sigmoid(real) - lam_fake sum log(1 - sigmoid(fake)), over the views of each new head."""
    return F.softplus(-real) + lam_fake * sum(F.softplus(fake) for fake in fakes)


# ----------------------------------------------------------------------- the recipe


class View(NamedTuple):
    """Pictures of new heads, and the poses that they are seen from."""

    image: Tensor  # [B, 3, H, W]
    image_raw: Tensor  # [B, 3, R, R]
    pose: Tensor  # [B, 2]


@dataclass(frozen=True)
class PoseFreeRecipe(Recipe):
    """PoF3D's. Neither networks nor pictures know a camera label."""

    settings: PoseFreeSettings

    def __post_init__(self) -> None:
        generator, discriminator = self.players.generator, self.players.discriminator.config
        if not isinstance(generator, PoseFreeEG3D):
            raise ValueError(
                f"expected a generator that says its own poses, a PoseFreeEG3D; got {type(generator).__name__}: "
                "lib.pose_learning makes the one of the other"
            )
        expected = opponent_config(discriminator.resolution, self.settings)
        if (discriminator.pose_branch, discriminator.c_dim) != (expected.pose_branch, expected.c_dim):
            raise ValueError(
                f"a {self.settings.discriminator} discriminator has pose_branch={expected.pose_branch} and "
                f"c_dim={expected.c_dim}; got {discriminator.pose_branch} and {discriminator.c_dim}"
            )
        if self.pictures.labels is not None:
            raise ValueError("no camera label enters this training: expected RealPictures without labels")

    @property
    def pose_aware(self) -> bool:
        return self.settings.discriminator == "pose_aware"

    def generator_losses(self, step: int) -> dict[str, Tensor]:
        """Non-saturating loss of both views of new heads, of one weight, and pose consistency.

        The score teaches the pose learner, too, through the camera. Consistency teaches nothing else: w has no
        gradient.
        """
        w, views = self.fakes(step, Draw.GENERATOR)
        scores, poses = self.judged(views, step, Draw.GENERATOR)
        losses = {"generator": generator_loss(scores[0]).mean()}
        if self.settings.mirrored_view:
            losses["mirrored"] = generator_loss(scores[1]).mean()
        if self.pose_aware:
            own = self.players.generator.pose(w.detach())
            losses["consistency"] = self.settings.lam_consistency * pose_agreement_loss(own, poses[0]).mean()
        return losses | self.spread(views[0].pose.detach())

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """Logistic loss of new heads' views and of real pictures, and pose supervision by the heads' own views.

        Adapts the augmentation to the scores of real pictures.
        """
        s = self.settings
        with torch.no_grad():
            w, views = self.fakes(step, Draw.DISCRIMINATOR)
        self.track_mean(w)
        fakes, poses = self.judged(views, step, Draw.DISCRIMINATOR)
        real = self.score_real(self.reals(step), step, Draw.REAL_AUGMENTATION)
        losses = {"discriminator": judging_loss(real, fakes, s.lam_fake).mean()}
        if self.pose_aware:
            losses["supervision"] = s.lam_supervision * pose_agreement_loss(poses[0], views[0].pose).mean()
        scores = {"score_real": real.detach().mean(), "score_fake": fakes[0].detach().mean()}
        return losses | scores | self.adapt(real, step)

    def score_real(self, real: Real, step: int, draw: Draw) -> Tensor:
        """Scores [B] of real pictures under the poses that the discriminator sees in them."""
        return self.verdict(real.image, real.image_raw, None, step, draw)[0]

    # ---------------------------------------------------------------- pictures and scores
    def fakes(self, step: int, draw: Draw) -> tuple[Tensor, list[View]]:
        """w [B, w_dim] of new heads, and their views: from their own cameras, then from the mirror images of those.

        Half of the batches have mirror images to the side, half upside down.
        """
        generator, rng = self.players.generator, self.numbers(step, draw)
        (z,) = self.share(self.latents(rng))
        w_plus = generator.map(z)
        poses = [generator.pose(w_plus[:, 0])]
        if self.settings.mirrored_view:
            poses.append(mirrored_pose(poses[0], generator.config.pose_mean_h, sideways=rng.random() < 0.5))
        views = self.views(w_plus, [generator.camera_at(pose) for pose in poses], step, draw)
        pictures = ((view.image, view.image_raw) for view in views)
        return w_plus[:, 0], [View(*pair, pose) for pair, pose in zip(pictures, poses, strict=True)]

    def judged(self, views: list[View], step: int, draw: Draw) -> tuple[list[Tensor], list[Tensor | None]]:
        """Scores and seen poses of one view after the other: no picture is compared with its own mirror image."""
        verdicts = [
            self.verdict(view.image, view.image_raw, self.condition(view.pose), step, draw, part)
            for part, view in enumerate(views, start=1)
        ]
        return [score for score, _ in verdicts], [pose for _, pose in verdicts]

    def condition(self, pose: Tensor) -> Tensor | None:
        """The pose [B, 2] that samples are judged under; None for the one that the discriminator sees, if any.

        "own" is the released code's, and what real pictures have; "generator", in the text of Luo & Ghosh, pairs a
        sample with the pose that it was rendered from. Neither has a gradient: a pose learner should take a pose, not
        claim it.
        """
        by_generator = self.pose_aware and self.settings.conditioning == "generator"
        return pose.detach() if by_generator else None

    def verdict(
        self, image: Tensor, image_raw: Tensor, condition: Tensor | None, step: int, draw: Draw, part: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """Scores [B] of pictures, and the poses [B, 2] that the discriminator sees in them: None of a plain one."""
        said = self.judge(image, image_raw, condition, step, draw, part)
        return said if self.pose_aware else (said, None)

    def density_codes(self, rng: np.random.Generator, step: int) -> Tensor:
        """Codes of new heads."""
        return self.players.generator.map(*self.share(self.latents(rng)))

    def spread(self, pose: Tensor) -> dict[str, Tensor]:
        """Standard deviation of the batch's poses, radians: that of a generator whose poses collapse goes to 0."""
        mean = self.processes.mean(pose.mean(dim=0))
        variance = self.processes.mean((pose - mean).square().mean(dim=0))
        return dict(zip(("spread_h", "spread_v"), variance.sqrt(), strict=True))


# ----------------------------------------------------------------------- a run


def opponent_config(resolution: int, s: PoseFreeSettings) -> DiscriminatorConfig:
    """The discriminator for pictures of a resolution: it knows the two numbers of a pose, or none."""
    aware = s.discriminator == "pose_aware"
    return DiscriminatorConfig.embedded(resolution, c_dim=2 if aware else 0, pose_branch=aware)


def train(
    start: str | Path | None,
    settings: PoseFreeSettings,
    steps: int,
    folder: Path,
    opponent: str | Path | None = None,
    checkpoint_every: int = 250,
    processes: Processes = ALONE,
) -> PoseFreeEG3D:
    """Train on from a pose-free generator, by the sampled portraits; returns the average. Resumes from the folder.

    `start` None begins with a new generator of 64 pixels, `opponent` None with a new discriminator.
    """
    generator = new_generator(settings.seed) if start is None else load_generator(start)
    portraits = datasets.load_unposed_portraits(datasets.Plan(), generator.resolution)
    pictures = RealPictures(portraits[~portraits.held_out].images, mirrored=False)
    discriminator = opponent_of(opponent, opponent_config(generator.resolution, settings), settings.seed)
    players = Players(generator.requires_grad_(True), discriminator, settings.augment).to(processes.device)
    recipe = PoseFreeRecipe(players, pictures, settings, processes)
    return play(recipe, start, steps, folder, checkpoint_every)


def new_generator(seed: int) -> PoseFreeEG3D:
    """A pose-free generator of 64 pixels that knows nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PoseFreeEG3D(PoseFreeConfig.embedded(64))


@dataclass(frozen=True)
class Options(RunOptions):
    """Train a pose-free generator by PoF3D's adversarial recipe; goes on where it was interrupted."""

    start: Annotated[str | None, tyro.conf.arg(name="from")] = "portraits64-posefree"
    """Name or file of the generator to begin with; None for a new one, which wants the rates and fades of `ffhq256`."""
    folder: Path = paths.CACHE / "training" / "adversarial64-posefree"
    """Gets checkpoint.pt, log.jsonl, generator.safetensors and discriminator.pt."""
    settings: Annotated[PoseFreeSettings, tyro.conf.arg(name="")] = field(
        default_factory=PoseFreeSettings.embedded64
    )


def main(options: Options) -> None:
    """What the command line does."""
    what = (options.start, options.settings, options.steps, options.folder, options.opponent)
    launch(train, *what, options.checkpoint_every, device=options.device, devices=options.devices)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m lib.adversarial_posefree"))
