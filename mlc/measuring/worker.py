"""The fresh process that measures: one job as JSON on stdin, its answer as the last line of stdout.

It imports NumPy and the runtime that the target asks for, and nothing of torch, the IR or the command line, so that its
memory and its threads are the model's.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlc.errors import MlcError, TargetError
from mlc.machine import PEAK, process_bytes
from mlc.measuring.jobs import error_answer, target_of
from mlc.measuring.timing import NANOSECONDS, Run, timed_block
from mlc.runtimes.opening import open_session, prepare, profile_run
from mlc.runtimes.session import Session

Job: TypeAlias = Mapping[str, Any]

KEPT_RUNS = 4_000


def time_set(asked: Job) -> dict[str, Any]:
    """Time several sessions against each other: interleaved rounds in random order, one block a session and round.

    Answers by session: ``blocks``, the median run of each round in nanoseconds; ``runs``, single runs from all over the
    rounds; ``assigned``, the graph assignment.
    """
    inputs = _inputs(asked)
    sessions = [_open(asked, model, asked["spinning"]) for model in asked["models"]]
    for session in sessions:
        session.run(inputs)
    runs = [session.timed(inputs) for session in sessions]
    rounds, block = plan([_once(run) for run in runs], asked)
    order = random.Random(asked["seed"])  # noqa: S311
    times: list[list[list[int]]] = [[] for _ in runs]
    gc.disable()
    for _ in range(rounds):
        for index in order.sample(range(len(runs)), len(runs)):
            runs[index]()
            times[index].append(timed_block(runs[index], block))
    assigned = [[dataclasses.asdict(node) for node in session.assignment()] for session in sessions]
    return {
        "blocks": [[float(np.median(block)) for block in rounds] for rounds in times],
        "runs": [thinned([run for block in rounds for run in block]) for rounds in times],
        "assigned": assigned,
    }


def thinned(runs: Sequence[int]) -> Sequence[int]:
    """Return at most ``KEPT_RUNS`` of the runs, evenly spread: enough for percentiles."""
    return runs[:: -(-len(runs) // KEPT_RUNS)]


def plan(once: Sequence[float], asked: Job) -> tuple[int, float]:
    """Return how many rounds and how long blocks fit into the seconds that this process has.

    ``once`` has the seconds of one run of each session; ``rounds`` are the fewest, the rule and the most. The rule is
    kept for slow models up to ``patience`` times the seconds. Blocks are longer than the shortest where time is left.
    """
    fewest, rule, most = asked["rounds"]
    shortest, longest = asked["block"]
    block = min(max(asked["seconds"] / (most * len(once)) - max(once), shortest), longest)
    cost = sum(run + max(run, block) for run in once)
    patient = min(int(asked["patience"] * asked["seconds"] / cost), rule)
    return min(max(int(asked["seconds"] / cost), patient, fewest), most), block


def time_alone(asked: Job) -> dict[str, Any]:
    """Time one session with the runtime's default settings, alone: the nanoseconds of every run."""
    inputs = _inputs(asked)
    session = _open(asked, asked["models"][0], {})
    session.run(inputs)
    run = session.timed(inputs)
    timed_block(run, asked["seconds"] / 4)
    return {"runs": thinned(timed_block(run, asked["seconds"]))}


def load(asked: Job) -> dict[str, Any]:
    """Load one model and run it once: seconds of loading, peak memory of the process in bytes."""
    prepare(target_of(asked["target"]))
    start = time.perf_counter()
    session = _open(asked, asked["models"][0], {})
    seconds = time.perf_counter() - start
    session.run(_inputs(asked))
    return {"seconds": seconds, "peak": peak_memory()}


def profile(asked: Job) -> dict[str, Any]:
    """Profile one model."""
    model = asked["models"][0]
    options = {**model["options"], **asked["spinning"]}
    return dataclasses.asdict(profile_run(Path(model["path"]), _inputs(asked), target_of(asked["target"]), options))


JOBS: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "time": time_set,
    "alone": time_alone,
    "load": load,
    "profile": profile,
}


def peak_memory() -> int:
    """Return the most memory that this process had at once, in bytes.

    Linux's getrusage starts from the peak of the process that started this one, so the memory's own mark is read there.
    """
    if own := process_bytes(PEAK):
        return own
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _inputs(asked: Job) -> dict[str, np.ndarray]:
    return {name: np.load(file, allow_pickle=False) for name, file in asked["inputs"].items()}


def _open(asked: Job, model: Mapping[str, Any], more: Mapping[str, str]) -> Session:
    return open_session(Path(model["path"]), target_of(asked["target"]), {**model["options"], **more})


def _once(run: Run) -> float:
    """The seconds of one run, the shortest of three."""
    return min(timed_block(run, 1 / NANOSECONDS)[0] for _ in range(3)) / NANOSECONDS


def main() -> None:
    """Read a job, do it, answer."""
    asked = json.load(sys.stdin)
    if asked["kind"] not in JOBS:
        raise TargetError(f"no job is called {asked['kind']!r}")
    try:
        answer = JOBS[asked["kind"]](asked)
    except MlcError as error:
        answer = error_answer(error)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
