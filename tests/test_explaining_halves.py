"""Where a model with numbers of 16 bits loses, and what was converted inside branches and loops, by hand."""

import math

import numpy as np
import onnx_ir as ir
import pytest

from mlc.explaining import Inside, Kept
from mlc.explaining.explain import explain
from mlc.graph_pass import Context
from mlc.types import NodePlan, Plan
from passes.bf16 import Bf16
from passes.fp16 import Fp16
from passes.int8_dynamic import Int8Dynamic
from tests.halves import halved, holding, reasons
from tests.quantizing import ANY_CPU, batches, quantized, run, weights, whole_batches

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """model (float[n,16] x) => (float[n,8] y, float[n,8] z) <float zero = {0}> {
    h = MatMul(x, w)
    g = Relu(h)
    s = Softmax(g)
    q = MatMul(s, v)
    y = Tanh(q)
    t = ReduceSum<keepdims = 0>(x)
    c = Greater(t, zero)
    z = If(c) <
        then_branch = one () => (float[n,8] p) { p = MatMul(h, v) },
        else_branch = two () => (float[n,8] u) { k = MatMul(s, v) u = Neg(k) }
    >
}"""
BODIES = ["z.then_branch/p", "z.else_branch/k", "z.else_branch/u"]


@pytest.fixture
def model():
    return holding(TEXT, **weights(0, w=(16, 32), v=(32, 8)))


@pytest.fixture
def data():
    return batches(*(weights(seed, x=(5, 16)) for seed in (1, 2)))


@pytest.fixture
def told(tmp_path, workspace):
    """What is told of a written graph."""

    def explained(before, after, data, plan=None):
        ir.save(after, tmp_path / "model.onnx")
        found = explain(before, tmp_path / "model.onnx", data, workspace, plan)
        assert found is not None
        return found

    return explained


@pytest.fixture
def in_half(model, data, told):
    after, change = halved(model, *(batch.inputs for batch in data))
    return told(model, after, data, planned(change)), after, change


def planned(change, form="fp16"):
    """What a plan says of it in the end."""
    taken = [NodePlan(site, "", form, "") for site in change.sites]
    return Plan((*taken, *(NodePlan(refusal.site, "", "float", refusal.reason) for refusal in change.refused)))


def test_a_value_in_float16_is_told_with_its_magnitude_and_its_rounding(in_half, data):
    found, _, _ = in_half
    x = np.concatenate([batch.inputs["x"] for batch in data])
    by_name = {each.value: each for each in found.tensors if each.kind == "activation"}
    assert set(by_name) == {"x", "h", "g", "s", "q", "y"}
    seen = by_name["x"]
    assert (seen.dtype, seen.readers, seen.clipped) == ("float16", ("h",), 0)
    assert (seen.low, seen.high, seen.lowest, seen.highest) == (x.min(), x.max(), -65504, 65504)
    noise = ((x.astype(np.float16) - x).astype(np.float64) ** 2).sum()
    assert seen.sqnr == pytest.approx(10 * np.log10((x.astype(np.float64) ** 2).sum() / noise), abs=1e-3)
    assert by_name["h"].readers == ("g",)


def test_a_value_without_elements_has_no_magnitude(told):
    text = """model (float[n,16] x, float[m,32] past) => (float[k,8] y) {
        h = MatMul(x, w)
        c = Concat<axis = 0>(past, h)
        y = MatMul(c, v)
    }"""
    model = holding(text, **weights(0, w=(16, 32), v=(32, 8)))
    feeds = {**weights(1, x=(5, 16)), "past": np.zeros((0, 32), np.float32)}
    found = told(model, halved(model, feeds)[0], batches(feeds))
    assert [each.value for each in found.tensors if each.kind == "activation"] == ["x", "h", "c", "y"]
    assert all(math.isfinite(each.low) for each in found.tensors)


def test_what_float16_does_not_hold_is_counted(told):
    text = "model (float[n,4] x) => (float[n,3] y) {\n a = MatMul(x, w)\n y = MatMul(a, v)\n}"
    model = holding(text, w=np.full((4, 4), 5e3, np.float32), v=np.full((4, 3), 1e-3, np.float32))
    small = {"x": np.full((2, 4), 0.1, np.float32)}
    after, _ = halved(model, small)
    found = told(model, after, batches({"x": np.full((2, 4), 9.0, np.float32)}, small))
    (seen,) = [each for each in found.tensors if each.value == "a"]
    assert (seen.clipped, seen.high) == (0.5, 18e4)
    assert seen.sqnr < 5
    assert found.nodes[0].sqnr < 5


def test_a_weight_is_told_with_those_that_read_it_inside_branches_too(in_half, model):
    found, _, _ = in_half
    by_name = {each.value: each for each in found.tensors if each.kind == "weight"}
    assert set(by_name) == {"w", "v"}
    assert set(by_name["v"].readers) == {"q", "z.then_branch/p", "z.else_branch/k"}
    v = model.graph.initializers["v"].const_value.numpy().astype(np.float64)
    noise = ((v.astype(np.float16) - v) ** 2).sum()
    assert by_name["v"].sqnr == pytest.approx(10 * np.log10((v**2).sum() / noise), abs=0.01)


def test_what_a_node_costs_is_as_a_gpu_computes_it_alone(in_half, model, data):
    found, _, _ = in_half
    assert [node.node for node in found.nodes] == ["h", "g", "q", "y", *BODIES]
    y = np.concatenate([run(model, batch.inputs)["y"] for batch in data]).astype(np.float64)
    noise = ((y.astype(np.float32).astype(np.float16) - y) ** 2).sum()
    tanh = found.nodes[3]
    assert (tanh.output, tanh.op) == ("y", "Tanh")
    assert tanh.sqnr == pytest.approx(10 * np.log10((y**2).sum() / noise), abs=0.1)
    assert all(node.output == "z" and 60 < node.sqnr < 110 for node in found.nodes[4:])
    assert found.arithmetic is None


def test_what_stays_float32_is_told_with_the_reasons_of_a_plan(in_half, model, data, told):
    found, after, change = in_half
    why = reasons(change)
    assert found.kept == (
        Kept("s", "Softmax", why["s"]), Kept("t", "ReduceSum", why["t"]), Kept("z", "If", why["z"])
    )  # fmt: skip
    again = told(model, after, data)
    assert [(each.node, each.reason) for each in again.kept] == [("s", ""), ("t", ""), ("z", "")]


def test_a_weight_that_a_caller_may_override_is_no_value(data, told):
    model = holding(
        "g (float[n,16] x, float[16,8] w) => (float[n,8] y) { h = MatMul(x, w) y = Relu(h) }", **weights(0, w=(16, 8))
    )
    after, change = halved(model, *(batch.inputs for batch in data))
    assert {tensor.value for tensor in told(model, after, data, planned(change)).tensors} >= {"x", "h", "y"}


def test_what_is_converted_in_branches_is_named_with_its_format(in_half, model, data, told):
    found, after, _ = in_half
    ops = ["MatMul", "MatMul", "Neg"]
    assert found.inside == tuple(Inside(site, op, "fp16") for site, op in zip(BODIES, ops, strict=True))
    assert found.notes == ()
    assert {each.format for each in told(model, after, data).inside} == {"16 bits"}


@pytest.mark.parametrize(("subject", "dtype"), [(Bf16(), "bfloat16"), (Fp16(weights_only=True), "float16")])
def test_weights_alone_are_told_and_nothing_stays_float32_for_a_reason(subject, dtype, told):
    model = holding("model (float[n,32] x) => (float[n,16] y) {\n y = MatMul(x, w)\n}", **weights(0, w=(32, 16)))
    after = model.clone()
    change = subject.apply(after, Context(ANY_CPU))
    found = told(model, after, batches(weights(1, x=(5, 32))), planned(change, subject.name))
    assert [(each.value, each.kind, each.dtype, each.readers) for each in found.tensors] == [
        ("w", "weight", dtype, ("y",))
    ]
    assert [node.node for node in found.nodes] == ["y"]
    assert found.nodes[0].sqnr == pytest.approx(found.tensors[0].sqnr, abs=6)
    assert (found.kept, found.inside, found.notes) == ((), (), ())


def test_integers_in_branches_have_their_weights_told_and_their_nodes_named(model, data, told):
    after = model.clone()
    change = Int8Dynamic().apply(after, Context(ANY_CPU))
    found = told(model, after, data, planned(change, "int8-dynamic"))
    assert found.inside == tuple(Inside(site, "MatMul", "int8-dynamic") for site in BODIES[:2])
    (shared,) = [each for each in found.tensors if each.value == "v"]
    assert set(shared.readers) == {"q", *BODIES[:2]}
    assert 30 < shared.sqnr < 60
    assert found.notes == ()
    assert {each.format for each in told(model, after, data).inside} == {"integers"}


def test_a_node_of_a_branch_that_a_plan_keeps_float_is_not_told_as_converted(told):
    """It reads what codes from around the branch mean."""
    text = """model (float[n,3,6,6] x, bool c) => (float[n,4,6,6] z) {
        a = Conv(x, w)
        b = Conv(a, v)
        z = If(c) <
            then_branch = one () => (float[n,4,6,6] p) { p = Softmax<axis = 1>(b) },
            else_branch = two () => (float[n,4,6,6] q) { q = Conv(b, v) }
        >
    }"""
    model = holding(text, **weights(0, w=(4, 3, 1, 1), v=(4, 4, 1, 1)))
    x = weights(1, x=(6, 3, 6, 6))
    quant = quantized(model, whole_batches(*({**x, "c": np.array(taken)} for taken in (True, False))))
    found = told(model, quant.model, quant.data, planned(quant.change, "int8-static"))
    assert found.inside == (Inside("z.else_branch/q", "Conv", "int8-static"),)


def test_the_body_of_a_loop(told):
    text = """model (float[4,8] x) => (float[4,8] y) <int64 rounds = {3}, bool go = {1}> {
        y = Loop(rounds, go, x) <
            body = step (int64 i, bool on, float[4,8] h) => (bool still, float[4,8] r) {
                still = Identity(on)
                m = MatMul(h, w)
                r = Tanh(m)
            }
        >
    }"""
    model = holding(text, **weights(0, w=(8, 8)))
    after = model.clone()
    Int8Dynamic().apply(after, Context(ANY_CPU))
    found = told(model, after, batches(weights(1, x=(4, 8))))
    assert found.inside == (Inside("y.body/m", "MatMul", "integers"),)
    assert [(each.value, each.readers) for each in found.tensors] == [("w", ("y.body/m",))]
    (node,) = found.nodes
    assert (node.node, node.op, node.output) == ("y.body/m", "MatMul", "y")
    assert 20 < node.sqnr < 50
