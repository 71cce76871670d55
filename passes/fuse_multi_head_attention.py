"""Write an attention that is spelled out as the GPU kernel that there is for it below opset 23."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import opset_of
from mlc.graph_pass import Change, Context
from passes._kernels import DOMAIN
from passes.fuse_attention import FuseAttention

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes._attention import Attention


@dataclass(frozen=True)
class FuseMultiHeadAttention(FuseAttention):
    """``softmax(scale * q @ k.T) @ v`` becomes ``com.microsoft.MultiHeadAttention(q, k, v)``.

    As Vaswani et al. have it (Attention Is All You Need, arXiv 1706.03762, section 3.2). For GPUs, and models that are
    below opset 23 because the target lacks kernels of it: there fuse-attention writes ONNX's own operator. Refuses what
    that refuses, where q, k and v are not split into heads right before or the heads do not come together right behind,
    where there is a mask, whose rows of -inf alone give NaN, where keys have fewer heads than queries, and where values
    have another width.
    """

    name: ClassVar[str] = "fuse-multi-head-attention"
    min_opset: ClassVar[int] = 13
    needs_kernels: ClassVar[Mapping[str, str]] = {
        f"{DOMAIN}.MultiHeadAttention": """(float[n,s,32] q, float[n,s,32] k, float[n,s,32] v) => (float[n,s,32] y)
            { y = com.microsoft.MultiHeadAttention<num_heads = 2, scale = 0.25>(q, k, v) }"""
    }
    ends: ClassVar[frozenset[str]] = frozenset({"MatMul"})

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Replace every attention of a model below opset 23; from there on ONNX's own kernels are as fast."""
        return super().apply(model, ctx) if opset_of(model) < FuseAttention.min_opset else Change(())

    def check(self, attention, tail, mask, softmax) -> str | None:
        if mask is not None:
            return "it has a mask"
        if tail is None:
            return "its heads are not split right before and joined right behind"
        return super().check(attention, tail, mask, softmax) or _uneven(attention)

    def rewrite(self, op, attention, tail, mask, softmax):
        return attention.write_as_kernel(op, tail)


def _uneven(attention: Attention) -> str | None:
    """Return what keeps queries, keys and values from being of one number of heads and one width, or None."""
    dims = [side.dims for side in (attention.q, attention.k, attention.v)]
    heads, widths = ({one[axis] for one in dims if one is not None} for axis in (1, 3))
    if len(heads) > 1:
        return "the keys have fewer heads than the queries"
    return "the queries, keys and values are not known to be of one width" if len(widths) > 1 else None
