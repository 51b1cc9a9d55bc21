"""A tiny generator against a tiny discriminator, over pictures that another generator rendered."""

import torch

from lib.adversarial import AdversarialSettings, Players, RealPictures, Recipe
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator
from lib.training import ALONE, Processes, Schedule, fit
from tests.tiny_generator import tiny_generator
from tests.tiny_portraits import portrait_generator, rendered_portraits

SETTINGS = AdversarialSettings(
    batch=4,
    r1_every=4,
    density_every=2,
    density_points=20,
    neural_resolution=8,
    swap_fade=0,
    blur_fade=0,
    average_ramp=None,
    noise_mode="const",
)


def real_pictures() -> RealPictures:
    portraits = rendered_portraits(portrait_generator(), people=4, views=2, singles=4)
    return RealPictures(portraits.images, portraits.labels)


def players(strength: float = 0.0) -> Players:
    """The same ones each time."""
    config = DiscriminatorConfig.embedded(16, channel_base=128, channel_max=8, mapping_layers=2, group_size=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Players(tiny_generator().requires_grad_(True), DualDiscriminator(config), strength)


def recipe(settings: AdversarialSettings = SETTINGS, *, double: bool = False) -> Recipe:
    both = players(settings.augment)
    return Recipe(both.double() if double else both, real_pictures(), settings)


def train_in_double(folder, settings: AdversarialSettings, steps: int, processes: Processes = ALONE) -> None:
    """A run whose rounding errors are too small to be seen, to compare numbers of processes by."""
    alone = recipe(settings, double=True)
    shared = Recipe(alone.players, alone.pictures, settings, processes)
    fit(
        shared.players,
        shared.phases(),
        Schedule(steps, warm_up=1, decay_fraction=0.0),
        folder,
        averaged=shared.players.generator,
        log_every=1,
        processes=processes,
    )
