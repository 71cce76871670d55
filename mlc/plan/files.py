"""A plan as TOML: one table for each node, written by every run that quantizes and editable by hand.

The options that a format's pass ran with stand in a table before them, so that the plan alone gives the same model.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlc.errors import UsageError
from mlc.grammar import nearest
from mlc.grammar.formats import FORMATS, MIXED
from mlc.grammar.values import parse_pass, pass_text
from mlc.types import FLOAT, NodePlan, PassSpec, Plan

KEYS = ("name", "op", "format", "reason")

NO_REMARKS: Mapping[str, str] = {}


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read, and the passes of its formats that it gives options."""

    plan: Plan
    passes: tuple[PassSpec, ...] = ()


def plan_toml(plan: Plan, passes: Iterable[PassSpec] = (), remarks: Mapping[str, str] = NO_REMARKS) -> str:
    """Return a plan as TOML: one table ``[[node]]`` for each node, in the graph's order.

    ``passes`` are those of its formats; ``[options]`` holds those of each that has some, as ``--pass`` takes them.
    ``remarks`` on nodes stand in comments, which nobody reads back.
    """
    used = {entry.format for entry in plan.nodes}
    texts = {spec.name: pass_text(spec).partition(":")[2] for spec in passes if spec.name in used and spec.options}
    options = ["[options]\n" + "".join(f"{name} = {_string(text)}\n" for name, text in texts.items())] if texts else []
    return "\n".join([*options, *(_table(entry, remarks.get(entry.node, "")) for entry in plan.nodes)])


def read_plan(path: Path) -> PlanFile:
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
        if key not in ("node", "options"):
            raise UsageError(f"{path}: there is no key {key!r} in a plan", "write one [[node]] for each node")
    nodes = tables.get("node", [])
    if not isinstance(nodes, list) or not nodes:
        raise UsageError(f"the plan {path} names no node", "write one [[node]] for each node, with name and format")
    entries = [_entry(path, place, table) for place, table in enumerate(nodes, 1)]
    times = Counter(entry.node for entry in entries)
    twice = next((name for name, count in times.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: the node {twice} is named twice", "leave one of the two")
    options = _options(path, tables.get("options", {}), {entry.format for entry in entries} - {FLOAT})
    return PlanFile(Plan(tuple(entries)), options)


def _options(path: Path, table: object, used: set[str]) -> tuple[PassSpec, ...]:
    hint = 'write it as int8-static = "method=mse"'
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise UsageError(f"{path}: [options] has a text for each format", hint)
    for name in table:
        if name not in used:
            raise UsageError(f"{path}: [options] names {name}, which no node has", nearest(name, sorted(used)))
    with naming_options(path):
        return tuple(parse_pass(f"{name}:{text}") for name, text in table.items())


@contextmanager
def naming_options(path: Path) -> Iterator[None]:
    """Say of wrong options that it is those of a plan's file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: [options]: {error.message}", error.hint) from error


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


def _table(entry: NodePlan, remark: str) -> str:
    fields = {"name": entry.node, "op": entry.op, "format": entry.format, "reason": entry.reason}
    head = f"# {_string(remark)[1:-1]}\n[[node]]\n" if remark else "[[node]]\n"
    return head + "".join(f"{key} = {_string(text)}\n" for key, text in fields.items())


def _string(text: str) -> str:
    """Return a TOML basic string; JSON escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
