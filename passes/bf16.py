"""Weights in bfloat16, computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from mlc.graph_pass import Change, Context, Exactness, Pass
from passes._half import BFLOAT16, store_weights
from passes._stored import permitted


@dataclass(frozen=True)
class Bf16(Pass):
    """``w`` becomes ``Cast(w as bfloat16)``: the file halves, and all is computed in float32 as before.

    Float32 weights of 1,024 bytes or more are rounded to 8 bits of mantissa, each stored once however many nodes read
    it. Nothing becomes faster: the runtime widens the weights when it loads the file. Refuses weights that a caller may
    override or that are outputs, those that a node reads which has to stay float, those with numbers that bfloat16
    rounds to infinity, as masks have, tables of whole numbers of which it does not hold each, and scales of quantized
    values.
    """

    name: ClassVar[str] = "bf16"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 13

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Store every weight that fits."""
        return store_weights(model, permitted(ctx, self.name), BFLOAT16)
