"""Limits against intervals, what ships, and the sentence that says it: tables of cases."""

from __future__ import annotations

import dataclasses

import pytest

from mlc.errors import UsageError
from mlc.judging import (
    DONE,
    INCONCLUSIVE,
    MET,
    MISSED,
    SLOWER,
    UNMODIFIED,
    choose,
    compared,
    exit_code,
    judge,
    requirement,
    verdicts_on,
)
from mlc.types import Drop, Interval, Limits
from tests.report_sample import latency, sample, trial

QUIET = Interval(1.0, 0.99, 1.01)
FAST, SLOW, SAME = Interval(2.4, 2.3, 2.5), Interval(0.8, 0.78, 0.82), Interval(1.005, 0.99, 1.02)
LITTLE = Interval(0.002, -0.001, 0.005)
BASELINE = trial("unmodified export", Interval(1.0, 1.0, 1.0), QUIET, Interval(0.0, 0.0, 0.0))


def candidate(name="int8", speedup=FAST, drop=LITTLE, noise=QUIET):
    return trial(name, speedup, noise, drop)


@pytest.mark.parametrize(
    ("low", "high", "limit", "outcome"),
    [
        (-0.001, 0.005, Drop(0.01), MET),
        (0.005, 0.01, Drop(0.01), MET),
        (0.005, 0.0101, Drop(0.01), INCONCLUSIVE),
        (0.01, 0.02, Drop(0.01), INCONCLUSIVE),
        (0.0101, 0.02, Drop(0.01), MISSED),
        (-0.02, -0.01, Drop(0.0), MET),
        (0.0, 0.0, Drop(0.0), MET),
        (0.001, 0.002, Drop(0.0), MISSED),
        (0.005, 0.009, Drop(0.01, relative=True), MET),
        (0.005, 0.0095, Drop(0.01, relative=True), INCONCLUSIVE),
        (0.0095, 0.0099, Drop(0.01, relative=True), MISSED),
        (float("nan"), float("nan"), Drop(0.01), INCONCLUSIVE),
    ],
)
def test_drop_is_judged_by_its_interval(low, high, limit, outcome):
    judged = candidate(drop=Interval((low + high) / 2, low, high))
    (verdict,) = verdicts_on(judged, Limits(max_drop=limit))
    assert (verdict.limit, verdict.outcome) == ("max-drop", outcome)


def test_relative_drop_is_a_share_of_the_magnitude_of_the_original():
    judged = candidate(drop=Interval(0.5, 0.4, 0.6))
    assert judged.accuracy is not None
    negative = dataclasses.replace(judged, accuracy=dataclasses.replace(judged.accuracy, original=-100.0))
    (verdict,) = verdicts_on(negative, Limits(max_drop=Drop(0.01, relative=True)))
    assert verdict.outcome == MET
    assert verdict.asked == "at most 1% of -100.0"


@pytest.mark.parametrize(
    ("speedup", "limit", "outcome"),
    [
        (Interval(2.4, 2.3, 2.5), 2.3, MET),
        (Interval(2.4, 2.3, 2.5), 2.31, INCONCLUSIVE),
        (Interval(2.4, 2.3, 2.5), 2.5, INCONCLUSIVE),
        (Interval(2.4, 2.3, 2.5), 2.51, MISSED),
        (Interval(0.8, 0.7, 0.9), 1.0, MISSED),
    ],
)
def test_speedup_is_judged_by_its_interval(speedup, limit, outcome):
    (verdict,) = verdicts_on(candidate(speedup=speedup), Limits(min_speedup=limit))
    assert (verdict.limit, verdict.outcome, verdict.interval) == ("min-speedup", outcome, speedup)


@pytest.mark.parametrize(
    ("limit", "outcome"), [(5.11, MET), (5.05, INCONCLUSIVE), (4.96, INCONCLUSIVE), (4.89, MISSED)]
)
def test_latency_is_as_uncertain_as_the_noise(limit, outcome):
    judged = dataclasses.replace(BASELINE, latency=latency(5.0, FAST, noise=Interval(1.0, 0.98, 1.01)))
    (verdict,) = verdicts_on(judged, Limits(max_latency=limit))
    assert (verdict.limit, verdict.outcome) == ("max-latency", outcome)


@pytest.mark.parametrize(("size", "outcome"), [(499_999, MET), (500_000, MET), (500_001, MISSED)])
def test_size_is_exact(size, outcome):
    (verdict,) = verdicts_on(dataclasses.replace(BASELINE, size_bytes=size), Limits(max_size=0.5))
    assert (verdict.limit, verdict.outcome) == ("max-size", outcome)


def test_a_limit_on_what_was_not_measured_is_inconclusive():
    judged = verdicts_on(trial("int8", None), Limits(Drop(0.01), max_latency=1.0, min_speedup=1.0))
    assert [(verdict.outcome, verdict.measured) for verdict in judged] == [(INCONCLUSIVE, "not measured")] * 3


@pytest.mark.parametrize(
    ("speedup", "noise", "how"),
    [
        (Interval(1.05, 1.02, 1.08), Interval(1.0, 0.99, 1.01), "faster"),
        (Interval(1.05, 1.02, 1.08), Interval(1.0, 0.99, 1.02), "no different"),
        (Interval(1.05, 1.02, 1.08), Interval(1.0, 0.97, 1.0), "no different"),
        (Interval(1.05, 0.99, 1.11), Interval(1.0, 1.0, 1.0), "no different"),
        (Interval(0.95, 0.92, 0.97), Interval(1.0, 0.98, 1.02), "slower"),
        (Interval(0.95, 0.92, 0.985), Interval(1.0, 0.98, 1.02), "no different"),
        (Interval(0.95, 0.92, 0.975), Interval(1.02, 1.01, 1.04), "no different"),
        (Interval(1.005, 1.0045, 1.006), Interval(0.997, 0.996, 0.998), "faster"),
    ],
)
def test_below_the_noise_nothing_is_called_different(speedup, noise, how):
    assert compared(latency(1.0, speedup, noise=noise)) == how


@pytest.mark.parametrize(
    ("candidates", "asked", "shipped"),
    [
        ([candidate("passes", FAST)], False, "passes"),
        ([candidate("passes", SAME)], False, "unmodified export"),
        ([candidate("passes", SLOW)], False, "unmodified export"),
        ([candidate("passes", None)], False, "unmodified export"),
        ([candidate("passes", SAME, noise=Interval(1.0, 0.9, 1.1))], False, "unmodified export"),
        ([candidate("a", Interval(1.4, 1.3, 1.5)), candidate("b", FAST)], False, "b"),
        ([candidate("a", FAST), candidate("b", Interval(3.0, 0.9, 5.0))], False, "a"),
        ([candidate("passes", FAST), candidate("int8", SLOW)], True, "int8"),
        ([candidate("passes", FAST), candidate("int8", None)], True, "int8"),
        ([], True, "unmodified export"),
        ([], False, "unmodified export"),
    ],
)
def test_what_ships(candidates, asked, shipped):
    assert choose([BASELINE, *candidates], asked) == shipped


@pytest.mark.parametrize(
    ("trials", "requested", "outcome", "sentence"),
    [
        ([candidate("passes", FAST)], (), DONE, "passes: 2.40 times as fast as the unmodified export"),
        (
            [candidate("int8", SLOW)], ("int8-static",), SLOWER,
            ("Slower than the unmodified export: 0.800 times its speed (95 % interval 0.780 to 0.820). "
            "Written all the same, asked for: int8-static."),
        ),
        (
            [candidate("int8", SAME)], ("int8-static",), DONE,
            ("Not shown to be faster than the unmodified export: 1.005 times its speed (95 % interval 0.990 to 1.020; "
            "the export beside itself 0.990 to 1.010). Written all the same, asked for: int8-static."),
        ),
        (
            [candidate("passes", SAME)], (), UNMODIFIED,
            ("No pass made the model faster beyond the noise (1.005 times as fast, 95 % interval 0.990 to 1.020; the "
            "export beside itself 0.990 to 1.010): the unmodified export is written."),
        ),
        ([candidate("passes", SLOW)], (), UNMODIFIED, "The passes made the model slower (0.800 times as fast"),
        ([], (), UNMODIFIED, "No pass changed the model: the unmodified export is written."),
        ([candidate("passes", None)], (), UNMODIFIED, "The unmodified export is written; the speed of the passes was"),
        ([candidate("int8", None)], ("int8-static",), DONE, "int8: written; the speed was not measured."),
    ],
)  # fmt: skip
def test_speed_decides_the_outcome_where_no_limit_does(trials, requested, outcome, sentence):
    judged = judge([BASELINE, *trials], Limits(), requested=requested)
    assert judged.outcome == outcome
    assert judged.first_line.startswith(sentence), judged.first_line


@pytest.mark.parametrize(
    ("limits", "speedup", "outcome", "start"),
    [
        (Limits(Drop(0.01)), FAST, DONE, "int8: 2.4"),
        (Limits(Drop(0.0001)), FAST, INCONCLUSIVE, "Inconclusive: max-drop at most 0.0001, measured top1 drop 0.002"),
        (Limits(max_size=0.1), FAST, MISSED, "Missed: max-size at most 0.1 MB, measured 0.342 MB. int8: 2.4"),
        (Limits(Drop(0.0001), max_size=0.1), FAST, MISSED, "Missed: max-size. Inconclusive: max-drop. int8: 2.40"),
        (
            Limits(Drop(0.0001), 0.1, 9.0, 0.1), FAST, MISSED,
            "Missed: min-speedup, max-latency and max-size. Inconclusive: max-drop. int8: 2.40 times",
        ),
        (Limits(min_speedup=1.5), SLOW, MISSED, "Missed: min-speedup at least 1.5 times as fast, measured 0.800 times"),
    ],
)  # fmt: skip
def test_limits_come_first_in_outcome_and_sentence(limits, speedup, outcome, start):
    judged = judge([BASELINE, candidate("int8", speedup)], limits, requested=("int8-static",))
    assert judged.outcome == outcome
    assert judged.first_line.startswith(start), judged.first_line


def test_a_missed_limit_still_says_that_it_is_slower():
    judged = judge([BASELINE, candidate("int8", SLOW)], Limits(max_size=0.1), requested=("int8-static",))
    assert "Slower than the unmodified export" in judged.first_line


def test_what_a_pass_has_to_say_follows_the_speed():
    trials = [BASELINE, candidate("bf16", SLOW)]
    judged = judge(trials, requested=("bf16",), headlines=("weights are stored in 16 bits",))
    assert judged.first_line.startswith("Slower than the unmodified export")
    assert "asked for: bf16. Weights are stored in 16 bits. The drop of top1" in judged.first_line


def test_met_limits_are_said():
    judged = judge([BASELINE, candidate()], Limits(Drop(0.01), min_speedup=2.0), requested=("int8-static",))
    assert judged.first_line.endswith("The drop of top1 is 0.002 (-0.001 to 0.005). All limits are met.")


def test_a_metric_without_a_drop_says_none():
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    assert "drop" not in judge([BASELINE, candidate(drop=nothing)], Limits()).first_line


def test_a_name_that_no_trial_has():
    with pytest.raises(UsageError, match="no trial is called 'int9'"):
        judge([BASELINE, candidate("int8")], Limits(), shipped="int9")


def test_a_validation_says_nothing_of_shipping():
    judged = judge([candidate("model.onnx", None)], Limits(Drop(0.01)), written=False)
    assert judged.outcome == DONE
    assert judged.first_line == "The drop of top1 is 0.002 (-0.001 to 0.005). The limit is met."
    assert judge([trial("model.onnx", None)], Limits(), written=False).first_line.startswith("Nothing was measured")


def test_requirements_are_verdicts_too():
    broken = requirement("interface", "the source's", ["the output scores is missing"])
    held = requirement("finite values", "where the source's are", [])
    judged = judge([candidate("model.onnx", None)], Limits(), requirements=(broken, held), written=False)
    assert [verdict.outcome for verdict in judged.verdicts] == [MISSED, MET]
    assert judged.outcome == MISSED
    assert judged.first_line.startswith("Missed: interface the source's, measured the output scores is missing.")


def test_of_several_problems_the_first_is_said():
    broken = requirement("interface", "the source's", ["the output scores is missing", "the input x is int64"])
    judged = judge([candidate("model.onnx", None)], Limits(), requirements=(broken,), written=False)
    assert judged.first_line.startswith(
        "Missed: interface the source's, measured the output scores is missing and more"
    )
    assert judged.verdicts[0].measured == "the output scores is missing; the input x is int64"


@pytest.mark.parametrize(
    ("outcome", "plain", "strict"),
    [(DONE, 0, 0), (SLOWER, 0, 0), (UNMODIFIED, 0, 0), (INCONCLUSIVE, 0, 1), (MISSED, 1, 1)],
)
def test_exit_codes(outcome, plain, strict):
    report = dataclasses.replace(sample(), outcome=outcome)
    assert (exit_code(report), exit_code(report, strict=True)) == (plain, strict)


def test_a_missed_verdict_decides_the_exit_code_alone():
    report = dataclasses.replace(sample(), verdicts=(requirement("interface", "equal", ["differs"]),), outcome=DONE)
    assert exit_code(report) == 1
