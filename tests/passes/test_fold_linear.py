"""FoldLinear: golden graph, numbers of every way to write it, each refusal by its reason, and what torch exports."""

import pytest

from mlc.rewriting.differences import same_graph
from passes.fold_linear import FoldLinear
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

WEIGHTS = """<float[2,4] a = {1,-2,3,4,-5,6,7,-8}, float[4,2] at = {1,-5,-2,6,3,7,4,-8}, float[4] b = {1,-2,3,0.5},
    float[1,4] br = {1,-2,3,0.5}, float one = {3}, float[4,3] c = {1,2,3,-4,5,6,-7,8,9,1,-1,2},
    float[3,4] ct = {1,-4,-7,1,2,5,8,-1,3,6,9,2}, float[3] d = {-1,4,2}, float[2,1] thin = {1,-2},
    float[1,3] wide = {1,2,-3}, float[5,4] rows = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20},
    float[1,2,4] cube = {1,2,3,4,5,6,7,8}, float[5,3] last = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}>"""
HEAD = f"g (float[batch,2] x) => (float[batch,3] y) {WEIGHTS}"
LAYERS = "p = MatMul(x, a) h = Add(p, b) q = MatMul(h, c) y = Add(q, d)"
FORMS = {
    "MatMul and Add": (LAYERS, ["MatMul", "Add"]),
    "no bias": ("h = MatMul(x, a) y = MatMul(h, c)", ["MatMul"]),
    "first bias": ("p = MatMul(x, a) h = Add(b, p) y = MatMul(h, c)", ["MatMul", "Add"]),
    "last bias": ("h = MatMul(x, a) q = MatMul(h, c) y = Add(d, q)", ["MatMul", "Add"]),
    "one number": ("p = MatMul(x, a) h = Add(one, p) q = MatMul(h, c) y = Add(q, one)", ["MatMul", "Add"]),
    "Gemm": ("h = Gemm(x, a, b) y = Gemm(h, c, d)", ["Gemm"]),
    "no bias of Gemm": ("h = Gemm<alpha = 2.0>(x, a) y = Gemm(h, c)", ["Gemm"]),
    "transposed weights": ("h = Gemm<transB = 1>(x, at, br) y = Gemm<transB = 1>(h, ct, d)", ["Gemm"]),
    "factors": (
        "h = Gemm<alpha = 0.5, beta = -2.0>(x, a, b) y = Gemm<alpha = 3.0, beta = 0.25, transB = 1>(h, ct, d)",
        ["Gemm"],
    ),
    "transposed input": ("z = Transpose(x) h = Gemm<transA = 1>(z, a, b) y = Gemm(h, c, d)", ["Transpose", "Gemm"]),
    "Gemm first": ("h = Gemm<transB = 1>(x, at, b) q = MatMul(h, c) y = Add(q, d)", ["Gemm"]),
    "Gemm last": ("p = MatMul(x, a) h = Add(p, b) y = Gemm<transB = 1>(h, ct, d)", ["MatMul", "Add"]),
}


def test_golden(golden):
    after, change = apply(FoldLinear(), graph(f"{HEAD} {{ {LAYERS} }}"))
    assert change.sites == ("y",)
    golden("fold_linear.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, workspace):
    body, left = FORMS[form]
    model = graph(f"{HEAD} {{ {body} }}")
    after, change = apply(FoldLinear(), model)
    assert (change.sites, change.refused) == (("y",), ())
    assert ops(after) == left
    same_numbers(model, after, {"x": random(rows, rows, 2)}, workspace, FoldLinear.tolerance)


def test_weights_that_layers_share_stay():
    model = graph(f"""{HEAD.replace("[batch,3]", "[batch,4]")}
        {{ p = MatMul(x, a) h = Add(p, b) q = MatMul(h, at) y = MatMul(q, a) }}""")
    after, change = apply(FoldLinear(), model)
    assert [refusal.reason for refusal in change.refused] == ["a weight is used elsewhere"] * 2
    assert same_graph(after.graph, model.graph)


def test_a_product_that_others_read_is_folded_without_the_bias_behind_it(workspace):
    head = HEAD.replace("(float[batch,3] y)", "(float[batch,3] y, float[batch,3] z)")
    model = graph(f"{head} {{ {LAYERS} z = Relu(q) }}")
    after, change = apply(FoldLinear(), model)
    assert change.sites == ("q",)
    assert ops(after) == ["MatMul", "Add", "Add", "Relu"]
    same_numbers(model, after, {"x": random(1, 4, 2)}, workspace, FoldLinear.tolerance)


ALONG = "the bias does not run along the last axis"
NO_MATRIX = "the weight is not a matrix of floats"
TURNED = "the value between is transposed"


@pytest.mark.parametrize(
    ("interface", "body", "reason"),
    [
        ("(float[n,2] x) => (float[n,3] y, float[n,4] h)", LAYERS, "h is a graph output"),
        ("(float[n,2] x) => (float[n,3] y, float[n,4] z)", f"{LAYERS} z = Relu(h)", "h is used elsewhere"),
        ("(float[n,2] x) => (float[n,3] y, float[n,4] z)", f"{LAYERS} z = Relu(p)", "p is used elsewhere"),
        ("(float[n,2] x) => (float[n,3] y, float[n,4] z)", f"{LAYERS} z = MatMul(x, a)", "a weight is used elsewhere"),
        ("(float[n,2] x, float[2,4] a) => (float[n,3] y)", LAYERS, "the weight is not constant"),
        ("(float[n,2] x, float[4,3] c) => (float[n,3] y)", LAYERS, "the weight is not constant"),
        (
            "(float[n,2] x, float[4] b) => (float[n,3] y)",
            "h = Gemm(x, a, b) y = Gemm(h, c, d)",
            "the bias is not constant",
        ),
        ("(float[5,2] x) => (float[5,3] y)", "h = Gemm(x, a, rows) y = Gemm(h, c)", ALONG),
        ("(float[5,2] x) => (float[5,3] y)", "h = Gemm(x, a) y = Gemm(h, c, last)", ALONG),
        ("(float[n,2] x) => (float[1,n,3] y)", "h = MatMul(x, cube) y = MatMul(h, c)", NO_MATRIX),
        ("(float[4,2] x) => (float[4,3] y)", "h = MatMul(x, a) y = Gemm<transA = 1>(h, c)", TURNED),
        (
            "(float[n,2] x) => (float[n,3] y)",
            "h = MatMul(x, thin) y = MatMul(h, wide)",
            "one product would take more multiply-adds than both",
        ),
    ],
)
def test_refusals(interface, body, reason):
    model = graph(f"g {interface} {WEIGHTS} {{ {body} }}")
    after, change = apply(FoldLinear(), model)
    assert change.sites == ()
    assert ("y", reason) in [(refusal.site, refusal.reason) for refusal in change.refused]
    assert same_graph(after.graph, model.graph)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ("r = Reshape(h, flat)", "the value between goes through Reshape"),
        ("t = Transpose(h) r = Transpose(t)", "the value between goes through Transpose"),
        ("u = Unsqueeze(h, at) r = Squeeze(u, at)", "the value between goes through Unsqueeze and Squeeze"),
    ],
)
def test_what_only_moves_elements_between_two_layers_is_said(between, reason):
    weights = WEIGHTS.replace("<", "<int64[2] flat = {-1, 4}, int64[1] at = {0}, ", 1)
    body = f"p = MatMul(x, a) h = Add(p, b) {between} q = MatMul(r, c) y = Add(q, d)"
    _, change = apply(FoldLinear(), graph(f"g (float[n,2] x) => (float[n,3] y) {weights} {{ {body} }}"))
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]


def test_what_moves_a_result_before_what_is_no_layer_is_no_site():
    body = "h = MatMul(x, a) t = Transpose(h) y = MatMul(t, x)"
    _, change = apply(FoldLinear(), graph(f"g (float[n,2] x) => (float[4,2] y) {WEIGHTS} {{ {body} }}"))
    assert change == type(change)((), ())


def test_integers_are_refused():
    weights = "<int32[2,4] a = {1,2,3,4,5,6,7,8}, int32[4,3] c = {1,2,3,4,5,6,7,8,9,10,11,12}>"
    model = graph(f"g (int32[n,2] x) => (int32[n,3] y) {weights} {{ h = MatMul(x, a) y = MatMul(h, c) }}")
    _, change = apply(FoldLinear(), model)
    assert [refusal.reason for refusal in change.refused] == [NO_MATRIX]


@pytest.mark.parametrize("between", ["r = Relu(h)", "r = Add(h, h)", "r = Add(h, rows)"])
def test_what_stands_between_is_no_site(between):
    body = f"p = MatMul(x, a) h = Add(p, b) {between} y = MatMul(r, c)"
    _, change = apply(FoldLinear(), graph(f"{HEAD.replace('batch', '5')} {{ {body} }}"))
    assert change == type(change)((), ())


def test_what_torch_exports(workspace):
    import torch

    class Layers(torch.nn.Module):
        """A pair to merge, an adapter of low rank that stays, and three layers of which all merge."""

        def __init__(self):
            super().__init__()
            self.pair = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6, bias=False))
            self.adapter = torch.nn.Sequential(torch.nn.Linear(6, 1, bias=False), torch.nn.Linear(1, 6, bias=False))
            self.three = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 8), torch.nn.Linear(8, 4))

        def forward(self, x):
            x = torch.relu(self.pair(x) + self.adapter(x))
            return self.three(x)

    for example, products in ((torch.rand(3, 6), "Gemm"), (torch.rand(3, 5, 6), "MatMul")):
        model = torch_model(Layers(), (example,), fold=True)
        feeds = [{"x0": random(rows, rows, *example.shape[1:])} for rows in (3, 4)]
        after, (step,) = line(model, [FoldLinear()], feeds, workspace)
        assert step.left_out == ()
        assert len(step.sites) == 3
        assert ops(model).count(products) - ops(after).count(products) == 3
        assert [refusal.reason for refusal in step.refused] == ["one product would take more multiply-adds than both"]
