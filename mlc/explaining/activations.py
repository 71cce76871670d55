"""How far the activations of a quantized model are from what their quantizers make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.explaining.codes import Grid, Seen, code_range, laid_out
from mlc.explaining.nouns import TensorError
from mlc.formats import FOLDING, constant
from mlc.formats.nodes import input_at, number, site_of
from mlc.fusion import codes_dtype
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics import valid_rows
from mlc.statistics.taps import in_chunks, tapped
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.statistics import Batches
    from mlc.types import Array, Arrays
    from mlc.workspace import Workspace

DYNAMIC = "DynamicQuantizeLinear"


def activation_errors(
    before: ir.Model, after: ir.Model, batches: Batches, workspace: Workspace
) -> tuple[TensorError, ...]:
    """Return how far each quantized activation is from its codes, in the order of the graph.

    They are looked at as the quantized model ``after`` computes them, over all batches, so that each has the error of
    its own quantizer alone. A Relu or Clip of the float model that the quantizer does too is not taken for clipping.
    """
    quantizers = [found for node in after.graph if (found := _quantizer(node, before)) is not None]
    first = next(iter(batches), None)
    if first is None or not quantizers:
        return ()
    names = list(dict.fromkeys(name for each in quantizers for name in each.taps))
    shapes = {name: np.shape(array) for name, array in first.inputs.items()}
    for chunk in in_chunks(after, names, shapes):
        part = [each for each in quantizers if each.taps[0] in chunk]
        wanted = list(dict.fromkeys(name for each in part for name in each.taps))
        with open_session(tapped(after, wanted, workspace), Target(), optimize=False) as session:
            for batch in batches:
                values = {**batch.inputs, **session.run(batch.inputs)}
                for each in part:
                    each.add({name: valid_rows(values[name], batch) for name in each.taps})
    return tuple(each.told() for each in quantizers if each.seen.count)


@dataclass
class _Quantizer:
    """The quantizer of an activation, the Relu or Clip of the float graph that it does too, and what was seen."""

    node: ir.Node
    codes: ir.Value
    folded: ir.Node | None
    seen: Seen = field(default_factory=Seen)

    @property
    def dtype(self) -> ir.DataType:
        """The type of the codes."""
        return codes_dtype(self.codes) or ir.DataType.UINT8

    @property
    def parameters(self) -> Sequence[ir.Value | None]:
        """Scale and zero point."""
        if self.node.op_type == DYNAMIC:
            return self.node.outputs[1:]
        return input_at(self.node, 1), input_at(self.node, 2)

    @property
    def taps(self) -> list[str]:
        """What has to be known: the numbers first, then scale and zero point where they are no constants."""
        values = [self.node.inputs[0], *self.parameters]
        return [str(value.name) for value in values if value is not None and constant(value) is None]

    def add(self, values: Arrays) -> None:
        """Add the numbers of one batch."""
        numbers = np.asarray(_clamped(self.folded, values[self.taps[0]]), np.float32)
        axis, block = int(number(self.node, "axis", 1)), int(number(self.node, "block_size", 0))
        scale, zero_point = (
            laid_out(np.zeros(1) if value is None else _read(value, values), numbers.shape, axis, block)
            for value in self.parameters
        )
        least, most = code_range(self.dtype) or (0, 0)
        grid = Grid(scale, zero_point, least, most)
        self.seen.add(numbers, grid.rounded(numbers), grid)

    def told(self) -> TensorError:
        """Return what was seen."""
        source = self.folded.outputs[0] if self.folded is not None else self.node.inputs[0]
        assert source is not None
        return self.seen.told(str(source.name), "activation", self.dtype, _readers(self.codes))


def _quantizer(node: ir.Node, before: ir.Model) -> _Quantizer | None:
    source = input_at(node, 0)
    if node.op_type not in {"QuantizeLinear", DYNAMIC} or source is None or constant(source) is not None:
        return None
    codes = node.outputs[0]
    found = _Quantizer(node, codes, folded_into(source, before))
    return None if code_range(found.dtype) is None else found


def folded_into(source: ir.Value, before: ir.Model) -> ir.Node | None:
    """Return the Relu or Clip that alone reads a value in the float graph, and does not in the quantized one.

    Or that gives it: onnxruntime's quantizer hands its name on to what stands before it.
    """
    twin = next((value for node in before.graph for value in node.outputs if value.name == source.name), None)
    given, now = (None if value is None else value.producer() for value in (twin, source))
    if given is not None and given.op_type in FOLDING and now is not None and now.op_type not in FOLDING:
        return given
    readers = [] if twin is None else [node for node, _ in twin.uses()]
    if len(readers) != 1 or readers[0].op_type not in FOLDING:
        return None
    return None if any(node.op_type in FOLDING for node, _ in source.uses()) else readers[0]


def _clamped(folded: ir.Node | None, numbers: Array) -> Array:
    if folded is None:
        return numbers
    if folded.op_type == "Relu":
        return np.maximum(numbers, 0)
    low, high = (constant(input_at(folded, index)) for index in (1, 2))
    return np.clip(
        numbers, -np.inf if low is None else low.numpy(), np.inf if high is None else high.numpy()
    )  # fmt: skip


def _read(value: ir.Value, values: Mapping[str, Array]) -> Array:
    tensor = constant(value)
    return values[str(value.name)] if tensor is None else tensor.numpy()


def _readers(codes: ir.Value) -> tuple[str, ...]:
    """Return the sites of the nodes that read codes, or what they mean."""
    found: dict[str, None] = {}
    for node, _ in codes.uses():
        ends = [reader for reader, _ in node.outputs[0].uses()] if node.op_type == "DequantizeLinear" else [node]
        found.update((site_of(end), None) for end in ends)
    return tuple(found)
