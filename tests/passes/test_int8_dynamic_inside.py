"""int8-dynamic in branches and bodies of loops."""

import numpy as np
import pytest

from tests.dynamic import INSIDE, bytes_of, dynamic
from tests.quantizing import batches, build, weights

pytestmark = pytest.mark.needs_onnxruntime

LOOP = """agraph (float[4,8] x) => (float[4,8] y) <int64 rounds = {3}, bool go = {1}> {
    y = Loop(rounds, go, x) <
        body = step (int64 i, bool on, float[4,8] h) => (bool still, float[4,8] t) {
            still = Identity(on)
            m = MatMul(h, w)
            v = Gemm(x, w, b)
            s = Add(m, v)
            t = Tanh(s)
        }
    >
}"""


def optimized_ops(found, folder):
    return sorted(node.op_type for graph in found.optimized(folder).graphs() for node in graph)


def test_products_in_a_branch(tmp_path):
    x = weights(1, x=(5, 8))["x"]
    data = batches({"x": x, "c": np.array(True)}) + batches({"x": x, "c": np.array(False)})
    found = dynamic(build(INSIDE, weights(0, w=(8, 8), v=(8, 8))), data)
    assert found.change.sites == ("o", "z.then_branch/a", "z.then_branch/b")
    assert bytes_of(found.model) == 2 * 64
    assert found.sqnr(optimize=False) > 30
    assert found.sqnr() > 30
    ops = optimized_ops(found, tmp_path)
    assert (ops.count("MatMulIntegerToFloat"), ops.count("DynamicQuantizeMatMul")) == (2, 1)


def test_products_in_the_body_of_a_loop():
    found = dynamic(build(LOOP, weights(0, w=(8, 8), b=(8,))))
    assert found.change.sites == ("y.body/m", "y.body/v")
    assert found.sqnr(optimize=False) > 25
    assert found.sqnr() > 25
