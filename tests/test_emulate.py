import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from mlc.emulate import exact_sums, integer_products, saturating_sums, saturation_proof
from mlc.formats import ORDERS, Order, full_scales, layout_of, pairs, quantize_weight, safe_scales
from tests.quantizing import VNNI, batches, build, quantized, weights

CONV = """agraph (float[2,3,8,8] x) => (float[2,4,4,4] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    y = Conv(r, w2)
}"""


def test_the_known_sum_saturates():
    activations, codes = np.array([[210, 198, 234]], np.uint8), np.array([[-81, -80, 127]], np.int8)
    layout = layout_of("Gemm", 2, trans_b=True)
    assert exact_sums(activations, codes).tolist() == [[-3132]]
    for order in ORDERS:
        assert saturating_sums(activations, codes, layout, order).tolist() == [[-3050]]


def flat(codes, layout):
    """The codes as [channels, k], k running as the activations of ``saturating_sums`` do."""
    rows = layout.rows(codes)
    return rows.reshape(len(rows), -1)


def worst_activations(codes, layout, order):
    """For each pair order the activations that drive every pair to its extremes."""
    rows = flat(codes, layout)
    return np.concatenate([np.where(rows > 0, 255, 0), np.where(rows < 0, 255, 0), np.full_like(rows, -1)]).astype(
        np.uint8
    )


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_safe_weights_never_saturate_and_full_ones_do_where_pairs_fail(seed, outputs, inputs, kernel):
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(outputs, inputs, *kernel)).astype(np.float32)
    layout = layout_of("Conv", weight.ndim, group=1)
    full = full_scales(weight, layout)
    safe = quantize_weight(weight, safe_scales(weight, full, layout), layout)
    k = inputs * int(np.prod(kernel))
    random = generator.integers(0, 256, (8, k)).astype(np.uint8)
    for order in ORDERS:
        activations = np.concatenate([random, worst_activations(safe, layout, order)])
        expected = exact_sums(activations, flat(safe, layout))
        assert (saturating_sums(activations, safe, layout, order) == expected).all()
    codes = quantize_weight(weight, full, layout)
    for order in ORDERS:
        both = np.abs(pairs(codes, layout, order).astype(int)).sum(axis=2)
        same = np.prod(np.sign(pairs(codes, layout, order)), axis=2) > 0
        if (same & (both > 128)).any():
            activations = worst_activations(codes, layout, order)
            assert (
                saturating_sums(activations, codes, layout, order) != exact_sums(activations, flat(codes, layout))
            ).any()


def test_full_8_bit_weights_saturate():
    codes = np.full((1, 4), 127, np.int8)
    activations = np.full((1, 4), 255, np.uint8)
    layout = layout_of("Gemm", 2, trans_b=True)
    assert exact_sums(activations, codes).tolist() == [[129540]]
    assert saturating_sums(activations, codes, layout, Order.ONNXRUNTIME).tolist() == [[2 * 32767]]


def test_a_file_that_travels_is_proven_for_both_runtimes():
    found = quantized(build(CONV, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3))))
    assert [product.site for product in integer_products(found.model)] == ["a", "y.float"]
    assert saturation_proof(found.model) == (
        "no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO (x86 without VNNI)",
    )


def test_full_8_bit_weights_are_named():
    found = quantized(build(CONV, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3))), capabilities=VNNI)
    sentences = saturation_proof(found.model)
    assert len(sentences) == 2
    assert sentences[0].startswith("product sums may saturate on onnxruntime (x86 without VNNI) in a (")


def test_a_float_graph_proves_nothing():
    assert saturation_proof(build(CONV, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3)))) == ()


def test_what_the_runtime_quantizes_by_itself_is_not_called_safe():
    text = """agraph (float[2,3,8,8] x) => (float[2,4,2,2] y) {
        a = Conv(x, w, b)
        r = Relu(a)
        c = Conv(r, w2)
        q = Relu(c)
        y = Conv(q, w2)
    }"""
    model = build(text, weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3)))
    found = quantized(model, allow=lambda site: site != "c")
    assert saturation_proof(found.model)[0].startswith("no product sum saturates on:")
    kept = next(node for node in found.model.graph if node.outputs[0].name == "c")
    by_channel = kept.inputs[0].producer()
    for role, index in (("scale", 1), ("zero_point", 2)):
        by_channel.replace_input_with(index, found.model.graph.initializers[f"r.{role}"])
    assert saturation_proof(found.model) == ("nothing is proven about the product sums of c",)


@pytest.mark.parametrize("scales", ["<axis = 0, block_size = 2>(w, blocks)", "<axis = 0>(w, rows)"])
def test_scales_inside_of_a_sum_are_not_taken_for_those_of_columns(scales):
    text = f"""agraph (uint8[2,4] q) => (float[2,4] y) {{
        a = DequantizeLinear(q, one)
        b = DequantizeLinear{scales}
        y = MatMul(a, b)
    }}"""
    constants = {"one": np.float32(1), "w": np.full((4, 4), 127, np.int8)}
    constants |= {"blocks": np.ones((2, 4), np.float32), "rows": np.ones(4, np.float32)}
    assert saturation_proof(build(text, constants, opset=21)) == ("nothing is proven about the product sums of y",)


@pytest.mark.parametrize("move", ["Identity", "Transpose<perm = [0, 1]>"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_what_is_dequantized_and_then_moved_is_not_called_safe(move, side):
    """onnxruntime moves the dequantizer behind what moves its elements, and multiplies integers."""
    text = f"""agraph (uint8[2,4] q) => (float[2,4] y) {{
        a = DequantizeLinear(q, one)
        b = DequantizeLinear(w, one)
        moved = {move}({side})
        y = MatMul({"moved, b" if side == "a" else "a, moved"})
        c = DequantizeLinear(safe, one)
        z = MatMul(y, c)
    }}"""
    constants = {"one": np.float32(1), "w": np.full((4, 4), 127, np.int8), "safe": np.ones((4, 4), np.int8)}
    assert saturation_proof(build(text, constants, opset=21)) == ("nothing is proven about the product sums of y",)


def test_integer_operators_written_out_are_not_called_safe():
    text = """agraph (uint8[2,4,4,4] q) => (y) {
        y = ConvInteger(q, w)
    }"""
    model = build(text, {"w": np.ones((4, 4, 1, 1), np.int8)})
    assert saturation_proof(model)[0].startswith("nothing is proven about the product sums of y")


@pytest.mark.parametrize(("code", "says"), [(64, "no product sum saturates on:"), (65, "product sums may saturate on")])
def test_a_dynamic_product_is_proven_by_its_codes(code, says):
    text = """agraph (float[3,4] x) => (int32[3,4] y) {
        q, scale, zero = DynamicQuantizeLinear(x)
        y = MatMulInteger(q, w, zero)
    }"""
    assert saturation_proof(build(text, {"w": np.full((4, 4), code, np.int8)}))[0].startswith(says)


SIGNED = """agraph (int8[2,4] q8, float[2,4] x) => (float[2,3] y) {
    q = QuantizeLinear(x, one, zero)
    a = DequantizeLinear(q, one, zero)
    b = DequantizeLinear(w, one, zero)
    y = MatMul(a, b)
}"""


@pytest.mark.parametrize(
    ("codes", "safe"), [("q", []), ("q8", ["onnxruntime (x86 without VNNI)"])], ids=["quantized", "given"]
)
def test_signed_activations_are_shifted_where_a_quantizer_gives_them(codes, safe):
    """onnxruntime makes unsigned codes of those that a QuantizeLinear gives, so they saturate as unsigned ones do."""
    constants = {"one": np.float32(1), "zero": np.int8(0), "w": np.full((4, 3), 127, np.int8)}
    model = build(SIGNED.replace("a = DequantizeLinear(q,", f"a = DequantizeLinear({codes},"), constants)
    said = saturation_proof(model)
    assert [f"no product sum saturates on: {name}" for name in safe] == [line for line in said if line.startswith("no")]
    assert any(line.startswith("product sums may saturate on OpenVINO") for line in said)


def test_a_dynamic_product_of_weights_that_cannot_be_seen_is_not_called_safe():
    text = """agraph (uint8[3,4] q, int8[4,4] w) => (int32[3,4] y) {
        y = MatMulInteger(q, w)
    }"""
    assert saturation_proof(build(text))[0].startswith("nothing is proven about the product sums of y")


def test_a_transposed_shared_weight_is_seen():
    text = """agraph (int64[2,7] ids) => (float[2,7,50] y) {
        e = Gather(w, ids)
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(e, t)
    }"""
    data = batches({"ids": np.arange(14).reshape(2, 7)})
    found = quantized(build(text, weights(1, w=(50, 16))), data)
    (product,) = integer_products(found.model)
    assert product.codes.shape == (16, 50)
    assert len(saturation_proof(found.model)) == 1


def test_codes_that_a_caller_may_override_are_not_called_safe():
    text = """agraph (float[2,3,8,8] x) => (float[2,4,6,6] y) {
        y = Conv(x, w)
    }"""
    model = quantized(build(text, weights(0, w=(4, 3, 3, 3)))).model
    model.graph.inputs.append(model.graph.initializers["w.int8"])
    assert saturation_proof(model)[0].startswith("nothing is proven about the product sums of y")


def test_a_function_between_integers_is_not_called_safe():
    text = """agraph (float[2,3,8,8] x) => (float[2,3,8,8] y) {
        a = Conv(x, w)
        b = local.block(a)
        y = Conv(b, w)
    }
    <domain: "local", opset_import: ["" : 20]> block (v) => (r) { r = Neg(v) }"""
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20, "local" : 1]>\n{text}')
    proto.graph.initializer.append(numpy_helper.from_array(weights(0, w=(3, 3, 1, 1))["w"], "w"))
    model = ir.from_proto(proto)
    found = quantized(model)
    assert found.change.sites == ("a", "y")
    assert saturation_proof(found.model) == ("nothing is proven about the product sums of b",)
