"""Where along the network the error arises: the same value in the unmodified export and in the final graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare import compare_one, powers, ratio_db
from mlc.types import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir  # what only reads reports needs neither graph nor runtime

    from mlc.data import Batch
    from mlc.statistics import Batches
    from mlc.types import Array
    from mlc.workspace import Workspace

NOT_LAYERS = frozenset({"QuantizeLinear", "Constant", "Shape"})

INPUT = "input"
"""In the place of the operator that computed a value, where the caller gave it."""


@dataclass(frozen=True)
class LayerError:
    """How far one value of the final graph is from the same value of the unmodified export, SQNR in dB.

    ``op`` is the operator that computed it before. ``error`` is the largest error over the rms, None where it was not
    taken. ``diverges`` says that the value is farther off than is allowed.
    """

    value: str
    op: str
    sqnr: float
    error: float | None = None
    diverges: bool = False


@dataclass(frozen=True)
class Layers:
    """Every value that two graphs share, in the order of the final one, and what could not be compared.

    ``only_before`` and ``only_after`` count float values without a counterpart; ``other_shapes`` names those of one
    name whose shapes differ, which are not the same value; ``inside`` counts branches and loops of the final graph,
    whose values are not compared.
    """

    compared: tuple[LayerError, ...] = ()
    only_before: int = 0
    only_after: int = 0
    other_shapes: tuple[str, ...] = ()
    inside: int = 0

    @property
    def first(self) -> LayerError | None:
        """The first value that diverges."""
        return next((layer for layer in self.compared if layer.diverges), None)


@dataclass
class _Pair:
    """A value of the final graph, the one that it is compared with, and what was summed up over the batches."""

    value: str
    twin: str
    op: str
    signal: float = 0.0
    noise: float = 0.0
    error: float = 0.0
    same_shape: bool = True

    def add(self, expected: Array, actual: Array) -> None:
        if expected.shape != actual.shape:
            self.same_shape = False
            return
        signal, noise = powers(expected, actual)
        self.signal, self.noise = self.signal + signal, self.noise + noise
        difference = compare_one(self.value, expected, actual.astype(expected.dtype, copy=False), math.inf)
        self.error = max(self.error, difference.error)


def layer_errors(baseline: Path, final: Path, batches: Batches, workspace: Workspace) -> tuple[LayerError, ...]:
    """Return how far every float value that both graphs compute is off, in the order of the final graph."""
    return compare_layers(baseline, final, batches, workspace).compared


def compare_layers(
    baseline: Path,
    final: Path,
    batches: Batches,
    workspace: Workspace,
    *,
    tolerance: float = math.inf,
    floor: float | None = None,
) -> Layers:
    """Compare every float value that both graphs compute under one name, and every quantized one behind its quantizer.

    Both run with the runtime's optimizations off over all batches, a part of the values at a time; sums alone are kept,
    so memory stays flat. A value diverges where its error over the rms exceeds ``tolerance``, or with ``floor`` (dB)
    where its signal to noise ratio is below.
    """
    import onnx_ir as ir

    models = [ir.load(path) for path in (baseline, final)]
    for model in models:
        workspace.hold(model)
        _typed(model)
    before, after = map(_computed, models)
    sources = _sources(models[1])
    pairs = _pairs(models[1], before, after, sources)
    first = next(iter(batches), None)
    if first is not None and pairs:
        _run(models, pairs, batches, {name: np.shape(array) for name, array in first.inputs.items()}, workspace)
    twins = {pair.twin for pair in pairs}
    seen = {name for pair in pairs for name in (pair.value, sources.get(pair.value))}
    judged = [] if first is None else [_judged(pair, tolerance, floor) for pair in pairs if pair.same_shape]
    return Layers(
        tuple(judged),
        only_before=len(before.keys() - twins),
        only_after=len(after.keys() - seen),
        other_shapes=tuple(pair.value for pair in pairs if not pair.same_shape),
        inside=sum(1 for _ in models[1].graphs()) - 1,
    )


def _judged(pair: _Pair, tolerance: float, floor: float | None) -> LayerError:
    ratio = ratio_db(pair.signal, pair.noise)
    diverges = ratio < floor if floor is not None else pair.error > tolerance
    return LayerError(pair.value, pair.op, ratio, pair.error, diverges)


def _typed(model: ir.Model) -> None:
    """Give values a dtype where a file says none: only floats are compared."""
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        from mlc.fusion import infer_shapes

        infer_shapes(model)


def _computed(model: ir.Model) -> dict[str, str]:
    """Return the operator of each float value that a graph computes from its inputs, by name, in order."""
    import onnx_ir as ir

    from mlc.compare.decisions import used_values

    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
    moving = set(model.graph.inputs)
    found: dict[str, str] = {}
    for node in model.graph:
        if moving.isdisjoint(used_values(node)):
            continue
        moving.update(node.outputs)
        if node.op_type not in NOT_LAYERS:
            found |= {str(value.name): node.op_type for value in node.outputs if value.name and value.dtype in floats}
    return found


def _sources(final: ir.Model) -> dict[str, str]:
    """Return, for each value that a quantizer and a dequantizer gave, the value that went into them."""
    return {
        str(node.outputs[0].name): source
        for node in final.graph
        if node.op_type == "DequantizeLinear" and (source := _quantized(node)) is not None
    }


def _pairs(
    final: ir.Model, before: Mapping[str, str], after: Mapping[str, str], sources: Mapping[str, str]
) -> list[_Pair]:
    """Return what is compared with what: values of one name, and what a quantizer made of one."""
    inputs = {str(value.name) for value in final.graph.inputs}
    pairs = []
    for name in after:
        source = sources.get(name, "")
        if name in before:
            pairs.append(_Pair(name, name, before[name]))
        elif source in before or source in inputs:
            pairs.append(_Pair(name, source, before.get(source, INPUT)))
    return pairs


def _quantized(node: ir.Node) -> str | None:
    """Return the name of the value that a dequantizer gives back as it came out of a quantizer."""
    stored = node.inputs[0]
    quantizer = None if stored is None else stored.producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or quantizer.inputs[0] is None:
        return None
    return quantizer.inputs[0].name


def _run(
    models: Sequence[ir.Model],
    pairs: Sequence[_Pair],
    batches: Batches,
    shapes: Mapping[str, tuple[int, ...]],
    workspace: Workspace,
) -> None:
    """Run both graphs for as many values at a time as fit into memory, and add each up."""
    from mlc.runtimes.onnxruntime import open_session
    from mlc.statistics.taps import in_chunks, tapped

    by_name = {pair.value: pair for pair in pairs}
    for chunk in in_chunks(models[1], list(by_name), shapes):
        part = [by_name[name] for name in chunk]
        twins = list(dict.fromkeys(pair.twin for pair in part))
        paths = [tapped(models[0], twins, workspace), tapped(models[1], chunk, workspace)]
        with (
            open_session(paths[0], Target(), optimize=False) as before,
            open_session(paths[1], Target(), optimize=False) as after,
        ):
            for batch in batches:
                expected, actual = before.run(batch.inputs), after.run(batch.inputs)
                _add(part, batch, {**batch.inputs, **expected}, actual)


def _add(pairs: Sequence[_Pair], batch: Batch, expected: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
    from mlc.statistics import valid_rows

    for pair in pairs:
        pair.add(valid_rows(expected[pair.twin], batch), valid_rows(actual[pair.value], batch))
