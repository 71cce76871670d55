"""What a recipe quantizes: the passes of its number formats, and how they divide the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.errors import PassError, UsageError
from mlc.formats import FOLDING, INT8_STATIC, site_of
from mlc.fusion import is_standard
from mlc.grammar.values import pass_text
from mlc.pipeline.data import has_data
from mlc.pipeline.run import Live
from mlc.plan import ASKED_FLOAT, ORDER, UNNAMED, Planner, naming_options, passes_for, read_plan, reserve_for
from mlc.recipe import Recipe
from mlc.registry import build, lossy_of
from mlc.types import FLOAT, PassSpec, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.pipeline.data import Datasets
    from mlc.pipeline.run import Run

HALVES = ("fp16", "bf16")
"""Formats of what integers leave: their passes run behind all others, which read float32 alone."""

JOINED = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax"})
"""What onnxruntime joins with the dequantizers before it and the quantizer behind it, whatever a plan says."""

NAMED = 3
"""So many nodes are named that a plan forgot."""


@dataclass(frozen=True)
class Quantizing:
    """All passes that a recipe asks for, those of its formats among them, and the planner of the lossy ones.

    A lossy one to which a plan from a file gives no node is not among them: the run that wrote the plan may have had
    none for it either. Those in ``reserve`` nobody asked for: they are for nodes that lose too much in the formats that
    were. Those that are ``overruled`` have other options in the plan's file than those that they were asked for with.
    """

    passes: tuple[PassSpec, ...]
    planner: Planner
    reserve: tuple[PassSpec, ...] = ()
    overruled: tuple[PassSpec, ...] = ()

    @property
    def all(self) -> tuple[PassSpec, ...]:
        """Every pass that may have something to do."""
        return (*self.passes, *self.reserve)


def quantizing(recipe: Recipe, live: Live | None = None) -> Quantizing:
    """Return what is asked for. Raises UsageError for a plan that cannot be read, and for what contradicts itself."""
    if recipe.plan is not None and recipe.to is not None:
        hint = "leave out --to, or take back a recipe's with --to none: the plan says the formats"
        raise UsageError("a plan and a number format were given", hint)
    given: Plan | None = None
    if recipe.plan is not None:
        given, chosen = _read(Path(recipe.plan))
    else:
        calibrated = has_data(recipe, live or Live())
        chosen = () if recipe.to is None else passes_for(recipe.to, recipe.target, has_data=calibrated)
    formats = tuple(spec.name for spec in chosen)
    named = [spec.name for spec in recipe.passes]
    passes = tuple(
        sorted(
            (*recipe.passes, *(spec for spec in chosen if spec.name not in named)),
            key=lambda spec: (spec.name in HALVES, formats.index(spec.name) if spec.name in formats else -1),
        )
    )
    lossy = lossy_of(passes)
    if given is not None:
        passes = tuple(spec for spec in passes if spec not in lossy or spec.name in formats)
    if given is not None and not formats:
        raise UsageError(f"the plan {recipe.plan} keeps every node float", "leave it out, or give a node a format")
    if recipe.keep_float and not lossy:
        raise UsageError("nodes are to be kept float, and nothing is quantized", "give --pass int8-static, or --to")
    able = () if recipe.to is None else reserve_for(recipe.to, recipe.target)
    reserve = tuple(name for name in able if name not in named)
    mixed = given is None and len(formats) > 1
    planner = Planner(recipe.keep_float, given, mixed=mixed, reserve=reserve)
    overruled = tuple(spec for spec in chosen if given and spec.options and spec.name in named and spec not in passes)
    return Quantizing(passes, planner, tuple(map(PassSpec, reserve)), overruled)


def _read(path: Path) -> tuple[Plan, tuple[PassSpec, ...]]:
    """Return a plan and the passes of its formats in the order in which formats run."""
    file = read_plan(path)
    with_options = {spec.name: spec for spec in file.passes}
    used = {entry.format for entry in file.plan.nodes} - {FLOAT}
    with naming_options(path):
        for spec in file.passes:
            build(spec)
    return file.plan, tuple(with_options.get(name, PassSpec(name)) for name in sorted(used, key=ORDER.index))


@contextmanager
def telling_of_probes(sets: Datasets) -> Iterator[None]:
    """Say where a pass is refused that inputs drawn at random were what it was judged on, with the range of data."""
    try:
        yield
    except PassError as error:
        if sets.statistics is None or sets.first_samples() is not None:
            raise
        drawn = "give --data: without it the model is judged on inputs drawn at random, which no calibration has seen"
        raise PassError(error.message, f"{drawn}; {error.hint}") from error


def notes_of_plan(sets: Datasets, run: Run, asked: Quantizing, model: ir.Model) -> tuple[str, ...]:
    """Say what of the passes, the calibration data, statistics and a plan from a file came to nothing in the model."""
    notes = [f"--pass overrules the plan's options {pass_text(spec)}" for spec in asked.overruled]
    done = () if run.plan is None else run.plan.nodes
    used = {entry.format for entry in done}
    idle = [spec.name for spec in lossy_of(run.recipe.passes) if spec.name not in used]
    notes += [f"--pass {name} came to nothing: no node is left for it" for name in idle]
    unused = "no node has a scale known beforehand"
    if sets.calibration is not None and sets.statistics is None and run.statistics is None:
        notes.append(f"the calibration data {sets.calibration.name} was not used for more than finding masks: {unused}")
    if sets.statistics is not None and run.statistics is None:
        notes.append(f"the statistics {sets.statistics.name} were not used: {unused}")
    unnamed = [node.node for node in done if node.reason == UNNAMED]
    if unnamed:
        notes.append(f"the plan does not name {_first(unnamed)}, which stay float")
    clamps = [node for node in done if node.op in FOLDING and node.format == FLOAT and node.reason == ASKED_FLOAT]
    if clamps and any(node.format == INT8_STATIC for node in done):
        named = _first([f"{node.op} {node.node}" for node in clamps])
        notes.append(f"kept float: {named}, which lose nothing themselves; keep those float that read what they give")
    between = _between_codes(model)
    joined = [f"{node.op} {node.node}" for node in done if node.node in between and node.reason == ASKED_FLOAT]
    if joined:
        alike = "what they read and give are codes all the same; keep those float that give and read these"
        notes.append(f"kept float: {_first(joined)}, which onnxruntime computes on integers, since {alike}")
    wanted = () if asked.planner.given is None else asked.planner.given.nodes
    given = {entry.node: entry.format for entry in wanted if entry.format != FLOAT}
    others = [node for node in done if node.format == FLOAT and node.node in given]
    kept = [node.node for node in others if node.reason == ASKED_FLOAT]
    if kept:
        notes.append(f"{_first(kept)} stay float as asked, whatever the plan gives them")
    others = [node for node in others if node.reason != ASKED_FLOAT]
    if others:
        named = _first([f"{given[node.node]} to {node.op} {node.node} ({node.reason})" for node in others])
        notes.append(f"the plan gives {named}, which stay float: the form of nodes without weights follows from others")
    return tuple(notes)


def _between_codes(model: ir.Model) -> set[str]:
    """Return the nodes between dequantizers and quantizers alone of which onnxruntime makes ones of integers."""
    return {
        site_of(node)
        for node in model.graph
        if node.op_type in JOINED
        and is_standard(node)
        and all(value is not None and _made_by(value) == "DequantizeLinear" for value in node.inputs)
        and {use.op_type for use, _ in node.outputs[0].uses()} == {"QuantizeLinear"}
    }


def _made_by(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.op_type


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
