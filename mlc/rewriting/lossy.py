"""Passes that lose something on purpose: given statistics and a plan, judged by the outputs' signal to noise ratio."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare import Difference, is_float, powers, ratio_db, sqnr
from mlc.compare.decisions import deciders, decisions, with_outputs
from mlc.errors import MlcError, PassError, UsageError
from mlc.graph_pass import Pass, Statistics
from mlc.plan import FORMATS, make_plan
from mlc.rewriting.outputs import OutputJudge
from mlc.rewriting.sessions import Feeds, Runner
from mlc.rewriting.sites import SiteJudge
from mlc.rewriting.trials import Trials
from mlc.rewriting.verified import Settled
from mlc.statistics import collect
from mlc.types import Capabilities, Plan

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.workspace import Workspace

WORST = 3
"""So many nodes are named where an output falls below the floor."""


@dataclass(frozen=True)
class Collected:
    """What a lossy pass is given beside the graph."""

    calibration: Data | None
    capabilities: Capabilities
    workspace: Workspace
    progress: Callable[[str], None]

    def statistics(self, subject: Pass, model: ir.Model) -> Statistics | None:
        """Collect what the pass says it reads, on the graph that it will be given."""
        needs = subject.needs(model)
        if not needs:
            return None
        if self.calibration is None:
            raise UsageError(f"the pass {subject.name} needs calibration data", "give it with --calibrate")
        return collect(model, needs, self.calibration, self.workspace, self.progress)

    def plan(self, subject: Pass, model: ir.Model) -> Plan:
        """Make the plan of the pass's format; a pass whose name is no format has none."""
        return make_plan(model, subject.name, self.capabilities) if subject.name in FORMATS else Plan()


@dataclass(frozen=True)
class Lossy:
    """How a lossy pass went, with what it was given."""

    settled: Settled
    plan: Plan = field(default_factory=Plan)
    statistics: Statistics | None = None
    sqnr: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def settle_lossy(trials: Trials, given: Collected, outputs: OutputJudge, feeds: Sequence[Feeds]) -> Lossy:
    """Apply a lossy pass once; its invariants have to hold, its outputs' ratios are reported.

    Raises PassError below the pass's floor, with the nodes that lose most.
    """
    subject, before = trials.subject, trials.before
    start = time.perf_counter()
    statistics, plan = given.statistics(subject, before), given.plan(subject, before)
    trials = replace(trials, context=replace(trials.context, plan=plan, statistics=statistics))

    def dropped(reason: str) -> Lossy:
        return Lossy(Settled(before, dropped=reason, seconds=time.perf_counter() - start), plan, statistics)

    try:
        attempt = trials.checked(trials.attempt())
        if attempt.broken:
            return dropped(attempt.broken[0])
        if not trials.repeats(attempt):
            return dropped("two applications to the same graph give different results")
        applied = time.perf_counter()
        ratios = {**output_ratios(outputs, attempt.model), **decider_ratios(outputs, before, attempt.model)}
    except PassError as error:
        return dropped(error.message)
    except MlcError as error:
        return dropped(f"its graph does not run: {error.message}")
    low = {name: ratio for name, ratio in ratios.items() if ratio < subject.floor}
    if low and attempt.change.sites:
        worst = worst_nodes(outputs.runner, before, attempt.model, feeds, attempt.change.sites)
        name, ratio = min(low.items(), key=lambda pair: pair[1])
        sentence = f"the pass {subject.name} left {name} at {ratio:.1f} dB, below its floor of {subject.floor:g} dB"
        raise PassError(sentence, _advice(subject, worst))
    notes = tuple(
        f"nothing tells how much the output {name} lost: what decides it is not one float"
        for name in deciders(before)
        if attempt.change.sites and name not in ratios and not any(key.startswith(f"{name} (by ") for key in ratios)
    )
    spent = time.perf_counter() - applied
    settled = Settled(attempt.model, attempt.change, seconds=applied - start, verify_seconds=spent)
    return Lossy(settled, plan, statistics, ratios, notes)


def _advice(subject: Pass, worst: Sequence[str]) -> str:
    """Say which nodes lose most, and what can be done about it."""
    told = f"worst: {', '.join(worst)}; " if worst else ""
    percentile = getattr(subject, "method", None) == "percentile"
    ranges = "a larger percent" if percentile else f"--pass {subject.name}:method=percentile"
    other = f"{ranges}, or " if hasattr(subject, "method") else ""
    return f"{told}try {other}more calibration data like the evaluated; nodes cannot be kept float one by one yet"


def output_ratios(outputs: OutputJudge, model: ir.Model) -> dict[str, float]:
    """Return the signal to noise ratio of every float output against the references together, in dB."""
    sums: dict[str, tuple[float, float]] = {}
    with outputs.runner.open(model) as run:
        for reference in outputs.references:
            given = run(reference.inputs)
            for name, expected in reference.outputs.items():
                if is_float(expected.dtype) and expected.size:
                    same = name in given and given[name].shape == expected.shape
                    signal, noise = powers(expected, given[name]) if same else (0.0, math.inf)
                    total = sums.get(name, (0.0, 0.0))
                    sums[name] = (total[0] + signal, total[1] + noise)
    return {name: ratio_db(*total) for name, total in sums.items()}


def decider_ratios(outputs: OutputJudge, before: ir.Model, after: ir.Model) -> dict[str, float]:
    """Return, for integer and boolean outputs, the ratios of the float values that decide them, in dB.

    They are named ``output (by value)``.
    """
    old, new = decisions(before), decisions(after)
    pairs = [
        (f"{name} (by {value})", value, twin)
        for name, decision in old.items()
        if name in new
        for value, twin in zip(decision.values, new[name].values, strict=False)
        if value not in before.graph.initializers
    ]
    sums = {key: np.zeros(2) for key, _, _ in pairs}
    if not pairs:
        return {}
    models = (with_outputs(before, [pair[1] for pair in pairs]), with_outputs(after, [pair[2] for pair in pairs]))
    with outputs.runner.open(models[0]) as run_before, outputs.runner.open(models[1]) as run_after:
        for reference in outputs.references:
            expected, actual = run_before(reference.inputs), run_after(reference.inputs)
            for key, value, twin in pairs:
                known = value in expected and twin in actual and is_float(expected[value].dtype)
                if known and expected[value].shape == actual[twin].shape:
                    sums[key] += powers(expected[value], actual[twin])
    return {key: ratio_db(*total) for key, total in sums.items() if total.any()}


def worst_nodes(
    runner: Runner, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds], sites: Sequence[str]
) -> list[str]:
    """Return the sites that lose most by themselves, as ``Conv a (3.1 dB)``: each is fed with the values before."""

    def measure(name: str, expected: np.ndarray, actual: np.ndarray, loose: bool) -> Difference:  # noqa: ARG001
        return Difference(name, -sqnr(expected, actual) if is_float(expected.dtype) else -math.inf)

    judged = SiteJudge(runner, measure).judge(before, after, feeds)
    ops = {output.name: node.op_type for node in before.graph for output in node.outputs}
    named = [each for each in judged if each.value in sites and not each] or [each for each in judged if not each]
    named.sort(key=lambda each: -each.error)
    return [f"{ops.get(each.value, 'initializer')} {each.value} ({-each.error:.1f} dB)" for each in named[:WORST]]
