"""Let two layers share the work of scaling, before their weights are quantized by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from mlc.formats import WEIGHTED, bias_of, constant, number, product_of, site_of, weight_obstacle, weight_of
from mlc.graph_pass import Change, Context, Exactness, Pass, Refusal
from passes._qdq import Writer
from passes._stored import array_of

if TYPE_CHECKING:
    from mlc.types import Array

SCALING = frozenset({"Relu", "LeakyRelu"})
"""``f(s * x) = s * f(x)`` for a positive s."""

NEAR = 0.01
"""Scales that are all so near to 1 are left out."""

SWEEPS, CONVERGED = 100, 0.001
"""A chain is gone through so often, or until all scales are so near to 1."""


@dataclass(frozen=True)
class Equalize(Pass):
    """``w2 @ relu(w1 @ x + b1)`` becomes ``(w2 * s) @ relu((w1 @ x + b1) / s)``, with the channels of both in balance.

    M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019 (arXiv:1906.04721),
    equations (9) to (11): ``s = sqrt(r1 / r2)`` for each channel, r1 the largest weight that makes it, r2 the largest
    that reads it, over chains of layers until nothing moves. It is the same function, and pays where weights are
    quantized by tensor; with scales by channel it matters little.

    Layers are Conv (grouped too), MatMul and Gemm in the main graph, two of one kind with nothing or a Relu between
    them. Refuses where another operator stands between, such as a Clip, where anything else reads a value between or a
    weight, and where weights or biases are not constant.
    """

    name: ClassVar[str] = "equalize"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Equalize every chain of layers; the site is the result of its last."""
        pairs = [pair for node in model.graph if (pair := _pair(node)) is not None]
        refused = {site_of(pair.second): pair.obstacle for pair in pairs if pair.obstacle}
        writer = Writer(model)
        sites = []
        for chain in _chains([pair for pair in pairs if not pair.obstacle]):
            layers = [_Layer.of(chain[0].first), *(_Layer.of(pair.second) for pair in chain)]
            site = site_of(layers[-1].node)
            if max(_off(first, second) for first, second in pairwise(layers)) < NEAR:
                refused[site] = "its channels are in balance"
            elif ctx.allow(site):
                _balance(layers)
                for layer in layers:
                    layer.write(writer)
                for value in dict.fromkeys(value for pair in chain for value in pair.between):
                    value.name = writer.names.free(f"{value.name}.equalized")  # its numbers are others now
                sites.append(site)
        return Change(tuple(sites), tuple(Refusal(*pair) for pair in refused.items() if pair[0] not in sites))


@dataclass(frozen=True)
class _Pair:
    """Two layers, the values between them, and why they are left alone, if they are."""

    first: ir.Node
    second: ir.Node
    between: Sequence[ir.Value]
    obstacle: str = ""


def _pair(second: ir.Node) -> _Pair | None:
    """Return a layer with the one before it, or None where none is near."""
    value = second.inputs[0] if second.op_type in WEIGHTED else None
    between: list[ir.Value] = []
    other = ""
    while value is not None and (node := value.producer()) is not None:
        between.append(value)
        product = product_of(node)
        if node.op_type in WEIGHTED:
            return _Pair(node, second, between, _obstacle(node, second, between, other))
        if product is None and node.op_type not in SCALING:
            if other:
                return None
            other = node.op_type
        value = product.outputs[0] if product is not None else next(iter(node.inputs), None)
    return None


def _obstacle(first: ir.Node, second: ir.Node, between: Sequence[ir.Value], other: str) -> str:
    """Return why two layers are left alone, or nothing."""
    for value in between:
        if value.is_graph_output():
            return f"{value.name} is a graph output"
        if len(value.uses()) > 1:
            return f"{value.name} is used elsewhere"
    if other:
        return f"{other} stands before it, which does not pass on a scale"
    if (first.op_type == "Conv") is not (second.op_type == "Conv"):
        return "the layer before it has its channels along another axis"
    for node in (first, second):
        weight = weight_of(node)
        reason = weight_obstacle(node)
        if not reason and weight is not None and (weight.transposed or len(weight.value.uses()) > 1):
            reason = "its weight is used elsewhere"
        if reason:
            return f"{site_of(node)}: {reason}"
    return ""


def _chains(pairs: Sequence[_Pair]) -> Iterator[list[_Pair]]:
    """Yield pairs in rows in which the second layer of one is the first of the next."""
    following = {pair.first: pair for pair in pairs}
    seconds = {pair.second for pair in pairs}
    for pair in pairs:
        if pair.first not in seconds:
            chain = [pair]
            while (next_pair := following.get(chain[-1].second)) is not None:
                chain.append(next_pair)
            yield chain


@dataclass
class _Layer:
    """A layer's kernels, float64 [groups, out / groups, in / groups, taps], and its bias, float64 [out], if any."""

    node: ir.Node
    kernels: Array
    offset: Array | None

    @classmethod
    def of(cls, node: ir.Node) -> _Layer:
        """Read the weight and the bias of a node."""
        weight = array_of(node.inputs[1]).astype(np.float64)
        if node.op_type == "Conv":
            groups = int(number(node, "group", 1))
            kernels = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        else:
            kernels = (weight if number(node, "transB", 0) else weight.T)[np.newaxis, :, :, np.newaxis]
        bias, outputs = bias_of(node), kernels.shape[0] * kernels.shape[1]
        given = None if bias is None or constant(bias.value) is None else array_of(bias.value).astype(np.float64)
        return cls(node, kernels.copy(), None if given is None else np.resize(given.reshape(-1), outputs))

    def made(self) -> Array:
        """Return the largest weight of each output channel."""
        found: Array = np.abs(self.kernels).max(axis=(2, 3)).reshape(-1)
        return found

    def read(self) -> Array:
        """Return the largest weight of each input channel."""
        found: Array = np.abs(self.kernels).max(axis=(1, 3)).reshape(-1)
        return found

    def scale_outputs(self, scales: Array) -> None:
        self.kernels = self.kernels * scales.reshape(len(self.kernels), -1, 1, 1)
        self.offset = None if self.offset is None else self.offset * scales

    def scale_inputs(self, scales: Array) -> None:
        self.kernels = self.kernels * scales.reshape(len(self.kernels), 1, -1, 1)

    def write(self, writer: Writer) -> None:
        """Give the node its weight and bias as new constants."""
        turned = self.kernels if self.node.op_type == "Conv" else self.kernels[0, :, :, 0]
        if self.node.op_type != "Conv" and not number(self.node, "transB", 0):
            turned = turned.T
        bias = bias_of(self.node)
        if bias is not None and self.offset is not None:
            shape = array_of(bias.value).shape
            writer.reweigh(
                bias.reader, bias.index, self.offset.reshape(shape if np.prod(shape) > 1 else -1), "equalized"
            )
        writer.reweigh(self.node, 1, turned.reshape(array_of(self.node.inputs[1]).shape), "equalized")


def _scales(first: _Layer, second: _Layer) -> Array:
    """Return s, float64 [channels]; 1 where all weights on one side are 0."""
    made, read = first.made(), second.read()
    used = (made > 0) & (read > 0)
    found: Array = np.sqrt(np.where(used, made, 1) / np.where(used, read, 1))
    return found


def _off(first: _Layer, second: _Layer) -> float:
    """Return how far the scales between two layers are from 1."""
    return float(np.abs(_scales(first, second) - 1).max())


def _balance(layers: Sequence[_Layer]) -> None:
    """Scale every two neighbours, again and again, until all are in balance."""
    for _ in range(SWEEPS):
        pairs = list(pairwise(layers))
        for first, second in pairs:
            scales = _scales(first, second)
            first.scale_outputs(1 / scales)
            second.scale_inputs(scales)
        if max(_off(*pair) for pair in pairs) < CONVERGED:
            return
