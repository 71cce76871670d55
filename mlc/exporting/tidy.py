"""What an exporter writes, made fit for others: names by contract, nothing of the user's machine, a low version."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from mlc.exporting.ties import share_transposed
from mlc.exporting.whole import make_whole
from mlc.fusion import Names, subgraphs
from mlc.types import InputSpec, OutputSpec

FUNCTIONS_NEED = 8
"""The first IR version that holds functions."""

TYPES_NEED = {
    ir.DataType.FLOAT8E4M3FN: 9, ir.DataType.FLOAT8E4M3FNUZ: 9, ir.DataType.FLOAT8E5M2: 9,
    ir.DataType.FLOAT8E5M2FNUZ: 9, ir.DataType.UINT4: 10, ir.DataType.INT4: 10, ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12, ir.DataType.UINT2: 13, ir.DataType.INT2: 13,
}  # fmt: skip
"""The first IR version that has each type of a tensor (ONNX, onnx.proto): an initializer needs no new operator."""


def tidy(
    model: ir.Model,
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec],
    prefix: str,
    *,
    weights: Collection[str],
    doubted: bool,
) -> None:
    """Give a freshly exported model the names of its contract, and take out what it does not need.

    ``prefix`` is what the tracing wrapper put before the name of every one of the module's ``weights``; ``doubted`` has
    all shapes inferred afresh.
    """
    _hold_constants(model)
    common.InlinePass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    _strip_prefix(model, prefix)
    share_transposed(model, weights)
    make_whole(model)
    _own_outputs(model.graph)
    _free_names(model, {*(spec.name for spec in inputs), *(output.name for output in outputs)})
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        value.name = spec.name
    for value, output in zip(model.graph.outputs, outputs, strict=True):
        value.name = output.name
    _name_dims(model, inputs)
    correct_shapes(model, outputs, doubted=doubted)
    common.NameFixPass()(model)
    name_nodes(model)
    strip_metadata(model)
    sign(model)
    model.ir_version = lowest_ir_version(model)


def _hold_constants(model: ir.Model) -> None:
    """Make initializers of constants that nodes read and no graph holds: onnxscript registers the last of a name."""
    held = {value for graph in model.graphs() for value in graph.initializers.values()}
    names = {value.name for value in _values(model)}
    read = (value for graph in model.graphs() for node in graph for value in node.inputs if value is not None)
    for value in read:
        if value.const_value is not None and value.producer() is None and value not in held:
            held.add(value)
            value.name = next(name for n in count() if (name := f"{value.name}_{n}") not in names)
            names.add(value.name)
            model.graph.register_initializer(value)


def _strip_prefix(model: ir.Model, prefix: str) -> None:
    taken = {value.name for value in _values(model)}
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            name = (value.name or "").removeprefix(prefix)
            if name and name not in taken:
                value.name = name


def _values(model: ir.Model) -> Iterable[ir.Value]:
    """Yield every value of a model, subgraphs included."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _own_outputs(graph: ir.Graph) -> None:
    """Put an Identity before every output that is an input, an initializer or another output too."""
    seen: set[int] = set()
    for index, value in enumerate(graph.outputs):
        if id(value) in seen or value.producer() is None:
            node = ir.node("Identity", [value], name=f"output_{index}")
            copy = node.outputs[0]
            copy.name, copy.type, copy.shape = f"{value.name}_output_{index}", value.type, value.shape
            graph.append(node)
            graph.outputs[index] = copy
        seen.add(id(value))


def _free_names(model: ir.Model, contract: set[str]) -> None:
    """Give another name to every value that has one of the contract's and is about to share it."""
    taken = {value.name for value in _values(model)} | contract
    for value in list(_values(model)):
        if value.name not in contract:
            continue
        fresh = next(name for n in range(1, len(taken) + 2) if (name := f"{value.name}_{n}") not in taken)
        taken.add(fresh)
        value.name = fresh


def _name_dims(model: ir.Model, inputs: Sequence[InputSpec]) -> None:
    """Write the dims' own names in the place of the exporter's symbols, everywhere."""
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        axes: list[int | str] = []
        for axis, dim in enumerate(spec.dims):
            symbol = value.shape[axis] if value.shape is not None else dim.low
            if isinstance(symbol, ir.SymbolicDim) and symbol.value is not None and dim.name is not None:
                names.setdefault(symbol.value, dim.name)
                scaled = re.fullmatch(r"\d+\*(\w+)(?: \+ \d+)?", symbol.value)
                if scaled:
                    names.setdefault(scaled[1], f"_{dim.name}")
            axes.append(dim.low if isinstance(symbol, int) or dim.name is None else dim.name)
        value.shape = ir.Shape(axes)
    given = set(map(id, model.graph.inputs))
    for value in _values(model):
        if value.shape is not None and id(value) not in given:
            value.shape = ir.Shape([_dim_name(dim, names) for dim in value.shape])


def _dim_name(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    if dim.value in names:
        return names[dim.value]
    symbols = set(re.findall(r"[A-Za-z_]\w*", dim.value))
    if not symbols <= set(names):
        return dim.value
    return re.sub(r"[A-Za-z_]\w*", lambda match: names[match.group()], dim.value)


def correct_shapes(model: ir.Model, outputs: Sequence[OutputSpec], *, doubted: bool) -> None:
    """Infer all shapes afresh where the exporter's are doubted, or contradict how the outputs' sizes were seen to vary.

    Inside a loop the exporter writes the traced sizes; a runtime believes what is written.
    """
    pairs = list(zip(model.graph.outputs, outputs, strict=True))
    if not doubted and not any(_contradicts(value.shape, spec) for value, spec in pairs):
        return
    inputs = set(map(id, model.graph.inputs))
    for value in _values(model):
        scalar = value.shape is not None and len(value.shape) == 0  # a Loop has to know that its counter is one
        if value.const_value is None and id(value) not in inputs and not scalar:
            value.shape = None
    for value, spec in pairs:
        value.shape = ir.Shape(spec.dims)
    common.ShapeInferencePass()(model)


def _contradicts(shape: ir.Shape | None, spec: OutputSpec) -> bool:
    """Whether a number is written for an axis that was seen to be another number, or to vary."""
    if shape is None or len(shape) != len(spec.dims):
        return True
    return any(isinstance(written, int) and written != seen for written, seen in zip(shape, spec.dims, strict=True))


def name_nodes(model: ir.Model) -> None:
    """Give a unique name to every node that has none or another node's."""
    taken: set[str] = set()
    for graph in model.graphs():
        for index, node in enumerate(graph):
            name = node.name or f"{node.op_type}_{index}"
            while name in taken:
                name = f"{name}_{index}"
            node.name = name
            taken.add(name)


def part_names(model: ir.Model) -> None:
    """Give values inside of branches and loops other names than those of values around them: a file may repeat them."""
    names = Names.of(model)

    def part(graph: ir.Graph, around: frozenset[str | None]) -> None:
        own = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        for value in own:
            if value.name and value.name in around:
                value.name = names.free(value.name)
        known = around.union(value.name for value in own)
        for inner in (inner for node in graph for inner in subgraphs(node)):
            part(inner, known)

    part(model.graph, frozenset())


def rename(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give initializers other names, where no value has those."""
    taken = {value.name for value in _values(model)}
    for old, new in names.items():
        value = model.graph.initializers.get(old)
        if value is not None and new not in taken:
            value.name = new
            taken.add(new)


def strip_metadata(model: ir.Model) -> None:
    """Take out metadata and doc strings inside a model: the exporter writes stack traces with the user's paths there.

    What a file says of itself as a whole (its metadata, producer and doc string) stays.
    """
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for attribute in node.attributes.values():
                attribute.doc_string = None
    for value in _values(model):
        value.metadata_props.clear()
        value.doc_string = None
        tensor = value.const_value
        if tensor is not None and tensor.doc_string and tensor.dtype != ir.DataType.STRING:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)


def sign(model: ir.Model) -> None:
    """Put our name as the producer's; nothing else is said of the model as a whole."""
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "mlc", None
    model.domain, model.model_version = None, None


def lowest_ir_version(model: ir.Model) -> int:
    """Return the lowest IR version that has all types of a model, and whose release has all opsets that it imports."""
    versions = [
        onnx.helper.OP_SET_ID_VERSION_MAP[domain or "ai.onnx", version]
        for domain, version in model.opset_imports.items()
        if (domain or "ai.onnx", version) in onnx.helper.OP_SET_ID_VERSION_MAP
    ]
    types = [TYPES_NEED.get(value.dtype, 0) for value in _values(model) if value.dtype is not None]
    return max([*versions, *types, FUNCTIONS_NEED if model.functions else 0])
