"""The fresh process of ``benchmarks.statistics``: runs one collector once, and tells its seconds and peak memory."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.measuring.worker import peak_memory
from mlc.registry import build
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics import collect
from mlc.types import Need, PassSpec, Target
from mlc.workspace import Workspace

if TYPE_CHECKING:
    from mlc.types import Array

BATCH = 25
"""Divides every number of samples: two of onnxruntime's calibrators fail where the last batch is smaller."""
Job: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """Some samples; axis 0 of every array runs over them."""

    inputs: dict[str, Array]
    count: int
    indexes: Array


class Tiled:
    """So many samples, the images over and over, made batch by batch: they take the same memory however many."""

    def __init__(self, images: Array, samples: int) -> None:
        self.images, self.samples = images, samples

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.samples, BATCH):
            indexes = np.arange(start, min(start + BATCH, self.samples))
            yield Batch({"image": self.images[indexes % len(self.images)]}, len(indexes), indexes)


class Reader:
    """The samples as onnxruntime's calibration reads them."""

    def __init__(self, data: Tiled) -> None:
        self.batches = iter(data)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else batch.inputs


def session(asked: Job, data: Tiled, folder: Path, *, optimize: bool) -> int:  # noqa: ARG001 - a folder as all have it
    """Run the model alone; return the number of its outputs."""
    with open_session(Path(asked["model"]), Target(), optimize=optimize) as opened:
        for batch in data:
            opened.run(batch.inputs)
        return len(opened.outputs)


def by_mlc(asked: Job, data: Tiled, folder: Path, *, kind: str = "") -> int:
    """Collect what ``int8-static`` reads, or another ``kind`` of the same values; return their number."""
    model = ir.load(asked["model"])
    needs = build(PassSpec("int8-static")).needs(model)
    if kind:
        needs = tuple(Need(need.value, kind) for need in needs)
    with Workspace(folder) as workspace:
        found = collect(model, needs, data, workspace)
    assert found.samples == data.samples
    return len(found.observers)


def by_onnxruntime(asked: Job, data: Tiled, folder: Path, *, method: str) -> int:
    """Collect with onnxruntime's own calibration; return the number of values that it knows then."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    calibrator = create_calibrator(
        Path(asked["model"]),
        list({*QLinearOpsRegistry, *QDQRegistry}),
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod[method],
    )
    calibrator.collect_data(Reader(data))
    return len(calibrator.compute_data().keys())


Collector: TypeAlias = Callable[..., int]

COLLECTORS: Mapping[str, tuple[Collector, dict[str, Any]]] = {
    "session": (session, {"optimize": True}),
    "session, optimizations off": (session, {"optimize": False}),
    "mlc, extremes": (by_mlc, {"kind": "range"}),
    "mlc, histograms": (by_mlc, {}),
    "mlc, extremes by channel": (by_mlc, {"kind": "channel-range"}),
    "onnxruntime MinMax": (by_onnxruntime, {"method": "MinMax"}),
    "onnxruntime Percentile": (by_onnxruntime, {"method": "Percentile"}),
    "onnxruntime Entropy": (by_onnxruntime, {"method": "Entropy"}),
}


def main() -> None:
    """Do one job; seconds are those of collecting, from the model's file to the figures, without imports."""
    asked = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    images = np.load(asked["images"], allow_pickle=False)
    collector, options = COLLECTORS[asked["collector"]]
    if collector is by_onnxruntime:
        import onnxruntime.quantization  # noqa: F401 - imports are not timed
    before = peak_memory()
    start = time.perf_counter()
    values = collector(asked, Tiled(images, asked["samples"]), Path(asked["folder"]), **options)
    seconds = time.perf_counter() - start
    answer = {"seconds": round(seconds, 4), "peak": peak_memory(), "before": before, "values": values}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
