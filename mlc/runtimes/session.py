"""What every runtime gives: a session that runs arrays by name and says where its nodes were placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import numpy as np

    from mlc.types import Arrays


@dataclass(frozen=True)
class NodeRun:
    """One node as it was assigned or as it ran: the provider, its operator and its name."""

    provider: str
    op: str
    name: str


@dataclass(frozen=True)
class Placement:
    """Which nodes ran where.

    ``assigned`` is the session's own graph assignment (names before late fusions), ``ran`` the profile's nodes (after
    them), ``copies`` the number of copies between devices in one run, ``fallbacks`` the assigned nodes that did not go
    to the provider asked for. ``device`` is what it ran on, in the maker's words; empty where there is nothing to say.
    """

    provider: str
    assigned: tuple[NodeRun, ...] = ()
    ran: tuple[NodeRun, ...] = ()
    copies: int = 0
    fallbacks: tuple[NodeRun, ...] = ()
    device: str = ""


@dataclass(frozen=True)
class OperatorTime:
    """Time spent in one kind of operator on one provider in one run."""

    provider: str
    op: str
    count: int
    microseconds: float


@dataclass(frozen=True)
class Profile:
    """A profiled run: where the nodes ran and where the time went."""

    placement: Placement
    operators: tuple[OperatorTime, ...] = field(default_factory=tuple)


class Session(Protocol):
    """A loaded model of any runtime; a context manager."""

    name: str
    provider: str
    outputs: tuple[str, ...]

    def __enter__(self) -> Self:
        """Return the session."""

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the model go."""

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``outputs`` picks outputs by name, all in order by default. Raises DataError for bad arrays."""

    def timed(self, inputs: Arrays) -> Callable[[], Sequence[Any]]:
        """Return what runs these inputs, unchecked, by the runtime's own call and gives the outputs in order."""

    def assignment(self) -> tuple[NodeRun, ...]:
        """Return where the runtime put each node."""

    def device(self) -> str:
        """Return what it runs on in the maker's words; empty where there is nothing to say."""


SOFTWARE = "software device"
"""How a device is called that computes on the CPU what is meant for a GPU."""
