"""StyleGAN2's layers (Karras et al., 2020), with the parameter names of the official state dicts.

The 'skip' architecture: every block adds its picture, made by a 1x1 convolution, to the upsampled picture
of the block before. All numbers (gains, filters, paddings) are those that released EG3D weights were
trained with.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.shapes import DoubledMaps, FeatureMaps, LayerStyles, Styles, checked

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2)
"""Keeps the variance of a unit Gaussian through the leaky ReLU, roughly."""

NOISE_MODES = ("const", "random", "none")


def normalise_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2)): the latent on a sphere of radius sqrt(dimension)."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate (Karras et al., 2018, sec. 4.1): W_eff = W lr_mul / sqrt(in).

    `activate` adds the leaky ReLU with its gain.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init) / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(y, LRELU_SLOPE) * LRELU_GAIN if self.activate else y


# -------------------------------------------------------------------- resampling
def resampling_filter() -> Tensor:
    """The 4x4 low-pass filter outer([1, 3, 3, 1]) / 64 of StyleGAN2."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / taps.sum() ** 2


class _Convolution(torch.autograd.Function):
    """Convolution, plain or transposed, that keeps x for the gradient only where the weights get one.

    A convolution is linear, so the gradient at x needs the weights alone; torch's own would keep all of x for it.
    """

    @staticmethod
    def forward(ctx, x, weight, transposed, stride, padding, groups):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.options = stride, padding, groups
        ctx.transposed, ctx.dtype = transposed, x.dtype
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x, weight, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.options
        x_gradient = weight_gradient = None
        # Under autocast the result, and so its gradient, may be of less precision than x and weights are.
        rounded = weight.to(gradient.dtype)
        if ctx.needs_input_grad[0]:
            x_gradient = _Convolution.apply(gradient, rounded, not ctx.transposed, *ctx.options).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            x = x.to(gradient.dtype)
            if ctx.transposed:  # for these, CPUs are more than twice as fast with one channel after another
                gradient, x = gradient.contiguous(), x.contiguous()
            sizes = [stride] * 2, [padding] * 2, [1, 1], ctx.transposed, [0, 0], groups
            _, weight_gradient, _ = torch.ops.aten.convolution_backward(
                gradient, x, rounded, None, *sizes, [False, True, False]
            )
            weight_gradient = weight_gradient.to(weight.dtype)
        return x_gradient, weight_gradient, None, None, None, None


def _convolve(
    x: Tensor, weight: Tensor, transposed: bool = False, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    return _Convolution.apply(x, weight, transposed, stride, padding, groups)


def low_pass(x: Tensor, taps: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Every channel of x [B, C, H, W] correlated with taps [k, k], with zeros around; every stride-th pixel of it."""
    channels = x.shape[1]
    filters = taps.to(x.dtype).repeat(channels, 1, 1, 1)
    return _convolve(x, filters, stride=stride, padding=padding, groups=channels)


@checked
def upsample2d(x: FeatureMaps) -> DoubledMaps:
    """Twice the resolution: zeros in between, then the low-pass filter with gain 4.

    Every new pixel has two non-zero neighbours on either axis, with weights 1/4 and 3/4: bilinear
    interpolation of a picture with zeros around.
    """
    x = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return x[:, :, 2:-2, 2:-2]


# -------------------------------------------------------------------- modulated convolution
@checked
def demodulation(weight: Tensor, style: Styles) -> Tensor:
    """Eq. 3 of Karras et al. (2020): 1 / sqrt(sum of the modulated weights' squares), [B, O]."""
    with torch.autocast(style.device.type, enabled=False):  # a sum of thousands of squares needs float32
        energy = style.to(weight.dtype).square() @ weight.square().sum(dim=(2, 3)).T
    return (energy + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, *, up: bool = False, taps: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Convolution with weights that each sample's style scales (Karras et al., 2020, eqs. 1-3).

    x [B, I, H, W], weight [O, I, k, k], style [B, I] or [1, I] -> [B, O, H, W], or [B, O, 2H, 2W] with `up`, which
    needs the low-pass `taps`; and the factors [B, O] or [1, O] that demodulate it, None where they are in already.
    Scaling the input by the style and the output by the demodulation gives the same sum of products as
    scaling the weights, and lets one ordinary convolution serve a whole batch. Where one style serves all of x
    and the weights are few, these are scaled; but not if a gradient with respect to them would be computed for
    the style's sake alone.
    """
    in_vain = style.requires_grad and not weight.requires_grad
    if x.dtype == torch.float16:
        weight, style = _normalised(weight, style)
    scale = demodulation(weight, style)
    if len(style) == 1 and x.numel() > weight.numel() and not in_vain:
        weight = weight * style[0][:, None, None] * scale[0][:, None, None, None]
        return resampled_conv2d(x, weight, up, taps), None
    return resampled_conv2d(x * style.to(x.dtype)[:, :, None, None], weight, up, taps), scale


def _normalised(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and styles of size 1 at the most, which demodulation allows and the range of float16 needs."""
    fan_in = weight[0].numel()
    weight = weight / weight.abs().amax(dim=(1, 2, 3), keepdim=True) / math.sqrt(fan_in)
    return weight, style / style.abs().amax(dim=1, keepdim=True)


def resampled_conv2d(x: Tensor, weight: Tensor, up: bool, taps: Tensor | None = None) -> Tensor:
    """Convolution of x [B, I, H, W] with weight [O, I, k, k]; `up` doubles the resolution, filtered by `taps`."""
    weight = weight.to(x.dtype)
    if not up:
        return _convolve(x, weight, padding=weight.shape[-1] // 2)
    # The transposed convolution gives 2H + 1 pixels; a filter of 4 taps with a padding of 1 leaves 2H.
    return low_pass(_convolve(x, weight.transpose(0, 1), transposed=True, stride=2), 4 * taps, padding=1)


class _Activation(torch.autograd.Function):
    """clamp(gain * leaky ReLU(scale * x + bias + noise)), in place of x; what is kept is the result alone.

    The leaky ReLU is homogeneous, a(g y) = g a(y) and y a'(y) = a(y), so the gain may go before it, and the gradient
    of the scale needs the result but not what went in.
    """

    @staticmethod
    def forward(ctx, x, scale, bias, noise, limit):
        """x [B, C, H, W], scale [B, C] or [1, C] or None, bias [C], noise [B or 1, 1, H, W] or None."""
        x.mul_(LRELU_GAIN if scale is None else (scale * LRELU_GAIN).to(x.dtype)[:, :, None, None])
        x.add_((bias * LRELU_GAIN).to(x.dtype)[:, None, None])
        if noise is not None:
            x.add_((noise * LRELU_GAIN).to(x.dtype))
        F.leaky_relu_(x, LRELU_SLOPE)
        if limit is not None:
            x.clamp_(-limit, limit)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, scale, bias, noise)
        ctx.limit = limit
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        result, scale, bias, noise = ctx.saved_tensors
        if ctx.limit is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, result, -ctx.limit, ctx.limit)
        inner = torch.ops.aten.leaky_relu_backward(gradient, result, LRELU_SLOPE, True)  # at gain * (...)
        to_scale = to_noise = None
        to_bias = inner.sum(dim=(0, 2, 3)).to(bias.dtype) * LRELU_GAIN
        if noise is not None and ctx.needs_input_grad[3]:
            to_noise = inner.sum(dim=1, keepdim=True).sum_to_size(noise.shape).to(noise.dtype) * LRELU_GAIN
        if scale is not None and ctx.needs_input_grad[1]:
            to_scale = (result * gradient).sum(dim=(2, 3), dtype=scale.dtype)
            to_scale = to_scale - LRELU_GAIN * bias * inner.sum(dim=(2, 3), dtype=scale.dtype)
            if noise is not None:
                to_scale = to_scale - LRELU_GAIN * (inner * noise.to(inner.dtype)).sum(
                    dim=(2, 3), dtype=scale.dtype
                )
            to_scale = (to_scale / scale).sum_to_size(scale.shape)
        factor = LRELU_GAIN if scale is None else (scale * LRELU_GAIN).to(inner.dtype)[:, :, None, None]
        return inner.mul_(factor), to_scale, to_bias, to_noise, None


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: bool = False,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.register_buffer("resample_filter", resampling_filter())
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "const", rng: torch.Generator | None = None
    ) -> Tensor:
        x, scale = modulated_conv2d(x, self.weight, self.affine(w), up=self.up, taps=self.resample_filter)
        noise = self._noise(x, noise_mode, rng)
        noise = None if noise is None else noise * self.noise_strength
        return _Activation.apply(x, scale, self.bias, noise, self.conv_clamp)

    def _noise(self, x: Tensor, noise_mode: str, rng: torch.Generator | None) -> Tensor | None:
        """Noise of unit variance: always the same, new in every call, or none."""
        if noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const[None, None]
        if noise_mode != "random":
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}; got {noise_mode!r}")
        if rng is None:
            raise ValueError("noise_mode 'random' needs rng, a torch.Generator to draw the noise from")
        return torch.randn((x.shape[0], 1, *x.shape[2:]), generator=rng, device=rng.device).to(x.device)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the picture: linear, not demodulated, with the gain 1 / sqrt(in)."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None = None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weights = self.weight[:, :, 0, 0] * (self.affine(w) * self.weight_gain)[:, None]  # [B, O, I]
        weights = weights.to(x.dtype).expand(len(x), -1, -1)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        picture = torch.baddbmm(self.bias.to(x.dtype), pixels, weights.transpose(1, 2))
        picture = picture.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return picture if self.conv_clamp is None else picture.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution of the skip generator: conv0 (which may upsample), conv1, and torgb's picture.

    `in_channels` 0 makes the first block, which starts from a learnt constant and has no conv0. `up` False
    keeps the resolution of input and picture: the first block of EG3D's 2X and 4X super-resolution. With
    `float16` the features of a CUDA device are computed in half precision; pictures never are.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        up: bool = True,
        conv_clamp: float | None = None,
        float16: bool = False,
    ):
        super().__init__()
        self.up = up and in_channels > 0
        self.float16 = float16
        self.register_buffer("resample_filter", resampling_filter())
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=up, conv_clamp=conv_clamp
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp)
        self.n_convs = 1 if in_channels == 0 else 2

    @checked
    def forward(
        self,
        x: FeatureMaps | None,
        picture: Tensor | None,
        w_plus: LayerStyles,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        force_fp32: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Features and picture of this resolution; `w_plus` has a style for each conv and for torgb."""
        styles = iter(w_plus.unbind(dim=1))
        first = self.const.expand(w_plus.shape[0], -1, -1, -1) if x is None else x
        features = self._in_precision(first, force_fp32).contiguous(memory_format=torch.channels_last)
        if x is not None:
            features = self.conv0(features, next(styles), noise_mode, rng)
        features = self.conv1(features, next(styles), noise_mode, rng)
        # Whatever the features' precision, the pictures of all resolutions are summed in the parameters'.
        addition = self.torgb(features, next(styles)).to(self.torgb.bias.dtype)
        if picture is None:
            return features, addition
        return features, (upsample2d(picture) if self.up else picture) + addition

    def _in_precision(self, x: Tensor, force_fp32: bool) -> Tensor:
        if self.float16 and x.is_cuda and not force_fp32:
            return x.half()
        return x.to(self.torgb.bias.dtype) if x.dtype == torch.float16 else x


class SynthesisNetwork(nn.Module):
    """The backbone: blocks b4, b8, ... up to `resolution`."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        channel_base: int,
        channel_max: int,
        conv_clamp: float | None = None,
        num_fp16_res: int = 0,
    ):
        super().__init__()
        self.block_resolutions = [2**k for k in range(2, int(math.log2(resolution)) + 1)]
        if self.block_resolutions[-1] != resolution:
            raise ValueError(f"the resolution must be a power of two from 4 on; got {resolution}")
        # The smallest resolutions stay in full precision whatever is asked for.
        first_float16 = max(2 * resolution // 2**num_fp16_res, 8)
        in_channels = 0
        for size in self.block_resolutions:
            out_channels = min(channel_base // size, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim,
                size,
                img_channels,
                conv_clamp=conv_clamp,
                float16=size >= first_float16,
            )
            self.add_module(f"b{size}", block)
            in_channels = out_channels
        # Each torgb shares its style with the first convolution of the next block; only the last has its own.
        self.num_ws = sum(block.n_convs for block in self.blocks) + 1

    @property
    def blocks(self) -> list[SynthesisBlock]:
        return [getattr(self, f"b{size}") for size in self.block_resolutions]

    def forward(
        self,
        w_plus: Tensor,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        x = picture = None
        first = 0
        for block in self.blocks:
            styles = w_plus[:, first : first + block.n_convs + 1]
            x, picture = block(x, picture, styles, noise_mode, rng, force_fp32)
            first += block.n_convs
        return picture


class MappingNetwork(nn.Module):
    """z and a camera label to w (Karras et al., 2019; conditioned as in Chan et al., 2022, sec. 4.4).

    `z_dim` 0 makes a discriminator's: the label alone is mapped, and no mean of w is kept. `c_dim` 0 makes one that
    knows no label.
    """

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_layers: int = 2, lr_multiplier: float = 0.01):
        super().__init__()
        self.num_layers = num_layers
        self.embed = EqualLinear(c_dim, w_dim) if c_dim > 0 else None
        for index in range(num_layers):
            features = z_dim + (w_dim if c_dim > 0 else 0) if index == 0 else w_dim
            layer = EqualLinear(features, w_dim, lr_multiplier=lr_multiplier, activate=True)
            self.add_module(f"fc{index}", layer)
        if z_dim > 0:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, label: Tensor | None) -> Tensor:
        """w [B, w_dim] of z [B, z_dim] (None without one) under the conditioning label [B, c_dim] (likewise)."""
        parts = [] if z is None else [normalise_2nd_moment(z)]
        if self.embed is not None:
            parts.append(normalise_2nd_moment(self.embed(label)))
        x = torch.cat(parts, dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        return x

    @torch.no_grad()
    def update_w_avg(self, w: Tensor, beta: float = 0.998) -> None:
        """Moving average of w over training batches, towards which truncation pulls."""
        self.w_avg.copy_(w.detach().to(self.w_avg).mean(dim=0).lerp(self.w_avg, beta))
