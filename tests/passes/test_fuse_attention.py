"""FuseAttention: golden graph, numbers of every way to write it and to mask it, refusals, and what torch exports."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from passes.fuse_attention import FuseAttention
from tests.graphs import answers, apply, graph, line, ops, random, same_numbers, text

pytestmark = pytest.mark.needs_onnxruntime

LOWEST = np.finfo(np.float32).min
VERSION = '<ir_version: 10, opset_import: ["":23]>\n'
INPUTS = "float[batch,len,8] q, float[batch,keys,8] k, float[batch,keys,12] v"
NUMBERS = """<int64[4] by_head = {0,0,2,-1}, int64[3] join = {0,0,12}, float half = {0.5}, float two = {2},
    float zero = {0}, float root = {0.70710678}, float low = {-3.4028235e38}, float big = {-1e9}, float none = {0},
    float few = {-100}>"""
SPLIT = """qs = Reshape(q, by_head) qt = Transpose<perm = [0,2,1,3]>(qs)
    ks = Reshape(k, by_head)
    vs = Reshape(v, by_head) vt = Transpose<perm = [0,2,1,3]>(vs)"""
KEYS = "kt = Transpose<perm = [0,2,3,1]>(ks)"
WEIGHTS = "w = Softmax<axis = -1>(z)"
JOIN = "o = MatMul(w, vt) ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)"
PLAIN = "s = MatMul(qt, kt) z = Mul(s, half)"

SCALED = {
    "divided": "s = MatMul(qt, kt) z = Div(s, two)",
    "multiplied": PLAIN,
    "queries": "qh = Mul(half, qt) z = MatMul(qh, kt)",
    "both by the root, as torch writes it": "qr = Mul(qt, root) kr = Mul(kt, root) z = MatMul(qr, kr)",
    "not scaled": "z = MatMul(qt, kt)",
    "transposed after the heads": """kh = Transpose<perm = [0,2,1,3]>(ks) kx = Transpose<perm = [0,1,3,2]>(kh)
        s = MatMul(qt, kx) z = Mul(s, half)""",
}

MASK = "s = MatMul(qt, kt) d = Mul(s, half) z = Add(d, m)"
FILLED = "s = MatMul(qt, kt) d = Mul(s, half) z = Where"
MASKED = {
    "a whole mask": ("float[batch,2,len,keys] m", MASK),
    "for all heads": ("float[batch,1,len,keys] m", MASK),
    "one row for all queries": ("float[batch,1,1,keys] m", MASK),
    "one column for all keys": ("float[batch,1,len,1] m", MASK),
    "two axes": ("float[len,keys] m", MASK.replace("Add(d, m)", "Add(m, d)")),
    "by head, three axes": ("float[2,len,keys] m", MASK),
    "one axis": ("float[keys] m", MASK),
    "replaced with the lowest": ("bool[batch,1,len,keys] m", f"{FILLED}(m, low, d)"),
    "replaced, one row": ("bool[batch,1,1,keys] m", f"{FILLED}(m, big, d)"),
    "kept": ("bool[len,keys] m", f"{FILLED}(m, d, low)"),
    "made of a condition": ("bool[batch,1,len,keys] m", f"f = Where(m, zero, low) {MASK.replace('m)', 'f)')}"),
}
GUARD = "e = Softmax<axis = -1>(z) n = IsNaN(e) w = Where(n, zero, e)"
OTHER_GUARD = "e = Softmax<axis = -1>(z) n = IsNaN(e) kept = Not(n) w = Where(kept, e, zero)"


def model(scores, mask="", weights=WEIGHTS, join=JOIN, head=None):
    """Two heads of four, with values of six."""
    head = head or f"g ({INPUTS}{', ' if mask else ''}{mask}) => (float[batch,len,12] y)"
    keys = KEYS if "kt" in scores else ""
    return graph(f"{VERSION}{head} {NUMBERS} {{ {SPLIT} {keys} {scores} {weights} {join} }}")


def infinite(before):
    """Let what scores are replaced with be -inf, which ONNX text cannot say."""
    before.graph.initializers["low"].const_value = ir.tensor(np.array(-np.inf, np.float32))
    return before


def feeds(sizes, mask=""):
    """Queries, keys and values, and a mask of which one row masks every key, another none."""
    batch, length, keys = sizes
    found = {"q": random(1, batch, length, 8), "k": random(2, batch, keys, 8), "v": random(3, batch, keys, 12)}
    if not mask:
        return found
    kind, axes = mask.removesuffix(" m").rstrip("]").split("[")
    known = {"batch": batch, "len": length, "keys": keys}
    shape = [known.get(axis) or int(axis) for axis in axes.split(",")]
    wholly = random(4, *shape) > 0
    wholly.reshape(-1, shape[-1])[0] = True
    wholly.reshape(-1, shape[-1])[-1] = False
    found["m"] = wholly if kind == "bool" else np.where(wholly, LOWEST, random(5, *shape)).astype(np.float32)
    return found


def optimized(model, fed):
    """What the runtime computes of a graph that it has optimized."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


def fused(before, *sites):
    """The graph after, which has the one operator in the place of the softmax."""
    after, change = apply(FuseAttention(), before)
    assert (change.sites, change.refused) == (sites, ())
    assert "Softmax" not in ops(after)
    (node,) = [node for node in after.graph if node.op_type == "Attention"]
    return after, node


def test_golden(golden):
    mask, scores = MASKED["one row for all queries"]
    after, _ = fused(model(scores, mask), "y")
    golden("fuse_attention.onnxtxt", text(after))


def test_heads_that_are_left_over_in_a_computed_target(workspace):
    """As the older exporter writes ``view(batch, length, -1, 4)``."""
    split = SPLIT
    for side, width in (("q", "four"), ("k", "four"), ("v", "six")):
        target = f"{side}l = Shape<start = 0, end = 2>({side}) {side}n = Concat<axis = 0>({side}l, left, {width})"
        split = split.replace(f"{side}s = Reshape({side}, by_head)", f"{target} {side}s = Reshape({side}, {side}n)")
    numbers = NUMBERS.replace("<", "<int64[1] left = {-1}, int64[1] four = {4}, int64[1] six = {6}, ", 1)
    head = f"g ({INPUTS}) => (float[batch,len,12] y)"
    before = graph(f"{VERSION}{head} {numbers} {{ {split} {KEYS} {PLAIN} {WEIGHTS} {JOIN} }}")
    after, node = fused(before, "y")
    assert node.attributes["q_num_heads"].as_int() == 2
    for sizes in ((1, 2, 3), (3, 5, 4)):
        same_numbers(before, after, feeds(sizes), workspace, FuseAttention.tolerance)


@pytest.mark.parametrize("sizes", [(1, 2, 3), (3, 5, 4)])
@pytest.mark.parametrize("form", SCALED)
def test_numbers_however_it_is_scaled(form, sizes, workspace):
    before = model(SCALED[form])
    after, node = fused(before, "y")
    assert ops(after) == ["Attention"]
    assert [value.name for value in node.inputs] == ["q", "k", "v"]
    same_numbers(before, after, feeds(sizes), workspace, FuseAttention.tolerance)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (3, 5, 4)])
@pytest.mark.parametrize("form", MASKED)
def test_numbers_however_it_is_masked(form, sizes, workspace):
    mask, scores = MASKED[form]
    before = model(scores, mask)
    after, _ = fused(before, "y")
    fed = feeds(sizes, mask)
    same_numbers(before, after, fed, workspace, FuseAttention.tolerance)
    assert np.allclose(optimized(after, fed), answers(before, fed, workspace)["y"], atol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (3, 5, 4)])
@pytest.mark.parametrize("scores", [f"{FILLED}(m, low, d)", f"f = Where(m, low, zero) {MASK.replace('m)', 'f)')}"])
@pytest.mark.parametrize("guard", [GUARD, OTHER_GUARD])
def test_rows_that_are_wholly_masked_are_0_behind_a_guard(guard, scores, sizes, workspace):
    mask = "bool[batch,1,len,keys] m"
    before = infinite(model(scores, mask, guard))
    after, _ = fused(before, "y")
    fed = feeds(sizes, mask)
    assert not answers(before, fed, workspace)["y"][0, 0].any()
    same_numbers(before, after, fed, workspace, FuseAttention.tolerance)


def test_a_guard_does_not_make_the_mean_0(workspace):
    mask = "float[batch,1,len,keys] m"
    before = model(MASK, mask, GUARD)
    after, _ = fused(before, "y")
    fed = feeds((2, 3, 4), mask)
    fed["m"][1, 0, 1] = -np.inf
    expected = answers(before, fed, workspace)["y"]
    assert expected[0, 0].any()
    assert not expected[1, 1].any()
    same_numbers(before, after, fed, workspace, FuseAttention.tolerance)


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        ("bool[batch,1,len,keys] m", "f = Where(m, zero, low) c = Cast<to = 7>(m)"),
        ("float[batch,1,len,keys] m", "f = Identity(m) a = Greater(f, none) c = Cast<to = 7>(a)"),
    ],
)
def test_zeros_where_no_key_is_left_go_with_the_mask(mask, seen, workspace):
    scores = f"{seen} x = ReduceMax<keepdims = 1>(c, last) any = Cast<to = 9>(x) {MASK.replace('m)', 'f)')}"
    join = "u = MatMul(w, vt) o = Where(any, u, zero) ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)"
    before = graph(
        f"{VERSION} g ({INPUTS}, {mask}) => (float[batch,len,12] y) "
        f"{NUMBERS.replace('<', '<int64[1] last = {-1}, ', 1)} {{ {SPLIT} {KEYS} {scores} {WEIGHTS} {join} }}"
    )
    before.graph.initializers["none"].const_value = ir.tensor(np.array(-np.inf, np.float32))
    after, _ = fused(before, "y")
    assert "ReduceMax" not in ops(after)
    fed = feeds((3, 5, 4), mask)
    if fed["m"].dtype == np.float32:
        fed["m"][0, 0, 0] = -np.inf
    assert not answers(before, fed, workspace)["y"].all()
    same_numbers(before, after, fed, workspace, FuseAttention.tolerance)


def test_zeros_by_another_condition_stay():
    join = "u = MatMul(w, vt) o = Where(m, u, zero) ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)"
    after, _ = fused(model(PLAIN, "bool[batch,1,len,1] m", join=join), "u")
    assert "Where" in ops(after)


@pytest.mark.parametrize(
    ("join", "site", "reshaped"),
    [
        ("o = MatMul(w, vt) y = Transpose<perm = [0,2,1,3]>(o)", "y", 1),
        ("y = MatMul(w, vt)", "y", 0),
        ("o = MatMul(w, vt) y = Transpose<perm = [2,0,1,3]>(o)", "o", 0),
    ],
)
def test_numbers_where_the_heads_do_not_come_together(join, site, reshaped, workspace):
    before = model(PLAIN, join=join, head=f"g ({INPUTS}) => (float[a,b,c,d] y)")
    after, node = fused(before, site)
    assert ("q_num_heads" in node.attributes) is bool(reshaped)
    assert ops(after).count("Reshape") == (1 if reshaped else 3)
    same_numbers(before, after, feeds((3, 5, 4)), workspace, FuseAttention.tolerance)


def test_sizes_that_only_the_graph_computes(workspace):
    """Keys transposed as matrices, with shapes read from them, as torch.onnx writes it at opset 20."""
    keys = """kh = Transpose<perm = [0,2,1,3]>(ks) h = Shape(kh) a = Slice(h, at0, at2) b = Slice(h, at2, at3)
        c = Slice(h, at3, at4) flat = Concat<axis = 0>(minus, b, c) back = Concat<axis = 0>(a, c, b)
        k3 = Reshape(kh, flat) kx3 = Transpose<perm = [0,2,1]>(k3) kx = Reshape(kx3, back)"""
    numbers = ", ".join(f"int64[1] at{place} = {{{place}}}" for place in (0, 2, 3, 4))
    body = f"{SPLIT} {keys} s = MatMul(qt, kx) z = Mul(s, half) {WEIGHTS} {JOIN}"
    head = (
        f"g ({INPUTS}) => (float[batch,len,12] y) {NUMBERS.replace('<', f'<{numbers}, int64[1] minus = {{-1}}, ', 1)}"
    )
    before = graph(f"{VERSION}{head} {{ {body} }}")
    after, _ = fused(before, "y")
    assert ops(after) == ["Attention"]
    same_numbers(before, after, feeds((3, 5, 4)), workspace, FuseAttention.tolerance)


@pytest.mark.parametrize("lengths", [(5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("heads", [2, 1])
def test_an_attention_with_four_axes_gets_three(lengths, causal, heads, workspace):
    """Fewer heads of keys and values, their own width of values, another length, causal: all as with four axes."""
    width = 4 if heads == 2 else 8
    body = f"""qs = Reshape(q, by_head) qt = Transpose<perm = [0,2,1,3]>(qs)
        ks = Reshape(k, few) kt = Transpose<perm = [0,2,1,3]>(ks)
        vs = Reshape(v, few) vt = Transpose<perm = [0,2,1,3]>(vs)
        o = Attention<is_causal = {causal}, scale = 0.3>(qt, kt, vt)
        ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)"""
    values = 6 * heads
    before = graph(
        f"{VERSION} g (float[batch,len,{2 * width}] q, float[batch,keys,8] k, float[batch,keys,{values}] v) => "
        f"(float[batch,len,12] y) <int64[4] by_head = {{0,0,2,-1}}, int64[4] few = {{0,0,{heads},-1}}, "
        f"int64[3] join = {{0,0,-1}}> {{ {body} }}"
    )
    after, node = fused(before, "y")
    assert node.attributes["kv_num_heads"].as_int() == heads
    length, keys = lengths
    fed = {"q": random(1, 3, length, 2 * width), "k": random(2, 3, keys, 8), "v": random(3, 3, keys, values)}
    same_numbers(before, after, fed, workspace, FuseAttention.tolerance)
    assert np.allclose(optimized(after, fed), by_formula(fed, heads, causal), atol=1e-5)
    assert apply(FuseAttention(), after)[1].sites == ()


def by_formula(fed, heads, causal):
    """Softmax of scaled products in 64 bits; a causal mask is aligned with the first key."""
    q, k, v = (array.reshape(*array.shape[:2], count, -1).swapaxes(1, 2).astype(np.float64) for array, count in
               ((fed["q"], 2), (fed["k"], heads), (fed["v"], heads)))  # fmt: skip
    scores = 0.3 * q @ k.swapaxes(-1, -2)
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(*fed["q"].shape[:2], 12)


@pytest.mark.parametrize(
    ("scores", "mask", "weights", "reason"),
    [
        (PLAIN, "", "w = Softmax<axis = 2>(z)", "the softmax is not over the last axis"),
        (
            "s = MatMul(qt, kt) t = Tanh(s) z = Mul(t, half)",
            "",
            WEIGHTS,
            "the scores go through Tanh before the softmax",
        ),
        ("kr = Exp(kt) z = MatMul(qt, kr)", "", WEIGHTS, "the scores are no product of queries"),
        ("s = MatMul(qt, kt) z = Mul(s, few)", "", WEIGHTS, "the scale is not positive"),
        (f"{FILLED}(m, few, d)", "bool[batch,1,len,keys] m", WEIGHTS, "replaced with -100, which others may be below"),
        (MASK, "float[other,1,len,keys] m", WEIGHTS, "the mask is not known to fit the scores"),
        (MASK, "float[1,1,1,len,keys] m", WEIGHTS, "the axes of the mask are not known"),
    ],
)
def test_refusals(scores, mask, weights, reason):
    before = model(scores, mask, weights)
    after, change = apply(FuseAttention(), before)
    assert change.sites == ()
    assert reason in change.refused[0].reason
    assert "Attention" not in ops(after)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (
            "float[batch,2,len,4] q, float[other,2,4,keys] k, float[batch,2,keys,4] v",
            "are not known to be of one batch",
        ),
        ("float[batch,3,len,4] q, float[batch,1,4,keys] k, float[batch,3,keys,4] v", "do not have as many heads"),
        (
            "float[batch,h,len,4] q, float[batch,h,4,keys] k, float[batch,h,keys,4] v",
            "the number of heads is not known",
        ),
        ("double[batch,2,len,4] q, double[batch,2,4,keys] k, double[batch,2,keys,4] v", "the scores are not float32"),
    ],
)
def test_refusals_by_sizes_and_types(inputs, reason):
    kind = inputs.split("[")[0]
    keys = "kh = Transpose<perm = [0,1,3,2]>(k) kt = Transpose<perm = [0,1,3,2]>(kh)"
    body = f"{keys} z = MatMul(q, kt) {WEIGHTS} y = MatMul(w, v)"
    _, change = apply(FuseAttention(), graph(f"{VERSION} g ({inputs}) => ({kind}[a,b,c,d] y) {{ {body} }}"))
    assert [refusal.reason.endswith(reason) for refusal in change.refused] == [True]


def test_as_many_keys_as_values_select_are_refused():
    """Of none the original gives zeros, and the kernel of Attention fails."""
    body = f"""k = Compress<axis = 2>(keys, keep) v = Compress<axis = 2>(values, keep)
        kt = Transpose<perm = [0,1,3,2]>(k) z = MatMul(q, kt) {WEIGHTS} y = MatMul(w, v)"""
    inputs = "float[batch,2,len,4] q, float[batch,2,6,4] keys, float[batch,2,6,4] values, bool[6] keep"
    _, change = apply(FuseAttention(), graph(f"{VERSION} g ({inputs}) => (float[batch,2,len,4] y) {{ {body} }}"))
    assert change.sites == ()
    assert "there are follows from values" in change.refused[0].reason


def test_matrices_without_heads_are_refused():
    body = f"kt = Transpose<perm = [0,2,1]>(k) z = MatMul(q, kt) {WEIGHTS} y = MatMul(w, v)"
    _, change = apply(FuseAttention(), graph(f"{VERSION} g ({INPUTS}) => (float[batch,len,12] y) {{ {body} }}"))
    assert "the queries, keys and values do not have four axes" in change.refused[0].reason


@pytest.mark.parametrize(
    ("output", "more", "reason"),
    [
        ("float[batch,2,len,keys] w", "", "w is a graph output"),
        ("float[batch,2,len,keys] u", "u = Relu(w)", "w is used elsewhere"),
    ],
)
def test_probabilities_that_are_used_elsewhere_are_refused(output, more, reason):
    before = model(PLAIN, join=f"{JOIN} {more}", head=f"g ({INPUTS}) => (float[batch,len,12] y, {output})")
    _, change = apply(FuseAttention(), before)
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_keys_that_are_outputs_too_stay(workspace):
    scores = "kh = Transpose<perm = [0,2,1,3]>(ks) kx = Transpose<perm = [0,1,3,2]>(kh) z = MatMul(qt, kx)"
    head = f"g ({INPUTS}) => (float[batch,len,12] y, float[batch,2,keys,4] kh)"
    before = model(scores, head=head)
    after, node = fused(before, "y")
    assert "q_num_heads" in node.attributes
    same_numbers(before, after, feeds((3, 5, 4)), workspace, FuseAttention.tolerance)


def test_keys_and_values_behind_those_of_the_past_have_four_axes(workspace):
    past = "float[batch,2,past,4] before, float[batch,2,past,6] valued"
    head = f"g ({INPUTS}, {past}, float[batch,1,len,all] m) => (float[batch,len,12] y, float[batch,2,all,4] kh)"
    scores = """kn = Transpose<perm = [0,2,1,3]>(ks) kh = Concat<axis = -2>(before, kn)
        vh = Concat<axis = -2>(valued, vt) kx = Transpose<perm = [0,1,3,2]>(kh) z0 = MatMul(qt, kx) z = Add(z0, m)"""
    before = model(scores, join=JOIN.replace("MatMul(w, vt)", "MatMul(w, vh)"), head=head)
    after, node = fused(before, "o")
    assert "q_num_heads" not in node.attributes
    for length, gone in ((1, 5), (3, 2)):
        fed = feeds((2, length, length))
        fed |= {"before": random(6, 2, 2, gone, 4), "valued": random(7, 2, 2, gone, 6)}
        fed["m"] = random(8, 2, 1, length, gone + length)
        same_numbers(before, after, fed, workspace, FuseAttention.tolerance)


torch = pytest.importorskip("torch")


def modules():
    from tests import attention

    x, seen = torch.rand(3, 5, 8), torch.ones(3, 1, 5, 5, dtype=torch.bool)
    added, tokens = torch.rand(3, 1, 5, 5), torch.ones(3, 5)
    return {
        "scaled_dot_product_attention": (attention.Projected, x),
        "with a condition": (attention.Projected, x, seen),
        "with a mask": (attention.Projected, x, added),
        "causal": (attention.Causal, x),
        "by hand": (attention.Eager, x),
        "queries scaled by hand": (attention.ScaledQueries, x),
        "a mask added by hand": (attention.AddedMask, x, added),
        "padding by hand": (attention.PaddingOfTokens, x, tokens),
        "filled by hand": (attention.FilledMask, x, seen),
        "causal by hand": (attention.CausalByHand, x),
    }


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", modules())
def test_what_torch_exports(name, opset, workspace):
    from tests.attention import exported

    cls, *example = modules()[name]
    model = exported(cls(), *example, opset=opset)
    fed = []
    for batch, length in ((3, 5), (2, 7)):
        kinds = [each.dtype for each in example[1:]]
        shapes = [(batch, length) if each.ndim == 2 else (batch, 1, length, length) for each in example[1:]]
        masks = [
            random(7, *shape) > 0 if kind == torch.bool else random(7, *shape)
            for kind, shape in zip(kinds, shapes, strict=True)
        ]
        fed.append({"x0": random(batch, batch, length, 8), **{f"x{i}": mask for i, mask in enumerate(masks, 1)}})
    after, (step,) = line(model, [FuseAttention()], fed, workspace, requested={"fuse-attention"})
    assert (len(step.sites), step.refused, step.left_out, step.dropped) == (1, (), (), "")
    (node,) = [node for node in after.graph if node.op_type == "Attention"]
    assert "q_num_heads" in node.attributes


def behind():
    """What may stand between the softmax and the values, and what is said of it."""
    lower = torch.ones(64, 64).tril()
    return {
        "the probabilities are multiplied by 0.9 before they meet the values": lambda w: w * 0.9,
        "the probabilities are divided by 1.5 before they meet the values": lambda w: w / 1.5,
        "the probabilities go through Mul and Div before they meet the values": lambda w: (
            (w * lower[: w.shape[-1], : w.shape[-1]]) / (w * lower[: w.shape[-1], : w.shape[-1]]).sum(-1, keepdim=True)
        ),
        "the probabilities go through Add before they meet the values": lambda w: w + 1e-6,
        "the probabilities go through Where before they meet the values": lambda w: w.masked_fill(w < 0.01, 0.0),
        "the probabilities go through Cast before they meet the values": lambda w: w.half().float(),
    }


def refused_for(attend):
    """The reasons why an attention that is computed so from queries, keys and values stays spelled out."""
    from tests.attention import Projected, exported

    class Near(Projected):
        def attend(self, q, k, v, *mask):
            return attend(q, k, v)

    _, change = apply(FuseAttention(), exported(Near(), torch.rand(3, 5, 8)))
    assert change.sites == ()
    return [refusal.reason for refusal in change.refused]


def weights(q, k):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.5, dim=-1)


@pytest.mark.parametrize("reason", behind())
def test_what_stands_between_the_softmax_and_the_values_is_said(reason):
    assert refused_for(lambda q, k, v: behind()[reason](weights(q, k)) @ v) == [reason]


def test_a_factor_for_each_head_behind_the_softmax_is_named():
    heads = torch.nn.Parameter(torch.tensor([0.0, 1.0])[:, None, None])
    (reason,) = refused_for(lambda q, k, v: weights(q, k) * heads @ v)
    assert reason.startswith("the probabilities are multiplied by ")
    assert reason.endswith(" before they meet the values")


def before():
    """What may stand between the product and the softmax, and what is said of it."""
    bias, lower = torch.rand(2, 64, 64), torch.ones(64, 64, dtype=torch.bool).tril()

    def cut(mask, z):
        return mask[..., : z.shape[-1], : z.shape[-1]]

    return {
        "the scores go through Tanh before the softmax": lambda z: 30 * (z / 30).tanh(),
        "the scores go through Clip before the softmax": lambda z: z.clamp(-9, 9),
        "the scores have two masks, and Attention takes one": lambda z: (z + cut(bias, z)).masked_fill(
            ~cut(lower, z), float("-inf")
        ),
        "the scores are scaled behind the mask, not before": lambda z: (z + cut(bias, z)) / 2,
    }


@pytest.mark.parametrize("reason", before())
def test_what_stands_between_the_product_and_the_softmax_is_said(reason):
    def attend(q, k, v):
        return torch.softmax(before()[reason](q @ k.transpose(-1, -2)), dim=-1) @ v

    assert refused_for(attend) == [reason]


def test_a_score_that_is_put_beside_the_others_is_said():
    """As models do that let a query attend to nothing."""

    def attend(q, k, v):
        scores = q @ k.transpose(-1, -2)
        return torch.softmax(torch.cat((scores, 0 * scores[..., :1]), dim=-1), dim=-1)[..., :-1] @ v

    assert refused_for(attend) == ["the probabilities go through Slice before they meet the values"]


def test_values_in_front_of_the_probabilities_are_said():
    found = refused_for(lambda q, k, v: (v.transpose(-1, -2) @ weights(q, k).transpose(-1, -2)).transpose(-1, -2))
    assert found == ["the probabilities stand behind what they are multiplied with, not before the values"]


def test_a_softmax_that_is_spelled_out_is_said():
    def attend(q, k, v):
        powers = (q @ k.transpose(-1, -2)).exp()
        return powers / powers.sum(-1, keepdim=True) @ v

    assert refused_for(attend) == ["the softmax is spelled out"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sigmoid, "Sigmoid"),
        (lambda z: torch.sigmoid(z - 2), "Sigmoid"),
        (lambda z: torch.relu(z).square(), "Relu"),
        (torch.tanh, "Tanh"),
    ],
)
def test_what_stands_in_the_place_of_the_softmax_is_said(function, name):
    found = refused_for(lambda q, k, v: function(q @ k.transpose(-1, -2) * 0.5) @ v)
    assert found == [f"{name} stands in the place of the softmax"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda x, w: torch.sigmoid(x @ w) @ w,
        lambda x, w: torch.softmax(x @ w, dim=-1),
        lambda x, w: torch.softmax(x @ w, dim=-1) @ w,
        lambda x, w: 3 * torch.softmax(x @ w, dim=-1) @ w,
        lambda x, w: torch.softmax(x @ w.T, dim=-1) @ w,
        lambda x, w: torch.softmax(x @ w, dim=-1) * x,
    ],
    ids=["a layer behind a gate", "classes", "a layer behind", "a layer behind, scaled", "a codebook", "a gate"],
)
def test_a_softmax_without_queries_and_keys_is_no_site(forward):
    from torch import nn

    from tests.attention import exported

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(8, 8))

        def forward(self, x):
            return forward(x, self.w)

    _, change = apply(FuseAttention(), exported(Classifier(), torch.rand(3, 5, 8)))
    assert change == type(change)((), ())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Bert", {"intermediate_size": 20}),
        ("GPT2", {"n_positions": 40}),
        ("ViT", {"intermediate_size": 20, "image_size": 8, "patch_size": 4}),
    ],
)
def test_what_transformers_exports(name, sizes, workspace):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.attention import exported, transformer

    images = name == "ViT"
    example = torch.rand(3, 3, 8, 8) if images else torch.randint(0, 50, (3, 6))
    model = exported(transformer(name, **sizes), example, free=("batch",) if images else ("batch", "length"))
    shapes = [(3, 3, 8, 8), (2, 3, 8, 8)] if images else [(3, 6), (2, 9)]
    fed = [{"x0": random(1, *shape) if images else np.arange(np.prod(shape)).reshape(shape) % 50} for shape in shapes]
    after, (step,) = line(model, [FuseAttention()], fed, workspace, requested={"fuse-attention"})
    assert (len(step.sites), step.refused, step.left_out, step.dropped) == (2, (), (), "")
    assert all("q_num_heads" in node.attributes for node in after.graph if node.op_type == "Attention")
