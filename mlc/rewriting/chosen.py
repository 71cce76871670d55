"""A float graph in which an input says which of its nodes are computed as the quantized graph does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare.decisions import used_values
from mlc.formats import FOLDING
from mlc.formats.nodes import site_of
from mlc.formats.operators import ON_CODES
from mlc.fusion import Names, Places, infer_shapes, walk

if TYPE_CHECKING:
    from mlc.types import Arrays

GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})

BYTE = 8
"""Codes have so many bits at most."""


@dataclass(frozen=True)
class Choosable:
    """A model with one more input, bool [sites]: which of the sites are quantized in this run."""

    model: ir.Model
    chooser: str
    sites: tuple[str, ...]

    def feeds(self, inputs: Arrays, quantized: Collection[str]) -> dict[str, np.ndarray]:
        """Return the inputs of a run in which these sites are quantized."""
        return {**inputs, self.chooser: np.array([site in quantized for site in self.sites], bool)}


def choosable(before: ir.Model, after: ir.Model, sites: Iterable[str]) -> Choosable:
    """Put ``If(chosen, quantized, float)`` in the place of each site; only the branch that is taken is computed.

    The quantized form of a node is what the graph after computes the values of that name from, as far as values that
    both graphs have, which it reads as they are in this run, through the quantizer behind them if there is one. A site
    in a branch or body is replaced there. Sites that it cannot be put in the place of are left out, and so are those
    computed from weights alone: what is lost in a weight is lost where it is read.
    """
    model, quantized = before.clone(), after.clone()
    for each in (model, quantized):
        infer_shapes(each)
    moving = {value for values in _moving_by_graph(model).values() for value in values}
    twins = [twin for twin in _twins(model, quantized, sites) if moving.issuperset(old for old, _ in twin.values)]
    splice = _Splice.into(model, twins)
    for index, twin in enumerate(twins):
        splice.choose(twin, index)
    model.graph.inputs.append(splice.chooser)
    model.graph.sort()
    for domain, version in quantized.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
    for key, function in quantized.functions.items():
        model.functions.setdefault(key, function)
    model.ir_version = max(model.ir_version, quantized.ir_version)
    return Choosable(model, str(splice.chooser.name), tuple(twin.site for twin in twins))


def quantized_nodes(before: ir.Model, after: ir.Model) -> tuple[str, ...]:
    """Return the sites of the float graph's nodes whose values the graph after computes through codes.

    A Relu or Clip that became part of a quantizer is none: what is lost there is lost for the nodes that read it.
    """
    known = {str(value.name) for value in moving_values(before.graph)}
    sites = [site for node in before.graph if (site := site_of(node))]
    twins = [twin for twin in _twins(before, after, sites) if not is_folded(twin.node, twin.quantized)]
    return tuple(twin.site for twin in twins if computed_on_codes(twin.quantized, known))


def folded_nodes(before: ir.Model, after: ir.Model) -> tuple[str, ...]:
    """Return the sites of the float graph's nodes that became part of a quantizer, and compute nothing of their own."""
    sites = [site for node in before.graph if (site := site_of(node))]
    return tuple(twin.site for twin in _twins(before, after, sites) if is_folded(twin.node, twin.quantized))


def is_folded(node: ir.Node, quantized: ir.Node) -> bool:
    """Whether a Relu or Clip gives, quantized, what its quantizer leaves, and other nodes read it."""
    inside = bool(node.outputs[0].uses()) and not node.outputs[0].is_graph_output()
    return node.op_type in FOLDING and inside and quantized.op_type == "DequantizeLinear"


def computed_on_codes(node: ir.Node, known: Collection[str]) -> bool:
    """Whether there is an operator on codes among a node and what it is computed from, as far as known values."""
    seen: set[ir.Node] = set()
    stack: list[ir.Node | None] = [node]
    while stack:
        each = stack.pop()
        if each is None or each in seen:
            continue
        if each.op_type in ON_CODES or _looks_up_codes(each, known):
            return True
        seen.add(each)
        sources = [value for value in each.inputs if value is not None]
        stack += [value.producer() for value in sources if value.name not in known or _is_dequantized(value)]
    return False


def _looks_up_codes(node: ir.Node, known: Collection[str]) -> bool:
    """Whether a node takes rows from a table of codes, and the float graph has no such node."""
    table = node.inputs[0] if node.op_type == "Gather" and node.outputs[0].name not in known else None
    dtype = None if table is None else table.dtype
    return dtype is not None and dtype.is_integer() and dtype.bitwidth <= BYTE


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


@dataclass(frozen=True)
class _Twin:
    """A node of the graph before, that which gives its values in the graph after, and these values in both."""

    site: str
    node: ir.Node
    quantized: ir.Node
    values: Sequence[tuple[ir.Value, ir.Value]]


def _twins(model: ir.Model, after: ir.Model, sites: Iterable[str]) -> list[_Twin]:
    graphs = dict(walk(after))
    pairs: dict[str, tuple[ir.Node, ir.Node | None]] = {}
    for prefix, graph in walk(model):
        makers = {value.name: node for node in graphs.get(prefix, ()) for value in node.outputs if value.name}
        pairs |= {f"{prefix}{site}": (node, makers.get(site)) for node in graph if (site := site_of(node))}
    found = []
    for site in dict.fromkeys(sites):
        node, quantized = pairs.get(site, (None, None))
        if node is None or quantized is None or _has_subgraph(node) or _has_subgraph(quantized):
            continue
        given = {value.name: value for value in quantized.outputs if value.name}
        shared = [(value, given[value.name]) for value in node.outputs if value.name in given]
        found.append(_Twin(site, node, quantized, shared))
    return found


def _has_subgraph(node: ir.Node) -> bool:
    return any(attribute.type in GRAPHS for attribute in node.attributes.values())


@dataclass
class _Splice:
    """Writes nodes of the graph after into a clone of the graph before.

    ``known`` are the values that depend on an input, by name, as each graph sees them: what the new nodes are fed with.
    Weights and what is computed from them alone come from the graph after; ``stored`` are its constants that were
    copied into ``graph``, the main one.
    """

    graph: ir.Graph
    names: Names
    chooser: ir.Value
    known: Mapping[ir.Graph, Mapping[str, ir.Value]]
    stored: dict[ir.Value, ir.Value] = field(default_factory=dict)

    @classmethod
    def into(cls, model: ir.Model, twins: Sequence[_Twin]) -> _Splice:
        """Let everybody read what will be chosen in the place of the sites' values."""
        names, moving = Names.of(model), _moving_by_graph(model)
        chosen: dict[ir.Value, ir.Value] = {}
        for value in (value for twin in twins for value, _ in twin.values):
            chosen[value] = ir.Value(name=value.name, type=value.type, shape=value.shape)
            value.replace_all_uses_with(chosen[value], replace_graph_outputs=True)
            value.name = names.free(f"{value.name}.float")
        known = {
            graph: {str(value.name): value for value in (chosen.get(each, each) for each in values)}
            for graph, values in moving.items()
        }
        flags = ir.Value(name=names.free("quantized"), type=ir.TensorType(ir.DataType.BOOL))
        flags.shape = ir.Shape([len(twins)])
        return cls(model.graph, names, flags, known)

    def choose(self, twin: _Twin, index: int) -> None:
        """Add the node that gives the values of a site, by the element of the chooser with this index."""
        graph = twin.node.graph
        assert isinstance(graph, ir.Graph)
        known = self.known[graph]
        quantized, plain = _Branch(self, known), _Branch(self, known)
        made = dict(zip(twin.quantized.outputs, quantized.copy(twin.quantized), strict=True))
        pairs = [(quantized.typed(made[new], new.dtype, old.dtype), plain.same(old)) for old, new in twin.values]
        branches = [
            ir.AttrGraph(name, ir.Graph([], values, nodes=branch.nodes, name=self.names.free(f"{twin.site}.{name}")))
            for name, branch, values in zip(
                ("then_branch", "else_branch"), (quantized, plain), zip(*pairs, strict=True), strict=True
            )
        ]
        place = self.stored_as(f"{twin.site}.index", ir.tensor(np.array(index, np.int64)))
        flag = ir.Node("", "Gather", [self.chooser, place], name=self.names.free(f"{twin.site}.chosen"))
        flag.outputs[0].name = flag.name
        results = [known[str(new.name)] for _, new in twin.values]
        graph.extend([flag, ir.Node("", "If", flag.outputs, branches, outputs=results)])

    def constant(self, value: ir.Value) -> ir.Value:
        """Return the copy of a constant of the graph after, made once."""
        if value not in self.stored:
            assert value.const_value is not None
            self.stored[value] = self.stored_as(str(value.name), value.const_value)
        return self.stored[value]

    def stored_as(self, wanted: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add an initializer."""
        name, shape = self.names.free(wanted), ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value


@dataclass
class _Branch:
    """The nodes of one branch, and what was made of values of the graph after."""

    splice: _Splice
    known: Mapping[str, ir.Value]
    nodes: list[ir.Node] = field(default_factory=list)
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def copy(self, node: ir.Node, first: ir.Value | None = None) -> list[ir.Value]:
        """Copy a node of the graph after, and before it what it reads; ``first`` takes the place of its first input."""
        inputs = [self.read(value) for value in (node.inputs if first is None else node.inputs[1:])]
        outputs = self._add(node, inputs if first is None else [first, *inputs])
        self.made.update(zip(node.outputs, outputs, strict=True))
        return outputs

    def _add(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
        new = ir.Node(
            node.domain, node.op_type, inputs, node.attributes.values(),
            overload=node.overload, num_outputs=len(node.outputs), version=node.version,
        )  # fmt: skip
        for value, old in zip(new.outputs, node.outputs, strict=True):
            value.name = self.splice.names.free(str(old.name)) if old.name else ""
        self.nodes.append(new)
        return list(new.outputs)

    def read(self, value: ir.Value | None) -> ir.Value | None:
        """Return what stands for a value of the graph after in this branch."""
        if value is None or value in self.made:
            return None if value is None else self.made[value]
        producer = value.producer()
        if value.name in self.known:
            self.made[value] = self._before(value)
        elif producer is None:
            self.made[value] = self.splice.constant(value)
        else:
            self.copy(producer)
        return self.made[value]

    def _before(self, value: ir.Value) -> ir.Value:
        """Return the value of the same name in the graph before, quantized where the graph after has it quantized."""
        source, dequantizer = self.known[str(value.name)], value.producer()
        codes = dequantizer.inputs[0] if dequantizer is not None and dequantizer.op_type == "DequantizeLinear" else None
        quantizer = None if codes is None else codes.producer()
        if dequantizer is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
            return self.typed(source, source.dtype, value.dtype)
        return self.copy(dequantizer, self.copy(quantizer, source)[0])[0]

    def typed(self, value: ir.Value, dtype: ir.DataType | None, wanted: ir.DataType | None) -> ir.Value:
        """Return a value in the type that is wanted, as far as both are known."""
        if dtype is None or wanted is None or dtype == wanted:
            return value
        return self._named("Cast", value, {"to": ir.AttrInt64("to", int(wanted))})

    def same(self, value: ir.Value) -> ir.Value:
        """Return a value from around the branch as one that it may give."""
        return self._named("Identity", value, {})

    def _named(self, op: str, value: ir.Value, attributes: dict[str, ir.Attr]) -> ir.Value:
        node = ir.Node("", op, [value], attributes)
        node.outputs[0].name = self.splice.names.free(f"{value.name}.{op.lower()}")
        self.nodes.append(node)
        return node.outputs[0]


def _moving_by_graph(model: ir.Model) -> dict[ir.Graph, list[ir.Value]]:
    """Return for every graph the values that it sees and that depend on an input, those of the graphs around it too."""
    places = Places(model)
    found: dict[ir.Graph, list[ir.Value]] = {}
    for graph in places.prefixes:
        around = places.holders[graph].graph if graph in places.holders else None
        found[graph] = moving_values(graph, found[around] if isinstance(around, ir.Graph) else ())
    return found


def moving_values(graph: ir.Graph, around: Iterable[ir.Value] = ()) -> list[ir.Value]:
    """Return the values that depend on an input; the others are as good as weights."""
    moving = {*around, *graph.inputs}
    for node in graph:
        if not moving.isdisjoint(used_values(node)):
            moving.update(value for value in node.outputs if value.name)
    return list(moving)
