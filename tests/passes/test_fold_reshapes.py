"""FoldReshapes: golden graph, the same bits, each refusal by its reason, and what torch exports.

What torch exports around recurrent layers is with the pass over their states.
"""

from itertools import pairwise

import numpy as np
import pytest

from passes.fold_constants import FoldConstants
from passes.fold_reshapes import FoldReshapes
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

NUMBERS = """<int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] e = {3}, int64[1] four = {4},
    int64[1] left = {-1}, int64[2] matrix = {-1,6}, int64[2] matrix_sizes = {1,6}, int64[3] apart = {0,3,2}>"""
MERGED = """s = Shape(x) b = Slice(s, z, o) r = Slice(s, o, t) c = Slice(s, t, e) p = Mul(r, c)
    sizes = Concat<axis = 0>(b, p) v = Reshape(x, sizes) y = Relu(v)"""
TURNED = "a = Transpose<perm = [0,2,1,3]>(x) y = Relu(a)"
COMPUTED = "the sizes of two axes are known only when the model runs"
EMPTY = "one size is known only when the model runs, and another axis may be empty"


SELECTED = """k = Compress<axis = 1>(x, keep) s = Shape(k) n = Gather(s, o) sizes = Concat<axis = 0>(n, left)
    v = Reshape(k, sizes) y = Relu(v)"""


def model(head, body):
    return graph(f"g {head} {NUMBERS} {{ {body} }}")


def target(after):
    """The target of the one Reshape."""
    (node,) = [node for node in after.graph if node.op_type == "Reshape"]
    return node.inputs[1].const_value.numpy().tolist()


def test_golden(golden):
    after, change = apply(FoldReshapes(), model("(float[batch,3,2] x) => (float[batch,6] y)", MERGED))
    assert change.sites == ("v",)
    golden("fold_reshapes.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [0, 1, 4])
@pytest.mark.parametrize(
    ("head", "body", "wanted"),
    [
        ("(float[batch,3,2] x) => (float[batch,6] y)", MERGED, [0, 6]),
        ("(float[batch,1,2] x) => (float[batch,2] y)", MERGED, [0, 2]),
        ("(float[3,1,batch,2] x) => (float[3,batch,1,2] y)", TURNED, [3, -1, 1, 2]),
        ("(float[batch,1,1,5] x) => (float[batch,5,1] y)",
         "a = Squeeze(x, o) b = Transpose<perm = [0,2,1]>(a) y = Relu(b)", [0, 5, 1]),
        ("(float[batch,6] x) => (float[batch,3,2,1] y)",
         "a = Reshape(x, apart) b = Unsqueeze(a, e) y = Relu(b)", [0, 3, 2, 1]),
        ("(float[batch,3,2] x) => (float[batch,6,1] y)",
         "a = Flatten(x) b = Unsqueeze(a, t) y = Relu(b)", [0, 6, 1]),
        ("(float[batch,3,2] x) => (float[batch,3,2] y)",
         "a = Flatten(x) b = Reshape(a, apart) y = Relu(b)", None),
        ("(float[batch,6] x) => (float[batch,6] y)", "a = Flatten(x) y = Relu(a)", None),
        ("(float[batch,3,2] x) => (float[batch,3,2] y)", "a = Reshape(x, apart) y = Relu(a)", None),
        ("(float[batch,3,2] x) => (float[batch,3,2] y)", "a = Expand(x, o) y = Relu(a)", None),
        ("(float[batch,3,2] x) => (float[batch,3,2] y)", "s = Shape(x) a = Expand(x, s) y = Relu(a)", None),
        ("(float[batch,2] x) => (float[batch,2] y)",
         "s = Shape(x) a = Unsqueeze(x, t) b = Expand(a, o) c = Reshape(b, s) y = Relu(c)", None),
    ],
    ids=["merged", "merged with 1", "turned", "squeezed", "unsqueezed", "flattened", "as they stood", "a flat one",
         "one as it stood", "nothing repeated", "its own sizes", "nothing repeated in a chain"],
)  # fmt: skip
def test_the_same_bits(head, body, wanted, rows, workspace):
    before = model(head, body)
    after, _ = apply(FoldReshapes(), before)
    assert ops(after) == ["Identity" if wanted is None else "Reshape", "Relu"]
    assert wanted is None or target(after) == wanted
    shape = [dim if isinstance(dim, int) else rows for dim in before.graph.inputs[0].shape]
    same_numbers(before, after, {"x": random(1, *shape)}, workspace)


def test_one_computed_size_beside_fixed_ones(workspace):
    body = "s = Shape(x) b = Slice(s, o, t) sizes = Concat<axis = 0>(b, four) y = Reshape(x, sizes)"
    before = model("(float[4,n] x) => (float[n,4] y)", body)
    after, _ = apply(FoldReshapes(), before)
    assert target(after) == [-1, 4]
    for size in (1, 7):
        same_numbers(before, after, {"x": random(1, 4, size)}, workspace)


def test_a_size_that_the_others_leave_over_is_a_number(workspace):
    body = "s = Shape(x) b = Slice(s, z, o) sizes = Concat<axis = 0>(b, left) y = Reshape(x, sizes)"
    before = model("(float[batch,3,2] x) => (float[batch,c] y)", body)
    after, _ = apply(FoldReshapes(), before)
    assert target(after) == [0, 6]
    for rows in (1, 4):
        same_numbers(before, after, {"x": random(1, rows, 3, 2)}, workspace)


def test_of_unknown_axes_nothing_is_known_to_be_left_over(workspace):
    before = model(
        "(float[a,b] x, int64[r] given) => (float[c] y)", "u = Reshape(x, given) v = Reshape(u, left) y = Relu(v)"
    )
    after, _ = apply(FoldReshapes(), before)
    assert target(after) == [-1]
    same_numbers(before, after, {"x": random(1, 2, 6), "given": np.array([3, 2, 2])}, workspace)


def test_a_part_of_sizes_along_no_axis_is_not_known():
    body = "s = Shape(x) empty = Shape(e0) p = Slice(s, empty, empty, empty) y = Reshape(x, p)"
    before = graph(f"g (float[a,b] x, float e0) => (float[c,d] y) {NUMBERS} {{ {body} }}")
    folded, _ = apply(FoldConstants(), before)
    _, change = apply(FoldReshapes(), folded)
    assert [refusal.reason for refusal in change.refused] == [COMPUTED]


def test_sizes_along_a_long_chain_are_found_once_each(workspace):
    """Every target asks for sizes of its input: followed anew each time, they would be three times as many by node."""
    chain = ["x", *(f"r{place}" for place in range(24))]
    body = " ".join(
        f"s{to} = Shape({start}) n{to} = Slice(s{to}, z, o) m{to} = Slice(s{to}, o, t) "
        f"t{to} = Concat<axis = 0>(n{to}, m{to}, left) {to} = Reshape({start}, t{to})"
        for start, to in pairwise(chain)
    )
    before = model("(float[a,b,6] x) => (float[c,d,e] y)", f"{body} y = Relu({chain[-1]})")
    after, _ = apply(FoldReshapes(), before)
    assert set(ops(after)) == {"Identity", "Relu"}
    same_numbers(before, after, {"x": random(1, 2, 3, 6)}, workspace)


def test_the_end_of_a_chain_whose_start_is_read_elsewhere(workspace):
    body = "a = Reshape(x, apart) b = Unsqueeze(a, e) c = Squeeze(b, e) y = Relu(c) w = Neg(a)"
    before = model("(float[batch,6] x) => (float[batch,3,2] y, float[batch,3,2] w)", body)
    after, change = apply(FoldReshapes(), before)
    assert change.sites == ("c",)
    assert sorted(ops(after)) == ["Identity", "Neg", "Relu", "Reshape"]
    same_numbers(before, after, {"x": random(1, 2, 6)}, workspace)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("(float[batch,6] x) => (float[batch,3,2] y)", "y = Reshape(x, apart)"),
        ("(float[batch,6] x) => (float[batch,1,6] y)", "y = Unsqueeze(x, o)"),
        ("(float[batch,6] x) => (float[6,batch] y)", "y = Transpose<perm = [1,0]>(x)"),
        ("(float[batch,1,6] x) => (float[6,1,batch] y)", "y = Transpose<perm = [2,1,0]>(x)"),
        ("(float[batch,1] x) => (float[batch,6] y)", "y = Expand(x, matrix_sizes)"),
        ("(float[batch,2] x, int64[2] given) => (float[a,b] y)", "y = Expand(x, given)"),
        ("(float[batch,1,4] x, int64[3] given) => (float[batch,k,4] y)", "y = Expand(x, given)"),
        ("(float[batch,1,4] x, float[batch,k,4] z) => (float[batch,k,4] y)", "s = Shape(z) y = Expand(x, s)"),
        (
            "(float[batch,1,4] x, float[batch,k,4] z) => (float[batch,k,4] y)",
            "k = Shape<start = 1, end = 2>(z) s = Concat<axis = 0>(o, k, o) a = Expand(x, s) y = Relu(a)",
        ),
    ],
)
def test_what_is_one_already_is_no_site(head, body):
    _, change = apply(FoldReshapes(), model(head, body))
    assert change == type(change)((), ())


@pytest.mark.parametrize(
    ("head", "body", "site", "reason"),
    [
        ("(float[batch,6] x, int64[r] given) => (y)", "y = Reshape(x, given)", "y",
         "the number of axes is not known"),
        ("(float[a,6] x, int64[2] given) => (float[b,c] y)", "y = Reshape(x, given)", "y", COMPUTED),
        ("(float[a,b,2] x) => (float[c,2,d] y)",
         "s = Shape(x) n = Slice(s, o, t) sizes = Concat<axis = 0>(left, t, n) y = Reshape(x, sizes)", "y", COMPUTED),
        ("(float[a,b,2] x) => (float[a,c] y)",
         "s = Shape(x) n = Slice(s, z, o) sizes = Concat<axis = 0>(n, left) y = Reshape(x, sizes)", "y", EMPTY),
        ("(float[a,1,b,c] x) => (float[a,b,1,c] y)", TURNED, "a", EMPTY),
        ("(float[a,0] x) => (float[0,a] y)",
         "s = Shape(x) n = Slice(s, z, o) m = Slice(s, o, t) sizes = Concat<axis = 0>(m, n) y = Reshape(x, sizes)", "y",
         "an axis is empty"),
        ("(float[3,6] x, bool[6] keep) => (float[a,b] y)", SELECTED, "v",
         "the sizes follow from values, and an axis may be empty"),
    ],
)  # fmt: skip
def test_refusals(head, body, site, reason):
    _, change = apply(FoldReshapes(), model(head, body))
    assert change.sites == ()
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [(site, reason)]


def test_what_torch_exports(workspace):
    import torch

    class View(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x.view(x.shape[0], x.shape[1] * x.shape[2], -1).unsqueeze(1))

    exported = torch_model(View(), (torch.rand(4, 5, 6, 2),), fold=False)
    feeds = [{"x0": random(rows, rows, 5, 6, 2)} for rows in (2, 3)]
    after, (step,) = line(exported, [FoldReshapes()], feeds, workspace)
    assert step.sites
    assert (step.refused, step.left_out) == ((), ())
    assert [op for op in ops(after) if op not in ("Constant", "Identity")] == ["Reshape", "Relu"]
