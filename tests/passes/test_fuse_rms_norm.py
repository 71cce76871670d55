"""FuseRmsNorm: golden graph, numbers of every way to write it, each refusal by its reason, and what torch exports."""

import pytest

from passes._norms import OUTSIDE
from passes.fuse_rms_norm import FuseRmsNorm
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

VERSION = '<ir_version: 10, opset_import: ["":23]>\n'
HEAD = "g (float[batch,2,4] x) => (float[batch,2,4] y)"
WEIGHTS = "<float[4] w = {1,-2,3,0.5}, float two = {2}, float eps = {0.001}, int64[1] axes = {-1}>"
ROOT = "q = Pow(x, two) m = ReduceMean(q, axes) a = Add(m, eps) s = Sqrt(a)"
FORMS = {
    "as torch writes it": f"{ROOT} r = Reciprocal(s) n = Mul(x, r) y = Mul(w, n)",
    "a division": f"{ROOT} n = Div(x, s) y = Mul(n, w)",
    "the weight first": f"{ROOT} r = Reciprocal(s) n = Mul(w, x) y = Mul(n, r)",
    "the weight first, over the root": f"{ROOT} n = Mul(w, x) y = Div(n, s)",
    "a product": "q = Mul(x, x) m = ReduceMean(q, axes) a = Add(eps, m) s = Sqrt(a) n = Div(x, s) y = Mul(n, w)",
}


def model(body, weights=WEIGHTS, head=HEAD):
    return graph(f"{VERSION}{head} {weights} {{ {body} }}")


def test_golden(golden):
    after, change = apply(FuseRmsNorm(), model(FORMS["as torch writes it"]))
    assert change.sites == ("y",)
    golden("fuse_rms_norm.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, workspace):
    before = model(FORMS[form])
    after, change = apply(FuseRmsNorm(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["RMSNormalization"]
    same_numbers(before, after, {"x": random(1, rows, 2, 4)}, workspace, FuseRmsNorm.tolerance)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (WEIGHTS.replace("axes = {-1}", "axes = {1}"), "the mean is not over the last axis"),
        (WEIGHTS.replace("float[4] w = {1,-2,3,0.5}", "float[2,1] w = {2,3}"), "one element for each of the last axis"),
    ],
)
def test_refusals_by_what_is_constant(weights, reason):
    _, change = apply(FuseRmsNorm(), model(FORMS["as torch writes it"], weights))
    assert change.sites == ()
    assert reason in change.refused[0].reason


def test_an_epsilon_outside_of_the_root_is_refused():
    body = "q = Pow(x, two) m = ReduceMean(q, axes) s = Sqrt(m) a = Add(s, eps) n = Div(x, a) y = Mul(n, w)"
    after, change = apply(FuseRmsNorm(), model(body))
    assert [refusal.reason for refusal in change.refused] == [OUTSIDE]
    assert "RMSNormalization" not in ops(after)


def test_an_epsilon_outside_below_a_product_is_refused():
    body = "q = Pow(x, two) m = ReduceMean(q, axes) s = Sqrt(m) a = Add(s, eps) n = Mul(w, x) y = Div(n, a)"
    _, change = apply(FuseRmsNorm(), model(body))
    assert [refusal.reason for refusal in change.refused] == [OUTSIDE]


def test_another_factor_is_refused():
    body = FORMS["as torch writes it"].replace("y = Mul(w, n)", "k = Mul(n, two) y = Mul(w, k)")
    _, change = apply(FuseRmsNorm(), model(body))
    assert "it is not multiplied with one weight alone" in [refusal.reason for refusal in change.refused]


@pytest.mark.parametrize(
    "body",
    [
        f"{ROOT} n = Div(x, s) k = Mul(n, n) y = Mul(k, w)",
        f"{ROOT} r = Reciprocal(s) n = Mul(x, r) k = Mul(x, n) y = Mul(k, w)",
    ],
    ids=["the quotient twice", "x twice"],
)
def test_a_factor_that_is_there_twice_is_another_factor(body):
    _, change = apply(FuseRmsNorm(), model(body))
    assert change.sites == ()
    assert "it is not multiplied with one weight alone" in [refusal.reason for refusal in change.refused]


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        ("g (float[n,2,4] x) => (float[n,2,4] y, float[n,2,1] s)", "", "s is a graph output"),
        ("g (float[n,2,4] x) => (float[n,2,4] y, float[n,2,1] z)", "z = Relu(m)", "m is used elsewhere"),
    ],
)
def test_refusals_by_use(head, more, reason):
    _, change = apply(FuseRmsNorm(), model(f"{FORMS['as torch writes it']} {more}", head=head))
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_another_value_under_the_root_is_no_site():
    body = FORMS["a division"].replace("Pow(x, two)", "Pow(e, two)")
    after, change = apply(FuseRmsNorm(), model(f"e = Exp(x) {body}"))
    assert change == type(change)((), ())
    assert "RMSNormalization" not in ops(after)


def test_below_opset_23_there_is_no_such_operator(workspace):
    before = graph(f"{HEAD} {WEIGHTS} {{ {FORMS['a division']} }}")
    step = line(before, [FuseRmsNorm()], [{"x": random(1, 2, 2, 4)}], workspace)[1][0]
    assert step.sites or "opset" in step.dropped


def test_what_torch_exports(workspace):
    import torch

    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(6))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    exported = torch_model(Norm(), (torch.rand(4, 5, 6),), fold=True)
    feeds = [{"x0": random(1, 4, 5, 6)}, {"x0": random(2, 3, 5, 6)}]
    _, (step,) = line(exported, [FuseRmsNorm()], feeds, workspace, requested={"fuse-rms-norm"})
    assert (len(step.sites), step.left_out) == (1, ())


def near():
    """What is nearly the normalization of x with a weight, by what is said of it."""
    from torch.nn import functional

    def mean(x):
        return x.pow(2).mean(-1, keepdim=True)

    return {
        "epsilon is a lower bound, and not added": lambda x, w: x * mean(x).clamp(min=1e-6).rsqrt() * w,
        "there is no epsilon": lambda x, w: x * mean(x).rsqrt() * w,
        "the root is written as a power": lambda x, w: w * (x * (mean(x) + 1e-6).pow(-0.5)),
        "the mean of the squares is written as a sum that is scaled": lambda x, w: (
            x / (x.pow(2).sum(-1, keepdim=True) / 6 + 1e-6).sqrt() * w
        ),
        "the squares are summed, and not their mean taken": lambda x, w: (
            x * (x.pow(2).sum(-1, keepdim=True) + 1e-6).rsqrt() * w
        ),
        "it is divided by the norm, and not by the root of a mean of squares": lambda x, w: (
            functional.normalize(x, dim=-1) * 6**0.5 * w
        ),
        "what is squared is the absolute value": lambda x, w: x * (mean(x.abs()) + 1e-6).rsqrt() * w,
        "the mean is over a part of what is divided": lambda x, w: x * (mean(x[..., :4]) + 1e-6).rsqrt() * w,
        "another type is computed in on the way": lambda x, w: (
            (x.double() * (mean(x.double()) + 1e-6).rsqrt()).float() * w
        ),
        "it is not multiplied with one weight alone": lambda x, w: x * (mean(x) + 1e-6).rsqrt(),
    }


def refused_for(norm):
    import torch

    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.weight = torch.nn.Linear(6, 6), torch.nn.Parameter(torch.rand(6))

        def forward(self, x):
            return self.linear(norm(self.linear(x), self.weight))

    _, change = apply(FuseRmsNorm(), torch_model(Norm(), (torch.rand(4, 5, 6),), fold=True))
    assert change.sites == ()
    return [refusal.reason for refusal in change.refused]


@pytest.mark.parametrize("reason", near())
def test_what_is_nearly_such_a_norm_says_what_is_another(reason):
    assert refused_for(near()[reason]) == [reason]


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w: x / x.norm(dim=-1, keepdim=True),
        lambda x, w: x / (1 + x * x).sqrt() * w,
        lambda x, w: x * (x.pow(2).mean(-1, keepdim=True) + 1).sqrt() * w,
        lambda x, w: w * (x - x.mean(1, True)) / ((x - x.mean(1, True)).pow(2).mean(1, True) + 1e-5).sqrt() + w,
    ],
    ids=["a direction", "a curve", "multiplied by the root", "a layer normalization over another axis"],
)
def test_another_norm_is_no_site(norm):
    assert refused_for(norm) == []
