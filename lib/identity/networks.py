"""The networks: one for metrics, one for losses."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lib import assets
from lib.identity.alignment import FACE_SIZE
from lib.identity.onnx_graphs import OnnxModule


class FaceNetwork(nn.Module):
    """Aligned faces [B, 3, 112, 112] in [-1, 1], RGB, to embeddings [B, D] of unit length.

    The cosine of two embeddings says how much two faces are one person's. Frozen; gradients reach the faces.
    """

    def __init__(self, body: nn.Module, scale: float = 1.0, offset: float = 0.0):
        """body: the network, which takes `scale` times the face plus `offset` to numbers [B, D]."""
        super().__init__()
        self.body, self.scale, self.offset = body, scale, offset
        self.requires_grad_(False).eval()

    def forward(self, faces: Tensor) -> Tensor:
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, FACE_SIZE, FACE_SIZE):
            raise ValueError(
                f"expected aligned faces [B, 3, {FACE_SIZE}, {FACE_SIZE}]; got {list(faces.shape)}. "
                "lib.identity.align makes them."
            )
        return F.normalize(self.body(faces * self.scale + self.offset), dim=1)


Role = Literal["evaluation", "optimisation"]


def face_network(role: Role) -> FaceNetwork:
    """The network for metrics (MobileFaceNet, 512 numbers) or the one for losses (SFace, 128 numbers)."""
    if role == "evaluation":  # takes [-1, 1]
        return FaceNetwork(OnnxModule.read(assets.folder("identity") / "w600k_mbf.onnx"))
    if role == "optimisation":  # takes 0 to 255, which its first two operators bring to [-1, 1]
        body = OnnxModule.read(assets.folder("identity_loss") / "sface.onnx")
        return FaceNetwork(body, scale=127.5, offset=127.5)
    raise ValueError(f"a face network is for evaluation or optimisation, not for {role!r}")
