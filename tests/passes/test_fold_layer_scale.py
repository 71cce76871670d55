"""FoldLayerScale: golden graph, numbers, each refusal by its reason, and what torch exports."""

import onnx_ir as ir
import pytest

from mlc.formats import number
from mlc.rewriting.differences import same_graph
from passes.fold_layer_scale import FoldLayerScale
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

WEIGHTS = "<float[3,2] w = {1,-2,3,4,-5,6}, float[2] b = {1,-2}, float[2] s = {3,-4}>"
MATRIX = "float[3,2] w = {1,2,3,4,5,6}"
HEAD = f"g (float[batch,3] x) => (float[batch,2] y) {WEIGHTS}"


@pytest.fixture
def model():
    return graph(f"{HEAD} {{ a = MatMul(x, w) d = Add(a, b) y = Mul(d, s) }}")


def test_golden(model, golden):
    after, change = apply(FoldLayerScale(), model)
    assert change.sites == ("y",)
    golden("fold_layer_scale.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w) d = Add(a, b) y = Mul(d, s)",
        "a = MatMul(x, w) d = Add(b, a) y = Mul(s, d)",
        "a = MatMul(x, w) d = Add(b, a) y = Mul(d, s)",
    ],
)
def test_numbers_whichever_way_the_operands_stand(body, rows, workspace):
    model = graph(f"{HEAD} {{ {body} }}")
    after, change = apply(FoldLayerScale(), model)
    assert change.sites == ("y",)
    assert ops(after) == ["MatMul", "Add"]
    same_numbers(model, after, {"x": random(1, rows, 3)}, workspace, FoldLayerScale.tolerance)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm<alpha = 0.5>(x, w, b)",
        "y = Gemm<alpha = 0.5, beta = 0.0, transB = 1>(x, t, b)",
        "y = Gemm<alpha = -2.0, beta = 3.0>(x, w, b)",
        "d = Gemm<alpha = 2.0>(x, w) y = Tanh(d)",
        "d = Gemm<beta = 2.0>(x, w, b) e = Exp(x) f = MatMul(e, w) y = Mul(d, f)",
        "d = Gemm<alpha = 0.5>(x, w, b) y = Mul(d, one)",
        "d = Gemm<alpha = 0.5>(x, w, b) y = Div(d, row)",
    ],
)
def test_the_factors_of_a_gemm_become_part_of_its_weights(body, workspace):
    constants = "float[2,3] t = {1,-2,3,4,-5,6}, float one = {3}, float[1,2] row = {1,4}"
    model = graph(f"{HEAD[:-1]}, {constants}> {{ {body} }}")
    after, change = apply(FoldLayerScale(), model)
    (gemm,) = (node for node in after.graph if node.op_type == "Gemm")
    assert change.sites == (gemm.outputs[0].name,)
    assert (number(gemm, "alpha", 1), number(gemm, "beta", 1)) == (1, 1)
    same_numbers(model, after, {"x": random(1, 7, 3)}, workspace, FoldLayerScale.tolerance)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm(x, w, b)",
        "y = Gemm<beta = 2.0>(x, w)",
        "r = Relu(x) e = Gemm<alpha = 2.0, transB = 1>(x, r) f = MatMul(e, x) y = MatMul(f, w)",
    ],
)
def test_a_gemm_without_factors_or_of_activations_is_no_site(body):
    _, change = apply(FoldLayerScale(), graph(f"{HEAD} {{ {body} }}"))
    assert (change.sites, change.refused) == ((), ())


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w) y = Mul(a, s)",
        "a = MatMul(x, w) d = Add(a, b) y = Div(d, s)",
        "d = Gemm(x, w, b) y = Mul(s, d)",
        "d = Gemm<transB = 1, alpha = 2.0, beta = 3.0>(x, t, b) y = Mul(d, s)",
        "d = Gemm<transB = 1>(x, t) y = Div(d, s)",
    ],
)
def test_numbers_without_a_bias_divided_and_as_a_gemm(body, rows, workspace):
    transposed = "float[2,3] t = {1,-2,3,4,-5,6}>"
    model = graph(f"{HEAD[:-1]}, {transposed} {{ {body} }}")
    after, change = apply(FoldLayerScale(), model)
    assert change.sites == ("y",)
    assert not {"Mul", "Div"} & set(ops(after))
    for magnitude in (1e4, 1e-6):
        same_numbers(model, after, {"x": magnitude * random(1, rows, 3)}, workspace, FoldLayerScale.tolerance)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda net, x: net.linear(x) * net.linear(x).sigmoid(), ""),
        (lambda net, x: net.linear(x) ** 2 * 3, ""),
        (lambda net, x: net.linear(x) * x, ""),
        (lambda net, x: (net.linear(x) @ net.linear(x).transpose(1, 2) + net.matrix) * net.matrix[0], ""),
        (lambda net, x: (net.linear(x).transpose(1, 2) * net.scale[:, None]).transpose(1, 2), "a Transpose stands"),
        (lambda net, x: net.convolution(x) * net.scale[:5, None], ""),
        (lambda net, x: net.linear(x) / net.zeros, "a divisor is zero"),
        (lambda net, x: net.linear(x) / net.tiny, "a divisor is zero, or so small that its inverse is not finite"),
    ],
    ids=["a gate", "a square", "by the input", "scores", "channels in front", "a convolution", "zeros", "nearly zeros"],
)
def test_what_is_said_of_other_factors(forward, reason):
    """Of a factor that is no scale nothing is said."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.convolution = torch.nn.Linear(6, 6), torch.nn.Conv1d(5, 5, 3)
            self.scale, self.matrix = torch.nn.Parameter(torch.rand(6)), torch.nn.Parameter(torch.rand(5, 5))
            self.zeros = torch.nn.Parameter(torch.tensor([1.0, 2, 0, 4, 5, 6]))
            self.tiny = torch.nn.Parameter(torch.tensor([1.0, 2, 1e-40, 4, 5, 6]))

        def forward(self, x):
            return forward(self, x)

    _, change = apply(FoldLayerScale(), torch_model(Net(), (torch.rand(4, 5, 6),), fold=True))
    assert change.sites == ()
    assert [refusal.reason.startswith(reason) for refusal in change.refused] == ([True] if reason else [])


def test_a_number_in_an_activation_is_no_scale():
    weights = WEIGHTS.replace(">", ", float half = {0.5}>")
    body = "a = MatMul(x, w) d = Add(a, b) h = Mul(d, half) g = Tanh(d) y = Mul(h, g)"
    _, change = apply(FoldLayerScale(), graph(f"g (float[batch,3] x) => (float[batch,2] y) {weights} {{ {body} }}"))
    assert change == type(change)((), ())


def test_it_works_in_a_branch_on_weights_outside(workspace):
    import numpy as np

    model = graph(f"""g (float[batch,3] x, bool c) => (float[batch,2] y) {WEIGHTS} {{
        y = If(c) <then_branch = t () => (float[batch,2] p) {{ a = MatMul(x, w) d = Add(a, b) p = Mul(d, s) }},
                   else_branch = e () => (float[batch,2] p) {{ a = MatMul(x, w) d = Add(a, b) p = Mul(d, s) }}>
    }}""")
    after, (step,) = line(
        model, [FoldLayerScale()], [{"x": random(i, i + 2, 3), "c": np.array(i == 0)} for i in (0, 1)], workspace
    )
    assert step.sites == ("y.then_branch/p", "y.else_branch/p")
    assert list(after.graph.initializers) == []


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        ("(float[n,3] x) => (float[n,2] y, float[n,2] d)", "", "d is a graph output"),
        ("(float[n,3] x) => (float[n,2] y, float[n,2] z)", "z = Relu(d)", "d is used elsewhere"),
        ("(float[n,3] x) => (float[n,2] y, float[n,2] z)", "z = Relu(a)", "a is used elsewhere"),
        ("(float[n,3] x, float[3,2] w) => (float[n,2] y)", "", "the weight is not constant"),
        ("(float[n,3] x, float[2] b) => (float[n,2] y)", "", "the bias is not constant"),
        ("(float[n,3] x, float[2] s) => (float[n,2] y)", "", "the scale is not constant"),
    ],
)
def test_refusals_by_use_and_by_what_a_caller_may_override(head, body, reason):
    model = graph(f"g {head} {WEIGHTS} {{ a = MatMul(x, w) d = Add(a, b) y = Mul(d, s) {body} }}")
    after, change = apply(FoldLayerScale(), model)
    assert change.sites == ()
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]
    assert same_graph(after.graph, model.graph)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("float[3] w = {1,2,3}, float[2] b = {1,2}, float[2] s = {3,4}", "the weight is not a matrix"),
        (f"{MATRIX}, float[2] b = {{1,2}}, float s = {{3}}", "the scale does not run along the last axis"),
        (f"{MATRIX}, float[2] b = {{1,2}}, float[1] s = {{3}}", "the scale does not run along the last axis"),
        (f"{MATRIX}, float[1,2] b = {{1,2}}, float[2] s = {{3,4}}", "the bias does not run along the last axis"),
    ],
)
def test_refusals_by_shape(weights, reason):
    model = graph(f"g (float[n,3] x) => (float[n,2] y) <{weights}> {{ a = MatMul(x, w) d = Add(a, b) y = Mul(d, s) }}")
    _, change = apply(FoldLayerScale(), model)
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_what_torch_exports(workspace):
    import torch

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(3)])
            self.scales = torch.nn.ParameterList([torch.nn.Parameter(torch.rand(6) + 0.5) for _ in range(3)])

        def forward(self, x):
            for layer, scale in zip(self.layers, self.scales, strict=True):
                x = x + torch.relu(layer(x) * scale)
            return x

    model = torch_model(Scaled(), (torch.rand(4, 5, 6),), fold=True)
    feeds = [{"x0": random(1, 4, 5, 6)}, {"x0": random(2, 3, 5, 6)}]
    _, (step,) = line(model, [FoldLayerScale()], feeds, workspace)
    assert len(step.sites) == 3
    assert step.left_out == ()


def test_a_large_weight_that_is_read_elsewhere():
    head = "g (float[batch,512] x, float[512,512] w, float[512] b, float[512] s) => (float[batch,512] y, z)"
    model = graph(f"{head} {{ a = MatMul(x, w) d = Add(a, b) y = Mul(d, s) z = MatMul(x, w) }}")
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.tensor(random(1, *value.shape), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    _, change = apply(FoldLayerScale(), model)
    reason = "w is read elsewhere and would be stored twice, 1,048,576 bytes"
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])
