"""The photographic 2D GAN that the embedded generator learns from: MobileStyleGAN, run by OpenVINO.

Belousov, "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis",
2021. The weights come with the package named in the asset manifest; they descend from StyleGAN2-FFHQ.
"""

from __future__ import annotations

import numpy as np

from lib import assets

LEAKY_GAIN, LEAKY_SLOPE = np.sqrt(2.0), 0.2
"""StyleGAN2's activation, which ends the teacher's mapping network: gain * leaky_relu(x, slope)."""


class Teacher:
    """z [n, 512] -> style [n, 512] -> picture of a face, uint8 [1024, 1024, 3]."""

    z_dim = style_dim = 512

    def __init__(self, threads: int = 1, mean_samples: int = 4096):
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "sampling portraits needs OpenVINO, which is not installed: pip install -e '.[data]'"
            ) from error
        folder = assets.folder("teacher")
        core = openvino.Core()
        # Pinned threads of several processes would share one core; bfloat16, often the default, is slower.
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        mapping = core.read_model(folder / "MappingNetwork.xml")
        mapping.reshape([-1, self.z_dim])
        self._mapping = core.compile_model(mapping, "CPU", options)
        self._synthesis = core.compile_model(core.read_model(folder / "SynthesisNetwork.xml"), "CPU", options)
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
        image = self._synthesis({"style": style[None].astype(np.float32)})["img"][0]
        image *= 127.5
        image += 128
        return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def before_activation(style: np.ndarray) -> np.ndarray:
    """The mapping network's last pre-activation: the inverse of StyleGAN2's leaky ReLU. Nearly Gaussian."""
    return np.where(style < 0, style / LEAKY_SLOPE, style) / LEAKY_GAIN
