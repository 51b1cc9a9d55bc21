"""LPIPS, the perceptual distance of Zhang et al., 2018, on trunks of our own.

The `lpips` package needs torchvision, which does not import beside a CPU build of torch. The trunks are a
dozen lines each; their pretrained weights and the calibrated heads come as files (`lib.assets`: alexnet,
vgg16, lpips).
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import assets

__all__ = ["LPIPS", "Features", "Perceptual", "read_array_pickle"]

Net = Literal["alex", "vgg"]

ALEX_TAPS = (1, 4, 7, 9, 11)  # after each ReLU
VGG_TAPS = (3, 8, 15, 22, 29)  # after ReLU 1_2, 2_2, 3_3, 4_3, 5_3
TRUNK_ASSET = {"alex": ("alexnet", "alexnet.ckpt"), "vgg": ("vgg16", "vgg16.ckpt")}


class Perceptual(Protocol):
    """What an inversion asks of a perceptual distance. `LPIPS` is one; tests use a cheaper one."""

    def target(self, image: Tensor) -> Any:
        """Whatever it needs to know about an image that stays fixed."""

    def __call__(self, image: Tensor, other: Any) -> Tensor:
        """Distances [B] from images to others, or to what `target` gave for them."""


@dataclass(frozen=True)
class Features:
    """Unit-length activations of a batch of images, one tensor [B, C_l, H_l, W_l] per tapped layer."""

    layers: tuple[Tensor, ...]


class LPIPS(nn.Module):
    """Perceptual distance between images in [-1, 1]: 0 for equal images, about 0.5 for strangers.

    `resolution`: side in pixels to which both images are resized (bilinear, as the papers do) before they are
    compared; None compares them as they are. Small images must be enlarged: the first layer of AlexNet has a
    stride of 4, and an optimiser that sees 64 pixels learns to fool it.

        distance = lpips(rendered, photo)          # [B]
        target = lpips.target(photo)               # once, for a fixed photo
        distance = lpips(rendered, target)         # the same number, half the work
    """

    def __init__(self, net: Net = "alex", resolution: int | None = 256):
        super().__init__()
        if net not in TRUNK_ASSET:
            raise ValueError(f"LPIPS has the nets {', '.join(TRUNK_ASSET)}; got {net!r}.")
        self.net = net
        self.resolution = resolution
        self.trunk, self.taps = (_alexnet(), ALEX_TAPS) if net == "alex" else (_vgg16(), VGG_TAPS)
        _load_trunk(self.trunk, *TRUNK_ASSET[net])
        for layer, head in enumerate(_read_heads(net)):
            self.register_buffer(f"head{layer}", head)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, other: Tensor | Features) -> Tensor:
        """Distance [B] from `image` to `other`: images, or their features from `target`."""
        other = other if isinstance(other, Features) else self.features(other)
        layers = zip(self.features(image).layers, other.layers, self.heads, strict=True)
        return sum(layer_distance(a, b, head) for a, b, head in layers)

    def features(self, image: Tensor) -> Features:
        """Unit-length activations of images [B, 3, H, W] in [-1, 1]."""
        x = (_resize(image, self.resolution) - self.shift) / self.scale
        return Features(tuple(unit_length(activation) for activation in self._activations(x)))

    @torch.no_grad()
    def target(self, image: Tensor) -> Features:
        """Features of an image that stays fixed during an optimisation."""
        return self.features(image)

    @property
    def heads(self) -> list[Tensor]:
        """The calibrated weights of the channels of each layer, [1, C_l, 1, 1]."""
        return [getattr(self, f"head{layer}") for layer in range(len(self.taps))]

    def _activations(self, x: Tensor) -> Iterator[Tensor]:
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.taps:
                yield x


def unit_length(activation: Tensor, eps: float = 1e-10) -> Tensor:
    """Each pixel's activation vector scaled to unit length (Zhang et al., 2018, section 3).

    The clamp changes no value, but keeps the gradient finite where a pixel activates nothing.
    """
    activation = activation.float() if activation.dtype in (torch.float16, torch.bfloat16) else activation
    length = activation.square().sum(dim=1, keepdim=True).clamp_min(eps**2).sqrt()
    return activation / (length + eps)


def layer_distance(a: Tensor, b: Tensor, head: Tensor) -> Tensor:
    """Channel-weighted squared difference, averaged over pixels, [B] (Zhang et al., 2018, equation 1)."""
    return (head * (a - b).square()).sum(dim=1).mean(dim=(1, 2))


def _resize(image: Tensor, resolution: int | None) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"LPIPS compares colour images [B, 3, H, W] in [-1, 1]; got {tuple(image.shape)}.")
    if resolution is None or image.shape[-2:] == (resolution, resolution):
        return image
    return F.interpolate(image, size=(resolution, resolution), mode="bilinear", align_corners=False)


def _alexnet() -> nn.Sequential:
    """The convolutions of AlexNet ("one weird trick", Krizhevsky, 2014)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg16() -> nn.Sequential:
    """The convolutions of VGG-16 (Simonyan and Zisserman, 2015, configuration D), up to ReLU 5_3."""
    layers, channels = [], 3
    for block, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        if block:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _load_trunk(trunk: nn.Sequential, asset: str, file: str) -> None:
    path = assets.folder(asset) / file
    (tree,) = (branch for name, branch in read_array_pickle(path).items() if not name.startswith("NetLin"))
    convolutions = [layer for layer in trunk if isinstance(layer, nn.Conv2d)]
    for index, convolution in enumerate(convolutions):
        stored = tree[f"Conv_{index}"]
        kernel = torch.from_numpy(stored["kernel"].transpose(3, 2, 0, 1).copy())  # HWIO -> OIHW
        convolution.load_state_dict({"weight": kernel, "bias": torch.from_numpy(stored["bias"].copy())})


def _read_heads(net: Net) -> list[Tensor]:
    path = assets.folder("lpips") / f"{net}.pth"
    heads = torch.load(path, map_location="cpu", weights_only=True)
    return [heads[f"lin{layer}.model.1.weight"] for layer in range(5)]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers and numpy arrays; every other name that a pickle asks for is refused."""

    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are allowed")
        return self._ALLOWED[module, name]


def read_array_pickle(path: str | Path) -> dict:
    """Read a pickle of nested dicts of numpy arrays. Nothing in the file can execute code."""
    with Path(path).open("rb") as file:
        try:
            return _ArrayUnpickler(file).load()
        except (
            pickle.UnpicklingError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise ValueError(f"{path} is no pickle of plain arrays: {error}.") from error
