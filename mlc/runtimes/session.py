"""Where nodes were placed and where their time went: what every runtime says of a session."""

from __future__ import annotations

from dataclasses import dataclass, field


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
