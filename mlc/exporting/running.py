"""The running maximum and minimum as a scan: torch.onnx has no function for them, and ONNX no operator."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Values, and the places along the axis that they are from."""


def by_scans(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with a scan in the place of each ``cummax`` and ``cummin``; itself where there is none."""
    own: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.cummax.default: lambda x, dim: _running(x, dim, operator.ge),
        torch.ops.aten.cummin.default: lambda x, dim: _running(x, dim, operator.le),
    }
    present = {node.target for node in program.graph.nodes}
    return program.run_decompositions(own) if present & own.keys() else program


def _running(x: Tensor, dim: int, at_least: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    """Return the best values so far and their places; of equal ones the last, and NaN is better than any number."""
    steps = x.movedim(dim, 0)
    places = torch.arange(steps.shape[0], device=x.device).reshape(-1, *[1] * (steps.ndim - 1)).expand(steps.shape)

    def later(best: Pair, new: Pair) -> tuple[Pair, Pair]:
        taken = at_least(new[0], best[0]) | (new[0] != new[0])  # NaN differs from itself
        value, place = torch.where(taken, new[0], best[0]), torch.where(taken, new[1], best[1])
        return (value, place), (value.clone(), place.clone())  # a scan may not give one tensor twice

    first = steps[0].clone(), torch.zeros_like(steps[0], dtype=torch.int64)
    _, (values, found) = scan(later, first, (steps.clone(), places.clone()))
    return values.movedim(0, dim), found.movedim(0, dim)
