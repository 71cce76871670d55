"""Everything that one model file says, counted without its weights."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner

from mlc.dims import named, shapes, traced_sizes
from mlc.errors import SourceError, UsageError, foreign
from mlc.grammar import nearest
from mlc.grammar.inputs import input_text
from mlc.inspecting.arithmetic import CONTRIB_RULES, RULES, multiply_adds
from mlc.inspecting.nouns import Facts, Operator, Precision, Stored, Uncounted
from mlc.inspecting.precision import helpers, packed, precision_of, producers
from mlc.inspecting.shapes import STANDARD, Shape, Values, values_at
from mlc.inspecting.skeleton import Skeleton, Weight, distinct, graphs_of, read_skeleton
from mlc.manifest import minimum_runtime
from mlc.recipe import check_sizes
from mlc.sources.onnx.ports import Port, input_ports, output_ports
from mlc.types import InputSpec, Sizes

NO_WEIGHTS = frozenset({"bool", "int64", "string"})
"""Dtypes of shapes, axes and indexes: stored, and no parameters."""

UNSAID = 1
"""The size of an axis that a file leaves open, where nothing else is asked for."""


def facts_of(
    path: Path, inputs: Sequence[InputSpec] = (), measured: Sizes | None = None, at: Sizes | None = None
) -> Facts:
    """Return what a file says; ``inputs`` are an artifact's own, measured at ``measured``, ``at`` the sizes asked for.

    Raises SourceError for a file that is no model, UsageError for a size that no input has.
    """
    skeleton = read_skeleton(path)
    proto = skeleton.proto
    ports = input_ports(proto.graph)
    sizes = _sizes(ports, inputs, measured or {}, at or {})
    plain, problem = _inlined(proto)
    values = values_at(plain, _shapes(ports, inputs, sizes), sizes)
    counted, uncounted, precisions = _counted(plain, values)
    every = list(_nodes(proto))
    opsets = {each.domain: each.version for each in proto.opset_import}
    standard = max((version for domain, version in opsets.items() if domain in STANDARD), default=0)
    return Facts(
        files=skeleton.files,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        metadata=_metadata(proto),
        ir_version=proto.ir_version,
        opsets=opsets,
        minimum_onnxruntime=minimum_runtime(standard, proto.ir_version),
        inputs=tuple(map(input_text, inputs)) or tuple(map(str, ports)),
        outputs=tuple(map(str, output_ports(proto.graph))),
        operators=_operators(every, counted),
        graphs=sum(1 for _ in graphs_of(proto.graph)) - 1,
        functions={f"{each.domain}.{each.name}": len(each.node) for each in proto.functions},
        parameters=_parameters(skeleton, every),
        weights=_stored(skeleton.weights),
        activations=_activations(plain.graph, values),
        sizes=sizes,
        assumed=() if inputs else tuple(_assumed(ports, at or {})),
        multiply_adds=sum(counted.values()),
        precisions=precisions,
        uncounted=(*uncounted, *problem),
    )


def _sizes(ports: Sequence[Port], inputs: Sequence[InputSpec], measured: Sizes, at: Sizes) -> dict[str, int]:
    """Return the size of each named axis: as asked, as measured, the smallest legal above 1, in a foreign file 1."""
    if inputs:
        check_sizes(at, inputs)
        known = named(inputs)
        return {**traced_sizes(inputs, {}), **{name: size for name, size in measured.items() if name in known}, **at}
    symbols = {axis: UNSAID for port in ports for axis in port.axes or () if isinstance(axis, str)}
    for name, size in at.items():
        if name not in symbols:
            hint = nearest(name, symbols) if symbols else "it has no axis with a name"
            raise UsageError(f"no input has a dim {name!r} that could be {size}", hint)
    return {**symbols, **at}


def _assumed(ports: Sequence[Port], at: Sizes) -> Iterator[str]:
    """Yield the axes that a file leaves open and that nobody gives a size; one without a name by its place."""
    seen = set(at)
    for port in ports:
        for number, axis in enumerate(port.axes or ()):
            name = f"axis {number} of {port.name}" if axis is None else axis
            if not isinstance(name, int) and name not in seen:
                seen.add(name)
                yield name


def _shapes(ports: Sequence[Port], inputs: Sequence[InputSpec], sizes: Sizes) -> dict[str, Shape]:
    if inputs:
        return shapes(inputs, sizes)
    return {
        port.name: tuple(axis if isinstance(axis, int) else sizes.get(axis or "", UNSAID) for axis in port.axes)
        for port in ports
        if port.axes is not None and port.kind == "tensor" and not port.optional
    }


def _inlined(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Uncounted, ...]]:
    """Return the model with its own functions written out, and what is to be said where that fails."""
    if not proto.functions:
        return proto, ()
    try:
        with foreign("writing the model's functions out"):
            return onnx.inliner.inline_local_functions(proto), ()
    except SourceError as failed:
        return proto, (Uncounted("(functions)", "", failed.message),)


def _counted(
    proto: onnx.ModelProto, values: Values
) -> tuple[Counter[tuple[str, str]], list[Uncounted], tuple[Precision, ...]]:
    """Return the multiply-adds by operator, the nodes that could not be counted, and what the others compute in."""
    counts: Counter[tuple[str, str]] = Counter()
    uncounted: list[Uncounted] = []
    nodes: Counter[str] = Counter()
    products: Counter[str] = Counter()
    made_by = producers(proto.graph)
    for node in proto.graph.node:
        found = multiply_adds(node, values)
        if isinstance(found, str):
            uncounted.append(Uncounted(_name(node), node.op_type, found))
        elif found:
            precision = precision_of(node, values, made_by)
            counts[_kind(node)] += found
            nodes[precision] += 1
            products[precision] += found
    for graph in itertools.islice(graphs_of(proto.graph), 1, None):
        uncounted += [
            Uncounted(_name(node), node.op_type, "how often its branch or loop runs is not known")
            for node in graph.node
            if node.op_type in RULES or node.op_type in CONTRIB_RULES
        ]
    precisions = [Precision(name, nodes[name], count) for name, count in products.most_common()]
    return counts, uncounted, tuple(precisions)


def _operators(nodes: Iterable[onnx.NodeProto], counted: Mapping[tuple[str, str], int]) -> tuple[Operator, ...]:
    kinds = Counter(map(_kind, nodes))
    made = [Operator(op, domain, count, counted.get((op, domain), 0)) for (op, domain), count in kinds.items()]
    inside = [Operator(op, domain, 0, count) for (op, domain), count in counted.items() if (op, domain) not in kinds]
    return tuple(sorted((*made, *inside), key=lambda each: (-each.multiply_adds, -each.nodes, each.op)))


def _parameters(skeleton: Skeleton, nodes: Sequence[onnx.NodeProto]) -> int:
    """Return the elements of all weights, each once; scales, zero points, single numbers, indexes are none."""
    left_out, real = helpers(nodes), packed(nodes)
    return sum(
        real.get(weight.name, weight.elements)
        for weight in distinct(skeleton.weights)
        if weight.shape and weight.dtype not in NO_WEIGHTS and weight.name not in left_out
    )


def _stored(weights: Sequence[Weight]) -> tuple[Stored, ...]:
    found: dict[str, Stored] = {}
    for weight in distinct(weights):
        held = found.get(weight.dtype, Stored(weight.dtype, 0, 0, 0))
        found[weight.dtype] = replace(
            held, tensors=held.tensors + 1, elements=held.elements + weight.elements, bytes=held.bytes + weight.bytes
        )
    return tuple(sorted(found.values(), key=lambda held: (-held.bytes, held.dtype)))


def _activations(graph: onnx.GraphProto, values: Values) -> dict[str, int]:
    """Return how many computed values of the main graph have each dtype; constants are none."""
    counts: dict[str, int] = defaultdict(int)
    for node in graph.node:
        for name in node.output:
            if name and node.op_type != "Constant":
                counts[values.dtype(name)] += 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    fields = {"domain": proto.domain, "graph": proto.graph.name, "doc": proto.doc_string}
    version = {"model version": str(proto.model_version)} if proto.model_version else {}
    own = {key: text for key, text in fields.items() if text}
    return {**own, **version, **{entry.key: entry.value for entry in proto.metadata_props}}


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model: of its graphs, and of its functions, once for each."""
    for graph in graphs_of(proto.graph):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def _kind(node: onnx.NodeProto) -> tuple[str, str]:
    return node.op_type, "" if node.domain in STANDARD else node.domain


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(filter(None, node.output), "(unnamed)")
