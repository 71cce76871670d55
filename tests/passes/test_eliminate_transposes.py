"""EliminateTransposes: golden graph, the same bits, each refusal by its reason, and what torch exports."""

import pytest

from passes.eliminate_transposes import EliminateTransposes
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,2,3] x) => (float[3,batch,2] y)"
BODY = "a = Transpose<perm=[1,0,2]>(x) b = Transpose<perm=[2,1,0]>(a) y = Relu(b)"


def test_golden(golden):
    after, change = apply(EliminateTransposes(), graph(f"{HEAD} {{ {BODY} }}"))
    assert change.sites == ("b",)
    golden("eliminate_transposes.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("head", "body", "left"),
    [
        (HEAD, BODY, ["Transpose", "Relu"]),
        ("g (float[batch,2,3] x) => (float[batch,2,3] y)", "a = Transpose(x) b = Transpose(a) y = Relu(b)", ["Relu"]),
        ("g (float[batch,2,3] x) => (float[batch,2,3] y)", "a = Transpose<perm=[0,1,2]>(x) y = Relu(a)", ["Relu"]),
        ("g (float[batch,2,3] x) => (float[2,3,batch] y)",
         """a = Transpose<perm=[1,2,0]>(x) b = Transpose<perm=[1,2,0]>(a) c = Transpose<perm=[1,2,0]>(b)
         d = Transpose<perm=[1,2,0]>(c) y = Relu(d)""", ["Transpose", "Relu"]),
    ],
)  # fmt: skip
def test_the_same_bits(head, body, left, rows, workspace):
    before = graph(f"{head} {{ {body} }}")
    after, _ = apply(EliminateTransposes(), before)
    assert [op for op in ops(after) if op != "Identity"] == left
    same_numbers(before, after, {"x": random(1, rows, 2, 3)}, workspace)


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        ("g (float[n,2,3] x) => (float[3,n,2] y, float[2,n,3] a)", "", "a is a graph output"),
        ("g (float[n,2,3] x) => (float[3,n,2] y, float[2,n,3] z)", "z = Exp(a)", "a is used elsewhere"),
    ],
)
def test_refusals(head, more, reason):
    _, change = apply(EliminateTransposes(), graph(f"{head} {{ {BODY} {more} }}"))
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_what_torch_exports(workspace):
    import torch

    class Turned(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x.transpose(1, 2).permute(2, 0, 1))

    exported = torch_model(Turned(), (torch.rand(4, 5, 6),), fold=False)
    feeds = [{"x0": random(1, 4, 5, 6)}, {"x0": random(2, 3, 5, 6)}]
    _, (step,) = line(exported, [EliminateTransposes()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (1, ())
