"""FuseQuickGelu: golden graph, numbers wherever there is a kernel, each refusal by its reason, what torch exports."""

import pytest

from passes.fuse_quick_gelu import FuseQuickGelu
from tests.graphs import apply, graph, line, ops, random, text, torch_model
from tests.kernels import same_numbers_on

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,5] x) => (float[batch,5] y)"
FORMS = {
    "silu": ("s = Sigmoid(x) y = Mul(x, s)", 1.0),
    "the sigmoid first": ("s = Sigmoid(x) y = Mul(s, x)", 1.0),
    "a factor": ("a = Mul(x, f) s = Sigmoid(a) y = Mul(x, s)", 1.5),
    "a factor first": ("a = Mul(f, x) s = Sigmoid(a) y = Mul(s, x)", 1.5),
    "a divisor": ("a = Div(x, f) s = Sigmoid(a) y = Mul(x, s)", 1 / 1.5),
    "a negative factor": ("n = Mul(x, minus) s = Sigmoid(n) y = Mul(x, s)", -2.0),
}


def model(body, head=HEAD):
    return graph(f"{head} <float f = {{1.5}}, float minus = {{-2}}> {{ {body} }}")


def test_golden(golden):
    after, change = apply(FuseQuickGelu(), model(FORMS["a factor"][0]))
    assert change.sites == ("y",)
    golden("fuse_quick_gelu.onnxtxt", text(after))


@pytest.mark.parametrize("target", ["cpu", "webgpu"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, target, workspace):
    body, alpha = FORMS[form]
    before = model(body)
    after, change = apply(FuseQuickGelu(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["QuickGelu"]
    assert after.graph[0].attributes["alpha"].as_float() == pytest.approx(alpha)
    same_numbers_on(target, before, after, {"x": random(1, rows, 5) * 3}, workspace, FuseQuickGelu.tolerance)


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (HEAD, "s = Sigmoid(x) y = Mul(x, s) z = Relu(s)", "s is used elsewhere"),
        ("g (float[n,5] x) => (float[n,5] y, float[n,5] s)", "s = Sigmoid(x) y = Mul(x, s)", "s is a graph output"),
        ("g (double[n,5] x) => (double[n,5] y)", "s = Sigmoid(x) y = Mul(x, s)", "its values are not known to be"),
        ("g (float16[n,5] x) => (float16[n,5] y)", "s = Sigmoid(x) y = Mul(x, s)", "its values are not known to be"),
    ],
)
def test_refusals(head, body, reason):
    _, change = apply(FuseQuickGelu(), model(body, head))
    assert change.sites == ()
    (refusal,) = change.refused
    assert refusal.reason.startswith(reason)


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x) y = Add(x, s)",
        "e = Exp(x) s = Sigmoid(e) y = Mul(x, s)",
        "s = Sigmoid(x) y = Mul(s, s)",
        "a = Mul(x, f) s = Sigmoid(a) m = Mul(x, s) y = Add(m, a)",
    ],
    ids=["a sum", "another argument", "no own factor", "an argument that is used elsewhere"],
)
def test_what_is_no_quick_gelu_is_no_site(body):
    after, change = apply(FuseQuickGelu(), model(body))
    assert change == type(change)((), ())
    assert "QuickGelu" not in ops(after)


def test_another_alpha_and_a_sigmoid_that_is_spelled_out_are_said():
    import torch

    alpha = torch.linspace(1, 2, 5)
    forms = {
        "alpha is not one number": lambda x: x * torch.sigmoid(alpha * x),
        "the sigmoid is spelled out": lambda x: x / (1 + torch.exp(-1.702 * x)),
    }
    for reason, form in forms.items():
        assert refused_for(form) == [reason]


def test_another_gate_is_no_site():
    import torch

    assert refused_for(lambda x: torch.sigmoid(x) * torch.tanh(x)) == []
    assert refused_for(lambda x: x * torch.sigmoid(x.roll(1, -1) * torch.linspace(1, 2, 5))) == []
    assert refused_for(lambda x: x / (1 + x.abs())) == []
    assert refused_for(lambda x: x / torch.sigmoid(x)) == []
    assert refused_for(lambda x: x * torch.sigmoid(-x) ** 2) == []


def refused_for(form):
    import torch

    class Activation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(5, 5)

        def forward(self, x):
            return self.linear(form(self.linear(x)))

    _, change = apply(FuseQuickGelu(), torch_model(Activation(), (torch.rand(4, 5),), fold=True))
    assert change.sites == ()
    return [refusal.reason for refusal in change.refused]


def test_what_torch_exports(workspace):
    import torch

    class Gates(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(5, 6), torch.nn.Linear(6, 5)
            self.silu = torch.nn.SiLU()

        def forward(self, x):
            x = self.silu(self.one(x))
            x = x * torch.sigmoid(1.702 * x)
            return torch.nn.functional.silu(self.two(x))

    exported = torch_model(Gates(), (torch.rand(4, 5),), fold=True)
    _, (step,) = line(exported, [FuseQuickGelu()], [{"x0": random(1, 4, 5)}, {"x0": random(2, 3, 5)}], workspace)
    assert len(step.sites) == 3
    assert step.left_out == ()
