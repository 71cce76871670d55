"""Nodes around values of which no range is known, or that of a mask: what they quantize would be nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import onnx_ir as ir

from mlc.formats import Choice, data_inputs, int8_nodes, static_choices
from mlc.fusion import Places
from mlc.graph_pass import Statistics
from passes._codes import Coded, coded_values

UNSEEN = "a value comes about for no sample of the calibration data: is it in a branch that none takes?"


@dataclass
class Unmasked:
    """The choices without nodes around values with a mask, the values to quantize in each graph, and why not others.

    ``reasons`` are those of the nodes that stay float, by site; each names the value, the number and the sample.
    """

    places: Places
    choices: tuple[Choice, ...] = ()
    coded: dict[ir.Graph, dict[ir.Value, Coded]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def unmasked(model: ir.Model, permitted: Callable[[str], bool], statistics: Statistics | None) -> Unmasked:
    """Choose the int8 nodes of a model anew until each of their scales comes from a range, and none from a mask's.

    Without statistics no range is known to be missing. Loops are left out: what comes about in them is not collected.
    """
    asked = cache(permitted)
    places = Places(model)
    found = Unmasked(places)

    def free(node: ir.Node) -> bool:
        site = places.site(node)
        return site not in found.reasons and asked(site)

    while True:
        found.choices = static_choices(places.once, free)
        found.coded = {
            graph: coded_values(tuple(choice for choice in found.choices if choice.node.graph is graph))
            for graph in places.once
        }
        reasons = {} if statistics is None else _masked(found, statistics)
        if not reasons:
            return found
        found.reasons |= reasons


def _masked(found: Unmasked, statistics: Statistics) -> dict[str, str]:
    """Return the sites of int8 nodes that read or compute a value whose scale would be that of a mask, or unknown."""
    sources = dict.fromkeys(item.range_of for coded in found.coded.values() for item in coded.values())
    problems = {value: _problem(found.places.name(value), statistics) for value in sources}
    reasons = {}
    for node in int8_nodes(found.choices):
        assert isinstance(node.graph, ir.Graph)
        coded = found.coded[node.graph]
        for value in (*data_inputs(node), *node.outputs):
            source = coded[value].range_of if value in coded else value
            if problems.get(source):
                reasons[found.places.site(node)] = problems[source]
    return reasons


def _problem(value: str, statistics: Statistics) -> str:
    """Return why the range of a value gives no scale, or nothing."""
    if not statistics.seen(value):
        return UNSEEN
    mask = statistics.mask(value)
    return "" if mask is None else f"the value {value} holds {mask[0]:.4g} for sample {mask[1]}: a mask?"
