"""Is it the same person? Cosines of face embeddings, [B]: 1 for equal pictures, about 0 for strangers.

The network is `lib.identity.face_network("evaluation")`, which nothing optimises. A cosine is a number of its
network: those of the papers (ArcFace IR-SE50, CurricularFace) cannot be compared with it, only their order can.

`identity_similarity` is what the study reports. Below it is what the papers compute: squares cut out of the picture
where a face of FFHQ's alignment would be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera
from lib.identity import FACE_SIZE, align, camera_points

Network = Callable[[Tensor], Tensor]
"""Aligned faces [B, 3, 112, 112] in [-1, 1] to embeddings [B, D] of unit length."""

PSP_ROWS, PSP_COLUMNS = slice(35, 223), slice(32, 220)
"""The face in a picture of 256 pixels with FFHQ's alignment, as pSp and what descends from it have it."""


def embed(network: Network, image: Tensor, where: Camera | Tensor) -> Tensor:
    """Embeddings [B, D] of the faces in images [B, 3, H, W], aligned by camera or by five points (u, v) [B, 5, 2]."""
    points = camera_points(where) if isinstance(where, Camera) else where
    return network(align(image, points.expand(len(image), 5, 2)))


def identity_similarity(
    network: Network,
    image: Tensor,
    where: Camera | Tensor,
    target: Tensor,
    target_where: Camera | Tensor | None = None,
) -> Tensor:
    """Cosine [B] of the identities in images [B, 3, H, W] and targets, which may show the head from elsewhere.

    where: the cameras, by which faces are aligned without being detected; or their five points [B, 5, 2], such as
    `lib.identity.detected_points` finds: a face that is not found gives NaN. target_where: as `where` if not given.
    """
    target_where = where if target_where is None else target_where
    return (embed(network, image, where) * embed(network, target, target_where)).sum(1)


def mirrored_identity(network: Network, rendered: Tensor, portrait: Tensor, camera: Camera) -> Tensor:
    """Identity from the other side [B], without any truth (Yin et al., 2023, figure 6).

    rendered: the inversion seen by `camera.mirror()`; it is compared with the flipped portrait, whose own camera is
    `camera`. At small yaw that is nearly the input view; from the side it is one that the method never saw.
    """
    return identity_similarity(network, rendered, camera.mirror(), portrait.flip(-1))


# ----------------------------------------------------------------------- as the papers do
def spi_identity(network: Network, image: Tensor, target: Tensor) -> Tensor:
    """SPI as its text has it: pictures of 256 px, rows 35:223 and columns 32:220, pooled to 112."""
    return _fixed_crop_similarity(network, image, target, size=256)


def spi_code_identity(network: Network, image: Tensor, target: Tensor) -> Tensor:
    """SPI as its released code has it: the same rows and columns, but of pictures of 512 px.

    That is the upper left of the picture, forehead and one eye: no identity of a face. Kept to show the difference.
    """
    return _fixed_crop_similarity(network, image, target, size=512)


def e3dge_identity(network: Network, image: Tensor, target: Tensor) -> Tensor:
    """E3DGE's Similarity: pictures of 256 px, and the crop of pSp's loss, as in SPI's text."""
    return _fixed_crop_similarity(network, image, target, size=256)


def _fixed_crop_similarity(network: Network, image: Tensor, target: Tensor, size: int) -> Tensor:
    return (network(psp_crop(image, size)) * network(psp_crop(target, size))).sum(1)


def psp_crop(image: Tensor, size: int) -> Tensor:
    """The crop [B, 3, 112, 112] of images brought to `size` pixels (bilinear), pooled over areas."""
    image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(image[:, :, PSP_ROWS, PSP_COLUMNS], FACE_SIZE)
