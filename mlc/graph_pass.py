"""The contract of a pass: what it declares, what it is given, what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from mlc.types import FLOAT, Capabilities, Change, Exactness, Need, NodePlan, Plan, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

__all__ = ["Change", "Context", "Exactness", "Need", "Pass", "Refusal", "Statistics"]


class Statistics(Protocol):
    """What a pass may ask about the values of a graph, by value name. Raises KeyError for a value not collected.

    Values of branches that are in no loop are named by their place, as sites are; those of loops cannot be collected.
    """

    def seen(self, value: str) -> bool:
        """Whether a value has had any element: one of a branch that no sample takes has none."""

    def range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum over all samples."""

    def finite_range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum of all numbers but -Inf, which masks."""

    def percentile(self, value: str, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the elements, cut equally at both ends where both are used."""

    def mse(self, value: str) -> tuple[float, float]:
        """Return the range whose 8-bit codes have the least expected squared error, inside the extremes."""

    def entropy(self, value: str) -> tuple[float, float]:
        """Return the range whose 8-bit codes diverge least from the distribution, inside the extremes."""

    def mask(self, value: str) -> tuple[float, int] | None:
        """Return the number that masks elements, and the first sample that holds it, where a value holds a mask.

        It is -Inf, or so large beside all others that they would be one 8-bit code.
        """

    def channel_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per channel (axis 1), float32 [channels]."""

    def channel_mean(self, value: str) -> Array:
        """Return means per channel (axis 1), float32 [channels]."""

    def column_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per column (the last axis), float32 [columns]."""

    def rows(self, value: str) -> int:
        """Return how many elements each column (the last axis) has had."""

    def column_mean(self, value: str) -> Array:
        """Return means per column (the last axis), float32 [columns]."""

    def moments(self, value: str) -> Array:
        """Return the mean of ``x.T @ x`` over all rows, the last axis as columns, float32 [columns, columns]."""


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
    alone that take such a graph wholly, and is judged there. ``may_use_kernels`` are operators that it writes, or lets
    stand (``ai.onnx.`` before ONNX's own), where the target, a CPU too, has them, and does without elsewhere and in
    portable output. ``asks_wide_half`` says that it reads which operators compute float16 in float32 on the target.
    """

    name: ClassVar[str]
    exactness: ClassVar[Exactness]
    tolerance: ClassVar[float] = 0.0
    floor: ClassVar[float] = 10.0
    min_opset: ClassVar[int] = 13
    needs_kernels: ClassVar[Mapping[str, str]] = {}
    may_use_kernels: ClassVar[Mapping[str, str]] = {}
    asks_wide_half: ClassVar[bool] = False

    @abstractmethod
    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Edit the clone that is given and say where.

        A site is the name of a value (an initializer too) that existed before the pass; inside a subgraph
        ``<first output of the node>.<attribute>/<value>``. Initializers are replaced, never edited in place.
        """

    def needs(self, model: ir.Model) -> tuple[Need, ...]:  # noqa: ARG002 - the default needs nothing
        """Return the statistics that ``apply`` reads, of values of the graph that it will be given."""
        return ()

    def likes(self, model: ir.Model) -> tuple[Need, ...]:  # noqa: ARG002 - the default likes nothing
        """Return the statistics that ``apply`` does without where there are none: of few samples, whichever there are.

        It is asked of a pass that needs none.
        """
        return ()

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Return what a LOSSY pass would make of each node that it looks at, and why; the model stays what it is.

        ``ctx.allow`` keeps nodes float, as in ``apply``; there are no statistics yet. Unless a pass knows better, it is
        applied to a clone, and its sites and refusals are told, without operators; one that calibrates says nothing.
        """
        if self.calibrates:
            return ()
        change = self.apply(model.clone(), replace(ctx, plan=Plan(), statistics=None))
        taken = (NodePlan(site, "", self.name, "it has that form") for site in change.sites)
        return (*taken, *(NodePlan(refusal.site, "", FLOAT, refusal.reason) for refusal in change.refused))

    @property
    def calibrates(self) -> bool:
        """Whether it reads statistics of any model, so that it cannot do without calibration data."""
        return type(self).needs is not Pass.needs
