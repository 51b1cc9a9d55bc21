"""Encoder networks of seconds, the real classes, for a tiny generator that has all of the blocks they know."""

import contextlib
import dataclasses
import functools
import json
from unittest import mock

import torch
from torch import Tensor, nn

from lib import encoder_training
from lib.datasets import Portraits
from lib.encoder_training import PictureLearner, PictureLearning, Pictures, RefinementLearner, Trained
from lib.encoders.encoder import generator_digest
from lib.encoders.feature_alignment import AFAConfig
from lib.encoders.geometry_aware import GOAEConfig
from lib.encoders.irse import IRSEConfig
from lib.encoders.latent_discriminator import LatentDiscriminator, LatentDiscriminatorConfig
from lib.encoders.psp import PSPConfig
from lib.encoders.storage import KINDS, save_network
from lib.encoders.triplanenet import TriPlaneNetConfig
from lib.generators import EG3D
from lib.training import ALONE, Processes, Schedule, fit
from tests.tiny_generator import RandomFeatures
from tests.tiny_portraits import portrait_generator, rendered_portraits

LAYERS, W_DIM, PLANES, CHANNELS = 10, 16, 64, 4

BODY = IRSEConfig.embedded(stem=8, units=(1, 1, 1, 1), widths=(8, 8, 16, 16))
PSP = PSPConfig.embedded(resolution=32, w_dim=W_DIM, zero_start=False, body=BODY)
GOAE = GOAEConfig.embedded(
    resolution=32,
    dims=(8, 8, 16, 16),
    depths=(1, 1, 1, 1),
    heads=(1, 1, 2, 2),
    window=4,
    bias_hidden=8,
    w_dim=W_DIM,
    attention_dim=8,
    attention_heads=2,
    attention_hidden=16,
    lift_hidden=(8, 8),
)
AFA = AFAConfig.embedded(
    resolution=32,
    channels=16,
    body=IRSEConfig.embedded(stem=8, units=(1, 1), widths=(8, 8)),
    width=8,
    heads=2,
    hidden=16,
)
TRIPLANENET = TriPlaneNetConfig.embedded(
    resolution=PLANES,
    plane_channels=CHANNELS,
    decoder=(8, 8, 8, 8),
    upsampling="nearest",
    head=8,
    plane_scale=1.0,
    zero_start=False,
    body=IRSEConfig.embedded(in_channels=9, units=(1, 1, 1, 2), widths=(8, 8, 8, 8)),
)
NETWORKS = {
    "portraits64-psp": ("psp", PSP),
    "portraits64-e4e": ("psp", dataclasses.replace(PSP, progressive=True)),
    "portraits64-triplanenet": ("triplanenet", TRIPLANENET),
    "portraits64-goae": ("goae", GOAE),
    "portraits64-goae-alignment": ("alignment", AFA),
    "portraits64-goae-convolution": ("alignment", dataclasses.replace(AFA, alignment="convolution")),
}
"""By the names of the study: kind and configuration."""


def deep_generator() -> EG3D:
    """The tiny generator of portraits with planes of 64 texels, and so with the ten layers of `portraits64`.

    16-pixel pictures; features of 16 channels at 32 x 32.
    """
    shallow = portrait_generator()
    config = dataclasses.replace(shallow.config, plane_resolution=PLANES, channel_base=1024)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = EG3D(config)
    generator.load_state_dict(generator.state_dict() | shallow.state_dict())
    for layer in (generator.backbone.synthesis.b32.torgb, generator.backbone.synthesis.b64.torgb):
        layer.weight.data.mul_(0.4)  # two more blocks must not add to brighter pictures
    return generator.eval().requires_grad_(False).measure_w(n=500)


def network(kind: str, config, seed: int = 0) -> nn.Module:
    """Random weights, none of them zero: what begins as "no change" changes something here."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = KINDS[kind][0](config)
        if kind == "alignment":
            for layer in (made.conv_gamma, made.conv_beta):
                layer.weight.data.normal_(std=0.3)
    return made.eval()


def write_networks(folder, generator: EG3D, names=tuple(NETWORKS)) -> None:
    """Networks as the study ships them, in a folder."""
    for seed, name in enumerate(names):
        kind, config = NETWORKS[name]
        facts = {"generator": "portraits64", "generator_sha256": generator_digest(generator), "name": name}
        save_network(network(kind, config, seed), kind, folder / f"{name}.safetensors", facts)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


# ----------------------------------------------------------------------- training
def portraits(generator: EG3D, n: int = 6, held_out: int = 2) -> Portraits:
    """Single portraits, each of a z of its own; depth is known in part of each, the border is no picture."""
    found = rendered_portraits(generator, 0, 1, n + held_out, held_out_singles=held_out)
    found.face_depth[:, :, :2] = float("nan")
    found.inside[:, :, :3] = False
    return found


class OwnFeatures(RandomFeatures):
    """The perceptual distance of these tests, in the precision of what it compares."""

    def target(self, image: Tensor) -> Tensor:
        return nn.functional.conv2d(image, self.kernel.to(image)).relu()

    def to(self, device):
        return self


def embedding(faces: Tensor) -> Tensor:
    """Stands for an identity network: random projections of unit length."""
    flat = nn.functional.adaptive_avg_pool2d(faces, 8).flatten(1)
    matrix = torch.randn(flat.shape[1], 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.normalize(flat @ matrix.to(flat), dim=1)


def dark(images: Tensor, resolution: int | None = None) -> Tensor:
    """Stands for the face parser: background is where a picture is darker than its mean."""
    grey = images.mean(dim=1, keepdim=True)
    found = (grey < grey.mean(dim=(1, 2, 3), keepdim=True)).float()
    return nn.functional.interpolate(found, size=resolution) > 0.5


@contextlib.contextmanager
def stand_ins():
    """Within, training needs no weights of perceptual, identity and parsing networks."""
    faces = mock.Mock()
    faces.to.return_value = embedding
    with (
        mock.patch.object(encoder_training, "LPIPS", lambda *_: OwnFeatures()),
        mock.patch.object(encoder_training, "face_network", lambda *_: faces),
        mock.patch.object(encoder_training, "background_mask", dark),
    ):
        yield


ALL = PictureLearning(
    steps=6,
    samples=2,
    identity_every=2,
    background_every=3,
    lam_adversarial=0.05,
    lam_background=5.0,
    lam_offsets=0.001,
    lam_change=1e-4,
    lam_mirror=0.1,
)
"""Every term that there is."""


class DoublePictures(Pictures):
    """The same pictures in double precision."""

    def draw(self, *arguments, **keywords):
        batch = super().draw(*arguments, **keywords)
        values = {name: v.double() if v.is_floating_point() else v for name, v in vars(batch).items()}
        return type(batch)(**values)


def learner(
    name: str,
    folder,
    settings: PictureLearning = ALL,
    *,
    double: bool = False,
    pool: tuple[int, int] = (6, 6),
    processes: Processes = ALONE,
) -> PictureLearner:
    """Training of a network of NETWORKS as in a new process; within `stand_ins`. pool: portraits, and samples."""
    generator = deep_generator()
    pictures = (DoublePictures if double else Pictures)(
        generator, portraits(generator, pool[0]), pool[1], folder
    )
    kind, config = NETWORKS[name]
    trained = network(kind, config).train()
    discriminator = None
    if settings.lam_adversarial and kind in ("psp", "goae"):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            discriminator = LatentDiscriminator(LatentDiscriminatorConfig(W_DIM, hidden=16))
    parts = Trained(trained, discriminator)
    make = PictureLearner
    if kind in ("alignment", "triplanenet"):
        first = network(*NETWORKS["portraits64-psp"], seed=5).requires_grad_(False)
        make = functools.partial(RefinementLearner, first.double() if double else first)
    if double:
        generator, parts = generator.double(), parts.double()
    return make(generator, parts, pictures, settings, processes)


def run(one: PictureLearner, folder, phases=None, **keywords) -> PictureLearner:
    """Takes the steps of a learner's settings."""
    fit(
        one.trained,
        one.phases() if phases is None else phases,
        Schedule(one.settings.steps, warm_up=1, decay_fraction=0.0),
        folder,
        averaged=one.trained.network,
        log_every=1,
        **keywords,
    )
    return one


def train_in_double(names, data, folder, settings: PictureLearning, processes: Processes = ALONE) -> None:
    """Runs whose rounding errors are too small to be seen, to compare numbers of processes by; a folder for each."""
    with stand_ins():
        for name in names:
            one = learner(name, data, settings, double=True, processes=processes)
            run(one, folder / name, processes=processes)


def rows(folder) -> list[dict]:
    """What a run logged, but for the time it took."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{name: v for name, v in json.loads(line).items() if name != "seconds"} for line in lines]
