"""Running graphs to verify them: without the runtime's own optimizations, on the CPU wherever that has the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.errors import TargetError
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.workspace import Workspace

Feeds: TypeAlias = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Runner:
    """Opens graphs of one workspace; their weights are mapped, never serialized."""

    workspace: Workspace
    target: Target = field(default_factory=Target)

    @contextmanager
    def open(self, model: ir.Model) -> Iterator[Callable[[Feeds], dict[str, np.ndarray]]]:
        """Give a function that runs a model: inputs that it has by name, to outputs by name.

        Raises TargetError where the model cannot be loaded or run.
        """
        from mlc.runtimes.onnxruntime import open_session

        names = [str(value.name) for value in model.graph.inputs]
        if not model.graph.outputs:
            yield lambda _feeds: {}
            return
        path = self.workspace.save(model, "judged")
        self.workspace.unmap()  # the session maps the weights too
        with open_session(path, self.target, optimize=False) as session:
            yield lambda feeds: session.run({name: feeds[name] for name in names if name in feeds})

    def run(self, model: ir.Model, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run a model once."""
        with self.open(model) as run:
            return run(feeds)


def unloadable(before: ir.Model, after: ir.Model, workspace: Workspace, target: Target) -> str:
    """Return why the target's runtime does not load a graph, empty where it does, or did not load the one before.

    onnxruntime is not asked: it has loaded both on the CPU, and runs there what a provider does not take.
    """
    if target.runtime == "onnxruntime":
        return ""
    failure = _failure(after, workspace, target)
    return "" if not failure or _failure(before, workspace, target) else f"{target.runtime} does not load it: {failure}"


def _failure(model: ir.Model, workspace: Workspace, target: Target) -> str:
    from mlc.runtimes.opening import open_session

    path = workspace.save(model, "loaded")
    workspace.unmap()
    try:
        with open_session(path, target):
            return ""
    except TargetError as error:
        return error.message.partition(": ")[2]  # without the file's name, which is another in every run


def chosen(references: Sequence[Any], second: Mapping[str, int]) -> list[Any]:
    """Return the references to verify passes at: the traced sizes (the first) and one other size."""
    others = [reference for reference in references[1:] if dict(reference.sizes) != dict(references[0].sizes)]
    preferred = [reference for reference in others if dict(reference.sizes) == dict(second)]
    return [*references[:1], *(preferred or others[-1:])[:1]]
