"""What each node costs alone, as far as a budget of work goes: the same on every machine, for it counts no seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlc.data import Data
from mlc.data.stream import PREFERRED
from mlc.explaining.arithmetic import work_of
from mlc.figures import counted, decibels
from mlc.rewriting.sensitivity import Sensitivity, output_sensitivity

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.data import Batch
    from mlc.statistics import Batches
    from mlc.workspace import Workspace

BUDGET = 2 * 10**12
"""Multiply-adds that are spent on trying nodes: about a minute of two cores."""


@dataclass(frozen=True)
class Costs:
    """What nodes cost alone, and in groups those that were not tried alone, the costliest group first.

    They were tried over ``samples`` of the samples, and ``left`` out were so many for want of work. ``work`` is the
    multiply-adds of every site where they are known, for the first batch.
    """

    nodes: tuple[Sensitivity, ...] = ()
    groups: tuple[Sensitivity, ...] = ()
    samples: int = 0
    left: int = 0
    work: Mapping[str, int] = field(default_factory=dict)

    def said(self) -> Iterator[str]:
        """Yield a sentence for each way in which not everything was tried."""
        if self.nodes and self.left:
            of = f"{self.samples:,} of {counted(self.samples + self.left, 'sample')}"
            yield f"what each node costs alone was tried over {of}: more would be too much work"
        if self.groups:
            sites = sum(len(group.sites) for group in self.groups)
            worst = self.groups[0]
            yield (
                f"{counted(sites, 'node was', 'nodes were')} tried in {counted(len(self.groups), 'group')} only, not "
                f"alone: the costliest group, from {worst.sites[0]} to {worst.sites[-1]}, leaves {worst.output} at "
                f"{decibels(worst.sqnr)}"
            )


def node_costs(
    before: ir.Model, after: ir.Model, sites: Sequence[str], batches: Batches, workspace: Workspace, *, samples: int
) -> Costs:
    """Return what each node costs at the outputs, over the first ``samples`` and the batch that they end in.

    A run of the float graph ``before`` for each node and sample is the work. There are fewer samples where ``BUDGET``
    is not enough for all. Where it is not for one, or for one batch of a fixed size, nodes that follow each other are
    tried in groups, about as many as there are nodes in each, and then those of the costliest groups one by one, of one
    group at least. Raises TargetError where the graph does not run.
    """
    first = next(iter(batches), None)
    if first is None or not sites:
        return Costs()
    counts = dict(work_of(before, first.inputs))
    work = max(sum(counts.values()) / _rows(first), 1)
    limit = max(int(BUDGET / work / len(sites)), 1)
    few = list(first_batches(batches, min(samples, limit)))
    count = sum(batch.count for batch in few)
    left = sum(batch.count for batch in first_batches(batches, samples)) - count if limit < samples else 0
    runs = int(BUDGET / work / sum(map(_rows, few)))
    size = math.ceil(math.sqrt(len(sites)))
    groups = [sites[start : start + size] for start in range(0, len(sites), size)]
    if max(runs, len(groups) + size) >= len(sites):
        alone = output_sensitivity(before, after, [(site,) for site in sites], few, workspace)
        return Costs(alone, (), count, left, counts)
    together = output_sensitivity(before, after, groups, few, workspace)
    ordered = sorted(together, key=lambda group: group.sqnr)
    opened = max((runs - len(groups)) // size, 1)
    apart = {site for group in ordered[:opened] for site in group.sites}
    alone = output_sensitivity(before, after, [(site,) for site in sites if site in apart], few, workspace)
    return Costs(alone, tuple(ordered[opened:]), count, left, counts)


def _rows(batch: Batch) -> int:
    return max((len(array) for array in batch.inputs.values() if np.ndim(array)), default=1)


def first_batches(batches: Batches, samples: int) -> Iterator[Batch]:
    """Yield the batches of the first samples, smaller ones where there are few and they can be stacked so."""
    count = 0
    for batch in batches.batches(min(samples, PREFERRED)) if isinstance(batches, Data) else batches:
        yield batch
        count += batch.count
        if count >= samples:
            return
