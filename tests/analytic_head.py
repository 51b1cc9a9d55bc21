"""A head whose shape is known: a ball with a nose at +z and an ear at +x, rendered by the real renderer."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.generators.eg3d import EG3DConfig, Rendering
from lib.generators.rendering import RenderingSettings, render_rays

RADIUS = 0.3
CENTRE = (0.02, -0.05, 0.01)
NOSE = (0.02, -0.05, 0.31)
EAR = (0.32, -0.05, 0.01)
BUMP_RADIUS = 0.08


@dataclass(frozen=True)
class AnalyticGenerator:
    """What exports, figures and the viewer use of a generator."""

    sharpness: float = 400.0
    config: EG3DConfig = field(default_factory=lambda: EG3DConfig.embedded(rendering=RenderingSettings()))

    @property
    def resolution(self) -> int:
        return self.config.resolution

    def camera(self, yaw: float | Tensor = 0.0, pitch: float | Tensor = 0.0) -> Camera:
        return orbit(yaw, pitch)

    def inside(self, points: Tensor) -> Tensor:
        """Signed distance to the surface, positive inside."""
        balls = ((CENTRE, RADIUS), (NOSE, BUMP_RADIUS), (EAR, BUMP_RADIUS))
        return torch.stack([r - (points - points.new_tensor(c)).norm(dim=-1) for c, r in balls]).amax(dim=0)

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Raw density and colour: red grows to +x, green upward, blue to the viewer."""
        return self.sharpness * self.inside(points), 0.5 + points

    def render(
        self,
        planes: Tensor,
        w_plus: Tensor,
        camera: Camera,
        neural_resolution: int | None = None,
        settings: RenderingSettings | None = None,
        **_,
    ) -> Rendering:
        size = self.resolution // 2 if neural_resolution is None else neural_resolution
        origins, directions = camera.rays(size)
        rays = render_rays(self.field, origins, directions, settings or self.config.rendering)
        features, depth, alpha = (
            x.reshape(len(camera), size, size, -1).permute(0, 3, 1, 2)
            for x in (rays.features, rays.depth, rays.alpha)
        )
        image = torch.nn.functional.interpolate(features, size=self.resolution, mode="bilinear")
        return Rendering(image, features, depth, features, alpha)


@dataclass(frozen=True)
class AnalyticHead:
    """The interface of an `Inversion`."""

    generator: AnalyticGenerator = field(default_factory=AnalyticGenerator)
    w_plus: Tensor = field(default_factory=lambda: torch.zeros(1, 4, 8))

    def planes(self) -> Tensor:
        return self.w_plus.new_zeros(1, 3, 1, 2, 2)

    def still(self) -> "AnalyticHead":
        return self

    def render(self, camera: Camera, **options) -> Rendering:
        return self.generator.render(self.planes(), self.w_plus, camera, **options)

    def density(self, points: Tensor) -> Tensor:
        return self.generator.field(points)[0]
