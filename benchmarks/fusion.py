"""What the default passes bring on each family of networks, beside the raw export and what other optimizers write."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import (
    INCONCLUSIVE,
    MET,
    MISSED,
    Claim,
    Interval,
    Progress,
    Result,
    Summary,
    Table,
    over_rounds,
    ratio_text,
    result,
    run,
)  # fmt: skip
from benchmarks.models import write as write_all
from mlc import api
from mlc.compare import EXPORT_TOLERANCE, compare
from mlc.errors import MlcError, SourceError, foreign
from mlc.exporting.opset import NEWER
from mlc.measuring import Candidate
from mlc.measuring.latency import PROCESSES, Timed, bench, ratios, time_set
from mlc.pipeline.optimizers import without_optimizers
from mlc.probes import probe
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

RAW, OURS = "raw export", "mlc"
OPSET = 20
"""What the raw export and so the others start from; mlc starts from what `mlc compile` exports for this target."""

AIMS = {"BERT": 1.1, "ViT": 1.1, "Llama prefill": 1.05, "Llama decode at 128": 1.1, "Evoformer": 1.3}
"""What variants made by hand reached."""

GROWING = "Llama grouped-query decode"
QUICK = ("LSTM",)
SECONDS = 6.0


def measure(quick: bool, progress: Progress) -> Result:
    """Export each network, rewrite it by everyone, and time all in one set of fresh processes, the raw export twice."""
    from benchmarks.fusion_models import NETWORKS

    rounds: dict[str, Any] = {}
    for network in NETWORKS:
        if quick and network.name not in QUICK:
            continue
        progress(network.name)
        rounds[network.name] = _measured(network, quick)
    return result("fusion", {"launches": PROCESSES, "seconds": SECONDS, "threads": 2}, rounds=rounds)


def _measured(network: Any, quick: bool) -> dict[str, Any]:
    original = api.load(network.build(), network.example, inputs=network.inputs)
    target = Target(threads=2)
    raw = api.export(original, opset=OPSET)
    rewritten = api.rewrite(api.export(original, opset=NEWER), original, target=target)
    with tempfile.TemporaryDirectory(prefix="mlc-fusion-") as name:
        folder = Path(name)
        models = without_optimizers({RAW: raw, OURS: rewritten}, target)
        files = write_all(models, folder)
        candidates = [Candidate(label, files[label], artifact.session_options) for label, artifact in models.items()]
        arrays = probe(original.signature.inputs, {**raw.origin.traced, **network.at}, original.example, None, 0)
        failed: dict[str, str] = {}
        for label, write in PEERS.items():
            try:
                with foreign(label):
                    path = write(candidates[0].path, folder / f"{label}.onnx", network.kind)
                _refuse_others(answers(path, arrays), answers(candidates[0].path, arrays))
                candidates.append(Candidate(label, path))
            except MlcError as error:
                failed[label] = str(error)[:200]
        with bench(arrays, target, network.at, seconds=1.0 if quick else SECONDS * len(candidates)) as shared:
            timed = time_set([candidates[0], *candidates], shared, shared.seconds)
    speed = speeds(timed, candidates)
    sites = Counter(step.spec.name for step in rewritten.steps for _ in step.sites)
    ms = timed[0].percentiles()[0]
    return {"ms": ms, "speed": speed, "sites": dict(sites), "failed": failed, "refused": _refused(rewritten.steps)}


def speeds(timed: Sequence[Timed], candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """Return how many times as fast as the first each is, by launch; the first comes again, as the control."""
    names = ["control", *(each.name for each in candidates[1:])]
    return {
        name: [float(np.exp(np.mean(np.log(values)))) for values in ratios(timed[0], one)]
        for name, one in zip(names, timed[1:], strict=True)
    }


def answers(path: Path, arrays: Arrays) -> Arrays:
    with open_session(path, Target()) as session:
        return dict(session.run(arrays))


def _refuse_others(answers: Arrays, expected: Arrays) -> None:
    """Raise where a model that someone wrote gives something else than the export: its speed is worth nothing."""
    for difference in compare(expected, answers, EXPORT_TOLERANCE):
        if difference:
            raise SourceError(f"what it wrote computes something else: {difference.reason}")


def _refused(steps: Any) -> dict[str, int]:
    return {step.spec.name: len(step.refused) for step in steps if step.refused}


def _by_onnxscript(source: Path, place: Path, _: str) -> Path:
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(ir.load(source))
    ir.save(model, place)
    return place


def _by_onnxruntime(source: Path, place: Path, kind: str) -> Path:
    from onnxruntime.transformers import optimizer

    optimizer.optimize_model(str(source), model_type=kind, opt_level=0).save_model_to_file(str(place))
    return place


def _by_onnxslim(source: Path, place: Path, _: str) -> Path:
    import onnxslim

    onnxslim.slim(str(source), str(place))
    return place


def _by_onnxsim(source: Path, place: Path, _: str) -> Path:
    import onnx
    import onnxsim

    model, checked = onnxsim.simplify(onnx.load(source))
    if not checked:
        raise ValueError("its own check failed")
    onnx.save(model, place)
    return place


PEERS: dict[str, Callable[[Path, Path, str], Path]] = {
    "onnxscript": _by_onnxscript, "onnxruntime.transformers": _by_onnxruntime, "onnxslim": _by_onnxslim,
    "onnxsim": _by_onnxsim,
}  # fmt: skip
"""Other optimizers, each as its documentation says; one that is not installed is listed so."""


def summary(measured: Result) -> Summary:
    """Set every optimizer's speed beside the raw export's, with its interval over the launches."""
    claims, rows = [], []
    networks = {
        name: {label: over_rounds(values) for label, values in one["speed"].items()}
        for name, one in measured["rounds"].items()
    }
    for name, one in measured["rounds"].items():
        intervals = networks[name]
        claims += list(_claims(name, one["speed"], intervals))
        peer = _best_peer(intervals)
        rows.append((name, f"{one['ms']:.2f}", ratio_text(intervals["control"]), ratio_text(intervals[OURS]),
                     next((ratio_text(each) for label, each in intervals.items() if label.startswith(f"{OURS} ")), "-"),
                     f"{ratio_text(intervals[peer])} {peer}" if peer else "-",
                     ", ".join(f"{key} {count}" for key, count in one["sites"].items()) or "none"))  # fmt: skip
    claims += list(_growth(networks))
    columns = ("network", "raw export, ms", "control", OURS, "and without SkipLayerNormFusion", "best of the others",
               "sites of mlc's passes")  # fmt: skip
    pairs = [pair for one in measured["rounds"].values() for pair in one["failed"].items()]
    failed = sorted({f"Not measured: {label}: {why}" for label, why in pairs})
    title = "Times as fast as the raw export at full optimization, two threads (95 % interval)"
    return Summary(tuple(claims), (Table(title, columns, tuple(rows)),), tuple(failed))


def _claims(name: str, speed: Mapping[str, Sequence[float]], intervals: Mapping[str, Interval]) -> Iterator[Claim]:
    """Yield what is claimed of a network: beside the raw export, what was aimed at, beside the best of the others."""
    label, control = _ours(intervals), intervals["control"]
    ours = intervals[label]
    yield Claim(f"{name}: not slower than the raw export", ratio_text(ours), _outcome(ours, control))
    if name in AIMS:
        reached = MET if ours.value >= AIMS[name] else MISSED if ours.high < AIMS[name] else INCONCLUSIVE
        yield Claim(f"{name}: {AIMS[name]:g} times the raw export", ratio_text(ours), reached)
    peer = _best_peer(intervals)
    if peer:
        beside = over_rounds([own / other for own, other in zip(speed[label], speed[peer], strict=True)])
        told = f"{ratio_text(beside)} of {peer}"
        yield Claim(f"{name}: not slower than the best of the others", told, _outcome(beside, control))


def _growth(networks: Mapping[str, Mapping[str, Interval]]) -> Iterator[Claim]:
    grown = [found[_ours(found)].value for name, found in networks.items() if name.startswith(GROWING)]
    if grown:
        told = ", ".join(f"{value:.2f}" for value in grown)
        yield Claim(f"{GROWING}: more as the past grows", told, MET if grown == sorted(grown) else MISSED)


def _ours(intervals: Mapping[str, Interval]) -> str:
    """Return which of mlc's two is faster: with the runtime's optimizer that a run of mlc switches off, or without."""
    return max((label for label in intervals if label.startswith(OURS)), key=lambda label: intervals[label].value)


def _best_peer(intervals: Mapping[str, Interval]) -> str:
    return max((label for label in intervals if label in PEERS), key=lambda label: intervals[label].value, default="")


def _outcome(ours: Interval, control: Interval) -> str:
    """Met where the interval reaches what the export beside itself reaches; missed where all of it is below."""
    if ours.high >= 1:
        return MET
    return MISSED if ours.high < control.low else INCONCLUSIVE


if __name__ == "__main__":
    run(measure, summary)
