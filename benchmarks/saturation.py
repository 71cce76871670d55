"""What 8-bit weights lose on x86 without VNNI: onnxruntime's kernels for AVX2 in qemu's user mode emulation.

The same plan is written twice for each sample: with the scales that mlc chooses for any CPU, and with all 8 bits, as
for a CPU with VNNI. No figure here is of time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.common import (
    INCONCLUSIVE,
    MET,
    MISSED,
    ROOT,
    Claim,
    Progress,
    Result,
    Summary,
    Table,
    at_root,
    result,
    run,
)  # fmt: skip
from benchmarks.quantization_models import Subject, sample
from mlc import api
from mlc.artifact import write_model
from mlc.compare import sqnr
from mlc.data import open_data
from mlc.graph_pass import Context
from mlc.plan import plan_for
from mlc.registry import build
from mlc.statistics import collect
from mlc.types import Capabilities, PassSpec
from mlc.workspace import Workspace

EMULATOR, PROCESSOR = "qemu-x86_64", "max"
"""User mode emulation knows AVX2 and no AVX-512, whatever the machine has."""

MODELS = ("fashion_cnn", "depthwise_cnn", "unet")
KINDS: Mapping[str, Capabilities] = {
    "safe": Capabilities("any x86 or ARM CPU"),
    "full": Capabilities("a CPU with VNNI", avx2=True, vnni=True),
}
COUNT = 256
GAIN, NOTHING = 12.0, 1.0
"""Decibels: what safe scales are to win where full ones saturate, and the loss below which these do not."""

HERE, EMULATED = "on this machine", "on AVX2"


def measure(quick: bool, progress: Progress) -> Result:
    """Write every model in both ways, and set what they answer here and in emulation beside the fp32 export."""
    count = 8 if quick else COUNT
    emulator = shutil.which(EMULATOR)
    models = {}
    with tempfile.TemporaryDirectory(prefix="mlc-saturation-") as name, at_root():
        for one in MODELS[:1] if quick else MODELS:
            progress(one)
            models[one] = measured(sample(one), Path(name, one), count, emulator)
    return result("saturation", {"quick": quick, "samples": count, "emulated": emulator is not None}, models=models)


def measured(subject: Subject, folder: Path, count: int, emulator: str | None) -> dict[str, Any]:
    """Return the SQNR in dB of both files by place."""
    batch = next(subject.evaluation(None).batches(count))
    files = {"fp32": subject.exported.model, **quantized(subject)}
    paths = {}
    for name, model in files.items():
        (folder / name).mkdir(parents=True)
        paths[name] = write_model(model, folder / name)
    inputs = folder / "inputs.npz"
    np.savez(inputs, **batch.inputs)  # type: ignore[arg-type]
    places = {HERE: [sys.executable]} | ({EMULATED: [emulator, "-cpu", PROCESSOR, sys.executable]} if emulator else {})
    found: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for place, command in places.items():
        module = ["-m", "benchmarks.saturation_worker", "cpu", str(inputs), *map(str, paths.values())]
        subprocess.run([*command, *module], cwd=ROOT, check=True, capture_output=True)
        answers = {name: dict(np.load(path.with_suffix(".npz"))) for name, path in paths.items()}
        expected = expected or answers["fp32"]
        found[place] = {
            kind: {output: round(sqnr(array, answers[kind][output]), 2) for output, array in expected.items()}
            for kind in KINDS
        }
    return found


def quantized(subject: Subject) -> dict[str, ir.Model]:
    """Return the model after the default passes and int8-static, with one plan and one collection, for both kinds."""
    before = api.rewrite(subject.exported, subject.original)
    static = build(PassSpec("int8-static"))
    data = open_data(str(subject.recipe.calibrate), subject.original.signature.inputs)
    with Workspace() as workspace:
        statistics = collect(before.model, static.needs(before.model), data, workspace)
    plan = plan_for(before.model, [static], Context(KINDS["safe"], statistics=statistics))
    found = {}
    for kind, able in KINDS.items():
        found[kind] = before.model.clone()
        static.apply(found[kind], Context(able, statistics=statistics, plan=plan))
    return found


def summary(measured: Result) -> Summary:
    """Set safe scales beside full ones in each place."""
    claims, rows = [], []
    for model, places in measured["models"].items():
        for output in next(iter(places.values()))["safe"]:
            ratios = {(place, kind): places[place][kind][output] for place in places for kind in KINDS}
            rows.append((model, output, *(f"{ratios[key]:.1f}" for key in ratios)))
            if EMULATED not in places or ratios[HERE, "full"] - ratios[EMULATED, "full"] < NOTHING:
                continue
            gain = ratios[EMULATED, "safe"] - ratios[EMULATED, "full"]
            text = f"{model}: safe scales at least {GAIN:.0f} dB above full ones on AVX2, where these saturate"
            claims.append(Claim(text, f"{gain:.1f} dB", MET if gain >= GAIN else MISSED))
        if EMULATED not in places:
            claims.append(Claim(f"{model}: safe scales above full ones on AVX2", f"no {EMULATOR}", INCONCLUSIVE))
    places = next(iter(measured["models"].values()))
    columns = ("model", "output", *(f"{kind} scales {place}, dB" for place in places for kind in KINDS))
    return Summary(tuple(claims), (Table("Signal to noise ratio against the fp32 export", columns, tuple(rows)),))


if __name__ == "__main__":
    run(measure, summary)
