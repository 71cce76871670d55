"""ReciprocalToDiv: golden graph, numbers, refusals by their reason, and what torch exports."""

import pytest

from passes.reciprocal_to_div import ReciprocalToDiv
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3] x, float[batch,3] z) => (float[batch,3] y)"
BODY = "e = Exp(z) r = Reciprocal(e) y = Mul(x, r)"


def test_golden(golden):
    after, change = apply(ReciprocalToDiv(), graph(f"{HEAD} {{ {BODY} }}"))
    assert change.sites == ("y",)
    golden("reciprocal_to_div.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("body", [BODY, BODY.replace("Mul(x, r)", "Mul(r, x)")])
def test_numbers_whichever_way_the_operands_stand(body, rows, workspace):
    before = graph(f"{HEAD} {{ {body} }}")
    after, _ = apply(ReciprocalToDiv(), before)
    assert ops(after) == ["Exp", "Div"]
    feeds = {"x": random(1, rows, 3), "z": random(2, rows, 3)}
    same_numbers(before, after, feeds, workspace, ReciprocalToDiv.tolerance)


@pytest.mark.parametrize(
    ("text_", "reason"),
    [
        ("g (float[n,3] x) => (float[n,3] y) <float c = {3}> { r = Reciprocal(c) y = Mul(x, r) }", "is constant"),
        ("g (float[n,3] x) => (float[n,3] y, float[n,3] r) { r = Reciprocal(x) y = Mul(x, r) }", "r is a graph output"),
        ("g (float[n,3] x) => (float[n,3] y, float[n,3] v) { r = Reciprocal(x) y = Mul(x, r) v = Exp(r) }",
         "r is used elsewhere"),
        ("g (float[n,3] x) => (float[n,3] y) { r = Reciprocal(x) y = Mul(r, r) }", "r is computed inside of what"),
    ],
)  # fmt: skip
def test_refusals(text_, reason):
    before = graph(text_)
    after, change = apply(ReciprocalToDiv(), before)
    assert change.sites == ()
    read = [[[value.name for value in node.inputs] for node in model.graph] for model in (before, after)]
    assert read[0] == read[1]
    assert reason in change.refused[0].reason


def test_what_torch_exports(workspace):
    import torch

    class Root(torch.nn.Module):
        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    exported = torch_model(Root(), (torch.rand(4, 5),), fold=True)
    _, (step,) = line(exported, [ReciprocalToDiv()], [{"x0": random(1, 4, 5)}, {"x0": random(2, 3, 5)}], workspace)
    assert (len(step.sites), step.left_out) == (1, ())
