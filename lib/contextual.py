"""The contextual loss on parts of the face: SPI (Yin et al., 2023) eq. 10.

Mechrez et al., "The Contextual Loss for Image Transformation with Non-Aligned Data", ECCV 2018, compare two
pictures as sets of features, wherever in the picture these stand. Below, X is the set of the rendered picture and Y
that of the target. Matrices have a row for each point x_i of X and a column for each point y_j of Y.
"""

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.cameras import Camera, pixel_centres
from lib.faces import WORLD_PER_CM, canonical_mesh
from lib.images import resize
from lib.parsing import PIXEL_MEAN, PIXEL_STD
from lib.perceptual import TRUNK_ASSET, _load_trunk, _vgg16, unit_length
from lib.shapes import FeatureMaps, ImagePoints, Images, PerImage, checked

__all__ = [
    "PARTS_OF_FACE",
    "RELEASED_PARTS",
    "FacePart",
    "VGGFeatures",
    "canonical_landmarks",
    "contextual_loss",
    "part_boxes",
    "parts_loss",
    "regions",
]

# -------------------------------------------------------------------- features
Net = Literal["vgg16", "vgg19"]

DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks (Simonyan and Zisserman, 2015, configurations D and E)."""


class VGGFeatures(nn.Module):
    """Features of images in [-1, 1] at one layer of a frozen VGG: [B, 3, H, W] -> [B, C, H', W'].

    layer: "conv2_1" is the first convolution of the second block, before its ReLU; `relu` takes it after.
    net: SPI's code takes conv2_1 of VGG19, which loads where a user has its file. The assets hold VGG16, the default:
        a deviation. Up to conv3_3 the two have the same layers, but not the same weights.
    weights: file of the whole net's state dict in torchvision's layout, .pth or .safetensors. Only tensors are read.
    released: normalise as SPI's code does, which applies the statistics of pictures in [0, 1] to those in [-1, 1].
    """

    def __init__(
        self,
        layer: str = "conv2_1",
        net: Net = "vgg16",
        relu: bool = False,
        weights: str | os.PathLike | None = None,
        released: bool = False,
    ):
        super().__init__()
        trunk = _trunk(net, weights)
        self.layers = trunk[: _place(layer, net) + (2 if relu else 1)]
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        self.register_buffer("mean", mean if released else 2 * mean - 1)
        self.register_buffer("deviation", deviation if released else 2 * deviation)
        self.requires_grad_(False).eval()

    @checked
    def forward(self, images: Images) -> Float[Tensor, "batch channels rows columns"]:
        return self.layers((images - self.mean) / self.deviation)


def _place(layer: str, net: Net) -> int:
    """Where a convolution stands in a net: a ReLU follows each convolution, a pooling each block."""
    places, place = {}, 0
    for block, depth in enumerate(DEPTHS[net], start=1):
        for number in range(1, depth + 1):
            places[f"conv{block}_{number}"] = place
            place += 2
        place += 1
    if layer not in places:
        raise ValueError(f"{net} has the layers {', '.join(places)}; got {layer!r}")
    return places[layer]


def _trunk(net: Net, weights: str | os.PathLike | None) -> nn.Sequential:
    """The convolutions of a net with trained weights."""
    if net not in DEPTHS:
        raise ValueError(f"expected one of the nets {', '.join(DEPTHS)}; got {net!r}")
    if net == "vgg19" and weights is None:
        raise ValueError(
            "VGG19 is not among the assets: give the file of its weights in torchvision's layout "
            "(vgg19-dcbb9e9d.pth, or the same as .safetensors) as weights=..., or use net='vgg16'"
        )
    trunk = _vgg16() if net == "vgg16" else _vgg19()
    if weights is None:
        _load_trunk(trunk, *TRUNK_ASSET["vgg"])
    else:
        _load_torchvision(trunk, Path(weights))
    return trunk


def _vgg19() -> nn.Sequential:
    """VGG-19 is VGG-16 with a fourth convolution at the end of the blocks 3, 4 and 5 (ibid., table 1)."""
    layers = list(_vgg16())
    for end, width in ((30, 512), (23, 512), (16, 256)):
        layers[end:end] = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def _load_torchvision(trunk: nn.Sequential, path: Path) -> None:
    """Weights named `features.<place>.weight` and `.bias`, as torchvision does; the classifier is left out."""
    stored = _read_tensors(path)
    stored = {name.removeprefix("features."): t for name, t in stored.items() if name.startswith("features.")}
    expected = trunk.state_dict()
    shapes, expected_shapes = ({k: tuple(t.shape) for k, t in x.items()} for x in (stored, expected))
    if shapes != expected_shapes:
        wrong = sorted({name for name, _ in shapes.items() ^ expected_shapes.items()})
        should, found = (x.get(wrong[0], "absent") for x in (expected_shapes, shapes))
        raise ValueError(
            f"{path} is not the net that is asked for in torchvision's layout, {len(expected) // 2} convolutions: of "
            f"{len(wrong)} entries that differ, features.{wrong[0]} should be {should}, but is {found}"
        )
    trunk.load_state_dict(stored)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name. No code in the file is run."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} of VGG weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in contents.items() if isinstance(tensor, Tensor)}
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path} cannot be read as a state dict of plain tensors, .pth or .safetensors ({type(error).__name__}); "
            "nothing else is read, because it could run code"
        ) from None


# -------------------------------------------------------------------- the contextual loss
SMALLEST_DISTANCE = 1e-5
"""Epsilon of Mechrez et al., 2018, eq. 2: added to the smallest distance of a row before it divides the row."""

PointSets = Float[Tensor, "batch channels points"]
TargetPointSets = Float[Tensor, "batch channels target_points"]
TargetMaps = Float[Tensor, "batch channels target_height target_width"]
Pairs = Float[Tensor, "batch points target_points"]


@checked
def cosine_distances(points: PointSets, target: TargetPointSets) -> Pairs:
    """d_ij = 1 - cos(x_i - mean_y, y_j - mean_y), from 0 to 2 (Mechrez et al., 2018, section 3.2).

    The mean is over the points of each target. SPI's code takes it over the batch as well, so that the loss of an
    image depends on the other images; here it does not.
    """
    mean = target.mean(dim=2, keepdim=True)
    points, target = unit_length(points - mean), unit_length(target - mean)
    # In full precision: distances are compared with a row's smallest, which is near 0.
    with torch.autocast(points.device.type, enabled=False):
        return 1 - points.transpose(1, 2) @ target


@checked
def relative_distances(distances: Pairs) -> Pairs:
    """d_ij / (min_k d_ik + epsilon): how much farther y_j is from x_i than its nearest (ibid., eq. 2)."""
    return distances / (distances.amin(dim=2, keepdim=True) + SMALLEST_DISTANCE)


@checked
def contextual_similarities(relative: Pairs, bandwidth: float) -> Pairs:
    """CX_ij = w_ij / sum_k w_ik with w_ij = exp((1 - relative_ij) / bandwidth) (ibid., eq. 3 and 4).

    Each row sums to 1: a softmax, in which the 1 of eq. 3 cancels.
    """
    return (-relative / bandwidth).softmax(dim=2)


@checked
def set_similarity(similarities: Pairs) -> PerImage:
    """CX(X, Y) = mean over j of max over i of CX_ij (ibid., eq. 1): is each y_j the nearest of some x_i?

    Between 1 / (points of Y), as each row sums to 1, and 1.
    """
    return similarities.amax(dim=1).mean(dim=1)


@checked
def contextual_loss(features: FeatureMaps, target: TargetMaps, bandwidth: float = 0.5) -> PerImage:
    """-log CX(X, Y) [B] of features [B, C, H, W] and those of targets [B, C, H', W'] (ibid., eq. 5).

    0 where both have the same points, in any order, and no two alike; at most log(H' W'). SPI's code, of the same
    bandwidth, also limits relative distances to 10 and adds 1e-5 to CX. Since CX cannot be 0, neither is needed.
    """
    if not bandwidth > 0:
        raise ValueError(f"expected a bandwidth of more than 0; got {bandwidth}")
    relative = relative_distances(cosine_distances(features.flatten(2), target.flatten(2)))
    return -set_similarity(contextual_similarities(relative, bandwidth)).log()


# -------------------------------------------------------------------- parts of the face
Boxes = Float[Tensor, "boxes 4"]


@dataclass(frozen=True)
class FacePart:
    """A part of the face: its contour, as vertices of MediaPipe's face mesh, and room around it in pictures' sides."""

    vertices: tuple[int, ...]
    padding: float


PARTS_OF_FACE = {
    "left_eye": FacePart(
        (249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466), padding=15 / 256
    ),
    "right_eye": FacePart(
        (7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246), padding=15 / 256
    ),
    "nose": FacePart(
        (
            *(1, 2, 4, 5, 6, 19, 45, 48, 64, 94, 97, 98, 115, 168, 195, 197, 220, 275, 278, 294, 326, 327),
            *(344, 440),
        ),
        padding=8 / 256,
    ),
    "mouth": FacePart(
        (
            *(
                0,
                13,
                14,
                17,
                37,
                39,
                40,
                61,
                78,
                80,
                81,
                82,
                84,
                87,
                88,
                91,
                95,
                146,
                178,
                181,
                185,
                191,
                267,
            ),
            *(269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
        ),
        padding=8 / 256,
    ),
}
"""F of SPI eq. 10: the person's left and right eye, nose and mouth.

The vertices are MediaPipe's own contours, where SPI's code has the points 42-47, 36-41, 27-35 and 48-67 of iBUG's 68;
the nose includes its wings. Paddings are in its pixels, of 256. It makes a box of the nose but never compares what is
in it; the padding of that box is ours.
"""

RELEASED_PARTS = ("left_eye", "right_eye", "mouth")
"""The parts that SPI's code compares, without the nose of the paper."""


def canonical_landmarks(camera: Camera, vertices_world: Tensor | None = None) -> Tensor:
    """Where cameras see the vertices of a face mesh: (u, v) [B, N, 2]. Nothing is detected, so nothing can fail.

    vertices_world: [N, 3], N >= 468, in MediaPipe's order. Without it those of MediaPipe's canonical face, whose frame
    is that of the embedded generators; the heads of other generators stand elsewhere.
    """
    if vertices_world is None:
        vertices_world = torch.from_numpy(canonical_mesh()[0] * WORLD_PER_CM)
    vertices_world = vertices_world.to(camera.world_from_cam)
    return camera.project(vertices_world.expand(len(camera), -1, -1))[0]


@checked
def part_boxes(landmarks_uv: ImagePoints) -> dict[str, Boxes]:
    """Boxes (u0, v0, u1, v1) [B, 4] of each of the PARTS_OF_FACE; they may leave the picture.

    landmarks_uv: [B, N, 2] of MediaPipe's face mesh, without (N = 468) or with its irises (N = 478).
    """
    needed = 1 + max(max(part.vertices) for part in PARTS_OF_FACE.values())
    if landmarks_uv.shape[1] < needed:
        raise ValueError(
            f"expected the landmarks of MediaPipe's face mesh, 468 or 478 of them, got {landmarks_uv.shape[1]}"
        )
    if not landmarks_uv.isfinite().all():
        raise ValueError("expected finite landmarks; where no face is seen, use `canonical_landmarks`")
    return {name: _box(landmarks_uv[:, part.vertices], part.padding) for name, part in PARTS_OF_FACE.items()}


def _box(points: Tensor, padding: float) -> Tensor:
    """The smallest boxes [B, 4] around points [B, N, 2], wider by `padding` on each side."""
    return torch.cat([points.amin(dim=1) - padding, points.amax(dim=1) + padding], dim=1)


@checked
def regions(
    images: FeatureMaps, boxes: Boxes, size: int = 80
) -> Float[Tensor, "batch channels {size} {size}"]:
    """ROI of SPI eq. 10: images [B, C, H, W] within boxes (u0, v0, u1, v1) [B, 4] as squares [B, C, size, size].

    One box, [1, 4], serves all images. Bilinear at the centres of the square's pixels, which is ROIAlign (He et al.,
    2017) for boxes of no more than `size` pixels across; where they have many more, shrink the images first. The box
    (0, 0, 1, 1) at the images' own size is the identity; SPI's code is half a pixel off. Beyond a picture its border is
    repeated.
    """
    if len(boxes) not in (1, len(images)):
        raise ValueError(f"expected one box, or one for each of {len(images)} images; got {len(boxes)}")
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not (extent > 0).all():
        raise ValueError(f"expected boxes (u0, v0, u1, v1) with u0 < u1 and v0 < v1; got {boxes.tolist()}")
    uv = corner[:, None] + pixel_centres(size, like=boxes) * extent[:, None]
    grid = (2 * uv - 1).unflatten(1, (size, size)).to(images).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def parts_loss(
    features_of: Callable[[Tensor], Tensor],
    rendered: Tensor,
    target: Tensor,
    boxes_rendered: Mapping[str, Tensor],
    boxes_target: Mapping[str, Tensor] | None = None,
    parts: Sequence[str] = tuple(PARTS_OF_FACE),
    size: int = 80,
    shown: int | None = 256,
    bandwidth: float = 0.5,
) -> Tensor:
    """L_sym [B] of SPI eq. 10: the contextual loss between parts of rendered and target images, summed over the parts.

    features_of: `VGGFeatures()` or alike. rendered, target: [B, 3, H, W]. boxes: as `part_boxes` gives them; targets
    without boxes of their own have those of the rendered images. shown: pixels across to which the images are resized,
    as in SPI's code, before their parts become squares of `size` pixels; None takes them as they are.
    """
    boxes_target = boxes_rendered if boxes_target is None else boxes_target
    for boxes in (boxes_rendered, boxes_target):
        if not parts or set(parts) - set(boxes):
            raise ValueError(f"expected some of the parts {', '.join(boxes)}; got {list(parts)}")
    if shown is not None:
        rendered, target = resize(rendered, shown), resize(target, shown)

    def features(images: Tensor, boxes: Tensor) -> Tensor:
        return features_of(regions(images, boxes, size))

    return sum(
        contextual_loss(
            features(rendered, boxes_rendered[part]), features(target, boxes_target[part]), bandwidth
        )
        for part in parts
    )
