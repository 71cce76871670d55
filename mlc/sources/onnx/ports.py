"""What an ONNX file says of each input and output, whatever it is: nothing is refused, and nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx

from mlc.sources.onnx.declared import Axes, axis_of

Shape: TypeAlias = "Axes | None"

NUMPY_NAMES = {"float": "float32", "double": "float64"}
"""NumPy's names of ONNX's dtypes, where they are others."""


@dataclass(frozen=True)
class Port:
    """One input or output: its dtype (NumPy's name) and axes; a size, a symbol or None where the file says nothing.

    ``axes`` is None where the rank is not known. ``kind`` is ``tensor``, or what the value is instead, such as
    ``sequence``. ``optional`` is an input with a default, which a caller may leave out.
    """

    name: str
    dtype: str
    axes: Shape
    kind: str = "tensor"
    optional: bool = False

    def __str__(self) -> str:
        if self.kind != "tensor":
            return f"{self.name}={self.kind}"
        axes = "?" if self.axes is None else ",".join("?" if axis is None else str(axis) for axis in self.axes)
        return f"{self.name}={self.dtype}[{axes}]"


def input_ports(graph: onnx.GraphProto) -> tuple[Port, ...]:
    """Return the inputs of a graph, in order."""
    defaults = {tensor.name for tensor in graph.initializer}
    return tuple(port_of(value, optional=value.name in defaults) for value in graph.input)


def output_ports(graph: onnx.GraphProto) -> tuple[Port, ...]:
    """Return the outputs of a graph, in order."""
    return tuple(port_of(value) for value in graph.output)


def port_of(value: onnx.ValueInfoProto, *, optional: bool = False) -> Port:
    """Return what a file says of one value."""
    kind = value.type.WhichOneof("value")
    if kind not in {None, "tensor_type"}:
        return Port(value.name, "", None, str(kind).removesuffix("_type").replace("_", " "), optional)
    tensor = value.type.tensor_type
    axes = tuple(axis_of(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Port(value.name, dtype_name(tensor.elem_type), axes, optional=optional)


def dtype_name(element: int) -> str:
    """Return NumPy's name of an ONNX element type, or ONNX's own where NumPy has none."""
    name = onnx.TensorProto.DataType.Name(element).lower() if element in onnx.TensorProto.DataType.values() else "?"
    return "?" if name == "undefined" else NUMPY_NAMES.get(name, name)
