"""FuseLayerNorm: golden graph, numbers of every way to write it, each refusal by its reason, and what torch exports."""

import pytest
import torch

import mlc
from passes._norms import OUTSIDE
from passes.fuse_layer_norm import FuseLayerNorm
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,2,4] x) => (float[batch,2,4] y)"
WEIGHTS = """<float[4] w = {1,-2,3,0.5}, float[4] b = {0.1,0.2,-0.3,4}, float two = {2}, float eps = {0.001},
    int64[1] axes = {-1}>"""
FORMS = {
    "one difference": """m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes) a = Add(v, eps)
        s = Sqrt(a) n = Div(d, s) p = Mul(n, w) y = Add(p, b)""",
    "two differences": """m = ReduceMean(x, axes) d = Sub(x, m) e = Sub(x, m) q = Mul(e, e) v = ReduceMean(q, axes)
        a = Add(eps, v) s = Sqrt(a) n = Div(d, s) p = Mul(w, n) y = Add(b, p)""",
    "weight first": """m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) a = Add(v, eps)
        s = Sqrt(a) p = Mul(w, d) n = Div(p, s) y = Add(n, b)""",
    "weight behind": """m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) a = Add(v, eps)
        s = Sqrt(a) p = Mul(d, w) n = Div(p, s) y = Add(b, n)""",
}


ROOTED = {
    "by its root": "m = ReduceMean(x, axes) d = Sub(x, m) n = RMSNormalization<epsilon = 0.001>(d, w) y = Add(n, b)",
    "the other way round": "m = ReduceMean(x, axes) d = Sub(x, m) n = RMSNormalization<axis = 2>(d, w) y = Add(b, n)",
}
"""As torch.onnx writes ``d * rsqrt(...)`` at opset 23."""


def model(body, weights=WEIGHTS, head=HEAD):
    return graph(f"{head} {weights} {{ {body} }}")


def test_golden(golden):
    after, change = apply(FuseLayerNorm(), model(FORMS["one difference"]))
    assert change.sites == ("y",)
    golden("fuse_layer_norm.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, workspace):
    before = model(FORMS[form])
    after, change = apply(FuseLayerNorm(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["LayerNormalization"]
    same_numbers(before, after, {"x": random(1, rows, 2, 4) + 3}, workspace, FuseLayerNorm.tolerance)


def rooted(body, head=HEAD):
    return graph(f'<ir_version: 10, opset_import: ["": 23]> {head} {WEIGHTS} {{ {body} }}')


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", ROOTED)
def test_numbers_of_what_is_divided_by_its_root(form, rows, workspace):
    before = rooted(ROOTED[form])
    after, change = apply(FuseLayerNorm(), before)
    assert (change.sites, ops(after)) == (("y",), ["LayerNormalization"])
    same_numbers(before, after, {"x": random(1, rows, 2, 4) + 3}, workspace, FuseLayerNorm.tolerance)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("m = ReduceMean(x, axes)", "m = ReduceMean<keepdims = 1>(x, two_axes)", "a mean is not over the last axis"),
        ("<axis = 2>", "<axis = 1>", "a mean is not over the last axis"),
        ("y = Add(b, n)", "y = Add(b, n) z = Relu(n)", "n is used elsewhere"),
        ("y = Add(b, n)", "y = Relu(n)", "there is no bias that is added"),
    ],
)
def test_refusals_of_what_is_divided_by_its_root(old, new, reason):
    body = f"two_axes = Constant<value = int64[2] {{1,2}}>() {ROOTED['the other way round']}".replace(old, new)
    head = f"{HEAD[:-1]}, float[batch,2,4] z)" if "z = " in new else HEAD
    _, change = apply(FuseLayerNorm(), rooted(body, head))
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("axes = {-1}", "axes = {1}", "a mean is not over the last axis"),
        ("float[4] w = {1,-2,3,0.5}", "float[1] w = {2}", "the weight does not have one element for each"),
        ("float[4] b = {0.1,0.2,-0.3,4}", "float[2,1] b = {2,3}", "the bias does not have one element for each"),
    ],
)
def test_refusals_by_what_is_constant(old, new, reason):
    _, change = apply(FuseLayerNorm(), model(FORMS["one difference"], WEIGHTS.replace(old, new)))
    assert change.sites == ()
    assert reason in change.refused[0].reason


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        ("g (float[n,2,4] x) => (float[n,2,4] y, float[n,2,1] m)", "", "m is a graph output"),
        ("g (float[n,2,4] x) => (float[n,2,4] y, float[n,2,4] z)", "z = Relu(n)", "n is used elsewhere"),
    ],
)
def test_refusals_by_use(head, more, reason):
    _, change = apply(FuseLayerNorm(), model(f"{FORMS['one difference']} {more}", head=head))
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_another_mean_is_no_site():
    body = FORMS["one difference"].replace("m = ReduceMean(x, axes)", "o = Exp(x) m = ReduceMean(o, axes)")
    _, change = apply(FuseLayerNorm(), model(body))
    assert change == type(change)((), ())


def test_an_epsilon_outside_of_the_root_is_refused():
    body = """m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) s = Sqrt(v) a = Add(eps, s)
        n = Div(d, a) p = Mul(n, w) y = Add(p, b)"""
    after, change = apply(FuseLayerNorm(), model(body))
    assert [refusal.reason for refusal in change.refused] == [OUTSIDE]
    assert "LayerNormalization" not in ops(after)


def test_what_torch_exports(workspace):
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = torch.nn.Parameter(torch.rand(6)), torch.nn.Parameter(torch.rand(6))

        def forward(self, x):
            centred = x - x.mean(-1, keepdim=True)
            x = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias
            centred = x - x.mean(-1, keepdim=True)
            return self.weight * centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() + self.bias

    exported = torch_model(Norm(), (torch.rand(4, 5, 6),), fold=True)
    feeds = [{"x0": random(1, 4, 5, 6)}, {"x0": random(2, 3, 5, 6)}]
    _, (step,) = line(exported, [FuseLayerNorm()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (2, ())


def by_variance(x, w, b):
    return (x - x.mean(-1, True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * w + b


def by_inverse_root(x, w, b):
    return (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-5) * w + b


def by_both(x, w, b):
    variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(variance + 1e-5) * w + b


@pytest.mark.parametrize("spelled", [by_variance, by_inverse_root, by_both])
def test_layers_that_users_spell_out_by_a_variance(spelled, workspace):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.w, self.b = (torch.nn.Linear(6, 6), *map(torch.nn.Parameter, torch.rand(2, 6)))

        def forward(self, x):
            return self.linear(spelled(x, self.w, self.b))

    original = mlc.load(Net().eval(), inputs=["x=float32[batch=1..3,n=1..9,6]"], example=torch.rand(2, 5, 6))
    rewritten = mlc.rewrite(mlc.export(original), original)
    (sites,) = {step.sites for step in rewritten.steps if step.spec.name == "fuse-layer-norm" and step.sites}
    assert len(sites) == 1
    assert ops(rewritten.model) == ["LayerNormalization", "MatMul", "Add"]


def near():
    """What is nearly the normalization of x with a weight and a bias, by what is said of it."""

    def parts(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred, (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def mean_of(x):
        return x.mean(-1, keepdim=True)

    return {
        "the mean of the squares is scaled, as for an unbiased variance": lambda x, w, b: (
            w * (x - mean_of(x)) / (x.std(-1, keepdim=True) + 1e-6) + b
        ),
        "the variance is a mean of squares less the square of a mean": lambda x, w, b: (
            w * (x - mean_of(x)) / (mean_of(x * x) - mean_of(x) * mean_of(x) + 1e-5).sqrt() + b
        ),
        "there is no epsilon": lambda x, w, b: w * ((x - mean_of(x)) / mean_of((x - mean_of(x)) ** 2).sqrt()) + b,
        "there is no bias that is added": lambda x, w, b: parts(x)[0] / parts(x)[1] * w,
        "there is no weight": lambda x, w, b: parts(x)[0] / parts(x)[1],
        "another type is computed in on the way": lambda x, w, b: (
            (parts(x.double())[0] / parts(x.double())[1]).float() * w + b
        ),
    }


def refused_for(norm):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.w, self.b = (torch.nn.Linear(6, 6), *map(torch.nn.Parameter, torch.rand(2, 6)))

        def forward(self, x):
            return self.linear(norm(self.linear(x), self.w, self.b))

    original = mlc.load(Net().eval(), inputs=["x=float32[batch=1..3,n=1..9,6]"], example=torch.rand(2, 5, 6))
    _, change = apply(FuseLayerNorm(), mlc.export(original).model)
    assert change.sites == ()
    return [refusal.reason for refusal in change.refused]


@pytest.mark.parametrize("reason", near())
def test_what_is_nearly_such_a_norm_says_what_is_another(reason):
    assert refused_for(near()[reason]) == [reason]


def test_a_bias_that_is_subtracted_is_said():
    assert refused_for(lambda x, w, b: near()["there is no bias that is added"](x, w, b) - b) == [
        "there is no bias that is added"
    ]


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w, b: (x - 0.5) / 0.25 * w + b,
        lambda x, w, b: (x - x.mean(-1, keepdim=True)) * w + b,
        lambda x, w, b: (x - x.mean(1, True)) / ((x - x.mean(1, True)).pow(2).mean(1, True) + 1e-5).sqrt(),
    ],
    ids=["by constants", "centred", "over time, without weights"],
)
def test_what_is_only_scaled_and_shifted_is_no_site(norm):
    assert refused_for(norm) == []


@pytest.mark.parametrize("opset", [20, 23])
def test_what_torch_exports_of_one_over_the_root(opset):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = map(torch.nn.Parameter, torch.rand(2, 6))

        def forward(self, x):
            apart = x - x.mean(-1, keepdim=True)
            return apart * torch.rsqrt((apart * apart).mean(-1, keepdim=True) + 1e-5) * self.w + self.b

    original = mlc.load(Net().eval(), inputs=["x=float32[batch=1..3,n=1..9,6]"])
    made = mlc.rewrite(mlc.export(original, opset=opset), original)
    assert [len(step.sites) for step in made.steps if step.spec.name == "fuse-layer-norm" and step.sites] == [1]
    assert ops(made.model) == ["LayerNormalization"]
