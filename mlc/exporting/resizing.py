"""``interpolate`` by a scale that float32 does not hold, such as 0.7: as long as torch makes it at every size.

Resize multiplies a length by its scale in float32, torch in double precision: of 90 by 0.7 they make 63 and 62. Here it
is resized by the next float32 above and cut to torch's length; the nearest neighbours are computed as torch does.
(ATen/native/UpSample.h: compute_output_size, nearest_neighbor_compute_source_index.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript
import torch

from mlc.exporting.fractions import double
from mlc.exporting.neighbours import LEAD

op: Any = onnxscript.opset18


def of_resizing() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator of torch that resizes by sizes or by scales."""
    aten = torch.ops.aten
    nearest = (aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
    linear = (aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)
    return {
        **dict.fromkeys(nearest, _nearest),
        **dict.fromkeys(linear, _between("linear")),
        aten.upsample_bicubic2d.vec: _between("cubic", cubic_coeff_a=-0.75),
    }


def _nearest(x: Any, sizes: Any, scales: Sequence[float] | None = None) -> Any:
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if scales is None:
        return _to_sizes(x, sizes, settings)
    held = [scale if _is_held(scale) else 1.0 for scale in scales]
    resized = _by_scales(x, held, settings) if any(scale != 1 for scale in held) or held == list(scales) else x
    for axis, scale in enumerate(scales, LEAD):
        if not _is_held(scale):
            length, step = op.Squeeze(_length(x, axis, scale)), op.Constant(value_float=float(np.float32(1 / scale)))
            resized = op.Gather(resized, _neighbours(x, axis, length, step), axis=axis)
    return resized


def _between(mode: str, **more: Any) -> Callable[..., Any]:
    def resize(x: Any, sizes: Any, align_corners: bool, scales: Sequence[float] | None = None) -> Any:
        corners = "align_corners" if align_corners else "half_pixel"
        settings = {"mode": mode, "coordinate_transformation_mode": corners, **more}
        if scales is None:
            return _to_sizes(x, sizes, settings)
        resized = _by_scales(x, [_held_above(scale) for scale in scales], settings)
        cut = [(axis, scale) for axis, scale in enumerate(scales, LEAD) if not _is_held(scale)]
        if not cut:
            return resized
        if align_corners:  # which looks at lengths alone
            return _to_sizes(x, [_length(x, axis, scale) for axis, scale in enumerate(scales, LEAD)], settings)
        ends = op.Concat(*(_length(x, axis, scale) for axis, scale in cut), axis=0)
        starts, axes = op.Constant(value_ints=[0] * len(cut)), op.Constant(value_ints=[axis for axis, _ in cut])
        return op.Slice(resized, starts, ends, axes)

    return resize


def _to_sizes(x: Any, sizes: Any, settings: dict[str, Any]) -> Any:
    if isinstance(sizes, list | tuple):
        sizes = op.Concat(*(_one(size) for size in sizes), axis=0)
    whole = op.Concat(op.Shape(x, start=0, end=LEAD), op.Cast(sizes, to=ir.DataType.INT64), axis=0)
    return op.Resize(x, None, None, whole, **settings)


def _one(size: Any) -> Any:
    return op.Constant(value_ints=[size]) if isinstance(size, int) else op.Reshape(size, op.Constant(value_ints=[1]))


def _by_scales(x: Any, scales: Sequence[float], settings: dict[str, Any]) -> Any:
    return op.Resize(x, None, op.Constant(value_floats=[1.0] * LEAD + list(scales)), None, **settings)


def _length(x: Any, axis: int, scale: float) -> Any:
    """Return how long torch makes an axis, of shape [1]."""
    size = op.Shape(x, start=axis, end=axis + 1)
    return op.Cast(op.Mul(op.Cast(size, to=ir.DataType.DOUBLE), double(scale)), to=ir.DataType.INT64)


def _neighbours(x: Any, axis: int, length: Any, step: Any) -> Any:
    """Return which element of an axis each of so many is, so many ``step`` apart, both in float32."""
    places = op.Range(op.Constant(value_int=0), length, op.Constant(value_int=1))
    found = op.Cast(op.Mul(op.Cast(places, to=ir.DataType.FLOAT), step), to=ir.DataType.INT64)
    return op.Min(found, op.Sub(op.Shape(x, start=axis, end=axis + 1), op.Constant(value_ints=[1])))


def _is_held(scale: float) -> bool:
    return float(np.float32(scale)) == scale


def _held_above(scale: float) -> float:
    """Return the least float32 that is not below a scale: no length that Resize makes of it is below torch's."""
    near = np.float32(scale)
    return float(near if float(near) >= scale else np.nextafter(near, np.float32(np.inf)))
