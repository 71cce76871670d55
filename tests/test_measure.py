"""Measuring: intervals that cover, accuracy paired per sample, workers that answer or die with a reason."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mlc.compare import Reference
from mlc.data import open_data
from mlc.errors import DataError, SourceError, TargetError, UsageError
from mlc.judging import compared
from mlc.measuring import (
    Arithmetic,
    Candidate,
    Latency,
    Trial,
    bench,
    bootstrap,
    jobs,
    latency,
    measure,
    measure_accuracy,
    measure_agreement,
    peak,
    trials,
    with_shares,
)
from mlc.measuring.agreement import Agreement
from mlc.measuring.bootstrap import expanded_interval, mean_draws, ratio_interval, student
from mlc.measuring.files import file_bytes
from mlc.measuring.latency import latencies_of, measure_load, measure_profile, time_original
from mlc.measuring.proportions import paired_interval
from mlc.measuring.timing import timed_block
from mlc.measuring.worker import plan, thinned
from mlc.metrics import from_function, load_metric
from mlc.types import Dim, InputSpec, Interval, Target
from tests import onnx_models

ONES = {"x": np.ones((2, 4), np.float32)}
SIZES = {"batch": 2}
BATCH = Dim(1, 64, name="batch")
X = (InputSpec("x", "float32", (BATCH, Dim(5, 5))),)


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


# intervals


def test_students_quantiles():
    known = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 1000: 1.962}
    assert {freedom: student(freedom) for freedom in known} == pytest.approx(known, rel=0.01)


def rounds(rng, factor, spread=0.01, noise=0.03):
    """Block times of a model: [process, round], with what a process and what a round adds."""
    process = rng.normal(0, spread, (5, 1))
    return factor * np.exp(process + rng.normal(0, noise, (5, 24)))


@pytest.fixture
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2000)


@pytest.mark.usefixtures("fewer_resamples")
def test_the_interval_of_a_ratio_covers():
    rng = np.random.default_rng(0)
    covered, sets = 0, 120
    for seed in range(sets):
        interval = ratio_interval(list(rounds(rng, 3.0) / rounds(rng, 2.0)), seed)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 1.5 <= interval.high
    assert covered / sets >= 0.93


def test_a_ratio_without_noise_has_no_width():
    interval = ratio_interval([np.full(16, 2.0)] * 5)
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2, 2))


def test_processes_count_and_not_rounds():
    """Five processes that disagree give a wide interval, however many rounds agree inside each."""
    disagreeing = [np.full(50, ratio) for ratio in (0.8, 0.9, 1.0, 1.1, 1.2)]
    interval = ratio_interval(disagreeing)
    assert interval.high - interval.low > 0.3


def test_a_seed_repeats_an_interval():
    ratios = list(rounds(np.random.default_rng(1), 1.0))
    assert ratio_interval(ratios, 3) == ratio_interval(ratios, 3) != ratio_interval(ratios, 4)


def test_processes_may_have_other_numbers_of_rounds():
    interval = ratio_interval([np.full(5, 2.0), np.full(7, 2.0)])
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2, 2))


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize(("spread", "noise"), [(0.0, 0.02), (0.02, 0.01), (0.03, 0.10)])
def test_identical_models_are_never_called_different(spread, noise):
    rng = np.random.default_rng(5)
    for seed in range(40):
        first, second, third = (rounds(rng, 1.0, spread, noise) for _ in range(3))
        noise_of_set = ratio_interval(list(first / second), seed)
        found = Latency({}, 1, 1, 1, ratio_interval(list(first / third), seed), noise_of_set)
        assert compared(found) == "no different"


def test_a_real_difference_is_called_one():
    rng = np.random.default_rng(6)
    first, second, third = rounds(rng, 1.0), rounds(rng, 1.0), rounds(rng, 0.8)
    noise = ratio_interval(list(first / second))
    assert compared(Latency({}, 1, 1, 1, ratio_interval(list(first / third)), noise)) == "faster"
    assert compared(Latency({}, 1, 1, 1, ratio_interval(list(third / first)), noise)) == "slower"


def test_the_interval_of_a_mean_covers():
    rng = np.random.default_rng(2)
    covered, sets = 0, 150
    for seed in range(sets):
        scores = rng.normal(5, 2, 60)
        draws = mean_draws([(scores, np.ones(60))], seed)
        interval = expanded_interval(float(scores.mean()), draws[0], 60)
        covered += interval.low <= 5 <= interval.high
    assert 0.9 <= covered / sets <= 0.99


def test_columns_are_resampled_together():
    scores = np.random.default_rng(0).normal(size=50)
    draws = mean_draws([(scores, np.ones(50)), (scores + 1, np.ones(50))])
    np.testing.assert_allclose(draws[1] - draws[0], 1)


def test_weights_weigh():
    draws = mean_draws([(np.array([1.0, 9.0]), np.array([1.0, 0.0]))])
    assert set(draws[0].tolist()) <= {0.0, 1.0}


# agreement


def test_agreement_is_summed_over_batches():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(40, 6)).astype(np.float32)
    actual = expected + rng.normal(0, 0.01, (40, 6)).astype(np.float32)
    sums = Agreement("y")
    for start in range(0, 40, 7):
        sums.add(expected[start : start + 7], actual[start : start + 7])
    found = sums.result()
    want, have = expected.astype(np.float64), actual.astype(np.float64)
    noise = ((have - want) ** 2).sum()
    assert found.sqnr == pytest.approx(10 * math.log10((want**2).sum() / noise))
    assert found.largest == pytest.approx(np.abs(have - want).max() / math.sqrt((want**2).mean()))
    assert found.top1 == (expected.argmax(1) == actual.argmax(1)).mean()
    cosine = (want * have).sum(1) / np.linalg.norm(want, axis=1) / np.linalg.norm(have, axis=1)
    assert found.cosine == pytest.approx(cosine.mean())
    assert found.nonfinite == 0


def test_samples_that_are_far_apart_by_themselves_are_named():
    """Beside a hundred others two wrong ones are 18 dB; a sample of next to nothing has no error of its own."""
    expected = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    expected[7] *= 1e-3
    actual = expected * np.float32(1.001) + np.float32(1e-3)
    actual[[31, 90]] = -expected[[31, 90]] / 4
    sums = Agreement("y")
    for start in range(0, 100, 8):
        rows = slice(start, start + 8)
        sums.add(expected[rows], actual[rows], np.arange(200, 300)[rows])
    assert sums.result().apart == (231, 290)
    assert sums.result().sqnr > 10
    assert agreed(expected, actual).apart == ()


def agreed(expected, actual):
    sums = Agreement("y")
    sums.add(np.asarray(expected), np.asarray(actual))
    return sums.result()


def test_equal_outputs_agree_wholly():
    found = agreed(np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]]))
    assert (found.sqnr, found.cosine, found.top1, found.largest) == (math.inf, pytest.approx(1), 1, 0)


def test_zeros_that_are_not_zero_any_more():
    found = agreed(np.zeros((2, 3)), np.full((2, 3), 0.1))
    assert (found.sqnr, found.cosine, found.largest) == (-math.inf, 0, math.inf)


def test_values_that_became_infinite_are_counted():
    found = agreed(np.array([[1.0, np.inf, 3.0]]), np.array([[1.0, np.inf, np.nan]]))
    assert (found.nonfinite, found.largest) == (1, math.inf)


def test_a_mask_does_not_hide_an_error():
    expected = np.where(np.arange(12).reshape(2, 6) % 3 == 0, -1e9, 1.0)
    found = agreed(expected, np.where(expected == 1, 1.1, expected))
    assert found.sqnr == pytest.approx(20)
    assert found.largest == pytest.approx(0.1)


def test_another_shape_does_not_agree():
    found = agreed(np.zeros((2, 3)), np.zeros((2, 4)))
    assert (found.sqnr, found.cosine, found.top1, found.largest) == (-math.inf, 0, None, math.inf)


def test_integers_and_single_values_have_no_top1():
    assert agreed(np.array([[1, 2]]), np.array([[1, 2]])).top1 is None
    assert agreed(np.array(1.0), np.array(1.0)).top1 is None
    assert agreed(np.ones((3, 1)), np.ones((3, 1))).top1 is None
    assert agreed(np.array([True, False]), np.array([True, True])).cosine == 0.5


# accuracy


def accuracies(*arguments, **options) -> Any:
    """Whatever measure_accuracy returns; the tests know what is there."""
    return measure_accuracy(*arguments, **options)


class Same:
    """An original that gives back its input."""

    def __init__(self):
        self.calls = 0

    def run(self, inputs):
        self.calls += 1
        return {"y": inputs["x"]}


def labelled(count, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(count, 5)).astype(np.float32), "labels": rng.integers(0, 5, count)}


def candidates(tmp_path, *steps):
    return [
        Candidate("same", onnx_models.write(tmp_path / "same.onnx", onnx_models.IDENTITY)),
        *[Candidate(f"step {step}", onnx_models.stepped(tmp_path / f"step{step}.onnx", step)) for step in steps],
    ]


def test_accuracy_is_paired_with_the_original(tmp_path):
    arrays = labelled(300)
    data, original = open_data(arrays, X), Same()
    found = accuracies(candidates(tmp_path, 0.5, 2.0), original, data, load_metric("top1"), Target())
    values = []
    for step, (accuracy, (agreement,)) in zip((None, 0.5, 2.0), found, strict=True):
        outputs = arrays["x"] if step is None else np.round(arrays["x"] / np.float32(step)) * np.float32(step)
        hits = outputs.argmax(1) == arrays["labels"]
        first = arrays["x"].argmax(1) == arrays["labels"]
        assert accuracy.value.value == pytest.approx(hits.mean())
        assert accuracy.original == pytest.approx(first.mean())
        assert accuracy.drop.value == pytest.approx(first.mean() - hits.mean())
        assert accuracy.drop.low <= accuracy.drop.value <= accuracy.drop.high
        assert (accuracy.samples, accuracy.metric, accuracy.higher_is_better) == (300, "top1", True)
        assert agreement.top1 == (outputs.argmax(1) == arrays["x"].argmax(1)).mean()
        values.append(accuracy)
    assert values[0].drop.value == 0
    assert values[0].drop.high == pytest.approx(-values[0].drop.low)
    assert values[1].drop.high - values[1].drop.low < values[1].value.high - values[1].value.low
    assert original.calls == math.ceil(300 / 32)


def test_a_drop_is_positive_where_a_lower_figure_is_better(tmp_path):
    x = labelled(100)["x"]
    data = open_data({"x": x, "targets": x}, X)
    _, (accuracy, _) = accuracies(candidates(tmp_path, 1.0), Same(), data, load_metric("mse"), Target())
    assert accuracy.original == 0
    assert accuracy.drop.value == accuracy.value.value > 0
    assert accuracy.drop.low > 0


@pytest.mark.parametrize("name", ["cosine", "agreement"])
def test_metrics_against_the_original_drop_from_one(tmp_path, name):
    data = open_data({"x": labelled(200)["x"]}, X)
    (first, _), (second, _) = accuracies(candidates(tmp_path, 1.0), Same(), data, load_metric(name), Target())
    assert first.value.value == pytest.approx(1)
    assert second.original == 1
    assert second.drop.value == pytest.approx(1 - second.value.value)
    assert 0 < second.drop.low < second.drop.high


def test_a_handful_of_samples_is_never_certain(tmp_path):
    """No sample of 5 differs: a metric of hits still says how many could, another that nothing is known."""
    arrays = labelled(5)
    (hits, _), *_ = accuracies(candidates(tmp_path), Same(), open_data(arrays, X), load_metric("top1"), Target())
    assert hits.drop.value == 0
    assert hits.drop.high > 0.3
    assert hits.value.high - hits.value.low > 0.3
    targets = open_data({"x": arrays["x"], "targets": arrays["x"] + 1}, X)
    (error, _), *_ = accuracies(candidates(tmp_path), Same(), targets, load_metric("mse"), Target())
    assert error.drop == Interval(0.0, -math.inf, math.inf)
    (agreement, _), *_ = accuracies(
        candidates(tmp_path), Same(), open_data(arrays, X), load_metric("agreement"), Target()
    )
    assert (agreement.drop.value, agreement.drop.low) == (0, 0)
    assert agreement.drop.high > 0.3


@pytest.mark.parametrize("higher", [True, False])
def test_hits_are_counted_in_both_directions(tmp_path, higher):
    def metric(outputs, answers):
        hits = outputs["y"].argmax(1) == answers
        return (hits if higher else ~hits).astype(float)

    vars(metric)["higher_is_better"] = higher
    arrays = labelled(300)
    found = accuracies(candidates(tmp_path, 2.0), Same(), open_data(arrays, X), from_function("mine", metric), Target())
    coarse = (np.round(arrays["x"] / 2) * 2).argmax(1) == arrays["labels"]
    fine = arrays["x"].argmax(1) == arrays["labels"]
    lost, gained = int((fine & ~coarse).sum()), int((coarse & ~fine).sum())
    drop = found[1][0].drop
    expected = paired_interval(lost, gained, 300)
    assert drop.value == pytest.approx(expected.value)
    assert (drop.low, drop.high) == (expected.low, expected.high)


def test_sqnr_has_a_value_and_no_drop(tmp_path):
    data = open_data({"x": labelled(200)["x"]}, X)
    (first, _), (second, (agreement,)) = accuracies(
        candidates(tmp_path, 1.0), Same(), data, load_metric("sqnr"), Target()
    )
    assert first.value.value == math.inf
    assert second.value.value == pytest.approx(agreement.sqnr)
    assert second.value.low < second.value.value < second.value.high
    assert math.isnan(second.drop.value)


def test_a_metric_of_ones_own_with_weights_and_a_finish(tmp_path):
    arrays = labelled(60)

    def metric(outputs, answers):
        return outputs["y"][:, 0], answers + 1

    vars(metric).update(higher_is_better=False, finish=math.exp)
    data = open_data(arrays, X)
    (accuracy, _), *_ = accuracies(candidates(tmp_path), Same(), data, from_function("mine", metric), Target())
    expected = math.exp(np.average(arrays["x"][:, 0].astype(np.float64), weights=arrays["labels"] + 1))
    assert accuracy.value.value == accuracy.original == pytest.approx(expected)
    assert accuracy.value.low < expected < accuracy.value.high


def test_weights_that_are_all_zero(tmp_path):
    metric = from_function("mine", lambda outputs, answers: (answers, answers * 0))
    with pytest.raises(DataError, match="the metric mine gave every sample the weight 0"):
        accuracies(candidates(tmp_path), Same(), open_data(labelled(8), X), metric, Target())


def test_filling_is_dropped_exactly(tmp_path):
    """A model of the fixed batch 4 gives each of 10 samples what a model of batch 1 gives it."""
    scores = {}
    arrays = {"x": np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32), "labels": np.arange(10)}
    for size in (1, 4):
        text = onnx_models.LAYER.replace("batch", str(size))
        path = onnx_models.write(tmp_path / f"fixed{size}.onnx", text)
        seen: list[Any] = []

        def metric(outputs, answers, seen=seen):
            seen.append((outputs["y"].copy(), answers.copy()))
            return outputs["y"].sum(axis=1)

        inputs = (InputSpec("x", "float32", (Dim(size, size), Dim(4, 4))),)

        class Layer:
            def run(self, inputs):
                w = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
                return {"y": np.maximum(inputs["x"] @ w + np.array([-20, -10, 0], np.float32), 0)}

        data = open_data(arrays, inputs)
        ((accuracy, _),) = accuracies([Candidate("m", path)], Layer(), data, from_function("m", metric), Target())
        scores[size] = np.concatenate([outputs for outputs, _ in seen[1::2]])
        assert np.concatenate([answers for _, answers in seen[1::2]]).tolist() == list(range(10))
        assert accuracy.samples == 10
    np.testing.assert_array_equal(scores[1], scores[4])


def test_missing_labels_are_a_sentence(tmp_path):
    data = open_data({"x": labelled(8)["x"]}, X)
    with pytest.raises(DataError, match="the metric top1 needs answers, and the data have none"):
        accuracies(candidates(tmp_path), Same(), data, load_metric("top1"), Target())


def test_an_output_that_is_missing(tmp_path, layer):
    class Other:
        def run(self, inputs):
            return {"z": inputs["x"]}

    with pytest.raises(DataError, match="has no output 'z' that the original has"):
        accuracies(candidates(tmp_path), Other(), open_data(labelled(8), X), None, Target())


def test_agreement_with_kept_outputs(tmp_path):
    x = labelled(9)["x"]
    references = [Reference({}, {"x": part}, {"y": part}) for part in (x[:4], x[4:])]
    first, second = measure_agreement(candidates(tmp_path, 1.0), references, Target())
    assert first[0].sqnr == math.inf
    assert second[0].sqnr == pytest.approx(
        10 * math.log10((x.astype(float) ** 2).sum() / ((np.round(x) - x).astype(float) ** 2).sum()), rel=1e-4
    )


# workers


def job_of(kind, layer, **more):
    with bench(ONES, Target(threads=1), SIZES) as shared:
        return jobs.run_job(jobs.job(kind, [Candidate("layer", layer)], shared.target, shared.inputs, **more))


TIMING = {"seed": 0, "seconds": 0.05, "rounds": (2, 3, 4), "patience": 1, "block": (0.001, 0.002), "spinning": {}}


def test_a_worker_times_a_set(layer):
    answer = job_of("time", layer, **TIMING)
    assert [len(answer[key]) for key in ("blocks", "runs", "assigned")] == [1, 1, 1]
    assert 2 <= len(answer["blocks"][0]) <= 4
    assert all(time > 0 for time in answer["blocks"][0] + answer["runs"][0])
    assert sorted(node["op"] for node in answer["assigned"][0]) == ["Gemm", "Relu"]


def test_a_worker_imports_only_what_it_needs():
    code = "import sys, mlc.measuring.worker; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "typer", "rich", "pydantic", "onnx", "onnx_ir", "onnxscript", "jinja2", "mlc.cli", "mlc.sources"}
    assert heavy & set(result.stdout.split()) == set()


def test_a_worker_hands_over_errors(layer):
    with bench({"x": np.ones((2, 5), np.float32)}, Target(), SIZES) as shared:
        with pytest.raises(DataError, match=r"the input x of layer\.onnx has size 4 at axis 1, given 5"):
            jobs.run_job(jobs.job("load", [Candidate("layer", layer)], shared.target, shared.inputs))
        missing = [Candidate("gone", layer.with_name("gone.onnx"))]
        with pytest.raises(SourceError, match="there is no model file"):
            jobs.run_job(jobs.job("load", missing, shared.target, shared.inputs))
        with pytest.raises(TargetError) as error:
            asked = jobs.job("load", [Candidate("layer", layer)], Target(provider="teapot"), shared.inputs)
            jobs.run_job(asked)
    assert error.value.message == "no execution provider is called 'teapot'"
    assert error.value.hint.startswith("this machine has: ")


def test_a_worker_that_dies_is_an_error_with_its_last_words(layer, monkeypatch, tmp_path):
    (tmp_path / "dying.py").write_text("import sys\nsys.stderr.write('first\\nthe heap is on fire\\n')\nsys.exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(jobs, "WORKER", "dying")
    with pytest.raises(TargetError) as error:
        job_of("load", layer)
    assert error.value.message == "the process that measured layer.onnx died with exit code 3: the heap is on fire"


def test_a_worker_that_is_killed_says_the_signal(layer, monkeypatch, tmp_path):
    (tmp_path / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(jobs, "WORKER", "killed")
    with pytest.raises(TargetError, match=r"layer\.onnx died with signal 9: it said nothing"):
        job_of("load", layer)


def test_an_interrupt_kills_the_worker(layer, tmp_path):
    (tmp_path / "hanging.py").write_text(
        "import sys, time\nsys.stdin.read()\nprint('up', file=sys.stderr)\ntime.sleep(600)\n"
    )
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from mlc.measuring import jobs\nfrom mlc.types import Target\n"
        "jobs.WORKER = 'hanging'\njobs.run_job(jobs.job('load', [], Target(), {}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        children = wait_for(lambda: psutil.Process(process.pid).children())
        process.send_signal(signal.SIGINT)
        try:
            _, complaints = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in complaints
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def wait_for(question, seconds=20.0):
    """Ask until the answer is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        threading.Event().wait(0.02)
    raise AssertionError("it never happened")


def test_what_goes_to_a_worker_is_json(layer):
    target = Target("onnxruntime", "cpu", "native", 2, (("session.disable_prepacking", "1"),))
    asked = jobs.job("load", [Candidate("layer", layer, {"a": "b"})], target, {"x": layer})
    told = json.loads(json.dumps(asked))
    assert jobs.target_of(told["target"]) == target
    assert told["models"] == [{"path": str(layer), "options": {"a": "b"}}]


def test_peak_memory_is_the_workers_own(layer, monkeypatch):
    """The worker's peak does not start from ours, which Linux hands on to a child's getrusage."""
    monkeypatch.setattr(latency, "LOADS", 1)
    ballast = np.ones(60_000_000)
    with bench(ONES, Target(), SIZES) as shared:
        seconds, peak = measure_load(Candidate("layer", layer), shared)
    assert seconds > 0
    assert 10e6 < peak < ballast.nbytes


@pytest.mark.parametrize(
    ("once", "seconds", "expected"),
    [
        ([1e-5, 1e-5], 10.0, (32, 0.05)),
        ([0.001, 0.001], 0.66, (30, 0.01)),
        ([0.1, 0.1], 2.0, (16, 0.01)),
        ([10.0, 10.0], 2.0, (5, 0.01)),
    ],
)
def test_rounds_and_blocks_fill_the_time(once, seconds, expected):
    asked = {"seconds": seconds, "rounds": latency.ROUNDS, "patience": latency.PATIENCE, "block": latency.BLOCK}
    count, block = plan(once, asked)
    assert [count, block] == pytest.approx(expected)


def test_a_block_is_full():
    times = timed_block(lambda: None, 0.01)
    assert sum(times) >= 10_000_000
    assert len(timed_block(lambda: time.sleep(0.002), 0.001)) == 1


@pytest.mark.usefixtures("quick")
def test_the_original_is_timed_too():
    p50, p90, p99 = time_original(Same(), {"x": np.ones((2, 5), np.float32)})
    assert 0 < p50 <= p90 <= p99


def test_runs_are_thinned_evenly():
    assert thinned(range(10)) == range(10)
    assert len(thinned(range(100_000))) <= 4000


# latency, with answers in the place of workers


def answers(times):
    """A stand-in for fresh processes: each model's blocks are its own time, by the model's file name."""
    seen = []

    def run_job(asked):
        names = [Path(model["path"]).name for model in asked["models"]]
        seen.append((asked["kind"], names))
        if asked["kind"] == "alone":
            return {"runs": [times[names[0]] * 1e6]}
        blocks = [[times[name] * 1e6] * 16 for name in names]
        return {"blocks": blocks, "runs": blocks, "assigned": [[] for _ in names]}

    return run_job, seen


def latencies(models, peak=1e6):
    """The latencies of models that each take as many bytes of memory."""
    with bench({"x": np.ones((2, 3), np.float32)}, Target(), SIZES) as shared:
        return latencies_of(models, shared, [peak] * len(models))[0]


@pytest.fixture
def three(tmp_path):
    return [Candidate(name, onnx_models.scaled(tmp_path / f"{name}.onnx", 2.0)) for name in ("base", "slow", "fast")]


def test_the_baseline_is_in_the_set_twice_and_the_order_alternates(three, monkeypatch):
    run_job, seen = answers({"base.onnx": 4.0, "slow.onnx": 8.0, "fast.onnx": 2.0})
    monkeypatch.setattr(latency, "run_job", run_job)
    base, slow, fast = latencies(three)
    forward = ["base.onnx", "base.onnx", "slow.onnx", "fast.onnx"]
    timed = [names for kind, names in seen if kind == "time"]
    assert timed[:5] == [forward, forward[::-1], forward, forward[::-1], forward]
    assert timed[5:] == [["base.onnx", "base.onnx", "fast.onnx"][:: (-1) ** turn] for turn in range(5)]
    assert [names for kind, names in seen if kind == "alone"] == [["base.onnx"], ["fast.onnx"]]
    assert [one.speedup.value for one in (base, slow, fast)] == pytest.approx([1, 0.5, 2])
    assert [one.p50 for one in (base, slow, fast)] == pytest.approx([4, 8, 2])
    assert [one.default_ms for one in (base, slow, fast)] == [4, None, 2]
    assert [len(rounds) for rounds in fast.ratios] == [16] * 5
    assert all(one.noise.value == pytest.approx(1) for one in (base, slow, fast))


def test_one_candidate_is_not_measured_again(three, monkeypatch):
    run_job, seen = answers({"base.onnx": 4.0, "slow.onnx": 8.0})
    monkeypatch.setattr(latency, "run_job", run_job)
    latencies(three[:2])
    assert [kind for kind, _ in seen] == ["time"] * 5 + ["alone"] * 2


def test_a_set_that_does_not_fit_in_memory_runs_in_pairs(three, monkeypatch):
    run_job, seen = answers({"base.onnx": 4.0, "slow.onnx": 8.0, "fast.onnx": 2.0})
    monkeypatch.setattr(latency, "run_job", run_job)
    monkeypatch.setattr(latency, "memory_bytes", lambda: 500_000_000)
    found = latencies(three, 1e8)
    sets = [tuple(sorted(names)) for kind, names in seen if kind == "time"]
    assert list(dict.fromkeys(sets)) == [
        ("base.onnx", "base.onnx"), ("base.onnx", "slow.onnx"), ("base.onnx", "fast.onnx"),
    ]  # fmt: skip
    assert all(len(one) == 2 for one in sets)
    assert [one.speedup.value for one in found] == pytest.approx([1, 0.5, 2])


# everything together


def test_a_trial_has_every_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "PROCESSES", 2)
    monkeypatch.setattr(latency, "ROUNDS", (2, 2, 2))
    monkeypatch.setattr(trials, "ROUNDS", (2, 2, 2))
    monkeypatch.setattr(latency, "LOADS", 1)
    models = candidates(tmp_path, 0.5)
    arrays = labelled(50)
    heard: list[str] = []
    found: Any = measure(
        models, {"x": arrays["x"][:2]}, Target(threads=1), SIZES,
        original=Same(), data=open_data(arrays, X), metric=load_metric("top1"), seconds=0.1, progress=heard.append,
    )  # fmt: skip
    assert [trial.candidate for trial in found] == models
    for trial in found:
        assert trial.accuracy.samples == 50
        assert [one.output for one in trial.agreement] == ["y"]
        assert trial.latency.sizes == SIZES
        assert trial.latency.p50 <= trial.latency.p90 <= trial.latency.p99
        assert trial.load_seconds > 0
        assert trial.peak_memory_mb > 10
        assert trial.size_bytes == trial.candidate.path.stat().st_size
        assert trial.placement.provider == "CPUExecutionProvider"
    assert [trial.notes for trial in found] == [("top1 reads the first float output and the labels",), ()]
    assert sorted(node.op for node in found[1].placement.ran) == ["Div", "Mul", "Round"]
    assert any("process 2 of 2" in text for text in heard)


# the machine's peak


TIMED = Latency(SIZES, 2.0, 2.1, 2.2, Interval(1, 1, 1), Interval(1, 1, 1))


def three_trials(layer):
    """One that was timed, one whose arithmetic is not known, one that was not timed."""
    timed = [Trial(Candidate(name, layer), latency=TIMED) for name in ("known", "unknown")]
    return [*timed, Trial(Candidate("untimed", layer))]


def test_a_share_is_of_what_a_large_product_reached(layer, monkeypatch):
    monkeypatch.setattr(peak, "measure_peak", lambda _target: 4e9)
    counts = {"known": 10**6, "unknown": 0, "untimed": 10**6}
    known, *others = with_shares(three_trials(layer), counts, Target(threads=2))
    assert known.latency is not None
    assert known.latency.arithmetic == Arithmetic(2 * 10**6, 0.25, 4e9, 2)
    assert others == three_trials(layer)[1:]


def test_no_peak_is_measured_where_nothing_would_have_a_share(layer, monkeypatch):
    monkeypatch.setattr(peak, "measure_peak", None)
    measured = three_trials(layer)
    assert with_shares(measured, {"untimed": 10**6}, Target()) == tuple(measured)


def test_a_target_without_the_product_has_a_note_and_no_share(layer, monkeypatch):
    def refuse(_target):
        raise TargetError("it has no kernel")

    monkeypatch.setattr(peak, "measure_peak", refuse)
    first, *_ = with_shares(three_trials(layer), {"known": 1}, Target())
    assert first.notes == ("the target's peak could not be measured: it has no kernel",)
    assert first.latency is not None
    assert first.latency.arithmetic is None


def test_the_peak_is_measured_on_the_target_with_its_threads(monkeypatch):
    monkeypatch.setattr(peak, "SIZES", (64, 96, 128))
    asked = []

    def noted(job):
        asked.append(job)
        return jobs.run_job(job)

    monkeypatch.setattr(peak, "run_job", noted)
    monkeypatch.setattr(peak, "QUICK", 0)
    assert peak.measure_peak(Target(threads=1)) > 1e6
    assert len(asked) == 2
    for job in asked:
        assert (job["kind"], job["target"]["threads"]) == ("alone", 1)
        assert job["models"][0]["options"] == {"session.force_spinning_stop": "1"}


def test_a_fast_device_is_given_larger_products(monkeypatch):
    monkeypatch.setattr(peak, "_fastest", lambda size, _target: size / 1e6)
    assert peak.measure_peak(Target()) == pytest.approx(peak.OPERATIONS * peak.DEPTH * 4096**3 / 0.004096)
    monkeypatch.setattr(peak, "_fastest", lambda size, _target: size / 1e4)
    assert peak.measure_peak(Target()) == pytest.approx(peak.OPERATIONS * peak.DEPTH * 1024**3 / 0.1024)


def test_names_must_differ(layer):
    with pytest.raises(UsageError, match="names of their own: a, a"):
        measure([Candidate("a", layer), Candidate("a", layer)], ONES, Target(), SIZES)


def test_no_time_to_measure(layer):
    with pytest.raises(UsageError, match="0 seconds are no time"):
        measure([Candidate("a", layer)], ONES, Target(), SIZES, seconds=0)


def test_another_placement_in_the_profile_is_refused(layer):
    candidate = Candidate("layer", layer)
    with bench(ONES, Target(threads=1), SIZES) as shared:
        profile = measure_profile(candidate, shared)
    trials.refuse_other_placement(candidate, profile.placement.assigned, profile)
    with pytest.raises(TargetError, match="layer was placed differently when it was profiled: 1 nodes differ"):
        trials.refuse_other_placement(candidate, profile.placement.assigned[1:], profile)


def test_the_size_counts_external_data(tmp_path):
    path = onnx_models.wide(tmp_path / "wide.onnx", external=True)
    assert file_bytes(path) == path.stat().st_size + 256 * 256 * 4
    (tmp_path / "wide.onnx.data").unlink()
    with pytest.raises(SourceError, match=r"wide\.onnx needs wide\.onnx\.data beside it, and it is missing"):
        file_bytes(path)


def test_an_input_may_have_any_name(tmp_path, monkeypatch):
    """Names that NumPy's savez takes for itself are names of inputs too."""
    monkeypatch.setattr(latency, "LOADS", 1)
    text = onnx_models.IDENTITY.replace(" x)", " file)").replace("(x)", "(file)")
    path = onnx_models.write(tmp_path / "named.onnx", text)
    with bench({"file": np.ones((2, 3), np.float32)}, Target(), SIZES) as shared:
        assert measure_load(Candidate("named", path), shared)[0] > 0


def test_a_metric_that_raises_does_so_before_anything_is_timed(tmp_path, monkeypatch):
    def timed(*_arguments, **_more):
        raise AssertionError

    monkeypatch.setattr("mlc.measuring.trials.measure_load", timed)
    x = labelled(8)["x"]
    metric = from_function("mine", lambda outputs, _: outputs["nothing"])
    with pytest.raises(DataError, match="the metric mine raised KeyError"):
        measure(
            candidates(tmp_path), {"x": x}, Target(), {}, original=Same(), data=open_data({"x": x}, X), metric=metric
        )
