"""The nouns of what is asked: all that the grammar needs, in a file of their own, since start-up is a promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Dim:
    """One axis of an input: fixed (no name), a named range with a step, or a named sum of other named dims.

    A sum has ``terms`` and the range that follows from them; every other dim has none.
    """

    low: int
    high: int
    step: int = 1
    name: str | None = None
    terms: tuple[str, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether the exported axis is a number rather than a symbol."""
        return self.name is None


@dataclass(frozen=True)
class Ceiling:
    """A largest value that hangs on a size: that of a named dim, less ``below``."""

    dim: str
    below: int = 0


@dataclass(frozen=True)
class InputSpec:
    """Name, dtype (NumPy's name), axes and, where stated, the inclusive range of values of one model input.

    Where a range has a ``ceiling``, its high end is that of the dim's largest size.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    values: tuple[float, float] | None = None
    ceiling: Ceiling | None = None


@dataclass(frozen=True)
class Target:
    """What was asked to run on: ``[runtime/]provider[:device][,threads=N][,option=value]``."""

    runtime: str = "onnxruntime"
    provider: str = "cpu"
    device: str | None = None
    threads: int | None = None
    options: tuple[tuple[str, str], ...] = ()


OptionValue: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class PassSpec:
    """A pass by name with its options, as written ``name:option=value,option=value``."""

    name: str
    options: tuple[tuple[str, OptionValue], ...] = ()

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return self.name + ":" + ",".join(f"{key}={_option_text(value)}" for key, value in self.options)


def _option_text(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Drop:
    """The largest accepted loss of accuracy: in the metric's units, or relative to the original's value."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Limits:
    """What the user asked the result to keep; None is no limit. Milliseconds, a ratio, and MB of 10**6 bytes."""

    max_drop: Drop | None = None
    max_latency: float | None = None
    min_speedup: float | None = None
    max_size: float | None = None
