"""Rotations of pairs of numbers that are spelled out: which pairs, by which cosines and sines, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mlc.formats import number
from mlc.fusion import array_of, dims_of, is_constant, is_standard, producer, scalar_of, sizes_of
from passes._attention import only_use

ELEMENTWISE = frozenset({"Cast", "Cos", "Identity", "Neg", "Sin"})
"""What gives an element for each of its only input."""

AXES_AT = {"Slice": 3, "Unsqueeze": 1}
"""What leaves all axes but some alone, and the input that names these."""

TAKING = frozenset({"Gather", "Slice", "Split"})

PAIR = 2


@dataclass(frozen=True)
class Rotation:
    """``x`` with each of its pairs rotated; ``nodes`` do it, and ``output`` holds what comes of it.

    ``side_by_side`` is whether a pair are neighbours along the last axis, and not half of it apart; None where what is
    exchanged is neither. ``whole`` is whether ``cos`` and ``sin`` have an element for each of x, not for each pair;
    ``columns`` whether they have a last axis of one element behind that.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    output: ir.Value
    nodes: list[ir.Node]
    side_by_side: bool | None
    whole: bool
    columns: bool


@dataclass(frozen=True)
class _Part:
    """The first or the second numbers of all pairs of x."""

    x: ir.Value
    second: bool
    side_by_side: bool


@dataclass(frozen=True)
class _Joined:
    """Two values that are put together as the first and the second numbers of pairs."""

    first: ir.Value
    second: ir.Value
    output: ir.Value
    nodes: list[ir.Node]
    side_by_side: bool


def rotation(node: ir.Node) -> Rotation | None:
    """Return the rotation of a whole that a sum is, or of parts that a Concat puts together, or None."""
    if node.op_type == "Concat":
        return _of_parts(node)
    return _of_whole(node) if node.op_type == "Add" else None


def _of_whole(node: ir.Node) -> Rotation | None:
    """Return ``x * cos + join(-second, first) * sin``, or None."""
    for plain, turned in (node.inputs, node.inputs[::-1]):
        straight, crossed = producer(plain, "Mul"), producer(turned, "Mul")
        if straight is None or crossed is None:
            continue
        for rotated, sin in _ways(crossed):
            joined = _joined(rotated)
            negative = producer(joined.first, "Neg") if joined is not None else None
            if joined is None or negative is None or sin is None:
                continue
            found = _sources(joined.second, negative.inputs[0])
            cos = None if found is None else _other_factor(straight, found[0])
            if found is not None and cos is not None:
                x, side_by_side, takers = found
                nodes = [*takers, negative, *joined.nodes, straight, crossed, node]
                kind = joined.side_by_side if _are_one_kind(x, side_by_side, joined) else None
                return Rotation(x, cos, sin, node.outputs[0], nodes, kind, whole=True, columns=False)
    return None


def _other_factor(product: ir.Node, x: ir.Value) -> ir.Value | None:
    """Return what x is multiplied by in a product, or None where it is not."""
    return next((factor for value, factor in _ways(product) if value is x), None)


def _of_parts(concat: ir.Node) -> Rotation | None:
    """Return ``join(first * cos - second * sin, second * cos + first * sin)``, or None."""
    whole = concat.outputs[0]
    behind = only_use(whole, "Reshape")
    outputs = [whole] if behind is None or behind.inputs[0] is not whole else [behind.outputs[0], whole]
    joined = next(filter(None, map(_joined, outputs)), None)
    if joined is None:
        return None
    less, more = producer(joined.first, "Sub"), producer(joined.second, "Add")
    if less is None or more is None:
        return None
    minuend, subtrahend = (producer(value, "Mul") for value in less.inputs)
    if minuend is None or subtrahend is None:
        return None
    for first, cos in _ways(minuend):
        for second, sin in _ways(subtrahend):
            pair = _pair(first, second)
            crossed = None if pair is None else _crossed(more, *pair, cos, sin)
            if pair is None or crossed is None or cos is None or sin is None:
                continue
            x, side_by_side = pair[0].x, pair[0].side_by_side
            longer = len(dims_of(first) or []) - len(dims_of(x) or [])
            if longer in (0, 1):
                nodes = [minuend, subtrahend, *crossed, less, more, *joined.nodes]
                kind = joined.side_by_side if _are_one_kind(x, side_by_side, joined) else None
                return Rotation(x, cos, sin, joined.output, nodes, kind, whole=False, columns=longer == 1)
    return None


def _are_one_kind(x: ir.Value, side_by_side: bool | None, joined: _Joined) -> bool:
    """Whether numbers come back to where they were taken from; of a single pair halves are neighbours."""
    dims = dims_of(x)
    alike = side_by_side is joined.side_by_side or (side_by_side is not None and dims is not None and dims[-1] == PAIR)
    return alike and dims == dims_of(joined.output)


def _crossed(
    more: ir.Node, first: _Part, second: _Part, cos: ir.Value | None, sin: ir.Value | None
) -> list[ir.Node] | None:
    """Return the products of ``second * cos + first * sin``, or None where a sum is another one."""
    for left, right in (more.inputs, more.inputs[::-1]):
        by_cos, by_sin = producer(left, "Mul"), producer(right, "Mul")
        straight = any(_part_of(value) == second and angle is cos for value, angle in _ways(by_cos))
        across = any(_part_of(value) == first and angle is sin for value, angle in _ways(by_sin))
        if by_cos is not None and by_sin is not None and straight and across:
            return [by_cos, by_sin]
    return None


def _ways(product: ir.Node | None) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """Return the operands of a product both ways round."""
    return [] if product is None else [(product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])]


def _joined(value: ir.Value | None) -> _Joined | None:
    """Return what a value joins: two halves by a Concat, or pairs, whose numbers a Reshape puts side by side."""
    behind = producer(value, "Reshape")
    concat = producer(value if behind is None else behind.inputs[0], "Concat")
    dims = dims_of(concat.outputs[0]) if concat is not None else None
    if value is None or concat is None or dims is None or len(concat.inputs) != PAIR or not _is_last(concat, dims):
        return None
    first, second = concat.inputs
    if first is None or second is None:
        return None
    if behind is None:
        return _Joined(first, second, value, [concat], side_by_side=False)
    if [(dims_of(each) or [0])[-1] for each in concat.inputs] != [1, 1]:
        return None
    ends = [(first, second), *([] if (bare := _bare(concat)) is None else [bare])]
    return _Joined(*ends[-1], value, [concat, behind], side_by_side=True)


def _bare(concat: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return what a Concat joins before it got a last axis, or None where it had it."""
    nodes = [producer(value, "Unsqueeze") for value in concat.inputs]
    values = [node.inputs[0] for node in nodes if node is not None and _is_at_end(node)]
    match values:
        case [ir.Value() as first, ir.Value() as second]:
            return first, second
    return None


def _is_last(concat: ir.Node, dims: list[int | str]) -> bool:
    return concat.attributes["axis"].as_int() in (-1, len(dims) - 1)


def _is_at_end(node: ir.Node) -> bool:
    """Whether a Squeeze or an Unsqueeze takes or makes the last axis alone."""
    longer = dims_of(node.inputs[0] if node.op_type == "Squeeze" else node.outputs[0])
    axes = sizes_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return longer is not None and axes in ([-1], [len(longer) - 1])


def _sources(first: ir.Value, second: ir.Value | None) -> tuple[ir.Value, bool | None, list[ir.Node]] | None:
    """Return what two values are parts of, how its pairs lie, and the nodes that take them; None where of none.

    How they lie is None where they are parts of another kind.
    """
    pair = _pair(first, second)
    if pair is not None:
        return pair[0].x, pair[0].side_by_side, []
    nodes = [value.producer() for value in (first, second) if value is not None]
    takers = [node for node in nodes if node is not None and is_standard(node) and node.op_type in ("Slice", "Split")]
    x = takers[0].inputs[0] if len(takers) == PAIR else None
    return None if x is None or takers[1].inputs[0] is not x else (x, None, list(dict.fromkeys(takers)))


def _pair(first: ir.Value | None, second: ir.Value | None) -> tuple[_Part, _Part] | None:
    """Return two values as the first and the second numbers of all pairs of one, or None where they are not."""
    one, other = _part_of(first), _part_of(second)
    if one is None or other is None or one.second or other != replace(one, second=True):
        return None
    return one, other


def _part_of(value: ir.Value | None) -> _Part | None:
    """Return which numbers of all pairs a value holds, or None where it holds something else.

    It may have a last axis of one element more than what it is a part of.
    """
    single = producer(value, "Squeeze")
    taken = value if single is None or not _is_at_end(single) else single.inputs[0]
    node = taken.producer() if taken is not None else None
    source = node.inputs[0] if node is not None and is_standard(node) and node.op_type in TAKING else None
    dims = dims_of(source)
    if node is None or source is None or not dims or not isinstance(dims[-1], int):
        return None
    assert taken is not None
    places = _places(taken, node, range(dims[-1]), len(dims) - 1)
    whole = _apart(source)
    if whole is not None:
        return _Part(whole, places[0] == 1, side_by_side=True) if places is not None and len(places) == 1 else None
    ways = [(second, side_by_side) for second in (False, True) for side_by_side in (False, True)]
    kinds = {way: _numbers(range(dims[-1]), *way) for way in ways}
    return next((_Part(source, *way) for way, numbers in kinds.items() if places == numbers), None)


def _numbers(places: range, second: bool, side_by_side: bool) -> range:
    """Return where the first or the second numbers of all pairs stand along an axis."""
    if side_by_side:
        return places[int(second) :: PAIR]
    half = len(places) // PAIR
    return places[half:] if second else places[:half]


def _apart(source: ir.Value) -> ir.Value | None:
    """Return what a value [..., width / 2, 2] was reshaped from, [..., width], or None."""
    reshape = producer(source, "Reshape")
    whole = reshape.inputs[0] if reshape is not None else None
    dims, own = dims_of(whole), dims_of(source)
    if dims is None or own is None or len(own) != len(dims) + 1 or own[-1] != PAIR or not isinstance(own[-2], int):
        return None
    return whole if own[:-2] == dims[:-1] and dims[-1] == PAIR * own[-2] else None


def _places(value: ir.Value, node: ir.Node, places: range, last: int) -> range | None:
    """Return which places of the last axis a Slice, a Gather of one or one output of two of a Split takes, or None."""
    if node.op_type == "Split":
        return _split(value, node, places, last)
    given = [sizes_of(each) if is_constant(each) else None for each in node.inputs[1:]]
    if node.op_type == "Gather" and number(node, "axis", 0) in (-1, last):
        match given:
            case [[int() as at]] if -len(places) <= at < len(places):
                return places[at : at + 1 or None]
    if node.op_type == "Slice" and len(given) in (3, 4) and given[2] in ([-1], [last]):
        match [*given, [1]][:4]:
            case [[int() as start], [int() as end], _, [int() as step]] if step > 0:
                return places[start:end:step]
    return None


def _split(value: ir.Value, node: ir.Node, places: range, last: int) -> range | None:
    """Return which places one of two outputs of a Split takes, or None."""
    size = (dims_of(value) or [""])[-1] if number(node, "axis", 0) in (-1, last) and len(node.outputs) == PAIR else ""
    if not isinstance(size, int):
        return None
    return places[:size] if value.index() == 0 else places[len(places) - size :]


def are_alike(value: ir.Value | None, *, side_by_side: bool) -> bool:
    """Whether both numbers of each pair of a value are the same in every run."""
    if value is not None and is_constant(value):
        array = np.atleast_1d(array_of(value))
        places = range(array.shape[-1])
        first, second = (array[..., list(_numbers(places, which, side_by_side))] for which in (False, True))
        return bool(np.array_equal(first, second))
    node, dims = value.producer() if value is not None else None, dims_of(value)
    if node is None or dims is None or not is_standard(node):
        return False
    if node.op_type in ("Concat", "Tile", "Reshape"):
        return _each_twice(node, dims) if side_by_side else _twice(node, dims)
    read = dict.fromkeys(_read_alike(node, dims))
    return bool(read) and all(
        scalar_of(each) is not None or are_alike(each, side_by_side=side_by_side) for each in read
    )


def _read_alike(node: ir.Node, dims: list[int | str]) -> list[ir.Value | None]:
    """Return what has to be alike for what a node gives to be; nothing where that does not tell."""
    if node.op_type in ("Mul", "Div"):
        return list(node.inputs)
    if node.op_type in AXES_AT:
        axes = sizes_of(next(iter(node.inputs[AXES_AT[node.op_type] :]), None))
        return [] if axes is None or {-1, len(dims) - 1} & set(axes) else [node.inputs[0]]
    if node.op_type == "Transpose" and "perm" in node.attributes:
        return [node.inputs[0]] if node.attributes["perm"].as_ints()[-1] == len(dims) - 1 else []
    return [node.inputs[0]] if node.op_type in ELEMENTWISE or _by_position(node) else []


def _twice(node: ir.Node, dims: list[int | str]) -> bool:
    """Whether a Concat or Tile puts two equal halves together along the last axis."""
    if node.op_type == "Concat":
        return _is_last(node, dims) and len(node.inputs) == PAIR and node.inputs[0] is node.inputs[1]
    times = (sizes_of(node.inputs[1]) or [1])[-1] if node.op_type == "Tile" else 0
    return isinstance(times, int) and times > 0 and times % PAIR == 0


def _each_twice(reshape: ir.Node, dims: list[int | str]) -> bool:
    """Whether a Reshape puts [..., 1] side by side that were repeated to, or joined with themselves as, [..., 2]."""
    source = reshape.inputs[0] if reshape.op_type == "Reshape" else None
    node = source.producer() if source is not None else None
    own = dims_of(source)
    if node is None or own is None or own[-1] != PAIR or not isinstance(dims[-1], int) or dims[-1] % PAIR:
        return False
    if node.op_type == "Expand":
        return (dims_of(node.inputs[0]) or [0])[-1] == 1
    return node.op_type == "Concat" and _twice(node, own)


def _by_position(node: ir.Node) -> bool:
    """Whether a node looks rows up in a constant table."""
    if node.op_type not in ("Gather", "GatherND"):
        return False
    table, first = node.inputs[0], number(node, "axis", 0) == 0 and number(node, "batch_dims", 0) == 0
    if table is None or not is_constant(table) or not first or array_of(table).ndim < PAIR:
        return False
    single = node.op_type == "GatherND" and (dims_of(node.inputs[1]) or [0])[-1] == 1
    return single or node.op_type == "Gather"
