"""onnxruntime sessions: opened on the provider asked for or not at all, run with checked arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf

from mlc.errors import DataError, SourceError, TargetError, foreign, kind_of
from mlc.grammar import nearest
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.providers import CPU, available, check_session_entry, is_session_entry, use_provider
from mlc.runtimes.session import NodeRun
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

__all__ = ["OnnxRuntimeSession", "available", "capabilities", "open_session"]

DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "object",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
"""NumPy's names of onnxruntime's element types."""

onnxruntime.disable_telemetry_events()  # Windows has no variable for it; elsewhere mlc/__init__.py has set one


class OnnxRuntimeSession:
    """A loaded model; a context manager. ``raw`` is onnxruntime's own session, for those who time it."""

    def __init__(self, raw: onnxruntime.InferenceSession, name: str, provider: str) -> None:
        self.raw: Any = raw
        self.name = name
        self.provider = provider
        self.inputs = {value.name: value for value in raw.get_inputs()}
        self.outputs = tuple(value.name for value in raw.get_outputs())
        self._optional = {value.name for value in raw.get_overridable_initializers()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw = None

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``outputs`` picks outputs by name, all in order by default. Raises DataError for bad arrays."""
        self.check(inputs)
        names = list(self.outputs if outputs is None else outputs)
        for name in names:
            if name not in self.outputs:
                raise DataError(f"{self.name} has no output {name!r}", nearest(name, self.outputs))
        with foreign(f"running {self.name} on {self.provider}", TargetError):
            return dict(zip(names, self.raw.run(names, dict(inputs)), strict=True))

    def check(self, inputs: Arrays) -> None:
        """Raise DataError where a name, dtype, rank or fixed size is not the model's."""
        for name in inputs:
            if name not in self.inputs and name not in self._optional:
                raise DataError(f"{self.name} has no input {name!r}", nearest(name, self.inputs))
        for name, value in self.inputs.items():
            if name not in inputs:
                raise DataError(f"{self.name} needs the input {name!r}", f"it takes: {', '.join(self.inputs)}")
            _check_array(self.name, name, inputs[name], value)

    def assignment(self) -> tuple[NodeRun, ...]:
        """Return where the runtime assigned each node when it split the graph; names are those before late fusions."""
        subgraphs = self.raw.get_provider_graph_assignment_info()
        return tuple(NodeRun(part.ep_name, node.op_type, node.name) for part in subgraphs for node in part.get_nodes())


def open_session(
    path: Path,
    target: Target,
    *,
    optimize: bool = True,
    options: Mapping[str, str] | None = None,
    profile_prefix: Path | None = None,
) -> OnnxRuntimeSession:
    """Load a model on the provider asked for.

    ``optimize=False`` switches the runtime's graph optimizations off, and prepacking with them, so that memory-mapped
    weights stay on disk. ``options`` are session entries by key; ``profile_prefix`` starts a profile, one prefix a
    session. Raises SourceError for a file that is missing or no model, TargetError where the session cannot be created
    or would run elsewhere.
    """
    if target.runtime != "onnxruntime":
        raise TargetError(f"no runtime is called {target.runtime!r}", "there is: onnxruntime")
    if not path.is_file():
        raise SourceError(f"there is no model file {path}", "check the path")
    if path.stat().st_size == 0:
        raise SourceError(f"the model file {path} is empty", "write it again")
    onnxruntime.set_default_logger_severity(4)
    settings = _settings(target, optimize, options or {}, profile_prefix)
    provider, providers = use_provider(settings, target)
    raw = _created(path, settings, providers, target)
    session = OnnxRuntimeSession(raw, path.name, provider)
    if provider != CPU:
        _refuse_fallback(session, target)
    return session


def _created(path: Path, settings: Any, providers: Sequence[Any], target: Target) -> Any:
    what = f"loading {path.name} on {target.provider}"
    with foreign(what, TargetError, f"providers here: {', '.join(available())}"):
        try:
            return onnxruntime.InferenceSession(path, settings, providers=providers or None, enable_fallback=0)
        except InvalidProtobuf as error:
            raise SourceError(f"{path} is corrupt or not an ONNX model", "write it again") from error


def _settings(
    target: Target, optimize: bool, options: Mapping[str, str], profile_prefix: Path | None
) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if target.threads is not None:
        settings.intra_op_num_threads = target.threads
    settings.inter_op_num_threads = 1
    entries = {"session.record_ep_graph_assignment_info": "1"}
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        entries["session.disable_prepacking"] = "1"
    asked = {**{key: value for key, value in target.options if is_session_entry(key)}, **options}
    for key in asked:
        check_session_entry(key)
    for key, value in {**entries, **asked}.items():
        settings.add_session_config_entry(key, str(value))
    if profile_prefix is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile_prefix)
    return settings


def _refuse_fallback(session: OnnxRuntimeSession, target: Target) -> None:
    """Raise TargetError where the session left the provider out, or the provider was given no node."""
    there = f"providers here: {', '.join(available())}"
    if session.provider not in session.raw.get_providers():
        raise TargetError(f"the provider {target.provider} did not start: the session would run on the CPU", there)
    nodes = session.assignment()
    if nodes and not any(node.provider == session.provider for node in nodes):
        raise TargetError(
            f"the provider {target.provider} runs none of the {len(nodes)} nodes of {session.name}", there
        )


def _check_array(model: str, name: str, array: Any, expected: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise DataError(f"the input {name} of {model} is {kind_of(array)}, not a NumPy array", "convert it")
    element = expected.type.removeprefix("tensor(").removesuffix(")")
    dtype = DTYPES.get(element, element)
    if dtype not in ("object", array.dtype.name):
        raise DataError(f"the input {name} of {model} is {dtype}, given {array.dtype.name}", "nothing is cast silently")
    shape = expected.shape
    if array.ndim != len(shape):
        raise DataError(f"the input {name} of {model} has {len(shape)} axes, given the shape {array.shape}")
    for axis, (size, given) in enumerate(zip(shape, array.shape, strict=True)):
        if isinstance(size, int) and size != given:
            raise DataError(f"the input {name} of {model} has size {size} at axis {axis}, given {given}")
