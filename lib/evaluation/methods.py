"""Inversion methods by name: a function, its settings, and the method that it starts from."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lib.cameras import Camera, turned
from lib.encoders import ENCODERS, invert_encoder, networks_of
from lib.generators import EG3D, load_generator
from lib.inversion import (
    Inversion,
    invert_hfgi3d,
    invert_pose_opt,
    invert_posefree,
    invert_pti,
    invert_spi,
    invert_w,
    invert_wplus,
)
from lib.inversion.hfgi3d import RELEASED as HFGI3D_RELEASED


@dataclass(frozen=True)
class Method:
    """One row of a table.

    invert: called as `invert(generator, target, camera, seed=..., progress=False, **settings)`; a function at
    the top of a module, so that its code has a version. settings: plain values that JSON can hold; what they
    leave out has the function's defaults, which are the paper's. start: another method, whose inversion of the
    same picture is given as `initial`: methods that share a start share its computation. generator: name of the one
    that this method needs, in place of the evaluation's. camera_error: radians of yaw by which the camera that it is
    told is wrong, see `told`. networks: names of the encoder networks that it loads (`lib.encoders.storage`), which no
    argument shows.
    """

    name: str
    invert: Callable[..., Inversion]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: Method | None = None
    generator: str | None = None
    camera_error: float = 0.0
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            json.dumps(self.settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"settings of method {self.name!r} must be plain values, as they are part of what its results "
                f"are kept under: {error}"
            ) from error

    def described(self) -> dict[str, Any]:
        """What a record says of the method, in plain values."""
        start = {"start": self.start.described()} if self.start else {}
        function = f"{self.invert.__module__}.{self.invert.__qualname__}"
        own = {"generator": self.generator} if self.generator else {}
        wrong = {"camera_error": self.camera_error} if self.camera_error else {}
        return (
            {"name": self.name, "function": function, "settings": dict(self.settings)} | start | own | wrong
        )

    def inverted_with(self, generator: EG3D, base: str | None) -> tuple[EG3D, str | None]:
        """The generator that this method inverts with, and its name, in an evaluation of `generator`."""
        if self.generator is None:
            return generator, base
        return _generator(self.generator, str(generator.w_mean.device)), self.generator

    def told(self, camera: Camera) -> Camera:
        """The camera of the input that this method is told: the true one, turned towards the front and, from there,
        to positive yaw by its error."""
        if self.camera_error == 0:
            return camera
        return turned(camera, -self.camera_error if camera.yaw.item() > 0 else self.camera_error)


@functools.cache
def _generator(name: str, device: str) -> EG3D:
    return load_generator(name, device)


NO_WARPS = {"lam_adj": 0.0, "neighbour_form": "none"}
"""SPI on photo and mirrored photo as they are, without neighbouring views."""

POSEFREE = Method("posefree", invert_posefree, generator="portraits64-posefree")
"""Luo & Ghosh: the one method of another generator."""

CAMERA_ERRORS = {
    "perturbed_5": math.radians(5),
    "perturbed_10": math.radians(10),
    "perturbed": math.radians(20),
}
"""By what a method's name ends: how wrong the camera is that it is told, radians of yaw."""


def perturbed(
    name: str, invert: Callable[..., Inversion], settings: Mapping[str, Any] | None = None, joint: str = "-"
) -> list[Method]:
    """A method that is told a wrong camera, by each of CAMERA_ERRORS. joint: stands between the parts of the name."""
    return [
        Method(f"{name}{joint}{ending}", invert, settings or {}, camera_error=error)
        for ending, error in CAMERA_ERRORS.items()
    ]


HYBRIDS = (("wplus", invert_wplus), ("pti", invert_pti), ("spi", invert_spi), ("hfgi3d", invert_hfgi3d))
"""Methods that search for a code, which an encoder can give them instead."""


def encoding(name: str) -> Method:
    """The method of an encoder."""
    return Method(name, invert_encoder, {"encoder": name}, networks=networks_of(name))


METHODS = {
    method.name: method
    for method in (
        Method("w", invert_w),
        Method("wplus", invert_wplus),
        Method("pti", invert_pti),
        Method("pose_opt", invert_pose_opt),
        Method("spi", invert_spi),
        Method("spi-latent", invert_spi, {"steps": 0}),
        Method("spi-latent_no_symmetry", invert_spi, {"steps": 0, "mirror_form": "none"}),
        Method("spi-no_symmetry", invert_spi, {"mirror_form": "none", "symmetry": "none"}),
        Method("spi-whole_mirror", invert_spi, {"symmetry": "whole"}),
        Method("spi-no_warps", invert_spi, NO_WARPS),
        Method("spi-no_depth", invert_spi, {"lam_depth": 0.0}),
        Method("spi-no_warps_no_depth", invert_spi, NO_WARPS | {"lam_depth": 0.0}),
        Method("pti-short", invert_pti),
        Method("pti-long", invert_pti),
        Method("hfgi3d", invert_hfgi3d),
        Method("hfgi3d-early", invert_hfgi3d, {"steps": 0}),
        Method("hfgi3d-short", invert_hfgi3d),
        Method("hfgi3d-long", invert_hfgi3d),
        Method("hfgi3d-interpolated", invert_hfgi3d, {"view_settings": {"fill": "interpolated"}}),
        Method("hfgi3d-inpainted", invert_hfgi3d, {"view_settings": {"fill": "inpainted"}}),
        Method("hfgi3d-generated", invert_hfgi3d, {"view_settings": {"texture": "generated"}}),
        Method("hfgi3d-density", invert_hfgi3d, {"views": 0, "lam_density": 1.0}),
        Method("hfgi3d-released", invert_hfgi3d, dict(HFGI3D_RELEASED)),
        POSEFREE,
        replace(POSEFREE, name="posefree-no_geometry", settings={"lam_geo": 0.0}),
        replace(POSEFREE, name="posefree-no_identity", settings={"lam_id": 0.0}),
        replace(POSEFREE, name="posefree-no_multiview", settings={"lam_mv": 0.0}),
        replace(POSEFREE, name="posefree-one_stage", settings={"coarse_share": 0.0, "curriculum": False}),
        replace(POSEFREE, name="posefree-w", settings={"space": "w"}),
        replace(POSEFREE, name="posefree-mean", settings={"pose_from": "mean"}),
        *perturbed("wplus", invert_wplus),
        *perturbed("pti", invert_pti),
        *perturbed("spi-latent", invert_spi, {"steps": 0}, joint="_"),
        *perturbed("spi", invert_spi),
        *perturbed("pose_opt", invert_pose_opt),
        *map(encoding, ENCODERS),
        *(Method(f"{name}-from_goae", invert, start=encoding("goae-wplus")) for name, invert in HYBRIDS),
    )
}
"""The methods of the study. Ablations are named `<method>-<what differs>`."""


def method_named(name: str, settings: Mapping[str, Any] | None = None, start: Method | None = None) -> Method:
    """A method of the table with some settings replaced, and perhaps started from another."""
    if name not in METHODS:
        raise ValueError(f"no method is called {name!r}; there are: {', '.join(METHODS)}")
    known = METHODS[name]
    return replace(
        known,
        settings=dict(known.settings) | dict(settings or {}),
        start=known.start if start is None else start,
    )
