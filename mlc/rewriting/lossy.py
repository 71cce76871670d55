"""Passes that lose something on purpose: given statistics and a plan, judged by the outputs' signal to noise ratio."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.compare import Difference, is_float, sqnr
from mlc.compare.decisions import deciders
from mlc.emulate import rounded_half
from mlc.errors import MlcError, PassError, UsageError
from mlc.fusion import Places
from mlc.graph_pass import Pass, Statistics
from mlc.rewriting.glimpsed import glimpsed
from mlc.rewriting.half import narrow_notes, put_into_half, refuse_loss
from mlc.rewriting.outputs import OutputJudge
from mlc.rewriting.ratios import ratios_of
from mlc.rewriting.sessions import Feeds, Runner
from mlc.rewriting.sites import Given, SiteJudge
from mlc.rewriting.trials import Trials
from mlc.rewriting.verified import Settled
from mlc.statistics import Store, collect, fingerprints
from mlc.types import Plan

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.workspace import Workspace

WORST = 3
"""So many nodes are named where an output falls below the floor."""


@dataclass(frozen=True)
class Collected:
    """What a pass is given beside the graph: a lossy one its plan, and what statistics are collected from."""

    plan: Plan
    calibration: Data | None
    workspace: Workspace
    progress: Callable[[str], None]
    store: Store

    def statistics(self, subject: Pass, model: ir.Model) -> Statistics | None:
        """Return what the pass says it reads, of the graph that it will be given.

        What is not kept yet is collected, and kept. Raises DataError where a file of statistics does not hold it, and
        UsageError where there is none, and no data to collect it from.
        """
        needs = subject.needs(model)
        if not needs:
            return None
        digests = fingerprints(model)
        if self.store.name:
            self.store.refuse_other_sizes(_columns(model), digests, f"the pass {subject.name}")
        if self.calibration is None and self.store.name:
            self.store.refuse_missing(self.store.missing(needs, digests), f"the pass {subject.name}")
        elif wanted := self.store.to_collect(needs, digests):
            if self.calibration is None:
                raise UsageError(f"the pass {subject.name} needs calibration data", "give it with --calibrate")
            found = collect(model, wanted, self.calibration, self.workspace, self.progress)
            self.store.add(found, digests)
        return self.store.read(needs, digests)


def _columns(model: ir.Model) -> dict[str, int]:
    """Return the size of the last axis of every value of which it is known, by name."""
    places = Places(model)
    values = [
        value for graph in places.once for value in (*graph.inputs, *(each for node in graph for each in node.outputs))
    ]
    return {places.name(value): last for value in values if value.shape and isinstance(last := value.shape[-1], int)}


@dataclass(frozen=True)
class Lossy:
    """How a lossy pass went, with what it was given."""

    settled: Settled
    statistics: Statistics | None = None
    sqnr: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def settle_lossy(
    trials: Trials, given: Collected, outputs: OutputJudge, feeds: Sequence[Feeds], *, to_be_amended: bool
) -> Lossy:
    """Apply a lossy pass once; its invariants have to hold, its outputs' ratios are reported.

    What it put into float16 is judged as a GPU computes it. Raises PassError below the pass's floor, with the nodes
    that lose most, unless the plan is ``to_be_amended`` for what they lose; and where float16 overflows.
    """
    subject, before = trials.subject, trials.before
    start = time.perf_counter()
    statistics = given.statistics(subject, before)
    known = statistics or glimpsed(subject, before, feeds, given.calibration, given.workspace)
    trials = replace(trials, context=replace(trials.context, plan=given.plan, statistics=known))

    def dropped(reason: str) -> Lossy:
        return Lossy(Settled(before, dropped=reason, seconds=time.perf_counter() - start), statistics)

    try:
        attempt = trials.checked(trials.attempt())
        if attempt.broken:
            return dropped(attempt.broken[0])
        if not trials.repeats(attempt):
            return dropped("two applications to the same graph give different results")
        applied = time.perf_counter()
        ratios = ratios_of(outputs, before, attempt.model)
        half = put_into_half(before, attempt.model)
        if half:
            strict = ratios_of(outputs, before, rounded_half(attempt.model))
            ratios = {name: min(ratio, strict.get(name, ratio)) for name, ratio in ratios.items()}
    except PassError as error:
        return dropped(error.message)
    except MlcError as error:
        return dropped(f"its graph does not run: {error.message}")
    low = {name: ratio for name, ratio in ratios.items() if ratio < subject.floor}
    if half:
        refuse_loss(subject, attempt.model, feeds, given.workspace, low=bool(low))
    if low and attempt.change.sites and not to_be_amended:
        judged = rounded_half(attempt.model) if half else attempt.model
        worst = worst_nodes(outputs.runner, before, judged, feeds, attempt.change.sites, floor=subject.floor)
        name, ratio = min(low.items(), key=lambda pair: pair[1])
        sentence = f"the pass {subject.name} left {name} at {ratio:.1f} dB, below its floor of {subject.floor:g} dB"
        raise PassError(sentence, _advice(subject, worst))
    notes = attempt.change.notes + tuple(
        f"nothing tells how much the output {name} lost: what decides it is not one float"
        for name in deciders(before)
        if attempt.change.sites and name not in ratios and not any(key.startswith(f"{name} (by ") for key in ratios)
    )
    if half:
        notes += narrow_notes(subject, outputs, before, attempt.model, feeds)
    spent = time.perf_counter() - applied
    settled = Settled(attempt.model, attempt.change, seconds=applied - start, verify_seconds=spent)
    return Lossy(settled, statistics, ratios, notes)


def _advice(subject: Pass, worst: Mapping[str, str]) -> str:
    """Say which nodes lose most, and what can be done about it."""
    kept = f"keep the worst float: {' '.join(f'--keep-float {site}' for site in worst)}; " if worst else ""
    told = f"worst: {', '.join(worst.values())}; {kept}" if worst else ""
    if not subject.calibrates:
        return f"{told}or see `mlc passes {subject.name}` for options that lose less"
    percentile = getattr(subject, "method", None) == "percentile"
    ranges = "a larger percent" if percentile else f"--pass {subject.name}:method=percentile"
    other = f"{ranges}, or " if hasattr(subject, "percent") else ""
    return f"{told}or try {other}more calibration data like the evaluated"


def worst_nodes(
    runner: Runner, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds], sites: Sequence[str], *, floor: float
) -> dict[str, str]:
    """Return the sites that lose most by themselves, with ``Conv a (3.1 dB)``: each is fed with the values before.

    Where some are below the floor alone, it is these.
    """

    def measure(name: str, expected: Given, actual: Given, loose: bool) -> Difference:  # noqa: ARG001
        if isinstance(expected, list) or isinstance(actual, list) or not is_float(expected.dtype):
            return Difference(name, -math.inf)
        return Difference(name, -sqnr(expected, actual))

    judged = SiteJudge(runner, measure).judge(before, after, feeds)
    ops = {output.name: node.op_type for node in before.graph for output in node.outputs}
    named = [each for each in judged if each.value in sites and not each] or [each for each in judged if not each]
    named = [each for each in named if -each.error < floor] or named
    named.sort(key=lambda each: -each.error)
    return {
        each.value: f"{ops.get(each.value, 'initializer')} {each.value} ({-each.error:.1f} dB)"
        for each in named[:WORST]
    }
