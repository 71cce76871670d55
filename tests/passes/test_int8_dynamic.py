import pkgutil
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as operators
import onnx_ir as ir
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

import mlc
from mlc.artifact import Artifact, Origin, write_model
from mlc.cli import main
from mlc.compare import Reference
from mlc.emulate import exact_sums, integer_products, saturating_sums, saturation_proof
from mlc.errors import UsageError
from mlc.formats import ORDERS, layout_of
from mlc.graph_pass import Context
from mlc.registry import available, optional_probes_of
from mlc.registry import build as build_pass
from mlc.rewriting import rewrite
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.kernels import HEAD
from mlc.statistics import CollectedStatistics
from mlc.types import Dim, InputSpec, NodePlan, OutputSpec, PassSpec, Plan, Signature, Target
from passes import _dynamic
from passes.int8_dynamic import WHOLE_BATCH, Int8Dynamic
from tests.backend_models import FORMS, NOT_RUN, SAME, Rewritten, cases, judged, with_initializers
from tests.blocks import tied, token_batches
from tests.graphs import artifact, references
from tests.quantizing import (
    ANY_CPU,
    VNNI,
    Quantized,
    assert_tidy,
    batches,
    build,
    count_ops,
    run,
    samples,
    weights,
)  # fmt: skip

pytestmark = pytest.mark.needs_onnxruntime


def dynamic(model, data=None, capabilities=ANY_CPU, plan=None, allow=lambda site: True):
    """The model after int8-dynamic, checked by ONNX's checker."""
    after, plan = model.clone(), Plan() if plan is None else plan
    change = Int8Dynamic().apply(after, Context(capabilities, plan, allow=allow))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert_tidy(after, model)
    data = samples(model) if data is None else data
    return Quantized(model, after, change, plan, CollectedStatistics({}), data)


def bytes_of(model, dtype=ir.DataType.INT8):
    """The elements of all initializers of a type."""
    held = [value.const_value for value in model.graph.initializers.values() if value.dtype == dtype]
    return sum(tensor.size for tensor in held)


def test_it_is_installed_and_needs_no_data():
    assert "int8-dynamic" in available()
    assert not Int8Dynamic().calibrates
    assert Int8Dynamic().needs(tied()) == ()


# products


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


TWO = """agraph (float[n,24] x) => (float[n,7] y, float[n,5] z) {
    y = MatMul(x, w)
    a = MatMul(x, v)
    z = Add(b, a)
}"""


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


@pytest.mark.parametrize(("dims", "shape", "result"), STACKS)
def test_stacks_of_matrices_and_vectors(dims, shape, result):
    output = f"float[{result}] y" if result else "float y"
    text = f"agraph (float[{dims}] x) => ({output}) {{\n y = MatMul(x, w)\n}}"
    found = dynamic(build(text, weights(0, w=shape)), VECTOR if dims == "21" else None)
    assert found.change.sites == ("y",)
    assert found.sqnr(optimize=False) > 28
    assert found.sqnr() > 28
    assert saturation_proof(found.model)[0].startswith("no product sum saturates on: onnxruntime")


VECTOR = batches({"x": np.random.default_rng(5).normal(size=21).astype(np.float32)})


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


# branches and bodies of loops

INSIDE = """agraph (float[n,8] x, bool c) => (float[n,8] z, float[n,8] o) {
    z = If(c) <
        then_branch = yes () => (float[n,8] p) { a = MatMul(x, w) r = Relu(a) b = MatMul(x, v) p = Add(r, b) },
        else_branch = no () => (float[n,8] q) { q = Neg(x) }
    >
    o = MatMul(x, w)
}"""

LOOP = """agraph (float[4,8] x) => (float[4,8] y) <int64 rounds = {3}, bool go = {1}> {
    y = Loop(rounds, go, x) <
        body = step (int64 i, bool on, float[4,8] h) => (bool still, float[4,8] t) {
            still = Identity(on)
            m = MatMul(h, w)
            v = Gemm(x, w, b)
            s = Add(m, v)
            t = Tanh(s)
        }
    >
}"""


def optimized_ops(found, folder):
    return sorted(node.op_type for graph in found.optimized(folder).graphs() for node in graph)


def test_products_in_a_branch(tmp_path):
    x = weights(1, x=(5, 8))["x"]
    data = batches({"x": x, "c": np.array(True)}) + batches({"x": x, "c": np.array(False)})
    found = dynamic(build(INSIDE, weights(0, w=(8, 8), v=(8, 8))), data)
    assert found.change.sites == ("o", "z.then_branch/a", "z.then_branch/b")
    assert bytes_of(found.model) == 2 * 64
    assert found.sqnr(optimize=False) > 30
    assert found.sqnr() > 30
    ops = optimized_ops(found, tmp_path)
    assert (ops.count("MatMulIntegerToFloat"), ops.count("DynamicQuantizeMatMul")) == (2, 1)


def test_products_in_the_body_of_a_loop():
    found = dynamic(build(LOOP, weights(0, w=(8, 8), b=(8,))))
    assert found.change.sites == ("y.body/m", "y.body/v")
    assert found.sqnr(optimize=False) > 25
    assert found.sqnr() > 25


# tables

TABLE = "agraph (int64[n,m] ids) => (float[n,m,64] e) {\n e = Gather(w, ids)\n}"


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


def test_how_large_a_table_is_can_be_said():
    model = build(TABLE, weights(0, w=(10, 64)))
    assert Int8Dynamic(smallest_table=641).apply(model.clone(), Context(ANY_CPU)).sites == ()
    assert Int8Dynamic(smallest_table=640).apply(model.clone(), Context(ANY_CPU)).sites == ("e",)
    with pytest.raises(UsageError, match="smallest_table is a number of elements"):
        build_pass(PassSpec("int8-dynamic", (("smallest_table", -1),)))


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


# LSTM

WITH_LSTM = replace(ANY_CPU, kernels=tuple(Int8Dynamic.may_use_kernels))
SIZES = {"w": (20, 6), "r": (20, 5), "b": (40,), "h": (3, 5), "c": (3, 5), "p": (15,)}


def lstm(attributes="", inputs="x, w, r, b", outputs="y, yh, yc", directions=1, inputs_given=()):
    """One LSTM of 6 inputs and 5 hidden, over sequences of 7, a batch of 3."""
    shapes = {name: (directions, *dims) for name, dims in SIZES.items() if name in inputs.split(", ")}
    shown = {
        "y": f"float[7,{directions},3,5] y",
        "yh": f"float[{directions},3,5] yh",
        "yc": f"float[{directions},3,5] yc",
    }
    results = ", ".join(shown[name] for name in outputs.split(", ") if name)
    text = f"agraph (float[7,3,6] x) => ({results}) {{\n {outputs} = LSTM<hidden_size = 5{attributes}>({inputs})\n}}"
    arrays = weights(0, **shapes)
    return build(text, arrays | {"lengths": np.array([7, 2, 4], np.int32)} if "lengths" in inputs else arrays, 14)


LSTMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without a bias": {"inputs": "x, w, r"},
    "reverse": {"attributes": ', direction = "reverse"'},
    "both ways": {"attributes": ', direction = "bidirectional"', "directions": 2},
    "with all that it may read": {"inputs": "x, w, r, b, lengths, h, c, p"},
    "clipped": {"attributes": ", clip = 0.5"},
    "coupled": {"attributes": ", input_forget = 1"},
    "other functions": {"attributes": ', activations = ["HardSigmoid", "Tanh", "Softsign"]'},
    "its state alone": {"outputs": ", yh"},
}


@pytest.mark.parametrize("able", [WITH_LSTM, replace(VNNI, kernels=WITH_LSTM.kernels)])
@pytest.mark.parametrize("form", LSTMS)
def test_an_lstm_where_the_target_has_its_kernel(form, able):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=able)
    (node,) = found.nodes("DynamicQuantizeLSTM")
    assert found.change.sites == (("yh",) if form == "its state alone" else ("y",))
    assert node.domain == "com.microsoft"
    assert found.change.notes == (WHOLE_BATCH,)
    assert {value.dtype for value in node.inputs[1:3]} == {ir.DataType.INT8}
    assert found.sqnr(optimize=False) > 28
    assert found.sqnr() > 28


def test_weights_that_several_lstms_read_are_stored_once():
    text = """agraph (float[7,3,5] x) => (float[7,1,3,5] z) {
        y = LSTM<hidden_size = 5>(x, w, w)
        s = Squeeze(y, one)
        z = LSTM<hidden_size = 5>(s, w, w)
    }"""
    found = dynamic(build(text, weights(0, w=(1, 20, 5)) | {"one": np.array([1])}), capabilities=WITH_LSTM)
    assert found.change.sites == ("y", "z")
    assert bytes_of(found.model) == 100 + 20
    assert found.sqnr() > 25


def by_tensor(model):
    """Give an LSTM of codes one scale for each direction in the place of one for each column."""
    (node,) = [node for node in model.graph if node.op_type == "DynamicQuantizeLSTM"]
    for index, place in ((1, 8), (2, 10)):
        codes, scales = (node.inputs[at].const_value.numpy() for at in (index, place))
        real = codes * scales[:, np.newaxis]
        scale = np.abs(real).max(axis=(1, 2)) / np.float32(127)
        for at, array in ((index, np.rint(real / scale[:, np.newaxis, np.newaxis]).astype(np.int8)), (place, scale),
                          (place + 1, np.zeros(len(scale), np.int8))):  # fmt: skip
            node.inputs[at].const_value = ir.tensor(array)
            node.inputs[at].shape = ir.Shape(array.shape)


@pytest.mark.parametrize("form", ["plain", "both ways"])
def test_scales_by_column_are_no_worse_than_one_for_all(form):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=WITH_LSTM)
    columns = found.sqnr()
    by_tensor(found.model)
    assert columns + 1 > found.sqnr() > 25


def test_an_lstm_stays_float_in_standard_output():
    found = dynamic(lstm())
    assert found.change.sites == ()
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("y", "ONNX has no integer LSTM, and onnxruntime's own is not for this target or for portable output")
    ]
    assert found.change.notes == ()


# safe from saturation


def test_no_product_sum_saturates():
    model = tied()
    found = dynamic(model, token_batches())
    assert [product.site for product in integer_products(found.model)] == ["l.int32", "g.int32", "y.int32"]
    safe = ("no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO (x86 without VNNI)",)
    assert saturation_proof(found.model) == safe
    assert saturation_proof(dynamic(model, token_batches(), VNNI).model)[0].startswith("product sums may saturate")


@pytest.mark.parametrize("form", ["plain", "both ways"])
def test_no_product_sum_of_an_lstm_saturates(form):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=WITH_LSTM)
    assert saturation_proof(found.model)[0].startswith("no product sum saturates on: onnxruntime")
    full = dynamic(model, capabilities=replace(VNNI, kernels=WITH_LSTM.kernels))
    assert saturation_proof(full.model)[0].startswith("product sums may saturate on onnxruntime")


@pytest.mark.parametrize("rows", [20, 21])
def test_the_worst_activations_are_added_up_exactly(rows):
    weight = np.abs(weights(rows, w=(rows, 6))["w"])
    model = build(f"agraph (float[n,{rows}] x) => (float[n,6] y) {{\n y = MatMul(x, w)\n}}", {"w": weight})
    worst = np.full((3, rows), 255, np.uint8)
    for able, exact in ((ANY_CPU, True), (VNNI, False)):
        codes = dynamic(model, capabilities=able).array("w.int8")
        for order in ORDERS:
            sums = saturating_sums(worst, codes, layout_of("MatMul", 2), order)
            assert np.array_equal(sums, exact_sums(worst, codes.T)) is exact


def test_full_bytes_are_used_where_nothing_saturates():
    codes = dynamic(tied(), token_batches(), VNNI).array("w1.int8")
    assert (np.abs(codes).max(axis=0) == 127).all()


def test_a_table_alone_has_all_eight_bits():
    codes = dynamic(build(TABLE, weights(0, w=(1024, 64))), batches({"ids": np.array([[1]])})).array("w.int8")
    assert (np.abs(codes).max(axis=1) == 127).all()


# what today's quantizers get wrong


def test_dead_and_tiny_channels():
    arrays = weights(0, w=(24, 7), v=(24, 5), b=(5,))
    arrays["w"][:, 0] = 0
    arrays["w"][:, 1] *= 1e-7
    arrays["w"][:, 2] = 1e-42
    found = dynamic(build(TWO, arrays))
    assert (found.array("w.scale") >= np.finfo(np.float32).tiny).all()
    inputs = found.data[0].inputs
    expected, actual = run(found.before, inputs)["y"], run(found.model, inputs)["y"]
    assert (actual[:, 0] == 0).all()
    assert np.allclose(actual[:, 1], expected[:, 1], atol=1e-8)
    assert np.abs(actual[:, 2]).max() < 1e-35


def test_an_empty_batch():
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = np.zeros((0, 24), np.float32)
    for optimize in (True, False):
        given = run(found.model, {"x": x}, optimize=optimize)
        assert (given["y"].shape, given["z"].shape) == ((0, 7), (0, 5))


def test_activations_of_nothing_but_zeros():
    arrays = weights(0, w=(24, 7), v=(24, 5), b=(5,))
    found = dynamic(build(TWO, arrays))
    for optimize in (True, False):
        given = run(found.model, {"x": np.zeros((4, 24), np.float32)}, optimize=optimize)
        assert (given["y"] == 0).all()
        assert (given["z"] == arrays["b"]).all()


@pytest.mark.parametrize("constant", [3.0, -2.0, 1e-30])
def test_activations_of_one_value(constant):
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = np.full((4, 24), constant, np.float32)
    expected, actual = run(found.before, {"x": x})["y"], run(found.model, {"x": x})["y"]
    assert np.allclose(actual, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_is_lost_and_an_infinity_spoils_every_row(bad):
    assert "A NaN in x\n    is lost" in (Int8Dynamic.__doc__ or "")
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = weights(1, x=(3, 24))["x"]
    x[1, 5] = bad
    y = run(found.model, {"x": x})["y"]
    assert np.isnan(y).any() == (bad == np.inf)


def test_rows_depend_on_those_beside_them_and_the_report_says_so():
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = weights(1, x=(2, 24))["x"]
    alone, beside = run(found.model, {"x": x[:1]}), run(found.model, {"x": x * np.array([[1], [50]], np.float32)})
    assert not np.array_equal(alone["y"], beside["y"][:1])
    assert "the rows beside it" in found.change.notes[0]


# what is refused

REFUSALS = [
    ("u = MatMul(x, x)", {}, "both sides are activations"),
    ("u = MatMul(w, x)", {"w": (8, 8)}, "its weight is on the left"),
    ("u = Gemm(x, x)", {}, "its weight is not constant"),
    ("t = Transpose<perm = [0, 1]>(w)\n u = MatMul(x, t)", {"w": (8, 5)},
     "both sides are activations"),
    ("s = Sum(x)\n f = Reshape(s, i)\n u = MatMul(f, w)", {"w": (2, 64, 3)},
     "its weight is a stack of matrices, and the rank of its input is not known"),
    ("u = GRU<hidden_size = 2>(l, g, h)", {"g": (1, 6, 8), "h": (1, 6, 2), "l": (1, 8, 8)},
     "there is no integer kernel for it"),
    ("u = RNN<hidden_size = 2>(l, g, h)", {"g": (1, 2, 8), "h": (1, 2, 2), "l": (1, 8, 8)},
     "there is no integer kernel for it"),
    ("u = Gather<axis = 1>(w, j)", {"w": (8, 8)}, "it does not take rows of a matrix"),
    ("u = Gather(w, j)", {"w": (8, 8)}, "its table of 64 elements is small"),
    ("u = Gather(w, j)", {"w": (2**17, 1)}, "its rows of one element would not become smaller"),
    ("u = MatMul(x, d)\n", {}, "its weight d is quantized already"),
    ("u = Conv(k, w)", {"w": (4, 3, 2, 2), "k": (1, 3, 5, 5)},
     "the integer kernel of a convolution whose scales are not known beforehand is slower than the float one"),
    ("u = ConvTranspose(k, w)", {"w": (3, 4, 2, 2), "k": (1, 3, 5, 5)}, "there is no integer kernel for it"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "shapes", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_it_refuses(lines, shapes, reason):
    arrays = weights(0, **shapes) | {"i": np.array([64]), "j": np.array([1])}
    if "(x, d)" in lines:
        lines = f"d = DequantizeLinear(q, one)\n {lines}"
        arrays |= {"q": np.ones((8, 3), np.int8), "one": np.array(1, np.float32)}
    model = build(f"agraph (float[8,8] x) => (u) {{\n {lines}\n}}", arrays)
    if "(f, w)" in lines:
        next(node for node in model.graph if node.op_type == "Reshape").outputs[0].shape = None
    assert refusals(model) == [("u", reason)]


def refusals(model, capabilities=ANY_CPU):
    change = Int8Dynamic().apply(model.clone(), Context(capabilities))
    assert change.sites == ()
    return [(refusal.site, refusal.reason) for refusal in change.refused]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("line", "role"), [("MatMul(x, w)", "weight"), ("Gather(w, i)", "table")])
def test_what_is_not_finite_is_refused(bad, line, role):
    arrays = weights(0, w=(8, 8)) | {"i": np.array([0])}
    arrays["w"][3, 2] = bad
    model = build(f"agraph (float[8,8] x) => (u) {{\n u = {line}\n}}", arrays)
    assert refusals(model) == [("u", f"its {role} w holds NaN or Inf")]


def test_an_empty_weight_is_refused():
    text = "agraph (float[n,0] x) => (float[n,5] y) {\n y = MatMul(x, w)\n}"
    assert refusals(build(text, weights(0, w=(0, 5)))) == [("y", "its weight is empty")]


def test_a_weight_of_another_type_is_refused():
    text = "agraph (float16[n,6] x) => (float16[n,5] y) {\n y = MatMul(x, w)\n}"
    assert refusals(build(text, {"w": np.ones((6, 5), np.float16)})) == [("y", "its weight is float16, not float32")]


def test_a_weight_that_a_caller_may_override_is_refused():
    text = "agraph (float[n,6] x, float[6,5] w) => (float[n,5] y) {\n y = MatMul(x, w)\n}"
    (found,) = refusals(build(text, weights(0, w=(6, 5))))
    assert found == ("y", "its weight w is an input that a caller may override")


def test_sums_that_32_bits_may_not_hold_are_refused():
    rows = 2**31 // (255 * 127)
    for more, expected in ((0, []), (1, [("y", "sums of 66,312 products may leave 32 bits")])):
        text = f"agraph (float[1,{rows + more}] x) => (float[1,1] y) {{\n y = MatMul(x, w)\n}}"
        model = build(text, {"w": np.full((rows + more, 1), 0.1, np.float32)})
        assert [(each.site, each.reason) for each in Int8Dynamic().apply(model, Context(VNNI)).refused] == expected
    ones = {"x": np.ones((1, rows), np.float32)}
    found = dynamic(build(text.replace(str(rows + 1), str(rows)), {"w": np.full((rows, 1), 0.1, np.float32)}), [], VNNI)
    assert np.allclose(run(found.model, ones)["y"], 0.1 * rows, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"attributes": ", layout = 1", "outputs": "y"},
            "its batch comes first, which the integer kernel does not know",
        ),
        ({"inputs": "x, x, r"}, "its weight is not constant"),
        ({"inputs": "x, w, x"}, "its recurrence weight is not constant"),
    ],
)
def test_an_lstm_that_the_kernel_does_not_know_is_refused(change, reason):
    model = lstm(**change)
    assert refusals(model, WITH_LSTM) == [("y", reason)]


def test_an_lstm_of_long_sums_is_refused(monkeypatch):
    monkeypatch.setattr(_dynamic, "LONGEST_SUM", 5)
    assert refusals(lstm(), WITH_LSTM) == [("y", "sums of 6 products may leave 32 bits")]


def test_a_large_table_that_something_else_reads_is_refused():
    text = TABLE.replace("e)", "e, k)").replace("\n}", "\n t = Transpose(w)\n k = Relu(t)\n}")
    arrays = weights(0, w=(1024, 64))
    assert refusals(build(text, arrays)) == [("e", "its table w is read by Relu k too, which stays float")]
    text = TABLE.replace("e)", "e, float[1024,64] w)")
    assert refusals(build(text, arrays)) == [("e", "its table w is an output of the model")]


# plans


def test_what_is_not_allowed_stays_and_every_site_is_asked_for_once():
    asked = []

    def allow(site):
        asked.append(site)
        return site != "y"

    found = dynamic(tied(), token_batches(), allow=allow)
    assert found.change.sites == ("l", "g")
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("e", "its table of 3,200 elements is small")
    ]
    assert sorted(asked) == ["g", "l", "y"]
    assert found.sqnr() > 28


def test_a_plan_is_kept():
    plan = Plan((NodePlan("y", "MatMul", "int8-dynamic", ""), NodePlan("g", "Gemm", "float", "")))
    found = dynamic(tied(), token_batches(), plan=plan)
    assert found.change.sites == ("y",)
    assert {"w", "w1", "w2"} <= found.model.graph.initializers.keys()


def test_the_plan_says_why_and_leaves_the_model_as_it_is():
    model = build(INSIDE, weights(0, w=(8, 8), v=(8, 8)))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plan = {entry.node: (entry.op, entry.format, entry.reason) for entry in Int8Dynamic().plan(model, Context(ANY_CPU))}
    taken = ("MatMul", "int8-dynamic", "constant weight, weights safe from saturation")
    assert plan == dict.fromkeys(("o", "z.then_branch/a", "z.then_branch/b"), taken)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    (table,) = [entry for entry in Int8Dynamic().plan(tied(), Context(VNNI)) if entry.op == "Gather"]
    assert (table.format, table.reason) == ("int8-dynamic", "a large or shared table")
    (layer,) = Int8Dynamic().plan(lstm(), Context(ANY_CPU))
    assert (layer.op, layer.format, layer.reason) == ("LSTM", "float", _dynamic.NO_KERNEL)


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


# where the LSTM's kernel is

PROBES = optional_probes_of([PassSpec("int8-dynamic")])


@pytest.mark.parametrize(
    "target", [Target(), Target(device="native"), Target(options=(("session.disable_prepacking", "1"),))]
)
def test_a_cpu_is_seen_to_have_the_lstm(target):
    assert capabilities(target, {}, PROBES).kernels == ("com.microsoft.DynamicQuantizeLSTM",)


@pytest.mark.parametrize("target", [Target("openvino", "cpu"), Target(provider="nowhere")])
def test_another_runtime_has_no_such_lstm(target):
    assert capabilities(target, {}, PROBES).kernels == ()


def test_it_asks_for_what_it_writes():
    (text,) = Int8Dynamic.may_use_kernels.values()
    onnx.checker.check_model(onnx.parser.parse_model(HEAD.format(domain="com.microsoft", graph=text)))


def test_portable_output_keeps_an_lstm_float(tmp_path, quick, capsys):
    onnx.save(ir.to_proto(lstm()), tmp_path / "lstm.onnx")
    arguments = ["--to", "int8-dynamic", "--portable", "--out", str(tmp_path / "out")]
    assert main(["quantize", str(tmp_path / "lstm.onnx"), *arguments]) == 4
    assert "int8-dynamic" in capsys.readouterr().err


def test_an_lstm_is_quantized_where_it_need_not_be_portable(tmp_path):
    onnx.save(ir.to_proto(lstm()), tmp_path / "lstm.onnx")
    original = mlc.load(tmp_path / "lstm.onnx")
    artifact = mlc.rewrite(mlc.export(original), original, passes=["int8-dynamic"])
    step = artifact.steps[-1]
    assert (step.sites, step.notes) == (("y",), (WHOLE_BATCH,))
    assert step.sqnr["y"] > 28


# beside what the runtime's own tool makes


def by_the_runtime(model, folder):
    """What onnxruntime.quantization.quantize_dynamic makes of a model: signed bytes, a scale for each channel."""
    onnx.save(ir.to_proto(model), folder / "before.onnx")
    quantize_dynamic(folder / "before.onnx", folder / "after.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return ir.load(folder / "after.onnx")


LAYERS = """agraph (float[n,24] x) => (float[n,5] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    r = Relu(b)
    y = Gemm<transB = 1>(r, w2, b2)
}"""


def layers():
    return build(LAYERS, weights(0, w1=(24, 40), b1=(40,), w2=(5, 40), b2=(5,)))


@pytest.mark.parametrize("model", [layers(), lstm()], ids=["layers", "lstm"])
def test_no_worse_than_the_tool_of_the_runtime_and_the_same_kernels(model, tmp_path):
    ours = dynamic(model, capabilities=replace(VNNI, kernels=WITH_LSTM.kernels))
    theirs = replace(ours, model=by_the_runtime(model, tmp_path))
    assert ours.sqnr() > theirs.sqnr() - 0.01
    assert ours.fused_ops(tmp_path) == theirs.fused_ops(tmp_path)


def through_int8_dynamic(case, answers, workspace):
    """What the verified line makes of a model of the onnx package's backend tests."""
    inputs = tuple(InputSpec(n, a.dtype.name, tuple(Dim(s, s) for s in a.shape)) for n, a in case.feeds.items())
    outputs = tuple(OutputSpec(name, array.dtype.name, array.shape) for name, array in answers.items())
    before = Artifact({"model": ir.from_proto(case.model)}, Signature(inputs, outputs), Origin(case.name, "", "", 0))
    kept = [Reference({}, case.feeds, answers)]
    done = rewrite(before, [PassSpec("int8-dynamic")], references=kept, workspace=workspace, capabilities=WITH_LSTM)
    (step,) = done.steps
    return Rewritten(write_model(done.model, workspace.folder("after")), 0.1 if step.sites else 0.0, done.steps)


BACKEND = {"gemm": 11, "lstm": 5, "matmul": 7}
"""Modules of the onnx package's backend tests, and the nodes that are quantized where inputs are initializers."""

OTHERS = {module.name for module in pkgutil.iter_modules(operators.__path__)} - BACKEND.keys()


@pytest.mark.parametrize("module", BACKEND)
@pytest.mark.parametrize("form", FORMS)
def test_models_of_the_backend_tests(module, form):
    made = [case for case in cases(OTHERS) if case.name.startswith(f"node/test_{module}_")]
    verdicts = [judged(case if form == FORMS[0] else with_initializers(case), through_int8_dynamic) for case in made]
    assert {each.outcome for each in verdicts if each.outcome != NOT_RUN} == {SAME}
    sites = sum(len(each.steps[0].sites) for each in verdicts if each.steps)
    assert sites == (0 if form == FORMS[0] else BACKEND[module])
