"""Operators as the steps of which kernels are made, so that each step can be rounded.

Normalizations by layer, softmax and GELU are always taken apart. In the narrow form sums are added up in float16 too:
products in blocks, as tensor cores do that accumulate in float16, and means as a sum and a division.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.formats.nodes import input_at, integers, number, text
from mlc.fusion import is_constant, opset_of
from mlc.fusion.base import Builder, Names, constant

AXES_AS_INPUT, OF_SUMS = 18, 13
"""The opset from which on the axes of all reductions are an input, and from which on those of sums are."""

OF_ONE_AXIS = 13
"""The opset from which on a Softmax goes along its axis alone, and no longer over all that follow."""

BLOCK, BLOCKS = 16, 32
"""So many products a tensor core adds up at once; no product is taken apart into more blocks than this."""

Step: TypeAlias = "Callable[[ir.Node, _Op], Any]"
"""Makes the steps of a node and returns what they give, or None where the node has to stay whole."""


class _Op:
    """Makes nodes; ``exact`` are values that stay in the registers of a kernel and are not rounded."""

    def __init__(self, opset: int) -> None:
        self.make: Any = Builder()
        self.opset = opset
        self.exact: set[ir.Value] = set()

    def scalar(self, value: float) -> ir.Value:
        return constant(self.make, np.array(value, np.float32))

    def reduce(self, kind: str, x: ir.Value, axes: Sequence[int]) -> Any:
        """Reduce along axes, which are kept."""
        make = getattr(self.make, kind)
        if self.opset >= (OF_SUMS if kind == "ReduceSum" else AXES_AS_INPUT):
            return make(x, constant(self.make, np.array(axes, np.int64)), keepdims=1)
        return make(x, axes=list(axes), keepdims=1)


def decompose(model: ir.Model, halves: set[ir.Value], *, narrow: bool = False) -> dict[str, str]:
    """Take apart the nodes that give these values; steps that are rounded are added to ``halves``.

    Returns, by the name of each step's value, the operator and the name of the value that it is a step of.
    """
    steps = {**ALWAYS, **(NARROW if narrow else {})}
    names = Names.of(model)
    inside: dict[str, str] = {}
    for graph in list(model.graphs()):
        for node in list(graph):
            others = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
            if node.op_type in steps and node.outputs[0] in halves and not others:
                op = _Op(opset_of(model))
                result = steps[node.op_type](node, op)
                if result is not None:
                    inside |= _replace(node, op, result, halves, names)
    return inside


def _replace(node: ir.Node, op: _Op, result: ir.Value, halves: set[ir.Value], names: Names) -> dict[str, str]:
    """Put the steps in the place of a node, and say what each is."""
    old, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    inside: dict[str, str] = {}
    for made in op.make.initializers:
        made.name = names.free(f"{old.name}.{made.name}")
        graph.register_initializer(made)
    for step in op.make.nodes:
        step.name = names.free(f"{old.name}.{step.op_type}")
        value = step.outputs[0]
        value.name = step.name
        if value not in op.exact and step.op_type not in {"Slice", "Transpose"}:
            value.type = ir.TensorType(ir.DataType.FLOAT)
            halves.add(value)
            inside[step.name] = f"the {step.op_type} inside {node.op_type} {old.name}"
    graph.insert_before(node, op.make.nodes)
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    inside.pop(str(result.name))
    halves.discard(old)
    name, result.shape, result.type = old.name, old.shape, old.type
    graph.remove([node], safe=True)
    result.name = name
    return inside


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _last_axes(node: ir.Node, default: int = -1) -> list[int] | None:
    """Return the axes from ``axis`` to the last one, counted from the end; None where their number is not known."""
    axis, shape = int(number(node, "axis", default)), _input(node, 0).shape
    if axis >= 0:
        if shape is None:
            return None
        axis -= shape.rank()
    return list(range(axis, 0))


def _normalized(op: _Op, x: ir.Value, axes: list[int], epsilon: float) -> Any:
    """Return ``x / sqrt(mean(x * x) + epsilon)``."""
    variance = op.reduce("ReduceMean", op.make.Mul(x, x), axes)
    return op.make.Div(x, op.make.Sqrt(op.make.Add(variance, op.scalar(epsilon))))


def _layer_norm(node: ir.Node, op: _Op) -> Any:
    axes, x = _last_axes(node), _input(node, 0)
    if axes is None:
        return None
    centred = op.make.Sub(x, op.reduce("ReduceMean", x, axes))
    scaled = op.make.Mul(_normalized(op, centred, axes, number(node, "epsilon", 1e-5)), _input(node, 1))
    bias = input_at(node, 2)
    return scaled if bias is None else op.make.Add(scaled, bias)


def _rms_norm(node: ir.Node, op: _Op) -> Any:
    axes = _last_axes(node)
    if axes is None:
        return None
    return op.make.Mul(_normalized(op, _input(node, 0), axes, number(node, "epsilon", 1e-5)), _input(node, 1))


def _exponentials(node: ir.Node, op: _Op) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return ``x - max(x)``, its exponential and the sum of that."""
    x, along = _input(node, 0), op.opset >= OF_ONE_AXIS
    axes = [int(number(node, "axis", -1))] if along else _last_axes(node, 1)
    if axes is None:
        return None
    shifted = op.make.Sub(x, op.reduce("ReduceMax", x, axes))
    grown = op.make.Exp(shifted)
    return shifted, grown, op.reduce("ReduceSum", grown, axes)


def _softmax(node: ir.Node, op: _Op) -> Any:
    found = _exponentials(node, op)
    return None if found is None else op.make.Div(*found[1:])


def _log_softmax(node: ir.Node, op: _Op) -> Any:
    found = _exponentials(node, op)
    return None if found is None else op.make.Sub(found[0], op.make.Log(found[2]))


def _gelu(node: ir.Node, op: _Op) -> Any:
    x, make = _input(node, 0), op.make
    if text(node, "approximate", "none") == "tanh":
        cube = make.Mul(make.Mul(x, x), x)
        inner = make.Mul(make.Add(x, make.Mul(cube, op.scalar(0.044715))), op.scalar(math.sqrt(2 / math.pi)))
        gate = make.Tanh(inner)
    else:
        gate = make.Erf(make.Mul(x, op.scalar(math.sqrt(0.5))))
    return make.Mul(make.Mul(x, op.scalar(0.5)), make.Add(gate, op.scalar(1.0)))


def _mean(node: ir.Node, op: _Op) -> Any:
    """Return a mean as a sum and a division by the number of elements that went into each; of none it is 0."""
    x, make = _input(node, 0), op.make
    given = integers(node, "axes")
    keeps, leaves = int(number(node, "keepdims", 1)), int(number(node, "noop_with_empty_axes", 0))
    if op.opset >= OF_SUMS:
        axes = constant(make, np.array(given, np.int64)) if given else input_at(node, 1)
        total = make.ReduceSum(x, axes, keepdims=keeps, noop_with_empty_axes=leaves)
    else:
        total = make.ReduceSum(x, keepdims=keeps, **({"axes": list(given)} if given else {}))
    sizes = [make.Cast(make.Size(value), to=int(ir.DataType.FLOAT)) for value in (x, total)]
    count = make.Max(make.Div(*sizes), op.scalar(1.0))  # floats, for sizes of 0 divide no integer
    op.exact.update(value for step in make.nodes for value in step.outputs if value is not total)
    return make.Div(total, count)


def _matmul(node: ir.Node, op: _Op) -> Any:
    return _blocks(op, _input(node, 0), _input(node, 1))


def _gemm(node: ir.Node, op: _Op) -> Any:
    if number(node, "alpha", 1.0) != 1 or number(node, "beta", 1.0) != 1:
        return None
    a, b = (
        _turned(op, _input(node, index)) if number(node, name, 0) else _input(node, index)
        for index, name in enumerate(("transA", "transB"))
    )
    result, bias = _blocks(op, a, b), input_at(node, 2)
    return result if result is None or bias is None else op.make.Add(result, bias)


def _turned(op: _Op, value: ir.Value) -> Any:
    turned = op.make.Transpose(value, perm=[1, 0])
    turned.type = value.type
    turned.shape = None if value.shape is None else ir.Shape(list(value.shape)[::-1])
    return turned


def _blocks(op: _Op, a: ir.Value, b: ir.Value) -> Any:
    """Return a product whose sums are rounded after each block; None where the length of the sums is not known."""
    if a.shape is None or b.shape is None or a.shape.rank() < 2 or b.shape.rank() < 2:  # noqa: PLR2004 - matrices
        return None
    length = next((size for size in (a.shape[-1], b.shape[-2]) if isinstance(size, int)), 0)
    parts = _parts(length, BLOCK)
    if len(parts) < 2:  # noqa: PLR2004 - one block is the whole
        return None
    products = [op.make.MatMul(_slice(op, a, -1, *part), _slice(op, b, -2, *part)) for part in parts]
    return _accumulated(op, products)


def _conv(node: ir.Node, op: _Op) -> Any:
    weight = _input(node, 1)
    if number(node, "group", 1) != 1 or weight.shape is None or not is_constant(weight):
        return None
    channels, *kernel = (int(size) for size in weight.shape.numpy()[1:])
    parts = _parts(channels, max(1, BLOCK // math.prod(kernel)))
    if len(parts) < 2:  # noqa: PLR2004 - one block is the whole
        return None
    products = []
    for index, part in enumerate(parts):
        bias = input_at(node, 2) if index == 0 else None
        inputs = [_slice(op, _input(node, 0), 1, *part), _slice(op, weight, 1, *part), *([bias] if bias else [])]
        products.append(op.make.Conv(*inputs, **{name: each.value for name, each in node.attributes.items()}))
    return _accumulated(op, products)


def _parts(length: int, block: int) -> list[tuple[int, int]]:
    size = max(block, -(-length // BLOCKS))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _slice(op: _Op, value: ir.Value, axis: int, start: int, end: int) -> Any:
    bounds = (constant(op.make, np.array([each], np.int64)) for each in (start, end, axis))
    return op.make.Slice(value, *bounds)


def _accumulated(op: _Op, products: Sequence[ir.Value]) -> Any:
    """Add up products one by one; the products themselves are never stored."""
    op.exact.update(products[1:])
    total = products[0]
    for each in products[1:]:
        total = op.make.Add(total, each)
    return total


ALWAYS: dict[str, Step] = {
    "Gelu": _gelu,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "Softmax": _softmax,
}
NARROW: dict[str, Step] = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, "ReduceMean": _mean}
