"""Translate TorchScript: torch's own converter makes a program of torch.export of it, which goes to torch.onnx."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import torch
from torch import nn

from mlc.errors import SourceError, first_line, foreign
from mlc.exporting.mending import mend
from mlc.exporting.opset import checked_opset
from mlc.exporting.program import fix_sizes, tensors_only
from mlc.exporting.shapes import tracing_sizes
from mlc.exporting.tidy import tidy
from mlc.exporting.translation import Translation
from mlc.exporting.writing import EXPORTER, quiet, written
from mlc.probes import probe
from mlc.sources.structure import output_leaves
from mlc.sources.torch.frozen import frozen
from mlc.sources.torch.program_dims import axes_of
from mlc.sources.torch.script import Scripted, ScriptOriginal
from mlc.types import InputSpec, Sizes

CONVERTER = "torch._export.converter.TS2EPConverter"

NODE = re.compile(r"failed for node (\S+)")
"""How the converter names the operator that it cannot convert."""

HINT = "give the Python module that it was made from: file.py:function@weights"


def translate(original: ScriptOriginal, traced: Sizes, opset: int | None) -> Translation:
    """Return the module as an ONNX model. Raises SourceError that names the operator which has no conversion."""
    signature = original.signature
    sizes = tracing_sizes(signature.inputs, traced)
    program = _converted(original, sizes)
    _check_dims(program, signature.inputs)
    program = tensors_only(program)
    opset = checked_opset(opset)
    program = mend(program, signature.inputs, opset)
    model = written(program, opset)
    sides = ((model.graph.inputs, signature.inputs), (model.graph.outputs, signature.outputs))
    if any(len(values) != len(specs) for values, specs in sides):
        raise SourceError(f"{CONVERTER} lost an input or output of the model", HINT)
    fix_sizes(model, signature.inputs)
    tidy(model, signature.inputs, signature.outputs, "", weights=set(program.state_dict), doubted=False)
    return Translation(model, f"{CONVERTER}, {EXPORTER}")


class _Flat(nn.Module):
    """The module with flat tensors in and out, and all other arguments fixed: the converter takes no others."""

    def __init__(self, original: ScriptOriginal, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = Scripted(script)
        self._binding = original.binding
        self._names = [spec.name for spec in original.signature.inputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module by input name; return its tensors in order."""
        returned = self._binding.call(self.module, dict(zip(self._names, tensors, strict=True)))
        return tuple(leaf for _, leaf in output_leaves(returned) if isinstance(leaf, torch.Tensor))


def _converted(original: ScriptOriginal, sizes: Sizes) -> torch.export.ExportedProgram:
    """Convert a copy, since the converter rewrites the graphs that it is given."""
    arrays = probe(original.signature.inputs, sizes, original.example, None, 0)
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    try:
        with foreign(CONVERTER), quiet(), torch.no_grad():
            from torch._export.converter import TS2EPConverter  # not of torch's public names, so it may be gone

            flat = _Flat(original, torch.jit.load(io.BytesIO(original.script.save_to_buffer()), map_location="cpu"))  # type: ignore[no-untyped-call]
            with frozen(flat):
                traced = torch.jit.trace(flat, tensors, check_trace=False)  # type: ignore[no-untyped-call]
            return TS2EPConverter(traced, tensors).convert()
    except SourceError as failed:
        raise _refusal(failed.__cause__ or failed) from failed.__cause__


def _refusal(failed: BaseException) -> SourceError:
    """Return why TorchScript could not be converted: the innermost operator, and what is wrong with it."""
    chain = [failed]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    operators = [node[1] for link in chain if (node := NODE.search(str(link)))]
    what = f"the operator {operators[-1]} of the TorchScript" if operators else "the TorchScript"
    said = "" if NODE.search(str(chain[-1])) else f": {type(chain[-1]).__name__}: {first_line(chain[-1])}"
    return SourceError(f"{CONVERTER} cannot convert {what}{said}", HINT)


def _check_dims(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Raise SourceError where the converter fixed an axis that has a range."""
    taken = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in taken]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    for spec, tensor in zip(inputs, tensors, strict=False):
        for axis, (dim, size) in enumerate(zip(spec.dims, axes_of(tensor.shape), strict=True)):
            if dim.name is not None and isinstance(size, int):
                raise SourceError(
                    f"{dim.name} cannot vary: {CONVERTER} fixed axis {axis} of {spec.name} at {size}",
                    f"write {size} for {dim.name}, or {HINT}",
                )
