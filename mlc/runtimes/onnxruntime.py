"""onnxruntime sessions: opened on the provider asked for or not at all, run with checked arrays."""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from mlc.errors import SourceError, TargetError, first_line, foreign
from mlc.runtimes.arrays import Expected, check_inputs, check_outputs
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.files import check_file
from mlc.runtimes.nvidia import check_options as check_nvidia_options
from mlc.runtimes.nvidia import device_text as nvidia_text
from mlc.runtimes.nvidia import load_libraries, needs_nvidia
from mlc.runtimes.plugins import DOCTOR
from mlc.runtimes.providers import (
    CPU,
    Provider,
    available,
    check_session_entry,
    device_text,
    is_session_entry,
    provider_of,
)
from mlc.runtimes.quiet import quiet
from mlc.runtimes.recurrences import ENDS_PROCESS, without_rows
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

FAILURES = (
    state.EPFail, state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException,
    RuntimeError,
)  # fmt: skip
"""What creating a session raises, apart from a file that is no model."""

PLACE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |"
    r"(?:^|(?<= ))(?:/|[A-Z]:\\)\S+:\d+ .*?\)(?:::<lambda\(\)>)?(?: const)? |"
    r"(?:^|(?<= ))\w+\.(?:cc|h):\d+ [\w:]+(?:\(\))? "
)
"""What the runtime puts before a reason: its code, and a line and a function of its source."""

ROUNDS_PACKED = b"MatMulNBits"
"""The operator whose kernel rounds its inputs to 8 bits, where its accuracy_level says so, only with packed weights."""

NO_ADAPTER = "Failed to get a WebGPU adapter"
DRIVER = (
    "it needs a Vulkan driver: a GPU's, or Mesa's lavapipe (make setup-webgpu)"
    if sys.platform == "linux"
    else "it needs a GPU and its driver"
)
"""What the webgpu provider says where no driver offers a device, and what to do about it."""

onnxruntime.disable_telemetry_events()  # Windows has no variable for it; elsewhere mlc/__init__.py has set one


class OnnxRuntimeSession:
    """A loaded model; a context manager. ``raw`` is onnxruntime's own session."""

    def __init__(self, raw: onnxruntime.InferenceSession, path: Path, provider: Provider) -> None:
        self.raw: Any = raw
        self.name = path.name
        self._path = path
        self.provider = provider.name
        self.outputs = tuple(value.name for value in raw.get_outputs())
        self._device = provider.device
        self._options = tuple(provider.options.items())
        self._inputs = {value.name: _expected(value) for value in raw.get_inputs()}
        self._optional = {value.name for value in raw.get_overridable_initializers()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raw = None

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``outputs`` picks outputs by name, all in order by default. Raises DataError for bad arrays."""
        check_inputs(self.name, inputs, self._inputs, self._optional)
        names = check_outputs(self.name, outputs, self.outputs)
        self._refuse_empty(inputs)
        with foreign(f"running {self.name} on {self.provider}", TargetError):
            return dict(zip(names, self.raw.run(names, dict(inputs)), strict=True))

    def _refuse_empty(self, inputs: Arrays) -> None:
        """Raise TargetError for what would end the whole process: recurrent layers of no rows."""
        empty = self.provider == CPU and any(np.size(array) == 0 for array in inputs.values())
        if not empty or not ENDS_PROCESS & {node.op for node in self.assignment()}:
            return
        ends = without_rows(self._path, inputs)
        if ends is not None:
            told = f"{self.name} holds {ends[0]}, which ends onnxruntime's process where there is no row"
            raise TargetError(f"{told}: the input {ends[1]} is empty", "let its sizes begin with 1")

    def timed(self, inputs: Arrays) -> Callable[[], Sequence[Any]]:
        """Return what runs these inputs, unchecked, by the runtime's own call and gives the outputs in order."""
        names, feed, raw = list(self.outputs), dict(inputs), self.raw
        return lambda: raw.run(names, feed)

    def assignment(self) -> tuple[NodeRun, ...]:
        """Return where the runtime assigned each node when it split the graph; names are those before late fusions."""
        subgraphs = self.raw.get_provider_graph_assignment_info()
        return tuple(NodeRun(part.ep_name, node.op_type, node.name) for part in subgraphs for node in part.get_nodes())

    def device(self) -> str:
        """Return the device that a provider other than the CPU's runs on; empty where unknown."""
        if self.provider == CPU:
            return ""
        used = [found for found in (self._device, *self.raw.get_input_epdevices()) if found is not None]
        mine = (device_text(self.provider, found) for found in used if found.ep_name == self.provider)
        return next(mine, "") or (nvidia_text(self._options) if needs_nvidia(self.provider) else "")


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
    weights stay on disk, unless kernels compute otherwise without it. ``options`` are session entries by key;
    ``profile_prefix`` starts a profile, one prefix a session. Raises SourceError for a file that is missing or no
    model, TargetError where the session cannot be created or would run elsewhere.
    """
    check_file(path)
    onnxruntime.set_default_logger_severity(4)
    own = {} if optimize or _rounds_packed(path) else {"session.disable_prepacking": "1"}
    settings = _settings(target, optimize, own, options or {}, profile_prefix)
    provider = provider_of(target)
    if needs_nvidia(provider.name) and not provider.plugin:
        load_libraries(provider.name)
        check_nvidia_options(provider.name, (key for key, _ in target.options if not is_session_entry(key)))
    session = OnnxRuntimeSession(_created(path, settings, provider, target), path, provider)
    if provider.name != CPU:
        _refuse_fallback(session, target)
    return session


def _rounds_packed(path: Path) -> bool:
    """Whether a model has an operator that computes otherwise once its weights are packed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(ROUNDS_PACKED) >= 0


def _created(path: Path, settings: Any, provider: Provider, target: Target) -> Any:
    what = f"loading {path.name} on {target.provider}"
    with foreign(what, TargetError, DOCTOR):
        try:
            if not provider.plugin:
                listed = [(provider.name, dict(provider.options))]
                return onnxruntime.InferenceSession(path, settings, providers=listed, enable_fallback=0)
            settings.add_provider_for_devices([provider.device], dict(provider.options))
            with quiet():
                return onnxruntime.InferenceSession(path, settings, enable_fallback=0)
        except state.InvalidProtobuf as error:
            raise SourceError(f"{path} is corrupt or not an ONNX model", "write it again") from error
        except FAILURES as error:
            told = reason(error)
            hint = DRIVER if NO_ADAPTER in told else DOCTOR
            raise TargetError(f"{what} raised {type(error).__name__}: {told}", hint) from error


def reason(error: BaseException) -> str:
    """Return what the runtime says without its own source's lines and functions."""
    told = PLACE.sub("", " ".join(str(error).split()))
    return first_line(RuntimeError(told.rpartition(" was false. ")[2]))


def _settings(
    target: Target, optimize: bool, own: Mapping[str, str], options: Mapping[str, str], profile_prefix: Path | None
) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if target.threads is not None:
        settings.intra_op_num_threads = target.threads
    settings.inter_op_num_threads = 1
    entries = {"session.record_ep_graph_assignment_info": "1", **own}
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
        raise TargetError(f"the provider {target.provider} did not start: the session would run on the CPU", DOCTOR)
    nodes = session.assignment()
    if nodes and not any(node.provider == session.provider for node in nodes):
        raise TargetError(f"the provider {target.provider} runs no node of {session.name}", there)


def _expected(value: Any) -> Expected:
    element = value.type.removeprefix("tensor(").removesuffix(")")
    return Expected(DTYPES.get(element, element), tuple(value.shape or ()))
