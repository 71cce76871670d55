"""Judging every site where it happened: replacements beside the graph before, fed with the values before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.compare import EXPORT_TOLERANCE, Difference, compare_one
from mlc.compare.decisions import graph_values
from mlc.errors import MlcError
from mlc.rewriting.differences import Nested, changed_subgraphs, changed_values, subgraphs
from mlc.rewriting.fragments import AFTER, Beside, alone, beside, type_inputs
from mlc.rewriting.portions import portions
from mlc.rewriting.sessions import Feeds, Runner

Given: TypeAlias = np.ndarray | list[np.ndarray]
"""A tensor, or a sequence of tensors."""


@dataclass(frozen=True)
class Judgement:
    """One value after the pass against itself before; ``error`` is over the rms, infinite where it has no number."""

    value: str
    error: float
    reason: str = ""

    def __bool__(self) -> bool:
        """Whether the value is not what it has to be."""
        return bool(self.reason)


@dataclass(frozen=True)
class SiteJudge:
    """Judges values: ``measure(name, expected, actual, loose)`` does one; ``loose`` is for whole subgraphs."""

    runner: Runner
    measure: Callable[[str, Given, Given, bool], Difference]

    def judge(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds], prefix: str = "") -> list[Judgement]:
        """Judge every value that both graphs have and that comes about differently, subgraphs included."""
        names = changed_values(before.graph, after.graph)
        nested = changed_subgraphs(before.graph, after.graph)
        found: list[Judgement] = []
        for together in portions(before.graph, names, feeds):
            found += self._together(before, after, together, feeds, prefix)
        inner = [each for part in nested for each in self._subgraph(before, after, part, feeds, prefix)]
        explained = {
            prefix + name
            for name, node in _outputs_of_control(after.graph).items()
            if _wrong_inside(inner, prefix + node)
        }
        return [each for each in found if each.value not in explained] + inner

    def _together(
        self, before: ir.Model, after: ir.Model, names: Sequence[str], feeds: Sequence[Feeds], prefix: str
    ) -> list[Judgement]:
        """Judge values in one run; where it fails, in halves, so that a bad replacement condemns only itself."""
        loose = _outputs_of_control(after.graph)
        judged = beside(before, after, names)
        known = _known(before, judged)
        worst: dict[str, Judgement] = {}
        try:
            with self.runner.open(judged.model) as run:
                for feed in feeds:
                    values = {**known, **feed, **run(feed)}
                    for name in names:
                        difference = self.measure(name, values[name], values[AFTER + name], name in loose)
                        _keep_worst(worst, Judgement(prefix + name, difference.error, difference.reason))
        except MlcError as error:
            if len(names) > 1:
                middle = len(names) // 2
                halves = (names[:middle], names[middle:])
                return [each for half in halves for each in self._together(before, after, half, feeds, prefix)]
            return [self._failed(before, names[0], feeds, prefix, error)]
        return list(worst.values())

    def _failed(self, before: ir.Model, name: str, feeds: Sequence[Feeds], prefix: str, error: MlcError) -> Judgement:
        try:
            with self.runner.open(beside(before, before, [], [name]).model) as run:
                for feed in feeds:
                    run(feed)
        except MlcError:
            return Judgement(prefix + name, math.inf, "it cannot be judged: the graph before does not run there either")
        return Judgement(prefix + name, math.inf, f"its replacement does not run: {error.message}")

    def _subgraph(
        self, before: ir.Model, after: ir.Model, part: Nested, feeds: Sequence[Feeds], prefix: str
    ) -> list[Judgement]:
        """Judge the values of one subgraph, on its own, fed with what it would get first.

        A body that cannot be fed is judged by the outputs of its node; a branch may not be the one that runs, so then
        its node is not trusted.
        """
        node = next(node for node in before.graph if node.outputs and node.outputs[0].name == part.node)
        inner_before, own, taken = alone(before, part.node, part.attribute)
        inner_after, own_after, taken_after = alone(after, part.node, part.attribute)
        inner_feeds = None
        if own == own_after and set(taken_after) <= {*taken, *_names(before.graph)}:
            inner_feeds = self._inner_feeds(before, node, own, [*taken, *taken_after], feeds)
        if inner_feeds is None:
            reason = f"its {part.attribute} cannot be judged on its own"
            return [Judgement(prefix + part.node, math.inf, reason)] if node.op_type == "If" else []
        for model in (inner_before, inner_after):
            names = {str(value.name) for value in model.graph.inputs}
            model.graph.inputs.extend(ir.Value(name=name) for name in inner_feeds[0] if name not in names)
            type_inputs(model, {name: _type_of(array) for name, array in inner_feeds[0].items()})
        return self.judge(inner_before, inner_after, inner_feeds, f"{prefix}{part.node}.{part.attribute}/")

    def _inner_feeds(
        self, before: ir.Model, node: ir.Node, own: Sequence[str], taken: Sequence[str], feeds: Sequence[Feeds]
    ) -> list[Feeds] | None:
        """Return what a subgraph gets first: its own inputs, and the values that it takes from around it."""
        sources = [str(value.name) for value in node.inputs if value is not None]
        judged = beside(before, before, [], dict.fromkeys([*taken, *sources]))
        inner: list[Feeds] = []
        try:
            with self.runner.open(judged.model) as run:
                for feed in feeds:
                    values = {**_known(before, judged), **feed, **run(feed)}
                    body = _body_inputs(node, own, values)
                    if body is None:
                        return None
                    inner.append({**body, **{name: values[name] for name in taken}})
                    if any(isinstance(each, list) for each in inner[-1].values()):  # a sequence, which is no input
                        return None
        except MlcError:
            return None
        return inner


def measure_with(tolerance: float, *, exact: bool) -> Callable[[str, Given, Given, bool], Difference]:
    """Return the comparison for a pass of this tolerance; outputs of whole subgraphs may add up to the export's."""

    def measure(name: str, expected: Given, actual: Given, loose: bool) -> Difference:
        allowed = max(tolerance, EXPORT_TOLERANCE) if loose else tolerance
        if isinstance(expected, list) or isinstance(actual, list):
            return _sequences(name, expected, actual, lambda one, other: measure(name, one, other, loose))
        return compare_one(name, expected, actual, allowed, exact=exact)

    return measure


def _sequences(
    name: str, expected: Given, actual: Given, measure: Callable[[np.ndarray, np.ndarray], Difference]
) -> Difference:
    """Return the largest difference of the elements of two sequences."""
    if type(expected) is not type(actual) or len(expected) != len(actual):
        return Difference(name, math.inf, f"{name} is another sequence than expected", broken=True)
    each = [measure(*pair) for pair in zip(expected, actual, strict=True)]
    return max(each, key=lambda one: (bool(one), one.error), default=Difference(name, 0.0))


def blame(before: ir.Model, after: ir.Model, value: str, sites: Sequence[str]) -> set[str]:
    """Return the sites that may have made a value wrong: itself, those inside its subgraphs, what went into it."""
    if value in sites:
        return {value}
    prefix, _, name = value.rpartition("/")
    graphs = _graphs_at(before, after, prefix)
    if graphs is None:
        return set()
    old, new = graphs
    start = f"{prefix}/" if prefix else ""
    node = next((node for node in old for output in node.outputs if output.name == name), None)
    if node is not None and any(True for _ in subgraphs(node)):
        inside = {site for site in sites if site.startswith(f"{start}{node.outputs[0].name}.")}
        if inside:
            return inside
    survivors = set(_names(new))
    seen: set[str] = set()
    stack = [node] if node is not None else []
    while stack:
        for source in stack.pop().inputs:
            if source is None or source.name is None or source.name in seen or source.name in survivors:
                continue
            seen.add(source.name)
            producer = source.producer()
            if producer is not None:
                stack.append(producer)
    return {site for site in sites if site in {start + each for each in seen} or site in seen}


def _graphs_at(before: ir.Model, after: ir.Model, prefix: str) -> tuple[ir.Graph, ir.Graph] | None:
    old, new = before.graph, after.graph
    for step in prefix.split("/") if prefix else ():
        output, _, attribute = step.rpartition(".")
        pair = [_subgraph_of(graph, output, attribute) for graph in (old, new)]
        if pair[0] is None or pair[1] is None:
            return None
        old, new = pair[0], pair[1]
    return old, new


def _subgraph_of(graph: ir.Graph, output: str, attribute: str) -> ir.Graph | None:
    for node in graph:
        if node.outputs and node.outputs[0].name == output and attribute in node.attributes:
            return node.attributes[attribute].as_graph()
    return None


def _names(graph: ir.Graph) -> list[str]:
    return [str(value.name) for value in graph_values(graph)]


def _known(before: ir.Model, judged: Beside) -> dict[str, np.ndarray]:
    """Return what needs no run: constants, and the defaults of inputs that a caller may leave out."""
    defaults = {str(value.name): value.const_value for value in before.graph.inputs if value.const_value is not None}
    return {name: tensor.numpy() for name, tensor in {**defaults, **judged.constants}.items()}


def _outputs_of_control(graph: ir.Graph) -> dict[str, str]:
    """Return the outputs of nodes with subgraphs, each with the first output of its node."""
    control = [node for node in graph if any(True for _ in subgraphs(node))]
    return {str(output.name): str(node.outputs[0].name) for node in control for output in node.outputs}


def _wrong_inside(found: Sequence[Judgement], node: str) -> bool:
    return any(each and each.value.startswith(f"{node}.") for each in found)


def _keep_worst(worst: dict[str, Judgement], new: Judgement) -> None:
    old = worst.get(new.value)
    if old is None or (bool(new), new.error) > (bool(old), old.error):
        worst[new.value] = new


def _type_of(array: np.ndarray) -> tuple[ir.DataType, int]:
    return ir.DataType.from_numpy(array.dtype), array.ndim


def _body_inputs(node: ir.Node, own: Sequence[str], values: Feeds) -> Feeds | None:
    """Return what a body gets in its first round, or None where there is none or the operator is not known."""
    given = [None if value is None else values[str(value.name)] for value in node.inputs]
    if node.op_type == "If":
        return {}
    if node.op_type == "Loop":
        carried = given[2:]
        first = [np.array(0, np.int64), np.array(True), *carried]  # noqa: FBT003
        return dict(zip(own, first, strict=False)) if len(own) == len(first) else None  # type: ignore[arg-type]
    if node.op_type == "Scan" and "num_scan_inputs" in node.attributes and "scan_input_axes" not in node.attributes:
        scanned = node.attributes["num_scan_inputs"].as_int()
        states, series = given[: len(given) - scanned], given[len(given) - scanned :]
        if any(array is None or array.shape[0] == 0 for array in series):
            return None
        first = [*states, *(array[0] for array in series if array is not None)]
        return dict(zip(own, first, strict=True))  # type: ignore[arg-type]
    return None
