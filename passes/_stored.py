"""What a weight that is to become codes is stored as, and who reads it; and which nodes a plan gives to a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.formats import constant, integers
from mlc.graph_pass import Context

if TYPE_CHECKING:
    from mlc.types import Array


@dataclass
class StoredWeight:
    """A stored weight and the nodes that read its codes: products, and Gathers that take its rows as a table.

    ``transposed`` where it is stored as [columns, rows], the rows being what a product adds up.
    """

    value: ir.Value
    transposed: bool
    products: list[ir.Node] = field(default_factory=list)
    tables: list[ir.Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[ir.Node]:
        """All that read it."""
        return [*self.products, *self.tables]

    def matrix(self) -> Array:
        """Return the weight as [..., rows, columns], or [rows]."""
        stored = array_of(self.value)
        return stored.T if self.transposed else stored


def array_of(value: ir.Value | None) -> Array:
    """Return the array of an initializer or of what a Constant node gives."""
    tensor = constant(value)
    assert tensor is not None
    return tensor.numpy()


def matrix_readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield who reads a matrix and at which input, looking through the Transposes of it."""
    for node, index in value.uses():
        turned = node.outputs[0]
        if node.op_type == "Transpose" and integers(node, "perm") in ([], [1, 0]) and not turned.is_graph_output():
            yield from turned.uses()
        else:
            yield node, index


def permitted(ctx: Context, name: str) -> Callable[[str], bool]:
    """Return which sites the plan, if there is one, gives to a format, and the context allows."""
    planned = ctx.plan.nodes
    wanted = {entry.node for entry in planned if entry.format == name}
    return lambda site: (not planned or site in wanted) and ctx.allow(site)
