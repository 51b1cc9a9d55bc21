"""Card of the generator that says its own pose: measured numbers, a figure, and what to know before use."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lib import paths
from lib.drawings.posefree_generator import samples_in_own_pose
from lib.evaluation.posefree_prior import ANGLES, evaluate_posefree, own_samples
from lib.figures import Picture
from lib.generators import PoseFreeEG3D, load_generator, read_metadata
from lib.model_cards import describe, publish

CARD = """# Model card: {name}

A small pose-free EG3D, of the structure of PoF3D (Shi et al., 2023): {parameters:.2f} million parameters,
{megabytes:.1f} MB as float16, {resolution} px pictures, {rays} px rays. It is asked for no camera: a code says
from where its head is seen. It makes heads of people who do not exist.

    generator = lib.generators.load_generator("{name}")
    head = lib.inversion.invert_posefree(generator, photo)  # [1, 3, {resolution}, {resolution}] in [-1, 1]; no camera

![Samples from N(0, I) at truncation 0.8: in their own pose, from the front, in depth]({figure})

**Made by** `python -m lib.pose_learning` ({steps} steps, {minutes:.0f} minutes on two processor cores), from
`{start}`:

* **Warm start that has seen labels.** The weights are those of `{start}`, which was distilled with camera
  labels. Its conditioning camera is folded into a constant, the frontal one, and its z is replaced by one that
  holds the pose, too. What it knew of where a picture is seen from is gone; that heads are solid, it knew.
* **Pose learner from nothing.** Two layers on w; at the first step they say "from the front" of every code.
* **No camera label in this training.** The teacher's style of a portrait goes in, head and camera come out, and
  the picture from that camera must be the portrait (L1 {lam_image:g}, squared error {lam_l2:g}, LPIPS
  {lam_lpips:g}, raw picture {lam_raw:g}; light along a ray kept together, {lam_spread:g}). There is no depth
  supervision.
* **Pose-aware discriminator** beside it, at weight {lam_adversarial:g} from step {adversarial_from},
  conditioned on its own detached prediction as in the released code; with PoF3D's pose supervision (weight
  {lam_supervision:g}) and pose consistency (weight {lam_consistency:g}; PoF3D has 1). It looks at
  reconstructions, not at samples, and not at mirrored cameras.
* **What still knew of poses**: the pictures were cut and turned upright by detected landmarks, as FFHQ's are;
  and {turned} pictures of each batch, beside {singles} as the teacher draws them, show people turned along
  a direction of the teacher's styles that was found with detected poses.
* **Not done**: PoF3D's own way, adversarial training from nothing on a GPU, which is
  `python -m lib.adversarial_posefree`. So what is measured here is not what PoF3D's recipe gives.
{history}
What the teacher's pictures lack, this generator lacks: yaw beyond 0.7 rad, the back of the head, many
accessories. The teacher descends from FFHQ and inherits its biases.

**Licence**: research and education, non-commercial, as the teacher's ancestors demand (see the asset manifest).
The pictures show nobody; do not use the model to make pictures of real people without their consent.

## Measured

Learned angles against those that landmarks find. Nothing fixes the frame of a head learned without cameras, so
the two are aligned first: detected = sign x learned + offset. `rms` is what is left, `spread` the deviation of
the learned angles over that of the detected. Degrees.

| heads | angle | n | correlation | sign | offset | rms | spread |
|---|---|---|---|---|---|---|---|
{agreements}

The pitch of the turned people is nearly the same in all: its correlation says little.

* Of samples from N(0, I), learned yaw deviates {spread_yaw:.2f} times as much as detected yaw in held-out
  single portraits, pitch {spread_pitch:.2f} times.
* Not painted: seen from the front, a sample turns by {painted_yaw:.3f} of its learned yaw and by
  {painted_pitch:.3f} of its learned pitch (0: the camera does it all). From the front, heads stand at yaw
  {turn_yaw:+.1f} ± {wander_yaw:.1f} and pitch {turn_pitch:+.1f} ± {wander_pitch:.1f} degrees.
* FID of {fid_images} samples of N(0, I) at their own poses against as many single portraits that were held out:
  {fid:.1f}; of `{start}`, under the portraits' cameras, {start_fid:.1f}. Fewer samples make both larger: they
  are to be compared with each other alone.
* Light along a ray through the head lies {thickness:.3f} world units about its mean depth (root mean square).

Held-out people rendered from their own codes. MSE in [-1, 1]; LPIPS is AlexNet's at 256 px; the correlation is
that of rendered depth with the landmarks' depth, over the face, in the view of the label. What the learner's
error costs is the difference between the first two rows and the next two, which go by detected yaw (of some
portraits it lies beyond); the last five go by the yaw that was asked for. Labels are taken as they are, without
the offsets above.

| seen from | detected yaw | portraits | MSE | LPIPS | depth correlation |
|---|---|---|---|---|---|
{renders}

## The training

| step | L1 | LPIPS | deviation of h | of v | discriminator |
|---|---|---|---|---|---|
{curve}

Losses are weighted, means since the row of the log before; deviations of h and v (radians) are those within a
batch. A run before this one, at two to four times these rates of mapping, planes and decoder, lost its heads after
800 steps: the density went, the discriminator won. It was thrown away.

## Known failures

Where the spread is below 1, heads that are turned far are learned too near to the front; a portrait seen from the
pose that its code says is further from the truth than from the label's camera. Pitch is learned less well than
yaw. Samples at truncation 1 can be smeared where the code leaves what the people covered. Below their edge the
teacher's pictures are reflections, and so are the lowest rows of these.
"""

CURVE = ("image", "lpips", "spread_h", "spread_v", "discriminator")
"""Columns of the log that the card shows."""


def training_curve(log: Path, rows: int = 8) -> dict:
    """Seconds of a training, and some rows of its log: evenly spaced, the last one among them."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    if not lines:
        raise ValueError(f"{log} holds no rows: it is written while `python -m lib.pose_learning` runs")
    chosen = sorted({round(len(lines) * (i + 1) / rows) - 1 for i in range(rows)} - {-1})
    curve = [{key: lines[i].get(key) for key in ("step", *CURVE)} for i in chosen]
    return {"seconds": lines[-1]["seconds"], "curve": curve}


def posefree_card(name: str, numbers: dict) -> str:
    """The card of a pose-free generator from its measured numbers."""
    heads = {
        "singles": "held-out singles",
        "people": "held-out people, turned",
        "samples": "samples, in their pictures",
    }
    agreements = [
        f"| {label} | {angle} | {found['heads']} | {found['correlation']:.3f} | {found['sign']:+.0f} "
        f"| {found['offset']:+.1f} | {found['rms']:.1f} | {found['spread']:.2f} |"
        for key, label in heads.items()
        for angle, found in numbers[key].items()
    ]
    seen_from = {
        "own_pose": "its own pose",
        "labelled_camera": "the label's camera",
        "labelled_camera_by_target_yaw": "the label's camera",
    }
    renders = [
        f"| {label} | {band.replace('|yaw|', 'to either side')} | {row['portraits']} | {row['mse']:.3f} "
        f"| {row['lpips']:.3f} | {row['depth_correlation']:.3f} |"
        for key, label in seen_from.items()
        for band, row in numbers[key].items()
    ]
    curve = [
        f"| {row['step']} | " + " | ".join(_known(row[column]) for column in CURVE) + " |"
        for row in numbers["curve"]
    ]
    flat = {}
    for angle in ANGLES:
        seen = numbers["painted"][angle]
        flat |= {f"spread_{angle}": numbers["spread"][angle], f"painted_{angle}": seen["share"]}
        flat |= {f"turn_{angle}": seen["turn"], f"wander_{angle}": seen["turn_deviation"]}
    tables = {"agreements": agreements, "renders": renders, "curve": curve}
    texts = {
        "name": name,
        "figure": f"../../figures/posefree_prior/{name.replace('-', '_')}.jpg",
        "minutes": numbers["seconds"] / 60,
    }
    # Settings after numbers: both have `singles`, of which the card names those of a batch.
    tables = {key: "\n".join(rows) for key, rows in tables.items()}
    return CARD.format(**(numbers | numbers["settings"] | flat | tables | texts))


def _known(value: float | None) -> str:
    """A number of the log; a dash where the step had none."""
    return "–" if value is None else f"{value:.3f}"


def sample_grid(generator: PoseFreeEG3D, n: int = 8, seed: int = 0, psi: float = 0.8) -> Picture:
    """Samples from N(0, I) in their own pose, from the front and in depth."""
    samples = own_samples(generator, n, seed, psi=psi)
    return samples_in_own_pose(generator, samples.w_plus, samples.camera)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure a pose-free generator from its weights file; writes its numbers, card and figure."
    )
    parser.add_argument("name", nargs="?", default="portraits64-posefree")
    parser.add_argument("--samples", type=int, default=500, help="in whose pictures the pose is detected")
    parser.add_argument("--rendered", type=int, default=300, help="held-out portraits that are rendered")
    parser.add_argument("--fid-portraits", type=int, default=5000)
    parser.add_argument(
        "--log", type=Path, default=None, help="log.jsonl of the training; by default the one in the cache"
    )
    arguments = parser.parse_args()
    weights = paths.WEIGHTS / f"{arguments.name}.safetensors"
    model, metadata = load_generator(weights), read_metadata(weights)
    log = arguments.log or paths.CACHE / "training" / arguments.name / "log.jsonl"
    measured = (
        describe(model, weights)
        | {"start": metadata["from"], "settings": json.loads(metadata["settings"])}
        | training_curve(log)
        | evaluate_posefree(
            model,
            load_generator(metadata["from"]),
            arguments.samples,
            arguments.rendered,
            arguments.fid_portraits,
        )
    )
    text = posefree_card(arguments.name, measured)
    publish(arguments.name, measured, text, sample_grid(model), "posefree_prior-full")
    print(text)
