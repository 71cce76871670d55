"""What each node costs at the outputs: the float graph with one node, or a group, computed as the quantized one does.

It is what a plan with these nodes alone would lose, known for all nodes from one application of a pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare import is_float, powers, ratio_db
from mlc.compare.decisions import decisions, with_outputs
from mlc.rewriting.chosen import choosable
from mlc.rewriting.sessions import Runner
from mlc.statistics import valid_rows

if TYPE_CHECKING:
    from mlc.statistics import Batches
    from mlc.workspace import Workspace


@dataclass(frozen=True)
class Sensitivity:
    """What the outputs lose where these nodes alone are quantized: SQNR in dB of the worst, infinite for no loss.

    Nodes are named by their sites. An integer output counts by the float values that decide it.
    """

    sites: tuple[str, ...]
    sqnr: float
    output: str

    @property
    def noise(self) -> float:
        """The noise over the signal, of powers."""
        return 10 ** (-self.sqnr / 10)


def output_sensitivity(
    before: ir.Model, after: ir.Model, groups: Iterable[Sequence[str]], batches: Batches, workspace: Workspace
) -> tuple[Sensitivity, ...]:
    """Return what each group of nodes costs at the outputs, in the order of the groups.

    ``before`` is the float graph and ``after`` the same with everything quantized, of one opset; values of one name are
    the same value. A node is computed from its inputs and weights as ``after`` quantizes them; how its result is
    quantized is counted at the nodes that read it. All groups run in one session, with the runtime's optimizations off,
    once each a batch, and only sums are kept.

    Nodes with subgraphs and those whose value ``after`` does not have any more are left out, as is a group of nothing
    else. Raises TargetError where the graph does not run.
    """
    asked = [tuple(group) for group in groups]
    watched = _watched(before)
    graph = choosable(watched, after, [site for group in asked for site in group])
    known = [tuple(site for site in group if site in graph.sites) for group in asked]
    kept = list(filter(None, known))
    if not kept or not watched.graph.outputs:
        return ()
    sums: defaultdict[tuple[int, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    with Runner(workspace).open(graph.model) as run:
        for batch in batches:
            expected = run(graph.feeds(batch.inputs, ()))
            for index, group in enumerate(kept):
                actual = run(graph.feeds(batch.inputs, group))
                for name, array in expected.items():
                    if is_float(array.dtype):
                        sums[index, name] += powers(valid_rows(array, batch), valid_rows(actual[name], batch))
    return tuple(_worst(sums, index, group) for index, group in enumerate(kept)) if sums else ()


def _watched(before: ir.Model) -> ir.Model:
    """Return a clone whose outputs are the float ones, and the float values that decide the others."""
    known = decisions(before)
    model = with_outputs(before, [name for decision in known.values() for name in decision.values])
    kept = [value for value in model.graph.outputs if value.name not in known]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    return model


def _worst(sums: Mapping[tuple[int, str], np.ndarray], index: int, group: tuple[str, ...]) -> Sensitivity:
    ratios = {name: ratio_db(*total) for (number, name), total in sums.items() if number == index}
    output = min(ratios, key=ratios.__getitem__)
    return Sensitivity(group, ratios[output], output)
