import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mlc.errors import UsageError
from mlc.formats import BlockCodes, BlockScheme, round_to_nearest
from mlc.statistics.moments import Moments
from mlc.statistics.observers import Observer
from mlc.types import Need
from tests.quantizing import build, collected, run, samples

TINY = np.finfo(np.float32).tiny

SCHEMES = [BlockScheme(bits, block, symmetric) for bits in (4, 8) for block in (32, 64) for symmetric in (True, False)]

schemes = st.builds(BlockScheme, st.sampled_from([4, 8]), st.sampled_from([32, 64, 128]), st.booleans())


def weight(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(scheme=schemes, rows=st.integers(1, 150), columns=st.integers(1, 5), seed=st.integers(0, 9),
       size=st.sampled_from([1e-44, 1e-38, 1e-3, 1.0, 1e38]))  # fmt: skip
def test_every_element_has_a_code_within_half_a_step(scheme, rows, columns, seed, size):
    array = (np.clip(weight(rows, columns, seed), -3, 3) * size).astype(np.float32)
    found = round_to_nearest(array, scheme)
    assert found.scales.shape == found.zero_points.shape == (scheme.blocks(rows), columns)
    assert (found.scales >= TINY).all()
    assert np.isfinite(found.scales).all()
    for codes in (found.codes, found.zero_points):
        assert codes.min() >= scheme.lowest
        assert codes.max() <= scheme.highest
    step = np.repeat(found.scales, scheme.block, axis=0)[:rows]
    # the zero point is rounded as well, which may cut half a step at one end
    allowed = step.astype(np.float64) * (0.5 if scheme.symmetric else 1.0)
    assert (np.abs(found.dequantized() - array.astype(np.float64)) <= allowed * 1.0001).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_a_block_of_one_number_is_exact(scheme, value):
    array = np.full((scheme.block + 3, 2), value, np.float32)
    found = round_to_nearest(array, scheme)
    assert np.allclose(found.dequantized(), array, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_symmetric_scale_uses_the_code_that_has_no_twin(bits):
    scheme = BlockScheme(bits, 32, symmetric=True)
    array = np.zeros((32, 1), np.float32)
    array[3], array[4] = -1.0, 0.5
    found = round_to_nearest(array, scheme)
    assert found.codes[3, 0] == scheme.lowest == -(2 ** (bits - 1))


def test_blocks_do_not_see_each_other():
    array = weight(70, 3)
    array[:32] *= 1000
    alone = round_to_nearest(array[32:], BlockScheme(4, 32, symmetric=False))
    together = round_to_nearest(array, BlockScheme(4, 32, symmetric=False))
    assert np.array_equal(together.codes[32:], alone.codes)


@settings(max_examples=40, deadline=None)
@given(scheme=schemes, rows=st.integers(1, 150), columns=st.integers(1, 4), seed=st.integers(0, 9))
def test_the_packed_layout_by_its_definition(scheme, rows, columns, seed):
    found = round_to_nearest(weight(rows, columns, seed), scheme)
    codes, scales, zero_points = found.packed()
    blocks = scheme.blocks(rows)
    assert codes.shape == (columns, blocks, scheme.block * scheme.bits // 8)
    assert scales.shape == (columns, blocks)
    assert (zero_points is None) is scheme.symmetric
    for row, column in {(0, 0), (rows - 1, columns - 1), (rows // 2, 0)}:
        block, inside = divmod(row, scheme.block)
        code = element(codes[column, block], inside, scheme.bits)
        zero = 2 ** (scheme.bits - 1) if zero_points is None else element(zero_points[column], block, scheme.bits)
        assert scales[column, block] * np.float32(code - zero) == found.dequantized()[row, column]


def element(packed, index, bits):
    """One code of a row of bytes, the first of two in the lower bits."""
    return int(packed[index]) if bits == 8 else int(packed[index // 2]) >> 4 * (index % 2) & 15


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("rows", "columns"), [(64, 5), (70, 3), (33, 1)])
def test_the_runtime_and_onnx_read_the_codes_as_numpy_does(scheme, rows, columns):
    found = round_to_nearest(weight(rows, columns), scheme)
    identity = np.eye(rows, dtype=np.float32)
    model = dequantizing(found)
    (by_onnx,) = ReferenceEvaluator(model).run(None, {"x": identity})
    assert np.array_equal(by_onnx, found.dequantized())
    actual = run_proto(model, identity)
    assert np.allclose(actual, found.dequantized(), rtol=1e-6, atol=1e-7)
    assert np.allclose(run_proto(nbits(found, 0), identity), found.dequantized(), rtol=1e-6, atol=1e-7)
    assert np.allclose(run_proto(nbits(found, 4), identity), found.dequantized(), rtol=1e-5, atol=1e-6)


def run_proto(model, x):
    import onnx_ir as ir

    return run(ir.from_proto(model), {"x": x}, optimize=False)["y"]


def dequantizing(found: BlockCodes):
    scheme = found.scheme
    name = f"{'' if scheme.symmetric else 'u'}int{scheme.bits}"
    dtype = np.dtype(name) if scheme.bits == 8 else np.dtype(getattr(ml_dtypes, name))
    arrays = {"codes": found.codes.astype(dtype), "scale": found.scales, "zero": found.zero_points.astype(dtype)}
    nodes = [
        helper.make_node("DequantizeLinear", list(arrays), ["w"], axis=0, block_size=scheme.block),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return graph(nodes, found, arrays)


def nbits(found: BlockCodes, level):
    codes, scales, zero_points = found.packed()
    arrays = {"codes": codes, "scale": scales} | ({} if zero_points is None else {"zero": zero_points})
    rows, columns = found.codes.shape
    attributes = {"K": rows, "N": columns, "bits": found.scheme.bits, "block_size": found.scheme.block}
    node = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", accuracy_level=level, **attributes
    )
    return graph([node], found, arrays)


def graph(nodes, found, arrays):
    rows, columns = found.codes.shape
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def test_moments_are_those_of_all_rows():
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(2, n, 6)).astype(np.float32) for n in (3, 5)]
    moments = Moments()
    for part in parts:
        moments.add(part)
    rows = np.concatenate([part.reshape(-1, 6) for part in parts]).astype(np.float64)
    assert np.allclose(moments.mean(), rows.T @ rows / len(rows), rtol=1e-5)
    halves = [Moments(), Moments()]
    for half, part in zip(halves, parts, strict=True):
        half.add(part)
    assert np.allclose(halves[0].merged(halves[1]).mean(), moments.mean(), rtol=1e-6)
    assert Moments().merged(moments).rows == moments.rows


def test_moments_of_nothing_are_an_error():
    with pytest.raises(KeyError, match="no row"):
        Moments().mean()


@pytest.mark.needs_onnxruntime
def test_moments_are_collected_where_a_pass_asks_for_them():
    model = build("agraph (float[4,6] x) => (float[4,6] y) {\n r = Relu(x)\n y = Exp(r)\n}")

    class Asking:
        def needs(self, model):
            return (Need("r", "moments"), Need("x", "range"))

    data = samples(model)
    statistics = collected(model, Asking(), data)
    rows = np.maximum(np.concatenate([batch.inputs["x"] for batch in data]), 0)
    assert np.allclose(statistics.moments("r"), rows.T @ rows / len(rows), rtol=1e-5)
    with pytest.raises(KeyError):
        statistics.moments("x")


def test_an_unknown_statistic_is_named_with_those_there_are():
    with pytest.raises(UsageError, match="skewness"):
        Observer().want("skewness")
