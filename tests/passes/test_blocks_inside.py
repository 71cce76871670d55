"""Weights by blocks in branches and bodies of loops."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from mlc.compare import sqnr
from mlc.graph_pass import Context
from mlc.runtimes.opening import open_session
from mlc.types import NodePlan, Plan
from passes._stored import array_of
from passes.int4_weights import Int4Weights
from passes.int8_weights import Int8Weights
from tests.blocks import FORMS, by_blocks
from tests.graphs import line
from tests.quantizing import ANY_CPU, build, moved_into, run, weights, whole_batches
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

NESTED = """agraph (float[n,64] x, int64[n] ids, bool c) => (float[n,64] z, float[n,64] y, float[n,50] o)
    <int64 rounds = {3}, bool go = {1}> {
    e = Gather(table, ids)
    s = Add(x, e)
    z = If(c) <
        then_branch = yes () => (float[n,64] p) {
            a = MatMul(s, w)
            r = Gather(table, ids)
            f = If(c) <
                then_branch = deep () => (float[n,64] d) { g = Gemm<transB = 1>(a, v, bias) d = Add(g, r) },
                else_branch = flat () => (float[n,64] d) { d = Neg(r) }
            >
            p = Add(a, f)
        },
        else_branch = no () => (float[n,64] p) { a = MatMul(s, u) p = Add(a, x) }
    >
    y = Loop(rounds, go, s) <
        body = step (int64 i, bool on, float[n,64] h) => (bool still, float[n,64] t) {
            still = Identity(on)
            m = MatMul(h, w)
            k = MatMul(h, own)
            mk = Add(m, k)
            t = Tanh(mk)
        }
    >
    turned = Transpose<perm = [1, 0]>(table)
    o = MatMul(y, turned)
}"""
"""Siblings use the same names; w and the table are read in several graphs, v in one below."""

SITES = (
    "e", "o", "z.then_branch/a", "z.then_branch/r", "z.then_branch/f.then_branch/g", "z.else_branch/a", "y.body/m",
    "y.body/k",
)  # fmt: skip

SIZES = {"w": (64, 64), "v": (64, 64), "u": (64, 64), "own": (64, 64), "bias": (64,), "table": (50, 64)}


def nested(text=NESTED):
    """All of it, with two weights in the graphs that read them."""
    model = build(text, weights(0, **SIZES), 21)
    return moved_into(moved_into(model, "no", "u"), "step", "own")


def inputs(rows=4, seed=0):
    """Inputs of either branch."""
    generator = np.random.default_rng(seed)
    x, ids = generator.normal(size=(rows, 64)).astype(np.float32), generator.integers(-50, 50, rows)
    return [{"x": x, "ids": ids, "c": np.array(taken)} for taken in (True, False)]


def quantized(subject, form="standard", data=None, **how):
    return by_blocks(nested(), subject, whole_batches(*(inputs() if data is None else data)), form=form, **how)


def initializers(model):
    """The names of the initializers of each graph, by the graph's name."""
    return {graph.name: set(graph.initializers) for graph in model.graphs()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("cls", "floor"), [(Int8Weights, 28), (Int4Weights, 7)])
def test_every_weight_becomes_codes_and_the_numbers_stay(cls, floor, symmetric, form):
    found = quantized(cls(block=32, symmetric=symmetric), form)
    assert found.change.sites == SITES
    assert found.change.refused == found.change.notes == ()
    assert found.sqnr(optimize=False) > floor
    assert found.sqnr() > floor
    assert replace(found, data=whole_batches(*inputs(rows=1, seed=3))).sqnr() > floor - 3


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_whose_input_hides_one_around_it(form):
    hiding = nested(NESTED.replace("float[n,64] h)", "float[n,64] x)").replace("(h, ", "(x, "))
    found = by_blocks(hiding, Int8Weights(block=32), whole_batches(*inputs()), form=form)
    assert found.change.sites == SITES
    assert found.sqnr() > 28


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", [Int8Weights, Int4Weights])
def test_openvino_runs_it_too(cls, form, tmp_path):
    target, _ = usable("openvino/CPU")
    found = quantized(cls(block=32), form)
    ir.save(found.model, tmp_path / "model.onnx")
    with open_session(tmp_path / "model.onnx", target) as session:
        for feed in inputs():
            feed["ids"] = np.abs(feed["ids"])
            expected, actual = run(found.model, feed, optimize=False), session.run(feed)
            assert all(sqnr(expected[name], actual[name]) > 25 for name in expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_is_stored_once_however_many_graphs_read_it(form):
    found = quantized(Int8Weights(block=32), form)
    held = [value.const_value for graph in found.model.graphs() for value in graph.initializers.values()]
    codes = [tensor for tensor in held if tensor.size > 1 and tensor.dtype in (ir.DataType.INT8, ir.DataType.UINT8)]
    assert sum(tensor.size for tensor in codes) == 4 * 64 * 64 + 50 * 64
    assert not [tensor for tensor in held if tensor.dtype == ir.DataType.FLOAT and tensor.size >= 64 * 64]


@pytest.mark.parametrize("form", FORMS)
def test_codes_lie_in_the_innermost_graph_around_their_readers(form):
    names = initializers(quantized(Int8Weights(block=32), form).model)
    held = {graph: {name.split(".")[0] for name in own if name.endswith(".scale")} for graph, own in names.items()}
    assert held == {
        "agraph": {"w", "table"}, "yes": set(), "deep": {"v"}, "flat": set(), "no": {"u"}, "step": {"own"},
    }  # fmt: skip


def test_the_runtime_joins_a_product_inside_with_its_codes(tmp_path):
    found = quantized(Int4Weights()).optimized(tmp_path)
    ops = {graph.name: [node.op_type for node in graph] for graph in found.graphs()}
    assert "MatMulNBits" in ops["deep"]
    assert "DequantizeLinear" not in ops["deep"]
    assert "MatMulNBits" in ops["agraph"], "the head, whose table others read too"


@pytest.mark.parametrize("form", FORMS)
def test_an_embedding_outside_and_its_head_in_a_branch_share_their_codes(form):
    text = """agraph (int64[n] ids, bool c) => (float[n,9] y) {
        e = Gather(w, ids)
        y = If(c) <
            then_branch = yes () => (float[n,9] p) { t = Transpose(w) p = MatMul(e, t) },
            else_branch = no () => (float[n,9] q) { t = Transpose(w) q = MatMul(e, t) }
        >
    }"""
    feeds = [{"ids": np.arange(9), "c": np.array(taken)} for taken in (True, False)]
    found = by_blocks(build(text, weights(0, w=(9, 64)), 21), Int8Weights(block=32), whole_batches(*feeds), form=form)
    assert found.change.sites == ("e", "y.then_branch/p", "y.else_branch/q")
    assert "w" not in found.model.graph.initializers
    assert (
        sum(name.endswith((".int8", ".uint8")) for names in initializers(found.model).values() for name in names) == 1
    )
    assert found.sqnr() > 35


def test_a_node_kept_float_inside_keeps_its_weight_float_everywhere():
    found = quantized(Int8Weights(block=32), allow=lambda site: site != "y.body/m")
    assert set(SITES) - set(found.change.sites) == {"z.then_branch/a", "y.body/m"}
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("z.then_branch/a", "its weight w is read by MatMul y.body/m too, which stays float")
    ]
    assert "w" in found.model.graph.initializers


def test_the_plan_names_nodes_by_their_places_and_is_kept():
    subject = Int8Weights(block=32)
    plan = subject.plan(nested(), Context(ANY_CPU))
    assert {entry.node for entry in plan} == set(SITES)
    assert {entry.format for entry in plan} == {"int8-weights"}
    found = quantized(subject, plan=Plan((NodePlan("z.then_branch/f.then_branch/g", "Gemm", "int8-weights", ""),)))
    assert found.change.sites == ("z.then_branch/f.then_branch/g",)


def test_the_line_verifies_it_at_two_sizes_and_keeps_it(workspace):
    feeds = [inputs(rows)[taken] for rows, taken in ((2, 0), (3, 1))]
    _, (step,) = line(nested(), [Int8Weights(block=32)], feeds, workspace)
    assert step.sites == SITES
    assert min(step.sqnr.values()) > 28


INSIDE = """agraph (float[64,64] x, float[1,64,3,3] image, bool c) => (y) {{
    y = If(c) <then_branch = yes () => (p) {{ {lines} }}, else_branch = no () => (q) {{ q = Neg(x) }}>
}}"""

REFUSALS = [
    ("p = MatMul(x, x)", "both sides are activations"),
    ("p = Conv(image, k)", "its weight is not a matrix"),
    ("a = Relu(w) p = MatMul(x, w)", "its weight w is read by Relu y.then_branch/a too, which stays float"),
    ("p = MatMul(x, short)", "its 31 rows are less than a block of 32"),
]


@pytest.mark.parametrize(("lines", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
def test_it_refuses_inside_as_outside(lines, reason):
    model = build(INSIDE.format(lines=lines), weights(0, w=(64, 64), k=(2, 64, 1, 1), short=(31, 5)), 21)
    change = Int8Weights(block=32).apply(model, Context(ANY_CPU))
    assert [(each.site, each.reason) for each in change.refused] == [("y.then_branch/p", reason)]
    assert change.sites == ()


def test_a_weight_that_a_branch_gives_is_refused():
    model = build(INSIDE.format(lines="p = MatMul(x, w)"), weights(0, w=(64, 64)), 21)
    branch = moved_into(model, "yes", "w").graph[0].attributes["then_branch"].as_graph()
    branch.outputs.append(branch.initializers["w"])
    change = Int8Weights(block=32).apply(model, Context(ANY_CPU))
    assert [(each.site, each.reason) for each in change.refused] == [
        ("y.then_branch/p", "its weight w is an output too")
    ]


def codes(found, stem):
    """The codes of a weight in standard form, wherever they lie."""
    (value,) = (graph.initializers[f"{stem}.uint4"] for graph in found.model.graphs()
                if f"{stem}.uint4" in graph.initializers)  # fmt: skip
    return array_of(value)


UNSEEN = "the codes are the nearest, without gptq, for a product that is in a loop or in a branch that none takes"


def test_gptq_reads_what_branches_compute_and_says_where_it_cannot():
    nearest, found = (quantized(Int4Weights(method=method)) for method in ("rtn", "gptq"))
    assert {need.value for need in Int4Weights(method="gptq").needs(nested())} == {"s", "y", "z.then_branch/a"}
    assert found.change.notes == (f"w, own: {UNSEEN}",)
    same = {stem: np.array_equal(codes(nearest, stem), codes(found, stem)) for stem in ("w", "own", "u", "v", "table")}
    assert same == {"w": True, "own": True, "u": False, "v": False, "table": False}


def test_gptq_leaves_a_branch_that_no_sample_takes_to_the_nearest():
    nearest, found = (quantized(Int4Weights(method=method), data=inputs()[1:]) for method in ("rtn", "gptq"))
    assert found.change.notes == (f"w, v, own: {UNSEEN}",)
    assert np.array_equal(codes(nearest, "v"), codes(found, "v"))
    assert found.sqnr() > 7
