"""The functions that quantize: torch's own, those of exported graphs, of eager modules, and of torchao's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from mlc.errors import SourceError
from mlc.sources.quantized.kernels import KERNELS, base_of, dynamic_linear, kernel
from mlc.sources.quantized.nouns import TAKEN, Call, Grid, Mode, Number, Weight, grid_of, name_of, parameters_of
from mlc.sources.quantized.rows import blocks, is_torchao, torchao_product

Handler: TypeAlias = Callable[[Mode, Call], Any]

PRODUCTS = frozenset({"linear", "embedding", "conv1d", "conv2d", "conv3d"})
"""Functions that torchao computes with quantized weights."""

WHOLE = ((0, 2**8 - 1, torch.uint8), (-(2**7), 2**7 - 1, torch.int8), (-(2**15), 2**15 - 1, torch.int16))


def handler_of(mode: Mode, call: Call) -> Handler | None:
    """Return what takes a call over, or None where it is one like any other."""
    found = HANDLERS.get(call.name)
    if found is not None:
        return found
    if call.name.startswith("quantized::") and base_of(call.name) in KERNELS:
        return kernel
    if call.name in PRODUCTS and any(is_torchao(part) for part in call.args):
        return torchao_product
    held = call.args and id(call.args[0]) in mode.stored.names
    return _stored if held and call.name == "dequantize" else None


def grid_between(low: int, high: int, axis: int | None = None) -> Grid:
    """Return the grid of codes from ``low`` to ``high`` in the smallest type that holds them."""
    for least, most, dtype in WHOLE:
        if least <= low and high <= most:
            return Grid(low, high, dtype, axis)
    return Grid(low, high, torch.int32, axis)


def _fake_tensor(mode: Mode, call: Call) -> Any:
    value, scale, zero, low, high = call.arguments("input", "scale", "zero_point", "quant_min", "quant_max")
    return mode.fake(lambda: value, scale, zero, grid_between(low, high), call)


def _fake_channel(mode: Mode, call: Call) -> Any:
    names = ("input", "scale", "zero_point", "axis", "quant_min", "quant_max")
    value, scale, zero, axis, low, high = call.arguments(*names)
    return mode.fake(lambda: value, scale, zero, grid_between(low, high, axis % value.ndim), call)


def _fake_observed(mode: Mode, call: Call) -> Any:
    """Quantize as a module does whose observer is off."""
    names = (
        "input", "observer_on", "fake_quant_on", "running_min", "running_max", "scale", "zero_point",
        "averaging_const", "quant_min", "quant_max", "ch_axis", "per_row_fake_quant", "symmetric_quant",
    )  # fmt: skip
    value, _, enabled, _, _, scale, zero, _, low, high, axis, by_channel, _ = call.arguments(*names)
    if not bool(enabled):
        return call.real()
    grid = grid_between(low, high, axis % value.ndim if by_channel else None)
    plain = Call("fake_quantize", call.function, call.args, call.kwargs)
    return mode.fake(lambda: value, scale, zero, grid, plain)


def _quantize_tensor(mode: Mode, call: Call) -> Any:
    value, scale, zero, dtype = call.arguments("input", "scale", "zero_point", "dtype")
    return mode.fake(lambda: value, scale, zero, grid_of(dtype), call)


def _quantize_channel(mode: Mode, call: Call) -> Any:
    value, scale, zero, axis, dtype = call.arguments("input", "scales", "zero_points", "axis", "dtype")
    return mode.fake(lambda: value, scale, zero, grid_of(dtype, axis % value.ndim), call)


def _stored(mode: Mode, call: Call) -> Any:
    """Dequantize a tensor that the module holds quantized."""
    tensor = call.args[0]

    def held() -> Weight:
        scale, zero, axis = parameters_of(tensor)
        return Weight(tensor.int_repr(), scale, zero, grid_of(tensor.dtype, axis), mode.stored.names[id(tensor)])

    form = mode.weight(held)
    return mode.either(call.real, lambda: form)


def _dynamic(_mode: Mode, call: Call) -> Any:
    raise SourceError(
        f"torch.{call.name} chooses the scale by the values of its input, for which there is no one operator in ONNX",
        "quantize with a fixed scale, or give the module before it is quantized",
    )


def _encode_tensor(mode: Mode, call: Call) -> Any:
    value, scale, zero, low, high, dtype = call.arguments(*DECOMPOSED)
    return mode.encode(value, scale, zero, Grid(low, high, dtype), call)


def _decode_tensor(mode: Mode, call: Call) -> Any:
    codes, scale, zero, low, high, dtype = call.arguments(*DECOMPOSED)
    return mode.decode(codes, scale, zero, Grid(low, high, dtype), call)


def _encode_channel(mode: Mode, call: Call) -> Any:
    value, scale, zero, axis, low, high, dtype = call.arguments(*BY_CHANNEL)
    return mode.encode(value, scale, zero, Grid(low, high, dtype, axis % value.ndim), call)


def _decode_channel(mode: Mode, call: Call) -> Any:
    codes, scale, zero, axis, low, high, dtype = call.arguments(*BY_CHANNEL)
    zeros: Number = torch.zeros_like(scale, dtype=torch.int64) if zero is None else zero
    return mode.decode(codes, scale, zeros, Grid(low, high, dtype, axis % codes.ndim), call)


def _encode_blocks(mode: Mode, call: Call) -> Any:
    value, block, scale, zero, dtype, low, high = call.arguments(*BY_BLOCK)
    return mode.encode(value, scale, zero, _blocks(mode, block, value, dtype, low, high), call)


def _decode_blocks(mode: Mode, call: Call) -> Any:
    codes, block, scale, zero, dtype, low, high = call.arguments(*BY_BLOCK)
    return mode.decode(codes, scale, zero, _blocks(mode, block, codes, dtype, low, high), call)


def _blocks(  # noqa: PLR0917 - the parts of a grid
    mode: Mode, block: list[int], value: torch.Tensor, dtype: torch.dtype, low: int | None, high: int | None
) -> Grid:
    whole = grid_of(dtype)
    least, most = whole.low if low is None else low, whole.high if high is None else high
    found: Grid = mode.either(lambda: blocks(block, value.shape, least, most, "a tensor of the program"), lambda: whole)
    return replace(found, dtype=dtype)


def _as_it_is(_mode: Mode, call: Call) -> Any:
    return call.real()


def _choose(mode: Mode, call: Call) -> Any:
    """Write out what chooses one scale and zero point for the values of a tensor."""
    value, low, high, eps, _ = call.arguments("input", "quant_min", "quant_max", "eps", "dtype")

    def form() -> tuple[torch.Tensor, torch.Tensor]:
        least, most = value.min().clamp(max=0), value.max().clamp(min=0)
        scale = ((most - least) / float(high - low)).clamp(min=eps)
        zero = (low - torch.round(least / scale)).clamp(low, high)
        return scale, zero.to(torch.int64)

    return mode.either(call.real, form)


DECOMPOSED = ("input", "scale", "zero_point", "quant_min", "quant_max", "dtype")
BY_CHANNEL = ("input", "scales", "zero_points", "axis", "quant_min", "quant_max", "dtype")

BY_BLOCK = ("input", "block_size", "scale", "zero_point", "dtype", "quant_min", "quant_max")

HANDLERS: dict[str, Handler] = {
    "fake_quantize_per_tensor_affine": _fake_tensor,
    "fake_quantize_per_channel_affine": _fake_channel,
    "fused_moving_avg_obs_fake_quant": _fake_observed,
    "quantize_per_tensor": _quantize_tensor,
    "quantize_per_channel": _quantize_channel,
    "quantize_per_tensor_dynamic": _dynamic,
    "quantized_decomposed::quantize_per_tensor": _encode_tensor,
    "quantized_decomposed::dequantize_per_tensor": _decode_tensor,
    "quantized_decomposed::quantize_per_channel": _encode_channel,
    "quantized_decomposed::dequantize_per_channel": _decode_channel,
    "quantized_decomposed::choose_qparams": _choose,
    "torchao::choose_qparams_affine": _as_it_is,
    "torchao::quantize_affine": _encode_blocks,
    "torchao::dequantize_affine": _decode_blocks,
    "quantized::linear_dynamic": dynamic_linear,
    "quantized::linear_relu_dynamic": dynamic_linear,
}


def quantizes(graph: torch.fx.Graph) -> bool:
    """Whether a graph calls one of the functions that quantize."""
    names = (name_of(node.target) for node in graph.nodes if node.op == "call_function" and callable(node.target))
    return any(name in HANDLERS or name.startswith(TAKEN) for name in names)
