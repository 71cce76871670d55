"""How accurate many files of one model are on its evaluation data, each paired by sample with mlc's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import Progress
from benchmarks.int8_settings import pathless
from mlc.errors import MlcError
from mlc.measuring import Candidate
from mlc.measuring.accuracy import samples, score
from mlc.measuring.bootstrap import expanded_interval, mean_draws, weighted_mean
from mlc.metrics import Metric, first_float
from mlc.runtimes.opening import open_session
from mlc.types import Interval, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.data import Data
    from mlc.types import Arrays

    Float = NDArray[np.float64]

NOT_FINITE = "it gives numbers that are not finite"


@dataclass(frozen=True)
class Scores:
    """What one model says of the data, by sample: the metric's score and weight, and the energy of its error."""

    scores: Float
    weights: Float
    noise: Float
    signal: Float

    def sqnr(self) -> float | None:
        """Return the signal to noise ratio in dB; None where there is no noise."""
        noise = float(self.noise.sum())
        return 10 * math.log10(float(self.signal.sum()) / noise) if noise else None


def judged(
    candidates: Mapping[str, Candidate],
    data: Data,
    metric: Metric,
    target: Target,
    *,
    first: tuple[str, str],
    failed: dict[str, str],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Return the figures of every file by name; what cannot be run has failed.

    ``first`` are the names of the fp32 export, of whose outputs the errors are taken, and of the file with which all
    are compared.
    """
    export, ours = first
    expected = outputs_of(candidates[export], data, Target())
    found: dict[str, Scores] = {}
    for number, (name, candidate) in enumerate(candidates.items()):
        progress(f"accuracy, {number + 1} of {len(candidates)} models: {name}")
        try:
            scores = scores_of(outputs_of(candidate, data, target), expected, data, metric)
        except MlcError as error:
            failed[name] = pathless(error.message)
            continue
        if np.isfinite(scores.noise).all():
            found[name] = scores
        else:
            failed[name] = NOT_FINITE
    return {
        name: {
            "samples": len(one.scores),
            "value": float(metric.value(np.array([weighted_mean(one.scores, one.weights)]))[0]),
            "sqnr_db": None if one.sqnr() is None else round(float(one.sqnr() or 0), 3),
            "against": against(one, found[ours], metric) if ours in found else {},
        }
        for name, one in found.items()
    }


def outputs_of(candidate: Candidate, data: Data, target: Target) -> list[Arrays]:
    """Run the data through a model with the runtime's own optimizations; return its outputs by batch."""
    with open_session(candidate.path, target, options=candidate.session_options) as session:
        return [session.run(batch.inputs) for batch in data.batches()]


def scores_of(outputs: list[Arrays], expected: list[Arrays], data: Data, metric: Metric) -> Scores:
    """Return scores, and errors against the expected outputs."""
    parts = []
    for batch, actual, wanted in zip(data.batches(), outputs, expected, strict=True):
        scores, weights = score(metric, actual, batch, wanted)
        name = first_float(wanted)
        have, want = (
            samples(each, batch)[name].astype(np.float64).reshape(batch.count, -1) for each in (actual, wanted)
        )
        parts.append((scores, weights, ((have - want) ** 2).sum(axis=1), (want**2).sum(axis=1)))
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))


def against(other: Scores, ours: Scores, metric: Metric) -> dict[str, list[float] | None]:
    """Return how much better another model is than ours, paired by sample: metric, and dB of SQNR; 95 % intervals."""
    count = len(ours.scores)
    columns = [(other.scores, other.weights), (ours.scores, ours.weights)]
    drawn = metric.value(mean_draws(columns))
    means = metric.value(np.array([weighted_mean(*column) for column in columns]))
    sign = 1 if metric.higher_is_better else -1
    gain = expanded_interval(sign * float(means[0] - means[1]), sign * (drawn[0] - drawn[1]), count)
    if not (other.noise.any() and ours.noise.any()):
        return {"metric": ends_of(gain), "sqnr_db": None}
    ones = np.ones(count)
    noise = 10 * np.log10(mean_draws([(ours.noise, ones), (other.noise, ones)]))
    value = 10 * math.log10(float(ours.noise.mean() / other.noise.mean()))
    return {"metric": ends_of(gain), "sqnr_db": ends_of(expanded_interval(value, noise[0] - noise[1], count))}


def ends_of(interval: Interval) -> list[float]:
    """Return a figure and its interval as JSON has them."""
    return [round(end, 9) for end in (interval.value, interval.low, interval.high)]
