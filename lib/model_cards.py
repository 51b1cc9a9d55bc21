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

**Made by** `python -m lib.datasets` (portraits) and `python -m lib.prior --from portraits64 --steps {steps}`
(distillation beside a discriminator, from the weights of the version before): {training_portraits} portraits of
{training_people} people out of the 2D GAN MobileStyleGAN, with cameras and face depth from landmarks.
{history}

What the teacher's pictures lack, this generator lacks: yaw beyond 0.7 rad, the
back of the head, many accessories. The teacher descends from FFHQ and inherits its biases.

**Licence**: research and education, non-commercial, as the teacher's ancestors demand (see the asset manifest). The
pictures show nobody; do not use the model to make pictures of real people without their consent.

## Measured

On {held_out_portraits} portraits of {held_out_people} people who were never trained on. MSE in [-1, 1]; LPIPS is
AlexNet's at 256 px; the correlation is that of rendered depth with the landmarks' depth, over the face.

| rendered from their own code | portraits | MSE | LPIPS | depth correlation |
|---|---|---|---|---|
{bands}

| inverted ({inverted} of them, yaw within 0.35) | steps | MSE | LPIPS |
|---|---|---|---|
| W+ | {wplus_steps} | {wplus_mse:.4f} | {wplus_lpips:.3f} |
| PTI, pivot in W+ ({tuned} of them) | {wplus_steps} + {pti_steps} | {pti_mse:.4f} | {pti_lpips:.3f} |

* FID of {fid_images} samples of N(0, I) against as many single portraits that were held out, under their cameras:
  {fid:.1f}.
* Identity from the mirrored camera against the flipped portrait (evaluation network, cosine): from the code
  {code_same:.2f} against {code_strangers:.2f} ± {code_deviation:.2f} for strangers (AUC {code_auc:.3f}); after W+
  {wplus_same:.2f} against {wplus_strangers:.2f} ± {wplus_deviation:.2f} (AUC {wplus_auc:.3f}).
* Light along a ray through the head lies {thickness:.3f} world units about its mean depth (root mean square; 1 cm of a
  head is 0.025).
* Conditioning on a camera at yaw -0.5, 0 or 0.5 moves the planes by {conditioning_effect:.2f} of the distance between
  people. The held-out numbers condition each code on the portrait's own camera unless they say frontal.

## Known failures

Samples at truncation 1 can be smeared where the code leaves what the people covered. Hair and shoulders are flatter than
faces, whose depth alone is supervised. Glasses may sink into the face or come and go. Below their edge the teacher's
pictures are reflections, and so are the lowest rows of these.
"""


def model_card(name: str, numbers: dict) -> str:
    """The card of an embedded generator, from its measured numbers alone."""
    bands = [
        f"| {label.replace('|yaw|', 'yaw to either side')}, {conditioning} conditioning "
        f"| {row['portraits']} | {row['mse']:.3f} | {row['lpips']:.3f} "
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
        | _separation("code", numbers["mirrored_identity_from_code"])
        | _separation("wplus", numbers["inversion"]["mirrored_identity"])
    )
    return CARD.format(name=name, figure=f"../../figures/prior/{name}.jpg", **flat)


def _separation(name: str, found: dict) -> dict[str, float]:
    return {
        f"{name}_same": found["same"],
        f"{name}_strangers": found["strangers"],
        f"{name}_deviation": found["strangers_deviation"],
        f"{name}_auc": found["auc"],
    }


def describe(generator: EG3D, path: Path) -> dict:
    """What a card says of a weights file without measuring."""
    return {
        "parameters": sum(p.numel() for p in generator.parameters()) / 1e6,
        "megabytes": path.stat().st_size / 1e6,
        "resolution": generator.resolution,
        "rays": generator.neural_resolution,
        "steps": int(read_metadata(path).get("steps", 0)),
        "history": read_metadata(path).get("history", ""),
    }


def sample_grid(generator: EG3D, n: int = 8, seed: int = 0, psi: float = 0.8) -> figures.Picture:
    """Samples from N(0, I), conditioned on the frontal camera, from several yaws and with depth."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    front = generator.frontal_camera()
    heads = [Inversion(generator.map(one[None], front, psi), generator, front, {}, {}) for one in z]
    return figures.samples_with_depth(heads)


def publish(name: str, numbers: dict, card: str, picture: figures.Picture, run_id: str) -> None:
    """Write numbers and card beside the weights, and the picture with its record under the run's name."""
    weights = paths.WEIGHTS / f"{name}.safetensors"
    for suffix, text in ((".json", json.dumps(numbers, indent=1) + "\n"), (".md", card)):
        with paths.replacing(weights.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    figure = runs.save_figure(picture, name.replace("-", "_"), run_id, photographic=True)
    runs.record(run_id, metrics={name: numbers}, figures=[figure])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure an embedded generator from its weights file; writes its numbers, card and figure."
    )
    parser.add_argument("name", nargs="?", default="portraits64")
    parser.add_argument("--inverted", type=int, default=64, help="portraits that are inverted in W+")
    parser.add_argument("--tuned", type=int, default=16, help="of them, those that are tuned on")
    parser.add_argument("--fid-portraits", type=int, default=5000)
    arguments = parser.parse_args()
    weights = paths.WEIGHTS / f"{arguments.name}.safetensors"
    model = load_generator(weights)
    measured = describe(model, weights) | evaluate_prior(
        model, arguments.inverted, arguments.tuned, arguments.fid_portraits
    )
    text = model_card(arguments.name, measured)
    publish(arguments.name, measured, text, sample_grid(model), "prior-full")
    print(text)
