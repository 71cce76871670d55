import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.formats import activation_parameters, layout_of, pairs_fit
from mlc.graph_pass import Context
from mlc.statistics import CollectedStatistics
from mlc.statistics.observers import Observer
from mlc.types import Need, NodePlan, Plan
from passes._all_axes import all_axes
from passes._qdq import Writer
from passes.int8_static import Int8Static
from tests.quantizing import (
    ANY_CPU,
    VNNI,
    batches,
    build,
    collected,
    count_ops,
    quantized,
    run,
    samples,
    weights,
    whole_batches,
)

pytestmark = pytest.mark.needs_onnxruntime

RESIDUAL = """agraph (float[2,3,8,8] x) => (float[2,5] y) <int64[2] axes = {-1, -2}, int64[2] shape = {0, -1}> {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    s = Add(c, r)
    t = Relu(s)
    m = ReduceMean<keepdims = 1>(t, axes)
    f = Reshape(m, shape)
    y = Gemm<transB = 1>(f, w3, b3)
}"""
RESIDUAL_WEIGHTS = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (5, 4), "b3": (5,)}


def residual(**options):
    return quantized(build(RESIDUAL, weights(0, **RESIDUAL_WEIGHTS)), **options)


def test_a_residual_network_runs_wholly_in_integers(tmp_path):
    found = residual()
    assert found.change.sites == ("a", "r", "c", "s", "t", "m", "f", "y")
    assert found.change.refused == ()
    assert found.fused_ops(tmp_path) == {
        "QuantizeLinear": 1,
        "QLinearConv": 2,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "Reshape": 1,
        "QGemm": 1,
    }
    assert found.sqnr() > 25
    assert found.sqnr(optimize=False) > 25


def test_the_relu_is_left_to_the_quantizer():
    found = residual()
    assert "Relu" not in found.ops()
    assert found.array("r.zero_point") == 0
    assert found.array("r.scale") == np.float32(found.statistics.range("r")[1]) / np.float32(255)
    assert next(node for node in found.model.graph if node.outputs[0].name == "r").op_type == "DequantizeLinear"


GOLDEN = """agraph (float[batch,2,4,4] x) => (float[batch,2] y)
    <float[1,2,2,2] w = {1, 2, 3, 4, -5, 6, 7, 8}, float[1] b = {0.5}, float[2,9] v = {
        1, 0, 2, -3, 4, 1, 1, 2, 3, -1, 5, 2, 0, 0, 4, 4, -2, 1}, int64[2] shape = {0, -1}> {
    a = Conv(x, w, b)
    r = Relu(a)
    f = Reshape(r, shape)
    y = Gemm<transB = 1>(f, v)
}"""


def test_golden(golden):
    model = build(GOLDEN)
    ranges = {"x": Observer(low=-1.0, high=2.0, elements=1), "r": Observer(low=0.0, high=51.0, elements=1)}
    change = Int8Static().apply(model, Context(ANY_CPU, Plan(), CollectedStatistics(ranges)))
    assert change.sites == ("a", "r", "f", "y")
    golden("int8_static.onnxtxt", ir.to_onnx_text(model).rstrip() + "\n")


def test_interface_and_value_information_stay():
    found = residual()
    for mine, theirs in zip(found.model.graph.inputs, found.before.graph.inputs, strict=True):
        assert (mine.name, mine.shape, mine.type) == (theirs.name, theirs.shape, theirs.type)
    for mine, theirs in zip(found.model.graph.outputs, found.before.graph.outputs, strict=True):
        assert (mine.name, mine.shape, mine.type) == (theirs.name, theirs.shape, theirs.type)
    for node in found.model.graph:
        assert node.name or node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        assert node.outputs[0].type is not None
        assert node.outputs[0].shape is not None


def test_it_is_deterministic():
    first, second = (ir.to_proto(residual().model).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_original_is_not_touched():
    model = build(RESIDUAL, weights(0, **RESIDUAL_WEIGHTS))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantized(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_no_float_weight_is_left():
    found = residual()
    floats = {
        name for name, value in found.model.graph.initializers.items() if value.const_value.dtype == ir.DataType.FLOAT
    }
    assert all(name.endswith(".scale") for name in floats)


def test_it_needs_the_range_of_each_value_that_may_have_a_scale_and_no_more():
    model = build(RESIDUAL, weights(0, **RESIDUAL_WEIGHTS))
    needs = {Need(value, "histogram") for value in "xarcstmf"}
    methods = [Int8Static(method=method) for method in ("min-max", "percentile", "mse", "entropy")]
    for subject in (*methods, Int8Static(correct_bias=True), Int8Static(smooth=True)):
        found = subject.needs(model)
        assert {need for need in found if need.kind == "histogram"} == needs
        assert {need.kind for need in found} == {"histogram", "channel-mean", "column-mean", "column-range"}
        assert found == Int8Static().needs(model)


def test_a_percentile_narrows_the_range():
    wide, narrow = residual(), residual(method="percentile", percent=90.0)
    assert narrow.array("r.scale") < wide.array("r.scale")


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_ranges_are_cut_where_outliers_cost_more_than_they_hold(method):
    generator = np.random.default_rng(0)
    x = generator.standard_t(3, size=(64, 3, 6, 6)).astype(np.float32)
    model = build("agraph (float[64,3,6,6] x) => (float[64,4,4,4] y) {\n y = Conv(x, w)\n}", weights(0, w=(4, 3, 3, 3)))
    wide, narrow = (quantized(model, batches({"x": x}), method=kind) for kind in ("min-max", method))
    low, high = getattr(narrow.statistics, method)("x")
    assert x.min() <= low < 0 < high <= x.max()
    assert narrow.array("x.scale") == activation_parameters(low, high).scale < wide.array("x.scale")
    assert narrow.sqnr() > 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "median"}, "min-max, percentile, mse or entropy"),
        ({"method": "mse", "percent": 99.0}, "belongs to method=percentile"),
        ({"method": "percentile", "percent": 50.0}, "above 50"),
        ({"method": "percentile", "percent": 100.5}, "above 50"),
        ({"percent": 99.0}, "belongs to method=percentile"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Int8Static(**options)


def test_weights_that_travel_are_safe_and_those_of_vnni_use_all_codes():
    travels, native = residual(), residual(capabilities=VNNI)
    layout = layout_of("Conv", 4)
    assert pairs_fit(travels.array("w2.int8"), layout)
    assert not pairs_fit(native.array("w2.int8"), layout)
    assert (np.abs(native.array("w2.int8").reshape(4, -1)).max(axis=1) == 127).all()


def test_a_node_kept_float_by_the_plan_is_left_and_its_neighbours_follow():
    nodes = tuple(NodePlan(name, "", "int8-static", "") for name in ("a", "r", "s", "t", "m", "f", "y"))
    found = residual(plan=Plan(nodes))
    assert "c" not in found.change.sites
    assert "s" not in found.change.sites
    assert [node.inputs[1].name for node in found.nodes("Conv")] == ["w1.dequantized", "w2"]
    assert found.sqnr() > 25


def test_a_site_that_is_not_allowed_is_left_in_silence_and_asked_once():
    asked = []

    def allow(site):
        asked.append(site)
        return site != "y"

    found = residual(allow=allow)
    assert "y" not in found.change.sites
    assert all(refusal.site != "y" for refusal in found.change.refused)
    assert len(asked) == len(set(asked))
    assert found.nodes("Gemm")[0].inputs[1].name == "w3"


def test_without_statistics_it_says_what_is_missing():
    model = build(RESIDUAL, weights(0, **RESIDUAL_WEIGHTS))
    with pytest.raises(ValueError, match="give calibration data"):
        Int8Static().apply(model, Context(ANY_CPU))


def test_without_anything_to_do_it_changes_nothing():
    found = quantized(build("agraph (float[2,3] x) => (float[2,3] y) {\n y = Exp(x)\n}"))
    assert found.change.sites == ()
    assert found.ops() == {"Exp": 1}


CASES = {
    "max pool before relu": (
        """agraph (float[2,3,8,8] x) => (float[2,4,2,2] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
            r = Relu(p)
            y = Conv(r, w2)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3)},
        {"QuantizeLinear": 1, "QLinearConv": 2, "MaxPool": 1, "DequantizeLinear": 1},
    ),
    "clip, concat, average pool": (
        """agraph (float[2,3,8,8] x) => (float[2,5,2,2] y) <float low = {0}, float high = {1}> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            k = Clip(a, low, high)
            b = Conv<pads = [1, 1, 1, 1]>(x, w2)
            c = Concat<axis = 1>(k, b)
            p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(c)
            y = Conv(p, w3)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (3, 3, 3, 3), "w3": (5, 7, 3, 3)},
        {"QuantizeLinear": 1, "QLinearConv": 3, "QLinearConcat": 1, "QLinearAveragePool": 1, "DequantizeLinear": 1},
    ),
    "mean without the axes": (
        """agraph (float[2,3,8,8] x) => (float[2,5] y) <int64[2] axes = {2, 3}> {
            a = Conv(x, w1, b1)
            m = ReduceMean<keepdims = 0>(a, axes)
            y = Gemm(m, w2)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 5)},
        {"QuantizeLinear": 1, "QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Squeeze": 1, "QGemm": 1},
    ),
    "perceptron": (
        """agraph (float[2,20] x) => (float[2,5] y) {
            a = Gemm<transB = 1>(x, w1, b1)
            r = Relu(a)
            y = Gemm(r, w2, b2)
        }""",
        {"w1": (16, 20), "b1": (16,), "w2": (16, 5), "b2": (1, 5)},
        {"QuantizeLinear": 1, "QGemm": 2},
    ),
    "float between": (
        """agraph (float[2,20] x) => (float[2,5] y) {
            a = Gemm<transB = 1>(x, w1, b1)
            s = Sigmoid(a)
            y = Gemm(s, w2, b2)
        }""",
        {"w1": (16, 20), "b1": (16,), "w2": (16, 5), "b2": (5,)},
        {"QuantizeLinear": 2, "QGemm": 2, "Sigmoid": 1},
    ),
    "products with a bias behind": (
        """agraph (float[2,7,20] x) => (float[2,7,5] y) {
            a = MatMul(x, w1)
            r = Relu(a)
            c = MatMul(r, w2)
            d = Add(c, b2)
            e = Relu(d)
            f = MatMul(e, w3)
            y = Add(b3, f)
        }""",
        {"w1": (20, 16), "w2": (16, 12), "b2": (12,), "w3": (12, 5), "b3": (1, 5)},
        {"QuantizeLinear": 1, "QLinearMatMul": 1, "QGemm": 2, "Reshape": 4},
    ),
    "channels last": (
        """agraph (float[2,3,8,8] x) => (float[2,6,6,5] y) {
            a = Conv(x, w1, b1)
            t = Transpose<perm = [0, 2, 3, 1]>(a)
            y = MatMul(t, w2)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 5)},
        {"QuantizeLinear": 1, "QLinearConv": 1, "Transpose": 1, "MatMulIntegerToFloat": 1},
    ),
    "nearest neighbours and a skip": (
        """agraph (float[2,3,8,8] x) => (float[2,5,8,8] y) <float[4] s = {1, 1, 2, 2}> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(a)
            d = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r, w2)
            u = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(d, , s)
            c = Concat<axis = 1>(u, r)
            y = Conv(c, w3)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "w3": (5, 10, 1, 1)},
        {"QuantizeLinear": 1, "QLinearConv": 3, "Resize": 1, "QLinearConcat": 1, "DequantizeLinear": 1},
    ),
    "transposed convolution and a skip": (
        """agraph (float[2,3,8,8] x) => (float[2,5,8,8] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(a)
            d = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r, w2)
            u = ConvTranspose<strides = [2, 2]>(d, w4)
            c = Concat<axis = 1>(u, r)
            y = Conv(c, w3)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "w3": (5, 10, 1, 1), "w4": (6, 6, 2, 2)},
        {
            "QuantizeLinear": 2,
            "QLinearConv": 3,
            "ConvTranspose": 1,
            "QLinearConcat": 1,
            "DequantizeLinear": 2,
        },
    ),
    "pixel shuffle and slice": (
        """agraph (float[2,3,8,8] x) => (float[2,5,16,8] y)
            <int64[1] start = {4}, int64[1] end = {12}, int64[1] axis = {3}> {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            d = DepthToSpace<blocksize = 2>(a)
            s = Slice(d, start, end, axis)
            y = Conv(s, w2)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (5, 2, 1, 1)},
        {"QuantizeLinear": 1, "QLinearConv": 2, "DepthToSpace": 1, "Slice": 1, "DequantizeLinear": 1},
    ),
    "broadcast add of one value": (
        """agraph (float[2,3,8,8] x) => (float[2,4,4,4] y) {
            a = Conv(x, w1, b1)
            g = GlobalAveragePool(a)
            s = Add(a, g)
            u = Add(s, s)
            y = Conv(u, w2)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3)},
        {"QuantizeLinear": 1, "QLinearConv": 2, "QLinearGlobalAveragePool": 1, "QLinearAdd": 2, "DequantizeLinear": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_fuses(name, tmp_path):
    text, shapes, expected = CASES[name]
    found = quantized(build(text, weights(1, **shapes)))
    assert found.fused_ops(tmp_path) == expected
    assert found.sqnr() > 25
    assert found.sqnr(optimize=False) > 25


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_opset_that_has_channels_in_the_quantizers(opset):
    axes = "m = ReduceMean<keepdims = 0, axes = [2, 3]>(a)" if opset < 18 else "m = ReduceMean<keepdims = 0>(a, axes)"
    text = f"""agraph (float[2,3,8,8] x) => (float[2,5] y) <int64[2] axes = {{2, 3}}> {{
        a = Conv(x, w1, b1)
        {axes}
        y = Gemm(m, w2)
    }}"""
    found = quantized(build(text, weights(2, w1=(4, 3, 3, 3), b1=(4,), w2=(4, 5)), opset))
    assert found.change.sites == ("a", "m", "y")
    assert found.sqnr() > 25


def test_outputs_inside_the_graph_keep_name_and_float():
    text = """agraph (float[2,3,8,8] x) => (float[2,4,6,6] a, float[2,4,6,6] r, float[2,4,6,6] e) {
        a = Conv(x, w, b)
        r = Relu(a)
        e = Exp(a)
    }"""
    found = quantized(build(text, weights(0, w=(4, 3, 3, 3), b=(4,))))
    assert [output.name for output in found.model.graph.outputs] == ["a", "r", "e"]
    assert found.nodes("Conv")[0].outputs[0].name == "a.float"
    assert found.sqnr() > 25


def test_a_float_reader_of_a_float_value_gets_the_exact_value():
    text = """agraph (float[2,3,8,8] x) => (float[2,4,6,6] y, float[2,3,8,8] e) {
        y = Conv(x, w)
        e = Exp(x)
    }"""
    found = quantized(build(text, weights(0, w=(4, 3, 3, 3))))
    inputs = found.data[0].inputs
    assert np.array_equal(run(found.model, inputs)["e"], run(found.before, inputs)["e"])


def test_a_shared_weight_is_stored_once_and_a_shared_bias_for_each_consumer():
    text = """agraph (float[2,8] x) => (float[2,8] y) {
        a = Gemm<transB = 1>(x, w, b)
        r = Relu(a)
        y = Gemm<transB = 1>(r, w, b)
    }"""
    found = quantized(build(text, weights(0, w=(8, 8), b=(8,))))
    codes = [name for name, value in found.model.graph.initializers.items() if value.dtype == ir.DataType.INT8]
    assert codes == ["w.int8", "w.zero_point"]
    for site, x in (("a", "x"), ("y", "r")):
        scale = found.array(f"{x}.scale") * found.array("w.scale")
        assert np.array_equal(found.array(f"{site}.bias.scale"), scale)
        bias = found.before.graph.initializers["b"].const_value.numpy()
        assert np.array_equal(found.array(f"{site}.bias.int32"), np.rint(bias / scale).astype(np.int32))


def test_an_embedding_and_its_head_share_one_table():
    text = """agraph (int64[2,7] ids) => (float[2,7,50] y) {
        e = Gather(w, ids)
        l = MatMul(e, w1)
        a = Add(l, b)
        r = Relu(a)
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(r, t)
    }"""
    data = batches({"ids": np.random.default_rng(0).integers(0, 50, (2, 7))})
    found = quantized(build(text, weights(0, w=(50, 16), w1=(16, 16), b=(16,))), data)
    assert found.change.sites == ("e", "l", "a", "r", "y")
    tables = [name for name, value in found.model.graph.initializers.items() if value.shape == [50, 16]]
    assert tables == ["w.int8"]
    assert found.sqnr() > 25


def test_parts_of_the_weight_of_a_convolution_are_no_rows():
    text = """agraph (float[2,3,8,8] x, int64[3] ids) => (float[2,4,6,6] y, float[3,3,3,3] z) {
        y = Conv(x, w)
        z = Gather(w, ids)
    }"""
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    found = quantized(build(text, weights(0, w=(4, 3, 3, 3))), whole_batches({"x": x, "ids": np.array([3, 0, 3])}))
    assert found.change.sites == ("y",)


def test_a_table_of_a_gemm_head_too():
    text = """agraph (int64[7] ids) => (float[7,50] y) {
        e = Gather(w, ids)
        y = Gemm<transB = 1>(e, w)
    }"""
    data = batches({"ids": np.random.default_rng(0).integers(0, 50, 7)})
    found = quantized(build(text, weights(0, w=(50, 16))), data)
    assert found.change.sites == ("e", "y")
    assert found.sqnr() > 25


ROWS = """agraph (int64[2,7] ids) => (float[2,7,8] y) {
    e = Gather(t, ids)
    h = Softplus(e)
    y = MatMul(h, w)
}"""


@pytest.mark.parametrize("capabilities", [ANY_CPU, VNNI])
def test_a_large_table_has_a_scale_for_each_row(capabilities):
    arrays = weights(0, t=(1024, 64), w=(64, 8))
    arrays["t"][7] *= 100
    data = batches({"ids": np.random.default_rng(0).integers(0, 1024, (2, 7))})
    found = quantized(build(ROWS, arrays), data, capabilities)
    assert found.change.sites == ("e", "y")
    codes, scales = found.array("t.int8"), found.array("t.scale")
    assert (codes.dtype, codes.shape, scales.shape) == (np.int8, (1024, 64), (1024,))
    assert (np.abs(codes).max(axis=1) == 127).all()  # a table alone adds nothing up that could saturate
    assert "t" not in found.model.graph.initializers
    assert found.sqnr() > 30


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (ROWS, (1023, 64)),
        (ROWS.replace("y) {", "y, float[1024,64] o) {\n o = Neg(t)"), (1024, 64)),
    ],
    ids=["small", "read as it is too"],
)
def test_tables_that_save_nothing_stay_float(text, shape):
    data = batches({"ids": np.random.default_rng(0).integers(0, 1000, (2, 7))})
    assert quantized(build(text, weights(0, t=shape, w=(64, 8))), data).change.sites == ("y",)


def test_a_table_that_a_loop_reads_too_is_not_stored_twice():
    text = """agraph (int64[2,7] ids) => (float[2,7,64] y, float[2,7,64] z) <int64 count = {2}, bool go = {1}> {
        e = Gather(t, ids)
        y = MatMul(e, w)
        z = Loop(count, go, e) <body = body (int64 i, bool c, float[2,7,64] p) => (bool d, float[2,7,64] q) {
            d = Identity(c) r = Gather(t, ids) q = Add(p, r) }>
    }"""
    data = batches({"ids": np.random.default_rng(0).integers(0, 1000, (2, 7))})
    found = quantized(build(text, weights(0, t=(1024, 64), w=(64, 64))), data)
    assert found.change.sites == ("y",)
    assert "t" in found.model.graph.initializers


REFUSALS = [
    ("u = ConvTranspose(x, w)", {"w": (3, 4, 3, 3)}, "u", "the runtime has no integer kernel for it"),
    ("u = Softmax(x)", {}, "u", "its small outputs would all become 0"),
    ("u = Sigmoid(x)", {}, "u", "8 bits are too coarse where it saturates"),
    ("u = LayerNormalization(x, w)", {"w": (8,)}, "u", "normalizations lose too much in 8 bits"),
    ("u = InstanceNormalization(x, w, w)", {"w": (3,)}, "u", "normalizations lose too much in 8 bits"),
    ("u = MatMul(x, x)", {}, "u", "both sides are activations"),
    ("t = Transpose<perm = [0, 1]>(w)\n u = MatMul(x, t)", {"w": (8, 8)}, "u", "both sides are activations"),
    ("u = MatMul(w, x)", {"w": (8, 8)}, "u", "its first input is a constant"),
    ("u = MatMul(x, w)", {"w": (3, 8, 8)}, "u", "its weight is not a matrix"),
    ("u = Add(x, w)", {"w": (8,)}, "u", "one side is a constant"),
    ("u = Conv(x, x)", {}, "u", "its weight is not constant"),
    ("u = Clip(x, w)", {"w": ()}, "u", "its bounds are not constants around 0"),
    ("u = Relu(x)", {}, "u", "nothing after it takes codes"),
    ("u = ReduceMean<keepdims = 0, axes = [3]>(x)", {}, "u", "it does not average over all of the image"),
]


@pytest.mark.parametrize(("line", "shapes", "site", "reason"), REFUSALS, ids=[line for line, *_ in REFUSALS])
def test_it_refuses(line, shapes, site, reason):
    arrays = {name: np.abs(array) for name, array in weights(0, **shapes).items()}
    opset = 17 if "axes = " in line else 20
    model = build(f"agraph (float[3,3,8,8] x) => (u) {{\n {line}\n}}", arrays, opset)
    found = [(choice.site, choice.reason) for choice in refusals(model)]
    assert found == [(site, reason)]


def refusals(model):
    change = Int8Static().apply(model.clone(), Context(ANY_CPU))
    assert change.sites == ()
    return change.refused


def test_overridable_weights_stay_with_the_caller():
    text = """agraph (float[2,20] x, float[20,5] w) => (float[2,5] y) {
        y = MatMul(x, w)
    }"""
    (refusal,) = refusals(build(text, weights(0, w=(20, 5))))
    assert refusal.reason == "its weight w is an input that a caller may override"


@pytest.mark.parametrize("role", ["weight", "bias"])
def test_weights_with_nan_are_refused_by_name(role):
    arrays = weights(0, w=(5, 20), b=(5,))
    arrays[role[0]].flat[0] = np.nan
    text = "agraph (float[2,20] x) => (float[2,5] y) {\n y = Gemm<transB = 1>(x, w, b)\n}"
    (refusal,) = refusals(build(text, arrays))
    assert refusal.reason == f"its {role} {role[0]} holds NaN or Inf"


def test_a_float16_weight_is_refused():
    text = "agraph (float16[2,20] x) => (float16[2,5] y) {\n y = MatMul(x, w)\n}"
    (refusal,) = refusals(build(text, {"w": np.ones((20, 5), np.float16)}))
    assert refusal.reason == "its weight is float16, not float32"


def test_a_clip_away_from_zero_stays():
    text = """agraph (float[2,20] x) => (float[2,5] y) <float low = {0.5}, float high = {2}> {
        a = Gemm<transB = 1>(x, w1)
        k = Clip(a, low, high)
        y = Gemm<transB = 1>(k, w2)
    }"""
    found = quantized(build(text, weights(0, w1=(8, 20), w2=(5, 8))))
    assert [refusal.site for refusal in found.change.refused] == ["k"]
    assert "Clip" in found.ops()
    assert found.sqnr() > 25


def test_names_that_are_taken_are_not_used_twice():
    text = """agraph (float[2,20] x) => (float[2,5] y) {
        "x.quantized" = Exp(x)
        y = Gemm<transB = 1>(x, w)
        z = Neg("x.quantized")
    }""".replace('"x.quantized"', "taken")
    model = build(text, weights(0, w=(5, 20)))
    for node in model.graph:
        for value in node.outputs:
            if value.name == "taken":
                value.name = "x.quantized"
    found = quantized(model, samples(model))
    names = [value.name for node in found.model.graph for value in node.outputs]
    assert len(names) == len(set(names))
    assert "x.quantized_2" in names


def test_a_value_that_a_subgraph_reads():
    text = """agraph (float[2,20] x, bool c) => (float[2,8] z) {
        a = Gemm<transB = 1>(x, w)
        r = Relu(a)
        y = Gemm<transB = 1>(r, v)
        z = If(c) <
            then_branch = yes () => (float[2,8] p) { p = Add(r, y) },
            else_branch = no () => (float[2,8] q) { q = Neg(y) }
        >
    }"""
    model = build(text, weights(0, w=(8, 20), v=(8, 8)))
    x = np.random.default_rng(0).normal(size=(2, 20)).astype(np.float32)
    data = batches({"x": x, "c": np.array(True)})
    data[0] = type(data[0])(data[0].inputs, None, 2, 0, np.arange(2))
    found = quantized(model, data)
    assert found.change.sites == ("a", "r", "y")
    assert found.sqnr() > 25


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "MatMul with bias"])
@pytest.mark.parametrize("clamp", ["Relu(a)", "Clip(a, low, high)", "Clip(a, half)"])
def test_a_product_before_a_clamp_that_nobody_wants_in_int8_is_still_fused(kind, clamp, tmp_path):
    line = {
        "Gemm": "a = Gemm(x, w, b)",
        "MatMul": "a = MatMul(x, w)",
        "MatMul with bias": "m = MatMul(x, w)\n a = Add(m, b)",
    }[kind]
    text = f"""agraph (float[4,20] x) => (y) <float low = {{-1}}, float high = {{1}}, float half = {{0.5}}> {{
        {line}
        r = {clamp}
        s = Sin(r)
        y = Cos(s)
    }}"""
    found = quantized(build(text, weights(0, w=(20, 6), b=(6,))))
    fused = found.fused_ops(tmp_path)
    assert sum(fused.get(op, 0) for op in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat")) == 1
    assert sum(fused.get(op, 0) for op in ("Gemm", "FusedGemm", "MatMul")) == 0
    assert found.sqnr() > 25


def test_a_clamp_that_is_the_output_stays_exact(tmp_path):
    found = quantized(build("agraph (float[4,20] x) => (y) {\n a = Gemm(x, w)\n y = Relu(a)\n}", weights(0, w=(20, 6))))
    assert found.fused_ops(tmp_path) == {"QuantizeLinear": 1, "QGemm": 1, "Relu": 1}


@pytest.mark.parametrize("clamp", ["k = Clip(a, low, high)", "c = Clip(a, low, high) k = Relu(c)"])
def test_a_clamp_cuts_before_a_concat_of_a_wider_range(clamp):
    """With a zero point of 0 the codes of the Concat cut at 0 as the Clip does, and much higher than it does above."""
    text = f"""agraph (float[2,3,8,8] x) => (float[2,5,4,4] y) <float low = {{0}}, float high = {{0.1}}> {{
        a = Conv(x, w1, b1)
        {clamp}
        b = Conv(x, w2)
        r = Relu(b)
        j = Concat<axis = 1>(k, r)
        y = Conv(j, w3)
    }}"""
    found = quantized(build(text, weights(0, w1=(4, 3, 3, 3), b1=(4,), w2=(4, 3, 3, 3), w3=(5, 8, 3, 3))))
    assert found.array("j.zero_point") == 0
    watched = found.model.clone()
    watched.graph.outputs.append(
        next(node.outputs[0] for node in watched.graph if node.name and node.outputs[0].name == "k")
    )
    assert run(watched, found.data[0].inputs, optimize=False)["k"].max() == pytest.approx(0.1, rel=0.01)
    assert found.sqnr() > 25


KEPT = {
    "Conv": ("c = Conv<group = 2>(r, w2, b2)", {"w2": (4, 2, 3, 3), "b2": (4,), "w3": (4, 4, 3, 3)}),
    "ConvTranspose": ("c = ConvTranspose(r, w2, b2)", {"w2": (4, 4, 3, 3), "b2": (4,), "w3": (4, 4, 3, 3)}),
    "Conv of one channel": (
        "c = Conv(r, w2, b2)",
        {"w1": (1, 3, 3, 3), "b1": (1,), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (4, 4, 3, 3)},
    ),
    "MatMul": ("m = MatMul(r, w2)\n c = Add(m, b2)", {"w2": (6, 5), "b2": (5,), "w3": (4, 4, 3, 3)}),
}


@pytest.mark.parametrize("op", KEPT)
@pytest.mark.parametrize("fold", ["q = Relu(c)", "q = Neg(c)"])
def test_a_node_kept_float_between_integers_stays_float_in_the_runtime(op, fold, tmp_path):
    line, shapes = KEPT[op]
    text = f"""agraph (float[2,3,8,8] x) => (y) {{
        a = Conv(x, w1, b1)
        r = Relu(a)
        {line}
        {fold}
        y = Conv(q, w3)
    }}"""
    model = build(text, weights(0, **{"w1": (4, 3, 3, 3), "b1": (4,), **shapes}))
    found = quantized(model, allow=lambda site: site not in ("c", "m"))
    assert not {"c", "m"} & set(found.change.sites)
    fused = found.fused_ops(tmp_path)
    assert fused["QLinearConv"] == 2
    assert fused.get("QGemm", 0) + fused.get("QLinearMatMul", 0) + fused.get("MatMulIntegerToFloat", 0) == 0
    assert not any("_weight_q" in node.name for node in found.optimized(tmp_path).graph)
    inputs = found.data[0].inputs
    on, off = (run(found.model, inputs, optimize=optimize)["y"] for optimize in (True, False))
    assert np.abs(on - off).max() <= 1.01 * float(found.array("y.scale"))


def test_a_gemm_kept_float_stays_float_in_the_runtime(tmp_path):
    text = """agraph (float[2,20] x) => (float[2,5] y) {
        a = Gemm<transB = 1>(x, w1, b1)
        r = Relu(a)
        c = Gemm<transB = 1>(r, w2, b2)
        q = Relu(c)
        e = Gemm(q, w3)
        k = Relu(e)
        y = Gemm(k, w4)
    }"""
    arrays = weights(0, w1=(16, 20), b1=(16,), w2=(8, 16), b2=(8,), w3=(8, 6), w4=(6, 5))
    found = quantized(build(text, arrays), allow=lambda site: site not in ("c", "e"))
    fused = found.fused_ops(tmp_path)
    assert fused["QGemm"] == 2
    assert fused.get("Gemm", 0) + fused.get("FusedGemm", 0) == 2


@st.composite
def conv_chains(draw):
    """Two convolutions with what may stand between them; odd sizes, groups, strides, one to three spatial axes."""
    spatial = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    channels = group * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    inputs = group * draw(st.integers(1, 3))
    size = [draw(st.integers(6, 9)) for _ in range(spatial)]
    stride = draw(st.integers(1, 2))
    between = draw(st.sampled_from(["Relu", "Identity", "Neg", "LeakyRelu"]))
    bias = draw(st.booleans())
    text = f"""agraph (float[2,{",".join(map(str, [inputs, *size]))}] x) => (y) {{
        a = Conv<group = {group}, strides = {[stride] * spatial}>(x, w1{", b1" if bias else ""})
        r = {between}(a)
        y = Conv(r, w2)
    }}"""
    shapes = {"w1": (channels, inputs // group, *kernel), "b1": (channels,), "w2": (2, channels, *[1] * spatial)}
    if not bias:
        del shapes["b1"]
    return text, weights(draw(st.integers(0, 1000)), **shapes)


@settings(max_examples=25, deadline=None)
@given(conv_chains())
def test_generated_convolutions_stay_close_on_and_off(case):
    text, arrays = case
    found = quantized(build(text, arrays))
    assert {"a", "y"} <= set(found.change.sites)
    inputs = found.data[0].inputs
    expected = run(found.before, inputs)["y"]
    step = float(found.array("y.scale"))
    for optimize in (True, False):
        actual = run(found.model, inputs, optimize=optimize)["y"]
        assert np.abs(actual - expected).max() <= 12 * step
    for node in found.nodes("Conv"):
        name = node.inputs[1].producer().inputs[0].name
        assert pairs_fit(found.array(name), layout_of("Conv", node.inputs[1].shape.rank(), group=group_of(node)))


def group_of(node):
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


PRODUCTS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}
FLOAT_PRODUCTS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


@st.composite
def networks(draw):
    """A directed graph over images [2,4,6,6], with a matrix head; any node may read any earlier value."""
    values, lines, arrays = ["x"], [], {}
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    for index in range(draw(st.integers(2, 8))):
        name = f"v{index}"
        one, other = (draw(st.sampled_from(values[-3:])) for _ in range(2))
        kinds = ["Conv", "Conv", "Relu", "Clip", "Add", "MaxPool", "Concat", "Sigmoid", "Transpose", "AveragePool"]
        kind = draw(st.sampled_from(kinds))
        weight = (0.3 * generator.normal(size=(4, 8 if kind == "Concat" else 4, 3, 3))).astype(np.float32)
        arrays.update({f"w{index}": weight} if kind in ("Conv", "Concat") else {})
        line = {
            "Conv": f"Conv<pads = [1, 1, 1, 1]>({one}, w{index})",
            "Clip": f"Clip({one}, low, high)",
            "Add": f"Add({one}, {other})",
            "MaxPool": f"MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({one})",
            "AveragePool": f"AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({one})",
            "Concat": f"Conv<pads = [1, 1, 1, 1]>(c{index}, w{index})",
            "Transpose": f"Transpose<perm = [0, 1, 3, 2]>({one})",
        }.get(kind, f"{kind}({one})")
        if kind == "Concat":
            lines.append(f"c{index} = Concat<axis = 1>({one}, {other})")
        lines.append(f"{name} = {line}")
        values.append(name)
    arrays["head"] = (0.3 * generator.normal(size=(4, 5))).astype(np.float32)
    lines += [f"g = GlobalAveragePool({values[-1]})", "f = Flatten(g)", "y = Gemm(f, head)"]
    read = [name for line in lines for name in line.partition("=")[2].replace("(", ",").replace(")", ",").split(",")]
    unread = [value for value in values[1:] if value not in {name.strip() for name in read}]
    also = draw(st.sets(st.sampled_from(values[1:]), max_size=1))
    outputs = ", ".join(["y", *sorted({*unread, *also})])
    header = f"agraph (float[2,4,6,6] x) => ({outputs}) <float low = {{-0.5}}, float high = {{0.75}}>"
    return f"{header} {{ {chr(10).join(lines)} }}", arrays, draw(st.sets(st.sampled_from(values[1:]), max_size=2))


@settings(max_examples=60, deadline=None)
@given(networks())
def test_generated_networks_are_fused_where_chosen_and_float_elsewhere(tmp_path_factory, case):
    text, arrays, kept = case
    found = quantized(build(text, arrays), allow=lambda site: site not in kept)
    assert not kept & set(found.change.sites)
    products = [node.outputs[0].name for node in found.before.graph if node.op_type in ("Conv", "Gemm")]
    chosen = [name for name in products if name in found.change.sites]
    fused = found.fused_ops(tmp_path_factory.mktemp("fused"))
    assert sum(fused.get(op, 0) for op in PRODUCTS) == len(chosen)
    assert sum(fused.get(op, 0) for op in FLOAT_PRODUCTS) == len(products) - len(chosen)
    assert [output.name for output in found.model.graph.outputs] == [o.name for o in found.before.graph.outputs]
    inputs = found.data[0].inputs
    expected = run(found.before, inputs)
    for optimize in (True, False):
        actual = run(found.model, inputs, optimize=optimize)
        for name, values in expected.items():
            noise = float(np.square(actual[name] - values).mean())
            assert noise <= 0.05 * float(np.square(values).mean()) + 1e-4


def test_applying_it_twice_finds_nothing_more():
    found = residual()
    again = Int8Static()
    statistics = collected(found.model, again, found.data)
    twice = found.model.clone()
    change = again.apply(twice, Context(ANY_CPU, Plan(), statistics))
    assert change.sites == ()
    assert count_ops(twice) == found.ops()


@pytest.mark.parametrize(
    ("attributes", "obstacle"),
    [
        ("strides = [2, 2], ceil_mode = 1, count_include_pad = 1", "counts otherwise where a window hangs over"),
        ("dilations = [2, 2]", "knows no dilation"),
    ],
)
def test_means_that_the_integer_kernel_computes_otherwise_stay_float(tmp_path, attributes, obstacle):
    text = f"""agraph (float[2,3,12,12] x) => (y) {{
        a = Conv(x, w1)
        m = AveragePool<kernel_shape = [3, 3], {attributes}>(a)
        y = Conv(m, w2)
    }}"""
    found = quantized(build(text, weights(0, w1=(4, 3, 1, 1), w2=(4, 4, 1, 1))))
    assert found.change.sites == ("a", "y")
    assert obstacle in next(entry.reason for entry in found.plan.nodes if entry.node == "m")
    assert found.fused_ops(tmp_path)["AveragePool"] == 1
    assert found.sqnr() > 30


def test_a_resize_that_fills_in_a_number_stays_float():
    text = """agraph (float[2,3,8,8] x) => (y) {
        a = Conv(x, w1)
        m = Resize<mode = "nearest", coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 20.0>(
            a, roi, scales)
        y = Conv(m, w2)
    }"""
    around = np.array([0, 0, -0.2, -0.2, 1, 1, 1.2, 1.2], np.float32)
    constants = {"roi": around, "scales": np.array([1, 1, 1.5, 2], np.float32)}
    found = quantized(build(text, weights(0, w1=(4, 3, 1, 1), w2=(4, 4, 1, 1)) | constants))
    assert found.change.sites == ("a", "y")
    assert found.sqnr() > 30


SOME_AXES = {
    "scales": 'm = Resize<mode = "nearest", axes = [3, 2]>(a, , scales)',
    "sizes": 'm = Resize<mode = "nearest", axes = [2, 3]>(a, , , sizes)',
    "sizes, all axes": 'm = Resize<mode = "linear", axes = [3, 2, 1, 0]>(a, , , all)',
    "sizes that follow": "s = Shape<start = 2>(a) d = Add(s, s) m = Resize<axes = [-2, -1]>(a, , , d)",
    "pads": "m = Pad(a, pads, , axes)",
    "pads that follow": "s = Shape<start = 2>(a) d = Sub(sizes, s) t = Concat<axis = 0>(d, d) m = Pad(a, t, , axes)",
}


@pytest.mark.parametrize("form", SOME_AXES)
def test_what_has_some_axes_alone_runs_between_convolutions(tmp_path, form):
    text = f"""agraph (float[2,3,8,8] x) => (y) {{
        a = Conv(x, w1)
        {SOME_AXES[form]}
        y = Conv(m, w2)
    }}"""
    constants = {"scales": np.array([2, 1.5], np.float32), "sizes": np.array([9, 20]), "all": np.array([12, 9, 4, 2])}
    constants |= {"pads": np.array([1, 0, 0, 2]), "axes": np.array([3, 2])}
    found = quantized(build(text, weights(0, w1=(4, 3, 1, 1), w2=(4, 4, 1, 1)) | constants))
    assert found.fused_ops(tmp_path)["QLinearConv"] == 2
    assert found.sqnr() > 30


def test_pads_that_a_caller_may_override_stay_so():
    text = """agraph (float[2,3,8,8] x) => (y) {
        a = Conv(x, w1)
        m = Pad(a, pads, , axes)
        y = Conv(m, w2)
    }"""
    constants = {"pads": np.array([1, 0, 0, 2]), "axes": np.array([3, 2])}
    model = build(text, weights(0, w1=(4, 3, 1, 1), w2=(4, 4, 1, 1)) | constants)
    model.graph.inputs.append(model.graph.initializers["pads"])
    all_axes(Writer(model))
    pads = next(node for node in model.graph if node.op_type == "Pad").inputs[1]
    assert pads is not None
    spread = pads.producer()
    assert spread is not None
    assert model.graph.initializers["pads"] in spread.inputs
