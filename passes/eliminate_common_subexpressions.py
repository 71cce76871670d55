"""Compute once what is computed twice, and keep one weight of those that are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from mlc.fusion import is_standard, note_constants, walk
from mlc.graph_pass import Change, Context, Exactness, Pass, Refusal
from passes._constants import CHANGING

PLAIN = frozenset(
    {
        ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS,
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.STRING,
        ir.AttributeType.STRINGS,
    }
)
"""Attributes that are what their text says: -0.0 is another number than 0.0."""


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """``f(x), f(x)`` becomes one ``f(x)``, and two initializers of the same dtype, shape and bits become one.

    Leaves alone: what is not deterministic (random operators, Dropout that may be on), nodes with subgraphs, operators
    of other domains, weights that a caller may override, and what stands in different graphs. Refuses where the value
    that would go is an output, whose name stays.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Merge initializers first, then nodes from the beginning of each graph, so that equal chains become one."""
        note_constants(model)
        merging = _Merging(ctx)
        for prefix, graph in list(walk(model)):
            merging.initializers(graph, prefix)
            merging.nodes(graph, prefix)
        return Change(tuple(merging.sites), tuple(merging.refused))


@dataclass
class _Merging:
    """One run: what went and what could not."""

    ctx: Context
    sites: dict[str, None] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    def initializers(self, graph: ir.Graph, prefix: str) -> None:
        """Keep the first of equal weights."""
        sizes: dict[Hashable, list[ir.Value]] = {}
        for value in graph.initializers.values():
            if value.const_value is not None and not value.is_graph_input() and not value.is_graph_output():
                tensor = value.const_value
                sizes.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
        for alike in sizes.values():
            first: dict[Hashable, ir.Value] = {}
            for value in alike if len(alike) > 1 else ():
                assert value.const_value is not None
                kept = first.setdefault(_bits(value.const_value), value)
                if kept is not value and self._may(f"{prefix}{value.name}"):
                    value.replace_all_uses_with(kept)
                    graph.initializers.pop(str(value.name))

    def nodes(self, graph: ir.Graph, prefix: str) -> None:
        """Keep the first of equal nodes."""
        first: dict[Hashable, ir.Node] = {}
        for node in list(graph):
            key = _key(node)
            kept = node if key is None else first.setdefault(key, node)
            if kept is node:
                continue
            site = f"{prefix}{node.outputs[0].name}"
            outputs = [value.name for value in node.outputs if value.is_graph_output()]
            if outputs:
                self.refused.append(Refusal(site, f"{outputs[0]} is an output, and its name stays"))
            elif self._may(site):
                for old, new in zip(node.outputs, kept.outputs, strict=True):
                    new.type = new.type if new.type is not None else old.type
                    new.shape = new.shape if new.shape is not None else old.shape
                    old.replace_all_uses_with(new)
                graph.remove([node], safe=True)

    def _may(self, site: str) -> bool:
        allowed = self.ctx.allow(site)
        if allowed:
            self.sites[site] = None
        return allowed


def _key(node: ir.Node) -> Hashable | None:
    """Return what two nodes have to share to compute the same, or None for one that is left alone."""
    dropout = node.op_type == "Dropout" and len(node.inputs) > 1
    if not is_standard(node) or node.op_type in CHANGING or dropout:
        return None
    attributes: list[Hashable] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            return None
        if attribute.type in PLAIN:
            attributes.append((name, attribute.type, repr(attribute.value)))
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            attributes.append((name, tensor.dtype, f"{tuple(tensor.shape.numpy())} {_bits(tensor)!r}"))
        else:
            return None
    inputs = tuple(None if value is None else id(value) for value in node.inputs)
    outputs = tuple(bool(value.name) for value in node.outputs)
    return (node.op_type, node.overload, inputs, outputs, tuple(attributes))


def _bits(tensor: ir.TensorProtocol) -> bytes:
    """Return a digest of a tensor's bits; texts have none of fixed size."""
    content = repr(tensor.numpy().tolist()).encode() if tensor.dtype == ir.DataType.STRING else tensor.tobytes()
    return hashlib.sha256(content).digest()
