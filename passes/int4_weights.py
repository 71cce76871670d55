"""Weights of 4 bits by blocks; activations stay float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from mlc.formats import BlockCodes, BlockScheme, round_to_nearest
from mlc.fusion import Places
from mlc.graph_pass import Change, Context, Exactness, Need, Pass
from mlc.types import NodePlan
from passes._block_forms import KERNEL, Form, joined, small_product, write_blocks
from passes._blocks import block_weights, planned
from passes._gptq import gptq, inverse_factor
from passes._hqq import hqq
from passes._stored import StoredWeight

UNSEEN = (
    "{names}: the codes are the nearest, without gptq, for a product that is in a loop or in a branch that none takes"
)


@dataclass(frozen=True)
class Int4Weights(Pass):
    """``x @ w`` becomes ``x @ w'``, with ``w' = scale * (code - zero_point)``, codes of 4 bits, each block its scale.

    As int8-weights, with two codes in a byte. ``method`` says which codes:

    - ``rtn``, the nearest, needs no data;
    - ``gptq`` makes good the error of each row with the rows behind it, for inputs like the calibration data: Frantar
      et al. 2022 (arXiv:2210.17323), algorithm 1, without reordering; tables, which have no inputs, get the nearest,
      and so do weights of products in loops and in branches that no sample takes, whose inputs are not known;
    - ``hqq`` looks for scales and zero points that leave few weights far off, without data: Badri and Shaji 2023,
      equations (3) to (6), with whole zero points and moving scales.

    Tables that no product shares have codes of ``table_bits`` bits: nothing is added up behind them that would even
    out what 4 bits lose, and a row is all that is read.
    """

    name: ClassVar[str] = "int4-weights"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 21
    may_use_kernels: ClassVar[Mapping[str, str]] = {KERNEL: small_product(4)}

    method: Literal["rtn", "gptq", "hqq"] = "rtn"
    block: Literal[32, 64, 128] = 32
    symmetric: bool = False
    form: Form = "auto"
    table_bits: Literal[4, 8] = 8

    @property
    def calibrates(self) -> bool:
        """Only gptq looks at data."""
        return self.method == "gptq"

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask, for gptq, for the second moments of what each product reads."""
        if not self.calibrates:
            return ()
        found = block_weights(model, self.scheme, short=True)
        names = dict.fromkeys(name for weight in found.weights for name in _inputs(weight, found.places))
        return tuple(Need(name, "moments") for name in names)

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Return what becomes of each node that was looked at."""
        return planned(model, ctx, self.name, self.scheme, short=joined(ctx, self.form))

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Quantize every weight that can be, each once, however many nodes read it."""
        factors = cache(lambda inputs: inverse_factor(_moments(inputs, ctx)))
        places, unseen = Places(model), list[str]()

        def codes_of(weight: StoredWeight, matrix: np.ndarray, scheme: BlockScheme) -> BlockCodes:
            if not weight.products:
                scheme = replace(scheme, bits=self.table_bits)
            if self.method == "hqq":
                return hqq(matrix, scheme)
            if self.method == "rtn" or not weight.products:
                return round_to_nearest(matrix, scheme)
            inputs = _inputs(weight, places)
            if not inputs or not _all_seen(inputs, ctx):
                unseen.append(weight.value.name or "")
                return round_to_nearest(matrix, scheme)
            return gptq(matrix, factors(inputs), scheme)

        change = write_blocks(model, ctx, self.name, self.scheme, self.form, codes_of)
        return replace(change, notes=(UNSEEN.format(names=", ".join(unseen)),)) if unseen else change

    @property
    def scheme(self) -> BlockScheme:
        """How the codes lie."""
        return BlockScheme(4, self.block, self.symmetric)


def _inputs(weight: StoredWeight, places: Places) -> tuple[str, ...]:
    """Return the names of what the products of a weight read; none where one of it comes about in a loop."""
    read = [value for product in weight.products if (value := product.inputs[0]) is not None]
    return tuple(map(places.name, read)) if all(value.graph in places.once for value in read) else ()


def _all_seen(inputs: tuple[str, ...], ctx: Context) -> bool:
    """Whether the calibration data gave elements of all values."""
    if ctx.statistics is None:
        raise ValueError("gptq reads statistics, and none were collected: give calibration data")
    return all(map(ctx.statistics.seen, inputs))


def _moments(inputs: tuple[str, ...], ctx: Context) -> np.ndarray:
    """Return the mean moments of values, float32 [rows, rows]."""
    assert ctx.statistics is not None
    mean: np.ndarray = np.mean([ctx.statistics.moments(name) for name in inputs], axis=0)
    return mean
