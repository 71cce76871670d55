"""DropSoftmaxGuard: golden graph, the same bits, each refusal by its reason, and what torch exports."""

import numpy as np
import pytest

from passes.drop_softmax_guard import DropSoftmaxGuard
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3,4] q, float[batch,4,3] k, bool[batch,1,3] m) => (float[batch,3,3] y)"
GUARD = "s = Softmax<axis=-1>(z) n = IsNaN(s) y = Where(n, zero, s)"
LOWEST = "<float zero = {0}, float low = {-3.4028235e38}, float half = {0.5}>"
MAY_BE_MASKED = "a row of the mask may be wholly -inf"
MASKED = "p = MatMul(q, k) c = Mul(p, half) w = Where(m, zero, low) z = Add(c, w)"


def test_golden(golden):
    after, change = apply(DropSoftmaxGuard(), graph(f"{HEAD} {LOWEST} {{ {MASKED} {GUARD} }}"))
    assert change.sites == ("y",)
    golden("drop_softmax_guard.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    "scores",
    [
        MASKED, "z = MatMul(q, k)", "p = MatMul(q, k) z = Add(p, half)",
        "p = MatMul(q, k) d = Div(p, half) z = Mul(half, d)",
        "p = MatMul(q, k) h = Shape<start=2>(k) f = Cast<to=1>(h) d = Sqrt(f) z = Div(p, d)",
    ],
)  # fmt: skip
def test_the_same_bits_for_rows_that_are_wholly_masked_too(scores, rows, workspace):
    before = graph(f"{HEAD} {LOWEST} {{ {scores} {GUARD} }}")
    after, change = apply(DropSoftmaxGuard(), before)
    assert change.sites == ("y",)
    assert "IsNaN" not in ops(after)
    mask = np.arange(rows * 3).reshape(rows, 1, 3) % 4 > 1
    mask[0] = False
    feeds = {"q": random(1, rows, 3, 4), "k": random(2, rows, 4, 3), "m": mask}
    same_numbers(before, after, feeds, workspace)


FORMS = {
    "not isnan": "n = IsNaN(s) g = Not(n) y = Where(g, s, zero)",
    "equal to itself": "n = Equal(s, s) y = Where(n, s, zero)",
    "not equal to itself": "e = Equal(s, s) n = Not(e) y = Where(n, zero, s)",
    "zeros_like": "n = IsNaN(s) h = Shape(s) o = Expand(zero, h) y = Where(n, o, s)",
    "isfinite": "i = IsInf(s) f = Not(i) n = IsNaN(s) g = Not(n) a = And(f, g) y = Where(a, s, zero)",
    "nan or infinite": "i = IsInf(s) n = IsNaN(s) a = Or(i, n) y = Where(a, zero, s)",
    "nan_to_num": """n = IsNaN(s) o = Where(n, zero, s) b = Less(o, zero) i = IsInf(o) a = And(b, i)
        v = Where(a, low, o) g = Greater(s, zero) j = IsInf(s) d = And(g, j) y = Where(d, half, v)""",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_guard_that_is_written_in_another_way(form, workspace):
    before = graph(f"{HEAD} {LOWEST} {{ {MASKED} s = Softmax<axis=-1>(z) {FORMS[form]} }}")
    after, change = apply(DropSoftmaxGuard(), before)
    assert (change.sites, change.refused) == (("y",), ())
    assert ops(after)[-1] == "Softmax"
    feeds = {"q": random(1, 2, 3, 4), "k": random(2, 2, 4, 3), "m": np.arange(6).reshape(2, 1, 3) % 4 > 1}
    same_numbers(before, after, feeds, workspace)


@pytest.mark.parametrize("form", FORMS)
def test_a_guard_of_rows_that_may_be_masked_is_refused_whichever_way_it_is_written(form):
    scores = "p = MatMul(q, k) t = Cast<to=1>(m) l = Log(t) z = Add(p, l)"
    _, change = apply(DropSoftmaxGuard(), graph(f"{HEAD} {LOWEST} {{ {scores} s = Softmax(z) {FORMS[form]} }}"))
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", MAY_BE_MASKED)]


@pytest.mark.parametrize(
    "other",
    [
        "o = Softmax(q) t = MatMul(o, k) n = IsNaN(t) y = Where(n, zero, s)",
        "t = Softmax<axis=-2>(z) n = IsNaN(t) y = Where(n, zero, s)",
        "n = Less(s, half) y = Where(n, zero, s)",
        "n = IsNaN(s) g = Greater(s, half) a = Or(n, g) y = Where(a, zero, s)",
        "i = IsInf(s) y = Where(i, zero, s)",
    ],
)
def test_a_choice_by_anything_else_is_no_guard(other):
    _, change = apply(DropSoftmaxGuard(), graph(f"{HEAD} {LOWEST} {{ {MASKED} s = Softmax(z) {other} }}"))
    assert change == type(change)((), ())


@pytest.mark.parametrize(
    ("numbers", "scores", "reason"),
    [
        (LOWEST.replace("-3.4028235e38", "-inf"), MASKED, MAY_BE_MASKED),
        (LOWEST, "p = MatMul(q, k) f = Cast<to=1>(m) l = Log(f) z = Add(p, l)", MAY_BE_MASKED),
        *(
            (LOWEST.replace("-3.4028235e38", "-inf"), f"p = MatMul(q, k) w = Where(m, p, low) {scaled}", MAY_BE_MASKED)
            for scaled in ("z = Div(w, half)", "z = Mul(half, w)", "e = Mul(w, half) z = Add(e, half)")
        ),
        (LOWEST, "p = MatMul(q, k) f = Cast<to=1>(m) l = Log(f) z = Mul(p, l)", MAY_BE_MASKED),
        (LOWEST, "p = MatMul(q, k) t = ReduceMax<keepdims=0>(k) z = Div(p, t)", MAY_BE_MASKED),
        (LOWEST.replace("zero = {0}", "zero = {1}"), "z = MatMul(q, k)", "what stands for NaN is not one 0"),
    ],
)
def test_refusals(numbers, scores, reason):
    model = graph(f"{HEAD} {LOWEST} {{ {scores} {GUARD} }}")
    if numbers != LOWEST:
        infinite = "-inf" in numbers
        name = "low" if infinite else "zero"
        tensor = np.array(-np.inf if infinite else 1.0, np.float32)
        import onnx_ir as ir

        model.graph.initializers[name].const_value = ir.tensor(tensor)
    _, change = apply(DropSoftmaxGuard(), model)
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_a_mask_that_is_added_within_a_gemm_is_refused():
    model = graph(
        f"g (float[n,4] q, float[4,n] k, float[n,n] m) => (float[n,n] y) {LOWEST} {{ z = Gemm(q, k, m) {GUARD} }}"
    )
    _, change = apply(DropSoftmaxGuard(), model)
    assert [refusal.reason for refusal in change.refused] == [MAY_BE_MASKED]


def test_what_torch_exports(workspace):
    import torch

    class Attention(torch.nn.Module):
        def forward(self, q, mask):
            return torch.nn.functional.scaled_dot_product_attention(q, q, q, mask)

    q, mask = torch.rand(4, 2, 3, 6), torch.ones(4, 1, 3, 3, dtype=torch.bool)
    exported = torch_model(Attention(), (q, mask), fold=True)
    names = [value.name for value in exported.graph.inputs]
    feeds = [
        {names[0]: random(n, n, 2, 3, 6), names[1]: np.tri(3, dtype=bool)[None, None].repeat(n, 0)} for n in (4, 3)
    ]
    _, (step,) = line(exported, [DropSoftmaxGuard()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (1, ())
