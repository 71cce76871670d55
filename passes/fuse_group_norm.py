"""Write a group normalization of channels-last values as the one operator that takes them so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.formats import number
from mlc.fusion import Match, Search, array_of, constant, is_constant, producer
from mlc.graph_pass import Exactness
from passes._kernels import DOMAIN, not_float32, same_shape

if TYPE_CHECKING:
    import onnx_ir as ir

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
"""The transposes from channels-last values and back to them."""


QUICK_GELU = 1.702
"""The alpha of a QuickGelu that names none."""


@dataclass(frozen=True)
class FuseGroupNorm(Search):
    """``Transpose(silu(group_norm(Transpose(x))))`` becomes ``com.microsoft.GroupNorm(x)``, with or without the silu.

    Group normalization as Wu and He have it (arXiv 1803.08494, section 3), as GroupNormalization of opset 21 or as the
    InstanceNormalization that exporters write below it. The operator takes channels-last values alone: where there are
    no transposes from and to them, two would have to be added for every one, and the match is refused. Refuses too
    where the values do not have four axes, where weight or bias is not constant with one element for each channel,
    where the values are not float32, and where a value inside is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-group-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    needs_kernels: ClassVar[Mapping[str, str]] = {
        f"{DOMAIN}.GroupNorm": """(float[n,3,3,4] x, float[4] w, float[4] b) => (float[n,3,3,4] y)
            { y = com.microsoft.GroupNorm<groups = 2, activation = 1, channels_last = 1>(x, w, b) }"""
    }
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "GroupNormalization"})

    def look(self, node: ir.Node) -> Match | None:
        norm = _norm_of(node)
        if norm is None:
            return None
        first = producer(norm.x, "Transpose")
        result, silu = _activated(node.outputs[0])
        readers = [use.node for use in result.uses()]
        last = readers[0] if len(readers) == 1 and readers[0].op_type == "Transpose" else None
        bound = {"norm": norm, "y": node.outputs[0], "silu": bool(silu), "x": None}
        if first is None or last is None or _order(first) != TO_FIRST or _order(last) != TO_LAST:
            return Match(norm.nodes, node.outputs[:1], bound)
        nodes = [*norm.nodes, *silu, last]
        if all(use.node in nodes for use in first.outputs[0].uses()) and not first.outputs[0].is_graph_output():
            nodes.append(first)
        return Match(nodes, last.outputs[:1], {**bound, "x": first.inputs[0]})

    def check(self, x, norm, y, silu) -> str | None:
        if norm.x.shape is None or len(norm.x.shape) != 4:
            return "the values do not have four axes"
        spelled = len(norm.nodes) > 1
        if spelled and not same_shape(norm.x, y):
            return "the result is not known to have the shape of the values"
        for role, value in (("weight", norm.weight), ("bias", norm.bias)):
            if not _by_channel(value, norm.x.shape[1], spelled):
                return f"the {role} is not constant with one element for each channel"
        first = producer(norm.x, "Transpose")
        if x is None and first is not None and _order(first) == TO_FIRST:
            return "its values are channels-last, but no Transpose back to that follows it or its SiLU"
        if x is None:
            return "its values are not channels-last, as the operator takes them: two transposes would have to be added"
        return not_float32(x)

    def rewrite(self, op, x, norm, y, silu):
        weight, bias = (
            value if len(value.shape) == 1 else constant(op, array_of(value).reshape(-1))
            for value in (norm.weight, norm.bias)
        )
        settings = {"groups": norm.groups, "epsilon": norm.epsilon, "activation": int(silu), "channels_last": 1}
        return op.GroupNorm(x, weight, bias, **settings, _domain=DOMAIN)


@dataclass
class _Norm:
    """A group normalization of channels-first values, and its nodes."""

    x: ir.Value
    weight: ir.Value | None
    bias: ir.Value | None
    groups: int
    epsilon: float
    nodes: list[ir.Node] = field(default_factory=list)


def _norm_of(node: ir.Node) -> _Norm | None:
    """Return the group normalization that ends at a node, in either form."""
    if node.op_type == "Add":
        return next(filter(None, (_spelled(node, *pair) for pair in (node.inputs, node.inputs[::-1]))), None)
    x, weight, bias = node.inputs
    if x is None:
        return None
    groups = node.attributes["num_groups"].as_int()
    return _Norm(x, weight, bias, groups, number(node, "epsilon", 1e-5), [node])


def _spelled(total: ir.Node, scaled: ir.Value | None, bias: ir.Value | None) -> _Norm | None:
    """Return x of ``Reshape(InstanceNormalization(Reshape(x))) * weight + bias``, each group one instance."""
    product = producer(scaled, "Mul")
    for value, weight in (product.inputs, product.inputs[::-1]) if product is not None else ():
        back = producer(value, "Reshape")
        instance = producer(back.inputs[0], "InstanceNormalization") if back is not None else None
        apart = producer(instance.inputs[0], "Reshape") if instance is not None else None
        if product is None or back is None or instance is None or apart is None or apart.inputs[0] is None:
            continue
        x, (_, ones, zeros) = apart.inputs[0], instance.inputs
        if not (is_constant(ones) and is_constant(zeros) and is_constant(apart.inputs[1])):
            continue
        assert ones is not None
        assert zeros is not None
        assert apart.inputs[1] is not None
        groups, sizes = array_of(ones).size, array_of(apart.inputs[1]).tolist()
        plain = np.all(array_of(ones) == 1) and np.all(array_of(zeros) == 0)
        if plain and sizes == [0, groups, -1]:
            shape = producer(back.inputs[1], "Shape")
            inside = [shape] if shape is not None and shape.inputs[0] is x else []
            nodes = [apart, instance, *inside, back, product, total]
            return _Norm(x, weight, bias, groups, number(instance, "epsilon", 1e-5), nodes)
    return None


def _activated(value: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """Return ``value * sigmoid(value)`` and its nodes where nothing else reads the value, else the value itself."""
    readers = [use.node for use in value.uses()]
    names = sorted(node.op_type for node in readers)
    if names == ["QuickGelu"] and number(readers[0], "alpha", QUICK_GELU) == 1.0:
        return readers[0].outputs[0], readers
    if names == ["Mul", "Sigmoid"]:
        product, sigmoid = sorted(readers, key=lambda node: node.op_type)
        if set(product.inputs) == {value, sigmoid.outputs[0]}:
            return product.outputs[0], [sigmoid, product]
    return value, []


def _by_channel(value: ir.Value | None, channels: object, spelled: bool) -> bool:
    """Whether a value is constant with one element for each channel: of one axis, or ``spelled`` before two others."""
    if value is None or not is_constant(value):
        return False
    shape = array_of(value).shape
    return shape in ([(channels, 1, 1), (1, channels, 1, 1)] if spelled else [(channels,)])


def _order(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes["perm"].as_ints()) if "perm" in transpose.attributes else []
