"""The nouns of judging: a verdict on each limit, and everything that the report says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mlc.artifact import Origin, Step
from mlc.compare import Check
from mlc.explaining.nouns import Explanation
from mlc.layer_errors import LayerError
from mlc.measuring import Trial
from mlc.recipe import Recipe
from mlc.types import Interval, Machine, Plan, Signature

MET, MISSED, INCONCLUSIVE = "met", "missed", "inconclusive"
"""Outcomes of a verdict; the last two are outcomes of a run too."""

DONE, SLOWER, UNMODIFIED = "done", "slower", "unmodified"
"""Outcomes of a run: as asked; slower, but asked for by name; the unmodified export, since nothing was faster."""


@dataclass(frozen=True)
class Verdict:
    """One limit: what was asked, what was measured, and met, missed or inconclusive."""

    limit: str
    asked: str
    measured: str
    outcome: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Report:
    """Everything that is known at the end of a run, computed from the written artifact.

    ``trials`` are the baseline first, then the candidates; ``shipped`` names the one that was written. ``first_line``
    is what a hurried reader gets. ``command`` is ``compile``, or ``validate``, which writes nothing. ``recipe_text`` is
    the recipe.toml as written, ``loading`` the lines that run the model with plain onnxruntime. ``eager`` is p50, p90
    and p99 in milliseconds of the original itself, alone in mlc's own process, and ``eager_name`` what that is called.
    """

    recipe: Recipe
    origin: Origin
    signature: Signature
    steps: tuple[Step, ...]
    trials: tuple[Trial, ...]
    shipped: str
    verdicts: tuple[Verdict, ...] = ()
    outcome: str = DONE
    first_line: str = ""
    checks: tuple[Check, ...] = ()
    layers: tuple[LayerError, ...] = ()
    plan: Plan | None = None
    saturation: tuple[str, ...] = ()
    explanation: Explanation | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    loading: str = ""
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    directory: str = ""
    command: str = "compile"
    recipe_text: str = ""
    eager: tuple[float, float, float] | None = None
    eager_name: str = "torch eager"

    @property
    def baseline(self) -> Trial | None:
        """What everything is compared with: the unmodified export, where it was measured."""
        return self.trials[0] if self.trials and self.command == "compile" else None

    @property
    def trial(self) -> Trial | None:
        """The trial that was written, or the model that was validated."""
        named = [trial for trial in self.trials if trial.candidate.name == self.shipped]
        return next(iter(named or self.trials[-1:]), None)


class Judgement(NamedTuple):
    """A verdict for each limit, the outcome of the run, and the sentence that says it."""

    verdicts: tuple[Verdict, ...]
    outcome: str
    first_line: str
