"""EliminateCasts: golden graph, the same bits, each refusal by its reason, and what torch exports."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from passes.eliminate_casts import EliminateCasts, holds
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3] x) => (float[batch,3] y)"
BODY = "a = Cast<to=1>(x) b = Cast<to=11>(a) c = Cast<to=1>(b) y = Relu(c)"
DTYPES = [
    ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE,
]  # fmt: skip


def test_golden(golden):
    after, change = apply(EliminateCasts(), graph(f"{HEAD} {{ {BODY} }}"))
    assert change.sites == ("a", "c")
    golden("eliminate_casts.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
def test_the_same_bits(rows, workspace):
    before = graph(f"{HEAD} {{ {BODY} }}")
    after, _ = apply(EliminateCasts(), before)
    assert "Cast" not in ops(after)
    same_numbers(before, after, {"x": random(1, rows, 3)}, workspace)


@pytest.mark.parametrize(
    ("text_", "reason"),
    [
        (f"{HEAD} {{ a = Cast<to=10>(x) y = Cast<to=1>(a) }}", "FLOAT16 does not hold all of FLOAT"),
        ("g (int64[n] x) => (int64[n] y) { a = Cast<to=11>(x) y = Cast<to=7>(a) }", "DOUBLE does not hold all of"),
        ("g (float[n] x) => (float[n] y, double[n] a) { a = Cast<to=11>(x) y = Cast<to=1>(a) }", "a is a graph output"),
        ("g (float[n] x) => (float[n] y, double[n] z) { a = Cast<to=11>(x) y = Cast<to=1>(a) z = Exp(a) }",
         "a is used elsewhere"),
    ],
)  # fmt: skip
def test_refusals(text_, reason):
    _, change = apply(EliminateCasts(), graph(text_))
    assert change.sites == ()
    assert [refusal.reason.startswith(reason) for refusal in change.refused] == [True]


def test_a_cast_to_the_type_of_another_value(workspace):
    before = graph("g (float[batch,3] x, float[n] z) => (float[batch,3] y, float[n] w) "
                   "{ a = CastLike(x, z) b = Cast<to=11>(a) c = CastLike(b, z) y = Relu(c) w = Neg(z) }")  # fmt: skip
    after, change = apply(EliminateCasts(), before)
    assert change.sites == ("a", "c")
    assert not {"Cast", "CastLike"} & set(ops(after))
    same_numbers(before, after, {"x": random(1, 2, 3), "z": random(2, 5)}, workspace)


def test_an_output_and_an_input_keep_their_names(workspace):
    before = graph("g (float[batch,3] x) => (float[batch,3] y) { y = Cast<to=1>(x) }")
    after, _ = apply(EliminateCasts(), before)
    assert ops(after) == ["Identity"]
    same_numbers(before, after, {"x": random(1, 2, 3)}, workspace)


@pytest.mark.parametrize(("wide", "narrow"), itertools.product(DTYPES, repeat=2))
def test_what_holds_what_is_true_of_every_value(wide, narrow):
    if not holds(wide, narrow):
        return
    to, of = wide.numpy(), narrow.numpy()
    if of.kind == "b":
        values = np.array([False, True])
    elif of.kind in "iu":
        ends = np.iinfo(of)
        values = np.array([ends.min, ends.max, ends.max - 1, 0, 1], of)
    else:
        ends_of = np.finfo(of)
        values = np.array([ends_of.max, ends_of.tiny, -ends_of.smallest_subnormal, 1 + ends_of.eps], of)
    np.testing.assert_array_equal(values.astype(to).astype(of), values)


def test_what_torch_exports(workspace):
    import torch

    class Widened(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x).double().float() * 2

    exported = torch_model(Widened(), (torch.rand(4, 5),), fold=False)
    feeds = [{"x0": random(1, 4, 5)}, {"x0": random(2, 3, 5)}]
    _, (step,) = line(exported, [EliminateCasts()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (1, ())
