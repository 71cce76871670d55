"""What stays true of a graph whatever a pass does: a list of small functions, each of which returns sentences."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from mlc.errors import first_line
from mlc.workspace import SMALL, initializers


@dataclass(frozen=True)
class Snapshot:
    """What a pass has to leave as it was, taken before the pass.

    ``digests`` are of tensors in memory, by identity; the tensors are kept so that an identity is not used again.
    ``checked`` is whether strict shape inference accepted the graph: only then it is asked for again. ``known`` are the
    sentences that were true before: files come with unnamed and doubly named nodes, for which no pass is to blame.
    """

    model: ir.Model
    interface: tuple[str, ...]
    digests: dict[int, int] = field(default_factory=dict)
    tensors: tuple[ir.TensorProtocol, ...] = ()
    checked: bool = True
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Subject:
    """The graph after a pass, the graph before, and the file that the former was written to."""

    model: ir.Model
    before: Snapshot
    path: Path | None = None


_GLANCE = 64


def snapshot(model: ir.Model, path: Path) -> Snapshot:
    """Take what has to stay; ``path`` is the model, written."""
    tensors = tuple(_tensors_in_memory(model))
    digests = {id(tensor): _digest(tensor) for tensor in tensors}
    taken = Snapshot(model, interface(model), digests, tensors, not _checker(path, full=True))
    return replace(taken, known=frozenset(broken(Subject(model, taken, path))))


def broken(subject: Subject) -> tuple[str, ...]:
    """Return a sentence for every invariant that no longer holds, in the order of the list.

    Without a path the checker is not asked.
    """
    chosen = [each for each in INVARIANTS if subject.path is not None or each is not checker_holds]
    found = [sentence for invariant in chosen for sentence in invariant(subject)]
    return tuple(sentence for sentence in found if sentence not in subject.before.known)


def interface(model: ir.Model) -> tuple[str, ...]:
    """Return inputs and outputs in order, each as a line: name, type, shape, and whether it has a default."""
    graph = model.graph
    lines = [
        f"input {_typed(value)}" + (" with a default" if value.name in graph.initializers else "")
        for value in graph.inputs
    ]
    return (*lines, *(f"output {_typed(value)}" for value in graph.outputs))


def interface_unchanged(subject: Subject) -> Iterator[str]:
    """Names, types, shapes and order of inputs and outputs; overridable initializers stay inputs."""
    now, then = interface(subject.model), subject.before.interface
    if now != then:
        gone = [line for line in then if line not in now]
        new = [line for line in now if line not in then]
        if not gone and not new:
            yield "the order of inputs or outputs changed"
        for line in gone:
            yield f"the interface lost {line}"
        for line in new:
            yield f"the interface got {line}"


def names_valid(subject: Subject) -> Iterator[str]:
    """Every value and node has a name: none missing, twice in one scope, or hiding one of a graph around it."""
    graph = subject.model.graph
    yield from _names_in(graph, frozenset())
    counts = Counter(node.name for each in subject.model.graphs() for node in each if node.name)
    yield from (f"several nodes are called {name}" for name, count in counts.items() if count > 1)


def _names_in(graph: ir.Graph, outer: frozenset[str]) -> Iterator[str]:
    own = list(graph.inputs)
    own += [value for value in graph.initializers.values() if not value.is_graph_input()]
    own += [
        output for node in graph for output in node.outputs if output.uses() or output.is_graph_output() or output.name
    ]
    if any(not value.name for value in own):
        yield "a value has no name"
    counts = Counter(value.name for value in own if value.name)
    yield from (f"several values are called {name}" for name, count in counts.items() if count > 1)
    yield from (f"{name} in a subgraph hides a value of that name around it" for name in counts if name in outer)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _names_in(attribute.as_graph(), outer | frozenset(counts))


def nodes_sorted(subject: Subject) -> Iterator[str]:
    """Every value that a node reads was made before it, in this graph or one around it."""
    yield from _dangling(subject.model.graph, frozenset())
    for function in subject.model.functions.values():
        yield from _dangling(function.graph, frozenset())


def _dangling(graph: ir.Graph, outer: frozenset[ir.Value]) -> Iterator[str]:
    known = set(outer) | set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                yield f"{_node(node)} reads {value.name}, which no input, initializer or earlier node gives"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _dangling(attribute.as_graph(), frozenset(known))
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            yield f"the output {value.name} is given by no input, initializer or node"


def opsets_complete(subject: Subject) -> Iterator[str]:
    """Every domain that is used is imported, and no version that was imported changed."""
    imports = subject.model.opset_imports
    used = {node.domain for graph in subject.model.graphs() for node in graph}
    yield from (f"the operator domain {domain!r} is not imported" for domain in sorted(used - set(imports)))
    for domain, version in subject.before.model.opset_imports.items():
        if imports.get(domain, version) != version:
            yield f"opset {domain or 'ai.onnx'} went from {version} to {imports[domain]}"


def weights_untouched(subject: Subject) -> Iterator[str]:
    """No tensor that the graph before holds was edited in place (large ones cannot be: they are mapped read-only)."""
    names = {id(value.const_value): value.name for value in initializers(subject.before.model)}
    for tensor in subject.before.tensors:
        if _digest(tensor) != subject.before.digests[id(tensor)]:
            yield f"{names.get(id(tensor)) or tensor.name or 'a constant'} was edited in place"


def sharing_kept(subject: Subject) -> Iterator[str]:
    """No new initializer is a copy of one that was there before and still is (tied weights stay tied)."""
    held = [value for value in initializers(subject.model) if value.const_value is not None]
    old = {id(value.const_value) for value in initializers(subject.before.model)}
    kept = [value for value in held if id(value.const_value) in old]
    for value in held:
        tensor = value.const_value
        assert tensor is not None
        if id(tensor) in old or tensor.nbytes < SMALL:
            continue
        for other in kept:
            twin = other.const_value
            assert twin is not None
            if _alike(tensor, twin) and _starts_alike(tensor, twin) and tensor.tobytes() == twin.tobytes():
                yield f"the new initializer {value.name} is a copy of {other.name}"


def checker_holds(subject: Subject) -> Iterator[str]:
    """The ONNX checker accepts the file, with strict shape inference where it accepted the graph before."""
    sentence = "" if subject.path is None else _checker(subject.path, full=subject.before.checked)
    if sentence:
        yield f"the ONNX checker says: {sentence}"


INVARIANTS: tuple[Callable[[Subject], Iterator[str]], ...] = (
    interface_unchanged,
    names_valid,
    nodes_sorted,
    opsets_complete,
    weights_untouched,
    sharing_kept,
    checker_holds,
)


def _checker(path: Path, *, full: bool) -> str:
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        return first_line(error)
    return ""


def _typed(value: ir.Value) -> str:
    shape = "unknown" if value.shape is None else "[" + ",".join(str(_dim(dim)) for dim in value.shape) + "]"
    return f"{value.name} {str(value.type).lower()} {shape}"


def _dim(dim: object) -> object:
    return dim if isinstance(dim, int) else getattr(dim, "value", None)


def _node(node: ir.Node) -> str:
    return f"{node.op_type} {node.outputs[0].name if node.outputs else node.name}"


def _tensors_in_memory(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for value in initializers(model):
        tensor = value.const_value
        if tensor is not None and not isinstance(tensor, ir.ExternalTensor):
            yield tensor
    for graph in model.graphs():
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def _digest(tensor: ir.TensorProtocol) -> int:
    if tensor.dtype == ir.DataType.STRING:
        return zlib.crc32(repr(tensor.numpy().tolist()).encode())
    return zlib.crc32(tensor.tobytes())


def _starts_alike(tensor: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    """Whether the first elements are the same: weights that differ mostly differ there, and need not be read whole."""
    first, second = (each.numpy().reshape(-1)[:_GLANCE] for each in (tensor, other))
    return first.tobytes() == second.tobytes()


def _alike(tensor: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    return (
        tensor.dtype == other.dtype
        and tensor.nbytes == other.nbytes
        and tuple(tensor.shape.numpy()) == tuple(other.shape.numpy())
    )
