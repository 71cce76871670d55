"""A virtual environment for each tool, made as its documentation says, and what then lies in it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from benchmarks.common import ROOT
from benchmarks.install import sizes
from benchmarks.peers.tools import THERE

PINNED = ("torch", "onnx", "onnxruntime", "numpy")
"""What all tools get in one version, the one that mlc is tested with; the rest is what pip takes today."""

PIPS_OWN = {"pip", "setuptools"}


class Environment:
    """A virtual environment in a folder that is the caller's to remove."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._constraints = folder.with_suffix(".txt")
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        kept = [line for line in pins if line.partition("==")[0] in PINNED]
        self._constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.install(THERE)

    @property
    def programs(self) -> Path:
        """The folder of its programs."""
        return self.folder / "bin"

    def install(self, requirements: Sequence[str]) -> tuple[float, str]:
        """Install, and return the seconds that it took and what pip complained of. Raises RuntimeError."""
        command = [str(self.programs / "python"), "-m", "pip", "install", "--quiet", "-c", str(self._constraints)]
        start = time.perf_counter()
        done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"pip cannot install {' '.join(requirements)}: {done.stderr.strip()[-300:]}")
        conflicts = [line for line in done.stderr.splitlines() if " requires " in line and "incompatible" in line]
        return seconds, " ".join(conflicts)

    def packages(self) -> dict[str, dict[str, int | str]]:
        """Return version, bytes and bytes compiled of every package but pip's own, by name."""
        (site,) = self.folder.glob("lib/python*/site-packages")
        found = {canonicalize_name(one.metadata["Name"]): one for one in distributions(path=[str(site)])}
        return {name: {"version": one.version, **sizes(one)} for name, one in found.items() if name not in PIPS_OWN}

    def has(self, file: str) -> bool:
        """Whether a file, by its place below site-packages, was installed."""
        return any(self.folder.glob(f"lib/python*/site-packages/{file}"))
