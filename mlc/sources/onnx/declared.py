"""What an .onnx file says of its own inputs and outputs, before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import onnx

from mlc.errors import SourceError
from mlc.sources.onnx.safety import read_onnx
from mlc.types import Dim, InputSpec, OutputSpec, Signature

Axes: TypeAlias = tuple[int | str | None, ...]

OPEN = 2**20
"""The upper end of a dim that a file leaves open."""

ONLY_TENSORS = "only tensors go in and out of a model here"

ONLY_NUMBERS = "only numbers go in and out of a model here"


def declared(path: Path) -> Signature:
    """Return the interface as the file states it; a dim that it leaves open has its symbol and ends at ``OPEN``.

    Inputs with a default are none that a caller has to give. Raises SourceError as ``read_onnx`` does, and for what is
    no tensor.
    """
    graph = read_onnx(path).graph
    inputs = declared_inputs(graph, path)
    outputs = [(value.name, *_declared(value, path)) for value in graph.output]
    return Signature(
        tuple(InputSpec(name, dtype, _dims(name, axes)) for name, (dtype, axes) in inputs.items()),
        tuple(OutputSpec(*one) for one in outputs),
    )


def declared_inputs(graph: onnx.GraphProto, path: Path) -> Mapping[str, tuple[str, Axes]]:
    """Return dtype and axes (a size, a symbol or unknown) of every input that has no default, by name, in order."""
    defaults = {tensor.name for tensor in graph.initializer}
    return {value.name: _declared(value, path) for value in graph.input if value.name not in defaults}


def check_graph(graph: onnx.GraphProto, path: Path) -> None:
    """Raise SourceError for an output that is no tensor of numbers or stands there twice, and for sparse weights."""
    names = [value.name for value in graph.output]
    for value in graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise SourceError(f"{value.name} of {path.name} is no tensor", ONLY_TENSORS)
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            raise SourceError(f"{value.name} of {path.name} holds strings", ONLY_NUMBERS)
        if names.count(value.name) > 1:
            raise SourceError(
                f"the output {value.name} of {path.name} is listed twice", "list it once, or a copy of it"
            )
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise SourceError(f"the weight {name} of {path.name} is sparse", "write it as a dense initializer")


def _dims(name: str, axes: Axes) -> tuple[Dim, ...]:
    return tuple(
        Dim(size, size) if isinstance(size, int) else Dim(1, OPEN, name=size or f"{name}.{axis}")
        for axis, size in enumerate(axes)
    )


def _declared(value: onnx.ValueInfoProto, path: Path) -> tuple[str, Axes]:
    """Return the dtype and axes that a file declares for an input or output: a size, a symbol or unknown."""
    if value.type.WhichOneof("value") != "tensor_type":
        raise SourceError(f"{value.name} of {path.name} is no tensor", ONLY_TENSORS)
    element = value.type.tensor_type.elem_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(element)) if element else "float32"
    if element == onnx.TensorProto.STRING:
        raise SourceError(f"{value.name} of {path.name} holds strings", ONLY_NUMBERS)
    if not value.type.tensor_type.HasField("shape"):
        raise SourceError(f"the rank of {value.name} of {path.name} is not known", "export it with a known rank")
    return dtype, tuple(axis_of(dim) for dim in value.type.tensor_type.shape.dim)


def axis_of(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """Return the size of an axis, its symbol, or None where the file says nothing of it."""
    kind = dim.WhichOneof("value")
    return dim.dim_value if kind == "dim_value" else (dim.dim_param or None)
