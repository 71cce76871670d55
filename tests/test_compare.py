"""What counts as the same: tolerance over the rms, bits, special values, and flips that a deciding float excuses."""

import math

import ml_dtypes
import numpy as np
import pytest

from mlc.compare import compare, compare_one, rms, sqnr
from mlc.compare.decisions import decisions, with_outputs
from tests.graphs import answers, graph, random


def one(expected, actual, tolerance=1e-3, **options):
    return compare_one("y", np.asarray(expected), None if actual is None else np.asarray(actual), tolerance, **options)


def floats(*values):
    return np.array(values, np.float32)


def test_the_error_is_over_the_rms():
    difference = one(floats(3, 4), floats(3, 4.5), 0.2)
    assert difference.error == pytest.approx(0.5 / math.sqrt(12.5))
    assert not difference
    assert one(floats(3, 4), floats(3, 4.5), 0.1).reason == "y differs by 0.14 of its rms, allowed is 0.1"


@pytest.mark.parametrize(
    ("expected", "actual", "reason"),
    [
        (floats(1, 2), None, "y is missing"),
        (floats(1, 2), np.array([1, 2], np.float64), "y is float64, expected float32"),
        (floats(1, 2), floats(1, 2, 3), "y has shape [3], expected [2]"),
        (floats(1, 2), floats(1, 2).reshape(1, 2), "y has shape [1, 2], expected [2]"),
        (floats(1, np.nan), floats(1, 2), "y has NaN or Inf at other positions than expected"),
        (floats(1, 2), floats(1, np.nan), "y has NaN or Inf at other positions than expected"),
        (floats(1, np.inf), floats(1, -np.inf), "y has NaN or Inf at other positions than expected"),
        (np.array([1, 2, 3]), np.array([1, 5, 4]), "2 of 3 elements of y differ"),
        (np.array([True, False]), np.array([True, True]), "1 of 2 elements of y differ"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "1 of 2 elements of y differ"),
    ],
)
def test_what_differs_and_why(expected, actual, reason):
    difference = one(expected, actual)
    assert difference
    assert difference.reason == reason
    assert difference.error == math.inf


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (floats(), floats()),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
        (np.float32(2.0), np.float32(2.001)),
        (floats(1, np.nan, np.inf, -np.inf), floats(1.0005, np.nan, np.inf, -np.inf)),
        (floats(0, 0), floats(0, 0)),
        (floats(0, 0), floats(0, 5e-8)),
        (np.array(3), np.array(3)),
        (np.array([1 + 1j], np.complex64), np.array([1 + 1.0001j], np.complex64)),
        (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2], ml_dtypes.bfloat16)),
        (np.array(["a"], object), np.array(["a"], object)),
        (floats(np.nan, np.nan), floats(np.nan, np.nan)),
    ],
)
def test_what_is_the_same(expected, actual):
    assert not one(expected, actual)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (floats(0, 0), floats(0, 2e-7)),
        (np.float32(2.0), np.float32(2.01)),
        (np.array([1, 2], np.float16), np.array([1, 2.02], np.float16)),
        (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2.1], ml_dtypes.bfloat16)),
        (floats(1e-20, 1e-20), floats(1e-20, 2e-20)),
        (floats(1e30, 1e30), floats(1e30, 1.1e30)),
    ],
)
def test_what_is_not(expected, actual):
    difference = one(expected, actual)
    assert difference
    assert math.isfinite(difference.error)


@pytest.mark.parametrize(
    ("dtype", "next_one", "after_it"),
    [(np.float16, 4 + 2**-8, 4 + 2**-7), (ml_dtypes.bfloat16, 4 + 2**-5, 4 + 2**-4)],
)
def test_of_16_bit_floats_an_element_may_be_the_next_number(dtype, next_one, after_it):
    expected, same, other = (np.array([1, 4, -each], dtype) for each in (4, next_one, after_it))
    assert not one(expected, same)
    assert one(expected, same).error == 0
    assert one(expected, other)
    assert one(expected.astype(np.float32), same.astype(np.float32))


def test_a_large_array_is_judged_whole():
    expected = random(1, 3_000_000)
    actual = expected.copy()
    actual[-1] += 0.01
    assert one(expected, actual)
    assert rms(expected) == pytest.approx(float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))))


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (floats(0.0), floats(-0.0), False),
        (floats(1), floats(np.nextafter(np.float32(1), np.float32(2))), False),
        (floats(np.nan), floats(-np.nan), True),
        (floats(1, 2), floats(1, 2), True),
        (np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), True),
        (np.float32(1), np.float32(1), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array(["a"], object), np.array(["a"], object), True),
        (np.array(["a"], object), np.array(["b"], object), False),
        (random(1, 4, 6)[:, ::2], random(1, 4, 6)[:, ::2].copy(), True),
    ],
)
def test_exact_asks_for_the_bits(expected, actual, same):
    assert bool(one(expected, actual, 0.0, exact=True)) is not same


def test_outputs_are_taken_by_name():
    found = compare({"a": floats(1), "b": floats(2)}, {"b": floats(2), "a": floats(5), "more": floats(1)}, 1e-3)
    assert [(difference.output, bool(difference)) for difference in found] == [("a", True), ("b", False)]


def test_sqnr():
    assert sqnr(floats(3, 4), floats(3, 4)) == math.inf
    assert sqnr(floats(10, 0), floats(11, 0)) == pytest.approx(20)
    assert sqnr(floats(1, 2), floats(1, np.nan)) == -math.inf
    assert sqnr(floats(0, 0), floats(1e-39, 0)) == math.inf
    assert sqnr(floats(0, 0), floats(1e-30, 0)) == -math.inf
    assert sqnr(floats(1, 2), floats(1)) == -math.inf
    assert sqnr(floats(0, 0), floats(0, 1)) == -math.inf


# What a float decides


def judged(case, x, nudge, workspace):
    """Compare a graph on x with itself on nudged x, the deciding values fetched beside its outputs."""
    body, interface, _ = CASES[case]
    model = graph(f"g {interface} {WEIGHTS} {{ {body} }}")
    known = decisions(model)
    assert known, "no deciding value was found"
    extended = with_outputs(model, [name for decision in known.values() for name in decision.values])
    expected = answers(model, {"x": x}, workspace)
    actual = answers(extended, {"x": x + nudge}, workspace)
    actual["x"] = x + nudge
    assert any((expected[name].shape != actual[name].shape) or (expected[name] != actual[name]).any() for name in known)
    return compare(expected, actual, 1e-3, decisions=known)


NEAR, FAR = floats(1e-4, 0, 0, 0), floats(0.1, 0, 0, 0)
ROW = "(float[4] x) => ({} y)"

CASES = {
    "argmax": ("y = ArgMax<keepdims = 0, axis = 0>(x)", ROW.format("int64"), floats(1.99995, 2, -2, 1)),
    "argmin kept": ("n = Neg(x) y = ArgMin<axis = -1>(n)", ROW.format("int64[1]"), floats(1.99995, 2, -2, 1)),
    "topk": ("v, y = TopK<axis = 0>(x, k)", ROW.format("int64[2]"), floats(1.99995, 2, -2, 1)),
    "greater": ("y = Greater(x, t)", ROW.format("bool[4]"), floats(0.49995, 2, -2, 1)),
    "less than a value": ("n = Neg(x) y = Less(x, n)", ROW.format("bool[4]"), floats(-5e-5, 2, -2, 1)),
    "round to an integer": ("r = Round(x) y = Cast<to = 7>(r)", ROW.format("int64[4]"), floats(0.49995, 2, -2, 1)),
    "truncate": ("y = Cast<to = 6>(x)", ROW.format("int32[4]"), floats(0.99995, 2.2, -2.2, 1.2)),
    "to a boolean": ("r = Relu(x) y = Cast<to = 9>(r)", ROW.format("bool[4]"), floats(-5e-5, 2, -2, 1)),
    "logic over two": (
        "a = Greater(x, t) b = Less(x, u) c = And(a, b) y = Not(c)", ROW.format("bool[4]"), floats(0.49995, 2, -2, 1)
    ),
    "sign": ("s = Sign(x) y = Cast<to = 7>(s)", ROW.format("int64[4]"), floats(-5e-5, 2, -2, 1)),
    "nonzero": ("m = Greater(x, t) y = NonZero(m)", ROW.format("int64[1,n]"), floats(0.49995, 2, -2, 1)),
    "nonzero, rows": (
        "m = Greater(x, t) p = NonZero(m) y = Transpose(p)", ROW.format("int64[n,1]"), floats(0.49995, 2, -2, 1)
    ),
    "quantized": ("y = QuantizeLinear(x, q, z)", ROW.format("uint8[4]"), floats(0.24995, 2, -2, 1)),
}  # fmt: skip
WEIGHTS = "<float t = {0.5}, float u = {9}, int64[1] k = {2}, float q = {0.5}, uint8 z = {128}>"


@pytest.mark.parametrize("case", CASES)
def test_a_flip_near_the_threshold_is_excused(case, workspace):
    assert not any(judged(case, CASES[case][2], NEAR, workspace))


@pytest.mark.parametrize("case", CASES)
def test_a_flip_far_from_it_is_not(case, workspace):
    x = CASES[case][2] - floats(0.05, 0, 0, 0)
    assert any(judged(case, x, FAR, workspace)), "an error of a tenth was excused"


def test_without_its_deciding_value_nothing_is_excused(workspace):
    body, interface, x = CASES["greater"]
    model = graph(f"g {interface} {WEIGHTS} {{ {body} }}")
    expected, actual = (answers(model, {"x": array}, workspace) for array in (x, x + NEAR))
    assert any(compare(expected, actual, 1e-3, decisions=decisions(model)))


@pytest.mark.parametrize(
    "body",
    ["y = Shape(x)", "i = Cast<to = 7>(x) k = Constant<value_int = 2>() y = Mul(i, k)", "y = Identity(w)"],
)
def test_what_floats_do_not_decide_alone_is_exact(body):
    model = graph(f"g (float[4] x) => (int64[n] y) <int64[1] w = {{1}}> {{ {body} }}")
    assert decisions(model) == {}


MASKS = [-1e9, -1e4, float(np.finfo(np.float32).min), 3e38]


@pytest.mark.parametrize("level", MASKS)
def test_a_mask_hides_nothing(level):
    scores = random(1, 6, 50)
    masked = np.triu(np.ones((50, 50), bool), 1)[:6]
    expected, right, wrong = (np.where(masked, level, array) for array in (scores, scores * (1 + 1e-6), scores * 1.02))
    expected, right, wrong = (array.astype(np.float32) for array in (expected, right, wrong))
    assert not one(expected, right, 1e-5)
    assert one(expected, wrong).error == pytest.approx(
        0.02 * np.abs(scores[~masked]).max() / rms(scores[~masked]), rel=0.01
    )
    assert sqnr(expected, wrong) == pytest.approx(34, abs=0.1)
    lost = np.where(masked, scores, expected)
    assert one(expected, lost)
    assert sqnr(expected, lost) < -40
    moved = np.where(masked, np.float32(level) * np.float32(0.995), expected)
    assert one(expected, moved).error == pytest.approx(0.005, rel=0.01)


@pytest.mark.parametrize(
    "array",
    [
        floats(1e9, 1),
        floats(1e6, -1e6, 1),
        floats(2e4, 2e4, 30),
        floats(1e5, 8e4, 1),
        floats(1e5, 1e5),
        floats(9e3, 9e3, 1),
    ],
)
def test_what_is_no_mask_counts_in_the_rms(array):
    wrong = array.copy()
    wrong[-1] += np.abs(array).max() * 1e-6
    assert one(array, wrong).error < 1e-5


def test_a_ranking_of_masked_scores_is_not_excused():
    model = graph("g (float[n,5] x) => (int64[n,1] y) { y = ArgMax<axis = 1>(x) }")
    values = {"x": floats([-1e9, 1, 1.0001, 2, -1e9])}
    known = decisions(model)
    expected = {"y": np.array([[3]])}
    (near,) = compare(expected, {"y": np.array([[2]]), **values}, 1e-3, decisions=known)
    assert near
    (near,) = compare({"y": np.array([[1]])}, {"y": np.array([[2]]), **values}, 1e-3, decisions=known)
    assert not near
