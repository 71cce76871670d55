"""How large values are in every run: numbers, and names for what only a run tells."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

import onnx_ir as ir

from mlc.fusion.graph import array_of, is_constant, is_standard

Size: TypeAlias = int | str
"""A number, or the name of one that is the same wherever it has this name."""

MASKING = frozenset({"And", "Cast", "Equal", "Identity", "Not", "Or", "Trilu", "Where"})
"""What masks are made of: an element for each that the inputs broadcast to (the diagonal of Trilu is one number)."""

SYMBOL = re.compile(r"[A-Za-z_]\w*")

INFERRED = "unk__"
"""What begins the names that ONNX's shape inference gives to sizes that it cannot tell."""


SELECTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""What gives as many elements as values say, which may be none."""

Known: TypeAlias = dict[ir.Value, list[Size] | None]
"""The sizes of values that were found on the way: along a chain each is asked for several times."""


def dims_of(value: ir.Value | None, on_the_way: Known | None = None) -> list[Size] | None:
    """Return the sizes of a value's axes, or None where not even their number is known.

    What the shape leaves open is taken from how the value came about, else named after value and axis.
    """
    if value is None:
        return None
    known = {} if on_the_way is None else on_the_way
    if value not in known:
        known[value] = _dims(value, known)
    return known[value]


def _dims(value: ir.Value, on_the_way: Known) -> list[Size] | None:
    if value.shape is None:
        return _derived(value, on_the_way)
    known = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    named = [f"{value.name}.{axis}" for axis in range(len(known))]
    derived = _derived(value, on_the_way) if any(map(_is_open, known)) else None
    others = derived if derived is not None and len(derived) == len(known) else named
    return [
        other if dim is None or (_is_open(dim) and other != own) else dim
        for dim, other, own in zip(known, others, named, strict=True)
    ]


def _is_open(size: Size | None) -> bool:
    """Whether a shape says nothing of a size but, at most, where else ONNX's inference saw the same one."""
    return size is None or (isinstance(size, str) and size.startswith(INFERRED))


def _derived(value: ir.Value, known: Known) -> list[Size] | None:
    node = value.producer()
    if node is None or not is_standard(node):
        return None
    if node.op_type == "Transpose" and "perm" in node.attributes:
        dims = dims_of(node.inputs[0], known)
        return None if dims is None else [dims[axis] for axis in node.attributes["perm"].as_ints()]
    if node.op_type == "Reshape":
        return _reshaped(value, node, known)
    if node.op_type == "Expand":
        return _broadcast(value, dims_of(node.inputs[0], known), sizes_of(node.inputs[1], known))
    if node.op_type in MASKING:
        return _broadcast(value, *(dims_of(each, known) for each in node.inputs))
    return None


def _broadcast(value: ir.Value, *shapes: list[Size] | None) -> list[Size] | None:
    """Return the sizes of what shapes broadcast to; an axis that they leave open is named after the value."""
    if None in shapes:
        return None
    rank = max(len(shape) for shape in shapes if shape is not None)
    found: list[Size] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape or (), rank - len(shape or ())):
            found[axis] = _joint(found[axis], size, f"{value.name}.{axis}")
    return found


def _joint(one: Size, other: Size, unknown: str) -> Size:
    """Return the size of an axis of two values that broadcast."""
    if other in (one, 1):
        return one
    if one == 1 or isinstance(other, int):
        return other
    return one if isinstance(one, int) else unknown


def _reshaped(value: ir.Value, node: ir.Node, known: Known) -> list[Size] | None:
    """Return the sizes that a Reshape gives: 0 is that of the same axis before, -1 what is left over."""
    before, sizes = dims_of(node.inputs[0], known), sizes_of(node.inputs[1], known)
    if sizes is None:
        return None
    named: list[Size] = [f"{value.name}.{axis}" if size in (0, -1) else size for axis, size in enumerate(sizes)]
    if before is None:
        return named
    copied = [] if "allowzero" in node.attributes and node.attributes["allowzero"].as_int() else before
    named = [copied[axis] if sizes[axis] == 0 and axis < len(copied) else each for axis, each in enumerate(named)]
    return completed(before, named) if -1 in sizes else named


def completed(before: list[Size], after: list[Size]) -> list[Size]:
    """Return the sizes after a reshape; one that only they have is what the others leave over, if that is a number."""
    names, others = (Counter(size for size in sizes if isinstance(size, str)) for sizes in (before, after))
    unknown = list((others - names).elements())
    known = math.prod(size for size in after if isinstance(size, int))
    if len(unknown) != 1 or names - others or known == 0:
        return after
    left = math.prod(size for size in before if isinstance(size, int)) // known
    return [left if size == unknown[0] and size not in names else size for size in after]


def sizes_of(value: ir.Value | None, on_the_way: Known | None = None) -> list[Size] | None:
    """Return the elements of integers along one axis at most, or None where they are computed in another way."""
    if value is not None and is_constant(value):
        array = array_of(value)
        return [int(each) for each in array.reshape(-1)] if array.ndim <= 1 and array.dtype.kind == "i" else None
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node):
        return None
    if node.op_type == "Shape":
        dims = dims_of(node.inputs[0], on_the_way)
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        return None if dims is None else dims[start:end]
    known = {} if on_the_way is None else on_the_way
    parts = [sizes_of(part, known) for part in node.inputs[: None if node.op_type in ("Concat", "Mul") else 1]]
    sizes = [size for part in parts if part is not None for size in part]
    if None in parts:
        return None
    if node.op_type in ("Slice", "Gather", "Mul"):
        return _product(sizes) if node.op_type == "Mul" else _part(node, sizes)
    single = node.op_type in ("Squeeze", "Unsqueeze", "Reshape") and len(sizes) == 1
    return sizes if single or node.op_type in ("Concat", "Identity") else None


def _product(sizes: list[Size]) -> list[Size] | None:
    """Return the product of two sizes, or None where that has no name or there are more of them."""
    match sizes:
        case [int(left), int(right)]:
            return [left * right]
        case [1, other] | [other, 1]:
            return [other]
    return None


def _part(node: ir.Node, sizes: list[Size]) -> list[Size] | None:
    """Return the elements that a Slice or Gather takes of sizes."""
    places = [sizes_of(place) if is_constant(place) else None for place in node.inputs[1:]]
    numbers = [[each for each in place if isinstance(each, int)] for place in places if place is not None]
    if None in places or (node.op_type == "Slice" and any(len(one) != 1 for one in numbers)):
        return None
    if node.op_type == "Gather":
        return [sizes[index] for index in numbers[0]]
    (start,), (end,), *more = numbers
    return sizes[start:end] if more in ([], [[0]], [[0], [1]]) else None


def may_be_none(value: ir.Value | None, sizes: Iterable[Size]) -> bool:
    """Whether any of these sizes of a value may follow from other values, and be 0 in some run.

    That is where something before it selects elements, and a size is neither a number nor one that inputs have.
    """
    names: set[str] = set()
    seen: set[ir.Node] = set()
    selects = False
    stack = [] if value is None else [value]
    while stack:
        each = stack.pop()
        node = each.producer()
        if node is None:
            names.update(*map(_symbols, each.shape or ()))
        elif node not in seen:
            seen.add(node)
            selects = selects or node.op_type in SELECTING
            stack += [given for given in node.inputs if given is not None]
    return selects and any(isinstance(size, str) and not _symbols(size) <= names for size in sizes)


def _symbols(size: object) -> set[str]:
    name = size if isinstance(size, str) else getattr(size, "value", None)
    return set(SYMBOL.findall(name)) if isinstance(name, str) else set()
