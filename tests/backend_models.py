"""The models with which the onnx package tests its backends: found, run without optimizations, rewritten and judged."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.backend.test.case.node as operators
import onnx_ir as ir
import onnxruntime
from onnx.backend.test.loader import DATA_DIR

from mlc.artifact import Artifact, Origin, Step, write_model
from mlc.compare import EXPORT_TOLERANCE, Reference, compare
from mlc.data import Batch
from mlc.errors import DataError, MlcError, PassError, SourceError, foreign
from mlc.fusion import is_constant
from mlc.graph_pass import Pass
from mlc.invariants import interface
from mlc.registry import DEFAULT_PASSES, pass_class
from mlc.rewriting import rewrite
from mlc.runtimes.onnxruntime import FAILURES, reason
from mlc.sources.onnx.declared import declared
from mlc.types import Capabilities, Dim, InputSpec, Need, OutputSpec, PassSpec, Signature
from mlc.workspace import Workspace
from passes.fp16 import Fp16

STORED = ("simple", "pytorch-converted", "pytorch-operator")
"""Folders of files; the ``node`` models are made by code, a module for each operator."""

SLOW = ("averagepool", "lppool", "maxpool")
"""Modules that take a second or more to compute what their models should answer."""

FORMS = ("as they are", "inputs as initializers")
SAME, SILENT, INVALID, RAISED, INTERFACE, NOT_RUN = "same", "silent", "invalid", "raised", "interface", "not run"
OUTCOMES = (SAME, SILENT, INVALID, RAISED, INTERFACE, NOT_RUN)
"""What became of a model: numbers kept, numbers lost, does not run, the rewriter raised, another interface."""

LOSSY_TOLERANCE = 0.05
"""The largest error over the rms that a pass may leave which loses something on purpose."""

INITIALIZERS_FREE = 4
"""The IR version from which an initializer need not be an input too."""

Answers: TypeAlias = Mapping[str, "np.ndarray[Any, Any]"]
Rewriter: TypeAlias = Callable[["Case", Answers, Workspace], "Rewritten"]


@dataclass(frozen=True)
class Case:
    """A model and the inputs of its first data set by name; a sequence is a list, an absent optional None."""

    name: str
    form: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]


@dataclass(frozen=True)
class Rewritten:
    """What a rewriter made of a model: a file, and the largest error over the rms that it may have; 0 asks for bits."""

    path: Path
    tolerance: float
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of one model, why, and what each pass did; nodes are those that compute, with those of subgraphs."""

    outcome: str
    reason: str = ""
    nodes_before: int = 0
    nodes_after: int = 0
    steps: tuple[Step, ...] = ()


class WithoutRanges(Fp16):
    """Float16 by the constants alone, as inside of loops, for models that nothing can be collected from."""

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Return nothing."""
        return ()


def cases(without: Collection[str] = ()) -> list[Case]:
    """Return all models in the order of their names, without the ``node`` ones of some modules."""
    package = operators.__name__
    for module in pkgutil.walk_packages(operators.__path__, f"{package}."):
        if module.name.removeprefix(f"{package}.") not in without:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # overflows that are meant
                importlib.import_module(module.name)
    made = [
        Case(f"node/{case.name}", FORMS[0], case.model, _by_name(case.model, case.data_sets[0][0]))
        for case in operators._NodeTestCases
    ]
    folders = [path.parent for kind in STORED for path in Path(DATA_DIR, kind).glob("*/model.onnx")]
    return sorted([*made, *map(_stored, folders)], key=lambda case: case.name)


def _stored(folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    files = [folder / "test_data_set_0" / f"input_{index}.pb" for index in range(len(model.graph.input))]
    given = [_parsed(path, value) for path, value in zip(files, model.graph.input, strict=True) if path.exists()]
    return Case(f"{folder.parent.name}/{folder.name}", FORMS[0], model, _by_name(model, given))


def _parsed(path: Path, value: onnx.ValueInfoProto) -> onnx.TensorProto | onnx.SequenceProto:
    parsed = onnx.SequenceProto() if value.type.HasField("sequence_type") else onnx.TensorProto()
    parsed.ParseFromString(path.read_bytes())
    return parsed


def _by_name(model: onnx.ModelProto, given: Sequence[Any]) -> dict[str, Any]:
    """Return inputs by name; those that have defaults come last, and there is no data for them."""
    return {value.name: _fed(one) for value, one in zip(model.graph.input, given, strict=False)}


def _fed(given: Any) -> Any:
    """Return an input as a session takes it."""
    if isinstance(given, onnx.TensorProto):
        return onnx.numpy_helper.to_array(given)
    if isinstance(given, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(given)
    return given if given is None or isinstance(given, list) else np.asarray(given)


def with_initializers(case: Case) -> Case:
    """Return a model that reads its inputs from initializers; what no initializer can hold stays an input."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, INITIALIZERS_FREE)
    graph = model.graph
    types = {value.name: value.type.tensor_type for value in graph.input if value.type.HasField("tensor_type")}
    held = {name: array for name, array in case.feeds.items() if name in types and array is not None}
    defaults = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(
        _tensor(name, array, types[name].elem_type) for name, array in held.items() if name not in defaults
    )
    kept = [value for value in case.model.graph.input if value.name not in {*held, *defaults}]
    del graph.input[:]
    graph.input.extend(kept)
    feeds = {name: given for name, given in case.feeds.items() if name not in held}
    return replace(case, form=FORMS[1], model=model, feeds=feeds)


def _tensor(name: str, array: np.ndarray, element: int) -> onnx.TensorProto:
    if element == onnx.TensorProto.STRING:
        texts = [str(text).encode() for text in array.ravel()]
        return onnx.TensorProto(name=name, data_type=element, dims=array.shape, string_data=texts)
    return onnx.numpy_helper.from_array(array, name)


def run(path: Path, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Run a file without the runtime's optimizations: outputs by name. Raises SourceError where that fails."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        given = session.run(None, dict(feeds))
    except (*FAILURES, RuntimeError, TypeError, ValueError) as error:
        raise SourceError(f"onnxruntime: {reason(error).replace(str(path), path.name)}") from error
    return {value.name: np.asarray(array) for value, array in zip(session.get_outputs(), given, strict=True)}


def through_passes(case: Case, answers: Answers, workspace: Workspace) -> Rewritten:
    """Run the default passes over a model, verified as in a compilation. Raises PassError with the pass reached."""
    reached = ["raising the opset"]
    specs = [PassSpec(name) for name in DEFAULT_PASSES]
    try:
        with foreign("the rewriter", PassError):
            done = _rewritten(case, answers, workspace, specs, progress=reached.append)
    except MlcError as error:
        raise PassError(f"{reached[-1]}: {error.message}") from error
    tolerance = sum(pass_class(step.spec.name).tolerance for step in done.steps if step.sites)
    return Rewritten(write_model(done.model, workspace.folder("after")), tolerance, done.steps)


def through_lossy(*subjects: Pass) -> Rewriter:
    """Return what runs a lossy pass over a model, verified as in a compilation and calibrated on the model's inputs.

    Of several the first is taken that can be calibrated: some models have no inputs that stack samples, or give NaN. A
    pass that was dropped counts as one that raised.
    """

    def rewriter(case: Case, answers: Answers, workspace: Workspace) -> Rewritten:
        arrays = {name: given for name, given in case.feeds.items() if isinstance(given, np.ndarray) and given.ndim}
        counts = {len(array) for array in arrays.values()}
        stacked = len(arrays) == len(case.feeds) and len(counts) == 1 and 0 not in counts
        samples = [Batch(arrays, None, min(counts), 0, np.arange(min(counts)))] if stacked else []
        for subject in subjects:
            with contextlib.suppress(DataError):
                done = _rewritten(case, answers, workspace, [subject], calibration=samples)
                if any(step.dropped and not step.dropped.startswith("it needs opset") for step in done.steps):
                    raise PassError(done.steps[0].dropped)
                return Rewritten(write_model(done.model, workspace.folder("after")), LOSSY_TOLERANCE, done.steps)
        raise PassError("none of the passes could be calibrated")

    return rewriter


def _rewritten(
    case: Case, answers: Answers, workspace: Workspace, passes: Sequence[PassSpec | Pass], **options: Any
) -> Artifact:
    inputs = tuple(
        InputSpec(name, array.dtype.name, tuple(Dim(size, size) for size in array.shape))
        for name, array in case.feeds.items()
    )
    outputs = tuple(OutputSpec(name, array.dtype.name, array.shape) for name, array in answers.items())
    artifact = Artifact({"model": ir.from_proto(case.model)}, Signature(inputs, outputs), Origin(case.name, "", "", 0))
    return rewrite(
        artifact, passes, references=[Reference({}, case.feeds, answers)], workspace=workspace,
        capabilities=Capabilities("any x86 or ARM CPU"), **options,
    )  # fmt: skip


def judged(case: Case, rewriter: Rewriter = through_passes) -> Verdict:
    """Rewrite one model and say what became of it."""
    with Workspace() as workspace:
        path = workspace.folder("before") / "model.onnx"
        onnx.save(case.model, path)
        try:
            declared(path)
            answers = run(path, case.feeds)
        except MlcError as refused:
            return Verdict(NOT_RUN, refused.message.replace(str(path), path.name))
        try:
            with foreign("the rewriter", PassError):
                after = rewriter(case, answers, workspace)
        except MlcError as raised:
            return Verdict(RAISED, raised.message)
        return _compared(case, path, answers, after)


def _compared(case: Case, path: Path, answers: Answers, after: Rewritten) -> Verdict:
    before, now = ir.load(path), ir.load(after.path)
    tolerance = max(after.tolerance, EXPORT_TOLERANCE) if _computes_in_half(before) else after.tolerance

    def verdict(outcome: str, reason: str = "") -> Verdict:
        return Verdict(outcome, reason, _computing(before), _computing(now), after.steps)

    changed = list(_changed(interface(before), interface(now)))
    if changed:
        return verdict(INTERFACE, "; ".join(changed))
    try:
        given = run(after.path, case.feeds)
    except SourceError as error:
        return verdict(INVALID, error.message)
    wrong = next(filter(None, compare(answers, given, tolerance, exact=not tolerance)), None)
    return verdict(SAME) if wrong is None else verdict(SILENT, wrong.reason)


def _computing(model: ir.Model) -> int:
    """Count nodes that compute something: a Constant does not, nor does a copy of an initializer for an output."""
    return sum(not _holds(node) for graph in model.graphs() for node in graph)


def _holds(node: ir.Node) -> bool:
    return node.op_type == "Constant" or (node.op_type == "Identity" and is_constant(node.inputs[0]))


def _changed(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """Yield what became of the lines of an interface; an output may tell what it left open."""
    if len(before) != len(after):
        yield f"{len(before)} inputs and outputs became {len(after)}"
    for old, new in zip(before, after, strict=False):
        told = re.escape(old).replace("None", "[^,]+").replace("unknown", r"\[.*\]")
        if new != old and not (old.startswith("output ") and re.fullmatch(told, new)):
            yield f"{old} became {new}"


def _computes_in_half(model: ir.Model) -> bool:
    """Whether float16 occurs: the CPU computes it in float32, and how often that is rounded depends on the nodes."""
    ends = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    held = [value.dtype for graph in model.graphs() for value in graph.initializers.values()]
    casts = [
        ir.DataType(node.attributes["to"].as_int())
        for graph in model.graphs() for node in graph if node.op_type == "Cast" and not node.attributes["to"].is_ref()
    ]  # fmt: skip
    return ir.DataType.FLOAT16 in {*ends, *held, *casts}
