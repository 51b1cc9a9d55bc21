"""The photographic 2D GAN that the embedded generator learns from: MobileStyleGAN, run by OpenVINO.

Belousov, "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis",
2021. The weights come with the package named in the asset manifest; they descend from StyleGAN2-FFHQ.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lib import assets

LEAKY_GAIN, LEAKY_SLOPE = np.sqrt(2.0), 0.2
"""StyleGAN2's activation, which ends the teacher's mapping network: gain * leaky_relu(x, slope)."""

HAAR = 0.5 * np.array(
    [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]], np.float32
)
"""The four bands of the inverse Haar transform: [band, row, column]."""


def low_band(synthesis):
    """The synthesis network with each inverse Haar transform as one convolution, up to the last, left out.

    The exported graph writes an inverse transform as two splits, four transposed convolutions and three sums;
    OpenVINO has no fast kernel for the splits, which took half of the time. One transposed convolution of
    2 x 2 pixels and stride 2 does the same. Channels before a transform: C of the low band, then for each of
    them three of high bands, c1, c2, c3.
    """
    import openvino
    from openvino import opset8

    transforms = [
        node
        for node in synthesis.get_ordered_ops()
        if node.get_type_name() == "VariadicSplit" and node.get_friendly_name().startswith("Slice")
    ]
    for split in transforms[:-1]:
        channels = split.output(0).get_shape()[1]
        weight = np.zeros((channels, 4, channels, 2, 2), np.float32)
        c = np.arange(channels)
        weight[c, :, c] = HAAR
        weight = np.concatenate([weight[:, 0], weight[:, 1:].reshape(3 * channels, channels, 2, 2)])
        fused = opset8.convolution_backprop_data(
            split.input_value(0),
            opset8.constant(weight),
            strides=[2, 2],
            pads_begin=[0, 0],
            pads_end=[0, 0],
            dilations=[1, 1],
        )
        end = split
        for _ in range(4):  # low band -> vertical -> + high -> horizontal -> + high
            (end,) = {target.get_node() for target in end.output(0).get_target_inputs()}
        for target in end.output(0).get_target_inputs():
            target.replace_source_output(fused.output(0))
    bands = transforms[-1].input_value(0)
    low = opset8.slice(bands, *(opset8.constant([at]) for at in (0, 3, 1, 1)))
    half = opset8.multiply(low, opset8.constant(np.float32(0.5)))
    return openvino.Model([half], synthesis.get_parameters(), "low band of the synthesis network")


class Teacher:
    """z [n, 512] -> style [n, 512] -> picture of a face, uint8 [512, 512, 3].

    The network ends in an inverse Haar transform from 512 to 1024 px; its low band, which is the mean of
    every 2 x 2 pixels of the large picture, is all that the study needs.
    """

    z_dim = style_dim = 512

    def __init__(
        self, threads: int = 1, mean_samples: int = 4096, precision: Literal["bf16", "f32"] = "bf16"
    ):
        """``precision`` of the synthesis: bfloat16, where the processor has it, moves a picture by 0.2 of 255
        levels on average and takes half the time; a processor without it computes in float32 either way."""
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "sampling portraits needs OpenVINO, which is not installed: pip install -e '.[data]'"
            ) from error
        folder = assets.folder("teacher")
        core = openvino.Core()
        # Pinned threads of several processes would share one core.
        options = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        mapping = core.read_model(folder / "MappingNetwork.xml")
        mapping.reshape([-1, self.z_dim])
        exact, fast = ({"INFERENCE_PRECISION_HINT": precision} for precision in ("f32", precision))
        self._mapping = core.compile_model(mapping, "CPU", options | exact)
        synthesis = low_band(core.read_model(folder / "SynthesisNetwork.xml"))
        self._synthesis = core.compile_model(synthesis, "CPU", options | fast)
        self.mean_style = self._map(
            np.random.default_rng(0).standard_normal((mean_samples, self.z_dim))
        ).mean(0)

    def _map(self, z: np.ndarray) -> np.ndarray:
        return self._mapping({"var": z.astype(np.float32)})["style"].copy()

    def styles(self, z: np.ndarray, truncation: float = 0.8) -> np.ndarray:
        """Styles [n, 512] of latents [n, 512], drawn toward the mean style by the truncation."""
        return self.mean_style + truncation * (self._map(z) - self.mean_style)

    def picture(self, style: np.ndarray) -> np.ndarray:
        """The picture of one style [512]."""
        image = self._synthesis({"style": style[None].astype(np.float32)})[0][0] * 127.5 + 128
        return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def before_activation(style: np.ndarray) -> np.ndarray:
    """The mapping network's last pre-activation: the inverse of StyleGAN2's leaky ReLU. Nearly Gaussian."""
    return np.where(style < 0, style / LEAKY_SLOPE, style) / LEAKY_GAIN
