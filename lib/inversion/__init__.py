"""Inversion: from one photo to a head, `invert_<method>(generator, target, camera) -> Inversion`.

On the command line: `python -m lib.inversion photo.jpg --out out/`.
"""

from lib.inversion.hfgi3d import invert_hfgi3d
from lib.inversion.optimisation import Checkpoints, Diverged, State
from lib.inversion.pose_opt import invert_pose_opt
from lib.inversion.posefree import invert_posefree
from lib.inversion.projection import invert_w, invert_wplus, project, project_batch
from lib.inversion.pti import invert_pti
from lib.inversion.result import Inversion
from lib.inversion.several import invert_several
from lib.inversion.spi import invert_spi

__all__ = [
    "Checkpoints",
    "Diverged",
    "Inversion",
    "State",
    "invert_hfgi3d",
    "invert_pose_opt",
    "invert_posefree",
    "invert_pti",
    "invert_several",
    "invert_spi",
    "invert_w",
    "invert_wplus",
    "project",
    "project_batch",
]
