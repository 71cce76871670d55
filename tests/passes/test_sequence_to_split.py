"""SequenceToSplit: golden graph, numbers, refusals by their reason, and what torch exports without optimizing."""

import pytest
import torch

from passes.sequence_to_split import SequenceToSplit
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,7,6] x) => (float[batch,d,e] y)"
HALVES = "<int64 three = {3}, int64 first = {0}, int64 last = {-1}>"
BODY = "s = SplitToSequence<axis = 2>(x, three) a = SequenceAt(s, first) b = SequenceAt(s, last) y = Sub(b, a)"


def test_golden(golden):
    after, change = apply(SequenceToSplit(), graph(f"{HEAD} {HALVES} {{ {BODY} }}"))
    assert len(change.sites) == 1
    golden("sequence_to_split.onnxtxt", text(after))


NUMBERS = {
    "halves": (HALVES, BODY, ["Split", "Sub"]),
    "a part that nobody takes": (
        "<int64 size = {3}, int64 one = {1}>",
        "s = SplitToSequence<axis = 1>(x, size) y = SequenceAt(s, one)", ["Slice"],
    ),
    "a smaller last part": (
        "<int64 size = {3}, int64 last = {-1}>",
        "s = SplitToSequence<axis = -2>(x, size) y = SequenceAt(s, last)", ["Slice"],
    ),
    "given sizes": (
        "<int64[3] sizes = {1,4,2}, int64 one = {1}>",
        "s = SplitToSequence<axis = 1>(x, sizes) y = SequenceAt(s, one)", ["Slice"],
    ),
    "one part": ("<int64 size = {9}, int64 one = {0}>",
                 "s = SplitToSequence<axis = 1>(x, size) y = SequenceAt(s, one)", ["Split"]),
    "the same part twice": (
        "<int64 size = {3}, int64 one = {1}, int64 back = {-2}>",
        "s = SplitToSequence<axis = 1>(x, size) a = SequenceAt(s, one) b = SequenceAt(s, back) y = Add(a, b)",
        ["Slice", "Slice", "Add"],
    ),
    "single elements": (
        "<int64 one = {1}>", "s = SplitToSequence<axis = 1>(x) y = SequenceAt(s, one)", ["Slice"],
    ),
    "single elements without their axis": (
        "<int64 one = {1}, int64 two = {2}>",
        "s = SplitToSequence<axis = 1, keepdims = 0>(x) a = SequenceAt(s, one) b = SequenceAt(s, two) y = Mul(a, b)",
        ["Slice", "Slice", "Squeeze", "Squeeze", "Mul"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers(case, batch, workspace):
    constants, body, expected = NUMBERS[case]
    head = HEAD.replace("[batch,d,e]", "[d,e]") if "without" in case else HEAD
    before = graph(f"{head} {constants} {{ {body} }}")
    after, _ = apply(SequenceToSplit(), before)
    assert ops(after) == expected
    same_numbers(before, after, {"x": random(0, batch, 7, 6)}, workspace, 0)


REFUSED = [
    ("<int64 one = {1}>", """s = SplitToSequence<axis = 1>(x, one) a = SequenceAt(s, one) n = SequenceLength(s)
        c = Cast<to = 1>(n) y = Mul(a, c)""", "read by others"),
    ("<int64 one = {1}>", "h = Shape(x) z = Size(h) s = SplitToSequence<axis = 1>(x, z) y = SequenceAt(s, one)",
     "the sizes of the parts are not constant"),
    ("<int64 one = {1}, int64 two = {2}>", "s = SplitToSequence<axis = 0>(x, two) y = SequenceAt(s, one)",
     "size of the axis that is split is not known"),
    ("<int64 one = {1}>", "s = SplitToSequence<axis = 1, keepdims = 0>(x, one) y = SequenceAt(s, one)",
     "keepdims beside"),
    ("<int64 two = {2}>", "h = Shape(x) z = Size(h) s = SplitToSequence<axis = 1>(x, two) y = SequenceAt(s, z)",
     "the place of a part is not constant"),
    ("<int64 nine = {9}, int64 two = {2}>", "s = SplitToSequence<axis = 1>(x, two) y = SequenceAt(s, nine)",
     "a part is taken that is not there"),
    ("<int64 one = {1}, bool yes = {1}>", """s = SplitToSequence<axis = 1>(x, one) y = If(yes) <
        then_branch = t () => (float[b,d,e] p) { p = SequenceAt(s, one) },
        else_branch = f () => (float[b,d,e] q) { q = SequenceAt(s, one) }>""", "inside of a branch"),
]  # fmt: skip


@pytest.mark.parametrize(("constants", "body", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_refusals(constants, body, reason):
    before = graph(f"{HEAD} {constants} {{ {body} }}")
    after, change = apply(SequenceToSplit(), before)
    assert change.sites == ()
    assert ops(after) == ops(before)
    assert reason in change.refused[0].reason


class Rotated(torch.nn.Module):
    """Turns halves, as rotary embeddings are written with chunk."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self):
        super().__init__()
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.5, 0.25, 0.125])).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x):
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


def test_what_torch_exports_without_optimizing(workspace):
    exported = torch_model(Rotated(), (torch.rand(2, 3, 5, 8),))
    assert "SplitToSequence" in ops(exported)
    after, (step,) = line(
        exported, [SequenceToSplit()], [{"x0": random(1, 2, 3, 5, 8)}, {"x0": random(2, 7, 3, 5, 8)}], workspace
    )
    assert (len(step.sites), step.left_out) == (1, ())
    assert "Split" in ops(after)
