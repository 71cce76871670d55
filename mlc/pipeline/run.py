"""What the stages of one run share: the recipe, the folder, the listener and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlc.recipe import Recipe
from mlc.statistics import Store
from mlc.types import Plan
from mlc.workspace import Workspace

Progress: TypeAlias = Callable[[str], None]


def silent(_text: str) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Live:
    """Python objects in the place of what a recipe names; None where the recipe's own text holds."""

    module: Any = None
    example: Any = None
    calibrate: Any = None
    data: Any = None
    metric: Any = None


def either(live: Any, named: Any) -> Any:
    """Return the live object where there is one, an empty one too, else what the recipe names."""
    return named if live is None else live


@dataclass
class Run:
    """One run: what was asked, where its files are, and what is to be kept for the report."""

    recipe: Recipe
    workspace: Workspace
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    statistics: Store | None = None
    eager: tuple[float, float, float] | None = None
    eager_name: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and tell the listener that it began."""
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def keep(self, plan: Plan, statistics: Store | None) -> None:
        """Keep what was quantized how, and what statistics any pass read; both are written beside the model."""
        self.plan, self.statistics = plan, statistics or self.statistics
