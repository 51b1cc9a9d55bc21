"""The contextual loss against loops, VGG's features against its layers by hand, boxes against the face they are of."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage import data

from lib import assets, faces
from lib.cameras import orbit
from lib.contextual import (
    PARTS_OF_FACE,
    RELEASED_PARTS,
    VGGFeatures,
    canonical_landmarks,
    contextual_loss,
    part_boxes,
    parts_loss,
    regions,
)
from lib.images import to_tensor
from lib.perceptual import read_array_pickle
from tests.tiny_generator import RandomFeatures

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def maps(seed: int, batch: int = 2, channels: int = 4, height: int = 3, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


def images(seed: int, batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# -------------------------------------------------------------------- the contextual loss
def slow_loss(x: np.ndarray, y: np.ndarray, bandwidth: float, limit: float, guard: float) -> float:
    """Mechrez et al., eq. 1-5, point by point, of one image; with what SPI's code adds."""
    x, y = (list(points.reshape(len(points), -1).T) for points in (x, y))
    mean = sum(y) / len(y)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return (a - mean) @ (b - mean) / math.sqrt((a - mean) @ (a - mean) * ((b - mean) @ (b - mean)))

    best = [0.0] * len(y)
    for point in x:
        distances = [1 - cosine(point, other) for other in y]
        relative = [min(distance / (min(distances) + 1e-5), limit) for distance in distances]
        weights = [math.exp((1 - r) / bandwidth) for r in relative]
        best = [max(b, weight / sum(weights)) for b, weight in zip(best, weights, strict=True)]
    return -math.log(sum(best) / len(y) + guard)


@pytest.mark.parametrize("bandwidth", [0.2, 0.5, 2.0])
def test_equals_the_definition_in_loops(bandwidth):
    x, y = maps(0), maps(1, height=4, width=4)  # the sets need not be of one size
    loss = contextual_loss(x, y, bandwidth)
    slow = [slow_loss(a, b, bandwidth, math.inf, 0) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert loss.tolist() == pytest.approx(slow, rel=1e-9)


def test_what_the_released_code_adds_makes_no_difference():
    for seed in range(4):
        x, y = maps(seed, batch=1), maps(seed, batch=1) + 0.3 * maps(seed + 10, batch=1)
        released = slow_loss(x[0].numpy(), y[0].numpy(), 0.5, limit=10, guard=1e-5)
        assert contextual_loss(x, y).item() == pytest.approx(released, abs=1e-4)


def test_of_the_same_points_it_is_zero_and_at_most_the_logarithm_of_their_number():
    x = maps(0)
    assert contextual_loss(x, x).tolist() == pytest.approx([0, 0], abs=1e-12)
    one_for_all = x[:, :, :1, :1].expand_as(
        x
    )  # each point of the target has the same neighbour, 1 of 15 has it well
    loss = contextual_loss(one_for_all, x)
    assert ((loss > math.log(15) - 1e-6) & (loss < math.log(15) + 1e-6)).all()
    assert (contextual_loss(maps(2), x) > 0.1).all()


def test_the_order_of_points_does_not_matter():
    x, y = maps(0), maps(1)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    loss = contextual_loss(x, y)
    for a, b in ((x.flatten(2)[..., order].view_as(x), y), (x, y.flatten(2)[..., order].view_as(y))):
        assert torch.allclose(contextual_loss(a, b), loss, rtol=1e-12)
    across = y[:, torch.tensor([1, 2, 3, 0])]  # while that of channels does
    assert not torch.allclose(contextual_loss(x, across), loss, rtol=0.01)


def test_rows_are_of_the_first_and_the_mean_of_the_second():
    """Y has a cluster that X lacks: that costs. X has one that Y lacks: that costs nothing."""
    y = maps(0, batch=1, height=4, width=4)
    half = y[..., :2, :]
    assert contextual_loss(half, y) > math.log(2) - 1e-6
    assert contextual_loss(y, half) < 0.1


def test_gradient_by_finite_differences():
    x, y = maps(0).requires_grad_(), maps(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: contextual_loss(a, b, 0.5), (x, y))


def test_gradient_is_finite_at_equality_and_where_nothing_varies():
    flat = torch.ones(1, 4, 3, 3)
    for x, y in ((flat, flat), (maps(0), maps(0)), (flat, maps(0, batch=1).float())):
        x = x.clone().requires_grad_()
        contextual_loss(x, y).sum().backward()
        assert x.grad.isfinite().all()


def test_an_image_does_not_depend_on_its_batch():
    x, y = maps(0, batch=3), maps(1, batch=3)
    alone = torch.cat([contextual_loss(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.allclose(contextual_loss(x, y), alone, rtol=1e-12)


def test_distances_are_in_full_precision_under_autocast():
    x, y = maps(0).float(), maps(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = contextual_loss(x, y)
    assert torch.equal(mixed, contextual_loss(x, y))


def test_a_bandwidth_is_positive():
    with pytest.raises(ValueError, match="bandwidth of more than 0; got 0"):
        contextual_loss(maps(0), maps(1), bandwidth=0)


# -------------------------------------------------------------------- features
def vgg(**options) -> VGGFeatures:
    try:
        return VGGFeatures(**options)
    except assets.AssetError as error:
        if os.environ.get("EG3D_STUDY_OFFLINE"):
            pytest.skip(f"offline, and not in the cache: {error}")
        raise


@pytest.fixture(scope="module")
def conv2_1() -> VGGFeatures:
    return vgg()


def by_hand(image: torch.Tensor, convolutions: list[dict]) -> list[torch.Tensor]:
    """What the first convolutions of VGG give, before their ReLU, of an image that is normalised."""
    found, x = [], image
    for index, convolution in enumerate(convolutions):
        kernel = torch.from_numpy(np.transpose(convolution["kernel"], (3, 2, 0, 1)).copy())
        x = F.conv2d(x, kernel, torch.from_numpy(convolution["bias"].copy()), padding=1)
        found.append(x)
        x = F.relu(x)
        if index in (1, 3):
            x = F.max_pool2d(x, 2)
    return found


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, deviation = (torch.from_numpy(v).float().view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return (image - mean) / deviation


def test_features_are_those_of_vgg16_layer_by_layer(conv2_1):
    stored = read_array_pickle(assets.folder("vgg16") / "vgg16.ckpt")
    (tree,) = (branch for name, branch in stored.items() if not name.startswith("NetLin"))
    convolutions = [tree[f"Conv_{index}"] for index in range(7)]
    picture = images(0)
    expected = by_hand(normalised((picture + 1) / 2), convolutions)
    assert torch.allclose(conv2_1(picture), expected[2], atol=1e-4)
    assert conv2_1(picture).shape == (2, 128, 16, 16) and conv2_1(picture).min() < -1, "before the ReLU"
    assert torch.allclose(vgg(relu=True)(picture), F.relu(expected[2]), atol=1e-4)
    assert torch.allclose(vgg(layer="conv3_3")(picture), expected[6], atol=1e-4)
    released = by_hand(normalised(picture), convolutions)
    assert torch.allclose(vgg(released=True)(picture), released[2], atol=1e-4)
    assert not torch.allclose(released[2], expected[2], atol=1)


def test_features_are_frozen_but_carry_gradients_to_the_image(conv2_1):
    assert not any(parameter.requires_grad for parameter in conv2_1.parameters()) and not conv2_1.training
    picture = images(0, batch=1).requires_grad_()
    conv2_1(picture).sum().backward()
    assert picture.grad.abs().sum() > 0


def test_a_face_is_nearer_to_itself_shuffled_than_to_another_picture(conv2_1):
    face = to_tensor(np.ascontiguousarray(data.astronaut()[70:150, 180:260]))
    tiles = face.unfold(2, 20, 20).unfold(3, 20, 20).reshape(1, 3, 16, 20, 20)
    tiles = tiles[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    shuffled = tiles.reshape(1, 3, 4, 4, 20, 20).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 80, 80)
    other = to_tensor(np.ascontiguousarray(data.coffee()[100:180, 200:280]))
    target = conv2_1(face)
    same, mixed, strange = (contextual_loss(conv2_1(x), target).item() for x in (face, shuffled, other))
    assert same < 0.01
    assert same + 0.1 < mixed < strange - 0.1


VGG19_WIDTHS = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
VGG19_PLACES = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]


def vgg19_state(in_full: int = 3) -> dict[str, torch.Tensor]:
    """torchvision's layout; random weights up to some convolution, zeros that take no room on disk beyond."""
    generator, state, inputs = torch.Generator().manual_seed(0), {}, 3
    for index, (place, width) in enumerate(zip(VGG19_PLACES, VGG19_WIDTHS, strict=True)):
        weight, bias = torch.zeros(1).expand(width, inputs, 3, 3), torch.zeros(1).expand(width)
        if index < in_full:
            weight = torch.randn(weight.shape, generator=generator) / (3 * inputs**0.5)
            bias = torch.randn(width, generator=generator)
        state |= {f"features.{place}.weight": weight, f"features.{place}.bias": bias}
        inputs = width
    return state | {"classifier.0.weight": torch.zeros(1).expand(4096, 25088)}


def test_a_file_of_vgg19_loads(tmp_path):
    state, picture = vgg19_state(), images(0, batch=1)
    torch.save(state, tmp_path / "vgg19.pth")
    convolutions = [
        {
            "kernel": state[f"features.{place}.weight"].numpy().transpose(2, 3, 1, 0),
            "bias": state[f"features.{place}.bias"].numpy(),
        }
        for place in (0, 2, 5)
    ]
    expected = by_hand(normalised((picture + 1) / 2), convolutions)[2]
    assert torch.allclose(
        vgg(net="vgg19", weights=tmp_path / "vgg19.pth")(picture), expected, rtol=1e-4, atol=1e-4
    )


def test_a_safetensors_file_of_vgg19_loads_and_its_layers_are_all_there(tmp_path):
    state = {name: tensor.half().contiguous() for name, tensor in vgg19_state().items() if "feat" in name}
    save_file(state, tmp_path / "vgg19.safetensors")
    features = vgg(net="vgg19", weights=str(tmp_path / "vgg19.safetensors"), layer="conv5_4", relu=True)
    assert features(images(0, batch=1)).shape == (1, 512, 2, 2)
    widths = [layer.out_channels for layer in features.layers if isinstance(layer, torch.nn.Conv2d)]
    assert widths == VGG19_WIDTHS and len(features.layers) == 36


def test_vgg19_without_a_file_says_what_to_do():
    with pytest.raises(ValueError, match=r"vgg19-dcbb9e9d\.pth.*or use net='vgg16'"):
        VGGFeatures(net="vgg19")
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.pth"):
        VGGFeatures(net="vgg19", weights="nowhere.pth")


class Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    done = tmp_path / "done"
    torch.save(vgg19_state() | {"features.0.weight": Attack(done)}, tmp_path / "vgg19.pth")
    with pytest.raises(ValueError, match="could run code"):
        VGGFeatures(net="vgg19", weights=tmp_path / "vgg19.pth")
    assert not done.exists()
    torch.load(tmp_path / "vgg19.pth", weights_only=False)
    assert done.exists(), "or else the file was no attack"


@pytest.mark.parametrize("name", ["vgg19.pth", "vgg19.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04" + bytes(60)])
def test_a_file_that_is_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict"):
        VGGFeatures(net="vgg19", weights=tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features.5.weight": torch.zeros(128, 64, 1, 1)},
            r"features\.5\.weight should be \(128, 64, 3, 3\)",
        ),
        ({"features.36.bias": torch.zeros(2)}, r"features\.36\.bias should be absent, but is \(2,\)"),
    ],
)
def test_a_state_dict_of_another_net_is_refused(tmp_path, changes, message):
    torch.save(vgg19_state() | changes, tmp_path / "vgg19.pth")
    with pytest.raises(ValueError, match=message):
        VGGFeatures(net="vgg19", weights=tmp_path / "vgg19.pth")


def test_a_file_of_vgg19_is_not_taken_for_vgg16(tmp_path):
    torch.save(vgg19_state(), tmp_path / "vgg19.pth")
    with pytest.raises(ValueError, match="13 convolutions"):
        VGGFeatures(net="vgg16", weights=tmp_path / "vgg19.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        VGGFeatures(net="vgg16", weights=tmp_path / "list.pth")


def test_unknown_layers_and_nets_are_named():
    with pytest.raises(ValueError, match=r"vgg16 has the layers conv1_1, .*conv5_3; got 'conv3_4'"):
        vgg(layer="conv3_4")
    with pytest.raises(ValueError, match="expected one of the nets vgg16, vgg19; got 'vgg11'"):
        VGGFeatures(net="vgg11")


# -------------------------------------------------------------------- regions
def slow_region(image: np.ndarray, box: list[float], size: int) -> np.ndarray:
    """Bilinear samples of an image [C, H, W] one by one; a coordinate beyond the outermost centres is moved there."""
    _, height, width = image.shape
    found = np.zeros((len(image), size, size))
    for row in range(size):
        for column in range(size):
            u = box[0] + (column + 0.5) / size * (box[2] - box[0])
            v = box[1] + (row + 0.5) / size * (box[3] - box[1])
            x, y = np.clip(u * width - 0.5, 0, width - 1), np.clip(v * height - 0.5, 0, height - 1)
            left, top = int(x), int(y)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                weight = max(0, 1 - abs(x - c)) * max(0, 1 - abs(y - r))
                if weight > 0:
                    found[:, row, column] += weight * image[:, r, c]
    return found


def test_a_box_of_the_whole_picture_is_the_picture():
    picture = images(0)
    assert torch.allclose(regions(picture, WHOLE, 32), picture, atol=1e-5)
    half = regions(picture, torch.tensor([[0.5, 0.0, 1.0, 0.5]]), 16)
    assert torch.allclose(half, picture[:, :, :16, 16:], atol=1e-5)


def test_regions_are_bilinear_samples():
    picture = images(1, size=12).double()
    boxes = torch.tensor(
        [[0.2, 0.35, 0.7, 0.6], [-0.3, 0.5, 0.4, 1.2]], dtype=torch.float64
    )  # one leaves the picture
    for found, image, box in zip(regions(picture, boxes, 7), picture, boxes, strict=True):
        assert np.allclose(found.numpy(), slow_region(image.numpy(), box.tolist(), 7), atol=1e-12)


def test_regions_are_differentiable():
    picture = images(2, batch=1, size=6).double().requires_grad_()
    box = torch.tensor([[0.21, 0.33, 0.74, 0.62]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image, box: regions(image, box, 4), (picture, box))


@pytest.mark.parametrize("box", [[0.5, 0.0, 0.5, 1.0], [0.0, 0.8, 1.0, 0.2], [0.0, 0.0, math.nan, 1.0]])
def test_a_box_has_an_inside(box):
    with pytest.raises(ValueError, match="u0 < u1"):
        regions(images(0), torch.tensor([box]))


def test_as_many_boxes_as_images():
    with pytest.raises(ValueError, match="one for each of 2 images; got 3"):
        regions(images(0), WHOLE.expand(3, 4))


# -------------------------------------------------------------------- parts
def middle(box: torch.Tensor) -> torch.Tensor:
    return (box[:, :2] + box[:, 2:]) / 2


def test_parts_are_the_contours_of_mediapipe():
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Lines

    contours = {
        "left_eye": Lines.FACE_LANDMARKS_LEFT_EYE,
        "right_eye": Lines.FACE_LANDMARKS_RIGHT_EYE,
        "nose": Lines.FACE_LANDMARKS_NOSE,
        "mouth": Lines.FACE_LANDMARKS_LIPS,
    }
    assert contours.keys() == PARTS_OF_FACE.keys()
    for name, lines in contours.items():
        assert set(PARTS_OF_FACE[name].vertices) == {end for line in lines for end in (line.start, line.end)}


@pytest.mark.parametrize("count", [468, 478])
def test_boxes_hold_their_part_and_its_padding(count):
    uv = torch.zeros(2, count, 2)
    eye, mouth = list(PARTS_OF_FACE["left_eye"].vertices), list(PARTS_OF_FACE["mouth"].vertices)
    uv[:, eye] = torch.tensor([0.6, 0.4])
    uv[0, eye[3]], uv[0, eye[5]] = torch.tensor([0.7, 0.41]), torch.tensor([0.65, 0.3])
    uv[:, mouth] = torch.tensor([0.5, 1.0])
    boxes = part_boxes(uv)
    pad = 15 / 256
    assert torch.allclose(boxes["left_eye"][0], torch.tensor([0.6 - pad, 0.3 - pad, 0.7 + pad, 0.41 + pad]))
    assert torch.allclose(boxes["left_eye"][1], torch.tensor([0.6 - pad, 0.4 - pad, 0.6 + pad, 0.4 + pad]))
    assert torch.allclose(boxes["mouth"][1] * 256, torch.tensor([120.0, 248.0, 136.0, 264.0]))


def test_boxes_need_all_landmarks():
    with pytest.raises(ValueError, match="468 or 478 of them, got 68"):
        part_boxes(torch.zeros(1, 68, 2))
    with pytest.raises(ValueError, match="finite landmarks"):
        part_boxes(torch.full((1, 478, 2), math.nan))


def test_the_canonical_face_as_cameras_see_it():
    yaw = torch.tensor([0.0, 0.6])
    front, turned = (
        {name: box[i : i + 1] for name, box in part_boxes(canonical_landmarks(orbit(yaw, 0.0))).items()}
        for i in (0, 1)
    )
    left, right, nose, mouth = (middle(front[name])[0] for name in ("left_eye", "right_eye", "nose", "mouth"))
    assert right[0] < nose[0] < left[0], "the person's left is on the right of the picture"
    assert left[1] < nose[1] < mouth[1], "v goes down"
    width = {name: (box[0, 2] - box[0, 0]).item() for name, box in turned.items()}
    assert width["left_eye"] > 1.1 * width["right_eye"], "positive yaw shows the left cheek"


def test_boxes_of_the_mirrored_camera_are_mirrored():
    camera = orbit(0.5, 0.2)
    boxes, mirrored = (part_boxes(canonical_landmarks(c)) for c in (camera, camera.mirror()))
    swapped = {"left_eye": "right_eye", "right_eye": "left_eye", "nose": "nose", "mouth": "mouth"}
    for name, other in swapped.items():
        u0, v0, u1, v1 = boxes[name].unbind(1)
        flipped = torch.stack([1 - u1, v0, 1 - u0, v1], dim=1)
        assert torch.allclose(mirrored[other], flipped, atol=0.005), name


def test_vertices_of_another_head_may_be_given():
    camera = orbit(torch.tensor([0.0, 0.3]), 0.1)
    vertices = torch.randn(470, 3, generator=torch.Generator().manual_seed(0)) / 10
    uv = canonical_landmarks(camera, vertices)
    assert torch.allclose(uv, camera.project(vertices.expand(2, 470, 3))[0])


def test_the_canonical_face_stands_where_landmarks_are_detected():
    portrait = faces.portrait_from_photo(data.astronaut(), 64, parse=False)
    detected = part_boxes(portrait.landmarks[None, :, :2])
    canonical = part_boxes(canonical_landmarks(portrait.camera))
    for name, box in detected.items():
        corner, far = torch.maximum(box, canonical[name])[0, :2], torch.minimum(box, canonical[name])[0, 2:]
        shared = (far - corner).clamp_min(0).prod()
        areas = [(b[0, 2:] - b[0, :2]).prod() for b in (box, canonical[name])]
        assert shared / (sum(areas) - shared) > 0.5, name


# -------------------------------------------------------------------- SPI eq. 10
def features_of(image: torch.Tensor) -> torch.Tensor:
    return RandomFeatures().target(image)


@pytest.fixture(scope="module")
def boxes() -> dict[str, torch.Tensor]:
    return part_boxes(canonical_landmarks(orbit(torch.tensor([0.0, 0.4]), 0.0)))


def test_the_loss_is_the_sum_over_parts(boxes):
    rendered, target = images(0), images(1)
    options = {"size": 12, "shown": None}
    total = parts_loss(features_of, rendered, target, boxes, **options)
    alone = {
        part: contextual_loss(
            *(features_of(regions(x, boxes[part], 12)) for x in (rendered, target)), bandwidth=0.5
        )
        for part in PARTS_OF_FACE
    }
    assert torch.allclose(total, sum(alone.values()))
    released = parts_loss(features_of, rendered, target, boxes, parts=RELEASED_PARTS, **options)
    assert torch.allclose(released, total - alone["nose"])
    assert torch.allclose(
        parts_loss(features_of, target, target, boxes, **options), torch.zeros(2), atol=0.01
    )


def test_both_pictures_are_enlarged_first(boxes):
    rendered, target = images(0), images(1)
    loss = parts_loss(features_of, rendered, target, boxes, size=12, shown=48)
    larger = [
        F.interpolate(x, size=(48, 48), mode="bilinear", align_corners=False) for x in (rendered, target)
    ]
    assert torch.allclose(loss, parts_loss(features_of, *larger, boxes, size=12, shown=None), atol=1e-4)


def test_each_picture_has_its_own_boxes(boxes):
    """A picture that is shifted, with boxes that are shifted, costs nothing; the picture's own boxes do."""
    picture = images(3, size=40)
    shifted = picture.roll(4, dims=3)
    moved = {part: box + torch.tensor([0.1, 0.0, 0.1, 0.0]) for part, box in boxes.items()}
    options = {"size": 12, "shown": None}
    assert torch.allclose(
        parts_loss(features_of, shifted, picture, moved, boxes, **options), torch.zeros(2), atol=0.05
    )
    assert (parts_loss(features_of, shifted, picture, boxes, **options) > 0.5).all()


def test_only_the_parts_matter(boxes):
    picture = images(0).requires_grad_()
    parts_loss(features_of, picture, images(1), boxes, parts=("mouth",), size=12, shown=None).sum().backward()
    touched = picture.grad.abs().sum(dim=1) > 0
    assert touched.any()
    for mask, (u0, v0, u1, v1) in zip(touched, (32 * boxes["mouth"]).tolist(), strict=True):
        rows, columns = mask.nonzero().float().unbind(1)
        assert columns.min() > u0 - 1.5 and columns.max() < u1 + 0.5
        assert rows.min() > v0 - 1.5 and rows.max() < v1 + 0.5


@pytest.mark.parametrize("parts", [("ears",), ()])
def test_unknown_parts_are_named(boxes, parts):
    with pytest.raises(ValueError, match="expected some of the parts left_eye, right_eye, nose, mouth; got"):
        parts_loss(features_of, images(0), images(1), boxes, parts=parts)
