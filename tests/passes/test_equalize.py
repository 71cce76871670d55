"""Equalize: golden graph, numbers at two sizes, each refusal by its reason, and what it is worth by tensor."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.rewriting.differences import same_graph
from passes.equalize import Equalize
from tests.graphs import apply, graph, line, random, same_numbers, text
from tests.quantizing import build, run, weights

pytestmark = pytest.mark.needs_onnxruntime

GOLDEN = """g (float[n,2] x) => (float[n,1] y) <float[2,2] w = {1,4,-1,2}, float[2] b = {2,8}, float[2,1] v = {4,1}> {
    h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v)
}"""


def test_golden(golden):
    after, change = apply(Equalize(), graph(GOLDEN))
    assert change.sites == ("y",)
    assert change.refused == ()
    golden("equalize.onnxtxt", text(after))


CONVS = """agraph (float[n,3,h,8] x) => (float[n,5,h,8] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    d = Conv<pads = [1,1,1,1], group = 6>(r, w2)
    e = LeakyRelu<alpha = 0.1>(d)
    y = Conv<group = 1>(e, w3, b3)
}"""
PRODUCTS = """agraph (float[n,h,8] x) => (float[n,h,5] y) {
    a = MatMul(x, w1)
    c = Add(b1, a)
    r = Relu(c)
    d = MatMul(r, w2)
    y = MatMul(d, w3)
}"""


def uneven(seed, **shapes):
    """Weights whose first axis has channels of very different sizes."""
    found = weights(seed, **shapes)
    generator = np.random.default_rng(seed)
    return {
        name: (array * 10 ** generator.uniform(-1.5, 1.5, (len(array), *(1,) * (array.ndim - 1)))).astype(np.float32)
        for name, array in found.items()
    }


def convolutions():
    return build(CONVS, uneven(0, w1=(6, 3, 3, 3), b1=(6,), w2=(6, 1, 3, 3), w3=(5, 6, 1, 1), b3=(5,)))


def products():
    return build(PRODUCTS, uneven(0, w1=(8, 12), b1=(1, 12), w2=(12, 12), w3=(12, 5)))


@pytest.mark.parametrize(("rows", "height"), [(1, 8), (3, 5)])
@pytest.mark.parametrize("made", [convolutions, products])
def test_the_same_function_at_two_sizes(made, rows, height, workspace):
    model = made()
    after, change = apply(Equalize(), model)
    assert change.sites == ("y",)
    shape = (rows, 3, height, 8) if made is convolutions else (rows, height, 8)
    same_numbers(model, after, {"x": random(1, *shape)}, workspace, Equalize.tolerance)


@pytest.mark.parametrize("made", [convolutions, products])
def test_the_verified_line_takes_it_and_a_second_run_changes_nothing(made, workspace):
    shape = (8, 8) if made is products else (3, 8, 8)
    feeds = [{"x": random(n, n, *shape)} for n in (2, 3)]
    after, (step,) = line(made(), [Equalize()], feeds, workspace)
    assert (step.sites, step.left_out, step.dropped) == (("y",), (), "")
    twice, change = apply(Equalize(), after)
    assert change.sites == ()
    assert [(each.site, each.reason) for each in change.refused] == [("y", "its channels are in balance")]
    assert same_graph(after.graph, twice.graph)


def test_grouped_channels_are_those_of_their_group(workspace):
    text = """agraph (float[n,4,6,6] x) => (float[n,4,6,6] y) {
        a = Conv<group = 2>(x, w1)
        y = Conv<group = 2>(a, w2)
    }"""
    model = build(text, uneven(3, w1=(8, 2, 1, 1), w2=(4, 4, 1, 1)))
    after, change = apply(Equalize(), model)
    assert change.sites == ("y",)
    same_numbers(model, after, {"x": random(1, 2, 4, 6, 6)}, workspace, Equalize.tolerance)


def test_channels_of_zeros_stay_as_they_are(workspace):
    arrays = uneven(0, w1=(8, 12), b1=(1, 12), w2=(12, 12), w3=(12, 5))
    arrays["w1"][:, 3] = 0
    arrays["w2"][5] = 0
    model = build(PRODUCTS, arrays)
    after, change = apply(Equalize(), model)
    assert change.sites == ("y",)
    same_numbers(model, after, {"x": random(1, 2, 3, 8)}, workspace, Equalize.tolerance)


def by_tensor(model):
    """The model with each weight of a Conv rounded to 8 bits with one scale."""
    rounded = model.clone()
    for node in rounded.graph:
        if node.op_type == "Conv":
            value = node.inputs[1]
            array = value.const_value.numpy()
            scale = np.abs(array).max() / 127
            value.const_value = ir.tensor((np.rint(array / scale) * scale).astype(np.float32), name=value.name)
    return rounded


def test_it_helps_weights_by_tensor_where_channels_differ():
    arrays = weights(0, w1=(6, 3, 3, 3), b1=(6,), w2=(6, 1, 3, 3), w3=(5, 6, 1, 1), b3=(5,))
    first, second = (10 ** np.random.default_rng(n).uniform(-1, 1, (6, 1, 1, 1)).astype(np.float32) for n in (1, 2))
    arrays["w1"] *= first
    arrays["b1"] *= first.reshape(-1)
    arrays["w2"] *= second / first
    arrays["w3"] /= second.reshape(1, 6, 1, 1)
    model = build(CONVS, arrays)
    after, _ = apply(Equalize(), model)
    inputs = {"x": random(2, 4, 3, 8, 8)}
    expected = run(model, inputs)["y"]

    def ratio(quantized):
        noise = np.square(run(quantized, inputs)["y"] - expected).sum()
        return 10 * np.log10(np.square(expected).sum() / noise)

    assert ratio(by_tensor(after)) > ratio(by_tensor(model)) + 6


def test_a_site_that_is_not_allowed_is_left_alone():
    model = products()
    after, change = apply(Equalize(), model, allow=lambda site: site != "y")
    assert change.sites == ()
    assert same_graph(after.graph, model.graph)


MATRIX = {"w": (8, 8), "v": (8, 8)}
REFUSALS = [
    ("a = MatMul(x, w) c = Clip(a, low, high) y = MatMul(c, v)", MATRIX,
     "Clip stands before it, which does not pass on a scale"),
    ("a = MatMul(x, w) c = Add(a, x) r = Relu(c) y = MatMul(r, v)", MATRIX,
     "Add stands before it, which does not pass on a scale"),
    ("a = MatMul(x, w) y = MatMul(a, v) o = Relu(a)", MATRIX, "a is used elsewhere"),
    ("a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) o = Tanh(r)", MATRIX, "r is used elsewhere"),
    ("a = MatMul(x, w) o = Relu(a) y = MatMul(o, v)", MATRIX, "o is a graph output"),
    ("a = MatMul(x, w) y = MatMul(a, w)", MATRIX, "a: its weight is used elsewhere"),
    ("a = MatMul(x, w) y = MatMul(a, x)", MATRIX, "y: both sides are activations"),
    ("a = Gemm<alpha = 2.0>(x, w) y = MatMul(a, v)", MATRIX, "a: alpha, beta or transA is not the default"),
    ("a = Conv(x, w) y = MatMul(a, v)", {"w": (8, 8, 1), "v": (8, 8)},
     "the layer before it has its channels along another axis"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "shapes", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_it_refuses(lines, shapes, reason):
    arrays = weights(0, **shapes) | {"low": np.float32(0), "high": np.float32(6)}
    shape = "[2,8,8]" if "Conv" in lines else "[8,8]"
    outputs = "y, o" if "o =" in lines else "y"
    model = build(f"agraph (float{shape} x) => ({outputs}) {{\n {lines}\n}}", arrays)
    after, change = apply(Equalize(), model)
    assert change.sites == ()
    assert [(each.site, each.reason) for each in change.refused] == [("y", reason)]
    assert same_graph(after.graph, model.graph)


def test_weights_that_a_caller_may_override_are_refused():
    text = "agraph (float[n,8] x, float[8,8] v) => (y) {\n a = MatMul(x, w)\n y = MatMul(a, v)\n}"
    _, change = apply(Equalize(), build(text, weights(0, w=(8, 8), v=(8, 8))))
    assert [each.reason for each in change.refused] == ["y: its weight v is an input that a caller may override"]
