"""What is written is held to what its graph says: the optimized runtime may cost a little, no more."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.rewriting import check_files
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from tests.graphs import graph, references
from tests.quantizing import build

BESIDE_CODES = """g (float[2,64] x) => (float[2,4] y) <float s = {0.03}, uint8 z = {128}> {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis = 0, block_size = 32>(codes, scales)
    y = MatMul(d, w)
}"""
NEARLY_ZERO = """g (float[batch,3] x) => (float[batch,3] y) <float[3] w = {0.5, 2.0, -1.0}, float[3] b = {-9, -9, -1}> {
    m = Mul(x, w) a = Add(m, b) y = Relu(a)
}"""


def drawn(columns, scale=1.0):
    draws = (np.random.default_rng(rows).normal(scale=scale, size=(rows, columns)) for rows in (2, 3))
    return [{"x": draw.astype(np.float32)} for draw in draws]


def test_an_optimization_that_computes_something_else_is_refused(tmp_path, workspace):
    """Of a product between codes and blocks of 8 bits the runtime takes the blocks' scales for those of columns."""
    codes = np.random.default_rng(0).integers(-128, 128, (64, 4)).astype(np.int8)
    scales = np.stack([np.full(4, 0.001), np.full(4, 0.1)]).astype(np.float32)
    model, path = build(BESIDE_CODES, {"codes": codes, "scales": scales}, 21), tmp_path / "model.onnx"
    ir.save(model, path)
    kept = references(model, drawn(64)[:1], workspace)
    with open_session(path, Target()) as session:
        if np.allclose(session.run(kept[0].inputs)["y"], kept[0].outputs["y"], rtol=0.1, atol=0.1):
            pytest.skip("this version of onnxruntime reads the blocks rightly")
    (check,) = check_files(path, kept, 1e-3, -100.0, {}, Target())
    assert "without the runtime's optimizations at inf dB" in check.differences[0].reason


def test_what_the_graph_itself_loses_at_a_reference_is_not_the_runtimes(tmp_path, workspace):
    """Nearly all of the output is zero, so that one element's rounding is a large share of it."""
    path = tmp_path / "model.onnx"
    ir.save(graph(NEARLY_ZERO.replace("-1.0}", "-1.1}")), path)
    kept = references(graph(NEARLY_ZERO), drawn(3, scale=2.0), workspace)
    assert all(check.held for check in check_files(path, kept, 1e-3, 10.0, {}, Target()))
