"""A tiny generator against a tiny discriminator, over pictures that another generator rendered: EG3D's and PoF3D's."""

import dataclasses
import json

import torch

from lib.adversarial import AdversarialSettings, EG3DRecipe, EG3DSettings, Players, RealPictures, Recipe
from lib.adversarial_posefree import PoseFreeRecipe, PoseFreeSettings, opponent_config
from lib.generators import PoseFreeConfig, PoseFreeEG3D
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator, PoseAwareDiscriminator
from lib.training import ALONE, Processes, Schedule, fit
from tests.tiny_generator import TINY, tiny_generator
from tests.tiny_portraits import portrait_generator, rendered_portraits

QUICK = {
    "batch": 4,
    "r1_every": 4,
    "density_every": 2,
    "density_points": 20,
    "neural_resolution": 8,
    "blur_fade": 0,
    "average_ramp": None,
    "noise_mode": "const",
}
SETTINGS = EG3DSettings(**QUICK, swap_fade=0)
POSEFREE = PoseFreeSettings(**QUICK)

SMALL = {"channel_base": 128, "channel_max": 8, "mapping_layers": 2, "group_size": 2}
"""Sizes of the discriminators."""


# ----------------------------------------------------------------------- players
def real_pictures(labelled: bool = True) -> RealPictures:
    portraits = rendered_portraits(portrait_generator(), people=4, views=2, singles=4)
    return RealPictures(portraits.images, portraits.labels if labelled else None, mirrored=labelled)


def players(strength: float = 0.0) -> Players:
    """The same ones each time."""
    config = DiscriminatorConfig.embedded(16, **SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Players(tiny_generator().requires_grad_(True), DualDiscriminator(config), strength)


def posefree_generator() -> PoseFreeEG3D:
    """The tiny generator without a camera, whose codes say poses some tenths of a radian from the front."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = PoseFreeEG3D(PoseFreeConfig.like(TINY))
    weights = tiny_generator().state_dict()
    kept = {key: value for key, value in weights.items() if not key.startswith("backbone.mapping.")}
    generator.load_state_dict(generator.state_dict() | kept)
    with torch.no_grad():
        generator.backbone.mapping.affine_layer2.weight.mul_(0.3)
    return generator.requires_grad_(True)


def posefree_players(settings: PoseFreeSettings) -> Players:
    """The same ones each time."""
    config = dataclasses.replace(opponent_config(16, settings), **SMALL)
    kind = PoseAwareDiscriminator if config.pose_branch else DualDiscriminator
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Players(posefree_generator(), kind(config), settings.augment)


# ----------------------------------------------------------------------- recipes
def recipe(settings: EG3DSettings = SETTINGS, *, double: bool = False) -> EG3DRecipe:
    both = players(settings.augment)
    return EG3DRecipe(both.double() if double else both, real_pictures(), settings)


def posefree_recipe(settings: PoseFreeSettings = POSEFREE, *, double: bool = False) -> PoseFreeRecipe:
    both = posefree_players(settings)
    return PoseFreeRecipe(both.double() if double else both, real_pictures(labelled=False), settings)


# ----------------------------------------------------------------------- runs
class Killed(BaseException):
    """Stands for whatever ends a process."""


def run(one: Recipe, folder, steps: int = 6, killed_at: int | None = None) -> Recipe:
    """Training as a new process would start it; returns what was trained."""
    phases = one.phases()
    if killed_at is not None:
        last = phases[-2]  # the discriminator's: in the middle of a step

        def losses(step: int) -> dict:
            if step == killed_at:
                raise Killed
            return last.losses(step)

        phases[-2] = dataclasses.replace(last, losses=losses)
    fit(
        one.players,
        phases,
        Schedule(steps, warm_up=1, decay_fraction=0.0),
        folder,
        averaged=one.players.generator,
        average_half_life=5,
        checkpoint_every=2,
        log_every=3,
        mend=True,
    )
    return one


def train_in_double(folder, settings: AdversarialSettings, steps: int, processes: Processes = ALONE) -> None:
    """A run whose rounding errors are too small to be seen, to compare numbers of processes by."""
    make = posefree_recipe if isinstance(settings, PoseFreeSettings) else recipe
    shared = dataclasses.replace(make(settings, double=True), processes=processes)
    fit(
        shared.players,
        shared.phases(),
        Schedule(steps, warm_up=1, decay_fraction=0.0),
        folder,
        averaged=shared.players.generator,
        log_every=1,
        processes=processes,
    )


def rows(folder) -> list[dict]:
    """What a run logged."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def state(folder) -> dict:
    """A run's last checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(found, expected) -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"seconds"}:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected
