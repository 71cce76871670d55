"""Let a layer normalization add the residual, and the bias before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.formats import number
from mlc.fusion import Match, Search, is_constant, producer
from mlc.graph_pass import Exactness
from passes._kernels import DOMAIN, not_float32, same_shape
from passes._norms import fits_last

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseSkipLayerNorm(Search):
    """``LayerNormalization(x + b + skip, w, c)`` becomes ``com.microsoft.SkipLayerNormalization(x, skip, w, c, b)``.

    Pre-norm transformers go on with the sum (Xiong et al., On Layer Normalization in the Transformer Architecture,
    arXiv 2002.04745, section 3): where it is used elsewhere it is the operator's last output. The bias b is taken in
    where it is constant, of one axis, and added nowhere else. For GPUs: on a CPU this is several times slower than the
    two operators, and its kernels lose digits where the mean is far larger than the deviation. Refuses where the
    normalization is not over the last axis of two or three, where the summands are not known to have one shape, where w
    or c does not have one element for each of the last axis, where the values are not float32, and where mean or
    deviation are used.
    """

    name: ClassVar[str] = "fuse-skip-layer-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 17
    needs_kernels: ClassVar[Mapping[str, str]] = {
        f"{DOMAIN}.SkipLayerNormalization": """
            (float[n,2,4] x, float[n,2,4] skip, float[4] w, float[4] b) => (float[n,2,4] y, float[n,2,4] sum)
            { y, , , sum = com.microsoft.SkipLayerNormalization(x, skip, w, b, b) }"""
    }
    ends: ClassVar[frozenset[str]] = frozenset({"LayerNormalization"})

    def look(self, node: ir.Node) -> Match | None:
        total = producer(node.inputs[0], "Add")
        if total is None or any(is_constant(value) and _has_one_axis(value) for value in total.inputs):
            return None  # the bias of a layer, and nothing that skips it
        (x, skip), bias, nodes = total.inputs, None, [total, node]
        for biased, other in (total.inputs, total.inputs[::-1]):
            found = _biased(biased)
            if found is not None:
                inner, x, bias = found
                skip, nodes = other, [inner, *nodes]
                break
        shared = len(total.outputs[0].uses()) > 1 or total.outputs[0].is_graph_output()
        outputs = [node.outputs[0], *(total.outputs if shared else [])]
        return Match(nodes, outputs, {"x": x, "skip": skip, "bias": bias, "norm": node, "shared": shared})

    def check(self, x, skip, bias, norm, shared) -> str | None:
        if x.shape is None or len(x.shape) not in (2, 3):
            return "the summands do not have two or three axes"
        if not same_shape(x, skip):
            return "the summands are not known to have one shape"
        axis = number(norm, "axis", -1)
        if axis not in (-1, len(x.shape) - 1):
            return "the normalization is not over the last axis alone"
        for role, value in (("weight", norm.inputs[1]), ("bias", norm.inputs[2] if len(norm.inputs) > 2 else None)):
            if not (fits_last(value, x) or (role == "bias" and value is None)):
                return f"the {role} does not have one element for each of the last axis"
        return not_float32(x)

    def rewrite(self, op, x, skip, bias, norm, shared):
        given = [x, skip, norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else None, bias]
        while given[-1] is None:
            given.pop()
        epsilon = number(norm, "epsilon", 1e-5)
        made = op.SkipLayerNormalization(*given, epsilon=epsilon, _domain=DOMAIN, _outputs=4 if shared else 1)
        return [made[0], made[3]] if shared else made


def _has_one_axis(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) <= 1


def _biased(value: ir.Value | None) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """Return the Add, x and b of ``x + b`` with a constant bias of one axis, where nothing else reads the sum."""
    node = producer(value, "Add")
    if value is None or node is None or len(value.uses()) > 1 or value.is_graph_output():
        return None
    for x, bias in (node.inputs, node.inputs[::-1]):
        if x is not None and bias is not None and is_constant(bias) and fits_last(bias, x):
            return node, x, bias
    return None
