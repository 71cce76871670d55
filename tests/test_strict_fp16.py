"""Float16 as a GPU computes it: what overflows is seen, what is harmless is right, steps agree with NumPy's bits."""

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlc.emulate import computes_half, rounded_half
from mlc.emulate.widening import widened
from tests.graphs import answers, graph, random, torch_model
from tests.halves import holding, strictly

pytestmark = pytest.mark.needs_onnxruntime

HALF = np.float16
OUTLIERS = np.array([[800, -800, 1, 2]], HALF)


def of(model, workspace, narrow=False, baseline=None, **feeds):
    return strictly(model, feeds, workspace, narrow=narrow, baseline=baseline)


DECOMPOSED = """g (float16[1,4] x) => (float16[1,4] y) {
    m = ReduceMean<keepdims = 1>(x, axes) d = Sub(x, m) s = Pow(d, two) v = ReduceMean<keepdims = 1>(s, axes)
    e = Add(v, epsilon) r = Sqrt(e) y = Div(d, r) }"""
CONSTANTS = {"axes": np.array([-1]), "two": HALF(2), "epsilon": HALF(1e-5)}


def test_a_decomposed_layer_norm_overflows_where_the_cpu_shows_it_right(workspace):
    model = holding(DECOMPOSED, **CONSTANTS)
    right = answers(model, {"x": OUTLIERS}, workspace)["y"]
    assert np.allclose(right, [[1.412, -1.416, 0, 0.002]], atol=2e-3)
    ran = of(model, workspace, x=OUTLIERS)
    assert ran.lost
    assert ran.lost.endswith("Pow s gives Inf where float32 gives 641201")
    assert not ran.outputs["y"].any()
    assert ran.outputs["y"].dtype == HALF


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("y = LayerNormalization(x, w, b)", "the Mul inside LayerNormalization y"),
        ("y = LayerNormalization<axis = 1>(x, w)", "the Mul inside LayerNormalization y"),
        ('y = Gelu<approximate = "tanh">(x)', "the Mul inside Gelu y"),
        ("s = Mul(x, x) y = Softmax(s)", "Mul s"),
    ],
)
def test_steps_of_operators_overflow(line, step, workspace):
    used = {name: array for name, array in {"w": np.ones(4, HALF), "b": np.zeros(4, HALF)}.items() if name in line}
    ran = of(holding(f"g (float16[n,4] x) => (float16[n,4] y) {{ {line} }}", **used), workspace, x=OUTLIERS)
    assert ran.lost
    assert f"{step} gives Inf" in ran.lost


def test_a_sum_of_many_ones(workspace):
    model = holding("g (float16[n] x) => (float16[1] y) { y = ReduceSum(x, axes) }", axes=np.array([0]))
    ran = of(model, workspace, x=np.ones(100_000, HALF))
    assert np.isinf(ran.outputs["y"]).all()
    assert "ReduceSum y gives Inf where float32 gives 100000" in ran.lost


def test_a_mean_of_many_ones_is_a_reason_to_warn_alone(workspace):
    model = holding("g (float16[n] x) => (float16[1] y) { y = ReduceMean(x, axes) }", axes=np.array([0]))
    assert of(model, workspace, x=np.ones(100_000, HALF)).outputs["y"] == 1
    narrow = of(model, workspace, narrow=True, x=np.ones(100_000, HALF))
    assert "the ReduceSum inside ReduceMean y gives Inf" in narrow.lost


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_mean_of_no_rows_in_the_narrow_form(rows, axis, workspace):
    model = holding("g (float16[n,4] x) => (float16[a,b] y) { y = ReduceMean(x, axes) }", axes=np.array([axis]))
    feeds = {"x": np.ones((rows, 4), HALF)}
    ran = of(model, workspace, narrow=True, **feeds)
    expected = answers(model, feeds, workspace)["y"]
    assert ran.lost == ""
    assert ran.outputs["y"].shape == expected.shape
    assert (ran.outputs["y"] == expected).all()


def test_a_product_that_overflows_and_one_that_only_narrow_sums_overflow(workspace):
    model = holding("g (float16[n,64] x) => (float16[n,1] y) { y = MatMul(x, w) }", w=np.full((64, 1), 64, HALF))
    assert of(model, workspace, x=np.full((1, 64), 64, HALF)).lost
    there_and_back = np.full((1, 64), 64, HALF)
    there_and_back[:, 32:] = -64
    assert of(model, workspace, x=there_and_back).lost == ""
    narrow = of(model, workspace, narrow=True, x=there_and_back)
    assert narrow.lost
    assert "inside MatMul y" in narrow.lost


def test_a_mask_whose_lowest_number_became_infinite(workspace):
    model = holding("g (float16[n,4] x) => (float16[n,4] y) { s = Add(x, mask) y = Softmax(s) }",
                    mask=np.full(4, -65504, HALF))  # fmt: skip
    ran = of(model, workspace, x=np.full((1, 4), -20, HALF))
    assert np.isnan(ran.outputs["y"]).all()
    assert "Add s gives Inf" in ran.lost


def test_a_harmless_network_is_right(workspace):
    model = holding("g (float[n,64] x) => (float[n,8] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }",
                    w=random(0, 64, 64), v=random(1, 64, 8))  # fmt: skip
    half = holding("""g (float[n,64] x) => (float[n,8] y) { h = Cast<to=10>(x)
        a = MatMul(h, w) r = Relu(a) o = MatMul(r, v) y = Cast<to=1>(o) }""",
                   w=random(0, 64, 64).astype(HALF), v=random(1, 64, 8).astype(HALF))  # fmt: skip
    for narrow in (False, True):
        ran = of(half, workspace, narrow=narrow, baseline=model, x=random(2, 9, 64))
        assert ran.lost == ""
        assert 50 < ran.sqnr["y"] < 75
    assert ran.outputs["y"].dtype == np.float32


def float16(array):
    return np.asarray(array, np.float32).astype(HALF)


def reference_layer_norm(x, w, b, epsilon=1e-5):
    """Layer normalization with every step rounded, sums in float32 (in the order of float64 here: see the test)."""
    x = np.asarray(x, np.float32)
    mean = float16(x.mean(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    centred = float16(x - mean).astype(np.float32)
    square = float16(centred * centred).astype(np.float32)
    variance = float16(square.mean(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    spread = float16(np.sqrt(float16(variance + np.float32(epsilon)).astype(np.float32))).astype(np.float32)
    scaled = float16(float16(centred / spread).astype(np.float32) * w.astype(np.float32)).astype(np.float32)
    return float16(scaled + b.astype(np.float32))


ALL = np.arange(2**16, dtype=np.uint16).view(HALF)
FINITE = ALL[np.isfinite(ALL)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("y = Add(x, k)", lambda x, k: float16(x + k)),
        ("y = Mul(x, k)", lambda x, k: float16(x * k)),
        ("y = Sub(x, k)", lambda x, k: float16(x - k)),
        ("y = Div(x, k)", lambda x, k: float16(x / k)),
        ("a = Mul(x, k) y = Add(a, x)", lambda x, k: float16(float16(x * k).astype(np.float32) + x)),
        ("y = Relu(x)", lambda x, k: float16(np.where(x < 0, 0, x))),
    ],
)
def test_every_number_is_rounded_as_numpy_rounds(line, expected, workspace):
    """All finite float16 numbers, so subnormals, ties and overflows too; the same bits."""
    k = HALF(1.2001953125)
    used = {"k": k} if "k" in line.split("=", 1)[1] else {}
    ran = of(holding(f"g (float16[n] x) => (float16[n] y) {{ {line} }}", **used), workspace, x=FINITE)
    with np.errstate(over="ignore"):
        wanted = expected(FINITE.astype(np.float32), np.float32(k))
    assert ran.outputs["y"].tobytes() == wanted.tobytes()


def test_a_layer_norm_is_rounded_in_each_step_as_numpy_rounds(workspace):
    """Multiples of an eighth, whose sums are exact in any order; the same bits."""
    x = (np.random.default_rng(0).integers(-64, 64, (50, 32)) / 8).astype(HALF)
    w, b = random(1, 32).astype(HALF), random(2, 32).astype(HALF)
    model = holding("g (float16[n,32] x) => (float16[n,32] y) { y = LayerNormalization(x, w, b) }", w=w, b=b)
    assert of(model, workspace, x=x).outputs["y"].tobytes() == reference_layer_norm(x, w, b).tobytes()


def test_a_product_is_rounded_once_as_numpy_rounds(workspace):
    x = np.random.default_rng(0).integers(-9, 9, (7, 40)).astype(HALF)
    w = (np.random.default_rng(1).integers(-99, 99, (40, 5)) / 8).astype(HALF)
    model = holding("g (float16[n,40] x) => (float16[n,5] y) { y = MatMul(x, w) }", w=w)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    assert of(model, workspace, x=x).outputs["y"].tobytes() == exact.astype(HALF).tobytes()
    total = np.zeros((7, 5), HALF)
    for start in range(0, 40, 16):
        part = x[:, start : start + 16].astype(np.float64) @ w[start : start + 16].astype(np.float64)
        total = (total.astype(np.float64) + part).astype(HALF)
    narrow = of(model, workspace, narrow=True, x=x).outputs["y"]
    assert narrow.tobytes() == total.tobytes()


@pytest.mark.parametrize(
    ("line", "arrays"),
    [
        ("y = Gemm<transB = 1>(x, w, b)", {"w": (8, 64), "b": (8,)}),
        ("t = Reshape(x, s) c = Conv<pads = [1, 1]>(t, kernel, b) y = Flatten(c)", {"kernel": (8, 16, 3), "b": (8,)}),
        ("y = LogSoftmax(x)", {}),
        ("y = Gelu(x)", {}),
    ],
)  # fmt: skip
def test_taken_apart_operators_compute_what_they_did(line, arrays, workspace):
    held = {name: (random(3, *shape) / 4).astype(HALF) for name, shape in arrays.items()}
    if "Reshape" in line:
        held["s"] = np.array([-1, 16, 4])
    model = holding(f"g (float16[n,64] x) => (float16[n,m] y) {{ {line} }}", **held)
    for narrow in (False, True):
        ran = of(model, workspace, narrow=narrow, x=random(0, 3, 64).astype(HALF))
        assert ran.lost == ""
        assert ran.sqnr["y"] > 50
    plain, halves = widened(model)
    assert halves
    assert ir.DataType.FLOAT16 not in {value.dtype for node in plain.graph for value in node.outputs}


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("line", ["Softmax<axis = 1>(t)", "Softmax(t)", "LogSoftmax<axis = -2>(t)", "ReduceMean(t)"])
def test_operators_of_older_opsets_are_taken_apart_as_they_were(opset, line, workspace):
    """Before opset 13 a softmax goes over all axes from its own on, and a sum has its axes as an attribute."""
    shape = "" if "Mean" in line else "[n,m,4]"
    text = f"g (float16[n,16] x) => (float16{shape} y) {{ t = Reshape(x, s) y = {line} }}"
    model = holding(text, f'<ir_version: 7, opset_import: ["":{opset}]>', s=np.array([-1, 4, 4]))
    for narrow in (False, True):
        ran = of(model, workspace, narrow=narrow, x=random(0, 3, 16).astype(HALF))
        assert ran.sqnr["y"] > 50


def test_branches_are_rounded_inside(workspace):
    model = holding("""g (float16[n] x, bool c) => (float16[n] y) {
        y = If(c) <then_branch = t () => (float16[n] p) { q = Mul(x, x) p = Sqrt(q) },
                   else_branch = e () => (float16[n] o) { o = Neg(x) }> }""")
    x = np.array([300, 2], HALF)
    ran = of(model, workspace, x=x, c=np.array(True))
    assert np.isinf(ran.outputs["y"][0])
    assert "If y gives Inf" in ran.lost
    assert of(model, workspace, x=x, c=np.array(False)).lost == ""


def test_functions_and_integers_stay_what_they_are(workspace):
    model = graph("""<ir_version: 10, opset_import: ["":20, "local":1]>
        g (float16[n,4] x) => (float16[n,4] y, int64[n] k) { y = local.square(x) k = ArgMax<axis = 1, keepdims = 0>(y) }
        <domain: "local", opset_import: ["":20]> square (p) => (q) { q = Mul(p, p) }""")
    ran = of(model, workspace, x=np.array([[300, 1, 2, 3]], HALF))
    assert ran.lost
    assert ran.outputs["k"].dtype == np.int64


def interface(model):
    return [(value.name, value.type, value.shape) for value in (*model.graph.inputs, *model.graph.outputs)]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        DECOMPOSED,
        "g (float16[n] x) => (float16[n] y, float16[n] x) { y = Relu(x) }",
        "g (float16[n] x, float16[1] w) => (float16[n] y) <float16[1] w = {2}> { y = Mul(x, w) }",
        "g (float16[n] x) => (float16[n] a, float[n] y) { a = Relu(x) y = Cast<to=1>(a) }",
    ],
)
def test_the_graph_is_left_as_it_was_and_its_interface_kept(text, narrow):
    model = holding(text, **(CONSTANTS if text == DECOMPOSED else {}))
    before = ir.to_onnx_text(model)
    rounded = rounded_half(model, narrow=narrow)
    assert ir.to_onnx_text(model) == before
    assert interface(rounded) == interface(model)
    onnx.checker.check_model(ir.to_proto(rounded), full_check=True)


def test_weights_that_are_widened_are_not_computed_in_half(workspace):
    model = holding("g (float[n] x) => (float[n] y) { u = Cast<to=1>(w) y = Mul(x, u) }", w=HALF(3))
    assert not computes_half(model)
    assert computes_half(holding("g (float[n] x) => (float[n] y) { h = Cast<to=10>(x) y = Cast<to=1>(h) }"))


def test_a_float32_graph_has_nothing_to_round(workspace):
    ran = of(graph("g (float[n] x) => (float[n] y) { y = Mul(x, x) }"), workspace, x=np.array([1e20, 3], np.float32))
    assert ran.lost == ""
    assert not computes_half(graph("g (float[n] x) => (float[n] y) { y = Mul(x, x) }"))
    assert ran.sqnr["y"] == np.inf


def test_a_network_in_half_that_torch_exports(workspace):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.GELU(), torch.nn.Linear(32, 4)
    )
    full = torch_model(layer, (torch.randn(2, 16),))
    half = torch_model(copy.deepcopy(layer).half(), (torch.randn(2, 16).half(),))
    feeds = random(0, 5, 16)
    for baseline in (None, half):
        ran = of(half, workspace, baseline=baseline, x0=feeds.astype(HALF))
        assert ran.lost == ""
        assert ran.sqnr["y"] > 50
    expected = answers(full, {"x0": feeds.astype(HALF).astype(np.float32)}, workspace)["y"]
    assert np.abs(expected - ran.outputs["y"]).max() < 0.01
