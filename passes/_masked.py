"""Nodes around values that hold a mask: what they quantize would be the mask and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import onnx_ir as ir

from mlc.formats import Choice, data_inputs, int8_nodes, site_of, static_choices
from mlc.graph_pass import Statistics
from passes._codes import Coded, coded_values


@dataclass
class Unmasked:
    """The choices without nodes that read or compute a value with a mask, the values to quantize, and why not others.

    ``reasons`` are those of the nodes that stay float, by site; each names the value, the number and the sample.
    """

    choices: tuple[Choice, ...] = ()
    coded: dict[ir.Value, Coded] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def unmasked(model: ir.Model, permitted: Callable[[str], bool], statistics: Statistics | None) -> Unmasked:
    """Choose the int8 nodes of a model anew until none of their scales comes from a range with a mask.

    Without statistics no mask is known.
    """
    asked = cache(permitted)
    found = Unmasked()
    while True:
        found.choices = static_choices(model, lambda site: site not in found.reasons and asked(site))
        found.coded = coded_values(found.choices)
        reasons = {} if statistics is None else _masked(found, statistics)
        if not reasons:
            return found
        found.reasons |= reasons


def _masked(found: Unmasked, statistics: Statistics) -> dict[str, str]:
    """Return the sites of int8 nodes that read or compute a value whose scale would be that of a mask."""
    masks = {value: statistics.mask(value.name or "") for value in {item.range_of for item in found.coded.values()}}
    reasons = {}
    for node in int8_nodes(found.choices):
        for value in (*data_inputs(node), *node.outputs):
            source = found.coded[value].range_of if value in found.coded else value
            mask = masks.get(source)
            if mask is not None:
                reasons[site_of(node)] = f"the value {source.name} holds {mask[0]:.2g} for sample {mask[1]}: a mask?"
    return reasons
