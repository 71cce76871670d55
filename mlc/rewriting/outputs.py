"""Graph outputs against the original's kept ones, and which flips behind a discontinuity are excused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mlc.compare import Difference, Reference, compare, compare_one, is_float
from mlc.compare.decisions import cone, deciders, decisions, graph_values, with_outputs
from mlc.rewriting.sessions import Feeds, Runner


@dataclass(frozen=True)
class OutputJudge:
    """Compares the outputs of a graph with the references."""

    runner: Runner
    references: Sequence[Reference]

    def differences(self, model: ir.Model, tolerance: float) -> list[tuple[Difference, ...]]:
        """Return the differences at each reference. Raises TargetError where the graph does not run."""
        known = decisions(model)
        extended = with_outputs(model, [name for decision in known.values() for name in decision.values])
        with self.runner.open(extended) as run:
            return [
                compare(reference.outputs, run(reference.inputs), tolerance, decisions=known)
                for reference in self.references
            ]

    def worse(self, before: ir.Model, after: ir.Model, tolerance: float) -> list[Difference]:
        """Return one difference for each output; it holds where the graph before is no better, or a flip is excused."""
        found = self.differences(after, tolerance)
        if not any(difference for each in found for difference in each):
            return _largest(found)
        earlier = self.differences(before, tolerance)
        judged = []
        for reference, now, then in zip(self.references, found, earlier, strict=True):
            old = {difference.output: difference for difference in then}
            judged.append(
                tuple(
                    Difference(difference.output, difference.error)
                    if difference
                    and (
                        old[difference.output].error >= difference.error > 0
                        or self.excused(before, after, difference.output, reference.inputs, tolerance)
                    )
                    else difference
                    for difference in now
                )
            )
        return _largest(judged)

    def excused(self, before: ir.Model, after: ir.Model, output: str, feeds: Feeds, tolerance: float) -> bool:
        """Whether an output differs only since a float crossed a threshold that it was within the tolerance of.

        Of the discontinuous operators that the output lies behind, some has to have flipped, and every one that no
        flip went into has to have float inputs that agree.
        """
        nodes = deciders(after).get(output, ())
        kept = {str(value.name) for value in graph_values(before.graph)}
        names = [str(value.name) for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
        if not nodes or not set(names) <= kept:
            return False
        values = [self.runner.run(with_outputs(model, names), feeds) for model in (before, after)]
        old, new = ({**feeds, **_constants(model), **part} for model, part in zip((before, after), values, strict=True))
        flipped: set[ir.Node] = set()
        for node in nodes:
            if flipped & cone(node.inputs):
                continue
            for value in node.inputs:
                name = str(value.name) if value is not None else ""
                if name and is_float(old[name].dtype) and compare_one(name, old[name], new[name], tolerance):
                    return False
            if any(
                compare_one(str(each.name), old[str(each.name)], new[str(each.name)], tolerance)
                for each in node.outputs
            ):
                flipped.add(node)
        return bool(flipped)


def _constants(model: ir.Model) -> Feeds:
    return {
        str(value.name): value.const_value.numpy()
        for value in model.graph.initializers.values()
        if value.const_value is not None
    }


def _largest(found: Sequence[Sequence[Difference]]) -> list[Difference]:
    worst: dict[str, Difference] = {}
    for each in found:
        for difference in each:
            old = worst.get(difference.output)
            if old is None or (bool(difference), difference.error) > (bool(old), old.error):
                worst[difference.output] = difference
    return list(worst.values())
