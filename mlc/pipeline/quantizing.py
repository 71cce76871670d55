"""What a recipe quantizes: the passes of its number formats, and how they divide the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlc.errors import UsageError
from mlc.plan import Planner, formats_for, read_plan
from mlc.recipe import Recipe
from mlc.registry import lossy_of
from mlc.types import FLOAT, PassSpec


@dataclass(frozen=True)
class Quantizing:
    """All passes that a recipe asks for, those of its formats among them, and the planner of the lossy ones."""

    passes: tuple[PassSpec, ...]
    planner: Planner


def quantizing(recipe: Recipe) -> Quantizing:
    """Return what is asked for. Raises UsageError for a plan that cannot be read, and for what contradicts itself."""
    if recipe.plan is not None and recipe.to is not None:
        raise UsageError("a plan and a number format were given", "leave out --to: the plan says the formats")
    given = None if recipe.plan is None else read_plan(Path(recipe.plan))
    if given is not None:
        formats = tuple(dict.fromkeys(entry.format for entry in given.nodes if entry.format != FLOAT))
    else:
        formats = () if recipe.to is None else formats_for(recipe.to, recipe.target)
    named = [spec.name for spec in recipe.passes]
    passes = (*recipe.passes, *(PassSpec(name) for name in formats if name not in named))
    lossy = lossy_of(passes)
    if given is not None and not formats:
        raise UsageError(f"the plan {recipe.plan} keeps every node float", "leave it out, or give a node a format")
    beside = [spec.name for spec in lossy if spec.name not in formats]
    if given is not None and beside:
        raise UsageError(f"the plan {recipe.plan} gives no node to {beside[0]}", f"leave out --pass {beside[0]}")
    if recipe.keep_float and not lossy:
        raise UsageError("nodes are to be kept float, and nothing is quantized", "give --pass int8-static, or --to")
    return Quantizing(passes, Planner(recipe.keep_float, given, mixed=given is None and len(formats) > 1))
