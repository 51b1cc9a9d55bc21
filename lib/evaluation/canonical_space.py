"""Does the conditioning camera change a head? GOAE's canonical latent space (Yuan et al., 2023, section 3.1, figure 3).

The paper says: codes that are mapped under another camera than the frontal one are flat, and their background is not
where that of canonical heads is. Depths are along the ray, world units; yaws are radians, positive to +x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import metrics, parsing
from lib.datasets.scenes import Scene
from lib.encoders.goae import background_depth_loss
from lib.evaluation.measures import MEASURES, Comparison
from lib.evaluation.protocol import COLUMNS
from lib.faces import Detector
from lib.generators import EG3D
from lib.inversion.result import StillHead
from lib.metrics.statistics import Interval, paired_difference

MEASURED = ("relief", "background_depth", "background_miss", "turn")
"""What `head_numbers` gives of each head."""

FEWEST_CELLS = 10
"""Rays that a face or a background must have for its depth to count: 1 % of those of portraits64."""

SIDE_YAW = 0.5
"""From where the ledger's `prior-side` is conditioned."""

LEDGER_METRICS = ("depth_relief", "background_depth")

Numbers = dict[str, np.ndarray]


# ----------------------------------------------------------------------- codes
@torch.inference_mode()
def conditioned(generator: EG3D, z: Tensor, yaw: float, stretch: float = 1.0) -> Tensor:
    """w_plus [n, n_layers, w_dim] of latents z [n, z_dim] that are mapped under a camera at this yaw.

    stretch: moves the code as many times as far from the canonical one; what training did not do, to look closer.
    """
    canonical, elsewhere = (generator.map(z, generator.camera(angle)) for angle in (0.0, yaw))
    return canonical.lerp(elsewhere, stretch)


def moved_at_random(canonical: Tensor, moved: Tensor, seed: int = 0) -> Tensor:
    """Codes as far from the canonical ones as `moved` are, both [n, n_layers, w_dim], each in a random direction.

    One direction for all layers. The control: what the length of a move does, whatever its direction.
    """
    direction = torch.randn(len(moved), 1, moved.shape[2], generator=torch.Generator().manual_seed(seed))
    direction = torch.nn.functional.normalize(direction, dim=2).to(moved)
    return canonical + (moved - canonical).norm(dim=2, keepdim=True) * direction


@torch.inference_mode()
def relative_shift(generator: EG3D, z: Tensor, yaw: float) -> float:
    """How far a camera at this yaw moves codes w of z [n, z_dim], relative to how far two of them are apart: root mean
    squares of both."""
    canonical, elsewhere = (generator.map(z, generator.camera(angle))[:, 0] for angle in (0.0, yaw))
    apart = 2 * canonical.var(dim=0).sum()  # mean squared distance of two that are drawn independently
    return ((elsewhere - canonical).square().sum(dim=1).mean() / apart).sqrt().item()


# ----------------------------------------------------------------------- heads
@torch.inference_mode()
def head_numbers(
    generator: EG3D, w_plus: Tensor, average: float, detector: Detector, batch: int = 50
) -> Numbers:
    """Of each head of w_plus [n, n_layers, w_dim], seen from the front, by the names of MEASURED; each [n].

    relief: standard deviation of the face's depth. background_depth: mean depth of the background. background_miss:
    root mean square distance of the background from D_avg (`average`), the root of eq. 4. turn: detected yaw.
    Face and background are the parser's. NaN where there are too few rays of one, or no face is found.
    """
    front, parts = generator.frontal_camera(), []
    for codes in w_plus.split(batch):
        seen = generator.synthesize(codes, front)
        depth = seen.depth.cpu()
        masks = parsing.part_masks(parsing.class_probabilities(seen.image), depth.shape[-1])
        face, background = (depth.where(masks[part], torch.nan) for part in ("face", "background"))
        turn = metrics.head_angles(metrics.detected_rotations(seen.image.clamp(-1, 1), detector))[:, 0]
        miss = background_depth_loss(depth, masks["background"], average).sqrt()
        parts.append(
            {
                "relief": (face - _mean(face)[:, None, None, None]).square().nanmean(dim=(1, 2, 3)).sqrt(),
                "background_depth": _mean(background),
                "background_miss": miss.where(_mean(background).isfinite(), torch.nan),
                "turn": turn.cpu(),
            }
        )
    return {name: torch.cat([part[name] for part in parts]).double().numpy() for name in MEASURED}


def _mean(depth: Tensor) -> Tensor:
    """Mean [B] of what is known of maps [B, 1, R, R]; NaN where that is too little."""
    enough = depth.isfinite().sum(dim=(1, 2, 3)) >= FEWEST_CELLS
    return depth.nanmean(dim=(1, 2, 3)).where(enough, torch.nan)


def changes(found: Mapping[float, Numbers], canonical: Numbers) -> dict[str, list[Interval]]:
    """By measure, for each conditioning yaw: the mean change from the canonical code of the same z, with its interval.

    found: the numbers of `head_numbers` by yaw, of the same latents as the canonical ones.
    """
    return {
        name: [paired_difference(numbers[name], canonical[name]) for numbers in found.values()]
        for name in MEASURED
    }


# ----------------------------------------------------------------------- the ledger's rows
@torch.inference_mode()
def prior_rows(generator: EG3D, scenes: Sequence[Scene], yaw: float = SIDE_YAW) -> pd.DataFrame:
    """Rows of `prior-canonical` and `prior-side` as a table of an evaluation has them, of scenes of kind `samples`.

    No inversion: the scene's own z is mapped under the frontal camera, and under one at `yaw`, and measured in the
    input view beside the scene's truth.
    """
    rows = []
    for scene in scenes:
        canonical, side = (_own_code(generator, scene, angle) for angle in (0.0, yaw))
        if not torch.allclose(canonical.cpu(), scene.truth["w_plus"], atol=1e-4):
            raise ValueError(f"scene {scene.name!r} is no sample of this generator: its code is another")
        for method, w_plus in (("prior-canonical", canonical), ("prior-side", side)):
            head = StillHead(w_plus, generator, scene.input.camera, generator.planes(w_plus))
            seen = Comparison(head, scene, scene.input_name)
            rows += [_row(method, scene, name, MEASURES[name].of(seen)) for name in LEDGER_METRICS]
    return _as_table(rows)


def _own_code(generator: EG3D, scene: Scene, yaw: float) -> Tensor:
    """w_plus [1, n_layers, w_dim] of the z of a `samples` scene, as `lib.datasets.samples.sampled_code` draws it."""
    if scene.extras.get("kind") != "samples":
        raise ValueError(
            f"only scenes of kind samples have a z; {scene.name!r} is of {scene.extras.get('kind')!r}"
        )
    rng = torch.Generator().manual_seed(scene.extras["seed"])
    z = torch.randn(1, generator.z_dim, generator=rng)
    return generator.map(z, generator.camera(yaw), scene.extras["truncation"])


def _row(method: str, scene: Scene, metric: str, value: float) -> dict[str, Any]:
    return {
        "method": method,
        "scene": scene.name,
        "scene_kind": scene.extras["kind"],
        "split": scene.extras["split"],
        "view": scene.input_name,
        "yaw": scene.input.camera.yaw.item(),
        "is_input": True,
        "metric": metric,
        "value": value,
        "failure": "" if np.isfinite(value) else f"{metric} has no value here",
    }


def _as_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(COLUMNS)
