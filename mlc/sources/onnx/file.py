"""An .onnx file as an Original: run by onnxruntime with its optimizations off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from mlc.errors import DataError, SourceError, TargetError, UsageError
from mlc.figures import counted
from mlc.grammar.inputs import name_text
from mlc.probes import check_example, probe
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.onnx.declared import Axes, check_graph, declared_inputs
from mlc.sources.onnx.safety import check_values, digest, read_onnx
from mlc.sources.original import Original
from mlc.sources.outputs import output_specs
from mlc.sources.specs import check_fits, match_specs, unknown_input
from mlc.types import Dim, InputSpec, OutputSpec, Signature, Target

if TYPE_CHECKING:
    from mlc.types import Arrays

EXTERNAL = "Cannot parse data from external tensors"
"""What onnxruntime says where it needs the numbers of a tensor to know shapes."""

INSIDE = "write it again with small tensors inside: onnx.save(onnx.load(FILE), OTHER, save_as_external_data=True)"


class OnnxOriginal(Original):
    """A model file at ``path``. Initializers that are graph inputs too stay overridable, and are no inputs."""

    exporter: ClassVar[str] = "onnx_file"

    def __init__(self, path: Path, inputs: Sequence[InputSpec] = (), example: Any = None) -> None:
        proto = read_onnx(path)
        self.path = path
        self.source = str(path)
        self.digest = digest(path, proto)
        check_values(path, ir.load(path))
        self.notes = ()
        check_graph(proto.graph, path)
        values = declared_inputs(proto.graph, path)
        shown = _example(example, tuple(values))
        specs = _specs(values, inputs, shown)
        drawn = probe(specs, check_example(specs, shown), shown, None, 0)
        self.example = {spec.name: shown.get(spec.name, drawn[spec.name]) for spec in specs}
        self.shown = shown
        with _refusing(path):
            self._session = open_session(path, Target(), optimize=False)
        self.signature = Signature(specs, ())
        ran = output_specs(self)
        self.signature = Signature(specs, _outputs(proto, ran))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the file once: arrays by input name to arrays by output name, in the signature's order."""
        with _refusing(self.path):
            return self._session.run(inputs)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Say of the source what the runtime says of a model."""
    try:
        yield
    except (TargetError, DataError) as refused:
        hint = INSIDE if EXTERNAL in refused.message else refused.hint
        raise SourceError(f"onnxruntime cannot run {path}: {refused.message}", hint) from refused


def _example(example: Any, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return an example (an array, a tuple in the file's order, a dict by name) by input name."""
    if example is None:
        return {}
    if isinstance(example, Mapping):
        for name in example:
            if name not in names:
                raise unknown_input(str(name), names)
        return {name: np.asarray(array) for name, array in example.items()}
    arrays = list(example) if isinstance(example, tuple | list) else [example]
    if len(arrays) > len(names):
        raise UsageError(
            f"the example has {counted(len(arrays), 'array')}, the model {counted(len(names), 'input')}",
            ", ".join(names),
        )
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=False)}


def _specs(
    values: Mapping[str, tuple[str, Axes]], inputs: Sequence[InputSpec], example: Mapping[str, np.ndarray]
) -> tuple[InputSpec, ...]:
    """Return the spec of every input: the user's where it fits the file, else the file's sizes, else the example's."""
    given = {spec.name: spec for spec in inputs}
    for name in given:
        if name not in values:
            raise unknown_input(name, tuple(values))
    known = {dim.name: dim for spec in inputs for dim in spec.dims if dim.name is not None}
    filled = list(inputs)
    for name, (dtype, axes) in values.items():
        if name in given:
            check_fits(given[name], dtype, axes)
        else:
            filled.append(InputSpec(name, dtype, _dims(name, dtype, axes, known, example.get(name))))
    return match_specs(tuple(values), filled, example)


def _dims(name: str, dtype: str, axes: Axes, known: Mapping[str, Dim], example: np.ndarray | None) -> tuple[Dim, ...]:
    dims: list[Dim] = []
    for axis, size in enumerate(axes):
        if isinstance(size, int):
            dims.append(Dim(size, size))
        elif size is not None and size in known:
            dims.append(known[size])
        elif example is not None and example.ndim == len(axes):
            dims.append(Dim(example.shape[axis], example.shape[axis]))
        else:
            spec = ",".join(str(part) if isinstance(part, int) else f"{_as_name(part)}=1..64" for part in axes)
            raise UsageError(
                f"the axis {axis} of the input {name} is dynamic"
                + (f" ({size!r})" if size else "")
                + ", and nothing says which sizes it has",
                f"add --input '{name_text(name)}={dtype}[{spec}]'",
            )
    return tuple(dims)


def _as_name(symbol: str | None) -> str:
    """Return the symbol of an axis as a spec may name it."""
    return re.sub(r"\W|^(?=\d)", "_", symbol or "n", flags=re.ASCII)


def _outputs(proto: onnx.ModelProto, ran: Sequence[OutputSpec]) -> tuple[OutputSpec, ...]:
    """Return the outputs as they ran, with the file's own symbols where running left an axis unknown."""
    declared = {value.name: value for value in proto.graph.output}
    specs = []
    for spec in ran:
        shape = declared[spec.name].type.tensor_type.shape.dim
        symbols = [dim.dim_param or None for dim in shape] if len(shape) == len(spec.dims) else [None] * len(spec.dims)
        dims = tuple(symbol if dim is None else dim for dim, symbol in zip(spec.dims, symbols, strict=True))
        specs.append(OutputSpec(spec.name, spec.dtype, dims))
    return tuple(specs)
