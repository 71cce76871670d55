"""FuseGelu: golden graph, numbers of every way to write it, each refusal by its reason, and what torch exports."""

import pytest

from passes.fuse_gelu import FuseGelu
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,5] x) => (float[batch,5] y)"
NUMBERS = """<float half = {0.5}, float one = {1}, float root = {1.4142135}, float over = {0.70710677},
    float two = {2}, float three = {3}, float cubic = {0.044715}, float outer = {0.7978846}>"""
ERF = {
    "as torch writes it": "h = Mul(x, half) d = Div(x, root) e = Erf(d) a = Add(e, one) y = Mul(h, a)",
    "half last": "d = Mul(over, x) e = Erf(d) a = Add(one, e) p = Mul(a, x) y = Mul(p, half)",
    "half at the gate": "d = Mul(x, over) e = Erf(d) a = Add(e, one) p = Mul(half, a) y = Mul(x, p)",
    "x at the gate": "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Div(p, two)",
    "x halved": "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Div(x, two) y = Mul(a, h)",
    "as ONNX defines it": "d = Div(x, root) e = Erf(d) a = Sum(one, e) h = Mul(half, x) y = Mul(h, a)",
}
TANH = {
    "as torch writes it": """h = Mul(x, half) p = Pow(x, three) c = Mul(p, cubic) s = Add(x, c) u = Mul(s, outer)
        t = Tanh(u) a = Add(t, one) y = Mul(h, a)""",
    "products": """q = Mul(x, x) k = Mul(q, x) c = Mul(cubic, k) s = Add(c, x) u = Mul(outer, s) t = Tanh(u)
        a = Add(one, t) p = Mul(x, a) y = Mul(half, p)""",
    "as ONNX defines it": """p = Pow(x, three) c = Mul(cubic, p) s = Sum(x, c) u = Mul(outer, s) t = Tanh(u)
        a = Sum(one, t) h = Mul(half, x) y = Mul(h, a)""",
    "x before the sum": """k = Mul(cubic, x) c = Mul(k, x) s = Add(c, one) v = Mul(outer, x) u = Mul(v, s) t = Tanh(u)
        a = Add(one, t) h = Mul(x, half) y = Mul(h, a)""",
    "x behind the sum": """q = Pow(x, two) c = Mul(q, cubic) s = Add(one, c) v = Mul(s, outer) u = Mul(v, x) t = Tanh(u)
        a = Add(t, one) h = Mul(x, half) y = Mul(a, h)""",
}


def model(body, numbers=NUMBERS, head=HEAD):
    return graph(f"{head} {numbers} {{ {body} }}")


@pytest.mark.parametrize(("form", "body"), [("erf", ERF), ("tanh", TANH)])
def test_golden(form, body, golden):
    after, change = apply(FuseGelu(), model(body["as torch writes it"]))
    assert change.sites == ("y",)
    golden(f"fuse_gelu_{form}.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("body", [*ERF.values(), *TANH.values()], ids=[*ERF, *(f"tanh: {name}" for name in TANH)])
def test_numbers_whichever_way_it_is_written(body, rows, workspace):
    before = model(body)
    after, change = apply(FuseGelu(), before)
    assert (change.sites, change.refused) == (("y",), ())
    assert ops(after) == ["Gelu"]
    same_numbers(before, after, {"x": random(1, rows, 5) * 3}, workspace, FuseGelu.tolerance)


@pytest.mark.parametrize("body", [ERF["as torch writes it"], ERF["x at the gate"]])
def test_a_factor_that_follows_is_no_part_of_it(body, workspace):
    before = model(f"{body.replace('y = ', 'z = ')} y = Mul(z, three)")
    after, change = apply(FuseGelu(), before)
    assert (change.sites, change.refused) == (("z",), ())
    assert ops(after) == ["Gelu", "Mul"]
    same_numbers(before, after, {"x": random(1, 3, 5)}, workspace, FuseGelu.tolerance)


@pytest.mark.parametrize(
    ("body", "old", "new", "reason"),
    [
        (ERF, "1.4142135", "1.4153", "a constant is not that of the error function"),
        (ERF, "{0.5}", "{0.6}", "a constant is not that of the error function"),
        (TANH, "0.044715}", "0.04473}", "a constant is not that of the form with tanh"),
        (TANH, "0.7978846", "0.798", "a constant is not that of the form with tanh"),
    ],
)
def test_refusals_by_constants(body, old, new, reason):
    _, change = apply(FuseGelu(), model(body["as torch writes it"], NUMBERS.replace(old, new)))
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        ("g (float[n,5] x) => (float[n,5] y, float[n,5] e)", "", "e is a graph output"),
        ("g (float[n,5] x) => (float[n,5] y, float[n,5] z)", "z = Relu(a)", "a is used elsewhere"),
    ],
)
def test_refusals_by_use(head, more, reason):
    _, change = apply(FuseGelu(), model(f"{ERF['as torch writes it']} {more}", head=head))
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize(
    ("old", "new"),
    [("{1},", "{2},"), ("float half = {0.5}", "float[5] half = {0.5,0.5,0.5,0.5,0.5}")],
    ids=["another summand", "a half by channel"],
)
def test_what_is_no_gelu_is_no_site(old, new):
    after, change = apply(FuseGelu(), model(TANH["as torch writes it"], NUMBERS.replace(old, new, 1)))
    assert change == type(change)((), ())
    assert "Gelu" not in ops(after)


def test_another_power_is_refused():
    after, change = apply(FuseGelu(), model(TANH["as torch writes it"], NUMBERS.replace("{3}", "{2}", 1)))
    assert [refusal.reason for refusal in change.refused] == ["a constant is not that of the form with tanh"]
    assert "Gelu" not in ops(after)


def near():
    """Other ways to write it, by what is said of them."""
    import torch

    root, tail = (2 / torch.pi) ** 0.5, 2**-0.5
    return {
        "it is written with a sigmoid in the place of the tanh": lambda x: (
            x * torch.sigmoid(2 * root * (x + 0.044715 * x**3))
        ),
        "it is written with 1 - erf(-x), and not with 1 + erf(x)": lambda x: x * 0.5 * torch.special.erfc(-x * tail),
        "there is no cube of x under the tanh": lambda x: 0.5 * x * (1 + torch.tanh(root * x)),
        "x is multiplied out, so that both summands have it": lambda x: 0.5 * x + 0.5 * x * torch.erf(x * tail),
    }


def exported(function):
    import torch

    class Activation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(5, 5)

        def forward(self, x):
            return self.linear(function(self.linear(x)))

    return torch_model(Activation(), (torch.rand(4, 5),), fold=True)


@pytest.mark.parametrize("reason", near())
def test_another_way_to_write_it_is_said(reason):
    _, change = apply(FuseGelu(), exported(near()[reason]))
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])


def activations():
    import torch

    return {
        "mish": torch.nn.functional.mish,
        "swish": lambda x: x * torch.sigmoid(1.702 * x),
        "a gate of a cell": lambda x: torch.sigmoid(x) * torch.tanh(x),
        "a tanh and one": lambda x: x * (1 + torch.tanh(x)),
        "a half of a tanh and one": lambda x: 0.5 * (1 + torch.tanh(x)),
        "a residual": lambda x: x + x * torch.tanh(x.roll(1, -1)),
    }


@pytest.mark.parametrize("name", activations())
def test_another_activation_is_no_site(name):
    _, change = apply(FuseGelu(), exported(activations()[name]))
    assert change == type(change)((), ())


def test_a_half_in_both_summands(workspace):
    import torch

    model = exported(lambda x: x * (0.5 + 0.5 * torch.erf(x * 2**-0.5)))
    feeds = [{"x0": size * random(seed, rows, 5)} for seed, rows, size in ((1, 4, 1), (2, 3, 1e4), (3, 1, 1e-6))]
    _, (step,) = line(model, [FuseGelu()], feeds, workspace)
    assert (len(step.sites), step.refused, step.left_out) == (1, (), ())


def test_what_torch_exports(workspace):
    import torch

    class Spelled(torch.nn.Module):
        def forward(self, x):
            x = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
            x = x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))
            return x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5))

    exported = torch_model(Spelled(), (torch.rand(4, 5),), fold=True)
    _, (step,) = line(exported, [FuseGelu()], [{"x0": random(1, 4, 5)}, {"x0": random(2, 3, 5)}], workspace)
    assert len(step.sites) == 3
    assert step.left_out == ()
