"""How near measured models come to what the machine can compute, where their arithmetic is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlc.errors import MlcError
from mlc.inspecting.facts import facts_of
from mlc.measuring import Trial, with_shares
from mlc.pipeline.run import Progress
from mlc.types import InputSpec, Sizes, Target


def with_peaks(
    trials: Sequence[Trial], inputs: Sequence[InputSpec], target: Target, progress: Progress
) -> tuple[Trial, ...]:
    """Return the trials with their share of the target's measured peak, those whose every product could be counted."""
    progress("measuring the peak")
    counts = {
        trial.candidate.name: multiply_adds_of(trial.candidate.path, inputs, trial.latency.sizes)
        for trial in trials
        if trial.latency
    }
    return with_shares(trials, counts, target)


def multiply_adds_of(path: Path, inputs: Sequence[InputSpec], sizes: Sizes) -> int:
    """Return the multiply-adds of one run at these sizes; 0 where some node's are not known."""
    try:
        facts = facts_of(path, inputs, at=sizes)
    except MlcError:
        return 0
    return 0 if facts.uncounted else facts.multiply_adds
