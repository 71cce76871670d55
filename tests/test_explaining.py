"""Where a small quantized model loses, against the same computed by hand."""

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from mlc.compare.decisions import with_outputs
from mlc.explaining.explain import explain
from mlc.formats import BlockScheme, round_to_nearest
from mlc.graph_pass import Context
from mlc.rewriting.sensitivity import output_sensitivity
from mlc.types import Capabilities, NodePlan, Plan
from passes._block_forms import KERNEL
from passes.int4_weights import Int4Weights
from passes.int8_dynamic import Int8Dynamic
from passes.int8_weights import Int8Weights
from tests.dynamic import dynamic
from tests.quantizing import ANY_CPU, VNNI, batches, build, quantized, run, weights, whole_batches

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[n,3,8,8] x) => (float[n,5] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    c = Conv(r, w2)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    s = Tanh(f)
    y = Gemm<transB = 1>(s, w3)
}"""
WEIGHTS = weights(0, w=(4, 3, 3, 3), b=(4,), w2=(4, 4, 3, 3), w3=(5, 4))


def images(seed, low=-1.0, high=1.0):
    generator = np.random.default_rng(seed)
    return batches(*({"x": generator.uniform(low, high, (6, 3, 8, 8)).astype(np.float32)} for _ in range(2)))


def ratio(expected, actual):
    noise = ((actual.astype(np.float64) - expected) ** 2).sum()
    return math.inf if noise == 0 else 10 * math.log10((expected.astype(np.float64) ** 2).sum() / noise)


@pytest.fixture(scope="module")
def found():
    return quantized(build(TEXT, WEIGHTS), images(0), capabilities=VNNI)


@pytest.fixture
def explained(found, tmp_path, workspace):
    path = tmp_path / "model.onnx"
    ir.save(found.model, path)
    wider = images(1, -2, 2)
    return explain(found.before, path, wider, workspace), np.concatenate([batch.inputs["x"] for batch in wider])


def test_an_activation_is_compared_with_its_codes(found, explained):
    told, x = explained
    scale, zero = found.array("x.scale"), float(found.array("x.zero_point"))
    (tensor,) = [each for each in told.tensors if each.value == "x"]
    lowest, highest = -zero * scale, (255 - zero) * scale
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    assert (tensor.kind, tensor.dtype, tensor.readers) == ("activation", "uint8", ("a",))
    assert tensor.sqnr == pytest.approx(ratio(x, (codes - zero) * scale), abs=1e-3)
    assert tensor.clipped == ((x < lowest - scale / 2) | (x > highest + scale / 2)).mean()
    assert 0.3 < tensor.clipped < 0.7  # half of the samples lie outside of what was calibrated
    assert (tensor.low, tensor.high) == (x.min(), x.max())
    assert (tensor.lowest, tensor.highest) == pytest.approx((lowest, highest))


def test_what_a_relu_cuts_is_not_clipped(found, explained):
    told, x = explained
    (tensor,) = [each for each in told.tensors if each.value == "r"]
    relu = np.maximum(run(with_outputs(found.model, ["a"]), {"x": x}, optimize=False)["a"], 0)
    scale = found.array("r.scale")
    assert tensor.low == 0
    assert tensor.clipped == (relu > (255.5 * scale)).mean()
    assert tensor.sqnr == pytest.approx(ratio(relu, np.rint(relu / scale).clip(0, 255) * scale), abs=1e-3)


def test_a_weight_is_compared_with_the_float_one(found, explained):
    told, _ = explained
    by_name = {each.value: each for each in told.tensors if each.kind == "weight"}
    for name, reader in (("w", "a"), ("w2", "c")):
        scale = found.array(f"{name}.scale").reshape(-1, 1, 1, 1)
        stored = found.array(f"{name}.int8") * scale
        tensor = by_name[name]
        assert tensor.sqnr == pytest.approx(ratio(WEIGHTS[name], stored), abs=1e-3)
        assert (tensor.low, tensor.high) == (WEIGHTS[name].min(), WEIGHTS[name].max())
        assert (tensor.clipped, tensor.dtype, tensor.readers) == (0, "int8", (reader,))
        assert tensor.highest == pytest.approx(127 * scale.max())


def test_nodes_are_told_in_order_and_the_worst_is_kept_float(found, explained, workspace):
    told, _ = explained
    alone = output_sensitivity(
        found.before, found.model, [(node.node,) for node in told.nodes], images(1, -2, 2), workspace
    )
    assert [(node.node, node.sqnr) for node in told.nodes] == [
        (each.sites[0], pytest.approx(each.sqnr, abs=1e-6)) for each in alone
    ]
    order = {node.outputs[0].name: place for place, node in enumerate(found.before.graph)}
    assert [order[node.node] for node in told.nodes] == sorted(order[node.node] for node in told.nodes)
    worst = min(told.nodes, key=lambda node: node.sqnr)
    assert told.sensitive[0] == worst
    assert told.keep_float.startswith(f"--keep-float {worst.node}")
    (tensor,) = [each for each in told.tensors if each.value == "x"]
    assert tensor.output == next(node.sqnr for node in told.nodes if node.node == "a")


def test_multiply_adds_are_those_of_the_graph_that_runs(found, explained):
    told, _ = explained
    by_op = {each.op: each for each in told.arithmetic.products}
    convolutions = 6 * (4 * 6 * 6 * 27 + 4 * 4 * 4 * 36)
    assert (by_op["QLinearConv"].multiply_adds, by_op["QLinearConv"].nodes) == (convolutions, 2)
    assert told.arithmetic.total == convolutions + 6 * 20
    assert [each.op for each in told.arithmetic.between] == ["Tanh"]
    assert told.arithmetic.uncounted == 0


BRANCHES = """agraph (float[n,3,8,8] x, bool c) => (float[n,4,4,4] y) {
    y = If(c) <then_branch = one () => (float[n,4,4,4] a) { h = Conv(x, w) t = Tanh(h) a = Conv(t, w2) },
               else_branch = two () => (float[n,4,4,4] b) { k = Conv(x, w) r = Relu(k) b = Conv(r, w2) }>
}"""


def test_multiply_adds_of_branches_count_as_if_each_were_taken(tmp_path, workspace):
    """One convolution of the four is left float."""
    before = build(BRANCHES, {name: WEIGHTS[name] for name in ("w", "w2")})
    x = np.random.default_rng(5).normal(size=(2, 6, 3, 8, 8)).astype(np.float32)
    data = whole_batches(*({"x": each, "c": np.array(flag)} for each, flag in zip(x, (True, False), strict=True)))
    done = quantized(before, data, allow=lambda site: not site.endswith("/k"))
    ir.save(done.model, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", data, workspace)
    assert told is not None
    assert told.arithmetic is not None
    first, second = 6 * 4 * 6 * 6 * 27, 6 * 4 * 4 * 4 * 36
    assert told.arithmetic.integer == first + 2 * second
    assert told.arithmetic.total == 2 * first + 2 * second
    assert (told.arithmetic.uncounted, told.arithmetic.branches) == (0, True)
    assert [each.op for each in told.arithmetic.between] == ["Tanh"]


def test_products_behind_operators_that_only_the_runtime_has_are_counted(by_dynamic):
    """What it makes of them is of com.microsoft, where ONNX has no rule for shapes: the rest would be unknown."""
    text = """agraph (float[n,5,8] x) => (float[n,6] y) {
        q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) h = Mul(s, half) a = Softmax(h) o = MatMul(a, v)
        r = Transpose<perm = [1, 0, 2]>(o) , l = LSTM<hidden_size = 6>(r, w, u)
        e = Squeeze(l, first) y = MatMul(e, wy)
    }"""
    held = weights(1, wq=(8, 8), wk=(8, 8), wv=(8, 8), w=(1, 24, 8), u=(1, 24, 6), wy=(6, 6))
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    told = by_dynamic(text, {**held, "half": np.float32(0.5), "first": np.array([0])}, batches({"x": x}))
    assert told is not None
    assert told.arithmetic is not None
    attention, recurrent = 2 * 3 * 5 * 5 * 8, 3 * 5 * 24 * (8 + 6)
    assert told.arithmetic.uncounted == 0
    assert told.arithmetic.integer == 3 * 3 * 5 * 8 * 8 + recurrent + 3 * 6 * 6
    assert told.arithmetic.total == told.arithmetic.integer + attention


def test_products_of_loops_cannot_be_counted(by_dynamic):
    text = """agraph (float[n,8] x, int64 times) => (float[n,8] y) {
        p = MatMul(x, w)
        y = Loop(times, , p) <body = b (int64 i, bool c, float[n,8] s) => (bool d, float[n,8] e) {
            d = Identity(c) e = MatMul(s, v)
        }>
    }"""
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    told = by_dynamic(text, weights(1, w=(8, 8), v=(8, 8)), whole_batches({"x": x, "times": np.array(3)}))
    assert told is not None
    assert told.arithmetic is not None
    assert (told.arithmetic.integer, told.arithmetic.total, told.arithmetic.uncounted) == (6 * 64, 6 * 64, 1)


def test_a_float_model_is_not_explained(found, tmp_path, workspace):
    path = tmp_path / "float.onnx"
    ir.save(found.before, path)
    assert explain(found.before, path, images(1), workspace) is None


def test_without_samples_the_weights_are_told(found, tmp_path, workspace):
    path = tmp_path / "model.onnx"
    ir.save(found.model, path)
    told = explain(found.before, path, [], workspace)
    assert told is not None
    assert {each.kind for each in told.tensors} == {"weight"}
    assert (told.nodes, told.arithmetic, told.samples) == ((), None, 0)


PRODUCTS = """agraph (float[n,64] x) => (float[n,24] y) {
    a = MatMul(x, w)
    t = Tanh(a)
    y = Gemm<transB = 1>(t, v)
}"""
MATRICES = weights(3, w=(64, 32), v=(24, 32))
WITH_BLOCKS = replace(ANY_CPU, kernels=(KERNEL,))


def matrices():
    generator = np.random.default_rng(4)
    return batches({"x": generator.normal(size=(16, 64)).astype(np.float32)})


@pytest.mark.parametrize("capabilities", [ANY_CPU, WITH_BLOCKS])
def test_weights_by_blocks_are_compared_with_the_float_ones(capabilities, tmp_path, workspace):
    """Codes of 4 bits, two in a byte or in a type of their own, in a file of a higher opset than the float graph's."""
    subject, before = Int4Weights(block=32, symmetric=False), build(PRODUCTS, MATRICES, opset=21)
    after = before.clone()
    subject.apply(after, Context(capabilities))
    assert any(node.op_type == "MatMulNBits" for node in after.graph) is (capabilities is WITH_BLOCKS)
    ir.save(after, tmp_path / "model.onnx")
    told = explain(build(PRODUCTS, MATRICES, opset=20), tmp_path / "model.onnx", matrices(), workspace)
    assert told is not None
    assert [(each.value, each.readers) for each in told.tensors] == [("w", ("a",)), ("v", ("y",))]
    for each, weight in zip(told.tensors, (MATRICES["w"], MATRICES["v"].T), strict=True):
        stored = round_to_nearest(weight, BlockScheme(4, 32, symmetric=False)).dequantized()
        assert each.sqnr > 15
        assert each.sqnr >= ratio(weight, stored) - 0.5
        assert each.clipped < 0.05
    assert [node.node for node in told.nodes] == ["a", "y"]
    assert told.notes == ()


def test_a_weight_by_blocks_is_told_where_a_bias_is_added_behind_its_product(tmp_path, workspace):
    text = "agraph (float[n,64] x) => (float[n,8] y) {\n y = Gemm<transB = 1>(x, w, b)\n}"
    before = build(text, weights(3, w=(8, 64), b=(8,)), opset=21)
    after = before.clone()
    Int8Weights(block=32).apply(after, Context(WITH_BLOCKS))
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", matrices(), workspace)
    assert told is not None
    assert [(each.value, each.kind, each.readers) for each in told.tensors] == [("w", "weight", ("y",))]
    assert 30 < told.tensors[0].sqnr < 60


def test_a_dynamic_model_is_explained(tmp_path, workspace):
    before = build(PRODUCTS, MATRICES)
    after, data = before.clone(), matrices()
    Int8Dynamic().apply(after, Context(ANY_CPU))
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", data, workspace)
    assert told is not None
    by_name = {each.value: each for each in told.tensors}
    assert list(by_name) == ["x", "t", "w", "v"]
    x = data[0].inputs["x"]
    scale = (x.max() - x.min()) / 255
    codes = np.clip(np.rint(x / scale) + np.rint(-x.min() / scale), 0, 255)
    assert by_name["x"].sqnr == pytest.approx(ratio(x, (codes - np.rint(-x.min() / scale)) * scale), abs=0.1)
    assert by_name["x"].clipped == 0
    assert (by_name["w"].readers, by_name["v"].readers) == (("a",), ("y",))
    assert all(30 < by_name[name].sqnr < 60 for name in ("w", "v"))
    assert [node.node for node in told.nodes] == ["a", "y"]
    assert told.arithmetic is not None
    assert told.arithmetic.integer == told.arithmetic.total == 16 * (64 * 32 + 32 * 24)


@pytest.fixture
def by_dynamic(tmp_path, workspace):
    """What is told of a graph of which everything is quantized as activations come."""

    def told_of(text, constants, data, planned=()):
        before = build(text, constants)
        after = before.clone()
        capabilities = Capabilities("any CPU", kernels=("com.microsoft.DynamicQuantizeLSTM",))
        Int8Dynamic(smallest_table=0).apply(after, Context(capabilities))
        ir.save(after, tmp_path / "model.onnx")
        plan = Plan(tuple(NodePlan(site, "", "int8-dynamic", "") for site in planned))
        return explain(before, tmp_path / "model.onnx", data, workspace, plan)

    return told_of


def test_the_factor_of_a_gemm_is_no_error_of_its_weight(by_dynamic):
    text = "agraph (float[n,64] x) => (float[n,32] y) {\n y = Gemm<alpha = 0.25>(x, w)\n}"
    told = by_dynamic(text, weights(2, w=(64, 32)), matrices())
    assert told is not None
    (weight,) = [each for each in told.tensors if each.kind == "weight"]
    assert 30 < weight.sqnr < 60
    assert weight.clipped < 0.05


@pytest.mark.parametrize("make", [quantized, dynamic])
def test_rows_that_are_multiplied_for_scaled_columns_are_no_error_of_a_weight(make, tmp_path, workspace):
    """Columns that are multiplied in the float model itself count as they are."""
    text = """agraph (float[n,64] x) => (float[n,8] y, float[n,8] z) {
        h = Mul(x, g)
        a = MatMul(h, w)
        y = Add(a, b)
        z = Gemm<transB = 1>(h, v)
    }"""
    arrays = weights(0, w=(64, 8), v=(8, 64), b=(8,)) | {"g": np.where(np.arange(64) == 5, 80, 1).astype(np.float32)}
    data = batches(*({"x": np.random.default_rng(n).normal(size=(160, 64)).astype(np.float32)} for n in range(2)))
    sqnr = []
    for smooth in (False, True):
        found = make(build(text, arrays), data, VNNI, smooth=smooth)
        ir.save(found.model, tmp_path / "model.onnx")
        explained = explain(found.before, tmp_path / "model.onnx", data, workspace)
        assert explained is not None
        told = {each.value: each for each in explained.tensors}
        assert ("h.smooth" in told) is smooth
        sqnr.append([told["w"].sqnr, told["v"].sqnr])
    assert all(ratio > 25 for pair in sqnr for ratio in pair)
    assert sqnr[0] != sqnr[1]


@pytest.mark.parametrize("shape", ["n,3,64", "64"])
def test_a_stack_of_weights_is_explained(by_dynamic, shape):
    text = f"agraph (float[{shape}] x) => (y) {{\n y = MatMul(x, w)\n}}"
    dims = (1, 3, 64) if shape != "64" else (64,)
    x = np.random.default_rng(0).normal(size=dims).astype(np.float32)
    told = by_dynamic(text, weights(2, w=(2, 64, 32)), whole_batches({"x": x}))
    assert told is not None
    (weight,) = [each for each in told.tensors if each.kind == "weight"]
    assert (weight.value, weight.readers) == ("w", ("y",))
    assert 30 < weight.sqnr < 60


def test_zero_points_of_a_weight_by_blocks_may_be_floats(tmp_path, workspace):
    before = build(
        "agraph (float[n,64] x) => (float[n,24] y) {\n y = MatMul(x, w)\n}", weights(3, w=(64, 24)), opset=21
    )
    after = before.clone()
    Int4Weights(block=32, symmetric=False).apply(after, Context(WITH_BLOCKS))
    (node,) = [node for node in after.graph if node.op_type == "MatMulNBits"]
    packed = node.inputs[3].const_value.numpy().reshape(24, -1)
    apart = np.stack([packed & 15, packed >> 4], axis=-1).reshape(24, -1)[:, :2]
    floats = ir.Value(name="zeros", const_value=ir.tensor(np.ascontiguousarray(apart, np.float32), name="zeros"))
    after.graph.register_initializer(floats)
    node.replace_input_with(3, floats)
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", matrices(), workspace)
    assert told is not None
    (weight,) = told.tensors
    assert weight.sqnr > 15
    assert weight.clipped < 0.05


def test_a_quantizer_may_take_the_name_of_a_relu_that_is_gone(tmp_path, workspace):
    """As onnxruntime's own quantizer leaves it."""
    before = build("agraph (float[n,3,8,8] x) => (float[n,4,6,6] y) {\n c = Conv(x, w)\n r = Relu(c)\n y = Neg(r)\n}",
                   weights(0, w=(4, 3, 3, 3)))  # fmt: skip
    after = build("agraph (float[n,3,8,8] x) => (float[n,4,6,6] y) {\n r = Conv(x, w)\n q = QuantizeLinear(r, s, z)\n"
                  " d = DequantizeLinear(q, s, z)\n y = Neg(d)\n}",
                  {**weights(0, w=(4, 3, 3, 3)), "s": np.float32(0.05), "z": np.uint8(0)})  # fmt: skip
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", images(0), workspace)
    assert told is not None
    assert [(each.value, each.clipped) for each in told.tensors if each.kind == "activation"] == [("r", 0)]


def test_a_table_alone_is_explained(by_dynamic):
    text = """agraph (int64[n,4] i) => (float[n,4,8] y) {
        e = Gather(w, i)
        y = Relu(e)
    }"""
    data = batches({"i": np.random.default_rng(0).integers(0, 30, (5, 4))})
    told = by_dynamic(text, weights(1, w=(30, 8)), data, planned=["e"])
    assert told is not None
    assert [(node.node, node.op) for node in told.nodes] == [("e", "Gather")]
    assert 30 < told.nodes[0].sqnr < 60
    assert told.notes == ()


@pytest.mark.parametrize("capabilities", [ANY_CPU, WITH_BLOCKS])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_in_blocks_beside_a_product_is_explained(capabilities, bits, tmp_path, workspace):
    text = """agraph (int64[n,4] i) => (float[n,4,8] y) {
        e = Gather(w, i)
        y = MatMul(e, v)
    }"""
    before = build(text, weights(1, w=(30, 64), v=(64, 8)), opset=21)
    after = before.clone()
    Int4Weights(block=32, table_bits=bits).apply(after, Context(capabilities))
    ir.save(after, tmp_path / "model.onnx")
    data = batches({"i": np.random.default_rng(0).integers(0, 30, (5, 4))})
    plan = Plan(tuple(NodePlan(site, "", "int4-weights", "") for site in ("e", "y")))
    told = explain(before, tmp_path / "model.onnx", data, workspace, plan)
    assert told is not None
    assert [node.node for node in told.nodes] == ["e", "y"]
    assert told.notes == ()


def test_a_table_of_codes_that_the_float_graph_has_is_not_quantized(tmp_path, workspace):
    text = """agraph (int64[n] i) => (float[n,8] y) {
        row = Gather(w, i)
        y = Cast<to = 1>(row)
    }"""
    model = build(text, {"w": np.arange(80, dtype=np.uint8).reshape(10, 8)})
    ir.save(model, tmp_path / "model.onnx")
    assert explain(model, tmp_path / "model.onnx", batches({"i": np.arange(6)}), workspace) is None


def test_a_recurrent_layer_without_its_first_output_is_explained(by_dynamic):
    text = """agraph (float[7,n,5] x) => (float[1,n,6] h) {
        , h = LSTM<hidden_size = 6>(x, w, r)
    }"""
    data = batches({"x": np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)})
    told = by_dynamic(text, weights(1, w=(1, 24, 5), r=(1, 24, 6)), data)
    assert told is not None
    assert [(node.node, node.op) for node in told.nodes] == [("h", "LSTM")]
    assert 30 < told.nodes[0].sqnr < 80


def test_what_nothing_is_told_of_is_counted(by_dynamic):
    text = """agraph (float[n,8] x, bool c) => (float[n,8] y) {
        p = MatMul(x, w)
        y = If(c) <then_branch = one () => (float[n,8] a) { a = MatMul(p, w) },
                   else_branch = two () => (float[n,8] b) { b = MatMul(p, v) }>
    }"""
    data = batches({"x": np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), "c": np.array(True)})
    told = by_dynamic(text, weights(1, w=(8, 8), v=(8, 8)), data, planned=["p", "y.then_branch/a", "gone", "lost"])
    assert told is not None
    assert [node.node for node in told.nodes] == ["p", "y.then_branch/a"]
    assert [each.node for each in told.inside] == ["y.then_branch/a", "y.else_branch/b"]
    assert told.notes == ("2 converted nodes cannot be explained: gone, lost",)


POOLED = """agraph (float[n,3,8,8] x) => (float[n,5] y) {
    a = Conv(x, w, b)
    c = Conv(a, w2)
    g = GlobalAveragePool(c)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w3)
}"""


def test_what_is_told_to_stay_float_takes_with_it_what_makes_the_codes(tmp_path, workspace):
    """The codes between a pool and a product are made by the pool: with the product alone float they would stay."""
    data = images(0)
    model = build(POOLED, WEIGHTS)

    def kept_float(*sites):
        nodes = tuple(NodePlan(node, "", "float" if node in sites else "int8-static", "") for node in "acgfy")
        made = quantized(model, data, capabilities=VNNI, plan=Plan(nodes))
        path = tmp_path / "model.onnx"
        ir.save(made.model, path)
        told = explain(made.before, path, data, workspace, made.plan)
        assert told is not None
        keep = {node.node: node.keep or (node.node,) for node in told.nodes}
        return made.sqnr(), keep

    before, keep = kept_float()
    assert (keep["f"], keep["y"], keep["c"]) == (("g", "f"), ("f", "y"), ("c",))
    alone, left = kept_float("f", "y")
    assert alone == pytest.approx(before, abs=3)
    assert left["f"] == ("g",)
    together, _ = kept_float("g", "f", "y")
    assert together > max(before, alone) + 1


SQUEEZED = """agraph (float[n,3,8,8] x) => (float[n,5] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    c = Conv(r, w2)
    [pool] p = GlobalAveragePool(c)
    f = Squeeze(p, axes)
    y = Gemm<transB = 1>(f, w3)
}"""


def test_nodes_around_one_that_stays_float_are_called_as_the_plan_calls_them(tmp_path, workspace):
    """The runtime moves a quantizer before a Squeeze, and mlc gives the Relu's codes another dequantizer."""
    nodes = tuple(NodePlan(node, "", "float" if node in "cp" else "int8-static", "") for node in "arcpfy")
    data = images(0)
    before = build(SQUEEZED, {**WEIGHTS, "axes": np.array([2, 3])})
    made = quantized(before, data, capabilities=VNNI, plan=Plan(nodes))
    ir.save(made.model, tmp_path / "model.onnx")
    told = explain(made.before, tmp_path / "model.onnx", data, workspace, made.plan)
    assert told is not None
    assert told.arithmetic is not None
    assert [(each.node, each.op) for each in told.arithmetic.between] == [("c", "Conv"), ("p", "GlobalAveragePool")]
    assert [tensor.value for tensor in told.tensors if tensor.kind == "activation"] == ["x", "r", "f"]
    assert told.notes == ()
