"""What a module quantizes by itself: each of its codes, noted as it runs and written down again as it is traced.

Both are done by a mode that torch asks about every function that the module calls. The same calls come in the same
order in a run and in a trace, so that what was noted in the one says what is written in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from mlc.errors import SourceError

if TYPE_CHECKING:
    from mlc.types import Array

Number: TypeAlias = "torch.Tensor | float | int"

KEEPING = frozenset(
    {
        "__get__", "__getitem__", "chunk", "clone", "contiguous", "detach", "dropout", "expand", "flatten",
        "max", "max_pool1d", "max_pool2d", "min", "narrow", "permute", "relu", "relu_", "reshape", "select", "sort",
        "split", "squeeze", "to", "topk", "transpose", "unbind", "unflatten", "unsqueeze", "view",
    }
)  # fmt: skip
"""Functions that give some of the codes that they are given, with their scale."""

TAKEN = "quantized::", "quantized_decomposed::", "torchao::"
"""Namespaces of operators that quantize: one that has no handler would be written wrong."""


@dataclass(frozen=True)
class Grid:
    """The codes from ``low`` to ``high``, kept as ``dtype``.

    Scales differ along ``axis`` (None: one scale), every ``group`` elements of it (0: at each index).
    """

    low: int
    high: int
    dtype: torch.dtype
    axis: int | None = None
    group: int = 0


@dataclass(frozen=True)
class Coded:
    """Codes that a module computed or holds: the function they came from, their scale and zero point.

    ``scale`` (float32) and ``zero_point`` (int64) are 0-d for one scale, [channels] along an axis, of the codes' rank
    in blocks. ``stored`` names the weight that holds them, where one does.
    """

    name: str
    codes: Array
    scale: Array
    zero_point: Array
    grid: Grid
    stored: str = ""


@dataclass(frozen=True)
class Call:
    """A call of a torch function: ``real`` makes it."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def real(self) -> Any:
        """Call the function as the module did."""
        return self.function(*self.args, **self.kwargs)

    def arguments(self, *names: str) -> list[Any]:
        """Return arguments by their names in order, given by place or by name; None where one is absent."""
        given = dict(zip(names, self.args, strict=False)) | dict(self.kwargs)
        return [given.get(name) for name in names]


@dataclass
class Stored:
    """Quantized weights of a module that torch hides in objects of its own, by the identity of what holds them.

    ``plain`` are tensors that a trace takes for constants, though the module has a name for them.
    """

    names: dict[int, str] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    plain: list[tuple[torch.Tensor, str]] = field(default_factory=list)

    def add(self, holder: Any, name: str) -> None:
        """Remember what a weight is called, and the object itself, so that no other one gets its identity."""
        self.names.setdefault(id(holder), name)
        self.held.append(holder)


class Mode(TorchFunctionMode):
    """Hands each function that quantizes to its handler; all others are called."""

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.stored = stored
        self.site = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        from mlc.sources.quantized.calls import handler_of

        call = Call(name_of(func), func, args, kwargs or {})
        handler = handler_of(self, call)
        if handler is not None:
            return handler(self, call)
        if call.name.startswith(TAKEN):
            raise SourceError(
                f"the operator {call.name} quantizes in a way that has no form in ONNX here",
                "give the module before it is quantized, and ask for --to int8",
            )
        if self.on_grid(call):
            return self.generic(call)
        return call.real()

    def on_grid(self, call: Call) -> bool:
        """Whether one of the tensors that a function is given consists of codes, or of floats that stand for codes."""
        raise NotImplementedError

    def generic(self, call: Call) -> Any:
        """Call a function that has a form of its own for codes."""
        raise NotImplementedError

    def fake(self, value: Callable[[], torch.Tensor], scale: Number, zero: Number, grid: Grid, call: Call) -> Any:
        """Quantize and dequantize at once; ``value`` computes the float to quantize."""
        raise NotImplementedError

    def encode(self, value: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:
        """Turn a float into codes."""
        raise NotImplementedError

    def decode(self, codes: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:
        """Turn codes into a float."""
        raise NotImplementedError

    def weight(self, weight: Callable[[], Weight]) -> Any:
        """Turn the codes of a weight that torch holds into a float; a run has no need of it, a trace none of them."""
        raise NotImplementedError

    def either(self, real: Callable[[], Any], form: Callable[[], Any]) -> Any:
        """Go on with what the module computes in a run, with a form that can be exported in a trace."""
        raise NotImplementedError


@dataclass(frozen=True)
class Weight:
    """The codes of a weight, scale, zero point and grid, and what the weight is called."""

    codes: torch.Tensor
    scale: Number
    zero: Number
    grid: Grid
    name: str


class Noting(Mode):
    """Runs a module as it is and notes every code."""

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self.notes: list[Coded] = []

    def on_grid(self, call: Call) -> bool:  # noqa: D102
        return any(part.is_quantized for part in tensors_in(call.args))

    def generic(self, call: Call) -> Any:  # noqa: D102
        result = call.real()
        if call.name not in KEEPING and isinstance(result, torch.Tensor) and result.is_quantized:
            self._quantized(call.name, result)
        return result

    def fake(self, value: Callable[[], torch.Tensor], scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: ARG002, D102
        result: torch.Tensor = call.real()
        if result.is_quantized:
            self._quantized(call.name, result)
        else:
            steps, zeros = (_spread(part, grid, result.ndim) for part in (scale, zero))
            self._note(call.name, (result / steps).round() + zeros, scale, zero, grid)
        return result

    def encode(self, value: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: ARG002, D102
        result = call.real()
        self._note(call.name, result, scale, zero, grid)
        return result

    def decode(self, codes: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: D102
        self._note(call.name, codes, scale, zero, grid)
        return call.real()

    def weight(self, weight: Callable[[], Weight]) -> Any:  # noqa: D102
        held = weight()
        self._note("weight", held.codes, held.scale, held.zero, held.grid, held.name)

    def either(self, real: Callable[[], Any], form: Callable[[], Any]) -> Any:  # noqa: ARG002, D102
        return real()

    def _quantized(self, name: str, result: torch.Tensor) -> None:
        scale, zero, axis = parameters_of(result)
        self._note(name, result.int_repr(), scale, zero, grid_of(result.dtype, axis))

    def _note(  # noqa: PLR0917 - the parts of what is noted
        self, name: str, codes: torch.Tensor, scale: Number, zero: Number, grid: Grid, stored: str = ""
    ) -> None:
        noted = codes.detach().cpu().to(grid.dtype).numpy()
        steps, zeros = (_parameter(part, grid) for part in (scale, zero))
        self.notes.append(Coded(name, noted, steps.astype(np.float32), zeros.astype(np.int64), grid, stored))
        self.site += 1


def _tensor(value: Number) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)


def _spread(value: Number, grid: Grid, rank: int) -> torch.Tensor:
    """Give scales or zero points the shape in which they go with a tensor of the rank."""
    tensor = _tensor(value)
    if grid.axis is None:
        return tensor.reshape(())
    if grid.group:
        return tensor.repeat_interleave(grid.group, grid.axis)
    return tensor.reshape([-1 if axis == grid.axis else 1 for axis in range(rank)])


def _parameter(value: Number, grid: Grid) -> Array:
    array: Array = _tensor(value).detach().cpu().numpy()
    if grid.group:
        return array
    return array.reshape(()) if grid.axis is None else array.reshape(-1)


def name_of(function: Callable[..., Any]) -> str:
    """Return what a torch function is called: ``quantized::linear``, without a namespace where it is torch's own."""
    packet = getattr(function, "_overloadpacket", function)
    qualified = getattr(packet, "_qualified_op_name", "")
    return str(qualified).removeprefix("aten::") or str(getattr(function, "__name__", ""))


def tensors_in(values: Sequence[Any]) -> list[torch.Tensor]:
    """Return the tensors among arguments, and those in lists of them."""
    found = [part for part in values if isinstance(part, torch.Tensor)]
    lists = (part for part in values if isinstance(part, list | tuple))
    return found + [part for each in lists for part in each if isinstance(part, torch.Tensor)]


def parameters_of(tensor: torch.Tensor) -> tuple[Number, Number, int | None]:
    """Return scale, zero point and axis of a quantized tensor. Raises SourceError for zero points that are floats."""
    if tensor.qscheme() == torch.per_channel_affine_float_qparams:
        raise SourceError(
            "a quantized tensor has zero points that are floats, which ONNX has not",
            "quantize it with torch.per_channel_affine, or give the module before it is quantized",
        )
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return tensor.q_scale(), tensor.q_zero_point(), None
    return tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis()


DTYPES = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}
"""What holds the codes of torch's quantized types."""


def grid_of(dtype: torch.dtype, axis: int | None = None) -> Grid:
    """Return the whole grid of a type, a quantized one or an integer. Raises SourceError for one that packs codes."""
    kept = DTYPES.get(dtype, dtype)
    if kept.is_floating_point or str(kept).startswith("torch.q"):
        raise SourceError(f"codes are kept as {kept}, which has no counterpart in ONNX here", "take qint8 or quint8")
    limits = torch.iinfo(kept)
    return Grid(limits.min, limits.max, kept, axis)
