"""Everything about every candidate: size, loading, latency, placement, accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlc.errors import TargetError, UsageError
from mlc.figures import milliseconds
from mlc.measuring.accuracy import Measured, Progress, measure_accuracy, measure_agreement
from mlc.measuring.files import file_bytes
from mlc.measuring.latency import ROUNDS, SECONDS, bench, latencies_of, measure_load, measure_profile
from mlc.measuring.nouns import Candidate, Known, Latency, Runs, Trial
from mlc.runtimes.session import SOFTWARE, NodeRun, Profile
from mlc.types import Sizes, Target

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.metrics import Metric
    from mlc.types import Arrays

BYTES_IN_MB = 1e6
MICROSECONDS_IN_MS = 1e3

ASYNCHRONOUS = ("GPU", SOFTWARE)
"""How devices are called that may work on when a kernel's call has returned."""

SHARE_OF_KERNELS = 0.5
"""Of such a device a profile that explains less of a run has seen the calls alone."""


def measure(
    candidates: Sequence[Candidate],
    inputs: Arrays,
    target: Target,
    sizes: Sizes,
    *,
    original: Runs | None = None,
    data: Data | None = None,
    metric: Metric | None = None,
    references: Sequence[Known] = (),
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> tuple[Trial, ...]:
    """Measure candidates; the first is the baseline. ``inputs`` are what is timed, at ``sizes``.

    Accuracy and agreement come from ``data`` and ``original``; without data, agreement from the kept ``references``.
    They come first: a metric that raises should do so before minutes of timing. ``seconds`` is what timing one set of
    sessions may take, where the fewest rounds fit. Raises TargetError where a session cannot be used, DataError for
    unusable data.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"the models to measure need names of their own: {', '.join(names) or 'none given'}")
    sizes_in_bytes = [file_bytes(candidate.path) for candidate in candidates]
    figures: Sequence[Measured] = [(None, ()) for _ in candidates]
    if data is not None and original is not None:
        progress("running the evaluation data")
        figures = measure_accuracy(candidates, original, data, metric, target, seed=seed, progress=progress)
    elif references:
        figures = [(None, outputs) for outputs in measure_agreement(candidates, references, target)]
    with bench(inputs, target, sizes, seconds=seconds, seed=seed, progress=progress) as shared:
        progress("loading in fresh processes")
        loads = [measure_load(candidate, shared) for candidate in candidates]
        latencies, assigned = latencies_of(candidates, shared, [peak for _, peak in loads])
        progress("profiling")
        profiles = [measure_profile(candidate, shared) for candidate in candidates]
    for candidate, nodes, profile in zip(candidates, assigned, profiles, strict=True):
        refuse_other_placement(candidate, nodes, profile)
    return tuple(
        Trial(
            candidate=candidate,
            agreement=figures[index][1],
            accuracy=figures[index][0],
            latency=latencies[index],
            load_seconds=loads[index][0],
            peak_memory_mb=loads[index][1] / BYTES_IN_MB,
            size_bytes=sizes_in_bytes[index],
            profile=profiles[index],
            notes=(
                *notes(latencies[index], metric if figures[index][0] and index == 0 else None),
                *(device_notes(latencies[0], profiles[0]) if index == 0 else ()),
            ),
        )
        for index, candidate in enumerate(candidates)
    )


def refuse_other_placement(candidate: Candidate, timed: Sequence[NodeRun], profile: Profile) -> None:
    """Raise TargetError where the profiled session put nodes elsewhere than the timed one.

    Nodes are told apart by name where both have it: a runtime may number those that it makes anew in each session.
    """
    kinds = [Counter((node.provider, node.op) for node in nodes) for nodes in (timed, profile.placement.assigned)]
    places = [{node.name: node.provider for node in nodes} for nodes in (timed, profile.placement.assigned)]
    moved = sum(places[0][name] != places[1][name] for name in places[0].keys() & places[1].keys())
    differing = max(moved, (kinds[0] - kinds[1]).total(), (kinds[1] - kinds[0]).total())
    if differing:
        raise TargetError(
            f"{candidate.name} was placed differently when it was profiled: {differing} nodes differ",
            "measure again; if it stays, the provider is not deterministic",
        )


def notes(latency: Latency, metric: Metric | None) -> tuple[str, ...]:
    """Return what a reader of the figures should know; the metric is spoken of once, with the baseline."""
    found = []
    rounds = min(len(ratios) for ratios in latency.ratios)
    if rounds < ROUNDS[1]:
        found.append(f"{rounds} rounds a process fitted into the time, {ROUNDS[1]} are the rule")
    if metric is not None and metric.reads:
        found.append(f"{metric.name} reads {metric.reads}")
    return tuple(found)


def device_notes(latency: Latency, profile: Profile) -> tuple[str, ...]:
    """Return what a reader should know of the device that all candidates ran on, where there is something to say."""
    device = profile.placement.device
    if not device:
        return ()
    found = [f"ran on {device}" + ("; its speed says nothing of a GPU's" if device.startswith(SOFTWARE) else "")]
    kernels = sum(operator.microseconds for operator in profile.operators) / MICROSECONDS_IN_MS
    if device.startswith(ASYNCHRONOUS) and kernels < latency.p50 * SHARE_OF_KERNELS:
        found.append(
            f"the times of its operators, {milliseconds(kernels)} together, are those of handing work to the device: "
            f"a run takes {milliseconds(latency.p50)}"
        )
    return tuple(found)
