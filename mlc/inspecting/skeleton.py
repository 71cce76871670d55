"""A model without its weights: their dtypes, shapes and places stay, their bytes are dropped or never read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from mlc.sources.onnx.ports import dtype_name
from mlc.sources.onnx.safety import external_path, read_onnx, tensor_bytes, tensors

SMALL = 8192
"""Tensors of fewer bytes keep them: shapes, axes and scalars, which decide the shapes of what is computed."""

DATA_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")


@dataclass(frozen=True)
class Weight:
    """A stored tensor; ``place`` is equal for tensors that share their bytes in a file beside the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    place: tuple[object, ...]

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Skeleton:
    """A model whose large tensors are empty, all tensors that it stores, and the bytes of its files by name."""

    proto: onnx.ModelProto
    weights: tuple[Weight, ...]
    files: Mapping[str, int]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs_of(nested)


def read_skeleton(path: Path) -> Skeleton:
    """Read a model file without the data beside it; large weights inside it are let go. Raises SourceError."""
    proto = read_onnx(path)
    files = {path.name: path.stat().st_size}
    weights = []
    for number, tensor in enumerate(tensors(proto)):
        if tensor.data_type == onnx.TensorProto.UNDEFINED:  # the place of a tensor that an attribute does not have
            continue
        place: tuple[object, ...] = (number,)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            file = external_path(path, tensor)
            files[file.relative_to(path.absolute().parent).as_posix()] = file.stat().st_size
            place = _place(tensor)
            _fill(tensor, file)
        weights.append(_weight(tensor, place))
        _empty(tensor)
    return Skeleton(proto, tuple(weights), files)


def distinct(weights: Sequence[Weight]) -> list[Weight]:
    """Return the tensors, of those that share their bytes only the first."""
    return list({weight.place: weight for weight in reversed(weights)}.values())[::-1]


def _weight(tensor: onnx.TensorProto, place: tuple[object, ...]) -> Weight:
    text = tensor.data_type == onnx.TensorProto.STRING
    size = sum(map(len, tensor.string_data)) if text else tensor_bytes(tensor)
    return Weight(tensor.name, dtype_name(tensor.data_type), tuple(tensor.dims), size, place)


def _place(tensor: onnx.TensorProto) -> tuple[object, ...]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return (entries["location"], int(entries.get("offset", "0")), tensor.data_type, tuple(tensor.dims))


def _fill(tensor: onnx.TensorProto, file: Path) -> None:
    """Read a small tensor from the file beside the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = tensor_bytes(tensor)
    if size > SMALL:
        return
    with file.open("rb") as stream:
        stream.seek(int(entries.get("offset", "0")))
        tensor.raw_data = stream.read(size)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT


def _empty(tensor: onnx.TensorProto) -> None:
    """Let a large tensor's bytes go; what is left says that they lie elsewhere."""
    if tensor.data_type == onnx.TensorProto.STRING or tensor_bytes(tensor) <= SMALL:
        return
    for field in DATA_FIELDS:
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("external_data")
    tensor.external_data.add(key="location", value="weights")
