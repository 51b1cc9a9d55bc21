"""GOAE's released files: what they hold is loaded whole, and what differs is named. None can be had here, so that
these are small files in their layout."""

import dataclasses
import os
import pickle
import re

import pytest
import torch

from lib.encoders.feature_alignment import AFAConfig, FeatureAlignment
from lib.encoders.geometry_aware import GOAEConfig, GOAEEncoder
from lib.encoders.irse import IRSEConfig
from lib.encoders.official import read_backbone, read_goae
from lib.encoders.swin import SwinConfig, SwinV2
from lib.generators import CheckpointError

BACKBONE = {
    "resolution": 64,
    "dims": (8, 8, 16, 16),
    "depths": (2, 1, 1, 1),
    "heads": (2, 2, 2, 2),
    "window": 4,
    "pretrained_windows": (3, 3, 3, 2),
}
ENCODER = GOAEConfig(**BACKBONE, w_dim=16, attention_dim=16, attention_hidden=24)
BODY = IRSEConfig(stem=8, units=(3, 3, 3), widths=(8, 8, 16), reduction=4)
ALIGNMENT = AFAConfig(resolution=32, channels=16, body=BODY, width=16, hidden=24)
"""Every layer of the released networks, narrow; but for depths."""

CONFIGS = {"encoder_config": ENCODER, "alignment_config": ALIGNMENT}


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    made = GOAEEncoder(ENCODER).eval(), FeatureAlignment(ALIGNMENT).eval()
    with torch.no_grad():
        for network in made:
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return made


def released_state(network):
    """As the original saves it: SwinV2's tables are among the tensors."""
    tables = {
        name: value
        for name, value in network.named_buffers()
        if not name.endswith(("mean", "var", "tracked"))
    }
    return {name: value.clone() for name, value in (network.state_dict() | tables).items()}


def saved(path, contents, **options):
    torch.save(contents, path, **options)
    return path


@pytest.fixture
def files(networks, tmp_path):
    names = ("encoder_FFHQ.pt", "afa_FFHQ.pt")
    return [saved(tmp_path / name, released_state(made)) for name, made in zip(names, networks, strict=True)]


def same(found, expected):
    state = expected.state_dict()
    return found.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in found.state_dict().items()
    )


# ---- what is loaded ---------------------------------------------------------------------------------------


def test_both_files_are_loaded_whole(files, networks):
    found = read_goae(*files, **CONFIGS)
    assert same(found.encoder, networks[0])
    assert same(found.alignment, networks[1])
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(found.encoder(image), networks[0](image))


def test_a_release_is_ready_to_be_used(files):
    found = read_goae(*files, **CONFIGS)
    for network in (found.encoder, found.alignment):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert found.residual_sign == -1  # the release subtracts the photo from the reconstruction
    assert found.feature_resolution == 32


def test_reading_draws_no_random_numbers(files):
    before = torch.random.get_rng_state()
    read_goae(*files, **CONFIGS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_encoder_may_come_alone(files):
    assert read_goae(files[0], **CONFIGS).alignment is None


def both(networks):
    parts = zip(("encoder", "afa"), networks, strict=True)
    return {f"{part}.{name}": value for part, made in parts for name, value in released_state(made).items()}


@pytest.mark.parametrize("beside", [{}, {"decoder.backbone.mapping.w_avg": torch.zeros(4)}])
def test_one_file_may_have_both(networks, tmp_path, beside):
    found = read_goae(saved(tmp_path / "net.pt", both(networks) | beside), **CONFIGS)
    assert same(found.encoder, networks[0])
    assert same(found.alignment, networks[1])


@pytest.mark.parametrize("form", ["state_dict", "model", "module.", "legacy", "float16", "no tables"])
def test_states_are_found_however_they_were_saved(networks, tmp_path, form):
    state, options = released_state(networks[0]), {}
    if form in ("state_dict", "model"):
        state = {form: state, "step": 3}
    elif form == "module.":
        state = {f"module.{name}": value for name, value in state.items()}
    elif form == "legacy":
        options = {"_use_new_zipfile_serialization": False}
    elif form == "float16":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    else:
        state = networks[0].state_dict()
    found = read_goae(saved(tmp_path / "encoder.pt", state, **options), **CONFIGS).encoder
    for name, value in networks[0].state_dict().items():
        expected = value.half().float() if form == "float16" else value
        assert torch.equal(found.state_dict()[name], expected)


def test_a_file_has_the_released_names(files):
    """The alignment's, by hand from the public source; the encoder's are in the tests of its modules."""
    unit = (
        r"res_layer\.[0134]\.(weight|bias|running_mean|running_var|num_batches_tracked)|res_layer\.2\.weight"
        r"|res_layer\.5\.fc[12]\.weight|shortcut_layer\.[01]\.(weight|bias|running_mean|running_var|num_batches_tracked)"
    )
    attention = r"(multihead_attn\.(in_proj_|out_proj\.)|linear[12]\.)(weight|bias)"
    known = re.compile(
        rf"input_layer\.[012]\.\w+|body\.[0-8]\.({unit})|output_layer\.[02]\.(weight|bias)"
        rf"|cross_att_(gamma|beta)\.{attention}"
    )
    names = list(torch.load(files[1], weights_only=True))
    assert [name for name in names if not known.fullmatch(name)] == []
    assert len([name for name in names if name.startswith("cross_att")]) == 16
    assert {name.split(".")[1] for name in names if name.startswith("body")} == set("012345678")


def test_public_backbones_load_without_their_classifier(tmp_path):
    config = SwinConfig(**BACKBONE)
    torch.manual_seed(1)
    backbone = SwinV2(config)
    head = {"head.weight": torch.zeros(1000, 16), "head.bias": torch.zeros(1000)}
    path = saved(tmp_path / "swinv2.pth", {"model": released_state(backbone) | head})
    assert same(read_backbone(path, config), backbone)


def test_released_sizes_are_the_default(tmp_path, files):
    """A small file is compared with the released network, whose sizes the error tells."""
    with pytest.raises(
        CheckpointError, match=r"patch_embed.proj.weight \[8, 3, 4, 4\] \(expected \[128, 3, 4, 4\]\)"
    ):
        read_backbone(saved(tmp_path / "small.pth", SwinV2(SwinConfig(**BACKBONE)).state_dict()))


# ---- what is refused --------------------------------------------------------------------------------------


def refusal(tmp_path, networks, change):
    """The error for an encoder's file after a change of its entries."""
    state = released_state(networks[0])
    change(state)
    with pytest.raises(CheckpointError) as caught:
        read_goae(saved(tmp_path / "changed.pt", state), **CONFIGS)
    assert "changed.pt" in str(caught.value)
    return str(caught.value)


def test_a_missing_name_is_named(tmp_path, networks):
    message = refusal(tmp_path, networks, lambda state: state.pop("mapper_query_spatial_mid.2.weight"))
    assert "lacks 1 entries: mapper_query_spatial_mid.2.weight" in message
    assert "unknown" not in message


def test_a_renamed_name_is_named_with_the_nearest(tmp_path, networks):
    def rename(state):
        state["cross_att_middle.linear1.weight"] = state.pop("cross_att_mid.linear1.weight")
        state["sth_else"] = torch.zeros(1)

    message = refusal(tmp_path, networks, rename)
    assert "lacks 1 entries: cross_att_mid.linear1.weight" in message
    assert "has unknown 2 entries: " in message
    assert "cross_att_middle.linear1.weight may be its cross_att_mid.linear1.weight" in message


def test_another_shape_is_named(tmp_path, networks):
    def widen(state):
        state["mapper_coarse_channel.0.weight"] = torch.zeros(16, 17)

    expected = "mapper_coarse_channel.0.weight [16, 17] (expected [16, 16])"
    assert expected in refusal(tmp_path, networks, widen)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((1,), torch.nan), "not finite"),
        (torch.zeros(1, dtype=torch.int64), "expected real numbers"),
        ("text", "is 'text': save the network's state_dict"),
    ],
)
def test_unusable_values_are_refused(tmp_path, networks, value, message):
    found = refusal(tmp_path, networks, lambda state: state.update({"mapper_base_spatial.2.bias": value}))
    assert message in found
    assert "mapper_base_spatial.2.bias" in found


def test_a_count_must_be_whole(tmp_path, networks, files):
    state = released_state(networks[1])
    state["input_layer.1.num_batches_tracked"] = torch.tensor(1.5)
    with pytest.raises(CheckpointError, match=r"torch.int64 as input_layer.1.num_batches_tracked"):
        read_goae(files[0], saved(tmp_path / "afa.pt", state), **CONFIGS)


@pytest.mark.parametrize(
    "changes", [{"window": 2, "pretrained_windows": (3, 3, 3, 2)}, {"pretrained_windows": (0, 0, 0, 0)}]
)
def test_files_for_other_windows_are_refused(networks, tmp_path, changes):
    """Their weights would fit: only the tables tell."""
    other = GOAEEncoder(dataclasses.replace(ENCODER, **changes))
    assert other.state_dict().keys() == networks[0].state_dict().keys()
    path = saved(tmp_path / "other.pt", released_state(other))
    with pytest.raises(CheckpointError, match="made for other windows"):
        read_goae(path, **CONFIGS)


def test_a_table_of_no_window_is_refused(tmp_path, networks):
    def add(state):
        state["swin_model.layers.3.blocks.0.attn_mask"] = torch.zeros(1, 4, 4)

    assert "belongs to no window" in refusal(tmp_path, networks, add)


def test_names_of_other_parts_are_refused(networks, tmp_path):
    path = saved(tmp_path / "net.pt", both(networks) | {"optimiser.step": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"in encoder, afa and decoder; found 'optimiser.step'"):
        read_goae(path, **CONFIGS)


class Attack:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda contents, path: path.write_bytes(pickle.dumps(contents))]
)
def test_nothing_in_a_file_is_run(networks, tmp_path, save):
    mark = tmp_path / "was run"
    path = tmp_path / "hostile.pt"
    save(released_state(networks[0]) | {"mapper_base_spatial.0.bias": Attack(mark)}, path)
    with pytest.raises(CheckpointError, match=r"hostile.pt: .*mkdir"):
        read_goae(path, **CONFIGS)
    assert not mark.exists()
    with path.open("rb") as file:  # the attack is one
        (pickle.load(file) if save is not torch.save else torch.load(file, weights_only=False))
    assert mark.exists()


@pytest.mark.parametrize("contents", [[1, 2], {}, "text", {"step": 3}])
def test_files_of_other_things_are_refused(tmp_path, contents):
    with pytest.raises(CheckpointError, match="expected"):
        read_goae(saved(tmp_path / "other.pt", contents), **CONFIGS)


def test_a_file_that_is_no_checkpoint_says_what_it_may_be(tmp_path):
    path = tmp_path / "encoder.pt"
    path.write_text("<html>sign in</html>")
    with pytest.raises(CheckpointError, match="web page"):
        read_goae(path, **CONFIGS)


def test_a_missing_file_is_named(tmp_path, files):
    for paths in ([tmp_path / "absent.pt"], [files[0], tmp_path / "absent.pt"]):
        with pytest.raises(FileNotFoundError, match=r"absent.pt"):
            read_goae(*paths, **CONFIGS)
