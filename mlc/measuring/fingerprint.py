"""Which samples an accuracy belongs to: a digest of all that was evaluated, taken on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlc.data import Batch
    from mlc.types import Array


class Fingerprint:
    """The samples and answers that have passed, in their order; the sizes of the batches do not matter."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def add(self, batch: Batch) -> None:
        """Take in the samples of one batch, without the rows that fill it up."""
        arrays: Mapping[str, Array | None] = {**batch.inputs, "answers of the data": batch.answers}
        for name, array in arrays.items():
            if array is not None:
                part = self._parts.setdefault(name, hashlib.sha256(f"{name} {array.dtype}".encode()))
                rows = np.ascontiguousarray(array[: batch.count])
                part.update(repr(rows.tolist()).encode() if rows.dtype.hasobject else rows.tobytes())

    def hexdigest(self) -> str:
        """Return the digest of everything so far."""
        parts = "".join(self._parts[name].hexdigest() for name in sorted(self._parts))
        return hashlib.sha256(parts.encode()).hexdigest()
