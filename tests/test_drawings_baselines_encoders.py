"""Drawings about encoders: levels and their layers, blurs, what TriPlaneNet sees and adds, steps that a start saves."""

import numpy as np
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.drawings.baselines_encoders import (
    layers_of_levels,
    moved_by_blur,
    offsets_shown,
    plane_heat,
    residuals,
    starts_compared,
    steps_saved,
    steps_to,
    without_mirror,
)
from lib.encoders.triplanenet import offset_planes
from lib.figures import method_colour, to_picture
from tests.tiny_encoders import PSP, TRIPLANENET, deep_generator, network


@pytest.fixture(scope="module")
def generator():
    return deep_generator()


@pytest.fixture(scope="module")
def triplanenet():
    return network("triplanenet", TRIPLANENET).requires_grad_(False)


@pytest.fixture(scope="module")
def head(generator):
    """A code, its planes, a camera, and another head's picture from there as the photo."""
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(3))
    w_plus, other = generator.map(z, generator.frontal_camera()).split(1)
    camera = orbit(0.4, 0.1)
    return w_plus, generator.planes(w_plus), camera, generator.synthesize(other, camera).image


# ---- the pyramid ------------------------------------------------------------------------------------------
def test_levels_share_out_all_layers_in_order():
    found = layers_of_levels((3, 4, 7))
    assert [list(range(14))[layers] for layers in found.values()] == [
        [0, 1, 2],
        [3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12, 13],
    ]
    assert list(found) == ["coarse", "mid", "fine"]


def test_a_blur_moves_codes_by_what_the_network_says_of_the_blurred_photo():
    encoder = network("psp", PSP).requires_grad_(False)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = moved_by_blur(encoder, images, (0.0, 1.0))
    assert all(widths == [0.0, 1.0] and shares[0] == 0 for widths, shares in found.values())

    reach = torch.arange(-4, 5)
    kernel = torch.exp(-reach.square() / 2.0)  # the blur by hand, in one dimension after the other
    kernel = (kernel / kernel.sum()).expand(3, 1, 9)
    blurred = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    blurred = torch.nn.functional.conv2d(blurred, kernel[:, :, None], groups=3)
    blurred = torch.nn.functional.conv2d(blurred, kernel[..., None], groups=3)
    change = encoder(blurred) - encoder(images)
    for name, layers in layers_of_levels(PSP.levels).items():
        expected = change[:, layers].norm() / encoder(images)[:, layers].norm()
        assert found[name][1][1] == pytest.approx(expected.item(), rel=1e-3)


# ---- offsets to planes ------------------------------------------------------------------------------------
def test_residuals_are_what_the_network_of_offset_planes_sees(generator, triplanenet, head):
    w_plus, planes, camera, photo = head
    picture, missed, mirrored = residuals(generator, planes, w_plus, camera, photo)
    assert torch.allclose(picture + missed, photo, atol=1e-6)
    assert torch.allclose(
        photo.flip(-1) - mirrored, generator.synthesize(w_plus, camera.mirror()).image, atol=1e-5
    )
    perfect = residuals(generator, planes, w_plus, camera, picture)
    assert perfect[1].abs().max() == 0 and perfect[2].abs().max() > 0, "no head is symmetric"

    refined = offset_planes(generator, triplanenet, photo, w_plus, camera)
    same = without_mirror(triplanenet, (picture, missed, torch.zeros_like(mirrored)), planes)
    assert torch.equal(same, without_mirror(triplanenet, (picture, missed, mirrored), planes))
    assert not torch.allclose(same, refined - planes, atol=1e-3), "the mirrored view says something"


def test_heat_is_brightest_at_the_limit_and_black_at_nothing():
    planes = torch.zeros(1, 3, 4, 2, 2)
    planes[0, 1, :, 0, 1] = 2.0
    dark, middle, _ = plane_heat(planes, 2.0)
    assert (dark == dark[0, 0]).all() and dark.sum() < 100
    assert middle[0, 1].sum() > middle[0, 0].sum() and (middle[1] == dark[1]).all()
    assert np.array_equal(plane_heat(planes, 1.0)[1], middle), "what is beyond the limit is as bright"


def test_every_view_has_code_offsets_and_truth(generator, triplanenet, head):
    w_plus, planes, camera, photo = head
    refined = offset_planes(generator, triplanenet, photo, w_plus, camera)
    seen = residuals(generator, planes, w_plus, camera, photo)
    side = (photo.flip(-1), orbit(-0.4, 0.0))
    picture = offsets_shown(generator, seen, planes, refined, [(photo, camera), side], w_plus)
    assert_nothing_is_cropped(picture)
    images = [np.asarray(axes.images[0].get_array()) for axes in picture.axes]
    assert len(images) == 12
    assert np.array_equal(images[0], to_picture(seen[0])) and np.array_equal(images[2], to_picture(seen[2]))
    assert np.array_equal(images[8], to_picture(photo)) and np.array_equal(images[11], to_picture(side[0]))
    expected = to_picture(generator.render(refined, w_plus, side[1]).image).astype(int)
    assert np.abs(images[10] - expected).max() <= 1
    assert np.abs(images[9].astype(int) - expected).max() > 1, "the code's head is another one"


# ---- starts -----------------------------------------------------------------------------------------------
def test_steps_are_counted_to_the_first_value_at_the_level():
    assert steps_to([0.5, 0.3, 0.4, 0.2], 0.3) == 2
    assert steps_to([0.5, 0.3, 0.4, 0.2], 0.25) == 4
    assert steps_to([0.5, 0.3], 0.1) is None


def test_a_start_saves_the_difference_at_its_own_best():
    mean, code = [0.9, 0.6, 0.4, 0.3, 0.2], [0.5, 0.3, 0.35]
    assert steps_saved(mean, code) == {"level": 0.3, "from_mean": 4, "from_code": 2, "saved": 2}
    assert steps_saved(mean, code, before=10)["saved"] == 12
    assert steps_saved(code, mean) == {"level": 0.2, "from_mean": None, "from_code": 5, "saved": None}


def test_curves_begin_where_their_steps_do_and_means_are_over_inputs():
    panels = {"PTI": {"pti": [[0.4, 0.2], [0.6, 0.4, 0.1]], "pti-from_goae": [[0.3, 0.1]]}}
    picture = starts_compared(panels, "LPIPS", {"pti": 5})
    assert_nothing_is_cropped(picture)
    (axes,) = picture.axes
    assert axes.get_title() == "PTI, n 1 and 2"
    means = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(means) == ["PTI", "PTI from GOAE's code"]
    assert means["PTI"].get_color() == method_colour("pti")
    assert means["PTI"].get_xdata().tolist() == [5, 6]
    assert means["PTI"].get_ydata() == pytest.approx([0.5, 0.3])
    assert means["PTI from GOAE's code"].get_xdata().tolist() == [0, 1]
