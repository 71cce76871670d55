"""What every runtime's session can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

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
    to the provider asked for.
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
    """A model that is loaded and can be run; a context manager."""

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``outputs`` picks outputs by name, all of them in order by default."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None: ...


SessionOptions = Mapping[str, str]
"""Session configuration by key, such as ``{"session.intra_op.allow_spinning": "0"}``."""
