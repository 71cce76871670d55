"""Time by kind of operator, from the kernels of several profiled runs of any runtime."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

from mlc.runtimes.session import OperatorTime

RUNS = (3, 25)
"""Profiled runs after the first, which is left out: it allocates. The fewest, and the rule."""

SECONDS = 10.0
"""After this long a slow model has the fewest."""


class Kernel(NamedTuple):
    """One kernel that ran: its provider, its operator and its microseconds."""

    provider: str
    op: str
    microseconds: float


def profiled_runs() -> Iterator[int]:
    """Yield the number of each run that is to be profiled, as many as the rule says or as the time allows."""
    start = time.perf_counter()
    fewest, rule = RUNS
    for run in range(rule):
        if run >= fewest and time.perf_counter() - start > SECONDS:
            return
        yield run


def operator_times(runs: Iterable[Iterable[Kernel]]) -> tuple[OperatorTime, ...]:
    """Return count and time of each kind of operator in one run, the slowest first.

    Both are medians over the runs: one interruption by another process would outweigh all of them in a mean.
    """
    every = list(runs)
    durations: dict[tuple[str, str], list[list[float]]] = defaultdict(lambda: [[] for _ in every])
    for index, kernels in enumerate(every):
        for kernel in kernels:
            durations[kernel.provider, kernel.op][index].append(kernel.microseconds)
    operators = [
        OperatorTime(provider, op, round(median(map(len, by_run))), float(median(map(sum, by_run))))
        for (provider, op), by_run in durations.items()
    ]
    return tuple(sorted(operators, key=lambda operator: -operator.microseconds))
