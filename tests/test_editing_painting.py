"""Paint lies where it is put, in the photo and in every true view that sees the place; the brush paints what it says."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from egg_scene import egg_scene, on_egg
from PIL import Image

from lib.cameras import orbit
from lib.contextual import canonical_landmarks
from lib.datasets.marks import luminance
from lib.datasets.scenes import yaw_name
from lib.datasets.stencils import TEXTURE, in_colours, polygon
from lib.editing import (
    STYLES,
    Brush,
    Stroke,
    brushed,
    difference,
    on_face,
    overlay,
    paint_from_file,
    paint_kept,
    painted_scene,
    stamped,
    stylised,
    together,
)
from lib.images import PhotoError, save_image, to_uint8
from lib.warping import pixels_in_view, sample_at, visible

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
FOREHEAD, LEFT_CHEEK = 151, 280


def plain(side: int = 64, seed: int = 0) -> torch.Tensor:
    return 1.6 * torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) - 0.8


def filled(colour=RED, opacity: float = 1.0, side: int = 8) -> torch.Tensor:
    values = torch.tensor([*(opacity * value for value in colour), opacity])
    return values[None, :, None, None].expand(1, 4, side, side)


def opacity_of(paint: torch.Tensor) -> torch.Tensor:
    return paint[0, 3]


def centre_of(weights: torch.Tensor) -> torch.Tensor:
    """Mean (u, v) under weights [R, R]."""
    rows, columns = (torch.arange(len(weights)) + 0.5).expand(2, -1) / len(weights)
    return torch.stack([(weights.sum(0) * columns).sum(), (weights.sum(1) * rows).sum()]) / weights.sum()


# -------------------------------------------------------------------- over a picture
@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_overlay_mixes_by_opacity(opacity):
    photo = plain()
    wanted = torch.lerp(photo, 2 * torch.tensor(RED)[:, None, None] - 1, opacity)
    assert torch.allclose(overlay(photo, filled(RED, opacity)), wanted, atol=1e-6)


def test_finer_paint_is_averaged():
    checks = filled(side=128).clone()
    checks[..., ::2] = 0  # every other column is free
    painted, half = overlay(plain(), checks), overlay(plain(), filled(RED, 0.5))
    assert torch.allclose(painted[..., 2:-2], half[..., 2:-2], atol=1e-6)


def test_paints_together_are_one_after_the_other():
    photo = plain()
    below, above = filled(BLUE, 0.7, 64), stamped(filled(RED, 0.6), (0.4, 0.5), 0.3)
    above = above[..., ::4, ::4]
    one_by_one = overlay(overlay(photo, below), above)
    assert torch.allclose(overlay(photo, together(below, above)), one_by_one, atol=1e-6)
    assert not torch.allclose(overlay(photo, together(above, below)), one_by_one, atol=0.1)


def test_difference_is_the_paint_of_an_edit():
    before = plain()
    after = before.clone()
    after[..., 10:20, 30:45] = 0.95
    paint = difference(before, after)
    assert torch.allclose(overlay(before, paint), after, atol=1e-6)
    assert opacity_of(paint).sum() == 10 * 15
    assert not difference(before, before + 0.01).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: overlay(plain()[0], filled()),
        lambda: overlay(plain(), filled()[:, :3]),
        lambda: difference(plain(), plain(32)),
        lambda: together(),
        lambda: stylised(plain()[0], "grey"),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|paint is|has the size"):
        call()


# -------------------------------------------------------------------- files
def test_file_with_transparency_is_paint(tmp_path):
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[5:10, 5:15] = (200, 40, 90, 128)
    Image.fromarray(rgba).save(tmp_path / "mark.png")
    paint = paint_from_file(tmp_path / "mark.png", plain())
    share = 128 / 255
    assert torch.allclose(
        paint[0, :, 7, 7], torch.tensor([200 * share, 40 * share, 90 * share, 128]) / 255, atol=1e-6
    )
    assert (opacity_of(paint) > 0).sum() == 50


def test_file_without_transparency_is_an_edited_copy(tmp_path):
    photo = plain()
    edited = photo.clone()
    edited[..., 20:30, 20:30] = torch.where(photo[..., 20:30, 20:30] > 0, -0.9, 0.9)
    save_image(tmp_path / "edited.png", edited)
    save_image(tmp_path / "same.png", photo)
    opacity = opacity_of(paint_from_file(tmp_path / "edited.png", photo))
    assert opacity[20:30, 20:30].all() and opacity.sum() == 100
    assert not paint_from_file(tmp_path / "same.png", photo).any()


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(PhotoError, match="not a picture"):
        paint_from_file(tmp_path / "text.png", plain())
    with pytest.raises(PhotoError, match="no file"):
        paint_from_file(tmp_path / "missing.png", plain())


# -------------------------------------------------------------------- in its place
@pytest.mark.parametrize(("place", "side", "vertex"), [("forehead", 1, FOREHEAD), ("cheek", 1, LEFT_CHEEK)])
@pytest.mark.parametrize("yaw", [0.0, 0.4])
def test_paint_lies_at_its_place_on_the_face(place, side, vertex, yaw):
    landmarks = canonical_landmarks(orbit(yaw, 0.0))[0]
    paint = on_face(filled(), landmarks, place, side=side, size_cm=3.0)
    assert (centre_of(opacity_of(paint)) - landmarks[vertex]).norm() < 0.02


def test_paint_is_foreshortened_with_the_face():
    """On the forehead, which faces the front, a square's area shrinks by the cosine of the turn."""
    areas = [
        opacity_of(on_face(filled(), canonical_landmarks(orbit(yaw, 0.0))[0], size_cm=6.0)).sum().item()
        for yaw in (0.0, 0.3, 0.6)
    ]
    assert areas[1] / areas[0] == pytest.approx(math.cos(0.3), abs=0.03)
    assert areas[2] / areas[0] == pytest.approx(math.cos(0.6), abs=0.06)


def test_paint_on_a_face_moves_turns_and_grows():
    landmarks = canonical_landmarks(orbit(0.0, 0.0))[0]
    bar = in_colours((RED, polygon(np.array([[-1, -0.2], [1, -0.2], [1, 0.2], [-1, 0.2]]))))
    level, upright = (opacity_of(on_face(bar, landmarks, turn=turn)) for turn in (0.0, math.pi / 2))
    assert (level > 0.5).any(dim=0).sum() > 3 * (level > 0.5).any(dim=1).sum()
    assert (upright > 0.5).any(dim=1).sum() > 3 * (upright > 0.5).any(dim=0).sum()
    assert opacity_of(on_face(bar, landmarks, size_cm=4.0)).sum().item() == pytest.approx(
        level.sum().item() / 4, rel=0.05
    )
    moved = centre_of(opacity_of(on_face(bar, landmarks, offset_cm=(2.0, 1.0)))) - centre_of(level)
    assert moved[0] > 0 > moved[1], "to the right and up"


def test_turning_is_counter_clockwise():
    landmarks = canonical_landmarks(orbit(0.0, 0.0))[0]
    right_half = in_colours((RED, polygon(np.array([[0, -1], [1, -1], [1, 1], [0, 1]]))))
    for turned, still in (
        (stamped(right_half, (0.5, 0.5), 0.4, 0.8), stamped(right_half, (0.5, 0.5), 0.4)),
        (on_face(right_half, landmarks, turn=0.8), on_face(right_half, landmarks)),
    ):
        assert centre_of(opacity_of(turned))[1] < centre_of(opacity_of(still))[1] - 0.02, "v is down"


def test_places_that_the_photo_does_not_show_are_refused():
    landmarks = canonical_landmarks(orbit(-1.2, 0.0))[0]
    with pytest.raises(ValueError, match="does not show the ear at side 1"):
        on_face(filled(), landmarks, "ear", side=1)
    with pytest.raises(ValueError, match="one of forehead"):
        on_face(filled(), landmarks, "toe")
    with pytest.raises(ValueError, match="side is 1"):
        on_face(filled(), landmarks, side=0)


def test_stamp_is_upright_and_a_share_of_the_photo():
    opacity = opacity_of(stamped(filled(), (0.25, 0.75), 0.25)) > 0.5
    wanted = torch.zeros(TEXTURE, TEXTURE, dtype=torch.bool)
    wanted[5 * TEXTURE // 8 : 7 * TEXTURE // 8, TEXTURE // 8 : 3 * TEXTURE // 8] = True
    assert (opacity != wanted).float().mean() < 0.002


# -------------------------------------------------------------------- strokes
def slow_cover(stroke: Stroke, row: int, column: int) -> float:
    """The cover of one pixel, by the nearest of many points along the line."""
    pixel = np.array([column + 0.5, row + 0.5]) / TEXTURE
    ends = [*zip(stroke.points[:-1], stroke.points[1:], strict=True)] or [(stroke.points[0],) * 2]
    places = [
        np.add(np.multiply(1 - t, a), np.multiply(t, b)) for a, b in ends for t in np.linspace(0, 1, 400)
    ]
    distance = min(np.linalg.norm(pixel - place) for place in places)
    soft = max(stroke.radius * (1 - stroke.hardness), 1 / TEXTURE)
    return float(np.clip((stroke.radius + 0.5 / TEXTURE - distance) / soft, 0, 1))


def test_stroke_covers_what_is_near_its_line():
    stroke = Stroke([(0.2, 0.3), (0.6, 0.4), (0.5, 0.8)], 0.06, RED, hardness=0.4)
    cover = stroke.cover()
    for row, column in [(77, 51), (90, 100), (102, 160), (150, 138), (204, 128), (70, 40), (220, 128)]:
        assert cover[row, column].item() == pytest.approx(slow_cover(stroke, row, column), abs=0.01)
    assert 0 < cover.mean() < 0.2 and cover.max() == 1


@pytest.mark.parametrize("radius", [0.05, 0.2])
def test_hard_dab_is_a_disc(radius):
    cover = Stroke([(0.5, 0.5)], radius, RED, hardness=1.0).cover()
    assert cover.mean().item() == pytest.approx(math.pi * radius**2, rel=0.05)
    assert ((cover > 0) & (cover < 1)).float().mean() < 8 * radius / TEXTURE * 2


def test_later_strokes_lie_over_earlier_ones():
    dab = {"points": [(0.5, 0.5)], "radius": 0.1}
    paint = brushed([Stroke(**dab, colour=RED), Stroke(**dab, colour=BLUE, opacity=0.5)])
    assert torch.allclose(
        paint[0, :, TEXTURE // 2, TEXTURE // 2], torch.tensor([0.5, 0.0, 0.5, 1.0]), atol=1e-6
    )
    assert not brushed([]).any()


@pytest.mark.parametrize(
    "wrong", [{"points": []}, {"radius": 0.0}, {"hardness": 1.5}, {"opacity": -0.1}, {"radius": math.nan}]
)
def test_strokes_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValueError, match=r"stroke has|lie between"):
        Stroke(**({"points": [(0.5, 0.5)], "radius": 0.1, "colour": RED} | wrong))


# -------------------------------------------------------------------- styles
@pytest.mark.parametrize("style", STYLES)
def test_styles_change_all_of_a_picture_and_keep_its_form(style):
    photo = plain()
    found = stylised(photo, style)
    assert found.shape == photo.shape and found.dtype == photo.dtype and found.abs().max() <= 1 + 1e-6
    assert (found - photo).abs().mean() > 0.05
    assert torch.equal(found, stylised(photo, style))


def test_sepia_is_brown_and_as_light_as_the_photo():
    photo = plain()
    found = (stylised(photo, "sepia") + 1) / 2
    assert (found[:, 0] > found[:, 1]).all() and (found[:, 1] > found[:, 2]).all()
    order = luminance((photo + 1) / 2).flatten().argsort()
    assert luminance(found).flatten()[order].diff().min() > -1e-6


def test_pencil_leaves_paper_and_draws_what_is_darker():
    assert torch.allclose(stylised(torch.full((1, 3, 48, 48), 0.2), "pencil"), torch.ones(1, 3, 48, 48))
    line = torch.full((1, 3, 48, 48), 0.2)
    line[..., 24] = -0.8
    drawn = stylised(line, "pencil")
    assert drawn[..., 24].max() < -0.5 and drawn[..., :16].min() > 0.99


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match="no style 'cubist'; there are grey"):
        stylised(plain(), "cubist")


# -------------------------------------------------------------------- in other true views
@pytest.fixture(scope="module")
def egg():
    return egg_scene(64)


def spot_on_input(egg, x: float, y: float, radius: float = 0.02) -> torch.Tensor:
    """A red dab on the frontal photo where the egg's point at x, y is seen."""
    uv, _ = egg.input.camera.project(on_egg(x, y)[0][None, None])
    return brushed([Stroke([tuple(uv[0, 0].tolist())], radius, RED, hardness=1.0)])


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.1, 0.12), (-0.12, -0.1)])
def test_paint_turns_with_the_head(egg, x, y):
    found = painted_scene(egg, spot_on_input(egg, x, y))
    for name, view in egg.views.items():
        change = (found.views[name].image - view.image).abs().sum(dim=1)[0]
        point, normal = on_egg(x, y)
        assert found.truth[f"painted/{name}"][0, 0][change > 0.5].all()
        if (view.camera.position[0] - point) @ normal > 1.0:  # elsewhere it is seen at a slant
            wanted = view.camera.project(point[None, None])[0][0, 0]
            assert (centre_of(change) - wanted).norm() < 0.6 / 64


def test_paint_is_hidden_with_its_place(egg):
    """Near the egg's left edge from the front; from yaw -0.6 it lies behind the edge."""
    point, normal = on_egg(0.185, 0.0)
    found = painted_scene(egg, spot_on_input(egg, 0.185, 0.0, 0.012))
    seen = {
        name: float((view.camera.position[0] - point) @ normal) > 0
        for name, view in egg.views.items()
        if abs(float((view.camera.position[0] - point) @ normal)) > 0.3
    }
    assert set(seen.values()) == {True, False}
    for name, is_seen in seen.items():
        assert found.truth[f"painted/{name}"].any() == is_seen


def test_the_input_view_is_the_painted_photo(egg):
    paint = spot_on_input(egg, 0.05, 0.05, 0.06)
    found = painted_scene(egg, paint)
    assert (found.input.image - overlay(egg.input.image, paint)).abs().mean() < 2e-3
    away = ~found.truth[f"painted/{egg.input_name}"].expand_as(egg.input.image)
    assert (found.input.image - egg.input.image)[away].abs().max() < 0.25


def test_what_the_photo_does_not_show_stays_bare(egg):
    """All of the photo in another colour: in each view exactly what the photo sees of the egg changes."""
    found = painted_scene(egg, filled(BLUE, 1.0, 64))
    for name, view in egg.views.items():
        uv, distance = pixels_in_view(view.camera, view.depth, egg.input.camera)
        seen = visible(uv, distance, egg.input.depth, 0.02)
        changed = found.truth[f"painted/{name}"]
        assert (changed != seen).sum() < 0.02 * view.mask.sum() + 64, "but for pixels at edges"
        inside = (torch.nn.functional.avg_pool2d((seen & view.mask).float(), 5, 1, 2) > 0.999).expand_as(
            view.image
        )
        assert torch.allclose(
            found.views[name].image[inside],
            (2 * torch.tensor(BLUE) - 1)[None, :, None, None].expand_as(view.image)[inside],
            atol=1e-5,
        )
    assert not found.truth[f"painted/{yaw_name(0.6)}"][egg.views[yaw_name(0.6)].mask].all()


def test_paint_agrees_with_the_warped_photo(egg):
    """A slow twin: the painted photo itself, warped into the other view, shows the same paint."""
    paint = spot_on_input(egg, 0.06, -0.05, 0.06)
    found = painted_scene(egg, paint)
    layer = torch.nn.functional.avg_pool2d(paint, TEXTURE // 64)
    view = egg.views[yaw_name(0.3)]
    uv, _ = pixels_in_view(view.camera, view.depth.nan_to_num(2.7), egg.input.camera)
    opacity = sample_at(layer, uv)[:, 3:] * view.mask
    wanted = overlay(view.image, torch.cat([opacity, 0 * opacity, 0 * opacity, opacity], dim=1))
    assert (found.views[yaw_name(0.3)].image - wanted).abs().mean() < 0.2 * (view.image - wanted).abs().mean()


def test_paint_beside_the_head_and_scenes_without_depth_are_refused(egg):
    with pytest.raises(ValueError, match="none of the paint lies on the head"):
        painted_scene(egg, brushed([Stroke([(0.02, 0.02)], 0.02, RED)]))
    flat = {name: dataclasses.replace(view, depth=None) for name, view in egg.views.items()}
    with pytest.raises(ValueError, match="depth"):
        painted_scene(dataclasses.replace(egg, views=flat), spot_on_input(egg, 0.0, 0.0))


def test_repainting_is_repeatable_and_leaves_the_scene_alone(egg):
    before = egg.input.image.clone()
    first, again = (painted_scene(egg, spot_on_input(egg, 0.0, 0.0)) for _ in range(2))
    assert torch.equal(first.input.image, again.input.image)
    assert torch.equal(egg.input.image, before)
    assert first.name != egg.name


@pytest.mark.parametrize(("share", "kept"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.0), (-1.0, -3.0)])
def test_paint_kept_is_all_for_the_truth_and_none_for_the_bare_head(share, kept):
    bare, where = plain(), torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    where[..., 5:12, 20:40] = True
    painted = bare.clone().masked_fill_(where, 0.99)
    image = torch.lerp(bare, painted, share) + 3.0 * ~where  # what is beside the paint does not count
    assert paint_kept(image, painted, bare, where) == pytest.approx(kept, abs=1e-5)
    assert math.isnan(paint_kept(image, painted, bare, where & False))


# -------------------------------------------------------------------- the brush
@pytest.fixture
def brush() -> Brush:
    return Brush(plain())


def test_untouched_brush_leaves_the_photo(brush):
    assert torch.equal(brush.image, brush.photo)
    assert "nothing kept" in brush.status.value


def test_brush_keeps_dabs_and_words_and_undoes_them(brush):
    brush.colour.value = "#0000ff"
    for name, value in {"u": 0.25, "v": 0.75, "size": 0.2, "hardness": 1.0, "opacity": 1.0}.items():
        brush.sliders[name].value = value
    brush.buttons["keep"].click()
    wanted = brushed([Stroke([(0.25, 0.75)], 0.1, BLUE, 1.0, 1.0)])
    assert torch.allclose(brush.paint, wanted)
    assert torch.allclose(brush.image, overlay(brush.photo, wanted))
    brush.word.value = "HI"
    brush.sliders["u"].value = 0.7
    assert torch.allclose(brush.paint, wanted), "what is not kept yet is only shown"
    brush.buttons["keep"].click()
    assert (brush.paint - wanted)[..., TEXTURE // 2 :].abs().max() > 0.9
    brush.buttons["undo"].click()
    assert torch.allclose(brush.paint, wanted)
    brush.buttons["clear"].click()
    assert torch.equal(brush.image, brush.photo)
    brush.buttons["undo"].click()  # of nothing


def test_preview_shows_what_would_be_kept(brush):
    before = brush.preview.value
    brush.sliders["size"].value = 0.4
    assert brush.preview.value != before
    shown = np.asarray(Image.open(io.BytesIO(brush.preview.value)).convert("RGB"))
    brush.buttons["keep"].click()
    enlarged = Image.fromarray(to_uint8(brush.image)[0]).resize(shown.shape[:2], Image.Resampling.BICUBIC)
    brush.sliders["opacity"].value = 0.1
    assert np.abs(shown.astype(float) - np.asarray(enlarged, float)).mean() < 1


def test_brush_says_what_is_no_colour(brush):
    kept = brush.preview.value
    with pytest.raises(Exception, match=r"(?i)colou?r"):
        brush.colour.value = "#12"
    assert brush.preview.value == kept
