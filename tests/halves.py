"""Float32 graphs from ONNX text, what fp16 makes of them, and float16 graphs as a GPU computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from mlc.compare import is_float, sqnr
from mlc.emulate import first_loss, rounded_half
from mlc.emulate.widening import widened
from mlc.graph_pass import Context
from mlc.statistics import collect
from mlc.types import Plan
from mlc.workspace import Workspace
from passes.fp16 import Fp16
from tests.graphs import ANY_CPU, answers, ops
from tests.quantizing import batches

NO_PLAN = Plan()


@dataclass(frozen=True)
class Strict:
    """What a graph gives: outputs by name, the ratio of each float one in dB, and the first value that is lost."""

    outputs: dict[str, Any]
    sqnr: dict[str, float]
    lost: str


def strictly(model, feeds, workspace, *, baseline=None, narrow=False):
    """Run a graph with every value rounded, and compare it with a float32 graph, else with itself in float32."""
    given = answers(rounded_half(model, narrow=narrow), feeds, workspace)
    expected = answers(widened(model)[0] if baseline is None else baseline, feeds, workspace)
    ratios = {name: sqnr(array, given[name]) for name, array in expected.items() if is_float(array.dtype)}
    return Strict(given, ratios, first_loss(model, [feeds], workspace, narrow=narrow))


def holding(text, header='<ir_version: 10, opset_import: ["":20]>', **arrays):
    """A model from ONNX text that reads arrays as initializers."""
    proto = parser.parse_model(header + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    return ir.from_proto(proto)


def halved(model, *feeds, allow=lambda site: True, plan=NO_PLAN, capabilities=ANY_CPU, **options):
    """The model after fp16 with the ranges of these inputs (without statistics where there are none), checked."""
    subject = Fp16(**options)
    statistics = None
    if feeds:
        with Workspace() as workspace:
            statistics = collect(model, subject.needs(model), batches(*feeds), workspace)
    after = model.clone()
    change = subject.apply(after, Context(capabilities, plan, statistics, allow))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for before, now in zip(
        (*model.graph.inputs, *model.graph.outputs), (*after.graph.inputs, *after.graph.outputs), strict=True
    ):
        assert (before.name, before.shape, before.type) == (now.name, now.shape, now.type)
    return after, change


def reasons(change):
    return {refusal.site: refusal.reason for refusal in change.refused}


def casts(model):
    return ops(model).count("Cast")


def ratios(before, after, feeds, workspace):
    """The ratio of each float output where every value is rounded as a GPU does; the CPU gives types and shapes."""
    expected, actual = (answers(model, feeds, workspace) for model in (before, after))
    for name, array in expected.items():
        assert array.dtype == actual[name].dtype
        assert array.shape == actual[name].shape
    ran = strictly(after, feeds, workspace, baseline=before)
    assert ran.lost == ""
    return ran.sqnr


def dtypes(model):
    return {value.name: value.dtype for each in model.graphs() for node in each for value in node.outputs}
