"""What a GPU computes in float16: every value rounded behind its operator, sums added up in float32.

A CPU computes a float16 graph in float32, and so shows right answers where a GPU gives infinities or zeros. Here the
graph is computed in float32 with a Cast to float16 and back behind every operator, and operators that kernels compute
in steps are taken apart. What a kernel holds in its registers alone, such as the sum of a mean, is not seen; in the
narrow form sums are rounded too, which some GPUs do: a reason to warn, not to refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.emulate.decomposing import decompose
from mlc.emulate.widening import round_values, widened
from mlc.fusion import has_subgraphs
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics.taps import in_chunks, tapped, values_by_name
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Arrays
    from mlc.workspace import Workspace


@dataclass(frozen=True)
class _Pair:
    """A graph with every value rounded and the same one without; ``told`` says what each value of both is.

    ``steps`` are the values inside of operators.
    """

    rounded: ir.Model
    plain: ir.Model
    told: Mapping[str, str]
    steps: Collection[str]


def rounded_half(model: ir.Model, *, narrow: bool = False) -> ir.Model:
    """Return a graph that gives on a CPU, optimizations off, what a float16 graph gives on a GPU.

    Its interface and the names of its values are those of the given one. ``narrow`` adds up products and means in
    float16 too.
    """
    return _pair(model, narrow=narrow).rounded


def first_loss(
    model: ir.Model, feeds: Sequence[Arrays], workspace: Workspace, *, narrow: bool = False, steps: bool = True
) -> str:
    """Name the first value that becomes an infinity or NaN on a GPU where float32 gives a number; empty if none does.

    ``feeds`` are inputs by name. ``steps`` looks into operators too, where an infinity may do no harm, as in a GELU of
    a large number. Values inside of branches and loops are seen where these end. Raises TargetError where the graph
    cannot be run.
    """
    pair = _pair(model, narrow=narrow)
    shapes = {name: np.shape(array) for name, array in feeds[0].items()}
    watched = [name for name in pair.told if steps or name not in pair.steps]
    for chunk in in_chunks(pair.plain, watched, shapes) if watched else ():
        paths = [tapped(each, chunk, workspace) for each in (pair.rounded, pair.plain)]
        lost: dict[str, str] = {}
        with (
            open_session(paths[0], Target(), optimize=False) as half,
            open_session(paths[1], Target(), optimize=False) as full,
        ):
            for inputs in feeds:
                actual, expected = half.run(inputs, chunk), full.run(inputs, chunk)
                for name in chunk:
                    gone = np.isfinite(expected[name]) & ~np.isfinite(actual[name])
                    if gone.any():
                        what = "NaN" if np.isnan(actual[name][gone]).any() else "Inf"
                        largest = np.abs(expected[name][gone]).max()
                        lost.setdefault(name, f"{pair.told[name]} gives {what} where float32 gives {largest:g}")
        if lost:
            return next(lost[name] for name in chunk if name in lost)
    return ""


def _pair(model: ir.Model, *, narrow: bool) -> _Pair:
    """Return the two graphs: in both, the steps of operators have the same names."""
    rounded, halves = widened(model)
    plain, twins = widened(model)
    inside = decompose(rounded, halves, narrow=narrow)
    decompose(plain, twins, narrow=narrow)
    told = {}
    for name, value in values_by_name(rounded).items():
        node = value.producer()
        if node is not None and (value in halves or _ends_subgraph(node, value)):
            told[name] = inside.get(name, f"{node.op_type} {name}")
    round_values(rounded, halves)
    return _Pair(rounded, plain, told, inside)


def _ends_subgraph(node: ir.Node, value: ir.Value) -> bool:
    """Whether a float value comes out of a branch or loop, in which float16 may have been lost."""
    graphs = has_subgraphs(node)
    return graphs and value.dtype == ir.DataType.FLOAT
