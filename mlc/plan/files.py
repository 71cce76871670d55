"""A plan as TOML: one table for each node, written by every run that quantizes and editable by hand."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

from mlc.errors import UsageError
from mlc.grammar import nearest
from mlc.grammar.formats import FORMATS, MIXED
from mlc.types import FLOAT, NodePlan, Plan

KEYS = ("name", "op", "format", "reason")


def plan_toml(plan: Plan) -> str:
    """Return a plan as TOML: one table ``[[node]]`` for each node, in the graph's order."""
    return "\n".join(_table(entry) for entry in plan.nodes)


def read_plan(path: Path) -> Plan:
    """Read what ``plan_toml`` wrote and somebody may have edited; ``op`` and ``reason`` may be left out.

    Raises UsageError: no such file, no TOML, another table or key, a format that does not exist, a node named twice.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the plan {path} cannot be read: {error.strerror}", "name a plan.toml") from error
    except ValueError as error:
        hint = "each run that quantizes writes such a file beside its model"
        raise UsageError(f"the plan {path} is no TOML: {error}", hint) from error
    for key in tables:
        if key != "node":
            raise UsageError(f"{path}: there is no key {key!r} in a plan", "write one [[node]] for each node")
    nodes = tables.get("node", [])
    if not isinstance(nodes, list) or not nodes:
        raise UsageError(f"the plan {path} names no node", "write one [[node]] for each node, with name and format")
    entries = [_entry(path, place, table) for place, table in enumerate(nodes, 1)]
    times = Counter(entry.node for entry in entries)
    twice = next((name for name, count in times.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: the node {twice} is named twice", "leave one of the two")
    return Plan(tuple(entries))


def _entry(path: Path, place: int, table: object) -> NodePlan:
    where = f"{path}: node {place}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", "write [[node]] and one key a line")
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"{where} has no key {key!r}", nearest(key, KEYS))
        if not isinstance(value, str):
            raise UsageError(f"{where}: {key} is a text, not {value!r}", "put it in quotes")
    for key in ("name", "format"):
        if key not in table:
            raise UsageError(f"{where} has no {key}", "each node has its name and its format")
    known = (FLOAT, *(name for name in FORMATS if name != MIXED))
    if table["format"] not in known:
        raise UsageError(f"{where}: no format is called {table['format']!r}", nearest(table["format"], known))
    return NodePlan(table["name"], table.get("op", ""), table["format"], table.get("reason", "the plan's file says so"))


def _table(entry: NodePlan) -> str:
    fields = {"name": entry.node, "op": entry.op, "format": entry.format, "reason": entry.reason}
    return "[[node]]\n" + "".join(f"{key} = {_string(text)}\n" for key, text in fields.items())


def _string(text: str) -> str:
    """Return a TOML basic string; JSON escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
