"""Loops over the experts that some token was sent to, traced over all experts.

``for expert in hit:`` over ``hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()`` runs as often as the values of
a router say. Where the body does nothing but add what it computes of the rows that are selected, an expert without rows
adds nothing, and the loop over all gives the same. The code itself has to show that: see ``_selects``.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlc.exporting.recurrences.rolled import MODELS

HIT = re.compile(
    r"(?:torch\.(?:greater|gt)\((\w+)\.sum\([^()]*(?:\([^()]*\))?\), 0\)|\((\w+)\.sum\(.*\) > 0\))\.nonzero\(\)"
)
"""How the experts are found that any token was sent to, of a mask with one plane for each."""

COUNTS = r"(?:[\w.]+\.)?one_hot\([^()]*\)(?:\.permute\([\d, ]+\))?"
"""How a mask is made of zeros and ones: of others a plane can be empty in sum alone."""

SPARE = re.compile(r"one_hot\(\w+, num_classes=[\w.]+ \+ 1\)")
"""How transformers makes a mask with one plane more than there are experts, for tokens that are sent to none."""

TORCH = Path(torch.__file__).parent


class AllExperts(TorchFunctionMode):
    """Traces a loop over the positions of a mask as one over all of its places, where their bodies say that it may."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[int, tuple[Tensor, int]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note positions, and give all places where a loop runs over them."""
        if func is Tensor.unbind and id(args[0]) in self._positions:
            spare = _spare(_caller(sys._getframe()))  # noqa: SLF001
            if spare is not None:
                places = torch.arange(self._positions[id(args[0])][1] - spare)
                return places.unsqueeze(1).unbind(0)
        returned = func(*args, **(kwargs or {}))
        if func in (Tensor.nonzero, torch.nonzero) and isinstance(returned, Tensor) and args:
            sizes = args[0].shape
            if len(sizes) == 1 and isinstance(sizes[0], int):
                self._positions[id(returned)] = (returned, sizes[0])
        return returned


def _caller(frame: FrameType) -> FrameType:
    """Return the innermost frame that is neither torch's nor of this file."""
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or TORCH in Path(frame.f_code.co_filename).parents
    ):
        frame = frame.f_back
    return frame


def _spare(frame: FrameType) -> int | None:
    """Return how many planes at the end of the mask stand for no expert, or None where the loop may not run over all.

    It may where its iterations only add to the rows that they select. In other code than that of transformers the last
    plane may be an expert's, such as one that all share.
    """
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        (function,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, SyntaxError, ValueError):
        return None
    line = frame.f_lineno - first + 1
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For) and node.iter.lineno == line]
    theirs = frame.f_globals.get("__name__", "").startswith(MODELS)
    if len(loops) != 1 or not _selects(loops[0], function, theirs):
        return None
    return int(theirs and SPARE.search(ast.unparse(function)) is not None)


def _selects(loop: ast.For, function: ast.stmt, theirs: bool) -> bool:
    """Whether all that stays of a loop's iteration is what it adds to the rows that its plane of the mask selects.

    What ``theirs`` is, code of transformers, may take the mask from elsewhere: it is one of zeros and ones there.
    """
    mask = _mask(loop.iter, function)
    if mask is None or not isinstance(loop.target, ast.Name) or loop.orelse:
        return False
    expert = loop.target.id
    selection = rf"torch\.where\({mask}\[{expert}\](?:\.squeeze\(0\))?\)(?:\[\d\])?"
    made_of = ".*" if theirs else rf"(?:{COUNTS}|{mask}\.permute\([\d, ]+\))"
    known = rf"{mask} = {made_of}|\w+ = {HIT.pattern}|.* = {selection}"
    if not all(re.fullmatch(known, use) for use in _uses(mask, function)):
        return False
    statements = list(_flat(loop.body))
    made = {expert}
    rows: set[str] = set()
    stored = {name for statement in statements for name in _names(statement, ast.Store)}
    for statement in statements:
        if not {name for name in _names(statement, ast.Load) if name in stored} <= made:
            return False  # carried over from the iteration before
        if expert in _names(statement, ast.Store) and ast.unparse(statement) != f"{expert} = {expert}[0]":
            return False  # another plane is selected then
        if isinstance(statement, ast.Assign) and all(map(_is_plain, statement.targets)) and not _writes(statement):
            made |= _names(statement, ast.Store)
            selected = re.fullmatch(selection, ast.unparse(statement.value))
            rows = rows | _names(statement, ast.Store) if selected else rows - _names(statement, ast.Store)
        elif not (_skips(statement) or _adds(statement, rows)):
            return False
    return not stored & _read_after(loop, function)


def _mask(hit: ast.expr, function: ast.AST) -> str | None:
    """Return the name of the mask whose planes that are not empty are looped over, or None."""
    if not isinstance(hit, ast.Name):
        return None
    found = [
        HIT.fullmatch(ast.unparse(node.value))
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and hit.id in _names(node, ast.Store)
    ]
    return found[0][1] or found[0][2] if len(found) == 1 and found[0] else None


def _uses(name: str, function: ast.AST) -> list[str]:
    """Return the statements that a name stands in; those that hold others only read it where they begin."""
    return [
        ast.unparse(node)
        for node in ast.walk(function)
        if isinstance(node, ast.stmt) and not hasattr(node, "body")
        if any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))
    ]


def _writes(statement: ast.stmt) -> bool:
    """Whether a statement calls a method whose name says that it writes into a tensor."""
    names = [node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
    return any(name.endswith("_") and not name.endswith("__") for name in names)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, those inside of ``with torch.no_grad():`` as well."""
    for statement in body:
        if isinstance(statement, ast.With) and [ast.unparse(item) for item in statement.items] == ["torch.no_grad()"]:
            yield from _flat(statement.body)
        else:
            yield statement


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, context)}


def _is_plain(target: ast.expr) -> bool:
    """Whether a target of an assignment is a name or several: what it holds can be seen to be read or not."""
    return isinstance(target, ast.Name) or (isinstance(target, ast.Tuple) and all(map(_is_plain, target.elts)))


def _skips(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and all(isinstance(s, ast.Continue) for s in statement.body)
    )


def _adds(statement: ast.stmt, rows: set[str]) -> bool:
    """Whether a statement is ``sums.index_add_(0, rows, values)`` with selected rows."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "index_add_"
        and len(call.args) > 1
        and ast.unparse(call.args[0]) == "0"
        and isinstance(call.args[1], ast.Name)
        and call.args[1].id in rows
    )


def _read_after(loop: ast.For, function: ast.AST) -> set[str]:
    """Return the names that are read behind a loop."""
    last = loop.end_lineno or loop.lineno
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.lineno > last
    }
