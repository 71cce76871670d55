"""What the benchmarks share: how a result is kept, how it is summed up, how it is shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlc.judging import INCONCLUSIVE, MET, MISSED
from mlc.machine import installed, machine
from mlc.measuring.bootstrap import ratio_interval
from mlc.types import Interval

__all__ = ["INCONCLUSIVE", "MET", "MISSED", "Claim", "Interval", "Result", "Summary", "Table"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Result: TypeAlias = dict[str, Any]
"""What a benchmark measured, as JSON has it: where and when, the settings, and every round."""

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """A promise, what was measured, and met, missed or inconclusive."""

    text: str
    measured: str
    outcome: str


@dataclass(frozen=True)
class Table:
    """Figures as they are shown; one that is not ``brief`` is left out of README.md."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    brief: bool = True

    def markdown(self) -> str:
        """Return the table as aligned Markdown below its title."""
        cells = [self.columns, *([cell.replace("|", "/") for cell in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
                 for row in cells]  # fmt: skip
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return f"**{self.title}**\n\n" + "\n".join(lines)


@dataclass(frozen=True)
class Summary:
    """What a result says: computed from its rounds alone."""

    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    def markdown(self, result: Result, *, brief: bool) -> str:
        """Return where and when, the claims, the tables, the notes, and what was remarked when it was measured."""
        where = result["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        head = f"{result['date']}, {where['cpu']}, {where['cores']} cores, Python {where['python']}, {versions}."
        claims = Table("Claims", ("claim", "measured", "outcome"), tuple(
            (claim.text, claim.measured, claim.outcome) for claim in self.claims))  # fmt: skip
        tables = [table.markdown() for table in self.tables if table.brief or not brief]
        remark = [result["remark"]] if "remark" in result else []
        return "\n\n".join([head, claims.markdown(), *tables, *self.notes, *remark])


def result(name: str, settings: Mapping[str, Any], *, packages: Sequence[str] = (), **figures: Any) -> Result:
    """Return a result with the machine, its versions and the date; ``packages`` are further ones that take part."""
    where = dataclasses.asdict(machine())
    where["versions"] |= {package: found for package in packages if (found := installed(package))}
    return {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": where,
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "settings": dict(settings),
        **figures,
    }


def save(measured: Result, folder: Path) -> Path:
    """Write a result as ``NAME.json``, the numbers of one list on one line, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(measured, indent=1, allow_nan=False)
    text = re.sub(r"\[[\d\s.,eE+-]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    path = folder / f"{measured['benchmark']}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def over_rounds(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of ratios that each come from processes of their own, and its 95 % interval."""
    return ratio_interval([np.array([ratio]) for ratio in ratios])


def ratio_text(interval: Interval) -> str:
    """Return a ratio with its interval, to a thousandth."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def seconds_text(values: Sequence[float]) -> str:
    """Return median, smallest and largest of some seconds."""
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


@contextmanager
def at_root() -> Iterator[None]:
    """Work in the root of the repository, so that no path of this machine comes into a result."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)


def fresh_process(module: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``module`` in a process of its own with a job in JSON, and return the last line that it printed.

    Raises RuntimeError with the last line that it complained with.
    """
    command = [sys.executable, "-m", module, json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        complaints = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"{module} ended with exit code {done.returncode}: {complaints[-1][:300]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def run(measure: Callable[[bool, Progress], Result], summary: Callable[[Result], Summary]) -> None:
    """Measure, show, and keep the result; a quick run is kept only where ``--out`` says so."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="a run in small, to see that it works")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the result goes, instead of results/")
    asked = parser.parse_args()
    measured = measure(asked.quick, lambda text: print(text, file=sys.stderr, flush=True))
    print(summary(measured).markdown(measured, brief=False))
    if asked.out or not asked.quick:
        save(measured, asked.out or RESULTS)
    if not (asked.out or asked.quick):
        from benchmarks.tables import write_tables

        write_tables()
