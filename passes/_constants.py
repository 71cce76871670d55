"""What a node on constants gives, and how large it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from mlc.formats import QUANTIZERS, RANDOM
from mlc.fusion import constant_tensor, evaluate, has_subgraphs, is_standard

CHANGING = RANDOM | {"Dropout"}
"""Operators that may give something else each time."""

GROWING = frozenset({"Expand", "ConstantOfShape", "Tile"})
"""Operators whose result can be far larger than what they read: its size is known before it is computed."""

REARRANGING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose result holds the elements of their first input and nothing else."""

SIZES = frozenset({"Shape", "Size"})
"""Operators that read no elements."""

MATRIX = 2

Tensors = Sequence[ir.TensorProtocol | None]


def foldable(node: ir.Node) -> bool:
    """Whether a node is of a kind that gives the same in every run, given the same inputs."""
    standard = is_standard(node) and node.op_type not in CHANGING | QUANTIZERS
    return standard and not has_subgraphs(node)


def known_inputs(node: ir.Node, known: Callable[[ir.Value], ir.TensorProtocol | None]) -> Tensors | None:
    """Return the tensors that a node reads, or None where it reads something that is not constant.

    Of an input that is read for its type alone (CastLike) the type is enough.
    """
    tensors: list[ir.TensorProtocol | None] = []
    for index, value in enumerate(node.inputs):
        tensor = None if value is None else known(value)
        if (
            tensor is None
            and value is not None
            and node.op_type == "CastLike"
            and index == 1
            and value.dtype is not None
        ):
            tensor = ir.tensor(np.zeros((), dtype=value.dtype.numpy()))
        if tensor is None and value is not None:
            return None
        tensors.append(tensor)
    return tensors or None


def result(node: ir.Node, model: ir.Model, inputs: Tensors | None) -> list[ir.TensorProtocol] | None:
    """Return the named outputs of a node, or None where they are not constant or the runtime cannot compute them."""
    if node.op_type == "Constant":
        tensor = constant_tensor(node)
        return None if tensor is None else [tensor]
    sizes = static_sizes(node) if node.op_type in SIZES else None
    if sizes is not None:
        return [ir.tensor(sizes)]
    arrays = None if inputs is None else evaluate(node, model, inputs)
    if arrays is None or not all(isinstance(array, np.ndarray) for array in arrays):
        return None
    return [ir.tensor(array) for array in arrays]


def static_sizes(node: ir.Node) -> np.ndarray | None:
    """Return what a Shape or Size node gives, where the sizes are numbers."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(value.shape), dtype=np.int64) if value.shape.is_static() else None
    rank = value.shape.rank()
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else rank
    first, last = (min(max(at + rank if at < 0 else at, 0), rank) for at in (start, end))
    dims = list(value.shape)[first:last]
    return np.array(dims, dtype=np.int64) if all(isinstance(dim, int) for dim in dims) else None


def rearranged(node: ir.Node) -> ir.Value | None:
    """Return the weight (a float initializer with two axes or more) whose elements a node only rearranges, or None."""
    value: ir.Value | None = node.outputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in REARRANGING or not is_standard(producer):
            return None
        value = producer.inputs[0]
    tensor = None if value is None or not value.is_initializer() else value.const_value
    return value if tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) >= MATRIX else None


def grown(node: ir.Node, inputs: Tensors) -> int:
    """Return the bytes of the result of a growing operator, 0 for others."""
    if node.op_type not in GROWING:
        return 0
    sizes = inputs[0] if node.op_type == "ConstantOfShape" else inputs[1]
    source = inputs[0]
    assert sizes is not None
    assert source is not None
    numbers = [int(size) for size in sizes.numpy().reshape(-1)]
    if node.op_type == "ConstantOfShape":
        width = node.attributes["value"].as_tensor().dtype.itemsize if "value" in node.attributes else 4
        return int(math.prod(numbers) * width)
    if node.op_type == "Tile":
        return int(math.prod(numbers) * source.nbytes)
    dims = [int(dim) for dim in source.shape.numpy()]
    longest = max(len(dims), len(numbers))
    left, right = ([1] * (longest - len(each)) + each for each in (dims, numbers))
    return int(math.prod(max(pair) for pair in zip(left, right, strict=True)) * source.dtype.itemsize)
