"""Which nodes become products of integers whose activations are quantized as they come, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from mlc.formats import (
    LONGEST_SUM,
    MATRIX_PRODUCTS,
    constant,
    constant_obstacle,
    input_at,
    is_quantized,
    number,
    site_of,
    takes_rows,
    weight_of,
)
from mlc.fusion import is_standard, only_reader, walk
from passes._stored import StoredWeight, matrix_readers

KEPT_FLOAT = {
    "Conv": "the integer kernel of a convolution whose scales are not known beforehand is slower than the float one",
    "ConvTranspose": "there is no integer kernel for it",
    "GRU": "there is no integer kernel for it",
    "RNN": "there is no integer kernel for it",
}

NO_KERNEL = "ONNX has no integer LSTM, and onnxruntime's own is not for this target or for portable output"

MATRIX = 2


@dataclass(frozen=True)
class Looked:
    """A node that was looked at: its site, and why it stays float; no reason where it is to be quantized."""

    site: str
    node: ir.Node
    reason: str = ""


def look_at(model: ir.Model, permitted: Callable[[str], bool], *, recurrent: bool, smallest_table: int) -> list[Looked]:
    """Return all nodes that have an integer form, or that people expect to have one, those of subgraphs too.

    Nodes that are not ``permitted`` are left out; each is asked for once. ``recurrent`` says whether an LSTM has a
    kernel where the model will run, ``smallest_table`` how many elements make a table worth its codes.
    """
    nodes = [(f"{prefix}{site_of(node)}", node) for prefix, graph in walk(model) for node in graph if is_standard(node)]
    found: dict[ir.Node, Looked] = {}

    def look(reason_of: Callable[[ir.Node], str | None]) -> None:
        for site, node in nodes:
            reason = reason_of(node)
            if reason is not None and (reason or permitted(site)):
                found[node] = Looked(site, node, reason)

    look(lambda node: _reason(node, recurrent=recurrent))
    stored = [_stored(node) for node, each in found.items() if not each.reason]
    by_rows = {value for value, turned in stored if turned}
    look(lambda node: _table_reason(node, by_rows, smallest_table))
    return [found[node] for _, node in nodes if node in found]


def weights_of(nodes: list[ir.Node]) -> list[StoredWeight]:
    """Return every weight of the products and tables among chosen nodes with all that read it, in order of first use.

    One that is added up along two axes counts as two, with scales of their own.
    """
    found: dict[tuple[ir.Value, bool], StoredWeight] = {}
    for node in nodes:
        value, turned = _stored(node)
        if value is None:
            continue
        weight = found.setdefault((value, turned), StoredWeight(value, turned))
        (weight.tables if node.op_type == "Gather" else weight.products).append(node)
    return list(found.values())


def _stored(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """Return the weight that a product or table reads, and whether it is stored as [columns, rows]."""
    if node.op_type == "Gather":
        return node.inputs[0], True
    weight = weight_of(node) if node.op_type in MATRIX_PRODUCTS else None
    return (None, False) if weight is None else (weight.value, weight.transposed or bool(number(node, "transB", 0)))


def _reason(node: ir.Node, *, recurrent: bool) -> str | None:
    """Return why a product or recurrent layer stays float, nothing if it does not, and None for other nodes."""
    if node.op_type in KEPT_FLOAT:
        return KEPT_FLOAT[node.op_type]
    if node.op_type == "LSTM":
        return _lstm_obstacle(node) if recurrent else NO_KERNEL
    return _product_obstacle(node) if node.op_type in MATRIX_PRODUCTS else None


def _product_obstacle(node: ir.Node) -> str:
    weight, stored = weight_of(node), input_at(node, 1)
    if weight is None:
        if stored is not None and is_quantized(stored):
            return f"its weight {stored.name} is quantized already"
        if node.op_type == "MatMul":
            return "both sides are activations" if constant(node.inputs[0]) is None else "its weight is on the left"
        return constant_obstacle(stored, "weight")
    return constant_obstacle(weight.value, "weight") or _shape_obstacle(node, weight.value) or _sum_obstacle(node)


def _shape_obstacle(node: ir.Node, weight: ir.Value) -> str:
    tensor = constant(weight)
    assert tensor is not None
    *stack, rows = tensor.shape.numpy()[: -1 if len(tensor.shape) > 1 else None]
    x = node.inputs[0]
    if stack and (x is None or x.shape is None):
        return "its weight is a stack of matrices, and the rank of its input is not known"
    return _length_obstacle(tensor.shape.numpy()[-1] if _stored(node)[1] else rows)


def _sum_obstacle(node: ir.Node) -> str:
    """Return why onnxruntime would break the sum behind a product, or nothing.

    It takes a constant of one row that is added to the result for the bias of its own operator, and does not look
    whether it has an element for each column, or more axes than the result.
    """
    (tensor, turned), result = _stored(node), node.outputs[0]
    reader = only_reader(result)
    if reader is None or reader.op_type != "Add" or input_at(node, 2) is not None:
        return ""
    addend = next(value for value in reader.inputs if value is not result)
    added, weight = constant(addend), constant(tensor)
    if addend is None or added is None or weight is None:
        return ""
    *stack, last = added.shape.numpy() or (1,)
    columns = weight.shape.numpy()[-2 if turned else -1] if len(weight.shape) > 1 else 1
    longer = result.shape is None or len(stack) >= result.shape.rank()
    if math.prod(stack) != 1 or last == 1 or (last == columns and not (stack and longer)):
        return ""
    return f"onnxruntime would take {addend.name}, which is added behind it, for its bias, and lose a part of the sum"


def _lstm_obstacle(node: ir.Node) -> str:
    if number(node, "layout", 0) != 0:
        return "its batch comes first, which the integer kernel does not know"
    for index, role in ((1, "weight"), (2, "recurrence weight")):
        problem = constant_obstacle(input_at(node, index), role)
        tensor = constant(input_at(node, index))
        if problem or tensor is None:
            return problem
        problem = _length_obstacle(tensor.shape.numpy()[-1])
        if problem:
            return problem
    return ""


def _length_obstacle(rows: int) -> str:
    return f"sums of {rows:,} products may leave 32 bits" if rows > LONGEST_SUM else ""


def _table_reason(node: ir.Node, by_rows: Collection[ir.Value | None], smallest: int) -> str | None:
    """Return why a table of float rows stays float, nothing if it does not, and None for other nodes.

    ``by_rows`` are the weights of products that have a scale for each row: a table shares their codes.
    """
    table = node.inputs[0] if node.op_type == "Gather" else None
    tensor = constant(table)
    if table is None or tensor is None or not tensor.dtype.is_floating_point() or len(tensor.shape) < MATRIX:
        return None
    problem = constant_obstacle(table, "table")
    if problem:
        return problem
    if not takes_rows(node):
        return "it does not take rows of a matrix"
    return "" if table in by_rows else _size_obstacle(tensor, smallest) or _sharing_obstacle(table)


def _size_obstacle(table: ir.TensorProtocol, smallest: int) -> str:
    """Return why the codes of a table save nothing, or nothing worth two lookups in the place of one; or nothing."""
    if table.shape[1] == 1:
        return "its rows of one element would not become smaller"
    return f"its table of {table.size:,} elements is small" if table.size < smallest else ""


def _sharing_obstacle(table: ir.Value) -> str:
    """Return who needs a table as it is, so that its codes would come on top of it, or nothing."""
    if table.is_graph_output():
        return f"its table {table.name} is an output of the model"
    readers = (reader for reader, _ in matrix_readers(table) if reader.op_type != "Gather")
    return next((f"its table {table.name} is read by {each.op_type} {site_of(each)} too, and not by rows"
                 for each in readers), "")  # fmt: skip
