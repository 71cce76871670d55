"""Write a group normalization as the instance normalization that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.formats import number
from mlc.fusion import Match, Search, array_of, constant, is_constant, opset_of, walk
from mlc.graph_pass import Change, Context, Exactness, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

KERNEL = "ai.onnx.GroupNormalization"
WRITTEN = "ai.onnx.InstanceNormalization"

CHANGED = 22
"""The opset since which InstanceNormalization is another one, of which a provider for GPUs may have no kernel."""

FLOAT32 = 1
"""The number of float32 among ONNX's element types, in which the mean is taken by default."""


@dataclass(frozen=True)
class GroupNormToInstanceNorm(Search):
    """``GroupNormalization(x, w, b)`` becomes ``InstanceNormalization`` of the groups, reshaped back, ``* w + b``.

    As Wu and He have it (Group Normalization, arXiv 1803.08494, section 3): a group is normalized as an instance with
    one channel. For targets without a kernel for it, where the runtime computes the operator by its definition, one
    node at a time and some of them, on GPUs, on the CPU. Refuses targets that have one, GPUs without a kernel for what
    it writes, other than float32, a mean taken in another type, an unknown rank, and unless w and b are constant and
    have one element for each channel, as from opset 21 on.
    """

    name: ClassVar[str] = "group-norm-to-instance-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"GroupNormalization"})
    may_use_kernels: ClassVar[Mapping[str, str]] = {
        KERNEL: "(float[n,8,h] x, float[8] w, float[8] b) => (float[n,8,h] y)"
        " { y = GroupNormalization<num_groups = 2>(x, w, b) }",
        WRITTEN: "(float[n,8,h] x, float[8] w, float[8] b) => (float[n,8,h] y) { y = InstanceNormalization(x, w, b) }",
    }

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Replace every group normalization, where the target has no kernel for it and one for what is written."""
        able = ctx.capabilities
        falls_back = not able.cpu and opset_of(model) >= CHANGED and WRITTEN not in able.kernels
        if KERNEL not in able.kernels and not falls_back:
            return super().apply(model, ctx)
        nodes = [(prefix, node) for prefix, graph in walk(model) for node in graph if node.op_type in self.ends]
        written = f"no kernel for InstanceNormalization of opset {CHANGED}, as which it would be written"
        reason = f"{able.description} has {'a kernel for it' if KERNEL in able.kernels else written}"
        return Change(refused=tuple(Refusal(f"{prefix}{node.outputs[0].name}", reason) for prefix, node in nodes))

    def look(self, node: ir.Node) -> Match | None:
        x, weight, bias = node.inputs
        return Match([node], node.outputs[:1], {"x": x, "weight": weight, "bias": bias, "node": node})

    def check(self, x, weight, bias, node) -> str | None:
        if x.dtype is None or x.dtype.name != "FLOAT" or number(node, "stash_type", FLOAT32) != FLOAT32:
            return "it is not computed in float32"
        if x.shape is None:
            return "the rank of the input is not known"
        for role, value in (("weight", weight), ("bias", bias)):
            if not is_constant(value):
                return f"the {role} is not constant"
            if value.const_value.shape.numpy() != (x.shape[1],):
                return f"the {role} does not have one element for each channel"
        return None

    def rewrite(self, op, x, weight, bias, node):
        groups = int(number(node, "num_groups", 1))
        one, zero = constant(op, np.ones(groups, np.float32)), constant(op, np.zeros(groups, np.float32))
        grouped = op.Reshape(x, constant(op, np.array([0, groups, -1], np.int64)))
        normal = op.InstanceNormalization(grouped, one, zero, epsilon=number(node, "epsilon", 1e-5))
        channels = (-1, *(1,) * (len(x.shape) - 2))
        scaled = op.Mul(op.Reshape(normal, op.Shape(x)), constant(op, array_of(weight).reshape(channels)))
        return op.Add(scaled, constant(op, array_of(bias).reshape(channels)))
