"""Each warning comes on its case and not on plain portraits; methods survive every altered one."""

import warnings

import numpy as np
import pytest
import torch
from skimage import data

from lib.cameras import Camera, orbit, pixel_centres
from lib.contextual import canonical_landmarks
from lib.datasets.altered import alterations, as_drawing, in_grey, with_hand
from lib.datasets.samples import sampled_code
from lib.faces import WORLD_PER_CM, canonical_mesh, portrait_from_photo
from lib.generators import load_generator
from lib.images import resize
from lib.inversion import invert_pti, invert_w, invert_wplus
from lib.inversion.assumptions import (
    LEAST_FACING,
    AssumptionWarning,
    check_assumptions,
    colour_spread,
    face_share,
    face_surface,
    flat_share,
    mirror_difference,
    part_share,
    warn_of_assumptions,
)
from lib.parsing import landmark_masks
from tests.tiny_generator import RandomFeatures, tiny_generator

SAMPLES = [(0.0, 1), (0.0, 2), (0.6, 3), (0.6, 4), (-0.6, 5)]
"""Yaws and seeds of samples of portraits64."""


@pytest.fixture(scope="module")
def portrait():
    return portrait_from_photo(data.astronaut(), 64, parse=False)


@pytest.fixture(scope="module")
def samples():
    """Pictures of portraits64 with their cameras."""
    generator = load_generator("portraits64")
    shown = []
    for yaw, seed in SAMPLES:
        camera = generator.camera(torch.tensor([yaw]), torch.tensor([0.0]))
        with torch.no_grad():
            image = generator.synthesize(sampled_code(seed, generator, 0.8), camera).image
        shown.append((image.clamp(-1, 1), camera))
    return shown


def columns(side=64):
    """A picture [1, 3, R, R] whose colours in [0, 1] are u."""
    u = pixel_centres(side, like=torch.zeros(1))[:, 0].reshape(1, 1, side, side)
    return (2 * u - 1).expand(1, 3, side, side).contiguous()


def uv_from(camera):
    return canonical_landmarks(camera)[0]


def only(doubts, words):
    """Whether there is one doubt, and it has these words."""
    return len(doubts) == 1 and words in doubts[0]


# -------------------------------------------------------------------- measures against closed forms
def test_grey_has_no_spread_beside_light_and_dark():
    along, beside = colour_spread(columns())
    assert beside == pytest.approx(0, abs=1e-6)
    # All three channels are uniform on [0, 1], whose variance is 1/12, but for the width of a pixel.
    assert along == pytest.approx((3 / 12 * (1 - 1 / 64**2)) ** 0.5, rel=1e-5)


def test_spread_of_colours_on_a_rectangle():
    """Red and blue independent, each of two values: variances a^2 / 4 and b^2 / 4."""
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0, :4], image[:, 2, :, :4] = 0.8, 0.2  # in [0, 1] half of that
    assert colour_spread(image) == pytest.approx((0.2, 0.05), rel=1e-5)


def test_flat_share_counts_equal_neighbours_in_the_face():
    uv = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
    flat, noise = (
        torch.zeros(1, 3, 64, 64),
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    assert flat_share(flat, uv) == 1
    assert flat_share(noise, uv) < 0.01
    stripes = (torch.arange(64) // 2 % 2).float().expand(1, 3, 64, 64)  # each two columns wide
    assert flat_share(stripes, uv) == pytest.approx((1 + 16 / 31) / 2, abs=0.01)
    assert flat_share(torch.where(columns() > 0, noise, flat), uv - 0.25) == 1
    assert flat_share(flat, uv + 2) == 0, "a face outside the picture is no drawing"
    assert flat_share(flat - 0.9, uv) == 0, "nor is a dark one"


def test_flat_share_does_not_depend_on_the_size_of_a_cartoon(portrait):
    uv = portrait.landmarks[:, :2]
    large = torch.nn.functional.interpolate(as_drawing(portrait.image), scale_factor=4, mode="nearest")
    assert flat_share(large, uv) == flat_share(as_drawing(portrait.image), uv)


def test_surface_is_that_of_the_face():
    vertices, triangles = canonical_mesh()
    surface = face_surface()
    corners = vertices[triangles] * WORLD_PER_CM
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1).sum() / 2
    assert 0.95 * area < surface.areas.sum().item() <= area
    front = orbit(0.0, 0.0)
    assert surface.facing(front)[4] > 0.9, "the tip of the nose looks at a camera in front of it"
    assert surface.facing(orbit(0.6, 0.0))[454] > 0 > surface.facing(orbit(0.6, 0.0))[234]
    assert torch.equal(surface.mirrored[surface.mirrored], torch.arange(468))
    assert torch.allclose(
        surface.vertices[surface.mirrored] * torch.tensor([-1.0, 1.0, 1.0]), surface.vertices, atol=1e-6
    )


def slow_mirror_difference(camera):
    """That of `columns`, where a point's colour is its u."""
    vertices, triangles = canonical_mesh()
    vertices = vertices * WORLD_PER_CM
    normals = np.zeros_like(vertices)
    for triangle in triangles:
        a, b, c = vertices[triangle]
        normals[triangle] += np.cross(b - a, c - a) / 6
    eye, uv = camera.position[0].numpy(), uv_from(camera).numpy()
    total = square = 0.0
    for i, vertex in enumerate(vertices):
        partner = int(np.abs(vertices - vertex * [-1, 1, 1]).sum(axis=1).argmin())
        cosines = [
            normals[k] @ (eye - vertices[k]) / np.linalg.norm(normals[k]) / np.linalg.norm(eye - vertices[k])
            for k in (i, partner)
        ]
        if min(cosines) > LEAST_FACING:
            area = np.linalg.norm(normals[i])
            total, square = total + area, square + area * (uv[i, 0] - uv[partner, 0]) ** 2
    return (square / total) ** 0.5, total


@pytest.mark.parametrize("yaw", [0.0, 0.5])
def test_mirror_difference_of_a_ramp_is_the_distance_of_partners(yaw):
    camera = orbit(yaw, 0.1)
    difference, seen = mirror_difference(columns(), camera, uv_from(camera))
    expected, area = slow_mirror_difference(camera)
    assert difference == pytest.approx(expected, rel=1e-4)
    assert seen == pytest.approx(area / face_surface().areas.sum().item(), rel=1e-4)


def test_symmetric_picture_has_no_mirror_difference():
    camera = orbit(0.0, 0.0)
    assert mirror_difference(columns().abs(), camera, uv_from(camera))[0] == pytest.approx(0, abs=1e-6)


def test_what_one_side_alone_shows_is_not_compared():
    """From yaw 0.6 the left ear has no partner: whatever is painted there, the difference stays."""
    camera = orbit(0.6, 0.0)
    uv = uv_from(camera)
    painted = columns().clone()
    painted[..., int(64 * uv[454, 0]) - 2 :] = 1.0
    assert mirror_difference(painted, camera, uv) == mirror_difference(columns(), camera, uv)
    painted[..., : int(64 * uv[4, 0])] = 1.0  # but not up to the nose
    assert mirror_difference(painted, camera, uv) != mirror_difference(columns(), camera, uv)


def test_share_of_the_face_in_a_mask():
    camera = orbit(0.0, 0.0)
    uv = uv_from(camera)
    assert face_share(camera, uv, torch.ones(1, 1, 64, 64)) == pytest.approx(1)
    assert face_share(camera, uv, torch.zeros(1, 1, 64, 64)) == 0
    assert face_share(camera, uv, (columns()[:, :1] > 0).float()) == pytest.approx(0.5, abs=0.01)
    outside = face_share(camera, uv + torch.tensor([0.5, 0.0]), torch.ones(1, 1, 64, 64))
    assert outside == pytest.approx(0.5, abs=0.05), "what lies beside the picture is not seen"


@pytest.mark.parametrize("part", ["nose", "mouth"])
def test_share_of_a_part_in_its_mask(part):
    uv = uv_from(orbit(0.2, 0.0))
    own = landmark_masks(uv.numpy(), 64)[part].float()
    assert part_share(part, uv, own) == 1
    assert part_share(part, uv, 1 - own) == 0
    rows = own.sum(dim=3).flatten().cumsum(0) / own.sum()
    upper = own * (rows < 0.5)[:, None]
    assert part_share(part, uv, upper) == pytest.approx(rows[rows < 0.5].max().item())


# -------------------------------------------------------------------- no false alarm
def test_plain_samples_raise_no_doubt(samples):
    for image, camera in samples:
        masks = landmark_masks(uv_from(camera).numpy(), 64)
        assert check_assumptions(image, camera, symmetric=True, masks=masks, face_found=True) == []


@pytest.mark.parametrize("brightness", [1.0, 0.5])
def test_plain_photo_raises_no_doubt(portrait, brightness):
    image = brightness * (portrait.image + 1) - 1
    settings = {"landmarks": portrait.landmarks, "masks": portrait.masks, "face_found": True}
    assert check_assumptions(image, portrait.camera, symmetric=True, **settings) == []


# -------------------------------------------------------------------- each alarm on its case
def cases(image, camera, uv):
    """Picture, camera, settings of `check_assumptions`, and words of the one doubt that they raise."""
    plain = {"symmetric": True, "landmarks": uv}
    shade = 0.1 + 0.9 * (columns(image.shape[-1]) > 2 * uv[4, 0] - 1)
    hand = (with_hand(image, uv) - image).abs().amax(dim=1, keepdim=True) > 0.01
    open_masks = landmark_masks(uv.numpy(), image.shape[-1]) | {"face": torch.ones_like(hand)}
    behind_hand = {part: mask & ~hand for part, mask in open_masks.items()}
    return {
        "grey": (in_grey(image), camera, plain, "grey or tinted"),
        "drawing": (as_drawing(image), camera, plain, "drawing"),
        "one colour": (image / 20, camera, plain, "single colour"),
        "sidelong light": ((image + 1) * shade - 1, camera, plain, "mirror image"),
        "no face": (image, camera, plain | {"face_found": False}, "detector found none"),
        "shifted": (image, camera, plain | {"landmarks": uv + 0.1}, "very crop"),
        "another yaw": (image, orbit(camera.yaw + 0.45, 0.0), plain | {"known_yaw": 2.0}, "very crop"),
        "hand": (image, camera, plain | {"masks": behind_hand}, "the mouth"),
        "covered": (image, camera, plain | {"masks": {"face": ~open_masks["face"]}}, "100% of the face"),
    }


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_each_doubt_comes_on_its_case_alone(samples, index):
    image, camera = samples[index]
    for name, (picture, seen_from, settings, words) in cases(image, camera, uv_from(camera)).items():
        doubts = check_assumptions(picture, seen_from, **settings)
        assert only(doubts, words), f"{name}: {doubts}"


def test_each_doubt_comes_on_a_photo(portrait):
    image, camera, uv = portrait.image, portrait.camera, portrait.landmarks[:, :2]
    for name, (picture, seen_from, settings, words) in cases(image, camera, uv).items():
        doubts = check_assumptions(picture, seen_from, **settings)
        assert only(doubts, words), f"{name}: {doubts}"


@pytest.mark.parametrize(("yaw", "pitch"), [(0.9, 0.0), (-0.9, 0.0), (0.0, 0.5), (0.0, -0.5)])
def test_extreme_pose_is_told(samples, yaw, pitch):
    camera = orbit(yaw, pitch)
    assert only(check_assumptions(samples[0][0], camera), f"found yaw {yaw:+.2f}, pitch {pitch:+.2f}")
    assert check_assumptions(samples[0][0], camera, known_yaw=1.0, known_pitch=0.6) == []


def test_glasses_and_hats_are_no_reason(portrait):
    altered = alterations(portrait.image, portrait.landmarks)
    for name in ("glasses", "hat"):
        assert (
            check_assumptions(
                altered[name], portrait.camera, symmetric=True, landmarks=portrait.landmarks, face_found=True
            )
            == []
        )


def test_light_matters_only_where_the_method_mirrors(samples):
    image, camera = samples[0]
    picture, _, settings, _ = cases(image, camera, uv_from(camera))["sidelong light"]
    assert check_assumptions(picture, camera, **(settings | {"symmetric": False})) == []


def test_heads_that_stand_elsewhere_are_looked_for_there(samples):
    image, camera = samples[0]
    elsewhere = torch.from_numpy(canonical_mesh()[0] * WORLD_PER_CM) + torch.tensor([0.0, 0.08, 0.0])
    landmarks = canonical_landmarks(camera, elsewhere.float())[0]
    assert only(check_assumptions(image, camera, landmarks=landmarks), "very crop")
    assert check_assumptions(image, camera, landmarks=landmarks, vertices_world=elsewhere.float()) == []


def test_warnings_say_the_same_and_point_to_the_caller(samples):
    image, camera = samples[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (lambda: warn_of_assumptions(in_grey(image), camera, face_found=False))()
    assert [w.category for w in caught] == [AssumptionWarning] * 2
    assert [str(w.message) for w in caught] == check_assumptions(in_grey(image), camera, face_found=False)
    assert {w.filename for w in caught} == {__file__}


def test_bad_input_is_refused(samples):
    image, camera = samples[0]
    with pytest.raises(ValueError, match="one by one"):
        check_assumptions(image.expand(2, -1, -1, -1), camera)
    with pytest.raises(ValueError, match="got 2"):
        check_assumptions(image, Camera.cat([camera, camera]))
    with pytest.raises(ValueError, match="face_found=False"):
        check_assumptions(image, camera, landmarks=torch.full((478, 3), torch.nan))
    with pytest.raises(ValueError, match=r"masks\['face'\] \[1, 1, R, R\]; got \[64, 64\]"):
        check_assumptions(image, camera, masks={"face": torch.ones(64, 64)})
    with pytest.raises(ValueError, match=r"got \[68, 2\]"):
        check_assumptions(image, camera, landmarks=torch.zeros(68, 2))


# -------------------------------------------------------------------- nothing falls over
ALTERED = ("glasses", "hat", "hand", "grey", "drawing")


@pytest.fixture(scope="module")
def tiny():
    return tiny_generator()


@pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")
@pytest.mark.parametrize("method", [invert_w, invert_wplus, invert_pti])
@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("yaw", [0.0, 1.2])
def test_methods_survive_altered_portraits(tiny, portrait, method, name, yaw):
    picture = resize(alterations(portrait.image, portrait.landmarks)[name], tiny.resolution).clamp(-1, 1)
    steps = {"steps": 2} | ({"pivot_steps": 2} if method is invert_pti else {})
    found = method(tiny, picture, orbit(yaw, 0.0), perceptual=RandomFeatures(), progress=False, **steps)
    assert found.render().image.isfinite().all()
