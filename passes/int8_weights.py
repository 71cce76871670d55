"""Weights of 8 bits by blocks; activations stay float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from mlc.formats import BlockScheme, round_to_nearest
from mlc.graph_pass import Change, Context, Exactness, Pass
from mlc.types import NodePlan
from passes._block_forms import KERNEL, Form, joined, small_product, write_blocks
from passes._blocks import planned


@dataclass(frozen=True)
class Int8Weights(Pass):
    """``x @ w`` becomes ``x @ w'``, with ``w' = scale * (code - zero_point)``, codes of 8 bits, each block its scale.

    MatMul and Gemm with constant weights, and the tables of Gather, in branches and bodies of loops too; blocks are
    ``block`` elements along what the product adds up, or 64 or 32 where only those are whole. Codes are the nearest, so
    no data is needed, and stored once for all that read them. Refuses, and keeps float: weights that anything else
    reads, that are not whole blocks, or are no matrices.

    Where the target has onnxruntime's MatMulNBits, a product becomes one, on a CPU with inputs that it rounds to 8 bits
    as it computes; its last block may be short. Elsewhere, in portable output, and with ``form=standard``, the weight
    is a DequantizeLinear, which onnxruntime joins with the product to the same operator when it loads, where no other
    product reads the codes.
    """

    name: ClassVar[str] = "int8-weights"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 21
    may_use_kernels: ClassVar[Mapping[str, str]] = {KERNEL: small_product(8)}

    block: Literal[32, 64, 128] = 128
    symmetric: bool = True
    form: Form = "auto"

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Return what becomes of each node that was looked at."""
        return planned(model, ctx, self.name, self.scheme, short=joined(ctx, self.form))

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Quantize every weight that can be, each once, however many nodes read it."""
        return write_blocks(
            model, ctx, self.name, self.scheme, self.form, lambda _, matrix, scheme: round_to_nearest(matrix, scheme)
        )

    @property
    def scheme(self) -> BlockScheme:
        """How the codes lie."""
        return BlockScheme(8, self.block, self.symmetric)
