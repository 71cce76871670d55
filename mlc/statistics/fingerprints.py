"""What computes a value, as a digest: graphs whose digests agree compute the same value from the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from mlc.errors import UsageError
from mlc.fusion import Places

Known = dict[ir.Value, bytes]
"""The digests of the values that are in scope."""


def fingerprints(model: ir.Model) -> dict[str, str]:
    """Return the digest of every value of the main graph, and of the branches outside of loops, by name, hexadecimal.

    It is that of the operators, attributes and weights behind the value, down to the inputs, which count by name and
    type; in a branch that of what decides, too. Names of inner values do not count, so a renamed graph has the same
    digests.
    """
    known: Known = {}
    _add_graph(model, model.graph, known, [value.name or "" for value in model.graph.inputs])
    places = Places(model)
    scopes = {model.graph: known}
    for branch in places.once[1:]:
        holder = places.holders[branch]
        assert isinstance(holder.graph, ir.Graph)
        scopes[branch] = _branch(model, holder, branch, scopes[holder.graph])
    return {
        places.name(value): digest.hex()
        for graph, scope in scopes.items()
        for value, digest in scope.items()
        if value.name and value.graph is graph
    }


def _branch(model: ir.Model, holder: ir.Node, branch: ir.Graph, outer: Known) -> Known:
    """Return the digests of the values in scope in a branch, its own with what has to be for the branch to be taken."""
    scope, condition = dict(outer), holder.inputs[0]
    assert condition is not None
    _add_graph(model, branch, scope, [])
    taken = next(name for name, attribute in holder.attributes.items() if attribute.value is branch)
    own = {value for node in branch for value in node.outputs}
    return {
        value: _digest(digest, taken, outer[condition]) if value in own else digest for value, digest in scope.items()
    }


def _add_graph(model: ir.Model, graph: ir.Graph | ir.Function, known: Known, inputs: list[str]) -> None:
    """Add the digests of a graph's values, whose inputs are called as given."""
    if isinstance(graph, ir.Graph):
        known.update({value: _tensor(value.const_value) for value in graph.initializers.values()})
    for value, name in zip(graph.inputs, inputs, strict=True):
        known[value] = _digest("input", name, str(value.dtype), known.get(value, b""))
    for node in graph:
        common = _digest(*_node(model, node, known))
        known.update({value: _digest(common, str(place)) for place, value in enumerate(node.outputs)})


def _node(model: ir.Model, node: ir.Node, known: Known) -> Iterator[str | bytes]:
    yield f"{node.domain}.{node.op_type}.{node.overload}.{model.opset_imports.get(node.domain)}"
    function = model.functions.get(node.op_identifier())
    if function is not None:
        yield _inner(model, function, {})
    yield from (b"" if value is None else known[value] for value in node.inputs)
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        yield name
        yield from _attribute(model, attribute.ref_attr_name or attribute.value, known)


def _attribute(model: ir.Model, value: Any, known: Known) -> Iterator[str | bytes]:
    if isinstance(value, (ir.Graph, ir.Function)):
        yield _inner(model, value, known)
    elif isinstance(value, ir.TensorProtocol):
        yield _tensor(value)
    elif isinstance(value, (list, tuple)):
        yield str(len(value))
        for item in value:
            yield from _attribute(model, item, known)
    elif isinstance(value, float):
        yield repr(float(np.float32(value)))  # as a file holds it: an export that was kept has other digits
    else:
        yield repr(value)


def _inner(model: ir.Model, graph: ir.Graph | ir.Function, outer: Known) -> bytes:
    """Return the digest of a graph's outputs, its inputs counted by their place."""
    known = dict(outer)
    _add_graph(model, graph, known, [f"{place}" for place in range(len(graph.inputs))])
    return _digest(*(known[value] for value in graph.outputs))


def _tensor(tensor: ir.TensorProtocol | None) -> bytes:
    if tensor is None:
        raise UsageError("an initializer of the model has no value", "load the model with its weights")
    if tensor.dtype == ir.DataType.STRING:
        return _digest("strings", repr(tensor.numpy().tolist()))
    return _digest(str(tensor.dtype), repr(tuple(tensor.shape)), tensor.tobytes())


def _digest(*parts: str | bytes) -> bytes:
    """Return one digest of several parts, each behind its length."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
