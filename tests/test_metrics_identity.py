import pytest
import torch
import torch.nn.functional as F

from lib import metrics
from lib.cameras import orbit
from lib.identity import align, camera_points


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Recorder:
    """Stands for a face network: keeps the faces that it was shown; an embedding is where the face is bright."""

    def __init__(self) -> None:
        self.shown: list[torch.Tensor] = []

    def __call__(self, faces: torch.Tensor) -> torch.Tensor:
        self.shown.append(faces)
        return F.normalize(F.adaptive_avg_pool2d(faces, 4).flatten(1), dim=1)


def coarse(*shape: int, seed: int = 0) -> torch.Tensor:
    """A picture with something to see at the size of an embedding's cells."""
    return F.interpolate(noise(*shape[:2], 8, 8, seed=seed), size=shape[2:], mode="bicubic")


# ----------------------------------------------------------------------- what the study reports


def test_a_picture_is_itself_and_not_its_negative():
    image, camera, network = coarse(2, 3, 64, 64), orbit(torch.tensor([0.2, -0.4]), 0.1), Recorder()
    same = metrics.identity_similarity(network, image, camera, image)
    negative = metrics.identity_similarity(network, image, camera, -image)
    assert same.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert negative.tolist() == pytest.approx([-1, -1], abs=1e-5)


def test_each_picture_is_aligned_by_its_own_camera():
    image, target, network = coarse(2, 3, 64, 64), coarse(2, 3, 48, 48, seed=1), Recorder()
    here, there = orbit(torch.tensor([0.2, -0.4]), 0.1), orbit(torch.tensor([-0.5, 0.6]), 0.0)
    found = metrics.identity_similarity(network, image, here, target, there)
    assert torch.equal(network.shown[0], align(image, camera_points(here)))
    assert torch.equal(network.shown[1], align(target, camera_points(there)))
    expected = [F.cosine_similarity(*(network(x[i : i + 1]) for x in network.shown[:2])) for i in range(2)]
    assert found.tolist() == pytest.approx([value.item() for value in expected], abs=1e-5)


def test_one_camera_serves_a_batch():
    image, target, camera = coarse(3, 3, 64, 64), coarse(3, 3, 64, 64, seed=1), orbit(0.3, 0.0)
    one = metrics.identity_similarity(Recorder(), image, camera, target)
    assert torch.equal(one, metrics.identity_similarity(Recorder(), image, camera.expand(3), target))


def test_detected_points_serve_too_and_failures_are_nan():
    image, target, camera = coarse(2, 3, 64, 64), coarse(2, 3, 64, 64, seed=1), orbit(torch.zeros(2), 0.0)
    points = camera_points(camera)
    by_camera = metrics.identity_similarity(Recorder(), image, camera, target)
    assert torch.equal(metrics.identity_similarity(Recorder(), image, points, target), by_camera)
    points[0] = torch.nan
    found = metrics.identity_similarity(Recorder(), image, points, target, camera)
    assert found.isnan().tolist() == [True, False]
    assert found[1] == by_camera[1]


def test_the_mirrored_view_is_compared_with_the_flipped_portrait():
    portrait, camera, network = coarse(1, 3, 64, 64), orbit(0.5, 0.1), Recorder()
    assert metrics.mirrored_identity(network, portrait.flip(-1), portrait, camera).item() == pytest.approx(1)
    expected = align(portrait.flip(-1), camera_points(orbit(-0.5, 0.1)))
    for shown in network.shown:
        assert torch.allclose(shown, expected, atol=1e-4)
    assert metrics.mirrored_identity(network, portrait, portrait, camera).item() < 0.9


# ----------------------------------------------------------------------- as the papers do


def marked(size: int, rows: slice, columns: slice) -> torch.Tensor:
    """A picture [1, 3, size, size] of noise whose marked part is white."""
    picture = noise(1, 3, size, size)
    picture[:, :, rows, columns] = 1
    return picture


@pytest.mark.parametrize("name", ["spi_identity", "e3dge_identity"])
def test_the_crop_is_that_of_a_picture_of_256(name):
    """One pixel more on any side, and the face is not all white."""
    network, metric = Recorder(), getattr(metrics, name)
    face = slice(35, 223), slice(32, 220)
    metric(network, marked(256, *face), marked(256, slice(36, 223), face[1]))
    assert network.shown[0].eq(1).all()
    for changed in [
        (slice(36, 223), face[1]),
        (slice(35, 222), face[1]),
        (face[0], slice(33, 220)),
        (face[0], slice(32, 219)),
    ]:
        metric(network, marked(256, *changed), noise(1, 3, 256, 256))
        assert not network.shown[-2].eq(1).all()
    assert {shown.shape for shown in network.shown} == {(1, 3, 112, 112)}


def test_the_crop_of_the_released_code_is_the_upper_left_of_512():
    network = Recorder()
    metrics.spi_code_identity(network, marked(512, slice(35, 223), slice(32, 220)), noise(1, 3, 512, 512))
    assert network.shown[0].eq(1).all()


def test_the_crops_know_nothing_of_the_rest():
    """The released code does not notice that the lower half of the face is another's."""
    portrait = coarse(1, 3, 512, 512)
    other = portrait.clone()
    other[:, :, 256:] = coarse(1, 3, 512, 512, seed=1)[:, :, 256:]
    assert metrics.spi_code_identity(Recorder(), portrait, other).item() == pytest.approx(1)
    assert metrics.spi_identity(Recorder(), portrait, other).item() < 0.9


def test_small_pictures_are_brought_to_the_papers_size():
    image, target = coarse(2, 3, 64, 64), coarse(2, 3, 64, 64, seed=1)
    for size, name in ((256, "spi_identity"), (512, "spi_code_identity"), (256, "e3dge_identity")):
        enlarged = [F.interpolate(x, size=(size, size), mode="bilinear") for x in (image, target)]
        metric = getattr(metrics, name)
        assert torch.allclose(metric(Recorder(), image, target), metric(Recorder(), *enlarged))
