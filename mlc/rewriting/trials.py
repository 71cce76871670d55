"""Trying a pass: on a clone, with some sites forbidden, invariants checked; and finding the site that breaks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.errors import PassError, foreign, kind_of
from mlc.graph_pass import Change, Context, Pass
from mlc.invariants import Snapshot, Subject, broken
from mlc.rewriting.differences import same_model
from mlc.workspace import initializers

if TYPE_CHECKING:
    from mlc.workspace import Workspace

PACKED = 8
"""Tensors whose elements have fewer bits than this are left as they are: their array is not their storage."""


@dataclass(frozen=True)
class Attempt:
    """A pass applied to a clone: the graph, what the pass says it did, and the invariants that no longer hold."""

    model: ir.Model
    change: Change
    seconds: float
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trials:
    """One pass on one graph, to be applied as often as it takes."""

    subject: Pass
    before: ir.Model
    snapshot: Snapshot
    context: Context
    workspace: Workspace

    def attempt(self, allow: Callable[[str], bool] = lambda _site: True) -> Attempt:
        """Apply the pass to a clone. Raises PassError where the pass raises or gives no Change."""
        model = self.before.clone()
        name = self.subject.name
        start = time.perf_counter()
        with foreign(f"the pass {name}", PassError), np.errstate(all="ignore"):
            change = self.subject.apply(model, replace(self.context, allow=allow))
        seconds = time.perf_counter() - start
        if not isinstance(change, Change):
            raise PassError(f"the pass {name} gave {kind_of(change)}, not a Change", "see docs/writing-a-pass.md")
        return Attempt(model, change, seconds)

    def unchanged(self, attempt: Attempt) -> bool:
        """Whether the pass neither says that it changed anything nor did: then there is nothing to verify."""
        silent = not attempt.change.sites and same_model(attempt.model, self.before)
        return silent and not broken(Subject(attempt.model, self.snapshot))

    def checked(self, attempt: Attempt) -> Attempt:
        """Return the attempt with the invariants that it breaks."""
        subject = Subject(attempt.model, self.snapshot)
        sentences = broken(subject)
        if not sentences:
            try:
                with foreign("writing the graph", PassError):
                    path = self.workspace.save(attempt.model, "after")
                sentences = broken(replace(subject, path=path))
            except PassError as error:
                sentences = (error.message,)
        return replace(attempt, broken=sentences)

    def repeats(self, attempt: Attempt) -> bool:
        """Whether applying the pass once more gives the same graph and numbers."""
        again = self.attempt()
        same = again.change == attempt.change and same_model(again.model, attempt.model)
        for value in initializers(again.model):  # a graph waits for the collector, its weights need not
            value.const_value = None
        return same


def without(left: Collection[str]) -> Callable[[str], bool]:
    """Allow every site but these."""
    return lambda site: site not in left


def only(chosen: Collection[str]) -> Callable[[str], bool]:
    """Allow these sites."""
    return lambda site: site in chosen


def culprit(sites: Sequence[str], bad: Callable[[frozenset[str]], bool]) -> str | None:
    """Return the site with which a prefix of all sites becomes bad, or None where it is bad without any.

    All sites together are known to be bad. Takes about log2 of their number of trials.
    """
    if not sites or bad(frozenset()):
        return None
    good, wrong = 0, len(sites)
    while wrong - good > 1:
        middle = (good + wrong) // 2
        if bad(frozenset(sites[:middle])):
            wrong = middle
        else:
            good = middle
    return sites[wrong - 1]


def secured(model: ir.Model, workspace: Workspace) -> ir.Model:
    """Return a clone whose weights cannot be edited in place: large ones mapped from disk, small ones locked copies."""
    clone = model.clone()
    workspace.hold(clone)
    copies: dict[int, ir.TensorProtocol] = {}
    for value in initializers(clone):
        if value.const_value is not None:
            value.const_value = _locked(value.const_value, copies)
    for graph in clone.graphs():
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    node.attributes[name] = ir.AttrTensor(name, _locked(attribute.as_tensor(), copies))
    return clone


def _locked(tensor: ir.TensorProtocol, copies: dict[int, ir.TensorProtocol]) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor) or tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < PACKED:
        return tensor
    if id(tensor) not in copies:
        array = tensor.numpy()
        if array.size:
            array = np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)
        copies[id(tensor)] = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
    return copies[id(tensor)]
