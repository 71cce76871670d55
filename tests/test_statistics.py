import tracemalloc

import numpy as np
import pytest

from mlc.data import Batch
from mlc.errors import DataError, UsageError
from mlc.statistics import CollectedStatistics, collect, merge, taps
from mlc.types import Need
from mlc.workspace import Workspace
from tests.quantizing import batches, build, weights

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[batch, n] x) => (float[batch, n] z) {
    y = Exp(x)
    z = Neg(y)
}"""
ALL = [Need(value, kind) for value in "xyz" for kind in ("range", "histogram", "channel-range", "channel-mean")]


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
        np.testing.assert_allclose(both.channel_mean(value), whole.channel_mean(value), rtol=1e-6)


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


def test_saved_statistics_come_back_and_are_the_same_bytes(tmp_path):
    found = run(batches(draw(0, 4), draw(1, 4)))
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    found.save(first)
    run(batches(draw(0, 4), draw(1, 4))).save(second)
    assert first.read_bytes() == second.read_bytes()
    back = CollectedStatistics.load(first)
    assert back.samples == 8
    for value in "xyz":
        assert back.range(value) == found.range(value)
        assert back.percentile(value, 99) == found.percentile(value, 99)
        assert np.array_equal(back.channel_range(value), found.channel_range(value))
        assert np.array_equal(back.channel_mean(value), found.channel_mean(value))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of arrays"])
def test_a_file_that_holds_no_statistics(tmp_path, content):
    path = tmp_path / "statistics.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no statistics"):
        CollectedStatistics.load(path)


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
