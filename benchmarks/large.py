"""A model of more than 2 GB of weights through the commands: the memory of the largest process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import MET, MISSED, ROOT, Claim, Progress, Result, Summary, Table, result, run

LAYERS, WIDTH = 24, 4864
"""24 layers of 4,864 by 4,864 weights: 2.27 GB in float32."""

QUICK_LAYERS, QUICK_WIDTH = 4, 512
TIMES, BEYOND = 2.5, 1e9
"""The largest process may take so many times the weights, and so many bytes more."""

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return x + torch.relu(self.linear(self.norm(x)))

def model():
    return nn.Sequential(*(Block({width}) for _ in range({layers})))
"""


def commands(width: int) -> dict[str, list[str]]:
    """Return the command line of each step."""
    spec = ["--input", f"input=float32[batch=1..4,{width}]"]
    return {
        "compile": ["compile", "model.py:model", *spec, "-o", "out", "--force"],
        "validate": ["validate", "out", "--against", "model.py:model"],
        "bench": ["bench", "out", "--seconds", "20"],
        "report": ["report", "out", "--format", "html", "-o", "again.html"],
    }


def measure(quick: bool, progress: Progress) -> Result:
    """Run each command in a process of its own and keep its seconds and the largest memory of it and its children."""
    layers, width = (QUICK_LAYERS, QUICK_WIDTH) if quick else (LAYERS, WIDTH)
    steps = []
    with tempfile.TemporaryDirectory(prefix="mlc-large-") as name:
        folder = Path(name)
        (folder / "model.py").write_text(MODEL.format(width=width, layers=layers), encoding="utf-8")
        for step, line in commands(width).items():
            progress(step)
            steps.append({"step": step, **measured_command(line, folder)})
        files = sum(path.stat().st_size for path in (folder / "out").glob("model.onnx*"))
    weights = 4 * layers * (width * width + 3 * width)
    return result("large", {"layers": layers, "width": width}, weights=weights, model_bytes=files, steps=steps)


def measured_command(line: list[str], folder: Path) -> dict[str, Any]:
    """Run one command; return its seconds, exit code and the peak memory in bytes of the largest process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLC_CACHE_DIR": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlc", *line], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    peak = watched(process)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"mlc {' '.join(line)} ended with exit code {process.returncode}: {output[-500:]}")
    return {"seconds": time.perf_counter() - start, "peak": peak}


def watched(process: subprocess.Popen[str]) -> int:
    """Return the largest peak of memory, in bytes, of a process and its descendants, looked at until it has ended."""
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            most = max(most, *(_peak(each.pid) for each in (root, *root.children(recursive=True))))
        time.sleep(0.1)
    return most


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def summary(measured: Result) -> Summary:
    """Set each step's memory beside the weights."""
    weights, most = measured["weights"], TIMES * measured["weights"] + BEYOND
    claims, rows = [], []
    for step in measured["steps"]:
        peak = step["peak"]
        claims.append(Claim(f"mlc {step['step']}: under {TIMES} times the weights and 1 GB ({most / 1e9:.1f} GB)",
                            f"{peak / 1e9:.2f} GB", MET if peak < most else MISSED))  # fmt: skip
        rows.append((step["step"], f"{step['seconds']:.0f}", f"{peak / 1e9:.2f}", f"{peak / weights:.2f}"))
    title = f"{weights / 1e9:.2f} GB of weights, {measured['model_bytes'] / 1e9:.2f} GB on disk"
    columns = ("command", "s", "largest process, GB", "over the weights")
    return Summary(tuple(claims), (Table(title, columns, tuple(rows)),))


if __name__ == "__main__":
    run(measure, summary)
