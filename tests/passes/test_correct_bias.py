"""The option correct_bias of int8-static: golden text, the mean of each output, and what it is worth."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.formats import layout_of
from mlc.types import Need
from passes._correct_bias import mean_shift
from passes.int8_static import Int8Static
from tests.quantizing import VNNI, batches, build, quantized, run, weights

pytestmark = pytest.mark.needs_onnxruntime

TWO = """agraph (float[n,4,8,8] x) => (float[n,8] y) {
    a = Conv<group = 2>(x, w, b)
    r = Relu(a)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm(f, v, c)
}"""
LINEAR = """agraph (float[n,3,64] x) => (float[n,3,8] y) {
    a = MatMul(x, w)
    y = Add(a, b)
}"""


def linear(seed=0):
    """A product and inputs that are far from 0 on average, which makes the rounding of weights one-sided."""
    arrays = weights(seed, w=(64, 8), b=(8,))
    offset = 4 * np.random.default_rng(seed + 1).uniform(-1, 1, 64)
    inputs = [{"x": (np.random.default_rng(n).normal(size=(40, 3, 64)) * 0.1 + offset).astype(np.float32)} for n in
              (1, 2, 3)]  # fmt: skip
    return build(LINEAR, arrays), batches(*inputs[:2]), inputs[2]


def shifted(found, inputs):
    """How far the mean of each output channel is off, as rms."""
    off = run(found.model, inputs, optimize=False)["y"] - run(found.before, inputs)["y"]
    return float(np.sqrt(np.mean(np.square(off.mean(axis=tuple(range(off.ndim - 1)))))))


def test_the_mean_of_each_output_is_taken_back_and_less_is_lost():
    model, samples, unseen = linear()
    plain, corrected = (quantized(model, samples, correct_bias=on) for on in (False, True))
    assert corrected.ops() == plain.ops()
    assert shifted(corrected, unseen) < shifted(plain, unseen) / 2
    assert corrected.sqnr(optimize=False) > plain.sqnr(optimize=False) + 1


def test_convolutions_by_channel_and_products_by_column():
    model = build(TWO, weights(0, w=(6, 2, 3, 3), b=(6,), v=(6, 8), c=(8,)))
    needs = Int8Static().needs(model)  # what corrects nothing asks too, so that its statistics serve what does
    assert {need for need in needs if need.kind.endswith("-mean")} == {
        Need("x", "channel-mean"), Need("f", "column-mean"),
    }  # fmt: skip


def test_products_that_stay_float_are_not_asked_for():
    """Axes that they keep statistics for may run over samples, which differ in number from batch to batch."""
    text = """agraph (float[n,32] x) => (float[32,8] y) {
        h = MatMul(x, v)
        y = Gemm<transA = 1>(h, w, b)
    }"""
    model = build(text.replace("n,32", "6,32"), weights(0, v=(32, 32), w=(6, 8), b=(8,)))
    assert {need for need in Int8Static().needs(model) if need.value == "h"} <= {Need("h", "histogram")}


def test_convolutions_of_other_groups_may_share_a_weight():
    text = """agraph (float[n,4,8,8] x, float[n,8,8,8] z) => (float[n,8,6,6] y, float[n,8,6,6] u) {
        y = Conv<group = 1>(x, w, b)
        u = Conv<group = 2>(z, w, b)
    }"""
    generator = np.random.default_rng(0)
    feeds = {"x": generator.normal(size=(2, 4, 8, 8)), "z": generator.normal(size=(2, 8, 8, 8))}
    data = batches({name: array.astype(np.float32) for name, array in feeds.items()})
    found = quantized(build(text, weights(0, w=(8, 4, 3, 3), b=(8,))), data, correct_bias=True)
    assert found.change.sites == ("y", "u")
    assert found.sqnr() > 30


def test_the_shift_by_its_definition():
    generator = np.random.default_rng(0)
    error, mean = generator.normal(size=(6, 2, 3, 3)), generator.normal(size=4).astype(np.float32)
    expected = [sum(error[o, i].sum() * mean[2 * (o // 3) + i] for i in range(2)) for o in range(6)]
    assert np.allclose(mean_shift(error, layout_of("Conv", 4, group=2), mean), expected, rtol=1e-5)
    matrix = generator.normal(size=(4, 5))
    assert np.allclose(mean_shift(matrix, layout_of("MatMul", 2), mean), mean @ matrix, rtol=1e-5)
    assert np.allclose(mean_shift(matrix.T, layout_of("Gemm", 2, trans_b=True), mean), mean @ matrix, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_convolutions_at_two_sizes(rows):
    model = build(TWO, weights(0, w=(6, 2, 3, 3), b=(6,), v=(6, 8), c=(8,)))
    samples = batches({"x": np.random.default_rng(0).uniform(0, 2, (16, 4, 8, 8)).astype(np.float32)})
    found = quantized(model, samples, correct_bias=True)
    inputs = {"x": np.random.default_rng(1).uniform(0, 2, (rows, 4, 8, 8)).astype(np.float32)}
    expected = run(model, inputs)["y"]
    assert np.abs(run(found.model, inputs)["y"] - expected).max() < 0.05 * np.abs(expected).max()


def test_a_layer_without_a_bias_gets_none():
    model = build("agraph (float[n,64] x) => (float[n,8] y) {\n y = MatMul(x, w)\n}", weights(0, w=(64, 8)))
    samples = batches({"x": np.random.default_rng(0).uniform(0, 2, (16, 64)).astype(np.float32)})
    assert quantized(model, samples, correct_bias=True).ops() == quantized(model, samples).ops()


def test_golden(golden):
    arrays = {"w": np.array([[1, 0.4], [0.003, 0.5]], np.float32), "b": np.array([1, -1], np.float32)}
    text = "agraph (float[n,2] x) => (float[n,2] y) {\n y = Gemm(x, w, b)\n}"
    samples = batches({"x": np.array([[0, 10], [2, 30]], np.float32)})
    found = quantized(build(text, arrays), samples, VNNI, correct_bias=True)
    golden("correct_bias.onnxtxt", ir.to_onnx_text(found.model).rstrip() + "\n")
