"""Models timed in sets: some at a time beside those that all are compared with, each set in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.common import Progress
from benchmarks.int8_settings import pathless
from mlc.errors import MlcError
from mlc.measuring import Candidate
from mlc.measuring.bootstrap import ratio_interval
from mlc.measuring.latency import Bench, Timed, time_set
from mlc.types import Interval


@dataclass(frozen=True)
class Timing:
    """How many models are timed at a time, the seconds that they may take, and the seed of their order."""

    together: int
    seconds: float
    seed: int


def timed(
    candidates: Mapping[str, Candidate],
    names: Sequence[str],
    how: Timing,
    *,
    fixed: Sequence[str],
    shared: Bench,
    failed: dict[str, str],
    progress: Progress,
) -> list[dict[str, list[list[int]]]]:
    """Time some models at a time beside the ``fixed`` ones: the nanoseconds of every round, by process.

    Where a set cannot be timed, each of its models has a set of its own, and one that cannot be timed has failed.
    """
    sets: list[dict[str, list[list[int]]]] = []
    waiting = [list(names[start : start + how.together]) for start in range(0, len(names), how.together)]
    while waiting:
        group = waiting.pop(0)
        progress(f"timing {len(group)} of {len(names)} models, {len(waiting)} sets after it")
        chosen = [*fixed, *group]
        try:
            found = time_set([candidates[name] for name in chosen], shared, how.seconds)
        except MlcError as error:
            if len(group) == 1:
                failed[group[0]] = pathless(error.message)
            else:
                waiting = [[name] for name in group] + waiting
            continue
        sets.append({name: rounds_of(one) for name, one in zip(chosen, found, strict=True)})
    return sets


def rounds_of(one: Timed) -> list[list[int]]:
    """Return the median nanoseconds of a run in each round, by process."""
    return [[round(float(block)) for block in blocks] for blocks in one.blocks]


def speed(found: Mapping[str, list[list[int]]], name: str, than: str) -> Interval:
    """Return how many times as fast a model is as another of the same set, paired by round."""
    pairs = zip(found[than], found[name], strict=True)
    return _ratio(tuple((tuple(own), tuple(other)) for own, other in pairs))


@cache
def _ratio(pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> Interval:
    """Return the interval of rounds that several tables and claims ask for; drawing it takes a moment."""
    return ratio_interval([np.array(own, np.float64) / np.array(other) for own, other in pairs])
