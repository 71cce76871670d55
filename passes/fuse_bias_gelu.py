"""Let a GELU add the bias of the linear layer before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, is_constant, producer
from mlc.graph_pass import Exactness
from passes._kernels import DOMAIN, not_float32
from passes._norms import fits_last

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseBiasGelu(Search):
    """``Gelu(x + b)`` becomes ``com.microsoft.BiasGelu(x, b)``: one pass over the values less.

    The GELU with the error function (Hendrycks and Gimpel, arXiv 1606.08415, section 2). For GPUs: it gains nothing on
    a CPU. Refuses the form with tanh, where b is not constant with one element for each of the last axis of x, where
    the values are not float32, and where the sum is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-bias-gelu"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 20
    needs_kernels: ClassVar[Mapping[str, str]] = {
        f"{DOMAIN}.BiasGelu": "(float[n,4] x, float[4] b) => (float[n,4] y) { y = com.microsoft.BiasGelu(x, b) }"
    }
    ends: ClassVar[frozenset[str]] = frozenset({"Gelu"})

    def look(self, node: ir.Node) -> Match | None:
        total = producer(node.inputs[0], "Add")
        if total is None:
            return None
        x, bias = total.inputs if is_constant(total.inputs[1]) else total.inputs[::-1]
        approximate = node.attributes["approximate"].as_string() if "approximate" in node.attributes else "none"
        return Match([total, node], node.outputs[:1], {"x": x, "bias": bias, "approximate": approximate})

    def check(self, x, bias, approximate) -> str | None:
        if approximate != "none":
            return "it is the form with tanh"
        if not is_constant(bias):
            return "no summand is constant"
        if not fits_last(bias, x):
            return "the bias does not have one element for each of the last axis"
        return not_float32(x)

    def rewrite(self, op, x, bias, approximate):
        return op.BiasGelu(x, bias, _domain=DOMAIN)
