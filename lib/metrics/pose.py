"""Does a picture show the head from where its camera says it stands?

Papers estimate the pose by Deep3DFaceRecon; here MediaPipe's landmarks do, on which the embedded generators' cameras
rest too. A face that is not found, or that the face mesh does not fit, has NaN for pose and error: no exception, as
failures belong into the table.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lib.cameras import Camera
from lib.faces import MAX_RESIDUAL_CM, VIEW_TO_CV, Detector, head_pose
from lib.identity import detected_faces


def pose_error(image: Tensor, camera: Camera, detector: Detector) -> Tensor:
    """Angle [B] (radians) between the heads in images [B, 3, H, W] and heads that stand as the cameras say."""
    return rotation_angle(detected_rotations(image, detector), camera_rotations(camera.expand(len(image))))


def pose_l2_error(image: Tensor, camera: Camera, detector: Detector) -> Tensor:
    """Euclidean length [B] of the differences of yaw, pitch and roll (radians): SPI's "Pose", HFGI3D's "Pose".

    Both texts say L2 and neither which angles. HFGI3D takes one random novel view for each image.
    """
    return _angle_differences(image, camera, detector).norm(dim=1)


def pose_mse(image: Tensor, camera: Camera, detector: Detector) -> Tensor:
    """Mean squared difference [B] of yaw, pitch and roll (radians squared): EG3D (Chan et al., 2022, table 2)."""
    return _angle_differences(image, camera, detector).square().mean(1)


def _angle_differences(image: Tensor, camera: Camera, detector: Detector) -> Tensor:
    """Differences [B, 3] of yaw, pitch and roll, within half a turn."""
    found = head_angles(detected_rotations(image, detector))
    difference = found - head_angles(camera_rotations(camera.expand(len(image))))
    return torch.remainder(difference + math.pi, 2 * math.pi) - math.pi


def camera_rotations(camera: Camera) -> Tensor:
    """Rotations [B, 3, 3] from the head, upright in the world, to the view (x right, y up, z to the viewer)."""
    view_from_cam = torch.from_numpy(VIEW_TO_CV).to(camera.rotation)
    return view_from_cam @ camera.rotation.transpose(1, 2)


def detected_rotations(images: Tensor, detector: Detector) -> Tensor:
    """Rotations [B, 3, 3] from the head to the view, of the largest face in images [B, 3, H, W]; NaN for failures.

    Landmarks themselves are off by some hundredths of a radian, more in smaller pictures: measure that on pictures
    whose pose is known, and let no smaller difference decide anything.
    """
    rotations = torch.full((len(images), 3, 3), torch.nan)
    for rotation, face in zip(rotations, detected_faces(images, detector), strict=True):
        if face is not None:
            pose = head_pose(face.landmarks)
            if pose.residual <= MAX_RESIDUAL_CM:
                rotation[:] = torch.from_numpy(np.asarray(pose.rotation))
    return rotations.to(images.device)


def head_angles(rotations: Tensor) -> Tensor:
    """Yaw, pitch and roll [B, 3] (radians) of rotations [B, 3, 3] from head to view, as of `lib.faces.HeadPose`."""
    yaw = torch.atan2(rotations[:, 2, 0], rotations[:, 2, 2])
    pitch = torch.asin(rotations[:, 2, 1].clamp(-1, 1))
    roll = torch.atan2(rotations[:, 0, 1], rotations[:, 1, 1])
    return torch.stack([yaw, pitch, roll], dim=1)


def rotation_angle(rotations: Tensor, others: Tensor) -> Tensor:
    """The angle [B] (radians, 0 to pi) of the rotation between rotations [B, 3, 3].

    From sine and cosine both: the arc cosine of the trace alone loses small angles to rounding.
    """
    between = rotations @ others.transpose(1, 2)
    skew = between - between.transpose(1, 2)
    twice_sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=1).norm(dim=1)
    twice_cosine = between.diagonal(dim1=1, dim2=2).sum(1) - 1
    return torch.atan2(twice_sine, twice_cosine)
