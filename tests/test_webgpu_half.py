"""Float16 on a GPU, or a software device that is called one: what it gives is what the strict evaluator gives."""

from __future__ import annotations

import numpy as np
import pytest

from mlc.compare import sqnr
from mlc.graph_pass import Context
from mlc.runtimes.opening import open_session
from mlc.statistics import collect
from mlc.types import Capabilities, Target
from passes.fp16 import Fp16
from tests.graphs import answers, random
from tests.halves import holding, strictly
from tests.quantizing import batches
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

GPU = Target(provider="webgpu")


@pytest.fixture(scope="module", autouse=True)
def device():
    return usable("webgpu")[1]


def on_gpu(model, feeds, workspace):
    with open_session(workspace.save(model, "half"), GPU) as session:
        return session.run(feeds)


def weights(**shapes):
    """Normal arrays by name, scaled so that products keep their size; scales of normalizations are about 1."""
    arrays = {name: random(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    return {
        name: (array / np.sqrt(np.prod(array.shape[1:] if array.ndim > 2 else array.shape[:-1])) if array.ndim > 1
               else 1 + array / 8).astype(np.float32)
        for name, array in arrays.items()
    }  # fmt: skip


TRANSFORMER = """g (float[n,6,32] x) => (float[n,6,32] y)
    <int64[4] heads = {0, 6, 4, 8}, int64[3] joined = {0, 6, 32}, float scale = {0.3535}> {
    q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v1 = Reshape(v0, heads)
    q = Transpose<perm = [0, 2, 1, 3]>(q1) k = Transpose<perm = [0, 2, 3, 1]>(k1) v = Transpose<perm = [0, 2, 1, 3]>(v1)
    s = MatMul(q, k) t = Mul(s, scale) p = Softmax(t) c = MatMul(p, v) c1 = Transpose<perm = [0, 2, 1, 3]>(c)
    c2 = Reshape(c1, joined) o = MatMul(c2, wo) r = Add(x, o) h = LayerNormalization(r, g1, b1)
    u = MatMul(h, up) e = Gelu(u) d = MatMul(e, down) f = Add(h, d) y = LayerNormalization(f, g2, b2) }"""
CONVOLUTIONAL = """g (float[n,3,16,16] x) => (float[n,5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Relu(a) m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    c = Conv(m, w2, b2) h = HardSwish(c) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm(f, w3, b3) }"""
NETWORKS = {
    "transformer": (
        TRANSFORMER, (3, 6, 32),
        {**dict.fromkeys(("wq", "wk", "wv", "wo"), (32, 32)), "up": (32, 64), "down": (64, 32),
         **dict.fromkeys(("g1", "b1", "g2", "b2"), (32,))},
    ),
    "convolutional": (
        CONVOLUTIONAL, (3, 3, 16, 16),
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (16, 5), "b3": (5,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_what_the_evaluator_says(network, workspace):
    text, shape, shapes = NETWORKS[network]
    before, feeds = holding(text, **weights(**shapes)), {"x": random(1, *shape)}
    subject, after = Fp16(sensitive="half"), before.clone()
    statistics = collect(before, subject.needs(before), batches(feeds), workspace)
    change = subject.apply(after, Context(Capabilities("a GPU", cpu=False), statistics=statistics))
    assert change.refused == ()
    strict = strictly(after, feeds, workspace, baseline=before)
    given = on_gpu(after, feeds, workspace)["y"]
    assert strict.lost == ""
    assert given.dtype == np.float32
    assert sqnr(strict.outputs["y"], given) > 45
    ratio = sqnr(answers(before, feeds, workspace)["y"], given)
    assert strict.sqnr["y"] - 10 < ratio < strict.sqnr["y"] + 3, "its sums are in float16, so it may lose a little more"


APART = """g (float[1,4] x) => (float[1,4] y) { h = Cast<to=10>(x)
    m = ReduceMean<keepdims = 1>(h, axes) d = Sub(h, m) s = Mul(d, d) v = ReduceMean<keepdims = 1>(s, axes)
    e = Add(v, epsilon) r = Sqrt(e) q = Div(d, r) y = Cast<to=1>(q) }"""


def test_a_normalization_that_a_cpu_shows_right_is_lost_as_the_evaluator_says(workspace):
    model = holding(APART, axes=np.array([-1]), epsilon=np.float16(1e-5))
    feeds = {"x": np.array([[800, -800, 1, 2]], np.float32)}
    strict = strictly(model, feeds, workspace)
    assert "Mul s gives Inf" in strict.lost
    assert not strict.outputs["y"].any()
    assert not on_gpu(model, feeds, workspace)["y"].any()
