"""Dtype and shape of every value of a graph at concrete input sizes, node by node, as far as ONNX can tell.

Small integers are computed on the way, as shapes follow from them; nothing is run that could be large.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from mlc.errors import SourceError, foreign
from mlc.sources.onnx.ports import dtype_name

if TYPE_CHECKING:
    from mlc.types import Array

Shape: TypeAlias = tuple[int, ...]

LIMIT = 1024
"""The most elements of a value that is computed."""

COMPUTED = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "CumSum", "Div", "Equal", "Expand", "Flatten",
    "Floor", "Gather", "GatherElements", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
    "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that shapes are computed with."""

STANDARD, CONTRIB = ("", "ai.onnx"), "com.microsoft"

LIKE_FIRST = frozenset({
    "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Operators of onnxruntime's own domain whose first output has the shape of their first input."""


PRODUCTS = {"DynamicQuantizeMatMul": 0, "FusedMatMul": 0, "MatMulIntegerToFloat": 2}
"""Matrix products of onnxruntime's own domain, with the input whose type they give."""


@dataclass
class Values:
    """What is known of the values of a graph: types by name, and the arrays of small constants."""

    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value, or None where a size of it is not known, or none can be: a negative one."""
        found = self.types.get(name)
        if found is None or not found.HasField("tensor_type") or not found.tensor_type.HasField("shape"):
            return None
        dims = found.tensor_type.shape.dim
        known = all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims)
        return tuple(dim.dim_value for dim in dims) if known else None

    def dtype(self, name: str) -> str:
        """Return the dtype of a value, ``?`` where it is not known."""
        found = self.types.get(name)
        return "?" if found is None else dtype_name(found.tensor_type.elem_type)

    def hold(self, name: str, array: Array) -> None:
        """Remember a small constant."""
        self.arrays[name] = array
        self.types[name] = onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )


def values_at(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], sizes: Mapping[str, int], elsewhere: Values | None = None
) -> Values:
    """Return what is known of every value of the main graph where its inputs have these shapes.

    ``sizes`` are those of the symbols that the file uses: where ONNX has no rule for an operator, what the file itself
    says of its outputs is taken, at those sizes, or what is known of the values of these names ``elsewhere``, in a
    graph that computes the same.
    """
    graph = model.graph
    known = Values()
    stated = {value.name: _at(value.type, sizes) for value in (*graph.value_info, *graph.output)}
    if elsewhere is not None:
        stated |= {name: given for name, given in elsewhere.types.items() if elsewhere.shape(name) is not None}
    for tensor in graph.initializer:
        _hold_tensor(known, tensor.name, tensor)
    for value in graph.input:
        if value.name in shapes:
            known.types[value.name] = _shaped(value.type, shapes[value.name])
            known.arrays.pop(value.name, None)
        elif value.name not in known.types:
            known.types[value.name] = _at(value.type, sizes)
    for node in graph.node:
        _node(known, node, model.opset_import, stated)
    return known


def branch_values(
    around: Values, branch: onnx.GraphProto, opsets: Sequence[onnx.OperatorSetIdProto], sizes: Mapping[str, int]
) -> Values:
    """Return what is known inside a branch, where this much is known of the values of the graph around it."""
    known = Values(dict(around.types), dict(around.arrays))
    stated = {value.name: _at(value.type, sizes) for value in (*branch.value_info, *branch.output)}
    for tensor in branch.initializer:
        _hold_tensor(known, tensor.name, tensor)
    for node in branch.node:
        _node(known, node, opsets, stated)
    return known


def _node(
    known: Values,
    node: onnx.NodeProto,
    opsets: Sequence[onnx.OperatorSetIdProto],
    stated: Mapping[str, onnx.TypeProto],
) -> None:
    """Note the outputs of one node: inferred, and computed where they are small constants; else as the file says."""
    if node.op_type == "Constant" and node.domain in STANDARD:
        _constant(known, node)
    inferred = _of_runtime(known, node) if node.domain == CONTRIB else _inferred(known, node, opsets)
    for name in filter(None, node.output):
        if name in known.arrays:
            continue
        if name in inferred:
            known.types[name] = inferred[name]
        if known.shape(name) is None and name in stated:
            known.types[name] = _better(known.types.get(name), stated[name])
    if node.op_type in {*COMPUTED, "Shape", "Size"} and node.domain in STANDARD:
        _compute(known, node, opsets)


def _inferred(
    known: Values, node: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TypeProto]:
    version = next((each.version for each in opsets if each.domain in _aliases(node.domain)), 1)
    nested = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    names = [name for name in dict.fromkeys(node.input) if name]
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, "" if node.domain in STANDARD else node.domain)
        taken = known.types if nested else {name: known.types[name] for name in names}
        data = {name: numpy_helper.from_array(known.arrays[name], name) for name in names if name in known.arrays}
        if not (schema.has_function or schema.has_context_dependent_function):
            return onnx.shape_inference.infer_node_outputs(schema, node, taken, data, opset_imports=list(opsets))
        inferred = onnx.shape_inference.infer_shapes(_alone(node, taken, data, opsets), data_prop=True).graph
        return {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, KeyError, ValueError, RuntimeError):
        return {}


def _alone(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    data: Mapping[str, onnx.TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> onnx.ModelProto:
    """Return a model of one node: rules that an operator has through its own definition are applied to models only."""
    inputs = [onnx.helper.make_value_info(name, given) for name, given in types.items() if name not in data]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs, list(data.values()))
    return onnx.helper.make_model(graph, opset_imports=list(opsets))


def _of_runtime(known: Values, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
    """Return the outputs of the operators of onnxruntime's own domain whose rule is plain."""
    shapes = [known.shape(name) if name else None for name in node.input]
    padded = [*shapes, None, None, None]
    shape, other, value = padded[0], padded[1], padded[2]
    if shape is None:
        return {}
    found: list[Shape] = []
    if node.op_type == "MatMulNBits":
        found = [(*shape[:-1], whole(node, "N"))]
    elif node.op_type == "MultiHeadAttention" and value is not None and len(shape) == len(value):
        found = [(*shape[:-1], value[-1])]
    elif node.op_type in PRODUCTS and other is not None and _is_plain(node) and min(len(shape), len(other)) > 1:
        rows, columns = shape[-1 if whole(node, "transA") else -2], other[-2 if whole(node, "transB") else -1]
        found = [(*np.broadcast_shapes(shape[:-2], other[:-2]), rows, columns)]
    elif node.op_type == "DynamicQuantizeLSTM" and other is not None:
        last = (other[0], shape[1], other[2] // 4)
        found = [(shape[0], *last), last, last]
    elif node.op_type in LIKE_FIRST:
        found = [shape]
    given = known.types.get(node.input[PRODUCTS.get(node.op_type, 0)])
    if given is None:
        return {}
    return {name: _shaped(given, each) for name, each in zip(node.output, found, strict=False) if name}


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product has the rows and columns of its matrices as their last axes."""
    return not (whole(node, "transBatchA") or whole(node, "transBatchB"))


def attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    """Return the attributes of a node by name."""
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def whole(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """Return an attribute that is a whole number."""
    value = attributes(node).get(name, default)
    return value if isinstance(value, int) else default


def _aliases(domain: str) -> tuple[str, ...]:
    return STANDARD if domain in STANDARD else (domain,)


def _compute(known: Values, node: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
    """Compute a node whose inputs are small constants, or that asks for a shape that is known."""
    if node.op_type in {"Shape", "Size"}:
        shape = known.shape(node.input[0])
        if shape is not None:
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            part = shape[slice(ends.get("start"), ends.get("end"))]
            known.hold(node.output[0], np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64))
        return
    names, results = [name for name in node.input if name], [name for name in node.output if name]
    small = all((shape := known.shape(name)) is not None and math.prod(shape) <= LIMIT for name in results)
    if not (small and names and all(name in known.arrays for name in names)):
        return
    with contextlib.suppress(SourceError), foreign(f"computing {node.op_type}"), np.errstate(all="ignore"):
        for name, array in zip(results, _evaluated(known, node, names, opsets), strict=True):
            known.hold(name, np.asarray(array))


def _evaluated(
    known: Values,
    node: onnx.NodeProto,
    names: Sequence[str],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    types = {name: known.types[name] for name in names}
    model = _alone(node, types, {}, opsets)
    return list(ReferenceEvaluator(model).run(None, {name: known.arrays[name] for name in names}))


def _constant(known: Values, node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "value":
            _hold_tensor(known, node.output[0], attribute.t)
        elif attribute.name in {"value_int", "value_ints"}:
            known.hold(node.output[0], np.array(onnx.helper.get_attribute_value(attribute), np.int64))
        elif attribute.name in {"value_float", "value_floats"}:
            known.hold(node.output[0], np.array(onnx.helper.get_attribute_value(attribute), np.float32))


def _hold_tensor(known: Values, name: str, tensor: onnx.TensorProto) -> None:
    known.types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    plain = tensor.data_location != onnx.TensorProto.EXTERNAL and dtype_name(tensor.data_type) in {
        "bool", "float32", "float64", "int32", "int64",
    }  # fmt: skip
    if plain and math.prod(tensor.dims) <= LIMIT:
        known.arrays[name] = numpy_helper.to_array(tensor)


def _shaped(given: onnx.TypeProto, shape: Shape) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(given.tensor_type.elem_type, shape)


def _at(given: onnx.TypeProto, sizes: Mapping[str, int]) -> onnx.TypeProto:
    """Return a type with its symbols replaced by their sizes, as far as they have one."""
    filled = onnx.TypeProto()
    filled.CopyFrom(given)
    for dim in filled.tensor_type.shape.dim if filled.HasField("tensor_type") else ():
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]
    return filled


def _better(found: onnx.TypeProto | None, stated: onnx.TypeProto) -> onnx.TypeProto:
    """Return what the file says of a value where it says all sizes, or where nothing else is known."""
    full = stated.tensor_type.HasField("shape") and all(
        dim.HasField("dim_value") for dim in stated.tensor_type.shape.dim
    )
    return stated if found is None or (full and stated.HasField("tensor_type")) else found
