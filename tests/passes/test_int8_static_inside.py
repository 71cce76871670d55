"""Static int8 in branches, and what loops keep float."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from mlc.compare import sqnr
from mlc.errors import PassError
from mlc.fusion import Places
from mlc.graph_pass import Context
from mlc.plan import Planner
from mlc.runtimes.opening import open_session
from mlc.types import NodePlan, Plan
from passes._masked import UNSEEN
from passes.int8_dynamic import Int8Dynamic
from passes.int8_static import IN_LOOP, Int8Static
from tests.nested import nested
from tests.quantizing import ANY_CPU, build, moved_into, quantized, run, weights, whole_batches
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

BRANCHES = """agraph (float[n,3,6,6] x, int64[n] ids, bool c, bool k) => (float[n,8] z, float[n,20] o)
    <int64[2] flat = {0, -1}> {
    e = Gather(table, ids)
    a = Gemm<transB = 1>(e, w, b)
    r = Relu(a)
    t = MatMul(r, v)
    z = If(c) <
        then_branch = yes () => (float[n,8] p) {
            j = Conv<pads = [1, 1, 1, 1]>(x, k1, k2)
            f = Relu(j)
            d = Conv<pads = [1, 1, 1, 1]>(f, k3)
            q = Add(f, d)
            m = GlobalAveragePool(q)
            p = Reshape(m, flat)
        },
        else_branch = no () => (float[n,8] p) {
            m = MatMul(r, v)
            f = Relu(m)
            j = If(k) <
                then_branch = deep () => (float[n,8] d) { d = Gemm<transB = 1>(f, w, b) },
                else_branch = shallow () => (float[n,8] d) { d = MatMul(f, u) }
            >
            p = Add(t, j)
        }
    >
    turned = Transpose(table)
    o = MatMul(z, turned)
}"""
"""Siblings use the same names; r, w and v are read in several graphs, k1 to k3 and u in one branch alone."""

SIZES = {
    "table": (20, 8), "w": (8, 8), "b": (8,), "v": (8, 8), "u": (8, 8), "k1": (8, 3, 3, 3), "k2": (8,),
    "k3": (8, 8, 3, 3),
}  # fmt: skip

CONVOLUTIONS = tuple(f"z.then_branch/{name}" for name in "jfdqm")
PRODUCTS = ("z.else_branch/m", "z.else_branch/f", "z.else_branch/j.then_branch/d", "z.else_branch/j.else_branch/d")
SITES = ("e", "a", "r", "t", "o", *CONVOLUTIONS, *PRODUCTS)


def branches():
    """All of it, with one weight in the branch that reads it."""
    return moved_into(build(BRANCHES, weights(0, **SIZES)), "shallow", "u")


def inputs(rows=8, seed=0, taken=((True, True), (False, True), (False, False))):
    """Inputs that take each of the branches, or those that are given."""
    generator = np.random.default_rng(seed)
    x, ids = generator.normal(size=(rows, 3, 6, 6)).astype(np.float32), generator.integers(-20, 20, rows)
    return whole_batches(*({"x": x, "ids": ids, "c": np.array(c), "k": np.array(k)} for c, k in taken))


def refusals(found):
    return {refusal.site: refusal.reason for refusal in found.change.refused}


def test_branches_become_integers_and_the_numbers_stay():
    found = quantized(branches(), inputs(rows=64))
    assert found.change.sites == SITES
    assert refusals(found) == {"z.else_branch/p": "t is not computed in int8"}
    assert found.sqnr(optimize=False) > 27
    assert found.sqnr() > 27
    assert replace(found, data=inputs(rows=5, seed=1)).sqnr() > 20


def test_the_runtime_computes_branches_in_integers(tmp_path):
    found = quantized(branches(), inputs()).optimized(tmp_path)
    ops = {graph.name: [node.op_type for node in graph] for graph in found.graphs()}
    assert ops["yes"] == [
        "QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "Reshape",
        "DequantizeLinear",
    ]  # fmt: skip
    assert ops["no"] == ["QuantizeLinear", "QLinearMatMul", "DequantizeLinear", "If", "Add"]
    assert ops["deep"] == ["QuantizeLinear", "QGemm"]
    assert ops["shallow"] == ["QuantizeLinear", "MatMulIntegerToFloat"]


def test_openvino_runs_it_too(tmp_path):
    target, _ = usable("openvino/CPU")
    found = quantized(branches(), inputs())
    ir.save(found.model, tmp_path / "model.onnx")
    with open_session(tmp_path / "model.onnx", target) as session:
        for feed in (batch.inputs for batch in found.data):
            positive = {**feed, "ids": np.abs(feed["ids"])}
            expected, actual = run(found.model, positive, optimize=False), session.run(positive)
            assert all(sqnr(expected[name], actual[name]) > 25 for name in expected)


def test_a_weight_is_stored_once_in_the_innermost_graph_around_its_readers():
    model = quantized(branches(), inputs()).model
    held = {graph.name: {name for name in graph.initializers if name.endswith(".int8")} for graph in model.graphs()}
    assert held == {
        "agraph": {"table.int8", "w.int8", "v.int8"}, "yes": {"k1.int8", "k3.int8"}, "no": set(), "deep": set(),
        "shallow": {"u.int8"},
    }  # fmt: skip
    floats = {name for graph in model.graphs() for name in SIZES if name in graph.initializers}
    assert floats == set()


def test_every_method_and_the_correction_of_biases_read_what_branches_compute():
    for options in ({"method": "percentile", "percent": 99.0}, {"method": "mse"}, {"correct_bias": True}):
        found = quantized(branches(), inputs(), **options)
        assert found.change.sites == SITES
        assert found.sqnr() > 20


def test_a_branch_that_no_sample_takes_stays_float_and_says_so_once():
    found = quantized(branches(), inputs(taken=((True, True),)))
    assert set(SITES) - set(found.change.sites) == set(PRODUCTS)
    assert {site for site, reason in refusals(found).items() if reason == UNSEEN} == set(PRODUCTS)
    assert found.change.notes == (f"{UNSEEN} What reads or computes it stays float",)
    assert replace(found, data=inputs(taken=((False, True),))).sqnr() > 20


def test_a_mask_in_a_branch_is_told_by_its_place():
    text = """agraph (float[n,8] x, float[n,1] mask, bool c) => (float[n,8] z) {
        z = If(c) <
            then_branch = yes () => (float[n,8] p) { a = Add(x, mask) p = MatMul(a, w) },
            else_branch = no () => (float[n,8] q) { q = MatMul(x, w) }
        >
    }"""
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    mask = np.zeros((8, 1), np.float32)
    mask[5] = -1e9
    data = whole_batches(*({"x": x, "mask": mask, "c": np.array(taken)} for taken in (True, False)))
    found = quantized(build(text, weights(0, w=(8, 8))), data)
    reason = "the value z.then_branch/a holds -1e+09 for sample 5: a mask?"
    assert found.change.sites == ("z.else_branch/q",)
    assert refusals(found)["z.then_branch/p"] == reason
    assert found.change.notes == (f"{reason} What reads or computes it stays float",)


def test_a_convolution_kept_float_between_codes_of_a_branch_stays_float(tmp_path):
    found = quantized(branches(), inputs(), allow=lambda site: site != "z.then_branch/d")
    assert "z.then_branch/d" not in found.change.sites
    (branch,) = (graph for graph in found.optimized(tmp_path).graphs() if graph.name == "yes")
    assert [node.op_type for node in branch].count("QLinearConv") == 1
    assert any(node.op_type in ("Conv", "FusedConv") for node in branch)


def test_the_plan_names_nodes_by_their_places_and_is_kept():
    plan = {entry.node: entry.format for entry in Int8Static().plan(branches(), Context(ANY_CPU))}
    assert {site for site, kind in plan.items() if kind == "int8-static"} == set(SITES)
    wanted = Plan((NodePlan("z.else_branch/j.else_branch/d", "MatMul", "int8-static", ""),))
    assert quantized(branches(), inputs(), plan=wanted).change.sites == ("z.else_branch/j.else_branch/d",)


# loops

LOOP = """agraph (float[n,8] x, float[n,3,6,6] image) => (float[n,8] y, float[n,8] z)
    <int64 rounds = {3}, bool go = {1}, int64[2] flat = {0, -1}> {
    y = Loop(rounds, go, x) <
        body = step (int64 i, bool on, float[n,8] h) => (bool still, float[n,8] t) {
            still = Identity(on)
            m = MatMul(h, w)
            s = If(on) <
                then_branch = yes () => (float[n,8] p) { p = Gemm(m, v) },
                else_branch = no () => (float[n,8] q) { q = Neg(m) }
            >
            t = Tanh(s)
        }
    >
    a = Conv(image, k)
    c = GlobalAveragePool(a)
    z = Reshape(c, flat)
}"""


def loop():
    return build(LOOP, weights(0, w=(8, 8), v=(8, 8), k=(8, 3, 3, 3)))


def test_products_in_a_loop_and_in_branches_there_stay_float_and_say_why():
    generator = np.random.default_rng(0)
    shapes = {"x": (4, 8), "image": (4, 3, 6, 6)}
    feed = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    found = quantized(loop(), whole_batches(feed))
    assert found.change.sites == ("a", "c")
    assert refusals(found) == {"y.body/m": IN_LOOP, "y.body/s.then_branch/p": IN_LOOP}
    assert np.array_equal(run(found.model, feed)["y"], run(found.before, feed)["y"])


def test_a_plan_that_gives_a_loop_to_it_is_an_error_with_the_reason():
    given = Plan((NodePlan("y.body/m", "MatMul", "int8-static", ""),))
    with pytest.raises(PassError, match=f"y.body/m, which stays float: {IN_LOOP}"):
        Planner(given=given).plan(loop(), [Int8Static()], Context(ANY_CPU))


def test_where_formats_are_mixed_a_loop_is_dynamic(monkeypatch):
    monkeypatch.setattr("mlc.plan.chains.FEW", 0)  # they have few channels, and are to be static all the same
    monkeypatch.setattr("mlc.plan.narrow.NARROW", 0)  # and few columns
    plan = Planner(mixed=True).plan(loop(), [Int8Static(), Int8Dynamic()], Context(ANY_CPU))
    formats = {entry.node: entry.format for entry in plan.nodes if entry.format != "float"}
    assert formats == {
        "a": "int8-static", "c": "int8-static", "y.body/m": "int8-dynamic",
        "y.body/s.then_branch/p": "int8-dynamic",
    }  # fmt: skip


def test_where_formats_are_mixed_chains_of_codes_end_at_their_branch(monkeypatch):
    monkeypatch.setattr("mlc.plan.chains.FEW", 0)  # they have few channels, and are to be static all the same
    monkeypatch.setattr("mlc.plan.narrow.NARROW", 0)  # and few columns
    plan = Planner(mixed=True).plan(branches(), [Int8Static(), Int8Dynamic()], Context(ANY_CPU))
    formats = {entry.node: entry.format for entry in plan.nodes}
    assert {site for site, kind in formats.items() if kind == "int8-static"} == set(CONVOLUTIONS)
    assert {formats[site] for site in ("a", "o", "z.else_branch/m", "z.else_branch/j.then_branch/d")} == {
        "int8-dynamic"
    }


@pytest.mark.parametrize("seed", range(8))
def test_generated_branches_and_loops(seed):
    """Without the runtime's optimizations: it crashes where it inlines some of the constant branches."""
    model, places = build(nested(seed)), Places(build(nested(seed)))
    x = np.random.default_rng(seed).uniform(-1, 1, size=(16, 3)).astype(np.float32)
    data = whole_batches(*({"x": x, "flag": np.array(flag)} for flag in (True, False)))
    found = quantized(model, data)
    products = {places.site(node) for node in places.nodes() if node.op_type == "MatMul"}
    assert products <= {*found.change.sites, *refusals(found)}
    assert found.change.sites
    for feed in (batch.inputs for batch in data):
        expected, actual = (run(each, feed, optimize=False)["y"] for each in (model, found.model))
        assert sqnr(expected, actual) > 25
