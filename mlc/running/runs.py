"""One run: the model and its options, the arrays checked, what came out and where it was computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.compare.scale import chunks, is_float
from mlc.errors import DataError, TargetError, UsageError
from mlc.manifest import Located, locate
from mlc.running.checks import check_arrays, check_names, check_ranges, notes_on
from mlc.running.files import check_out, read_arrays, write_arrays
from mlc.running.nouns import RanOutput, Running
from mlc.runtimes.opening import open_session
from mlc.runtimes.session import Session
from mlc.sources.onnx.ports import Port, input_ports, output_ports
from mlc.sources.onnx.safety import read_onnx
from mlc.types import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlc.types import Array

FIRST = 6
"""So many elements of an output are shown."""


def run_model(
    model: Path,
    arrays: Path | None,
    *,
    out: Path | None = None,
    force: bool = False,
    target: Target | None = None,
) -> Running:
    """Run an artifact or an .onnx file once on the arrays of a file, and write the outputs where ``out`` is given.

    An artifact runs with the options that it ships with, on the target that it was made for where no other is
    given. Raises UsageError where the outputs cannot be put, SourceError for a model that cannot be used, DataError for
    arrays that are not what it takes or were not verified, TargetError where the target cannot be used.
    """
    if out is not None:
        check_out(out, arrays, force=force)
    located = locate(model)
    graph = read_onnx(located.path).graph
    ports, results = input_ports(graph), output_ports(graph)
    given, notes = _checked(str(model), located, ports, arrays)
    with open_session(located.path, target or located.target, located.session_options) as session:
        found = _run(session, given, notes)
        placed, provider, device = session.assignment(), session.provider, session.device()
    outputs = {name: _written(name, value) for name, value in found.items()} if out is not None else {}
    summaries = tuple(summary(name, value) for name, value in found.items())
    if out is not None:
        write_arrays(out, outputs)
    return Running(
        model=str(model),
        arrays=str(arrays or ""),
        provider=provider,
        device=device,
        nodes=len(placed),
        outputs=summaries,
        fallbacks=tuple(node for node in placed if node.provider != provider),
        notes=(*notes, *_raw_bytes(results, found)),
        written=str(out or ""),
    )


def _checked(
    model: str, located: Located, ports: Sequence[Port], file: Path | None
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the arrays of the file by input name, as the runtime takes them, and what is to be said of them."""
    arrays = _named(model, ports, file)
    name = file.name if file is not None else "nothing"
    notes = check_names(name, list(arrays), model, ports)
    check_arrays(name, arrays, model, ports)
    specs = located.signature.inputs if located.signature else ()
    check_ranges(name, arrays, specs)
    known = {port.name: arrays[port.name] for port in ports if port.name in arrays}
    notes += tuple(notes_on(name, known, ports, specs))
    return {key: np.asarray(array, order="C") for key, array in known.items()}, notes


def _named(model: str, ports: Sequence[Port], file: Path | None) -> dict[str, Array]:
    needed = [port.name for port in ports if not port.optional]
    if file is None:
        if needed:
            raise UsageError(f"{model} takes {', '.join(needed)}, and no arrays are given", "give --in FILE.npz")
        return {}
    loaded = read_arrays(file)
    if isinstance(loaded, dict):
        return loaded
    if len(needed) != 1:
        takes = f"takes {', '.join(needed)}" if needed else "takes no input"
        hint = "write an .npz with numpy.savez, each array under the name of its input"
        raise DataError(f"{file} holds one array without a name, and {model} {takes}", hint)
    return {needed[0]: loaded}


def _run(session: Session, arrays: dict[str, Array], notes: Sequence[str]) -> dict[str, Any]:
    """Run once; where that fails, what is unusual in the arrays is the hint."""
    given = {name: array.astype(object) if array.dtype.kind in "US" else array for name, array in arrays.items()}
    try:
        return session.run(given)
    except TargetError as failed:
        raise TargetError(failed.message, failed.hint or "; ".join(notes)) from failed


def _written(name: str, value: Any) -> Array:
    """Return an output as an .npz file can hold it. Raises DataError for what is no tensor."""
    if not isinstance(value, np.ndarray):
        raise DataError(f"the output {name} is a sequence, which an .npz file cannot hold", "run it without --out")
    return value.astype(str) if value.dtype.hasobject else value


def summary(name: str, value: Any) -> RanOutput:
    """Return what is shown of one output: an array, or a list where the output is a sequence."""
    if not isinstance(value, np.ndarray):
        return RanOutput(name, "sequence", (len(value),), None, None, None, 0, 0, ())
    first = tuple(str(each) if value.dtype.hasobject else _plain(each) for each in value.reshape(-1)[:FIRST])
    low, mean, high = _extent(value)
    nan, infinite = _not_finite(value)
    dtype = "string" if value.dtype.hasobject else value.dtype.name
    return RanOutput(name, dtype, value.shape, low, mean, high, nan, infinite, first)


def _plain(element: Any) -> float | str:
    number = element.item()
    return number if isinstance(number, bool | int | float) else str(number)


def _extent(array: Array) -> tuple[float | None, float | None, float | None]:
    """Return smallest, mean and largest of the finite elements of an array of real numbers, read in pieces."""
    if array.size == 0 or array.dtype.kind not in "biuf":
        return None, None, None
    if not is_float(array.dtype):
        return int(array.min()), float(array.mean(dtype=np.float64)), int(array.max())
    total, count, low, high = 0.0, 0, np.inf, -np.inf
    for piece in chunks(array):
        finite = piece[np.isfinite(piece)]
        total, count = total + float(finite.sum()), count + finite.size
        low, high = min(low, float(finite.min(initial=np.inf))), max(high, float(finite.max(initial=-np.inf)))
    return (low, total / count, high) if count else (None, None, None)


def _not_finite(array: Array) -> tuple[int, int]:
    if array.dtype.kind not in "fc":
        return 0, 0
    return int(np.isnan(array).sum()), int(np.isinf(array).sum())


def _raw_bytes(results: Sequence[Port], found: dict[str, Any]) -> tuple[str, ...]:
    """Say of which outputs the runtime gives the bytes alone, since NumPy has no such dtype."""
    return tuple(
        f"the output {port.name} is {port.dtype}, which NumPy does not have: these are its bytes"
        for port in results
        if isinstance(found.get(port.name), np.ndarray) and port.dtype.startswith(("float8", "float4", "int4", "uint4"))
    )
