"""Where the face is in a photo: as given, as found in it, or as its camera says."""

import numpy as np
import pytest
import torch
from skimage import data

from lib.cameras import orbit
from lib.contextual import canonical_landmarks
from lib.faces import Portrait, portrait_from_photo
from lib.inversion.anatomy import LEAST_FACE, face_mask, landmarks_uv

SIDE = 64
CAMERA = orbit(0.2, 0.05)
NOSE_TIP = 4


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return portrait_from_photo(data.astronaut(), SIDE, parse=False)


@pytest.fixture(scope="module")
def no_face() -> torch.Tensor:
    """A picture [1, 3, R, R] of a smooth hill of grey."""
    across = torch.linspace(-0.6, 0.4, SIDE)
    return (across[:, None] * across).expand(1, 3, SIDE, SIDE).contiguous()


# -------------------------------------------------------------------- landmarks
@pytest.mark.parametrize(("count", "numbers"), [(468, 2), (478, 3)])
def test_given_landmarks_are_taken_as_they_are(no_face, count, numbers):
    given = torch.rand(count, numbers, generator=torch.Generator().manual_seed(0))
    assert torch.equal(landmarks_uv(no_face, CAMERA, given), given[None, :, :2])
    assert torch.equal(landmarks_uv(no_face, CAMERA, given.double()), given[None, :, :2])


@pytest.mark.parametrize("shape", [(68, 2), (478, 4), (1, 478, 2), (478,)])
def test_other_shapes_of_landmarks_are_refused(no_face, shape):
    with pytest.raises(
        ValueError, match=r"expected landmarks \[468 or 478, 2 or 3\].*got \(" + str(shape[0])
    ):
        landmarks_uv(no_face, CAMERA, torch.zeros(shape))


def test_landmarks_are_found_in_a_photo(portrait):
    """They are those that were found before it was cropped, although the camera that is given is wrong."""
    found = landmarks_uv(portrait.image, CAMERA)
    assert found.shape == (1, 478, 2)
    off = (found[0] - torch.as_tensor(np.asarray(portrait.landmarks))[:, :2]).norm(dim=1)
    assert off.mean() < 0.02
    assert off.mean() < 0.5 * (found[0, :468] - canonical_landmarks(CAMERA)[0]).norm(dim=1).mean()


def test_where_no_face_is_seen_landmarks_are_the_cameras(no_face):
    assert torch.equal(landmarks_uv(no_face, CAMERA), canonical_landmarks(CAMERA))


# -------------------------------------------------------------------- the mask
def test_a_given_mask_is_taken_as_it_is(no_face):
    given = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5
    mask = face_mask(no_face, CAMERA, {"face": given, "hair": ~given})
    assert mask.dtype == no_face.dtype and torch.equal(mask, given.float())


def test_a_mask_of_another_size_is_refused(no_face):
    with pytest.raises(ValueError, match=r"masks\['face'\] \(1, 1, 64, 64\); got \(1, 1, 32, 32\)"):
        face_mask(no_face, CAMERA, {"face": torch.ones(1, 1, 32, 32)})


@pytest.mark.parametrize("masks", [None, {"hair": torch.ones(1, 1, SIDE, SIDE)}])
def test_the_face_is_found_in_a_photo(portrait, masks):
    mask = face_mask(portrait.image, CAMERA, masks)
    points = torch.as_tensor(np.asarray(portrait.landmarks))[:468, :2]
    column, row = (points.T * SIDE).long()
    assert mask.shape == (1, 1, SIDE, SIDE) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask[0, 0, row, column].mean() > 0.85
    assert mask[0, 0, row[NOSE_TIP], column[NOSE_TIP]] == 1
    assert mask[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].sum() == 0
    assert LEAST_FACE < mask.mean() < 0.5


def test_where_no_face_is_seen_it_is_the_box_about_the_landmarks(no_face):
    given = torch.tensor([0.3, 0.4]) + torch.rand(
        468, 2, generator=torch.Generator().manual_seed(0)
    ) * torch.tensor([0.25, 0.5])
    expected = torch.zeros(SIDE, SIDE)
    for row in range(SIDE):
        for column in range(SIDE):
            u, v = (column + 0.5) / SIDE, (row + 0.5) / SIDE
            inside_u = given[:, 0].min() < u < given[:, 0].max()
            expected[row, column] = inside_u and given[:, 1].min() < v < given[:, 1].max()
    assert torch.equal(face_mask(no_face, CAMERA, None, given), expected[None, None])
    assert 0.09 < expected.mean() < 0.16
    from_camera = face_mask(no_face, CAMERA)
    assert from_camera[0, 0, SIDE // 2, SIDE // 2] == 1 and from_camera[0, 0, 0].sum() == 0
