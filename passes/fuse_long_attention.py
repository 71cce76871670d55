"""Write an attention over a long sequence as the operator whose kernel never holds all scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.formats import number
from mlc.fusion import Match, Search, dims_of, near_miss
from mlc.graph_pass import Change, Context, Exactness, Refusal
from passes._kernels import DOMAIN, not_float32
from passes._spelled_attention import SPELLED, spelled_attention

if TYPE_CHECKING:
    import onnx_ir as ir

KERNEL = f"{DOMAIN}.MultiHeadAttention"

NO_KERNEL = "its operator is onnxruntime's own, for CPUs that have its kernel, and for no portable output"

FOUR_AXES = "its inputs have four axes: its heads are not split right before and joined right behind"

LONG = 512
"""From so many queries and keys on the kernel is the faster one: below, 5 to 30 % slower at 16 to 256, measured."""


@dataclass(frozen=True)
class FuseLongAttention(Search):
    """``Attention(q, k, v)`` of 512 tokens and more becomes ``com.microsoft.MultiHeadAttention(q, k, v)``.

    On CPUs whose runtime has the kernel, which goes over blocks of keys and keeps maximum and sum of each row (Dao et
    al., FlashAttention, arXiv 2205.14135, algorithm 1), in place of scores as large as the square of the length. Takes
    inputs of three axes whose lengths are known. Refuses where there is a mask or a cache, where another output is an
    output of the graph or used, where it is causal or the scores are capped, where keys have fewer heads, where values
    have another width, other than float32, where inputs have four axes or the attention is spelled out still, and
    wherever the kernel is not to be had.
    """

    name: ClassVar[str] = "fuse-long-attention"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 23
    may_use_kernels: ClassVar[Mapping[str, str]] = {
        KERNEL: """(float[n,s,4] q, float[n,s,4] k, float[n,s,4] v) => (float[n,s,4] y)
            { y = com.microsoft.MultiHeadAttention<num_heads = 2, scale = 0.5>(q, k, v) }"""
    }
    ends: ClassVar[frozenset[str]] = frozenset({"Attention", "MatMul"})

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Replace every long attention, where the target is a CPU that has the kernel; elsewhere refuse it."""
        if ctx.capabilities.cpu and KERNEL in ctx.capabilities.kernels:
            return super().apply(model, ctx)
        found = super().apply(model.clone(), ctx)
        return Change((), (*(Refusal(site, NO_KERNEL) for site in found.sites), *found.refused))

    def look(self, node: ir.Node) -> Match | None:
        if node.op_type == "MatMul":
            spelled = spelled_attention(node)
            lengths = dims_of(spelled.product.outputs[0]) if spelled is not None else None
            if lengths is None or not all(isinstance(size, int) and size >= LONG for size in lengths[-2:]):
                return None
            return near_miss(node, SPELLED)
        q, k, v = node.inputs[:3]
        if not (_is_long(q) and _is_long(k)):
            return None
        return Match([node], node.outputs[:1], {"q": q, "k": k, "v": v, "node": node})

    def check(self, q, k, v, node) -> str | None:
        widths = {(dims_of(value) or [value.name])[-1] for value in (q, k, v)}
        causal = number(node, "is_causal", 0) or number(node, "softcap", 0.0)
        heads = [number(node, name, 0) for name in ("q_num_heads", "kv_num_heads")]
        reasons = (
            (heads[0] == 0, FOUR_AXES),
            (any(node.inputs[3:]), "it has a mask or a cache"),
            (causal, "it is causal or its scores are capped"),
            (heads[0] != heads[1], "the keys have fewer heads than the queries"),
            (len(widths) > 1, "the queries, keys and values are not known to be of one width"),
        )
        return next((reason for holds, reason in reasons if holds), None) or not_float32(q)

    def rewrite(self, op, q, k, v, node):
        scale = node.attributes["scale"].as_float() if "scale" in node.attributes else None
        heads = int(number(node, "q_num_heads", 1))
        return op.MultiHeadAttention(q, k, v, num_heads=heads, scale=scale, _domain=DOMAIN)


def _is_long(value: ir.Value | None) -> bool:
    """Whether a value [batch, length, features] or [batch, heads, length, width] is known to be long."""
    length = (dims_of(value) or [0, 0])[-2]
    return isinstance(length, int) and length >= LONG
