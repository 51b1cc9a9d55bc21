"""Pictures against pictures: images [B, 3, H, W] in [-1, 1], a value per image.

Images are compared as they are: nothing is cut off at -1 and 1. `_01` marks colours counted in [0, 1]. Where papers
compute something else under the same name, that stands under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.losses import l1_loss, l2_loss
from lib.perceptual import LPIPS, Net

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang et al., "Multiscale structural similarity", 2003, section 3.2)."""

WINDOW, DEVIATION = 11, 1.5
"""Pixels across SSIM's window and the standard deviation of its Gaussian (Wang et al., 2004, section III-C)."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Images and targets [B, 3, H, W] in [-1, 1] to values [B]."""


# ----------------------------------------------------------------------- pixel by pixel
def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [B] of images [B, 3, H, W] in [-1, 1]: four times `mse_01`. SPI, GOAE."""
    return l2_loss(image, target)


def mse_01(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [B] of images in [-1, 1], of colours counted in [0, 1]. Pose Opt.; Luo & Ghosh, it seems."""
    return mse(image, target) / 4


def mae(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error [B] of images [B, 3, H, W] in [-1, 1]: twice `mae_01`. E3DGE."""
    return l1_loss(image, target)


def mae_01(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error [B] of images in [-1, 1], of colours counted in [0, 1]."""
    return mae(image, target) / 2


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in decibels; the peak is 2, the range of [-1, 1]. Infinite for equal images."""
    return 10 * torch.log10(4 / mse(image, target))


# ----------------------------------------------------------------------- structure
def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity [B], 1 for equal images (Wang et al., 2004, eq. 13), of colours counted in [0, 1].

    Gaussian window of 11 pixels, K1 = 0.01, K2 = 0.03; mean over the whole picture, which is reflected at its
    border, and over the channels. At the images' own size: a window shows more of the face in a smaller picture.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    _require_pairs(image, target, smallest=WINDOW)
    return structural_similarity_index_measure(
        to_01(image), to_01(target), data_range=1.0, sigma=DEVIATION, reduction="none"
    )


def ms_ssim(image: Tensor, target: Tensor, size: int | None = 256) -> Tensor:
    """Multi-scale structural similarity [B], 1 for equal images (Wang et al., 2003, eq. 7), of colours in [0, 1].

    HFGI3D's column "SSIM". size: pixels to which both are brought first (bilinear), 256 as in the papers; None
    compares them as they are. Five scales with windows of 11 pixels take 176.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure  # slow to import

    image, target = _at_size(image, size), _at_size(target, size)
    _require_five_scales(image, target)
    return multiscale_structural_similarity_index_measure(
        to_01(image),
        to_01(target),
        data_range=1.0,
        sigma=DEVIATION,
        kernel_size=WINDOW,
        betas=MS_SSIM_WEIGHTS,
        normalize="relu",
        reduction="none",
    )


def ms_ssim_dissimilarity(image: Tensor, target: Tensor, size: int | None = 256) -> Tensor:
    """1 - MS-SSIM [B], 0 for equal images: what SPI, Luo & Ghosh and PTI report under the name MS-SSIM."""
    return 1 - ms_ssim(image, target, size)


def pose_opt_ms_ssim(image: Tensor, target: Tensor, size: int | None = 256) -> Tensor:
    """MS-SSIM [B] as the code of Pose Opt. has it, by the package pytorch-msssim.

    Windows do not reach over the border at the last scale either, and channels are averaged last, not first: another
    number than `ms_ssim`, by some thousandths. Pose Opt. compares at 512 pixels.
    """
    image, target = to_01(_at_size(image, size)), to_01(_at_size(target, size))
    _require_five_scales(image, target)
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, contrast = _ssim_maps(image, target, WINDOW, peak=1.0)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        value = (luminance * contrast if last else contrast).mean(dim=(2, 3))
        product = product * value.relu() ** weight
        odd = [side % 2 for side in image.shape[-2:]]
        image, target = (F.avg_pool2d(x, 2, padding=odd) for x in (image, target))
    return product.mean(1)


def e3dge_ssim(image: Tensor, target: Tensor) -> Tensor:
    """What E3DGE reports as SSIM [B]: (1 + SSIM) / 2, that is 1 less the loss (1 - SSIM) / 2, at the images' size.

    Windows of 5 pixels, reflected border, and a peak of 1 although colours span 2: the constants are a quarter of
    what they should be, and luminance is compared around grey. Never to be compared with an SSIM.
    """
    _require_pairs(image, target, smallest=5)
    image, target = (F.pad(x, (2, 2, 2, 2), mode="reflect") for x in (image, target))
    luminance, contrast = _ssim_maps(image, target, window=5, peak=1.0)
    return (1 + (luminance * contrast).mean(dim=(1, 2, 3))) / 2


def _ssim_maps(image: Tensor, target: Tensor, window: int, peak: float) -> tuple[Tensor, Tensor]:
    """Luminance l and contrast-structure cs [B, C, H', W'] of all windows that lie within images [B, C, H, W].

    SSIM = l cs; K1 = 0.01, K2 = 0.03 (Wang et al., 2004, eq. 6, 9, 10 with C3 = C2 / 2, and 13).
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean, target_mean = _gaussian_mean(image, window), _gaussian_mean(target, window)
    variance = _gaussian_mean(image**2, window) - mean**2
    target_variance = _gaussian_mean(target**2, window) - target_mean**2
    covariance = _gaussian_mean(image * target, window) - mean * target_mean
    luminance = (2 * mean * target_mean + c1) / (mean**2 + target_mean**2 + c1)
    return luminance, (2 * covariance + c2) / (variance + target_variance + c2)


def _gaussian_mean(x: Tensor, window: int) -> Tensor:
    """Weighted means [B, C, H - window + 1, W - window + 1] of the windows of images [B, C, H, W]."""
    offsets = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    weights = torch.softmax(-(offsets**2) / (2 * DEVIATION**2), dim=0)
    channels = x.shape[1]
    rows = F.conv2d(x, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def to_01(image: Tensor) -> Tensor:
    """Colours in [-1, 1] counted in [0, 1]."""
    return (image + 1) / 2


def _at_size(image: Tensor, size: int | None) -> Tensor:
    """Images [B, 3, H, W] brought to `size` pixels, bilinear, as LPIPS is given them."""
    if size is None or image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def _require_pairs(image: Tensor, target: Tensor, smallest: int) -> None:
    if image.ndim != 4 or image.shape != target.shape or min(image.shape[-2:]) < smallest:
        raise ValueError(
            f"expected images and targets [B, 3, H, W] of one shape and at least {smallest} pixels; got "
            f"{list(image.shape)} and {list(target.shape)}"
        )


def _require_five_scales(image: Tensor, target: Tensor) -> None:
    smallest = WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # a window still fits at the last scale
    if min(*image.shape[-2:], *target.shape[-2:]) < smallest:
        raise ValueError(
            f"five scales with windows of {WINDOW} pixels take images of at least {smallest} pixels; got "
            f"{list(image.shape[-2:])} and {list(target.shape[-2:])}. Leave size at 256: they are enlarged first."
        )
    _require_pairs(image, target, smallest)


# ----------------------------------------------------------------------- LPIPS
def make_lpips(net: Net = "alex", size: int | None = 256) -> LPIPS:
    """The reported LPIPS: pictures are brought to `size` pixels first (bilinear); None compares them as they are.

    AlexNet at 256: E3DGE, TriPlaneNet, PTI. Values of another network or size are another metric.
    """
    return LPIPS(net, resolution=size)


def make_spi_lpips() -> Distance:
    """SPI's LPIPS: VGG, of pictures brought to 256 pixels (bilinear) only where they are larger.

    Its code has an LPIPS of its own in the manner of pSp; the one here is that of Zhang et al., 2018, with VGG.
    """
    lpips = LPIPS("vgg", resolution=None)

    def distance(image: Tensor, target: Tensor) -> Tensor:
        larger = max(image.shape[-2:]) > 256
        return lpips(*((_at_size(x, 256) for x in (image, target)) if larger else (image, target)))

    return distance


def make_pose_opt_lpips() -> Distance:
    """LPIPS as the code of Pose Opt. has it: AlexNet, at the pictures' size, given colours in [0, 1] for [-1, 1].

    The network sees pictures of half the contrast, lifted to the bright side; distances come out too small.
    """
    lpips = LPIPS("alex", resolution=None)
    return lambda image, target: lpips(to_01(image), to_01(target))
