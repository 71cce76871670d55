"""Attention of torch exports as torch computes it: masks of every shape, ranks, rows without a key, rotary caches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from mlc.errors import SourceError
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import assert_alike, exported, exported_with_notes

pytestmark = pytest.mark.needs_onnxruntime

OPSETS = (20, 23)


@pytest.fixture
def workspace():
    with Workspace() as made:
        yield made


def operators(found) -> Counter[str]:
    return Counter(node.op_type for node in found.model.graph)


MASKS = {
    "none": lambda _x, _y: None,
    "bool, a row for all queries": lambda _x, y: (y[..., 0] > -1)[:, None, None],
    "float, a row for all queries": lambda _x, y: y[:, None, None, :, 0],
    "float, a row for all samples": lambda _x, y: y[:1, None, None, :, 0],
    "float, one row": lambda _x, y: y[0, None, :, 0],
    "float, a column for all keys": lambda x, _y: x[..., :4].transpose(1, 2)[..., None],
    "float, by sample": lambda x, y: (x @ y.mT)[:, None],
    "float, by head": lambda x, y: (x[0].T[:4, :, None] * y[0].T[:4, None])[None],
}


class Attending(nn.Module):
    """Scaled dot-product attention of x to y over four heads, with one of the masks above."""

    def __init__(self, mask, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.mask, self.settings = MASKS[mask], settings
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x, y):
        q, k, v = (
            part(of).unflatten(-1, (4, 4)).transpose(1, 2) for part, of in zip(self.parts, (x, y, y), strict=True)
        )
        mask = self.mask(x, y)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.settings).transpose(1, 2)


XY = ("x=float32[batch=1..3,queries=1..9,16]", "y=float32[batch,keys=1..9,16]")


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_every_shape(workspace, mask, opset):
    found = exported(workspace, Attending(mask), None, *XY, opset=opset)
    assert operators(found)["Attention"] == (opset >= 23)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("settings", [{"is_causal": True}, {"scale": 0.3}], ids=str)
def test_settings_of_attention(workspace, settings, opset):
    exported(workspace, Attending("none", **settings), None, *XY, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_that_is_not_above_zero(workspace, scale, opset):
    for mask in ("none", "bool, a row for all queries", "float, by sample"):
        found = exported(workspace, Attending(mask, scale=scale), None, *XY, opset=opset)
        draw = np.random.default_rng(0)
        sizes = ((1, 1, 9), (2, 7, 4))
        feeds = ({name: draw.normal(size=(b, n, 16)).astype(np.float32) for name, n in (("x", q), ("y", k))}
                 for b, q, k in sizes)  # fmt: skip
        assert_alike(workspace, found, *feeds)
        assert operators(found)["Attention"] == (opset >= 23)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_scale_that_torch_itself_has_no_numbers_for_is_refused(workspace, opset):
    original = Attending("none", is_causal=True, scale=-0.5)
    given = torch.ones(1, 3, 16), torch.ones(1, 3, 16)
    assert original(*given).isnan().any()
    with pytest.raises(SourceError, match=r"is causal with a scale of -0\.5.*NaN") as refused:
        exported_with_notes(workspace, original, None, *XY, opset=opset)
    assert "at test_export_attention.py" in refused.value.message
    assert "tril()" in refused.value.hint


BROADCAST = {
    "keys and values of one head": lambda q: (q, q[:, :1], q[:, :1]),
    "values of one head": lambda q: (q, q, q[:, :1]),
    "queries of one head": lambda q: (q[:, :1], q, q),
    "keys and values of one sample": lambda q: (q, q[:1] * 2, q[:1]),
}


class Broadcasting(nn.Module):
    def __init__(self, parts, **settings):
        super().__init__()
        self.parts, self.settings = parts, settings

    def forward(self, x):
        parts = self.parts(x.unflatten(-1, (4, 4)).transpose(1, 2))
        return functional.scaled_dot_product_attention(*parts, **self.settings)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("parts", BROADCAST)
def test_what_broadcasts_in_torch(workspace, parts, opset):
    exported(workspace, Broadcasting(BROADCAST[parts]), None, XY[0], opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_groups_of_queries_down_to_groups_of_one(workspace, heads, opset):
    found = exported(
        workspace, Broadcasting(lambda q: (q, q[:, :heads], q[:, :heads]), enable_gqa=True), None, XY[0], opset=opset
    )
    assert operators(found)["Attention"] == (opset >= 23)


class Ranks(nn.Module):
    """Attention over other axes than [batch, heads, length, width]."""

    def __init__(self, lead, *, masked):
        super().__init__()
        self.lead, self.masked = lead, masked

    def forward(self, x):
        shape = {"none": (*x.shape[1:],), "batch": x.shape, "windows": (x.shape[0], 2, 2, x.shape[1], 4)}[self.lead]
        x = (
            x[0]
            if self.lead == "none"
            else x
            if self.lead == "batch"
            else x.unflatten(-1, (2, 2, 4)).permute(0, 2, 3, 1, 4)
        )
        assert x.shape == shape
        mask = x[..., 0].unsqueeze(-2) if self.masked else None
        return functional.scaled_dot_product_attention(x, x + 1, x - 1, attn_mask=mask)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("lead", ["none", "batch", "windows"])
def test_attention_over_any_number_of_axes(workspace, lead, masked, opset):
    exported(workspace, Ranks(lead, masked=masked), None, "x=float32[batch=2..4,length=2..9,16]", opset=opset)


class Biased(nn.Module):
    """Attention along rows under a bias of the pairs, flattened afterwards: a view only of what some kernels leave."""

    def __init__(self):
        super().__init__()
        self.qkv, self.bias, self.out = nn.Linear(16, 48), nn.Linear(16, 4), nn.Linear(16, 16)

    def forward(self, pair):
        q, k, v = self.qkv(pair).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(pair).permute(2, 0, 1)[None])
        return self.out(seen.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("opset", OPSETS)
def test_what_attention_leaves_is_viewed_as_it_was_traced(workspace, opset):
    exported(workspace, Biased(), None, "pair=float32[6,6,16]", opset=opset)


def is_made_by(value, op_type):
    return value.producer() is not None and value.producer().op_type == op_type


class Layers(nn.Module):
    """Two layers that attend under one mask."""

    def forward(self, x):
        mask = (x[..., 0] > -1)[:, None, None]
        for _ in range(2):
            q = x.unflatten(-1, (4, 4)).transpose(1, 2)
            x = functional.scaled_dot_product_attention(q, q, q, attn_mask=mask).transpose(1, 2).flatten(-2)
        return x


def test_a_mask_is_expanded_once_for_all_layers(workspace):
    found = exported(workspace, Layers(), None, "x=float32[batch=1..3,length=2..9,16]", opset=23)
    assert operators(found)["Attention"] == 2
    assert operators(found)["Expand"] == 1
    shapes = [node for node in found.model.graph if node.op_type == "Shape"]
    assert not [node for node in shapes if is_made_by(node.inputs[0], "Transpose")]


class Rotary(nn.Module):
    """Rotary position embedding by halves (Su et al., RoFormer, section 3.2.2), one cache for all of a batch."""

    frequencies: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.rand(4))

    def forward(self, x):
        angles = torch.arange(x.shape[1])[None, :, None] * self.frequencies
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        x = x.unflatten(-1, (2, 8)).transpose(1, 2)
        return x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin


@pytest.mark.parametrize("opset", OPSETS)
def test_rotary_caches_serve_every_sample(workspace, opset):
    found = exported(workspace, Rotary(), None, "x=float32[batch=1..3,length=2..9,16]", opset=opset)
    assert operators(found)["RotaryEmbedding"] == (opset >= 23)


# ---------------------------------------------------------------- rows without a key


class Padded(nn.Module):
    """Attention with a padding mask, as a layer of torch and as its function with bools: a row may hold no token."""

    def __init__(self, *, layer):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) if layer else None

    def forward(self, ids, mask):
        x, seen = self.embedding(ids), mask > 0
        if self.layer is not None:
            return self.head(self.layer(x, src_key_padding_mask=~seen))
        q = x[:, None]
        return self.head(nn.functional.scaled_dot_product_attention(q, q, q, seen[:, None, None])[:, 0])


TOKENS = ("ids=int64[batch=1..3,length=2..9] in 0..19", "mask=int64[batch,length] in 0..1")


@pytest.mark.parametrize("layer", [True, False])
def test_rows_that_attend_to_nothing_are_what_torch_gives(workspace, layer):
    found = exported(workspace, Padded(layer=layer), None, *TOKENS)
    assert found.outputs == ["output"]
    assert [way.name for way in found.artifact.origin.ways] == ["as it is"]


@pytest.mark.parametrize("opset", OPSETS)
def test_rows_that_attend_to_nothing_need_not_be_among_what_is_compared(workspace, opset):
    all_seen = TOKENS[1].replace("0..1", "1..1")
    found = exported(workspace, Padded(layer=True), None, TOKENS[0], all_seen, opset=opset)
    inputs = {"ids": np.arange(8).reshape(2, 4), "mask": np.array([[0, 0, 0, 0], [1, 0, 1, 0]])}
    with open_session(workspace.save(found.model, "masked"), Target(), optimize=False) as session:
        actual = session.run(inputs)
    np.testing.assert_allclose(actual["output"], found.original.run(inputs)["output"], atol=1e-5)


@pytest.mark.parametrize("layer", [True, False])
def test_opset_23_has_attention_whose_rows_are_zeros(workspace, layer):
    found = exported(workspace, Padded(layer=layer), None, *TOKENS, opset=23)
    assert operators(found)["Attention"] == 1


LOWEST = torch.finfo(torch.float32).min

LOW_MASKS = {
    "an input": lambda m: m[:, None],
    "chosen by ids": lambda m: torch.where((m > 0)[:, None] & (m < 3)[:, None], 0.0, LOWEST),
    "a product": lambda m: (1 - (m > 0).float())[:, None] * LOWEST,
    "filled": lambda m: torch.zeros_like(m).masked_fill(m == 0, LOWEST)[:, None],
}


class Low(nn.Module):
    """Attention of x to itself under a float mask, by the function that the file itself imported."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x, m):
        q = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return scaled_dot_product_attention(q, q + 1, q - 1, attn_mask=self.mask(m)).transpose(1, 2)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("mask", LOW_MASKS)
def test_rows_that_are_wholly_the_lowest_float_give_a_mean(workspace, mask, opset):
    inputs = "x=float32[batch=1..3,length=1..9,8]", "m=float32[batch,length,length]"
    ones = torch.ones(2, 5, 5) if mask != "an input" else torch.zeros(2, 5, 5)
    net = exported(workspace, Low(LOW_MASKS[mask]), (torch.randn(2, 5, 8), ones), *inputs, opset=opset)
    x, m = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32), np.ones((2, 6, 6), np.float32)
    m = m * 0 if mask == "an input" else m
    m[0, 2], m[1, 1, :3] = (LOWEST, LOWEST) if mask == "an input" else (0, 0)
    rows = {"x": x, "m": m}
    assert_alike(workspace, net, rows, {"x": x[:1, :3], "m": m[:1, :3, :3]}, atol=1e-5)


@pytest.mark.parametrize("opset", OPSETS)
def test_rows_of_minus_infinity_give_zeros(workspace, opset):
    inputs = "x=float32[batch=1..3,length=1..9,8]", "m=float32[batch,length,length]"
    example = torch.randn(2, 5, 8), torch.zeros(2, 5, 5)
    net = exported(workspace, Low(LOW_MASKS["an input"]), example, *inputs, opset=opset)
    m = np.zeros((2, 5, 5), np.float32)
    m[0, 2] = -np.inf
    assert_alike(workspace, net, {"x": example[0].numpy(), "m": m}, atol=1e-5)


def test_keys_that_are_all_padding_give_a_mean_at_opset_23(workspace):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x, padding):
            return self.attention(x, x, x, key_padding_mask=padding * LOWEST, need_weights=False)[0]

    inputs = "x=float32[batch=1..3,length=1..9,8]", "padding=float32[batch,length] in 0..1"
    net = exported(workspace, Padded(), (torch.randn(2, 5, 8), torch.zeros(2, 5)), *inputs, opset=23)
    padding = np.array([[1, 1, 1], [0, 1, 1]], np.float32)
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    assert_alike(workspace, net, {"x": x, "padding": padding}, atol=1e-5)


class Branching(nn.Module):
    """Attention in a branch."""

    def forward(self, x, m):
        def attending(x, m):
            q = x.unflatten(-1, (2, 4)).transpose(1, 2)
            return (
                functional.scaled_dot_product_attention(q, q + 1, q - 1, attn_mask=m[:, None])
                .transpose(1, 2)
                .flatten(2)
            )

        return torch.cond(x[0, 0, 0] > 0, attending, lambda x, _m: x * 2, (x, m))


@pytest.mark.parametrize("lowest", [LOWEST, -np.inf])
@pytest.mark.parametrize("opset", OPSETS)
def test_masks_in_branches(workspace, opset, lowest):
    inputs = "x=float32[batch=1..3,length=1..9,8]", "m=float32[batch,length,length]"
    net = exported(workspace, Branching(), (torch.ones(2, 5, 8), torch.zeros(2, 5, 5)), *inputs, opset=opset)
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    m = np.zeros((2, 5, 5), np.float32)
    m[0, 2] = lowest
    assert_alike(workspace, net, *({"x": x * sign, "m": m} for sign in (1, -1)), atol=1e-5)
