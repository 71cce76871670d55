"""Where along the network the error arises: the same value in the unmodified export and in the final graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare import powers, ratio_db
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics import Batches, valid_rows
from mlc.statistics.taps import in_chunks, tapped, values_by_name
from mlc.types import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlc.types import Array
    from mlc.workspace import Workspace

NOT_LAYERS = frozenset({"QuantizeLinear", "Constant", "Shape"})


@dataclass(frozen=True)
class LayerError:
    """How far one value of the final graph is from the same value of the unmodified export, SQNR in dB.

    ``op`` is the operator that computed it before.
    """

    value: str
    op: str
    sqnr: float


def layer_errors(baseline: Path, final: Path, batches: Batches, workspace: Workspace) -> tuple[LayerError, ...]:
    """Return the SQNR of every float value that both graphs compute under one name, in the order of the final graph.

    Both run with the runtime's optimizations off over all batches; the energies of signal and noise are summed, so
    memory stays flat.
    """
    models = [ir.load(path) for path in (baseline, final)]
    for model in models:
        workspace.hold(model)
    before, after = (_computed(model) for model in models)
    names = [name for name in after if name in before]
    first = next(iter(batches), None)
    if first is None or not names:
        return ()
    shapes = {name: np.shape(array) for name, array in first.inputs.items()}
    energies = {name: np.zeros(2) for name in names}
    for chunk in in_chunks(models[1], names, shapes):
        _accumulate([tapped(model, chunk, workspace) for model in models], chunk, batches, energies)
    return tuple(LayerError(name, before[name], ratio_db(*energies[name])) for name in names)


def _computed(model: ir.Model) -> dict[str, str]:
    """Return the operator of each float value that a graph computes from its inputs, by name."""
    inputs = {value.name for value in model.graph.inputs}
    return {
        name: node.op_type
        for name, value in values_by_name(model).items()
        if name not in inputs
        and (node := value.producer()) is not None
        and node.op_type not in NOT_LAYERS
        and value.dtype in (None, ir.DataType.FLOAT)
    }


def _accumulate(paths: Sequence[Path], chunk: Sequence[str], batches: Batches, energies: Mapping[str, Array]) -> None:
    with (
        open_session(paths[0], Target(), optimize=False) as before,
        open_session(paths[1], Target(), optimize=False) as after,
    ):
        for batch in batches:
            expected, actual = before.run(batch.inputs), after.run(batch.inputs)
            for name in chunk:
                energies[name] += powers(valid_rows(expected[name], batch), valid_rows(actual[name], batch))
