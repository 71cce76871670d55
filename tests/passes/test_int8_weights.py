import dataclasses
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from mlc.graph_pass import Context
from mlc.registry import build as build_pass
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.opening import open_session
from mlc.types import NodePlan, PassSpec, Plan, Target
from passes._block_forms import KERNEL
from passes.int4_weights import Int4Weights
from passes.int8_weights import Int8Weights
from tests.blocks import FORMS, by_blocks, product, tied, token_batches
from tests.quantizing import ANY_CPU, batches, build, count_ops, run, samples, weights
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime


def small(**options):
    return Int8Weights(block=32, **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_embedding_products_and_tied_head(form, symmetric):
    found = by_blocks(tied(), small(symmetric=symmetric), token_batches(), form=form)
    assert found.change.sites == ("e", "l", "g", "y")
    assert found.change.refused == ()
    assert found.sqnr(optimize=False) > 35
    assert found.sqnr() > 35


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 4])
def test_sizes_other_than_the_calibrated(form, rows):
    found = by_blocks(tied(), small(), token_batches(), form=form)
    inputs = token_batches(1, rows)[0].inputs
    expected, actual = run(found.before, inputs)["y"], run(found.model, inputs)["y"]
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_the_runtime_joins_every_product_with_its_codes(tmp_path):
    found = by_blocks(tied(), small(), token_batches())
    fused = found.fused_ops(tmp_path)
    assert fused["MatMulNBits"] == 3
    assert fused.keys().isdisjoint({"DequantizeLinear", "Transpose", "MatMul"})
    assert levels(found.optimized(tmp_path)) == {4}


def levels(model):
    return {node.attributes["accuracy_level"].as_int() for node in model.graph if node.op_type == "MatMulNBits"}


def test_the_form_of_the_runtime():
    found = by_blocks(tied(), small(), token_batches(), form="joined")
    ops = found.ops()
    assert ops["MatMulNBits"] == 3
    assert ops.keys().isdisjoint({"MatMul", "Gemm", "Transpose", "DequantizeLinear"})
    assert levels(found.model) == {4}
    assert found.model.opset_imports["com.microsoft"] == 1


def test_a_gpu_keeps_its_activations_as_they_are():
    model, _ = product()
    small().apply(model, Context(replace(FORMS["joined"], cpu=False)))
    assert levels(model) == {0}


def test_the_standard_form_may_be_asked_for():
    found = by_blocks(tied(), small(form="standard"), token_batches(), form="joined")
    assert "MatMulNBits" not in found.ops()
    assert "com.microsoft" not in found.model.opset_imports


def test_this_machine_has_the_kernel_that_is_asked_for():
    assert capabilities(Target(), {}, Int8Weights.may_use_kernels).kernels == (KERNEL,)
    assert capabilities(Target("openvino"), {}, Int8Weights.may_use_kernels).kernels == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cls", [Int8Weights, Int4Weights])
def test_openvino_runs_it_too(form, symmetric, cls, tmp_path):
    target, _ = usable("openvino/CPU")
    found = by_blocks(tied(), cls(block=32, symmetric=symmetric), token_batches(), form=form)
    path = tmp_path / "model.onnx"
    ir.save(found.model, path)
    inputs = {"ids": np.abs(token_batches(1, 2)[0].inputs["ids"])}
    expected = run(found.model, inputs, optimize=False)["y"]
    with open_session(path, target) as session:
        (actual,) = session.run(inputs).values()
    # either runtime rounds the activations to 8 bits as it computes, in its own way
    assert np.abs(actual - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_a_tied_table_is_stored_once_and_no_float_weight_is_left(form):
    found = by_blocks(tied(), small(), token_batches(), form=form)
    tensors = [value.const_value for value in found.model.graph.initializers.values()]
    codes = [each for each in tensors if each.size > 1 and each.dtype in (ir.DataType.INT8, ir.DataType.UINT8)]
    assert sum(tensor.size for tensor in codes) == 50 * 64 + 2 * 64 * 160
    floats = {name for name, value in found.model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
    assert floats == {"w.scale", "w1.scale", "w2.scale", "b1", "b2"}


def test_the_dequantized_weight_is_near_the_weight():
    model, weight = product(rows=128, columns=3)
    found = by_blocks(model, Int8Weights(), samples(model))
    identity = run(found.model, {"x": np.eye(128, dtype=np.float32)}, optimize=False)["y"]
    step = np.abs(weight).max(axis=0) / 127
    assert (np.abs(identity - weight) <= 0.51 * step).all()
    assert not np.array_equal(identity, weight)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(70, 5), (33, 1), (160, 7)])
def test_short_blocks_and_odd_columns(symmetric, rows, columns):
    model, _ = product(columns, rows)
    found = by_blocks(model, small(symmetric=symmetric), samples(model), form="joined")
    assert found.change.sites == ("y",)
    assert found.sqnr(optimize=False) > 35
    assert found.sqnr() > 35


def test_a_short_block_is_refused_where_openvino_may_have_to_read_it():
    model, _ = product(rows=70)
    assert refusals(model) == [("y", "its 70 rows are not whole blocks of 32")]


@pytest.mark.parametrize(("rows", "block"), [(384, 128), (192, 64), (160, 32), (70, 32)])
def test_blocks_are_as_large_as_fits(rows, block):
    model, _ = product(rows=rows)
    plan = Int8Weights().plan(model, Context(FORMS["joined"]))
    assert plan == (NodePlan("y", "MatMul", "int8-weights", f"constant weight, in blocks of {block}"),)
    found = by_blocks(model, Int8Weights(), samples(model), form="joined")
    assert [node.attributes["block_size"].as_int() for node in found.nodes("MatMulNBits")] == [block]


def test_what_is_planned_is_what_is_done():
    text = "agraph (float[64,64] x) => (y, z) {\n y = MatMul(x, w)\n z = MatMul(x, x)\n}"
    model = build(text, weights(0, w=(64, 5)), 21)
    before = count_ops(model)
    plan = {entry.node: (entry.format, entry.reason) for entry in small().plan(model, Context(ANY_CPU))}
    assert plan["y"] == ("int8-weights", "constant weight, in blocks of 32")
    assert plan["z"] == ("float", "both sides are activations")
    assert count_ops(model) == before
    assert small().apply(model, Context(ANY_CPU)).sites == ("y",)


def test_zeros_stay_zeros():
    text = "agraph (float[n,64] x) => (float[n,3] y) {\n y = MatMul(x, w)\n}"
    model = build(text, {"w": np.zeros((64, 3), np.float32)}, 21)
    found = by_blocks(model, small(), samples(model))
    assert np.abs(run(found.model, found.data[0].inputs)["y"]).max() < np.finfo(np.float32).tiny
    assert (found.array("w.scale") == np.finfo(np.float32).tiny).all()


GOLDEN = """agraph (float[n,32] x, int64[n] ids) => (float[n,2] y, float[n,2] z, float[n,32] e) {
    y = Gemm<transB = 1>(x, w, b)
    e = Gather(v, ids)
    z = MatMul(x, u)
}"""


def test_golden(golden):
    ramp = np.arange(64, dtype=np.float32)
    arrays = {
        "w": ramp.reshape(2, 32) - 20,
        "b": np.ones(2, np.float32),
        "v": ramp.reshape(2, 32),
        "u": -ramp.reshape(32, 2),
    }
    for form in FORMS:
        model = build(GOLDEN, arrays, 21)
        change = small(symmetric=False).apply(model, Context(FORMS[form]))
        assert change.sites == ("y", "e", "z")
        golden(f"int8_weights_{form}.onnxtxt", ir.to_onnx_text(model).rstrip() + "\n")


def test_it_needs_no_data():
    subject = Int8Weights()
    assert not subject.calibrates
    assert subject.needs(tied()) == ()


def test_options():
    with pytest.raises(Exception, match="block"):
        build_pass(PassSpec("int8-weights", (("block", 48),)))
    assert {field.name for field in dataclasses.fields(Int8Weights)} == {"block", "symmetric", "form"}


def on_codes(operator="MatMul"):
    """A product whose input the model has as codes."""
    text = f"""agraph (float[n,64] x) => (float[n,4] y) <float s = {{0.03}}, uint8 z = {{128}}> {{
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        y = {operator}(d, w)
    }}"""
    return build(text, weights(0, w=(64, 4)), 21)


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_product_on_codes_is_left_alone_in_standard_form(operator):
    model = on_codes(operator)
    assert refusals(model) == [("y", "its input d is quantized already")]
    assert Int8Weights().apply(model.clone(), Context(FORMS["joined"])).sites == ("y",)


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Gather"])
def test_an_operator_of_the_same_name_in_another_domain_is_another(operator):
    inputs = "w, i" if operator == "Gather" else "x, w"
    text = f"""<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
    agraph (float[n,64] x, int64[n] i) => (float[n,64] y) {{ y = my.{operator}({inputs}) }}
    <domain: "my", opset_import: ["" : 21]> {operator} (a, b) => (c) {{ c = Identity(a) }}"""
    model = ir.from_onnx_text(text, initializers=[ir.tensor(weights(0, w=(64, 64))["w"], name="w")])
    assert Int8Weights().apply(model.clone(), Context(FORMS["standard"])).sites == ()
    assert refusals(model) == []


REFUSALS = [
    ("u = MatMul(x, x)", {}, "both sides are activations"),
    ("u = MatMul(w, x)", {"w": (64, 64)}, "its first input is a constant"),
    ("u = MatMul(x, w)", {"w": (64, 64, 64)}, "its weight is not a matrix"),
    ("u = Gemm<alpha = 2.0>(x, w)", {"w": (64, 5)}, "alpha, beta or transA is not the default"),
    ("u = Gather(w, i)", {"w": (5, 40)}, "its rows of 40 elements are not whole blocks of 32"),
    ("u = Gather<axis = 1>(w, i)", {"w": (5, 64)}, "it does not take rows of a matrix"),
    ("v = Slice(x, s, s)\n m = Relu(w)\n u = MatMul(x, w)", {"w": (64, 5)},
     "its weight w is read by Relu m too, which stays float"),
    ("t = Transpose<perm = [0, 1]>(w)\n u = MatMul(x, t)", {"w": (64, 64)}, "both sides are activations"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "shapes", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_it_refuses(lines, shapes, reason):
    arrays = weights(0, **shapes) | {"i": np.array([1, 0]), "s": np.array([0])}
    model = build(f"agraph (float[64,64] x) => (u) {{\n {lines}\n}}", arrays, 21)
    assert refusals(model) == [("u", reason)]


def refusals(model):
    change = small().apply(model.clone(), Context(ANY_CPU))
    assert change.sites == ()
    return [(refusal.site, refusal.reason) for refusal in change.refused]


def test_less_than_a_block_is_refused():
    model, _ = product(rows=31)
    assert refusals(model) == [("y", "its 31 rows are less than a block of 32")]


def test_a_convolution_is_refused():
    text = "agraph (float[1,40,3,3] x) => (u) {\n u = Conv(x, w)\n}"
    assert refusals(build(text, weights(0, w=(4, 40, 1, 1)), 21)) == [("u", "its weight is not a matrix")]


def test_a_weight_that_a_caller_may_override_is_refused():
    text = "agraph (float[n,64] x, float[64,5] w) => (float[n,5] y) {\n y = MatMul(x, w)\n}"
    (found,) = refusals(build(text, weights(0, w=(64, 5)), 21))
    assert found == ("y", "its weight w is an input that a caller may override")


def test_a_weight_that_is_an_output_is_refused():
    text = "agraph (float[n,64] x) => (float[n,5] y, float[64,5] w) {\n y = MatMul(x, w)\n}"
    (found,) = refusals(build(text, weights(0, w=(64, 5)), 21))
    assert found == ("y", "its weight w is an output too")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("line", "role"), [("MatMul(x, w)", "weight"), ("Gather(w, i)", "table")])
def test_what_is_not_finite_is_refused(bad, line, role):
    arrays = weights(0, w=(64, 64)) | {"i": np.array([0])}
    arrays["w"][3, 2] = bad
    model = build(f"agraph (float[64,64] x) => (u) {{\n u = {line}\n}}", arrays, 21)
    assert refusals(model) == [("u", f"its {role} w holds NaN or Inf")]


def test_a_float16_weight_is_refused():
    text = "agraph (float16[n,64] x) => (float16[n,5] y) {\n y = MatMul(x, w)\n}"
    assert refusals(build(text, {"w": np.ones((64, 5), np.float16)}, 21)) == [
        ("y", "its weight is float16, not float32")
    ]


def test_a_weight_read_along_both_axes_is_refused():
    text = """agraph (float[n,64] x, int64[n] ids) => (y, z) {
        y = Gather(w, ids)
        z = MatMul(x, w)
    }"""
    found = dict(refusals(build(text, weights(0, w=(64, 64)), 21)))
    assert found["z"] == "its weight w is read along the other axis too"
    assert found["y"] == "its weight w is read by MatMul z too, which stays float"


def test_indices_of_unknown_rank_are_refused():
    text = "agraph (int64[n] ids) => (float[m,64] y) {\n y = Gather(w, ids)\n}"
    model = build(text, weights(0, w=(5, 64)), 21)
    model.graph.inputs[0].shape = None
    assert refusals(model) == [("y", "the rank of its indices is not known")]


def test_a_reader_that_is_kept_float_keeps_its_weight_float():
    found = by_blocks(tied(), small(), token_batches(), allow=lambda site: site != "y")
    assert found.change.sites == ("l", "g")
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("e", "its weight w is read by MatMul y too, which stays float")
    ]


def test_sites_are_asked_for_once_and_the_plan_is_kept():
    asked = []

    def allow(site):
        asked.append(site)
        return True

    plan = Plan((NodePlan("l", "MatMul", "int8-weights", ""), NodePlan("g", "Gemm", "float", "")))
    found = by_blocks(tied(), small(), token_batches(), plan, allow)
    assert found.change.sites == ("l",)
    assert asked == ["l"]


def test_a_weight_of_two_products_is_stored_once_in_both_forms():
    text = """agraph (float[n,64] x) => (float[n,64] y) {
        a = Gemm<transB = 1>(x, w, b)
        r = Relu(a)
        t = Transpose(w)
        y = MatMul(r, t)
    }"""
    model = build(text, weights(0, w=(64, 64), b=(64,)), 21)
    for form in FORMS:
        found = by_blocks(model, small(), samples(model), form=form)
        assert found.change.sites == ("a", "y")
        assert "Transpose" not in found.ops()
        codes = [v for v in found.model.graph.initializers.values() if v.dtype in (ir.DataType.INT8, ir.DataType.UINT8)]
        assert len(codes) == 1
        assert found.sqnr() > 35


@pytest.mark.parametrize("form", FORMS)
def test_indices_of_any_rank(form):
    for shape in ((), (3,), (2, 1, 3), (0, 4)):
        dims = ",".join(map(str, shape))
        text = f"agraph (int64[{dims}] ids) => (y) {{\n y = Gather(w, ids)\n}}"
        if not shape:
            text = text.replace("int64[]", "int64")
        model = build(text, weights(0, w=(9, 64)), 21)
        model.graph.inputs[0].shape = ir.Shape(shape)
        ids = np.random.default_rng(0).integers(-9, 9, shape)
        after = model.clone()
        assert small().apply(after, Context(FORMS[form])).sites == ("y",)
        expected, actual = run(model, {"ids": ids})["y"], run(after, {"ids": ids})["y"]
        assert actual.shape == expected.shape == (*shape, 64)
        assert np.allclose(actual, expected, atol=0.01)


def test_an_embedding_right_before_a_product_runs(tmp_path):
    text = "agraph (int64[n] ids) => (float[n,5] y) {\n e = Gather(w, ids)\n y = MatMul(e, v)\n}"
    model = build(text, weights(0, w=(9, 64), v=(64, 5)), 21)
    for symmetric in (True, False):
        found = by_blocks(model, small(symmetric=symmetric), batches({"ids": np.arange(9)}))
        assert found.fused_ops(tmp_path)["MatMulNBits"] == 1
        assert found.sqnr() > 35


@pytest.mark.parametrize("form", FORMS)
def test_deterministic_and_the_original_is_not_touched(form):
    model = tied()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first, second = (
        ir.to_proto(by_blocks(model, small(), token_batches(), form=form).model).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_applying_it_twice_finds_nothing_more():
    found = by_blocks(tied(), small(), token_batches())
    again = found.model.clone()
    assert small().apply(again, Context(ANY_CPU)).sites == ()
    assert count_ops(again) == found.ops()
