"""The option smooth of both int8 passes: golden text, what it is worth, what it leaves alone, and what it says."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.explaining.weights import weight_errors
from mlc.types import Need
from passes._smooth import WORTH, least_noise
from passes.int8_dynamic import WHOLE_BATCH, Int8Dynamic
from passes.int8_static import Int8Static
from tests.dynamic import dynamic
from tests.quantizing import VNNI, batches, build, quantized, run, weights, whole_batches

pytestmark = pytest.mark.needs_onnxruntime

BLOCK = """agraph (float[n,3,64] x) => (float[n,3,8] y, float[n,3,8] z, float[n,3,64] r) {
    h = LayerNormalization(x, g)
    a = MatMul(h, w)
    y = Add(a, b)
    z = MatMul(h, v)
    r = Add(h, x)
}"""


def block(far=50.0):
    """A normalization that a residual reads too; columns 3 and 7 are far larger, and their weights smaller."""
    arrays = weights(0, w=(64, 8), v=(64, 8), b=(8,))
    arrays["g"] = np.ones(64, np.float32)
    arrays["g"][[3, 7]] *= far
    for name in "wv":
        arrays[name][[3, 7]] /= max(far / 2, 1)
    return build(BLOCK, arrays)


def drawn(count=3, shape=(96, 3, 64), offset=0.0):
    """Batches of normal numbers."""
    made = (np.random.default_rng(seed).normal(size=shape) + offset for seed in range(count))
    return batches(*({"x": array.astype(np.float32)} for array in made))


def test_less_is_lost_and_one_multiplication_serves_all_products():
    plain, smooth = (quantized(block(), drawn(), VNNI, smooth=on) for on in (False, True))
    assert plain.change.sites == smooth.change.sites
    assert smooth.sqnr(optimize=False) > plain.sqnr(optimize=False) + 6
    added = {op: count - plain.ops().get(op, 0) for op, count in smooth.ops().items()}
    assert {op: count for op, count in added.items() if count} == {"Mul": 1}
    assert smooth.change.notes == ("the columns of what they read are scaled before these products: a, z",)


def test_what_else_reads_the_value_reads_it_as_it_was():
    (batch,) = drawn(1)
    found = quantized(block(), drawn(), VNNI, smooth=True)
    expected, got = (run(model, batch.inputs, optimize=False)["r"] for model in (found.before, found.model))
    np.testing.assert_array_equal(got, expected)


def test_a_product_that_stays_float_is_as_it_was():
    found = quantized(block(), drawn(), VNNI, allow=lambda site: site != "z", smooth=True)
    assert found.change.sites == ("a", "y")
    (batch,) = drawn(1)
    expected, got = (run(model, batch.inputs, optimize=False)["z"] for model in (found.before, found.model))
    np.testing.assert_array_equal(got, expected)


def test_the_bias_takes_back_what_the_scaled_weights_lose_on_average():
    data = drawn(offset=3.0)
    text = BLOCK.replace("LayerNormalization(x, g)", "Mul(x, g)")
    model = build(text, {name: value.const_value.numpy() for name, value in block().graph.initializers.items()})
    errors = []
    for corrected in (False, True):
        found = quantized(model, data, VNNI, smooth=True, correct_bias=corrected)
        assert "Mul" in found.ops()
        off = [run(found.model, b.inputs, optimize=False)["y"] - run(model, b.inputs)["y"] for b in data]
        errors.append(np.abs(np.mean(np.concatenate(off), axis=(0, 1))).max())
    assert errors[1] < errors[0] / 2


ALONE = "agraph (float[n,3,64] x) => (float[n,3,8] y) {\n h = Sin(x)\n m = Mul(h, g)\n BODY }"


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose<perm = [1, 0]>(u) y = MatMul(m, t)",
        "y = MatMul(m, w) z = MatMul(x, w)",
        "z = Conv(m, k) y = MatMul(m, v)",
        "f = Relu(m) c = MatMul(f, o) p = Relu(c) y = MatMul(p, w)",
    ],
    ids=["transposed", "weight used elsewhere", "other readers of codes", "codes of a product"],
)
def test_what_is_left_alone(body):
    arrays = weights(0, w=(64, 8), v=(64, 8), u=(8, 64), o=(64, 64), k=(3, 3, 57))
    arrays["g"] = np.ones(64, np.float32)
    if "Relu" not in body:
        arrays["g"][3] = 100
    outputs = "float[n,3,8] y, float[n,3,8] z" if "z =" in body else "float[n,3,8] y"
    model = build(ALONE.replace("float[n,3,8] y", outputs).replace("BODY", body), arrays)
    plain, smooth = (quantized(model, drawn(), VNNI, smooth=on) for on in (False, True))
    assert ir.to_onnx_text(smooth.model) == ir.to_onnx_text(plain.model)
    assert smooth.change == plain.change


def test_balanced_columns_are_left_alone():
    assert quantized(block(1.0), drawn(), VNNI, smooth=True).change.notes == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_scales_are_those_by_which_products_lose_least(seed):
    """Drawn columns and weights: where scales are given, rounding with them loses less, and seldom much more than it
    could."""
    generator = np.random.default_rng(seed)
    spread = 10 ** generator.uniform(-1, 1.5 * generator.random(), 48)
    x = generator.normal(size=(400, 48)) * spread
    w = [generator.normal(size=(48, 16)) * 10 ** generator.uniform(-0.5, 0.5, (48, 1)) for _ in range(2)]
    scales = least_noise(x.min(axis=0), x.max(axis=0), w)
    plain = lost(x, w, np.ones(48))
    if scales is None:
        return
    assert lost(x, w, scales) < plain
    assert lost(x, w, scales) < 1.05 * WORTH * plain


def lost(x, matrices, scales):
    """The squared error of products whose sides are rounded to 8 bits."""
    left, both = x / scales, np.concatenate(matrices, axis=1) * scales[:, np.newaxis]
    step, steps = (left.max() - left.min()) / 255, np.abs(both).max(axis=0) / 127
    rounded = np.rint(left / step) * step @ (np.rint(both / steps) * steps)
    return float(np.square(rounded - left @ both).sum())


@pytest.mark.parametrize("seen", [0.0, 1e-44, 1e-6, 1e-3])
def test_what_is_seldom_seen_is_not_made_large(seen):
    generator = np.random.default_rng(0)
    spread = np.where(np.arange(48) < 4, 40.0, 1.0)
    x, w = generator.normal(size=(400, 48)) * spread, generator.normal(size=(48, 16)) / spread[:, np.newaxis]
    before = x.copy()
    before[:, -8:] = seen
    scales = least_noise(before.min(axis=0), before.max(axis=0), [w])
    assert scales is not None
    assert lost(x, [w], scales) < WORTH * lost(x, [w], np.ones(48))


@pytest.mark.parametrize("place", [0, 11])
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e30, 1e37])
@pytest.mark.parametrize("side", ["activations", "weights"])
def test_the_scales_leave_numbers_that_float32_has(side, size, place):
    generator = np.random.default_rng(0)
    spread = np.where(np.arange(48) < 4, 40.0, 1.0)
    peaks, w = spread.copy(), generator.normal(size=(48, 16)) / spread[:, np.newaxis]
    (peaks if side == "activations" else w)[place] *= size
    scales = least_noise(-peaks, peaks, [w])
    if scales is not None:
        for array in (1 / scales, w * scales[:, np.newaxis], peaks / scales):
            assert np.abs(array).max() < np.finfo(np.float32).max
    if size < 1:
        assert scales is not None


@pytest.mark.parametrize("peaks", [np.zeros(4), np.ones(4)])
def test_nothing_is_scaled_for_zeros(peaks):
    assert least_noise(-peaks, peaks, [np.eye(4) * (1 - peaks)]) is None


def test_one_collection_serves_with_and_without():
    needs = Int8Static().needs(block())
    assert needs == Int8Static(smooth=True).needs(block())
    assert Need("h", "column-range") in needs


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_only_extremes_are_known_of_columns(method):
    with pytest.raises(ValueError, match="smooth belongs to method=min-max"):
        Int8Static(method=method, smooth=True)


BRANCHES = """agraph (bool c, float[n,3,64] x) => (float[n,3,8] y) {
    h = Mul(x, g)
    y = If(c) <then_branch = yes () => (float[n,3,8] p) { p = MatMul(h, w) },
              else_branch = no () => (float[n,3,8] q) { k = Mul(x, g) q = MatMul(k, v) }>
}"""


BOTH = "y.then_branch/p, y.else_branch/q"


def test_each_branch_by_itself():
    arrays = weights(0, w=(64, 8), v=(64, 8))
    arrays["g"] = np.where(np.arange(64) == 5, 80, 1).astype(np.float32)
    arrays["w"][5] /= 40
    arrays["v"][5] /= 40
    model = build(BRANCHES, arrays)
    data = whole_batches(*({"c": np.array(bool(taken)), **batch.inputs} for taken, batch in enumerate(drawn(2))))
    plain, smooth = (quantized(model, data, VNNI, smooth=on) for on in (False, True))
    assert len(smooth.change.sites) == 2
    assert smooth.change.notes == (f"the columns of what they read are scaled before these products: {BOTH}",)
    assert smooth.sqnr(optimize=False) > plain.sqnr(optimize=False) + 6


def test_activations_that_are_quantized_as_they_come_are_scaled_too():
    plain, smooth = (dynamic(block(), drawn(), VNNI, smooth=on) for on in (False, True))
    assert plain.change.sites == smooth.change.sites
    assert smooth.sqnr() > plain.sqnr() + 6
    assert smooth.ops()["Mul"] == plain.ops()["Mul"] + 1
    assert smooth.ops()["DynamicQuantizeLinear"] == 1
    assert smooth.change.notes == (WHOLE_BATCH, "the columns of what they read are scaled before these products: a, z")


@pytest.mark.parametrize("allowed", [{"a"}, {"z"}])
def test_only_what_is_quantized_as_it_comes_is_scaled(allowed):
    found = dynamic(block(), drawn(), VNNI, allow=allowed.__contains__, smooth=True)
    other = "z" if allowed == {"a"} else "y"
    (batch,) = drawn(1)
    expected, got = (run(model, batch.inputs, optimize=False)[other] for model in (found.before, found.model))
    np.testing.assert_array_equal(got, expected)


def test_branches_that_no_sample_takes_and_loops_stay_as_they_were():
    arrays = weights(0, w=(64, 8), v=(64, 8))
    arrays["g"] = np.where(np.arange(64) == 5, 80, 1).astype(np.float32)
    model = build(BRANCHES, arrays)
    data = whole_batches(*({"c": np.array(True), **batch.inputs} for batch in drawn(2)))
    found = dynamic(model, data, VNNI, smooth=True)
    assert found.change.sites == ("y.then_branch/p", "y.else_branch/q")
    said = "the columns of what they read are scaled before these products: y.then_branch/p"
    assert found.change.notes[1:] == (said,)
    looped = build(LOOP, weights(0, w=(64, 64)) | {"g": arrays["g"]})
    assert dynamic(looped, drawn(1, (96, 64)), VNNI, smooth=True).change.notes == (WHOLE_BATCH,)


LOOP = """agraph (float[n,64] x) => (float[n,64] y) <int64 count = {3}, bool go = {1}> {
    y = Loop(count, go, x) <body = body (int64 i, bool c, float[n,64] p) => (bool d, float[n,64] q) {
        d = Identity(c) k = Mul(p, g) q = MatMul(k, w) }>
}"""


def test_nothing_is_asked_for_where_nothing_is_scaled():
    assert Int8Dynamic().needs(block()) == ()
    assert not Int8Dynamic().calibrates
    assert Int8Dynamic(smooth=True).calibrates
    assert {need.kind for need in Int8Dynamic(smooth=True).needs(block())} == {"histogram", "column-range"}


@pytest.mark.parametrize("make", [quantized, dynamic])
def test_too_few_rows_scale_nothing_and_that_is_said(make):
    found = make(block(), drawn(1, (5, 3, 64)), VNNI, smooth=True)
    said = "no columns are scaled before products: 15 rows calibrate, 256 tell how far they reach"
    assert found.change.notes[-1] == said
    assert found.ops() == make(block(), drawn(1, (5, 3, 64)), VNNI).ops()


def test_golden(golden):
    arrays = {"w": np.array([[1, 0.4], [0.003, 0.005]], np.float32), "b": np.array([1, -1], np.float32)}
    text = "agraph (float[n,2] x) => (float[n,2] y) {\n y = Gemm(x, w, b)\n}"
    samples = batches({"x": np.tile(np.array([[0, 10], [2, 300]], np.float32), (128, 1))})
    found = quantized(build(text, arrays), samples, VNNI, smooth=True)
    golden("smooth.onnxtxt", ir.to_onnx_text(found.model).rstrip() + "\n")


MASKED = """agraph (float[n,64] x) => (float[n,8] y, float[n,8] z) {
    small = Less(x, least)
    h = Where(small, infinity, x)
    y = MatMul(h, w)
    z = MatMul(x, v)
}"""


@pytest.mark.parametrize("apply", [quantized, dynamic])
def test_beside_a_mask_of_infinity_the_rest_is_scaled(apply):
    generator = np.random.default_rng(0)
    arrays = weights(0, w=(64, 8), v=(64, 8)) | {"least": np.float32(-100), "infinity": np.float32(-np.inf)}
    arrays["v"][5] /= 60
    far = np.where(np.arange(64) == 5, 60, 1)
    data = batches(*({"x": (generator.normal(size=(256, 64)) * far).astype(np.float32)} for _ in range(3)))
    found = apply(build(MASKED, arrays), data, VNNI, smooth=True)
    assert [refusal.site for refusal in found.change.refused] == ["y"]
    assert found.change.notes[-1] == "the columns of what they read are scaled before these products: z"


@pytest.mark.parametrize("apply", [quantized, dynamic])
def test_weights_are_compared_as_they_were_scaled(apply):
    found = apply(block(), drawn(), VNNI, smooth=True)
    errors = weight_errors(found.before, found.model)
    assert {error.value: error.readers for error in errors} == {"w": ("a",), "v": ("z",)}
    assert min(error.sqnr for error in errors) > 35
    assert max(error.clipped for error in errors) == 0


def test_a_multiplication_of_the_model_scales_no_weight():
    arrays = weights(0, w=(64, 8)) | {"g": np.full(64, 3, np.float32)}
    text = 'agraph (float[n,3,64] x) => (float[n,3,8] "a/y") {\n "b/m" = Mul(x, g)\n "a/y" = MatMul("b/m", w)\n}'
    found = quantized(build(text, arrays), drawn(), VNNI, smooth=True)
    assert min(error.sqnr for error in weight_errors(found.before, found.model)) > 35
