"""Fp16 where numbers decide: whole numbers, masks, infinities, bounds, and what is no float32."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.compare import sqnr
from tests.graphs import answers, graph, ops, random
from tests.halves import casts, dtypes, halved, holding, ratios, reasons, strictly

pytestmark = pytest.mark.needs_onnxruntime


def test_floats_of_whole_numbers_stay_float_up_to_what_adds_up(workspace):
    before = graph("""g (int64[n] ids) => (float[n,2] y) <float[1,2] frequencies = {1, 0.01}, float[2,2] w = {1,2,3,4},
        int64[1] last = {1}> {
        f = Cast<to=1>(ids) p = Unsqueeze(f, last) angle = MatMul(p, frequencies) s = Sin(angle) y = MatMul(s, w) }""")
    ids = {"ids": np.arange(60000, 60016)}
    after, change = halved(before, ids)
    assert change.sites == ("y",)
    assert set(reasons(change)) == {"f", "p", "angle", "s"}
    assert ratios(before, after, ids, workspace)["y"] > 50


def test_without_a_range_what_was_made_of_whole_numbers_meets_no_float16():
    before = graph("g (float[n] x, int64[n] ids) => (float[n] y) { f = Cast<to=1>(ids) y = Add(x, f) }")
    _, change = halved(before)
    assert "whose range is not known" in reasons(change)["y"]
    _, change = halved(before, {"x": random(0, 5), "ids": np.arange(5)})
    assert change.sites == ("y",)


def test_bytes_become_float16_at_once(workspace):
    before = holding(
        """g (uint8[n,4] image) => (float[n,4] y) <float scale = {255}> {
        f = Cast<to=1>(image) d = Div(f, scale) y = MatMul(d, w) }""",
        w=random(1, 4, 4),
    )
    image = {"image": np.arange(20, dtype=np.uint8).reshape(5, 4)}
    after, change = halved(before, image)
    assert change.sites == ("f", "d", "y")
    assert casts(after) == 2
    assert ratios(before, after, image, workspace)["y"] > 50


LOWEST = np.finfo(np.float32).min
MASKED = """g (float[q,4] x, bool[q,4] keep) => (float[q,4] y) {
    a = MatMul(x, w) m = Where(keep, a, low) p = Softmax(m) y = MatMul(p, v) }"""


def masked(low):
    model = holding(MASKED, w=random(1, 4, 4), v=random(2, 4, 4), low=np.array(low, np.float32))
    keep = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    return model, {"x": random(3, 3, 4), "keep": keep}


@pytest.mark.parametrize("low", [LOWEST, -1e9, -1e30])
def test_a_row_that_is_wholly_masked_stays_finite(low, workspace):
    before, feeds = masked(low)
    for given in ((), (feeds,)):
        after, change = halved(before, *given)
        ran = strictly(after, feeds, workspace, baseline=before)
        assert ran.lost == ""
        assert ran.sqnr["y"] > 45
        clamped = any("became -16384" in note and note.endswith(": low") for note in change.notes)
        assert clamped is not bool(given)  # with ranges the mask stays float32 beside the softmax


def test_a_clamped_mask_may_have_scores_or_a_second_mask_added(workspace):
    mask = np.array([-1e9, LOWEST / 2, -1e30, -1e9], np.float32)
    before = holding("""g (float[q,4] x) => (float[q,4] y) { a = Add(x, one) b = Add(a, other) y = Softmax(b) }""",
                     one=mask, other=mask)  # fmt: skip
    after, change = halved(before)
    assert change.sites == ("a", "b")
    assert "y" in reasons(change)
    ran = strictly(after, {"x": 16 * random(0, 6, 4)}, workspace)
    assert ran.lost == ""


@pytest.mark.parametrize("calibrated", [False, True])
def test_infinities_of_masks_are_such_in_float16_too(calibrated, workspace):
    before, feeds = masked(-np.inf)
    feeds["keep"][1] = True
    after, change = halved(before, *([feeds] if calibrated else []), sensitive="half")
    assert change.sites == ("a", "m", "p", "y")
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_a_guard_of_rows_that_are_wholly_infinite_stays_one(workspace):
    """A mask that was brought into range on its way into float16 would leave nothing to ask for."""
    before = holding("""g (float[q,4] x, bool[q,4] keep, float[q,4] at) => (float[q,4] y) <int64[1] last = {-1}> {
        a = MatMul(x, w) c = Where(keep, at, low) r = Sub(c, at) m = Identity(r) s = Add(a, m) p = Softmax(s)
        most = ReduceMax<keepdims = 1>(m, last) none = Equal(most, low) q = Where(none, zero, p) y = MatMul(q, v) }""",
        w=random(1, 4, 4), v=random(2, 4, 4), low=np.array(-np.inf, np.float32), zero=np.float32(0))  # fmt: skip
    feeds = masked(-np.inf)[1] | {"at": np.full((3, 4), 1000, np.float32)}
    after, change = halved(before, feeds, sensitive="half")
    assert "leaves at most 0" in reasons(change)["r"]
    assert not change.notes
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_numbers_beside_infinities_have_a_range():
    before = holding(
        """g (float[q,4] x, bool[q,4] keep) => (float[q,4] y) {
        m = Where(keep, x, low) e = Add(m, x) y = Relu(e) }""",
        low=np.array(-np.inf, np.float32),
    )
    feeds = {"x": np.full((2, 4), 20000, np.float32), "keep": np.array([[1, 0, 1, 1]] * 2, bool)}
    _, change = halved(before, feeds)
    assert "m" in change.sites
    assert reasons(change)["e"] == "e reaches 40000, more than 32752"


def test_scores_beside_infinities_stay_float_where_they_are_large(workspace):
    before = holding("""g (float[q,4] x, bool[q,4] keep) => (float[q,4] y) {
        m = Where(keep, zero, low) s = Add(x, m) p = Softmax(s) y = MatMul(p, v) }""",
        v=random(2, 4, 4), low=np.array(-np.inf, np.float32), zero=np.float32(0))  # fmt: skip
    feeds = {"x": 5000 + random(3, 3, 4), "keep": np.array([[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]], bool)}
    after, _ = halved(before, feeds, sensitive="half")
    assert ratios(before, after, feeds, workspace)["y"] > 50


@pytest.mark.parametrize("scales", ["Div(new, f)", "Mul(f, fraction)"])
def test_scales_that_follow_from_known_sizes_stay_float(scales, workspace):
    """48 / 30 in float16 makes 47 rows."""
    before = holding(f"""g (float[1,1,30,30] x) => (float[1,1,h,w] y) <int64 two = {{2}}, int64[1] first = {{0}}> {{
        s = Shape(x) c = Gather(s, two) f = Cast<to = 1>(c) r = {scales} u = Unsqueeze(r, first)
        k = Concat<axis = 0>(ones, u, u) z = Resize<mode = "nearest">(x, , k) y = Mul(z, z) }}""",
        new=np.float32(48), fraction=np.float32(1.6 / 30), ones=np.ones(2, np.float32))  # fmt: skip
    for name in ("new", "fraction"):
        if not before.graph.initializers[name].uses():
            before.graph.initializers.pop(name)
    feeds = {"x": random(0, 1, 1, 30, 30)}
    after, change = halved(before, feeds)
    assert "takes sizes" in reasons(change)["r"]
    ratio = ratios(before, after, feeds, workspace)
    assert ratio["y"] > 50


def test_infinities_that_are_multiplied_have_no_range():
    before = holding(
        "g (float[n] x) => (float[n] y) { m = Mul(x, low) y = Relu(m) }", low=np.array(-np.inf, np.float32)
    )
    _, change = halved(before, {"x": random(0, 5)})
    assert change.sites == ()
    assert "it may hold Inf" in reasons(change)["y"]


@pytest.mark.parametrize(("dims", "sites"), [("n,4", ("r", "d", "y")), ("n,size", ("y",)), ("n,4096", ("y",))])
def test_sizes_that_do_not_vary_are_known_whole_numbers(dims, sites, workspace):
    before = holding(f"""g (float[{dims}] x) => (float[{dims}] y) <int64 last = {{1}}> {{
        s = Shape(x) c = Gather(s, last) f = Cast<to = 1>(c) r = Sqrt(f) d = Reciprocal(r) y = Mul(x, d) }}""")
    feeds = {"x": random(0, 3, 4096 if "4096" in dims else 4)}
    after, change = halved(before, feeds)
    assert set(sites) <= set(change.sites)
    assert ("r" in change.sites) is ("r" in sites)
    assert ratios(before, after, feeds, workspace)["y"] > 50


@pytest.mark.parametrize("line_", ["Max(x, high)", "Min(x, low)", "Clip(x, high)", "Clip(x, , low)"])
def test_a_bound_that_leaves_no_float16_keeps_its_node_float_where_no_range_is_known(line_, workspace):
    ends = {"high": np.float32(1e6), "low": np.float32(-1e6)}
    before = holding(f"""g (float[n] x, bool c) => (float[n] y) {{
        y = If(c) <then_branch = t () => (float[n] p) {{ q = {line_} p = Mul(q, small) }},
                   else_branch = e () => (float[n] o) {{ o = Neg(x) }}> }}""", small=np.float32(1e-3),
                   **{name: array for name, array in ends.items() if name in line_})  # fmt: skip
    feeds = {"x": random(0, 9), "c": np.array(True)}
    after, change = halved(before, feeds)
    assert "and float16 ends at 65504" in reasons(change)["y.then_branch/q"]
    assert strictly(after, feeds, workspace, baseline=before).sqnr["y"] > 50


ATTENTION = """g (float[1,2,3,4] x, float[1,1,3,3] m) => (float[1,2,3,4] y)
    <float one = {1}> {
    inverse = Sub(one, m) mask = Mul(inverse, low) y = Attention(x, x, x, mask) }"""


def test_the_mask_of_an_attention_is_clamped_on_its_way(workspace):
    before = holding(ATTENTION, '<ir_version: 11, opset_import: ["":23]>', low=np.array(LOWEST))
    keep = np.ones((1, 1, 3, 3), np.float32)
    keep[..., 1:] = 0
    keep[..., 2, :] = 0
    feeds = {"x": random(0, 1, 2, 3, 4), "m": keep}
    after, change = halved(before, feeds)
    assert "y" in change.sites
    assert [note.rpartition(": ")[2] for note in change.notes] == ["mask"]
    assert ops(after).count("Max") == 1
    ran = strictly(after, feeds, workspace, baseline=before)
    assert ran.lost == ""
    expected = answers(before, feeds, workspace)["y"]
    assert np.isfinite(ran.outputs["y"]).all()
    assert sqnr(expected[..., :2, :], ran.outputs["y"][..., :2, :]) > 45  # the last row is wholly masked


def test_bounds_beyond_float16_are_its_last_number(workspace):
    before = graph("g (float[n] x) => (float[n] y) <float low = {0}, float high = {3.4e38}> { y = Clip(x, low, high) }")
    after, change = halved(before, {"x": random(0, 9)})
    assert change.sites == ("y",)
    assert after.graph.initializers["high.float16"].const_value.numpy() == np.float16(65504)
    assert ratios(before, after, {"x": random(1, 5)}, workspace)["y"] > 50


SCALED = ("s = Mul(f, small)", "s = Div(f, large)", "t = Add(f, f) s = Mul(t, small)", "t = Neg(f) s = Div(t, large)")


@pytest.mark.parametrize(("kind", "number"), [("int32", 70_000), ("int64", 1_000_001), ("uint16", 65_520)])
@pytest.mark.parametrize("scaled", SCALED)
def test_an_integer_beyond_float16_that_becomes_a_float_is_scaled_in_float32(kind, number, scaled, workspace):
    before = holding(
        f"g ({kind}[n,4] ids) => (float[n,4] y) {{ f = Cast<to = 1>(ids) {scaled} y = MatMul(s, w) }}",
        w=random(1, 4, 4), **({"small": np.float32(1e-5)} if "small" in scaled else {"large": np.float32(1e5)}),
    )  # fmt: skip
    ids = {"ids": (np.arange(12).reshape(3, 4) + number).astype(kind)}
    after, change = halved(before, ids)
    assert change.sites == ("y",)
    assert {"f", "s"} <= set(reasons(change))
    assert ratios(before, after, ids, workspace)["y"] > 50
    _, change = halved(before)
    assert not {"f", "s"} & set(change.sites)


def test_integer_outputs_stay_integers(workspace):
    before = graph("""g (float[n,4] x) => (float[n,2] y, int64[n,2] i, int64[n] k, bool[n,4] b, int64[2] size)
        <float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, int64[1] two = {2}, float half = {0.5}> {
        a = MatMul(x, w) y, i = TopK(a, two) k = ArgMax<axis = 1, keepdims = 0>(a)
        b = Greater(a, half) size = Shape(a) }""")
    feeds = {"x": random(0, 5, 4)}
    after, change = halved(before, feeds)
    assert change.sites == ("a", "y", "k", "b", "size")
    expected, actual = (answers(model, feeds, workspace) for model in (before, after))
    for name in ("i", "k", "b", "size"):
        assert expected[name].dtype == actual[name].dtype
        assert np.array_equal(expected[name], actual[name])


def test_doubles_are_left_alone(workspace):
    before = graph("g (double[n] x) => (double[n] y, float[n] z) { y = Mul(x, x) z = Cast<to=1>(y) }")
    after, change = halved(before, {"x": np.arange(3.0)})
    assert change.sites == ("z",)
    assert dtypes(after)["y"] == ir.DataType.DOUBLE


def test_what_reverses_sequences_reads_tensors(workspace):
    before = holding("""g (float[3,4] x) => (float[3,4] y) {
        r = ReverseSequence<batch_axis = 0, time_axis = 1>(x, lengths) y = Mul(r, r) }""",
                     lengths=np.array([1, 2, 4]))  # fmt: skip
    feeds = {"x": random(0, 3, 4)}
    after, change = halved(before, feeds)
    assert change.sites == ("r", "y")
    assert ratios(before, after, feeds, workspace)["y"] > 50


SCAN = """g (float[2,4] x, float[3,2,4] steps) => (float[2,4] y) {
    last, all = Scan<num_scan_inputs = 1, body = b (float[2,4] h, float[2,4] t) => (float[2,4] next, float[2,4] out) {
        s = MatMul(h, w) u = Tanh(s) next = Add(u, t) out = Relu(next) }>(x, steps)
    y = Relu(last) }"""
LOOP = """g (float[2,4] x) => (float[2,4] y) <int64 three = {3}> {
    last, same = Loop<body = b (int64 i, bool go, float[2,4] h, float[2,4] t) =>
        (bool on, float[2,4] next, float[2,4] kept) {
        on = Identity(go) s = MatMul(h, w) u = Tanh(s) next = Add(u, t) kept = Relu(t) }>(three, , x, x)
    y = Relu(last) }"""


@pytest.mark.parametrize(("text", "first"), [(SCAN, 0), (LOOP, 2)])
def test_bodies_of_loops_need_not_say_what_they_take(text, first, workspace):
    """onnxruntime asks for the types of a Loop's counter and condition alone."""
    before = holding(text, w=random(1, 4, 4))
    for value in before.graph[0].attributes["body"].as_graph().inputs[first:]:
        value.type = None
    feeds = {"x": random(0, 2, 4), "steps": random(2, 3, 2, 4)}
    feeds = {value.name: feeds[value.name] for value in before.graph.inputs}
    after, change = halved(before, feeds)
    assert not any("is not known" in reason for reason in reasons(change).values())
    assert ratios(before, after, feeds, workspace)["y"] > 45


def test_a_mask_of_infinities_and_of_numbers_that_float16_has_not_is_brought_into_range(workspace):
    before = holding("""g (float[b,3,4] x, bool[b,3,3] keep, float[b,3,3] given) => (float[b,3,4] y)
        <int64[1] one = {1}> {
        c = Where(keep, zero, low) m = Min(c, given) u = Unsqueeze(m, one)
        y = Attention<q_num_heads = 1, kv_num_heads = 1>(x, x, x, u) }""",
        '<ir_version: 11, opset_import: ["":23]>', low=np.array(-np.inf, np.float32), zero=np.float32(0))  # fmt: skip
    keep, given = np.ones((2, 3, 3), bool), np.zeros((2, 3, 3), np.float32)
    keep[0, :, 1], given[1] = False, -1e9
    feeds = {"x": random(0, 2, 3, 4), "keep": keep, "given": given}
    after, change = halved(before, feeds)
    assert "y" in change.sites
    assert any("became -16384" in note for note in change.notes)
    assert strictly(after, feeds, workspace, baseline=before).lost == ""
