"""What encoders cost, and what optimisation saves that starts from one: `python -m benchmarks.encoders`.

A pass of every encoder is timed against one step of PTI's tuning in the same run; at official size once, with random
weights. As in `benchmarks.inversion`, each measurement has a process of its own, a single thread computes on the CPU,
and its processor time counts: trust the ratios and not the seconds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

from benchmarks import inversion
from benchmarks.generator import MIB, generator_of, machine
from benchmarks.inversion import Measurement, Photo, in_fresh_process, now, show, single_thread
from lib.cameras import Camera
from lib.datasets import scenes
from lib.encoders import Encoder, load_encoder, networks_of
from lib.encoders.feature_alignment import AFAConfig, FeatureAlignment
from lib.encoders.geometry_aware import GOAEConfig, GOAEEncoder
from lib.encoders.goae import mix, refine
from lib.encoders.psp import PSPConfig, PSPEncoder
from lib.encoders.storage import network_digest
from lib.encoders.triplanenet import TriPlaneNet, TriPlaneNetConfig, offset_planes
from lib.generators import EG3D, load_generator
from lib.inversion import Inversion, invert_pti, project_batch
from lib.metrics import measured
from lib.paths import replacing

SMALL, LARGE = "portraits64", "ffhq512"


# ----------------------------------------------------------------------- encoders
def _aligned(network: nn.Module, generator: EG3D, images: Tensor, w_plus: Tensor, cameras: Camera) -> Tensor:
    return mix(generator, refine(generator, network, images, w_plus, cameras), cameras)


def _offset(network: nn.Module, generator: EG3D, images: Tensor, w_plus: Tensor, cameras: Camera) -> Tensor:
    return offset_planes(generator, network, images, w_plus, cameras)


@dataclass(frozen=True)
class Official:
    """How an encoder is made at official size, of random weights."""

    encoder: Callable[[], nn.Module]
    refinement: Callable[[], nn.Module] | None = None
    planes: Callable[..., Tensor] = _aligned

    def made(self, name: str, generator: EG3D) -> Encoder:
        torch.manual_seed(0)
        device = generator.w_mean.device
        encoder = self.encoder().eval().requires_grad_(False).to(device)
        if self.refinement is None:
            return Encoder(name, generator, encoder)
        network = self.refinement().eval().requires_grad_(False).to(device)
        return Encoder(name, generator, encoder, partial(self.planes, network))


def _psp() -> nn.Module:
    return PSPEncoder(PSPConfig.official())


def _goae() -> nn.Module:
    return GOAEEncoder(GOAEConfig.official())


OFFICIAL = {
    "psp": Official(_psp),
    "e4e": Official(lambda: PSPEncoder(PSPConfig.official(progressive=True))),
    "goae-wplus": Official(_goae),
    "goae": Official(_goae, lambda: FeatureAlignment(AFAConfig.official())),
    "triplanenet": Official(_psp, lambda: TriPlaneNet(TriPlaneNetConfig.official()), _offset),
}


def parameters_of(encoder: Encoder) -> int:
    """Parameters of all networks of an encoder."""
    refinement = encoder.refinement
    networks = [encoder.encoder] + ([refinement.args[0]] if refinement is not None else [])
    return sum(p.numel() for network in networks for p in network.parameters())


# ----------------------------------------------------------------------- a pass
@dataclass(frozen=True)
class Case:
    """One measurement of `encode_batch`. repetitions: passes, of which the fastest counts, after one that does not."""

    name: str
    model: str = SMALL
    pictures: int = 1
    device: str = "cpu"
    repetitions: int = 3


def measure(case: Case) -> tuple[Measurement, int]:
    """Measure in this process: seconds and memory of a pass, and the encoder's parameters."""
    single_thread(case.device)
    generator = generator_of(case.model).to(case.device)
    if case.model == SMALL:
        encoder = load_encoder(case.name, generator)
    else:  # random weights come without the mean code; any will do
        encoder = OFFICIAL[case.name].made(case.name, generator.measure_w(n=10))
    photo = Photo.of(generator, case.pictures)
    seconds = []
    with measured(case.device) as cost:
        for _ in range(1 + case.repetitions):
            begun = now(case.device)
            encoder.encode_batch(photo.image, photo.camera)
            seconds.append(now(case.device) - begun)
    fastest = min(seconds[1:] or seconds)  # the first pass prepares what later ones find
    return Measurement(fastest, cost.peak_bytes / MIB), parameters_of(encoder)


def pass_rows(
    names: Sequence[str], device: str, repetitions: int, sizes: Sequence[int] = (1, 8)
) -> list[dict]:
    """Seconds a picture of passes over one picture and several, in steps of PTI's tuning of the same run."""
    step = in_fresh_process(
        inversion.measure, inversion.Case(SMALL, "tuning", 1, device, max(1, repetitions))
    ).seconds
    rows = []
    for name in names:
        for pictures in sizes:
            found, parameters = in_fresh_process(measure, Case(name, SMALL, pictures, device, repetitions))
            seconds = found.seconds / pictures
            rows.append(
                {
                    "encoder": name,
                    "pictures": pictures,
                    "parameters": parameters,
                    "seconds_a_picture": seconds,
                    "steps_of_pti": seconds / step,
                    "peak_mib": found.peak_mib,
                }
            )
    return rows


def official_rows(device: str) -> list[dict]:
    """One pass of every encoder at official size, random weights; on the CPU the first, as it takes long."""
    rows = []
    for name in OFFICIAL:
        found, parameters = in_fresh_process(
            measure, Case(name, LARGE, 1, device, 1 if device == "cuda" else 0)
        )
        rows.append(
            {"encoder": name, "parameters": parameters, "seconds": found.seconds, "peak_mib": found.peak_mib}
        )
    return rows


def at_hand() -> list[str]:
    """Encoders of the papers whose networks are here."""
    return [name for name in OFFICIAL if "absent" not in map(network_digest, networks_of(name))]


# ----------------------------------------------------------------------- the hybrid
CODE_RATE, TUNING_RATE = 0.05, 1e-3
"""As in the study: with the papers' rates so few steps reach nothing."""


@dataclass(frozen=True)
class HybridCase:
    """Optimisation from the mean code, and from an encoder's. steps: of each method, from the mean code; shares: of
    these steps, taken from the encoder's code."""

    encoder: str = "goae-wplus"
    count: int = 3  # scenes
    steps: int = 120
    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    device: str = "cpu"


class Photos(NamedTuple):
    """What is inverted: pictures [B, 3, R, R] and their cameras."""

    generator: EG3D
    images: Tensor
    cameras: Camera


Starts = Sequence[Inversion] | None
"""Inversions that optimisation starts from; None: the mean code."""


def optimise_code(photos: Photos, steps: int, starts: Starts, space: str = "wplus") -> list[Inversion]:
    """A search in W+, with its whole schedule of steps."""
    return project_batch(
        *photos,
        space=space,
        initial=None if starts is None else torch.cat([start.w_plus for start in starts]),
        steps=steps,
        learning_rate=CODE_RATE,
        lam_l2=2.0,
        statistics_samples=100,
        progress=False,
    )


def optimise_weights(photos: Photos, steps: int, starts: Starts) -> list[Inversion]:
    """PTI: from the mean code half of the steps are for a pivot in W; from other starts all of them tune."""
    if starts is None:
        starts = optimise_code(photos, steps // 2, None, "w")
        steps -= steps // 2
    return [
        invert_pti(
            photos.generator,
            photos.images[[i]],
            photos.cameras[i],
            initial=start,
            steps=steps,
            learning_rate=TUNING_RATE,
            progress=False,
        )
        for i, start in enumerate(starts)
    ]


HYBRIDS = {"wplus": optimise_code, "pti": optimise_weights}


def hybrid_rows(case: HybridCase) -> list[dict]:
    """Seconds a picture, and mean errors of the input view and of those that no method saw, from either start."""
    single_thread(case.device)
    generator = load_generator(SMALL, case.device)
    heads = scenes("samples", case.count, 0, generator, "development", with_ellipse=False, input_yaw=0.3)
    images = torch.cat([head.input.image for head in heads]).to(case.device)
    photos = Photos(generator, images, Camera.cat([head.input.camera for head in heads]).to(case.device))
    encoder = load_encoder(case.encoder, generator)

    def row(method: str, start: str, steps: int, found: Sequence[Inversion], seconds: float) -> dict:
        told = {"method": method, "start": start, "steps": steps, "seconds": seconds / case.count}
        return told | inversion.errors(found, heads)

    starts, encoding = timed(partial(encoder.encode_batch, images, photos.cameras), case.device)
    rows = [row("none", case.encoder, 0, starts, encoding)]
    for method, optimise in HYBRIDS.items():
        found, seconds = timed(partial(optimise, photos, case.steps, None), case.device)
        rows.append(row(method, "mean", case.steps, found, seconds))
        for share in case.shares:
            steps = max(1, round(share * case.steps))
            found, seconds = timed(partial(optimise, photos, steps, starts), case.device)
            rows.append(row(method, case.encoder, steps, found, encoding + seconds))
    return rows


def timed(call: Callable[[], list[Inversion]], device: str) -> tuple[list[Inversion], float]:
    """What a call gives, and its seconds."""
    begun = now(device)
    return call(), now(device) - begun


def saved_rows(rows: Sequence[dict]) -> list[dict]:
    """The fewest steps from the encoder's code that come to the input's LPIPS of all steps from the mean code, and what
    becomes of the sides; without a number of steps where none comes to it."""
    found = []
    for method in HYBRIDS:
        (mean,) = (row for row in rows if row["method"] == method and row["start"] == "mean")
        enough = [
            row
            for row in rows
            if row["method"] in (method, "none")
            and row["start"] != "mean"
            and row["input_lpips"] <= mean["input_lpips"]
        ]
        first = min(enough, key=lambda row: row["steps"], default=None)
        found.append(
            {
                "method": method,
                "steps_from_mean": mean["steps"],
                "steps_from_encoder": first and first["steps"],
                "times_as_fast": first and mean["seconds"] / first["seconds"],
                "side_lpips_from_mean": mean["side_lpips"],
                "side_lpips_from_encoder": first and first["side_lpips"],
            }
        )
    return found


# ----------------------------------------------------------------------- all
def main(
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    repetitions: int = 3,
    official: bool = True,
    hybrid_scenes: int = 3,
    hybrid_steps: int = 120,
    note: str = "",
    out: Path | None = None,
) -> None:
    """Measure what encoders cost, at both sizes, and what their codes save as starts of optimisation.

    Args:
        device: cpu or cuda.
        repetitions: the fastest of so many passes counts.
        official: also one pass of each at official size, with random weights; on the CPU some minutes.
        hybrid_scenes: scenes on which starts are compared.
        hybrid_steps: from the mean code; 0 leaves the comparison out.
        note: what else ran on the machine.
        out: also write the rows as JSON, after each table.
    """
    about = machine(device) + ("; one thread, its processor time" if device == "cpu" else "")
    found: dict[str, Any] = {"machine": "; ".join(filter(None, (about, note)))}
    print(found["machine"])

    def add(title: str, name: str, rows: list[dict]) -> None:
        show(title, rows)
        found[name] = rows
        if out is not None:
            with replacing(out) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")

    add(f"{SMALL}: a picture, in steps of PTI's tuning", "passes", pass_rows(at_hand(), device, repetitions))
    if official:
        add(f"{LARGE}, random weights: one picture", "official", official_rows(device))
    if hybrid_steps:
        case = HybridCase(count=hybrid_scenes, steps=hybrid_steps, device=device)
        rows = in_fresh_process(hybrid_rows, case)
        add(
            f"{SMALL}: optimisation from the mean code and from an encoder's, {case.count} scenes",
            "hybrid",
            rows,
        )
        add(f"{SMALL}: at equal LPIPS of the input", "saved", saved_rows(rows))


if __name__ == "__main__":
    tyro.cli(main)
