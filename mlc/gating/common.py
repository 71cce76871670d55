"""What two runs have to share before their figures compare: machine, runtime, target, sizes, source, baseline, data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlc.figures import counted, megabytes, significant, sizes_text
from mlc.grammar.values import target_text
from mlc.judging import Report
from mlc.types import InputSpec, OutputSpec

UNKNOWN = "not known"
RUNTIMES = ("onnxruntime", "openvino")
"""How the names of the packages begin that run models."""

SLACK = 0.01
"""Share by which two exports of one network may differ in size: names and constants of an exporter."""


class Baseline(NamedTuple):
    """What an unmodified export is known by: its interface, its operators (else its source), its size."""

    interface: Any
    operators: Any
    size: int


@dataclass(frozen=True)
class Aspect:
    """One thing that runs share or not: what each has, as text, and ``same``; None where one of them does not say."""

    name: str
    texts: tuple[str, ...]
    same: bool | None


def machine_key(report: Report) -> Any:
    """Return what makes a machine another one for a latency."""
    found = report.machine
    return found and (found.cpu, found.cores, found.memory_gb)


def runtime_key(report: Report) -> Any:
    """Return the versions of what runs the model."""
    versions = report.machine.versions if report.machine else {}
    return tuple(sorted(pair for pair in versions.items() if pair[0].startswith(RUNTIMES))) or None


def sizes_key(report: Report) -> Any:
    """Return the sizes at which the latency was measured."""
    return dict(report.trial.latency.sizes) if report.trial and report.trial.latency else None


def baseline_key(report: Report) -> Any:
    """Return what the baseline is known by: two networks that differ in their weights alone are as fast."""
    trial = report.baseline
    if trial is None:
        return None
    operators = Counter({entry.op: entry.count for entry in trial.profile.operators}) if trial.profile else None
    specs: tuple[InputSpec | OutputSpec, ...] = (*report.signature.inputs, *report.signature.outputs)
    interface = [(spec.name, spec.dtype, len(spec.dims)) for spec in specs]
    return Baseline(interface, operators or report.origin.digest, trial.size_bytes)


def data_key(report: Report) -> Any:
    """Return the digest of what was evaluated."""
    return report.trial.accuracy.evaluated or None if report.trial and report.trial.accuracy else None


def metric_key(report: Report) -> Any:
    """Return the metric and its direction."""
    accuracy = report.trial.accuracy if report.trial else None
    return accuracy and (accuracy.metric, accuracy.higher_is_better)


KEYS: dict[str, Callable[[Report], Any]] = {
    "machine": machine_key,
    "runtime": runtime_key,
    "target": lambda report: report.recipe.target,
    "sizes": sizes_key,
    "source": lambda report: report.origin.digest or None,
    "baseline": baseline_key,
    "data": data_key,
    "metric": metric_key,
}
"""What each thing is known by; None where a report does not say."""


def short_source(source: str) -> str:
    """Return a source without its folders: ``model.py:model@weights.safetensors``."""
    return "@".join(part.replace("\\", "/").rpartition("/")[2] for part in source.split("@"))


def machine_text(report: Report) -> str:
    """Return the machine in one line."""
    found = report.machine
    return f"{found.cpu}, {found.cores} cores, {significant(found.memory_gb)} GB" if found else UNKNOWN


def baseline_text(report: Report) -> str:
    """Return what the unmodified export is known by, in one line."""
    trial = report.baseline
    if trial is None:
        return UNKNOWN
    nodes = sum(entry.count for entry in trial.profile.operators) if trial.profile else 0
    return ", ".join([*([counted(nodes, "node")] if nodes else []), megabytes(trial.size_bytes)])


def data_text(report: Report) -> str:
    """Return the evaluation data and the beginning of their digest."""
    digest = data_key(report)
    return f"{report.data.get('evaluation', 'data')} ({digest[:12]})" if digest else UNKNOWN


TEXTS: dict[str, Callable[[Report], str]] = {
    "machine": machine_text,
    "runtime": lambda report: ", ".join(" ".join(pair) for pair in runtime_key(report) or ()) or UNKNOWN,
    "target": lambda report: target_text(report.recipe.target),
    "sizes": lambda report: UNKNOWN if sizes_key(report) is None else sizes_text(sizes_key(report)),
    "source": lambda report: f"{short_source(report.origin.source)} ({report.origin.digest[:12] or UNKNOWN})",
    "baseline": baseline_text,
    "data": data_text,
    "metric": lambda report: report.trial.accuracy.metric if report.trial and report.trial.accuracy else UNKNOWN,
}
"""How each thing is shown."""


def same(name: str, first: Report, second: Report) -> bool | None:
    """Return whether two runs share one thing; None where one of them does not say."""
    known = (KEYS[name](first), KEYS[name](second))
    if None in known:
        return None
    if isinstance(known[0], Baseline) and isinstance(known[1], Baseline):
        sizes = (known[0].size, known[1].size)
        return known[0][:2] == known[1][:2] and abs(sizes[0] - sizes[1]) <= SLACK * max(sizes)
    return bool(known[0] == known[1])


def aspect(name: str, reports: Sequence[Report]) -> Aspect:
    """Return one thing over several runs, each compared with the first."""
    each = [same(name, reports[0], other) for other in reports]
    whole = None if None in each else all(each)
    return Aspect(name, tuple(TEXTS[name](report) for report in reports), whole)
