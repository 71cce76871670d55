"""The contract of a pass: what it declares, what it is given, what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from mlc.types import Capabilities, Change, Exactness, Need, Plan, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

__all__ = ["Change", "Context", "Exactness", "Need", "Pass", "Refusal", "Statistics"]


class Statistics(Protocol):
    """What a pass may ask about the values of a graph, by value name. Raises KeyError for a value not collected."""

    def range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum over all samples."""

    def percentile(self, value: str, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the elements, cut equally at both ends where both are used."""

    def channel_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per channel (axis 1), float32 [channels]."""


@dataclass(frozen=True)
class Context:
    """All that a pass may know; a pass runs no model.

    ``allow(site)`` is asked once for every site before it is changed: a site that is not allowed is left alone in
    silence, since whoever forbade it reports it.
    """

    capabilities: Capabilities
    plan: Plan = field(default_factory=Plan)
    statistics: Statistics | None = None
    allow: Callable[[str], bool] = lambda _site: True
    seed: int = 0
    progress: Callable[[str], None] = lambda _text: None


class Pass(ABC):
    """A rewrite of a graph: a frozen dataclass whose fields are its options.

    ``tolerance`` is the largest error over the rms of a value that a REASSOCIATES pass may cause; ``floor`` the lowest
    signal to quantization noise ratio in dB of any output that a LOSSY pass may leave.

    ``needs_kernels`` are the operators that it writes and not every target has, as ``domain.operator``, each with a
    small graph as ONNX text, ``(inputs) => (outputs) { nodes }``, of the form that it writes. The pass runs for targets
    alone that take such a graph wholly, and is judged there.
    """

    name: ClassVar[str]
    exactness: ClassVar[Exactness]
    tolerance: ClassVar[float] = 0.0
    floor: ClassVar[float] = 10.0
    min_opset: ClassVar[int] = 13
    needs_kernels: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Edit the clone that is given and say where.

        A site is the name of a value (an initializer too) that existed before the pass; inside a subgraph
        ``<first output of the node>.<attribute>/<value>``. Initializers are replaced, never edited in place.
        """

    def needs(self, model: ir.Model) -> tuple[Need, ...]:  # noqa: ARG002 - the default needs nothing
        """Return the statistics that ``apply`` reads, of values of the graph that it will be given."""
        return ()
