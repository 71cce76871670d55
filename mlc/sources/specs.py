"""What the user says about inputs, matched with what the model or its example shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlc.dims import range_text
from mlc.errors import UsageError
from mlc.figures import counted
from mlc.grammar import nearest
from mlc.types import Dim, InputSpec

if TYPE_CHECKING:
    from mlc.types import Array, Arrays


def match_specs(names: Sequence[str], given: Sequence[InputSpec], example: Arrays) -> tuple[InputSpec, ...]:
    """Return the spec of every input in order: the user's, else the example's shape, fixed.

    Raises UsageError where a spec names no input, or its dtype or rank is not the example's.
    """
    specs = {spec.name: spec for spec in given}
    for name in specs:
        if name not in names:
            raise unknown_input(name, names)
    return tuple(_spec(name, specs.get(name), example.get(name)) for name in names)


def _spec(name: str, spec: InputSpec | None, example: Array | None) -> InputSpec:
    if spec is None:
        assert example is not None, "an input has a spec or an example"
        return InputSpec(name, str(example.dtype), tuple(Dim(size, size) for size in example.shape))
    if example is None:
        return spec
    if spec.dtype != str(example.dtype):
        raise UsageError(
            f"the spec says that {name} is {spec.dtype}, but the example is {example.dtype}",
            "state the example's dtype, or change the example",
        )
    if len(spec.dims) != example.ndim:
        raise UsageError(
            f"the spec gives {name} {counted(len(spec.dims), 'axis', 'axes')}, "
            f"but the example has {example.ndim}: {list(example.shape)}",
            "state one size, range or name for each axis",
        )
    for axis, dim in enumerate(spec.dims):
        if dim.fixed and dim.low != example.shape[axis]:
            raise UsageError(
                f"the spec fixes axis {axis} of {name} at {dim.low}, but the example has {example.shape[axis]}",
                "change the example, or give the axis a range",
            )
    return spec


def unknown_input(name: str, names: Sequence[str]) -> UsageError:
    """Return the error for a spec that names no input, with those that there are."""
    return UsageError(f"the model has no input {name!r}, it has {', '.join(names)}", nearest(name, names))


def check_fits(spec: InputSpec, dtype: str, axes: Sequence[int | str | None]) -> None:
    """Raise UsageError where a spec is not what a model takes: another dtype, rank or fixed size."""
    if spec.dtype != dtype:
        raise UsageError(
            f"the spec says that {spec.name} is {spec.dtype}, but the model takes {dtype}", "state its dtype"
        )
    if len(spec.dims) != len(axes):
        raise UsageError(
            f"the spec gives {spec.name} {counted(len(spec.dims), 'axis', 'axes')}, "
            f"but the model's has {len(axes)}: {_axes_text(axes)}",
            "state one size, range or name for each axis",
        )
    for axis, (dim, size) in enumerate(zip(spec.dims, axes, strict=True)):
        if isinstance(size, int) and not (dim.low == dim.high == size):
            raise UsageError(
                f"the model fixes axis {axis} of {spec.name} at {size}; the spec says {dim_text(dim)}",
                f"write {size}, or export the model with that axis dynamic",
            )


def _axes_text(axes: Sequence[int | str | None]) -> str:
    return "[" + ",".join("?" if axis is None else str(axis) for axis in axes) + "]"


def dim_text(dim: Dim) -> str:
    """Return a dim as it is written in a spec."""
    if dim.terms:
        return f"{dim.name}={'+'.join(dim.terms)}"
    return str(dim.low) if dim.name is None else f"{dim.name}={range_text(dim)}"
