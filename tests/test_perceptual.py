import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import assets, perceptual
from lib.perceptual import LPIPS, read_array_pickle


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request) -> LPIPS:
    return load(request.param, resolution=None)


def load(net: str, resolution: int | None) -> LPIPS:
    try:
        return LPIPS(net, resolution)
    except assets.AssetError as error:
        if os.environ.get("EG3D_STUDY_OFFLINE"):
            pytest.skip(f"offline, and not in the cache: {error}")
        raise


def pictures(seed: int, size: int = 64, batch: int = 2) -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def test_zero_at_equality_and_symmetric(lpips):
    a, b = pictures(0), pictures(1)
    assert lpips(a, a).eq(0).all()
    assert lpips(a, b).shape == (2,)
    assert (lpips(a, b) > 0.05).all()
    assert torch.allclose(lpips(a, b), lpips(b, a), rtol=1e-6)


def test_grows_with_noise(lpips):
    a = pictures(0)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    distances = torch.stack([lpips(a, a + level * noise) for level in (0.02, 0.05, 0.1, 0.2)])
    assert (distances.diff(dim=0) > 0).all()


def test_equals_the_formula_written_out(lpips):
    """Zhang et al., 2018, equation 1, pixel by pixel, from the raw activations."""
    a, b = pictures(0, size=48, batch=1), pictures(1, size=48, batch=1)
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])

    def activations(image: torch.Tensor) -> list[np.ndarray]:
        x = torch.from_numpy(
            ((image[0].numpy().transpose(1, 2, 0) - shift) / scale).transpose(2, 0, 1)[None]
        ).float()
        taps = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}[
            lpips.net
        ]  # layers up to and with the ReLU
        return [lpips.trunk[:last](x)[0].numpy().astype(np.float64) for last in taps]

    heads = torch.load(assets.folder("lpips") / f"{lpips.net}.pth", map_location="cpu", weights_only=True)
    expected = 0.0
    for layer, (x, y) in enumerate(zip(activations(a), activations(b), strict=True)):
        head = heads[f"lin{layer}.model.1.weight"].flatten().numpy().astype(np.float64)
        _, height, width = x.shape
        for i in range(height):
            for j in range(width):
                u, v = (p[:, i, j] / (np.sqrt((p[:, i, j] ** 2).sum()) + 1e-10) for p in (x, y))
                expected += (head * (u - v) ** 2).sum() / (height * width)
    assert lpips(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_equals_the_lpips_package(lpips):
    package = pytest.importorskip(
        "lpips", exc_type=ImportError, reason="the lpips package does not import here"
    )
    theirs = package.LPIPS(net=lpips.net, verbose=False)
    a, b = pictures(0), pictures(1)
    with torch.no_grad():
        assert torch.allclose(lpips(a, b), theirs(a, b).flatten(), atol=1e-6)


def test_a_prepared_target_gives_the_same_distance(lpips):
    a, b = pictures(0), pictures(1)
    target = lpips.target(b)
    assert torch.equal(lpips(a, target), lpips(a, b))
    assert not any(layer.requires_grad for layer in target.layers)


def test_gradient_is_finite_and_descends(lpips):
    target = pictures(1)
    image = torch.zeros_like(target, requires_grad=True)  # flat grey: whole layers activate nothing somewhere
    before = lpips(image, target).sum()
    (gradient,) = torch.autograd.grad(before, image)
    assert gradient.isfinite().all()
    step = 0.1 * gradient / gradient.norm()
    assert lpips(image - step, target).sum() < before


def test_gradient_is_finite_where_nothing_activates():
    silent = torch.zeros(1, 4, 3, 3, requires_grad=True)
    perceptual.unit_length(silent).sum().backward()
    assert silent.grad.isfinite().all()


def test_resizes_both_pictures_first():
    resizing, plain = load("alex", 64), load("alex", None)
    a, b = pictures(0, size=40), pictures(1, size=40)
    enlarged = (F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False) for x in (a, b))
    assert torch.equal(resizing(a, b), plain(*enlarged))


def test_close_in_bfloat16():
    lpips = load("alex", 64)
    a, b = pictures(0), pictures(1)
    with torch.autocast("cpu", torch.bfloat16):
        half = lpips(a, b)
    assert half.dtype == torch.float32
    assert torch.allclose(half, lpips(a, b), rtol=0.05)


def test_weights_are_frozen():
    lpips = load("alex", None).train()
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_says_what_it_expects():
    with pytest.raises(ValueError, match="alex, vgg"):
        LPIPS("squeeze")
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\].*\(1, 1, 8, 8\)"):
        load("alex", None)(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


# ----------------------------------------------------------------------- pickles
class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_arrays_survive_the_restricted_unpickler(tmp_path):
    arrays = {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, "b": np.ones(3, np.int64)}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    read = read_array_pickle(path)
    assert np.array_equal(read["a"]["kernel"], arrays["a"]["kernel"])
    assert np.array_equal(read["b"], arrays["b"])


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    path, touched = tmp_path / "weights.ckpt", tmp_path / "touched"
    path.write_bytes(pickle.dumps({"kernel": np.ones(3), "payload": Malicious(touched)}))
    with pytest.raises(ValueError, match=r"weights\.ckpt.*only numpy arrays"):
        read_array_pickle(path)
    assert not touched.exists()
    pickle.loads(path.read_bytes())  # it would have run
    assert touched.exists()


def test_an_array_of_objects_cannot_smuggle_code(tmp_path):
    path, touched = tmp_path / "weights.ckpt", tmp_path / "touched"
    smuggled = np.empty(1, object)
    smuggled[0] = Malicious(touched)
    path.write_bytes(pickle.dumps({"kernel": smuggled}))
    with pytest.raises(ValueError, match="only numpy arrays"):
        read_array_pickle(path)
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"kernel": np.ones(99)})[:-40]])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.ckpt"):
        read_array_pickle(path)
