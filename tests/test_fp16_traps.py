"""What today's converters to float16 get wrong, one test for each class of mistake, over generated graphs."""

import random as draws

import numpy as np
import pytest

from mlc.emulate import first_loss
from tests.graphs import answers, graph, random, read_by
from tests.halves import halved, holding, ratios, strictly
from tests.nested import nested

pytestmark = pytest.mark.needs_onnxruntime

LOWEST = float(np.finfo(np.float32).min)
FORMS = {
    "(1 - m) * low": "i = Sub(one, m) k = Mul(i, low) s = Add(a, k)",
    "(m - 1) * -low": "i = Sub(m, one) k = Mul(high, i) s = Add(k, a)",
    "not m, times low": "b = Cast<to = 9>(m) i = Not(b) f = Cast<to = 1>(i) k = Mul(f, low) s = Add(a, k)",
    "a choice of zero and low": "b = Cast<to = 9>(m) k = Where(b, zero, low) s = Add(a, k)",
    "a choice of scores and low": "b = Cast<to = 9>(m) s = Where(b, a, low)",
    "a comparison": "b = Less(m, one) s = Where(b, low, a)",
    "expanded first": "i = Sub(one, m) k = Mul(i, low) u = Expand(k, three) e = Slice(u, start, end) s = Add(a, e)",
    "a constant": "s = Add(a, fixed)",
}
KEEP = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
"""Of the three rows the second is wholly masked."""


def masked(form, low, keep=KEEP):
    body = f"a = MatMul(x, w) {FORMS[form]} p = Softmax(s) y = MatMul(p, v)"
    held = read_by(
        body, w=random(1, 4, 4), v=random(2, 4, 4), one=np.float32(1), zero=np.float32(0),
        low=np.float32(low), high=np.float32(-low),
        three=np.array([3, 4]), start=np.array([0]), end=np.array([3]), fixed=np.where(keep == 1, 0, np.float32(low)),
    )  # fmt: skip
    return holding(f"g (float[3,4] x, float[3,4] m) => (float[3,4] y) {{ {body} }}", **held)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_masks_in_any_form_leave_every_row_finite(form, calibrated, workspace):
    """What a row gives in which nothing is left is each precision's own; it is a number."""
    before, feeds = masked(form, LOWEST), {"x": random(3, 3, 4), "m": KEEP}
    after, change = halved(before, *([feeds] if calibrated else []))
    assert change.sites
    expected = answers(before, feeds, workspace)["y"]
    ran = strictly(after, feeds, workspace, baseline=before)
    assert ran.lost == ""
    assert np.isfinite(ran.outputs["y"]).all()
    np.testing.assert_allclose(ran.outputs["y"][[0, 2]], expected[[0, 2]], rtol=0.02, atol=0.02)


SUMS_OR_CHOICES = ["a choice of zero and low", "a choice of scores and low", "a comparison", "a constant"]
"""Forms in which nothing is multiplied by the mask's number."""


@pytest.mark.parametrize("form", SUMS_OR_CHOICES)
def test_masks_of_infinity_give_what_they_gave(form, workspace):
    before, keep = masked(form, -np.inf, KEEP[[0, 2, 0]]), KEEP[[0, 2, 0]]
    after, change = halved(before, {"x": random(3, 3, 4), "m": keep})
    assert change.sites
    assert ratios(before, after, {"x": random(4, 3, 4), "m": keep}, workspace)["y"] > 45


@pytest.mark.parametrize(("seed", "depth"), [(0, 1), (1, 1), (2, 2)])
def test_subgraphs_inside_of_each_other_have_types(seed, depth, workspace):
    """Values and weights from outside are read at every depth, whichever side of a cast they are on there."""
    before = graph(nested(seed, depth))
    feeds = [{"x": random(n, n, 3) / 16, "flag": np.array(flag)} for n, flag in ((2, True), (3, False))]
    after, change = halved(before, feeds[0])
    assert any("/" in site for site in change.sites)
    for feed in feeds:
        assert ratios(before, after, feed, workspace)["y"] > 40


READERS = ("MatMul(x, w)", "Relu(x)", "Softmax(x)", "Add(x, b)", "Mul(x, x)", "Exp(x)", "Transpose<perm = [0, 1]>(x)")


@pytest.mark.parametrize("seed", range(6))
def test_what_nodes_without_names_of_their_own_read(seed, workspace):
    """Of one input, one of them and of each other's, nodes of any type on either side of a cast."""
    draw = draws.Random(seed)  # noqa: S311
    kinds = [draw.choice(READERS) for _ in range(draw.randint(2, 5))]
    reads = [draw.choice(["x", "x", *[f"v{other}" for other in range(place)]]) for place in range(len(kinds))]
    lines = [
        f"v{place} = {kind.replace('(x, x', f'({read}, {read}').replace('(x', f'({read}')}"
        for place, (kind, read) in enumerate(zip(kinds, reads, strict=True))
    ]
    total = ", ".join(f"v{place}" for place in range(len(kinds)))
    body = f"h = MatMul(x, w) g = Relu(h) {' '.join(lines)} y = Sum(g, {total})"
    held = read_by(body, w=random(1, 3, 3), b=random(2, 3))
    before = holding(f"g (float[n,3] x) => (float[n,3] y) {{ {body} }}", **held)
    shared = draw.choice([None, ""])
    for node in before.graph:
        node.name = shared
    feeds = {"x": random(seed, 4, 3) / 4}
    after, change = halved(before, feeds)
    assert "h" in change.sites
    made = [node.name for node in after.graph if node.name and node.name != shared]
    assert len(made) == len(set(made)) > 0
    for rows in (1, 5):
        assert ratios(before, after, {"x": random(rows, rows, 3) / 4}, workspace)["y"] > 45
    assert first_loss(after, [feeds], workspace) == ""


# ---------------------------------------------------------------- what keeps a divisor from 0

DIVISORS = {
    "a norm, bounded": "n = ReduceL2(h, axis) d = Clip(n, eps) e = Expand(d, shape) y = Div(h, e)",
    "the largest, bounded": "a = Abs(h) n = ReduceMax(a, axis) d = Max(n, eps) y = Div(h, d)",
    "added": "a = Abs(h) n = ReduceMax(a, axis) d = Add(n, eps) y = Div(h, d)",
    "a root": "a = Mul(h, h) n = ReduceMax(a, axis) d = Clip(n, eps) r = Sqrt(d) i = Reciprocal(r) y = Mul(h, i)",
    "by a vector": "a = Abs(h) n = ReduceMax(a, axis) d = Add(n, all) y = Div(h, d)",
    "chosen": "a = Abs(h) n = ReduceMax(a, axis) b = Less(n, eps) d = Where(b, eps, n) y = Div(h, d)",
    "moved": "a = Abs(h) n = ReduceMax(a, axis) c = Clip(n, eps) e = Concat<axis = 1>(c, c) "
    "d = Slice(e, zero, one, one) y = Div(h, d)",
    "squared": "a = Abs(h) n = ReduceMax(a, axis) c = Clip(n, small) d = Mul(c, c) s = Mul(h, h) y = Div(s, d)",
    "less a negative": "a = Abs(h) n = ReduceMax(a, axis) d = Sub(n, minus) y = Div(h, d)",
    "of a logarithm": "t = Tanh(h) k = Clip(t, low, high) y = Atanh(k)",
}


@pytest.mark.parametrize("form", DIVISORS)
def test_what_keeps_a_divisor_from_0_is_kept(form, workspace):
    """Of rows of zeros, and of what saturates, calibration has seen none."""
    body = f"h = MatMul(x, w) {DIVISORS[form]}"
    near = np.float32(1e-6)
    held = read_by(
        body, w=random(1, 8, 8) * np.float32(8), eps=np.float32(1e-12), axis=np.array([1]), shape=np.array([4, 8]),
        low=near - 1, high=1 - near, all=np.full(8, 1e-8, np.float32), small=near, minus=np.float32(-1e-8),
        zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip
    before = holding(f"g (float[4,8] x) => (float[4,8] y) {{ {body} }}", **held)
    seen = {"x": random(3, 4, 8) / np.float32(32)}
    after, change = halved(before, seen)
    assert change.sites
    unseen = {"x": np.stack([np.zeros(8), *random(4, 3, 8)]).astype(np.float32)}
    expected = answers(before, unseen, workspace)["y"]
    ran = strictly(after, unseen, workspace, baseline=before)
    assert np.isfinite(expected).all()
    assert np.isfinite(ran.outputs["y"]).all()
    if form != "of a logarithm":
        np.testing.assert_allclose(ran.outputs["y"], expected, rtol=0.02, atol=0.02)


def test_a_gate_next_to_0_is_no_divisor():
    held = {"w": random(1, 8, 8), "eps": np.float32(1e-6), "one": np.float32(1)}
    body = "h = MatMul(x, w) g = Sigmoid(h) c = Clip(g, eps, one) m = Mul(h, c) y = MatMul(m, w)"
    before = holding(f"g (float[4,8] x) => (float[4,8] y) {{ {body} }}", **held)
    _, change = halved(before, {"x": random(3, 4, 8)})
    assert set(change.sites) >= {"h", "g", "c", "m", "y"}
