"""Operators of complex numbers, written with their two real parts: torch.onnx has them for real numbers alone."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import onnxscript
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from mlc.exporting.inserting import before, nodes_of, replace, sizes_of
from mlc.exporting.replaced import replaced

aten = torch.ops.aten
op: Any = onnxscript.opset18

Call = Any
"""A node of a program, of whose arguments torch.fx does not say what they are."""

ALONG = (
    aten.slice.Tensor,
    aten.select.int,
    aten.narrow.default,
    aten.index_select.default,
    aten.unsqueeze.default,
    aten.cumsum.default,
)
"""Operators that work along an axis, and do the same with each part."""


def by_real_parts(program: torch.export.ExportedProgram) -> None:
    """Write them so in the program itself, in the order in which they stand there."""
    table = _table()
    for node in nodes_of(program):
        if node.target in table and any(map(_is_complex, (node, *node.all_input_nodes))):
            table[node.target](node)


def sizes_of_complex() -> AbstractContextManager[None]:
    """Let torch.onnx ask for sizes of complex numbers inside the block: it decomposes what is traced into such, too."""
    return replaced(ONNXRegistry, "from_torchlib", _with_sizes)


def _with_sizes(own: Callable[..., Any]) -> Any:
    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        registry = own(*args, **kwargs)
        registry.register_op(aten.sym_size.int, _size_before_parts, is_complex=True)
        return registry

    return staticmethod(from_torchlib)


def _size_before_parts(x: Any, dim: int = 0) -> Any:
    axis = dim if dim >= 0 else dim - 1
    return op.Squeeze(op.Shape(x, start=axis, end=axis + 1))


def _table() -> dict[Any, Callable[[Call], None]]:
    return {
        aten.sym_size.int: _size,
        **dict.fromkeys(ALONG, _along_an_axis),
        aten.expand.default: lambda node: _of_parts(node, [*node.args[1], 2]),
        aten.repeat.default: lambda node: _of_parts(node, [*node.args[1], 1]),
        aten.index.Tensor: lambda node: _of_parts(node, *node.args[1:]),
        aten.pad.default: _pad,
        aten.constant_pad_nd.default: _pad,
        aten.zeros.default: lambda node: _zeros(node, node.args[0]),
        aten.new_zeros.default: lambda node: _zeros(node, node.args[1]),
        aten.zeros_like.default: lambda node: _zeros(node, sizes_of(node, node.args[0])),
        aten.copy_.default: _copy,
        aten.where.self: _where,
        aten.exp.default: _exp,
        aten.angle.default: _angle,
        aten.pow.Tensor_Scalar: _power,
        aten.fill_.Scalar: _fill,
        aten.fill_.Tensor: _fill,
        aten.zero_.default: _fill,
        **dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default), _parts_of_an_axis),
        aten.unbind.int: _parts_of_an_axis,
        **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor), _with_a_number),
        aten.einsum.default: lambda node: _products(node, node.args[1], lambda *one: (node.args[0], one)),
        aten.tensordot.default: lambda node: _products(node, node.args[:2], lambda *one: (*one, *node.args[2:])),
        aten.linear.default: _linear,
        aten.bmm.default: lambda node: _products(node, node.args, lambda *one: one),
        aten.mm.default: lambda node: _products(node, node.args, lambda *one: one),
    }


def _is_complex(node: Call) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def _parts(node: Call, value: Call) -> Call:
    """Return a new call before a node that gives both parts of a value along an axis of their own, the last one."""
    if not _is_complex(value):
        return _joined(node, value, before(node, aten.zeros_like.default, value))
    if value.meta["val"].is_conj():  # numbers that torch has yet to turn around
        value = before(node, aten.clone.default, value)
    return before(node, aten.view_as_real.default, value)


def _joined(node: Call, real: Call, imaginary: Call) -> Call:
    return before(node, aten.stack.default, [real, imaginary], -1)


def _become(node: Call, parts: Call) -> None:
    """Put complex numbers of these parts in the place of a node."""
    replace(node, before(node, aten.view_as_complex.default, parts))


def _of_parts(node: Call, *more: Any) -> None:
    """Call the operator of a node with both parts of what it works on."""
    options = {name: given for name, given in node.kwargs.items() if name != "dtype"}
    _become(node, before(node, node.target, _parts(node, node.args[0]), *more, **options))


def _along_an_axis(node: Call) -> None:
    values, *more = node.args
    axis = more[0] if more else 0
    behind = values.meta["val"].ndim + (node.target == aten.unsqueeze.default)
    _of_parts(node, axis % behind, *more[1:])


def _pad(node: Call) -> None:
    """Pad with 0, or with what is there: another number would have a part that is 0."""
    values, sizes, *more = node.args
    if not more or not more[-1] or isinstance(more[-1], str):
        _become(node, before(node, node.target, _parts(node, values), [0, 0, *sizes], *more))


def _size(node: Call) -> None:
    values, axis = node.args
    node.args = (_parts(node, values), axis % values.meta["val"].ndim)


def _zeros(node: Call, sizes: Sequence[Any]) -> None:
    made = node.meta["val"]
    if made.is_complex():
        _become(node, before(node, aten.zeros.default, [*sizes, 2], dtype=made.real.dtype, device=made.device))
    else:  # like complex numbers in its sizes alone
        replace(node, before(node, aten.zeros.default, list(sizes), dtype=made.dtype, device=made.device))


def _copy(node: Call) -> None:
    """Write into the parts, which are views: what reads the numbers afterwards sees it."""
    written, values = node.args[:2]
    if _is_complex(written):
        _become(node, before(node, aten.copy_.default, _parts(node, written), _parts(node, values)))


def _fill(node: Call) -> None:
    """Write one number into all elements, likewise."""
    written, number = (*node.args, 0.0)[:2]
    if _is_complex(written):
        value = number if isinstance(number, torch.fx.Node) else _number(node, complex(number), written.meta["val"])
        node.args = (written, value)
        _copy(node)


def _number(node: Call, number: complex, like: torch.Tensor) -> Call:
    """Return a complex number as a tensor of no axes."""
    dtype = like.dtype if like.is_complex() else torch.complex64
    of_parts = {"dtype": dtype.to_real(), "device": like.device}
    real, imaginary = (
        before(node, aten.scalar_tensor.default, part, **of_parts) for part in (number.real, number.imag)
    )
    return before(node, aten.view_as_complex.default, _joined(node, real, imaginary))


def _with_a_number(node: Call) -> None:
    """Write a complex number beside a real tensor as a tensor: torch.onnx takes the result for a real one."""
    values, number, *more = node.args
    if isinstance(number, complex):
        node.args = (values, _number(node, number, node.meta["val"]), *more)


def _parts_of_an_axis(node: Call) -> None:
    """Take an axis apart, with both parts of each number in every part of it."""
    values, *more = node.args
    place = 0 if node.target == aten.unbind.int else 1
    axis = more[place] if len(more) > place else 0
    found = before(node, node.target, _parts(node, values), *more[:place], axis % values.meta["val"].ndim)
    for user in list(node.users):
        _become(user, before(user, operator.getitem, found, user.args[1]))
    node.graph.erase_node(node)


def _where(node: Call) -> None:
    condition, *sides = node.args
    longer = before(node, aten.unsqueeze.default, condition, -1)
    _become(node, before(node, node.target, longer, *(_parts(node, side) for side in sides)))


def _exp(node: Call) -> None:
    """Write ``exp(a + bi) = exp(a) (cos b + i sin b)``."""
    real, imaginary = _apart(node, node.args[0])
    size = before(node, aten.exp.default, real)
    angles = (before(node, turned, imaginary) for turned in (aten.cos.default, aten.sin.default))
    _become(node, _joined(node, *(before(node, aten.mul.Tensor, size, angle) for angle in angles)))


def _angle(node: Call) -> None:
    """Ask for the angle of a point: torch.onnx turns that of negative numbers around."""
    real, imaginary = _apart(node, node.args[0])
    node.target, node.args = aten.atan2.default, (imaginary, real)


def _power(node: Call) -> None:
    """Write a square, and what else is a product of few, as one."""
    values, exponent = node.args
    if exponent in range(2, 5):
        product = values
        for _ in range(int(exponent) - 1):
            product = before(node, aten.mul.Tensor, product, values)
        replace(node, product)


def _linear(node: Call) -> None:
    values, weight, *bias = node.args
    if bias and bias[0] is not None:
        added = before(node, aten.linear.default, values, weight)
        replace(node, before(node, aten.add.Tensor, added, bias[0]))
        node = added
    _products(node, node.args[:2], lambda *one: one)


def _products(node: Call, operands: Sequence[Call], arguments: Callable[..., tuple[Any, ...]]) -> None:
    """Multiply each part of an operand with each of the others: the product of two imaginary ones is subtracted."""
    sums: dict[bool, Call] = {}
    for chosen in itertools.product(*(list(enumerate(_apart(node, one))) for one in operands)):
        imaginary, subtracted = divmod(sum(place for place, _ in chosen), 2)[::-1]
        term = before(node, node.target, *arguments(*(part for _, part in chosen)))
        if bool(imaginary) in sums:
            added = aten.sub.Tensor if subtracted % 2 else aten.add.Tensor
            term = before(node, added, sums[bool(imaginary)], term)
        sums[bool(imaginary)] = term
    _become(node, _joined(node, sums[False], sums[True]))


def _apart(node: Call, value: Call) -> tuple[Call, ...]:
    """Return the real part of a value and its imaginary one, if it has one."""
    if not _is_complex(value):
        return (value,)
    parts = _parts(node, value)
    return tuple(before(node, aten.select.int, parts, -1, place) for place in (0, 1))
