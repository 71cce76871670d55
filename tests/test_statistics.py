import tracemalloc

import numpy as np
import pytest

from mlc.data import Batch
from mlc.errors import DataError, UsageError
from mlc.statistics import collect, merge, taps
from mlc.statistics.histograms import COUNTED, counted
from mlc.statistics.observers import KINDS, Observer
from mlc.types import Need
from mlc.workspace import Workspace
from tests.quantizing import batches, build, weights, whole_batches

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[batch, n] x) => (float[batch, n] z) {
    y = Exp(x)
    z = Neg(y)
}"""
ALL = [Need(value, kind) for value in "xyz" for kind in KINDS]


def run(data, needs=ALL, text=TEXT, arrays=None):
    with Workspace() as workspace:
        return collect(build(text, arrays), needs, data, workspace)


def draw(seed, rows, columns=5):
    return {"x": np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)}


def counts(statistics, value):
    found = statistics.observers[value].counts
    assert found is not None
    return found


def test_extremes_are_exact():
    parts = [draw(seed, 4) for seed in range(3)]
    x = np.concatenate([part["x"] for part in parts])
    found = run(batches(*parts))
    assert found.samples == 12
    assert found.range("x") == (float(x.min()), float(x.max()))
    low, high = found.channel_range("x")
    assert low.tolist() == x.min(axis=0).tolist()
    assert high.tolist() == x.max(axis=0).tolist()
    np.testing.assert_allclose(found.channel_mean("x"), x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.range("z"), (-np.exp(x).max(), -np.exp(x).min()), rtol=1e-6)


def test_two_halves_merge_into_the_whole():
    parts = [draw(seed, 4) for seed in range(4)]
    whole = run(batches(*parts))
    both = merge(run(batches(*parts[:2])), run(batches(*parts[2:], first=8)))
    assert both.samples == whole.samples
    for value in "xyz":
        assert both.range(value) == whole.range(value)
        assert np.array_equal(counts(both, value), counts(whole, value))
        for mine, theirs in zip(both.channel_range(value), whole.channel_range(value), strict=True):
            assert np.array_equal(mine, theirs)
        for mine, theirs in zip(both.column_range(value), whole.column_range(value), strict=True):
            assert np.array_equal(mine, theirs)
        np.testing.assert_allclose(both.channel_mean(value), whole.channel_mean(value), rtol=1e-6)
        np.testing.assert_allclose(both.moments(value), whole.moments(value), rtol=1e-5)
    assert np.array_equal(both.digests, whole.digests)


SHAPES = [(), (7,), (5, 3), (4, 3, 6), (2, 3, 4, 4), (3, 0, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_any_split_merges_into_the_whole(shape, dtype):
    generator = np.random.default_rng(len(shape))
    batches = [(20 * generator.normal(size=shape)).astype(dtype) for _ in range(6)]
    for cut in generator.integers(0, 7, 3):
        whole, *halves = (
            observed(part, first) for part, first in ((batches, 0), (batches[:cut], 0), (batches[cut:], cut))
        )
        both = halves[0].merged(halves[1], "x")
        assert (both.range(), both.elements, both.low_sample) == (whole.range(), whole.elements, whole.low_sample)
        assert np.array_equal(both.counts, whole.counts)
        assert both.axes.keys() == whole.axes.keys()
        for axis, along in whole.axes.items():
            assert np.array_equal(both.axes[axis].low, along.low)
            assert np.array_equal(both.axes[axis].high, along.high)
            np.testing.assert_allclose(both.axes[axis].mean(), along.mean(), rtol=1e-6, atol=1e-6)


def observed(arrays, first=0):
    """An observer of several batches, each of as many samples as axis 0 has."""
    observer = Observer()
    for kind in KINDS[:-1]:
        observer.want(kind)
    for number, array in enumerate(arrays):
        size = len(array) if array.ndim else 1
        observer.add(array, "x", np.arange(size) + (first + number) * size)
    return observer


def test_columns_are_those_of_the_last_axis_and_channels_those_of_axis_1():
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    observer = observed([array])
    assert observer.axes["channels"].low.tolist() == array.min(axis=(0, 2, 3)).tolist()
    assert observer.axes["columns"].high.tolist() == array.max(axis=(0, 1, 2)).tolist()
    np.testing.assert_allclose(observer.axes["columns"].mean(), array.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_an_axis_that_differs_between_samples_is_named():
    with pytest.raises(DataError, match="x has an axis of 3 in some samples and of 5 in others"):
        observed([np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)])


def test_large_samples_are_counted_in_part_and_the_same_in_any_batch():
    generator = np.random.default_rng(0)
    array = generator.normal(size=(6, 32, 100, 100)).astype(np.float32)
    array[:, 1] += 40  # one channel of 32, so that a step that missed channels would be seen
    part = counted(array, 6)
    assert part.shape[0] == 6
    assert COUNTED <= part.shape[1] < 2 * COUNTED
    np.testing.assert_allclose((part > 30).mean(), 1 / 32, rtol=0.01)
    whole, halves = observed([array]), observed([array[:3], array[3:]])
    assert np.array_equal(whole.counts, halves.counts)
    assert whole.counted < whole.elements == array.size
    assert whole.range() == (float(array.min()), float(array.max()))
    low, high = whole.percentile(99.9)
    np.testing.assert_allclose([low, high], np.percentile(array, [0.05, 99.95]), rtol=0.03)


def test_large_samples_of_several_rows_are_counted_the_same_in_any_batch():
    """Windows of a picture lie side by side on axis 0, as many for each sample."""
    array = np.random.default_rng(0).normal(size=(6 * 4, COUNTED)).astype(np.float32)
    halves = np.sort(np.concatenate([counted(array[:8], 2).reshape(-1), counted(array[8:], 4).reshape(-1)]))
    assert np.array_equal(np.sort(counted(array, 6).reshape(-1)), halves)
    assert halves.size < array.size


def test_small_samples_are_counted_whole():
    observer = observed([np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)])
    assert observer.counted == observer.elements == 3000


@pytest.mark.parametrize("percent", [99.99, 99.9, 99.0, 90.0])
def test_percentiles_are_within_one_percent(percent):
    values = np.random.default_rng(0).normal(size=(200, 1000)).astype(np.float32)
    values[0, 0] = 1e4
    found = run(batches({"x": values}), [Need("x", "histogram")], TEXT.replace("Exp", "Tanh"))
    outside = (100 - percent) / 2
    expected = np.percentile(values, [outside, 100 - outside])
    np.testing.assert_allclose(found.percentile("x", percent), expected, rtol=0.01)
    positive = run(batches({"x": np.abs(values)}), [Need("x", "histogram")], TEXT.replace("Exp", "Tanh"))
    low, high = positive.percentile("x", percent)
    assert low == float(np.abs(values).min())
    np.testing.assert_allclose(high, np.percentile(np.abs(values), percent), rtol=0.01)
    assert found.percentile("x", 100) == found.range("x")


def test_a_range_below_zero_is_cut_below_only():
    values = -np.abs(np.random.default_rng(0).normal(size=(100, 1000)).astype(np.float32))
    found = run(batches({"x": values}), [Need("x", "histogram")])
    low, high = found.percentile("x", 99)
    np.testing.assert_allclose(low, np.percentile(values, 1), rtol=0.01)
    assert high == float(values.max())


def test_samples_of_different_length():
    parts = [draw(seed, 2, columns) for seed, columns in enumerate((3, 9, 1))]
    found = run(batches(*parts), [Need("y", "histogram"), Need("x", "range")])
    every = np.concatenate([part["x"].ravel() for part in parts])
    assert found.range("x") == (float(every.min()), float(every.max()))
    assert found.observers["y"].elements == 26


def test_filling_is_not_counted():
    x = draw(0, 4)["x"]
    x[3] = 1e3
    found = run([Batch({"x": x}, None, 3, 0, np.arange(3))], [Need("x", "histogram"), Need("y", "range")])
    assert found.samples == 3
    assert found.range("x")[1] < 1e3
    assert np.isfinite(found.range("y")[1])
    assert counts(found, "x").sum() == 15


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_input_is_named_with_its_sample(bad):
    parts = [draw(seed, 4) for seed in range(3)]
    parts[1]["x"][2, 1] = bad
    with pytest.raises(DataError, match=r"the input x holds (NaN|Inf) for sample 6 of the calibration data"):
        run(batches(*parts))


def test_the_first_value_that_becomes_infinite_is_named():
    parts = [draw(seed, 4) for seed in range(3)]
    parts[2]["x"][1, 0] = 1e3
    with pytest.raises(DataError, match="the value y holds Inf for sample 9"):
        run(batches(*parts), [Need("z", "range"), Need("y", "range")])


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_a_value_inside_that_the_model_guards_has_an_infinite_range(number):
    text = """agraph (float[n,3] x) => (float[n,3] y) {
        r = Mul(x, c)
        i = IsInf(r)
        n = IsNaN(r)
        b = Or(i, n)
        y = Where(b, x, r)
    }"""
    model = build(text, {"c": np.array([1, number, 1], np.float32)})
    data = batches({"x": np.ones((2, 3), np.float32)})
    with Workspace() as workspace:
        found = collect(model, [Need("r", "range"), Need("y", "range")], data, workspace)
        assert (found.range("r"), found.range("y")) == ((1, np.inf), (1, 1))
        with pytest.raises(DataError, match="the value r holds"):
            collect(model, [Need("r", "histogram")], data, workspace)


def test_samples_keep_the_index_that_they_have_in_the_user_s_data():
    x = draw(0, 3)["x"]
    x[1, 0] = np.nan
    with pytest.raises(DataError, match="sample 40"):
        run([Batch({"x": x}, None, 3, 7, np.array([7, 40, 41]))])


def test_no_sample_is_an_error():
    with pytest.raises(DataError, match="holds no sample"):
        run([])


def test_an_unknown_value_or_kind_is_an_error():
    with pytest.raises(UsageError, match="no value called 'q'"):
        run(batches(draw(0, 2)), [Need("q", "range")])
    with pytest.raises(UsageError, match="no statistic is called 'mode'"):
        run(batches(draw(0, 2)), [Need("x", "mode")])


def test_what_was_not_collected_is_a_key_error():
    found = run(batches(draw(0, 2)), [Need("x", "range")])
    for ask in (lambda: found.range("y"), lambda: found.percentile("x", 99), lambda: found.channel_range("x")):
        with pytest.raises(KeyError):
            ask()


def test_nothing_needed_runs_nothing():
    assert run([], []).samples == 0


def test_values_that_do_not_fit_together_are_collected_in_several_runs(monkeypatch):
    parts = [draw(seed, 4) for seed in range(3)]
    whole = run(batches(*parts))
    monkeypatch.setattr(taps, "BUDGET", 1)
    model = build(TEXT)
    assert list(taps.in_chunks(model, ["z", "x", "y"], {"x": (4, 5)})) == [["x"], ["y"], ["z"]]
    apart = run(batches(*parts))
    for value in "xyz":
        assert apart.range(value) == whole.range(value)
        assert np.array_equal(counts(apart, value), counts(whole, value))


def test_zero_size_and_constant_zero_values():
    found = run(batches({"x": np.zeros((2, 0), np.float32)}), [Need("y", "histogram")])
    assert found.range("y") == (0.0, 0.0)
    assert found.percentile("y", 99.9) == (0.0, 0.0)
    found = run(batches({"x": np.zeros((2, 3), np.float32)}), [Need("x", "histogram")])
    assert found.percentile("x", 99.9) == (0.0, 0.0)


def test_a_scalar_value():
    text = """agraph (float[batch, n] x) => (float s) {
        s = ReduceSum<keepdims = 0>(x)
    }"""
    found = run(batches({"x": np.ones((2, 3), np.float32)}), [Need("s", "histogram"), Need("s", "channel-range")], text)
    assert found.range("s") == (6.0, 6.0)
    assert found.channel_range("s")[0].tolist() == [6.0]


def test_memory_does_not_grow_with_the_samples():
    class Stream:
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            x = draw(0, 8, 1000)["x"]
            return (Batch({"x": x}, None, 8, i * 8, np.arange(i * 8, i * 8 + 8)) for i in range(self.count))

    def peak(count):
        tracemalloc.start()
        run(Stream(count), [Need("x", "histogram"), Need("y", "histogram")])
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(2)
    assert peak(200) < 1.2 * peak(2) + 100_000


def test_only_what_is_needed_is_run(tmp_path):
    text = """agraph (float[batch, 4] x) => (float[batch, 4] z) {
        y = Exp(x)
        u = MatMul(y, w)
        z = Neg(u)
    }"""
    import onnx_ir as ir

    with Workspace(tmp_path) as workspace:
        path = taps.tapped(build(text, weights(0, w=(4, 4))), ["y"], workspace)
        assert [node.op_type for node in ir.load(path).graph] == ["Exp"]


BRANCHES = """agraph (float[n,4] x, bool c) => (float[n,4] y) <int64 rounds = {2}, bool go = {1}> {
    a = Neg(x)
    y = If(c) <
        then_branch = yes () => (float[n,4] p) { p = Exp(a) },
        else_branch = no () => (float[n,4] q) {
            s = Abs(a)
            r = If(c) <
                then_branch = never () => (float[n,4] p) { p = Neg(s) },
                else_branch = always () => (float[n,4] p) { p = Sqrt(s) }
            >
            q = Loop(rounds, go, r) <
                body = step (int64 i, bool on, float[n,4] h) => (bool still, float[n,4] t) {
                    still = Identity(on)
                    t = Neg(h)
                }
            >
        }
    >
}"""


def test_values_of_branches_are_collected_where_they_come_about():
    feeds = [{**draw(seed, 3, 4), "c": np.array(taken)} for seed, taken in ((0, True), (1, False), (2, False))]
    names = {"p": "y.then_branch/p", "r": "y.else_branch/r.else_branch/p", "none": "y.else_branch/r.then_branch/p"}
    needs = [Need(value, "histogram") for value in ("a", "y.else_branch/s", *names.values())]
    found = run(whole_batches(*feeds), needs, BRANCHES)
    taken, others = feeds[0]["x"], np.concatenate([feed["x"] for feed in feeds[1:]])
    assert found.range("a") == (-max(taken.max(), others.max()), -min(taken.min(), others.min()))
    assert found.range("y.else_branch/s") == (np.abs(others).min(), np.abs(others).max())
    np.testing.assert_allclose(found.range(names["p"]), (np.exp(-taken.max()), np.exp(-taken.min())), rtol=1e-6)
    np.testing.assert_allclose(found.range(names["r"])[1], np.sqrt(np.abs(others).max()), rtol=1e-6)
    assert counts(found, names["r"]).sum() == others.size
    assert [found.seen(name) for name in names.values()] == [True, True, False]


def test_values_of_loops_are_not_collected():
    feed = {**draw(0, 3, 4), "c": np.array(False)}
    with pytest.raises(UsageError, match=r"no value called 'y\.else_branch/q\.body/t'") as caught:
        run(whole_batches(feed), [Need("y.else_branch/q.body/t", "range")], BRANCHES)
    assert caught.value.hint == "statistics are of values outside of loops"


def masked(mask, share=0.3, rows=8):
    x = np.random.default_rng(0).normal(size=(rows, 50)).astype(np.float32)
    x[3:, : int(50 * share)] += np.float32(mask)
    return x


@pytest.mark.parametrize("mask", [-1e3, -1e4, -1e9, float(np.finfo(np.float32).min) / 2])
@pytest.mark.parametrize("times", [1, 2])
def test_a_mask_is_told_with_its_sample(mask, times):
    x = masked(mask)
    x[5, :3] *= times  # a sum of two masks
    found = observed([x[:4], x[4:]])
    assert found.mask() == (float(x.min()), int(x.min(axis=1).argmin()))


def test_numbers_beside_a_mask_of_infinity_have_a_range_of_their_own():
    generator = np.random.default_rng(0)
    array = generator.normal(size=(6, 50)).astype(np.float32)
    array[[1, 4], :20] = -np.inf
    whole, first, second = Observer(), Observer(), Observer()
    whole.add(array, "x", np.arange(6))
    first.add(array[:2], "x", np.arange(2))
    second.add(array[2:], "x", np.arange(2, 6))
    expected = (array[np.isfinite(array)].min(), array.max())
    assert whole.finite_range() == first.merged(second, "x").finite_range() == expected
    assert whole.range() == (-np.inf, array.max())
    nothing = Observer()
    nothing.add(np.full((2, 3), -np.inf, np.float32), "x", np.arange(2))
    assert nothing.finite_range() == (0, 0)


def test_a_mask_of_infinity_is_told_with_its_sample():
    text = "agraph (float[batch, n] x) => (float[batch, n] z) {\n y = Log(x)\n z = Neg(y)\n}"
    parts = [np.abs(draw(seed, 4)["x"]) for seed in range(3)]
    parts[1][2, 1] = 0
    data = batches(*({"x": part} for part in parts))
    found = run(data, [Need("y", "histogram"), Need("y", "column-range")], text)
    assert found.mask("y") == (-np.inf, 6)
    assert found.column_range("y")[0][1] == -np.inf
    for cut in (found.percentile("y", 99), found.mse("y"), found.entropy("y")):
        assert cut == found.range("y")
    with pytest.raises(DataError, match="the value y holds Inf for sample 6"):
        run(data, [Need("y", "channel-mean")], text)
    with pytest.raises(DataError, match="the value z holds Inf for sample 6"):
        run(data, [Need("y", "range"), Need("z", "range")], text)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=(4, 50)),
        np.concatenate([np.random.default_rng(0).normal(size=4999), [-1e9]])[:, np.newaxis],
        np.eye(40) * 1e6,
        np.full((3, 3), -1e9),
        np.random.default_rng(0).uniform(-2e4, -1, size=(4, 500)),
        masked(-100.0),
    ],
    ids=["normal", "one outlier", "one-hot", "constant", "wide", "close"],
)
def test_what_is_no_mask(x):
    assert observed([x.astype(np.float32)]).mask() is None
