"""One pass that keeps numbers, settled: what differs is found, left out, and the rest applied again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from mlc.artifact import LeftOut
from mlc.errors import MlcError, PassError
from mlc.graph_pass import Change
from mlc.rewriting.outputs import OutputJudge
from mlc.rewriting.sessions import Feeds, unloadable
from mlc.rewriting.sites import SiteJudge, blame
from mlc.rewriting.trials import Attempt, Trials, culprit, only, without
from mlc.types import Target

ROUNDS = 24
"""So many times sites are left out and the rest is applied again; then the pass is dropped whole."""


@dataclass(frozen=True)
class Settled:
    """How a pass went: the graph that is kept, and what was left out or why all of it was dropped."""

    model: ir.Model
    change: Change = field(default_factory=Change)
    left_out: tuple[LeftOut, ...] = ()
    dropped: str = ""
    error: float | None = None
    seconds: float = 0.0
    verify_seconds: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """What is wrong: an invariant, a value, an output or the target; ``value`` is set for one judged in its place."""

    stage: str
    reason: str
    value: str = ""
    error: float = math.inf


@dataclass(frozen=True)
class Verifier:
    """Settles one pass on one graph."""

    trials: Trials
    sites: SiteJudge
    outputs: OutputJudge
    feeds: Sequence[Feeds]
    tolerance: float
    """Of the graph outputs against the original: the export's and that of every pass so far, this one included."""
    target: Target = field(default_factory=Target)
    """Whose runtime has to load what the pass leaves."""

    def settle(self) -> Settled:
        """Apply the pass until nothing is wrong, leaving out what is."""
        start = time.perf_counter()
        left: dict[str, LeftOut] = {}
        seconds = 0.0
        sites: tuple[str, ...] = ()
        reason = f"{ROUNDS} rounds of leaving sites out did not make it right"
        try:
            for _ in range(ROUNDS):
                attempt = self.trials.attempt(without(left))
                if not left and self.trials.unchanged(attempt):
                    spent = time.perf_counter() - start - attempt.seconds
                    return Settled(attempt.model, attempt.change, (), "", 0.0, attempt.seconds, spent)
                attempt = self.trials.checked(attempt)
                seconds = seconds or attempt.seconds
                sites = sites or attempt.change.sites
                if not left and not self.trials.repeats(attempt):
                    reason = "two applications to the same graph give different results"
                    break
                troubles, error = self.troubles(attempt)
                if not troubles:
                    spent = time.perf_counter() - start - seconds
                    return Settled(attempt.model, attempt.change, tuple(left.values()), "", error, seconds, spent)
                found = self.culprits(attempt, troubles)
                if not found.keys() - left.keys():
                    reason = troubles[0].reason
                    break
                left.update(found)
        except PassError as error:
            reason = error.message
        dropped = tuple(left.get(site, LeftOut(site, "the pass was dropped whole")) for site in sites)
        spent = time.perf_counter() - start - seconds
        return Settled(self.trials.before, Change(), dropped, reason, None, seconds, spent)

    def troubles(self, attempt: Attempt) -> tuple[list[Trouble], float]:
        """Return what is wrong, by the first stage that finds anything, and the largest error of a site.

        The error is that of the outputs, the export's own included, where no value could be judged in its place.
        """
        if attempt.broken:
            return [Trouble("invariants", sentence) for sentence in attempt.broken], math.inf
        judged = self.sites.judge(self.trials.before, attempt.model, self.feeds)
        wrong = [Trouble("sites", each.reason, each.value, each.error) for each in judged if each]
        largest = max((each.error for each in judged), default=0.0)
        if wrong or (not judged and not attempt.change.sites):
            return wrong, largest
        try:
            differences = self.outputs.worse(self.trials.before, attempt.model, self.tolerance)
        except MlcError as error:
            return [Trouble("outputs", error.message)], math.inf
        wrong = [Trouble("outputs", each.reason, "", each.error) for each in differences if each]
        if not wrong and attempt.change.sites:
            failure = unloadable(self.trials.before, attempt.model, self.trials.workspace, self.target)
            wrong = [Trouble("target", failure)] if failure else []
        return wrong, largest if judged else max((each.error for each in differences), default=0.0)

    def culprits(self, attempt: Attempt, troubles: Sequence[Trouble]) -> Mapping[str, LeftOut]:
        """Return the sites to leave out: those at fault by their place, else the one that bisecting finds."""
        sites = attempt.change.sites
        found: dict[str, LeftOut] = {}
        for trouble in troubles:
            if trouble.value:
                for site in blame(self.trials.before, attempt.model, trouble.value, sites):
                    found.setdefault(site, LeftOut(site, trouble.reason, _number(trouble.error)))
        if found:
            return found
        first = troubles[0]
        guilty = culprit(sites, self._finds(first))
        return {} if guilty is None else {guilty: LeftOut(guilty, first.reason, _number(first.error))}

    def _finds(self, trouble: Trouble) -> Callable[[frozenset[str]], bool]:
        """Return whether the same kind of trouble arises with some sites only."""

        def bad(chosen: frozenset[str]) -> bool:
            attempt = self.trials.attempt(only(chosen))
            if trouble.stage == "invariants":
                return bool(self.trials.checked(attempt).broken)
            checked = self.trials.checked(attempt)
            return bool(self.troubles(checked)[0])

        return bad


def _number(error: float) -> float | None:
    return error if math.isfinite(error) else None
