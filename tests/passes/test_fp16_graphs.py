"""Fp16 where the graph decides: branches, loops, shared and overridable weights, unnamed nodes, outputs."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from mlc.types import Capabilities
from passes._half_choice import FAR_APART, MAKES_WHOLE
from passes._half_moved import ENDS_PROCESS
from passes._masked import UNSEEN
from passes.fp16 import Fp16
from tests.graphs import graph, random
from tests.halves import casts, halved, holding, ratios, reasons

pytestmark = pytest.mark.needs_onnxruntime


def test_a_value_is_cast_once_for_each_direction_also_for_branches():
    before = graph("""g (float[n,3] x, bool c) => (float[n,3] y, float[n,3] z) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
        a = MatMul(x, w) b = MatMul(x, w) s = Softmax(a) t = Exp(a) u = Add(s, t) v = MatMul(u, w)
        y = Mul(v, b)
        z = If(c) <then_branch = t1 () => (float[n,3] p) { q = MatMul(x, w) r = Softmax(a) p = Add(q, r) },
                   else_branch = e1 () => (float[n,3] o) { o = MatMul(u, w) }> }""")
    after, _ = halved(before, *({"x": random(0, 5, 3) / 10, "c": np.array(c)} for c in (True, False)))
    found = [(node.inputs[0].name, node.attributes["to"].as_int()) for each in after.graphs() for node in each
             if node.op_type == "Cast"]  # fmt: skip
    assert len(found) == len(set(found))
    assert not any(node.inputs[0].producer() is not None and node.inputs[0].producer().op_type == "Cast"
                   for each in after.graphs() for node in each if node.op_type == "Cast")  # fmt: skip
    assert sum(name.startswith("w") for name in after.graph.initializers) == 1


BRANCH = """g (float[n,3] x, bool c) => (float[n,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] b = {1,2,3}> {
    a = MatMul(x, w)
    y = If(c) <then_branch = t1 () => (float[n,3] p) <float[3] b1 = {4,5,6}> { q = Add(a, b) p = Mul(q, b1) },
               else_branch = e1 () => (float[n,3] o) {
                   k = Constant<value_float = 2.0>() m = MatMul(x, w) o = Mul(m, k) }> }"""


BRANCHED = ("then_branch/q", "then_branch/p", "else_branch/m", "else_branch/o")


@pytest.mark.parametrize("taken", [True, False])
def test_branches_read_values_and_weights_from_outside(taken, workspace):
    before = graph(BRANCH)
    after, change = halved(before, *({"x": random(0, 5, 3), "c": np.array(c)} for c in (True, False)))
    assert set(change.sites) == {
        "a", "y.then_branch/q", "y.then_branch/p", "y.else_branch/m", "y.else_branch/o"
    }  # fmt: skip
    for rows in (1, 4):
        feeds = {"x": random(rows, rows, 3), "c": np.array(taken)}
        assert ratios(before, after, feeds, workspace)["y"] > 50


LOADED = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"


@pytest.mark.parametrize("perm", ["1,0,2", "1,2,0", "0,2,1", "1,2,0,3", "1,2,3,0", "0,2,1,3"])
def test_a_transposition_with_which_the_runtime_would_not_survive_stays_float32(perm, tmp_path):
    axes = [int(axis) for axis in perm.split(",")]
    shape = [2, 3, 4, 5][: len(axes)]
    given = [shape[axis] for axis in axes]
    before = holding(
        f"""g (float{shape} x) => (float{[*given[:-1], 7]} y) {{
            e = Neg(x) t = Transpose<perm = [{perm}]>(e) y = MatMul(t, w) }}""",
        w=random(1, given[-1], 7),
    )
    after, change = halved(before, {"x": random(0, *shape)})
    assert reasons(change).get("t") == (ENDS_PROCESS if perm[0] != "0" else None)
    assert "y" in change.sites
    ir.save(after, tmp_path / "model.onnx")
    assert subprocess.run([sys.executable, "-c", LOADED, tmp_path / "model.onnx"], check=False).returncode == 0


def test_elsewhere_such_a_transposition_is_float16():
    before = holding(
        "g (float[2,3,4] x) => (float[3,2,7] y) { t = Transpose<perm = [1,0,2]>(x) y = MatMul(t, w) }",
        w=random(1, 4, 7),
    )
    _, change = halved(before, {"x": random(0, 2, 3, 4)}, capabilities=Capabilities("a GPU", cpu=False))
    assert change.sites == ("t", "y")


def test_what_a_branch_gives_is_held_to_the_range_of_its_node():
    before = graph("""g (float[n] x, bool c) => (float[n] y) <float k = {1000}> {
        y = If(c) <then_branch = t1 () => (float[n] p) { q = Mul(x, k) p = Mul(q, k) },
                   else_branch = e1 () => (float[n] o) { o = Neg(x) }> }""")
    _, change = halved(before, {"x": random(0, 9), "c": np.array(True)})
    assert "p reaches" in reasons(change)["y.then_branch/p"]


LOOP = """g (float[3] x, int64 count) => (float[3] y, float[k,3] all)
    <float[3] step = {0.5,1,2}, float[3,3] w = {1,2,3,4,5,6,7,8,9}, bool go = {1}> {
    y, all = Loop(count, go, x) <
        body = b (int64 i, bool on, float[3] state) => (bool more, float[3] next, float[3] seen) {
            more = Identity(on) sum = Add(state, step) next = Mul(sum, step) p = MatMul(sum, w) seen = Neg(p) }> }"""
SCAN = """g (float[3] x, float[k,3] series) => (float[3] y, float[k,3] all) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
    y, all = Scan<num_scan_inputs = 1, body = b (float[3] state, float[3] item) => (float[3] next, float[3] seen)
        { next = Add(state, item) p = MatMul(item, w) seen = Mul(p, item) }>(x, series) }"""


@pytest.mark.parametrize(
    ("text_", "feeds", "inside"),
    [
        (LOOP, {"x": random(0, 3), "count": np.array(4)}, {"y.body/p", "y.body/seen"}),
        (SCAN, {"x": random(0, 3), "series": random(1, 5, 3)}, {"y.body/p", "y.body/seen"}),
    ],
)
def test_bodies_of_loops_keep_their_interface(text_, feeds, inside, workspace):
    before = graph(text_)
    after, change = halved(before, feeds)
    assert set(change.sites) == inside
    assert min(ratios(before, after, feeds, workspace).values()) > 50
    body = next(node for node in after.graph if node.op_type in ("Loop", "Scan")).attributes["body"].as_graph()
    assert ir.DataType.FLOAT16 not in {value.dtype for value in (*body.inputs, *body.outputs)}


def test_what_a_loop_carries_stays_float_whatever_its_last_iteration_gives(workspace):
    """Fifty divided by 0.0005 and by what comes of it: the range of the last iteration alone would fit."""
    before = graph("""g (float[3] x, int64 count) => (float[3] y) <float fifty = {50}, bool go = {1}> {
        y = Loop(count, go, x) <body = b (int64 i, bool on, float[3] state) => (bool more, float[3] next) {
            more = Identity(on) next = Div(fifty, state) }> }""")
    feeds = {"x": np.array([0.0005, 0.0004, 0.0006], np.float32), "count": np.array(2)}
    after, change = halved(before, feeds)
    assert reasons(change)["y.body/next"].startswith("state goes from one iteration to the next")
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_several_outputs_of_one_node_are_cast_in_their_order():
    before = holding("""g (float[n,16] x) => (float[n,2] y) {
        q = MatMul(x, w) a, b, c, d, e, f, g, h = Split<axis = 1, num_outputs = 8>(q)
        s = Exp(a) t = Exp(b) u = Exp(c) v = Exp(d) i = Exp(e) j = Exp(f) k = Exp(g) l = Exp(h)
        y = Sum(s, t, u, v, i, j, k, l) }""", w=random(1, 16, 16))  # fmt: skip
    texts = {ir.to_onnx_text(halved(before, {"x": random(0, 5, 16)})[0]) for _ in range(5)}
    assert len(texts) == 1


def test_a_weight_that_both_sides_read_is_there_in_both_types(workspace):
    before = graph("""g (float[n,3] x) => (float[n,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
        a = MatMul(x, w) e = Exp(w) y = MatMul(a, e) }""")
    after, change = halved(before, {"x": random(0, 5, 3) / 100}, sensitive="float", share=1.0)
    held = {name: value.dtype for name, value in after.graph.initializers.items()}
    assert held == {"w": ir.DataType.FLOAT, "w.float16": ir.DataType.FLOAT16}
    assert set(change.sites) == {"a", "y"}
    assert ratios(before, after, {"x": random(1, 4, 3) / 100}, workspace)["y"] > 50


def test_a_weight_that_a_caller_may_override_stays_an_input(workspace):
    before = graph("g (float[n,3] x, float[3,3] w) => (float[n,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> "
                   "{ y = MatMul(x, w) }")  # fmt: skip
    after, change = halved(before, {"x": random(0, 5, 3)})
    assert change.sites == ("y",)
    other = {"x": random(1, 2, 3), "w": random(2, 3, 3)}
    assert ratios(before, after, other, workspace)["y"] > 50


def test_the_scales_of_a_resize_stay_float(workspace):
    before = graph("""g (float[n,2,4,4] x) => (float[n,2,8,8] y)
        <float[4] s = {1,1,2,2}, float[2,2,1,1] w = {1,2,3,4}> {
        a = Conv(x, w) b = Resize<mode = "linear">(a, , s) y = Conv(b, w) }""")
    after, change = halved(before, {"x": random(0, 2, 2, 4, 4)})
    assert change.sites == ("a", "b", "y")
    assert after.graph.initializers["s"].dtype == ir.DataType.FLOAT
    assert ratios(before, after, {"x": random(1, 3, 2, 4, 4)}, workspace)["y"] > 50


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("inputs", [", , s", ", , , z", ", roi, s"])
def test_resizes_without_names_may_be_converted_twice(mode, inputs, workspace):
    crop = ', coordinate_transformation_mode = "tf_crop_and_resize"' if "roi" in inputs else ""
    arrays = {
        "s": np.array([1, 1, 2, 2], np.float32), "z": np.array([1, 2, 8, 8]),
        "roi": np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8], np.float32), "w": random(1, 2, 2, 1, 1),
    }  # fmt: skip
    resize = f'Resize<mode = "{mode}"{crop}>'
    before = holding(f"""g (float[1,2,4,4] x) => (float[1,2,8,8] y, float[1,2,8,8] o) {{
        a = Conv(x, w) y = {resize}(a{inputs}) o = {resize}(a{inputs}) }}""",
        **{name: array for name, array in arrays.items() if name in f"w{inputs}"})  # fmt: skip
    for node in before.graph:
        node.name = None
    feeds = {"x": random(0, 1, 2, 4, 4)}
    once, change = halved(before, feeds)
    assert change.sites == ("a", "y", "o")
    twice, _ = halved(once, feeds)
    for after in (once, twice):
        assert {value.dtype for value in after.graph.initializers.values()} <= set(HELD)
        assert min(ratios(before, after, feeds, workspace).values()) > 50


HELD = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.INT64)


def test_an_output_that_is_read_inside_keeps_its_name_and_type(workspace):
    before = graph("""g (float[n,3] x) => (float[n,3] a, float[n,3] y, float[n,3] x2, float[3,3] w)
        <float[3,3] w = {1,2,3,4,5,6,7,8,9}> { a = MatMul(x, w) y = MatMul(a, w) x2 = Identity(x) }""")
    after, _ = halved(before, {"x": random(0, 5, 3)})
    assert [node.inputs[0].name for node in after.graph if node.outputs[0].name == "y.float16"] == ["a.float16"]
    assert min(ratios(before, after, {"x": random(1, 2, 3)}, workspace).values()) > 50


def test_unnamed_nodes_that_read_one_input_get_names_once(workspace):
    before = graph("""g (float[n,3] x) => (float[n,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
        a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b) }""")
    for node in before.graph:
        node.name = None
    after, _ = halved(before, {"x": random(0, 5, 3)})
    names = [node.name for node in after.graph if node.name]
    assert len(names) == len(set(names)) >= casts(after)


def test_a_branch_that_no_sample_takes_stays_float():
    _, change = halved(graph(BRANCH), {"x": random(0, 5, 3), "c": np.array(True)})
    assert set(change.sites) == {"a", "y.then_branch/q", "y.then_branch/p"}
    assert reasons(change)["y.else_branch/m"] == UNSEEN


def test_what_overflows_in_a_branch_stays_float(workspace):
    before = graph("""g (float[n,3] x, bool c) => (float[n,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}, float k = {300}> {
        a = MatMul(x, w)
        y = If(c) <then_branch = t () => (float[n,3] p) { q = Mul(a, k) r = Mul(q, k) p = Tanh(r) },
                   else_branch = e () => (float[n,3] o) { o = MatMul(x, w) }> }""")
    feeds = [{"x": random(0, 5, 3), "c": np.array(c)} for c in (True, False)]
    after, change = halved(before, *feeds)
    assert "y.then_branch/r" in reasons(change)
    assert "y.else_branch/o" in change.sites
    for feed in feeds:
        assert ratios(before, after, feed, workspace)["y"] > 50


LARGE = {
    "a difference": """s = Add(h, big) r = Relu(s) d = Sub(r, big) y = MatMul(d, w)""",
    "a difference behind a bias": """s = Gemm(h, w, big) d = Sub(s, big) y = MatMul(d, w)""",
    "a softmax": """s = Add(h, big) p = Softmax(s) y = MatMul(p, w)""",
}


@pytest.mark.parametrize("form", LARGE)
def test_large_values_of_which_differences_count_stay_float(form, workspace):
    before = holding(f"g (float[n,16] x) => (float[n,16] y) {{ h = MatMul(x, w) {LARGE[form]} }}",
                     w=random(1, 16, 16) / 4, big=np.full(16, 20000, np.float32))  # fmt: skip
    feeds = {"x": random(0, 5, 16)}
    after, change = halved(before, feeds)
    assert {"h", "y"} <= set(change.sites)
    assert "s" in reasons(change)
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_what_becomes_a_place_stays_float(workspace):
    """Rows 4000 and 4001 of a table are one row in float16."""
    before = holding("""g (float[n,4] x, float[n] place) => (float[n,4] y) {
        h = MatMul(x, w) p = Mul(place, scale) f = Floor(p) i = Cast<to = 7>(f) r = Gather(table, i) y = Add(h, r) }""",
        w=random(1, 4, 4), scale=np.float32(0.5), table=random(2, 5000, 4))  # fmt: skip
    feeds = {"x": random(0, 6, 4), "place": np.array([8000, 8002, 8004, 9996, 3, 1], np.float32)}
    after, change = halved(before, feeds)
    assert reasons(change)["f"] == f"i {MAKES_WHOLE}"
    assert {"h", "y"} <= set(change.sites)
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_a_softmax_of_large_scores_stays_float_whatever_else_does(workspace):
    text = "g (float[n,8] x) => (float[n,8] y) { h = MatMul(x, w) r = Mul(x, big) s = Softmax(r) y = Mul(h, s) }"
    before = holding(text, w=random(1, 8, 8), big=np.float32(4000))
    feeds = {"x": 1 + random(0, 6, 8) / 1000}
    after, change = halved(before, feeds, sensitive="half")
    assert reasons(change)["s"] == FAR_APART
    assert ratios(before, after, feeds, workspace)["y"] > 50


def test_needs_are_values_outside_of_loops_and_repeat():
    model = graph(BRANCH)
    subject = Fp16()
    needed = [need.value for need in subject.needs(model)]
    assert needed == ["x", "a", *(f"y.{place}" for place in BRANCHED)]
    assert subject.needs(model) == subject.needs(model.clone())


@pytest.mark.parametrize("kept", ["e", "y"])
def test_a_large_weight_that_both_sides_read_is_stored_once_in_float32(kept, workspace):
    """A table that is the head too: what stays float32 reads it as it is, also through its Transpose."""
    before = holding("""g (int64[n,3] i) => (float[n,3,40] y) {
        e = Gather(w, i) m = MatMul(e, v) t = Transpose<perm = [1, 0]>(w) y = MatMul(m, t) }""",
        w=random(0, 40, 16), v=random(1, 16, 16))  # fmt: skip
    feeds = {"i": np.array([[0, 7, 39]])}
    after, change = halved(before, feeds, allow=lambda site: site != kept)
    assert set(change.sites) == {"e", "m", "t", "y"} - ({kept, "t"} if kept == "y" else {kept})
    large = {name: value.dtype for name, value in after.graph.initializers.items() if value.shape[0] == 40}
    assert large == {"w": ir.DataType.FLOAT}
    assert ratios(before, after, feeds, workspace)["y"] > 50
