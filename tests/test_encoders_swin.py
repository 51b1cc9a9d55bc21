"""SwinV2: attention against a loop over tokens, tables against their formulas, the released sizes and names."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from lib.encoders.swin import (
    DropPath,
    PatchMerging,
    SwinBlock,
    SwinConfig,
    SwinV2,
    joined,
    log_spaced_offsets,
    pair_offsets,
    windows_of,
)

SMALL = {
    "resolution": 32,
    "patch": 2,
    "dims": (8, 12, 16),
    "depths": (2, 1, 2),
    "heads": (2, 3, 2),
    "window": 4,
    "pretrained_windows": (3, 0, 2),
    "bias_hidden": 6,
    "drop_path": 0.0,
    "norm_start": 1.0,
    "weight_std": None,
}
"""16 x 16, 8 x 8 and 4 x 4 tokens: many windows, four of them, one."""


def small(**changes):
    return SwinConfig(**(SMALL | changes))


def backbone(config, seed=0):
    """All parameters random, those that start at 0 or 1 too, so that none drops out of a comparison."""
    torch.manual_seed(seed)
    network = SwinV2(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def pictures(count=2, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


# ---- sizes ------------------------------------------------------------------------------------------------


def block_numbers(dim, heads, mlp_ratio=4, hidden=512):
    """Parameters of a block, counted by hand: attention, bias network, MLP, two norms."""
    attention = heads + dim * 3 * dim + 2 * dim + dim * dim + dim
    bias = 2 * hidden + hidden + hidden * heads
    return attention + bias + 2 * mlp_ratio * dim * dim + mlp_ratio * dim + dim + 4 * dim


def test_the_official_backbone_has_the_parameters_of_swinv2_base():
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in SwinV2(SwinConfig.official()).parameters())
    dims, depths, heads = (128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)
    blocks = sum(n * block_numbers(dim, h) for dim, n, h in zip(dims, depths, heads, strict=True))
    merging = sum(4 * dim * 2 * dim + 4 * dim for dim in dims[:3])
    assert found == blocks + merging + (3 * 16 * 128 + 3 * 128) + 2 * 1024
    assert round(found / 1e6, 1) == 86.9  # reference
    assert round((found + 1024 * 1000 + 1000) / 1e6, 2) == 87.92  # published, with the classifier


def test_the_official_stages_are_those_of_the_reference():
    config = SwinConfig.official()
    assert config.sides == (64, 32, 16, 8)
    with torch.device("meta"):
        network = SwinV2(config).eval()
        features = network(torch.zeros(1, 3, 256, 256))
    assert [tuple(x.shape) for x in features.inputs] == [
        (1, 4096, 128),
        (1, 1024, 256),
        (1, 256, 512),
        (1, 64, 1024),
    ]
    assert features.output.shape == (1, 64, 1024)
    cut = [(stage.blocks[1].window, stage.blocks[1].shift) for stage in network.layers]
    assert cut == [
        (16, 8),
        (16, 8),
        (16, 0),
        (8, 0),
    ]  # one window needs no shift, a small stage a small window
    assert all(block.shift == 0 for stage in network.layers for block in stage.blocks[::2])


def test_names_are_those_of_the_public_code():
    network = SwinV2(small(depths=(1, 1, 2)))
    block = [
        "attn.logit_scale",
        "attn.q_bias",
        "attn.v_bias",
        "attn.cpb_mlp.0.weight",
        "attn.cpb_mlp.0.bias",
        "attn.cpb_mlp.2.weight",
        "attn.qkv.weight",
        *(f"{layer}.{kind}" for layer in ("norm1", "norm2") for kind in ("weight", "bias")),
        *(f"{layer}.{kind}" for layer in ("attn.proj", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")),
    ]
    expected = {f"patch_embed.{layer}.{kind}" for layer in ("proj", "norm") for kind in ("weight", "bias")}
    expected |= {"norm.weight", "norm.bias"}
    for stage, depth in enumerate((1, 1, 2)):
        expected |= {f"layers.{stage}.blocks.{index}.{name}" for index in range(depth) for name in block}
    for stage in (0, 1):
        expected |= {
            f"layers.{stage}.downsample.{name}" for name in ("reduction.weight", "norm.weight", "norm.bias")
        }
    assert set(network.state_dict()) == expected


# ---- tables -----------------------------------------------------------------------------------------------


def spaced(distance, span):
    """SwinV2 eq. 4 for one number, where the pretraining's window spans -8 to 8."""
    scaled = 8 * distance / span
    return math.copysign(math.log2(1 + abs(scaled)) / 3, scaled)


@pytest.mark.parametrize(("window", "pretrained"), [(16, 12), (8, 6), (8, 0), (4, 0)])
def test_offsets_are_log_spaced(window, pretrained):
    table = log_spaced_offsets(window, pretrained)
    span = (pretrained or window) - 1
    for row in range(-window + 1, window):
        for column in (1 - window, -1, 0, 2, window - 1):
            found = table[row + window - 1, column + window - 1]
            assert found.tolist() == pytest.approx([spaced(row, span), spaced(column, span)], abs=1e-6)
    assert (
        table[-1, -1, 0] >= math.log2(9) / 3 - 1e-6
    )  # the end of the window, or beyond that of the pretraining


def test_pairs_find_their_offset():
    window = 3
    offsets = torch.stack(
        torch.meshgrid(torch.arange(-2, 3), torch.arange(-2, 3), indexing="ij"), dim=-1
    ).flatten(0, 1)
    for i in range(window**2):
        for j in range(window**2):
            expected = [i // window - j // window, i % window - j % window]
            assert offsets[pair_offsets(window)[i, j]].tolist() == expected


# ---- windows ----------------------------------------------------------------------------------------------


def test_windows_are_squares_row_by_row_and_join_again():
    x = torch.arange(2 * 8 * 8 * 3.0).reshape(2, 8, 8, 3)
    windows = windows_of(x, 4)
    for index in range(8):
        picture, row, column = index // 4, index % 4 // 2 * 4, index % 2 * 4
        assert torch.equal(windows[index], x[picture, row : row + 4, column : column + 4].reshape(16, 3))
    assert torch.equal(joined(windows, 8), x)


def slow_attention(block, x, side):
    """`SwinBlock.attended` token by token: who is in the window, and was a neighbour before the shift, is asked."""
    attention, shift, window = block.attn, block.shift, block.window
    span = (SMALL["pretrained_windows"][0] or window) - 1
    heads, size = attention.heads, x.shape[-1] // attention.heads
    qkv = x @ attention.qkv.weight.T
    q, k, v = qkv.split(x.shape[-1], dim=-1)
    q, v = q + attention.q_bias, v + attention.v_bias
    scale = attention.logit_scale.flatten().exp().clamp(max=100)

    def place(token):
        """Row and column; the window that each falls in after the shift; whether the shift takes it round the end."""
        both = divmod(token, side)
        return both, [(p - shift) % side // window for p in both], [p < shift for p in both]

    places = [place(token) for token in range(side * side)]
    result = torch.zeros_like(x)
    for i, (here, own_window, own_round) in enumerate(places):
        others = [j for j, (_, w, r) in enumerate(places) if (w, r) == (own_window, own_round)]
        offsets = [[spaced(a - b, span) for a, b in zip(here, places[j][0], strict=True)] for j in others]
        bias = 16 * attention.cpb_mlp(torch.tensor(offsets, dtype=x.dtype)).sigmoid()
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            cosine = F.cosine_similarity(q[:, i : i + 1, part], k[:, others, part], dim=-1)
            weights = (scale[head] * cosine + bias[:, head]).softmax(dim=-1)
            result[:, i, part] = (weights[..., None] * v[:, others, part]).sum(dim=1)
    return attention.proj(result)


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_is_that_of_a_loop_over_tokens(shifted):
    config = small(resolution=16, dims=(8,), depths=(2,), heads=(2,), pretrained_windows=(3,), norm_start=1.0)
    block = backbone(config).layers[0].blocks[int(shifted)]
    assert block.shift == (2 if shifted else 0)
    x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        assert torch.allclose(block.attended(x), slow_attention(block, x, 8), atol=1e-5)  # tables are float32


def test_only_the_shift_joins_windows():
    """A change of one token stays in its window, whose tokens are other ones in the shifted block."""
    config = small(resolution=16, dims=(8,), depths=(2,), heads=(2,), pretrained_windows=(0,))
    x = torch.randn(1, 64, 8).double()
    changed = x.clone()
    changed[0, 0] += 1
    reached = []
    for block in backbone(config).layers[0].blocks:
        with torch.no_grad():
            moved = (block.attended(changed) - block.attended(x)).norm(dim=-1)[0].reshape(8, 8) > 1e-12
        reached.append(moved.nonzero().tolist())
    assert reached[0] == [[row, column] for row in range(4) for column in range(4)]
    assert reached[1] == [[row, column] for row in range(2) for column in range(2)]


def test_the_scale_of_the_logits_is_limited():
    config = small(resolution=16, dims=(8,), depths=(1,), heads=(2,), pretrained_windows=(0,))
    attention = backbone(config).layers[0].blocks[0].attn
    x = torch.randn(4, 16, 8).double()
    outputs = []
    for scale in (99, 100, 1000):
        with torch.no_grad():
            attention.logit_scale.fill_(math.log(scale))
            outputs.append(attention(x))
    assert torch.allclose(outputs[1], outputs[2])
    assert not torch.allclose(outputs[0], outputs[1])


# ---- blocks and stages ------------------------------------------------------------------------------------


def test_merging_counts_the_rows_of_two_by_two_tokens_first():
    merging = PatchMerging(3, 5, side=4).double()
    x = torch.randn(2, 4, 4, 3).double()
    parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    expected = torch.cat(parts, dim=-1).flatten(1, 2) @ merging.reduction.weight.T
    assert torch.allclose(merging(x.flatten(1, 2)), F.layer_norm(expected, (5,)))


def test_norms_close_the_branches_of_a_block():
    block = backbone(small()).layers[0].blocks[1]
    x = torch.randn(2, 256, 8).double()
    with torch.no_grad():
        middle = x + block.norm1(block.attended(x))
        hidden = F.gelu(middle @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        expected = middle + block.norm2(hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
        assert torch.allclose(block(x), expected)


def test_blocks_start_as_the_identity_in_the_official_configuration_alone():
    x = torch.randn(1, 256, 8)
    for start in (0.0, 1.0):
        torch.manual_seed(0)
        blocks = SwinV2(small(norm_start=start)).layers[0].blocks
        assert all(torch.equal(block(x), x) == (start == 0) for block in blocks)
    assert SwinConfig.official().norm_start == 0


def test_features_are_what_goes_into_each_stage():
    network = backbone(small())
    with torch.no_grad():
        inputs, output = network(pictures())
        assert torch.equal(inputs[0], network.patch_embed(pictures()))
        assert torch.equal(inputs[1], network.layers[0](inputs[0]))
        assert torch.equal(inputs[2], network.layers[1](inputs[1]))
        assert torch.equal(output, network.norm(network.layers[2](inputs[2])))


def test_tokens_are_patches_row_by_row():
    network, image = backbone(small()), pictures(1)
    weights, bias = network.patch_embed.proj.weight, network.patch_embed.proj.bias
    with torch.no_grad():
        tokens = network.patch_embed(image)
        for row, column in ((0, 1), (3, 0), (15, 15)):
            patch = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = network.patch_embed.norm((weights * patch).sum(dim=(1, 2, 3)) + bias)
            assert torch.allclose(tokens[0, 16 * row + column], expected)


def test_dropped_branches_keep_the_mean():
    x = torch.ones(4000, 2)
    layer = DropPath(0.25)
    torch.manual_seed(0)
    dropped = layer.train()(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped[:, 0] == dropped[:, 1]).all()  # a sample is left out whole
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(x), x)


def test_later_blocks_are_dropped_more_often():
    network = SwinV2(small(drop_path=0.2))
    dropped = [1 - block.drop_path.keep for stage in network.layers for block in stage.blocks]
    assert dropped == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_every_parameter_has_a_gradient():
    network = backbone(small())
    inputs, output = network(pictures())
    (sum(x.square().sum() for x in inputs) + output.pow(3).sum()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


# ---- configuration ----------------------------------------------------------------------------------------


def test_a_configuration_survives_json():
    config = small()
    assert SwinConfig(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 2)}, "one number per stage.*depths: 2"),
        ({"resolution": 36}, "multiple of 16; got 36"),
        ({"window": 3}, "stage 0 has 16 x 16 tokens.*windows of 3"),
        ({"heads": (2, 5, 2)}, "stage 1: 5 heads cannot share 12"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="32 x 32 pixels; got 64 x 64: resize"):
        backbone(small())(pictures(side=64))


def test_a_stage_smaller_than_the_window_is_one():
    block = SwinBlock(small(window=8), stage=2, shifted=True, drop_path=0.0)
    assert (block.window, block.shift, block.attn_mask) == (4, 0, None)
