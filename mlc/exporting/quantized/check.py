"""Are the codes of an export those of its module? Each quantizer is judged with the module's own codes before it.

Where rounding differs by next to nothing a float on the edge between two codes falls to the other side, and everything
behind it differs by a step. So every quantizer is compared where it stands: given the codes that the module itself
computed before, its float has to agree, and a code may be the next one only where that float is on the edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.compare import Decision, Difference, Reference, compare, compare_end
from mlc.compare.decisions import decisions, with_outputs
from mlc.compare.scale import scale_of
from mlc.errors import SourceError
from mlc.exporting.quantized.graph import CODES
from mlc.figures import sizes_text
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.quantized.nouns import Coded
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Array, Arrays
    from mlc.workspace import Workspace

    Noted: TypeAlias = tuple[dict[str, np.ndarray], tuple[Coded, ...]]

GIVEN = "given::"
"""Prefix of the codes of the module, as inputs of the graph that judges."""


@dataclass(frozen=True)
class Site:
    """A quantizer: the number of what the module noted there, its float, its scale and its codes, by name."""

    number: int
    value: str
    scale: str
    codes: str


def sites_of(model: ir.Model) -> tuple[Site, ...]:
    """Return the quantizers that were taken over from a module, in the graph's order."""
    found = []
    for node in model.graph:
        if (node.name or "").startswith(CODES):
            quantizer = node
            while quantizer.op_type != "QuantizeLinear":
                source = quantizer.inputs[0]
                producer = None if source is None else source.producer()
                assert producer is not None, "codes come from a quantizer"
                quantizer = producer
            value, scale = quantizer.inputs[:2]
            assert value is not None
            assert scale is not None
            number = int((node.name or "").removeprefix(CODES))
            found.append(Site(number, str(value.name), str(scale.name), str(node.outputs[0].name)))
    return tuple(found)


class CodeJudge:
    """Judges the quantizers and outputs of a graph, each given the codes that the module itself computed before."""

    def __init__(
        self, noted: Callable[[Arrays], Noted], model: ir.Model, sites: Sequence[Site], workspace: Workspace
    ) -> None:
        self.noted = noted
        self.sites = sites
        self.decided = decisions(model)
        self.workspace = workspace
        self.moved = 0
        self.apart = 0.0
        self.model = _judging(model, self.sites, self.decided)
        self.scales = {
            name: value.const_value.numpy()
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and name in {site.scale for site in self.sites}
        }

    def judged(
        self, first: Reference, reference: Reference, free: tuple[Difference, ...], tolerance: float
    ) -> tuple[Difference, ...]:
        """Return the differences to judge by: ``free`` ones of an ordinary run, where they hold.

        Else those of the outputs given the module's own codes. Raises SourceError where the codes of a quantizer are
        not the module's.
        """
        outputs, notes = self.noted(reference.inputs)
        at = sizes_text(reference.sizes)
        if any(site.number >= len(notes) for site in self.sites):
            raise SourceError(
                f"the module quantizes otherwise at {at} than where it was traced",
                "let forward call the same layers for every size, or narrow the range of that dim",
            )
        values = self._run(reference, notes)
        moved = 0
        for site in self.sites:
            reason, count = _judged(site, notes[site.number], values, tolerance)
            moved += count
            if reason:
                raise SourceError(
                    f"the exported model differs from the original at {at}: {reason}",
                    "give the module before it is quantized, and ask for --to int8; some of torch's integer kernels "
                    "are wrong: torch.backends.quantized.engine chooses others",
                )
        own = Reference(reference.sizes, reference.inputs, outputs, reference.values)
        if reference.values:
            given = compare_end(first, own, values, tolerance, decisions=self.decided)
        else:
            given = compare(outputs, values, tolerance, decisions=self.decided)
        if any(given) or not any(free):
            return given if any(given) else free
        self.moved += moved
        self.apart = max([self.apart, *(one.error for one in free if math.isfinite(one.error))])
        return given

    def _run(self, reference: Reference, notes: Sequence[Coded]) -> Arrays:
        given = {f"{GIVEN}{site.codes}": notes[site.number].codes for site in self.sites}
        names = {str(value.name) for value in self.model.graph.inputs}
        feeds = {name: array for name, array in {**reference.inputs, **given}.items() if name in names}
        with open_session(self.workspace.save(self.model, "codes"), Target(), optimize=False) as session:
            return {**self.scales, **reference.inputs, **session.run(feeds)}

    def told(self) -> str:
        """Say how far outputs are from the module's since codes fell to the other side of an edge."""
        by = f"; outputs then differ by up to {self.apart:.1g} of their rms" if self.apart else ""
        return (
            f"{self.moved} codes on the edge to the next one came out on its other side, since sums round otherwise "
            f"than in torch{by}"
        )


def _judging(model: ir.Model, sites: Sequence[Site], decided: Mapping[str, Decision]) -> ir.Model:
    """Return the graph with the module's codes as inputs in the place of its own, which become outputs."""
    wanted = [name for site in sites for name in (site.value, site.scale, site.codes)]
    clone = with_outputs(model, [*wanted, *(name for decision in decided.values() for name in decision.values)])
    values = {value.name: value for node in clone.graph for value in node.outputs}
    outputs = list(clone.graph.outputs)
    clone.graph.outputs.clear()
    for site in sites:
        codes = values[site.codes]
        given = ir.Value(name=f"{GIVEN}{site.codes}", type=codes.type, shape=codes.shape)
        codes.replace_all_uses_with(given)
        clone.graph.inputs.append(given)
    clone.graph.outputs.extend(value for value in outputs if value.producer() is not None)
    return clone


def _judged(site: Site, noted: Coded, values: Arrays, tolerance: float) -> tuple[str, int]:
    """Return why the codes of a quantizer are not the module's, or nothing, and how many are the next one."""
    codes, wanted = values[site.codes].astype(np.int64), noted.codes.astype(np.int64)
    if codes.shape != wanted.shape:
        return f"{site.codes} has shape {list(codes.shape)}, the module's codes {list(wanted.shape)}", 0
    apart = np.abs(codes - wanted)
    moved = int((apart > 0).sum())
    if not moved:
        return "", 0
    value = values[site.value].astype(np.float64).reshape(codes.shape)
    steps = _spread(np.asarray(values[site.scale], np.float64), noted, codes.ndim)
    inside = value / steps
    edge = np.abs(inside - np.floor(inside) - 0.5) * steps
    far = (apart > 1) | ((apart == 1) & (edge > tolerance * scale_of(values[site.value])))
    if not far.any():
        return "", moved
    return f"{int(far.sum())} of {far.size} codes of {site.codes} are not those of the module", moved


def _spread(scale: Array, noted: Coded, rank: int) -> Array:
    """Give scales the shape in which they go with their codes."""
    if scale.size == 1:
        return scale.reshape(())
    if not noted.grid.group:
        return scale.reshape([-1 if axis == noted.grid.axis else 1 for axis in range(rank)])
    blocks = scale if scale.ndim == rank else scale.reshape(*noted.codes.shape[:-1], 1)
    return np.repeat(blocks, noted.grid.group, axis=noted.grid.axis)
