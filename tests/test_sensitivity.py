"""What each node costs at the outputs, against the same computed by hand."""

import math

import numpy as np
import pytest

from mlc.compare.decisions import with_outputs
from mlc.rewriting.sensitivity import output_sensitivity
from tests.quantizing import batches, build, quantized, run, weights

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[n,3,8,8] x) => (float[n,4,4,4] y, float[n,4,6,6] r) {
    a = Conv(x, w, b)
    r = Relu(a)
    y = Conv(r, w2)
}"""
REST = """agraph (float[n,4,6,6] a) => (float[n,4,4,4] y) {
    r = Relu(a)
    y = Conv(r, w2)
}"""
LAST = """agraph (float[n,4,6,6] r) => (float[n,4,4,4] y) {
    y = Conv(r, w2)
}"""
WEIGHTS = weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3))


def images(seed=1, count=3, rows=4):
    generator = np.random.default_rng(seed)
    return batches(*({"x": generator.normal(size=(rows, 3, 8, 8)).astype(np.float32)} for _ in range(count)))


@pytest.fixture(scope="module")
def found():
    return quantized(build(TEXT, WEIGHTS), images(0))


def ratio(expected, actual):
    signal = sum((array.astype(np.float64) ** 2).sum() for array in expected)
    noise = sum(((given - array).astype(np.float64) ** 2).sum() for array, given in zip(expected, actual, strict=True))
    return 10 * math.log10(signal / noise)


def codes(value, scale, zero_point):
    return (np.clip(np.rint(value / scale) + zero_point, 0, 255) - zero_point) * scale


def test_each_node_is_quantized_alone(found, workspace):
    data = images()
    told = output_sensitivity(found.before, found.model, [("a",), ("r",), ("y",)], data, workspace)
    assert [each.sites for each in told] == [("a",), ("r",), ("y",)]

    float_y = [run(found.before, batch.inputs, optimize=False)["y"] for batch in data]
    first = with_outputs(found.model, ["a"])
    only_a = [run(first, batch.inputs, optimize=False)["a"] for batch in data]
    after_a = [run(build(REST, {"w2": WEIGHTS["w2"]}), {"a": array}, optimize=False)["y"] for array in only_a]
    float_r = [run(found.before, batch.inputs, optimize=False)["r"] for batch in data]
    coded_r = [codes(array, found.array("r.scale"), found.array("r.zero_point")) for array in float_r]
    after_r = [run(build(LAST, {"w2": WEIGHTS["w2"]}), {"r": array.astype(np.float32)})["y"] for array in coded_r]
    w2 = found.array("w2.int8") * found.array("w2.scale").reshape(-1, 1, 1, 1)
    last = [run(build(LAST, {"w2": w2}), {"r": array.astype(np.float32)}, optimize=False)["y"] for array in coded_r]

    by_hand = [
        min(ratio(float_y, after_a), ratio(float_r, [np.maximum(array, 0) for array in only_a])),
        min(ratio(float_y, after_r), ratio(float_r, coded_r)),
        ratio(float_y, [codes(array, found.array("y.scale"), found.array("y.zero_point")) for array in last]),
    ]
    assert [each.sqnr for each in told] == pytest.approx(by_hand, abs=0.05)
    assert told[2].output == "y"


def test_a_group_is_quantized_together(found, workspace):
    data = images()
    alone, together = output_sensitivity(found.before, found.model, [("a",), ("a", "r", "y")], data, workspace)
    whole = [run(found.model, batch.inputs, optimize=False)["y"] for batch in data]
    expected = [run(found.before, batch.inputs, optimize=False)["y"] for batch in data]
    assert together.sqnr == pytest.approx(ratio(expected, whole), abs=0.05)
    assert alone.sqnr > together.sqnr


def test_what_cannot_be_replaced_is_left_out(found, workspace):
    told = output_sensitivity(found.before, found.model, [("nothing",), ("y", "nothing"), ("x",)], images(), workspace)
    assert [each.sites for each in told] == [("y",)]


def test_a_node_that_is_the_same_in_both_costs_nothing(found, workspace):
    (told,) = output_sensitivity(found.before, found.before, [("a",)], images(), workspace)
    assert told.sqnr == math.inf


def test_an_integer_output_counts_by_what_decides_it(workspace):
    text = """agraph (float[n,8] x) => (int64[n] y) {
        a = MatMul(x, w)
        y = ArgMax<axis = 1, keepdims = 0>(a)
    }"""
    generator = np.random.default_rng(3)
    data = batches({"x": generator.normal(size=(6, 8)).astype(np.float32)})
    found = quantized(build(text, weights(2, w=(8, 5))), data)
    (told,) = output_sensitivity(found.before, found.model, [("a",)], data, workspace)
    expected, actual = (run(with_outputs(each, ["a"]), data[0].inputs, optimize=False)["a"]
                        for each in (found.before, found.model))  # fmt: skip
    assert told.output == "a"
    assert told.sqnr == pytest.approx(ratio([expected], [actual]), abs=0.05)


def test_without_data_nothing_is_told(found, workspace):
    assert output_sensitivity(found.before, found.model, [("a",)], [], workspace) == ()


def test_a_node_inside_a_branch_keeps_what_it_reads(workspace):
    """The chosen value is read by a branch too, where it is captured."""
    text = """agraph (float[n,4] x, bool c) => (float[n,4] y) {
        a = MatMul(x, w)
        y = If (c) <then_branch = g () => (t) { t = Mul(a, a) }, else_branch = h () => (e) { e = Neg(a) }>
    }"""
    generator = np.random.default_rng(4)
    inputs = [{"x": generator.normal(size=(5, 4)).astype(np.float32), "c": np.array(flag)} for flag in (True, False)]
    data = batches(*inputs)
    found = quantized(build(text, weights(5, w=(4, 4))), data)
    told = output_sensitivity(found.before, found.model, [("a",), ("y",)], data, workspace)
    pairs = [[run(each, given, optimize=False)["y"] for given in inputs] for each in (found.before, found.model)]
    assert [each.sites for each in told] == [("a",)]
    assert told[0].sqnr == pytest.approx(ratio(*pairs), abs=0.05)


def test_a_filling_row_does_not_count(found, workspace):
    (batch,) = images(count=1)
    (short,) = output_sensitivity(found.before, found.model, [("a",)], [batch], workspace)
    rows = {"x": np.concatenate([batch.inputs["x"], np.full((2, 3, 8, 8), 50, np.float32)])}
    filled = type(batch)(rows, None, batch.count, batch.first, batch.indexes)
    (padded,) = output_sensitivity(found.before, found.model, [("a",)], [filled], workspace)
    assert padded.sqnr == pytest.approx(short.sqnr, abs=1e-3)


def test_half_values_are_chosen_in_the_type_of_the_float_graph(workspace):
    text = """agraph (float[n,8] x) => (float[n,5] y) {
        a = MatMul(x, w)
        y = Neg(a)
    }"""
    half = """agraph (float[n,8] x) => (float[n,5] y) {
        h = Cast<to = 10>(x)
        a = MatMul(h, w16)
        n = Neg(a)
        y = Cast<to = 1>(n)
    }"""
    generator = np.random.default_rng(6)
    data = batches({"x": generator.normal(size=(6, 8)).astype(np.float32)})
    wide = weights(7, w=(8, 5))
    before, after = build(text, wide), build(half, {"w16": wide["w"].astype(np.float16)})
    (told,) = output_sensitivity(before, after, [("a",)], data, workspace)
    expected, actual = (run(each, data[0].inputs, optimize=False)["y"] for each in (before, after))
    assert told.sqnr == pytest.approx(ratio([expected], [actual]), abs=0.1)
