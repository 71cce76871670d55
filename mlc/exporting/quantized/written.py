"""What a module quantizes by itself, written out as QuantizeLinear and DequantizeLinear with its own scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import nn

from mlc.errors import SourceError, UsageError
from mlc.exporting.opset import checked_opset
from mlc.exporting.quantized.floats import keep_float
from mlc.exporting.quantized.graph import BLOCKS, NIBBLE, WHOLE, is_rows
from mlc.exporting.quantized.nodes import Writer
from mlc.exporting.quantized.trace import DOMAIN
from mlc.exporting.tidy import name_nodes
from mlc.figures import counted
from mlc.sources.quantized.modules import plain_tensors
from mlc.sources.quantized.nouns import Coded
from mlc.sources.weights.tensors import listed

FOUR_BITS = "weights of 4 bits"


def opset_for(notes: Sequence[Coded], asked: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the opset to write, and a note where a module's own codes need another than the usual one.

    Raises UsageError where a lower one was asked for than can hold them. 4 bits can be kept in 8.
    """
    opset = checked_opset(asked)
    needs = {
        "scales for blocks": any(noted.grid.group and not is_rows(noted) for noted in notes),
        "codes of 16 bits": any(noted.codes.dtype.itemsize == np.dtype(np.int16).itemsize for noted in notes),
        FOUR_BITS: any((noted.grid.low, noted.grid.high) in NIBBLE for noted in notes),
    }
    reasons = [reason for reason, there in needs.items() if there]
    if asked is None:
        note = (f"written in opset {BLOCKS}, which has {' and '.join(reasons)}",) if reasons else ()
        return BLOCKS if reasons else opset, note
    missing = [reason for reason in reasons if reason != FOUR_BITS]
    if missing and asked < BLOCKS:
        raise UsageError(
            f"the module is quantized with {' and '.join(missing)}, which opset {asked} has not",
            f"leave --opset out, or ask for {BLOCKS} or more",
        )
    kept = asked < BLOCKS and FOUR_BITS in reasons
    return asked, ((f"{FOUR_BITS} are kept in 8, since opset {asked} has no others",) if kept else ())


def write_out(model: ir.Model, notes: Sequence[Coded]) -> tuple[str, ...]:
    """Put standard operators in the place of those that stand for codes; returns what was taken over, as notes.

    Raises SourceError for codes inside a branch or a loop, and for those that ONNX cannot hold.
    """
    inside = [node for graph in model.graphs() if graph is not model.graph for node in graph if node.domain == DOMAIN]
    if inside:
        raise SourceError(
            "the module quantizes inside a branch or a loop, where its codes cannot be followed",
            "quantize outside of it, or give the module before it is quantized",
        )
    writer = Writer(model, notes)
    for node in [node for node in model.graph if node.domain == DOMAIN]:
        writer.write(node)
    for node in [node for node in model.graph if node.op_type == "Transpose"]:
        writer.turn(node)
    keep_float(writer)
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    name_nodes(model)
    return _told(writer)


def widened(module: nn.Module, model: ir.Model) -> tuple[str, ...]:
    """Say which integer weights of a module the exporter wrote as floats, since it computes with them as such."""
    kept = Counter(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_integer()
    )
    lost = []
    for name, tensor in plain_tensors(module):
        if tensor.dtype in (torch.int8, torch.uint8) and tensor.ndim > 1 and min(tensor.shape) > 1:
            if not kept[tensor.numel()]:
                lost.append(name)
            kept[tensor.numel()] -= 1
    return (f"integers of the module that are floats in the file: {listed(lost)}",) if lost else ()


def _told(writer: Writer) -> tuple[str, ...]:
    """Say what was taken over."""
    parts = [*_counted("quantizer", writer.quantized), *_counted("weight", writer.held.values())]
    return (f"taken over with the scales of the module: {'; '.join(parts)}",) if parts else ()


def _counted(what: str, notes: Iterable[Coded]) -> list[str]:
    kinds = Counter(_kind(noted) for noted in notes)
    return [f"{counted(count, what)} ({kind})" for kind, count in kinds.items()]


def _kind(noted: Coded) -> str:
    grid, dtype = noted.grid, noted.codes.dtype
    whole = WHOLE[dtype] == (grid.low, grid.high)
    scales = "one scale"
    if grid.group:
        scales = "a scale for each row" if is_rows(noted) else f"a scale for every {grid.group} elements"
    elif grid.axis is not None:
        scales = f"a scale for each index of axis {grid.axis}"
    return f"{dtype}{'' if whole else f' from {grid.low} to {grid.high}'}, {scales}"
