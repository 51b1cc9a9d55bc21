"""Encoders as a user meets them: by name, from files, for the generator that they belong to."""

import dataclasses
import hashlib
import json
import os
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib import paths
from lib.cameras import Camera, orbit
from lib.encoders import ENCODERS, invert_encoder, load_encoder, networks_of, storage
from lib.encoders.encoder import generator_digest
from lib.encoders.goae import mix, refine
from lib.encoders.storage import KINDS, Stored, load_network, network_digest, network_path, save_network
from lib.encoders.triplanenet import offset_planes
from lib.generators import EG3D, CheckpointError, load_generator, save_generator
from lib.images import resize
from lib.inversion import Inversion
from tests.tiny_encoders import (
    NETWORKS,
    PSP,
    assert_unchanged,
    deep_generator,
    network,
    state_of,
    write_networks,
)

CALM = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")
SHIPPED = ("psp", "e4e", "triplanenet", "goae-wplus", "goae", "goae-no_mix", "goae-convolution")
"""Methods whose networks `home` has."""
FACTS = {"generator_sha256": "x"}
VIEWS = orbit(torch.tensor([0.3, -0.4, 0.0]), torch.tensor([0.1, 0.0, -0.1]))


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return deep_generator()


@pytest.fixture(scope="module")
def networks(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    write_networks(folder, generator)
    return folder


@pytest.fixture
def home(networks, tmp_path, monkeypatch):
    """Networks ship from here; where others are trained is empty."""
    monkeypatch.setattr(storage, "SHIPPED", networks)
    monkeypatch.setattr(storage, "TRAINED", tmp_path / "trained")
    return networks


@pytest.fixture(scope="module")
def photos(generator) -> torch.Tensor:
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(3))
    return generator.synthesize(generator.map(z, VIEWS), VIEWS).image


# ----------------------------------------------------------------------- encoding
@pytest.mark.parametrize("name", SHIPPED)
def test_a_picture_becomes_a_head_seen_from_its_camera(home, generator, photos, name):
    before, state = state_of(generator), torch.get_rng_state()
    encoder = load_encoder(name, generator)
    found = encoder.encode(photos[:1], VIEWS[0])
    assert isinstance(found, Inversion) and found.generator is generator
    assert found.extras["method"] == name
    assert torch.allclose(found.camera.label(), VIEWS[0].label())
    assert ("planes" in found.extras) == (ENCODERS[name].refinement is not None)
    assert not found.w_plus.requires_grad and not found.planes().requires_grad
    view = found.render()
    assert view.image.shape == photos[:1].shape and view.image.isfinite().all()
    again = load_encoder(name, generator).encode(photos[:1], VIEWS[0])
    assert torch.equal(again.w_plus, found.w_plus) and torch.equal(again.planes(), found.planes())
    assert_unchanged(generator, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_batch_is_encoded_row_by_row(home, generator, photos, name):
    encoder = load_encoder(name, generator)
    batch = encoder.encode_batch(photos, VIEWS)
    assert len(batch) == 3
    for i, found in enumerate(batch):
        alone = encoder.encode(photos[i : i + 1], VIEWS[i])
        assert torch.allclose(found.w_plus, alone.w_plus, atol=1e-5)
        assert torch.allclose(found.planes(), alone.planes(), atol=1e-3)
        assert torch.equal(found.camera.label(), alone.camera.label())
    assert not torch.allclose(batch[0].w_plus, batch[1].w_plus, atol=1e-3)


def test_heads_of_a_batch_keep_no_memory_of_the_others(home, generator, photos):
    """A head that is kept, or saved, does not hold its whole batch."""
    for found in load_encoder("goae", generator).encode_batch(photos, VIEWS):
        for tensor in (found.w_plus, found.extras["planes"]):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_codes_are_the_networks(home, generator, photos):
    for name in ("psp", "e4e", "goae-wplus"):
        part = load_network(home / f"{ENCODERS[name].encoder}.safetensors").network
        expected = generator.w_mean + part(resize(photos, part.config.resolution))
        found = load_encoder(name, generator).encode_batch(photos, VIEWS)
        assert torch.allclose(torch.cat([one.w_plus for one in found]), expected, atol=1e-6)


def test_planes_are_those_of_the_methods(home, generator, photos):
    """TriPlaneNet adds to pSp's planes; GOAE mixes what its alignment refines, in the form that the name says."""
    code = load_encoder("psp", generator).encode(photos[:1], VIEWS[0])
    second = load_network(home / "portraits64-triplanenet.safetensors").network
    expected = offset_planes(generator, second, photos[:1], code.w_plus, VIEWS[0])
    found = load_encoder("triplanenet", generator).encode(photos[:1], VIEWS[0])
    assert torch.equal(found.w_plus, code.w_plus)
    assert torch.allclose(found.planes(), expected, atol=1e-5)

    code = load_encoder("goae-wplus", generator).encode(photos[:1], VIEWS[0])
    for name, part, form in (
        ("goae", "goae-alignment", "planes"),
        ("goae-no_mix", "goae-alignment", "none"),
        ("goae-released_mix", "goae-alignment", "released"),
        ("goae-convolution", "goae-convolution", "planes"),
    ):
        alignment = load_network(home / f"portraits64-{part}.safetensors").network
        refined = refine(generator, alignment, photos[:1], code.w_plus, VIEWS[0])
        found = load_encoder(name, generator).encode(photos[:1], VIEWS[0])
        assert torch.equal(found.w_plus, code.w_plus)
        assert torch.allclose(found.planes(), mix(generator, refined, VIEWS[0], form), atol=1e-5), name
        assert not torch.allclose(found.planes(), code.planes(), atol=1e-2)


@CALM
def test_the_method_is_the_encoder(home, generator, photos):
    for name in ("goae", "psp"):
        expected = load_encoder(name, generator).encode(photos[:1], VIEWS[0])
        found = invert_encoder(generator, photos[:1], VIEWS[0].label(), encoder=name, seed=5, progress=False)
        assert torch.equal(found.w_plus, expected.w_plus)
        assert torch.equal(found.planes(), expected.planes())
        assert found.facts() == expected.facts()


def test_a_head_with_planes_is_saved_and_loaded(home, generator, photos, tmp_path):
    found = load_encoder("goae", generator).encode(photos[:1], VIEWS[0])
    base = str(save_generator(generator, tmp_path / "base.safetensors", torch.float32))
    for loaded in (
        Inversion.load(found.save(tmp_path / "whole.safetensors")),
        Inversion.load(found.save(tmp_path / "small.safetensors", base=base)),
    ):
        assert torch.equal(loaded.planes(), found.planes())
        assert torch.equal(loaded.render(VIEWS).image, found.render(VIEWS).image)
        assert loaded.facts() == found.facts()


# ----------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 20, 20), r"\(1, 3, 16, 16\); got \(1, 3, 20, 20\)"),
        (torch.zeros(2, 3, 16, 16), r"\(1, 3, 16, 16\); got \(2, 3, 16, 16\)"),
        (torch.full((1, 3, 16, 16), torch.nan), "NaN"),
        (torch.full((1, 3, 16, 16), 255.0), r"must be in \[-1, 1\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float"),
    ],
)
def test_bad_pictures_are_refused(home, generator, image, message):
    with pytest.raises(ValueError, match=message):
        load_encoder("psp", generator).encode(image, VIEWS[0])


def test_bad_cameras_are_refused(home, generator, photos):
    encoder = load_encoder("psp", generator)
    with pytest.raises(ValueError, match="needs the camera"):
        encoder.encode(photos[:1])
    with pytest.raises(ValueError, match="got 3 for 1"):
        encoder.encode(photos[:1], VIEWS)
    with pytest.raises(ValueError, match="got 1 for 3"):
        encoder.encode_batch(photos, VIEWS[0])
    with pytest.raises(ValueError, match="from the origin"):
        encoder.encode(photos[:1], orbit(0.0, 0.0, radius=4.0))


def test_an_unknown_name_gets_the_known_ones(generator):
    with pytest.raises(ValueError, match="no encoder is called 'gaoe'; there are: psp, e4e, triplanenet"):
        load_encoder("gaoe", generator)


def test_an_encoder_of_another_generator_is_refused_and_that_one_named(home, photos):
    other = deep_generator()
    other.decoder.net[0].weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"'portraits64-goae' was trained for another .*'portraits64'"):
        load_encoder("goae", other)


def test_each_network_of_a_method_must_be_the_generators(home, generator, tmp_path, monkeypatch):
    mixed = tmp_path / "mixed"
    other = deep_generator()
    other.decoder.net[0].weight.mul_(1.1)
    write_networks(mixed, other)
    own = home / "portraits64-goae.safetensors"
    (mixed / own.name).write_bytes(own.read_bytes())
    monkeypatch.setattr(storage, "SHIPPED", mixed)
    load_encoder("goae-wplus", generator)
    with pytest.raises(ValueError, match="'portraits64-goae-alignment' was trained for another"):
        load_encoder("goae", generator)


def test_a_generator_from_a_file_is_the_one_that_was_trained_for(home, generator, tmp_path):
    """Weights are stored in float16; settings count, names of files do not."""
    stored = load_generator(save_generator(generator, tmp_path / "half.safetensors"))
    assert generator_digest(stored) == generator_digest(generator)
    load_encoder("psp", stored)
    other = deep_generator()
    other.config = dataclasses.replace(other.config, neural_resolution=4)
    assert generator_digest(other) != generator_digest(generator)


def test_a_missing_network_says_how_it_is_trained(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHIPPED", paths.ROOT / "lib" / "weights" / "nowhere")
    monkeypatch.setattr(storage, "TRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.encoder_training portraits64-psp"):
        load_encoder("psp", generator)


def test_what_was_trained_here_stands_in_for_what_does_not_ship(home, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHIPPED", paths.ROOT / "lib" / "weights" / "nowhere")
    own = tmp_path / "trained" / "portraits64-psp" / "network.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes((home / "portraits64-psp.safetensors").read_bytes())
    assert network_path("portraits64-psp") == own
    load_encoder("psp", generator)
    monkeypatch.setattr(storage, "SHIPPED", home)
    assert network_path("portraits64-psp").parent == home


# ----------------------------------------------------------------------- files
@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_is_the_same_to_float16(name, tmp_path):
    kind, config = NETWORKS[name]
    original = network(kind, config)
    path = save_network(
        original, kind, tmp_path / "deep" / "n.safetensors", {"generator_sha256": "x", "steps": "7"}
    )
    stored = load_network(path)
    assert type(stored.network) is KINDS[kind][0] and stored.network.config == config
    assert (stored.kind, stored.generator_sha256, stored.facts["steps"]) == (kind, "x", "7")
    assert not stored.network.training
    for key, value in original.state_dict().items():
        found = stored.network.state_dict()[key]
        assert torch.equal(found, value.half().float() if value.is_floating_point() else value), key
    assert all(not p.requires_grad for p in stored.network.parameters())
    assert [file.name for file in path.parent.iterdir()] == ["n.safetensors"]


def test_a_wider_dtype_keeps_every_bit(tmp_path):
    original = network("psp", PSP)
    path = save_network(original, "psp", tmp_path / "n.safetensors", FACTS, torch.float32)
    assert_unchanged(load_network(path).network, state_of(original))
    assert (
        path.stat().st_size
        > 1.5 * save_network(original, "psp", tmp_path / "h.safetensors", FACTS).stat().st_size
    )


def test_weights_beyond_float16_are_not_saved(tmp_path):
    original = network("psp", PSP)
    original.styles[0].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"styles\.0\.weight is not finite as torch\.float16"):
        save_network(original, "psp", tmp_path / "n.safetensors", {})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def file(tmp_path):
    return save_network(network("psp", PSP), "psp", tmp_path / "file.safetensors", FACTS)


def rewritten(file, tensors=lambda t: t, **texts):
    """The file with other tensors or texts; None leaves a text out."""
    with safe_open(file, "pt") as old:
        found, facts = {key: old.get_tensor(key).clone() for key in old.keys()}, old.metadata() | texts  # noqa: SIM118
    other = file.with_name("other.safetensors")
    save_file(
        tensors(found), other, metadata={key: value for key, value in facts.items() if value is not None}
    )
    return other


def renamed(tensors):
    return {("wrong.weight" if key == "latlayer1.weight" else key): value for key, value in tensors.items()}


def reshaped(tensors):
    return tensors | {"latlayer1.bias": torch.zeros(3)}


def spoilt(tensors):
    return tensors | {"latlayer1.bias": torch.full_like(tensors["latlayer1.bias"], torch.inf)}


def whole_numbers(tensors):
    return tensors | {"latlayer1.bias": tensors["latlayer1.bias"].int()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (renamed, r"lacks 1 entries: latlayer1\.weight; it has unknown 1 entries: wrong\.weight"),
        (reshaped, r"latlayer1\.bias \[3\] \(expected \[16\]\)"),
        (spoilt, r"latlayer1\.bias has values that are not finite"),
        (whole_numbers, r"expected real numbers as latlayer1\.bias"),
    ],
)
def test_tensors_that_are_not_the_networks_are_named(file, tensors, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(rewritten(file, tensors))
    assert "other.safetensors" in str(caught.value)


CONFIG = json.dumps(dataclasses.asdict(PSP))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"format": "eg3d-study/eg3d/1"}, "not of an encoder: expected format 'eg3d-study/encoder/1'"),
        ({"format": None}, "not of an encoder.*found None"),
        ({"kind": "vgg"}, "kinds psp, goae, alignment, triplanenet .*'vgg'"),
        ({"generator_sha256": None}, "does not say which generator"),
        ({"config": None}, "configuration in its metadata cannot be used"),
        ({"config": "{"}, "configuration in its metadata cannot be used"),
        ({"config": "[1, 2]"}, "configuration in its metadata cannot be used"),
        ({"config": "[" * 100_000}, "configuration in its metadata cannot be used"),
        ({"config": CONFIG.replace('"n_layers": 10', '"n_layers": 11')}, "levels are the numbers"),
        ({"config": CONFIG.replace('"resolution": 32', '"resolution": 33')}, "power of two"),
        ({"config": CONFIG.replace('"heads"', '"haeds"')}, "unknown settings haeds"),
        ({"config": CONFIG.replace('"n_layers": 10', '"n_layers": 1e99')}, "cannot be used"),
        ({"config": CONFIG.replace('"w_dim": 16', '"w_dim": 32')}, "does not fit the configuration"),
        ({"kind": "goae"}, "cannot be used"),
    ],
)
def test_what_a_file_says_of_itself_is_not_taken_on_trust(file, texts, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(rewritten(file, **texts))
    assert "other.safetensors" in str(caught.value)


def test_damaged_files_are_refused(file, tmp_path):
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) - 5):
        torn = tmp_path / f"{size}.safetensors"
        torn.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"{size}.safetensors is not a readable safetensors file"):
            load_network(torn)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_network(tmp_path / "absent.safetensors")


class Harm:
    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_nothing_is_unpickled(tmp_path):
    trace = tmp_path / "trace"
    plain, zipped = tmp_path / "plain.safetensors", tmp_path / "zipped.safetensors"
    plain.write_bytes(pickle.dumps(Harm(trace)))
    torch.save({"state_dict": Harm(trace)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_network(path)
    assert not trace.exists()
    pickle.loads(plain.read_bytes())
    assert trace.exists(), "the pickle is one that harms"


def test_a_header_that_promises_too_much_is_refused(file, tmp_path):
    length = struct.unpack("<Q", file.read_bytes()[:8])[0]
    greedy = tmp_path / "greedy.safetensors"
    greedy.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8 : 8 + length])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_network(greedy)


def test_a_generators_file_is_no_encoder(generator, tmp_path):
    path = save_generator(generator, tmp_path / "generator.safetensors")
    with pytest.raises(CheckpointError, match="not of an encoder"):
        load_network(path)


def test_stored_says_what_it_belongs_to(file):
    assert isinstance(load_network(file), Stored)


# ----------------------------------------------------------------------- names
def test_a_method_is_made_of_its_networks():
    assert (
        networks_of("goae")
        == ("portraits64-goae", "portraits64-goae-alignment")
        == networks_of("goae-no_mix")
    )
    assert networks_of("goae-wplus") == ("portraits64-goae",)
    assert networks_of("goae-convolution") == ("portraits64-goae", "portraits64-goae-convolution")
    assert networks_of("triplanenet") == ("portraits64-psp", "portraits64-triplanenet")


def test_other_weights_have_another_digest_and_absent_ones_none(home, tmp_path, monkeypatch):
    digest = network_digest("portraits64-goae")
    assert digest == hashlib.sha256((home / "portraits64-goae.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(storage, "SHIPPED", paths.ROOT / "lib" / "weights" / "nowhere")
    assert network_digest("portraits64-goae") == "absent"
    own = tmp_path / "trained" / "portraits64-goae" / "network.safetensors"
    save_network(network(*NETWORKS["portraits64-goae"], seed=9), "goae", own, {})
    assert network_digest("portraits64-goae") not in (digest, "absent")


def test_a_camera_may_be_25_numbers(home, generator, photos):
    encoder = load_encoder("psp", generator)
    found = encoder.encode(photos[:1], VIEWS[0].label()[0].tolist())
    assert torch.allclose(found.camera.label(), Camera.from_label(VIEWS[0].label()).label())
