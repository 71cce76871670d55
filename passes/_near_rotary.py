"""Rotary embeddings that are written in another way than RotaryEmbedding is found by, and what the other way is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import onnx_ir as ir

from mlc.fusion import array_of, dims_of, is_constant, is_standard, producer
from passes._attention import AXES

APART = "the parts are not rotated to first * cos - second * sin and second * cos + first * sin"
NO_HALVES = "what is negated and exchanged are neither the two halves of the last axis nor its neighbours"

PARTS = frozenset({"Gather", "Slice", "Split"})

REARRANGING = PARTS | {"Cast", "Concat", "Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""What puts parts of a value into another order."""

OF_ANGLES = REARRANGING | {"Div", "Expand", "Mul"}
"""What cosines and sines go through on their way to a product."""


def near_rotary(node: ir.Node) -> str:
    """Return why what ends at a node is no RotaryEmbedding, or nothing where it is not like a rotation at all."""
    if node.op_type == "Concat":
        return _joined(node)
    for plain, turned in (node.inputs, node.inputs[::-1]):
        straight, crossed = _factors(plain), _factors(turned)
        for value in crossed.values:
            found = _rearranged(value, straight.values)
            if found is None:
                continue
            others = [each for each in (*straight.values, *crossed.values) if each not in (found.source, value)]
            if {"Concat", "Neg"} <= found.types or ("Concat" in found.types and _are_angles(others)):
                return _reason(node, found, straight, crossed)
    return ""


@dataclass
class _Factors:
    """What a value is the product of, and the types of the nodes that multiply it."""

    values: list[ir.Value] = field(default_factory=list)
    types: set[str] = field(default_factory=set)


def _factors(value: ir.Value | None) -> _Factors:
    """Return what a value is the product of; none where it is no product."""
    found, waiting = _Factors(), [value]
    seen: set[ir.Node] = set()
    while waiting:
        each = waiting.pop()
        node = producer(each, "Mul") or producer(each, "Cast")
        if node is not None and node not in seen:
            seen.add(node)
            found.types.add(node.op_type)
            waiting += node.inputs
        elif each is not None:
            found.values.append(each)
    return found if "Mul" in found.types else _Factors()


@dataclass(frozen=True)
class _Rearranged:
    """What a value holds parts of alone, and the nodes that put them there, with their types."""

    source: ir.Value
    types: set[str]
    nodes: list[ir.Node]


def _rearranged(value: ir.Value | None, sources: list[ir.Value]) -> _Rearranged | None:
    """Return how parts of one of several values become a value, or None where it holds parts of none, or others."""
    nodes: dict[ir.Node, None] = {}
    found, waiting = set(), [value]
    while waiting:
        each = waiting.pop()
        node = each.producer() if each is not None else None
        if each in sources or node is None or not is_standard(node) or node.op_type not in REARRANGING:
            found.add(each)
        elif node not in nodes:
            nodes[node] = None
            waiting += node.inputs if node.op_type == "Concat" else node.inputs[:1]
    source = next(iter(found))
    types = {node.op_type for node in nodes}
    if len(found) > 1 or source is None or source not in sources or not PARTS & types:
        return None
    return _Rearranged(source, types, list(nodes))


def _reason(node: ir.Node, found: _Rearranged, straight: _Factors, crossed: _Factors) -> str:
    """Return which part of ``x * cos + concat(-x2, x1) * sin`` is another one."""
    negated = _negated(found.nodes)
    reasons = (
        (not any(negated), "no half of what is exchanged is negated"),
        (sum(each.op_type == "Concat" for each in found.nodes) > 1, "the parts of a head are rotated each by itself"),
        (negated == [False, True], "the first half is negated, and not the second"),
        (negated != [True, False], NO_HALVES),
        (node.op_type == "Sub", "the product with the sine is subtracted, and not added"),
        ("Cast" in straight.types | crossed.types | found.types, "another type is computed in on the way"),
        (len(straight.values + crossed.values) > 4, "there is another factor beside the cosine or the sine"),
    )
    return next((reason for holds, reason in reasons if holds), NO_HALVES)


def _negated(nodes: list[ir.Node]) -> list[bool]:
    """Return which operands of the Concat that comes last are negated: nodes stand in the order of the way back."""
    concat = next(node for node in nodes if node.op_type == "Concat")
    return [_is_negated(value) for value in concat.inputs]


def _is_negated(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node) or node.op_type not in REARRANGING:
        return False
    return node.op_type == "Neg" or _is_negated(node.inputs[0])


def _joined(concat: ir.Node) -> str:
    """Return why two parts that are rotated and joined are none that is found, or nothing where they are not."""
    ends = [node for node in map(_bare, concat.inputs) if node is not None]
    if len(concat.inputs) != 2 or sorted(node.op_type for node in ends) != ["Add", "Sub"]:
        return ""
    products = [_factors(value).values for node in ends for value in node.inputs]
    times = Counter(value for each in products for value in each)
    if list(times.values()) != [2] * 4 or any(len(each) != 2 for each in products):
        return ""
    for angles in combinations(times, 2):
        ways = [_taken(value) for value in times if value not in angles]
        sources = {way[-1].inputs[0] for way in ways if way}
        if all(ways) and len(sources) == 1 and _are_by_head(ways[0][0].outputs[0]) and _are_angles(angles):
            return APART
    return ""


def _bare(value: ir.Value | None) -> ir.Node | None:
    """Return what gives a value, before it got another axis."""
    node = producer(value, "Unsqueeze")
    given = value if node is None else node.inputs[0]
    return given.producer() if given is not None else None


def _taken(value: ir.Value | None) -> list[ir.Node]:
    """Return the nodes that take a value from another one, the one that takes last; none where it is whole."""
    nodes: list[ir.Node] = []
    while value is not None and (node := value.producer()) is not None and is_standard(node):
        nodes.append(node)
        if node.op_type in PARTS:
            return nodes
        if node.op_type not in ("Cast", "Reshape", "Squeeze"):
            break
        value = node.inputs[0]
    return []


def _are_by_head(value: ir.Value) -> bool:
    """Whether a value has an axis for each of batch, heads, length and width: points of a plane have fewer."""
    dims = dims_of(value) or []
    return len(dims if dims[-1:] != [1] else dims[:-1]) >= AXES


def _are_angles(values: Iterable[ir.Value]) -> bool:
    """Whether values are cosines and sines: computed, or constants whose squares add to one."""
    roots = [_roots(value) for value in values]
    if {"Cos", "Sin"} <= {root.op_type for each in roots for root in each if isinstance(root, ir.Node)}:
        return True
    tables = [array_of(root).astype(np.float64) for each in roots for root in each if isinstance(root, ir.Value)]
    pairs = [(one, other) for one, other in combinations(tables, 2) if one.shape == other.shape]
    return any(np.allclose(one**2 + other**2, 1, atol=1e-3) for one, other in pairs)


def _roots(value: ir.Value | None) -> list[ir.Node | ir.Value]:
    """Return each Cos and Sin and each constant of more than one number that a value is made of."""
    roots: list[ir.Node | ir.Value] = []
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        node = each.producer()
        if is_constant(each):
            roots += [each] if array_of(each).dtype.kind == "f" and array_of(each).size > 1 else []
        elif node is not None and is_standard(node) and node.op_type in ("Cos", "Sin"):
            roots.append(node)
        elif node is not None and is_standard(node) and node.op_type in OF_ANGLES:
            waiting += node.inputs if node.op_type in ("Concat", "Mul") else node.inputs[:1]
    return roots
