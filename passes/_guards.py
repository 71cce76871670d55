"""Guards against NaN behind a softmax, whichever way they are written."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mlc.fusion import dims_of, is_standard, producer, scalar_of
from passes._attention import with_own_sources


@dataclass(frozen=True)
class Guard:
    """A Softmax, its nodes with those of a guard, and what the guard puts in the place of NaN."""

    softmax: ir.Node
    nodes: list[ir.Node]
    instead: ir.Value

    @property
    def gives_zero(self) -> bool:
        """Whether NaN becomes 0: one number, or as many as there are probabilities."""
        spread = producer(self.instead, "Expand") is not None
        return _is_zero(self.instead) and not (spread and dims_of(self.instead) != dims_of(self.softmax.outputs[0]))


def guard_of(value: ir.Value | None) -> Guard | None:
    """Return the guard that gives a value, or None: ``where(isnan(s), 0, s)`` of a softmax s, or what is the same."""
    where, soft = producer(value, "Where"), _softmax_behind(value)
    if where is None or soft is None or _chosen(value, soft, nan=False) is not soft:
        return None
    softmax, instead = producer(soft, "Softmax"), _chosen(value, soft, nan=True)
    if softmax is None or instead is None or instead is soft:
        return None
    return Guard(softmax, with_own_sources([where, softmax], softmax.inputs), instead)


def _softmax_behind(value: ir.Value | None) -> ir.Value | None:
    """Return the first softmax that a value, chosen by one Where or several, may be."""
    where = producer(value, "Where")
    if where is None:
        return value if producer(value, "Softmax") is not None else None
    return next(filter(None, map(_softmax_behind, where.inputs[1:])), None)


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is one 0, or as many as an Expand makes of it."""
    expand = producer(value, "Expand")
    number = value if expand is None else expand.inputs[0]
    return scalar_of(number) == 0


def _chosen(value: ir.Value | None, soft: ir.Value, *, nan: bool) -> ir.Value | None:
    """Return which value is chosen where a softmax gives NaN, or numbers; None where that is not known."""
    where = producer(value, "Where")
    if where is None:
        return value
    condition, first, second = where.inputs
    holds = _holds(condition, soft, nan=nan)
    return None if holds is None else _chosen(first if holds else second, soft, nan=nan)


def _holds(condition: ir.Value | None, soft: ir.Value, *, nan: bool) -> bool | None:
    """Return whether a condition holds where a softmax gives NaN, or numbers; None where that is not known.

    A softmax gives no infinity.
    """
    node = condition.producer() if condition is not None else None
    if node is None or not is_standard(node):
        return None
    if node.op_type in ("Equal", "IsInf", "IsNaN"):
        chosen = _chosen(node.inputs[0], soft, nan=nan)
        if node.inputs[-1] is not node.inputs[0] or not (chosen is soft or _is_zero(chosen)):
            return None
        is_nan = nan and chosen is soft
        return {"Equal": not is_nan, "IsInf": False, "IsNaN": is_nan}[node.op_type]
    if node.op_type not in ("And", "Not", "Or"):
        return None
    held = [_holds(value, soft, nan=nan) for value in node.inputs]
    if node.op_type == "Not":
        return None if held[0] is None else not held[0]
    settling = node.op_type == "Or"  # one operand that holds settles an Or, one that does not an And
    return settling if settling in held else None if None in held else not settling
