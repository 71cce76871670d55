"""Read an .onnx file without trusting it: external data stays inside its folder, and sizes are checked before use."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from mlc.errors import SourceError
from mlc.formats import PRODUCTS
from mlc.sources.weights.finite import not_finite

CHUNK = 1 << 24
FACTORS = 2
MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
HALF_BYTE = {"INT4", "UINT4", "FLOAT4E2M1"}


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return a model without its external data, after checking that the data is there, inside the folder, and fits."""
    if not path.is_file():
        raise SourceError(f"there is no model file {path}", "check the path")
    if path.stat().st_size == 0:
        raise SourceError(f"the model file {path} is empty", "write it again")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as bad:
        raise _no_model(path) from bad
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise _no_model(path)
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, tensor)
    _check_model(path)
    return model


def _no_model(path: Path) -> SourceError:
    if path.suffix == ".onnx":
        return SourceError(f"{path} is not an ONNX model, or is cut off", "write it again, with an ONNX exporter")
    return SourceError(f"{path} is not an ONNX model", "give an .onnx file, or the directory of a compiled model")


def _check_model(path: Path) -> None:
    try:
        onnx.checker.check_model(path)
    except (onnx.checker.ValidationError, ValueError) as bad:
        if "parse proto" in str(bad):
            raise _no_model(path) from bad
        reason = next((line for line in str(bad).splitlines() if line.strip()), "no reason given")[:300]
        raise SourceError(f"the ONNX checker refuses {path}: {reason}", "export it again") from bad


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(graph)


def external_path(path: Path, tensor: onnx.TensorProto) -> Path:
    """Return the file that holds a tensor's data; raises SourceError where it is not inside the model's folder."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = path.absolute().parent
    place = folder / location
    absolute = Path(location).is_absolute() or location.startswith(("/", "\\")) or ":" in location
    if not location or absolute or ".." in Path(location.replace("\\", "/")).parts:
        raise SourceError(
            f"the weight {tensor.name} of {path.name} lies outside the model's folder: {location!r}",
            "put the data beside the model",
        )
    if not place.resolve().is_relative_to(folder.resolve()):
        raise SourceError(
            f"the weight {tensor.name} of {path.name} lies outside the model's folder: {location} is a link",
            "put the data itself beside the model",
        )
    if not place.is_file():
        raise SourceError(f"{path.name} needs {location}, which is not beside it", "copy both files together")
    return place


def _check_external(path: Path, tensor: onnx.TensorProto) -> None:
    place = external_path(path, tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, stated = int(entries.get("offset", "0")), entries.get("length")
        length = tensor_bytes(tensor) if stated is None else int(stated)
    except ValueError as bad:
        raise SourceError(f"the weight {tensor.name} of {path.name} has no valid place: {bad}", "export again") from bad
    if stated is not None and length != tensor_bytes(tensor):
        raise SourceError(
            f"the weight {tensor.name} of {path.name} is {length} bytes, but its shape needs {tensor_bytes(tensor)}",
            "export the model again",
        )
    size = place.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise SourceError(
            f"{place.name} is cut off: the weight {tensor.name} ends at byte {offset + length}, the file at {size}",
            "copy both files again",
        )


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor's dtype and shape need. Raises ValueError for a shape or dtype that is none."""
    count: int = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims) or tensor.data_type not in onnx.TensorProto.DataType.values():
        raise ValueError(f"shape {list(tensor.dims)}, type {tensor.data_type}")
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    if name in HALF_BYTE:
        return -(-count // 2)
    itemsize: float = ir.DataType(tensor.data_type).itemsize
    return int(count * itemsize)


def digest(path: Path, model: onnx.ModelProto) -> str:
    """Return the sha256 over the model file and every external data file, in order of their names."""
    external = {
        external_path(path, tensor) for tensor in tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    hashed = hashlib.sha256()
    for file in (path, *sorted(external, key=Path.as_posix)):
        hashed.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hashed.update(chunk)
    return hashed.hexdigest()


def check_values(path: Path, model: ir.Model) -> None:
    """Raise SourceError for an initializer that holds NaN, or Inf outside a mask; what is multiplied is no mask."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            fault = not_finite(np.asarray(tensor.numpy()), may_mask=not _multiplied(value))
            if fault:
                raise SourceError(f"the weight {name} of {path.name} holds {fault}", "convert the model again")


def _multiplied(value: ir.Value) -> bool:
    """Whether a value goes into a product of matrices or a convolution, directly or moved about."""
    for node, index in value.uses():
        if node.op_type in PRODUCTS and index < FACTORS:
            return True
        if node.op_type in MOVES and _multiplied(node.outputs[0]):
            return True
    return False
