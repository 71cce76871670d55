"""Tables of which nodes look up rows."""

from __future__ import annotations

import onnx_ir as ir

from mlc.formats.nodes import constant, number

MATRIX = 2

LARGE_TABLE = 2**16
"""So many elements make a table large: the codes of a small one save nothing worth two lookups in the place of one."""


def takes_rows(node: ir.Node) -> bool:
    """Whether a node looks up rows of a constant matrix of floats."""
    table = constant(node.inputs[0]) if node.op_type == "Gather" else None
    floats = table is not None and table.dtype.is_floating_point() and len(table.shape) == MATRIX
    return floats and number(node, "axis", 0) == 0


def is_large_table(table: ir.Value) -> bool:
    """Whether a constant matrix is large, and read for nothing but its rows."""
    tensor = constant(table)
    if tensor is None or table.is_graph_output() or table.is_graph_input():
        return False
    large = tensor.size >= LARGE_TABLE and tensor.shape[1] != 1
    return large and all(takes_rows(reader) and index == 0 for reader, index in table.uses())
