"""Write the small conformance vectors of this repository: `python -m tests.make_vectors`.

They freeze what the generator computed when it agreed with the original EG3D (EG3D_CONFORMANCE in
test_eg3d.py). Make them anew only after it was seen to agree again, and say why in the commit.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from lib.cameras import orbit
from lib.generators import EG3D, EG3DConfig, RenderingSettings, SuperResolutionConfig

FOLDER = Path(__file__).parent / "conformance"

TINY = EG3DConfig(
    z_dim=16,
    w_dim=16,
    plane_resolution=16,
    plane_channels=4,
    channel_base=128,
    channel_max=8,
    decoder_hidden=8,
    feature_channels=6,
    neural_resolution=8,
    rendering=RenderingSettings(depth_resolution=8, depth_resolution_importance=6),
    superresolution=SuperResolutionConfig(8, widths=(6, 4), conv_clamp=None),
)

CONFIGS = {
    # Fixed bounds, both super-resolution blocks double, input resized: as in the 512 px models.
    "faces": dataclasses.replace(
        TINY, superresolution=dataclasses.replace(TINY.superresolution, input_resolution=6)
    ),
    # Automatic bounds, white background, no conditioning, corrected planes, a block that does not double.
    "objects": dataclasses.replace(
        TINY,
        conditioning_zero=True,
        plane_axes="corrected",
        rendering=dataclasses.replace(
            TINY.rendering, ray_start="auto", ray_end="auto", white_back=True, box_warp=1.6
        ),
        superresolution=dataclasses.replace(
            TINY.superresolution, upsample=(False, True), own_filter=True, conv_clamp=0.5
        ),
    ),
}


def random_generator(config: EG3DConfig, seed: int) -> EG3D:
    """A generator in which every entry of the state dict matters; its weights fit float16."""
    generator = EG3D(config).requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for name, value in generator.state_dict().items():
        if not name.endswith("resample_filter"):
            scale = 100.0 if "mapping.fc" in name else 1.0
            value.copy_((scale * torch.randn(value.shape, generator=rng)).half().float())
    return generator


def outputs(
    generator: EG3D, z: torch.Tensor, label: torch.Tensor, points: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Everything that the vectors compare."""
    w_plus = generator.map(z, label, truncation_psi=0.7, truncation_cutoff=4)
    planes = generator.planes(w_plus)
    density, colour = generator.sample(planes, points)
    view = generator.render(planes, w_plus, label)
    return {"w_plus": w_plus, "planes": planes, "density": density, "colour": colour, **view._asdict()}


def make(name: str, seed: int) -> Path:
    generator = random_generator(CONFIGS[name], seed)
    rng = torch.Generator().manual_seed(seed + 1)
    inputs = {
        "z": torch.randn(2, generator.z_dim, generator=rng),
        "label": orbit(torch.tensor([-0.4, 0.3]), torch.tensor([0.1, -0.2])).label(),
        "points": torch.rand(2, 32, 3, generator=rng) - 0.5,
    }
    arrays = {f"input/{key}": value.numpy() for key, value in inputs.items()}
    arrays |= {f"output/{key}": value.numpy() for key, value in outputs(generator, **inputs).items()}
    arrays |= {f"state/{key}": value.half().numpy() for key, value in generator.state_dict().items()}
    arrays["config"] = np.array(json.dumps(CONFIGS[name].to_dict()))
    path = FOLDER / f"{name}.npz"
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        temporary = Path(folder) / path.name
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)
    return path


if __name__ == "__main__":
    for seed, name in enumerate(CONFIGS):
        path = make(name, seed)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
