"""Inputs on which the original takes both ways of a line that asks for a mask, at more than the smallest sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare import Reference, is_float
from mlc.dims import shapes, unique
from mlc.errors import SourceError
from mlc.exporting.asked import CALLED, Asked, without_visit
from mlc.probes import probe
from mlc.sources.original import Original

if TYPE_CHECKING:
    from mlc.types import Array, Arrays, Sizes

SEEDS = 8
"""How often inputs are drawn anew at the fewest elements, and at every size until both ways were taken."""

LEAST = 2
"""The least size at which a way has to be seen: of one step a sum and a mean are the same."""


def both_ways(
    original: Original, lines: Iterable[str], kept: Sequence[Reference], checks: Collection[str] = ()
) -> tuple[Reference, ...]:
    """Return answers of the original on further inputs, so that with what is kept each line takes both of its ways.

    A way that is taken at one size is looked for at every other one that is kept, since of a single step much is the
    same. Answers at the ends of ranges do not count: they are compared less strictly. Lines of ``checks`` need not take
    both: on one of them the original raises, and where it does not, its answer is compared. Raises SourceError for
    another line that takes one way however inputs are drawn, at sizes of 1 aside.
    """
    sizes = unique(one.sizes for one in kept if not one.values)
    ways = _Ways(original, dict.fromkeys((line, way) for line in (*lines, *checks) for way in (True, False)), checks)
    for reference in kept:
        ways.run(reference.inputs, None if reference.values else reference.sizes)
    few = sorted(sizes, key=lambda at: math.prod(at.values()))[:1]
    for seed, at in itertools.product(range(1, SEEDS + 1), sizes):
        if at in few or not all(ways.inputs.values()):
            ways.draw(at, seed)
    for at, way in itertools.product(sizes, ways.inputs):
        ways.draw_like(at, way)
    wide = [at for at in sizes if min(at.values(), default=LEAST) >= LEAST] or sizes
    for (line, answer), found in ways.sizes.items():
        if line not in checks and not any(at in wide for at in found):
            raise SourceError(
                f"what the model computes hangs on the values of its inputs at {line.partition(CALLED)[0]}, "
                f"and none that was tried makes it {answer}" + (" but at sizes of 1" if found else ""),
                "declare values, or give samples, that make it so; or choose by torch.where(condition, a, b)",
            )
    return tuple(ways.more)


class _Ways:
    """The ways that the original takes: on which inputs, at which sizes, and its answers beyond those that are kept."""

    def __init__(self, original: Original, ways: Iterable[tuple[str, bool]], checks: Collection[str]) -> None:
        self.original, self._checks = original, checks
        self.inputs: dict[tuple[str, bool], list[Arrays]] = {way: [] for way in ways}
        self.sizes: dict[tuple[str, bool], list[Sizes]] = {way: [] for way in self.inputs}
        self.more: list[Reference] = []
        # of integers without a range there is no more than their example
        specs = [spec for spec in original.signature.inputs if spec.values is None and "int" in spec.dtype]
        self._only = {spec.name: original.example[spec.name] for spec in specs if spec.name in original.example}

    def run(self, inputs: Arrays, at: Sizes | None) -> tuple[dict[str, Array], bool]:
        """Run the original; return its outputs, and whether it took a way that it had not taken ``at`` these sizes."""
        with Asked() as asked:
            outputs = self.original.run(inputs)
        new = False
        for line, answer in ((line, answer) for line, answers in asked.lines.items() for answer in answers):
            way = (without_visit(line) if without_visit(line) in self._checks else line), answer
            if way not in self.inputs:
                continue
            self.inputs[way].append(inputs)
            if at is not None and at not in self.sizes[way]:
                self.sizes[way].append(at)
                new = True
        return outputs, new

    def draw(self, at: Sizes, seed: int, held: Mapping[str, Array] = MappingProxyType({})) -> None:
        """Run on drawn inputs, of which some may be ``held``; keep the answer where it tells something new."""
        inputs = {**probe(self.original.signature.inputs, at, self._only, None, seed), **held}
        try:
            outputs, new = self.run(inputs, at)
        except SourceError:
            if not self._checks:
                raise
            return
        if new:
            self.more.append(Reference(at, inputs, outputs))

    def draw_like(self, at: Sizes, way: tuple[str, bool]) -> None:
        """Look for a way where it was not taken yet, by values of those that take it: of one input, or else of all."""
        generator = np.random.default_rng(0)
        shaped = shapes(self.original.signature.inputs, at)
        taking = self.inputs[way]
        pools = {name: np.concatenate([arrays[name].ravel() for arrays in taking]) for name in shaped if taking}
        like = {name: generator.choice(pool, shaped[name]) for name, pool in pools.items() if pool.size}
        like = dict(sorted(like.items(), key=lambda one: is_float(one[1].dtype)))  # masks before what they mask
        for held in (*({name: array} for name, array in like.items()), like):
            if at not in self.sizes[way] and held:
                self.draw(at, 0, held)
