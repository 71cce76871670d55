"""int8 of the sample by mlc against every documented setting of onnxruntime's quantization: accuracy and speed."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from benchmarks.common import ROOT, Progress, Result, result, run
from benchmarks.int8_settings import Quantizer, few, pathless, settings
from benchmarks.int8_summary import AGAIN, FIXED, FP32, NATIVE, OURS, REWRITTEN, TRAVELS, ahead, is_mlc, summary
from benchmarks.models import CALIBRATION, EVALUATION, Sample, sample, write
from benchmarks.sets import Timing
from benchmarks.sets import timed as timed_beside
from mlc.emulate import saturation_proof
from mlc.errors import MlcError
from mlc.measuring import Candidate, bench
from mlc.measuring.bootstrap import expanded_interval, mean_draws
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Interval, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

OPTIONS = {NATIVE: "cpu:native", TRAVELS: "cpu"}
PERCENTILE = ":method=percentile"

TOGETHER, SECONDS = 12, 10.0
"""Settings in a set that is timed, and the seconds that it may take."""

AFRESH, AFRESH_SECONDS = 4, 20.0
"""The same for the settings that came near, which are timed again."""

EVALUATED = 50
TIMED_BATCH = 2
"""Images in a timed run: the sample's own example."""


@dataclass(frozen=True)
class Outputs:
    """What one model says of the evaluation images: hit or miss, and the energy of its error, each by image."""

    hits: Float
    noise: Float

    def sqnr(self, signal: Float) -> float | None:
        """Return the signal to noise ratio in dB; None where there is no noise."""
        noise = float(self.noise.sum())
        return 10 * math.log10(float(signal.sum()) / noise) if noise else None


def measure(quick: bool, progress: Progress, made: Sample | None = None) -> Result:
    """Quantize with every setting, run the evaluation images, time all in sets, time again what came near."""
    chosen = few() if quick else settings()
    images = np.load(ROOT / CALIBRATION)["image"][: 64 if quick else None]
    with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as name:
        folder = Path(name)
        files = by_mlc(made or sample(), folder)
        quantize = Quantizer(files[FP32], {"image": images}, folder)
        failed: dict[str, str] = {}
        for number, setting in enumerate(chosen):
            progress(f"setting {number + 1} of {len(chosen)}: {setting.name}")
            path, error = quantize(setting, number)
            if path is not None:
                files[setting.name] = path
            else:
                failed[setting.name] = error
        same = same_files(files)
        files = {name: path for name, path in files.items() if name not in same}
        accuracy = judged(files, failed, 100 if quick else None, progress)
        rest = [name for name in accuracy if name not in FIXED]
        sets = timed(files, rest, failed, Timing(TOGETHER, 1.0 if quick else SECONDS, 0), progress)
        figures: dict[str, Any] = {"same": same, "failed": failed, "accuracy": accuracy, "sets": sets}
        measured = result("int8", asked(quick, len(chosen)), **figures)
        near = sorted({one for ours in OURS for one in ahead(measured, ours, "sets")})
        again = Timing(AFRESH, 1.0 if quick else AFRESH_SECONDS, 1)
        measured["afresh"] = timed(files, near, failed, again, progress)
        measured["saturation"] = {name: list(saturation_proof(ir.load(files[name]))) for name in (*OURS, *near)}
    return measured


def same_files(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the settings whose file is byte for byte that of an earlier one, which is measured for both."""
    first: dict[bytes, str] = {}
    found = {}
    for name, path in files.items():
        earlier = first.setdefault(hashlib.sha256(path.read_bytes()).digest(), name)
        if earlier != name and not is_mlc(name):
            found[name] = earlier
    return found


def asked(quick: bool, count: int) -> dict[str, Any]:
    """Return the settings of this benchmark."""
    return {
        "quick": quick, "settings": count, "model": "fashion_cnn", "timed_batch": TIMED_BATCH, "together": TOGETHER,
        "seconds": SECONDS, "afresh_together": AFRESH, "afresh_seconds": AFRESH_SECONDS, "target": "cpu",
    }  # fmt: skip


def by_mlc(made: Sample, folder: Path) -> dict[str, Path]:
    """Write the exports and mlc's int8 of them, with extremes and with percentiles."""
    artifacts = {FP32: made.exported, REWRITTEN: made.rewritten}
    for name, target in OPTIONS.items():
        artifacts[name] = made.int8(target)
        artifacts[f"{name}, percentile"] = made.int8(target, PERCENTILE)
    return write(artifacts, folder)


def judged(
    files: Mapping[str, Path], failed: dict[str, str], count: int | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Run the evaluation images through every file; return figures by name. What cannot be run has failed."""
    data = np.load(ROOT / EVALUATION)
    images, labels = data["image"][:count], data["labels"][:count]
    expected = logits(files[FP32], images)
    signal = (expected**2).sum(axis=1)
    outputs: dict[str, Outputs] = {}
    for number, (name, path) in enumerate(files.items()):
        progress(f"accuracy, {number + 1} of {len(files)} models: {name}")
        try:
            found = logits(path, images)
        except MlcError as error:
            failed[name] = pathless(error.message)
            continue
        hits = (found.argmax(axis=1) == labels).astype(np.float64)
        outputs[name] = Outputs(hits, ((found - expected) ** 2).sum(axis=1))
    figures = {}
    for name, found_outputs in outputs.items():
        sqnr = found_outputs.sqnr(signal)
        figures[name] = {
            "images": len(labels),
            "top1": float(found_outputs.hits.mean()),
            "sqnr_db": None if sqnr is None else round(sqnr, 3),
            "against": {ours: against(found_outputs, outputs[ours]) for ours in OURS},
        }
    return figures


def logits(path: Path, images: NDArray[np.float32]) -> Float:
    """Run a model over images with the runtime's own optimizations."""
    with open_session(path, Target()) as session:
        parts = [
            session.run({"image": images[start : start + EVALUATED]}) for start in range(0, len(images), EVALUATED)
        ]
    return np.concatenate([next(iter(part.values())) for part in parts]).astype(np.float64)


def against(other: Outputs, ours: Outputs) -> dict[str, list[float] | None]:
    """Return how much better another model is than ours, paired by image: top-1, and dB of SQNR; 95 % intervals."""
    count = len(ours.hits)
    ones = np.ones(count)
    hits = mean_draws([(other.hits, ones), (ours.hits, ones)])
    top1 = expanded_interval(float(other.hits.mean() - ours.hits.mean()), hits[0] - hits[1], count)
    if not (other.noise.any() and ours.noise.any()):
        return {"top1": _ends(top1), "sqnr_db": None}
    noise = 10 * np.log10(mean_draws([(ours.noise, ones), (other.noise, ones)]))
    value = 10 * math.log10(float(ours.noise.mean() / other.noise.mean()))
    return {"top1": _ends(top1), "sqnr_db": _ends(expanded_interval(value, noise[0] - noise[1], count))}


def _ends(interval: Interval) -> list[float]:
    return [round(end, 6) for end in (interval.value, interval.low, interval.high)]


def timed(
    files: Mapping[str, Path], names: Sequence[str], failed: dict[str, str], how: Timing, progress: Progress
) -> list[dict[str, list[list[int]]]]:
    """Time some models at a time beside mlc's and the fp32 export."""
    candidates = {name: Candidate(name, files[NATIVE if name == AGAIN else name]) for name in (*FIXED, *names)}
    with images_bench(how) as shared:
        return timed_beside(candidates, names, how, fixed=FIXED, shared=shared, failed=failed, progress=progress)


@contextmanager
def images_bench(how: Timing) -> Iterator[Any]:
    """Share the timed images: the first of the evaluation data."""
    images = np.load(ROOT / EVALUATION)["image"][:TIMED_BATCH]
    with bench({"image": images}, Target(), {"batch": TIMED_BATCH}, seconds=how.seconds, seed=how.seed) as shared:
        yield shared


if __name__ == "__main__":
    run(measure, summary)
