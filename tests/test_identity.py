import os

import numpy as np
import pytest
import skimage.transform
import tiny_onnx
import torch
import torch.nn.functional as F
from skimage import data
from torch import nn

from lib import assets, faces
from lib.cameras import Camera, orbit
from lib.faces import DetectedFace, FaceDetector
from lib.generators import load_generator
from lib.identity import (
    FACE_SIZE,
    TEMPLATE,
    FaceNetwork,
    OnnxModule,
    align,
    camera_points,
    detected_points,
    face_network,
    five_points,
)
from lib.identity.alignment import inverse_affine, similarity_2d
from lib.images import resize


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------- the similarity


def test_a_similarity_is_found_again():
    points = noise(3, 5, 2).double()
    angle, scale = torch.tensor([0.3, -2.0, 3.0]).double(), torch.tensor([2.0, 0.1, 30.0]).double()
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(3, 2, 2)
    linear, shift = scale.view(3, 1, 1) * rotation, noise(3, 2, seed=1).double()
    found = similarity_2d(points, points @ linear.transpose(1, 2) + shift[:, None])
    assert torch.allclose(found, torch.cat([linear, shift[..., None]], -1))


def test_the_similarity_of_least_squares_is_that_of_scikit_image():
    source, target = noise(4, 5, 2).double(), noise(4, 5, 2, seed=1).double()
    for s, t, found in zip(source, target, similarity_2d(source, target), strict=True):
        expected = skimage.transform.SimilarityTransform.from_estimate(s.numpy(), t.numpy())
        assert found.numpy() == pytest.approx(expected.params[:2])


def test_an_inverse_undoes_its_transform():
    transforms, points = noise(4, 2, 3).double(), noise(4, 7, 2, seed=1).double()
    there = points @ transforms[..., :2].transpose(1, 2) + transforms[:, None, :, 2]
    back = inverse_affine(transforms)
    assert torch.allclose(there @ back[..., :2].transpose(1, 2) + back[:, None, :, 2], points)


# ----------------------------------------------------------------------- the aligned face


def ramp(resolution: int, batch: int = 1) -> torch.Tensor:
    """A picture [B, 3, R, R] whose channels are u, v and u + v at each pixel's centre."""
    steps = (torch.arange(resolution) + 0.5) / resolution
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([u, v, u + v]).expand(batch, -1, -1, -1)


def posed_points(angle: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    """The template's points [1, 5, 2], turned, scaled and shifted about the middle of the picture."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotated = (TEMPLATE - 0.5) @ np.array([[cosine, sine], [-sine, cosine]]) * scale + 0.5 + shift
    return torch.from_numpy(rotated)[None].float()


@pytest.mark.parametrize("resolution", [64, 200, 700])
def test_every_pixel_of_an_aligned_face_comes_from_its_place(resolution):
    """Of a picture that tells where it was looked at, at every resolution: enlarged, and averaged down."""
    angle, scale, shift = 0.4, 0.5, (0.05, -0.03)
    face = align(ramp(resolution), posed_points(angle, scale, shift))[0]
    steps = (np.arange(FACE_SIZE) + 0.5) / FACE_SIZE - 0.5
    x, y = np.meshgrid(steps, steps)
    u = scale * (np.cos(angle) * x - np.sin(angle) * y) + 0.5 + shift[0]
    v = scale * (np.sin(angle) * x + np.cos(angle) * y) + 0.5 + shift[1]
    assert face.numpy() == pytest.approx(np.stack([u, v, u + v]), abs=2e-4)


def test_points_that_do_not_fit_are_weighed_in_the_aligned_face():
    """As ArcFace's own alignment does; fitted the other way round, a face from the side would come out larger."""
    points = posed_points(0.2, 0.5, (0.0, 0.0)) + 0.05 * noise(1, 5, 2)
    found = align(ramp(400), points)[0, :2].numpy()
    expected = skimage.transform.SimilarityTransform.from_estimate(points[0].numpy(), TEMPLATE).inverse
    centres = (np.array([[0, 0], [111, 0], [40, 90]]) + 0.5) / FACE_SIZE
    for (column, row), place in zip([(0, 0), (111, 0), (40, 90)], expected(centres), strict=True):
        assert found[:, row, column] == pytest.approx(place, abs=2e-3)


def test_points_on_the_template_leave_the_picture_as_it_is():
    picture = noise(1, 3, FACE_SIZE, FACE_SIZE)
    template = torch.from_numpy(TEMPLATE).float()[None]
    assert torch.allclose(align(picture, template), picture, atol=1e-4)


def test_pixels_of_large_pictures_are_averaged():
    """Stripes of one pixel are grey in the face, not stripes of another width."""
    stripes = torch.ones(1, 3, 896, 896)
    stripes[..., ::2] = -1
    assert align(stripes, posed_points(0.0, 1.0, (0.0, 0.0))).abs().max() < 0.05


def test_a_face_does_not_depend_on_the_others_of_its_batch():
    pictures, near, far = noise(2, 3, 300, 300), posed_points(0.1, 0.2, (0, 0)), posed_points(0, 0.9, (0, 0))
    together = align(pictures, torch.cat([near, far]))
    assert torch.equal(together[:1], align(pictures[:1], near))
    assert torch.equal(together[1:], align(pictures[1:], far))


def test_a_face_that_was_not_found_is_nan_and_harms_nobody():
    points = posed_points(0.1, 0.5, (0, 0)).repeat(2, 1, 1)
    points[0, 3, 1] = torch.nan
    pictures = noise(2, 3, 64, 64).requires_grad_()
    found = align(pictures, points)
    assert found[0].isnan().all()
    assert torch.equal(found[1:], align(pictures[1:], points[1:]))
    found[1].sum().backward()
    assert pictures.grad.isfinite().all()


def test_alignment_passes_gradients_to_picture_and_points():
    smooth = F.interpolate(noise(1, 3, 6, 6), size=(40, 40), mode="bicubic").double().requires_grad_()
    points = posed_points(0.2, 0.6, (0.02, 0.0)).double().requires_grad_()
    direction = noise(1, 5, 2, seed=3).double()
    weights = F.interpolate(noise(1, 3, 5, 5, seed=4), size=(FACE_SIZE, FACE_SIZE), mode="bicubic").double()

    def value(p: torch.Tensor, x: torch.Tensor = smooth) -> torch.Tensor:
        return (align(x, p) * weights).mean()

    value(points).backward()
    step = 1e-5
    slope = (value(points + step * direction) - value(points - step * direction)) / (2 * step)
    assert (points.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-2)
    other = noise(1, 3, 40, 40, seed=5).double()
    assert (smooth.grad * other).sum().item() == pytest.approx(value(points, other).item(), rel=1e-6)


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"square images .* got \[1, 3, 64, 80\]"):
        align(noise(1, 3, 64, 80), posed_points(0, 1, (0, 0)))
    with pytest.raises(ValueError, match=r"and \[1, 5, 2\]"):
        align(noise(2, 3, 64, 64), posed_points(0, 1, (0, 0)))


# ----------------------------------------------------------------------- where the five points are


def test_the_five_points_are_those_of_a_face():
    """Of the canonical mesh: symmetric, eyes above nose above mouth, the nose foremost, from left to right."""
    points = five_points(faces.canonical_mesh()[0])
    assert points[[1, 0, 2, 4, 3]] * [-1, 1, 1] == pytest.approx(points, abs=1e-6)
    assert points[0, 0] < 0 < points[1, 0]
    assert points[0, 1] > points[2, 1] > points[3, 1]
    assert points[2, 2] > points[[0, 1, 3, 4], 2].max()


def test_from_the_front_the_points_fit_the_template():
    points = camera_points(orbit(0.0, 0.0))
    template = torch.from_numpy(TEMPLATE).float()[None]
    transform = similarity_2d(points, template)
    fitted = points @ transform[..., :2].transpose(1, 2) + transform[:, None, :, 2]
    assert (fitted - template).norm(dim=-1).max() < 0.06
    assert transform[0, 0, 1].abs() < 0.02 * transform[0, 0, 0]


def test_a_mirrored_camera_sees_mirrored_points():
    camera = orbit(torch.tensor([0.4, -0.7]), torch.tensor([0.1, -0.2]))
    mirrored = camera_points(camera.mirror())[:, [1, 0, 2, 4, 3]]
    mirrored[..., 0] = 1 - mirrored[..., 0]
    assert torch.allclose(mirrored, camera_points(camera), atol=1e-5)


def test_points_of_another_world_are_taken_as_given():
    points = noise(5, 3) * 0.1
    assert camera_points(orbit(0.0, 0.0), points)[0] == pytest.approx(
        orbit(0.0, 0.0).project(points[None])[0][0]
    )
    with pytest.raises(ValueError, match=r"five points of the world, \[5, 3\]; got \[4, 3\]"):
        camera_points(orbit(0.0, 0.0), points[:4])


class CentreDetector:
    """Finds a face in every picture that is not black; all its landmarks lie at a quarter of the picture."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []

    def __call__(self, picture: np.ndarray) -> list[DetectedFace]:
        self.shown.append(picture.shape)
        height, width = picture.shape[:2]
        return [DetectedFace(np.tile([width / 4, height / 4, 0.0], (478, 1)), {})] if picture.any() else []


@pytest.mark.parametrize(("resolution", "shown"), [(64, 256), (300, 300)])
def test_detected_points_are_of_the_picture_whatever_the_detector_is_shown(resolution, shown):
    detector = CentreDetector()
    pictures = torch.cat(
        [-torch.ones(1, 3, resolution, resolution), torch.zeros(1, 3, resolution, resolution)]
    )
    points = detected_points(pictures, detector)
    assert detector.shown == [(shown, shown, 3)] * 2
    assert points[0].isnan().all()
    assert points[1].numpy() == pytest.approx(np.full((5, 2), 0.25))


# ----------------------------------------------------------------------- ONNX graphs


def read(tmp_path, content: bytes) -> OnnxModule:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(content)
    return OnnxModule.read(path)


class Reference(nn.Module):
    """Every operator of the two networks, by torch's own layers, with weights that are not their defaults."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-3)
        self.slopes = nn.PReLU(8)
        self.head = nn.Linear(8 * 5 * 5, 4)
        generator = torch.Generator().manual_seed(0)
        for value in self.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) - 0.3 * (value.ndim > 1) + 0.1)
        self.eval()

    def forward(self, x):
        x = self.first((x - 2.0) * 0.5)
        x = x + self.slopes(self.norm(self.depthwise(x)))
        return self.head(x.flatten(1))

    def onnx(self, raw: bool) -> bytes:
        weights = {name: value.numpy() for name, value in self.state_dict().items() if value.ndim}
        weights["slopes.weight"] = weights["slopes.weight"][:, None, None]
        weights |= {"two": np.array([2.0]), "half": np.array([0.5])}
        norm = [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        nodes = [
            tiny_onnx.node("Sub", ["x", "two"], "a"),
            tiny_onnx.node("Mul", ["a", "half"], "b"),
            tiny_onnx.node(
                "Conv", ["b", "first.weight", "first.bias"], "c", strides=[2, 2], pads=[1, 1, 1, 1], group=1
            ),
            tiny_onnx.node(
                "Conv", ["c", "depthwise.weight"], "d", dilations=[2, 2], pads=[2, 2, 2, 2], group=8
            ),
            tiny_onnx.node("BatchNormalization", ["d", *norm], "e", epsilon=1e-3, momentum=0.9),
            tiny_onnx.node("PRelu", ["e", "slopes.weight"], "f"),
            tiny_onnx.node("Add", ["c", "f"], "g"),
            tiny_onnx.node("Dropout", ["g"], "h", ratio=0.4),
            tiny_onnx.node("Flatten", ["h"], "i", axis=1),
            tiny_onnx.node("Gemm", ["i", "head.weight", "head.bias"], "y", alpha=1.0, beta=1.0, transB=1),
        ]
        constants = [tiny_onnx.tensor(name, value, raw) for name, value in weights.items()]
        return tiny_onnx.model(
            nodes, constants, ["x", *weights], ["y"]
        )  # older files list constants as inputs


@pytest.mark.parametrize("raw", [True, False])
def test_a_graph_computes_what_torch_computes(tmp_path, raw):
    reference = Reference()
    module = read(tmp_path, reference.onnx(raw))
    x = noise(2, 3, 9, 9)
    assert torch.allclose(module(x), reference(x), atol=1e-5)
    assert torch.equal(module(x), module(x))
    assert not list(module.parameters())


def test_gradients_flow_through_a_graph(tmp_path):
    reference = Reference()
    module = read(tmp_path, reference.onnx(raw=True))
    x, same = noise(1, 3, 9, 9).requires_grad_(), noise(1, 3, 9, 9).requires_grad_()
    module(x).square().sum().backward()
    reference(same).square().sum().backward()
    assert torch.allclose(x.grad, same.grad, rtol=1e-4, atol=1e-5)


def test_padding_is_that_of_each_side(tmp_path):
    """ONNX lists the beginnings of all axes first: top, left, bottom, right."""
    conv = tiny_onnx.node("Conv", ["x", "w"], "y", pads=[1, 0, 0, 2])
    module = read(
        tmp_path, tiny_onnx.model([conv], [tiny_onnx.tensor("w", np.ones((1, 1, 1, 1)))], ["x"], ["y"])
    )
    x = torch.ones(1, 1, 2, 2)
    assert torch.equal(module(x), F.pad(x, (0, 2, 1, 0)))


def test_matrix_products_scale_and_transpose(tmp_path):
    a, b, c = (noise(*shape, seed=i).numpy() for i, shape in enumerate([(4, 3), (4, 2), (2,)]))
    gemm = tiny_onnx.node("Gemm", ["x", "b", "c"], "y", alpha=0.5, beta=2.0, transA=1)
    constants = [tiny_onnx.tensor("b", b), tiny_onnx.tensor("c", c)]
    module = read(tmp_path, tiny_onnx.model([gemm], constants, ["x"], ["y"]))
    assert module(torch.from_numpy(a)).numpy() == pytest.approx(0.5 * a.T @ b + 2 * c, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiny_onnx.model([tiny_onnx.node("Loop", ["x"], "y")], [], ["x"], ["y"]), "not known here: Loop"),
        (tiny_onnx.model([], [tiny_onnx.tensor("w", np.ones(1), kind=7)], ["x"], ["x"]), "w is of kind 7"),
        (tiny_onnx.model([], [], ["x", "z"], ["x"]), r"one input and one output, found \['x', 'z'\]"),
        (
            tiny_onnx.model([tiny_onnx.node("Conv", ["x"], "y", auto_pad="SAME_UPPER")], [], ["x"], ["y"]),
            "auto_pad is of kind",
        ),
        (
            tiny_onnx.model([], [tiny_onnx.tensor("w", np.ones(3))[:-4]], ["x"], ["x"]),
            "tiny.onnx is no ONNX graph",
        ),
        (b"", "tiny.onnx is no ONNX graph"),
        (b"\x89PNG\r\n\x1a\n", "tiny.onnx is no ONNX graph"),
        (Reference().onnx(raw=True)[:-1000], "tiny.onnx is no ONNX graph"),
    ],
)
def test_what_is_not_understood_is_refused_when_it_is_read(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


# ----------------------------------------------------------------------- the networks


def test_embeddings_have_unit_length_and_faces_one_size():
    network = FaceNetwork(nn.Sequential(nn.Flatten(), nn.Linear(3 * FACE_SIZE**2, 6)), scale=2.0, offset=1.0)
    faces_ = noise(2, 3, FACE_SIZE, FACE_SIZE)
    expected = F.normalize(network.body(2 * faces_ + 1))
    assert torch.equal(network(faces_), expected)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ValueError, match=r"aligned faces \[B, 3, 112, 112\]; got \[1, 3, 128, 128\]"):
        network(noise(1, 3, 128, 128))


def test_a_network_is_for_one_of_two_things():
    with pytest.raises(ValueError, match="evaluation or optimisation, not for 'both'"):
        face_network("both")


def load(role: str) -> FaceNetwork:
    name = {"evaluation": "identity", "optimisation": "identity_loss"}[role]
    asset = assets.manifest()[name]
    here = all((asset.home(assets.CACHE) / member.name).exists() for member in asset.files)
    if not here and (role == "optimisation" or os.environ.get("EG3D_STUDY_OFFLINE")):
        pytest.skip(f"not in the cache: python -m lib.assets fetch {name}")
    return face_network(role)


@pytest.fixture(scope="module", params=["evaluation", "optimisation"])
def network(request) -> FaceNetwork:
    return load(request.param)


@pytest.fixture(scope="module")
def photo() -> tuple[torch.Tensor, Camera]:
    """A real portrait [1, 3, 128, 128] and its camera."""
    portrait = faces.portrait_from_photo(data.astronaut(), 128, parse=False)
    return portrait.image, portrait.camera


@pytest.fixture(scope="module")
def strangers() -> tuple[torch.Tensor, Camera]:
    """Samples [3, 3, 64, 64] of the embedded generator, from the front."""
    generator = load_generator("portraits64")
    camera = orbit(torch.zeros(3), 0.0)
    with torch.no_grad():
        z = noise(3, generator.z_dim)
        return generator.synthesize(generator.map(z, camera, 0.7), camera).image, camera


def test_a_network_computes_what_another_runtime_computes(network):
    openvino = pytest.importorskip("openvino")
    name, file = ("identity", "w600k_mbf.onnx") if network.scale == 1 else ("identity_loss", "sface.onnx")
    compiled = openvino.compile_model(
        str(assets.folder(name) / file),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1},
    )
    x = noise(1, 3, FACE_SIZE, FACE_SIZE).clamp(-1, 1) * network.scale + network.offset
    expected = torch.from_numpy(next(iter(compiled(x.numpy()).values())).copy())
    assert torch.allclose(network.body(x), expected, atol=1e-4)


def test_one_person_is_told_from_others(network, photo, strangers):
    """Shrunk and mirrored, the person of a photo stays the same; people of the generator are others."""
    image, camera = photo
    with torch.no_grad():
        person = network(align(image, camera_points(camera)))
        small = network(align(resize(image, 64), camera_points(camera)))
        mirrored = network(align(image.flip(-1), camera_points(camera.mirror())))
        others = network(align(strangers[0], camera_points(strangers[1])))
    assert (person * small).sum() > 0.7
    assert (person * mirrored).sum() > 0.7
    assert (others @ person.T).max() < 0.4
    strangers_alike = ((others @ others.T) - torch.eye(3)).max()
    assert strangers_alike < min((person * small).sum(), (person * mirrored).sum())


def test_known_camera_and_detection_align_alike(photo):
    """The mouth of this photo smiles, that of the canonical face does not: hence half of the difference."""
    image, camera = photo
    points = detected_points(image, FaceDetector(max_faces=1))
    assert (points - camera_points(camera)).norm(dim=-1).max() < 0.06
    assert (points - camera_points(camera))[:, :3].norm(dim=-1).max() < 0.03


def test_an_identity_can_be_optimised(network, photo, strangers):
    """The gradient of the cosine with respect to the picture says how the cosine changes."""
    with torch.no_grad():
        wanted = network(align(photo[0], camera_points(photo[1])))
    image, points = strangers[0][:1].clone().requires_grad_(), camera_points(strangers[1][0])

    def cosine(x: torch.Tensor) -> torch.Tensor:
        return (network(align(x, points)) * wanted).sum()

    cosine(image).backward()
    step = 1e-2 * image.grad / image.grad.norm()
    with torch.no_grad():
        gain = cosine(image + step) - cosine(image - step)
    assert gain.item() == pytest.approx(2 * (image.grad * step).sum().item(), rel=0.05)
