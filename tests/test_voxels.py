"""EG3D's own exports: its conventions, written out index by index, and the way back to world space."""

import struct

import numpy as np
import pytest
import torch
import trimesh
from analytic_head import EAR, NOSE, AnalyticGenerator, AnalyticHead
from scipy.spatial import cKDTree

from lib.meshes import density_grid, extract_mesh
from lib.voxels import (
    EMPTY,
    densities_of,
    load_mrc,
    official_surface,
    official_volume,
    save_mrc,
    save_voxels,
    voxels_from_world,
    world_from_voxels,
    world_mesh,
)


@pytest.fixture(scope="module")
def head() -> AnalyticHead:
    return AnalyticHead(AnalyticGenerator(sharpness=2000.0))


class Coordinates(AnalyticHead):
    """A field that says where it was asked."""

    def density(self, points):
        return points @ points.new_tensor([1.0, 10.0, 100.0])


# -------------------------------------------------------------------- volume
def test_volume_is_the_mirrored_grid_with_an_emptied_border():
    n, border = 20, 2  # int(30 * 20 / 256)
    volume = official_volume(density_grid(Coordinates(), n))
    for a, b, c in np.ndindex(n, n, n):
        if min(a, b, c) < border or max(a, b, c) >= n - border:
            assert volume[a, b, c] == EMPTY
        else:
            x, y, z = -(a / (n - 1) - 0.5), b / (n - 1) - 0.5, c / (n - 1) - 0.5
            assert volume[a, b, c] == pytest.approx(x + 10 * y + 100 * z, abs=1e-4)


def test_small_volumes_have_no_border_to_empty():
    densities = density_grid(Coordinates(), 8)
    assert np.array_equal(official_volume(densities), densities[::-1])


def test_densities_come_back_from_the_volume(head):
    densities = density_grid(head, 24)
    inner = (slice(2, -2),) * 3
    assert np.array_equal(densities_of(official_volume(densities))[inner], densities[inner])
    assert (densities_of(official_volume(densities))[0] == EMPTY).all()


# -------------------------------------------------------------------- surface
def test_a_bump_at_positive_x_has_small_voxels_on_the_last_axis(head):
    """And the nose, at +z, large ones on the first; y stays the second."""
    vertices = official_surface(official_volume(density_grid(head, 64)), level=0.0).vertices
    ear, nose = voxels_from_world(np.array([EAR, NOSE]), 64, 1.0)
    # The emptied border cuts both at 7 of 63 voxels; what is left of them is thinner than the ball.
    at_ear, at_nose = (vertices[np.linalg.norm(vertices - p, axis=1) < 0.08 * 63 + 1] for p in (ear, nose))
    assert vertices[:, 2].min() == pytest.approx(6.5, abs=0.6) == at_ear[:, 2].min()
    assert vertices[:, 0].max() == pytest.approx(56.5, abs=0.6) == at_nose[:, 0].max()
    assert vertices[:, 2].max() == pytest.approx(63 - (0.02 - 0.3 + 0.5) * 63, abs=0.1)


def test_voxels_and_world_are_inverse_to_each_other():
    points = np.random.default_rng(0).uniform(-0.8, 0.8, (50, 3))
    back = world_from_voxels(voxels_from_world(points, 128, side=1.6), 128, side=1.6)
    assert np.allclose(back, points, atol=1e-12)
    assert np.allclose(voxels_from_world(np.array([[0.8, -0.8, 0.4]]), 9, side=1.6), [[6, 0, 0]])


def test_world_mesh_is_the_one_that_is_cut_in_world_space(head):
    cut = (0.5 - 7 / 63,) * 3
    expected = extract_mesh(head, 64, level=0.0, extents=cut, coloured=False)
    found = world_mesh(official_surface(official_volume(density_grid(head, 64)), level=0.0), 64, side=1.0)
    within = np.abs(found.vertices).max(axis=1) < 0.37
    nearest = cKDTree(expected.vertices).query(found.vertices[within])[0]
    assert within.sum() > 2000 and nearest.max() < 1e-5
    assert np.allclose(found.bounds, expected.bounds, atol=0.6 / 63)
    assert found.bounds[1, 0] > 0.38 and found.bounds[0, 0] > -0.29  # the ear is at +x


def test_triangles_look_inward_there_and_outward_here(head):
    official = official_surface(official_volume(density_grid(head, 32)), level=0.0)
    assert official.is_watertight
    assert official.volume < 0 < world_mesh(official, 32, side=1.0).volume


def test_level_that_no_voxel_reaches_is_an_error(head):
    with pytest.raises(ValueError, match="no surface at density 1e\\+05"):
        official_surface(official_volume(density_grid(head, 16)), level=1e5)
    with pytest.raises(ValueError, match="no surface at density -900"):  # the emptied border is no surface
        official_surface(official_volume(density_grid(head, 16).clip(-1, None)), level=-900)


def test_world_mesh_of_other_voxels_is_an_error(head):
    official = official_surface(official_volume(density_grid(head, 32)), level=0.0)
    with pytest.raises(ValueError, match="not in the voxels of a volume of 16 a side"):
        world_mesh(official, 16)
    with pytest.raises(ValueError, match="or is it in world units"):
        world_mesh(world_mesh(official, 32), 32)


# -------------------------------------------------------------------- files
def test_files_of_a_head_hold_volume_and_surface(head, tmp_path):
    mrc, ply = save_voxels(head, tmp_path / "new" / "head.mrc", resolution=24, level=0.0)
    assert (mrc.name, ply.name) == ("head.mrc", "head.ply")
    volume = official_volume(density_grid(head, 24))
    assert np.array_equal(load_mrc(mrc), volume)
    surface = trimesh.load(ply, process=False)
    assert np.allclose(surface.vertices, official_surface(volume, 0.0).vertices, atol=1e-5)
    assert sorted(path.name for path in mrc.parent.iterdir()) == ["head.mrc", "head.ply"]


def test_level_is_that_of_the_scripts_unless_it_is_measured(head, tmp_path):
    """10 of a density that grows by 2000 a unit is 0.005 within the ball; the measured level lies deeper."""
    scripts, measured = (
        trimesh.load(save_voxels(head, tmp_path / "a.mrc", 48, **level)[1]).extents[1] / 47
        for level in ({}, {"level": None})
    )
    assert scripts == pytest.approx(0.6 - 2 * 0.005, abs=0.002)
    assert measured < scripts - 0.01


def test_header_follows_the_standard(tmp_path):
    """Read by the words of MRC2014, counted from 1, with nothing from here."""
    volume = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    content = save_mrc(volume, tmp_path / "a.mrc").read_bytes()

    def words(kind, first, last):
        return struct.unpack(f"<{last - first + 1}{kind}", content[4 * (first - 1) : 4 * last])

    assert len(content) == 1024 + 4 * 24
    assert words("i", 1, 4) == (4, 3, 2, 2)  # columns, rows, sections, mode
    assert words("i", 5, 10) == (0, 0, 0, 4, 3, 2)
    assert words("f", 11, 16) == (4, 3, 2, 90, 90, 90)
    assert words("i", 17, 19) == (1, 2, 3)
    assert words("f", 20, 22) == pytest.approx((volume.min(), volume.max(), volume.mean()), rel=1e-5)
    assert words("i", 23, 24) == (1, 0)
    assert words("i", 28, 28) == (20140,)
    assert content[208:216] == b"MAP DD\0\0"
    assert words("f", 55, 55) == pytest.approx((volume.std(),), rel=1e-5)
    assert struct.unpack("<f", content[1024 + 4 * 7 : 1024 + 4 * 8])[0] == volume[0, 1, 3]


def changed(content: bytes, word: int, value: int) -> bytes:
    return content[: 4 * word - 4] + struct.pack("<i", value) + content[4 * word :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], "cut short"),
        (lambda content: content[:-3], "cut short"),
        (lambda content: b"", "no MRC file"),
        (lambda content: content.replace(b"MAP ", b"PAM "), "no MRC file"),
        (lambda content: content.replace(b"MAP DD", b"MAP \x11\x11"), "little-endian"),
        (lambda content: changed(content, 4, 1), "mode 1"),
        (lambda content: changed(content, 1, -4), "cut short"),
        (lambda content: changed(content, 24, -96), "cut short"),
        (lambda content: changed(changed(content, 1, 2**31 - 1), 2, 2**31 - 1), "cut short"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    path = save_mrc(np.zeros((2, 3, 4), np.float32), tmp_path / "a.mrc")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_mrc(path)


def test_an_extended_header_is_skipped(tmp_path):
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = save_mrc(volume, tmp_path / "a.mrc")
    content = changed(path.read_bytes(), 24, 80)
    path.write_bytes(content[:1024] + bytes(80) + content[1024:])
    assert np.array_equal(load_mrc(path), volume)


@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 4)])
def test_what_is_no_volume_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="three axes, none of them empty"):
        save_mrc(np.zeros(shape, np.float32), tmp_path / "a.mrc")
    assert list(tmp_path.iterdir()) == []


def test_volumes_of_half_precision_are_floats_on_disk(tmp_path):
    class Half(AnalyticHead):
        def density(self, points):
            return super().density(points).to(torch.bfloat16)

    assert load_mrc(save_voxels(Half(), tmp_path / "a.mrc", 16, level=0.0)[0]).dtype == np.float32
