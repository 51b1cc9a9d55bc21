"""What the methods of inversion cost, stage by stage: `python -m benchmarks.inversion`.

A few steps of each stage are timed, and an image takes as many as its paper says: the whole is extrapolated. Every
measurement has a process of its own, so that peaks of memory are its own too. On the CPU a single thread computes, and
its processor time counts, which other work on the machine lengthens less than the time on the wall. Even so, trust the
ratios and not the seconds.
"""

import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.generator import MIB, generator_of, machine
from lib.cameras import Camera
from lib.contextual import canonical_landmarks
from lib.datasets import Scene, scenes
from lib.generators import EG3D, PoseFreeConfig, PoseFreeEG3D, load_generator
from lib.images import resize
from lib.inversion import (
    Inversion,
    State,
    invert_hfgi3d,
    invert_pose_opt,
    invert_posefree,
    invert_pti,
    invert_spi,
    project_batch,
)
from lib.inversion.hfgi3d import RELEASED
from lib.inversion.pti import RECIPES
from lib.metrics import make_lpips, measured, mse
from lib.paths import replacing

QUICKLY = {"statistics_samples": 10}
"""Samples for the mean code are drawn before the first step, and so are no part of what is timed."""


# ----------------------------------------------------------------------- the stages of the methods
@dataclass(frozen=True)
class Photo:
    """Pictures [B, 3, R, R] of one face, turned a little: all that a method wants to know of a photo.

    Where the face is does not change what the methods compute, so it is not detected, which takes memory too.
    """

    image: Tensor
    camera: Camera

    @classmethod
    def of(cls, generator: EG3D, pictures: int = 1, yaw: float = 0.3) -> "Photo":
        """The mean head of the embedded generator, at the size of this one."""
        small, camera = load_generator("portraits64"), generator.camera(torch.tensor([yaw]), torch.zeros(1))
        mean = small.w_mean.reshape(1, 1, -1).expand(1, small.n_layers, -1)
        with torch.no_grad():
            image = small.synthesize(mean, small.camera(torch.tensor([yaw]), torch.zeros(1))).image
        image = resize(image.clamp(-1, 1), generator.resolution).to(generator.w_mean)
        return cls(image.expand(pictures, -1, -1, -1), camera.expand(pictures))

    def face(self) -> dict[str, Any]:
        return {
            "masks": {"face": torch.ones_like(self.image[:1, :1])},
            "landmarks": canonical_landmarks(self.camera[0])[0],
        }


Look = Callable[[int, State], None]


def search_code(generator: EG3D, photo: Photo, look: Look) -> None:
    """The code of W and W+, and the pivot of PTI: the same computation."""
    project_batch(
        generator, photo.image, photo.camera, space="wplus", callback=look, progress=False, **QUICKLY
    )


def tune_pti(generator: EG3D, photo: Photo, look: Look) -> None:
    invert_pti(generator, photo.image, photo.camera, initial=generator.w_mean, callback=look, progress=False)


def pose_opt(generator: EG3D, photo: Photo, look: Look, **settings: Any) -> None:
    invert_pose_opt(generator, photo.image, callback=look, progress=False, **QUICKLY, **settings)


def search_mirrored(generator: EG3D, photo: Photo, look: Look) -> None:
    """Stage 1 of SPI: the photo and the mirrored photo."""
    settings = {"callback": look, **QUICKLY}
    invert_spi(
        generator,
        photo.image,
        photo.camera,
        steps=0,
        latent_settings=settings,
        progress=False,
        **photo.face(),
    )


def tune_spi(generator: EG3D, photo: Photo, look: Look, **settings: Any) -> None:
    invert_spi(
        generator,
        photo.image,
        photo.camera,
        initial=generator.w_mean,
        callback=look,
        progress=False,
        **photo.face(),
        **settings,
    )


def tune_hfgi3d(generator: EG3D, photo: Photo, look: Look, **settings: Any) -> None:
    """The fit to photo and pseudo views. These take few views from a rough surface, as none of it is a step."""
    invert_hfgi3d(
        generator,
        photo.image,
        photo.camera,
        initial=generator.w_mean,
        theta=None,
        views=2,
        view_settings={"geometry": "depth"},
        callback=look,
        progress=False,
        **settings,
    )


def search_posefree(generator: EG3D, photo: Photo, look: Look) -> None:
    """A step of the pose-free search, with every term of its loss, in a generator of the same sizes whose weights do not
    matter. The look for a start is left out: that is the search for a code, by another name."""
    twin = PoseFreeEG3D(PoseFreeConfig.like(generator.config)).to(photo.image.device)
    twin = twin.eval().requires_grad_(False).measure_w(n=10)
    invert_posefree(twin, photo.image, starts=1, callback=look, progress=False, **QUICKLY)


@dataclass(frozen=True)
class Stage:
    """How a stage is run. cycle: after so many steps their work repeats; before: steps of an earlier stage."""

    run: Callable[[EG3D, Photo, Look], None]
    cycle: int = 1
    before: int = 0


STAGES = {
    "code": Stage(search_code),
    "tuning": Stage(tune_pti),
    "code and pose": Stage(pose_opt),
    "tuning at the pose": Stage(partial(pose_opt, latent_steps=1, pose_steps=0), before=1),
    "code, two views": Stage(search_mirrored),
    "tuning by SPI": Stage(tune_spi),
    "tuning by SPI (released code)": Stage(partial(tune_spi, interval=4, views=4), cycle=4),
    "tuning by SPI (this study)": Stage(partial(tune_spi, interval=4), cycle=4),
    "tuning by HFGI3D": Stage(tune_hfgi3d),
    "pose-free code": Stage(search_posefree, before=1),
    "tuning by HFGI3D (released code)": Stage(
        partial(tune_hfgi3d, objective=RELEASED["objective"], tune_latent=RELEASED["tune_latent"])
    ),
}


@dataclass(frozen=True)
class Recipe:
    """A method as steps of stages. paper_seconds: an image, as a paper of this study reports it for its GPU."""

    steps: dict[str, int]
    paper_seconds: float | None = None
    reported_by: str = ""


def _steps(first: str, second: str, recipe: str) -> dict[str, int]:
    return dict(zip((first, second), RECIPES[recipe], strict=True))


METHODS = {
    "w": Recipe({"code": 1500}),
    "wplus": Recipe({"code": 1500}),
    "pti": Recipe(_steps("code", "tuning", "pti"), 115.2, "GOAE, table 1"),
    "pose_opt": Recipe(_steps("code and pose", "tuning at the pose", "pose_opt"), 219.7, "GOAE, table 1"),
    "spi": Recipe(_steps("code, two views", "tuning by SPI", "spi"), 463.5, "E3DGE, table 1"),
    "spi (released code)": Recipe(
        _steps("code, two views", "tuning by SPI (released code)", "spi"), 463.5, "E3DGE, table 1"
    ),
    "spi (this study)": Recipe(_steps("code, two views", "tuning by SPI (this study)", "spi")),
    "hfgi3d": Recipe({"code": 1000 + 1000, "tuning by HFGI3D": 3000}, 300.0, "HFGI3D, appendix A.1"),
    "hfgi3d (released code)": Recipe(
        {"code": 500, "tuning": 500, "tuning by HFGI3D (released code)": 1000}, 300.0, "HFGI3D, appendix A.1"
    ),
    "hfgi3d (this study)": Recipe({"code": 167 + 167, "tuning by HFGI3D": 333}),
    "posefree (this study)": Recipe({"code": 4 * 30, "pose-free code": 250}),
}
"""With the papers' steps, but for HFGI3D as this study runs it: a sixth of those for its codes, a ninth for its fit. The
paper of the pose-free inversion does not say its steps; four starts of 30 and 250 are those of this study.
HFGI3D searches two codes, of what the photo shows and of what it hides; its warps are made once an image, and are no
step. Of SPI's tuning each step takes each auxiliary term from one view, as the paper reads; in the released code every
fourth step takes each from four; in the full scale of this study every fourth takes one."""

LARGE = ("w", "wplus", "pti", "pose_opt", "spi")
"""Methods that are measured at 512 pixels: SPI's other forms take more memory there than a desktop has, and HFGI3D makes
many pictures before its first step."""


# ----------------------------------------------------------------------- a measurement
@dataclass(frozen=True)
class Case:
    """One measurement. repetitions: of the stage's cycle, of which the fastest counts."""

    model: str
    stage: str
    pictures: int = 1
    device: str = "cpu"
    repetitions: int = 3


@dataclass(frozen=True)
class Measurement:
    seconds: float  # a step, for all of its pictures
    peak_mib: float  # of memory that the method took on top of the generator


class Enough(Exception):
    """The steps that were to be timed are done."""


class Stopwatch:
    """A callback that notes when it was called, and ends the method after so many times."""

    def __init__(self, device: str, looks: int):
        self.device, self.looks = device, looks
        self.times: list[float] = []

    def __call__(self, step: int, state: State) -> None:
        self.times.append(now(self.device))
        if len(self.times) == self.looks:
            raise Enough


def now(device: str) -> float:
    """Seconds: of the processor on the CPU, on the wall when all work is done on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def single_thread(device: str) -> None:
    """Processor time of several threads is more than what an image takes."""
    if device == "cpu":
        torch.set_num_threads(1)


def measure(case: Case) -> Measurement:
    """Measure in this process, from a step's picture to that of the step one cycle later."""
    single_thread(case.device)
    stage = STAGES[case.stage]
    # Random weights come without the mean code; any will do.
    generator = generator_of(case.model).measure_w(n=10).to(case.device)
    photo = Photo.of(generator, case.pictures)
    watch = Stopwatch(case.device, stage.before + 1 + case.repetitions * stage.cycle)
    with measured(case.device) as cost, suppress(Enough):
        stage.run(generator, photo, watch)
    at = watch.times[stage.before :: stage.cycle]
    cycles = [later - earlier for earlier, later in itertools.pairwise(at)]
    return Measurement(min(cycles) / stage.cycle, cost.peak_bytes / MIB)


def in_fresh_process(call: Callable[[Any], Any], given: Any) -> Any:
    """What `call` gives in a process of its own, forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.generator", "lib.datasets", "lib.inversion", "lib.metrics"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(call, given).result()


# ----------------------------------------------------------------------- the tables
def stage_rows(model: str, methods: Sequence[str], device: str, repetitions: int) -> list[dict]:
    """Seconds a step and peak memory of each stage that the methods have."""
    names = dict.fromkeys(stage for method in methods for stage in METHODS[method].steps)
    found = {n: in_fresh_process(measure, Case(model, n, 1, device, repetitions)) for n in names}
    return [{"model": model, "stage": name, **asdict(measurement)} for name, measurement in found.items()]


def method_rows(stages: Sequence[dict], methods: Sequence[str]) -> list[dict]:
    """Seconds an image, extrapolated to the papers' steps, as multiples of PTI's, and the papers' seconds beside."""
    of = {row["stage"]: row for row in stages}

    def seconds(method: str) -> float:
        return sum(of[stage]["seconds"] * steps for stage, steps in METHODS[method].steps.items())

    return [
        {
            "model": stages[0]["model"],
            "method": method,
            "steps": sum(METHODS[method].steps.values()),
            "seconds": seconds(method),
            "times_pti": seconds(method) / seconds("pti"),
            "peak_mib": max(of[stage]["peak_mib"] for stage in METHODS[method].steps),
            "paper_seconds": METHODS[method].paper_seconds,
            "reported_by": METHODS[method].reported_by,
        }
        for method in methods
    ]


def batch_rows(device: str, repetitions: int, sizes: Sequence[int] = (1, 4)) -> list[dict]:
    """Seconds a step and picture when codes are searched one by one, and several at once."""
    found = {n: in_fresh_process(measure, Case("portraits64", "code", n, device, repetitions)) for n in sizes}
    return [
        {
            "pictures": pictures,
            "seconds_a_picture": m.seconds / pictures,
            "times_as_fast": found[1].seconds / (m.seconds / pictures),
            "peak_mib": m.peak_mib,
        }
        for pictures, m in found.items()
    ]


@dataclass(frozen=True)
class EarlyCase:
    """Cheaper first steps, all else the same. until: the share of the steps that they are."""

    count: int = 3  # scenes
    steps: int = 60
    until: float = 0.5
    device: str = "cpu"


def early_rows(case: EarlyCase) -> list[dict]:
    """What cheaper first steps save, and what becomes of the picture and of the sides, with true views to compare."""
    single_thread(case.device)
    generator = load_generator("portraits64", case.device)
    heads = scenes("samples", case.count, 0, generator, "development", with_ellipse=False, input_yaw=0.6)
    targets = torch.cat([head.input.image for head in heads])
    cameras = Camera.cat([head.input.camera for head in heads])
    rows = []
    for early in ("full", "half_rays", "coarse"):
        begun = now(case.device)
        found = project_batch(
            generator,
            targets,
            cameras,
            space="wplus",
            steps=case.steps,
            learning_rate=0.05,  # as in the study: with the paper's rate so few steps reach nothing
            statistics_samples=100,
            early=early,
            early_until=case.until,
            progress=False,
        )
        seconds = (now(case.device) - begun) / len(heads)
        rows.append({"early": early, "scenes": case.count, "steps": case.steps, "seconds": seconds})
        rows[-1] |= errors(found, heads)
    return [row | {"times_as_fast": rows[0]["seconds"] / row["seconds"]} for row in rows]


def errors(found: Sequence[Inversion], heads: Sequence[Scene]) -> dict[str, float]:
    """Mean error of the input views, and of those that no method saw."""
    distances = {"mse": mse, "lpips": make_lpips().to(found[0].w_plus.device)}
    values: dict[str, list[float]] = {}
    for inversion, head in zip(found, heads, strict=True):
        still = inversion.still()
        for name, view in head.views.items():
            place = "input" if name == head.input_name else "side"
            image, truth = (
                x.to(inversion.w_plus.device)
                for x in (still.render(view.camera.to(inversion.w_plus.device)).image, view.image)
            )
            for metric, distance in distances.items():
                with torch.no_grad():
                    value = distance(image.clamp(-1, 1), truth).item()
                values.setdefault(f"{place}_{metric}", []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def show(title: str, rows: Sequence[dict]) -> None:
    """Print rows as a table: numbers short, missing ones as a dash."""
    cells = [list(rows[0]), *([_short(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value).split(".")[0]


def main(
    models: tuple[str, ...] = ("portraits64", "ffhq512"),
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    repetitions: int = 3,
    early_steps: int = 60,
    early_scenes: int = 3,
    note: str = "",
    out: Path | None = None,
) -> None:
    """Measure what an image costs with each method, and what batches and cheaper first steps save.

    Args:
        models: portraits64, ffhq512 (NVIDIA's sizes, random weights; on the CPU a single step of each stage).
        device: cpu or cuda.
        repetitions: the fastest of so many counts.
        early_steps: steps in which cheaper first ones are compared; 0 leaves the comparison out.
        early_scenes: scenes on which they are.
        note: what else ran on the machine.
        out: also write the rows as JSON, after each table.
    """
    about = machine(device) + ("; one thread, its processor time" if device == "cpu" else "")
    found: dict[str, Any] = {"machine": "; ".join(filter(None, (about, note))), "stages": [], "methods": []}
    print(found["machine"])

    def add(title: str, name: str, rows: list[dict]) -> None:
        show(title, rows)
        found[name] = found.get(name, []) + rows
        if out is not None:
            with replacing(out) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")

    if early_steps:
        case = EarlyCase(early_scenes, early_steps, device=device)
        about_case = f"the first {case.until:.0%} of {early_steps} steps in W+, {early_scenes} scenes"
        add(f"portraits64: cheaper {about_case}", "early", in_fresh_process(early_rows, case))
    if "portraits64" in models:
        add("portraits64: several codes at once", "batches", batch_rows(device, repetitions))
    for model in models:
        large = model == "ffhq512"
        methods = LARGE if large else tuple(METHODS)
        stages = stage_rows(model, methods, device, 1 if large and device == "cpu" else repetitions)
        add(f"{model}: a step of each stage", "stages", stages)
        extrapolated = f"{model}: an image, extrapolated (the papers' seconds are of two GPUs)"
        add(extrapolated, "methods", method_rows(stages, methods))


if __name__ == "__main__":
    tyro.cli(main)
