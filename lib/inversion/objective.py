"""What every inversion minimises, and the checks of what it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.cameras import Camera, validate
from lib.generators import EG3D
from lib.inversion.result import Inversion
from lib.losses import l2_loss
from lib.perceptual import LPIPS, Perceptual

LARGEST_LPIPS_RESOLUTION = 256
"""At which the papers compare perceptually, whatever the size of their images."""


@dataclass(frozen=True)
class ImageObjective:
    """lam_l2 * L2 + lam_lpips * LPIPS to fixed pictures [B, 3, R, R] (Roich et al., 2022, section 3.2).

    `reference` is what the perceptual distance keeps of the targets, computed once.
    """

    target: Tensor
    reference: Any
    perceptual: Perceptual
    lam_l2: float
    lam_lpips: float

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """The unweighted terms of pictures [B, 3, R, R], [B] each."""
        return {"l2": l2_loss(image, self.target), "lpips": self.perceptual(image, self.reference)}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        return self.lam_l2 * terms["l2"] + self.lam_lpips * terms["lpips"]


def image_objective(
    target: Tensor, perceptual: Perceptual, lam_l2: float, lam_lpips: float
) -> ImageObjective:
    """The objective of pictures [B, 3, R, R] in [-1, 1]."""
    return ImageObjective(target, perceptual.target(target), perceptual, lam_l2, lam_lpips)


def lpips_for(generator: EG3D, net: str = "alex", resolution: int | None = None) -> LPIPS:
    """LPIPS for a generator's pictures, enlarged twice (at most to 256 pixels) unless a resolution is given.

    At its native 64 pixels a small picture scores well while eyes and mouth are visibly wrong.
    """
    if resolution is None:
        resolution = min(2 * generator.resolution, LARGEST_LPIPS_RESOLUTION)
    return LPIPS(net, resolution).to(generator.w_mean.device)


# ----------------------------------------------------------------------- checks of the input
def checked_target(target: Tensor, generator: EG3D, pictures: int | None = 1) -> Tensor:
    """The picture to invert, on the generator's device; a ValueError says what is wrong with it.

    pictures: how many there must be; None for any number.
    """
    if not isinstance(target, Tensor) or not target.is_floating_point():
        found = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"the target is a float tensor [1, 3, R, R] in [-1, 1]; got {found}")
    count = len(target) if pictures is None and target.ndim == 4 and len(target) else pictures or 1
    expected = (count, 3, generator.resolution, generator.resolution)
    if tuple(target.shape) != expected:
        raise ValueError(
            f"this generator inverts pictures of the shape {expected}; got {tuple(target.shape)}. Crop and resize "
            "them with lib.faces.portrait_from_photo(path, generator); several at once take project_batch"
        )
    if not torch.isfinite(target).all():
        raise ValueError("the target holds NaN or infinity; expected values in [-1, 1]")
    low, high = target.min().item(), target.max().item()
    if low < -1.01 or high > 1.01:
        raise ValueError(
            f"the target's values must be in [-1, 1]; found {low:.3g} to {high:.3g}. "
            "A picture of 0..255 becomes that by x / 127.5 - 1, a rendering by clamp(-1, 1)"
        )
    return target.detach().to(generator.w_mean.device, torch.float32)


def checked_camera(
    camera: Camera | Tensor | Sequence[float] | None, generator: EG3D, pictures: int = 1
) -> Camera:
    """The camera of each picture, on the generator's device; EG3D's 25 numbers are validated."""
    if camera is None:
        raise ValueError(
            "this method needs the camera of the picture: lib.faces.portrait_from_photo finds it, "
            "or give EG3D's 25 numbers of the picture"
        )
    label = camera.label() if isinstance(camera, Camera) else torch.as_tensor(camera, dtype=torch.float32)
    label = validate(label, generator.config.camera_radius, generator.config.camera_focal)
    if len(label) != pictures:
        raise ValueError(f"a picture has one camera; got {len(label)} for {pictures}")
    return Camera.from_label(label.detach().float()).to(generator.w_mean.device)


def latent_of(initial: Tensor | Inversion, generator: EG3D) -> Tensor:
    """w_plus [1, n_layers, w_dim] of a latent: a w or a w_plus, with or without its batch of one.

    Of an `Inversion` only the latent is taken, not a tuned generator.
    """
    w = (initial.w_plus if isinstance(initial, Inversion) else initial).detach().to(generator.w_mean)
    layers, dim = generator.n_layers, generator.w_dim
    if tuple(w.shape) in ((dim,), (1, dim)):
        return w.reshape(1, 1, dim).expand(1, layers, dim).clone()
    if tuple(w.shape) in ((layers, dim), (1, layers, dim)):
        return w.reshape(1, layers, dim).clone()
    raise ValueError(
        f"expected a latent [{dim}] or [1, {layers}, {dim}] of this generator to start from; "
        f"got {tuple(w.shape)}"
    )
