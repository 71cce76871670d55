"""Sizes of outputs as runs of the original show them: neither two small runs nor one trace say what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from mlc.compare import Reference
from mlc.dims import named, size_of
from mlc.types import OutputSpec, Signature


def observed(signature: Signature, references: Sequence[Reference]) -> tuple[OutputSpec, ...]:
    """Return the outputs with an unknown size (None) for every axis of which a run shows another than is declared."""
    return tuple(
        replace(
            spec,
            dims=tuple(
                None if _is_contradicted(dim, axis, spec.name, signature, references) else dim
                for axis, dim in enumerate(spec.dims)
            ),
        )
        for spec in signature.outputs
    )


def is_contradicted(model: ir.Model, signature: Signature, references: Sequence[Reference]) -> bool:
    """Whether a run shows another size than is written for an axis of an output: a number, or a dim's name."""
    return any(
        _is_contradicted(dim if isinstance(dim, int) else dim.value, axis, spec.name, signature, references)
        for value, spec in zip(model.graph.outputs, signature.outputs, strict=True)
        for axis, dim in enumerate(value.shape or ())
    )


def _is_contradicted(
    dim: int | str | None, axis: int, name: str, signature: Signature, references: Sequence[Reference]
) -> bool:
    declared = {one.name: one for spec in signature.inputs for one in spec.dims if one.name is not None}
    if dim is None or (isinstance(dim, str) and dim not in declared):
        return False
    for reference in references:
        shape = reference.outputs[name].shape
        if axis >= len(shape) or not named(signature.inputs).keys() <= reference.sizes.keys():
            continue
        if shape[axis] != (dim if isinstance(dim, int) else size_of(declared[dim], reference.sizes)):
            return True
    return False
