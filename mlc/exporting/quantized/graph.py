"""What is known of codes and of the graph that they are written into."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mlc.errors import SourceError
from mlc.formats import RANDOM
from mlc.fusion import has_subgraphs
from mlc.sources.quantized.nouns import Coded

CODES = "codes_"
"""What the node that ends a quantizer is called, before the number of what the module noted there."""

NIBBLE = {(-8, 7): np.dtype(ml_dtypes.int4), (0, 15): np.dtype(ml_dtypes.uint4)}
"""Grids that fit into 4 bits."""

WHOLE = {np.dtype(kind): (np.iinfo(kind).min, np.iinfo(kind).max) for kind in (np.int8, np.uint8, np.int16, np.int32)}
"""The grid that a type has where nothing is cut off."""

BLOCKS = 21
"""The first opset whose quantizers know blocks, and codes of 4 and 16 bits."""

MATRIX = 2

BYTE = 8


def is_rows(noted: Coded) -> bool:
    """Whether each row along the last axis has a scale of its own."""
    grid = noted.grid
    return grid.group > 0 and grid.group == noted.codes.shape[-1] and grid.axis == noted.codes.ndim - 1


def bare_name(codes: ir.Value) -> str:
    """Return what codes are the codes of."""
    name = codes.name or ""
    head, _, last = name.rpartition(".")
    return head if head and last in {"quantized", "cut", "whole", str(codes.dtype).lower()} else name


def numbered(name: str, number: int) -> str:
    """Return a name with a number behind it, that with 0 as it is."""
    return f"{name}_{number}" if number else name


def dtype_of(value: ir.Value) -> ir.DataType:
    """Return the dtype of a value: float32 where none is written."""
    return value.dtype or ir.DataType.FLOAT


def check_dtype(noted: Coded, source: ir.Value) -> None:
    """Raise SourceError for a quantizer that ONNX has not."""
    dtype, whole = noted.codes.dtype, WHOLE.get(noted.codes.dtype)
    narrow = whole is not None and whole != (noted.grid.low, noted.grid.high)
    if dtype == np.int32 or whole is None or (narrow and dtype == np.int16):
        cut = f", cut to {noted.grid.low}..{noted.grid.high}" if narrow else ""
        raise SourceError(
            f"the module quantizes to {dtype}{cut}, for which there is no quantizer in the runtime",
            "quantize activations to 8 bits",
        )
    if source.dtype not in (None, ir.DataType.FLOAT):
        raise SourceError(
            f"the module quantizes a {str(source.dtype).lower()}, and quantizers take float32", "convert it to float32"
        )


def attributes_of(noted: Coded) -> dict[str, int]:
    """Return the attributes of a quantizer: where its scales differ."""
    if is_rows(noted):
        return {"axis": 0}
    if noted.grid.axis is None:
        return {}
    return {"axis": noted.grid.axis, **({"block_size": noted.grid.group} if noted.grid.group else {})}


def fixed_values(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that no input of the graph has a part in."""
    fixed = {value for value in graph.initializers.values() if not value.is_graph_input()}
    for node in graph:
        inner = has_subgraphs(node)
        if inner or node.op_type in RANDOM or any(value is not None and value not in fixed for value in node.inputs):
            continue
        fixed.update(node.outputs)
    return fixed


def all_values(graph: ir.Graph) -> list[ir.Value]:
    """Return every value of a graph, those of its subgraphs too."""
    outputs = [output for node in graph.all_nodes() for output in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]


def stem_of(value: ir.Value | None) -> str:
    """Return the name of the weight that a fixed value was computed from."""
    stack = [value]
    while stack:
        one = stack.pop()
        if one is None:
            continue
        node = one.producer()
        if node is None:
            return one.name or ""
        stack += reversed(node.inputs)
    return "weight"
