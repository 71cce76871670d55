"""``if mask.any():`` in forward: traced as where something is masked, which has to give the same where nothing is.

Code leaves out a mask that masks nothing: ``if not padding.any(): padding = None``. The way with the mask is the
general one. That it stands for the other is no more than a guess until the original took both ways on inputs that the
export was compared on: where it did not, the export is refused.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlc.errors import first_line
from mlc.exporting.frames import user_frame

MOST = 100
"""How often one line is answered in a trace: one that asks on is the condition of a loop, which would have no end."""

CALLED = ", called at "
"""What stands between a line and where it is called from."""

SIMPLE = (
    ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Raise, ast.Import, ast.ImportFrom, ast.Pass, ast.Assert,
    ast.Delete,
)  # fmt: skip
"""Statements that have no branches of their own."""

NUMBERS = {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist}
"""What makes numbers of tensors, which a trace refuses where they hang on values."""

MODES = "overrides.py"
"""Where torch goes from one mode to the next."""

OURS, TORCH = Path(__file__).parents[1], Path(torch.__file__).parent

GENERAL = {"any": True, "all": False}
"""What is answered where a mask masks something."""

IDLE = {name: not answer for name, answer in GENERAL.items()}
"""What is answered where a mask masks nothing."""


class Asked(TorchFunctionMode):
    """Notes which lines ask whether any or all of a mask is true, and the answers; a trace gets those ``given``."""

    def __init__(self, given: Mapping[str, bool] = GENERAL) -> None:
        super().__init__()
        self._given = given
        self.lines: dict[str, set[bool]] = {}
        self._refused: list[Exception] = []
        self.checks: dict[str, str] = {}
        self._last: _Place | None = None
        self._visits: Counter[str] = Counter()
        self._answers: dict[int, tuple[Tensor, bool]] = {}  # held, since ids of what is gone come again

    def __enter__(self) -> Self:
        """Begin to count how often each line asks, which is done anew for each call of forward."""
        self._visits.clear()
        self._refused.clear()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note questions over a whole mask, and answer them where a trace cannot."""
        name = getattr(func, "__name__", "")
        if func is Tensor.__bool__ and id(args[0]) in self._answers and (place := _place()):
            _, given = self._answers[id(args[0])]
            self._visits[place.line] += 1
            known = torch.compiler.is_exporting() and self._visits[place.line] <= MOST
            self._last = place
            if known and place.line in self.checks:
                return not given
            answer = given if known else bool(func(*args))
            self.lines.setdefault(f"{place.line}, {self._visits[place.line]}", set()).add(answer)
            return answer
        try:
            returned = func(*args, **(kwargs or {}))
        except Exception as refused:
            if func in NUMBERS and torch.compiler.is_exporting() and _asked_by_model():
                self._refused.append(refused)
            raise
        if name in self._given and len(args) == 1 and not kwargs and getattr(args[0], "dtype", None) == torch.bool:
            self._answers[id(returned)] = (returned, self._given[name])
        return returned

    def is_check(self, raised: BaseException) -> bool:
        """Whether the line of the last answer does nothing but raise on it; from now on it gets the other one.

        Such a line checks what it is given: ``if torch.isnan(x).any(): raise ValueError``. No graph can.
        """
        last, frames = self._last, traceback.extract_tb(raised.__traceback__)
        if last is None or last.line in self.checks or not frames or frames[-1].filename != last.file:
            return False
        if not _raises_alone(last.file, last.number, frames[-1].lineno or 0):
            return False
        self.raise_otherwise({last.line: f"{type(raised).__name__}: {first_line(raised)}"})
        return True

    def raise_caught(self) -> None:
        """Raise what a trace refused and forward caught, as ``except Exception`` does: it took another way for that."""
        if self._refused:
            raise self._refused[0]

    def raise_otherwise(self, checks: Mapping[str, str]) -> None:
        """Take lines, and what each raises, for checks, of which no way but one is ever taken."""
        self.checks.update(checks)
        for line in [line for line in self.lines if without_visit(line) in checks]:
            del self.lines[line]


def without_visit(line: str) -> str:
    """Return a line with where it is called from, without how often it had asked."""
    return line.rpartition(", ")[0]


def asked_notes(asked: Asked) -> tuple[str, ...]:
    """Return a note where a trace was given answers, and one for each check that no graph makes."""
    told = " and ".join(dict.fromkeys(line.partition(CALLED)[0] for line in asked.lines))
    masked = f"traced as where something is masked, compared where nothing is too: {told}"
    checks = dict.fromkeys((line.partition(CALLED)[0], what) for line, what in asked.checks.items())
    left_out = (f"the exported model does not check what raises {what} at {line}" for line, what in checks)
    return (*((masked,) if told else ()), *left_out)


@dataclass(frozen=True)
class _Place:
    """A line that asks, as it is told, with where it is called from; and in which file it stands where."""

    line: str
    file: str
    number: int


def _place() -> _Place | None:
    """Return the line that asks, and from where it is called, or None where it is none of the model.

    One line may ask for the masks of an encoder and of a decoder, or for two at once, at other places of its bytecode:
    each has to be seen both ways.
    """
    stack = [(frame, frame.f_code.co_filename, number) for frame, number in traceback.walk_stack(sys._getframe(2))]  # noqa: SLF001
    text = user_frame([(file, n, frame.f_code.co_name, linecache.getline(file, n)) for frame, file, n in stack[::-1]])
    asking = itertools.dropwhile(lambda one: _is_of(one[1], OURS, TORCH), stack)
    calls = [*itertools.takewhile(lambda one: not _is_of(one[1], OURS), asking)]
    places = [f"{Path(file).name}:{n}+{frame.f_lasti}" for frame, file, n in calls if not _is_of(file, TORCH)]
    if not text or not calls:
        return None
    return _Place(f"{text}{CALLED}{', '.join(places)}", calls[0][1], calls[0][2])


def _asked_by_model() -> bool:
    """Whether it is a line of the model itself that asks: torch, where it tries what it may not know, has an answer."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(2))]  # noqa: SLF001
    asking = next((file for file in files if not _is_of(file, OURS) and Path(file).name != MODES), "")
    return not _is_of(asking, TORCH)


def _raises_alone(file: str, asking: int, raising: int) -> bool:
    """Whether the statement that asks in a line of a file is an assertion, or an if of which a branch only raises."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and _holds([node], asking) and _holds([node], raising):
            return True
        if isinstance(node, ast.If) and _holds([node.test], asking):
            branch = next((part for part in (node.body, node.orelse) if part and _holds(part, raising)), None)
            if branch is not None:
                return isinstance(branch[-1], ast.Raise) and all(isinstance(one, SIMPLE) for one in branch)
    return False


def _holds(nodes: Sequence[ast.expr | ast.stmt], number: int) -> bool:
    return nodes[0].lineno <= number <= (nodes[-1].end_lineno or 0)


def _is_of(file: str, *folders: Path) -> bool:
    return not {*folders}.isdisjoint(Path(file).parents)
