"""Measure the tools: install, do the job, judge the result, make every mistake."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from benchmarks.common import Progress, Result, at_root, result
from benchmarks.peers.installing import PINNED, Environment
from benchmarks.peers.job import Ended, prepare, run, told, top1
from benchmarks.peers.lines import counted
from benchmarks.peers.mistakes import MINE, MISTAKES, Mistake
from benchmarks.peers.tools import MLC, ONNXRUNTIME, RUNTIME, THERE, TOOLS, Tool
from mlc.emulate import saturation_proof
from mlc.errors import MlcError, foreign
from mlc.pipeline import bench
from mlc.types import Target

BATCH = 8
"""Images in a timed run."""

FLOAT = "model.onnx"
"""The float model, as torch.onnx.export wrote it for the script of onnxruntime."""

Figures = dict[str, Any]


def measure(quick: bool, progress: Progress) -> Result:
    """Measure every tool; ``quick`` does so with mlc alone, and two mistakes."""
    tools = (MLC,) if quick else TOOLS
    mistakes = MISTAKES[:2] if quick else MISTAKES
    with at_root(), tempfile.TemporaryDirectory(prefix="peers-") as place:
        folder = Path(place)
        progress("what is there before")
        there = Environment(folder / "there").packages()
        figures = {tool.name: measured(tool, folder, there, mistakes, progress) for tool in tools}
        speeds = {} if quick else speed(folder, [tool for tool in tools if "top1" in figures[tool.name]])
        more = {} if quick else {"fp32": top1(folder / ONNXRUNTIME.name / FLOAT)}
    settings = {"quick": quick, "there": list(THERE), "pinned": list(PINNED), "batch": BATCH, "rounds": 2}
    return result("peers", settings, packages=("olive-ai",), there=sorted(there), tools=figures, speed=speeds, **more)


def measured(
    tool: Tool, folder: Path, there: Mapping[str, Any], mistakes: Sequence[Mistake], progress: Progress
) -> Figures:
    """Return everything about one tool."""
    progress(f"{tool.name}: installing, and the job")
    environment = Environment(folder / f"{tool.name}-environment")
    seconds, conflicts = environment.install(tool.requirements)
    ended, met = _first_success(tool, folder, environment)
    added = {name: one for name, one in environment.packages().items() if name not in there}
    figures: Figures = {
        "requirements": [
            requirement if "/" not in requirement else "mlc-toolchain" for requirement in tool.requirements
        ],
        "written": counted(tool.files),
        "met": [*([conflicts] if conflicts else []), *met],
        "install_seconds": seconds,
        "packages": len(added),
        "bytes": sum(one["bytes"] for one in added.values()),
        "versions": {name: one["version"] for name, one in sorted(added.items())},
        "reports": [file for file in (RUNTIME, *tool.reports) if environment.has(file)],
        **_judged(tool, folder, ended),
    }
    progress(f"{tool.name}: {len(mistakes)} mistakes")
    figures["mistakes"] = {
        mistake.text: _mistaken(tool, folder / f"{tool.name}-mistake-{number}", environment, mistake)
        for number, mistake in enumerate(mistakes)
    }
    return figures


def _first_success(tool: Tool, folder: Path, environment: Environment) -> tuple[Ended, list[str]]:
    """Do the job; install the next remedy after each failure, and return what was said until it went."""
    met: list[str] = []
    for number, remedy in enumerate((*tool.remedies, ())):
        place = folder / f"{tool.name}-job-{number}"
        prepare(tool, place)
        ended = run(tool, place, environment.programs)
        if ended.code == 0 or not remedy:
            place.rename(folder / tool.name)
            return ended, met
        _, conflicts = environment.install(remedy)
        met.append(f"{ended.said} -> pip install {' '.join(remedy)}" + (f": {conflicts}" if conflicts else ""))
    raise AssertionError("the last remedy is none")


def _judged(tool: Tool, folder: Path, ended: Ended) -> Figures:
    """Return how the job ended, what was told of it, and what we find of the model that it left."""
    place = folder / tool.name
    figures: Figures = {
        "code": ended.code,
        "seconds": ended.seconds,
        "said": ended.said,
        "tells": told(tool, place, ended.output),
    }
    artifact = place / tool.artifact
    if artifact.is_file():
        figures |= {
            "top1": top1(artifact),
            "model_bytes": sum(path.stat().st_size for path in artifact.parent.glob(f"{artifact.name}*")),
            "saturation": list(saturation_proof(_typed(artifact))),
        }
    return figures


def _typed(path: Path) -> ir.Model:
    """Return a model with the dtypes of its inner values, which a tool may leave out of the file."""
    model = ir.load(path)
    ShapeInferencePass()(model)
    return model


def _mistaken(tool: Tool, place: Path, environment: Environment, mistake: Mistake) -> Figures | None:
    """Return what a tool does where something is wrong; None where the mistake cannot be made with it."""
    prepare(tool, place)
    if not mistake.make(place, tool):
        return None
    ended = run(tool, place, environment.programs)
    artifact = place / tool.artifact
    left = artifact.read_bytes() if artifact.is_file() else b""
    figures: Figures = {
        "code": ended.code,
        "seconds": ended.seconds,
        "said": ended.said,
        "traceback": ended.traceback,
        "wrote": bool(left) and left != MINE,
        "named": ended.names(mistake.word(tool)),
    }
    if figures["wrote"]:
        try:
            with foreign("the model"):
                figures["top1"] = top1(artifact)
        except MlcError as broken:
            figures["broken"] = broken.message[:200]
    return figures


def speed(folder: Path, tools: Sequence[Tool]) -> Figures:
    """Return how fast each int8 model is beside the float one: ratio and 95 % interval, all in one set."""
    fp32 = folder / ONNXRUNTIME.name / FLOAT
    models = [fp32, *(folder / tool.name / tool.artifact for tool in tools)]
    trials = bench(models, Target(), {"batch": BATCH}, 60.0)
    named = zip(["fp32", *(tool.name for tool in tools)], trials, strict=True)
    return {
        name: {
            "ms": trial.latency.p50,
            "ratio": [trial.latency.speedup.value, trial.latency.speedup.low, trial.latency.speedup.high],
        }
        for name, trial in named
        if trial.latency is not None
    }
