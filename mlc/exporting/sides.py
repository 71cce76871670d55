"""Sizes at which forward goes another way than where it was traced, and whether the ways that were traced are all.

A trace stands for the sizes at which all of its guards hold. Where a few break one, the graph is compared with the
original at each. Where many do, such as every odd size, forward is traced at one of them too: once some trace stands
for every legal size but a few, nothing that a size decides was left unheard, and one graph is compared at sizes of
every way.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlc.dims import largest, named, second_sizes, unique, verified_sizes
from mlc.errors import SourceError
from mlc.exporting.guards import ENOUGH, Broken, Guard, GuardLog
from mlc.types import Dim, InputSpec, Sizes

Program = TypeVar("Program")

FEW = 8
"""Sizes for which no trace stands at most: they are compared one by one."""

WAYS = 3
"""Traces at most, each of which takes as long as the first."""

FREE = 2
"""The least size that torch does not take for a constant."""

UNHEARD = 10**6
"""Numbers from here on are of symbols that torch has not."""

OF_EACH = 4
"""Sizes of another way at which a graph is compared: the first, the last and some between."""

EQUALITY = re.compile(r"Eq\(|.*[<>]=")
"""A guard that two sizes are equal. A trace where they differ is the more general: a slice or a padding of nothing."""


@dataclass(frozen=True)
class Sided(Generic[Program]):
    """What stands for all legal sizes if it is right at ``compared``; ``ways`` is how many there are.

    ``broken`` are the sizes that break a guard of its own trace, of the dims of these guards alone.
    """

    program: Program
    compared: tuple[Sizes, ...]
    broken: tuple[Sizes, ...]
    ways: int


def sided(
    trace: Callable[[Sizes, GuardLog], Program | None], heard: GuardLog, inputs: Sequence[InputSpec], traced: Sizes
) -> Sided[Program] | None:
    """Return the program of the most general trace, or None where its like cannot be found.

    ``trace`` fixes dims that are 1, and returns None where the program stands for a single size: its guards were heard
    all the same. Where it fails at the sizes ``traced``, what was ``heard`` there before is all that is known of them.
    """
    if left_over([heard], inputs) is None:
        return None
    found: list[tuple[Program | None, GuardLog]] = []
    at: Sizes | None = traced
    left: tuple[Sizes, ...] | None = ()
    while at is not None and len(found) < WAYS:
        log = GuardLog()
        try:
            program = trace(at, log)
        except SourceError:
            if found:
                return None
            program, log = None, heard
        found.append((None if _fix_ones(log, inputs, at) else program, log))
        left = left_over([log for _, log in found], inputs)
        free = [sizes for sizes in left or () if min(sizes.values()) >= FREE]
        at = {**traced, **(free or left)[0]} if left and len(left) > FEW else None
    programs = [(program, log) for program, log in found if program is not None]
    if left is None or len(left) > FEW or not programs:
        return None
    program, chosen = min(programs, key=lambda one: _equalities(one[1], inputs))
    others = [log for _, log in found if log is not chosen]
    compared = _whole(left, inputs, traced)
    if others:
        compared = unique([*compared, *_of_others(chosen, others, inputs, traced)])
    return Sided(program, compared, left_over([chosen], inputs) or (), len(found))


def doubted_sizes(log: GuardLog, inputs: Sequence[InputSpec], traced: Sizes) -> tuple[Sizes, ...] | None:
    """Return the legal sizes that break a guard, other dims as traced and once more at another size.

    None stands for more than FEW of them, where the trace says nothing, and for guards that were not heard.
    """
    left = left_over([log], inputs)
    return None if left is None or len(left) > FEW else _whole(left, inputs, traced)


def left_over(logs: Sequence[GuardLog], inputs: Sequence[InputSpec]) -> tuple[Sizes, ...] | None:
    """Return the legal sizes that break a guard of every log, or None where that cannot be told.

    They speak of the dims of these guards alone: others may have any size.
    """
    left: list[Sizes] = [{}]
    for log in logs:
        if named(inputs) and not log.sources:
            return None
        found: dict[tuple[tuple[str, int], ...], Sizes] = {}
        for one in log.broken(inputs):
            if one.sizes is None or len(one.sizes) >= ENOUGH:
                return None
            for sizes in _broken_too(left, one):
                found[tuple(sorted(sizes.items()))] = sizes
                if len(found) >= ENOUGH:
                    return None
        left = _widest(list(found.values()))
    return tuple(left)


def _broken_too(left: Sequence[Sizes], one: Broken) -> Iterator[Sizes]:
    """Yield the sizes of ``left`` that break a guard too, each with the dims of both."""
    by_dims: dict[frozenset[str], list[Sizes]] = defaultdict(list)
    for sizes in left:
        by_dims[frozenset(sizes)].append(sizes)
    for dims, group in by_dims.items():
        common = sorted(dims & set(one.dims))
        breaking: dict[tuple[int, ...], list[Sizes]] = defaultdict(list)
        for sizes in one.sizes or ():
            breaking[_at(sizes, common)].append(sizes)
        for sizes in group:
            yield from ({**sizes, **other} for other in breaking.get(_at(sizes, common), ()))


def _widest(left: Sequence[Sizes]) -> list[Sizes]:
    """Return sizes without those that others among them hold too, which speak of fewer dims."""
    by_dims = _by_dims(left)
    return [
        sizes
        for sizes in left
        if not any(dims < sizes.keys() and _at(sizes, sorted(dims)) in there for dims, there in by_dims.items())
    ]


def _by_dims(left: Sequence[Sizes]) -> dict[frozenset[str], set[tuple[int, ...]]]:
    """Return sizes by the dims of which they speak, in the order of the dims' names."""
    by_dims: dict[frozenset[str], set[tuple[int, ...]]] = defaultdict(set)
    for sizes in left:
        by_dims[frozenset(sizes)].add(_at(sizes, sorted(sizes)))
    return by_dims


def _at(sizes: Sizes, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sizes[name] for name in names)


def _fix_ones(log: GuardLog, inputs: Sequence[InputSpec], traced: Sizes) -> bool:
    """Note that a trace stands for no other size of dims that were 1, which torch takes for constants; whether any."""
    axes = {dim.name: (str(place), axis) for place, spec in enumerate(inputs) for axis, dim in enumerate(spec.dims)}
    ones = [axes[name] for name, size in traced.items() if size == 1]
    for place, axis in enumerate(ones):
        symbol = f"s{UNHEARD + place}"
        log.sources[symbol] = axis
        log.guards.append(Guard(f"Eq({symbol}, 1)", ""))
    return bool(ones)


def _equalities(log: GuardLog, inputs: Sequence[InputSpec]) -> int:
    return sum(EQUALITY.match(one.guard.text) is not None for one in log.broken(inputs))


def _whole(left: Sequence[Sizes], inputs: Sequence[InputSpec], traced: Sizes) -> tuple[Sizes, ...]:
    """Return sizes with those of all other dims: as traced, and once more at another size."""
    return unique({**others, **sizes} for others in (traced, second_sizes(inputs, traced)) for sizes in left)


def _of_others(
    chosen: GuardLog, others: Sequence[GuardLog], inputs: Sequence[InputSpec], traced: Sizes
) -> tuple[Sizes, ...]:
    """Return sizes for which each of the others stands and the chosen does not, with those that are compared anyhow.

    Dims that neither speaks of are in turns as traced and at another size.
    """
    breaking = left_over([chosen], inputs) or ()
    wanted: list[Sizes] = []
    for other in others:
        theirs = list(itertools.islice(_held(breaking, other, inputs), ENOUGH))
        last = len(theirs) - 1
        wanted += [theirs[last * part // (OF_EACH - 1)] for part in range(OF_EACH) if theirs]
    turns = itertools.cycle((traced, second_sizes(inputs, traced)))
    verified = verified_sizes(inputs, traced)
    anyhow = [sizes for sizes in verified if any(one.items() <= sizes.items() for one in breaking)]
    return unique([*anyhow, *({**rest, **sizes} for rest, sizes in zip(turns, wanted, strict=False))])


def _held(breaking: Sequence[Sizes], other: GuardLog, inputs: Sequence[InputSpec]) -> Iterator[Sizes]:
    """Yield the sizes of ``breaking`` for which another trace stands, with those of all dims that it speaks of."""
    broken = _by_dims(left_over([other], inputs) or ())
    spoken = [name for name in named(inputs) if any(name in dims for dims in broken)]
    for sizes in breaking:
        free = {name: _range(named(inputs)[name]) for name in spoken if name not in sizes}
        for choice in itertools.product(*free.values()):
            whole = {**sizes, **dict(zip(free, choice, strict=True))}
            if not any(_at(whole, sorted(dims)) in there for dims, there in broken.items()):
                yield whole


def _range(dim: Dim) -> range:
    return range(dim.low, largest(dim) + 1, dim.step)
