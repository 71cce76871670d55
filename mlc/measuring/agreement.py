"""How near one output stays to the original's, summed up batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare import powers, ratio_db
from mlc.compare.scale import ALIKE, mask_level
from mlc.measuring.nouns import OutputAgreement
from mlc.metrics import cosines

if TYPE_CHECKING:
    from mlc.types import Array


APART = 10.0
"""A sample of a ratio below it, in dB, has an error of a third of its numbers."""


@dataclass
class Agreement:
    """Running sums over the batches of one output of one candidate; elements of a mask that stay masked do not count.

    Beside -1e9 any other error would be as nothing.
    """

    output: str
    signal: float = 0.0
    noise: float = 0.0
    elements: int = 0
    largest: float = 0.0
    cosine: float = 0.0
    rows: int = 0
    hits: int = 0
    places: int = 0
    nonfinite: int = 0
    other_shape: int = 0
    apart: list[int] = field(default_factory=list)

    def add(self, expected: Array, actual: Array, indexes: Array | None = None) -> None:
        """Add one batch of the original's output and the candidate's; axis 0 runs over the samples, if there is one.

        ``indexes`` are the samples' places in the data, by which those are told that are far apart by themselves.
        """
        if expected.shape != actual.shape:
            self.other_shape += 1
            return
        if expected.ndim > 1 and expected.dtype.kind == "f" and expected.shape[-1] > 1 and expected.size:
            same = expected.argmax(axis=-1) == actual.argmax(axis=-1)
            self.hits += int(same.sum())
            self.places += same.size
        rows = expected.shape[0] if expected.ndim else 1
        if expected.size == 0:
            return
        want = expected.reshape(rows, -1).astype(np.float64)
        have = actual.reshape(rows, -1).astype(np.float64)
        self.nonfinite += int((np.isfinite(want) & ~np.isfinite(have)).sum())
        both = np.isfinite(want) & np.isfinite(have)
        signal, noise = powers(want, np.where(both, have, want))
        self.signal += signal
        self.noise += noise
        want, have = np.where(both, want, 0.0), np.where(both, have, 0.0)
        masked = np.abs(want) >= mask_level(want)
        self.elements += int((both & ~masked).sum())
        still = masked & (np.abs(have - want) <= (1 - ALIKE) * np.abs(want))
        want[still] = have[still] = 0.0
        self.largest = max(self.largest, float(np.abs(have - want).max()))
        self.cosine += float(cosines(have, want).sum())
        self.rows += rows
        if indexes is not None and len(indexes) == rows:
            usual, noise = (np.square(each).sum(axis=1) for each in (want, have - want))
            far = noise * 10 ** (APART / 10) > np.maximum(usual, usual.mean())  # next to nothing any error is large
            self.apart += [int(index) for index in np.asarray(indexes)[far]]

    def result(self) -> OutputAgreement:
        """Return the figures over all batches."""
        if self.other_shape:
            return OutputAgreement(self.output, -math.inf, 0.0, None, math.inf, self.nonfinite)
        rms = math.sqrt(self.signal / self.elements) if self.elements else 0.0
        largest = 0.0 if self.largest == 0 else (self.largest / rms if rms else math.inf)
        return OutputAgreement(
            output=self.output,
            sqnr=ratio_db(self.signal, self.noise),
            cosine=self.cosine / self.rows if self.rows else 1.0,
            top1=self.hits / self.places if self.places else None,
            largest=math.inf if self.nonfinite else largest,
            nonfinite=self.nonfinite,
            apart=tuple(self.apart),
        )
