"""The weights of torchao, by channel or in blocks, and activations that are quantized row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mlc.errors import SourceError, kind_of
from mlc.sources.quantized.nouns import Call, Grid, Mode, Weight

TAKEN = ("Int8Tensor", "IntxUnpackedToInt8Tensor")
"""Classes of torchao that keep their codes as they are, not packed for one kernel."""

MATRIX = 2


def is_torchao(value: object) -> bool:
    """Whether a value is a tensor of a class of torchao."""
    return isinstance(value, torch.Tensor) and type(value).__module__.startswith("torchao.")


def torchao_weight(tensor: Any, name: str) -> Weight:
    """Return what a weight of torchao holds. Raises SourceError for one that has no form in ONNX here."""
    kind = type(tensor).__name__
    if kind not in TAKEN:
        raise SourceError(
            f"the weight {name} is {kind_of(tensor)} of torchao, which has no form in ONNX here",
            "quantize with Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig or IntxWeightOnlyConfig, "
            "or give the module before it is quantized",
        )
    zero = tensor.zero_point
    if zero is not None and zero.dtype.is_floating_point:
        raise SourceError(
            f"the zero points of the weight {name} are floats, which ONNX has not",
            "quantize symmetrically, or with zero points that are integers",
        )
    bits = int(str(getattr(tensor, "target_dtype", torch.int8)).removeprefix("torch.int"))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    grid = blocks(tensor.block_size, tensor.qdata.shape, low, high, f"the weight {name}")
    return Weight(tensor.qdata, tensor.scale, torch.zeros_like(tensor.scale) if zero is None else zero, grid, name)


def blocks(block: Sequence[int], shape: Sequence[int], low: int, high: int, name: str) -> Grid:
    """Return the grid of a tensor of torchao, called ``name``: one scale for each block of elements."""
    parted = [axis for axis, (size, whole) in enumerate(zip(block, shape, strict=True)) if size != whole]
    if not parted:
        return Grid(low, high, torch.int8)
    if len(parted) == 1 and block[parted[0]] == 1:
        return Grid(low, high, torch.int8, parted[0])
    last = len(shape) - 1
    rows = block[last] == shape[last] or len(shape) == MATRIX
    if rows and all(size == 1 for size in block[:last]):
        return Grid(low, high, torch.int8, last, block[last])
    raise SourceError(
        f"{name} has one scale for each block of {list(block)} of {list(shape)}, which ONNX has not",
        "quantize by tensor, by channel, by row, or a matrix in groups along its last axis",
    )


def torchao_product(mode: Mode, call: Call) -> Any:
    """Compute a product with a weight of torchao: dequantized, and its input quantized as the weight says."""
    index = next(index for index, part in enumerate(call.args) if is_torchao(part))
    tensor = call.args[index]
    name = mode.stored.names.get(id(tensor), "weight")
    args = list(call.args)
    if call.name != "embedding":
        args[0] = _input(mode, args[0], tensor, name)
    args[index] = mode.weight(lambda: torchao_weight(tensor, name))
    return mode.either(call.real, lambda: call.function(*args, **call.kwargs))


def _input(mode: Mode, value: torch.Tensor, weight: Any, name: str) -> Any:
    """Return the input of a product, quantized and dequantized again where the weight says how."""
    if getattr(weight, "act_pre_scale", None) is not None:
        value = value * weight.act_pre_scale
    told = getattr(weight, "act_quant_kwargs", None)
    if told is None and getattr(weight, "activation_quantization", None) is None:
        return value
    symmetric = told is not None and _is_symmetric(told.mapping_type, name)
    low, high = (-64, 63) if told is not None and told.reduce_range else (-128, 127)
    one = told is not None and type(told.granularity).__name__ == "PerTensor"
    fixed = getattr(weight, "act_quant_scale", None)
    if fixed is not None:
        scale, zero = fixed, weight.act_quant_zero_point
        zero = torch.zeros_like(scale) if zero is None else zero
    else:
        scale, zero = _chosen(value, low, high, symmetric=symmetric, one=one)
    grid = Grid(low, high, torch.int8) if one else Grid(low, high, torch.int8, value.ndim - 1, value.shape[-1])
    inside = (torch.round(value * (1 / scale)) + zero).clamp(low, high)
    seen = Call("dynamic", lambda: (inside - zero) * scale, (), {})
    return mode.fake(lambda: value, scale, zero, grid, seen)


def _is_symmetric(mapping: Any, name: str) -> bool:
    if mapping.name not in ("SYMMETRIC", "ASYMMETRIC"):
        raise SourceError(
            f"the input of the weight {name} is quantized {mapping.name.lower()}, which has no form here",
            "quantize it with MappingType.SYMMETRIC or ASYMMETRIC",
        )
    return bool(mapping.name == "SYMMETRIC")


def _chosen(
    value: torch.Tensor, low: int, high: int, *, symmetric: bool, one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point of each row, or of all, from its extremes."""
    least, most = (value.min(), value.max()) if one else (value.amin(-1, keepdim=True), value.amax(-1, keepdim=True))
    least, most = least.clamp(max=0), most.clamp(min=0)
    if symmetric:
        scale = torch.maximum(-least, most) / (float(high - low) / 2)
        scale = scale.clamp(min=torch.finfo(torch.float32).eps)
        return scale, torch.zeros_like(scale)
    scale = ((most - least) / float(high - low)).clamp(min=torch.finfo(torch.float32).smallest_normal)
    return scale, (low - torch.round(least / scale)).clamp(low, high)
