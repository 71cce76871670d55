"""Weights by blocks: small graphs, quantized, checked and run."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from mlc.graph_pass import Context
from mlc.types import Capabilities, Plan
from passes._block_forms import KERNEL
from tests.quantizing import ANY_CPU, Quantized, assert_tidy, batches, build, collected, weights

FORMS = {"standard": ANY_CPU, "joined": Capabilities("a CPU that was asked", kernels=(KERNEL,))}
"""What the two forms are written for."""

TIED = """agraph (int64[n,7] ids) => (float[n,7,50] y) {
    e = Gather(w, ids)
    l = MatMul(e, w1)
    a = Add(l, b1)
    r = Relu(a)
    f = Reshape(r, two)
    g = Gemm<transB = 1>(f, w2, b2)
    h = Tanh(g)
    s = Reshape(h, three)
    t = Transpose<perm = [1, 0]>(w)
    y = MatMul(s, t)
}"""


def tied():
    """An embedding, a MatMul with a bias, a Gemm and a head that reads the embedding; 160 is whole blocks of 32."""
    arrays = weights(0, w=(50, 64), w1=(64, 160), b1=(160,), w2=(64, 160), b2=(64,))
    arrays |= {"two": np.array([-1, 160]), "three": np.array([-1, 7, 64])}
    return build(TIED, arrays, 21)


def token_batches(count=2, rows=3):
    """Batches of tokens for ``tied``."""
    generator = np.random.default_rng(0)
    return batches(*({"ids": generator.integers(-50, 50, (rows, 7))} for _ in range(count)))


def product(columns=5, rows=64, seed=0, opset=21):
    """One MatMul and its weight."""
    weight = weights(seed, w=(rows, columns))
    text = f"agraph (float[n,{rows}] x) => (float[n,{columns}] y) {{\n y = MatMul(x, w)\n}}"
    return build(text, weight, opset), weight["w"]


def by_blocks(model, subject, data, plan=None, allow=lambda site: True, *, form="standard"):
    """The model after a pass, checked by ONNX's checker."""
    statistics = collected(model, subject, data)
    after = model.clone()
    plan = Plan() if plan is None else plan
    change = subject.apply(after, Context(FORMS[form], plan, statistics, allow))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert_tidy(after, model)
    return Quantized(model, after, change, plan, statistics, data)
