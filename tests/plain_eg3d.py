"""EG3D a second time, plain and obvious: the slow twin that tests and benchmarks hold the generator against.

It reads weights and configuration from an `EG3D` and computes with them as the publication does: grouped
convolutions of modulated weights, zeros inserted before filtering, three expanded copies of the points for
the three planes, all samples evaluated in full, concatenated and sorted. Samples are deterministic.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.generators.eg3d import EG3D, Rendering


def filtered(x: Tensor, taps: Tensor) -> Tensor:
    """True convolution of every channel with one filter [k, k]."""
    channels = x.shape[1]
    return F.conv2d(x, taps.flip(0, 1).expand(channels, 1, -1, -1), groups=channels)


def zeros_inserted(x: Tensor) -> Tensor:
    """A zero after every pixel, in both directions."""
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return x.reshape(batch, channels, 2 * height, 2 * width)


def upsampled(x: Tensor, taps: Tensor) -> Tensor:
    return filtered(F.pad(zeros_inserted(x), (2, 1, 2, 1)), 4 * taps)


def linear(layer, x: Tensor) -> Tensor:
    return x @ (layer.weight * layer.weight_gain).T + layer.bias * layer.bias_gain


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: bool, taps: Tensor) -> Tensor:
    """One group of modulated weights for every sample of the batch."""
    batch, channels, height, width = x.shape
    weights = weight[None] * style[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    kernel = weight.shape[-1]
    x = x.reshape(1, batch * channels, height, width)
    if up:
        # A transposed convolution is a true convolution of the picture with zeros inserted.
        transposed = weights.transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, transposed, stride=2, groups=batch)
        x = filtered(F.pad(x, (1, 1, 1, 1)), 4 * taps)
    else:
        x = F.conv2d(x, weights.flatten(0, 1), padding=kernel // 2, groups=batch)
    return x.reshape(batch, -1, *x.shape[2:])


def layer(module, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
    x = modulated(x, module.weight, linear(module.affine, w), True, module.up, module.resample_filter)
    if noise_mode == "const":
        x = x + module.noise_const * module.noise_strength
    x = x + module.bias[:, None, None]
    x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x if module.conv_clamp is None else x.clamp(-module.conv_clamp, module.conv_clamp)


def to_rgb(module, x: Tensor, w: Tensor) -> Tensor:
    style = linear(module.affine, w) / math.sqrt(x.shape[1])
    x = modulated(x, module.weight, style, False, False, None) + module.bias[:, None, None]
    return x if module.conv_clamp is None else x.clamp(-module.conv_clamp, module.conv_clamp)


def block(module, x: Tensor | None, picture: Tensor | None, w_plus: list[Tensor], noise_mode: str):
    w_plus = list(w_plus)
    if x is None:
        x = module.const.expand(len(w_plus[0]), -1, -1, -1)
    else:
        x = layer(module.conv0, x, w_plus.pop(0), noise_mode)
    x = layer(module.conv1, x, w_plus[0], noise_mode)
    added = to_rgb(module.torgb, x, w_plus[1])
    if picture is None:
        return x, added
    return x, (upsampled(picture, module.resample_filter) if module.up else picture) + added


def plane_features(planes: Tensor, points: Tensor, axes: Tensor, box_warp: float) -> Tensor:
    """Mean over three planes [B, 3, C, H, W] of their features at points [B, N, 3], with copies of the points."""
    batch, n, _, height, width = *planes.shape[:2], *planes.shape[2:]
    points = (points * 2 / box_warp)[:, None].expand(-1, 3, -1, -1).reshape(batch * 3, -1, 3)
    turned = torch.bmm(points, axes.transpose(1, 2).repeat(batch, 1, 1))
    grid = turned[:, None, :, :2]
    features = F.grid_sample(
        planes.reshape(batch * n, -1, height, width), grid, padding_mode="zeros", align_corners=False
    )
    return features[:, :, 0].transpose(1, 2).reshape(batch, 3, points.shape[1], -1).mean(dim=1)


def decoded(generator: EG3D, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Raw densities [B, N, 1] and colours [B, N, C]."""
    net = generator.decoder.net
    x = plane_features(planes, points, generator.plane_axes, generator.config.rendering.box_warp)
    x = linear(net[2], F.softplus(linear(net[0], x)))
    return x[..., :1], torch.sigmoid(x[..., 1:]) * (1 + 2 * 0.001) - 0.001


def marched(colour: Tensor, density: Tensor, depths: Tensor, white_back: bool):
    """The mid-point rule: features, depth and weights."""
    delta = depths[:, :, 1:] - depths[:, :, :-1]
    colour = (colour[:, :, 1:] + colour[:, :, :-1]) / 2
    sigma = F.softplus((density[:, :, 1:] + density[:, :, :-1]) / 2 - 1)
    middle = (depths[:, :, 1:] + depths[:, :, :-1]) / 2
    absorbed = 1 - torch.exp(-sigma * delta)
    clear = torch.cat([torch.ones_like(absorbed[:, :, :1]), 1 - absorbed + 1e-10], dim=2)
    weights = absorbed * torch.cumprod(clear, dim=2)[:, :, :-1]
    total = weights.sum(dim=2)
    features = (weights * colour).sum(dim=2)
    depth = torch.nan_to_num((weights * middle).sum(dim=2) / total, nan=math.inf)
    limits = depths.flatten(1)
    depth = depth.maximum(limits.amin(1)[:, None, None]).minimum(limits.amax(1)[:, None, None])
    if white_back:
        features = features + 1 - total
    return features * 2 - 1, depth, weights, total


def importance(depths: Tensor, weights: Tensor, count: int) -> Tensor:
    """Quantiles (k + 1/2) / count of the smoothed weights, as sections 7 of the facts have them."""
    batch, rays, n = depths.shape[:3]
    weights = weights.detach().reshape(batch * rays, 1, n - 1)
    weights = F.avg_pool1d(F.max_pool1d(weights, 2, 1, padding=1), 2, 1)[:, 0] + 0.01
    flat = depths.reshape(batch * rays, n)
    edges = (flat[:, :-1] + flat[:, 1:]) / 2
    mass = weights[:, 1:-1] + 1e-5
    cdf = torch.cumsum(mass / mass.sum(dim=1, keepdim=True), dim=1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=1)
    u = ((torch.arange(count) + 0.5) / count).expand(batch * rays, count).contiguous()
    above = torch.searchsorted(cdf, u, right=True)
    below = (above - 1).clamp_min(0)
    above = above.clamp_max(mass.shape[1])
    width = cdf.gather(1, above) - cdf.gather(1, below)
    width = width.where(width >= 1e-5, torch.ones_like(width))
    start = edges.gather(1, below)
    fine = start + (u - cdf.gather(1, below)) / width * (edges.gather(1, above) - start)
    return fine.reshape(batch, rays, count, 1).detach()


def rendered(generator: EG3D, planes: Tensor, label: Tensor, size: int):
    """Features [B, R * R, C], depth and alpha [B, R * R, 1] of the views under labels [B, 25]."""
    s = generator.config.rendering
    origins, directions = rays(label, size)
    steps = torch.linspace(0, 1, s.depth_resolution)
    depths = s.ray_start + (s.ray_end - s.ray_start) * (steps + 0.5 / (s.depth_resolution - 1))
    depths = depths.reshape(1, 1, -1, 1).expand(*origins.shape[:2], -1, 1)

    def at(depths):
        points = origins[:, :, None] + depths * directions[:, :, None]
        density, colour = decoded(generator, planes, points.flatten(1, 2))
        return (x.reshape(*depths.shape[:3], -1) for x in (density, colour))

    density, colour = at(depths)
    weights = marched(colour, density, depths, s.white_back)[2]
    fine = importance(depths, weights, s.depth_resolution_importance)
    fine_density, fine_colour = at(fine)
    depths, order = torch.cat([depths, fine], dim=2).sort(dim=2)
    density = torch.cat([density, fine_density], dim=2).gather(2, order)
    colour = torch.cat([colour, fine_colour], dim=2)
    colour = colour.gather(2, order.expand(-1, -1, -1, colour.shape[3]))
    features, depth, _, alpha = marched(colour, density, depths, s.white_back)
    return features, depth, alpha


def rays(label: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [B, size * size, 3], row by row."""
    world_from_cam, k = label[:, :16].reshape(-1, 4, 4), label[:, 16:].reshape(-1, 3, 3)
    centres = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    u, v = u.reshape(1, -1), v.reshape(1, -1)
    y = (v - k[:, 1, 2, None]) / k[:, 1, 1, None]
    x = (u - k[:, 0, 2, None] - k[:, 0, 1, None] * y) / k[:, 0, 0, None]
    directions = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ world_from_cam[:, :3, :3].transpose(1, 2)
    origins = world_from_cam[:, None, :3, 3].expand_as(directions)
    return origins, F.normalize(directions, dim=-1)


def planes_of(generator: EG3D, w_plus: Tensor, noise_mode: str = "const") -> Tensor:
    x = picture = None
    first = 0
    for module in generator.backbone.synthesis.blocks:
        styles = w_plus[:, first : first + module.n_convs + 1].unbind(dim=1)
        x, picture = block(module, x, picture, styles, noise_mode)
        first += module.n_convs
    return picture.reshape(len(picture), 3, -1, *picture.shape[2:])


def synthesised(
    generator: EG3D, w_plus: Tensor, label: Tensor, neural_resolution: int | None = None
) -> Rendering:
    """What `generator.synthesize` gives, computed plainly."""
    size = neural_resolution or generator.neural_resolution
    planes = planes_of(generator, w_plus)
    maps = (
        x.transpose(1, 2).reshape(len(label), -1, size, size)
        for x in rendered(generator, planes, label, size)
    )
    features, depth, alpha = maps
    module = generator.superresolution
    x, picture, side = features, features[:, :3], module.config.input_resolution
    if size < side or (size > side and module.config.resize_larger):
        x, picture = (
            F.interpolate(
                y, (side, side), mode="bilinear", align_corners=False, antialias=module.config.antialias
            )
            for y in (x, picture)
        )
    styles = [w_plus[:, -1]] * 3
    x, picture = block(module.block0, x, picture, styles, module.config.noise_mode)
    _, picture = block(module.block1, x, picture, styles, module.config.noise_mode)
    return Rendering(picture, features[:, :3], depth, features, alpha)
