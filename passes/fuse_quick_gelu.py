"""Write a product with its own sigmoid as the one operator that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, producer, product_of
from mlc.graph_pass import Exactness
from passes._kernels import DOMAIN, not_float32

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseQuickGelu(Search):
    """``x * sigmoid(alpha * x)`` becomes ``com.microsoft.QuickGelu<alpha>(x)``.

    SiLU with alpha 1 (Elfwing, Uchibe and Doya, arXiv 1702.03118, section 2.2), an approximation of GELU with 1.702
    (Hendrycks and Gimpel, arXiv 1606.08415, section 2). For GPUs: a CPU's runtime does it by itself at load. Refuses
    where the values are not float32, and where the sigmoid is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-quick-gelu"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    needs_kernels: ClassVar[Mapping[str, str]] = {
        f"{DOMAIN}.QuickGelu": "(float[n,4] x) => (float[n,4] y) { y = com.microsoft.QuickGelu<alpha = 1.702>(x) }"
    }
    ends: ClassVar[frozenset[str]] = frozenset({"Mul"})

    def look(self, node: ir.Node) -> Match | None:
        for x, gate in (node.inputs, node.inputs[::-1]):
            sigmoid = producer(gate, "Sigmoid")
            if sigmoid is None or sigmoid.inputs[0] is None:
                continue
            inner = product_of(sigmoid.inputs[0])
            if inner.factors == [x]:
                return Match([*inner.nodes, sigmoid, node], node.outputs[:1], {"x": x, "alpha": inner.scale})
        return None

    def check(self, x, alpha) -> str | None:
        return not_float32(x)

    def rewrite(self, op, x, alpha):
        return op.QuickGelu(x, alpha=alpha, _domain=DOMAIN)
