"""Views of one head against its true views, and against one another."""

from dataclasses import dataclass, field

import pytest
import torch
from analytic_head import AnalyticGenerator
from test_warping import hit

from lib.cameras import Camera, orbit
from lib.generators.eg3d import Rendering
from lib.meshes import view_of
from lib.metrics.consistency import (
    blending_weights,
    by_view,
    edge_cameras,
    predict_view,
    view_consistency,
)


def squares(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (estimate - truth).square().flatten(1).mean(dim=1)


# -------------------------------------------------------------------- against true views
def test_each_known_view_gets_its_value_in_order():
    truths = {"left": torch.zeros(1, 1, 2, 2), "unknown": None, "right": torch.ones(1, 1, 2, 2)}
    estimates = {
        "right": torch.full((1, 1, 2, 2), 3.0),
        "unknown": torch.zeros(1),
        "left": torch.ones(1, 1, 2, 2),
    }
    found = by_view(squares, estimates, truths)
    assert list(found) == ["left", "right"]
    assert {name: value.item() for name, value in found.items()} == {"left": 1.0, "right": 4.0}


def test_a_view_without_estimate_is_an_error():
    with pytest.raises(ValueError, match="no estimate for the views left; estimates: none"):
        by_view(squares, {}, {"left": torch.zeros(1), "unknown": None})


# -------------------------------------------------------------------- against one another
WALL = 3.3
"""Depth of the background along every ray."""


@dataclass(frozen=True)
class Balls:
    """A head of two balls before a wall, rendered in closed form; paint: brightness that only yaw 0.2 shows."""

    paint: float = 0.0
    generator: AnalyticGenerator = field(default_factory=AnalyticGenerator)

    def still(self) -> "Balls":
        return self

    def render(self, camera: Camera, neural_resolution: int = 64) -> Rendering:
        origins, directions = camera.rays(neural_resolution)
        depth = hit(origins.reshape(-1, 3), directions.reshape(-1, 3)).reshape(origins.shape[:2])
        alpha, depth = depth.isfinite().float(), depth.nan_to_num(WALL)
        colours = (origins + directions * depth[..., None]) * alpha[..., None]
        colours = colours + self.paint * torch.exp(-(((camera.yaw - 0.2) / 0.05) ** 2)).view(-1, 1, 1)
        colours, depth, alpha = (
            x.unflatten(1, (neural_resolution, -1)).movedim(-1, 1)
            for x in (colours, depth[..., None], alpha[..., None])
        )
        return Rendering(colours, colours, depth, colours, alpha)


@pytest.fixture(scope="module")
def head() -> Balls:
    return Balls()


def test_edges_are_those_of_the_trajectory(head):
    cameras = edge_cameras(head)
    angles = torch.stack([cameras.yaw, cameras.pitch], dim=1)
    expected = torch.tensor([[0, 0], [-0.35, 0], [0.35, 0], [0, -0.25], [0, 0.25]])
    assert torch.allclose(angles, expected, atol=1e-6)
    corners = edge_cameras(head, corners=True)
    assert torch.allclose(corners.yaw.abs(), torch.tensor([0, 0.35, 0.35, 0.35, 0.35]), atol=1e-6)
    assert torch.allclose(corners.pitch.abs(), torch.tensor([0, 0.25, 0.25, 0.25, 0.25]), atol=1e-6)
    assert len({tuple(label) for label in corners.label().tolist()}) == 5


def test_weights_favour_the_nearest_view_that_sees():
    angle = torch.tensor([0.0, 0.1, 0.3]).view(3, 1, 1, 1).repeat(1, 1, 1, 3)
    seen = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])  # [pixel, source]
    weight = blending_weights(angle, seen.T.reshape(3, 1, 1, 3))[:, 0, 0].T
    assert torch.allclose(weight.sum(dim=1), torch.ones(3))
    assert weight[0].argmax() == 0 and weight[0, 0] / weight[0, 1] == pytest.approx(11, rel=1e-4)
    assert weight[1, 0] < 1e-4 and weight[1, 1] / weight[1, 2] == pytest.approx(0.31 / 0.11, rel=1e-4)
    assert torch.allclose(weight[2], weight[0])  # nobody sees it: all as if they did


def test_a_solid_head_is_predicted_by_its_other_views(head):
    camera = view_of(head, 0.2, 0.1)
    truth = head.render(camera)
    prediction = predict_view(head, camera, edge_cameras(head))
    seen = (truth.alpha > 0.5) & (prediction.seen_by > 0)
    error = (prediction.image - truth.image).abs().amax(dim=1, keepdim=True)[seen]
    assert prediction.image.shape == (1, 3, 64, 64) and prediction.seen_by.max() == 5
    assert seen.sum() > 0.9 * (truth.alpha > 0.5).sum()
    assert error.median() < 3e-3 and error.quantile(0.9) < 0.03
    other = predict_view(head, view_of(head, -0.2, 0.1), edge_cameras(head)).image
    assert (other - truth.image).abs().amax(dim=1, keepdim=True)[seen].median() > 0.03


def test_a_view_from_its_own_camera_alone_is_itself(head):
    camera = view_of(head, 0.35, 0.0)
    assert squares(predict_view(head, camera, camera).image, head.render(camera).image).item() < 1e-6


def test_what_stands_before_a_surface_is_not_painted_on_it(head):
    """The small ball hides a part of the large one from some views; they may not colour that part."""
    camera = view_of(head, 0.2, 0.1)
    truth, sources = head.render(camera), edge_cameras(head)
    careful, careless = (predict_view(head, camera, sources, tolerance) for tolerance in (0.05, 10.0))
    errors = [squares(prediction.image, truth.image).item() for prediction in (careful, careless)]
    assert errors[0] < 0.5 * errors[1]


def test_paint_for_the_input_view_alone_is_not_predicted(head):
    """Of a head that shows the photo only where the photo was taken, the other views know nothing."""
    camera = view_of(head, 0.2, 0.0)
    solid, painted = (
        view_consistency(model, model.render(camera).image, camera, {"mse": squares})["mse"].item()
        for model in (head, Balls(paint=0.5))
    )
    assert solid < 2e-3
    assert painted == pytest.approx(0.25, rel=0.1)


def test_every_metric_is_asked_of_the_prediction(head):
    camera, sources = orbit(0.1, 0.0), edge_cameras(head, corners=True)
    target = head.render(camera).image
    metrics = {"mse": squares, "negative": lambda a, b: -squares(a, b)}
    asked = view_consistency(head, target, camera, metrics, sources=sources)
    expected = squares(predict_view(head, camera, sources).image, target)
    assert torch.equal(asked["mse"], expected) and torch.equal(asked["negative"], -expected)
    assert not torch.equal(view_consistency(head, target, camera, metrics)["mse"], expected)
