"""The sizes that are traced, and what torch.export is told of those that vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mlc.dims import largest, legal, named, smallest
from mlc.types import Dim, InputSpec, Sizes

if TYPE_CHECKING:
    from mlc.types import Arrays

LARGE = 8
"""A size of which one or two less, or a quarter, is neither 0 nor 1."""


def tracing_sizes(inputs: Sequence[InputSpec], traced: Sizes) -> dict[str, int]:
    """Return the sizes to trace at: torch takes 0 and 1, and one single step, for constants."""
    sizes = dict(traced)
    for name, dim in named(inputs).items():
        least = 2 if dim.step == 1 else 2 * dim.step
        if sizes[name] < least:
            sizes[name] = smallest(dim, above=least - 1)
    return sizes


def larger_sizes(inputs: Sequence[InputSpec], sizes: Sizes) -> dict[str, int]:
    """Return sizes of LARGE and more for dims that were to be traced at less, where that is legal.

    And the next one for those that were to be traced at the least legal one, to which ``x[:16]`` may cut.
    """
    return {
        name: smallest(dim, above=max(LARGE - 1, dim.low))
        if sizes[name] < LARGE or sizes[name] == dim.low
        else sizes[name]
        for name, dim in named(inputs).items()
    }


def traced_note(sizes: Sizes, asked: Sizes) -> tuple[str, ...]:
    """Return a note where the sizes that were traced are others than was asked."""
    changed = ", ".join(f"{name}={size}" for name, size in sizes.items() if size != asked[name])
    return (f"traced at {changed}, since a size of 1 or one step cannot stand for a range",) if changed else ()


def dynamic_shapes(inputs: Sequence[InputSpec]) -> tuple[dict[int, Any], ...]:
    """Return for each input the axes that vary, with their ranges; sums are left for torch to find and are verified."""
    roots = {name: _range(name, dim) for name, dim in named(inputs).items() if dim.low != largest(dim)}
    shapes: list[dict[int, Any]] = []
    for spec in inputs:
        axes: dict[int, Any] = {}
        for axis, dim in enumerate(spec.dims):
            if dim.terms and any(term in roots for term in dim.terms):
                axes[axis] = torch.export.Dim.DYNAMIC
            elif dim.name in roots:
                axes[axis] = roots[dim.name]
        shapes.append(axes)
    return tuple(shapes)


def unrelated_shapes(inputs: Sequence[InputSpec], arrays: Arrays) -> tuple[dict[int, Any], ...]:
    """Return for each input the axes that vary, each by itself: torch has no relation of theirs to solve.

    An axis of 1 is none of them, since torch takes it for a constant; nor would one of 1 or 2 be: torch counts from 2.
    """
    return tuple(
        {
            axis: torch.export.Dim.DYNAMIC(min=dim.low, max=max(dim.high, 3))
            for axis, dim in enumerate(spec.dims)
            if dim.low != dim.high and arrays[spec.name].shape[axis] != 1
        }
        for spec in inputs
    )


def _range(name: str, dim: Dim) -> Any:
    assert legal(dim, largest(dim))
    if dim.step == 1:
        return torch.export.Dim(name, min=dim.low, max=dim.high)
    root = torch.export.Dim(f"_{name}", min=dim.low // dim.step, max=largest(dim) // dim.step)
    rest = dim.low % dim.step
    return dim.step * root + rest if rest else dim.step * root
