"""How many of a model's nodes each provider would run: asked of a session that really starts, or not claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from mlc.errors import MlcError
from mlc.figures import megabytes
from mlc.grammar.values import target_text
from mlc.inspecting.nouns import Facts, Share
from mlc.manifest import Located
from mlc.runtimes.one_node import try_target
from mlc.runtimes.opening import open_session
from mlc.runtimes.providers import available
from mlc.runtimes.session import Session
from mlc.types import Target

LARGE = 512 * 2**20
"""A model of more bytes than this is laid out with the runtime's optimizations off, so that its weights stay on disk;
a provider that would copy them is asked only by name."""


def shares(
    located: Located, facts: Facts, targets: Sequence[Target], progress: Callable[[str], None]
) -> tuple[Share, ...]:
    """Ask each target, which is known to start, or without one the model's own and each other installed provider."""
    size = sum(facts.files.values())
    own = located.target
    others = (name for name in available() if (own.runtime, own.provider) != (Target().runtime, name))
    asked = targets or (own, *(Target(provider=name) for name in others))
    found = []
    for target in asked:
        progress(f"asking {target.provider}")
        found.append(_share(located, size, target, by_name=bool(targets)))
    return tuple(found)


def _share(located: Located, size: int, target: Target, *, by_name: bool) -> Share:
    name = target_text(target)
    try:
        if not by_name:
            try_target(target)
    except MlcError as refused:
        return Share(name, problem=f"does not start: {refused.message}")
    if size > LARGE and target.provider != "cpu" and not by_name:
        return Share(name, problem=f"starts; not asked, since it would load {megabytes(size)}: --target {name} does")
    try:
        with _session(located, target, optimize=size <= LARGE) as session:
            return _assigned(name, session)
    except MlcError as refused:
        return Share(name, problem=f"does not run this model: {refused.message}")


def _session(located: Located, target: Target, *, optimize: bool) -> Session:
    """Load the model with the options that it ships with, where those are of the target's runtime."""
    options = located.session_options if target.runtime == located.target.runtime else {}
    if optimize or target.runtime != "onnxruntime":
        return open_session(located.path, target, options)
    from mlc.runtimes import onnxruntime

    return onnxruntime.open_session(located.path, target, optimize=False, options=options)


def _assigned(name: str, session: Session) -> Share:
    nodes = session.assignment()
    others = Counter(node.op for node in nodes if node.provider != session.provider)
    ran = len(nodes) - sum(others.values())
    return Share(name, session.provider, session.device(), ran, len(nodes), dict(others.most_common()))
