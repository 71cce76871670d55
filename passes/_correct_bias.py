"""What the rounding of a layer's weights adds to each of its outputs on average, so that its bias can take it back.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019 (arXiv:1906.04721),
section 4.2: ``E[y'] - E[y] = (w' - w) E[x]``, with the means of the calibration data in the place of those that the
paper derives from batch normalizations. A pass behind the quantization would not know w, so the quantization does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.formats import WeightLayout, bias_of, constant, weight_obstacle, weight_of
from mlc.fusion import Places
from mlc.graph_pass import Context, Need

if TYPE_CHECKING:
    from mlc.types import Array


def mean_needs(nodes: Iterable[ir.Node], places: Places) -> tuple[Need, ...]:
    """Ask for the means of what each node with a weight that can be integers, and a bias, reads."""
    return tuple(Need(places.name(value), f"{_axis(node)}-mean") for node, value in _inputs(nodes))


def means_of(nodes: Iterable[ir.Node], places: Places, ctx: Context) -> Mapping[ir.Node, Array]:
    """Return the means of what each node with a weight and a bias reads, float32 [inputs]."""
    known = ctx.statistics
    assert known is not None
    named = ((node, places.name(value)) for node, value in _inputs(nodes))
    return {
        node: known.channel_mean(name) if _axis(node) == "channel" else known.column_mean(name) for node, name in named
    }


def mean_shift(error: Array, layout: WeightLayout, mean: Array) -> Array:
    """Return ``error @ mean`` for each output channel, float32 [channels], the taps of a kernel added up.

    ``error`` is the rounded weight less the weight. What a convolution pads with counts as the mean, too.
    """
    by_input = layout.rows(error).sum(axis=1)
    grouped = mean.reshape(layout.group, -1).repeat(len(by_input) // layout.group, axis=0)
    shift: Array = (by_input * grouped).sum(axis=1).astype(np.float32)
    return shift


def _inputs(nodes: Iterable[ir.Node]) -> list[tuple[ir.Node, ir.Value]]:
    fit = (node for node in nodes if weight_of(node) is not None and not weight_obstacle(node))
    biased = [node for node in fit if bias_of(node) is not None]
    return [(node, x) for node in biased if (x := node.inputs[0]) is not None and constant(x) is None]


def _axis(node: ir.Node) -> str:
    return "channel" if node.op_type == "Conv" else "column"
