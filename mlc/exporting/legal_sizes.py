"""What sizes inside of a program are at all legal sizes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from mlc.dims import largest, named
from mlc.exporting.guards import over_sizes
from mlc.types import Dim, InputSpec

MOST = 1_000_000
"""Legal sizes that are looked at; where there are more, nothing is told of them."""


@dataclass(frozen=True)
class LegalSizes:
    """What is declared of each symbol that stands for an axis of an input, and of each name."""

    declared: Mapping[str, Dim]
    roots: Mapping[str, Dim]

    @classmethod
    def of(cls, program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> LegalSizes:
        """Return those of a program whose inputs are these."""
        taken = {str(name) for name in program.graph_signature.user_inputs}
        values = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder") if node.name in taken]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        declared = {
            str(size): dim
            for tensor, spec in zip(tensors, inputs, strict=True)
            for size, dim in zip(tensor.shape, spec.dims, strict=True)
            if not isinstance(size, int)
        }
        return cls(declared, named(inputs))

    def may_be_none(self, size: Any) -> bool:
        """Whether a size is 0 at any legal size, or less, as torch writes it; where they are many, by their bounds."""
        told = self.all_of(size)
        if told is not None:
            return min(told) < (1,)
        symbols = size.node.expr.free_symbols
        if not {str(symbol) for symbol in symbols} <= set(self.declared):
            return True
        dims = {symbol: self.declared[str(symbol)] for symbol in symbols}
        ranges = {symbol: ValueRanges(dim.low, largest(dim)) for symbol, dim in dims.items()}
        return bool(bound_sympy(size.node.expr, ranges).lower < 1)

    def all_of(self, *sizes: Any) -> set[tuple[int, ...]] | None:
        """Return what sizes are together at all legal sizes, or None where that cannot be told."""
        if all(isinstance(size, int) for size in sizes):
            return {sizes}
        names = {str(symbol) for size in sizes if not isinstance(size, int) for symbol in size.node.expr.free_symbols}
        if not names <= set(self.declared):
            return None
        symbols = {name: self.declared[name] for name in names}
        known = {name for dim in symbols.values() for name in dim.terms or (dim.name,)}
        own = {name: dim for name, dim in self.roots.items() if name in known}
        if math.prod((largest(dim) - dim.low) // dim.step + 1 for dim in own.values()) > MOST:
            return None
        try:
            found = over_sizes([str(size) for size in sizes], symbols, own)
            return {each for columns in found for each in zip(*(column.tolist() for column in columns), strict=True)}
        except (SyntaxError, NameError, TypeError, ValueError, ArithmeticError):
            return None
