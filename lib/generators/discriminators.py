"""EG3D's dual discriminator (Chan et al., 2022, sec. 4.3): judges the picture and its raw rendering as one.

StyleGAN2's residual discriminator (Karras et al., 2020) on six channels, the picture and the enlarged raw
picture, whose score is projected on the camera label. Modules and parameters carry the official names, so
that official state dicts load strictly; sizes are configuration.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.generators.stylegan2 import (
    LRELU_GAIN,
    LRELU_SLOPE,
    EqualLinear,
    MappingNetwork,
    low_pass,
    resampling_filter,
)
from lib.shapes import FeatureMaps, Images, Labels, PerImage, SingleMaps, checked

RESIDUAL_GAIN = math.sqrt(0.5)
"""On both branches of a residual block: their sum keeps the variance."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """All sizes and settings of a discriminator. The defaults are those of the released FFHQ 512 model."""

    resolution: int = 512  # of the picture; the raw picture is enlarged to it
    c_dim: int = 25  # of the label; 0 for a discriminator that sees pictures alone
    channel_base: int = 32768  # channels at a resolution: channel_base / resolution, at most channel_max
    channel_max: int = 512
    num_fp16_res: int = 4  # so many of the highest resolutions compute in float16 on CUDA
    conv_clamp: float | None = 256.0  # keeps float16 from overflowing; holds in float32 too
    mapping_layers: int = 8
    group_size: int = 4  # pictures over which the minibatch's deviation is taken
    label_noise: float = 0.0  # Gaussian noise on the label, in units of the batch's deviation
    pose_branch: bool = (
        False  # predicts the pose [h, v] of a picture: PoseAwareDiscriminator, whose c_dim is 2
    )

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"the resolution must be a power of two from 8 on; got {self.resolution}")
        if self.c_dim < 0:
            raise ValueError(f"c_dim counts the numbers of a label, 0 for none; got {self.c_dim}")
        if self.group_size < 1:
            raise ValueError(f"group_size counts pictures, 1 or more; got {self.group_size}")

    @classmethod
    def ffhq512(cls, **changes: Any) -> "DiscriminatorConfig":
        """ffhq512-128 of the EG3D release; ShapeNet's and AFHQ's differ in resolution alone."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def embedded(cls, resolution: int = 64, **changes: Any) -> "DiscriminatorConfig":
        """For the small generators of this repository: the same structure, smaller in every width."""
        small = cls(
            resolution, channel_base=32 * resolution, channel_max=256, num_fp16_res=0, conv_clamp=None
        )
        return dataclasses.replace(small, **changes)

    def channels(self, resolution: int) -> int:
        """Feature channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)


def downsampling_conv2d(x: Tensor, weight: Tensor, taps: Tensor) -> Tensor:
    """Low-pass filter, then convolution with stride 2: x [B, I, H, W], weight [O, I, k, k], k 3 or 1.

    Padded so that the output pixels [B, O, H/2, W/2] lie between those of the input, two by two.
    """
    kernel = weight.shape[-1]
    if kernel == 1:  # filter only where the convolution looks
        return F.conv2d(low_pass(x, taps, padding=1, stride=2), weight)
    return F.conv2d(low_pass(x, taps, padding=1 + kernel // 2), weight, stride=2)


@checked
def minibatch_deviation(x: FeatureMaps, group_size: int) -> SingleMaps:
    """How far features vary over a group of pictures, one number each, as a map (Karras et al., 2018, sec. 3).

    The deviation over the group, averaged over features and pixels. Groups interleave: of n groups, picture i
    belongs to group i mod n. A batch smaller than a group is one.
    """
    batch = x.shape[0]
    size = min(group_size, batch)
    if batch % size:
        raise ValueError(
            f"a batch of {batch} cannot be split into groups of {size}: use a multiple of {size}"
        )
    groups = x.unflatten(0, (size, batch // size))
    variance = (groups - groups.mean(dim=0)).square().mean(dim=0)
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])


class ConvLayer(nn.Module):
    """Convolution with equalised learning rate, bias and leaky ReLU; `down` halves the resolution.

    `linear` leaves out bias, activation and clamp.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: bool = False,
        linear: bool = False,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.down, self.conv_clamp = down, conv_clamp
        self.register_buffer("resample_filter", resampling_filter())
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """`gain` scales the output, and the clamp with it."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        if self.down:
            x = downsampling_conv2d(x, weight, self.resample_filter)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.bias is None:
            return x * gain
        x = F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], LRELU_SLOPE) * (LRELU_GAIN * gain)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions, the second of which halves it, beside a linear shortcut.

    `from_pictures` makes the first block, which starts from so many channels of pictures.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        from_pictures: int = 0,
        float16: bool = False,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.float16 = float16
        self.register_buffer("resample_filter", resampling_filter())  # unused, in the official state dict
        self.fromrgb = (
            ConvLayer(from_pictures, in_channels, 1, conv_clamp=conv_clamp) if from_pictures else None
        )
        self.conv0 = ConvLayer(in_channels, in_channels, 3, conv_clamp=conv_clamp)
        self.conv1 = ConvLayer(in_channels, out_channels, 3, down=True, conv_clamp=conv_clamp)
        self.skip = ConvLayer(in_channels, out_channels, 1, down=True, linear=True)

    def forward(self, x: FeatureMaps, force_fp32: bool = False) -> FeatureMaps:
        half = self.float16 and x.is_cuda and not force_fp32
        x = x.to(torch.float16 if half else self.conv0.weight.dtype)
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        return self.skip(x, RESIDUAL_GAIN) + self.conv1(self.conv0(x), RESIDUAL_GAIN)


class Epilogue(nn.Module):
    """From the last 4 x 4 features to a vector, in full precision whatever came before.

    `pose_branch` adds a second output of two numbers, for which PoF3D has a hidden layer of half the features (Shi et
    al., 2023).
    """

    def __init__(
        self,
        channels: int,
        out_features: int,
        group_size: int,
        conv_clamp: float | None,
        pose_branch: bool = False,
    ):
        super().__init__()
        self.group_size = group_size
        self.conv = ConvLayer(channels + 1, channels, 3, conv_clamp=conv_clamp)
        self.fc = EqualLinear(channels * 4 * 4, channels, activate=True)
        self.out = EqualLinear(channels, out_features)
        if pose_branch:
            self.cam_out1 = EqualLinear(channels * 4 * 4, channels * 4 * 4 // 2, activate=True)
            self.cam_out2 = EqualLinear(channels * 4 * 4 // 2, 2)

    def forward(self, x: FeatureMaps) -> Tensor:
        """The vector [B, out_features]."""
        with torch.autocast(x.device.type, enabled=False):
            return self.out(self.fc(self.features(x)))

    def features(self, x: FeatureMaps) -> Tensor:
        """What both branches start from [B, 16 channels]."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.conv.weight.dtype)
            x = torch.cat([x, minibatch_deviation(x, self.group_size)], dim=1)
            return self.conv(x).flatten(1)

    def pose(self, features: Tensor) -> Tensor:
        """The two numbers [B, 2] of the pose branch, of `features`."""
        with torch.autocast(features.device.type, enabled=False):
            return self.cam_out2(self.cam_out1(features))


class DualDiscriminator(nn.Module):
    """Scores of pictures and raw pictures under camera labels: high is real."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.register_buffer("resample_filter", resampling_filter())  # unused, in the official state dict
        top = int(math.log2(config.resolution))
        self.block_resolutions = [2**k for k in range(top, 2, -1)]
        float16_from = max(2 ** (top + 1 - config.num_fp16_res), 8)
        for size in self.block_resolutions:
            block = DiscriminatorBlock(
                config.channels(size),
                config.channels(size // 2),
                from_pictures=6 if size == config.resolution else 0,
                float16=config.num_fp16_res > 0 and size >= float16_from,
                conv_clamp=config.conv_clamp,
            )
            self.add_module(f"b{size}", block)
        width = config.channels(4)
        conditioned = config.c_dim > 0
        self.mapping = MappingNetwork(0, config.c_dim, width, config.mapping_layers) if conditioned else None
        out_features = width if conditioned else 1
        self.b4 = Epilogue(width, out_features, config.group_size, config.conv_clamp, config.pose_branch)

    @checked
    def forward(
        self,
        image: Images,
        image_raw: Tensor,
        label: Labels | None,
        rng: torch.Generator | None = None,
        *,
        force_fp32: bool = False,
    ) -> PerImage:
        """Scores [B] of pictures [B, 3, R, R] with raw pictures [B, 3, r, r]; `rng` draws the label's noise.

        Without a label (c_dim 0) the score is of the pictures alone.
        """
        x = self.features(image, image_raw, force_fp32)
        return self._projected(self.b4(x), label, rng)

    def features(self, image: Images, image_raw: Tensor, force_fp32: bool = False) -> FeatureMaps:
        """The last features [B, C, 4, 4] of pictures and raw pictures."""
        if image.shape[-1] != self.config.resolution:
            raise ValueError(
                f"this discriminator judges pictures of {self.config.resolution} px, not {image.shape[-1]}"
            )
        raw = F.interpolate(
            image_raw, size=image.shape[-2:], mode="bilinear", align_corners=False, antialias=True
        )
        x = torch.cat([image, raw], dim=1)
        for size in self.block_resolutions:
            x = getattr(self, f"b{size}")(x, force_fp32)
        return x

    def _projected(self, vector: Tensor, label: Tensor | None, rng: torch.Generator | None) -> Tensor:
        """Scores [B] of vectors [B, C]: the label's projection on them (Miyato & Koyama, 2018)."""
        if self.mapping is None:
            return vector[:, 0]
        with torch.autocast(vector.device.type, enabled=False):
            projection = self.mapping(None, self._noisy(label, rng).to(vector.dtype))
            return (vector * projection).sum(dim=1) / math.sqrt(projection.shape[1])

    def _noisy(self, label: Tensor, rng: torch.Generator | None) -> Tensor:
        if self.config.label_noise == 0:
            return label
        if rng is None:
            raise ValueError("label_noise needs rng, a torch.Generator to draw the noise from")
        noise = torch.randn(label.shape, generator=rng, device=rng.device).to(label)
        return label + noise * label.std(dim=0) * self.config.label_noise


class Judgement(NamedTuple):
    """What a pose-aware discriminator says of B pictures."""

    score: Tensor  # [B], high is real
    pose: Tensor  # [B, 2], h and v as it sees them, radians


class PoseAwareDiscriminator(DualDiscriminator):
    """PoF3D's discriminator (Shi et al., 2023, sec. 3.3): says the pose of a picture, and judges the picture under it.

    The modules carry the names of the released code, so that its state dicts load strictly.
    """

    def __init__(self, config: DiscriminatorConfig):
        if not config.pose_branch or config.c_dim != 2:
            raise ValueError(
                "a pose-aware discriminator has pose_branch=True and c_dim=2, the two numbers of a pose; got "
                f"pose_branch={config.pose_branch} and c_dim={config.c_dim}"
            )
        super().__init__(config)

    def forward(
        self,
        image: Images,
        image_raw: Tensor,
        pose: Tensor | None = None,
        rng: torch.Generator | None = None,
        *,
        force_fp32: bool = False,
    ) -> Judgement:
        """Scores under a pose [B, 2], and the pose that is seen.

        pose None conditions on the discriminator's own prediction, without a gradient, as the released code does for
        all pictures; the paper's text has the generator's pose for its samples.
        """
        features = self.b4.features(self.features(image, image_raw, force_fp32))
        seen = self.b4.pose(features)
        with torch.autocast(features.device.type, enabled=False):
            vector = self.b4.out(self.b4.fc(features))
        return Judgement(self._projected(vector, seen.detach() if pose is None else pose, rng), seen)
