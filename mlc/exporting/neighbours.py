"""The nearest neighbours that ``interpolate`` takes to go to other sizes, where Resize takes others at any legal size.

Both multiply places by a ratio in float32: torch by the length before over the length after, Resize by the inverse of
the length after over the length before. Of multiples, as beside most skips, they take the same; where 14 become 32 they
do not. (ATen/native/UpSample.h: nearest_neighbor_compute_source_index; ONNX, Resize.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mlc.exporting.inserting import before, calls_of, replace, size_of
from mlc.exporting.legal_sizes import LegalSizes
from mlc.types import InputSpec

aten: Any = torch.ops.aten

NEAREST = frozenset({aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec})

LEAD = 2
"""Axes before those that are resized: [batch, channels, ...]."""


def own_neighbours(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Gather along axes that Resize may resize otherwise than torch at any legal size."""
    legal = LegalSizes.of(program, inputs)
    for node in [node for node in calls_of(program, NEAREST) if node.args[1] is not None]:
        x: Any = node.args[0]
        shape, sizes = x.meta["val"].shape, node.meta["val"].shape
        axes = range(LEAD, len(sizes))
        own = [axis for axis in axes if not _resizes_alike(shape[axis], sizes[axis], legal)]
        if not own:
            continue
        asked: Any = node.args[1]
        wanted = dict(zip(axes, asked, strict=True))
        resized = x
        if len(own) < len(axes):
            rest = [size_of(node, x, axis) if axis in own else wanted[axis] for axis in axes]
            resized = before(node, node.target, x, rest, None)
        for axis in own:
            resized = _gathered(node, resized, axis, wanted[axis])
        replace(node, resized)


def _gathered(node: torch.fx.Node, x: torch.fx.Node, axis: int, wanted: Any) -> torch.fx.Node:
    """Return what is resized along one axis to so many, by torch's own arithmetic."""
    length = before(node, aten.scalar_tensor.default, size_of(node, x, axis), dtype=torch.float32)
    count = before(node, aten.scalar_tensor.default, wanted, dtype=torch.float32)
    step = before(node, aten.div.Tensor, length, count)
    places = before(node, aten.arange.default, wanted, dtype=torch.float32)
    exact = before(node, aten.mul.Tensor, places, step)
    last = before(node, aten.sub.Tensor, length, 1.0)
    found = before(node, aten.minimum.default, before(node, aten.floor.default, exact), last)
    index = before(node, aten._to_copy.default, found, dtype=torch.int64)  # noqa: SLF001
    return before(node, aten.index_select.default, x, axis, index)


def _resizes_alike(length: Any, wanted: Any, legal: LegalSizes) -> bool:
    """Whether Resize takes the neighbours that torch takes at all legal sizes; torch's own are always right."""
    pairs = legal.all_of(length, wanted)
    return pairs is not None and all(_same_neighbours(*pair) for pair in pairs)


def _same_neighbours(length: int, wanted: int) -> bool:
    places, last = np.arange(wanted, dtype=np.float32), length - 1
    theirs = np.floor(places / (np.float32(wanted) / np.float32(length)))
    ours = np.floor(places * (np.float32(length) / np.float32(wanted)))
    return bool((np.minimum(ours, last) == np.minimum(theirs, last)).all())
