"""Photos in, heads that turn out, without a notebook: `python -m lib.inversion photo.jpg --out out`.

Each photo gets a folder OUT/<name of the photo> with

    target.png, inversion.png   the aligned photo, and the head seen from its camera
    views.png                   the head from seven sides
    inversion.safetensors       everything, for `lib.inversion.Inversion.load`
    report.json                 settings, errors against the photo, versions, exports

and with what --export names (default: video,glb):

    video     orbit.mp4: its turn; --beside depth,normals adds these at the right of the colours
    glb       mesh.glb: its surface with vertex colours, in world units (Blender, three.js)
    ply, obj  mesh.ply, mesh.obj: the same mesh (MeshLab)
    points    points.ply: coloured points that five views see, in world units
    depth     depth.png: as the photo's camera sees it, in 1/10000 of a world unit along the camera's axis,
              0 where there is nothing; depth_colours.png: the same to look at
    normals   normals.png: 255 (n + 1) / 2 of the normals; red is +x, green up, blue where the face looks
    voxels    voxels.mrc, voxels.ply: density and surface as EG3D's own scripts write them, in voxels

A folder appears when its inversion is whole. Exports follow; the same command with another --export adds to
them. What is done already is skipped. The same command after a kill goes on from the last checkpoint, which lies
in OUT/.<name of the photo>.unfinished until then.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from lib.encoders import invert_encoder, networks_of
from lib.encoders.storage import network_digest
from lib.faces import (
    FaceWarning,
    Portrait,
    labels_from_dataset_json,
    portrait_from_crop,
    portrait_from_photo,
)
from lib.generators import EG3D, load_generator
from lib.images import save_image
from lib.inversion import (
    Checkpoints,
    Inversion,
    invert_hfgi3d,
    invert_pose_opt,
    invert_posefree,
    invert_pti,
    invert_spi,
    invert_w,
    invert_wplus,
)
from lib.inversion.assumptions import AssumptionWarning
from lib.inversion.objective import lpips_for
from lib.inversion.result import fingerprint
from lib.losses import l2_loss
from lib.media import BESIDE, EXPORTS, MESHES, export, shown
from lib.meshes import view_of
from lib.paths import replacing
from lib.versions import code_version

METHODS = {
    "w": invert_w,
    "wplus": invert_wplus,
    "pti": invert_pti,
    "pose_opt": invert_pose_opt,
    "spi": invert_spi,
    "hfgi3d": invert_hfgi3d,
    "posefree": invert_posefree,
}
ENCODERS = ("psp", "e4e", "triplanenet", "goae-wplus", "goae")
"""Methods that only encode: nothing is iterated, so that there are no steps to choose and nothing to go on from."""

METHODS |= dict.fromkeys(ENCODERS, invert_encoder)

WEIGHTS = {"posefree": "portraits64-posefree"}
"""Method: the generator that it needs; all others take `portraits64`."""

SEARCH_STEPS = {
    "pti": "pivot_steps",
    "pose_opt": "latent_steps",
    "spi": "latent_steps",
    "hfgi3d": "latent_steps",
}
"""Method that tunes: what it calls the steps before, in which it searches for a code."""

POSE_SHARE = 8
"""One in so many steps of pose_opt's search moves the camera alone, as it is by default."""

VIEW_YAWS = (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6)
GRIDS = (16, 1024)
"""Fewest and most samples a side; 1024 are 4 GiB of densities."""

SETTINGS_OF_EXPORTS = {
    "video": ("beside",),
    **dict.fromkeys((*MESHES, "voxels"), ("grid", "level")),
    **dict.fromkeys(("points", "depth", "normals"), ()),
}
"""Export: the options that it depends on."""


@dataclass(frozen=True)
class Options:
    """Turn photos of faces into heads that can be seen from any side."""

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photos with a face, or ready crops together with --label."""
    out: Path = Path("out")
    """Folder that gets a folder for each photo."""
    method: Literal[
        "w",
        "wplus",
        "pti",
        "pose_opt",
        "spi",
        "hfgi3d",
        "posefree",
        "psp",
        "e4e",
        "triplanenet",
        "goae-wplus",
        "goae",
    ] = "pti"
    """w: a head like those the generator knows. wplus: closer. pti: closest, from the front at least. pose_opt: as pti,
    and finds the camera, too. spi: as pti, and with the mirrored photo as a second view. hfgi3d: as pti, and
    what the photo shows is carried to other views, what it hides made up there; slowest. posefree: no camera is asked
    for; the generator says it. psp, e4e, triplanenet, goae-wplus, goae: encoders, in a fraction of a second; in the
    photo's own view goae is closest of these; goae-wplus is its code alone."""
    weights: str | None = None
    """Generator: one that ships with the study, or a file (default: portraits64, or portraits64-posefree)."""
    device: str = "cpu"
    """cpu, cuda, cuda:1 ..."""
    steps: int | None = None
    """Steps of the method (default: its own). For those that tune, the steps of the tuning, after the search."""
    pivot_steps: int | None = None
    """For pti, pose_opt, spi and hfgi3d: steps of the search for a code, before the tuning."""
    seed: int = 0
    """The same seed gives the same head."""
    label: Path | None = None
    """The photos are ready crops, and this file has EG3D's 25 numbers: text, .npy, or a dataset.json."""
    crop: bool = False
    """The photos are ready crops, and nobody knows their cameras: for posefree, or as a guess of the front."""
    face: int | None = None
    """Which face, counted from the largest (0), where a photo has several."""
    export: str = "video,glb"
    """What to write of the head, with commas: glb, ply, obj, points, depth, normals, video, voxels."""
    grid: int = 128
    """Density samples a side for meshes and voxels, 16 to 1024 (EG3D's scripts: 512)."""
    level: float | None = None
    """Raw density of the surface (default: measured where it is seen; EG3D's scripts: 10)."""
    beside: str = ""
    """What the video shows at the right of the colours: depth, normals, or both with a comma."""
    force: bool = False
    """Redo what is done already."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 where any photo failed."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    if options.weights is None:
        options = replace(options, weights=WEIGHTS.get(options.method, "portraits64"))
    problem = _problem(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    try:
        generator = load_generator(options.weights, options.device)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        print(f"error: cannot use {options.weights} on {options.device}: {error}", file=sys.stderr)
        return 1
    problem = _unwritable(options.out)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    failed = [photo for photo in options.photos if not _tried(photo, options, generator)]
    if failed:
        print(
            f"{len(failed)} of {len(options.photos)} photos failed: {', '.join(map(str, failed))}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _problem(options: Options) -> str | None:
    """What is wrong with the options, as far as they tell it."""
    names = [photo.stem for photo in options.photos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names:
        return "no photo given"
    if twice:
        return f"several photos are called {', '.join(twice)}, and each gets a folder of its name"
    if options.pivot_steps is not None and options.method not in SEARCH_STEPS:
        return f"--pivot-steps belongs to {', '.join(SEARCH_STEPS)}, not to {options.method}"
    if options.steps is not None and options.method in ENCODERS:
        return f"--steps belongs to methods that iterate; {options.method} is an encoder"
    for name, count in (("--steps", options.steps), ("--pivot-steps", options.pivot_steps)):
        if count is not None and count < 1:
            return f"{name} must be 1 or more; got {count}"
    for name, known in (("export", EXPORTS), ("beside", BESIDE)):
        unknown = [word for word in words_of(getattr(options, name)) if word not in known]
        if unknown:
            return f"--{name} does not know {', '.join(unknown)}; it knows {', '.join(known)}"
    if options.crop and options.label is not None:
        return "--crop is for crops without a camera, and --label gives one"
    if options.beside and "video" not in words_of(options.export):
        return "--beside belongs to the video, which --export does not name"
    if not GRIDS[0] <= options.grid <= GRIDS[1]:
        return f"--grid must be {GRIDS[0]} to {GRIDS[1]} samples a side; got {options.grid}"
    return None


def _unwritable(folder: Path) -> str | None:
    """Why no file can be written to a folder, before minutes are spent; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"cannot write to --out {folder}: {error.strerror}"


def _tried(photo: Path, options: Options, generator: EG3D) -> bool:
    """Process one photo; an error is printed and does not stop the others."""
    folder = options.out / photo.stem
    try:
        settings = settings_of(photo, options, generator)
        done = is_done(folder, settings, options.force)
        report = None if done else invert_photo(photo, folder, options, generator, settings)
        added = add_exports(folder, options)
    except Exception as error:  # whatever one photo does, the others get their turn
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        print(f"{photo}: error: {kind}{error}", file=sys.stderr)
        return False
    if report:
        errors = ", ".join(f"{name} {value:.4f}" for name, value in report["errors"].items())
        print(f"{photo}: {folder} ({errors}, {report['seconds']:.0f} s)")
    elif added:
        print(f"{photo}: {folder} has {', '.join(added)} now")
    else:
        print(f"{photo}: skipped, {folder} is done (--force redoes it)")
    return True


def invert_photo(
    photo: Path, folder: Path, options: Options, generator: EG3D, settings: dict[str, Any]
) -> dict[str, Any]:
    """Invert one photo, write its folder but for the exports, and return the report."""
    start = time.perf_counter()
    portrait = portrait_of(photo, options, generator)
    with going_on(folder, settings) as checkpoints:
        inversion = inverted(photo, portrait, options, generator, checkpoints)
        report = settings | {"errors": errors_of(inversion, portrait.image), "extras": inversion.facts()}
        report["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
        with replacing_folder(folder) as unfinished:
            write_pictures(inversion, portrait.image, unfinished)
            inversion.save(unfinished / "inversion.safetensors")
            report |= {"seconds": round(time.perf_counter() - start, 1), "exports": {}}
            (unfinished / "report.json").write_text(json.dumps(report, indent=1))
    return report


def inverted(
    photo: Path, portrait: Portrait, options: Options, generator: EG3D, checkpoints: Checkpoints
) -> Inversion:
    """What the method makes of a portrait; where the photo is not what it was made for is printed."""
    own = {"encoder": options.method}
    if options.method not in ENCODERS:
        own = {"checkpoints": checkpoints} | step_counts(options)
    with notes(photo, AssumptionWarning):
        return METHODS[options.method](
            generator,
            portrait.image,
            portrait.camera,
            masks=portrait.masks,
            landmarks=portrait.landmarks,
            seed=options.seed,
            **own,
        )


def step_counts(options: Options) -> dict[str, int]:
    """Numbers of steps as the method calls them, as far as they are given."""
    counts = {"steps": options.steps, SEARCH_STEPS.get(options.method): options.pivot_steps}
    counts = {name: count for name, count in counts.items() if count is not None}
    if options.method == "pose_opt" and options.pivot_steps is not None:
        counts["pose_steps"] = options.pivot_steps // POSE_SHARE
    return counts


def portrait_of(photo: Path, options: Options, generator: EG3D) -> Portrait:
    """The photo as the generator needs it; doubts about it are printed."""
    with notes(photo, FaceWarning):
        if options.crop:
            return portrait_from_crop(photo, generator.frontal_camera().label(), generator)
        if options.label is None:
            face = "largest" if options.face is None else options.face
            return portrait_from_photo(photo, generator, face=face)
        return portrait_from_crop(photo, read_label(options.label, photo), generator)


@contextmanager
def notes(photo: Path, category: type[Warning]) -> Iterator[None]:
    """Print warnings of a category as notes about a photo, and give other ones as they are."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", category)
        try:
            yield
        finally:
            for note in (warning for warning in said if issubclass(warning.category, category)):
                print(f"{photo}: note: {note.message}", file=sys.stderr)
    for other in (warning for warning in said if not issubclass(warning.category, category)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


# ----------------------------------------------------------------------- what goes into a folder
def errors_of(inversion: Inversion, target: Tensor) -> dict[str, float]:
    """Errors of the input view: MSE in [-1, 1] at the generator's size, LPIPS (AlexNet) at 256 pixels."""
    rendered = inversion.render().image.clamp(-1, 1)
    target = target.to(rendered)
    lpips = lpips_for(inversion.generator, "alex", resolution=256)
    return {"mse": l2_loss(rendered, target).item(), "lpips_256": lpips(rendered, target).item()}


def write_pictures(inversion: Inversion, target: Tensor, folder: Path) -> None:
    save_image(folder / "target.png", shown(target))
    save_image(folder / "inversion.png", shown(inversion.render().image))
    views = inversion.render(view_of(inversion, torch.tensor(VIEW_YAWS))).image
    save_image(folder / "views.png", torch.cat(list(shown(views).split(1)), dim=3))


# ----------------------------------------------------------------------- exports
def words_of(text: str) -> tuple[str, ...]:
    """The words of an option like "glb,ply", each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def add_exports(folder: Path, options: Options) -> list[str]:
    """Write the exports that are asked for and that the folder does not have as asked; returns their names."""
    report = json.loads((folder / "report.json").read_text())
    made = report.setdefault("exports", {})
    asked = {
        kind: {name: getattr(options, name) for name in SETTINGS_OF_EXPORTS[kind]}
        for kind in words_of(options.export)
    }
    missing = [
        kind
        for kind, settings in asked.items()
        if made.get(kind, {}).get("settings") != settings
        or not all((folder / name).is_file() for name in made[kind]["files"])
    ]
    if not missing:
        return []
    inversion = Inversion.load(folder / "inversion.safetensors", options.device)
    files = export(
        inversion,
        folder,
        missing,
        camera=inversion.camera,
        grid=options.grid,
        level=options.level,
        beside=words_of(options.beside),
    )
    for kind, paths in files.items():
        made[kind] = {"settings": asked[kind], "files": [path.name for path in paths]}
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    return missing


# ----------------------------------------------------------------------- what was asked, and is it done
def settings_of(photo: Path, options: Options, generator: EG3D) -> dict[str, Any]:
    """All that the result depends on: for the report, and to tell whether a folder is the one asked for."""
    if not photo.is_file():
        raise FileNotFoundError(f"there is no file {photo} (looked from {Path.cwd()})")
    return {
        "photo": photo.name,
        "photo_sha256": hashlib.sha256(photo.read_bytes()).hexdigest(),
        "generator_sha256": fingerprint(generator.state_dict(), generator.config),
        "networks": {name: network_digest(name) for name in networks_of(options.method)}
        if options.method in ENCODERS
        else {},
        "label_sha256": hashlib.sha256(options.label.read_bytes()).hexdigest() if options.label else None,
        **{
            name: getattr(options, name)
            for name in ("method", "weights", "steps", "pivot_steps", "seed", "face", "crop")
        },
    }


def is_done(folder: Path, settings: dict[str, Any], force: bool = False) -> bool:
    """Whether the folder holds exactly this; an error where it holds something else.

    With force the answer is no, and what was made here may be replaced; another folder never is.
    """
    if not folder.exists():
        return False
    try:
        report = json.loads((folder / "report.json").read_text())
        differing = [name for name, value in settings.items() if report[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} exists and is not from here, or from an older version: "
            "move it away, or give another --out"
        ) from None
    if differing and not force:
        raise ValueError(
            f"{folder} was made with another {', '.join(differing)}: "
            "give another --out, or --force to replace it"
        )
    return not force


def read_label(path: Path, photo: Path) -> Tensor:
    """EG3D's 25 numbers of a crop, from text, a .npy file, or the entry of a dataset.json."""
    text = "" if path.suffix == ".npy" else path.read_text()
    if text.lstrip().startswith("{"):
        found = [
            label for name, label in labels_from_dataset_json(path).items() if Path(name).name == photo.name
        ]
        if len(found) != 1:
            raise ValueError(f"{path} has {len(found)} labels for {photo.name}; expected one")
        return found[0]
    try:
        words = text.translate(str.maketrans(",;[]", "    ")).split()
        numbers = np.array(words, np.float32) if words else np.load(path, allow_pickle=False)
        return torch.as_tensor(numbers.astype(np.float32)).reshape(25)
    except (ValueError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is no camera label; expected EG3D's 25 numbers ({error})") from error


@contextmanager
def going_on(folder: Path, settings: Mapping[str, Any]) -> Iterator[Checkpoints]:
    """Checkpoints of a run with these settings, beside `folder`: those of a killed one, or none.

    They stay where the run is killed, or where memory or disk end, and are removed when it is over.
    """
    state = folder.with_name(f".{folder.name}.unfinished")
    about = json.dumps(settings | {"code": code_version(METHODS[settings["method"]])}, sort_keys=True)
    if not (state / "settings.json").is_file() or (state / "settings.json").read_text() != about:
        shutil.rmtree(state, ignore_errors=True)
        with replacing(state / "settings.json") as temporary:
            temporary.write_text(about)
    try:
        yield Checkpoints(state)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        shutil.rmtree(state, ignore_errors=True)
        raise
    shutil.rmtree(state, ignore_errors=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to; it takes the place of `folder` only if all goes well."""
    unfinished, replaced = (
        folder.with_name(f".{folder.name}.{part}-{os.getpid()}") for part in ("new", "old")
    )
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
