"""How good the outputs are: the built-in metrics and the user's own, as one score and one weight a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlc.errors import DataError, UsageError, foreign, kind_of
from mlc.figures import counted
from mlc.grammar import nearest
from mlc.grammar.places import names_function

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array

    Float: TypeAlias = NDArray[np.float64]
    Score: TypeAlias = Callable[[Mapping[str, Array], Array | None, Mapping[str, Array]], Any]

TINY = 1e-300
"""Stands for the energy of a signal that is zero everywhere."""


def unchanged(mean: Float) -> Float:
    """Finish a mean that is the figure already."""
    return mean


@dataclass(frozen=True)
class Metric:
    """A score for each sample, the mean of which is finished to the figure that is reported.

    ``score(outputs, answers, original)`` takes one batch: the model's outputs, the answers, the original's outputs.
    ``reads`` says which output and answers it looks at. ``against_original`` metrics need no answers and give the
    original its best value, ``perfect``.
    """

    name: str
    score: Score
    higher_is_better: bool = True
    finish: Callable[[Float], Float] = unchanged
    needs_answers: bool = True
    against_original: bool = False
    perfect: float | None = None
    reads: str = ""

    def scores(
        self,
        outputs: Mapping[str, Array],
        answers: Array | None,
        original: Mapping[str, Array],
        indexes: Array,
    ) -> tuple[Float, Float]:
        """Return scores and weights of one batch, one a sample; ``indexes`` are the samples' places in the user's data.

        Raises DataError where answers are missing or of a wrong shape, the metric raises, or its scores are unusable.
        """
        if self.needs_answers and answers is None:
            hint = "add an array labels or targets"
            raise DataError(f"the metric {self.name} needs answers, and the data have none", hint)
        count = len(indexes)
        with _hinting(outputs, answers), foreign(f"the metric {self.name}", DataError):
            result = self.score(outputs, answers, original)
            scores, weights = result if isinstance(result, tuple) and len(result) == 2 else (result, None)  # noqa: PLR2004
            scores = _flat(scores)
            weights = np.ones(count) if weights is None else _flat(weights)
        for what, array in (("score", scores), ("weight", weights)):
            if array.shape != (count,):
                hint = "it must return one score for each sample, or scores and weights"
                raise DataError(
                    f"the metric {self.name} gave {counted(array.size, what)} for {counted(count, 'sample')}", hint
                )
            if not np.isfinite(array).all():
                row = int(np.argmax(~np.isfinite(array)))
                raise DataError(f"the metric {self.name} gave the {what} {array[row]} for sample {indexes[row]}")
        if (weights < 0).any():
            row = int(np.argmin(weights))
            raise DataError(f"the metric {self.name} gave a negative weight for sample {indexes[row]}")
        return scores, weights

    def value(self, mean: Float) -> Float:
        """Finish means to figures; elementwise. Raises DataError where the user's ``finish`` does."""
        with foreign(f"finish of the metric {self.name}", DataError):
            return np.asarray(self.finish(mean), np.float64)

    @property
    def takes_max_drop(self) -> bool:
        """Whether a drop of this metric means anything: the original's own figure must be finite."""
        return self.perfect is None or math.isfinite(self.perfect)


@contextmanager
def _hinting(outputs: Mapping[str, Array], answers: Array | None) -> Iterator[None]:
    """Say what a metric is given where it raises as one does that expects something else."""
    try:
        yield
    except DataError as failed:
        if not isinstance(failed.__cause__, KeyError | TypeError | AttributeError | IndexError):
            raise
        second = "None" if answers is None else f"a NumPy array, {answers.dtype} of the shape {answers.shape}"
        hint = f"outputs is a dict by output name: {', '.join(outputs)} (NumPy arrays); answers is {second}"
        raise DataError(failed.message, hint) from failed.__cause__


def load_metric(text: str) -> Metric:
    """Return a metric by name, or the user's by ``file.py:function``. Raises UsageError for an unknown one."""
    if text in BUILT_IN:
        return BUILT_IN[text]
    if not names_function(text):
        raise UsageError(f"no metric is called {text!r}", nearest(text, [*BUILT_IN]) + " (or file.py:function)")
    from mlc.references import load_function

    return from_function(text, load_function(text, UsageError))


def from_function(name: str, function: Callable[..., Any]) -> Metric:
    """Return the user's ``metric(outputs, answers)`` with its attributes ``higher_is_better`` and ``finish``."""
    if not callable(function):
        raise UsageError(f"the metric is {kind_of(function)}, not a function", "write metric(outputs, answers)")
    finish = getattr(function, "finish", None)
    return Metric(
        name=name,
        score=lambda outputs, answers, _: function(_copied(outputs), None if answers is None else answers.copy()),
        higher_is_better=bool(getattr(function, "higher_is_better", True)),
        finish=unchanged if finish is None else _elementwise(finish),
        needs_answers=False,
        reads="all outputs",
    )


def _copied(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the user's function may change without changing what others read."""
    return {name: array.copy() for name, array in outputs.items()}


def first_float(outputs: Mapping[str, Array]) -> str:
    """Return the name of the output that the built-in metrics read: the first one of floats."""
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            return name
    raise DataError(
        "the model has no float output for the metric to read", "give a metric of your own, file.py:function"
    )


def _elementwise(finish: Callable[[float], float]) -> Callable[[Float], Float]:
    return np.vectorize(finish, otypes=[np.float64])


def _flat(values: Any) -> Float:
    """Return scores as float64 [samples]; tensors are taken, a column is a row."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, np.float64)
    return array.reshape(-1) if array.ndim > 1 and array.size == array.shape[0] else array


def _rows(array: Array) -> Float:
    """Return one float64 row a sample."""
    return array.astype(np.float64).reshape(len(array), -1)


def _top(rank: int) -> Score:
    def score(outputs: Mapping[str, Array], answers: Array | None, _: Mapping[str, Array]) -> Float:
        name = first_float(outputs)
        logits = outputs[name]
        labels = _labels(name, logits, answers)
        if rank == 1:
            return np.asarray(logits.argmax(axis=-1) == labels, np.float64)
        best = np.argpartition(logits, -rank, axis=-1)[:, -rank:] if logits.shape[-1] > rank else None
        hits = np.ones(len(labels), bool) if best is None else (best == labels[:, np.newaxis]).any(axis=-1)
        return hits.astype(np.float64)

    return score


def _labels(name: str, logits: Array, answers: Array | None) -> Array:
    """Return class indexes [samples] for logits [samples, classes]. Raises DataError where they do not fit."""
    assert answers is not None
    if logits.ndim != 2:  # noqa: PLR2004
        raise DataError(
            f"top1 and top5 read one row of classes a sample, the output {name} has the shape {logits.shape}"
        )
    labels = answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers  # noqa: PLR2004
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = "give one integer class a sample"
        raise DataError(f"the answers are {answers.dtype.name} of the shape {answers.shape}, not classes", hint)
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        label = labels[int(np.argmax(outside))]
        raise DataError(f"the answers hold the class {label}, the output {name} has {logits.shape[1]} classes")
    return labels


def _mse(outputs: Mapping[str, Array], answers: Array | None, _: Mapping[str, Array]) -> Float:
    assert answers is not None
    name = first_float(outputs)
    output = outputs[name]
    if answers.shape != output.shape and answers.size == output.size and len(answers) == len(output):
        answers = answers.reshape(output.shape)  # a trailing axis of one
    if answers.shape != output.shape:
        hint = f"the output {name} has the shape {output.shape}"
        raise DataError(f"the answers have the shape {answers.shape}, which mse cannot compare", hint)
    return np.asarray(((_rows(output) - _rows(answers)) ** 2).mean(axis=1))


def _pair(outputs: Mapping[str, Array], original: Mapping[str, Array]) -> tuple[Float, Float]:
    name = first_float(original)
    if outputs[name].shape != original[name].shape:
        shapes = f"{outputs[name].shape} and {original[name].shape}"
        raise DataError(f"the output {name} and the original's have the shapes {shapes}")
    return _rows(outputs[name]), _rows(original[name])


def cosines(actual: Float, expected: Float) -> Float:
    """Return the cosine of each pair of rows; two zero rows agree, a zero and another do not."""
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    products = (actual * expected).sum(axis=1)
    both_zero = (actual == 0).all(axis=1) & (expected == 0).all(axis=1)
    return np.where(both_zero, 1.0, np.divide(products, norms, out=np.zeros_like(products), where=norms > 0))


def _cosine(outputs: Mapping[str, Array], _: Array | None, original: Mapping[str, Array]) -> Float:
    return cosines(*_pair(outputs, original))


def _sqnr(outputs: Mapping[str, Array], _: Array | None, original: Mapping[str, Array]) -> tuple[Float, Float]:
    """Noise over signal, weighted by the signal: the weighted mean is all noise over all signal."""
    actual, expected = _pair(outputs, original)
    signal = np.maximum((expected**2).sum(axis=1), TINY)
    return ((actual - expected) ** 2).sum(axis=1) / signal, signal


def decibels(noise_over_signal: Float) -> Float:
    """Return 10 log10(signal/noise); inf where there is no noise."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(noise_over_signal))


def _agreement(outputs: Mapping[str, Array], _: Array | None, original: Mapping[str, Array]) -> Float:
    """The share of the places along the last axis at which both have the same largest element."""
    name = first_float(original)
    actual, expected = outputs[name], original[name]
    if actual.shape != expected.shape or actual.ndim < 2:  # noqa: PLR2004
        raise DataError(f"agreement needs a row of classes a sample, the output {name} has the shape {actual.shape}")
    return np.asarray(_rows(actual.argmax(axis=-1) == expected.argmax(axis=-1)).mean(axis=1))


_FIRST = "the first float output"

BUILT_IN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", _top(1), reads=f"{_FIRST} and the labels"),
        Metric("top5", _top(5), reads=f"{_FIRST} and the labels"),
        Metric("mse", _mse, higher_is_better=False, reads=f"{_FIRST} and the targets"),
        Metric("cosine", _cosine, needs_answers=False, against_original=True, perfect=1.0, reads=_FIRST),
        Metric("agreement", _agreement, needs_answers=False, against_original=True, perfect=1.0, reads=_FIRST),
        Metric(
            "sqnr", _sqnr, finish=decibels, needs_answers=False, against_original=True, perfect=math.inf, reads=_FIRST
        ),
    )
}
"""The built-in metrics by name."""
