"""EliminateCommonSubexpressions: golden graph, the same bits, what is left alone, and what torch exports."""

import pytest

from passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3] x) => (float[batch,3] y)"


def test_golden(golden):
    after, change = apply(
        EliminateCommonSubexpressions(),
        graph(f"{HEAD} <float[3] a = {{1,2,3}}, float[3] b = {{1,2,3}}> "
              "{ p = Add(x, a) q = Add(x, b) e = Exp(p) f = Exp(q) y = Sub(e, f) }"),
    )  # fmt: skip
    assert change.sites == ("b", "q", "f")
    golden("eliminate_common_subexpressions.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
def test_chains_become_one_with_the_same_bits(rows, workspace):
    before = graph(
        f"{HEAD} {{ a = Sin(x) b = Cos(x) c = Sin(x) d = Cos(x) e = Mul(a, b) f = Mul(c, d) y = Add(e, f) }}"
    )
    after, change = apply(EliminateCommonSubexpressions(), before)
    assert change.sites == ("c", "d", "f")
    assert ops(after) == ["Sin", "Cos", "Mul", "Add"]
    same_numbers(before, after, {"x": random(1, rows, 3)}, workspace)


DIFFERENT = {
    "random": f"{HEAD} {{ a = RandomNormalLike(x) b = RandomNormalLike(x) d = Sub(a, b) y = Add(x, d) }}",
    "signed zeros": f"{HEAD} <float a = {{0}}, float b = {{-0.0}}> {{ p = Div(x, a) q = Div(x, b) y = Add(p, q) }}",
    "attributes": f"{HEAD} {{ a = Softmax<axis=0>(x) b = Softmax<axis=1>(x) y = Add(a, b) }}",
    "signed attributes": f"{HEAD} {{ a = Elu<alpha=0.0>(x) b = Elu<alpha=-0.0>(x) y = Add(a, b) }}",
    "a default that a caller may override": """g (float[n,3] x, float[3] a) => (float[n,3] y)
        <float[3] a = {1,2,3}, float[3] b = {1,2,3}> { p = Add(x, a) q = Add(x, b) y = Mul(p, q) }""",
}


@pytest.mark.parametrize("why", DIFFERENT)
def test_what_is_not_the_same_stays(why):
    before = graph(DIFFERENT[why])
    after, change = apply(EliminateCommonSubexpressions(), before)
    assert change.sites == ()
    assert ops(after) == ops(before)


def test_an_output_keeps_its_name():
    _, change = apply(EliminateCommonSubexpressions(), graph(
        "g (float[n,3] x) => (float[n,3] y, float[n,3] z) { y = Exp(x) z = Exp(x) }"
    ))  # fmt: skip
    assert change.sites == ()
    assert [(each.site, each.reason) for each in change.refused] == [("z", "z is an output, and its name stays")]


def test_branches_are_looked_at_apart(workspace):
    import numpy as np

    before = graph("""g (float[batch,3] x, bool c) => (float[batch,3] y) {
        y = If(c) <then_branch = t () => (float[batch,3] p) { a = Exp(x) b = Exp(x) p = Add(a, b) },
                   else_branch = e () => (float[batch,3] p) { a = Exp(x) p = Neg(a) }>
    }""")
    after, change = apply(EliminateCommonSubexpressions(), before)
    assert change.sites == ("y.then_branch/b",)
    for flag in (True, False):
        same_numbers(before, after, {"x": random(1, 2, 3), "c": np.array(flag)}, workspace)


def test_what_torch_exports(workspace):
    import torch

    class Twice(torch.nn.Module):
        def forward(self, x):
            return torch.cos(x.sum(-1)) + torch.sin(torch.cos(x.sum(-1)))

    exported = torch_model(Twice(), (torch.rand(4, 5),), fold=False)
    feeds = [{"x0": random(1, 4, 5)}, {"x0": random(2, 3, 5)}]
    _, (step,) = line(exported, [EliminateCommonSubexpressions()], feeds, workspace)
    assert step.left_out == ()
    assert len(step.sites) >= 2
