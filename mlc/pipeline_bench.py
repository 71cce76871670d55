"""Written models against each other, nothing else: no torch, no original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from mlc.dims import named, smallest
from mlc.errors import SourceError, UsageError, foreign
from mlc.manifest import Located, locate
from mlc.measuring import Candidate, Trial, measure
from mlc.pipeline_run import Progress, silent
from mlc.probes import probe
from mlc.recipe import check_sizes
from mlc.types import Dim, InputSpec, Sizes, Target


def bench(
    models: Sequence[Path], target: Target, at: Sizes, seconds: float, progress: Progress = silent
) -> tuple[Trial, ...]:
    """Measure models on seeded inputs of one size; the first is what the others are compared with.

    An open dim that ``at`` does not name has the smallest legal size above 1, in an ``.onnx`` file 1. Raises UsageError
    where the models do not take the same inputs.
    """
    located = [locate(model) for model in models]
    signatures = [_inputs(one) for one in located]
    for model, inputs in zip(models, signatures, strict=True):
        if _kinds(inputs) != _kinds(signatures[0]):
            raise UsageError(
                f"{model} takes {', '.join(_kinds(inputs))}; {models[0]} takes {', '.join(_kinds(signatures[0]))}",
                "measure models of one interface together",
            )
    inputs = next((one for one, place in zip(signatures, located, strict=True) if place.signature), signatures[0])
    check_sizes(at, inputs)
    sizes = _sizes(inputs, at)
    values = probe(inputs, sizes, {}, None, 0)
    candidates = [
        Candidate(str(model), place.path, place.session_options) for model, place in zip(models, located, strict=True)
    ]
    return measure(candidates, values, target, sizes, seconds=seconds, progress=progress)


LARGEST = 2**20
"""The upper end of a dim that an .onnx file leaves open."""


def _inputs(located: Located) -> tuple[InputSpec, ...]:
    return located.signature.inputs if located.signature else file_inputs(located.path)


def file_inputs(path: Path) -> tuple[InputSpec, ...]:
    """Return what an .onnx file without a manifest says of its inputs.

    Open dims keep their symbol. Integers are all zero: the one value that every index and id may have.
    """
    with foreign(f"reading {path}", SourceError, "the file is corrupt or not an ONNX model"):
        graph = ir.load(path).graph
    specs = []
    for value in graph.inputs:
        if value.const_value is not None:
            continue
        if value.dtype is None or value.shape is None:
            raise SourceError(f"{path} does not say dtype and rank of its input {value.name}", "export it again")
        dims = tuple(_dim(size, f"{value.name}.{axis}") for axis, size in enumerate(value.shape))
        dtype = value.dtype.numpy().name
        specs.append(InputSpec(str(value.name), dtype, dims, (0, 0) if dtype.startswith(("int", "uint")) else None))
    return tuple(specs)


def _dim(size: int | ir.SymbolicDim, place: str) -> Dim:
    if isinstance(size, int):
        return Dim(size, size)
    return Dim(1, LARGEST, name=size.value or place)


def _sizes(inputs: Sequence[InputSpec], at: Sizes) -> dict[str, int]:
    return {**{name: 1 if dim.high == LARGEST else smallest(dim, above=1) for name, dim in named(inputs).items()}, **at}


def _kinds(inputs: Sequence[InputSpec]) -> list[str]:
    return [f"{spec.name}={spec.dtype} of rank {len(spec.dims)}" for spec in inputs]
