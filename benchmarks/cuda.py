"""What mlc's passes bring on a card of NVIDIA's, in float32 and float16, beside what other optimizers write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

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
    result,
    run,
)  # fmt: skip
from benchmarks.fusion import PEERS, RAW, answers, speeds
from benchmarks.models import write as write_all
from mlc import api
from mlc.errors import MlcError, foreign
from mlc.exporting.opset import NEWER, OPSET
from mlc.measuring import Candidate
from mlc.measuring.latency import PROCESSES, bench, time_set
from mlc.metrics import decibels
from mlc.pipeline.opset import without_kernel
from mlc.probes import probe
from mlc.runtimes.kernels import has_newer
from mlc.runtimes.one_node import try_target
from mlc.runtimes.opening import open_session
from mlc.types import Target
from mlc.workspace import Workspace

if TYPE_CHECKING:
    from mlc.types import Arrays, Artifact

TARGET = Target(provider="cuda")
HALF = "float16"
OURS = (
    "mlc", "mlc at opset 20", "mlc at opset 20, standard operators only", "mlc at opset 20 and fuse-group-norm",
)  # fmt: skip
"""What mlc writes, first what it does by default; each comes a second time in float16."""

AT = {
    "BERT": {"batch": 4, "length": 256},
    "Llama prefill": {"batch": 4, "length": 256},
    "ViT": {"batch": 4},
    "ConvNeXt": {"batch": 8},
    "U-Net": {"batch": 4},
    "diffusion block": {"batch": 4},
}
"""The networks of benchmarks.fusion that are measured, at the largest sizes that they are exported for."""

SECONDS = 2.0


def measure(quick: bool, progress: Progress) -> Result:
    """Time each network on the card, as every candidate, in one set of fresh processes with the raw export twice.

    Raises TargetError where there is no card.
    """
    from benchmarks.fusion_models import NETWORKS

    device = try_target(TARGET)
    rounds: dict[str, Any] = {}
    for network in NETWORKS:
        if network.name in (list(AT)[-1:] if quick else AT):
            progress(network.name)
            rounds[network.name] = _measured(network, quick)
    return result("cuda", {"launches": PROCESSES, "seconds": SECONDS, "device": device}, rounds=rounds)


def _measured(network: Any, quick: bool) -> dict[str, Any]:
    original = api.load(network.build(), network.example, inputs=network.inputs)
    raw = api.export(original, opset=OPSET)
    sizes = AT[network.name]
    arrays = probe(original.signature.inputs, {**raw.origin.traced, **sizes}, original.example, None, 0)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mlc-cuda-") as name:
        folder = Path(name)
        files: dict[str, Path] = write_all({RAW: raw}, folder)
        for label, write in {**_ours(original, raw, arrays), **_peers(files[RAW], network.kind)}.items():
            place = folder / str(len(files) + len(failed))
            place.mkdir()
            try:
                with foreign(label):
                    files[label] = write(place)
            except MlcError as error:
                failed[label] = str(error)[:200]
        expected = answers(files[RAW], arrays)
        told: dict[str, Any] = {}
        for label in list(files):
            try:
                told[label] = _checked(files[label], arrays, expected)
            except MlcError as error:
                failed[label] = str(error)[:200]
                del files[label]
        candidates = [Candidate(label, path) for label, path in files.items()]
        with bench(arrays, TARGET, sizes, seconds=0.5 if quick else SECONDS * len(candidates)) as shared:
            timed = time_set([candidates[0], *candidates], shared, shared.seconds)
    speed, ms = speeds(timed, candidates), timed[0].percentiles()[0]
    return {"at": sizes, "ms": ms, "speed": speed, "told": told, "failed": failed}


def _ours(original: Any, raw: Artifact, arrays: Arrays) -> dict[str, Callable[[Path], Path]]:
    """Return what writes each candidate of mlc's, in float32 and float16."""
    usual = _usual(original, raw)

    def writes(label: str, to: str | None) -> Callable[[Path], Path]:
        def write(place: Path) -> Path:
            source = usual if label == OURS[0] else raw
            passes = ["fuse-group-norm"] if "fuse-group-norm" in label else []
            calibrate = [arrays] if to else None
            made = api.rewrite(source, original, passes=passes, target=_target(label), to=to, calibrate=calibrate)
            return write_all({label: made}, place)[label]

        return write

    plain = {label: writes(label, None) for label in OURS}
    return {**plain, **{f"{label}, {HALF}": writes(label, "fp16") for label in OURS}}


def _usual(original: Any, raw: Artifact) -> Artifact:
    """Return the export that ``mlc compile`` makes for the card: at the newer opset, unless operators lose kernels."""
    if not has_newer(TARGET):
        return raw
    newer = api.export(original, opset=NEWER)
    with Workspace() as workspace:
        lost = without_kernel(newer.model.clone(), TARGET, workspace, since=OPSET)
        return raw if set(lost).difference(without_kernel(raw.model.clone(), TARGET, workspace)) else newer


def _target(label: str) -> Target:
    """Return the target whose passes are wanted: those for the CPU write standard operators only."""
    return Target() if "standard" in label else TARGET


def _peers(source: Path, kind: str) -> dict[str, Callable[[Path], Path]]:
    """Return what writes each peer's candidate; onnxruntime's optimizer in float16 too, as its documentation says."""

    def half(place: Path) -> Path:
        from onnxruntime.transformers import optimizer

        model = optimizer.optimize_model(str(source), model_type=kind, opt_level=0, use_gpu=True)
        model.convert_float_to_float16(keep_io_types=True)
        model.save_model_to_file(str(place / "model.onnx"))
        return place / "model.onnx"

    written = {
        label: (lambda place, write=write: write(source, place / "model.onnx", kind)) for label, write in PEERS.items()
    }
    return {**written, f"onnxruntime.transformers, {HALF}": half}


def _checked(path: Path, arrays: Arrays, expected: Arrays) -> dict[str, Any]:
    """Return how near the outputs on the card are to the raw export's on the CPU, in dB, and what fell back to it."""
    with open_session(path, TARGET) as session:
        found = session.run(arrays)
        nodes = session.assignment()
        elsewhere = sorted({node.op for node in nodes if node.provider != session.provider})
    near = min(_decibels(expected[name], found[name]) for name in expected)
    operators = sum(1 for _ in onnx.load(path, load_external_data=False).graph.node)
    return {"db": min(near, 200.0), "elsewhere": elsewhere, "nodes": operators}


def _decibels(expected: np.ndarray, found: np.ndarray) -> float:
    exact = expected.astype(np.float64)
    noise = np.square(found - exact).mean() / max(float(np.square(exact).mean()), np.finfo(np.float64).tiny)
    return float(decibels(noise))


def summary(measured: Result) -> Summary:
    """Set every candidate's speed beside the raw export's in float32, with its interval over the launches."""
    claims, rows = [], []
    for name, one in measured["rounds"].items():
        intervals = {label: over_rounds(values) for label, values in one["speed"].items()}
        for suffix in ("", f", {HALF}"):
            ours, best = intervals.get(f"mlc{suffix}"), _best(intervals, suffix)
            if ours is not None:
                said = f"{_text(ours)} and {_text(best[1])} {best[0]}" if best else _text(ours)
                text = f"{name}{suffix}: mlc's default is not slower than the others"
                claims.append(Claim(text, said, _outcome(ours, best[1] if best else intervals["control"])))
        for label, interval in {RAW: Interval(1.0, 1.0, 1.0), **intervals}.items():
            told = one["told"].get(label, one["told"][RAW])
            rows.append((name, f"{one['ms']:.2f}", label, _text(interval), f"{told['db']:.0f}", str(told["nodes"]),
                         ", ".join(told["elsewhere"]) or "none"))  # fmt: skip
    columns = ("network", "raw export, ms", "as", "times as fast", "dB to the CPU's float32", "nodes", "on the CPU")
    pairs = [f"{name}, {label}: {why}" for name, one in measured["rounds"].items()
             for label, why in one["failed"].items()]  # fmt: skip
    title = f"Times as fast as the raw export on {measured['settings']['device']} (95 % interval)"
    return Summary(tuple(claims), (Table(title, columns, tuple(rows)),), tuple(f"Not measured: {why}" for why in pairs))


def _best(intervals: Mapping[str, Interval], suffix: str) -> tuple[str, Interval] | None:
    """Return the fastest of what others wrote in one number format."""
    others = [label for label in intervals if label.startswith(tuple(PEERS)) and (HALF in label) == bool(suffix)]
    return max(((label, intervals[label]) for label in others), key=lambda pair: pair[1].value, default=None)


def _text(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _outcome(ours: Interval, other: Interval) -> str:
    if ours.low >= other.value or ours.value >= other.high:
        return MET
    return MISSED if ours.high < other.low else INCONCLUSIVE


if __name__ == "__main__":
    run(measure, summary)
