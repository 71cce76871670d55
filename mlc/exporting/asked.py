"""``if mask.any():`` in forward: traced as where something is masked, which has to give the same where nothing is.

Code leaves out a mask that masks nothing: ``if not padding.any(): padding = None``. The way with the mask is the
general one. That it stands for the other is no more than a guess until the original took both ways on inputs that the
export was compared on: where it did not, the export is refused.
"""

from __future__ import annotations

import itertools
import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
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
        self.checks: dict[str, str] = {}
        self._last = ""
        self._visits: Counter[str] = Counter()
        self._answers: dict[int, tuple[Tensor, bool]] = {}  # held, since ids of what is gone come again

    def __enter__(self) -> Self:
        """Begin to count how often each line asks, which is done anew for each call of forward."""
        self._visits.clear()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note questions over a whole mask, and answer them where a trace cannot."""
        name = getattr(func, "__name__", "")
        if func is Tensor.__bool__ and id(args[0]) in self._answers and (line := _line()):
            _, given = self._answers[id(args[0])]
            self._visits[line] += 1
            known = torch.compiler.is_exporting() and self._visits[line] <= MOST
            self._last = f"{line}, {self._visits[line]}"
            if known and self._last in self.checks:
                return not given
            answer = given if known else bool(func(*args))
            self.lines.setdefault(self._last, set()).add(answer)
            return answer
        returned = func(*args, **(kwargs or {}))
        if name in self._given and len(args) == 1 and not kwargs and getattr(args[0], "dtype", None) == torch.bool:
            self._answers[id(returned)] = (returned, self._given[name])
        return returned

    def is_check(self, raised: BaseException) -> bool:
        """Whether a line of the model raised what stopped a trace because of the last answer, which is another now.

        Such a line checks what it is given: ``if torch.isnan(x).any(): raise ValueError``. No graph can.
        """
        files = [Path(frame.filename) for frame in traceback.extract_tb(raised.__traceback__)]
        if not self._last or self._last in self.checks or not files or _is_of(str(files[-1]), OURS, TORCH):
            return False
        self.checks[self._last] = f"{type(raised).__name__}: {first_line(raised)}"
        self.lines.pop(self._last, None)
        self._last = ""
        return True


def asked_notes(asked: Asked) -> tuple[str, ...]:
    """Return a note where a trace was given answers, and one for each check that no graph makes."""
    told = " and ".join(dict.fromkeys(line.partition(CALLED)[0] for line in asked.lines))
    masked = f"traced as where something is masked, compared where nothing is too: {told}"
    checks = dict.fromkeys((line.partition(CALLED)[0], what) for line, what in asked.checks.items())
    left_out = (f"the exported model does not check what raises {what} at {line}" for line, what in checks)
    return (*((masked,) if told else ()), *left_out)


def _line() -> str:
    """Return the line that asks, and from where it is called, or nothing where it is none of the model.

    One line may ask for the masks of an encoder and of a decoder, or for two at once, at other places of its bytecode:
    each has to be seen both ways.
    """
    stack = [(frame, frame.f_code.co_filename, number) for frame, number in traceback.walk_stack(sys._getframe(2))]  # noqa: SLF001
    line = user_frame([(file, n, frame.f_code.co_name, linecache.getline(file, n)) for frame, file, n in stack[::-1]])
    asking = itertools.dropwhile(lambda one: _is_of(one[1], OURS, TORCH), stack)
    calls = itertools.takewhile(lambda one: not _is_of(one[1], OURS), asking)
    places = [f"{Path(file).name}:{n}+{frame.f_lasti}" for frame, file, n in calls if not _is_of(file, TORCH)]
    return f"{line}{CALLED}{', '.join(places)}" if line else ""


def _is_of(file: str, *folders: Path) -> bool:
    return not {*folders}.isdisjoint(Path(file).parents)
