"""What torch takes for granted about sizes while it traces: of which line it is, and at which legal sizes it is wrong.

The trace stands for every size at which all of its guards hold. torch solves them where it can; evaluated one size
after another, each of them can be told.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import sympy
from numpy.typing import NDArray

from mlc.dims import largest, named, size_of
from mlc.exporting.frames import user_frame
from mlc.types import Dim, InputSpec, Sizes

SHAPES = "torch.fx.experimental.symbolic_shapes"
"""The logger on which torch says which guard it adds."""

SOURCE = re.compile(r"L\['(?:tensors'\]\[)?(\w+)'?\]\.size\(\)\[(\d+)\]")
"""An axis as torch writes it: of an input by its place among the tensors, or by its name."""

SYMBOL = re.compile(r"\b[su]\d+\b")

MOST = 50_000_000
"""Sizes at which one guard is evaluated at most."""

ENOUGH = 200_000
"""Sizes that break a guard, of which no more are told."""

Axis: TypeAlias = tuple[str, int]
"""Which input, by its place or name, and which of its axes."""

FUNCTIONS: Mapping[str, Any] = {
    "Eq": np.equal, "Ne": np.not_equal, "Mod": np.mod, "PythonMod": np.mod, "Not": np.logical_not,
    "And": lambda *terms: functools.reduce(np.logical_and, terms),
    "Or": lambda *terms: functools.reduce(np.logical_or, terms),
    "Min": lambda *terms: functools.reduce(np.minimum, terms),
    "Max": lambda *terms: functools.reduce(np.maximum, terms),
    "FloorDiv": np.floor_divide, "CleanDiv": np.floor_divide, "IntTrueDiv": np.true_divide,
    "FloatTrueDiv": np.true_divide, "TruncToInt": np.trunc, "CeilToInt": np.ceil, "FloorToInt": np.floor,
    "RoundToInt": np.round, "ToFloat": np.float64, "Abs": np.abs, "Where": np.where, "Identity": lambda value: value,
    "PowByNatural": np.power, "FloatPow": np.power, "sqrt": np.sqrt, "OpaqueUnaryFn_sqrt": np.sqrt, "log": np.log,
    "OpaqueUnaryFn_log": np.log, "OpaqueUnaryFn_log2": np.log2, "True": True, "False": False,
}  # fmt: skip
"""What torch writes in its guards, for arrays of sizes."""


@dataclass(frozen=True)
class Guard:
    """A condition as torch writes it, and the line of code that asked for it."""

    text: str
    line: str


@dataclass(frozen=True)
class Broken:
    """A guard that does not hold at all legal sizes; ``sizes`` are those of the dims that it speaks of.

    None stands for sizes that cannot be told: too many to look at, or torch wrote what nothing here evaluates.
    """

    guard: Guard
    dims: tuple[str, ...]
    sizes: tuple[Sizes, ...] | None


@dataclass
class GuardLog(logging.Handler):
    """Listens to torch while it traces: which symbol is which axis, and which of the user's lines adds which guard."""

    sources: dict[str, Axis] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.INFO)

    __hash__ = object.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        """Note a symbol or a guard; those that torch itself does not hold to are left out."""
        text = record.getMessage()
        created = re.match(r"create_symbol (\w+) = ", text)
        source = SOURCE.search(text)
        if created and source:
            self.sources[created[1]] = (source[1], int(source[2]))
        guard = re.match(r"(?:runtime_assert|eval)(?: \(forcing_spec\))? (?!\[)(.*?) \[guard added\]", text)
        if guard:
            stack = traceback.extract_stack()[:-1]
            line = user_frame([(f.filename, f.lineno or 0, f.name, f.line or "") for f in stack])
            self.guards.append(Guard(guard[1], line))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of torch's own handlers inside the block, even where logging is disabled for all."""
        logger = logging.getLogger(SHAPES)
        handlers, level, propagate, manager = logger.handlers, logger.level, logger.propagate, logger.manager
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.INFO)
        logger.manager = logging.Manager(logging.root)  # which loggers are disabled stands there
        try:
            yield
        finally:
            logger.handlers, logger.propagate, logger.manager = handlers, propagate, manager
            logger.setLevel(level)

    def line(self, axes: set[Axis]) -> str:
        """Return the user's line of the last guard on one of the axes, else of the last guard of all."""
        symbols = {symbol for symbol, axis in self.sources.items() if axis in axes}
        lines = [guard.line for guard in self.guards if guard.line and symbols & set(SYMBOL.findall(guard.text))]
        others = [guard.line for guard in self.guards if guard.line]
        return (lines or others or [""])[-1]

    def broken(self, inputs: Sequence[InputSpec]) -> list[Broken]:
        """Return the guards that some legal sizes of the inputs break, in the order in which they were added.

        Guards on sizes that follow from values are none of these: no declared range says anything of them.
        """
        roots = named(inputs)
        unique: dict[str, Guard] = {}
        for guard in self.guards:
            unique.setdefault(guard.text, guard)
        found = []
        for guard in unique.values():
            symbols = set(SYMBOL.findall(guard.text))
            if not symbols or not symbols <= set(self.sources):
                continue
            dims = {symbol: dim_of(self.sources[symbol], inputs) for symbol in symbols}
            names = sorted({name for dim in dims.values() for name in dim.terms or ((dim.name,) if dim.name else ())})
            own = {name: roots[name] for name in names}
            if _always(guard.text, dims):
                continue
            total = _one_sum(dims, own)
            sizes = _breaking(guard.text, dims, own) if total is None else _breaking_sum(guard.text, dims, total, own)
            if sizes is None or sizes:
                found.append(Broken(guard, tuple(names), sizes))
        return found


def dim_of(axis: Axis, inputs: Sequence[InputSpec]) -> Dim:
    """Return what is declared of an axis."""
    place, index = axis
    spec = inputs[int(place)] if place.isdecimal() else next(spec for spec in inputs if spec.name == place)
    return spec.dims[index]


def _one_sum(symbols: Mapping[str, Dim], roots: Mapping[str, Dim]) -> Dim | None:
    """Return the one sum of dims that a guard speaks of, whose every size is legal, or None where it is another."""
    total, *others = dict.fromkeys(symbols.values())
    whole = not others and len(set(total.terms)) == len(total.terms) > 1
    return total if whole and all(dim.step == 1 for dim in roots.values()) else None


def _breaking_sum(
    text: str, symbols: Mapping[str, Dim], total: Dim, roots: Mapping[str, Dim]
) -> tuple[Sizes, ...] | None:
    """Return the legal sizes at which a guard on a sum is false: looked for among the sums, which are fewer."""
    alone = replace(total, terms=())
    false = _breaking(text, dict.fromkeys(symbols, alone), {str(total.name): alone})
    if false is None:
        return None
    parts = (sizes for one in false for sizes in _parts(one[str(total.name)], total.terms, roots))
    return tuple(itertools.islice(parts, ENOUGH))


def _parts(size: int, terms: Sequence[str], roots: Mapping[str, Dim]) -> Iterator[Sizes]:
    """Yield the legal sizes of dims that add up to a size."""
    first, *rest = terms
    least, most = (sum(getattr(roots[name], end) for name in rest) for end in ("low", "high"))
    for chosen in range(max(roots[first].low, size - most), min(roots[first].high, size - least) + 1):
        for others in _parts(size - chosen, rest, roots) if rest else ({},):
            yield {first: chosen, **others}


def _always(text: str, symbols: Mapping[str, Dim]) -> bool:
    """Whether a guard says of sums and their terms what is so by what they are: that both sides are one."""
    own = {
        symbol: sum(map(sympy.Symbol, dim.terms)) if dim.terms else sympy.Symbol(dim.name) if dim.name else dim.low
        for symbol, dim in symbols.items()
    }
    known = {"__builtins__": {}, "Eq": lambda left, right: sympy.expand(left - right) == 0}
    try:
        return eval(text, known, own) is True  # noqa: S307 - arithmetic that torch wrote
    except (SyntaxError, NameError, TypeError, ValueError, ArithmeticError):
        return False


def _breaking(text: str, symbols: Mapping[str, Dim], roots: Mapping[str, Dim]) -> tuple[Sizes, ...] | None:
    """Return the legal sizes of the dims at which a guard is false, or None where that cannot be told."""
    ranges = {name: np.arange(dim.low, largest(dim) + 1, dim.step) for name, dim in roots.items()}
    if math.prod(len(values) for values in ranges.values()) > MOST:
        return None
    try:
        code = compile(text, "guard", "eval")
        false = (sizes for grid in _grids(ranges) for sizes in _false(code, symbols, grid))
        return tuple(itertools.islice(false, ENOUGH))
    except (SyntaxError, NameError, TypeError, ValueError, ArithmeticError):
        return None


def over_sizes(
    texts: Sequence[str], symbols: Mapping[str, Dim], roots: Mapping[str, Dim]
) -> Iterator[list[NDArray[Any]]]:
    """Yield what torch writes of symbols, as it is at all legal sizes of the dims: an array for each text in turn.

    Raises SyntaxError, NameError, TypeError, ValueError or ArithmeticError where nothing here evaluates it.
    """
    codes = [compile(text, "size", "eval") for text in texts]
    ranges = {name: np.arange(dim.low, largest(dim) + 1, dim.step) for name, dim in roots.items()}
    for grid in _grids(ranges):
        yield [np.broadcast_to(np.asarray(_evaluated(code, symbols, grid)), _length(grid)) for code in codes]


def _false(code: Any, symbols: Mapping[str, Dim], grid: Mapping[str, NDArray[np.int64]]) -> Iterator[Sizes]:
    """Yield the sizes of a grid, one array for each dim, at which a guard is false."""
    held = _evaluated(code, symbols, grid)
    places = np.flatnonzero(~np.broadcast_to(np.asarray(held, dtype=bool), _length(grid)))
    for place in places.tolist():
        yield {name: int(np.broadcast_to(values, _length(grid))[place]) for name, values in grid.items()}


def _evaluated(code: Any, symbols: Mapping[str, Dim], grid: Mapping[str, NDArray[np.int64]]) -> Any:
    axes = {symbol: size_of(dim, grid) for symbol, dim in symbols.items()}  # type: ignore[arg-type]
    with np.errstate(all="raise"):
        return eval(code, {"__builtins__": {}, **FUNCTIONS}, axes)  # noqa: S307 - arithmetic that torch wrote


def _length(grid: Mapping[str, NDArray[np.int64]]) -> int:
    return max((values.size for values in grid.values()), default=1)


def _grids(ranges: Mapping[str, NDArray[np.int64]]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield all combinations: the longest range as a whole, with each choice of the others."""
    longest = max(ranges, key=lambda name: len(ranges[name]), default="")
    others = {name: values for name, values in ranges.items() if name != longest}
    for choice in itertools.product(*others.values()):
        one = {name: np.asarray([size]) for name, size in zip(others, choice, strict=True)}
        yield {**one, **{name: values for name, values in ranges.items() if name == longest}}
