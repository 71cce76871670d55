"""A provider taken at its word: a model of which nodes fall back from it is refused, and the nodes are named.

The runtime's own switch refuses without naming any, so the assignment of a session without it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlc.errors import TargetError
from mlc.figures import counted
from mlc.runtimes.opening import open_session
from mlc.runtimes.session import NodeRun
from mlc.types_asked import Target

NAMED = 20
"""How many nodes an error names."""


def refuse_fallbacks(name: str, path: Path, target: Target, options: Mapping[str, str] | None = None) -> None:
    """Raise TargetError where nodes of a model fall back from the target's provider. On a CPU nothing can."""
    if target.provider.lower().startswith("cpu"):
        return
    with open_session(path, target, options) as session:
        assigned = session.assignment()
        refuse(name, target, assigned, [node for node in assigned if node.provider != session.provider])


def refuse(name: str, target: Target, assigned: Sequence[NodeRun], fallbacks: Sequence[NodeRun]) -> None:
    """Raise TargetError that names the nodes that fell back, if there are any."""
    if not fallbacks:
        return
    nodes = ", ".join(f"{node.name or '(unnamed)'} ({node.op})" for node in fallbacks[:NAMED])
    more = f" and {len(fallbacks) - NAMED} more" if len(fallbacks) > NAMED else ""
    of = f"of the {counted(len(assigned), 'node')} of {name}"
    raise TargetError(
        f"{counted(len(fallbacks), f'{of} falls', f'{of} fall')} back from {target.provider} to "
        f"{' and '.join(sorted({node.provider for node in fallbacks}))}: {nodes}{more}",
        "leave --strict-provider out to have it nevertheless, or choose passes that keep to what the provider has",
    )
