"""The process of ``benchmarks.quantizing_backend``: converts model after model, and tells of each in JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir

from benchmarks.rewriting_backend_worker import Job, both_forms, called, copied, main, saved
from mlc.emulate import rounded_half
from mlc.errors import MlcError, foreign
from mlc.formats import INTEGER_OPERATORS
from mlc.fusion import infer_shapes
from mlc.workspace import Workspace
from passes.fp16 import Fp16
from passes.int8_dynamic import Int8Dynamic
from tests.backend_models import Answers, Case, Rewriter, Rewritten, WithoutRanges, judged, run, through_lossy

HALF, DYNAMIC = "fp16", "int8-dynamic"

TOLERANCE = 0.1
"""The largest error over the rms of an output that a conversion may leave: 20 dB."""

NO_WORK = frozenset({"Cast", "CastLike", "Constant", "Identity", "Shape", "Size"})
"""Operators that compute nothing of the numbers that they read."""


def through_converter(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run ``convert_float_to_float16`` of onnxconverter-common, inputs and outputs kept in float32."""
    from onnxconverter_common import float16

    return saved(float16.convert_float_to_float16(copied(case), keep_io_types=True), workspace, TOLERANCE)


def through_transformers(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run the function of that name of onnxruntime.transformers, likewise."""
    from onnxruntime.transformers import float16

    return saved(float16.convert_float_to_float16(copied(case), keep_io_types=True), workspace, TOLERANCE)


def through_dynamic(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run ``quantize_dynamic`` of onnxruntime with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    folder = workspace.folder("after")
    onnx.save(case.model, folder / "source.onnx")
    quantize_dynamic(folder / "source.onnx", folder / "model.onnx")
    return Rewritten(folder / "model.onnx", TOLERANCE)


class Tool(NamedTuple):
    """What converts, to which format, and the package that it is of."""

    convert: Rewriter
    format: str
    package: str


TOOLS = {
    "mlc, fp16": Tool(through_lossy(Fp16(), WithoutRanges()), HALF, "mlc"),
    "mlc, fp16:sensitive=half": Tool(
        through_lossy(Fp16(sensitive="half"), WithoutRanges(sensitive="half")), HALF, "mlc"
    ),
    "onnxconverter-common, fp16": Tool(through_converter, HALF, "onnxconverter_common"),
    "onnxruntime.transformers, fp16": Tool(through_transformers, HALF, "onnxruntime"),
    "mlc, int8-dynamic": Tool(through_lossy(Int8Dynamic()), DYNAMIC, "mlc"),
    "onnxruntime.quantization, int8-dynamic": Tool(through_dynamic, DYNAMIC, "onnxruntime"),
}


def converted(model: ir.Model, form: str) -> int:
    """Count the nodes that compute in a format: in float16, or products of matrices and recurrent layers on bytes."""
    nodes = [node for graph in model.graphs() for node in graph]
    if form == DYNAMIC:
        return sum(node.op_type in INTEGER_OPERATORS and node.op_type != "ConvInteger" for node in nodes)
    infer_shapes(model)
    return sum(
        node.op_type not in NO_WORK
        and any(value is not None and value.dtype == ir.DataType.FLOAT16 for value in (*node.inputs, *node.outputs))
        for node in nodes
    )


def counting(tool: Tool, counts: list[int], left: Counter[str]) -> Rewriter:
    """Return what converts as a tool does, is held to the tolerance, and counts how many nodes it converted.

    ``left`` are the reasons why mlc left nodes as they were, with how many.
    """

    def rewriter(case: Case, answers: Answers, workspace: Workspace) -> Rewritten:
        counts[:] = [0, 0]
        left.clear()
        made = tool.convert(case, answers, workspace)
        left.update(each.reason for step in made.steps for each in step.refused)
        counts[:] = [converted(model, tool.format) for model in (ir.from_proto(case.model), ir.load(made.path))]
        path = _rounded(made.path, case, workspace) if tool.format == HALF else made.path
        return replace(made, path=path, tolerance=TOLERANCE)

    return rewriter


def _rounded(path: Path, case: Case, workspace: Workspace) -> Path:
    """Return what computes as a GPU does, every value rounded to float16; the file itself where it does not run."""
    try:
        run(path, case.feeds)
        with foreign("rounding to float16"):
            return workspace.save(rounded_half(ir.load(path)), "rounded")
    except MlcError:
        return path


def jobs(every: int) -> Iterator[Job]:
    """Yield every so many models in both forms, for each tool that is installed, always in one order."""
    for name, tool in TOOLS.items():
        if find_spec(tool.package) is None:
            continue
        counts, left = [0, 0], Counter[str]()
        rewriter = counting(tool, counts, left)
        for case in both_forms(every):
            yield Job(called(name, case), partial(judged, case, rewriter), partial(dict, converted=counts, left=left))


if __name__ == "__main__":
    main(jobs)
