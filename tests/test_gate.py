"""Is the new run worse than the old one? Tables of cases over two reports, and how often an equal pair is called so."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mlc.gating import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, exit_code, gate
from mlc.gating.intervals import difference, ratio
from mlc.types import Interval, Target
from tests.report_sample import sample, validated

SHIPPED = 1
QUIET = Interval(1.0, 0.99, 1.01)


def with_fields(known, **fields):
    """Return a noun that was measured with other fields."""
    return dataclasses.replace(known, **fields)


def run(*, accuracy=None, latency=None, baseline=None, **fields):
    """Return the sample, all evaluated on one set, with figures of what it wrote changed, and fields of the report."""
    report = sample()
    trials = list(report.trials)
    shipped = trials[SHIPPED]
    evaluated = {"evaluated": "d1", **(accuracy or {})}
    trials[SHIPPED] = dataclasses.replace(
        shipped,
        accuracy=None if accuracy == {} else with_fields(shipped.accuracy, **evaluated),
        latency=with_fields(shipped.latency, **{"noise": QUIET, **(latency or {})}),
    )
    if baseline:
        trials[0] = dataclasses.replace(trials[0], **baseline)
    return dataclasses.replace(report, trials=tuple(trials), **fields)


def finding(figure, old, new):
    """Return what the gate says of one figure."""
    return next(each for each in gate(old, new).findings if each.figure == figure)


def other_source(report):
    return dataclasses.replace(report.origin, digest="sha256:other")


def machine(**fields):
    return with_fields(sample().machine, **fields)


def slower_baseline(factor):
    """Return a baseline whose median is slower by a factor."""
    timed = sample().trials[0].latency
    assert timed is not None
    return {"latency": dataclasses.replace(timed, p50=timed.p50 * factor)}


def test_a_run_is_no_different_from_itself():
    judged = gate(run(), run())
    assert [each.verdict for each in judged.findings] == [NO_DIFFERENT] * 3
    assert (judged.outcome, judged.first_line, judged.notes) == (NO_DIFFERENT, "Nothing got worse.", ())
    assert exit_code(judged, strict=True) == 0


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.001, 0.004, NO_DIFFERENT), (0.02, 0.03, WORSE), (-0.03, -0.02, BETTER), (0.0, 0.0, NO_DIFFERENT)],
)
def test_losses_against_one_original_are_compared(low, high, verdict):
    old = run(accuracy={"drop": Interval(0.0015, 0.001, 0.002)})
    new = run(accuracy={"drop": Interval(0.0015 + (low + high) / 2, 0.0015 + low, 0.0015 + high)})
    found = finding("accuracy", old, new)
    assert found.verdict == verdict
    assert found.change.startswith("loss ")
    assert "the losses against one original" in found.sentence


@pytest.mark.parametrize(
    ("value", "higher", "verdict"),
    [
        (0.93, True, BETTER), (0.88, True, WORSE), (0.906, True, NO_DIFFERENT),
        (0.93, False, WORSE), (0.88, False, BETTER),
    ],
)  # fmt: skip
def test_values_are_compared_where_the_originals_differ(value, higher, verdict):
    direction = {"higher_is_better": higher}
    old = run(accuracy={"value": Interval(0.905, 0.9, 0.91), **direction})
    new = run(accuracy={"value": Interval(value, value - 0.005, value + 0.005), **direction})
    found = finding("accuracy", old, dataclasses.replace(new, origin=other_source(new)))
    assert found.verdict == verdict
    assert "the originals differ" in found.sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "top5"}, "the metrics differ: top1 and top5"),
        ({"higher_is_better": False}, "the metric turned round"),
        ({"evaluated": "d2"}, "they were evaluated on other samples"),
        ({"evaluated": ""}, "nothing says that both were evaluated on the same samples"),
        ({"drop": Interval(0.0, -math.inf, math.inf)}, "the interval of top1 is not known"),
        ({}, "no accuracy was measured in the new run; the outputs agree with the original's at 38.7 dB and now"),
    ],
)
def test_an_accuracy_that_does_not_compare_is_not_known(change, said):
    found = finding("accuracy", run(), run(accuracy=change))
    assert found.verdict == NOT_KNOWN
    assert said in found.sentence


@pytest.mark.parametrize(("value", "verdict"), [(0.70, WORSE), (0.95, BETTER)])
def test_values_that_are_far_apart_decide_where_no_loss_does(value, verdict):
    old = run(accuracy={"drop": Interval(0.0, -math.inf, math.inf), "value": Interval(0.9, 0.88, 0.92)})
    new = run(accuracy={"value": Interval(value, value - 0.01, value + 0.01)})
    found = finding("accuracy", old, new)
    assert found.verdict == verdict
    assert "too few samples differ" in found.sentence


def test_a_metric_without_a_drop_is_compared_by_its_value():
    nothing = Interval(math.nan, math.nan, math.nan)
    kept, lost = Interval(38.0, 37.5, 38.5), Interval(31.0, 30.5, 31.5)
    old, new = (run(accuracy={"metric": "sqnr", "drop": nothing, "value": value}) for value in (kept, lost))
    assert finding("accuracy", old, new).verdict == WORSE
    assert "sqnr has no loss against the original" in finding("accuracy", old, new).sentence


@pytest.mark.parametrize(
    ("speedup", "verdict"),
    [
        (Interval(2.4, 2.35, 2.45), NO_DIFFERENT),
        (Interval(2.2, 2.15, 2.25), WORSE),
        (Interval(2.7, 2.65, 2.75), BETTER),
        (Interval(2.2, 1.9, 2.5), NO_DIFFERENT),
        (Interval(2.2, 0.0, math.inf), NOT_KNOWN),
    ],
)
def test_speed_ups_over_one_baseline_are_compared(speedup, verdict):
    old = run(latency={"speedup": Interval(2.41, 2.37, 2.45)})
    found = finding("latency", old, run(latency={"speedup": speedup}))
    assert found.verdict == verdict
    if verdict != NOT_KNOWN:
        assert "over one unmodified export" in found.sentence


def test_below_the_noise_of_both_runs_nothing_is_called_different():
    noisy = Interval(1.0, 0.9, 1.1)
    old, new = (run(latency={"speedup": Interval(ratio, ratio, ratio), "noise": noisy}) for ratio in (2.4, 2.15))
    assert finding("latency", old, new).verdict == NO_DIFFERENT


@pytest.mark.parametrize(
    ("speedup", "verdict"), [(2.0, NOT_KNOWN), (2.9, NO_DIFFERENT), (1.2, WORSE), (4.0, BETTER), (2.41, NO_DIFFERENT)]
)
def test_a_machine_that_drifted_explains_no_more_than_it_drifted_by(speedup, verdict):
    old = run(latency={"speedup": Interval(2.41, 2.39, 2.43)})
    new = run(latency={"speedup": Interval(speedup, speedup * 0.99, speedup * 1.01)}, baseline=slower_baseline(1.4))
    found = finding("latency", old, new)
    assert found.verdict == verdict
    assert ("1.40 times as slow in one run as in the other" in found.sentence) == (speedup in {2.0, 2.9})


def test_between_machines_speed_ups_are_compared_and_it_is_said():
    old = run(latency={"speedup": Interval(2.41, 2.39, 2.43)})
    slow = {"latency": {"speedup": Interval(1.5, 1.48, 1.52)}, "baseline": slower_baseline(9)}
    found = finding("latency", old, run(**slow, machine=machine(cpu="Another CPU")))
    assert found.verdict == WORSE
    assert "the machines differ (A CPU <with> a name, 2 cores, 7.75 GB and now Another CPU" in found.sentence


def other_network(report):
    """Return a report whose export has other operators, from another source."""
    baseline = dataclasses.replace(report.trials[0], profile=report.trials[1].profile, size_bytes=99)
    return dataclasses.replace(report, trials=(baseline, *report.trials[1:]), origin=other_source(report))


@pytest.mark.parametrize(("p50", "verdict"), [(0.5154, NO_DIFFERENT), (0.9, WORSE), (0.3, BETTER)])
def test_without_one_baseline_medians_are_compared_on_one_machine(p50, verdict):
    new = other_network(run(latency={"p50": p50, "p90": p50 * 1.1}))
    found = finding("latency", run(), new)
    assert (found.verdict, found.before) == (verdict, "0.515 ms")
    assert "p50 is compared on one machine" in found.sentence


def test_without_one_baseline_nothing_compares_between_machines_or_runtimes():
    elsewhere = dataclasses.replace(other_network(run()), machine=machine(cores=4))
    newer = dataclasses.replace(other_network(run()), machine=machine(versions={"onnxruntime": "1.40"}))
    found = [finding("latency", run(), new) for new in (elsewhere, newer)]
    assert "the machines differ" in found[0].sentence
    assert "the runtimes differ (onnxruntime 1.32 and now onnxruntime 1.40)" in found[1].sentence
    assert {each.verdict for each in found} == {NOT_KNOWN}


@pytest.mark.parametrize(
    ("speedup", "p50", "verdict"),
    [(2.41, 0.5154, NO_DIFFERENT), (2.41, 0.9, NOT_KNOWN), (1.5, 0.9, WORSE), (1.5, 0.5154, NOT_KNOWN)],
)
@pytest.mark.parametrize("changed", ["source", "runtime"])
def test_where_the_baseline_may_have_moved_too_both_have_to_say_worse(speedup, p50, verdict, changed):
    timed = {"speedup": Interval(speedup, speedup * 0.99, speedup * 1.01), "p50": p50, "p90": p50 * 1.05}
    fields = {
        "source": {"origin": other_source(sample())},
        "runtime": {"machine": machine(versions={"onnxruntime": "2"})},
    }
    found = finding("latency", run(), run(latency=timed, **fields[changed]))
    assert found.verdict == verdict
    assert f"the {changed}s differ" in found.sentence


def test_a_network_that_differs_in_its_weights_alone_has_the_same_baseline():
    retrained = run(origin=other_source(sample()), baseline={"size_bytes": 1_243_900})
    assert finding("latency", run(), retrained).verdict == NO_DIFFERENT


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (run(latency={"sizes": {"batch": 8}}), "measured at batch=1 and now batch=8"),
        (
            run(recipe=dataclasses.replace(sample().recipe, target=Target(threads=1))),
            "measured on cpu and now cpu,threads=1",
        ),
        (validated(), "the latency was not measured in the new run"),
    ],
)
def test_a_latency_that_does_not_compare_is_not_known(new, said):
    found = finding("latency", run(), new)
    assert (found.verdict, found.sentence) == (NOT_KNOWN, said)


@pytest.mark.parametrize(
    ("size", "verdict"), [(342_118, NO_DIFFERENT), (345_000, NO_DIFFERENT), (346_000, WORSE), (300_000, BETTER)]
)
def test_sizes_are_exact_but_for_a_hundredth(size, verdict):
    new = run()
    grown = dataclasses.replace(new.trials[SHIPPED], size_bytes=size)
    assert finding("size", run(), dataclasses.replace(new, trials=(new.trials[0], grown))).verdict == verdict


def test_the_first_line_says_the_worst_first():
    worse = run(latency={"speedup": Interval(1.5, 1.49, 1.51)}, accuracy={"evaluated": "d2"})
    judged = gate(run(), worse)
    assert judged.first_line.startswith("Worse: latency, 0.622 (0.6")
    assert judged.first_line.endswith("times as fast. Not comparable: accuracy.")
    assert exit_code(judged) == 1
    unknown = gate(run(), run(accuracy={"evaluated": "d2"}))
    assert unknown.first_line == "Not comparable: accuracy. The rest did not get worse."
    assert [exit_code(unknown), exit_code(unknown, strict=True)] == [0, 1]
    both = gate(
        run(), run(latency={"speedup": Interval(1.5, 1.49, 1.51)}, accuracy={"drop": Interval(0.1, 0.09, 0.11)})
    )
    assert both.first_line == "Worse: accuracy and latency."


def test_a_new_run_that_missed_its_own_limits_is_said():
    missed = run(outcome="missed", first_line="Missed: max-drop.")
    assert gate(run(), missed, ("main", "branch")).notes == ("branch by itself: Missed: max-drop.",)


def test_differences_and_ratios_know_no_more_than_their_parts():
    first, second = Interval(1.0, 0.8, 1.1), Interval(1.5, 1.4, 1.8)
    for other, value, below, above in ((first, 0.0, (0.2, 0.1), (0.1, 0.2)), (second, 0.5, (0.1, 0.1), (0.3, 0.2))):
        change = difference(first, other)
        wanted = (value, value - math.hypot(*below), value + math.hypot(*above))
        assert (change.value, change.low, change.high) == pytest.approx(wanted)
    exact = Interval(2.0, 2.0, 2.0)
    assert ratio(exact, exact) == Interval(1.0, 1.0, 1.0)
    assert ratio(Interval(0.0, 0.0, 1.0), exact) is None
    assert ratio(Interval(1.0, 0.5, math.inf), exact) is None


def test_equal_runs_are_called_different_about_as_seldom_as_promised():
    """Two accuracies of one model on other samples: the interval of their difference holds 0 often enough."""
    rng = np.random.default_rng(7)
    samples, wrong, pairs = 400, 0, 400
    for _ in range(pairs):
        shares = rng.binomial(samples, 0.9, 2) / samples
        reach = [1.96 * math.sqrt(share * (1 - share) / samples) for share in shares]
        first, second = (Interval(s, s - r, s + r) for s, r in zip(shares, reach, strict=True))
        loss = difference(first, second)
        wrong += not loss.low <= 0 <= loss.high
    assert wrong / pairs < 0.08
