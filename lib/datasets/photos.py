"""Photos that anyone may have: the astronaut that scikit-image carries, then portraits of the 2D teacher.

Of all pictures in the packages that the study installs, it is the only one with a face that is not seen in profile,
as the cameraman's is (scikit-image's `camera`). So the teacher, MobileStyleGAN, stands in for further photos, at the
1024 pixels that it paints; these are named as what they are. A scene has the input view alone: nobody knows these
people from the side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import skimage.data

from lib import assets
from lib.datasets.photographed import INPUT, SceneError, ViewMaker, scene_of_shots
from lib.datasets.scenes import Scene
from lib.faces import Detector, FaceError, HasResolution
from lib.generators.teacher import Teacher

KIND = "photos"

PHOTOS: dict[str, Callable[[], np.ndarray]] = {"astronaut": skimage.data.astronaut}
"""Pictures of packages by name, uint8 [height, width, 3]. The astronaut is Eileen Collins, by NASA: public domain."""

FIRST_SEED = 2**31
"""Added to the seed of a portrait: seeds of scenes and of portraits to train on lie below."""

TRUNCATION = 0.8
"""Of the teacher's styles, as in the portraits that the embedded generator was trained on."""


def photos(
    n: int, generator: HasResolution | int, *, first: int = 0, detector: Detector | None = None
) -> list[Scene]:
    """Scenes of `n` photos, cropped and posed for a generator; more begin with these.

    first: how many to leave out before these. The landmarks [1, 478, 3] stand in `truth`; depth is the face's
    pseudo-depth under them, and the mask is the parsing network's. Beyond a photo's border nothing is known.
    detector: of faces, to share it.
    """
    resolution = generator if isinstance(generator, int) else generator.resolution
    maker = ViewMaker(resolution, detector=detector)
    return [_scene(photo_name(index), maker) for index in range(first, first + n)]


def photo_name(index: int) -> str:
    """Photos of packages first, then `teacher-portrait-<seed>`."""
    names = tuple(PHOTOS)
    return names[index] if index < len(names) else f"teacher-portrait-{index - len(names)}"


def photo(name: str) -> np.ndarray:
    """The picture of this name, uint8 [height, width, 3]."""
    kind, _, seed = name.rpartition("-")
    if name in PHOTOS:
        return PHOTOS[name]()
    if kind == "teacher-portrait" and seed.isdecimal():
        return teacher_portrait(int(seed))
    raise ValueError(f"there is no photo {name!r}; there are {', '.join(PHOTOS)} and teacher-portrait-<seed>")


def _scene(name: str, maker: ViewMaker) -> Scene:
    try:
        shot = maker.of_photo(photo(name))
    except FaceError as error:
        raise SceneError(f"{KIND} {name}: {error}") from error
    return scene_of_shots({INPUT: shot}, INPUT, {"kind": KIND, "id": name})


# -------------------------------------------------------------------- the teacher at its full size
def teacher_portrait(seed: int) -> np.ndarray:
    """A person of the teacher in whatever pose it gives, uint8 [1024, 1024, 3]; none of these trained anything."""
    teacher, synthesis = _teacher()
    z = np.random.default_rng(FIRST_SEED + seed).standard_normal((1, Teacher.z_dim))
    style = teacher.styles(z, TRUNCATION).astype(np.float32)
    image = synthesis({"style": style})[0][0] * 127.5 + 128
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@lru_cache(maxsize=1)
def _teacher() -> tuple[Teacher, Callable]:
    """The teacher and its whole synthesis network, of which `Teacher.picture` leaves out the last step to 1024 px."""
    teacher = Teacher(threads=1, precision="f32")
    import openvino  # the teacher has said what to do if it is missing

    path = assets.folder("teacher") / "SynthesisNetwork.xml"
    options = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    return teacher, openvino.Core().compile_model(path, "CPU", options)
