"""Fp16: golden graph, numbers at two sizes, plans, refusals by reason, sensitive operators, real models."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.graph_pass import Context
from mlc.types import Capabilities, NodePlan, Plan
from passes.fp16 import Fp16
from tests.graphs import ANY_CPU, graph, line, random, text, torch_model
from tests.halves import dtypes, halved, holding, ratios, reasons
from tests.quantizing import batches

pytestmark = pytest.mark.needs_onnxruntime

MLP = """
g (float[batch,3] x) => (float[batch,2] y)
<float[3,4] w = {1,-2,3,4,5,-6,7,8,9,1,2,3}, float[4] b = {0.5,1,-1,2}, float[4,2] v = {1,2,3,4,-5,6,7,-8}>
{
    a = MatMul(x, w)
    s = Add(a, b)
    r = Relu(s)
    y = MatMul(r, v)
}"""


def test_golden(golden):
    after, change = halved(graph(MLP), {"x": random(0, 5, 3)})
    assert change.sites == ("a", "s", "r", "y")
    assert change.refused == ()
    golden("fp16.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
def test_numbers_at_two_sizes(rows, workspace):
    before = graph(MLP)
    after, _ = halved(before, {"x": random(0, 5, 3)})
    assert 50 < ratios(before, after, {"x": random(rows, rows, 3)}, workspace)["y"] < 90


def test_the_verified_line_takes_it(workspace):
    feeds = [{"x": random(rows, rows, 3)} for rows in (2, 3)]
    after, (step,) = line(graph(MLP), [Fp16()], feeds, workspace, requested={"fp16"}, calibration=batches(*feeds))
    assert (step.dropped, step.left_out, len(step.sites)) == ("", (), 4)
    assert step.sqnr["y"] > 50
    assert after.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_forbidden_sites_stay_in_silence_and_are_asked_once():
    asked = []

    def allow(site):
        asked.append(site)
        return site != "s"

    after, change = halved(graph(MLP), {"x": random(0, 5, 3)}, allow=allow)
    assert "s" not in {*change.sites, *reasons(change)}
    assert len(asked) == len(set(asked))
    assert dtypes(after)["s"] == ir.DataType.FLOAT


def test_a_plan_decides_which_nodes_change():
    model, feeds = graph(MLP), {"x": random(0, 5, 3)}
    planned = Fp16().plan(model, Context(ANY_CPU))
    assert [(entry.node, entry.format) for entry in planned] == [(name, "fp16") for name in ("a", "s", "r", "y")]
    formats = {"a": "fp16", "s": "fp16", "y": "int8-weights"}
    plan = Plan(tuple(NodePlan(name, "", form, "") for name, form in formats.items()))
    after, change = halved(model, feeds, plan=plan)
    assert (change.sites, change.refused) == (("a", "s"), ())
    assert dtypes(after)["r"] == ir.DataType.FLOAT


def test_a_plan_tells_why_a_node_stays_float_and_takes_what_ranges_may_yet_refuse():
    model = graph("""g (float[n] x, int64[n] ids) => (float[n] y) {
        f = Cast<to=1>(ids) a = Add(x, f) b = Relu(a) y = Softmax(b) }""")
    planned = {entry.node: entry for entry in Fp16().plan(model, Context(ANY_CPU))}
    formats = {name: entry.format for name, entry in planned.items()}
    assert formats == {"f": "float", "a": "fp16", "b": "fp16", "y": "float"}
    assert "exponentials" in planned["y"].reason


def test_a_cpu_is_said_to_gain_nothing():
    _, change = halved(graph(MLP), {"x": random(0, 5, 3)})
    assert "a CPU computes float16 in float32" in change.headline
    assert "fp16:weights_only=true" in change.headline
    _, change = halved(graph(MLP), {"x": random(0, 5, 3)}, capabilities=Capabilities("a GPU", cpu=False))
    assert change.headline == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "above 0"), ({"share": 1.5}, "up to 1"), ({"sensitive": "no"}, "float or half"),
        ({"weights_only": True, "share": 0.1}, "share belongs to weights_only=false"),
        ({"weights_only": True, "sensitive": "half"}, "sensitive belongs to weights_only=false"),
    ],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Fp16(**options)


HEAD = "g (float[n,4] x) => (float[n,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}>"
BRANCHES = """y = If(flag) <
    then_branch = t () => (float[n,4] p) { p = Relu(x) }, else_branch = e () => (float[n,4] o) { o = Neg(x) }>"""
REFUSED = [
    ("a = MatMul(x, w) y = Softmax(a)", "y", "powers or exponentials"),
    ("a = MatMul(x, w) y = LayerNormalization(a, b)", "y", "a spread made of squares"),
    ("a = MatMul(x, w) b0 = ReduceSum(a) y = Mul(a, b0)", "b0", "sums leave float16"),
    ("a = MatMul(x, w) e = Expand(a, shape) y = GlobalLpPool(e)", "y", "sums leave float16"),
    ("y = Mul(x, large)", "y", "its constant large holds 70000, and float16 ends at 65504"),
    ("y = Add(x, large)", "y", "its constant large holds 70000, and float16 ends at 65504"),
    ("y = Sub(large, x)", "y", "its constant large holds 70000, and float16 ends at 65504"),
    ("v = Abs(x) y = Add(v, epsilon)", "y", "its constant epsilon has 100% of its elements below 6.1e-05"),
    ("m = Mul(x, thousand) y = Mul(m, thousand)", "y", "m reaches "),
    ("t = Mul(x, thousandth) u = Mul(t, thousandth) y = Mul(u, thousandth)", "y", "y stays below 6.1e-05"),
    ("m = ReduceMax(x) d = Sub(x, m) y = MatMul(d, w)", "d", "it leaves at most "),
    ("c = Cast<to=7>(x) y = Cast<to=1>(c)", "y", "of which float16 holds those up to 2,048"),
    ("c = Cast<to=7>(x) y = CastLike(c, x)", "y", "it makes floats of whole numbers"),
    ("c = Cast<to=7>(x) f = Cast<to=1>(c) y = Mul(f, f)", "y", "all that it reads was made of whole numbers"),
    ("c = Cast<to=10>(x) y = Cast<to=1>(c)", "y", "it widens what is of 16 bits on purpose"),
    ("c = Cast<to=8>(x) y = Cast<to=1>(c)", "y", "numbers become texts or are read from them"),
    ("z = Softmax(x) r = Relu(z) y = Softmax(r)", "r", "it stands between operators that stay float32"),
    ("i = ArgMax<axis=-1, keepdims=1>(x) c = Cast<to=1>(i) y = Add(x, c)", "i", "no float32 comes of it"),
    ("y = Where(flag, x, infinite)", "y", "it may hold Inf, of which"),
    ("q = QuantizeLinear(x, one, zero) y = DequantizeLinear(q, one, zero)", "y", "scales of quantized values"),
    ("y = RandomNormalLike<seed=1.0>(x)", "y", "what it draws would be other numbers"),
    (BRANCHES, "y", "the interface of a branch or loop stays float32"),
    ("k = SequenceConstruct(x) y = SequenceAt(k, first)", "k", "it reads or gives what is not a tensor"),
    ("s = NonMaxSuppression(boxes, scores, first) y = Relu(x)", "s", "coordinates need more bits"),
    ('s = ScatterElements<reduction = "add">(x, indices, x) y = Relu(s)', "s", "sums leave float16"),
    ("i = BitCast<to=6>(x) c = Cast<to=1>(i) y = Relu(c)", "i", "it reads the bits of float32"),
    ("f = ConstantOfShape<value = float[1] {70000.0}>(shape) y = Max(x, f)", "f", "its number does not fit"),
    ("h = HannWindow(four) y = Add(x, h)", "h", "its operator takes float32 alone"),
    ("y = com.example.Thing(x)", "y", "its operator takes float32 alone"),
]  # fmt: skip
CONSTANTS = """float[4] b = {1,2,3,4}, float large = {70000}, float epsilon = {0.00001}, float thousand = {1000},
    float thousandth = {0.001}, bool flag = {1}, float one = {1}, uint8 zero = {0},
    int64 first = {0}, int64 four = {4}, int64[2] shape = {1,4}, int64[5,4] indices = {0},
    float[1,2,4] boxes = {0,0,1,1,0,0,2,2}, float[1,1,2] scores = {0.5,0.75}"""


def refusable(body):
    header = '<ir_version: 10, opset_import: ["":20, "com.example":1]>'
    model = holding(f"{HEAD[:-1]}, {CONSTANTS}> {{ {body} }}", header, infinite=np.array(np.inf, np.float32))
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            model.graph.initializers.pop(value.name)
    return model


@pytest.mark.parametrize(("body", "site", "reason"), REFUSED, ids=[f"{body[:24]} {site}" for body, site, _ in REFUSED])
def test_refusals(body, site, reason):
    model = refusable(body)
    runs = not any(word in body for word in ("com.example", "GlobalLpPool", "to=8", "BitCast", "Scatter"))
    if runs:
        after, change = halved(model, {"x": random(0, 5, 4) + 500})
    else:
        after = model.clone()
        change = Fp16().apply(after, Context(ANY_CPU))
    assert reason in reasons(change)[site]
    assert site not in change.sites


def test_a_refusal_for_a_function_and_for_an_unknown_type():
    call = """<ir_version: 10, opset_import: ["":20, "local":1]>
        g (float[n,4] x) => (float[n,4] y) { a = local.twice(x) y = Relu(a) }
        <domain: "local", opset_import: ["":20]> twice (p) => (q) { q = Add(p, p) }"""
    _, change = halved(graph(call))
    assert "a function of the model's own" in reasons(change)["a"]
    unknown = graph('<ir_version: 10, opset_import: ["":20, "com.example":1]> g (float[n,4] x) => (float[n,4] y) '
                    "{ a = com.example.Thing(x) y = Relu(a) }")  # fmt: skip
    change = Fp16().apply(unknown.clone(), Context(ANY_CPU))
    assert reasons(change)["y"] == "the type of what it reads or gives is not known"


def test_weights_alone(workspace):
    before = holding("g (float[n,32] x) => (float[n,32] y) { a = MatMul(x, w) y = Add(a, b) }",
                     w=random(0, 32, 32), b=random(1, 32))  # fmt: skip
    assert Fp16(weights_only=True).needs(before) == ()
    after, change = halved(before, weights_only=True)
    assert change.sites == ("a",)
    assert change.headline.startswith("weights are stored in float16 and computed in float32")
    assert ir.DataType.FLOAT16 not in dtypes(after).values()
    assert [value.dtype for value in after.graph.initializers.values()] == [ir.DataType.FLOAT, ir.DataType.FLOAT16]
    assert ratios(before, after, {"x": random(1, 4, 32)}, workspace)["y"] > 60


def test_a_transformer_layer_that_torch_exports(workspace):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    example = torch.randn(2, 6, 32)
    before = torch_model(layer, (example,))
    after, change = halved(before, {"x0": random(0, 8, 6, 32)})
    products = {node.outputs[0].name for node in before.graph if node.op_type in ("MatMul", "Gemm")}
    assert len(products) >= 6
    assert products <= set(change.sites)
    for rows in (2, 5):
        assert ratios(before, after, {"x0": random(rows, rows, 6, 32)}, workspace)["y"] > 50


def test_a_convolutional_network_that_torch_exports(workspace):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Hardswish(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )  # fmt: skip
    before = torch_model(network, (torch.randn(2, 3, 16, 16),))
    feeds = {"x0": random(1, 4, 3, 16, 16)}
    after, change = halved(before, feeds)
    assert {node.outputs[0].name for node in before.graph if node.op_type in ("Conv", "Gemm")} <= set(change.sites)
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_an_attention_that_gives_its_scores_stays_float():
    text_ = """<ir_version: 11, opset_import: ["":23]> g (float[1,2,3,4] x) => (float[1,2,3,4] y, float[1,2,3,3] s) {
        y, , , s = Attention<is_causal = 1>(x, x, x) }"""
    _, change = halved(graph(text_))
    assert reasons(change) == {"y": "it gives its scores, which masks take out of float16"}


SENSITIVE = {
    "LayerNormalization": ("y = LayerNormalization(x, w)", {"w": random(1, 4)}),
    "RMSNormalization": ("y = RMSNormalization(x, w)", {"w": random(1, 4)}),
    "InstanceNormalization": ("y = InstanceNormalization(x, s, s)", {"s": random(1, 3)}),
    "Softmax": ("y = Softmax(x)", {}),
    "ReduceMean": ("r = ReduceMean(x, axes) y = Mul(r, x)", {"axes": np.array([-1])}),
    "Pow": ("y = Pow(x, two)", {"two": np.float32(2)}),
    "NegativeLogLikelihoodLoss": (
        'r = NegativeLogLikelihoodLoss<reduction = "mean">(x, t) y = Mul(r, x)',
        {"t": np.zeros((5, 4), np.int64)},
    ),
}


@pytest.mark.parametrize("op", SENSITIVE)
def test_sensitive_operators_in_half_where_asked_for(op, workspace):
    body, arrays = SENSITIVE[op]
    before = holding(f"g (float[n,3,4] x) => (float[n,3,4] y) {{ {body} }}",
                     '<ir_version: 11, opset_import: ["":23]>', **arrays)  # fmt: skip
    feeds = {"x": random(0, 5, 3, 4)}
    _, kept = halved(before, feeds)
    after, change = halved(before, feeds, sensitive="half")
    assert op not in {node.op_type for node in before.graph if node.outputs[0].name in kept.sites}
    assert change.refused == ()
    assert ratios(before, after, feeds, workspace)["y"] > 50


@pytest.mark.parametrize(
    "line_", ["BatchNormalization(x, s, s, s, s)", "MeanVarianceNormalization<axes = [0]>(x)", "Tan(x)"]
)
def test_what_stays_float_in_any_case(line_):
    arrays = {"s": np.abs(random(1, 3))} if "s, s" in line_ else {}
    before = holding(f"g (float[n,3,4] x) => (float[n,3,4] y) {{ y = {line_} }}", **arrays)
    _, change = halved(before, {"x": random(0, 5, 3, 4)}, sensitive="half")
    assert set(reasons(change)) == {"y"}
