"""How fast: a set of sessions timed against each other in fresh processes, with the baseline in it twice."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlc.errors import UsageError
from mlc.machine import memory_bytes
from mlc.measuring.bootstrap import ratio_interval
from mlc.measuring.jobs import job, nodes_of, profile_of, run_job
from mlc.measuring.nouns import Candidate, Latency, Runs
from mlc.measuring.timing import timed_block
from mlc.runtimes.opening import without_spinning
from mlc.runtimes.session import NodeRun, Profile
from mlc.types import Interval, Sizes, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Arrays

    Blocks: TypeAlias = NDArray[np.float64]

Progress: TypeAlias = Callable[[str], None]

PROCESSES = 5
ROUNDS = (5, 16, 32)
"""The fewest blocks of a session in a process, the rule, and the most."""

PATIENCE = 6
"""How many times the seconds asked for a slow model may take to have as many rounds as the rule says."""

BLOCK = (0.010, 0.050)
"""Seconds of a block, shortest and longest."""

SECONDS = 10.0
LOADS = 3
ALONE = 1.0
"""Seconds that a model runs by itself, beside nothing that it is compared with."""

NANOSECONDS_IN_MS = 1e6


@dataclass(frozen=True)
class Bench:
    """What all jobs of one measurement share: ``inputs`` are files by name, ``seconds`` what timing a set may take."""

    target: Target
    inputs: Mapping[str, Path]
    sizes: Sizes
    seconds: float = SECONDS
    seed: int = 0
    progress: Progress = lambda _: None


@dataclass(frozen=True)
class Timed:
    """One session over all processes: the median run of each round by process, single runs, both in nanoseconds."""

    blocks: tuple[Blocks, ...]
    runs: Blocks
    assigned: tuple[NodeRun, ...]

    def percentiles(self) -> tuple[float, float, float]:
        """Return p50, p90 and p99 in milliseconds."""
        p50, p90, p99 = np.percentile(self.runs, [50, 90, 99]) / NANOSECONDS_IN_MS
        return float(p50), float(p90), float(p99)


@contextmanager
def bench(
    inputs: Arrays,
    target: Target,
    sizes: Sizes,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Iterator[Bench]:
    """Write the inputs to files that all workers read, and remove them at the end."""
    if not seconds > 0:
        raise UsageError(f"{seconds:g} seconds are no time to measure in", "give a positive number")
    with tempfile.TemporaryDirectory(prefix="mlc-measure-", ignore_cleanup_errors=True) as folder:
        files = {name: Path(folder) / f"{number}.npy" for number, name in enumerate(inputs)}
        for name, file in files.items():
            np.save(file, inputs[name], allow_pickle=False)
        yield Bench(target, files, sizes, seconds, seed, progress)


def latencies_of(
    candidates: Sequence[Candidate], shared: Bench, peaks: Sequence[float]
) -> tuple[list[Latency], list[tuple[NodeRun, ...]]]:
    """Return latencies and graph assignments; ``peaks`` are bytes of memory that each candidate needs.

    The first candidate is the baseline, which is measured against itself too. The fastest of several is measured
    afresh, and so is the baseline with it. Raises TargetError where a worker dies.
    """
    together = peaks[0] + sum(peaks) <= memory_bytes() / 2
    latencies, assigned = _together(candidates, shared) if together else _in_pairs(candidates, shared)
    others = range(1, len(candidates))
    fastest = max(others, key=lambda index: latencies[index].speedup.value, default=0)
    if len(others) > 1:
        shared.progress(f"measuring {candidates[fastest].name} afresh")
        afresh = replace(shared, seed=shared.seed + 1)
        pair = [candidates[0], candidates[fastest]]
        (latencies[0], latencies[fastest]), _ = _together(pair, afresh) if together else _in_pairs(pair, afresh)
    for index in {0, fastest}:
        latencies[index] = replace(latencies[index], default_ms=default_ms(candidates[index], shared))
    return latencies, assigned


def _together(candidates: Sequence[Candidate], shared: Bench) -> tuple[list[Latency], list[tuple[NodeRun, ...]]]:
    """All in one set, the baseline twice."""
    timed = time_set([candidates[0], *candidates], shared, shared.seconds)
    first, again, others = timed[0], timed[1], timed[2:]
    noise = ratio_interval(ratios(first, again), shared.seed)
    latencies = [latency(first, one, noise, shared) for one in (again, *others)]
    return latencies, [one.assigned for one in timed[1:]]


def _in_pairs(candidates: Sequence[Candidate], shared: Bench) -> tuple[list[Latency], list[tuple[NodeRun, ...]]]:
    """Two sessions at a time: the baseline with itself, then with each candidate."""
    share = shared.seconds / len(candidates)
    latencies: list[Latency] = []
    assigned = []
    noise: Interval | None = None
    for candidate in candidates:
        first, second = time_set([candidates[0], candidate], shared, share)
        noise = noise or ratio_interval(ratios(first, second), shared.seed)
        latencies.append(latency(first, second, noise, shared))
        assigned.append(second.assigned)
    return latencies, assigned


def time_set(models: Sequence[Candidate], shared: Bench, seconds: float) -> list[Timed]:
    """Time models against each other in fresh processes; sessions are created in order and in reverse, in turn."""
    answers: list[dict[str, Any]] = []
    for process in range(PROCESSES):
        shared.progress(f"timing {len(models)} sessions, process {process + 1} of {PROCESSES}")
        order = list(range(len(models)))[:: -1 if process % 2 else 1]
        asked = job(
            "time",
            [models[index] for index in order],
            shared.target,
            shared.inputs,
            seed=shared.seed * PROCESSES + process,
            seconds=seconds / PROCESSES,
            rounds=ROUNDS,
            patience=PATIENCE,
            block=BLOCK,
            spinning=without_spinning(shared.target),
        )
        answer = run_job(asked)
        answers.append({key: [answer[key][order.index(index)] for index in range(len(models))] for key in answer})
    return [
        Timed(
            tuple(np.asarray(answer["blocks"][index]) for answer in answers),
            np.concatenate([answer["runs"][index] for answer in answers]),
            nodes_of(answers[0]["assigned"][index]),
        )
        for index in range(len(models))
    ]


def ratios(baseline: Timed, other: Timed) -> list[Blocks]:
    """Return every round's ratio baseline / other, by process."""
    return [first / second for first, second in zip(baseline.blocks, other.blocks, strict=True)]


def latency(baseline: Timed, timed: Timed, noise: Interval, shared: Bench) -> Latency:
    """Return one session's figures against the baseline's."""
    each = ratios(baseline, timed)
    p50, p90, p99 = timed.percentiles()
    return Latency(
        sizes=shared.sizes,
        p50=p50,
        p90=p90,
        p99=p99,
        speedup=ratio_interval(each, shared.seed),
        noise=noise,
        ratios=tuple(tuple(float(ratio) for ratio in rounds) for rounds in each),
    )


def default_ms(candidate: Candidate, shared: Bench) -> float:
    """Return the p50 in milliseconds with the runtime's default settings, alone in a fresh process."""
    seconds = min(ALONE, shared.seconds / PROCESSES)
    answer = run_job(job("alone", [candidate], shared.target, shared.inputs, seconds=seconds))
    return float(np.median(answer["runs"])) / NANOSECONDS_IN_MS


def time_original(original: Runs, inputs: Arrays) -> tuple[float, float, float]:
    """Return p50, p90 and p99 in milliseconds of the user's own model, alone in this process.

    It is no part of a set and has no ratio: what it is compared with is ``default_ms``. A fourth of the time warms up.
    """
    timed_block(lambda: original.run(inputs), ALONE / 4)
    runs = timed_block(lambda: original.run(inputs), ALONE)
    p50, p90, p99 = np.percentile(runs, [50, 90, 99]) / NANOSECONDS_IN_MS
    return float(p50), float(p90), float(p99)


def measure_load(candidate: Candidate, shared: Bench) -> tuple[float, float]:
    """Return the seconds of loading (the median of some fresh processes) and their peak memory in bytes."""
    answers = [run_job(job("load", [candidate], shared.target, shared.inputs)) for _ in range(LOADS)]
    seconds, peaks = (sorted(answer[key] for answer in answers) for key in ("seconds", "peak"))
    return float(seconds[LOADS // 2]), float(peaks[LOADS // 2])


def measure_profile(candidate: Candidate, shared: Bench) -> Profile:
    """Profile in a fresh process with the options of the timed sessions."""
    spinning = without_spinning(shared.target)
    return profile_of(run_job(job("profile", [candidate], shared.target, shared.inputs, spinning=spinning)))
