"""Running maxima, minima, products and logarithms of sums as a scan: ONNX has no operator for them.

torch.onnx has no function for them either, or one that loses what is far below the largest of all.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mlc.exporting.inserting import nodes_of

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Values, and the places along the axis that they are from."""


def by_scans(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with a scan in the place of each of these; itself where there is none."""
    own: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.cummax.default: lambda x, dim: _running(x, dim, operator.ge),
        torch.ops.aten.cummin.default: lambda x, dim: _running(x, dim, operator.le),
        torch.ops.aten.cumprod.default: lambda x, dim, dtype=None: _joined(x, dim, torch.mul, 1, dtype),
        torch.ops.aten.logcumsumexp.default: lambda x, dim: _joined(x, dim, torch.logaddexp, -math.inf),
    }
    present = {node.target for node in nodes_of(program)}
    return program.run_decompositions(own) if present & own.keys() else program


def _running(x: Tensor, dim: int, at_least: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    """Return the best values so far and their places; of equal ones the last, and NaN is better than any number."""
    steps = x.movedim(dim, 0)
    places = torch.arange(steps.shape[0], device=x.device).reshape(-1, *[1] * (steps.ndim - 1)).expand(steps.shape)

    def later(best: Tensor, at: Tensor, new: Tensor, now: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        taken = at_least(new, best) | (new != new)  # NaN differs from itself  # noqa: PLR0124
        value, place = torch.where(taken, new, best), torch.where(taken, now, at)
        return value, place, value.clone(), place.clone()  # a scan may not give one tensor twice

    first = [steps[0].clone(), torch.zeros_like(steps[0], dtype=torch.int64)]
    _, _, values, found = torch.ops.higher_order.scan(later, first, [steps.clone(), places.clone()], ())
    return values.movedim(0, dim).contiguous(), found.movedim(0, dim).contiguous()  # as a loop asks for


def _joined(
    x: Tensor, dim: int, join: Callable[[Tensor, Tensor], Tensor], nothing: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Return each element joined with all before it along an axis; ``nothing`` joined with one is that one."""
    kind = dtype if dtype is not None else x.dtype if x.is_floating_point() else torch.int64
    if x.ndim == 0:
        return x.to(kind)
    steps = x.to(kind).movedim(dim, 0)

    def later(before: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        joined = join(before, new)
        return joined, joined.clone()  # a scan may not give one tensor twice

    joined: Tensor
    _, joined = torch.ops.higher_order.scan(later, [torch.full_like(steps[0], nothing)], [steps.clone()], ())
    return joined.movedim(0, dim).contiguous()
