import math

import numpy as np
import onnx_ir as ir
import pytest

from mlc.layer_errors import layer_errors
from mlc.workspace import Workspace
from tests.quantizing import build, quantized, weights

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[2,3,8,8] x) => (float[2,4,4,4] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    y = Conv(r, w2)
}"""


def errors(before, after, data, folder):
    first, second = folder / "before.onnx", folder / "after.onnx"
    ir.save(before, first)
    ir.save(after, second)
    with Workspace() as workspace:
        return layer_errors(first, second, data, workspace)


def test_every_surviving_value_is_compared_in_order(tmp_path):
    found = quantized(build(TEXT, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3))))
    layers = errors(found.before, found.model, found.data, tmp_path)
    assert [(layer.value, layer.op) for layer in layers] == [
        ("x.dequantized", "input"), ("a", "Conv"), ("r", "Relu"), ("y", "Conv"),
    ]  # fmt: skip
    assert all(25 < layer.sqnr < 60 for layer in layers)
    assert layers[-1].sqnr == pytest.approx(found.sqnr(optimize=False), abs=2)


def test_equal_graphs_have_no_error(tmp_path):
    model = build(TEXT, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3)))
    found = quantized(model)
    assert [layer.sqnr for layer in errors(model, model, found.data, tmp_path)] == [math.inf] * 3


def test_a_known_error_is_measured(tmp_path):
    text = """agraph (float[4] x) => (float[4] y) {{
        y = Mul(x, c)
    }}"""
    model, wrong = (build(text.format(), {"c": np.array(value, np.float32)}) for value in (2.0, 2.2))
    from tests.quantizing import batches

    (layer,) = errors(model, wrong, batches({"x": np.arange(4, dtype=np.float32)}), tmp_path)
    assert layer.sqnr == pytest.approx(20, abs=1e-3)


def test_no_data_no_errors(tmp_path):
    model = build(TEXT, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3)))
    assert errors(model, model, [], tmp_path) == ()


def test_a_mask_of_infinities_is_judged_by_its_finite_elements(tmp_path):
    text = """agraph (float[4] x) => (float[4] y) {{
        m = Mul(x, c)
        y = Add(m, mask)
    }}"""
    mask = np.array([0, -np.inf, 0, -np.inf], np.float32)
    model, wrong = (build(text.format(), {"c": np.array(value, np.float32), "mask": mask}) for value in (2.0, 2.2))
    from tests.quantizing import batches

    layers = errors(model, wrong, batches({"x": np.arange(4, dtype=np.float32)}), tmp_path)
    assert [layer.sqnr for layer in layers] == pytest.approx([20, 20], abs=1e-3)
