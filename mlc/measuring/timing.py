"""The clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Run: TypeAlias = Callable[[], object]

NANOSECONDS = 1_000_000_000


def timed_block(run: Run, seconds: float) -> list[int]:
    """Run until the block is full; return the nanoseconds of each run."""
    durations = []
    before = start = time.perf_counter_ns()
    full = start + int(seconds * NANOSECONDS)
    while before < full:
        run()
        now = time.perf_counter_ns()
        durations.append(now - before)
        before = now
    return durations
