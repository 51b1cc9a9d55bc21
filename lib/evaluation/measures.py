"""What tables hold: metrics of an inverted head in a view whose truth is known, by the names of the ledger."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lib import metrics
from lib.cameras import Camera, carried
from lib.datasets import Scene, View
from lib.faces import FaceDetector
from lib.identity import FaceNetwork, face_network
from lib.images import resize
from lib.inversion.result import Inversion, StillHead
from lib.meshes import extract_mesh, normals_from_depth, shape_view
from lib.perceptual import LPIPS
from lib.warping import pixels_in_view, sample_at, visible


def in_head_frame(head: Inversion | StillHead, scene: Scene, camera: Camera) -> Camera:
    """Cameras of a scene as a head has them: carried along from the input's true camera to the head's own.

    The head of a method that was told the true camera, and kept it, has the scene's frame.
    """
    true, own = scene.input.camera, head.camera.to(camera.device)
    if torch.equal(true.world_from_cam, own.world_from_cam):  # exact, where there is nothing to carry
        return camera
    return carried(camera, true, own)


@dataclass(frozen=True)
class Comparison:
    """An inverted head beside the truth in one view of a scene; what measures share is made once.

    A method may find the camera of its input itself, or be told a wrong one. The head is seen as far from that camera
    as the true view is from the true input: no method is measured in a frame that is not its own.
    """

    head: StillHead
    scene: Scene
    view_name: str

    @property
    def view(self) -> View:
        return self.scene.views[self.view_name]

    @property
    def target(self) -> Tensor:
        """The true picture [1, 3, R, R]."""
        return self.view.image

    @cached_property
    def camera(self) -> Camera:
        """The view's camera in the head's frame."""
        return self.in_head_frame(self.view.camera)

    def in_head_frame(self, camera: Camera) -> Camera:
        """A camera of the scene as the head has it."""
        return in_head_frame(self.head, self.scene, camera)

    @cached_property
    def image(self) -> Tensor:
        """The head's picture [1, 3, R, R], in [-1, 1] as a file would keep it, where the truth is known."""
        return self._where_known(self.picture_from(self.camera))

    @cached_property
    def known(self) -> Tensor:
        """Where [1, 1, R, R] the true picture is known, bool."""
        everywhere = torch.ones_like(self.target[:, :1], dtype=torch.bool)
        return everywhere if self.view.known is None else self.view.known

    def mean_over_known(self, value: float) -> float:
        """A mean over the whole picture, to which unknown pixels add nothing, as one over the known pixels."""
        return value / self.known.float().mean().item()

    @cached_property
    def depth(self) -> Tensor:
        """The head's depth [1, 1, R, R] along the rays, at the size of the picture."""
        return self._depth_from(self.camera)

    @cached_property
    def true_depth(self) -> Tensor:
        """The truth's depth [1, 1, R, R] along the rays, NaN where it is unknown or not of the head."""
        return self._of_head(self.view.depth)

    @cached_property
    def true_normals(self) -> Tensor:
        """The truth's normals [1, 3, R, R] of the world, NaN where they are unknown or not of the head."""
        return self._of_head(self.view.normals)

    @cached_property
    def warped_photo(self) -> tuple[Tensor, Tensor]:
        """The input picture [1, 3, R, R], warped into this view by the head's depth, and where [1, 1, R, R] to trust it.

        SPI's authentic mask (Yin et al., 2023, eq. 8 and what follows): the photo shows that surface of the head.
        Pixels are left out, too, whose colour is blended with one beside the photo's head, or with one made up.
        """
        photo = self.scene.input
        photo_camera = self.in_head_frame(photo.camera)
        depth = self._depth_from(photo_camera)
        uv, distance = pixels_in_view(self.camera, self.depth, photo_camera)
        trusted = visible(uv, distance, depth) & self.known
        for true in (photo.mask, photo.known):
            if true is not None:
                trusted = trusted & (sample_at(true.float(), uv) > 0.999)
        return sample_at(photo.image, uv), trusted

    @cached_property
    def predicted(self) -> Tensor:
        """The picture [1, 3, R, R] as five other views of the head predict it, where the truth is known."""
        sources = self._here(metrics.edge_cameras(self.head))
        return self._where_known(metrics.predict_view(self.head, self._here(self.camera), sources).image)

    def _depth_from(self, camera: Camera) -> Tensor:
        """The head's depth [1, 1, R, R] along the rays of a camera."""
        found = shape_view(self.head, self._here(camera)).depth.float().cpu()
        return resize(found, self.target.shape[-1])

    def picture_from(self, camera: Camera) -> Tensor:
        """The head's picture [1, 3, R, R] from any camera."""
        return self.head.render(self._here(camera)).image.float().clamp(-1, 1).cpu()

    def _where_known(self, picture: Tensor) -> Tensor:
        """A picture that is the target where the truth is unknown, so that nothing made up is measured."""
        return picture.where(self.known, self.target)

    def _of_head(self, maps: Tensor) -> Tensor:
        return maps if self.view.mask is None else maps.where(self.view.mask, torch.nan)

    def _here(self, camera: Camera) -> Camera:
        return camera.to(self.head.w_plus.device)


@dataclass(frozen=True)
class Measure:
    """A column of a table.

    of: its value in a view; NaN where there is none, as without a face that is found. needs: what of a `View`
    must be known. truth: what else of a scene must be, by name; views that lack it have no row. whole_head: of
    the inversion as a whole, and so with the input view alone. within: radians of yaw by which a view may be turned
    from the input; views further away have no row. assets: the networks that it asks, by name.
    """

    name: str
    of: Callable[[Comparison], float]
    needs: tuple[str, ...] = ()
    truth: str = ""
    whole_head: bool = False
    within: float = math.inf
    assets: tuple[str, ...] = ()

    def applies(self, scene: Scene, view_name: str) -> bool:
        view = scene.views[view_name]
        known = all(getattr(view, need) is not None for need in self.needs)
        true = not self.truth or self.truth.format(view=view_name) in scene.truth
        near = (view.camera.yaw - scene.input.camera.yaw).abs().item() <= self.within
        return known and true and near and (view_name == scene.input_name or not self.whole_head)


# ----------------------------------------------------------------------- pictures
def mse(seen: Comparison) -> float:
    """Over the known pixels."""
    return seen.mean_over_known(metrics.mse(seen.image, seen.target).item())


def mae(seen: Comparison) -> float:
    """Over the known pixels."""
    return seen.mean_over_known(metrics.mae(seen.image, seen.target).item())


def psnr(seen: Comparison) -> float:
    """Of the error over the known pixels."""
    return _decibels(mse(seen))


def _decibels(error: float) -> float:
    """PSNR of a mean squared error of colours in [-1, 1]."""
    return 10 * math.log10(4 / error) if error else math.inf


def ssim(seen: Comparison) -> float:
    """Unknown pixels agree, and count as such: here and in what follows but for depth."""
    return metrics.ssim(seen.image, seen.target).item()


def ms_ssim(seen: Comparison) -> float:
    return metrics.ms_ssim(seen.image, seen.target).item()


def ms_ssim_dissimilarity(seen: Comparison) -> float:
    return metrics.ms_ssim_dissimilarity(seen.image, seen.target).item()


def e3dge_ssim(seen: Comparison) -> float:
    return metrics.e3dge_ssim(seen.image, seen.target).item()


def lpips(seen: Comparison) -> float:
    """AlexNet at 256 pixels."""
    return _lpips("alex")(seen.image, seen.target).item()


def lpips_vgg(seen: Comparison) -> float:
    """VGG at 256 pixels."""
    return _lpips("vgg")(seen.image, seen.target).item()


@functools.cache
def _lpips(net: Literal["alex", "vgg"]) -> LPIPS:
    return metrics.make_lpips(net)


def painted_error(seen: Comparison) -> float:
    """MSE within what was painted on the head."""
    marks = seen.scene.truth[f"painted/{seen.view_name}"].expand_as(seen.target)
    return (seen.image - seen.target)[marks].square().mean().item()


# ----------------------------------------------------------------------- identity and pose
def same_identity(seen: Comparison) -> float:
    return metrics.identity_similarity(_network(), seen.image, seen.view.camera, seen.target).item()


def mirrored_identity(seen: Comparison) -> float:
    """From the mirror image of the head's own camera; faces are cut out where the true one has them."""
    mirrored = seen.picture_from(seen.camera.mirror())
    return metrics.mirrored_identity(_network(), mirrored, seen.target, seen.view.camera).item()


@functools.cache
def _network() -> FaceNetwork:
    return face_network("evaluation")


def pose_error(seen: Comparison) -> float:
    return metrics.pose_error(seen.image, seen.view.camera, _detector()).item()


@functools.cache
def _detector() -> FaceDetector:
    return FaceDetector()


# ----------------------------------------------------------------------- shape
def depth_error(seen: Comparison) -> float:
    """Squared, of normalised depths."""
    return metrics.normalised_depth_error(seen.depth, seen.true_depth).item()


def depth_distance(seen: Comparison) -> float:
    """Of normalised depths: GOAE's geometry error."""
    return metrics.normalised_depth_distance(seen.depth, seen.true_depth).item()


def depth_correlation(seen: Comparison) -> float:
    return metrics.depth_correlation(seen.depth, seen.true_depth).item()


def mean_depth_error(seen: Comparison) -> float:
    """In world units."""
    return metrics.mean_depth_error(seen.depth, seen.true_depth).item()


def median_depth_error(seen: Comparison) -> float:
    """In world units."""
    return metrics.median_depth_error(seen.depth, seen.true_depth).item()


def depth_relief(seen: Comparison) -> float:
    """Standard deviation of the head's own depth where the true one is known, in world units: a card has little."""
    return seen.depth[~seen.true_depth.isnan()].std(correction=0).item()


def background_depth(seen: Comparison) -> float:
    """Mean of the head's own depth beside the true head, where the picture is known, in world units."""
    return seen.depth[~seen.view.mask & seen.known].mean().item()


def normal_error(seen: Comparison) -> float:
    """In degrees, in the frame of the truth."""
    found = normals_from_depth(seen.view.camera, seen.depth)
    return metrics.normal_error(found, seen.true_normals).item()


def scan_to_mesh(seen: Comparison) -> float:
    """Median distance in millimetres from the true skin of the face, aligned as NoW does.

    The mesh's landmarks are the points of its surface that a frontal view shows where the true ones are.
    """
    truth, front = seen.scene.truth, seen.head.generator.frontal_camera()
    depth = shape_view(seen.head, front).depth.float().cpu()
    front, millimetres = front.to("cpu"), truth["millimetres_per_unit"].item()
    true_front = carried(front, seen.in_head_frame(seen.scene.input.camera), seen.scene.input.camera)
    uv, _ = true_front.project(truth["landmarks"][None])
    distances = metrics.scan_to_mesh(
        millimetres * truth["vertices"][truth["skin"]].numpy(),
        millimetres * truth["landmarks"].numpy(),
        extract_mesh(seen.head, coloured=False),
        metrics.landmarks_in_world(front, depth, uv[0]),
    )
    return np.median(distances).item()


# ----------------------------------------------------------------------- consistency of the views
def consistency_psnr(seen: Comparison) -> float:
    """Of the error over the known pixels."""
    return _decibels(seen.mean_over_known(metrics.mse(seen.predicted, seen.target).item()))


def consistency_ssim(seen: Comparison) -> float:
    return metrics.ssim(seen.predicted, seen.target).item()


def consistency_lpips(seen: Comparison) -> float:
    return _lpips("alex")(seen.predicted, seen.target).item()


# ----------------------------------------------------------------------- warps of the photo
NEIGHBOURS = 0.65
"""Radians of yaw up to which a view is a neighbour of the input: inputs from the front and from the side have
neighbours at the same distances, where all views of a scene lie further away from an input from the side."""


def warp_error(seen: Comparison) -> float:
    """MSE of the photo, warped into the view by the head's depth, where it is to be trusted; NaN where nowhere."""
    warped, trusted = seen.warped_photo
    return (warped - seen.target)[trusted.expand_as(warped)].square().mean().item()


LPIPS_ALEX, LPIPS_VGG, IDENTITY = ("lpips", "alexnet"), ("lpips", "vgg16"), ("identity",)

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("mse", mse),
        Measure("mae", mae),
        Measure("psnr", psnr),
        Measure("ssim", ssim),
        Measure("ms_ssim", ms_ssim),
        Measure("ms_ssim_dissimilarity", ms_ssim_dissimilarity),
        Measure("e3dge_ssim", e3dge_ssim),
        Measure("lpips", lpips, assets=LPIPS_ALEX),
        Measure("lpips_vgg", lpips_vgg, assets=LPIPS_VGG),
        Measure("painted_error", painted_error, truth="painted/{view}"),
        Measure("identity", same_identity, assets=IDENTITY),
        Measure("mirrored_identity", mirrored_identity, whole_head=True, assets=IDENTITY),
        Measure("pose_error", pose_error, assets=("landmarks",)),
        Measure("depth_error", depth_error, needs=("depth",)),
        Measure("depth_distance", depth_distance, needs=("depth",)),
        Measure("depth_correlation", depth_correlation, needs=("depth",)),
        Measure("mean_depth_error", mean_depth_error, needs=("depth",)),
        Measure("median_depth_error", median_depth_error, needs=("depth",)),
        Measure("depth_relief", depth_relief, needs=("depth",)),
        Measure("background_depth", background_depth, needs=("mask",)),
        Measure("normal_error", normal_error, needs=("normals",)),
        Measure("scan_to_mesh", scan_to_mesh, truth="millimetres_per_unit", whole_head=True),
        Measure("consistency_psnr", consistency_psnr, whole_head=True),
        Measure("consistency_ssim", consistency_ssim, whole_head=True),
        Measure("consistency_lpips", consistency_lpips, whole_head=True, assets=LPIPS_ALEX),
        Measure("warp_error", warp_error, within=NEIGHBOURS),
    )
}
"""The metrics that tables may have, in their order."""


def require_known_measures(names: Collection[str]) -> None:
    """An error where a metric is named that there is not."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ValueError(f"no metric is called {', '.join(unknown)}; there are: {', '.join(MEASURES)}")
