"""Which operators a target has kernels for: seen in a session, not believed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import onnx

from mlc.errors import PassError, TargetError, foreign
from mlc.runtimes.onnxruntime import OnnxRuntimeSession, open_session
from mlc.runtimes.providers import FOR_GPUS, available, full_name
from mlc.types import Target

STANDARD = "ai.onnx"
"""The domain by whose name a pass asks for a kernel of ONNX's own operators."""

HEAD = '<ir_version: 8, opset_import: ["" : 17, "{domain}" : 1]> kernel {graph}'
STANDARD_HEAD = '<ir_version: 10, opset_import: ["" : 23]> kernel {graph}'

NEWER = """<ir_version: 10, opset_import: ["" : 23]>
newer (float[b,4,s,16] q, float[b,4,s,16] k, float[b,4,s,16] v, float[1,1,s,s] mask, float[s,8] cos, float[s,8] sin,
       int64[b,s] places, float[16] w) => (float[b,4,s,16] y) {
  turned = RotaryEmbedding(q, cos, sin, places)
  seen = Attention(turned, k, v, mask)
  y = RMSNormalization<axis = -1>(seen, w)
}"""
"""The operators that ONNX has since opset 23, as the exporter and the default passes write them."""


def kernels(target: Target, probes: Mapping[str, str], *, gpus: bool = True) -> tuple[str, ...]:
    """Return which of the operators a target has a kernel for; none is claimed where its provider does not load.

    ``probes`` are small graphs by ``domain.operator`` (see ``Pass.needs_kernels``). Where they are for ``gpus``,
    nothing is claimed of what computes on the CPU: its kernels for such operators are slower than what they replace, or
    the runtime makes use of them by itself.
    """
    if gpus and not is_gpu(target):
        return ()
    return tuple(operator for operator, graph in probes.items() if _has(target, operator, graph))


def has_newer(target: Target) -> bool:
    """Whether a target for GPUs has kernels for the operators of opset 23; those that fell back would cost copies."""
    return is_gpu(target) and _taken(target, NEWER)


def is_gpu(target: Target) -> bool:
    """Whether a target is one of onnxruntime's providers for GPUs."""
    try:
        return target.runtime == "onnxruntime" and full_name(target.provider).startswith(FOR_GPUS)
    except TargetError:
        return False


def targets_with(probes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the targets on this machine that have a kernel for every one of the operators."""
    return tuple(name for name in available() if kernels(Target(provider=name), probes) == tuple(probes))


def _has(target: Target, operator: str, graph: str) -> bool:
    domain, _, op = operator.rpartition(".")
    head = STANDARD_HEAD if domain == STANDARD else HEAD
    return _taken(target, head.format(domain=domain, graph=graph), operator, op)


@cache
def _taken(target: Target, text: str, operator: str = "opset 23", op: str = "Attention") -> bool:
    """Whether the target's provider was given every node of a model, and ``op`` as it stands.

    The runtime puts its body in the place of an operator that is a function and has no kernel. A session costs time:
    asked once in a process.
    """
    try:
        if target.runtime != "onnxruntime":
            return False
        with foreign(f"the graph that asks for a kernel of {operator}", PassError, "see docs/writing-a-pass.md"):
            model = onnx.parser.parse_model(text)
        with small_session(model, target) as session:
            nodes = session.assignment()
            return {node.provider for node in nodes} == {session.provider} and op in {node.op for node in nodes}
    except TargetError:
        return False


@contextmanager
def small_session(model: onnx.ModelProto, target: Target) -> Iterator[OnnxRuntimeSession]:
    """Open a session of a small model, without optimizations, on a provider of onnxruntime."""
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(model, path)
        with open_session(path, target, optimize=False) as session:
            yield session
