"""Attentions that are spelled out and stay so: what stands between their products and their softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from mlc.fusion import dims_of, is_constant, is_standard, producer, scalar_of
from passes._attention import AXES

ON_THE_WAY = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Div", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Reshape", "Slice"}
    | {"Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"}
)
"""What scores and probabilities go through and are scores and probabilities still."""

NO_PRODUCT = "the scores are no product of queries and transposed keys"

SPELLED = "the attention is spelled out, not one Attention: fuse-attention says why"

IN_THE_PLACE = frozenset({"Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Tanh"})
"""What scores become weights by where they do not sum to one."""

MASKING = frozenset({"Add", "Where"})

SCALING = frozenset({"Div", "Mul"})

AXIS_BY_AXIS = frozenset({"Mul", "Div", "Reshape", "Transpose"})
"""What keys go through on their way to the product."""


@dataclass(frozen=True)
class Spelled:
    """``softmax(q @ k.T) @ v`` with whatever stands between; each of the ways begins behind where it is from.

    ``product`` are the scores, ``softmax`` their Softmax, what divides exponentials by their sum, or the function in
    its place; ``turned`` is whether the probabilities are the right operand of the last product.
    """

    product: ir.Node
    before: list[ir.Node]
    softmax: ir.Node
    behind: list[ir.Node]
    turned: bool

    def reason(self) -> str:
        """Return what keeps it from being one Attention."""
        if self.softmax.op_type in IN_THE_PLACE:
            return f"{self.softmax.op_type} stands in the place of the softmax"
        if self.turned:
            return "the probabilities stand behind what they are multiplied with, not before the values"
        if self.behind:
            return f"the probabilities {_passed(self.softmax, self.behind)} before they meet the values"
        if self.softmax.op_type != "Softmax":
            return "the softmax is spelled out"
        dims = dims_of(self.product.outputs[0])
        four = dims is not None and len(dims) == AXES
        return self._reason_of_scores() or (
            NO_PRODUCT if four else "the queries, keys and values do not have four axes"
        )

    def _reason_of_scores(self) -> str:
        """Return what happens to the scores that Attention does not do, or nothing."""
        masked = False
        for read, node in pairwise([self.product, *self.before]):
            other = _other(read, node)
            if node.op_type == "Where" and not any(scalar_of(value) is not None for value in node.inputs):
                return "scores are replaced with other values, and not with one number"
            if node.op_type in MASKING:
                if masked:
                    return "the scores have two masks, and Attention takes one"
                masked = True
            elif (
                node.op_type not in SCALING
                or scalar_of(other) is None
                or (node.op_type == "Div" and other is node.inputs[0])
            ):
                return f"the scores {_passed(read, [node])} before the softmax"
            elif masked:
                return "the scores are scaled behind the mask, not before"
        return ""


def spelled_attention(node: ir.Node) -> Spelled | None:
    """Return the attention whose last product a MatMul is, or None."""
    if node.op_type != "MatMul" or any(map(is_constant, node.inputs)):
        return None
    for value in node.inputs:
        behind = _way(value, _is_softmax)
        before = _way(_exponent(behind[0]), _is_scores) if behind is not None else None
        if behind is not None and before is not None:
            return Spelled(before[0], before[1:], behind[0], behind[1:], turned=value is node.inputs[1])
    return None


def _way(value: ir.Value | None, begins: Callable[[ir.Node], bool]) -> list[ir.Node] | None:
    """Return the nodes from one where something begins to the one that gives a value, or None."""
    seen: set[ir.Node] = set()
    waiting: list[tuple[ir.Value | None, list[ir.Node]]] = [(value, [])]
    while waiting:
        last, behind = waiting.pop()
        node = last.producer() if last is not None else None
        if node is None or node in seen or not is_standard(node):
            continue
        seen.add(node)
        if begins(node):
            return [node, *behind]
        mixes = node.op_type == "MatMul" and is_constant(node.inputs[1])
        if node.op_type in ON_THE_WAY or mixes:
            waiting += [(each, [node, *behind]) for each in reversed(node.inputs)]
    return None


def _is_softmax(node: ir.Node) -> bool:
    if node.op_type in IN_THE_PLACE:
        return _way(node.inputs[0], _is_scores) is not None
    return node.op_type in ("Softmax", "LogSoftmax") or (
        node.op_type == "Div" and producer(node.inputs[0], "Exp") is not None
    )


def _exponent(softmax: ir.Node) -> ir.Value | None:
    """Return what the softmax is of."""
    exponential = producer(softmax.inputs[0], "Exp") if softmax.op_type == "Div" else None
    return (softmax if exponential is None else exponential).inputs[0]


def _is_scores(node: ir.Node) -> bool:
    """Whether a node multiplies something that is computed with the transpose of something that is."""
    return node.op_type == "MatMul" and not any(map(is_constant, node.inputs)) and any(map(_is_transposed, node.inputs))


def _is_transposed(value: ir.Value | None) -> bool:
    """Whether the last axis of a value was another one before."""
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node) or node.op_type not in AXIS_BY_AXIS:
        return False
    if node.op_type != "Transpose":
        return _is_transposed(node.inputs[0])
    order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else [1, 0]
    return order[-1] != len(order) - 1


def _passed(read: ir.Node, nodes: list[ir.Node]) -> str:
    """Return what nodes do to what they read."""
    first, other = nodes[0], _other(read, nodes[0])
    if len(nodes) > 1 or first.op_type not in SCALING or other is None:
        *names, last = dict.fromkeys(node.op_type for node in nodes)
        return f"go through {', '.join(names)} and {last}" if names else f"go through {last}"
    number = scalar_of(other)
    factor = other.name if number is None else f"{number:g}"
    if first.op_type == "Mul":
        return f"are multiplied by {factor}"
    return f"are what {factor} is divided by" if other is first.inputs[0] else f"are divided by {factor}"


def _other(read: ir.Node, node: ir.Node) -> ir.Value | None:
    """Return the operand of a node that another node does not give."""
    return next((value for value in node.inputs if value not in read.outputs), None)
