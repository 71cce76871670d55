"""The models with which the onnx package tests its backends: found, run without optimizations, rewritten and judged."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.backend.test.case.node as written
import onnx_ir as ir
import onnxruntime
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from mlc.artifact import Artifact, Origin, Step, write_model
from mlc.compare import EXPORT_TOLERANCE, Reference, compare
from mlc.errors import MlcError, SourceError, first_line
from mlc.graph_pass import Exactness
from mlc.invariants import interface
from mlc.registry import DEFAULT_PASSES, pass_class
from mlc.rewriting import rewrite
from mlc.sources.onnx.declared import declared
from mlc.types import Capabilities, Dim, InputSpec, OutputSpec, PassSpec, Signature
from mlc.workspace import Workspace

KINDS = ("simple", "pytorch-converted", "pytorch-operator")
"""Folders of files; the ``node`` models are made by code, a module for each operator."""

SLOW = frozenset({"averagepool", "lppool", "maxpool"})
"""Modules that take a second or more to compute what their models should answer."""

FORMS = ("as it is", "inputs as initializers")
SAME, SILENT, INVALID, RAISED, INTERFACE, NOT_RUN = "same", "silent", "invalid", "raised", "interface", "not run"
OUTCOMES = (SAME, SILENT, INVALID, RAISED, INTERFACE, NOT_RUN)
"""What became of a model: numbers kept, numbers lost, does not run, the rewriter raised, another interface."""

FAILURES = (SILENT, INVALID, RAISED, INTERFACE)
INITIALIZERS_FREE = 4
"""The IR version from which an initializer need not be an input too."""

Rewriter: TypeAlias = Callable[[onnx.ModelProto, Mapping[str, Any], Workspace], "Rewritten"]


@dataclass(frozen=True)
class Case:
    """A model and the inputs of its first data set by name; a sequence is a list, an absent optional None."""

    name: str
    form: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}, {self.form}"


@dataclass(frozen=True)
class Rewritten:
    """What a rewriter made of a model: a file, and the largest error over the rms that it may have; 0 asks for bits."""

    path: Path
    tolerance: float
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of one model, why, and what each pass did; nodes are counted with those of subgraphs."""

    outcome: str
    reason: str = ""
    nodes_before: int = 0
    nodes_after: int = 0
    steps: tuple[Step, ...] = ()


def modules() -> tuple[str, ...]:
    """Return the modules whose ``node`` models are made when they are imported, one for each operator or so."""
    return tuple(module.name for module in pkgutil.iter_modules(written.__path__))


def cases(chosen: Collection[str] | None = None) -> list[Case]:
    """Return all models, of the ``node`` ones those of some modules or all, in the order of their names."""
    for name in modules() if chosen is None else sorted(chosen):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            importlib.import_module(f"{written.__name__}.{name}")
    made = [
        Case(f"node/{case.name}", FORMS[0], case.model, _by_name(case.model, case.data_sets[0][0]))
        for case in written._NodeTestCases
        if case.model is not None and case.data_sets
    ]
    stored = [
        _read(kind, Path(case.model_dir)) for kind in KINDS for case in load_model_tests(DATA_DIR, kind) if case.model_dir
    ]
    return sorted([*made, *stored], key=lambda case: case.name)


def _read(kind: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    types = [value.type for value in model.graph.input]
    files = [folder / "test_data_set_0" / f"input_{index}.pb" for index in range(len(types))]
    given = [_parsed(path.read_bytes(), kept) for path, kept in zip(files, types, strict=True) if path.exists()]
    return Case(f"{kind}/{folder.name}", FORMS[0], model, _by_name(model, given))


def _parsed(data: bytes, kind: onnx.TypeProto) -> onnx.TensorProto | onnx.SequenceProto | onnx.OptionalProto:
    message = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
    parsed = message.get(str(kind.WhichOneof("value")), onnx.TensorProto)()
    parsed.ParseFromString(data)
    return parsed


def _by_name(model: onnx.ModelProto, given: Sequence[Any]) -> dict[str, Any]:
    """Return inputs by name; where some have defaults, the data is that of the others."""
    return {
        value.name: _array(one) for value, one in zip(model.graph.input, given, strict=False)
    }


def _array(given: Any) -> Any:
    """Return an input as a session takes it."""
    if isinstance(given, onnx.TensorProto):
        return onnx.numpy_helper.to_array(given)
    if isinstance(given, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(given)
    if isinstance(given, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(given)
    return given if given is None or isinstance(given, list) else np.asarray(given)


def with_initializers(case: Case) -> Case:
    """Return a model that reads its inputs from initializers; what no initializer can hold stays an input."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, INITIALIZERS_FREE)
    held = {name: array for name, array in case.feeds.items() if isinstance(array, np.ndarray)}
    kinds = {value.name: value.type for value in model.graph.input}
    known = {tensor.name for tensor in model.graph.initializer}
    for name, array in held.items():
        if name not in known:
            model.graph.initializer.append(_tensor(name, array, kinds[name].tensor_type.elem_type))
    kept = [value for value in case.model.graph.input if value.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return replace(case, form=FORMS[1], model=model, feeds={name: case.feeds[name] for name in case.feeds if name not in held})


def _tensor(name: str, array: np.ndarray, element: int) -> onnx.TensorProto:
    if array.dtype.kind in "OSU":
        texts = [str(text).encode() for text in array.ravel()]
        return onnx.helper.make_tensor(name, onnx.TensorProto.STRING, array.shape, texts)
    tensor = onnx.numpy_helper.from_array(array, name)
    assert tensor.data_type == element, f"{name} is {array.dtype}"
    return tensor


def run(path: Path | str, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Run a file without the runtime's optimizations: outputs by name, those inside a sequence by name and place.

    Raises SourceError where it cannot be loaded or run.
    """
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        given = session.run(None, dict(feeds))
    except Exception as error:  # noqa: BLE001 - of what a runtime raises there is no list
        raise SourceError(first_line(error)) from error
    names = [value.name for value in session.get_outputs()]
    return dict(pair for name, value in zip(names, given, strict=True) for pair in _flat(name, value))


def _flat(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, list):
        yield f"{name}.length", np.asarray(len(value))
        for index, part in enumerate(value):
            yield from _flat(f"{name}.{index}", part)
    elif value is None:
        yield f"{name}.absent", np.asarray(1)
    elif isinstance(value, Mapping):
        yield from _flat(name, [np.asarray(list(value)), np.asarray(list(value.values()))])
    else:
        yield name, np.asarray(value)


def through_passes(model: onnx.ModelProto, feeds: Mapping[str, Any], answers: Mapping[str, np.ndarray], workspace: Workspace) -> Rewritten:
    """Run the default passes over a model, verified as in a compilation."""
    inputs = tuple(
        InputSpec(name, array.dtype.name, tuple(Dim(size, size) for size in array.shape))
        for name, array in feeds.items()
    )
    outputs = tuple(OutputSpec(name, array.dtype.name, array.shape) for name, array in answers.items())
    artifact = Artifact({"model": ir.from_proto(model)}, Signature(inputs, outputs), Origin("onnx", "", "", 0))
    done = rewrite(
        artifact, [PassSpec(name) for name in DEFAULT_PASSES], references=[Reference({}, feeds, answers)],
        workspace=workspace, capabilities=Capabilities("any x86 or ARM CPU"),
    )  # fmt: skip
    fired = [pass_class(step.spec.name) for step in done.steps if step.sites]
    return Rewritten(write_model(done.model, workspace.folder("after")), sum(each.tolerance for each in fired), done.steps)
