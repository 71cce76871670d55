"""The nouns that every room shares: plain data. Those of what is asked stand in types_asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from mlc.types_asked import Ceiling, Dim, Drop, InputSpec, Limits, OptionValue, PassSpec, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

__all__ = [
    "FLOAT", "Capabilities", "Ceiling", "Change", "Dim", "Drop", "Exactness", "InputSpec", "Interval", "Limits",
    "Machine", "Need", "NodePlan", "OptionValue", "OutputSpec", "PassSpec", "Plan", "Refusal", "Signature", "Sizes",
    "Target",
]  # fmt: skip

Sizes: TypeAlias = Mapping[str, int]
"""A size for each independent named dim, such as ``{"batch": 8}``."""


@dataclass(frozen=True)
class OutputSpec:
    """Name, dtype (NumPy's name) and axes of one output; an axis is a size, a symbol or unknown (None)."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Signature:
    """The contract of a model: its inputs and outputs, in order."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]


@dataclass(frozen=True)
class Capabilities:
    """What may be relied on where the artifact will run.

    ``cpu`` says that nothing but a CPU computes there.
    ``vnni`` is true only where 8-bit products are added in 32 bits; without it pairs of u8*s8 products may saturate.
    ``kernels`` are the operators outside ONNX's own, as ``domain.operator``, that were asked about and have a kernel.
    ``wide_half`` are the operators, without domain, whose float16 kernels were seen to compute in float32 within.
    """

    description: str
    cpu: bool = True
    avx2: bool = False
    vnni: bool = False
    amx: bool = False
    arm_dot: bool = False
    kernels: tuple[str, ...] = ()
    wide_half: tuple[str, ...] = ()

    @property
    def saturates(self) -> bool:
        """Whether sums of neighbouring u8*s8 products may saturate at 16 bits."""
        return not (self.vnni or self.arm_dot)


class Exactness(Enum):
    """What a pass promises about numbers: the same bits, the same up to rounding, or a reported loss."""

    EXACT = "exact"
    REASSOCIATES = "reassociates"
    LOSSY = "lossy"


@dataclass(frozen=True)
class Refusal:
    """A site that a pass looked at and left alone, and why."""

    site: str
    reason: str


@dataclass(frozen=True)
class Change:
    """What a pass did: the names of the values at which it acted, what it refused, and what else is to be said.

    ``headline`` is what even the first line of the report has to say of it, where it was asked for by name.
    """

    sites: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    headline: str = ""


@dataclass(frozen=True)
class Need:
    """A statistic that a pass reads of one value.

    ``range``, ``histogram`` (percentiles and other cuts too), ``channel-range``, ``channel-mean``, ``column-range``,
    ``column-mean`` or ``moments``.
    """

    value: str
    kind: str


FLOAT = "float"
"""What a plan calls the format of a node that stays what it is."""


@dataclass(frozen=True)
class NodePlan:
    """How one node is computed: FLOAT or the name of a format, and the reason."""

    node: str
    op: str
    format: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Which node gets which format; nodes are named by their first output."""

    nodes: tuple[NodePlan, ...] = ()


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Machine:
    """Where a figure was measured."""

    cpu: str
    cores: int
    memory_gb: float
    system: str
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)
