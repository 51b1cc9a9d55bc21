"""Which part of the face each pixel belongs to: BiSeNet on the 19 classes of CelebAMask-HQ.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", ECCV 2018, with
ResNet-18 as its context path, whose stride-8 features also stand in for the spatial path. Module names are
those of the published weights.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull
from torch import Tensor, nn
from torch.nn import functional

from lib import assets
from lib.images import resize

CLASSES = (
    *(
        "background",
        "skin",
        "left_brow",
        "right_brow",
        "left_eye",
        "right_eye",
        "glasses",
        "left_ear",
        "right_ear",
    ),
    *("earring", "nose", "mouth", "upper_lip", "lower_lip", "neck", "necklace", "clothes", "hair", "hat"),
)

_FACE = (
    *("skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear"),
    *("nose", "mouth", "upper_lip", "lower_lip"),
)

PARTS: dict[str, tuple[str, ...]] = {
    "face": _FACE,
    "head": (*_FACE, "earring", "hair", "hat"),
    "skin": ("skin",),
    "eyes": ("left_eye", "right_eye"),
    "brows": ("left_brow", "right_brow"),
    "glasses": ("glasses",),
    "nose": ("nose",),
    "mouth": ("mouth", "upper_lip", "lower_lip"),
    "hair": ("hair",),
    "neck": ("neck",),
    "background": ("background",),
}
"""The masks of a portrait and the classes that each unites."""

INPUT_SIZE = 512
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of images in [0, 1]


# -------------------------------------------------------------------- the network
class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU; keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """He et al., "Deep Residual Learning", 2016: two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class Trunk(nn.Module):
    """ResNet-18 without its classifier: features at strides 8, 16 and 32."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, 1), ResidualBlock(64, 64, 1))
        self.layer2 = nn.Sequential(ResidualBlock(64, 128, 2), ResidualBlock(128, 128, 1))
        self.layer3 = nn.Sequential(ResidualBlock(128, 256, 2), ResidualBlock(256, 256, 1))
        self.layer4 = nn.Sequential(ResidualBlock(256, 512, 2), ResidualBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        stride8 = self.layer2(self.layer1(x))
        stride16 = self.layer3(stride8)
        return stride8, stride16, self.layer4(stride16)


class AttentionRefinement(nn.Module):
    """BiSeNet's attention refinement module (section 3.2): channels weighted by their global average."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = ConvBlock(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_global_average(x))).sigmoid()


class ContextPath(nn.Module):
    """BiSeNet's context path (section 3.2): coarse features refined and brought to stride 8."""

    def __init__(self):
        super().__init__()
        self.resnet = Trunk()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvBlock(128, 128)
        self.conv_head16 = ConvBlock(128, 128)
        self.conv_avg = ConvBlock(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's features and the context, both [B, 128, H/8, W/8]."""
        stride8, stride16, stride32 = self.resnet(x)
        context = self.arm32(stride32) + self.conv_avg(_global_average(stride32))
        context = self.conv_head32(functional.interpolate(context, size=stride16.shape[2:]))
        context = self.arm16(stride16) + context
        context = self.conv_head16(functional.interpolate(context, size=stride8.shape[2:]))
        return stride8, context


class FeatureFusion(nn.Module):
    """BiSeNet's feature fusion module (section 3.3)."""

    def __init__(self, channels: int = 256):
        super().__init__()
        self.convblk = ConvBlock(channels, channels, kernel=1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        attention = self.conv2(functional.relu(self.conv1(_global_average(x)))).sigmoid()
        return x + x * attention


class ClassHead(nn.Module):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv = ConvBlock(channels, channels)
        self.conv_out = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """[B, 3, H, W], normalised as ImageNet's -> class scores [B, 19, H, W]; H and W are multiples of 32."""

    def __init__(self, classes: int = len(CLASSES)):
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion()
        self.conv_out = ClassHead(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return functional.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=True)


def _global_average(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


@lru_cache(maxsize=1)
def _network() -> BiSeNet:
    """The published weights on the CPU, read once a process: they are constants."""
    state = torch.load(assets.folder("parsing") / "79999_iter.pth", map_location="cpu", weights_only=True)
    trained_only = ("conv_out16.", "conv_out32.")  # heads of the auxiliary losses
    network = BiSeNet().eval().requires_grad_(False)
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith(trained_only)})
    return network


# -------------------------------------------------------------------- masks
@torch.inference_mode()
def class_probabilities(image: Tensor) -> Tensor:
    """Probability [B, 19, 512, 512] of each class at each pixel of face crops [B, 3, H, W] in [-1, 1]."""
    image = resize(image.detach().float().cpu(), INPUT_SIZE)
    mean, std = (image.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return _network()(((image + 1) / 2 - mean) / std).softmax(dim=1)


def part_masks(probabilities: Tensor, resolution: int) -> dict[str, Tensor]:
    """The PARTS as masks [B, 1, R, R]: each pixel takes the class that is likeliest over its area."""
    classes = resize(probabilities, resolution).argmax(dim=1, keepdim=True)
    return {part: _is_any(classes, names) for part, names in PARTS.items()}


def _is_any(classes: Tensor, names: tuple[str, ...]) -> Tensor:
    wanted = torch.tensor([CLASSES.index(name) for name in names])
    return torch.isin(classes, wanted)


# -------------------------------------------------------------------- the same from landmarks
def contours() -> list[tuple[int, int]]:
    """Pairs of landmarks that draw eyes, brows, lips and the face's outline."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections

    return [(line.start, line.end) for line in FaceLandmarksConnections.FACE_LANDMARKS_CONTOURS]


def landmark_masks(landmarks_uv: np.ndarray, resolution: int) -> dict[str, Tensor]:
    """Eyes, brows, nose and mouth [1, 1, R, R] as hulls of their landmarks [478, 2], (u, v) in [0, 1]."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Lines

    outlines = {
        "eyes": (Lines.FACE_LANDMARKS_LEFT_EYE, Lines.FACE_LANDMARKS_RIGHT_EYE),
        "brows": (Lines.FACE_LANDMARKS_LEFT_EYEBROW, Lines.FACE_LANDMARKS_RIGHT_EYEBROW),
        "nose": (Lines.FACE_LANDMARKS_NOSE,),
        "mouth": (Lines.FACE_LANDMARKS_LIPS,),
    }
    masks = {}
    for part, sides in outlines.items():
        points = [
            landmarks_uv[sorted({end for line in side for end in (line.start, line.end)})] for side in sides
        ]
        masks[part] = torch.from_numpy(_filled_hulls(points, resolution))[None, None]
    return masks


def _filled_hulls(groups: list[np.ndarray], resolution: int, oversampling: int = 8) -> np.ndarray:
    """Pixels [R, R] of which at least half lies in the convex hull of one of the groups of points (u, v)."""
    fine = resolution * oversampling
    canvas = Image.new("L", (fine, fine))
    for points in groups:
        outline = points[ConvexHull(points).vertices] * fine
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline], fill=255)
    return np.asarray(canvas.reduce(oversampling)) >= 128
