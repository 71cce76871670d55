"""Nodes of which ONNX's shape inference tells another size than onnxruntime gives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

POOLING = frozenset({"AveragePool", "LpPool", "MaxPool"})

SPATIAL = 2
"""Axes before those that are pooled or resized: batch and channels."""


def is_misinferred(node: ir.Node) -> bool:
    """Whether an inferred size of a node's output is, or may be, another than in a run.

    A window that begins behind the input is counted before opset 22; scales multiply in float32 in a run.
    """
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in POOLING:
        return "ceil_mode" in node.attributes and node.attributes["ceil_mode"].as_int() == 1 and _pools_otherwise(node)
    if node.op_type in ("Resize", "Upsample"):
        return _resizes_otherwise(node)
    if node.op_type == "STFT":
        return "onesided" not in node.attributes
    return node.op_type == "Einsum" and "..." in node.attributes["equation"].as_string()


def _pools_otherwise(node: ir.Node) -> bool:
    sizes = _sizes(node)[SPATIAL:]
    strides, pads = _integers(node, "strides", [1] * len(sizes)), _integers(node, "pads", [0] * 2 * len(sizes))
    return any(
        isinstance(before, int) and isinstance(after, int) and (after - 1) * strides[axis] >= before + pads[axis]
        for axis, (before, after) in enumerate(sizes)
    )


def _resizes_otherwise(node: ir.Node) -> bool:
    sizes, place = _sizes(node), 1 if len(node.inputs) == SPATIAL else 2
    scales = node.inputs[place] if place < len(node.inputs) else None
    if scales is None or scales.const_value is None or scales.const_value.size != len(sizes):
        return False
    return any(
        isinstance(before, int) and isinstance(after, int) and int(np.float32(before) * np.float32(factor)) != after
        for (before, after), factor in zip(sizes, scales.const_value.numpy(), strict=True)
    )


def _sizes(node: ir.Node) -> list[tuple[object, object]]:
    """Return the sizes of each axis before and after, or none where they are not known."""
    before, after = (None if value is None else value.shape for value in (node.inputs[0], node.outputs[0]))
    return [] if before is None or after is None or len(before) != len(after) else list(zip(before, after, strict=True))


def _integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default
