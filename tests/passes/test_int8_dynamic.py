"""What int8-dynamic writes for products and tables."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.emulate import saturation_proof
from mlc.graph_pass import Context
from mlc.registry import available
from mlc.rewriting import rewrite
from mlc.types import PassSpec
from passes.int8_dynamic import WHOLE_BATCH, Int8Dynamic
from tests.blocks import tied, token_batches
from tests.dynamic import TABLE, TWO, bytes_of, dynamic
from tests.graphs import artifact, references
from tests.quantizing import ANY_CPU, batches, build, count_ops, run, weights

pytestmark = pytest.mark.needs_onnxruntime


def test_it_is_installed_and_needs_no_data():
    assert "int8-dynamic" in available()
    assert not Int8Dynamic().calibrates
    assert Int8Dynamic().needs(tied()) == ()


def test_products_and_a_tied_head_and_table():
    found = dynamic(tied(), token_batches())
    assert found.change.sites == ("e", "l", "g", "y")
    assert found.change.refused == ()
    assert found.change.notes == (WHOLE_BATCH,)
    assert found.sqnr(optimize=False) > 28
    assert found.sqnr() > 28


def test_tied_weights_are_stored_once_and_no_float_weight_is_left():
    found = dynamic(tied(), token_batches())
    assert bytes_of(found.model) == 50 * 64 + 2 * 64 * 160
    floats = {name for name, value in found.model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
    assert floats == {"w.scale", "w.row_scale", "w1.scale", "w2.scale", "b1", "b2"}


@pytest.mark.parametrize("opset", [11, 13, 17, 23])
def test_the_runtime_joins_what_was_written(opset, tmp_path):
    text = "agraph (float[n,24] x) => (float[n,5] y) {\n a = MatMul(x, w)\n y = Add(b, a)\n}"
    found = dynamic(build(text, weights(0, w=(24, 5), b=(5,)), opset))
    assert found.fused_ops(tmp_path) == {"DynamicQuantizeMatMul": 1}
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,)), opset))
    assert found.ops()["DynamicQuantizeLinear"] == 1
    assert found.fused_ops(tmp_path) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2}
    assert found.sqnr() > 35


def test_the_runtime_joins_all_of_a_tied_model(tmp_path):
    fused = dynamic(tied(), token_batches()).fused_ops(tmp_path)
    assert fused["DynamicQuantizeMatMul"] == 3
    assert fused.keys().isdisjoint({"MatMul", "Gemm", "MatMulInteger", "Transpose", "DynamicQuantizeLinear"})


@pytest.mark.parametrize("attributes", ["", "alpha = 0.5", "beta = -2.0", "alpha = -3.0, beta = 0.25", "beta = 0.0"])
@pytest.mark.parametrize(("turned_input", "turned_weight"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)])
def test_every_form_of_a_gemm(attributes, turned_input, turned_weight, bias):
    given = f"<transA = {turned_input}, transB = {turned_weight}{', ' if attributes else ''}{attributes}>"
    dims = "21,3" if turned_input else "3,21"
    text = f"agraph (float[{dims}] x) => (float[3,5] y) {{\n y = Gemm{given}(x, w{'' if bias is None else ', b'})\n}}"
    arrays = weights(1, w=(5, 21) if turned_weight else (21, 5))
    model = build(text, arrays if bias is None else arrays | weights(2, b=bias))
    found = dynamic(model)
    assert found.change.sites == ("y",)
    assert "Gemm" not in found.ops()
    assert found.sqnr(optimize=False) > 30
    assert found.sqnr() > 30


def test_a_bias_that_is_computed_is_added_too():
    text = "agraph (float[5,21] x) => (float[5,5] y) {\n c = Reshape(x, s)\n d = Slice(c, from, to)\n"
    text += " b = Reshape(d, five)\n y = Gemm<beta = 3.0>(x, w, b)\n}"
    arrays = weights(0, w=(21, 5)) | {"s": np.array([-1]), "five": np.array([5])}
    found = dynamic(build(text, arrays | {"from": np.array([0]), "to": np.array([5])}))
    assert found.change.sites == ("y",)
    assert found.sqnr() > 30


STACKS = [
    ("3,8,21", (21, 5), "3,8,5"),
    ("21", (21, 5), "5"),
    ("2,3,8,21", (3, 21, 5), "2,3,8,5"),
    ("8,21", (3, 21, 5), "3,8,5"),
    ("21", (3, 21, 5), "3,5"),
    ("21", (3, 2, 21, 5), "3,2,5"),
    ("4,1,8,21", (4, 2, 21, 5), "4,2,8,5"),
    ("8,21", (21,), "8"),
    ("2,8,21", (21,), "2,8"),
    ("21", (21,), ""),
    ("8,21", (21, 1), "8,1"),
]

VECTOR = batches({"x": np.random.default_rng(5).normal(size=21).astype(np.float32)})


@pytest.mark.parametrize(("dims", "shape", "result"), STACKS)
def test_stacks_of_matrices_and_vectors(dims, shape, result):
    output = f"float[{result}] y" if result else "float y"
    text = f"agraph (float[{dims}] x) => ({output}) {{\n y = MatMul(x, w)\n}}"
    found = dynamic(build(text, weights(0, w=shape)), VECTOR if dims == "21" else None)
    assert found.change.sites == ("y",)
    assert found.sqnr(optimize=False) > 28
    assert found.sqnr() > 28
    assert saturation_proof(found.model)[0].startswith("no product sum saturates on: onnxruntime")


def test_a_weight_that_several_products_read_is_stored_once():
    text = """agraph (float[n,64] x, int64[m] ids) => (float[n,64] y, float[m,64] e) {
        a = Gemm<transB = 1, alpha = 2.0>(x, w, b)
        r = Relu(a)
        t = Transpose(w)
        c = MatMul(r, t)
        y = Gemm<transB = 1>(c, w)
        e = Gather(w, ids)
    }"""
    data = batches({"x": weights(3, x=(4, 64))["x"], "ids": np.array([3, -1, 0, 63])})
    found = dynamic(build(text, weights(0, w=(64, 64), b=(64,))), data)
    assert found.change.sites == ("a", "c", "y", "e")
    assert bytes_of(found.model) == 64 * 64
    assert found.sqnr() > 25


def test_an_activation_is_quantized_before_all_that_read_it_whatever_weight_is_written_first():
    text = """agraph (float[n,8] x) => (float[n,8] y) {
        p = MatMul(x, w)
        c = Tanh(p)
        d = MatMul(c, v)
        e = MatMul(c, w)
        y = Add(d, e)
    }"""
    found = dynamic(build(text, weights(0, w=(8, 8), v=(8, 8))))
    assert found.change.sites == ("p", "d", "e")
    assert found.ops()["DynamicQuantizeLinear"] == 2
    assert found.sqnr() > 30


def test_a_weight_added_up_along_both_axes_has_scales_for_each():
    text = "agraph (float[n,24] x) => (float[n,24] y) {\n a = MatMul(x, w)\n t = Transpose(w)\n y = MatMul(a, t)\n}"
    found = dynamic(build(text, weights(0, w=(24, 24))))
    assert found.change.sites == ("a", "y")
    assert bytes_of(found.model) == 2 * 24 * 24
    assert found.sqnr() > 25


def test_a_constant_node_is_a_weight_too():
    text = "agraph (float[n,3] x) => (float[n,2] y) {\n w = Constant<value = float[3,2] {1, 2, 3, -4, 5, 6}>()\n"
    found = dynamic(build(text + " y = MatMul(x, w)\n}"))
    assert found.change.sites == ("y",)
    assert "Constant" not in found.ops()
    assert found.sqnr() > 30


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_sizes_other_than_the_sampled(rows):
    found = dynamic(tied(), token_batches())
    inputs = token_batches(1, rows)[0].inputs
    expected, actual = run(found.before, inputs)["y"], run(found.model, inputs)["y"]
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


GOLDEN = """agraph (float[n,3] x, int64[m] ids, bool c) => (float[n,2] y, float[n,3] z, float[m,3] e, float[n,2] p) {
    y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)
    s = MatMul(x, u)
    z = Add(d, s)
    e = Gather(w, ids)
    p = If(c) <
        then_branch = yes () => (float[n,2] q) { t = Transpose(w) q = MatMul(x, t) },
        else_branch = no () => (float[n,2] o) { o = Neg(y) }
    >
}"""


def test_golden(golden):
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3) - 2,
        "b": np.array([1, -1], np.float32),
        "u": np.eye(3, dtype=np.float32),
        "d": np.ones(3, np.float32),
    }
    model = build(GOLDEN, arrays, 17)
    change = Int8Dynamic().apply(model, Context(ANY_CPU))
    assert change.sites == ("y", "s", "e", "p.then_branch/q")
    golden("int8_dynamic.onnxtxt", ir.to_onnx_text(model).rstrip() + "\n")


def test_a_large_table_has_a_scale_for_each_row():
    arrays = weights(0, w=(1024, 64))
    arrays["w"] *= np.logspace(-3, 3, 1024, dtype=np.float32)[:, np.newaxis]
    arrays["w"][7] = 0
    ids = np.array([[0, 7, 1023, -1], [-1024, 3, 500, 9]])
    found = dynamic(build(TABLE, arrays), batches({"ids": ids}))
    assert found.change.sites == ("e",)
    assert found.change.notes == ()
    expected, actual = run(found.before, {"ids": ids})["e"], run(found.model, {"ids": ids})["e"]
    assert (np.abs(actual - expected) <= 0.51 / 127 * np.abs(expected).max(axis=-1, keepdims=True)).all()
    assert bytes_of(found.model, ir.DataType.FLOAT) == 1024


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (0, 4)])
def test_indices_of_any_rank(shape):
    model = build(TABLE, weights(0, w=(1024, 64)))
    model.graph.inputs[0].shape = ir.Shape(shape)
    model.graph.outputs[0].shape = ir.Shape((*shape, 64))
    ids = np.random.default_rng(0).integers(-1024, 1024, shape)
    found = dynamic(model, batches({"ids": np.zeros((1, 1), np.int64)}))
    expected, actual = run(model, {"ids": ids})["e"], run(found.model, {"ids": ids})["e"]
    assert actual.shape == expected.shape == (*shape, 64)
    assert np.allclose(actual, expected, atol=0.01)


def test_deterministic_and_the_original_is_not_touched():
    model = tied()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first, second = (
        ir.to_proto(dynamic(model, token_batches()).model).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_applying_it_twice_finds_nothing_more():
    found = dynamic(tied(), token_batches())
    again = found.model.clone()
    change = Int8Dynamic().apply(again, Context(ANY_CPU))
    assert change.sites == ()
    assert count_ops(again) == found.ops()


def test_the_line_runs_it_on_an_old_file_without_data(workspace):
    text = "agraph (float[batch,24] x) => (float[batch,5] y) {\n y = Gemm(x, w, b)\n}"
    model = build(text, weights(0, w=(24, 5), b=(5,)), 9)
    kept = references(model, [weights(seed, x=(seed, 24)) for seed in (2, 3)], workspace)
    given = {"references": kept, "workspace": workspace, "capabilities": ANY_CPU}
    done = rewrite(artifact(model), [PassSpec("int8-dynamic")], requested=["int8-dynamic"], **given)
    (step,) = done.steps
    assert done.model.opset_imports[""] == 11
    assert (step.sites, step.notes, step.dropped) == (("y",), (WHOLE_BATCH,), "")
    assert step.sqnr["y"] > 30
