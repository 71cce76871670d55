"""Which operators outside ONNX's own a target has kernels for: seen in a session, not believed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import onnx

from mlc.errors import PassError, TargetError, foreign
from mlc.runtimes.onnxruntime import open_session
from mlc.runtimes.providers import FOR_GPUS, available, full_name
from mlc.types import Target

HEAD = '<ir_version: 8, opset_import: ["" : 17, "{domain}" : 1]> kernel {graph}'


def kernels(target: Target, probes: Mapping[str, str], *, gpus: bool = True) -> tuple[str, ...]:
    """Return which of the operators a target has a kernel for; none is claimed where its provider does not load.

    ``probes`` are small graphs by ``domain.operator`` (see ``Pass.needs_kernels``). Where they are for ``gpus``,
    nothing is claimed of what computes on the CPU: its kernels for such operators are slower than what they replace, or
    the runtime makes use of them by itself.
    """
    if gpus and not _is_gpu(target):
        return ()
    return tuple(operator for operator, graph in probes.items() if _taken(target, operator, graph))


def _is_gpu(target: Target) -> bool:
    try:
        return target.runtime == "onnxruntime" and full_name(target.provider).startswith(FOR_GPUS)
    except TargetError:
        return False


def targets_with(probes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the targets on this machine that have a kernel for every one of the operators."""
    return tuple(name for name in available() if kernels(Target(provider=name), probes) == tuple(probes))


@cache
def _taken(target: Target, operator: str, graph: str) -> bool:
    """Whether the target's provider was given every node of a graph. A session costs time: asked once in a process."""
    try:
        if target.runtime != "onnxruntime":
            return False
        with foreign(f"the graph that asks for a kernel of {operator}", PassError, "see docs/writing-a-pass.md"):
            model = onnx.parser.parse_model(HEAD.format(domain=operator.rpartition(".")[0], graph=graph))
        with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "kernel.onnx"
            onnx.save(model, path)
            with open_session(path, target, optimize=False) as session:
                return all(node.provider == session.provider for node in session.assignment())
    except TargetError:
        return False
