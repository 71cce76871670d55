"""FoldBatchNorm: golden graph, numbers of all operators and of groups, each refusal, what torch exports."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.rewriting.differences import same_graph
from passes._affine import TOO_SMALL
from passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from passes.eliminate_dead_code import EliminateDeadCode
from passes.fold_batch_norm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

STATISTICS = "float[2] scale = {1,-2}, float[2] bias = {0.5,3}, float[2] mean = {1,-1}, float[2] variance = {4,0.25}"
NORMALIZE = "y = BatchNormalization<epsilon = 0.001>(c, scale, bias, mean, variance)"
HEAD = f"""g (float[batch,1,3,3] x) => (float[batch,2,2,2] y)
    <float[2,1,2,2] w = {{1,2,3,4,5,6,7,8}}, float[2] b = {{1,-3}}, {STATISTICS}>"""


@pytest.fixture
def model():
    return graph(f"{HEAD} {{ c = Conv<kernel_shape = [2,2]>(x, w, b) {NORMALIZE} }}")


def test_golden(model, golden):
    after, change = apply(FoldBatchNorm(), model)
    assert change.sites == ("y",)
    golden("fold_batch_norm.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_numbers_with_and_without_a_bias(rows, bias, workspace):
    model = graph(f"{HEAD} {{ c = Conv(x, w{bias}) {NORMALIZE} }}")
    after, change = apply(FoldBatchNorm(), model)
    assert change.sites == ("y",)
    assert ops(after) == ["Conv"]
    same_numbers(model, after, {"x": random(rows, rows, 1, 3, 3)}, workspace, FoldBatchNorm.tolerance)


def normalized(op, weight, groups, channels, bias=True):
    """A convolution with random weights and its normalization."""
    weights = {
        "w": random(1, *weight), "b": random(2, channels), "scale": random(3, channels), "bias": random(4, channels),
        "mean": random(5, channels), "variance": np.abs(random(6, channels)) + np.float32(0.1),
    }  # fmt: skip
    declared = ",".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    inputs = weight[1] * groups if op == "Conv" else weight[0]
    model = graph(f"""g (float[batch,{inputs},6,6] x, {declared}) => (float[batch,{channels},h,v] y) {{
        c = {op}<group = {groups}, strides = [2,2], pads = [1,0,1,0]>(x, w{", b" if bias else ""}) {NORMALIZE}
    }}""")
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array)
        model.graph.register_initializer(value)
    return model, inputs


@pytest.mark.parametrize(
    "shape",
    [
        ("Conv", (6, 4, 3, 3), 1, 6),
        ("Conv", (6, 2, 3, 3), 2, 6),
        ("Conv", (4, 1, 3, 3), 4, 4),
        ("ConvTranspose", (4, 6, 3, 3), 1, 6),
        ("ConvTranspose", (4, 3, 3, 3), 2, 6),
        ("ConvTranspose", (4, 1, 3, 3), 4, 4),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_numbers_of_groups(shape, bias, workspace):
    op, weight, groups, channels = shape
    model, inputs = normalized(op, weight, groups, channels, bias=bias)
    after, (step,) = line(
        model, [FoldBatchNorm()], [{"x": random(seed, seed, inputs, 6, 6)} for seed in (2, 3)], workspace
    )
    assert (step.sites, step.left_out) == (("y",), ())
    assert ops(after) == [op]


def test_a_weight_that_two_convolutions_share_is_copied(workspace):
    model = graph(f"""g (float[batch,1,3,3] x) => (float[batch,2,2,2] y, float[batch,2,2,2] z)
        <float[2,1,2,2] w = {{1,2,3,4,5,6,7,8}}, {STATISTICS}>
        {{ c = Conv(x, w) {NORMALIZE} n = Neg(x) z = Conv(n, w) }}""")
    after, change = apply(FoldBatchNorm(), model)
    assert change.sites == ("y",)
    assert set(after.graph.initializers) == {"w", "y.constant", "y.constant_2"}
    same_numbers(model, after, {"x": random(1, 2, 1, 3, 3)}, workspace, FoldBatchNorm.tolerance)


@pytest.mark.parametrize(
    ("interface", "body", "reason"),
    [
        ("(float[n,1,3,3] x) => (float[n,2,2,2] y, float[n,2,2,2] c)", "", "c is a graph output"),
        ("(float[n,1,3,3] x) => (float[n,2,2,2] y, float[n,2,2,2] z)", "z = Relu(c)", "c is used elsewhere"),
        ("(float[n,1,3,3] x, float[2,1,2,2] w) => (float[n,2,2,2] y)", "", "the weight is not constant"),
        ("(float[n,1,3,3] x, float[2] b) => (float[n,2,2,2] y)", "", "the convolution's bias is not constant"),
        ("(float[n,1,3,3] x, float[2] mean) => (float[n,2,2,2] y)", "", "the mean is not constant"),
        ("(float[n,1,3,3] x, float[2] variance) => (float[n,2,2,2] y)", "", "the variance is not constant"),
        ("(float[n,1,3,3] x, float[2] scale) => (float[n,2,2,2] y)", "", "the scale is not constant"),
        ("(float[n,1,3,3] x, float[2] bias) => (float[n,2,2,2] y)", "", "the bias is not constant"),
    ],
)
def test_refusals_by_use_and_by_what_a_caller_may_override(interface, body, reason):
    weights = HEAD[HEAD.index("<") :]
    model = graph(f"g {interface} {weights} {{ c = Conv(x, w, b) {NORMALIZE} {body} }}")
    after, change = apply(FoldBatchNorm(), model)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]
    assert same_graph(after.graph, model.graph)


@pytest.mark.parametrize(
    ("normalize", "reason"),
    [
        ("y = BatchNormalization<training_mode = 1>(c, scale, bias, mean, variance)", "it is in training mode"),
        (
            "y, m, v = BatchNormalization<training_mode = 1>(c, scale, bias, mean, variance)",
            "it is in training mode",
        ),
        (
            "y = BatchNormalization<epsilon = -1.0>(c, scale, bias, mean, variance)",
            "variance + epsilon is not positive",
        ),
        (
            "y = BatchNormalization(c, scale, bias, mean, one)",
            "the variance does not have one element for each channel",
        ),
        (
            "y = BatchNormalization(c, scale, bias, wide, variance)",
            "weight and statistics have different dtypes",
        ),
    ],
)
def test_refusals_by_statistics(normalize, reason):
    head = HEAD.replace("<float", "<float[1] one = {1}, double[2] wide = {1,2}, float", 1)
    model = graph(f"{head} {{ c = Conv(x, w, b) {normalize} }}")
    _, change = apply(FoldBatchNorm(), model)
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_running_statistics_that_are_read_are_refused():
    model = graph(f"""<ir_version: 7, opset_import: ["":13]>
        {HEAD.replace("[batch,2,2,2] y)", "[batch,2,2,2] y, float[2] m)")}
        {{ c = Conv(x, w, b) y, m, v, p, q = BatchNormalization(c, scale, bias, mean, variance) }}""")
    _, change = apply(FoldBatchNorm(), model)
    assert [refusal.reason for refusal in change.refused] == ["m is a graph output"]


def test_statistics_that_a_caller_gives_behind_one_weight():
    model = graph(
        "g (float[n,1,2,2] x, float[n,1,2,2] z, float[1] s) => (float[n,1,2,2] y, float[n,1,2,2] u) "
        "<float[1,1,1,1] w = {2}, float[1] one = {1}> { a = Conv(x, w) y = BatchNormalization(a, one, one, one, s) "
        "b = Conv(z, w) u = BatchNormalization(b, one, one, one, s) }"
    )
    _, change = apply(FoldBatchNorm(), model)
    assert [refusal.reason for refusal in change.refused] == ["the variance is not constant"] * 2


@pytest.mark.parametrize("one", [True, False], ids=["one normalization", "a normalization each"])
def test_a_large_weight_that_is_read_twice(one, workspace):
    import torch

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(128, 256, 3)
            self.first = torch.nn.BatchNorm2d(256)
            self.second = self.first if one else torch.nn.BatchNorm2d(256)
            torch.nn.init.normal_(self.first.weight)

        def forward(self, x):
            return self.first(self.conv(x)).mean() + self.second(self.conv(x + 1)).mean()

    torch.manual_seed(0)
    model = torch_model(Heads(), (torch.rand(2, 128, 4, 4),), fold=True)
    passes = [FoldBatchNorm(), EliminateCommonSubexpressions(), EliminateDeadCode()]
    after, steps = line(model, passes, [{"x0": random(1, 2, 128, 4, 4)}], workspace)
    large = [value for value in after.graph.initializers.values() if value.const_value.nbytes > 1_000_000]
    assert len(large) == 1
    if one:
        assert len(steps[0].sites) == 2
    else:
        twice = "conv.weight is read elsewhere and would be stored twice, 1,179,648 bytes"
        assert [refusal.reason for refusal in steps[0].refused] == [twice, twice]


def test_what_torch_exports_unfolded(workspace):
    import torch

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, groups=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(8, 4, 2, bias=False), torch.nn.BatchNorm2d(4),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var = torch.rand(layer.num_features) + 0.5
            layer.running_mean = torch.randn(layer.num_features)
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    model = torch_model(network, (torch.rand(2, 3, 10, 10),))
    assert ops(model).count("BatchNormalization") == 3
    feeds = [{"x0": random(1, 2, 3, 10, 10)}, {"x0": random(2, 3, 3, 10, 10)}]
    after, steps = line(model, [FoldConstants(), EliminateDeadCode(), FoldBatchNorm()], feeds, workspace)
    assert [len(step.sites) for step in steps][2] == 3
    assert [step.left_out for step in steps] == [(), (), ()]
    assert ops(after) == ["Conv", "Relu", "Conv", "Relu", "ConvTranspose"]


LINEAR = """g (float[batch,3] x) => (float[batch,2] y)
    <float[3,2] w = {1,-2,3,4,-5,6}, float[2,3] t = {1,3,-5,-2,4,6}, float[2] b = {1,-3}, float[1,2] r = {2,5},
     float o = {7}, float[4,2] m = {1,2,3,4,5,6,7,8}, float[1,3,2] cube = {1,2,3,4,5,6}, float[1] one = {4}, """
LINEAR += f"{STATISTICS}>"


@pytest.mark.parametrize("body", ["c = Gemm<transB = 1>(x, t, b)", "h = MatMul(x, w) c = Add(h, b)"])
def test_golden_of_linear_layers(body, golden):
    after, change = apply(FoldBatchNorm(), graph(f"{LINEAR} {{ {body} {NORMALIZE} }}"))
    assert change.sites == ("y",)
    golden(f"fold_batch_norm_{'gemm' if 'Gemm' in body else 'matmul'}.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("c = Gemm(x, w, b)", ["Gemm"]),
        ("c = Gemm(x, w)", ["Gemm"]),
        ("c = Gemm<alpha = 0.5, beta = -2.0>(x, w, b)", ["Gemm"]),
        ("c = Gemm<alpha = 0.5, beta = 3.0, transB = 1>(x, t, r)", ["Gemm"]),
        ("z = Transpose(x) c = Gemm<transA = 1, transB = 1>(z, t, o)", ["Transpose", "Gemm"]),
        ("c = Gemm(x, w, one)", ["Gemm"]),
        ("c = MatMul(x, w)", ["MatMul", "Add"]),
        ("h = MatMul(x, w) c = Add(h, b)", ["MatMul", "Add"]),
        ("h = MatMul(x, w) c = Add(o, h)", ["MatMul", "Add"]),
        ("h = MatMul(x, w) c = Add(one, h)", ["MatMul", "Add"]),
    ],
)
def test_numbers_of_linear_layers(body, left, rows, workspace):
    model = graph(f"{LINEAR} {{ {body} {NORMALIZE} }}")
    after, change = apply(FoldBatchNorm(), model)
    assert change.sites == ("y",)
    assert ops(after) == left
    same_numbers(model, after, {"x": random(rows, rows, 3)}, workspace, FoldBatchNorm.tolerance)


AXES = "the channels of the normalization are not the product's columns"


@pytest.mark.parametrize(
    ("interface", "body", "reason"),
    [
        ("(float[n,3] x, float[3,2] w)", "c = MatMul(x, w)", "the weight is not constant"),
        ("(float[n,3] x, float[2] b)", "c = Gemm(x, w, b)", "the bias is not constant"),
        ("(float[4,3] x)", "c = Gemm(x, w, m)", "the bias does not run along the last axis"),
        ("(float[n,2,3] x)", "c = MatMul(x, w)", AXES),
        ("(float[n,3] x)", "c = MatMul(x, cube)", "the weight is not a matrix of floats"),
        ("(float x)", "z = Reshape(x, sizes) c = MatMul(z, w)", "the rank of the product is not known"),
    ],
)
def test_refusals_of_linear_layers(interface, body, reason):
    shape = "[n,2]" if "cube" not in body else "[1,n,2]"
    weights = LINEAR[LINEAR.index("<") :]
    interface = interface.replace("(float x)", "(float[n,3] x, int64[k] sizes)")
    model = graph(f"g {interface} => (float{shape} y) {weights} {{ {body} {NORMALIZE} }}")
    if "cube" in body:  # of an inferred rank of three, another reason comes first
        model.graph[0].outputs[0].shape = ir.Shape([None, 2])
    _, change = apply(FoldBatchNorm(), model)
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize("body", ["h = MatMul(x, w) c = Add(h, x)", "h = MatMul(x, w) c = Add(h, m)"])
def test_what_adds_no_bias_is_no_layer(body):
    weights = LINEAR[LINEAR.index("<") :].replace("float[3,2] w = {1,-2,3,4,-5,6}", "float[2,2] w = {1,2,3,4}")
    model = graph(f"g (float[4,2] x) => (float[4,2] y) {weights} {{ {body} {NORMALIZE} }}")
    _, change = apply(FoldBatchNorm(), model)
    reason = "what it normalizes comes from Add, and not from a convolution or a linear layer"
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])


def test_what_stands_before_a_normalization_is_said():
    """But where a convolution follows, into which another pass folds it, or says why not."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (torch.nn.Conv2d(2, 2, 1) for _ in range(3))
            self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(2) for _ in range(2)])

        def forward(self, x):
            x = torch.relu(self.norms[0](torch.relu(self.first(x))))
            return self.third(self.norms[1](torch.relu(self.second(x))))

    _, change = apply(FoldBatchNorm(), torch_model(Net(), (torch.rand(4, 2, 5, 5),)))
    reason = "what it normalizes comes from Relu, and not from a convolution or a linear layer"
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])


def test_linear_layers_that_torch_exports_unfolded(workspace):
    import torch

    network = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(),
        torch.nn.Linear(8, 4, bias=False), torch.nn.BatchNorm1d(4),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_var = torch.rand(layer.num_features) + 0.5
            layer.running_mean = torch.randn(layer.num_features)
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    model = torch_model(network, (torch.rand(3, 6),))
    assert ops(model).count("BatchNormalization") == 2
    feeds = [{"x0": random(1, 3, 6)}, {"x0": random(2, 5, 6)}]
    after, (step,) = line(model, [FoldBatchNorm()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (2, ())
    assert ops(after) == ["Gemm", "Relu", "Gemm"]


CHANNELS = """float[1,2,1,1] m = {0.5,-1}, float[2,1,1] s = {2,0.25}, float[1,2,1,1] g = {-1,3},
    float[2,1,1] o = {4,0.5}, float[2,2,2,2] u = {1,-2,3,4,-5,6,7,-8,9,1,2,-3,4,5,-6,7},
    float two = {2}, float[2] last = {1,3}, float[2,1,1] none = {1,0}, float[2,1,1] tiny = {1e-42,1}"""
BY_HAND = {
    "over the deviation": "d = Sub(c, m) q = Div(d, s) p = Mul(g, q) y = Add(p, o)",
    "frozen": "p = Mul(c, s) y = Add(o, p)",
    "one number": "p = Mul(two, c) y = Sub(p, two)",
}


def by_hand(body, layer="c = Conv(x, w, b)", result="float[batch,2,2,2] y"):
    return graph(f"{HEAD.replace('float[batch,2,2,2] y', result)[:-1]}, {CHANNELS}> {{ {layer} {body} }}")


@pytest.mark.parametrize(
    "layer", ["c = Conv(x, w, b)", "c = Conv(x, w)", "t = Concat<axis=1>(x, x) c = ConvTranspose(t, u)"]
)
@pytest.mark.parametrize("form", BY_HAND)
def test_one_that_is_written_by_hand(form, layer, workspace):
    model = by_hand(BY_HAND[form], layer, "float[batch,2,h,v] y")
    after, change = apply(FoldBatchNorm(), model)
    assert change.sites[-1] == "y"
    assert change.refused == ()
    assert not {"Add", "Div", "Mul", "Sub"} & set(ops(after))
    same_numbers(model, after, {"x": random(1, 3, 1, 3, 3)}, workspace, FoldBatchNorm.tolerance)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Mul(c, last)", "last does not run along the channels"),
        ("y = Div(c, none)", TOO_SMALL),
        ("y = Div(c, tiny)", TOO_SMALL),
    ],
)
def test_a_step_by_hand_that_is_refused(body, reason):
    _, change = apply(FoldBatchNorm(), by_hand(body))
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]


@pytest.mark.parametrize(
    "body",
    [
        "h = Add(c, two) k = Clip(h) y = Mul(c, k)",
        "y = Div(two, c)",
        "z = Relu(c) y = Mul(z, s)",
        "y = Add(c, c)",
    ],
)
def test_what_computes_something_else_behind_a_convolution_is_no_site(body):
    _, change = apply(FoldBatchNorm(), by_hand(body))
    assert change == type(change)((), ())
