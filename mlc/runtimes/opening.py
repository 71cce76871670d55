"""The one way to a session on a target: each runtime is loaded where a target asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import TargetError
from mlc.runtimes.session import Profile, Session
from mlc.types_asked import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

RUNTIMES = {
    "onnxruntime": ("mlc.runtimes.onnxruntime", "mlc.runtimes.profiling"),
    "openvino": ("mlc.runtimes.openvino", "mlc.runtimes.openvino_profiling"),
}
"""By the runtime's name: the module with its ``open_session``, and that with its ``profile_run``."""

SPINNING = {"session.force_spinning_stop": "1"}
"""For onnxruntime: threads that spin on after a run would take the cores from the next session."""


def open_session(path: Path, target: Target, options: Mapping[str, str] | None = None) -> Session:
    """Load a model on a target as it ships, with its session options.

    Raises SourceError for a file that is missing or no model, TargetError where the session cannot be created or would
    run elsewhere.
    """
    session: Session = _module(target, 0).open_session(path, target, options=options)
    return session


def open_unoptimized(path: Path, target: Target) -> Session:
    """Load a model on a target of onnxruntime without its optimizations: it computes what the graph says.

    Raises as ``open_session``.
    """
    session: Session = _module(target, 0).open_session(path, target, optimize=False)
    return session


def profile_run(path: Path, inputs: Arrays, target: Target, options: Mapping[str, str] | None = None) -> Profile:
    """Run a model with the runtime's profiler on; times are medians over the runs after the first."""
    profile: Profile = _module(target, 1).profile_run(path, inputs, target, options=options)
    return profile


def prepare(target: Target) -> None:
    """Import a target's runtime, so that loading a model can be timed by itself."""
    _module(target, 0)
    if target.runtime == "openvino":
        from mlc.runtimes.openvino_settings import devices

        devices()


def without_spinning(target: Target) -> Mapping[str, str]:
    """Return the options that every timed session of a runtime has."""
    return SPINNING if target.runtime == "onnxruntime" else {}


def _module(target: Target, which: int) -> Any:
    if target.runtime not in RUNTIMES:
        raise TargetError(f"no runtime is called {target.runtime!r}", f"there are: {', '.join(RUNTIMES)}")
    return import_module(RUNTIMES[target.runtime][which])
