"""EG3D (Chan et al., 2022): a latent code becomes three planes, the planes a volume, the volume a picture.

Modules and parameters carry the official names, so that official state dicts load strictly; sizes are
configuration.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.cameras import FOCAL, Camera, as_camera, look_at, orbit
from lib.generators.rendering import RenderingSettings, plane_axes, render_rays
from lib.generators.stylegan2 import (
    NOISE_MODES,
    EqualLinear,
    MappingNetwork,
    SynthesisBlock,
    SynthesisNetwork,
    resampling_filter,
)
from lib.generators.triplanes import Layer, PlaneTable, decode, plane_table
from lib.shapes import FeatureMaps, Images, LayerStyles, PerPoint, PointFeatures, Points, SingleMaps, checked

PlaneAxesNumbers = tuple[tuple[tuple[float, ...], ...], ...]


class Rendering(NamedTuple):
    """One view of each head; all but `image` at the neural (ray) resolution R."""

    image: Images  # [B, 3, resolution, resolution] in [-1, 1]
    image_raw: Images  # [B, 3, R, R], the first three feature channels
    depth: SingleMaps  # [B, 1, R, R], distance along the ray, world units
    features: FeatureMaps  # [B, C, R, R]
    alpha: SingleMaps  # [B, 1, R, R], how much of the ray is absorbed


@dataclass(frozen=True)
class SuperResolutionConfig:
    """Two StyleGAN2 blocks from the rendered features to the picture."""

    input_resolution: int = 128  # features and raw picture are resized to this first
    widths: tuple[int, int] = (256, 128)  # channels of block 0 and block 1
    upsample: tuple[bool, bool] = (True, True)  # which of the blocks doubles the resolution
    resize_larger: bool = True  # False: inputs larger than input_resolution are left as they are (EG3D's 4X)
    antialias: bool = True  # when resizing
    noise_mode: str = "none"
    conv_clamp: float | None = 256.0
    own_filter: bool = False  # an unused buffer that some official modules have in their state dict
    float16: bool = False  # compute in float16 on CUDA devices; pictures are summed in float32 all the same
    aliased: bool = False  # as in EG3D's code, a block 0 that does not upsample adds its picture to image_raw

    def __post_init__(self) -> None:
        if self.noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}; got {self.noise_mode!r}")

    @classmethod
    def official(cls, name: str, **changes: Any) -> "SuperResolutionConfig":
        """The modules of the EG3D release: 8XDC (all 512 px models), 8X, 4X (256 px), 2X (128 px)."""
        known = {
            "8XDC": cls(float16=True),
            "8X": cls(widths=(128, 64), own_filter=True, float16=True),
            "4X": cls(
                widths=(128, 64), upsample=(False, True), resize_larger=False, own_filter=True, float16=True
            ),
            "2X": cls(
                input_resolution=64,
                widths=(128, 64),
                upsample=(False, True),
                own_filter=True,
                float16=True,
            ),
        }
        if name not in known:
            raise ValueError(f"unknown super-resolution module {name!r}; known: {', '.join(known)}")
        return dataclasses.replace(known[name], **changes)

    @property
    def output_resolution(self) -> int:
        return self.input_resolution * 2 ** sum(self.upsample)


@dataclass(frozen=True)
class EG3DConfig:
    """All sizes and settings of a generator. The defaults are those of the released FFHQ 512 model."""

    z_dim: int = 512
    c_dim: int = 25
    w_dim: int = 512
    mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    plane_resolution: int = 256
    plane_channels: int = 32  # of each of the three planes
    channel_base: int = (
        32768  # backbone channels at a resolution: channel_base / resolution, at most channel_max
    )
    channel_max: int = 512
    conv_clamp: float | None = None  # of the backbone
    num_fp16_res: int = 0  # so many of the backbone's highest resolutions compute in float16 on CUDA
    decoder_hidden: int = 64
    feature_channels: int = 32  # colours that are rendered and handed to the super-resolution
    decoder_lr_multiplier: float = 1.0
    neural_resolution: int = 128  # rays along a side
    plane_axes: str | PlaneAxesNumbers = "released"  # or "corrected", or the axes: see rendering.plane_axes
    conditioning_zero: bool = False  # ignore the conditioning camera (EG3D's c_gen_conditioning_zero)
    c_scale: float = 1.0  # factor on the conditioning camera
    camera_radius: float = 2.7
    camera_pivot: tuple[float, float, float] = (0.0, 0.0, 0.2)
    camera_focal: float = FOCAL
    rendering: RenderingSettings = field(default_factory=RenderingSettings)
    superresolution: SuperResolutionConfig = field(
        default_factory=lambda: SuperResolutionConfig.official("8XDC")
    )

    def __post_init__(self) -> None:
        if self.feature_channels < 3:
            raise ValueError(
                f"feature_channels must be at least 3 (the raw picture); got {self.feature_channels}"
            )
        for name in ("camera_radius", "camera_focal"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be more than 0; got {getattr(self, name)}")

    @property
    def resolution(self) -> int:
        return self.superresolution.output_resolution

    @classmethod
    def ffhq512(cls, **changes: Any) -> "EG3DConfig":
        """ffhq512-128 of the EG3D release."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def shapenet128(cls, **changes: Any) -> "EG3DConfig":
        """shapenetcars128-64 of the EG3D release: white background, no pose conditioning."""
        cars = cls(
            neural_resolution=64,
            conditioning_zero=True,
            camera_radius=1.7,
            camera_pivot=(0.0, 0.0, 0.0),
            rendering=RenderingSettings(64, 64, ray_start=0.1, ray_end=2.6, box_warp=1.6, white_back=True),
            superresolution=SuperResolutionConfig.official("2X"),
        )
        return dataclasses.replace(cars, **changes)

    @classmethod
    def embedded(cls, resolution: int = 64, **changes: Any) -> "EG3DConfig":
        """The small generator of this repository: the same structure, smaller in every width."""
        rays = resolution // 2
        small = cls(
            w_dim=256,
            plane_resolution=64,
            plane_channels=16,
            channel_base=4096,
            channel_max=128,
            decoder_hidden=64,
            feature_channels=16,
            neural_resolution=rays,
            camera_pivot=(0.0, 0.0, 0.0),
            rendering=RenderingSettings(depth_resolution=16, depth_resolution_importance=12),
            superresolution=SuperResolutionConfig(
                rays, widths=(64, 32), upsample=(False, True), conv_clamp=None
            ),
        )
        return dataclasses.replace(small, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `lib.generators.official.stated_config` is the inverse."""
        return dataclasses.asdict(self)


class Decoder(nn.Module):
    """The small MLP from plane features to raw density and colour (Chan et al., 2022, sec. 3)."""

    def __init__(self, channels: int, hidden: int, colours: int, lr_multiplier: float = 1.0):
        super().__init__()
        self.net = nn.Sequential(
            EqualLinear(channels, hidden, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            EqualLinear(hidden, 1 + colours, lr_multiplier=lr_multiplier),
        )

    def forward(self, table: PlaneTable, points: Points) -> tuple[PerPoint, PointFeatures]:
        """Raw densities [B, N] and colours [B, N, colours] at world points [B, N, 3]."""
        return decode(table, points, *self.layers())

    def layers(self) -> tuple[Layer, Layer]:
        """Weight and bias of the two linear layers as they act, with the factors of the learning rate."""
        return tuple(
            (layer.weight * layer.weight_gain, layer.bias * layer.bias_gain) for layer in self.net[::2]
        )


class SuperResolution(nn.Module):
    """From rendered features and raw picture to the picture, styled by the last layer's w."""

    def __init__(self, config: SuperResolutionConfig, in_channels: int, w_dim: int):
        super().__init__()
        self.config = config
        resolution = config.input_resolution
        for index, (width, up) in enumerate(zip(config.widths, config.upsample, strict=True)):
            resolution *= 2 if up else 1
            block = SynthesisBlock(
                in_channels,
                width,
                w_dim,
                resolution,
                3,
                up=up,
                conv_clamp=config.conv_clamp,
                float16=config.float16,
            )
            self.add_module(f"block{index}", block)
            in_channels = width
        if config.own_filter:
            self.register_buffer("resample_filter", resampling_filter())

    def forward(
        self,
        image_raw: Tensor,
        features: Tensor,
        w: Tensor,
        rng: torch.Generator | None = None,
        force_fp32: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The picture, and the raw picture as the generator returns it."""
        size, wanted = features.shape[-1], self.config.input_resolution
        resized = size < wanted or (size > wanted and self.config.resize_larger)
        picture = self._resized(image_raw) if resized else image_raw
        x = self._resized(features) if resized else features
        styles = w[:, None].expand(-1, 3, -1)
        # Without a random generator a view is always the same, so one fixed map stands for random noise.
        noise_mode = "const" if self.config.noise_mode == "random" and rng is None else self.config.noise_mode
        modes = noise_mode, rng, force_fp32
        x, picture = self.block0(x, picture, styles, *modes)
        if self.config.aliased and not resized and not self.block0.up:
            image_raw = picture
        return self.block1(x, picture, styles, *modes)[1], image_raw

    def _resized(self, x: Tensor) -> Tensor:
        side = self.config.input_resolution
        return F.interpolate(
            x, size=(side, side), mode="bilinear", align_corners=False, antialias=self.config.antialias
        )


class EG3D(nn.Module):
    """The generator. It keeps nothing between calls: a view depends on arguments and weights alone."""

    def __init__(self, config: EG3DConfig):
        super().__init__()
        self.config = config
        self.backbone = nn.Module()
        self.backbone.synthesis = SynthesisNetwork(
            config.w_dim,
            config.plane_resolution,
            3 * config.plane_channels,
            channel_base=config.channel_base,
            channel_max=config.channel_max,
            conv_clamp=config.conv_clamp,
            num_fp16_res=config.num_fp16_res,
        )
        self.backbone.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            config.mapping_layers,
            config.mapping_lr_multiplier,
        )
        self.decoder = Decoder(
            config.plane_channels,
            config.decoder_hidden,
            config.feature_channels,
            config.decoder_lr_multiplier,
        )
        self.superresolution = SuperResolution(config.superresolution, config.feature_channels, config.w_dim)
        # Not in the official state dict, so not in ours; `save_generator` stores the statistics beside it.
        self.register_buffer("plane_axes", plane_axes(config.plane_axes), persistent=False)
        self.register_buffer("_w_mean", torch.full([config.w_dim], torch.nan), persistent=False)
        self.register_buffer("_w_std", torch.full([], torch.nan), persistent=False)

    # ---------------------------------------------------------------- what it is
    @property
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def w_dim(self) -> int:
        return self.config.w_dim

    @property
    def n_layers(self) -> int:
        """Number of w vectors in a w_plus."""
        return self.backbone.synthesis.num_ws

    @property
    def resolution(self) -> int:
        """Side of `Rendering.image`, pixels."""
        return self.config.resolution

    @property
    def neural_resolution(self) -> int:
        """Rays along a side, unless a call says otherwise."""
        return self.config.neural_resolution

    @property
    def w_mean(self) -> Tensor:
        """Mean w [w_dim] under the frontal conditioning camera."""
        return self._measured(self._w_mean)

    @property
    def w_std(self) -> Tensor:
        """Spread of w as a single number: the root of the mean squared distance to w_mean."""
        return self._measured(self._w_std)

    def _measured(self, statistic: Tensor) -> Tensor:
        if statistic.isnan().any():
            raise RuntimeError("the statistics of w are not known yet: call generator.measure_w() once")
        return statistic

    def camera(self, yaw: float | Tensor = 0.0, pitch: float | Tensor = 0.0) -> Camera:
        """Cameras that see the head from these angles (radians) as in training: its distance, focal length, pivot.

        As in EG3D the distance is from the origin, although the camera looks at the pivot.
        """
        seen = orbit(yaw, pitch, radius=self.config.camera_radius, focal=self.config.camera_focal)
        pivot = torch.tensor(self.config.camera_pivot).expand_as(seen.position).to(seen.position)
        return Camera(look_at(seen.position, pivot), seen.intrinsics).to(self.plane_axes.device)

    def frontal_camera(self) -> Camera:
        """The camera in front of the head."""
        return self.camera()

    # ---------------------------------------------------------------- latent
    def map(
        self,
        z: Tensor,
        camera: Camera | Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> LayerStyles:
        """w_plus [B, n_layers, w_dim] of latents z [B, z_dim] under conditioning cameras (one, or one each).

        Truncation pulls the first `truncation_cutoff` layers (None: all) to the mean of the training's w.
        """
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.z_dim:
            found = tuple(z.shape) if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise ValueError(f"expected latents z, a tensor [B, {self.z_dim}], got {found}")
        if not isinstance(truncation_psi, int | float) or not math.isfinite(truncation_psi):
            raise ValueError(f"truncation_psi must be a number, 1 for no truncation; got {truncation_psi!r}")
        z = z.to(self.plane_axes)
        w = self.backbone.mapping(z, self._condition(camera, z.shape[0]))
        w_plus = w[:, None].expand(-1, self.n_layers, -1)
        if truncation_psi == 1:
            return w_plus
        cutoff = self.n_layers if truncation_cutoff is None else truncation_cutoff
        truncated = self.backbone.mapping.w_avg.lerp(w_plus[:, :cutoff], truncation_psi)
        return torch.cat([truncated, w_plus[:, cutoff:]], dim=1)

    def _condition(self, camera: Camera | Tensor, batch: int) -> Tensor | None:
        if self.config.c_dim == 0:
            return None
        label = as_camera(camera).expand(batch).label().to(self.plane_axes)
        return torch.zeros_like(label) if self.config.conditioning_zero else label * self.config.c_scale

    @torch.no_grad()
    def measure_w(self, camera: Camera | None = None, n: int = 10_000, seed: int = 0) -> "EG3D":
        """Measure `w_mean` and `w_std` over n latents under one camera (default: frontal); returns itself."""
        if n < 2:
            raise ValueError(f"a spread needs 2 latents or more; got n = {n}")
        rng = torch.Generator().manual_seed(seed)
        camera = self.frontal_camera() if camera is None else camera
        total, squares = torch.zeros(self.w_dim, dtype=torch.float64), 0.0
        for start in range(0, n, 1000):
            z = torch.randn(min(1000, n - start), self.z_dim, generator=rng)
            w = self.map(z.to(self.plane_axes.device), camera)[:, 0].double().cpu()
            total, squares = total + w.sum(dim=0), squares + w.square().sum()
        w_mean = total / n
        self.set_w_statistics(w_mean, (squares / n - w_mean.square().sum()).clamp_min(0).sqrt())
        return self

    @torch.no_grad()
    def set_w_statistics(self, w_mean: Tensor, w_std: Tensor) -> None:
        """Set `w_mean` [w_dim] and `w_std` [] to values measured before."""
        self._w_mean.copy_(w_mean)
        self._w_std.copy_(w_std)

    # ---------------------------------------------------------------- volume
    @checked
    def planes(
        self,
        w_plus: LayerStyles,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """Tri-planes [B, 3, C, H, W] of a head. `rng` draws the noise of noise_mode "random"."""
        self._require_styles(w_plus)
        features = self.backbone.synthesis(w_plus.to(self.plane_axes), noise_mode, rng, force_fp32)
        return features.unflatten(1, (3, self.config.plane_channels))

    def _require_styles(self, w_plus: Tensor) -> None:
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.n_layers, self.w_dim) or len(w_plus) == 0:
            raise ValueError(
                f"expected w_plus [B, {self.n_layers}, {self.w_dim}], got {tuple(w_plus.shape)}; "
                "a single w [B, w_dim] is repeated by w[:, None].expand(-1, generator.n_layers, -1)"
            )

    def sample(self, planes: Tensor, points: Points) -> tuple[PerPoint, PointFeatures]:
        """Raw densities [B, N] and colours [B, N, C] at world points [B, N, 3]; one head serves any batch.

        No density noise is added, whatever the settings say.
        """
        return self.decoder(self._table(planes), points.to(planes))

    def _table(self, planes: Tensor) -> PlaneTable:
        return plane_table(planes, self.plane_axes, self.config.rendering.box_warp)

    def density(self, w_plus: Tensor, points: Points) -> PerPoint:
        """Raw density [B, N], before the shifted softplus, at world points [B, N, 3]."""
        return self.sample(self.planes(w_plus), points)[0]

    # ---------------------------------------------------------------- picture
    def render(
        self,
        planes: Tensor,
        w_plus: Tensor,
        camera: Camera | Tensor,
        *,
        rng: torch.Generator | None = None,
        neural_resolution: int | None = None,
        settings: RenderingSettings | None = None,
        force_fp32: bool = False,
    ) -> Rendering:
        """Views of heads given as planes; w_plus styles the super-resolution.

        One head (batch 1) may be seen from many cameras, and many heads from one. With `rng` the ray samples
        are jittered. `settings` replaces the generator's own way of sampling, for instance by more samples, or by
        coarse ones alone. `force_fp32` keeps a float16 super-resolution in full precision.
        """
        self._require_styles(w_plus)
        if len(w_plus) not in (1, len(planes)):
            raise ValueError(f"expected a w_plus for each of {len(planes)} heads, or one; got {len(w_plus)}")
        if neural_resolution is not None and (
            not isinstance(neural_resolution, int) or neural_resolution < 1
        ):
            raise ValueError(
                f"neural_resolution counts rays along a side, 1 or more; got {neural_resolution!r}"
            )
        camera = as_camera(camera).to(planes.device, planes.dtype)
        w_plus = w_plus.to(planes)
        camera = camera.expand(planes.shape[0]) if len(camera) == 1 else camera
        size = self.neural_resolution if neural_resolution is None else neural_resolution
        origins, directions = camera.rays(size)
        settings = self.config.rendering if settings is None else settings
        table = self._table(planes)
        rays = render_rays(lambda points: self.decoder(table, points), origins, directions, settings, rng)
        features, depth, alpha = (
            x.reshape(len(camera), size, size, -1).permute(0, 3, 1, 2).contiguous()
            for x in (rays.features, rays.depth, rays.alpha)
        )
        image, image_raw = self.superresolution(features[:, :3], features, w_plus[:, -1], rng, force_fp32)
        return Rendering(image, image_raw, depth, features, alpha)

    def synthesize(
        self,
        w_plus: Tensor,
        camera: Camera | Tensor,
        *,
        rng: torch.Generator | None = None,
        neural_resolution: int | None = None,
        noise_mode: str = "const",
        settings: RenderingSettings | None = None,
        force_fp32: bool = False,
    ) -> Rendering:
        """Views of the heads w_plus [B, n_layers, w_dim] from cameras: planes, then render."""
        planes = self.planes(w_plus, noise_mode, rng, force_fp32)
        return self.render(
            planes,
            w_plus,
            camera,
            rng=rng,
            neural_resolution=neural_resolution,
            settings=settings,
            force_fp32=force_fp32,
        )
