"""What the samples at hand show of values that a pass would know more of, where it needs no calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.data import Batch
from mlc.errors import DataError, TargetError
from mlc.graph_pass import Pass, Statistics
from mlc.rewriting.sessions import Feeds
from mlc.statistics import collect

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.workspace import Workspace

BATCHES = 8
"""So many batches of calibration data are looked at, where there are any."""


def glimpsed(
    subject: Pass, model: ir.Model, feeds: Sequence[Feeds], calibration: Data | None, workspace: Workspace
) -> Statistics | None:
    """Return what a pass would like to know, of the inputs it is judged on and the first of the calibration data.

    None where it would like nothing, where an output is not finite, and where the graph does not run.
    """
    wanted = subject.likes(model)
    if not wanted:
        return None
    try:
        return collect(model, wanted, [*_batches(feeds), *islice(calibration or (), BATCHES)], workspace)
    except (DataError, TargetError):
        return None


def _batches(feeds: Sequence[Feeds]) -> Iterator[Batch]:
    """Yield feeds as batches, without those that hold numbers that are not finite."""
    for feed in feeds:
        if all(np.isfinite(array).all() for array in feed.values() if array.dtype.kind == "f"):
            rows = max((len(array) for array in feed.values() if array.ndim), default=1)
            yield Batch(dict(feed), None, rows, 0, np.arange(rows))
