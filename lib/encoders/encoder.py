"""Encoders as a user meets them: `load_encoder(name, generator).encode(image, camera) -> Inversion`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.cameras import Camera
from lib.encoders.goae import Mix, inverted, mix, refine
from lib.encoders.official import read_goae
from lib.encoders.storage import Stored, load_network, network_path
from lib.encoders.triplanenet import offset_planes
from lib.generators import EG3D
from lib.generators.storage import fingerprint
from lib.inversion import Inversion
from lib.inversion.assumptions import warn_of_assumptions
from lib.inversion.objective import checked_camera, checked_target


@dataclass(frozen=True)
class Layout:
    """What a method is made of: names of its networks, and what is done with them."""

    encoder: str  # says w_plus
    refinement: str | None = None  # changes the planes
    mix: Mix = "planes"  # of GOAE's refined planes


def _layouts(base: str = "portraits64") -> dict[str, Layout]:
    goae = f"{base}-goae"
    return {
        "psp": Layout(f"{base}-psp"),
        "e4e": Layout(f"{base}-e4e"),
        "triplanenet": Layout(f"{base}-psp", f"{base}-triplanenet"),
        "goae-wplus": Layout(goae),
        "goae": Layout(goae, f"{base}-goae-alignment"),
        "goae-no_mix": Layout(goae, f"{base}-goae-alignment", "none"),
        "goae-released_mix": Layout(goae, f"{base}-goae-alignment", "released"),
        "goae-convolution": Layout(goae, f"{base}-goae-convolution"),
        "goae-wplus_no_discriminator": Layout(f"{goae}-no_discriminator"),
        "goae-wplus_no_background": Layout(f"{goae}-no_background"),
        "goae-wplus_no_discriminator_no_background": Layout(f"{goae}-no_discriminator_no_background"),
    }


ENCODERS = _layouts()
"""The methods of encoders for the generator `portraits64`; ablations are named `<method>-<what differs>`."""


Refinement = Callable[[EG3D, Tensor, Tensor, Camera], Tensor]
"""(generator, images, w_plus, cameras) -> planes [B, 3, C, S, S]."""


@dataclass(frozen=True)
class Encoder:
    """A method's networks with the generator that they were trained for. It keeps nothing between calls."""

    name: str
    generator: EG3D = field(repr=False)
    encoder: nn.Module = field(repr=False)
    refinement: Refinement | None = field(default=None, repr=False)

    def encode(self, image: Tensor, camera: Camera | Tensor | Sequence[float] | None = None) -> Inversion:
        """The head in a picture [1, 3, R, R] in [-1, 1], seen from its camera."""
        return self.encode_batch(checked_target(image, self.generator), camera)[0]

    @torch.no_grad()
    def encode_batch(
        self, images: Tensor, cameras: Camera | Tensor | Sequence[float] | None
    ) -> list[Inversion]:
        """The heads in pictures [B, 3, R, R], each with its camera (`Camera.cat`, or labels [B, 25]), in one pass.

        Refined planes are in `extras["planes"]`, [1, 3, C, S, S]: all that downstream asks of an `Inversion` is made
        from them.
        """
        images = checked_target(images, self.generator, None)
        cameras = checked_camera(cameras, self.generator, len(images))
        w_plus = inverted(self.generator, self.encoder, images)
        extras: list[dict[str, Any]] = [{"method": self.name} for _ in range(len(images))]
        if self.refinement is not None:
            planes = self.refinement(self.generator, images, w_plus, cameras)
            for own, of_one in zip(extras, planes.split(1), strict=True):
                own["planes"] = of_one.clone()
        return [
            Inversion(w_plus[i : i + 1].clone(), self.generator, cameras[i], extras=own)
            for i, own in enumerate(extras)
        ]


def load_encoder(name: str, generator: EG3D) -> Encoder:
    """A method of `ENCODERS` for the generator that its networks were trained for, which is compared by its weights."""
    if not isinstance(generator, EG3D):
        raise ValueError(f"an encoder needs the generator itself: load_generator({generator!r})")
    if name not in ENCODERS:
        raise ValueError(f"no encoder is called {name!r}; there are: {', '.join(ENCODERS)}")
    layout = ENCODERS[name]
    device = generator.w_mean.device
    encoder = _fitting(layout.encoder, generator).network.to(device)
    if layout.refinement is None:
        return Encoder(name, generator, encoder)
    stored = _fitting(layout.refinement, generator)
    network = stored.network.to(device)
    if stored.kind == "triplanenet":
        return Encoder(name, generator, encoder, partial(_offset, network))
    return Encoder(name, generator, encoder, partial(_aligned, network, layout.mix, {}))


def released_goae(
    path: str | os.PathLike,
    generator: EG3D,
    alignment_path: str | os.PathLike | None = None,
    form: Mix = "released",
) -> Encoder:
    """GOAE's released networks on the generator that they belong to, EG3D's ffhqrebalanced512-128.

    path, alignment_path: encoder_FFHQ.pt and afa_FFHQ.pt, or one file with both; without the second the method ends at
    w+. form: of the mix, the released code's by default. Files are read as data, see `lib.encoders.official`.
    """
    found = read_goae(path, alignment_path)
    config, device = found.encoder.config, generator.w_mean.device
    if (generator.n_layers, generator.w_dim) != (config.n_layers, config.w_dim):
        raise ValueError(
            f"{path} says codes of {config.n_layers} layers of {config.w_dim} numbers; this generator has "
            f"{generator.n_layers} of {generator.w_dim}: load EG3D's ffhqrebalanced512-128.pkl"
        )
    encoder = found.encoder.to(device)
    if found.alignment is None:
        return Encoder("goae-wplus", generator, encoder)
    network = found.alignment.to(device)
    seen = {"resolution": found.feature_resolution, "sign": found.residual_sign}
    return Encoder("goae", generator, encoder, partial(_aligned, network, form, seen))


def _aligned(
    network: nn.Module,
    form: Mix,
    seen: Mapping[str, Any],
    generator: EG3D,
    images: Tensor,
    w_plus: Tensor,
    cameras: Camera,
) -> Tensor:
    return mix(generator, refine(generator, network, images, w_plus, cameras, **seen), cameras, form)


def _offset(network: nn.Module, generator: EG3D, images: Tensor, w_plus: Tensor, cameras: Camera) -> Tensor:
    return offset_planes(generator, network, images, w_plus, cameras)


def _fitting(name: str, generator: EG3D) -> Stored:
    """A network by name, if it belongs to this generator."""
    stored = load_network(network_path(name))
    if stored.generator_sha256 != generator_digest(generator):
        raise ValueError(
            f"the encoder {name!r} was trained for another generator ({stored.facts.get('generator')}): load that one, "
            f"load_generator({stored.facts.get('generator')!r}), or give its name as --weights"
        )
    return stored


def generator_digest(generator: EG3D) -> str:
    """SHA-256 of the generator that an encoder belongs to: its settings and weights as they are stored, float16."""
    return fingerprint({key: value.half() for key, value in generator.state_dict().items()}, generator.config)


def networks_of(name: str) -> tuple[str, ...]:
    """Names of the networks that a method is made of."""
    layout = ENCODERS[name]
    return tuple(part for part in (layout.encoder, layout.refinement) if part)


def invert_encoder(
    generator: EG3D,
    target: Tensor,
    camera: Camera | Tensor | Sequence[float] | None = None,
    *,
    encoder: str = "goae",
    masks: Any = None,
    landmarks: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> Inversion:
    """`load_encoder(encoder, generator).encode(target, camera)`, with the signature that all methods share.

    masks, landmarks: only warned by. Nothing is drawn (seed) and nothing is iterated (progress).
    """
    target, camera = checked_target(target, generator), checked_camera(camera, generator)
    warn_of_assumptions(target, camera, landmarks=landmarks, masks=masks)
    return load_encoder(encoder, generator).encode(target, camera)
