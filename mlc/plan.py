"""What is quantized how: the format of every node of a graph, with the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlc.errors import UsageError
from mlc.formats import INT8_STATIC, static_choices
from mlc.formats.coverage import Choice
from mlc.types import Capabilities, NodePlan, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT = "float"
FORMATS = (INT8_STATIC,)


def make_plan(model: ir.Model, format: str, capabilities: Capabilities) -> Plan:  # noqa: A002 - the word of the field
    """Return the format of every node of the main graph, in its order; nodes in subgraphs stay float.

    Raises UsageError for a format that does not exist.
    """
    if format not in FORMATS:
        raise UsageError(f"no format is called {format!r}", f"there is: {', '.join(FORMATS)}")
    weights = "weights safe from saturation" if capabilities.saturates else "weights of full 8 bits"
    return Plan(tuple(_entry(choice, weights) for choice in static_choices(model)))


def _entry(choice: Choice, weights: str) -> NodePlan:
    node = choice.node
    if not choice.int8:
        return NodePlan(choice.site, node.op_type, FLOAT, choice.reason)
    reason = f"{choice.reason}, {weights}" if choice.weighted else choice.reason
    return NodePlan(choice.site, node.op_type, INT8_STATIC, reason)


def plan_toml(plan: Plan) -> str:
    """Return a plan as TOML: one table ``[[node]]`` for each node, in the graph's order."""
    return "\n".join(_table(entry) for entry in plan.nodes)


def _table(entry: NodePlan) -> str:
    fields = {"name": entry.node, "op": entry.op, "format": entry.format, "reason": entry.reason}
    return "[[node]]\n" + "".join(f"{key} = {_string(text)}\n" for key, text in fields.items())


def _string(text: str) -> str:
    """Return a TOML basic string; JSON escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
