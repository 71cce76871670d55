"""Bf16: golden graph, half the bytes, the same graph around them, each refusal by its reason."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlc.artifact import write_model
from mlc.compare import sqnr
from passes.bf16 import Bf16
from passes.fp16 import Fp16
from tests.graphs import answers, apply, graph, line, ops, random, text
from tests.halves import holding
from tests.quantizing import build

pytestmark = pytest.mark.needs_onnxruntime

LARGE = 512
"""So many elements of float32 are worth a Cast."""


def stored(model, **options):
    after, change = apply(Bf16(**options), model)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return after, change


def linear(**arrays):
    given = {"w": random(0, 32, 32), "v": random(1, 32, 32), "b": random(2, 32), **arrays}
    return build("""agraph (float[n,32] x) => (float[n,32] y) {
        a = MatMul(x, w) s = Add(a, b) r = Relu(s) t = MatMul(r, w) y = MatMul(t, v) }""", given)  # fmt: skip


def test_golden(golden, monkeypatch):
    monkeypatch.setattr("passes._half.STORED_FROM", 1)
    after, change = stored(
        graph("""g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1,2,3,0.1}, float k = {2}> {
        a = MatMul(x, w) c = Constant<value = float[2] {0.5, 0.25}>() s = Add(a, c) m = Mul(s, k) y = MatMul(m, w) }""")
    )
    assert change.sites == ("a", "y", "m", "s")
    golden("bf16.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 6])
def test_a_weight_is_stored_once_and_computed_in_float32(rows, workspace):
    before = linear()
    after, change = stored(before)
    assert (change.sites, change.refused) == (("a", "t", "y"), ())
    assert change.headline.startswith("weights are stored in bfloat16 and computed in float32")
    assert ops(after) == ["Cast", "Cast", *ops(before)]
    held = {name: value.dtype for name, value in after.graph.initializers.items()}
    assert held == {
        "b": ir.DataType.FLOAT, "w.bfloat16": ir.DataType.BFLOAT16, "v.bfloat16": ir.DataType.BFLOAT16
    }  # fmt: skip
    feeds = {"x": random(rows, rows, 32)}
    expected, actual = (answers(model, feeds, workspace)["y"] for model in (before, after))
    assert actual.dtype == np.float32
    assert 40 < sqnr(expected, actual) < 70


def test_rounding_is_to_the_nearest_with_ties_to_even():
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, -(1 + 2.0**-8)], np.float32)
    after, _ = stored(
        build("agraph (float[n,4] x) => (float[n,512] y) { y = MatMul(x, w) }", {"w": np.tile(ties[:, None], LARGE)})
    )
    kept = after.graph.initializers["w.bfloat16"].const_value.numpy().astype(np.float32)
    assert kept[:, 0].tolist() == [1.0, 1 + 2.0**-6, 1 + 2.0**-7, -1.0]


def test_the_file_halves(tmp_path):
    before = build(
        "agraph (float[n,64] x) => (float[n,64] y) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, c) }",
        {"w": random(0, 64, 256), "b": random(1, 256), "v": random(2, 256, 64), "c": random(3, 64)},
    )
    after, change = stored(before)
    assert change.sites == ("a", "y")
    sizes = []
    for name, model in (("before", before), ("after", after)):
        (tmp_path / name).mkdir()
        sizes.append(write_model(model, tmp_path / name).stat().st_size)
    assert 0.5 <= sizes[1] / sizes[0] < 0.53


def test_the_verified_line_takes_it_without_data(workspace):
    feeds = [{"x": random(rows, rows, 32)} for rows in (2, 3)]
    _, (step,) = line(linear(), [Bf16()], feeds, workspace, requested={"bf16"})
    assert (step.dropped, step.sites) == ("", ("a", "t", "y"))
    assert step.sqnr["y"] > 40


def test_weights_of_branches_and_from_around_them(workspace):
    before = build("""agraph (float[n,32] x, bool c) => (float[n,32] y) {
        y = If(c) <then_branch = t () => (float[n,32] p) { p = MatMul(x, w) },
                   else_branch = e () => (float[n,32] o) { q = MatMul(x, w) o = Neg(q) }>
        }""", {"w": random(0, 32, 32)})  # fmt: skip
    after, change = stored(before)
    assert change.sites == ("y.then_branch/p", "y.else_branch/q")
    for taken in (True, False):
        feeds = {"x": random(1, 3, 32), "c": np.array(taken)}
        assert sqnr(answers(before, feeds, workspace)["y"], answers(after, feeds, workspace)["y"]) > 40


def overridable():
    model = linear()
    model.graph.inputs.append(model.graph.initializers["w"])
    return model


def given_out():
    model = linear()
    model.graph.outputs.append(model.graph.initializers["w"])
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (overridable(), "a caller may override its weight w"),
        (given_out(), "its weight w is an output"),
        (linear(w=np.full((32, 32), np.finfo(np.float32).min)), "its weight w holds -3.40282e+38, and bfloat16 ends"),
        (linear(w=np.full((32, 32), 1e-39, np.float32)), "its weight w has 100% of its elements below 1.2e-38"),
        (linear(w=np.arange(1024, dtype=np.float32).reshape(32, 32)), "its weight w holds whole numbers up to 1023"),
    ],
)
def test_refusals(model, reason):
    after, change = stored(model)
    assert change.sites == ("y",)
    assert [refusal.site for refusal in change.refused] == ["a", "t"]
    assert all(refusal.reason.startswith(reason) for refusal in change.refused)
    assert after.graph.initializers["w"].dtype == ir.DataType.FLOAT


def test_scales_of_quantized_values_stay_whole():
    """Of 300 channels, beside a float weight that is stored."""
    rng = np.random.default_rng(3)
    model = build("""agraph (float[n,32] x) => (float[n,32] y) {
        c = DequantizeLinear<axis = 1>(codes, scales) a = MatMul(x, c) y = MatMul(a, v) }""",
        {"codes": rng.integers(-127, 128, (32, 300)).astype(np.int8), "v": random(1, 300, 32),
         "scales": rng.uniform(0.01, 0.1, 300).astype(np.float32)})  # fmt: skip
    for subject in (Bf16(), Fp16(weights_only=True)):
        after, change = apply(subject, model)
        assert change.sites == ("y",)
        assert [(each.site, each.reason) for each in change.refused] == [
            ("c", "scales of quantized values need more bits")
        ]
        assert after.graph.initializers["scales"].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    "line_",
    [
        "y = com.microsoft.MatMulNBits<K = 32, N = 300, bits = 8, block_size = 32>(x, codes, scales)",
        "y = com.microsoft.GatherBlockQuantized<block_size = 32>(codes, x, scales)",
        "q = com.microsoft.DynamicQuantizeMatMul(x, codes, scales) y = Relu(q)",
        "q = QLinearConv(x, one, zero, codes, scales, zero, one, zero) y = DequantizeLinear(q, one, zero)",
        "q = QLinearMatMul(x, one, zero, codes, scales, zero, one, zero) y = DequantizeLinear(q, one, zero)",
        "q = QuantizeLinear<axis = 1>(x, scales) y = DequantizeLinear<axis = 1>(q, scales)",
    ],
)
def test_scales_of_every_operator_on_codes_stay_whole(line_):
    arrays = {"codes": np.zeros((300, 1, 32), np.uint8), "one": np.float32(1), "zero": np.uint8(0)}
    before = holding(f"g (float[n,32] x) => (float[n,300] y) {{ {line_} }}",
                     '<ir_version: 10, opset_import: ["":20, "com.microsoft":1]>', scales=random(0, 300),
                     **{name: array for name, array in arrays.items() if name in line_})  # fmt: skip
    after, change = apply(Bf16(), before)
    assert change.sites == ()
    assert {each.reason for each in change.refused} == {"scales of quantized values need more bits"}
    assert after.graph.initializers["scales"].dtype == ir.DataType.FLOAT


def test_a_weight_that_a_node_reads_which_stays_float_stays_whole():
    after, change = apply(Bf16(), linear(), allow=lambda site: site != "t")
    assert change.sites == ("y",)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [
        ("a", "its weight w is read by t too, which stays float")
    ]
    assert after.graph.initializers["w"].dtype == ir.DataType.FLOAT


def test_forbidden_nodes_stay_in_silence():
    after, change = apply(Bf16(), linear(), allow=lambda site: site != "y")
    assert (change.sites, change.refused) == (("a", "t"), ())
    assert "v" in after.graph.initializers


def test_whole_numbers_that_it_holds_are_stored():
    _, change = stored(linear(w=np.random.default_rng(0).integers(-128, 128, (32, 32)).astype(np.float32)))
    assert change.sites == ("a", "t", "y")


TIED = """agraph (int64[n,3] i) => (float[n,3,40] y) {
    e = Gather(w, i) t = Transpose<perm = [1, 0]>(w) y = MatMul(e, t) }"""


@pytest.mark.parametrize("subject", [Bf16(), Fp16(weights_only=True)])
@pytest.mark.parametrize("kept", [None, "e", "y"])
def test_a_table_that_is_a_head_too_is_that_of_both_through_its_transpose(subject, kept):
    before = build(TIED, {"w": random(0, 40, 16)})
    after, change = apply(subject, before, allow=lambda site: site != kept)
    assert change.sites == (() if kept else ("e", "y"))
    assert {value.dtype for value in after.graph.initializers.values()} & {ir.DataType.FLOAT} == (
        {ir.DataType.FLOAT} if kept else set()
    )
    assert [refusal.reason for refusal in change.refused] == (
        [f"its weight w is read by {kept} too, which stays float"] if kept else []
    )
