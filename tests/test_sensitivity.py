"""What each node costs at the outputs, against the same computed by hand."""

import math

import numpy as np
import pytest

from mlc.compare.decisions import with_outputs
from mlc.graph_pass import Context
from mlc.rewriting.sensitivity import output_sensitivity
from passes.int8_dynamic import Int8Dynamic
from tests.quantizing import ANY_CPU, batches, build, quantized, run, weights, whole_batches

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


def dynamic(model, allow=lambda site: True):
    after = model.clone()
    Int8Dynamic().apply(after, Context(ANY_CPU, allow=allow))
    return after


@pytest.mark.parametrize("taken", ["a", "b"])
def test_a_node_inside_a_branch_is_quantized_there(taken, workspace):
    """It costs what the pass costs that may change nothing else; one in a branch that is not taken costs nothing."""
    text = """agraph (float[n,8] x, bool c) => (float[n,8] y) {
        p = MatMul(x, w)
        y = If (c) <then_branch = one () => (a) { t = Tanh(p) h = MatMul(t, v) a = Relu(h) },
                    else_branch = two () => (b) { h = MatMul(p, v) b = MatMul(h, w) }>
        }"""
    before = build(text, weights(5, w=(8, 8), v=(8, 8)))
    x = np.random.default_rng(4).normal(size=(5, 8)).astype(np.float32)
    data = whole_batches({"x": x, "c": np.array(taken == "a")})
    branches = {"a": ["y.then_branch/h"], "b": ["y.else_branch/h", "y.else_branch/b"]}
    sites = ["p", *branches["a"], *branches["b"]]
    told = output_sensitivity(before, dynamic(before), [(site,) for site in sites], data, workspace)
    expected = run(before, data[0].inputs, optimize=False)["y"]
    alone = [run(dynamic(before, lambda each: each == site), data[0].inputs, optimize=False)["y"] for site in sites]  # noqa: B023
    by_hand = [ratio([expected], [y]) if (y != expected).any() else math.inf for y in alone]
    assert [each.sites for each in told] == [(site,) for site in sites]
    assert [each.sqnr for each in told] == pytest.approx(by_hand, abs=0.05)
    assert [site for site, each in zip(sites, told, strict=True) if each.sqnr < math.inf] == ["p", *branches[taken]]


def test_a_node_inside_a_loop_is_quantized_in_every_round(workspace):
    text = """agraph (float[n,8] x, int64 times) => (float[n,8] y) {
        p = MatMul(x, w)
        y = Loop(times, , p) <body = b (int64 i, bool c, float[n,8] s) => (bool d, float[n,8] e) {
            d = Identity(c) h = MatMul(s, v) e = Add(h, p)
        }>
    }"""
    before = build(text, weights(5, w=(8, 8), v=(8, 8)))
    x = np.random.default_rng(4).normal(size=(5, 8)).astype(np.float32)
    data = whole_batches({"x": x, "times": np.array(3)})
    (told,) = output_sensitivity(before, dynamic(before), [("y.body/h",)], data, workspace)
    only = dynamic(before, lambda site: site == "y.body/h")
    pair = [run(each, data[0].inputs, optimize=False)["y"] for each in (before, only)]
    assert told.sqnr == pytest.approx(ratio(*([each] for each in pair)), abs=0.05)


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


TIED = """agraph (float[n,3] x) => (float[n,8] y) {
    h = MatMul(x, first)
    turned = Transpose<perm = [1, 0]>(table)
    y = MatMul(h, turned)
}"""


def test_what_is_computed_from_weights_alone_costs_nothing_by_itself(workspace):
    constants = weights(0, first=(3, 4), table=(8, 4))
    before = build(TIED, constants)
    after = build(TIED, {**constants, "table": constants["table"].round(1)})
    data = batches({"x": np.ones((2, 3), np.float32)})
    told = output_sensitivity(before, after, [("turned",), ("y",)], data, workspace)
    assert [each.sites for each in told] == [("y",)]
    exact, rounded = ([run(each, data[0].inputs, optimize=False)["y"]] for each in (before, after))
    assert told[0].sqnr == pytest.approx(ratio(exact, rounded), rel=1e-3)
