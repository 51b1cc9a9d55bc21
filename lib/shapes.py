"""Names for the shapes of tensors, checked whenever the code runs.

A function decorated with `checked` compares its annotated arguments and its result with these shapes on every
call; a dimension of one name has one size within a call. Sizes written as numbers (3, 4, 25) are fixed.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

checked = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))
"""Decorator: check the shapes of a function's arguments and result at every call."""

Images = Float[Tensor, "batch 3 height width"]
FeatureMaps = Float[Tensor, "batch channels height width"]
SingleMaps = Float[Tensor, "batch 1 height width"]
DoubledMaps = Float[Tensor, "batch channels 2*height 2*width"]

Latents = Float[Tensor, "batch z_dim"]
Styles = Float[Tensor, "batch w_dim"]
LayerStyles = Float[Tensor, "style_batch layers w_dim"]
Planes = Float[Tensor, "plane_batch 3 channels plane_height plane_width"]
PlaneAxes = Float[Tensor, "3 3 3"]

Labels = Float[Tensor, "batch 25"]
Poses = Float[Tensor, "batch 4 4"]
Positions = Float[Tensor, "batch 3"]
Intrinsics = Float[Tensor, "batch 3 3"]

Points = Float[Tensor, "batch points 3"]
PointsOnPlanes = Float[Tensor, "batch 3 points 2"]
PointFeatures = Float[Tensor, "batch points channels"]
PerPoint = Float[Tensor, "batch points"]
ImagePoints = Float[Tensor, "batch points 2"]

Rays = Float[Tensor, "batch rays 3"]
PerRay = Float[Tensor, "batch rays"]
PerSample = Float[Tensor, "batch rays samples"]
PerInterval = Float[Tensor, "batch rays intervals"]
RaySamples = Float[Tensor, "batch rays more_samples"]
SampleFeatures = Float[Tensor, "batch rays samples channels"]
PerImage = Float[Tensor, "batch"]
