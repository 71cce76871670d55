"""What each default pass brings by itself: every network with all of them, and with all but one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

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
from mlc.runtimes.optimized import optimized_graph

if TYPE_CHECKING:
    from mlc.artifact import Artifact
    from mlc.sources.original import Original
    from mlc.types import Arrays

_Set: TypeAlias = dict[str, list[list[int]]]

NAMES = tuple(dict.fromkeys(DEFAULT_PASSES))
ALL, CONTROL = "all", "control"
TARGETS = ("cpu,threads=1", "cpu,threads=2")
QUICK, QUICK_TARGETS = ("LSTM",), ("cpu,threads=2",)
SECONDS, AFRESH_SECONDS = 4.0, 12.0
"""For each model of a set, and of one that is timed afresh."""

AGAIN = 12
"""Sets of fresh processes in which a pass that was faster nowhere is timed where it came nearest to it."""


def measure(quick: bool, progress: Progress) -> Result:
    """Rewrite each network with all default passes and with all but one that fired, and time them in one set."""
    targets = QUICK_TARGETS if quick else TARGETS
    rewritten: dict[str, _Rewritten] = {}
    networks: dict[str, Any] = {}
    for name, rewrite in sources():
        if quick and name not in QUICK:
            continue
        progress(name)
        rewritten[name] = one = rewrite()
        networks[name] = {target: _measured(one, target, quick, progress) for target in targets}
    for left, name, target in () if quick else undecided(networks):
        progress(f"{name} on {target} without {left} again")
        networks[name][target]["afresh"].append(_again(rewritten[name], left, target, progress))
    settings = {"launches": PROCESSES, "seconds": SECONDS, "afresh_seconds": AFRESH_SECONDS, "again": AGAIN,
                "targets": list(targets)}  # fmt: skip
    return result("passes", settings, networks=networks)


@dataclass(frozen=True)
class _Rewritten:
    """A network as all default passes have it, and as all but one, by what is left out, with what to run it on."""

    models: Mapping[str, Artifact]
    arrays: Arrays
    at: Mapping[str, int]

    @property
    def sites(self) -> dict[str, int]:
        """How many sites each pass has where all run."""
        return dict(Counter(step.spec.name for step in self.models[ALL].steps for _ in step.sites))


def sources() -> Iterator[tuple[str, Callable[[], _Rewritten]]]:
    """Yield the name of each network, and what rewrites it: as a torch module, and as a file of another exporter."""
    from benchmarks import files
    from benchmarks.fusion_models import NETWORKS

    yield from ((network.name, partial(_rewrite_module, network)) for network in NETWORKS)
    yield from ((files.called(network), partial(_rewrite_file, network)) for network in files.FILES)


def _rewrite_module(network: Any) -> _Rewritten:
    original = api.load(network.build(), network.example, inputs=network.inputs)
    return _rewrite(original, api.export(original, opset=NEWER), network.at)


def _rewrite_file(network: Any) -> _Rewritten:
    from benchmarks import files

    with tempfile.TemporaryDirectory(prefix="mlc-passes-") as folder:
        original = api.load(files.write(network, Path(folder)), inputs=network.inputs)
        return _rewrite(original, api.export(original), network.at)


def _rewrite(original: Original, exported: Artifact, at: Mapping[str, int]) -> _Rewritten:
    models = dict(_rewritten(original, exported))
    arrays = probe(original.signature.inputs, {**exported.origin.traced, **at}, original.example, None, 0)
    return _Rewritten(models, arrays, at)


def _measured(one: _Rewritten, target: str, quick: bool, progress: Progress) -> dict[str, Any]:
    """Time a network on a target; what was slower with a pass is timed afresh, and only those rounds decide."""
    failed: dict[str, str] = {}
    with _candidates(one.models) as candidates:
        same = [name for name in one.models if name != ALL and _same(candidates[name].path, candidates[ALL].path)]
        alike = _alike({name: candidates[name].path for name in one.models if name not in same})
        names = [name for name in one.models if name != ALL and name not in same]

        def sets(names: Sequence[str], seconds: float, seed: int) -> list[_Set]:
            how = _how(names, 1.0 if quick else seconds, seed)
            return _timed(one, candidates, names, target, how, failed=failed, progress=progress)

        first = sets(names, SECONDS, 0)
        slower = [name for name, *intervals in _intervals(first) if _is_slower(*intervals)]
        afresh = sets(slower, AFRESH_SECONDS, 1)
    return {"sites": one.sites, "same": same, "alike": alike, "failed": failed, "sets": first, "afresh": afresh}


def _again(one: _Rewritten, left: str, target: str, progress: Progress) -> _Set:
    """Time a network with and without one pass in many fresh processes; return the rounds of all as of one set."""
    sets: list[_Set] = []
    with _candidates({name: one.models[name] for name in (ALL, left)}) as candidates:
        for seed in range(2, 2 + AGAIN):
            how = _how([left], AFRESH_SECONDS, seed)
            sets += _timed(one, candidates, [left], target, how, failed={}, progress=progress)
    return {name: [rounds for each in sets for rounds in each[name]] for name in (ALL, CONTROL, left)}


@contextmanager
def _candidates(models: Mapping[str, Artifact]) -> Iterator[dict[str, Candidate]]:
    with tempfile.TemporaryDirectory(prefix="mlc-passes-") as name:
        files = write_all(models, Path(name))
        found = {label: Candidate(label, files[label], each.session_options) for label, each in models.items()}
        yield {**found, CONTROL: found[ALL]}


def _how(names: Sequence[str], seconds: float, seed: int) -> Timing:
    """Return how these and two copies are timed, all in one set; seconds are for each."""
    return Timing(max(len(names), 1), seconds * (len(names) + 2), seed)


def _timed(
    one: _Rewritten,
    candidates: Mapping[str, Candidate],
    names: Sequence[str],
    target: str,
    how: Timing,
    *,
    failed: dict[str, str],
    progress: Progress,
) -> list[_Set]:
    """Time a network without each of these passes beside two copies of it with all, in one set."""
    with bench(one.arrays, parse_target(target), one.at, seconds=how.seconds, seed=how.seed) as shared:
        return timed(candidates, names, how, fixed=(ALL, CONTROL), shared=shared, failed=failed, progress=progress)


def undecided(networks: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each pass that was faster nowhere, with the network and target where its ratio was the largest.

    Where onnxruntime makes the same of a file without it, there is nothing to time.
    """
    for left, places in _found(networks).items():
        different = [place for place in places if not place.alike]
        if different and not any(_is_faster(place) for place in places):
            best = max(different, key=lambda place: place.ratio.value)
            yield left, best.network, best.target


def _rewritten(original: Original, exported: Artifact) -> Iterator[tuple[str, Artifact]]:
    """Yield what all default passes make of an export, and all but one, for each that fired; by what is left out."""
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


def _alike(files: Mapping[str, Path]) -> list[str]:
    """Return without which passes onnxruntime's own optimizer leaves as many nodes of each operator as with all."""
    left = {name: operators(path) for name, path in files.items()}
    return [name for name in files if name != ALL and left[name] == left[ALL]]


def operators(path: Path) -> Counter[str]:
    """Return how many nodes of each operator onnxruntime's optimizer leaves of a file."""
    with tempfile.TemporaryDirectory(prefix="mlc-passes-") as name:
        graph = onnx.load(optimized_graph(path, Path(name)), load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def _is_slower(interval: Interval, noise: Interval) -> bool:
    """Whether a model is slower with a pass than without, beyond what two copies of one model show."""
    return interval.high < min(1.0, noise.low)


def summary(measured: Result) -> Summary:
    """Say of each pass where it was faster with it, and where slower, beyond what two copies of one model show."""
    found = _found(measured["networks"])
    rows = [(left, place.network, place.target, f"{place.sites}", ratio_text(place.ratio), ratio_text(place.noise))
            for left, places in found.items() for place in places]  # fmt: skip
    rows += [(left, network, target, f"{one['sites'].get(left, 0)}", "the same file without it", "")
             for network, by_target in measured["networks"].items() for target, one in by_target.items()
             for left in one["same"]]  # fmt: skip
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
    done = [left for left, places in found.items() if all(place.alike for place in places)]
    if done:
        notes.append(
            f"onnxruntime's own optimizer leaves the same operators of each file without {', '.join(done)}: nothing "
            "can be faster there with these, which are for other runtimes and for the passes behind them."
        )
    title = "Times as fast with all default passes as with all but one (95 % interval)"
    return Summary(tuple(claims), (Table(title, columns, tuple(rows), brief=False),), tuple(notes))


def _intervals(sets: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Interval, Interval]]:
    """Yield each pass, how many times as fast a network is with it, and two copies beside it, by its last set."""
    last = {left: one for one in sets for left in one if left not in {ALL, CONTROL}}
    for left, one in last.items():
        yield left, speed(one, ALL, left), speed(one, CONTROL, ALL)


@dataclass(frozen=True)
class _Place:
    """How many times as fast a network is with a pass on a target, and two copies of it beside each other."""

    network: str
    target: str
    sites: int
    alike: bool
    ratio: Interval
    noise: Interval

    def __str__(self) -> str:
        return f"{self.network} on {self.target}"


def _found(networks: Mapping[str, Any]) -> dict[str, list[_Place]]:
    """Return where each pass was timed, by its name."""
    found: dict[str, list[_Place]] = {}
    for network, by_target in networks.items():
        for target, one in by_target.items():
            for left, ratio, noise in _intervals([*one["sets"], *one["afresh"]]):
                place = _Place(network, target, one["sites"].get(left, 0), left in one["alike"], ratio, noise)
                found.setdefault(left, []).append(place)
    return found


def _is_faster(place: _Place) -> bool:
    return place.ratio.low > max(1.0, place.noise.high)


def _claims(name: str, places: Sequence[_Place]) -> Iterator[Claim]:
    slower = [f"{place}" for place in places if _is_slower(place.ratio, place.noise)]
    faster = [place for place in places if _is_faster(place)]
    told = f"slower in {len(slower)} of {len(places)}" + (f": {', '.join(slower)}" if slower else "")
    yield Claim(f"{name}: nowhere slower with it beyond the noise", told, MISSED if slower else MET)
    best = max(faster or places, key=lambda place: place.ratio.value)
    most = f"{ratio_text(best.ratio)} for {best}"
    yield Claim(f"{name}: somewhere faster with it beyond the noise", f"{len(faster)} of {len(places)}; most {most}",
                MET if faster else MISSED)  # fmt: skip


if __name__ == "__main__":
    run(measure, summary)
