"""Cards of the generators that ship with the repository: measured numbers, a figure, and what to know before use."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from lib import figures, paths, runs
from lib.evaluation import evaluate_prior
from lib.generators import EG3D, load_generator, read_metadata
from lib.inversion import Inversion

CARD = """# Model card: {name}

A small EG3D ({parameters:.2f} million parameters, {megabytes:.1f} MB as float16) that makes heads of people who do not
exist: {resolution} px pictures, {rays} px rays, live pose conditioning, planes as in the released EG3D models.

![Samples from N(0, I) at truncation 0.8, turned, with depth]({figure})

**Made by** `python -m lib.datasets` (portraits) and `python -m lib.prior --steps {steps}` (distillation, no
discriminator): {training_portraits} portraits of {training_people} people out of the 2D GAN MobileStyleGAN, with
cameras and face depth from landmarks. What the teacher's pictures lack, this generator lacks: yaw beyond 0.7 rad, the
back of the head, many accessories. The teacher descends from FFHQ and inherits its biases.

**Licence**: research and education, non-commercial, as the teacher's ancestors demand (see the asset manifest). The
pictures show nobody; do not use the model to make pictures of real people without their consent.

## Measured

On {held_out_portraits} portraits of people who were never trained on. MSE in [-1, 1]; LPIPS is AlexNet's at 256 px; the
correlation is that of rendered depth with the landmarks' depth, over the face.

| rendered from their own code | portraits | MSE | LPIPS | depth correlation |
|---|---|---|---|---|
{bands}

| inverted ({inverted} of them, yaw within 0.35) | steps | MSE | LPIPS |
|---|---|---|---|
| W+ | {wplus_steps} | {wplus_mse:.4f} | {wplus_lpips:.3f} |
| PTI, pivot in W+ | {wplus_steps} + {pti_steps} | {pti_mse:.4f} | {pti_lpips:.3f} |

* FID of {fid_images} samples against as many of the portraits: {fid:.1f} (biased upward by the small count).
* Conditioning on a camera at yaw -0.5, 0 or 0.5 moves the planes by {conditioning_effect:.2f} of the distance between
  people. The held-out numbers condition each code on the portrait's own camera unless they say frontal.

## Known failures

Samples at truncation 1 can be smeared where the code leaves what the few thousand people covered. Hair and shoulders are
flatter than faces, whose depth alone is supervised. Glasses may sink into the face. The pictures carry the mirrored
borders of portraits that were cut close.
"""


def model_card(name: str, numbers: dict) -> str:
    """The card of an embedded generator, from its measured numbers alone."""
    bands = [
        f"| {label}, {conditioning} conditioning | {row['portraits']} | {row['mse']:.3f} | {row['lpips']:.3f} "
        f"| {row['depth_correlation']:.3f} |"
        for conditioning, key in (
            ("own", "held_out_own_conditioning"),
            ("frontal", "held_out_frontal_conditioning"),
            ("own", "held_out_by_target_yaw"),
        )
        for label, row in numbers[key].items()
    ]
    flat = (
        numbers
        | numbers["inversion"]
        | {"inverted": numbers["inversion"]["portraits"], "bands": "\n".join(bands)}
    )
    return CARD.format(name=name, figure=f"../../figures/prior/{name}.jpg", **flat)


def describe(generator: EG3D, path: Path) -> dict:
    """What a card says of a weights file without measuring."""
    return {
        "parameters": sum(p.numel() for p in generator.parameters()) / 1e6,
        "megabytes": path.stat().st_size / 1e6,
        "resolution": generator.resolution,
        "rays": generator.neural_resolution,
        "steps": int(read_metadata(path).get("steps", 0)),
    }


def sample_grid(generator: EG3D, n: int = 8, seed: int = 0, psi: float = 0.8) -> figures.Picture:
    """Samples from N(0, I), conditioned on the frontal camera, from several yaws and with depth."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    front = generator.frontal_camera()
    heads = [Inversion(generator.map(one[None], front, psi), generator, front, {}, {}) for one in z]
    return figures.samples_with_depth(heads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure an embedded generator from its weights file; writes its numbers, card and figure."
    )
    parser.add_argument("name", nargs="?", default="portraits64")
    parser.add_argument("--inverted", type=int, default=16, help="portraits that are inverted")
    parser.add_argument("--fid-portraits", type=int, default=2000)
    arguments = parser.parse_args()
    weights = paths.WEIGHTS / f"{arguments.name}.safetensors"
    model = load_generator(weights)
    numbers = describe(model, weights) | evaluate_prior(model, arguments.inverted, arguments.fid_portraits)
    card = model_card(arguments.name, numbers)
    for suffix, text in ((".json", json.dumps(numbers, indent=1) + "\n"), (".md", card)):
        with paths.replacing(weights.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    figure = runs.save_figure(sample_grid(model), arguments.name, "prior-full", photographic=True)
    runs.record("prior-full", metrics={arguments.name: numbers}, figures=[figure])
    print(card)
