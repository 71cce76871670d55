"""Translate a program of torch.export as it is: traced already, it goes to torch.onnx."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlc.exporting.mending import mend
from mlc.exporting.opset import checked_opset
from mlc.exporting.quantized.written import widened
from mlc.exporting.tidy import tidy
from mlc.exporting.torch import translate as translate_module
from mlc.exporting.translation import Translation
from mlc.exporting.writing import EXPORTER, written
from mlc.sources.quantized.calls import quantizes
from mlc.sources.torch.program import ProgramOriginal
from mlc.types import InputSpec, Sizes


def translate(original: ProgramOriginal, traced: Sizes, opset: int | None) -> Translation:
    """Return the program as an ONNX model of the given opset, 20 by default. Raises SourceError where ONNX lacks words.

    A program that quantizes is traced once more, to take over its codes. Raises UsageError for an opset that the
    exporter cannot write.
    """
    program = original.program
    if quantizes(program.graph):
        return translate_module(original, traced, opset)
    signature = original.signature
    specs = {spec.name: spec for spec in signature.inputs}
    program = tensors_only(program)
    opset = checked_opset(opset)
    program = mend(program, [specs[one.name] for one in original.taken], opset)
    model = written(program, opset)
    by_name = {one.name: value for one, value in zip(original.taken, list(model.graph.inputs), strict=True)}
    model.graph.inputs[:] = [by_name[spec.name] for spec in signature.inputs]
    fix_sizes(model, signature.inputs)
    tidy(model, signature.inputs, signature.outputs, "", weights=set(program.state_dict), doubted=_has_loops(program))
    return Translation(model, EXPORTER, widened(original.module, model))


def tensors_only(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program without outputs that are numbers, for which torch.onnx has no value.

    It has a graph of its own, and shares the weights.
    """
    specs = program.graph_signature.output_specs
    kept = [place for place, spec in enumerate(specs) if isinstance(spec.arg, TensorArgument)]
    graph = copy.deepcopy(program.graph)
    for node, own in zip(graph.nodes, program.graph.nodes, strict=True):
        node.name = own.name  # by which the signature knows it; a copy has another where Python has that name
    (output,) = [node for node in graph.nodes if node.op == "output"]
    (returned,) = output.args
    assert isinstance(returned, tuple | list)
    output.args = (tuple(returned[place] for place in kept),)
    leaves = [place for place in kept if specs[place].kind is OutputKind.USER_OUTPUT]
    _, out_spec = pytree.tree_flatten(tuple(leaves))
    whole = program.module_call_graph[0]
    assert whole.signature is not None
    signature = torch.export.graph_signature.ExportGraphSignature(
        input_specs=program.graph_signature.input_specs, output_specs=[specs[place] for place in kept]
    )
    return torch.export.ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=[replace(whole, signature=replace(whole.signature, out_spec=out_spec))],
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


def fix_sizes(model: ir.Model, inputs: Sequence[InputSpec]) -> None:
    """Write the sizes of the specs in the place of symbols that stand for axes which the specs fix.

    What follows from such a symbol is left unknown.
    """
    sizes: dict[str, int] = {}
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        for symbol, dim in zip(value.shape or (), spec.dims, strict=True):
            if isinstance(symbol, ir.SymbolicDim) and symbol.value is not None and dim.fixed:
                sizes[symbol.value] = dim.low
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())] if sizes else []
    for graph in graphs:
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            if value.shape is not None:
                value.shape = ir.Shape([_fixed(size, sizes) for size in value.shape])


def _fixed(size: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    if size.value in sizes:
        return sizes[size.value]
    return None if set(re.findall(r"[A-Za-z_]\w*", size.value)) & set(sizes) else size.value


def _has_loops(program: torch.export.ExportedProgram) -> bool:
    """Whether a part of the graph is a graph of its own, in which the exporter may write traced sizes."""
    return any(isinstance(part, torch.fx.GraphModule) for part in program.graph_module.children())
