"""The base of fusions: matches are refused, forbidden or replaced, until there are none left.

A subclass finds matches, by a pattern (``Fusion``) or by looking around a node (``Search``), and states
``check(x, ...)`` (a reason to refuse, or None) and ``rewrite(op, x, ...)``, where ``x, ...`` are the values bound by a
match's names.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.fusion.graph import drop_unused_constant, infer_shapes, note_constants, walk
from mlc.graph_pass import Change, Context, Pass, Refusal

if TYPE_CHECKING:
    from mlc.types import Array

ROUNDS = 32
"""Rewriting stops after so many walks over the graph; each walk that changes nothing ends it sooner."""


def constant(op: Builder, array: Array) -> ir.Value:
    """Give a rewrite a new initializer; it is named after the site."""
    return op.initializer(ir.tensor(np.ascontiguousarray(array).reshape(np.shape(array))), name="constant")


class Builder:
    """What a rewrite makes nodes with: ``op.MatMul(x, w)``, ``op.Concat(a, b, axis=1)``, ``op.F(x, _domain="d")``.

    ``op.cpu_kernels`` are the operators outside ONNX's own that may be written, since the target is a CPU that has
    them.
    """

    def __init__(self, cpu_kernels: Collection[str] = ()) -> None:
        self.cpu_kernels = cpu_kernels
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.opsets: dict[str, int] = {}

    def initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """Make a new initializer."""
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def make(
            *inputs: ir.Value | None, _domain: str = "", _version: int = 1, _outputs: int = 1, **attributes: Any
        ) -> Any:
            given = {name: value for name, value in attributes.items() if value is not None}
            node = ir.Node(_domain, op_type, inputs, ir.convenience.convert_attributes(given), num_outputs=_outputs)
            self.nodes.append(node)
            if _domain:
                self.opsets[_domain] = _version
            return node.outputs[0] if _outputs == 1 else tuple(node.outputs)

        return make


@dataclass
class Names:
    """Names taken in a model, to find free ones that depend on the site alone."""

    taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: ir.Model) -> Names:
        """Take every name that a value or node of a model has."""
        found: set[str | None] = set()
        for graph in model.graphs():
            found |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
            for node in graph:
                found |= {node.name, *(output.name for output in node.outputs)}
        return cls({name for name in found if name})

    def free(self, wanted: str) -> str:
        """Return a name like the wanted one that nothing has, and take it."""
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class _Made:
    """A replacement: its nodes and initializers, and which new value takes the place of which old one."""

    nodes: Sequence[ir.Node]
    initializers: Sequence[ir.Value]
    old_values: Sequence[ir.Value]
    new_values: Sequence[ir.Value]


@dataclass
class _Run:
    """One ``apply``: what it changed and refused so far."""

    model: ir.Model
    ctx: Context
    names: Names
    sites: dict[str, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    allowed: dict[str, bool] = field(default_factory=dict)

    def may(self, site: str) -> bool:
        """Ask for a site once."""
        if site not in self.allowed:
            self.allowed[site] = self.ctx.allow(site)
        return self.allowed[site]


@dataclass(frozen=True)
class Match:
    """Nodes that belong together, the values to be replaced, of which the first is the site, and others by name.

    ``reason`` is why it has to stay as it is, where that is known before ``check`` is asked.
    """

    nodes: Sequence[ir.Node]
    outputs: Sequence[ir.Value]
    bindings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def near_miss(node: ir.Node, reason: str) -> Match | None:
    """Return what ends at a node as refused for a reason, without bindings, or None where there is no reason."""
    return Match([node], node.outputs, reason=reason) if reason else None


Finder: TypeAlias = Callable[[ir.Graph, ir.Node], Iterable[Match]]
"""Gives the matches that end at a node, the one to be preferred first."""


class Replacing(Pass):
    """A pass that replaces matches, in all graphs, until there is none left.

    The site is the first value that a match gives; it keeps its name. A match is refused where a value inside it is
    used elsewhere, is a graph output or is computed around the branch or loop, and where ``check`` says so.
    """

    @abstractmethod
    def finder(self, model: ir.Model) -> Finder:
        """Return what finds matches in a graph of the model."""

    def check(self, *_args: Any, **_bound: Any) -> str | None:
        """Return why a match has to stay as it is, or None."""
        return None

    @abstractmethod
    def rewrite(self, op: Any, *args: Any) -> Any:
        """Return the replacements of the pattern's values, made with ``op`` and ``constant``."""

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Replace every match that is neither refused nor forbidden."""
        find = self.finder(model)
        run = _Run(model, ctx, Names.of(model))
        for _ in range(ROUNDS):
            note_constants(model)
            infer_shapes(model)
            before = len(run.sites)
            changed = [self._fuse_at(run, find, prefix, graph, node) for prefix, graph in walk(model) for node in graph]
            if not any(changed) and len(run.sites) == before:
                break
        refused = tuple(Refusal(site, why) for site, why in run.refused.items() if site not in run.sites)
        return Change(tuple(run.sites), refused)

    def _fuse_at(self, run: _Run, find: Finder, prefix: str, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the match that ends at a node, the first that is not refused."""
        if node.graph is not graph:
            return False
        for match in find(graph, node):
            site = f"{prefix}{match.outputs[0].name}"
            reason = _spread(graph, match) or match.reason or self.check(**match.bindings)
            if reason:
                run.refused.setdefault(site, reason)
            elif run.may(site):
                reason = self._replace(run, graph, node, match)
                if reason:
                    run.refused.setdefault(site, reason)
                    continue
                run.sites[site] = None
                return True
        return False

    def _replace(self, run: _Run, graph: ir.Graph, node: ir.Node, match: Match) -> str | None:
        """Put a replacement in the place of a match, or return why it cannot be."""
        able = run.ctx.capabilities
        op = Builder(able.kernels if able.cpu else ())
        replacements = self.rewrite(op, **match.bindings)
        new_values = list(replacements) if isinstance(replacements, Sequence) else [replacements]
        nodes = list(op.nodes)
        for index, value in enumerate(new_values):
            if value.producer() not in nodes or value in new_values[:index]:
                nodes.append(ir.Node("", "Identity", [value]))
                new_values[index] = nodes[-1].outputs[0]
        read = _read_inside(match, nodes)
        if read is not None:
            return f"{read.name} is computed inside of what would be replaced, and read by what would replace it"
        for domain, version in op.opsets.items():
            run.model.opset_imports.setdefault(domain, version)
        _insert(run.names, graph, node, _Made(nodes, op.initializers, match.outputs, new_values))
        _remove(graph, match.nodes)
        if len(new_values) > 1:
            graph.sort()
        return None


def _read_inside(match: Match, made: Sequence[ir.Node]) -> ir.Value | None:
    """Return a value of a match that new nodes read, which then are taken out again, or None."""
    inside = {value for node in match.nodes for value in node.outputs}
    read = next((value for node in made for value in node.inputs if value in inside), None)
    if read is not None:
        for node in made:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
    return read


def _spread(graph: ir.Graph, match: Match) -> str | None:
    """Return which value inside a match has to stay, since it is of another graph or used elsewhere, or None."""
    inside = set(match.nodes)
    for node in match.nodes:
        if node.graph is not graph:
            return f"{node.outputs[0].name} is not computed in the same branch or loop"
        for value in node.outputs:
            if value in match.outputs:
                continue
            if value.is_graph_output():
                return f"{value.name} is a graph output"
            if any(use.node not in inside for use in value.uses()):
                return f"{value.name} is used elsewhere"
    return None


def _insert(names: Names, graph: ir.Graph, place: ir.Node, made: _Made) -> None:
    """Put new nodes before a place, name everything after the site, and hand over uses and names of the old values."""
    site = made.old_values[0].name
    assert site is not None
    for value in made.initializers:
        value.name = names.free(f"{site}.{value.name}")
        graph.register_initializer(value)
    for node in made.nodes:
        node.name = names.free(f"{site}.{node.op_type}")
        for output in node.outputs:
            if output not in made.new_values:  # an optional output that nothing reads has no name
                output.name = names.free(f"{site}.{node.op_type}.value") if output.uses() else ""
    graph.insert_before(place, made.nodes)
    for old, new in zip(made.old_values, made.new_values, strict=True):
        name, old.name = old.name, None
        new.name, new.type, new.shape = name, old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}.replaced"


def _remove(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Remove nodes, and the constants that only they used."""
    sources = [value for node in nodes for value in node.inputs if value is not None]
    graph.remove(list(nodes), safe=True)
    for value in dict.fromkeys(sources):
        drop_unused_constant(value)
