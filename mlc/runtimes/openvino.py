"""OpenVINO as a runtime of its own: the same ONNX file, compiled for one of its devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlc.errors import SourceError, TargetError, foreign
from mlc.grammar import nearest
from mlc.runtimes.arrays import Expected, check_inputs, check_outputs
from mlc.runtimes.files import check_file
from mlc.runtimes.openvino_settings import PROFILING, Settings, core, reason, settings_of, supported
from mlc.runtimes.quiet import quiet
from mlc.runtimes.session import NodeRun
from mlc.types_asked import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

SINK = "/sink_port_0"
"""What OpenVINO's reader adds to the name of an output of the ONNX graph."""

ENDS = frozenset({"Input", "Output"})
"""Layers of the compiled model that compute nothing."""


class OpenVinoSession:
    """A compiled model with one request; a context manager. ``compiled`` and ``request`` are OpenVINO's own."""

    def __init__(self, compiled: Any, name: str, settings: Settings) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.name = name
        self.provider = f"OpenVINO {settings.device}"
        self._device = settings.text
        self.outputs = tuple(map(_output_name, compiled.outputs))
        self._inputs = {value.get_any_name(): _expected(value) for value in compiled.inputs}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.compiled = self.request = None

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``outputs`` picks outputs by name, all in order by default. Raises DataError for bad arrays."""
        check_inputs(self.name, inputs, self._inputs)
        names = check_outputs(self.name, outputs, self.outputs)
        with foreign(f"running {self.name} on {self.provider}", TargetError):
            try:
                arrays = dict(zip(self.outputs, self.timed(inputs)(), strict=True))
            except RuntimeError as error:
                raise TargetError(f"running {self.name} on {self.provider} failed: {reason(error)}") from error
        return {name: arrays[name] for name in names}

    def timed(self, inputs: Arrays) -> Callable[[], Sequence[Any]]:
        """Return what runs these inputs, unchecked, as calling a compiled model does, and gives the outputs in order.

        Inputs are read where they lie; outputs are copies.
        """
        infer, feed = self.request.infer, dict(inputs)
        return lambda: infer(feed, share_inputs=True).to_tuple()

    def device(self) -> str:
        """Return the device in its maker's words, and what floats are computed in."""
        return self._device

    def layers(self) -> dict[str, NodeRun]:
        """Return the layers that compute, by OpenVINO's name: a layer's operator carries the precision that it reads.

        What follows from constants alone is computed once, when the model is compiled, and is no layer.
        """
        found: dict[str, NodeRun] = {}
        constants: set[str] = set()
        for layer in self.compiled.get_runtime_model().get_ordered_ops():
            name = str(layer.get_friendly_name())
            kind, precision = (_text(layer.get_rt_info()[key]) for key in ("layerType", "runtimePrecision"))
            sources = {str(value.get_node().get_friendly_name()) for value in layer.input_values()}
            if kind == "Const" or (sources and sources <= constants):
                constants.add(name)
            elif kind not in ENDS:
                found[name] = NodeRun(self.provider, f"{kind} ({precision})", name)
        return found

    def assignment(self) -> tuple[NodeRun, ...]:
        """Return the layers of the compiled model, after OpenVINO's fusions; all are on the device asked for."""
        return tuple(self.layers().values())


def open_session(
    path: Path, target: Target, *, options: Mapping[str, str] | None = None, profiled: bool = False
) -> OpenVinoSession:
    """Compile a model for the device asked for, with properties by name in ``options``; ``profiled`` times its layers.

    Raises SourceError for a file that is missing or no model, TargetError where OpenVINO cannot compile it.
    """
    check_file(path)
    settings = settings_of(target)
    _refuse_unknown(path, options or {}, settings.device)
    properties = {**settings.properties, **(options or {}), **({PROFILING: "YES"} if profiled else {})}
    what = f"loading {path.name} on {target.runtime}/{target.provider}"
    with foreign(what, TargetError):
        try:
            with quiet():
                compiled = core().compile_model(path, settings.device, properties)
        except RuntimeError as error:
            _refuse_corrupt(path)
            raise TargetError(f"{what} failed: {reason(error)}", "`mlc doctor` shows which targets run") from error
        return OpenVinoSession(compiled, path.name, settings)


def _refuse_unknown(path: Path, options: Mapping[str, str], device: str) -> None:
    for key in options:
        if key not in supported(device):
            raise TargetError(
                f"{path.name} ships with the session option {key!r}, which OpenVINO's device {device} does not have",
                nearest(key, supported(device)),
            )


def _refuse_corrupt(path: Path) -> None:
    """Raise SourceError for a file that is no ONNX model; asked only where OpenVINO has refused it."""
    import onnx

    with foreign(f"reading {path}", SourceError, "it is corrupt or not an ONNX model: write it again"):
        onnx.load(path, load_external_data=False)


def _output_name(output: Any) -> str:
    name = str(output.get_node().get_friendly_name()).removesuffix(SINK)
    return name if name in output.get_names() else str(output.get_any_name())


def _expected(value: Any) -> Expected:
    shape = tuple(None if axis.is_dynamic else axis.get_length() for axis in value.get_partial_shape())
    return Expected(np.dtype(value.get_element_type().to_dtype()).name, shape)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)
