"""What an inversion gives: a latent code, the generator it belongs to, and how they were found."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lib.cameras import Camera
from lib.generators import EG3D, Rendering, load_generator
from lib.generators.official import stated_config
from lib.generators.storage import fingerprint, network_class, parsed
from lib.paths import replacing

FORMAT = "eg3d-study/inversion/1"
_WEIGHT, _EXTRA = "generator.", "extras."
"""Prefixes of the generator's entries in a file, and of tensors among the extras."""


@dataclass(frozen=True)
class Inversion:
    """One head. Everything downstream (metrics, figures, viewer, export) uses only what is here.

    w_plus: [1, n_layers, w_dim]. generator: the one that was passed in, or a tuned copy of it. camera: that
    of the input view. history: one list of numbers for each quantity, an entry a step. extras: plain values
    that JSON can hold, such as method, seed and step counts, and tensors; `extras["planes"]` [1, 3, C, H, W] stand in
    for those that the backbone makes of the code.
    """

    w_plus: Tensor
    generator: EG3D
    camera: Camera
    history: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (1, self.generator.n_layers, self.generator.w_dim)
        if tuple(self.w_plus.shape) != expected:
            raise ValueError(
                f"an Inversion of this generator needs w_plus {expected}; got {tuple(self.w_plus.shape)}"
            )
        if len(self.camera) != 1:
            raise ValueError(f"an Inversion has the one camera of its input; got {len(self.camera)}")
        if "planes" in self.extras:
            config = self.generator.config
            side = config.plane_resolution
            expected, found = (1, 3, config.plane_channels, side, side), self.extras["planes"]
            if not isinstance(found, Tensor) or tuple(found.shape) != expected:
                raise ValueError(
                    f"planes of this generator's heads are a tensor {expected}; got "
                    f"{tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__} in extras"
                )

    def facts(self) -> dict[str, Any]:
        """The extras that JSON can hold."""
        return {name: value for name, value in self.extras.items() if not isinstance(value, Tensor)}

    @torch.no_grad()
    def planes(self) -> Tensor:
        """Tri-planes [1, 3, C, H, W]: its own, or all that the backbone makes of the code."""
        return self.extras["planes"] if "planes" in self.extras else self.generator.planes(self.w_plus)

    def still(self) -> "StillHead":
        """This head as it is now, its planes made once: for many views and points."""
        return StillHead(self.w_plus, self.generator, self.camera, self.planes())

    def render(self, camera: Camera | Tensor | None = None, **options: Any) -> Rendering:
        """Views from one or many cameras (None: the input's). `options` are those of `EG3D.render`."""
        return self.still().render(camera, **options)

    def density(self, points: Tensor) -> Tensor:
        """Raw density [B, N] at world points [B, N, 3]."""
        return self.still().density(points)

    # ------------------------------------------------------------------- files
    def save(
        self, path: str | os.PathLike, base: str | None = None, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Write a safetensors file.

        base: name (or file) of the generator that was inverted. With it only the weights that differ are
        written, a few kilobytes where none was tuned; without it the file is complete in itself. dtype: of
        those weights; float16 halves the file and rounds them.
        """
        weights = self.generator.state_dict()
        texts = {
            "format": FORMAT,
            "config": json.dumps(self.generator.config.to_dict()),
            "history": json.dumps(self.history),
            "extras": json.dumps(self.facts()),
        }
        if base is not None:
            original = load_generator(base).state_dict()
            _check_same_structure(original, weights, base)
            texts |= {"base": str(base), "base_sha256": fingerprint(original)}
            weights = {
                key: value for key, value in weights.items() if not torch.equal(value.cpu(), original[key])
            }
        tensors = {_WEIGHT + key: value.to("cpu", dtype) for key, value in weights.items()}
        tensors |= {_EXTRA + name: v.cpu() for name, v in self.extras.items() if isinstance(v, Tensor)}
        tensors |= {"w_plus": self.w_plus.cpu(), "label": self.camera.label().cpu()}
        tensors |= {"w_mean": self.generator.w_mean.cpu(), "w_std": self.generator.w_std.cpu()}
        return _write_tensors(Path(path), tensors, texts)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "Inversion":
        """Read a file written by `save`. Nothing in it can execute code."""
        tensors, texts = _read_tensors(Path(path))
        weights = {
            key.removeprefix(_WEIGHT): tensors[key].float() for key in tensors if key.startswith(_WEIGHT)
        }
        if "base" in texts:
            generator = load_generator(texts["base"])
            original = generator.state_dict()
            if fingerprint(original) != texts["base_sha256"]:
                raise ValueError(
                    f"{path} was made with other weights of {texts['base']!r} than those that are here now: "
                    "invert the photo again, or bring back the weights of that time"
                )
            weights = original | weights
        else:
            config = stated_config(parsed(path, "config", texts["config"]))
            generator = network_class(config)(config)
        generator.load_state_dict(weights, strict=True)
        generator.set_w_statistics(tensors["w_mean"], tensors["w_std"])
        return cls(
            w_plus=tensors["w_plus"].to(device),
            generator=generator.eval().requires_grad_(False).to(device),
            camera=Camera.from_label(tensors["label"]).to(device),
            history=json.loads(texts["history"]),
            extras=json.loads(texts["extras"])
            | {
                key.removeprefix(_EXTRA): value.to(device)
                for key, value in tensors.items()
                if key.startswith(_EXTRA)
            },
        )


@dataclass(frozen=True)
class StillHead:
    """An inversion's head with its planes, so that nothing runs the backbone again; see `Inversion.still`."""

    w_plus: Tensor
    generator: EG3D
    camera: Camera
    planes: Tensor

    def still(self) -> "StillHead":
        return self

    @torch.no_grad()
    def render(self, camera: Camera | Tensor | None = None, **options: Any) -> Rendering:
        """Views from one or many cameras (None: the input's). `options` are those of `EG3D.render`."""
        camera = self.camera if camera is None else camera
        return self.generator.render(self.planes, self.w_plus, camera, **options)

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """Raw density [B, N] at world points [B, N, 3]."""
        return self.generator.sample(self.planes, points.to(self.w_plus.device))[0]


def _check_same_structure(original: dict[str, Tensor], weights: dict[str, Tensor], base: str) -> None:
    shapes, expected = ({key: tuple(value.shape) for key, value in w.items()} for w in (weights, original))
    if shapes != expected:
        differing = sorted(
            key for key in shapes.keys() | expected.keys() if shapes.get(key) != expected.get(key)
        )
        raise ValueError(
            f"this inversion does not belong to generator {base!r}: {len(differing)} entries differ in "
            f"name or shape ({differing[0]} first). Give the generator that was inverted as base, or none"
        )


def _write_tensors(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> Path:
    contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata=texts))
    return path


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no inversion at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    if texts.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file, but not an inversion: expected format {FORMAT!r} in its "
            f"metadata, found {texts.get('format')!r}"
        )
    return tensors, texts
