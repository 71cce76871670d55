"""torch.nn.MultiheadAttention: one attention of heads, whatever it is given, and numbers as torch has them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

import mlc
from mlc.workspace import Workspace
from tests.exporting import exported

pytestmark = pytest.mark.needs_onnxruntime

WIDTH, HEADS = 16, 4

X = ("x=float32[batch=1..3,length=2..9,16]",)
XY = ("x=float32[batch=1..3,queries=2..9,16]", "y=float32[batch,keys=2..7,12]")

MASKS = {
    "none": lambda _x: {},
    "causal, bool": lambda x: {"attn_mask": _later(x)},
    "causal, float": lambda x: {"attn_mask": torch.zeros_like(_later(x), dtype=x.dtype).masked_fill(_later(x), -1e4)},
    "causal, hinted": lambda x: {
        "attn_mask": nn.Transformer.generate_square_subsequent_mask(x.shape[1]), "is_causal": True
    },
    "padding, bool": lambda x: {"key_padding_mask": _padded(x)},
    "padding, float": lambda x: {"key_padding_mask": x[..., 0].clamp(max=0)},
    "both": lambda x: {"attn_mask": _later(x), "key_padding_mask": _padded(x)},
    "both, hinted": lambda x: {"attn_mask": _later(x), "key_padding_mask": _padded(x), "is_causal": True},
    "by head": lambda x: {"attn_mask": (x @ x.mT).repeat_interleave(HEADS, 0) * torch.arange(1.0, HEADS + 1).repeat(
        x.shape[0])[:, None, None]},
}  # fmt: skip


@pytest.fixture
def workspace():
    with Workspace() as made:
        yield made


def _later(x):
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


def _padded(x):
    """The last key of each sample but the first."""
    return (torch.arange(x.shape[1]) == x.shape[1] - 1)[None] & (torch.arange(x.shape[0]) > 0)[:, None]


class Attending(nn.Module):
    """One attention over itself, whose answers alone are returned unless ``shown`` says that the probabilities are."""

    def __init__(self, mask="none", *, asked=True, shown=False, averaged=True, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **settings})
        self.mask, self.shown = MASKS[mask], shown
        self.asked = {"need_weights": asked, "average_attn_weights": averaged}

    def forward(self, x):
        given = x if self.attention.batch_first else x.transpose(0, 1)
        answers, weights = self.attention(given, given, given, **self.mask(x), **self.asked)
        return (answers, weights) if self.shown else answers


class Crossing(nn.Module):
    """Attention of x to y, whose values are scaled or not; y has another width where the weights are apart."""

    def __init__(self, *, alike, scaled, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.narrow = nn.Linear(12, WIDTH if alike else 12)
        sides = {} if alike else {"kdim": 12, "vdim": 12}
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **sides, **settings)
        self.scaled = scaled

    def forward(self, x, y):
        y = self.narrow(y)
        return self.attention(x, y, 2 * y if self.scaled else y)[0]


def operators(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("asked", [True, False], ids=["probabilities", "answers"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(workspace, mask, asked):
    assert exported(workspace, Attending(mask, asked=asked), None, *X).checks


@pytest.mark.parametrize("averaged", [True, False])
def test_probabilities_that_are_returned(workspace, averaged):
    assert exported(workspace, Attending("both", shown=True, averaged=averaged), None, *X).checks


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_to_another_sequence(workspace, alike, scaled, bias):
    assert exported(workspace, Crossing(alike=alike, scaled=scaled, bias=bias), None, *XY).checks


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"dropout": 0.5}], ids=str)
def test_settings_that_few_have(workspace, settings):
    assert exported(workspace, Attending("both", **settings), None, *X).checks


def test_one_sample_without_an_axis(workspace):
    class Single(Attending):
        def forward(self, x):
            return self.attention(x, x, x)[0]

    assert exported(workspace, Single(), None, "x=float32[length=2..9,16]").checks


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_view_of_the_answers(workspace, batch_first):
    class Viewed(Attending):
        def forward(self, x):
            answers = super().forward(x)
            return answers.view(-1, WIDTH) if not self.attention.batch_first else answers.reshape(-1, WIDTH)

    assert exported(workspace, Viewed(batch_first=batch_first), None, *X).checks


@pytest.mark.parametrize("asked", [True, False], ids=["probabilities", "answers"])
@pytest.mark.parametrize("mask", ["none", "causal, float", "padding, bool", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_it_is_one_attention_of_heads(mask, asked, batch_first):
    original = mlc.load(Attending(mask, asked=asked, batch_first=batch_first).eval(), inputs=X)
    found = mlc.rewrite(mlc.export(original, opset=23), original)
    (step,) = [each for each in found.steps if each.spec.name == "fuse-attention"]
    assert len(step.sites) == 1
    (node,) = [node for node in found.model.graph if node.op_type == "Attention"]
    assert node.attributes["q_num_heads"].as_int() == HEADS
    moved = operators(found.model)["Transpose"]
    assert moved == (0 if batch_first else 1)


class Translating(nn.Module):
    """torch.nn.Transformer, whose masks are made in forward; nothing says that one is causal."""

    def __init__(self, *, floats):
        super().__init__()
        torch.manual_seed(0)
        self.whole = nn.Transformer(WIDTH, HEADS, 1, 2, 32, batch_first=True)
        self.floats = floats

    def forward(self, x, y):
        later = nn.Transformer.generate_square_subsequent_mask(y.shape[1]) if self.floats else _later(y)
        return self.whole(x, y, tgt_mask=later, src_key_padding_mask=_padded(x), memory_key_padding_mask=_padded(x))


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("floats", [False, True])
def test_a_mask_is_not_asked_whether_it_is_causal(workspace, floats):
    inputs = ("x=float32[batch=1..3,length=2..9,16]", "y=float32[batch,queries=2..7,16]")
    assert exported(workspace, Translating(floats=floats), None, *inputs).checks
