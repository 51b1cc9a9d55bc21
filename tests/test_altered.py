"""Painted inputs: each alteration changes what it should, where it should, and nothing else."""

import pytest
import torch
from skimage import data

from lib.cameras import orbit
from lib.contextual import canonical_landmarks
from lib.datasets.altered import (
    FaceFrame,
    alterations,
    as_drawing,
    cheek_colour,
    in_grey,
    painted_over,
    with_glasses,
    with_hand,
    with_hat,
)
from lib.datasets.marks import luminance
from lib.faces import canonical_mesh, portrait_from_photo
from lib.images import to_uint8

NOSE_TIP, CHIN, FOREHEAD, LEFT_EYE, RIGHT_EYE, MOUTH = 4, 152, 10, 386, 159, 13
PAINTED = [with_glasses, with_hat, with_hand]
SIZE = 64


@pytest.fixture(scope="module")
def portrait():
    return portrait_from_photo(data.astronaut(), SIZE, parse=False)


@pytest.fixture(scope="module")
def plain(portrait):
    return portrait.image


@pytest.fixture(scope="module")
def landmarks(portrait):
    return portrait.landmarks


def changed(image, other):
    """Which pixels [R, R] differ."""
    return ((image - other).abs().amax(dim=1) > 1e-3)[0]


def at(mask, uv):
    u, v = (uv[:2] * len(mask)).long().tolist()
    return bool(mask[v, u])


def rows_and_columns(mask):
    """(first row, last row, first column, last column) in units of the side."""
    rows, columns = mask.nonzero().T / len(mask)
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def mirrored_landmarks(landmarks):
    """Those of the mirrored picture: each point becomes its partner at the other side."""
    vertices = torch.from_numpy(canonical_mesh()[0])
    partners = torch.cdist(vertices * torch.tensor([-1.0, 1.0, 1.0]), vertices).argmin(dim=1)
    uv = landmarks[: len(vertices), :2][partners]
    return torch.stack([1 - uv[:, 0], uv[:, 1]], dim=1)


def landmarks_from(yaw, pitch=0.0):
    return canonical_landmarks(orbit(yaw, pitch))[0]


# -------------------------------------------------------------------- the face in the picture
def test_frame_finds_the_affine_view_that_made_the_landmarks():
    vertices = torch.from_numpy(canonical_mesh()[0])
    matrix = torch.tensor([[0.08, 0.01, 0.02, 0.1], [-0.01, 0.07, 0.015, -0.05]], dtype=torch.float64)
    canvas = vertices @ matrix[:, :3].T + matrix[:, 3]
    uv = torch.stack([(1 + canvas[:, 0]) / 2, (1 - canvas[:, 1]) / 2], dim=1)
    assert torch.allclose(torch.from_numpy(FaceFrame.of(uv).matrix), matrix, atol=1e-9)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.6, 0.0), (-0.4, 0.3)])
def test_frame_knows_who_looks_at_it(yaw, pitch):
    frame, camera = FaceFrame.of(landmarks_from(yaw, pitch)), orbit(yaw, pitch)
    assert torch.from_numpy(frame.toward_viewer).float() @ -camera.rotation[0, :, 2] > 0.995


def test_frame_knows_a_centimetre():
    frame = FaceFrame.of(landmarks_from(0.3))
    across = frame(100 * torch.eye(3).numpy()[1:2])[0] - frame(0 * torch.eye(3).numpy()[1:2])[0]
    assert abs(across[1]) / 100 == pytest.approx(frame.centimetre, rel=0.02)


def test_paint_is_mixed_by_its_opacity():
    image, whole = torch.full((1, 3, 32, 32), -0.5), torch.ones(256, 256)
    half = whole.clone()
    half[:, :128] = 0
    edge = 15  # smoothed by a pixel
    assert torch.equal(painted_over(image, ((1.0, 0.5, 0.0), half))[..., :edge], image[..., :edge])
    solid = painted_over(image, ((1.0, 0.5, 0.0), whole))[0, :, 5, 5]
    assert torch.allclose(solid, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6)
    mixed = painted_over(image, ((1.0, 0.5, 0.0), whole), opacity=0.25)[0, :, 5, 5]
    assert torch.allclose(mixed, 0.75 * torch.tensor(-0.5) + 0.25 * solid, atol=1e-6)


# -------------------------------------------------------------------- what is painted
@pytest.mark.parametrize("tint", [0.25, 0.9])
def test_glasses_lie_before_the_eyes_and_leave_mouth_and_forehead(plain, landmarks, tint):
    glasses = changed(with_glasses(plain, landmarks, tint=tint), plain)
    assert at(glasses, landmarks[LEFT_EYE]) and at(glasses, landmarks[RIGHT_EYE])
    top, bottom, left, right = rows_and_columns(glasses)
    assert landmarks[FOREHEAD, 1] < top and bottom < landmarks[NOSE_TIP, 1]
    assert left > 0 and right < 1


def test_lenses_are_tinted_glass(plain, landmarks):
    black, half, clear = (with_glasses(plain, landmarks, tint=tint) for tint in (1.0, 0.5, 0.0))
    lens = ((clear == plain) & (black != plain)).all(dim=1)[0]
    inside = (black[0, :, lens] - black[0, :, lens].median(dim=1, keepdim=True).values).abs().amax(
        dim=0
    ) < 1e-3
    assert inside.sum() > 20
    assert torch.allclose(half[0, :, lens], (black + clear)[0, :, lens] / 2, atol=1e-5)


@pytest.mark.parametrize("yaw", [-0.6, 0.6])
def test_the_far_arm_of_glasses_is_hidden(plain, yaw):
    """Seen from the person's left, which is at the right of the picture, glasses reach further to that side."""
    landmarks = landmarks_from(yaw)
    _, _, left, right = rows_and_columns(changed(with_glasses(plain, landmarks), plain))
    bridge = landmarks[168, 0].item()
    near, far = (right - bridge, bridge - left) if yaw > 0 else (bridge - left, right - bridge)
    assert near > 1.8 * far


def test_hat_covers_the_forehead_and_leaves_the_face(plain, landmarks):
    hat = changed(with_hat(plain, landmarks), plain)
    assert at(hat, landmarks[FOREHEAD])
    assert hat[0, SIZE // 2]
    inside = (landmarks[:, 0] * SIZE).long().clamp(0, SIZE - 1)
    below = landmarks[:, 1] > landmarks[LEFT_EYE, 1]
    rows = (landmarks[:, 1] * SIZE).long().clamp(0, SIZE - 1)
    assert not hat[rows[below], inside[below]].any()


@pytest.mark.parametrize("side", [-1, 1])
def test_hand_lies_before_mouth_and_cheek_of_its_side(plain, landmarks, side):
    hand = changed(with_hand(plain, landmarks, side=side), plain)
    cheeks = {-1: 50, 1: 280}
    assert at(hand, landmarks[cheeks[side]]) and not at(hand, landmarks[cheeks[-side]])
    assert not at(hand, landmarks[{-1: LEFT_EYE, 1: RIGHT_EYE}[side]])
    assert not at(hand, landmarks[FOREHEAD])
    assert hand[-1].any(), "the arm comes from below the picture"
    assert 0.1 < hand.float().mean() < 0.35


def test_hand_has_the_colour_of_the_cheeks(plain, landmarks):
    tinted = plain * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    skin = torch.tensor(cheek_colour(tinted, landmarks))
    fingers = with_hand(tinted, landmarks)[0].flatten(1) / 2 + 0.5
    assert ((fingers - skin[:, None]).abs().amax(dim=0) < 0.02).float().mean() > 0.03


@pytest.mark.parametrize("alteration", PAINTED)
@pytest.mark.parametrize("yaw", [0.0, 0.5])
def test_the_mirrored_portrait_gets_the_mirrored_paint(plain, alteration, yaw):
    landmarks = landmarks_from(yaw, 0.1)
    settings = [{"side": 1}, {"side": -1}] if alteration is with_hand else [{}, {}]
    painted = alteration(plain, landmarks, **settings[0])
    mirrored = alteration(plain.flip(-1), mirrored_landmarks(landmarks), **settings[1])
    # Stencils are drawn on whole pixels of a canvas: edges may lie one of them further.
    assert (painted.flip(-1) - mirrored).abs().mean() < 0.01
    assert (painted.flip(-1) - mirrored).abs().amax() < 0.3


@pytest.mark.parametrize("alteration", PAINTED)
def test_paint_follows_the_face(plain, landmarks, alteration):
    moved = landmarks.clone()
    moved[:, :2] = 0.5 + 0.7 * (landmarks[:, :2] - 0.5)
    near, far = (
        alteration(plain, where).sub(plain).abs().gt(1e-3).float().mean() for where in (landmarks, moved)
    )
    assert far < 0.8 * near


# -------------------------------------------------------------------- other kinds of pictures
def test_grey_keeps_the_luminance_and_is_grey_for_ever(plain):
    grey = in_grey(plain)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])
    assert torch.allclose(luminance((grey + 1) / 2), luminance((plain + 1) / 2), atol=1e-6)
    assert torch.allclose(in_grey(grey), grey, atol=1e-6)
    assert changed(grey, plain).float().mean() > 0.9


@pytest.mark.parametrize("colours", [4, 9])
def test_drawing_has_few_colours_and_lines_where_it_is_dark(plain, colours):
    drawing = as_drawing(plain, colours=colours)
    shown = {tuple(pixel) for pixel in to_uint8(drawing)[0].reshape(-1, 3).tolist()}
    assert colours / 2 < len(shown) <= 2 * colours, "flat colours, and each of them inked"
    inked = changed(drawing, as_drawing(plain, colours=colours, lines=2.0))
    assert 0.02 < inked.float().mean() < 0.3
    assert luminance(drawing)[0, 0][inked].mean() < luminance(drawing)[0, 0][~inked].mean() - 0.3


def test_drawing_still_shows_the_person(plain):
    drawing = as_drawing(plain)
    assert torch.corrcoef(torch.stack([in_grey(x)[0, 0].flatten() for x in (drawing, plain)]))[0, 1] > 0.8


# -------------------------------------------------------------------- all of them
@pytest.mark.parametrize("size", [32, 64])
def test_all_are_pictures_of_the_same_size_and_the_portrait_is_left_alone(size, landmarks):
    portrait = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = portrait.clone()
    made, again = alterations(portrait, landmarks), alterations(portrait, landmarks)
    assert torch.equal(portrait, before)
    for name, image in made.items():
        assert image.shape == portrait.shape and image.dtype == portrait.dtype
        assert image.abs().max() <= 1 + 1e-5
        assert changed(image, portrait).any()
        assert torch.equal(image, again[name])


def test_what_is_no_face_is_refused(plain, landmarks):
    with pytest.raises(ValueError, match=r"\[68, 2\]"):
        with_hat(plain, torch.zeros(68, 2))
    with pytest.raises(ValueError, match="no face was found"):
        with_glasses(plain, torch.full((478, 3), torch.nan))
    with pytest.raises(ValueError, match=r"side 1.*got 0"):
        with_hand(plain, landmarks, side=0)
