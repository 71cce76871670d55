"""Passes by name: found by entry point, built from their options; ours are found as anyone's are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from mlc.errors import PassError, UsageError, foreign
from mlc.grammar import nearest
from mlc.graph_pass import Exactness, Pass
from mlc.types import Capabilities, PassSpec, Target

GROUP = "mlc.passes"

DEFAULT_PASSES = (
    "fold-constants",
    "sequence-to-split",
    "eliminate-casts",
    "eliminate-transposes",
    "eliminate-common-subexpressions",
    "eliminate-dead-code",
    "fold-batch-norm",
    "fold-layer-scale",
    "fold-pre-norm",
    "fold-linear",
    "einsum-to-matmul",
    "drop-softmax-guard",
    "reciprocal-to-div",
    "fuse-gelu",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-rotary-embedding",
    "split-qkv",
    "fuse-attention",
    "fuse-grouped-query",
    "fuse-long-attention",
    "fuse-multi-head-attention",
    "group-norm-to-instance-norm",
    "drop-zero-states",
    "fold-reshapes",
    "fuse-quick-gelu",
    "fuse-bias-gelu",
    "fuse-skip-layer-norm",
    "eliminate-common-subexpressions",
    "eliminate-dead-code",
)
"""What runs without being asked for, in this order; one that needs kernels, for targets alone that have them.

The last two run again: for constants of one value that several sites were given, and for what is left over.
"""


@cache
def available() -> dict[str, EntryPoint]:
    """Return the entry point of every installed pass by name, sorted by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def pass_class(name: str) -> type[Pass]:
    """Load one pass by name. Raises UsageError for an unknown one, PassError for one that cannot be loaded."""
    points = available()
    if name not in points:
        raise UsageError(f"no pass is called {name!r}", nearest(name, points))
    with foreign(f"loading the pass {name}", PassError):
        loaded: Any = points[name].load()
        is_pass = isinstance(loaded, type) and issubclass(loaded, Pass)
        if not (is_pass and dataclasses.is_dataclass(loaded)):
            raise PassError(f"the entry point {name} of {GROUP} is not a Pass dataclass", "see docs/writing-a-pass.md")
        found = cast("type[Pass]", loaded)
        if found.name != name:
            raise PassError(f"the entry point {name} of {GROUP} is the pass {found.name!r}", "give both one name")
    return found


def build(spec: PassSpec) -> Pass:
    """Build a pass from its options, checked against the dataclass. Raises UsageError with the nearest match."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    cls = pass_class(spec.name)
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key, _ in spec.options:
        if key not in fields:
            hint = nearest(key, fields) if fields else "it takes no options"
            raise UsageError(f"the pass {spec.name} has no option {key!r}", hint)
    adapter: TypeAdapter[Pass] = TypeAdapter(with_config(ConfigDict(extra="forbid"))(cls))
    try:
        return adapter.validate_python(dict(spec.options))
    except ValidationError as error:
        raise _wrong_option(spec, error.errors()[0]) from error


BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
"""What pydantic calls a bound, where it puts its value, and how it is said."""

KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "a text",
}
"""What begins the names that pydantic gives to wrong types, and what is said instead."""


def _wrong_option(spec: PassSpec, found: Mapping[str, Any]) -> UsageError:
    """Say in our words what pydantic found wrong with an option of a pass."""
    option = ".".join(str(part) for part in found["loc"])
    where = f"the option {option} of the pass {spec.name}" if option else f"the options of the pass {spec.name}"
    hint = f"see `mlc passes {spec.name}`"
    kind, context, given = found["type"], found.get("ctx", {}), found["input"]
    if kind == "literal_error":
        return UsageError(f"{where} is {context['expected']}, not {given!r}", hint)
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return UsageError(f"{where} is {words} {context[key]:g}, not {given!r}", hint)
    expected = next((words for begin, words in KINDS.items() if kind.startswith(f"{begin}_")), "")
    if expected:
        return UsageError(f"{where} is {expected}, not {given!r}", hint)
    reason = found["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}: {reason}" + (f", given {given!r}" if option else ""), hint)


def schedule(requested: Iterable[PassSpec], *, defaults: bool = True, portable: bool = False) -> tuple[PassSpec, ...]:
    """Return the passes in the order in which they run: defaults, other exact and reassociating ones, lossy ones.

    A default that is asked for by name runs in its default place alone, with the options asked for. Where the output
    has to be ``portable``, those that need kernels are left out; UsageError is raised for one asked for by name.
    """
    asked = list(requested)
    for spec in asked:
        needed = build(spec).needs_kernels
        if portable and needed:
            raise UsageError(
                f"the pass {spec.name} writes {' and '.join(needed)}, which portable output does not have",
                f"leave out --portable or --pass {spec.name}",
            )
    by_name = {spec.name: spec for spec in asked}
    if len(by_name) != len(asked):
        twice = next(spec.name for spec in asked if by_name[spec.name] is not spec)
        raise UsageError(f"the pass {twice} is asked for twice", "give it once, with all its options")
    first = [
        by_name.get(name, PassSpec(name))
        for name in DEFAULT_PASSES
        if (defaults or name in by_name) and not (portable and pass_class(name).needs_kernels)
    ]
    rest = [spec for spec in asked if spec.name not in DEFAULT_PASSES]
    lossy = lossy_of(rest)
    return (*first, *(spec for spec in rest if spec not in lossy), *lossy)


def lossy_of(specs: Iterable[PassSpec]) -> tuple[PassSpec, ...]:
    """Return the passes that lose something on purpose, in order."""
    return tuple(spec for spec in specs if pass_class(spec.name).exactness is Exactness.LOSSY)


def probes_of(specs: Iterable[PassSpec]) -> dict[str, str]:
    """Return the small graphs that tell whether a target has the kernels that passes need, by operator."""
    return {operator: graph for spec in specs for operator, graph in pass_class(spec.name).needs_kernels.items()}


def optional_probes_of(specs: Iterable[PassSpec]) -> dict[str, str]:
    """Return the small graphs of the operators that passes write where a target has kernels of them, by operator."""
    return {operator: graph for spec in specs for operator, graph in pass_class(spec.name).may_use_kernels.items()}


def asks_wide_half(specs: Iterable[PassSpec]) -> bool:
    """Whether one of the passes reads which operators compute float16 in float32 on the target."""
    return any(pass_class(spec.name).asks_wide_half for spec in specs)


def runnable(
    specs: Iterable[PassSpec], requested: Collection[PassSpec], target: Target, capabilities: Capabilities
) -> tuple[PassSpec, ...]:
    """Return the passes without those that need kernels which the target was not seen to have.

    Which passes run by default depends on the target. A CPU has none of these passes, also where another one was given
    a kernel there (see ``Pass.may_use_kernels``). Raises PassError for one that was asked for by name.
    """
    able = []
    seen = () if capabilities.cpu else capabilities.kernels
    for spec in specs:
        missing = [operator for operator in pass_class(spec.name).needs_kernels if operator not in seen]
        if missing and spec in requested:
            raise PassError(
                f"the pass {spec.name} is not for the target {target.provider}: it writes {' and '.join(missing)}, "
                "for GPUs whose provider has a kernel",
                f"leave it out; `mlc passes {spec.name}` says which targets here it is for",
            )
        if not missing:
            able.append(spec)
    return tuple(able)
