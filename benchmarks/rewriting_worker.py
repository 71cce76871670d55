"""The fresh process of ``benchmarks.rewriting``: compiles once and tells what each stage took."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.models import RESNET_INPUTS, TINY_INPUTS, export_unoptimized
from mlc import api
from mlc.measuring import latency, peak

SHORT = {"PROCESSES": 1, "LOADS": 1, "ALONE": 0.02, "BLOCK": (0.001, 0.001), "ROUNDS": (2, 2, 2)}
"""How a quick run measures the speed of what it compiled, which is no figure of this benchmark."""


def measure_shortly() -> None:
    """Let this process measure what it compiles in a few runs, and the peak of the machine by small products."""
    for name, value in SHORT.items():
        setattr(latency, name, value)
    peak.SIZES, peak.SECONDS = peak.SIZES[:1], 0.05


def compiled(file: bool, quick: bool) -> dict[str, Any]:
    """Compile the module, or its file; return seconds by stage, and by pass.

    What the report counts in no stage is the end of the line: the final check of the files, the report, the writing.
    """
    model, inputs = ("tiny_resnet", TINY_INPUTS) if quick else ("resnet18", RESNET_INPUTS)
    if quick:
        measure_shortly()
    with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as folder:
        source, exported = f"benchmarks/models.py:{model}", None
        if file:
            source = str(Path(folder, "exported.onnx"))
            exported = export_unoptimized(model, Path(source))
        start = time.perf_counter()
        report = api.compile(source, inputs=inputs, out=Path(folder, "out"))
        total = time.perf_counter() - start
    stages = dict(report.seconds)
    writing = stages.pop("write", None)
    if writing is None:
        writing = total - sum(stages.values())
    stages["final check, report and writing"] = writing
    return {
        "export": stages["export"] if exported is None else exported,
        "stages": stages,
        "total": total,
        "writing": writing,
        "steps": [
            {
                "name": step.spec.name,
                "sites": len(step.sites),
                "seconds": step.seconds,
                "verify_seconds": step.verify_seconds,
            }
            for step in report.steps
        ],
        "shipped": report.shipped,
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.stdout.write(json.dumps(compiled(**json.loads(sys.argv[1]))) + "\n")
