"""Any file a person may give: read as they see it, or refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lib import images
from lib.images import PhotoError, load_photo


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture [24, 32, 3] whose corners all differ: it shows turns, flips and swapped channels."""
    v, u = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 32), indexing="ij")
    return np.stack([40 + 180 * u, 30 + 200 * v, 220 - 150 * u * v], axis=-1).round().astype(np.uint8)


def close(found: np.ndarray, expected: np.ndarray, levels: float) -> bool:
    return found.shape == expected.shape and np.abs(found.astype(float) - expected).max() <= levels


# -------------------------------------------------------------------- what is read
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_files_are_read_exactly(picture, tmp_path, suffix):
    path = images.save_image(tmp_path / f"photo{suffix}", picture)
    assert np.array_equal(load_photo(path), picture)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_photo_upright(picture, tmp_path, turn):
    """Stored as a camera held in each of the eight ways would: always seen the same."""
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(undo(picture))).save(path, exif=exif)
    assert np.array_equal(load_photo(path), picture)


def test_grey_and_palette(picture, tmp_path):
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(load_photo(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(picture).quantize(64)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(load_photo(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(levels).save(path)
    assert close(load_photo(path), np.repeat((levels / 257.0)[..., None], 3, axis=2), levels=0.5)


def test_floats_are_grey_from_0_to_1(tmp_path):
    levels = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    Image.fromarray(levels).save(tmp_path / "float.tif")
    assert close(
        load_photo(tmp_path / "float.tif"), np.repeat((levels * 255)[..., None], 3, axis=2), levels=0.51
    )
    Image.fromarray(levels * 1000).save(tmp_path / "unscaled.tif")
    with pytest.raises(PhotoError, match=r"must lie in 0\.\.1"):
        load_photo(tmp_path / "unscaled.tif")


def test_cmyk_is_neither_inverted_nor_left_with_four_channels(tmp_path):
    colours = np.array([[[255, 255, 255], [230, 30, 30], [30, 200, 40], [20, 20, 20]]], np.uint8)
    blocks = colours.repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(blocks).convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    assert close(load_photo(tmp_path / "print.jpg")[8, 8::16], colours[0], levels=12)


def test_transparency_shows_mid_grey(picture, tmp_path):
    alpha = np.zeros((24, 32, 1), np.uint8)
    alpha[:, 16:], alpha[:, 24:] = 128, 255
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(tmp_path / "cut.png")
    opacity = alpha / 255.0
    expected = opacity * picture + (1 - opacity) * 128
    assert close(load_photo(tmp_path / "cut.png"), expected, levels=1)


def test_transparent_palette_shows_mid_grey(tmp_path):
    index = np.zeros((8, 8), np.uint8)
    index[:, 4:] = 1
    palette = Image.fromarray(index, mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "sticker.gif", transparency=0)
    found = load_photo(tmp_path / "sticker.gif")
    assert np.array_equal(found[0, 0], [128, 128, 128])
    assert np.array_equal(found[0, 7], [0, 0, 255])


def test_the_first_picture_of_an_animation(picture, tmp_path):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    frames[0].save(tmp_path / "move.png", save_all=True, append_images=frames[1:])
    assert np.array_equal(load_photo(tmp_path / "move.png"), picture)


def test_colour_profiles_are_applied_and_broken_ones_ignored(picture, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert close(load_photo(tmp_path / "srgb.png"), picture, levels=1)
    Image.fromarray(picture).save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert np.array_equal(load_photo(tmp_path / "broken.png"), picture)
    swapped = _with_red_and_blue_swapped(srgb)
    Image.fromarray(picture).save(tmp_path / "swapped.png", icc_profile=swapped)
    assert close(load_photo(tmp_path / "swapped.png"), picture[..., ::-1], levels=3)


def _with_red_and_blue_swapped(profile: bytes) -> bytes:
    """An RGB profile in whose table of tags the red and blue primaries have changed places."""
    assert b"rXYZ" in profile and b"bXYZ" in profile
    return profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


# -------------------------------------------------------------------- what is refused
def refusal(path) -> str:
    with pytest.raises(PhotoError) as error:
        load_photo(path)
    assert str(path) in str(error.value), "the message must name the file"
    return str(error.value)


def test_missing_empty_and_folder(tmp_path):
    assert "no file" in refusal(tmp_path / "absent.jpg")
    (tmp_path / "empty.jpg").touch()
    assert "empty" in refusal(tmp_path / "empty.jpg")
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Dear diary, today I took no photo.", "Dear diary"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42", "video"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, says):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert says in refusal(path)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff", "gif"])
def test_truncated_files_are_refused(picture, tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # does not compress
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, suffix)
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    refusal(path)


def test_decompression_bombs_are_refused_unopened(tmp_path):
    """A PNG of 67 bytes that claims 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    assert "too large" in refusal(path)


def test_large_photos_within_the_limit_do_not_warn(tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above, refuses above twice as many
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    assert load_photo(tmp_path / "large.png").shape == (30, 40, 3)
    assert not recwarn.list
    Image.new("RGB", (80, 60)).save(tmp_path / "larger.png")
    assert "too large" in refusal(tmp_path / "larger.png")


# -------------------------------------------------------------------- tensors
def test_to_uint8_inverts_to_tensor_for_every_level():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = images.to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(images.to_uint8(tensor)[0], levels)


def test_to_uint8_cuts_off_as_eg3d_does():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.9921, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert images.to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 128, 254, 255, 255]


def test_bad_arrays_and_tensors_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        images.to_tensor(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[3, 4, 4\]"):
        images.to_uint8(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="batch of 2"):
        images.save_image("never.png", torch.zeros(2, 3, 4, 4))


def test_resize_keeps_linear_pictures_and_averages_fine_ones():
    steps = (torch.arange(32) + 0.5) / 32
    ramp = steps.expand(1, 1, 32, 32)
    for size in (8, 96):
        expected = ((torch.arange(size) + 0.5) / size).expand(1, 1, size, size)
        margin = size // 8  # borders are repeated
        found = images.resize(ramp, size)
        assert torch.allclose(found[..., margin:-margin], expected[..., margin:-margin], atol=1e-5)
    checkers = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float()[None, None]
    assert (images.resize(checkers, 8) - 0.5).abs().max() < 0.05, "shrinking must average: else it aliases"
    assert images.resize(ramp, (8, 16)).shape == (1, 1, 8, 16)


def test_save_image_leaves_nothing_behind_when_it_fails(picture, tmp_path):
    path = images.save_image(tmp_path / "new" / "a.png", images.to_tensor(picture))
    assert np.array_equal(load_photo(path), picture)
    with pytest.raises(ValueError):
        images.save_image(tmp_path / "new" / "b.nosuchformat", picture)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
