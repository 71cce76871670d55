"""What a command costs before it does anything: help and usage errors beside the import of the parser's libraries."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, Claim, Progress, Result, Summary, Table, result, run
from mlc.figures import ends, middle
from mlc.judging import at_most
from mlc.measuring.bootstrap import ratio_interval

BASELINE = 'python -c "import typer, rich"'
LIMIT = 1.5
BLOCKS, ROUNDS = 6, 8
"""Rounds come in blocks, over which intervals are drawn first: a machine that gets busy for a while is one block."""

EXPECTED: Mapping[str, int] = {
    "mlc --help": 0,
    "mlc compile --help": 0,
    "mlc compile model.py:model --dta x": 2,
    "mlc compil": 2,
    "mlc compile": 2,
}
"""The commands of the claim and their exit codes: help, and errors of use."""

BESIDE: Mapping[str, int] = {"mlc --version": 0, "mlc compile nowhere.py:model": 3}
"""Measured too, without a claim: the second is no error of use, it has begun to load the model."""


def measure(quick: bool, progress: Progress) -> Result:
    """Time every command once a round, each in a fresh process, in random order; none is dropped."""
    blocks, rounds = (2, 1) if quick else (BLOCKS, ROUNDS)
    commands = {BASELINE: 0, **EXPECTED, **BESIDE}
    order = random.Random(0)  # noqa: S311
    warm_up = {command: seconds_of(command, code) for command, code in commands.items()}
    kept: dict[str, list[list[float]]] = {command: [] for command in commands}
    for block in range(blocks):
        progress(f"block {block + 1} of {blocks}")
        for times in kept.values():
            times.append([])
        for _ in range(rounds):
            for command in order.sample(list(commands), len(commands)):
                kept[command][-1].append(round(seconds_of(command, commands[command]), 5))
    settings = {"blocks": blocks, "rounds": rounds, "baseline": BASELINE, "limit": LIMIT, "seed": 0}
    return result("startup", settings, packages=("typer", "rich"), warm_up=warm_up, seconds=kept)


def seconds_of(command: str, code: int) -> float:
    """Run one command and return its wall time. Raises RuntimeError where it does not end as it should."""
    start = time.perf_counter()
    done = subprocess.run(arguments(command), cwd=ROOT, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise RuntimeError(f"`{command}` ended with {done.returncode}, not {code}: {done.stderr[-300:]!r}")
    return seconds


def arguments(command: str) -> list[str]:
    """Return the arguments of a command, its program by its path: the installed script, as a user runs it."""
    if command == BASELINE:
        return [sys.executable, "-c", "import typer, rich"]
    name, *rest = command.split()
    script = Path(sys.executable).with_name(name)
    return [str(script), *rest] if script.exists() else [sys.executable, "-m", "mlc", *rest]


def summary(measured: Result) -> Summary:
    """Compare every command with the baseline of the same round."""
    seconds: dict[str, Sequence[Sequence[float]]] = measured["seconds"]
    limit = measured["settings"]["limit"]
    base = [np.array(block) for block in seconds[BASELINE]]
    claims, rows = [], []
    for command, blocks in seconds.items():
        ratio = ratio_interval([np.array(own) / one for own, one in zip(blocks, base, strict=True)])
        every = np.concatenate([np.array(block) for block in blocks]) * 1e3
        median, low, high = np.median(every), every.min(), every.max()
        beside = "1" if command == BASELINE else f"{middle(ratio)} ({ends(ratio)})"
        rows.append((f"`{command}`", f"{median:.0f} ({low:.0f} to {high:.0f})", beside))
        if command in EXPECTED:
            claims.append(Claim(f"`{command}`: at most {limit:g} times", beside, at_most(ratio, limit)))
    rounds = sum(len(block) for block in base)
    title = f"Wall time of {rounds} fresh processes each: ms, median (smallest to largest), and times the baseline"
    table = Table(title, ("command", "ms", "times (95 % interval)"), tuple(rows))
    return Summary(tuple(claims), (table,))


if __name__ == "__main__":
    run(measure, summary)
