"""Compute once, at compile time, what is the same in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from mlc.fusion import Names, drop_unused_constant, infer_shapes, is_constant, note_constants, walk
from mlc.graph_pass import Change, Context, Exactness, Pass, Refusal
from passes._constants import foldable, grown, known_inputs, rearranged, result
from passes._inline_if import inline
from passes._shared import LIMIT


@dataclass(frozen=True)
class FoldConstants(Pass):
    """``y = f(c)`` becomes the initializer ``y``, where c is constant; an If of constant condition becomes its branch.

    Computed by the runtime's own kernels, so the bits are the same. Shapes that are numbers are constants too. Constant
    nodes become initializers.

    Leaves alone: random operators, weights that a caller may override, quantization (a folded DequantizeLinear is a
    float weight again), what the runtime cannot compute, operators of other domains. Refuses a result that makes the
    model larger by more than ``limit`` bytes, and one that only rearranges a weight that others read too: tied weights
    stay one. An output of the graph stays the output of a node.
    """

    name: ClassVar[str] = "fold-constants"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    limit: int = LIMIT

    def __post_init__(self) -> None:
        """Refuse options that make no sense."""
        if self.limit < 0:
            raise ValueError(f"limit is a number of bytes, not {self.limit}")

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Fold graph by graph, outer ones first, until an inlined branch brings nothing new."""
        found = _Found(ctx, Names.of(model))
        while True:
            note_constants(model)
            infer_shapes(model)
            count = len(found.sites)
            for prefix, graph in walk(model):
                _Folding(model, graph, prefix, self.limit, found).fold()
            inlined = next(
                (site for prefix, graph in walk(model) if (site := inline(graph, prefix, found.names, found.may))), None
            )
            if inlined is not None:
                found.sites[inlined] = None
            if len(found.sites) == count:
                break
        refused = tuple(Refusal(site, why) for site, why in found.refused.items() if site not in found.sites)
        return Change(tuple(found.sites), refused)


@dataclass
class _Found:
    """What one run changed, refused and asked for."""

    ctx: Context
    names: Names
    sites: dict[str, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    asked: dict[str, bool] = field(default_factory=dict)

    def may(self, site: str) -> bool:
        """Ask for a site once."""
        if site not in self.asked:
            self.asked[site] = self.ctx.allow(site)
        return self.asked[site]


@dataclass
class _Folding:
    """The folding of one graph: which values are known, and which of them the rest of the graph reads."""

    model: ir.Model
    graph: ir.Graph
    prefix: str
    limit: int
    found: _Found
    known: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)

    def fold(self) -> None:
        """Compute what can be, then replace what is read, from the outputs up."""
        folded = {node: None for node in self.graph if self._compute(node)}
        for node in reversed(list(folded)):
            read = [value for value in node.outputs if self._is_read(value, folded)]
            at_the_end = node.op_type in ("Constant", "Identity") and any(value.is_graph_output() for value in read)
            if read and (at_the_end or not self._may(node, read, folded)):
                del folded[node]
        self._replace(folded)

    def _compute(self, node: ir.Node) -> bool:
        """Find the results of a node, if they are constant; whether they are."""
        if not foldable(node):
            return False
        inputs = known_inputs(node, self._tensor)
        growth = 0 if inputs is None else grown(node, inputs)
        if growth > self.limit:
            self._refuse(self.prefix + str(node.outputs[0].name), growth)
            return False
        tensors = result(node, self.model, inputs)
        if tensors is None or any(tensor.dtype == ir.DataType.STRING for tensor in tensors):
            return False
        self.known.update(zip([output for output in node.outputs if output.name], tensors, strict=True))
        return True

    def _tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        if value in self.known:
            return self.known[value]
        return value.const_value if is_constant(value) else None

    def _is_read(self, value: ir.Value, folded: dict[ir.Node, None]) -> bool:
        return bool(value.name) and (value.is_graph_output() or any(use.node not in folded for use in value.uses()))

    def _may(self, node: ir.Node, read: list[ir.Value], folded: dict[ir.Node, None]) -> bool:
        site = self.prefix + str(read[0].name)
        freed = self._freed(node, folded)
        growth = sum(self.known[value].nbytes for value in read) - sum(
            value.const_value.nbytes for value in freed if value.const_value is not None
        )
        weight = rearranged(node)
        if weight is not None and weight not in freed:
            self.found.refused.setdefault(site, f"{weight.name} is read elsewhere and would be stored twice")
            return False
        if node.op_type != "Constant" and growth > self.limit:
            self._refuse(site, growth)
            return False
        return all(self.found.may(self.prefix + str(value.name)) for value in read)

    def _freed(self, node: ir.Node, folded: dict[ir.Node, None]) -> list[ir.Value]:
        """Return the initializers that nothing but this node and the folded ones before it reads."""
        seen, stack = {node}, [node]
        while stack:
            for source in stack.pop().predecessors():
                if source in folded and source not in seen:
                    seen.add(source)
                    stack.append(source)
        read = {value for each in seen for value in each.inputs if value is not None and is_constant(value)}
        return [
            value
            for value in read
            if value.is_initializer() and not value.is_graph_output() and all(use.node in seen for use in value.uses())
        ]

    def _refuse(self, site: str, growth: int) -> None:
        reason = f"the model would grow by {growth:,} bytes, the limit is {self.limit:,}"
        self.found.refused.setdefault(site, reason)

    def _replace(self, folded: dict[ir.Node, None]) -> None:
        for node in folded:
            for value in node.outputs:
                if self._is_read(value, folded):
                    self.found.sites[self.prefix + str(value.name)] = None
                    self._to_initializer(node, value)
        sources = [value for node in folded for value in node.inputs if value is not None]
        for node in reversed(list(folded)):
            self.graph.remove([node], safe=True)
        for value in sources:
            drop_unused_constant(value)

    def _to_initializer(self, node: ir.Node, value: ir.Value) -> None:
        """Give a value's name to a new initializer; an output of the graph gets it by an Identity."""
        name, tensor = str(value.name), self.known[value]
        value.name = f"{name}.folded"
        shape = ir.Shape(tensor.shape.numpy())
        new = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        if value.is_graph_output():
            new.name = self.found.names.free(f"{name}.constant")
            identity = ir.Node("", "Identity", [new], name=self.found.names.free(f"{name}.Identity"))
            (output,) = identity.outputs
            output.name, output.type, output.shape = name, value.type, value.shape
            self.graph.insert_before(node, identity)
            value.replace_all_uses_with(output, replace_graph_outputs=True)
        else:
            value.replace_all_uses_with(new)
        self.graph.register_initializer(new)
