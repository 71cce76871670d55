"""``if mask.any():`` in forward: traced as where something is masked, which has to give the same where nothing is.

Code leaves out a mask that masks nothing: ``if not padding.any(): padding = None``. The way with the mask is the
general one. That it stands for the other is no more than a guess until the original took both ways on inputs that the
export was compared on: where it did not, the export is refused.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlc.compare import Reference
from mlc.errors import SourceError
from mlc.exporting.frames import user_frame
from mlc.probes import probe
from mlc.sources.original import Original

if TYPE_CHECKING:
    from mlc.types import Arrays

SEEDS = 8
"""How often inputs are drawn anew at every size, until both ways were taken."""

CALLED = ", called at "
"""What stands between a line and where it is called from."""

OURS, TORCH = Path(__file__).parents[1], Path(torch.__file__).parent

GENERAL = {"any": True, "all": False}
"""What is answered where a mask masks something."""


class Asked(TorchFunctionMode):
    """Notes which lines ask whether any or all of a mask is true, and the answers; a trace gets the general ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, set[bool]] = {}
        self._answers: dict[int, tuple[Tensor, bool]] = {}  # held, since ids of what is gone come again

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note questions over a whole mask, and answer them where a trace cannot."""
        name = getattr(func, "__name__", "")
        if func is Tensor.__bool__ and id(args[0]) in self._answers and (line := _line()):
            _, general = self._answers[id(args[0])]
            answer = general if torch.compiler.is_exporting() else bool(func(*args))
            self.lines.setdefault(line, set()).add(answer)
            return answer
        returned = func(*args, **(kwargs or {}))
        if name in GENERAL and len(args) == 1 and not kwargs and getattr(args[0], "dtype", None) == torch.bool:
            self._answers[id(returned)] = (returned, GENERAL[name])
        return returned


def asked_note(lines: Iterable[str]) -> tuple[str, ...]:
    """Return a note where a trace was given answers."""
    told = " and ".join(dict.fromkeys(line.partition(CALLED)[0] for line in lines))
    return (f"traced as where something is masked, compared where nothing is too: {told}",) if told else ()


def _line() -> str:
    """Return the line that asks, and from where it is called, or nothing where it is none of the model.

    One line may ask for the masks of an encoder and of a decoder: each has to be seen both ways.
    """
    stack = traceback.extract_stack()[:-2]
    line = user_frame([(frame.filename, frame.lineno or 0, frame.name, frame.line or "") for frame in stack])
    asking = itertools.dropwhile(lambda frame: _is_of(frame, OURS, TORCH), reversed(stack))
    calls = itertools.takewhile(lambda frame: not _is_of(frame, OURS), asking)
    places = [f"{Path(call.filename).name}:{call.lineno}" for call in calls if not _is_of(call, TORCH)]
    return f"{line}{CALLED}{', '.join(places)}" if line else ""


def _is_of(frame: traceback.FrameSummary, *folders: Path) -> bool:
    return not {*folders}.isdisjoint(Path(frame.filename).parents)


def both_ways(original: Original, lines: Iterable[str], kept: Sequence[Reference]) -> tuple[Reference, ...]:
    """Return answers of the original on further inputs, so that with what is kept each line took both of its ways.

    They are drawn at the sizes that are kept. Raises SourceError for a line that takes one way however they are drawn.
    """
    left = {line: {True, False} for line in lines}
    for reference in kept:
        _took(original, reference.inputs, left)
    more = []
    for seed, reference in itertools.product(range(1, SEEDS + 1), kept):
        if not any(left.values()):
            break
        drawn = probe(original.signature.inputs, reference.sizes, {}, None, seed)
        if _took(original, drawn, left):
            more.append(Reference(reference.sizes, drawn, original.run(drawn)))
    for line, ways in left.items():
        if ways:
            raise SourceError(
                f"what the model computes hangs on the values of its inputs at {line.partition(CALLED)[0]}, "
                f"and none that was tried makes it {ways.pop()}",
                "declare values, or give samples, that make it so; or choose by torch.where(condition, a, b)",
            )
    return tuple(more)


def _took(original: Original, inputs: Arrays, left: dict[str, set[bool]]) -> bool:
    """Take out the ways that the original takes on inputs; return whether any was still left."""
    with Asked() as asked:
        original.run(inputs)
    before = sum(map(len, left.values()))
    for line, ways in asked.lines.items():
        left.get(line, set()).difference_update(ways)
    return sum(map(len, left.values())) < before
