"""What int8-dynamic takes, what it refuses, and what a plan says of it."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mlc.errors import UsageError
from mlc.graph_pass import Context
from mlc.registry import build as build_pass
from mlc.types import NodePlan, PassSpec, Plan
from passes import _dynamic
from passes.int8_dynamic import Int8Dynamic
from tests.blocks import tied, token_batches
from tests.dynamic import INSIDE, TABLE, dynamic, lstm, refusals
from tests.quantizing import ANY_CPU, VNNI, build, run, weights

pytestmark = pytest.mark.needs_onnxruntime


def test_how_large_a_table_is_can_be_said():
    model = build(TABLE, weights(0, w=(10, 64)))
    assert Int8Dynamic(smallest_table=641).apply(model.clone(), Context(ANY_CPU)).sites == ()
    assert Int8Dynamic(smallest_table=640).apply(model.clone(), Context(ANY_CPU)).sites == ("e",)
    with pytest.raises(UsageError, match="smallest_table is a number of elements"):
        build_pass(PassSpec("int8-dynamic", (("smallest_table", -1),)))


REFUSALS = [
    ("u = MatMul(x, x)", {}, "both sides are activations"),
    ("u = MatMul(w, x)", {"w": (8, 8)}, "its weight is on the left"),
    ("u = Gemm(x, x)", {}, "its weight is not constant"),
    ("t = Transpose<perm = [0, 1]>(w)\n u = MatMul(x, t)", {"w": (8, 5)},
     "both sides are activations"),
    ("s = Sum(x)\n f = Reshape(s, i)\n u = MatMul(f, w)", {"w": (2, 64, 3)},
     "its weight is a stack of matrices, and the rank of its input is not known"),
    ("u = GRU<hidden_size = 2>(l, g, h)", {"g": (1, 6, 8), "h": (1, 6, 2), "l": (1, 8, 8)},
     "there is no integer kernel for it"),
    ("u = RNN<hidden_size = 2>(l, g, h)", {"g": (1, 2, 8), "h": (1, 2, 2), "l": (1, 8, 8)},
     "there is no integer kernel for it"),
    ("u = Gather<axis = 1>(w, j)", {"w": (8, 8)}, "it does not take rows of a matrix"),
    ("u = Gather(w, j)", {"w": (8, 8)}, "its table of 64 elements is small"),
    ("u = Gather(w, j)", {"w": (2**17, 1)}, "its rows of one element would not become smaller"),
    ("u = MatMul(x, d)\n", {}, "its weight d is quantized already"),
    ("u = Conv(k, w)", {"w": (4, 3, 2, 2), "k": (1, 3, 5, 5)},
     "the integer kernel of a convolution whose scales are not known beforehand is slower than the float one"),
    ("u = ConvTranspose(k, w)", {"w": (3, 4, 2, 2), "k": (1, 3, 5, 5)}, "there is no integer kernel for it"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "shapes", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_it_refuses(lines, shapes, reason):
    arrays = weights(0, **shapes) | {"i": np.array([64]), "j": np.array([1])}
    if "(x, d)" in lines:
        lines = f"d = DequantizeLinear(q, one)\n {lines}"
        arrays |= {"q": np.ones((8, 3), np.int8), "one": np.array(1, np.float32)}
    model = build(f"agraph (float[8,8] x) => (u) {{\n {lines}\n}}", arrays)
    if "(f, w)" in lines:
        next(node for node in model.graph if node.op_type == "Reshape").outputs[0].shape = None
    assert refusals(model) == [("u", reason)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("line", "role"), [("MatMul(x, w)", "weight"), ("Gather(w, i)", "table")])
def test_what_is_not_finite_is_refused(bad, line, role):
    arrays = weights(0, w=(8, 8)) | {"i": np.array([0])}
    arrays["w"][3, 2] = bad
    model = build(f"agraph (float[8,8] x) => (u) {{\n u = {line}\n}}", arrays)
    assert refusals(model) == [("u", f"its {role} w holds NaN or Inf")]


def test_an_empty_weight_is_refused():
    text = "agraph (float[n,0] x) => (float[n,5] y) {\n y = MatMul(x, w)\n}"
    assert refusals(build(text, weights(0, w=(0, 5)))) == [("y", "its weight is empty")]


def test_a_weight_of_another_type_is_refused():
    text = "agraph (float16[n,6] x) => (float16[n,5] y) {\n y = MatMul(x, w)\n}"
    assert refusals(build(text, {"w": np.ones((6, 5), np.float16)})) == [("y", "its weight is float16, not float32")]


def test_a_weight_that_a_caller_may_override_is_refused():
    text = "agraph (float[n,6] x, float[6,5] w) => (float[n,5] y) {\n y = MatMul(x, w)\n}"
    (found,) = refusals(build(text, weights(0, w=(6, 5))))
    assert found == ("y", "its weight w is an input that a caller may override")


def test_sums_that_32_bits_may_not_hold_are_refused():
    rows = 2**31 // (255 * 127)
    for more, expected in ((0, []), (1, [("y", "sums of 66,312 products may leave 32 bits")])):
        text = f"agraph (float[1,{rows + more}] x) => (float[1,1] y) {{\n y = MatMul(x, w)\n}}"
        model = build(text, {"w": np.full((rows + more, 1), 0.1, np.float32)})
        assert [(each.site, each.reason) for each in Int8Dynamic().apply(model, Context(VNNI)).refused] == expected
    ones = {"x": np.ones((1, rows), np.float32)}
    found = dynamic(build(text.replace(str(rows + 1), str(rows)), {"w": np.full((rows, 1), 0.1, np.float32)}), [], VNNI)
    exact = ReferenceEvaluator(ir.to_proto(found.model))  # whole 8-bit codes saturate in kernels without VNNI
    assert np.allclose(next(iter(exact.run(None, ones))), 0.1 * rows, rtol=1e-3)


def test_a_large_table_that_something_else_reads_is_refused():
    text = TABLE.replace("e)", "e, k)").replace("\n}", "\n t = Transpose(w)\n k = Relu(t)\n}")
    arrays = weights(0, w=(1024, 64))
    assert refusals(build(text, arrays)) == [("e", "its table w is read by Relu k too, and not by rows")]
    text = TABLE.replace("e)", "e, float[1024,64] w)")
    assert refusals(build(text, arrays)) == [("e", "its table w is an output of the model")]


ADDED = [(4,), (1,), (1, 1), (1, 4), (1, 1, 4), (3, 1), (3, 1, 4), (3, 4), (1, 1, 1), (1, 1, 1, 4)]


@pytest.mark.parametrize(
    ("columns", "added"), [(1, (6,)), *((columns, added) for columns in (1, 4) for added in ADDED)]
)
@pytest.mark.parametrize("dims", ["n,64", "n,3,64"])
@pytest.mark.parametrize("sum_", ["a, b", "b, a"])
def test_what_onnxruntime_would_take_for_a_bias_keeps_its_shape(columns, dims, added, sum_):
    """It joins the sum to the product, and does not look at how it broadcasts."""
    x = np.random.default_rng(0).normal(size=[3 if dim == "n" else int(dim) for dim in dims.split(",")])
    feeds, arrays = {"x": x.astype(np.float32)}, weights(1, w=(64, columns), b=added)
    text = f"agraph (float[{dims}] x) => (y) {{\n a = MatMul(x, w)\n y = Add({sum_})\n}}"
    before = build(text, arrays)
    after = before.clone()
    change = Int8Dynamic().apply(after, Context(VNNI))
    expected, given = run(before, feeds)["y"], run(after, feeds)["y"]
    assert given.shape == expected.shape
    assert np.allclose(given, expected, atol=0.5)
    fits = added[-1] in (1, columns) or np.prod(added[:-1]) > 1
    assert not fits or len(added) > len(x.shape) or change.sites == ("a",)


def test_what_is_not_allowed_stays_and_every_site_is_asked_for_once():
    asked = []

    def allow(site):
        asked.append(site)
        return site != "y"

    found = dynamic(tied(), token_batches(), allow=allow)
    assert found.change.sites == ("l", "g")
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("e", "its table of 3,200 elements is small")
    ]
    assert sorted(asked) == ["g", "l", "y"]
    assert found.sqnr() > 28


def test_a_plan_is_kept():
    plan = Plan((NodePlan("y", "MatMul", "int8-dynamic", ""), NodePlan("g", "Gemm", "float", "")))
    found = dynamic(tied(), token_batches(), plan=plan)
    assert found.change.sites == ("y",)
    assert {"w", "w1", "w2"} <= found.model.graph.initializers.keys()


def test_the_plan_says_why_and_leaves_the_model_as_it_is():
    model = build(INSIDE, weights(0, w=(8, 8), v=(8, 8)))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plan = {entry.node: (entry.op, entry.format, entry.reason) for entry in Int8Dynamic().plan(model, Context(ANY_CPU))}
    taken = ("MatMul", "int8-dynamic", "constant weight, weights safe from saturation")
    assert plan == dict.fromkeys(("o", "z.then_branch/a", "z.then_branch/b"), taken)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    (table,) = [entry for entry in Int8Dynamic().plan(tied(), Context(VNNI)) if entry.op == "Gather"]
    assert (table.format, table.reason) == ("int8-dynamic", "a large or shared table")
    (layer,) = Int8Dynamic().plan(lstm(), Context(ANY_CPU))
    assert (layer.op, layer.format, layer.reason) == ("LSTM", "float", _dynamic.NO_KERNEL)
