"""The linear sample through statistics, plan and int8-static, against the calculation by hand, integer for integer."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mlc.emulate import saturation_proof
from tests.quantizing import ANY_CPU, VNNI, batches, build, quantized, run

pytestmark = pytest.mark.needs_onnxruntime

LINEAR = Path(__file__).resolve().parent.parent / "sample_models" / "linear"
GEMM = """agraph (float[batch,6] x) => (float[batch,4] linear) {
    linear = Gemm<transB = 1>(x, weight, bias)
}"""
MATMUL = """agraph (float[batch,6] x) => (float[batch,4] linear) {
    product = MatMul(x, weight)
    linear = Add(product, bias)
}"""
RELU = """agraph (float[batch,6] x) => (float[batch,4] linear) {
    sums = Gemm<transB = 1>(x, weight, bias)
    relu = Relu(sums)
    linear = Gemm(relu, unit)
}"""


def load_oracle():
    spec = importlib.util.spec_from_file_location("linear_oracle", LINEAR / "oracle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load_oracle()


def arrays(name):
    with np.load(LINEAR / name) as file:
        return dict(file)


def compiled(text, capabilities, **more):
    weight = oracle.WEIGHT.T if text is MATMUL else oracle.WEIGHT
    calibration = arrays("calibration.npz")["x"]
    data = batches({"x": calibration[:10]}, {"x": calibration[10:]}, first=0)
    return quantized(build(text, {"weight": weight, "bias": oracle.BIAS, **more}), data, capabilities)


def scales_of(capabilities):
    return oracle.safe_scale(oracle.WEIGHT) if capabilities.saturates else oracle.full_scale(oracle.WEIGHT)


@pytest.mark.parametrize("capabilities", [ANY_CPU, VNNI], ids=["cpu", "vnni"])
@pytest.mark.parametrize("text", [GEMM, MATMUL], ids=["Gemm", "MatMul"])
def test_every_stored_integer_and_scale_is_the_one_by_hand(text, capabilities):
    found = compiled(text, capabilities)
    x, scales = oracle.calibrate(arrays("calibration.npz")["x"]), scales_of(capabilities)
    assert found.array("x.scale") == x.scale
    assert found.array("x.zero_point") == x.zero_point
    assert np.array_equal(found.array("weight.scale"), scales)
    codes = found.array("weight.int8")
    assert np.array_equal(codes.T if text is MATMUL else codes, oracle.quantize_weight(oracle.WEIGHT, scales))
    assert np.array_equal(found.array("linear.bias.int32"), oracle.quantize_bias(oracle.BIAS, x.scale, scales))
    assert np.array_equal(found.array("linear.bias.scale"), x.scale * scales)


@pytest.mark.parametrize("text", [GEMM, MATMUL], ids=["Gemm", "MatMul"])
def test_the_runtime_computes_the_sums_by_hand(text):
    found = compiled(text, ANY_CPU)
    inputs = arrays("evaluation.npz")["x"]
    x, scales = oracle.calibrate(arrays("calibration.npz")["x"]), scales_of(ANY_CPU)
    sums = oracle.int8_sums(inputs, x, scales)
    for optimize in (True, False):
        outputs = run(found.model, {"x": inputs}, optimize=optimize)["linear"]
        assert np.array_equal(np.rint(outputs / (x.scale * scales)).astype(np.int32), sums)
        np.testing.assert_allclose(outputs, oracle.dequantize(sums, x.scale, scales), rtol=1e-5, atol=1e-6)


def test_the_quantizer_behind_the_sums_is_the_one_by_hand():
    found = compiled(RELU, ANY_CPU, unit=np.eye(4, dtype=np.float32))
    calibration, inputs = (arrays(name)["x"] for name in ("calibration.npz", "evaluation.npz"))
    x, scales = oracle.calibrate(calibration), scales_of(ANY_CPU)
    relu = oracle.calibrate(np.maximum(oracle.layer(calibration), 0))
    assert found.array("relu.scale") == relu.scale
    assert found.array("relu.zero_point") == relu.zero_point
    codes = oracle.requantize(oracle.int8_sums(inputs, x, scales), x.scale, scales, relu)
    for optimize in (True, False):
        outputs = run(found.model, {"x": inputs}, optimize=optimize)["linear"]
        assert np.array_equal(np.rint(outputs / relu.scale).astype(int), codes)


def test_only_the_safe_file_is_proven_safe():
    assert saturation_proof(compiled(GEMM, ANY_CPU).model)[0].startswith("no product sum saturates on:")
    assert saturation_proof(compiled(GEMM, VNNI).model)[0].startswith("product sums may saturate on")
