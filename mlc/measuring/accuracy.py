"""How good: the user's metric and the agreement of every output, all candidates beside the original in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mlc.errors import DataError
from mlc.measuring.agreement import Agreement
from mlc.measuring.bootstrap import expanded_interval, mean_draws, weighted_mean
from mlc.measuring.fingerprint import Fingerprint
from mlc.measuring.nouns import Accuracy, Candidate, Known, OutputAgreement, Runs
from mlc.measuring.proportions import paired_interval, share_interval
from mlc.metrics import unchanged
from mlc.runtimes.opening import open_session, open_unoptimized
from mlc.runtimes.session import Session
from mlc.types import Interval, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.data import Batch, Data
    from mlc.metrics import Metric
    from mlc.types import Array

    Float: TypeAlias = NDArray[np.float64]
    Column: TypeAlias = tuple[Float, Float]

Progress: TypeAlias = Callable[[str], None]
Measured: TypeAlias = "tuple[Accuracy | None, tuple[OutputAgreement, ...]]"


@dataclass
class Scores:
    """The scores and weights of one model, batch by batch."""

    scores: list[Float] = field(default_factory=list)
    weights: list[Float] = field(default_factory=list)

    def add(self, pair: tuple[Float, Float]) -> None:
        """Take in one batch."""
        self.scores.append(pair[0])
        self.weights.append(pair[1])

    def column(self) -> tuple[Float, Float]:
        """Return all scores and all weights."""
        return np.concatenate(self.scores), np.concatenate(self.weights)


def measure_accuracy(
    candidates: Sequence[Candidate],
    original: Runs,
    data: Data,
    metric: Metric | None,
    target: Target,
    *,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> tuple[Measured, ...]:
    """Run every sample once through the original and through every candidate; return each candidate's figures.

    Of a candidate that is judged by a file beside its own, these are the figures of the one that agrees less.
    The drop is paired per sample, its interval from the samples that differ where scores are 0 or 1, else bootstrapped
    over samples; where all differ alike, and so none of them tells, it is infinite. Raises DataError for unusable data
    or scores.
    """
    ways = [way for candidate in candidates for way in _ways(candidate)]
    agreements: list[dict[str, Agreement]] = [{} for _ in ways]
    originals, scores, evaluated = Scores(), [Scores() for _ in ways], Fingerprint()
    with ExitStack() as stack:
        sessions = [stack.enter_context(_opened(way, target)) for way in ways]
        done = 0
        for batch in data.batches():
            evaluated.add(batch)
            expected = original.run(batch.inputs)
            if metric is not None and not metric.against_original:
                originals.add(score(metric, expected, batch, expected))
            for session, sums, kept in zip(sessions, agreements, scores, strict=True):
                actual = session.run(batch.inputs)
                add_outputs(sums, samples(expected, batch), samples(actual, batch), batch.indexes[: batch.count])
                if metric is not None:
                    kept.add(score(metric, actual, batch, expected))
            done += batch.count
            progress(f"{done} samples")
    figures = [None if metric is None else judged(metric, originals, kept, seed) for kept in scores]
    digest = evaluated.hexdigest()
    found = [
        (figure and replace(figure, evaluated=digest), tuple(one.result() for one in sums.values()))
        for figure, sums in zip(figures, agreements, strict=True)
    ]
    rest = iter(found)
    return tuple(min(islice(rest, len(_ways(one))), key=lambda each: _agreed(each[1])) for one in candidates)


def measure_agreement(
    candidates: Sequence[Candidate], references: Sequence[Known], target: Target
) -> tuple[tuple[OutputAgreement, ...], ...]:
    """Compare every candidate with the original's kept outputs, where there are no data."""

    def agreement(way: Candidate) -> tuple[OutputAgreement, ...]:
        sums: dict[str, Agreement] = {}
        with _opened(way, target) as session:
            for reference in references:
                add_outputs(sums, reference.outputs, session.run(reference.inputs))
        return tuple(one.result() for one in sums.values())

    return tuple(min(map(agreement, _ways(candidate)), key=_agreed) for candidate in candidates)


def _ways(candidate: Candidate) -> tuple[Candidate, ...]:
    """Return how a candidate is judged: by a file beside its own too, where the target computes more exactly."""
    return (candidate,) if candidate.judged is None else (candidate, replace(candidate, judged=None))


def _agreed(outputs: Sequence[OutputAgreement]) -> tuple[bool, float]:
    """Return how well the output agrees that agrees least; numbers that were lost are worse than any ratio."""
    return all(not output.nonfinite for output in outputs), min((output.sqnr for output in outputs), default=math.inf)


def _opened(candidate: Candidate, target: Target) -> AbstractContextManager[Session]:
    """Return a session of the file that a candidate is judged by, its own where there is none beside it."""
    if candidate.judged is not None:
        return open_unoptimized(candidate.judged, Target())
    return open_session(candidate.path, target, options=candidate.session_options)


def add_outputs(
    sums: dict[str, Agreement],
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    indexes: Array | None = None,
) -> None:
    """Add one batch to the sums of every output that the original has. Raises DataError for one that is missing."""
    for name, array in expected.items():
        if name not in actual:
            raise DataError(f"the model has no output {name!r} that the original has", f"it has: {', '.join(actual)}")
        sums.setdefault(name, Agreement(name)).add(array, actual[name], indexes)


def samples(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
    """Drop what the rows that fill a batch up gave; an output whose axis 0 does not run over samples is left whole."""
    rows = len(next(iter(batch.inputs.values())))
    return {
        name: array[: batch.count] if array.ndim and len(array) == rows else array for name, array in outputs.items()
    }


def score(
    metric: Metric, outputs: Mapping[str, Array], batch: Batch, original: Mapping[str, Array]
) -> tuple[Float, Float]:
    """Return scores and weights of a batch's samples."""
    return metric.scores(samples(outputs, batch), batch.answers, samples(original, batch), batch.indexes)


def judged(metric: Metric, originals: Scores, kept: Scores, seed: int) -> Accuracy:
    """Turn scores into the metric's figure, the original's, and the drop, each with its 95 % interval."""
    column = kept.column()
    columns = [column] if metric.against_original else [originals.column(), column]
    for _, weights in columns:
        if not weights.any():
            raise DataError(f"the metric {metric.name} gave every sample the weight 0", "one at least must count")
    figures = metric.value(np.array([weighted_mean(*one) for one in columns]))
    original = float(figures[0]) if metric.perfect is None else metric.perfect
    intervals = _counted if metric.finish is unchanged and all(map(hits_and_misses, columns)) else _resampled
    value, drop = intervals(metric, columns, original, float(figures[-1]), seed)
    return Accuracy(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        samples=len(column[0]),
        value=value,
        original=original,
        drop=drop if metric.takes_max_drop else Interval(np.nan, np.nan, np.nan),
    )


def hits_and_misses(column: Column) -> bool:
    """Whether every score is 0 or 1 and every sample weighs as much: the mean is a share."""
    scores, weights = column
    return bool(np.isin(scores, (0.0, 1.0)).all() and (weights == weights[0]).all())


def _counted(
    metric: Metric, columns: Sequence[Column], original: float, value: float, seed: int  # noqa: ARG001
) -> tuple[Interval, Interval]:  # fmt: skip
    """Return the intervals of shares and of their difference, from the samples that only one of the models gets."""
    scores = columns[-1][0]
    share = share_interval(int(scores.sum()), len(scores))
    if metric.against_original:
        return share, Interval(original - value, original - share.high, original - share.low)
    only_one = columns[0][0] - scores if metric.higher_is_better else scores - columns[0][0]
    return share, paired_interval(int((only_one > 0).sum()), int((only_one < 0).sum()), len(scores))


def _resampled(
    metric: Metric, columns: Sequence[Column], original: float, value: float, seed: int
) -> tuple[Interval, Interval]:
    """Return the bootstrapped intervals; samples that all differ alike say nothing of how far a drop may reach."""
    count = len(columns[0][0])
    drawn = metric.value(mean_draws(columns, seed))
    sign = 1 if metric.higher_is_better else -1
    drop = sign * (original - value)
    differences = columns[-1][0] - (0.0 if metric.against_original else columns[0][0])
    if np.ptp(differences) == 0:
        interval = Interval(drop, -np.inf, np.inf)
    else:
        draws = sign * ((drawn[0] if metric.perfect is None else original) - drawn[-1])
        interval = expanded_interval(drop, draws, count)
    return expanded_interval(value, drawn[-1], count), interval
