"""What each default pass brings by itself: every network with all of them, and with all but one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import MET, MISSED, Claim, Interval, Progress, Result, Summary, Table, ratio_text, result, run
from benchmarks.models import write as write_all
from benchmarks.sets import Timing, speed, timed
from mlc import api
from mlc.exporting.opset import NEWER
from mlc.grammar.values import parse_target
from mlc.measuring import Candidate
from mlc.measuring.latency import PROCESSES, bench
from mlc.probes import probe
from mlc.registry import DEFAULT_PASSES

if TYPE_CHECKING:
    from mlc.artifact import Artifact
    from mlc.sources.original import Original
    from mlc.types import Target

NAMES = tuple(dict.fromkeys(DEFAULT_PASSES))
ALL, CONTROL = "all", "control"
TARGETS = ("cpu,threads=1", "cpu,threads=2")
QUICK, QUICK_TARGETS = ("LSTM",), ("cpu,threads=2",)
SECONDS, AFRESH_SECONDS = 4.0, 12.0
"""For each model of a set, and of one that is timed afresh."""


def measure(quick: bool, progress: Progress) -> Result:
    """Rewrite each network with all default passes and with all but one that fired, and time them in one set."""
    from benchmarks.fusion_models import NETWORKS

    targets = QUICK_TARGETS if quick else TARGETS
    networks: dict[str, Any] = {}
    for network in NETWORKS:
        if quick and network.name not in QUICK:
            continue
        original = api.load(network.build(), network.example, inputs=network.inputs)
        progress(network.name)
        models = dict(_rewritten(original))
        networks[network.name] = {
            target: _measured(network, original, models, parse_target(target), quick=quick, progress=progress)
            for target in targets
        }
    settings = {"launches": PROCESSES, "seconds": SECONDS, "afresh_seconds": AFRESH_SECONDS, "targets": list(targets)}
    return result("passes", settings, networks=networks)


def _measured(
    network: Any,
    original: Original,
    models: Mapping[str, Artifact],
    target: Target,
    *,
    quick: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Time a network on a target; what was slower with a pass is timed afresh, and only those rounds decide."""
    progress(f"{network.name} with {target.threads} threads")
    with tempfile.TemporaryDirectory(prefix="mlc-passes-") as name:
        files = write_all(models, Path(name))
        same = [label for label in models if label != ALL and _same(files[label], files[ALL])]
        candidates = {label: Candidate(label, files[label], one.session_options) for label, one in models.items()}
        candidates[CONTROL] = candidates[ALL]
        names = [label for label in models if label != ALL and label not in same]
        arrays = probe(
            original.signature.inputs, {**models[ALL].origin.traced, **network.at}, original.example, None, 0
        )
        failed: dict[str, str] = {}

        def sets(names: Sequence[str], seconds: float, seed: int) -> list[Any]:
            how = Timing(max(len(names), 1), 1.0 if quick else seconds * (len(names) + 2), seed)
            with bench(arrays, target, network.at, seconds=how.seconds, seed=seed) as shared:
                return timed(
                    candidates, names, how, fixed=(ALL, CONTROL), shared=shared, failed=failed, progress=progress
                )

        first = sets(names, SECONDS, 0)
        slower = [label for label, *intervals in _intervals(first) if _is_slower(*intervals)]
        afresh = sets(slower, AFRESH_SECONDS, 1)
    sites = Counter(step.spec.name for step in models[ALL].steps for _ in step.sites)
    return {"sites": dict(sites), "same": same, "failed": failed, "sets": first, "afresh": afresh}


def _rewritten(original: Original) -> Iterator[tuple[str, Artifact]]:
    """Yield what all default passes make of an export, and all but one, for each that fired; by what is left out."""
    exported = api.export(original, opset=NEWER)
    whole = api.rewrite(exported, original)
    yield ALL, whole
    fired = {step.spec.name for step in whole.steps if step.sites}
    ran = [step.spec.name for step in whole.steps]
    for left in (name for name in NAMES if name in fired):
        others = [name for name in dict.fromkeys(ran) if name != left]
        yield left, api.rewrite(exported, original, passes=["none", *others])


def _same(first: Path, second: Path) -> bool:
    files = [sorted(path.parent.iterdir()) for path in (first, second)]
    return [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def _is_slower(interval: Interval, noise: Interval) -> bool:
    """Whether a model is slower with a pass than without, beyond what two copies of one model show."""
    return interval.high < min(1.0, noise.low)


def summary(measured: Result) -> Summary:
    """Say of each pass where it was faster with it, and where slower, beyond what two copies of one model show."""
    rows, found = [], dict[str, list[tuple[str, Interval, Interval]]]()
    for network, by_target in measured["networks"].items():
        for target, one in by_target.items():
            for left, interval, noise in _intervals([*one["sets"], *one["afresh"]]):
                found.setdefault(left, []).append((f"{network} on {target}", interval, noise))
                rows.append(
                    (left, network, target, f"{one['sites'].get(left, 0)}", ratio_text(interval), ratio_text(noise))
                )
            rows += [
                (left, network, target, f"{one['sites'].get(left, 0)}", "the same file without it", "")
                for left in one["same"]
            ]
    claims = [claim for name in NAMES if name in found for claim in _claims(name, found[name])]
    columns = ("pass", "network", "target", "sites", "times as fast as without it", "two copies")
    order = {name: place for place, name in enumerate(NAMES)}
    rows.sort(key=lambda row: order[row[0]])
    unseen = [name for name in NAMES if not any(row[0] == name for row in rows)]
    notes = [f"No network here has a site for {', '.join(unseen)}."] if unseen else []
    notes += sorted(
        f"Not measured: {network} on {target} without {left}: {why}"
        for network, by_target in measured["networks"].items()
        for target, one in by_target.items()
        for left, why in one["failed"].items()
    )
    title = "Times as fast with all default passes as with all but one (95 % interval)"
    return Summary(tuple(claims), (Table(title, columns, tuple(rows), brief=False),), tuple(notes))


def _intervals(sets: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Interval, Interval]]:
    """Yield each pass, how many times as fast a network is with it, and two copies beside it, by its last set."""
    last = {left: one for one in sets for left in one if left not in {ALL, CONTROL}}
    for left, one in last.items():
        yield left, speed(one, ALL, left), speed(one, CONTROL, ALL)


def _claims(name: str, found: Sequence[tuple[str, Interval, Interval]]) -> Iterator[Claim]:
    slower = [where for where, interval, noise in found if _is_slower(interval, noise)]
    faster = [where for where, interval, noise in found if interval.low > max(1.0, noise.high)]
    told = f"slower in {len(slower)} of {len(found)}" + (f": {', '.join(slower)}" if slower else "")
    yield Claim(f"{name}: nowhere slower with it beyond the noise", told, MISSED if slower else MET)
    best = max(found, key=lambda each: each[1].value)
    most = f"{ratio_text(best[1])} for {best[0]}"
    yield Claim(f"{name}: somewhere faster with it beyond the noise", f"{len(faster)} of {len(found)}; most {most}",
                MET if faster else MISSED)  # fmt: skip


if __name__ == "__main__":
    run(measure, summary)
