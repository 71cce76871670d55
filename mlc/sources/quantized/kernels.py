"""Torch's own integer kernels as floats between codes, and the weights that they keep packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from mlc.errors import SourceError
from mlc.sources.quantized.nouns import Call, Grid, Mode, Weight, grid_of, parameters_of

Form: TypeAlias = Callable[..., torch.Tensor]

HALVED = 127
"""The highest code of activations whose products are added in 16 bits."""


@dataclass(frozen=True)
class Unpacked:
    """What torch packs for a kernel: the weight, the bias, and how a convolution moves."""

    weight: Weight
    bias: torch.Tensor | None
    stride: Sequence[int] = ()
    padding: Sequence[int] = ()
    dilation: Sequence[int] = ()
    output_padding: Sequence[int] = ()
    groups: int = 1


def unpacked(packed: Any, name: str) -> Unpacked:
    """Return what a packed object holds. Raises SourceError for one that holds no integers."""
    if isinstance(packed, Unpacked):
        return packed
    tensor, bias = packed.unpack()
    if not tensor.is_quantized:
        raise SourceError(
            f"the weight {name} is packed as {str(tensor.dtype).removeprefix('torch.')}, which is no form in ONNX here",
            "give the module before it is quantized",
        )
    scale, zero, axis = parameters_of(tensor)
    weight = Weight(tensor.int_repr(), scale, zero, grid_of(tensor.dtype, axis), name)
    if not hasattr(packed, "stride"):
        return Unpacked(weight, bias)
    return Unpacked(
        weight, bias, packed.stride(), packed.padding(), packed.dilation(), packed.output_padding(), packed.groups()
    )


def is_packed(value: object) -> bool:
    """Whether a value is what a kernel takes its weight from."""
    return isinstance(value, Unpacked) or (isinstance(value, torch.ScriptObject) and hasattr(value, "unpack"))


def kernel(mode: Mode, call: Call) -> Any:
    """Compute what an integer kernel computes, between codes."""
    base = base_of(call.name)
    args, held = _weights(mode, call.args)

    def value() -> torch.Tensor:
        result = KERNELS[base](*args, *held, **{key: part for key, part in call.kwargs.items() if key not in OUTPUT})
        return result if call.name.endswith(base) else result.relu()

    return mode.fake(value, 1.0, 0, Grid(0, 0, torch.uint8), call)


def base_of(name: str) -> str:
    """Return a kernel's name without what is applied to its result."""
    bare = name.removeprefix("quantized::")
    return bare if bare in KERNELS else bare.removesuffix("_relu")


OUTPUT = ("scale", "zero_point", "output_scale", "output_zero_point")
"""Arguments that say what codes a kernel writes: they are known from the run."""


def _weights(mode: Mode, args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the arguments with every packed weight as it is unpacked, and the weights as floats."""
    plain, held = [], []
    for part in args:
        if is_packed(part):
            told = unpacked(part, mode.stored.names.get(id(part), "weight"))
            held.append(mode.weight(lambda told=told: told.weight))  # type: ignore[misc]
            plain.append(told)
        else:
            plain.append(part)
    return plain, held


def _linear(value: torch.Tensor, packed: Unpacked, *rest: Any) -> torch.Tensor:
    return functional.linear(value, rest[-1], packed.bias)


def _convolution(function: Form) -> Form:
    def form(value: torch.Tensor, packed: Unpacked, *rest: Any) -> torch.Tensor:
        return function(
            value, rest[-1], packed.bias, packed.stride, packed.padding, packed.dilation, packed.groups
        )  # fmt: skip

    return form


def _transposed(function: Form) -> Form:
    def form(value: torch.Tensor, packed: Unpacked, *rest: Any) -> torch.Tensor:
        moves = (packed.stride, packed.padding, packed.output_padding, packed.groups, packed.dilation)
        return function(value, rest[-1], packed.bias, *moves)

    return form


def _in_a_plane(form: Form) -> Form:
    """Torch packs one-dimensional convolutions as two-dimensional ones of height 1."""
    return lambda value, *rest: form(value.unsqueeze(2), *rest).squeeze(2)


def _normalized(  # noqa: PLR0917 - torch's own order
    value: torch.Tensor, weight: Any, bias: Any, mean: torch.Tensor, var: torch.Tensor, eps: float, *_: Any
) -> torch.Tensor:
    return functional.batch_norm(value, mean, var, weight, bias, eps=eps)


KERNELS: dict[str, Form] = {
    "linear": _linear,
    "conv1d": _in_a_plane(_convolution(functional.conv2d)),
    "conv2d": _convolution(functional.conv2d),
    "conv3d": _convolution(functional.conv3d),
    "conv_transpose1d": _in_a_plane(_transposed(functional.conv_transpose2d)),
    "conv_transpose2d": _transposed(functional.conv_transpose2d),
    "conv_transpose3d": _transposed(functional.conv_transpose3d),
    "add": lambda left, right, *_: left + right,
    "add_scalar": lambda left, right, *_: left + right,
    "mul": lambda left, right, *_: left * right,
    "mul_scalar": lambda left, right, *_: left * right,
    "matmul": lambda left, right, *_: left @ right,
    "cat": lambda parts, dim=0, *_: torch.cat(parts, dim),
    "clamp": lambda value, low=None, high=None: value.clamp(low, high),
    "relu6": lambda value, *_: value.clamp(0, 6),
    "threshold": functional.threshold,
    "hardswish": lambda value, *_: functional.hardswish(value),
    "sigmoid": lambda value, *_: value.sigmoid(),
    "softmax": lambda value, dim, *_: value.softmax(dim),
    "leaky_relu": lambda value, slope, *_: functional.leaky_relu(value, slope),
    "elu": lambda value, _scale, _zero, alpha=1.0, *_: functional.elu(value, alpha),
    "celu": lambda value, _scale, _zero, alpha=1.0: functional.celu(value, alpha),
    "prelu": lambda value, weight, *_: functional.prelu(value, weight),
    "batch_norm": _normalized,
    "batch_norm1d": _normalized,
    "batch_norm2d": _normalized,
    "batch_norm3d": _normalized,
    "layer_norm": lambda value, shape, weight, bias, eps, *_: functional.layer_norm(value, shape, weight, bias, eps),
    "group_norm": lambda value, groups, weight, bias, eps, *_: functional.group_norm(value, groups, weight, bias, eps),
    "instance_norm": lambda value, weight, bias, eps, *_: functional.instance_norm(
        value, weight=weight, bias=bias, eps=eps
    ),
}
"""What a kernel computes before it writes codes, by its name; a trailing ``_relu`` is applied to it."""


def dynamic_linear(mode: Mode, call: Call) -> Any:
    """Compute a linear layer whose input is quantized by its own extremes."""
    value, packed, halved = call.arguments("X", "W_prepack", "reduce_range")
    (told,), (weight,) = _weights(mode, [packed])
    high = HALVED if halved else 255
    least, most = value.min().clamp(max=0), value.max().clamp(min=0)
    scale = (most - least) / float(high)
    zero = (-torch.round(least / scale)).clamp(0, high)
    inside = (torch.round(value * (1 / scale) + zero)).clamp(0, high)
    seen = Call("dynamic", lambda: (inside - zero) * scale, (), {})
    coded = mode.fake(lambda: value, scale, zero, Grid(0, high, torch.uint8), seen)

    def form() -> torch.Tensor:
        result = functional.linear(coded, weight, told.bias)
        return result.relu() if "relu" in call.name else result

    return mode.either(call.real, form)
