"""Who is in the picture: face-recognition networks as differentiable modules, and the alignment that they expect.

Two networks with nothing in common but their input, so that what is optimised is never what is measured:
`face_network("evaluation")` for metrics and `face_network("optimisation")` for losses.

    network = face_network("evaluation")
    embedding = network(align(images, camera_points(camera)))     # [B, 512], unit length
"""

from lib.identity.alignment import (
    FACE_SIZE,
    TEMPLATE,
    align,
    camera_points,
    detected_faces,
    detected_points,
    five_points,
)
from lib.identity.networks import FaceNetwork, face_network
from lib.identity.onnx_graphs import OnnxModule

__all__ = [
    "FACE_SIZE",
    "TEMPLATE",
    "FaceNetwork",
    "OnnxModule",
    "align",
    "camera_points",
    "detected_faces",
    "detected_points",
    "face_network",
    "five_points",
]
