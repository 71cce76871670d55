"""What today's quantizers get wrong, one test for each class of mistake."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

import mlc
from mlc.compare import sqnr
from mlc.emulate import exact_sums, saturating_sums
from mlc.errors import DataError, PassError
from mlc.formats import Order, layout_of
from mlc.graph_pass import Context
from mlc.rewriting import rewrite
from mlc.runtimes.onnxruntime import capabilities
from mlc.statistics import CollectedStatistics
from mlc.statistics.observers import Observer
from mlc.types import PassSpec, Plan, Target
from passes.int8_static import Int8Static
from tests.graphs import artifact, references
from tests.quantizing import ANY_CPU, batches, build, quantized, run, weights

pytestmark = pytest.mark.needs_onnxruntime

HEAD = """agraph (float[batch,16] x) => (float[batch,1000] p) {
    h = Gemm<transB = 1>(x, w, b)
    p = Softmax(h)
}"""


def test_small_probabilities_stay_apart_from_zero():
    arrays = weights(0, w=(1000, 16), b=(1000,))
    arrays["w"] *= 0.05
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    found = quantized(build(HEAD, arrays), batches({"x": x}))
    assert found.change.sites == ("h",)
    assert (run(found.model, {"x": x})["p"] > 0).all()


MASKED = """agraph (float[2,5,8] x, float[5,5] mask) => (float[2,5,5] p) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    kt = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, kt)
    m = Add(s, mask)
    p = Softmax(m)
}"""


def test_a_mask_of_infinities_is_never_in_a_range():
    mask = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    mask.setflags(write=True)
    text = MASKED.replace(", float[5,5] mask", "")
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    found = quantized(build(text, {**weights(0, wq=(8, 8), wk=(8, 8)), "mask": mask}), batches({"x": x}))
    assert found.change.sites == ("q", "k")
    assert found.sqnr() > 25
    assert np.isfinite(run(found.model, {"x": x})["p"]).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, np.inf), (np.inf, np.inf)])
def test_a_range_that_is_not_finite_is_refused_by_name(low, high):
    model = build("agraph (float[2,4] x) => (float[2,3] y) {\n y = MatMul(x, w)\n}", weights(0, w=(4, 3)))
    statistics = CollectedStatistics({"x": Observer(low=low, high=high, elements=8, counts=np.zeros(1 << 15, int))})
    with pytest.raises(PassError, match=f"the range of x is {low:g}..inf"):
        Int8Static().apply(model, Context(ANY_CPU, Plan(), statistics))


MASK_BETWEEN = """agraph (float[2,8] x, float[2,8] mask) => (float[2,4] y, float[2,4] z) {
    a = MatMul(x, w1)
    m = Add(a, mask)
    y = MatMul(m, w2)
    z = MatMul(a, w3)
}"""


@pytest.mark.parametrize("method", ["min-max", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("mask", [-1e9, float(np.finfo(np.float32).min) / 2])
def test_a_mask_is_not_quantized_and_named_with_its_sample(mask, method):
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    masks = np.zeros((2, 8), np.float32)
    masks[1, :3] = mask
    model = build(MASK_BETWEEN, weights(0, w1=(8, 8), w2=(8, 4), w3=(8, 4)))
    found = quantized(model, batches({"x": x, "mask": masks}), method=method)
    assert found.change.sites == ("a", "z")
    told = [refusal.reason for refusal in found.change.refused if refusal.site == "y"]
    assert told == [f"the value m holds {mask:.4g} for sample 1: a mask?"]
    assert any(note.startswith(told[0]) for note in found.change.notes)
    exact = run(found.before, {"x": x, "mask": masks})
    close = run(found.model, {"x": x, "mask": masks})
    np.testing.assert_allclose(close["y"], exact["y"], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("to", ["int8", "int8-dynamic"])
@pytest.mark.parametrize(("mask", "larger"), [(-1e9, 1), (-1e4, 16), (-1e3, 1)])
def test_a_mask_is_not_quantized_as_it_comes(tmp_path, to, mask, larger):
    """Half of the rows hold the mask: by it their outputs are right, and all others are lost in its scale."""
    generator = np.random.default_rng(0)
    x = (larger * generator.normal(size=(64, 8))).astype(np.float32)
    masks = np.zeros((64, 8), np.float32)
    masks[1::2, :2] = mask
    text = MASK_BETWEEN.replace("float[2,", "float[batch,")
    model = build(text, weights(0, w1=(8, 8), w2=(8, 4), w3=(8, 4)))
    path = tmp_path / "m.onnx"
    onnx.save(ir.to_proto(model), path)
    specs = ["x=float32[batch=1..64,8]", "mask=float32[batch,8]"]
    data = {"x": x, "mask": masks}
    original = mlc.load(str(path), inputs=specs, example=data)
    found = mlc.rewrite(mlc.export(original), original, to=to)
    (step,) = [step for step in found.steps if step.spec.name == "int8-dynamic"]
    assert [refusal.site for refusal in step.refused if refusal.reason.endswith("a mask?")] == ["y"]
    close, exact = run(found.model, data)["y"][::2], run(model, data)["y"][::2]
    assert sqnr(exact, close) > 25


def test_a_mask_of_infinity_leaves_the_nodes_around_it_float():
    text = """agraph (float[2,8] x) => (float[2,4] y, float[2,4] z) {
        l = Log(x)
        y = MatMul(l, w1)
        z = MatMul(x, w1)
    }"""
    x = np.abs(np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32))
    x[1, 4] = 0
    found = quantized(build(text, weights(0, w1=(8, 4))), batches({"x": x}))
    assert found.change.sites == ("z",)
    assert "the value l holds -inf for sample 1: a mask?" in {refusal.reason for refusal in found.change.refused}


CONV = """agraph (float[batch,3,h,w] x) => (float[batch,4,oh,ow] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    y = Conv(r, w2, b2)
}"""
CONV_WEIGHTS = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,)}


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
@pytest.mark.parametrize("clamp", ["Relu(a)", "Clip<min = -0.5, max = 2.0>(a)", "LeakyRelu(a)"])
def test_a_file_older_than_channels_in_the_quantizers_is_raised_first(opset, clamp, workspace):
    if clamp.startswith("Clip") and opset > 10:
        clamp = "Clip(a, low, high)"
    text = CONV.replace("Relu(a)", clamp)
    bounds = {"low": np.array(-0.5, np.float32), "high": np.array(2, np.float32)} if "low" in clamp else {}
    model = build(text, {**weights(0, **CONV_WEIGHTS), **bounds}, opset=opset)
    kept = references(model, [images(1), images(2, count=3)], workspace)
    given = {"references": kept, "workspace": workspace, "capabilities": ANY_CPU, "calibration": batches(images(3))}
    done = rewrite(artifact(model), [PassSpec("int8-static")], requested=["int8-static"], **given)
    assert done.model.opset_imports[""] == 13
    assert {"a", "y"} <= set(done.steps[0].sites)
    assert done.steps[0].sqnr["y"] > 25


def images(seed, count=2, size=9):
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)}


def test_one_bad_sample_stops_the_calibration_by_index_and_input():
    parts = [images(seed) for seed in range(3)]
    parts[2]["x"][1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="the input x holds NaN for sample 5 of the calibration data"):
        quantized(build(CONV, weights(0, **CONV_WEIGHTS)), batches(*parts))


def test_samples_of_different_size_with_percentiles():
    parts = [images(seed, size=size) for seed, size in enumerate((7, 12, 9))]
    found = quantized(build(CONV, weights(0, **CONV_WEIGHTS)), batches(*parts), method="percentile", percent=99.9)
    assert found.sqnr() > 20


def test_a_bias_beyond_32_bits_and_dead_and_tiny_channels():
    arrays = weights(0, **CONV_WEIGHTS)
    arrays["w1"][0] = 0
    arrays["w1"][1] *= 1e-7
    arrays["b1"][:2] = 3, -50
    found = quantized(build(CONV, arrays), batches(images(0), images(1)))
    assert (found.array("w1.scale") >= np.finfo(np.float32).tiny).all()
    codes = found.array("a.bias.int32")
    np.testing.assert_allclose(codes * found.array("a.bias.scale"), arrays["b1"], atol=1e-2)
    assert found.sqnr() > 25
    assert found.sqnr(optimize=False) > 25


def test_activations_that_are_always_zero():
    arrays = weights(0, **CONV_WEIGHTS)
    arrays["b1"][:] = -1e3
    found = quantized(build(CONV, arrays), batches(images(0)))
    assert found.statistics.range("r") == (0.0, 0.0)
    assert found.array("r.scale") > 0
    x = images(0)["x"]
    np.testing.assert_allclose(run(found.model, {"x": x})["y"], run(found.before, {"x": x})["y"], atol=0.01)


def test_an_input_of_all_zeros():
    found = quantized(build(CONV, weights(0, **CONV_WEIGHTS)), batches({"x": np.zeros((2, 3, 9, 9), np.float32)}))
    x = np.zeros((2, 3, 9, 9), np.float32)
    np.testing.assert_allclose(run(found.model, {"x": x})["y"], run(found.before, {"x": x})["y"], atol=0.02)


def test_an_empty_batch_runs():
    found = quantized(build(CONV, weights(0, **CONV_WEIGHTS)), batches(images(0)))
    x = np.zeros((0, 3, 9, 9), np.float32)
    assert run(found.model, {"x": x}, optimize=False)["y"].shape == (0, 4, 5, 5)


def test_an_addition_of_three_scales_differs_by_one_step_at_most():
    text = """agraph (float[2,3,9,9] x) => (float[2,4,7,7] y) {
        a = Conv(x, w1, b1)
        c = Conv(x, w2)
        y = Add(a, c)
    }"""
    found = quantized(build(text, weights(0, w1=(4, 3, 3, 3), b1=(4,), w2=(4, 3, 3, 3))), batches(images(0)))
    x = images(0)["x"]
    fused, plain = (run(found.model, {"x": x}, optimize=optimize)["y"] for optimize in (True, False))
    assert np.abs(fused - plain).max() <= 1.001 * found.array("y.scale")


def integer_product(activations, codes):
    """What the runtime's own kernel computes here: u8 [rows, k] times s8 [channels, k]."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, list(activations.shape)),
            helper.make_tensor_value_info("b", TensorProto.INT8, list(codes.T.shape)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [len(activations), len(codes)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"a": activations, "b": np.ascontiguousarray(codes.T)})[0]


@pytest.mark.parametrize("k", [3, 16, 63, 130])
def test_the_emulation_is_what_a_saturating_kernel_computes(k):
    if not capabilities(Target(device="native")).saturates:
        pytest.skip("this CPU adds 8-bit products in 32 bits: no kernel here saturates")
    generator = np.random.default_rng(k)
    activations = generator.integers(0, 256, (7, k)).astype(np.uint8)
    codes = generator.integers(-127, 128, (9, k)).astype(np.int8)
    expected = saturating_sums(activations, codes, layout_of("Gemm", 2, trans_b=True), Order.ONNXRUNTIME)
    assert np.array_equal(integer_product(activations, codes), expected)


@pytest.mark.parametrize("k", [3, 16, 63, 130])
def test_products_that_cannot_saturate_are_exact_here_too(k):
    generator = np.random.default_rng(k)
    activations = generator.choice([0, 128, 255], (7, k)).astype(np.uint8)
    codes = generator.integers(-64, 65, (9, k)).astype(np.int8)
    exact = exact_sums(activations, codes)
    for order in Order:
        assert np.array_equal(saturating_sums(activations, codes, layout_of("Gemm", 2, trans_b=True), order), exact)
    assert np.array_equal(integer_product(activations, codes), exact)
