"""EG3D's adversarial recipe (Chan et al., 2022), as data and small functions: a generator against a dual
discriminator, with R1 on both pictures, swapped pose conditioning, density regularisation, blur that fades,
rays that become more, and adaptive augmentation.

`python -m lib.adversarial --from portraits64` goes on from the distilled generator. A step has up to four
phases, each with its own batch; everything that a phase draws comes from the step's number. What does not depend on
who knows the camera, `AdversarialSettings` and `Recipe`, is also what `lib.adversarial_posefree` is made of.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from lib import datasets, evaluation, metrics, paths
from lib.augmentation import AugmentationSettings, Changes, Strength, apply_changes, draw_changes
from lib.cameras import Camera
from lib.generators import EG3D, Rendering, load_generator, save_generator
from lib.generators.checkpoints import load_discriminator
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator, PoseAwareDiscriminator
from lib.images import resize, save_image
from lib.losses import density_loss, discriminator_loss, generator_loss, r1_loss
from lib.training import ALONE, Phase, Processes, Schedule, fit, launch, save_whole

PAPER_BATCH = 32
"""Counts of images that are given "in proportion" are those of this batch."""

COMPARED = 1000
"""Portraits, and samples, that FID is taken of: as many as for the cards of the generators."""


# ----------------------------------------------------------------------- settings and schedules


@dataclass(frozen=True)
class AdversarialSettings:
    """Rates, weights and schedules of every recipe. The defaults are those of EG3D's first stage on FFHQ."""

    batch: int = PAPER_BATCH  # pictures a phase, over all processes
    rate_generator: float = 2.5e-3
    rate_discriminator: float = 2e-3
    betas: tuple[float, float] = (0.0, 0.99)
    gamma: float = 1.0  # of R1
    r1_every: int = 16  # steps; the loss is multiplied by it
    lam_density: float = 0.25
    density_every: int = 4
    density_points: int = 1000  # pairs
    density_extent: float = 1.0  # points are uniform in [-extent, extent]^3, world units
    density_distance: float = 0.004  # standard deviation of a neighbour's distance along each axis
    blur: float = 10.0  # first width of the blur, pixels
    blur_fade: int = 200_000  # images, in proportion
    neural_resolution: int = 64  # rays along a side
    neural_resolution_final: int | None = None  # what they grow to
    neural_resolution_fade: int = 1_000_000  # images
    average_half_life: int = 10_000  # images, in proportion
    average_ramp: float | None = 0.05  # None where the start is good already
    ada_target: float | None = None  # mean sign of real pictures' scores; None keeps the strength as it is
    ada_images: int = 500_000  # within which the strength may go from 0 to 1
    ada_every: int = 4
    augment: float = 0.0  # first strength of the augmentation
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    discriminator_alone: int = (
        0  # steps before the generator learns: a good one is spoilt by an ignorant judge
    )
    noise_mode: str = "random"  # of the generator's layers
    jitter: bool = True  # of the ray samples
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "r1_every", "density_every", "ada_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")

    @classmethod
    def embedded64(cls, **changes: Any) -> Self:
        """For the generators of 64 pixels, which can draw before they meet an opponent."""
        small = cls(
            batch=8,
            rate_generator=2e-4,  # ten times as much spoilt the start within 400 steps
            gamma=0.3,
            blur_fade=0,
            neural_resolution=32,
            average_ramp=None,
            discriminator_alone=300,
            noise_mode="const",
        )
        return dataclasses.replace(small, **changes)


@dataclass(frozen=True)
class EG3DSettings(AdversarialSettings):
    """Those of EG3D, whose codes are conditioned on cameras. The defaults are those of the first stage on FFHQ."""

    swap: float = (
        0.5  # how often a code is conditioned on another's camera, once faded in; first it is always
    )
    swap_fade: int = 1_000_000  # images

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.swap <= 1:
            raise ValueError(f"swap is a probability; got {self.swap}")

    @classmethod
    def ffhq512(cls, **changes: Any) -> EG3DSettings:
        """First stage of ffhq512-128: 64 rays along a side, for 25 million images."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def ffhq512_second_stage(cls, **changes: Any) -> EG3DSettings:
        """Second stage of ffhq512-128, from the first one's generator and discriminator: the rays double."""
        resumed = {"swap_fade": 0, "blur_fade": 0, "average_ramp": None}
        return cls.ffhq512(**{"neural_resolution_final": 128} | resumed | changes)

    @classmethod
    def afhq512(cls, **changes: Any) -> EG3DSettings:
        """afhqcats512-128, from FFHQ's."""
        few = {"gamma": 5.0, "swap": 0.8, "ada_target": 0.6, "ada_images": 100_000}
        return cls.ffhq512_second_stage(**few | changes)

    @classmethod
    def shapenet128(cls, **changes: Any) -> EG3DSettings:
        """shapenetcars128-64, whose generator ignores the conditioning camera."""
        return dataclasses.replace(cls(gamma=0.3), **changes)

    @classmethod
    def embedded64(cls, **changes: Any) -> EG3DSettings:
        """For portraits64, from its distilled weights."""
        return super().embedded64(**{"swap_fade": 0} | changes)


def faded(images: int, fade: int) -> float:
    """How much of a fade over so many images is over: 0 to 1; at once without a fade."""
    return min(images / fade, 1.0) if fade > 0 else 1.0


def swap_probability(images: int, s: EG3DSettings) -> float:
    """How often the conditioning camera is another's: from always to `swap` (sec. 4.4)."""
    done = faded(images, s.swap_fade)
    return (1 - done) + done * s.swap


def blur_width(images: int, s: AdversarialSettings) -> float:
    """Width of the blur over the discriminator's pictures, pixels: linear to none."""
    return s.blur * (1 - faded(images, round(in_proportion(s.blur_fade, s))))


def rays_along_side(images: int, s: AdversarialSettings) -> int:
    """Neural resolution: constant, or linear to the final one."""
    if s.neural_resolution_final is None:
        return s.neural_resolution
    done = faded(images, s.neural_resolution_fade)
    return round((1 - done) * s.neural_resolution + done * s.neural_resolution_final)


def in_proportion(images: float, s: AdversarialSettings) -> float:
    """A count of images that stands for a count of steps, scaled to this batch."""
    return images * s.batch / PAPER_BATCH


def lazy_adam(
    parameters: Sequence[nn.Parameter], rate: float, betas: tuple[float, float], every: int | None
) -> torch.optim.Adam:
    """Adam that takes a regularisation step besides every so many steps (Karras et al., 2020, appendix B).

    Rate and betas are to the power, or times, every / (every + 1), so that a time covers as many updates.
    """
    ratio = 1.0 if every is None else every / (every + 1)
    return torch.optim.Adam(parameters, rate * ratio, betas=tuple(beta**ratio for beta in betas), eps=1e-8)


# ----------------------------------------------------------------------- what the discriminator sees


def blur(image: Tensor, width: float) -> Tensor:
    """Pictures [B, C, H, W] under the kernel 2^-(x / width)^2, cut off at three widths; zeros lie outside."""
    reach = int(3 * width)
    if reach == 0:
        return image
    x = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp2(-((x / width) ** 2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
    image = F.conv2d(image, kernel, padding=(0, reach), groups=image.shape[1])
    return F.conv2d(image, kernel.transpose(2, 3), padding=(reach, 0), groups=image.shape[1])


def augment_pair(image: Tensor, image_raw: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """Picture and raw picture under the same changes, each at its own resolution."""
    both = torch.cat([image, resize(image_raw, image.shape[-2:])], dim=1)
    both = apply_changes(both, changes)
    return both[:, :3], resize(both[:, 3:], image_raw.shape[-2:])


class RealPictures:
    """Real pictures, with their camera labels where the recipe asks for them; `mirrored`: all of them twice."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None, *, mirrored: bool = True):
        """uint8 images [n, H, W, 3], labels [n, 25]."""
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.mirrored = mirrored
        self.labels = None
        if labels is not None:
            straight = Camera.from_label(torch.from_numpy(labels))
            self.labels = (Camera.cat([straight, straight.mirror()]) if mirrored else straight).label()

    def __len__(self) -> int:
        return len(self.images) * (2 if self.mirrored else 1)

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W] in [-1, 1] and labels [B, 25], if any; rows beyond the images are mirrored ones."""
        mirrored, of = np.divmod(rows, len(self.images))
        images = self.images[of].float() / 127.5 - 1
        flip = torch.from_numpy(mirrored.astype(bool))[:, None, None, None]
        return torch.where(flip, images.flip(3), images), None if self.labels is None else self.labels[rows]


# ----------------------------------------------------------------------- the recipe


class Draw(IntEnum):
    """What random numbers of a step are for. Numbers of one kind never depend on those of another."""

    REAL = 0
    GENERATOR = 1
    DENSITY = 2
    DISCRIMINATOR = 3
    R1 = 4
    REAL_AUGMENTATION = 5


class Players(nn.Module):
    """Everything that adversarial training changes."""

    def __init__(self, generator: EG3D, discriminator: DualDiscriminator, strength: float = 0.0):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.strength = Strength(strength)


class Real(NamedTuple):
    """Real pictures of a step."""

    image: Tensor  # [B, 3, H, W]
    image_raw: Tensor  # [B, 3, R, R], blurred as the step demands
    label: Tensor | None  # [B, 25]


@dataclass(frozen=True)
class Recipe(ABC):
    """The four phases of a step, without what a generator needs to know of cameras."""

    players: Players
    pictures: RealPictures
    settings: AdversarialSettings
    processes: Processes = ALONE

    # ---------------------------------------------------------------- what a recipe says
    @abstractmethod
    def generator_losses(self, step: int) -> dict[str, Tensor]:
        """What the generator minimises, of new pictures."""

    @abstractmethod
    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """What the discriminator minimises, of new pictures and of real ones."""

    @abstractmethod
    def score_real(self, real: Real, step: int, draw: Draw) -> Tensor:
        """The discriminator's scores [B] of real pictures."""

    @abstractmethod
    def density_codes(self, rng: np.random.Generator, step: int) -> Tensor:
        """w_plus [B, n_layers, w_dim] of the heads whose density is looked at."""

    # ---------------------------------------------------------------- the phases
    def phases(self) -> list[Phase]:
        """Generator, density, discriminator, R1, in EG3D's order; those of weight 0 are left out."""
        s = self.settings
        density_every = s.density_every if s.lam_density else None
        r1_every = s.r1_every if s.gamma else None
        generator = lazy_adam(
            list(self.players.generator.parameters()), s.rate_generator, s.betas, density_every
        )
        discriminator = lazy_adam(
            list(self.players.discriminator.parameters()), s.rate_discriminator, s.betas, r1_every
        )
        phases = [Phase(self.generator_losses, generator, first=s.discriminator_alone)]
        if density_every:
            phases.append(Phase(self.density_losses, generator, density_every, s.discriminator_alone))
        phases.append(Phase(self.discriminator_losses, discriminator))
        if r1_every:
            phases.append(Phase(self.r1_losses, discriminator, r1_every))
        return phases

    def density_losses(self, step: int) -> dict[str, Tensor]:
        """Smoothness of the density between random neighbours, of heads of their own."""
        s, generator = self.settings, self.players.generator
        rng = self.numbers(step, Draw.DENSITY)
        w_plus = self.density_codes(rng, step)
        points = rng.uniform(-s.density_extent, s.density_extent, (s.batch, s.density_points, 3))
        neighbours = points + s.density_distance * rng.standard_normal(points.shape)
        (points,) = self.share(np.concatenate([points, neighbours], axis=1))
        planes = generator.planes(w_plus, s.noise_mode, self.noise(step, Draw.DENSITY))
        density, _ = generator.sample(planes, points)
        smoothness = density_loss(*density.to(points).chunk(2, dim=1)).mean()
        return {"density": s.density_every * s.lam_density * smoothness}

    def r1_losses(self, step: int) -> dict[str, Tensor]:
        """R1 on picture and raw picture of the step's real ones."""
        s = self.settings
        image, image_raw, label = self.reals(step)
        inputs = [picture.clone().requires_grad_() for picture in (image, image_raw)]
        penalty = r1_loss(self.score_real(Real(*inputs, label), step, Draw.R1), inputs).mean()
        return {"r1": s.r1_every * s.gamma / 2 * penalty}

    # ---------------------------------------------------------------- pictures and scores
    def views(
        self, w_plus: Tensor, cameras: Sequence[Camera | Tensor], step: int, draw: Draw
    ) -> list[Rendering]:
        """The heads of w_plus as a batch of cameras sees them, and then the next: all of the same planes."""
        s, generator = self.settings, self.players.generator
        noise = self.noise(step, draw)
        planes = generator.planes(w_plus, s.noise_mode, noise)
        jitter, rays = noise if s.jitter else None, rays_along_side(step * s.batch, s)
        return [
            generator.render(planes, w_plus, camera, rng=jitter, neural_resolution=rays) for camera in cameras
        ]

    def reals(self, step: int) -> Real:
        """Real pictures, their raw ones and their labels, if any."""
        s = self.settings
        rows = self.numbers(step, Draw.REAL).integers(len(self.pictures), size=s.batch)
        image, label = self.pictures[self.processes.share(rows)]
        image, label = image.to(self.like), None if label is None else label.to(self.like)
        raw = resize(image, rays_along_side(step * s.batch, s))
        return Real(image, blur(raw, blur_width(step * s.batch, s)), label)

    def judge(
        self, image: Tensor, image_raw: Tensor, condition: Tensor | None, step: int, draw: Draw, part: int = 1
    ) -> Any:
        """What the discriminator says of pictures under a condition, blurred and augmented as the step demands."""
        s, strength = self.settings, self.players.strength.value.item()
        image, image_raw = image.to(self.like), image_raw.to(self.like)
        with torch.autocast(image.device.type, enabled=False):  # the discriminator has its own precision
            image = blur(image, blur_width(step * s.batch, s))
            if strength > 0:
                changes = draw_changes(self.numbers(step, draw, part), s.batch, strength, s.augmentation)
                changes = Changes(*(self.processes.share(value) for value in changes))
                image, image_raw = augment_pair(image, image_raw, changes)
            return self.players.discriminator(image, image_raw, condition, self.noise(step, draw, part))

    @torch.no_grad()
    def track_mean(self, w: Tensor) -> None:
        """Bring the generator's mean of w [w_dim] up to date with a batch [B, w_dim]."""
        mean_w = self.processes.mean(w.mean(dim=0, keepdim=True))
        self.players.generator.backbone.mapping.update_w_avg(mean_w)

    def adapt(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """Adapt the augmentation to the scores of real pictures; returns what the log says of it."""
        s, strength = self.settings, self.players.strength
        sign = self.processes.mean(real.detach().sign().mean())
        if s.ada_target is not None:
            strength.note(sign)
            if (step + 1) % s.ada_every == 0:
                strength.adapt(s.ada_target, s.batch * s.ada_every, s.ada_images)
        return {"sign_real": sign, "augmentation": strength.value.clone()}

    # ---------------------------------------------------------------- random numbers
    def latents(self, rng: np.random.Generator) -> np.ndarray:
        """z [batch, z_dim] of the whole batch."""
        return rng.standard_normal((self.settings.batch, self.players.generator.z_dim))

    def share(self, *columns: np.ndarray) -> list[Tensor]:
        """This process's rows of drawn columns, as tensors on its device, in the weights' precision."""
        return [torch.from_numpy(self.processes.share(column)).to(self.like) for column in columns]

    @property
    def like(self) -> Tensor:
        """Has the device and the precision of the weights."""
        return next(self.players.parameters())

    def numbers(self, step: int, draw: Draw, part: int = 0) -> np.random.Generator:
        """Random numbers of the whole batch: the same in every process."""
        return np.random.default_rng([self.settings.seed, step, draw, part])

    def noise(self, step: int, draw: Draw, part: int = 0) -> torch.Generator:
        """Random numbers of this process's share, on its device."""
        key = [self.settings.seed, step, draw, part, self.processes.rank]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        return torch.Generator(self.processes.device).manual_seed(seed)


@dataclass(frozen=True)
class EG3DRecipe(Recipe):
    """EG3D's: pictures are judged under their cameras, which codes are conditioned on, but not always on their own."""

    settings: EG3DSettings

    def generator_losses(self, step: int) -> dict[str, Tensor]:
        """Non-saturating loss of new pictures."""
        view, label, _ = self.fakes(step, Draw.GENERATOR)
        score = self.judge(view.image, view.image_raw, label, step, Draw.GENERATOR)
        return {"generator": generator_loss(score).mean()}

    def discriminator_losses(self, step: int) -> dict[str, Tensor]:
        """Logistic loss of new pictures and of real ones; adapts the augmentation to the latter's scores."""
        with torch.no_grad():
            view, label, w = self.fakes(step, Draw.DISCRIMINATOR)
        self.track_mean(w)
        fake = self.judge(view.image, view.image_raw, label, step, Draw.DISCRIMINATOR)
        real = self.score_real(self.reals(step), step, Draw.REAL_AUGMENTATION)
        return {
            "discriminator": discriminator_loss(real, fake).mean(),
            "score_real": real.detach().mean(),
            "score_fake": fake.detach().mean(),
        } | self.adapt(real, step)

    def score_real(self, real: Real, step: int, draw: Draw) -> Tensor:
        """The scores [B] of real pictures under their labels."""
        return self.judge(*real, step, draw)

    def fakes(self, step: int, draw: Draw) -> tuple[Rendering, Tensor, Tensor]:
        """New pictures, the labels of their cameras [B, 25], and their w [B, w_dim].

        Cameras are those of real pictures. Some codes are conditioned on the camera of the neighbour in the
        batch, so that the code cannot rely on the pose; the rendering camera stays.
        """
        s, rng = self.settings, self.numbers(step, draw)
        z, label = self.latents_and_labels(rng)
        swapped = rng.random(s.batch) < swap_probability(step * s.batch, s)
        conditioning = np.where(swapped[:, None], np.roll(label, 1, axis=0), label)
        z, label, conditioning = self.share(z, label, conditioning)
        w_plus = self.players.generator.map(z, conditioning)
        (view,) = self.views(w_plus, [label], step, draw)
        return view, label, w_plus[:, 0]

    def density_codes(self, rng: np.random.Generator, step: int) -> Tensor:
        """Codes that are conditioned on their neighbours' cameras as often as others; one draw for the batch."""
        s = self.settings
        z, label = self.latents_and_labels(rng)
        swapped = rng.random() < swap_probability(step * s.batch, s)
        return self.players.generator.map(*self.share(z, np.roll(label, 1, axis=0) if swapped else label))

    def latents_and_labels(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """z [batch, z_dim] and labels of real pictures [batch, 25], of the whole batch."""
        z = self.latents(rng)
        return z, self.pictures.labels[rng.integers(len(self.pictures), size=self.settings.batch)].numpy()


# ----------------------------------------------------------------------- a run


def train(
    start: str | Path,
    settings: EG3DSettings,
    steps: int,
    folder: Path,
    opponent: str | Path | None = None,
    checkpoint_every: int = 250,
    processes: Processes = ALONE,
) -> EG3D:
    """Train on from a generator, by the sampled portraits; returns the average. Resumes from the folder.

    `opponent` is a file with the discriminator to begin with; None begins with a new one.
    """
    generator = load_generator(start, processes.device).requires_grad_(True)
    portraits = datasets.load_portraits(datasets.Plan(), generator.resolution, generator.neural_resolution)
    portraits = portraits[~portraits.held_out]
    discriminator = opponent_of(opponent, DiscriminatorConfig.embedded(generator.resolution), settings.seed)
    players = Players(generator, discriminator, settings.augment).to(processes.device)
    recipe = EG3DRecipe(players, RealPictures(portraits.images, portraits.labels), settings, processes)
    return play(recipe, start, steps, folder, checkpoint_every)


def opponent_of(file: str | Path | None, config: DiscriminatorConfig, seed: int) -> DualDiscriminator:
    """The discriminator of a file, or a new one of a configuration."""
    if file is not None:
        return load_discriminator(file)
    kind = PoseAwareDiscriminator if config.pose_branch else DualDiscriminator
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def play(
    recipe: Recipe, start: str | Path | None, steps: int, folder: Path, checkpoint_every: int = 250
) -> EG3D:
    """Take a recipe's steps; returns the average generator. Resumes from the folder.

    Every checkpoint also writes the average as `generator.safetensors`, which says what it started from, and the
    discriminator as `discriminator.pt`.
    """
    players, s = recipe.players, recipe.settings

    def export(average: EG3D, step: int) -> None:
        save_generator(
            average.measure_w(),
            folder / "generator.safetensors",
            metadata={
                "from": str(start),
                "adversarial_steps": str(step),
                "adversarial_settings": json.dumps(dataclasses.asdict(s)),
            },
        )
        contents = {
            "D": players.discriminator.state_dict(),
            "init_kwargs": players.discriminator.config.to_dict(),
        }
        save_whole(contents, folder / "discriminator.pt")

    return fit(
        players,
        recipe.phases(),
        Schedule(steps, warm_up=1, decay_fraction=0.0),
        folder,
        averaged=players.generator,
        average_half_life=in_proportion(s.average_half_life, s) / s.batch,
        average_ramp=s.average_ramp,
        checkpoint_every=checkpoint_every,
        mend=True,
        on_checkpoint=export,
        processes=recipe.processes,
    )


def compare(start: str | Path, folder: Path) -> dict[str, Any]:
    """FID before and after, of as many samples as portraits, and both generators' first samples as a picture.

    Portraits and seeds are those of the model cards. Writes `results.json` and `samples.png` into the folder.
    """
    generators = {"before": load_generator(start), "after": load_generator(folder / "generator.safetensors")}
    size = generators["after"].resolution, generators["after"].neural_resolution
    portraits = datasets.load_portraits(datasets.Plan(), *size)
    chosen = np.sort(np.random.default_rng(1).choice(len(portraits), COMPARED, replace=False))
    real = metrics.inception_features(evaluation.to_images(portraits.images[chosen]))
    labels = torch.from_numpy(portraits.labels[chosen])
    numbers: dict[str, Any] = {"images": COMPARED}
    sheets = []
    for name, generator in generators.items():
        samples = evaluation.sample_images(generator, labels)
        numbers[f"fid_{name}"] = metrics.frechet_distance(metrics.inception_features(samples), real)
        sheets.append(samples[:16].unflatten(0, (4, 4)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2))
    save_image(folder / "samples.png", torch.cat(sheets, dim=2)[None])
    with paths.replacing(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers


@dataclass(frozen=True)
class RunOptions:
    """What every recipe's command asks for."""

    opponent: Path | None = None
    """File of the discriminator to begin with, of an earlier run or an official checkpoint; a new one without."""
    steps: int = 2000
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    devices: int = 1
    """How many, with a process for each."""
    checkpoint_every: int = 250


@dataclass(frozen=True)
class Options(RunOptions):
    """Train a generator on by EG3D's adversarial recipe; goes on where it was interrupted."""

    start: Annotated[str, tyro.conf.arg(name="from")] = "portraits64"
    """Name or file of the generator to begin with."""
    folder: Path = paths.CACHE / "training" / "adversarial64"
    """Gets checkpoint.pt, log.jsonl, generator.safetensors and discriminator.pt."""
    compare: bool = False
    """Measure the folder's generator against the one to begin with, instead of training."""
    settings: Annotated[EG3DSettings, tyro.conf.arg(name="")] = field(default_factory=EG3DSettings.embedded64)


def main(options: Options) -> None:
    """What the command line does."""
    if options.compare:
        print(compare(options.start, options.folder))
        return
    what = (options.start, options.settings, options.steps, options.folder, options.opponent)
    launch(train, *what, options.checkpoint_every, device=options.device, devices=options.devices)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m lib.adversarial"))
