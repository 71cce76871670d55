"""Quantized models as a processor without VNNI runs them, against sums cut pair by pair, and the real kernels."""

import itertools
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.emulate import saturating_outputs, saturation_cost
from mlc.emulate.saturation import saturating_nodes, unproven
from mlc.formats import ORDERS, Order
from mlc.workspace import Workspace
from tests.quantizing import ANY_CPU, VNNI, batches, build, quantized, run

pytestmark = pytest.mark.needs_onnxruntime

ROOT = Path(__file__).parents[1]


def clipped(first, second):
    return int(np.clip(int(first) + int(second), -(2**15), 2**15 - 1))


def slow_sums(activations, weight, order, zero_point):
    """One output: activations and weight as [taps][channels] of whole numbers, the pairs of an order cut one by one."""
    taps = [[int(a) * int(w) for a, w in zip(*pair, strict=True)] for pair in zip(activations, weight, strict=True)]
    rows = [list(itertools.chain.from_iterable(taps))] if order is not Order.OPENVINO else taps
    total = 0
    for row in rows:
        even = [*row, 0] if len(row) % 2 else row
        total += sum(
            clipped(even[place], even[place + 1]) if order is not None else even[place] + even[place + 1]
            for place in range(0, len(even), 2)
        )
    return total - zero_point * int(np.sum(np.asarray(weight, np.int64)))


def slow_conv(images, codes, order, zero_point, *, group, strides, pads, dilations):
    """Every output by itself: whole numbers [images, outputs, height, width]."""
    outputs, depth, height, width = codes.shape
    padded = np.pad(images, ((0, 0), (0, 0), pads[::2], pads[1::2]), constant_values=zero_point)
    reach = [(size - 1) * step + 1 for size, step in zip((height, width), dilations, strict=True)]
    sizes = [(padded.shape[2 + axis] - reach[axis]) // strides[axis] + 1 for axis in range(2)]
    found = np.zeros((len(images), outputs, *sizes), np.int64)
    taps = list(itertools.product(range(height), range(width)))
    depthwise = depth == 1 and outputs == group > 1
    for image, output, row, column in np.ndindex(found.shape):
        start = output // (outputs // group) * depth
        top, left = row * strides[0], column * strides[1]
        own = padded[image, start : start + depth]
        seen = [own[:, top + i * dilations[0], left + j * dilations[1]] for i, j in taps]
        weight = [codes[output, :, i, j] for i, j in taps]
        found[image, output, row, column] = slow_sums(seen, weight, None if depthwise else order, zero_point)
    return found


def outputs_of(model, order, data):
    with Workspace() as workspace:
        return [outputs for _, outputs in saturating_outputs(model, order, data, workspace)]


CONV = """agraph (float[n,{channels},5,4] x) => (float[n,{outputs},h,w] y) {{
    q = QuantizeLinear(x, one, zero)
    a = DequantizeLinear(q, one, zero)
    b = DequantizeLinear<axis = 0>(codes, scales)
    y = Conv<group = {group}, strides = {strides}, pads = {pads}, dilations = {dilations}>(a, b)
}}"""


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_convolution_is_cut_pair_by_pair(data):
    group = data.draw(st.sampled_from([1, 1, 2, 3]))
    depth, per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    strides, dilations = (data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) for _ in range(2))
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    zero_point, order = data.draw(st.integers(0, 255)), data.draw(st.sampled_from([*ORDERS, None]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.integers(-128, 128, (group * per_group, depth, *kernel)).astype(np.int8)
    scales = generator.choice(np.array([0.25, 0.5, 2], np.float32), group * per_group)
    model = build(
        CONV.format(
            channels=group * depth, outputs=group * per_group, group=group, strides=list(strides), pads=list(pads),
            dilations=list(dilations),
        ),
        {"one": np.float32(1), "zero": np.uint8(zero_point), "codes": codes, "scales": scales},
    )  # fmt: skip
    images = generator.integers(0, 256, (1, group * depth, 5, 4)).astype(np.uint8)
    (found,) = outputs_of(model, order, batches({"x": images.astype(np.float32) - zero_point}))
    expected = slow_conv(
        images, codes, order, zero_point, group=group, strides=strides, pads=pads, dilations=dilations
    ) * scales.reshape(-1, 1, 1)
    np.testing.assert_array_equal(found["y"], expected.astype(np.float32))


MATRICES = {
    "MatMul": "y = MatMul(a, b)",
    "Gemm": "y = Gemm<transB = 1, alpha = 2.0, beta = 3.0>(a, b, c)",
}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_matrix_is_cut_pair_by_pair(data):
    op, order = data.draw(st.sampled_from(sorted(MATRICES))), data.draw(st.sampled_from([*ORDERS, None]))
    depth, columns, zero_point = (data.draw(st.integers(low, high)) for low, high in ((1, 9), (1, 4), (0, 255)))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.integers(-128, 128, (depth, columns)).astype(np.int8)
    bias = generator.normal(size=columns).astype(np.float32)
    text = f"""agraph (float[n,{depth}] x) => (float[n,{columns}] y) {{
        q = QuantizeLinear(x, one, zero)
        a = DequantizeLinear(q, one, zero)
        b = DequantizeLinear(codes, half)
        {MATRICES[op]}
    }}"""
    stored = codes.T if op == "Gemm" else codes
    constants = {
        "one": np.float32(1), "zero": np.uint8(zero_point), "codes": stored, "half": np.float32(0.5), "c": bias
    }  # fmt: skip
    rows = generator.integers(0, 256, (5, depth)).astype(np.uint8)
    (found,) = outputs_of(build(text, constants), order, batches({"x": rows.astype(np.float32) - zero_point}))
    sums = [[slow_sums([row], [column], order, zero_point) for column in codes.T] for row in rows]
    expected = np.array(sums) * 0.5
    if op == "Gemm":
        expected = 2 * expected + 3 * bias.astype(np.float64)
    np.testing.assert_allclose(found["y"], expected, rtol=3e-7)


@pytest.mark.parametrize("order", [*ORDERS, None])
@pytest.mark.parametrize(
    ("shape", "form", "scales"),
    [((16, 16), "<axis = 0, block_size = 8>", (2, 16)), ((16, 16), "<axis = 0>", (16,)), ((16,), "<axis = 0>", (16,))],
    ids=["blocks", "rows", "vector"],
)
def test_a_weight_with_scales_inside_of_a_sum_is_left_to_the_runtime(shape, form, scales, order):
    text = f"""agraph (float[n,16] x) => (float[n,m] y) {{
        q = QuantizeLinear(x, one, zero)
        a = DequantizeLinear(q, one, zero)
        b = DequantizeLinear{form}(codes, scales)
        product = MatMul(a, b)
        y = Reshape(product, rest)
    }}"""
    generator = np.random.default_rng(5)
    constants = {
        "one": np.float32(1), "zero": np.uint8(9), "codes": generator.integers(-128, 128, shape).astype(np.int8),
        "scales": generator.uniform(0.1, 2, scales).astype(np.float32), "rest": np.array([0, -1]),
    }  # fmt: skip
    model, inputs = build(text, constants, opset=21), {"x": generator.integers(0, 200, (3, 16)).astype(np.float32)}
    (found,) = outputs_of(model, order, batches(inputs))
    np.testing.assert_array_equal(found["y"], run(model, inputs, optimize=False)["y"])


@pytest.mark.parametrize(
    ("source", "product", "codes", "width"),
    [("x", "MatMul(a, b)", (3, 5), (5,)), ("i", "Conv<pads = [1,1,1,1]>(a, b)", (5, 3, 3, 3), (5, 6, 6))],
)
def test_no_rows_give_no_rows(source, product, codes, width):
    text = f"""agraph (float[n,3] x, float[n,3,6,6] i) => (float y) {{
        q = QuantizeLinear({source}, one, zero)
        a = DequantizeLinear(q, one, zero)
        b = DequantizeLinear(codes, one)
        y = {product}
    }}"""
    model = build(text, {"one": np.float32(1), "zero": np.uint8(9), "codes": np.full(codes, 127, np.int8)})
    model.graph.outputs[0].shape = None
    nothing = {"x": np.zeros((0, 3), np.float32), "i": np.zeros((0, 3, 6, 6), np.float32)}
    for order in (*ORDERS, None):
        (found,) = outputs_of(model, order, batches(nothing))
        assert found["y"].shape == (0, *width)


DYNAMIC = """agraph (float[n,3] x) => (int32[n,1] s, float[n,1] y) {
    q, scale, zero = DynamicQuantizeLinear(x)
    s = MatMulInteger(q, codes, zero)
    c = Cast<to = 1>(s)
    y = Mul(c, scale)
}"""


@pytest.mark.parametrize("order", ORDERS)
def test_signed_activations_are_cut_as_the_unsigned_ones_that_runtimes_make_of_them(order):
    text = """agraph (float[n,7] x) => (float[n,3] y) {
        q = QuantizeLinear(x, one, zero)
        a = DequantizeLinear(q, one, zero)
        b = DequantizeLinear(codes, one)
        y = MatMul(a, b)
    }"""
    generator = np.random.default_rng(8)
    codes = generator.integers(-128, 128, (7, 3)).astype(np.int8)
    rows = generator.integers(-128, 128, (6, 7)).astype(np.int8)
    model = build(text, {"one": np.float32(1), "zero": np.int8(0), "codes": codes})
    (found,) = outputs_of(model, order, batches({"x": rows.astype(np.float32)}))
    shifted = rows.astype(int) + 128
    expected = [[slow_sums([row], [column], order, 128) for column in codes.T] for row in shifted]
    np.testing.assert_array_equal(found["y"], np.array(expected, np.float32))
    assert (found["y"] != rows.astype(int) @ codes.astype(int)).any()


def test_the_known_sum_saturates_in_a_dynamic_graph():
    """u8 [210, 198, 234] by s8 [-81, -80, 127] is -3132, and -3050 where pairs are cut."""
    rows = np.array([[210, 198, 234], [255, 0, 0]], np.float32)
    model = build(DYNAMIC, {"codes": np.array([[-81], [-80], [127]], np.int8)})
    for order, expected in ((None, -3132), (Order.ONNXRUNTIME, -3050), (Order.OPENVINO, -3050)):
        (found,) = outputs_of(model, order, batches({"x": rows}))
        assert found["s"][0, 0] == expected
        assert found["y"][0, 0] == expected


NETWORK = """agraph (float[n,5,9,9] x) => (float[n,10] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    d = Conv<pads = [1,1,1,1], group = 12>(r, wd)
    e = Relu(d)
    c = Conv(e, w2)
    s = Add(c, r)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w3, b3)
}"""


def network(seed=0):
    """A small CNN whose weights are of one sign by channel, so that whole pairs are large, and its data."""
    generator = np.random.default_rng(seed)
    shapes = {"w1": (12, 5, 3, 3), "wd": (12, 1, 3, 3), "w2": (12, 12, 1, 1), "w3": (10, 12)}
    made = {name: generator.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    made["w2"] *= np.where(generator.random((12, 1, 1, 1)) < 0.5, -1, 1).astype(np.float32)
    made |= {"b1": generator.normal(size=12).astype(np.float32), "b3": generator.normal(size=10).astype(np.float32)}
    data = batches(*({"x": generator.uniform(0, 1, (4, 5, 9, 9)).astype(np.float32)} for _ in range(3)))
    return build(NETWORK, made), data


def test_full_8_bit_weights_lose_what_safe_ones_keep():
    model, data = network()
    for capabilities, loses in ((VNNI, True), (ANY_CPU, False)):
        found = quantized(model, data, capabilities=capabilities)
        for order in ORDERS:
            exact, cut = (np.concatenate([each["y"] for each in outputs_of(found.model, kind, data)])
                          for kind in (None, order))  # fmt: skip
            expected = np.concatenate([run(model, batch.inputs)["y"] for batch in data])
            losses = [10 * np.log10((expected**2).sum() / ((each - expected) ** 2).sum()) for each in (exact, cut)]
            assert bool(losses[0] - losses[1] > 12) is loses
            assert loses or (exact == cut).all()


def test_the_cost_is_said_where_it_is_not_proven_to_be_none(workspace):
    model, data = network()
    said = {}
    for name, capabilities in (("full", VNNI), ("safe", ANY_CPU)):
        found = quantized(model, data, capabilities=capabilities)
        said[name] = saturation_cost(lambda inputs: run(model, inputs), found.model, data, workspace)
    assert said["safe"] == ()
    assert [sentence.partition(" dB")[0].rpartition(" ")[0] for sentence in said["full"]] == [
        "on onnxruntime (x86 without VNNI) the output y is at", "on OpenVINO (x86 without VNNI) the output y is at",
    ]  # fmt: skip
    assert all(" dB instead of " in sentence for sentence in said["full"])


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
@pytest.mark.parametrize("codes", [np.uint16, np.int16])
def test_activations_of_16_bits_do_not_saturate(domain, codes, workspace):
    """No kernel that adds up in 16 bits multiplies them; quantizers may be onnxruntime's own, too."""
    text = f"""<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    agraph (float[n,64] x) => (float[n,8] y) {{
        q = {domain}QuantizeLinear(x, s, z)
        d = {domain}DequantizeLinear(q, s, z)
        v = DequantizeLinear(w, t)
        y = MatMul(d, v)
    }}"""
    constants = {"s": np.float32(1e-4), "z": codes(1000), "w": np.full((64, 8), 127, np.int8), "t": np.float32(0.1)}
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    model, data = ir.from_proto(onnx.shape_inference.infer_shapes(proto)), batches({"x": np.ones((2, 64), np.float32)})
    assert saturating_nodes(model, Order.ONNXRUNTIME) == ()
    assert unproven(model) == ()
    assert saturation_cost(lambda inputs: run(model, inputs), model, data, workspace) == ()


def test_the_cost_of_what_is_in_a_branch_is_said_to_be_unknown(workspace):
    text = """agraph (float[n,4] x, bool c) => (float[n,3] y) {
        q, scale, zero = DynamicQuantizeLinear(x)
        y = If(c) <then_branch = many () => (float[n,3] m) {
            sums = MatMulInteger(q, codes, zero)
            m = Cast<to = 1>(sums)
        }, else_branch = none () => (float[n,3] z) { z = Slice(x, start, end, start) }>
    }"""
    constants = {"start": np.array([1]), "end": np.array([4])}
    data = batches({"x": np.ones((2, 4), np.float32), "c": np.array(True)})
    full, safe = (build(text, {**constants, "codes": np.full((4, 3), code, np.int8)}) for code in (127, 64))
    assert saturation_cost(lambda inputs: run(full, inputs), full, data, workspace) == tuple(
        f"what the product sums of sums cost on {name} (x86 without VNNI) is not known"
        for name in ("onnxruntime", "OpenVINO")
    )
    assert saturation_cost(lambda inputs: run(safe, inputs), safe, data, workspace) == ()


def test_exact_sums_are_what_the_runtime_computes_where_nothing_is_cut():
    model, data = network()
    found = quantized(model, data, capabilities=ANY_CPU)
    for outputs, batch in zip(outputs_of(found.model, Order.ONNXRUNTIME, data), data, strict=True):
        np.testing.assert_array_equal(outputs["y"], run(found.model, batch.inputs, optimize=False)["y"])


def test_values_that_cross_a_cut_reach_the_end():
    """A residual connection, a graph output in the middle, and integers beside the floats."""
    text = """agraph (float[n,4] x) => (float[n,4] y, float[n,4] m, int64[k] shape) {
        shape = Shape(x)
        m = MatMul(x, w)
        t = Tanh(m)
        o = MatMul(t, w)
        s = Add(o, x)
        v = MatMul(s, w)
        last = Slice(shape, one, end)
        whole = Cast<to = 1>(last)
        z = Mul(v, whole)
        y = Add(z, m)
    }"""
    generator = np.random.default_rng(1)
    constants = {"w": generator.uniform(0.5, 1, (4, 4)).astype(np.float32), "one": np.array([1]), "end": np.array([2])}
    inputs = {"x": generator.normal(size=(6, 4)).astype(np.float32)}
    data = batches(inputs)
    found = quantized(build(text, constants), data, capabilities=VNNI)
    (outputs,) = outputs_of(found.model, None, data)
    expected = run(found.model, inputs, optimize=False)
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def answers_without_vnni(tmp_path_factory):
    """What the runtimes' own kernels answer to ``x`` in an emulated processor that has AVX2 and no VNNI."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the kernels for x86 without VNNI run in qemu's user mode emulation (Debian: qemu-user), on x86")
    folder = tmp_path_factory.mktemp("emulated")

    def answers(models, x, target):
        paths = {name: folder / f"{name}.onnx" for name in models}
        for name, model in models.items():
            ir.save(model, paths[name])
        np.savez(folder / "inputs", x=x)
        worker = [sys.executable, "-m", "benchmarks.saturation_worker", target, folder / "inputs.npz"]
        command = [emulator, "-cpu", "max", *worker, *paths.values()]
        subprocess.run(command, cwd=ROOT, check=True, timeout=300)
        return {name: np.load(path.with_suffix(".npz"))["y"] for name, path in paths.items()}

    return answers


@pytest.mark.parametrize(
    ("order", "target", "rounding"), [(Order.ONNXRUNTIME, "cpu", 1e-6), (Order.OPENVINO, "openvino/cpu", 0.02)]
)
def test_the_evaluator_is_what_kernels_without_vnni_compute(answers_without_vnni, order, target, rounding):
    """OpenVINO rounds values to codes in another place than the graph says, which may cost a step."""
    if order is Order.OPENVINO:
        pytest.importorskip("openvino")
    model, data = network()
    models = {name: quantized(model, data, capabilities=of).model for name, of in (("full", VNNI), ("safe", ANY_CPU))}
    real = answers_without_vnni(models, data[0].inputs["x"], target)
    for name, found in models.items():
        cut, exact = (outputs_of(found, kind, data[:1])[0]["y"] for kind in (order, None))
        error = np.abs(real[name] - cut).max()
        assert error <= rounding * np.abs(cut).max()
        if name == "full":
            assert error < 0.1 * np.abs(real[name] - exact).max()
