"""One run of a tool at the sample's job, in a folder of its own: how it ended, what it said, what it left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import ROOT
from benchmarks.peers.tools import QUIET, Tool

SAMPLE = ROOT / "sample_models" / "fashion_cnn"
GIVEN = ("model.py", "weights.safetensors", "calibration.npz", "evaluation.npz")
"""The files of the sample that every tool is given."""

LONGEST = 900
"""Seconds after which a run counts as hanging."""

TEXTS = {".md", ".json", ".txt", ".toml"}
"""Endings of the files in which a tool may tell something."""

PLACE = re.compile(r"(?:/[\w.+@~-]+)+/")
ADDRESS = re.compile(r"https?://\S+")
RAISED = re.compile(r"[\w.]*(?:Error|Exception|InvalidArgument|Fail)\b: ")
"""How the line of a traceback begins that says what was raised."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Ended:
    """How a run ended; ``output`` is all that it printed."""

    code: int
    seconds: float
    output: str

    @property
    def traceback(self) -> bool:
        """Whether it showed the user a traceback."""
        return "Traceback (most recent call last)" in self.output

    def names(self, word: str) -> bool:
        """Whether what it printed has a word; nothing is no word."""
        return bool(word) and re.search(rf"\b{re.escape(word)}\b", self.output, re.IGNORECASE) is not None

    @property
    def said(self) -> str:
        """The last error and the line that it ended with, of mlc error and hint; without paths and addresses."""
        lines = [line.strip() for line in COLOURS.sub("", self.output).splitlines() if line.strip()]
        errors = [line for line in lines if RAISED.match(line)][-1:] if self.traceback else []
        told = [line for line in lines if line.startswith("mlc: ")] or list(dict.fromkeys([*errors, *lines[-1:]]))
        return PLACE.sub("", ADDRESS.sub("(address)", "; ".join(told)))[:300]


def prepare(tool: Tool, folder: Path) -> None:
    """Put the sample's files and what the user writes into a new folder."""
    folder.mkdir(parents=True)
    for name in GIVEN:
        shutil.copy(SAMPLE / name, folder)
    for path in tool.files:
        shutil.copy(path, folder)


def run(tool: Tool, folder: Path, programs: Path) -> Ended:
    """Run a tool's command in a folder, with its environment's programs first; its home is that folder too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    search = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = kept | QUIET | {"PATH": search, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache-home")}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            ["/usr/bin/env", *tool.command], cwd=folder, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Ended(124, time.perf_counter() - start, f"it did not end within {LONGEST} s")
    return Ended(done.returncode, time.perf_counter() - start, done.stdout)


def told(tool: Tool, folder: Path, output: str) -> dict[str, bool]:
    """Return which facts a tool told, on the screen or in a text file that it wrote."""
    own = {path.name for path in tool.files}
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix in TEXTS and path.name not in own]
    texts = [output, *(path.read_text(encoding="utf-8", errors="replace") for path in found)]
    return {fact: any(re.search(pattern, text) for text in texts) for fact, pattern in tool.tells.items()}


def top1(model: Path) -> float:
    """Return the share of the sample's evaluation images that a model gets right. Raises what onnxruntime raises."""
    data = np.load(SAMPLE / "evaluation.npz")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options)
    name = session.get_inputs()[0].name
    logits = [session.run(None, {name: part})[0] for part in np.array_split(data["image"], 40)]
    return float((np.concatenate(logits).argmax(1) == data["labels"]).mean())
