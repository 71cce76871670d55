"""SmoothQuant: golden graph, numbers at two sizes, each refusal by its reason, and what it is worth with outliers."""

import numpy as np
import pytest

from mlc.errors import UsageError
from mlc.graph_pass import Context
from mlc.pipeline.data import datasets, refuse_missing_data
from mlc.pipeline.run import Live
from mlc.recipe import Recipe
from mlc.registry import build as build_pass
from mlc.registry import schedule
from mlc.rewriting.differences import same_graph
from mlc.types import Dim, InputSpec, Need, PassSpec, Signature
from passes.smooth_quant import SmoothQuant
from tests.graphs import line, random, same_numbers, text
from tests.quantizing import ANY_CPU, batches, build, collected, quantized, weights

pytestmark = pytest.mark.needs_onnxruntime

BLOCK = """agraph (float[n,t,16] x) => (float[n,t,8] y, float[n,t,8] z) {
    h = LayerNormalization(x, g, b)
    y = MatMul(h, w)
    m = MatMul(h, v)
    z = Add(m, c)
}"""


def block(outliers=True):
    """A normalization whose columns 3 and 7 are fifty times larger, read by two products."""
    arrays = weights(0, g=(16,), b=(16,), w=(16, 8), v=(16, 8), c=(8,))
    arrays["g"] += 1
    if outliers:
        arrays["g"][[3, 7]] *= 50
        arrays["w"][[3, 7]] /= 20
        arrays["v"][[3, 7]] /= 20
    return build(BLOCK, arrays)


def data(*shape, seed=5):
    return batches(*({"x": random(seed + n, *shape)} for n in range(2)))


def smooth(model, samples, allow=lambda site: True, **options):
    """The model after the pass, and the change."""
    subject = SmoothQuant(**options)
    statistics = collected(model, subject, samples)
    after = model.clone()
    return after, subject.apply(after, Context(ANY_CPU, statistics=statistics, allow=allow))


GOLDEN = """agraph (float[n,2] x) => (float[n,2] y) {
    h = LayerNormalization<epsilon = 0.0>(x, g, b)
    y = Gemm<transB = 1>(h, w, c)
}"""


def test_golden(golden):
    two = np.array([8, 2], np.float32)
    arrays = {"g": two, "b": np.zeros(2, np.float32), "w": np.array([[0.5, 2], [-0.5, 1]], np.float32), "c": two}
    model = build(GOLDEN, arrays)
    after, change = smooth(model, batches({"x": np.array([[1, -1], [-1, 1]], np.float32)}))
    assert change.sites == ("y",)
    golden("smooth_quant.onnxtxt", text(after))


@pytest.mark.parametrize("shape", [(1, 4, 16), (3, 2, 16)])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_the_same_function_at_two_sizes(shape, alpha, workspace):
    model = block()
    after, change = smooth(model, data(2, 4, 16), alpha=alpha)
    assert change.sites == ("y", "m")
    assert change.refused == ()
    same_numbers(model, after, {"x": random(1, *shape)}, workspace, SmoothQuant.tolerance)


def test_columns_are_as_the_paper_scales_them():
    model, samples = block(), data(2, 4, 16)
    after, _ = smooth(model, samples)
    need = Need("h", "column-range")
    low, high = collected(model, SmoothQuant(), samples).column_range("h")
    assert SmoothQuant().needs(model) == (need,)
    initial = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    largest = np.maximum(np.abs(initial["w"]).max(axis=1), np.abs(initial["v"]).max(axis=1))
    scales = np.sqrt(np.maximum(-low, high) / largest)
    found = {name: value.const_value.numpy() for name, value in after.graph.initializers.items()}
    assert np.allclose(found["w.smooth"], initial["w"] * scales[:, np.newaxis], rtol=1e-5)
    assert np.allclose(found["g.smooth"], initial["g"] / scales, rtol=1e-5)


def test_a_second_run_changes_nothing():
    samples = data(2, 4, 16)
    after, _ = smooth(block(), samples)
    twice, change = smooth(after, samples)
    assert change.sites == ()
    assert {each.reason for each in change.refused} == {"its columns and the rows of the weights are balanced"}
    assert same_graph(after.graph, twice.graph)


def test_rms_normalization(workspace):
    text = "agraph (float[n,16] x) => (float[n,8] y) {\n h = RMSNormalization(x, g)\n y = MatMul(h, w)\n}"
    arrays = weights(0, g=(16,), w=(16, 8))
    model = build(text, arrays, 23)
    after, change = smooth(model, data(4, 16))
    assert change.sites == ("y",)
    same_numbers(model, after, {"x": random(1, 3, 16)}, workspace, SmoothQuant.tolerance)


def test_a_column_of_zeros_stays_as_it_is(workspace):
    model = block()
    arrays = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    arrays["g"][1] = arrays["b"][1] = 0
    arrays["w"][2] = arrays["v"][2] = 0
    model = build(BLOCK, arrays)
    after, _ = smooth(model, data(2, 4, 16))
    same_numbers(model, after, {"x": random(1, 2, 4, 16)}, workspace, SmoothQuant.tolerance)


def test_it_helps_static_int8_where_columns_are_outliers():
    model, samples = block(), data(2, 4, 16)
    after, _ = smooth(model, samples)
    plain, smoothed = quantized(model, samples), quantized(after, samples)
    assert smoothed.change.sites == plain.change.sites
    assert smoothed.sqnr(optimize=False) > plain.sqnr(optimize=False) + 6


def test_the_verified_line_collects_what_it_reads(workspace):
    model = block()
    feeds = [{"x": random(n, n, 4, 16)} for n in (2, 3)]
    after, (step,) = line(model, [SmoothQuant()], feeds, workspace, calibration=data(2, 4, 16))
    assert (step.sites, step.left_out, step.dropped) == (("y", "m"), (), "")
    assert not same_graph(after.graph, model.graph)


def test_without_data_it_says_what_is_missing(workspace):
    feeds = [{"x": random(n, n, 4, 16)} for n in (2, 3)]
    with pytest.raises(UsageError, match="smooth-quant needs calibration data"):
        line(block(), [SmoothQuant()], feeds, workspace)
    with pytest.raises(ValueError, match="give calibration data"):
        SmoothQuant().apply(block(), Context(ANY_CPU))


def test_data_is_asked_for_beforehand_and_kept_apart():
    specs = [PassSpec("smooth-quant")]
    with pytest.raises(UsageError, match="smooth-quant needs data to calibrate on"):
        refuse_missing_data(Recipe(source="model.onnx"), Live(), specs, divided=False)
    refuse_missing_data(Recipe(source="model.onnx", calibrate="some.npz"), Live(), specs, divided=False)
    given = Live(data=[{"x": random(n, 1, 4, 16)} for n in range(10)])
    signature = Signature((InputSpec("x", "float32", (Dim(1, 9, name="n"), Dim(4, 4), Dim(16, 16))),), ())
    sets = datasets(Recipe(source="model.onnx"), given, signature, specs)
    assert [len(part) for part in (sets.calibration, sets.evaluation) if part is not None] == [2, 8]


def test_it_runs_before_what_loses_something_and_after_the_defaults():
    names = [spec.name for spec in schedule([PassSpec("int8-static"), PassSpec("smooth-quant")])]
    assert names[-2:] == ["smooth-quant", "int8-static"]


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_checked(alpha):
    with pytest.raises(UsageError, match="alpha lies from 0 to 1"):
        build_pass(PassSpec("smooth-quant", (("alpha", alpha),)))


def test_products_are_scaled_together_or_not_at_all():
    model = block()
    after, change = smooth(model, data(2, 4, 16), allow=lambda site: site != "m")
    assert change.sites == ()
    assert same_graph(after.graph, model.graph)


NORM = "h = LayerNormalization(x, g, b)"
BRANCH = "{0} () => (float[8,8] {0}p) {{ {0}p = MatMul(h, w) }}"
IN_BRANCHES = f"o = If(c) <then_branch = {BRANCH.format('t')}, else_branch = {BRANCH.format('e')}>"
REFUSALS = [
    (f"{NORM} y = MatMul(h, w) o = Relu(h)", "it is used by more than products"),
    (f"{NORM} y = MatMul(h, h) o = MatMul(h, w)", "it is used by more than products"),
    ("o = LayerNormalization(x, g, b) y = MatMul(o, w)", "it is a graph output"),
    ("h = LayerNormalization<axis = 0>(x, gg, bb) y = MatMul(h, w)", "it is not known to be over the last axis alone"),
    ("h = LayerNormalization(x, one, b) y = MatMul(h, w)",
     "its scale does not have one element for each of the last axis"),
    ("s = Relu(g) h = LayerNormalization(x, s, b) y = MatMul(h, w)", "its scale is not constant"),
    ("s = Relu(b) h = LayerNormalization(x, g, s) y = MatMul(h, w)", "its bias is not constant"),
    (f"{NORM} y = MatMul(h, w) {IN_BRANCHES}", "it is used by more than products"),
    (f"{NORM} y = MatMul(h, w) o = MatMul(x, w)", "y: its weight is used elsewhere"),
    (f"{NORM} y = MatMul(h, x)", "y: both sides are activations"),
    (f"{NORM} y = Gemm<beta = 2.0>(h, w, b)", "y: alpha, beta or transA is not the default"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), REFUSALS, ids=[lines for lines, _ in REFUSALS])
def test_it_refuses(lines, reason):
    arrays = {**weights(0, g=(8,), b=(8,), gg=(8, 8), bb=(8, 8), one=(1,), w=(8, 8)), "c": np.array(True)}
    outputs = "y, o" if "o =" in lines else "y"
    model = build(f"agraph (float[8,8] x) => ({outputs}) {{\n {lines}\n}}", arrays)
    after, change = smooth(model, data(8, 8))
    assert change.sites == ()
    assert [each.reason for each in change.refused] == [reason]
    assert same_graph(after.graph, model.graph)


def test_a_normalization_of_nothing_is_left_alone():
    text = """agraph (float[n,16] x, int64[1] rows) => (float[m,8] y) <float[m,16] k, float[m,16] h> {
        k = Slice(x, start, rows, start)
        h = LayerNormalization(k, g, b)
        y = MatMul(h, w)
    }"""
    model = build(text, weights(0, g=(16,), b=(16,), w=(16, 8)) | {"start": np.array([0])})
    _, change = smooth(model, batches({"x": random(0, 3, 16), "rows": np.array([0])}))
    assert change.sites == ()
    assert "comes about for no sample" in change.refused[0].reason
