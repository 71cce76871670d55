"""FoldPreNorm: golden graph, numbers of groups, paddings and every operator, each refusal, what torch exports."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.rewriting.differences import same_graph
from passes._affine import TOO_SMALL
from passes.fold_pre_norm import FoldPreNorm
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

STATISTICS = "float[2] scale = {1,-2}, float[2] bias = {0.5,3}, float[2] mean = {1,-1}, float[2] variance = {4,0.25}"
NORMALIZE = "c = BatchNormalization<epsilon = 0.001>(x, scale, bias, mean, variance)"
HEAD = f"""g (float[batch,2,4,4] x) => (float[batch,1,h,w] y)
    <float[1,2,2,2] k = {{1,2,3,4,5,6,7,-8}}, float[1] b = {{-3}}, {STATISTICS}, float[2] none = {{0,0}},
     float[2,1,1] s = {{2,-3}}, float[1,2,1,1] t = {{0.5,-4}}, float one = {{3}}, float[2,1,1] holes = {{1,0}},
     float[4] row = {{1,2,3,4}}, float[1,1,2,1,1] five = {{1,2}}>"""


@pytest.fixture
def model():
    return graph(f"{HEAD} {{ {NORMALIZE} y = Conv<kernel_shape = [2,2]>(c, k, b) }}")


def test_golden(model, golden):
    after, change = apply(FoldPreNorm(), model)
    assert change.sites == ("y",)
    golden("fold_pre_norm.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize(
    "before",
    [
        NORMALIZE, "c = Mul(x, s)", "c = Mul(one, x)", "c = Div(x, s)", "c = Add(t, x)", "c = Sub(x, t)",
        "c = Add(x, one)", "a = Mul(x, s) c = Add(a, t)", "a = Sub(x, t) c = Div(a, s)",
    ],
)  # fmt: skip
def test_numbers_of_every_operator(before, bias, rows, workspace):
    model = graph(f'{HEAD} {{ {before} y = Conv<auto_pad = "VALID">(c, k{bias}) }}')
    after, change = apply(FoldPreNorm(), model)
    assert change.sites == ("y",)
    assert ops(after) == ["Conv"]
    same_numbers(model, after, {"x": random(rows, rows, 2, 4, 4)}, workspace, FoldPreNorm.tolerance)


@pytest.mark.parametrize("padding", ["pads = [1,0,0,1]", 'auto_pad = "SAME_UPPER"'])
@pytest.mark.parametrize(
    "before", ["c = Mul(x, s)", "c = BatchNormalization(x, scale, none, none, variance)"], ids=["Mul", "normalization"]
)
def test_a_scale_alone_goes_through_padding(before, padding, workspace):
    model = graph(f"{HEAD} {{ {before} y = Conv<{padding}>(c, k) }}")
    after, change = apply(FoldPreNorm(), model)
    assert change.sites == ("y",)
    (conv,) = after.graph
    assert len(conv.inputs) == 2, "no bias where there is no shift"
    same_numbers(model, after, {"x": random(1, 3, 2, 4, 4)}, workspace, FoldPreNorm.tolerance)


def test_what_is_behind_a_shift_is_folded_and_the_shift_stays(workspace):
    model = graph(f"{HEAD} {{ a = Add(x, t) c = Mul(a, s) y = Conv<pads = [1,1,1,1]>(c, k, b) }}")
    after, change = apply(FoldPreNorm(), model)
    assert (change.sites, change.refused) == (("y",), ())
    assert ops(after) == ["Add", "Conv"]
    same_numbers(model, after, {"x": random(1, 2, 2, 4, 4)}, workspace, FoldPreNorm.tolerance)


@pytest.mark.parametrize(("groups", "size"), [(1, (3, 3)), (2, (3, 3)), (6, (1, 1)), (3, (5,)), (2, (2, 2, 2))])
def test_numbers_of_groups(groups, size, workspace):
    channels, axes = 6, ",".join("5" for _ in size)
    weights = {
        "k": random(1, 12, channels // groups, *size), "scale": random(2, channels), "bias": random(3, channels),
        "mean": random(4, channels), "variance": np.abs(random(5, channels)) + np.float32(0.1),
    }  # fmt: skip
    declared = ",".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    outputs = ",".join(f"o{axis}" for axis in range(len(size)))
    model = graph(f"""g (float[batch,{channels},{axes}] x, {declared}) => (float[batch,12,{outputs}] y)
        {{ {NORMALIZE} y = Conv<group = {groups}>(c, k) }}""")
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array)
        model.graph.register_initializer(value)
    feeds = [{"x": random(rows, rows, channels, *(5 for _ in size))} for rows in (2, 3)]
    after, (step,) = line(model, [FoldPreNorm()], feeds, workspace)
    assert (step.sites, step.left_out) == (("y",), ())
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize(
    ("interface", "body", "reason"),
    [
        ("(float[n,2,4,4] x) => (float[n,1,3,3] y, float[n,2,4,4] c)", "", "c is a graph output"),
        ("(float[n,2,4,4] x) => (float[n,1,3,3] y, float[n,2,4,4] z)", "z = Relu(c)", "c is used elsewhere"),
        (
            "(float[n,2,4,4] x) => (float[n,1,3,3] y, float[n,1,3,3] z)",
            "z = Conv(x, k)",
            "the weight is used elsewhere",
        ),
        ("(float[n,2,4,4] x, float[1,2,2,2] k) => (float[n,1,3,3] y)", "", "the weight is not constant"),
        ("(float[n,2,4,4] x, float[1] b) => (float[n,1,3,3] y)", "", "the convolution's bias is not constant"),
        ("(float[n,2,4,4] x, float[2] scale) => (float[n,1,3,3] y)", "", "the scale is not constant"),
        ("(float[n,2,4,4] x, float[2] bias) => (float[n,1,3,3] y)", "", "the bias is not constant"),
        ("(float[n,2,4,4] x, float[2] mean) => (float[n,1,3,3] y)", "", "the mean is not constant"),
        ("(float[n,2,4,4] x, float[2] variance) => (float[n,1,3,3] y)", "", "the variance is not constant"),
    ],
)
def test_refusals_by_use_and_by_what_a_caller_may_override(interface, body, reason):
    model = graph(f"g {interface} {HEAD[HEAD.index('<') :]} {{ {NORMALIZE} y = Conv(c, k, b) {body} }}")
    after, change = apply(FoldPreNorm(), model)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]
    assert same_graph(after.graph, model.graph)


PADS = "y = Conv<pads = [0,0,1,0]>(c, k, b)"
SAME = 'y = Conv<auto_pad = "SAME_LOWER">(c, k, b)'
ZEROS = "the convolution pads with zeros, which are not shifted"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{NORMALIZE} {PADS}", ZEROS),
        (f"{NORMALIZE} {SAME}", ZEROS),
        (f"c = Add(x, t) {PADS}", ZEROS),
        (f"c = Sub(x, one) {SAME}", ZEROS),
        (f"{NORMALIZE.replace('<', '<training_mode = 1, ')} y = Conv(c, k)", "it is in training mode"),
        (f"{NORMALIZE.replace('0.001', '-1.0')} y = Conv(c, k)", "variance + epsilon is not positive"),
        (f"{NORMALIZE.replace('mean', 'row')} y = Conv(c, k)", "the mean does not have one element for each channel"),
        (f"{NORMALIZE.replace('mean', 'wide')} y = Conv(c, k)", "weight and statistics have different dtypes"),
        ("c = Mul(x, row) y = Conv(c, k)", "row does not run along the channels"),
        ("c = Mul(x, five) y = Conv(c, k)", "five does not run along the channels"),
        ("c = Div(x, holes) y = Conv(c, k)", TOO_SMALL),
    ],
)
def test_refusals_by_what_is_computed(body, reason):
    head = HEAD.replace("float[2] none", "double[2] wide = {1,2}, float[2] none")
    _, change = apply(FoldPreNorm(), graph(f"{head} {{ {body} }}"))
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize("channels", ["1", "channels"])
def test_channels_that_a_constant_broadcasts_are_refused(channels):
    model = graph(f"{HEAD.replace('[batch,2,4,4]', f'[batch,{channels},4,4]')} {{ c = Mul(x, s) y = Conv(c, k) }}")
    _, change = apply(FoldPreNorm(), model)
    assert [refusal.reason for refusal in change.refused] == ["the number of channels of the input is not known"]


@pytest.mark.parametrize("between", ["r = Relu(c)", "r = Mul(c, x)", "r = Sub(one, c)"])
def test_what_stands_between_is_no_site(between):
    _, change = apply(FoldPreNorm(), graph(f"{HEAD} {{ {NORMALIZE} {between} y = Conv(r, k, b) }}"))
    assert change == type(change)((), ())


def test_what_torch_exports(workspace):
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(8)
            self.convolutions = torch.nn.ModuleList(
                [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 1, groups=2), torch.nn.Conv2d(8, 4, 3, padding=1)]
            )
            for norm in (self.first, self.second):
                norm.running_var = torch.rand(norm.num_features) + 0.5
                norm.running_mean = torch.randn(norm.num_features)
                torch.nn.init.normal_(norm.weight)
                torch.nn.init.normal_(norm.bias)

        def forward(self, x):
            x = torch.relu(self.convolutions[0](self.first(x)))
            x = torch.relu(self.convolutions[1](self.second(x)))
            return self.convolutions[2](x / 4)

    model = torch_model(Network(), (torch.rand(2, 3, 10, 10),), fold=True)
    assert ops(model).count("BatchNormalization") == 2
    feeds = [{"x0": random(1, 2, 3, 10, 10)}, {"x0": random(2, 3, 3, 10, 10)}]
    after, (step,) = line(model, [FoldPreNorm()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (3, ())
    assert ops(after) == ["Conv", "Relu", "Conv", "Relu", "Conv"]
